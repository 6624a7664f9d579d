"""Kill a writer of cubes at random moments, resume it, and compare every byte with an undisturbed run.

    python benchmarks/kill_writer.py --kills 50 --seed 0

Each writer is a process of its own, ended by SIGKILL. Nine in ten are killed when a random number of blocks are in the
manifest, plus a random part of the time that one block takes; the others at a random time from the start on, so that
the making of the store is hit too. A store counts as "inside" when the kill left some of its blocks committed, and not
all. Starting Python anew for each writer would take most of the time, so one server process imports the library and
forks them.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from icrkit.io import CubeWriter, open_cube, verify

SIGMAS = (0.1, 0.3, 1.0)
LAYERS = {"mid": 64, "up": 32}
N_VIEWS = 2


@dataclass(frozen=True)
class Job:
    """What is written: images, images per block, images per append, and the seed of the features."""

    n_images: int = 600
    block_size: int = 15
    batch: int = 7
    seed: int = 0

    @property
    def n_blocks(self) -> int:
        """Number of blocks of the whole store."""
        return -(-self.n_images // self.block_size)


@dataclass(frozen=True)
class Kill:
    """What one kill left, and whether the resumed store was right."""

    committed: int
    seconds: float
    signal: int
    uncommitted_images: int
    lost_images: int
    same_bytes: bool
    opens: bool

    def inside(self, job: Job) -> bool:
        """Whether some blocks were committed, and not all."""
        return 0 < self.committed < job.n_blocks and self.signal == signal.SIGKILL


def features(job: Job, image: int, width: int) -> NDArray[np.float32]:
    """Features of one image: a pure function of (seed, image), as resuming needs them to be."""
    rng = np.random.default_rng((job.seed, image, width))
    return rng.standard_normal((N_VIEWS, len(SIGMAS), width), dtype=np.float32)


def write(path: str, job: Job, appended: Synchronized[int] | None = None) -> None:
    """Write the store, or what is missing of it; counts the images whose append has returned."""
    with CubeWriter(
        path, LAYERS, SIGMAS, N_VIEWS, job.n_images, block_size=job.block_size, attrs={"seed": job.seed}
    ) as writer:
        for first in range(writer.done_images, job.n_images, job.batch):
            images = range(first, min(first + job.batch, job.n_images))
            block = {name: np.stack([features(job, i, d) for i in images]) for name, d in LAYERS.items()}
            writer.append([f"image-{i:05d}" for i in images], block, labels=[i % 10 for i in images])
            if appended is not None:
                appended.value = images.stop


def committed_blocks(path: Path) -> int:
    """Number of whole lines in the manifest."""
    try:
        return (path / "manifest.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def contents(path: Path) -> dict[str, str]:
    """sha256 of every file of a store by name."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(path.iterdir())}


def start(
    context: ForkServerContext, path: Path, job: Job, appended: Synchronized[int] | None = None
) -> ForkServerProcess:
    """Start a writer in a process of its own."""
    process = context.Process(target=write, args=(str(path), job, appended))
    process.start()
    return process


def run_to_end(context: ForkServerContext, path: Path, job: Job) -> float:
    """Write a store in an undisturbed process; seconds."""
    begin = time.perf_counter()
    process = start(context, path, job)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the writer of {path} ended with {process.exitcode}")
    return time.perf_counter() - begin


def kill_once(
    context: ForkServerContext, path: Path, job: Job, blocks: int, delay: float, reference: dict[str, str]
) -> Kill:
    """Kill a writer `delay` seconds after it has committed `blocks` blocks; resume; compare."""
    begin = time.perf_counter()
    appended = context.Value("q", 0, lock=False)
    process = start(context, path, job, appended)
    while committed_blocks(path) < blocks and process.exitcode is None:
        time.sleep(0.0002)
    time.sleep(delay)
    process.kill()
    process.join()
    seconds = time.perf_counter() - begin
    code = process.exitcode or 0
    committed = committed_blocks(path)
    with CubeWriter(
        path, LAYERS, SIGMAS, N_VIEWS, job.n_images, block_size=job.block_size, attrs={"seed": job.seed}
    ) as writer:
        done = writer.done_images
    run_to_end(context, path, job)
    opens = verify(path) == job.n_blocks and len(open_cube(path)) == job.n_images
    lost = min(committed * job.block_size, job.n_images) - done
    in_flight = max(0, appended.value - done)
    return Kill(committed, seconds, -code if code < 0 else 0, in_flight, lost, contents(path) == reference, opens)


def run(kills: int, seed: int, job: Job, folder: Path) -> Iterator[Kill]:
    """Kill and resume that many writers, one after the other."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["icrkit.io", __name__])
    rng = np.random.default_rng(seed)
    undisturbed = folder / "undisturbed.cube"
    run_to_end(context, folder / "first.cube", job)  # the server's own start is not part of the measure
    seconds = run_to_end(context, undisturbed, job)
    reference = contents(undisturbed)
    for number in range(kills):
        path = folder / f"killed-{number:02d}.cube"
        if number % 10 == 9:
            blocks, delay = 0, float(rng.uniform(0, seconds))
        else:
            blocks, delay = int(rng.integers(1, job.n_blocks - 2)), float(rng.uniform(0, seconds / job.n_blocks))
        yield kill_once(context, path, job, blocks, delay, reference)
        shutil.rmtree(path)


@click.command(help=__doc__)
@click.option("--kills", default=50, show_default=True, help="Writers to kill.")
@click.option("--seed", default=0, show_default=True, help="Seed of the moments.")
@click.option("--images", default=600, show_default=True, help="Images of each store.")
@click.option("--folder", type=click.Path(path_type=Path), default=None, help="Where to write; a temporary folder.")
def main(kills: int, seed: int, images: int, folder: Path | None) -> None:
    """Kill, resume, compare; exit status 1 where anything is not as it should be."""
    job = Job(n_images=images)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        click.echo(f"{job.n_images} images, {job.n_blocks} blocks of {job.block_size}, {kills} kills, seed {seed}")
        click.echo("kill  blocks committed  at s    appended, in no block  same bytes  opens and verifies")
        done = []
        for number, kill in enumerate(run(kills, seed, job, Path(temporary))):
            done.append(kill)
            click.echo(
                f"{number:4d}  {kill.committed:6d} of {job.n_blocks:3d}     {kill.seconds:6.3f}  "
                f"{kill.uncommitted_images:21d}  {'yes' if kill.same_bytes else 'NO':10s}  "
                f"{'yes' if kill.opens else 'NO'}"
            )
    inside = sum(kill.inside(job) for kill in done)
    same = sum(kill.same_bytes and kill.opens for kill in done)
    lost = sum(kill.lost_images for kill in done)
    most = max(kill.uncommitted_images for kill in done)
    click.echo(
        f"{len(done)} killed, {inside} of them inside the writing; {same} resumed to the bytes of an undisturbed run; "
        f"{lost} committed images lost, at most {most} appended ones ({job.block_size} are a block); "
        f"{time.perf_counter() - begin:.0f} s"
    )
    if same < len(done) or lost or most >= job.block_size:
        raise SystemExit(1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
