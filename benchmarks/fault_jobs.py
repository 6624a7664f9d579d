"""What `faults.py` disturbs: a job for everything that is written, on small inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from icrkit.cli import main as icrkit_command
from icrkit.io import CubeWriter, pack, write_file
from icrkit.moments import Moments
from icrkit.readings import ICRMonitor

N_IMAGES, BLOCK = 10, 4
RNG = np.random.default_rng(0)
FEATURES = {"mid": RNG.standard_normal((N_IMAGES, 2, 2, 3)), "up": RNG.standard_normal((N_IMAGES, 2, 2, 2))}
MOMENTS = [Moments.from_block(RNG.standard_normal((40, 2, 3))) for _ in range(2)]

Acknowledge = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """What is written, what is there before, and the file that must be the old one or the new one (none of stores)."""

    act: Callable[[Path, Acknowledge], None]
    prepare: Callable[[Path], None] = lambda folder: None
    out: str | None = None
    # Whether it is a command: an error is then one line, and exit status 1.
    is_command: bool = False
    # Cube that is read, made once: another process parses it for every process that finds it new.
    source: str | None = None


def write_store(path: Path, acknowledge: Acknowledge, shard: tuple[int, int] | None = None) -> None:
    """Write a store, or what is missing of it, block by block; a block counts when `append` has returned."""
    with CubeWriter(path, {"mid": 3, "up": 2}, [0.1, 1.0], 2, N_IMAGES, block_size=BLOCK, shard=shard) as writer:
        mine = writer.image_range
        for first in range(mine.start + writer.done_images, mine.stop, BLOCK):
            rows = range(first, min(first + BLOCK, mine.stop))
            writer.append(rows, {name: h[rows.start : rows.stop] for name, h in FEATURES.items()}, labels=list(rows))
            acknowledge(len(rows))


def _store(folder: Path, acknowledge: Acknowledge) -> None:
    write_store(folder / "a.cube", acknowledge)


def _shards(folder: Path, acknowledge: Acknowledge) -> None:
    for shard in range(2):
        write_store(folder / "a.cube", acknowledge, (shard, 2))


def _course(folder: Path, acknowledge: Acknowledge) -> None:
    # What extract_course commits, it acknowledges to nobody: only the end is compared.
    from icrkit_extractors import extract_course, noise, views

    images = np.random.default_rng(0).integers(0, 256, (N_IMAGES, 1, 8, 8), dtype=np.uint8)
    extract_course(
        _checkpoints(), images, [0.1, 1.0], out=folder, noise=noise.EDM(), views=views.Digits(),
        progress=False,
    )  # fmt: skip


@cache
def _checkpoints() -> tuple[tuple[int, Any], ...]:
    import torch

    from icrkit_extractors import TorchSource

    torch.set_num_threads(1)
    made = []
    for step in (100, 200):
        torch.manual_seed(step)
        network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3)).eval()
        made.append((step, TorchSource(network, layers=["0", "2"], call=lambda net, x, _: net(x))))
    return tuple(made)


def _moments(folder: Path, acknowledge: Acknowledge) -> None:
    MOMENTS[1].save(folder / "out.h5")


def _looked_at(looks: int) -> ICRMonitor:
    monitor = ICRMonitor()
    for step in range(looks):
        monitor.update(step, np.random.default_rng(step).standard_normal((200, 2, 3)))
    return monitor


@cache
def _states() -> tuple[ICRMonitor, ICRMonitor]:
    return _looked_at(1), _looked_at(2)


def _monitor(folder: Path, acknowledge: Acknowledge) -> None:
    _states()[1].save(folder / "out.json")


def _prepare_pack(folder: Path) -> None:
    if not (folder / "a.cube").exists():
        write_store(folder / "a.cube", lambda n: None)
    write_file(folder / "out.h5", _other_pack())


@cache
def _other_pack() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with CubeWriter(folder / "other.cube", {"mid": 1}, [1.0], 2, 3) as writer:
            writer.append(range(3), {"mid": np.ones((3, 2, 1, 1))})
        return pack(folder / "other.cube", folder / "out.h5").read_bytes()


def _command(name: str, *options: str, beside: tuple[str, ...] = ()) -> Callable[[Path, Acknowledge], None]:
    """A command on a cube in the folder, whose last option is the file that it writes."""

    def act(folder: Path, acknowledge: Acknowledge) -> None:
        icrkit_command([name, str(folder / "a.cube"), *beside, *options[:-1], str(folder / options[-1])])

    return act


def _prepare_cube(out: str) -> Callable[[Path], None]:
    """A cube of which every reading can be made, and an old file."""

    def prepare(folder: Path) -> None:
        write_file(folder / out, b"the old file")
        if (folder / "a.cube").exists():
            return
        rng = np.random.default_rng(0)
        spread = np.array([0.3, 0.1, 1.0])[:, np.newaxis]
        features = rng.standard_normal((120, 1, 1, 3)) + spread * rng.standard_normal((120, 2, 3, 3))
        with CubeWriter(folder / "a.cube", {"mid": 3}, [0.1, 0.3, 1.0], 2, 120) as writer:
            writer.append(range(120), {"mid": features})

    return prepare


JOBS = {
    "page": Job(_command("sweep", "--report", "out.html"), _prepare_cube("out.html"), "out.html", True, "a.cube"),
    "store": Job(_store),
    "shards": Job(_shards),
    "course": Job(_course),
    "pack": Job(_command("pack", "out.h5"), _prepare_pack, "out.h5", True, "a.cube"),
    "moments": Job(_moments, lambda folder: MOMENTS[0].save(folder / "out.h5"), "out.h5"),
    "monitor": Job(_monitor, lambda folder: _states()[0].save(folder / "out.json"), "out.json"),
    "plot": Job(_command("sweep", "--plot", "out.png"), _prepare_cube("out.png"), "out.png", True, "a.cube"),
    "csv": Job(
        _command("compare", "--csv", "out.csv", beside=("--metrics", "icr,information")),
        _prepare_cube("out.csv"), "out.csv", True, "a.cube",
    ),
}  # fmt: skip
