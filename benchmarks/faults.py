"""Fail or kill at every write-like system call, one after the other, and look at what is left.

    python benchmarks/faults.py --out benchmarks/results/faults.csv

Each job writes to a folder of its own, in a forked process that strace holds: once for every call that the undisturbed
job makes in that folder, the process is killed before it, or the call fails with EIO or ENOSPC. Then the job runs
again, undisturbed, and every byte is compared. Needs strace, and the right to trace (Linux).
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import itertools
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from icrkit.cli import main as icrkit_command
from icrkit.exceptions import CubeIncompleteError
from icrkit.io import CubeWriter, pack, verify, write_file
from icrkit.moments import Moments
from icrkit.readings import ICRMonitor

# Whatever changes a disk, or gives the right to; of other calls none is made in the folder of a job.
CALLS = "openat,write,pwrite64,fsync,ftruncate,truncate,rename,renameat,renameat2,unlink,mkdir,fchmod,close,flock,lseek"
PYTHON_CALLS = ("open", "write", "fsync", "ftruncate", "truncate", "replace", "unlink", "mkdir", "fchmod", "close")
FAULTS = ("KILL", "EIO", "ENOSPC")

N_IMAGES, BLOCK = 10, 4
RNG = np.random.default_rng(0)
FEATURES = {"mid": RNG.standard_normal((N_IMAGES, 2, 2, 3)), "up": RNG.standard_normal((N_IMAGES, 2, 2, 2))}
MOMENTS = [Moments.from_block(RNG.standard_normal((40, 2, 3))) for _ in range(2)]

Acknowledge = Callable[[int], None]


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
    for step in (100, 200):
        write_store(folder / f"step-{step:08d}.cube", acknowledge)


def _pack(folder: Path, acknowledge: Acknowledge) -> None:
    icrkit_command(["pack", str(folder / "a.cube"), str(folder / "out.h5")])


def _moments(folder: Path, acknowledge: Acknowledge) -> None:
    MOMENTS[1].save(folder / "out.h5")


def _monitor(folder: Path, acknowledge: Acknowledge) -> None:
    _looked_at(2).save(folder / "out.json")


def _page(folder: Path, acknowledge: Acknowledge) -> None:
    icrkit_command(["sweep", str(folder / "a.h5"), "--report", str(folder / "out.html")])


def _looked_at(looks: int) -> ICRMonitor:
    monitor = ICRMonitor()
    for step in range(looks):
        monitor.update(step, np.random.default_rng(step).standard_normal((200, 2, 3)))
    return monitor


def _prepare_pack(folder: Path) -> None:
    write_store(folder / "a.cube", lambda n: None)
    other = folder / "other.cube"
    with CubeWriter(other, {"mid": 1}, [1.0], 2, 3) as writer:
        writer.append(range(3), {"mid": np.ones((3, 2, 1, 1))})
    pack(other, folder / "out.h5")
    shutil.rmtree(other)


def _prepare_page(folder: Path) -> None:
    from icrkit.datasets import data_path

    shutil.copy(data_path("fashion_cube.h5"), folder / "a.h5")
    write_file(folder / "out.html", b"the old page")


@dataclass(frozen=True)
class Job:
    """What is written, what is there before, and the file that must be the old one or the new one (none of stores)."""

    act: Callable[[Path, Acknowledge], None]
    prepare: Callable[[Path], None] = lambda folder: None
    out: str | None = None


JOBS = {
    "store": Job(_store),
    "shards": Job(_shards),
    "course": Job(_course),
    "pack": Job(_pack, _prepare_pack, "out.h5"),
    "moments": Job(_moments, lambda folder: MOMENTS[0].save(folder / "out.h5"), "out.h5"),
    "monitor": Job(_monitor, lambda folder: _looked_at(1).save(folder / "out.json"), "out.json"),
    "page": Job(_page, _prepare_page, "out.html"),
}


@dataclass
class Counts:
    """What a job's faults left, over all calls."""

    job: str
    fault: str
    points: int = 0
    ended_by_it: int = 0
    acknowledged: int = 0
    lost: int = 0
    wrong: int = 0
    left_behind: int = 0
    other_ends: int = 0

    @property
    def right(self) -> bool:
        """Whether nothing was lost, wrong or left, and every error was one line."""
        return not (self.lost or self.wrong or self.left_behind or self.other_ends)


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass(frozen=True)
class End:
    """How a process ended: its exit status, minus the signal where there was one; what it said; images acknowledged."""

    status: int
    stderr: str
    acknowledged: int


def run(
    job: Job, folder: Path, hold: Callable[[int], object] | None = None, begin: Callable[[], None] | None = None
) -> End:
    """Do a job in a forked process; `hold` is called with its pid before it begins, `begin` inside it."""
    shared = mmap.mmap(-1, 8)
    go_read, go_write = os.pipe()
    said = tempfile.TemporaryFile("w+b")  # noqa: SIM115
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads
        pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            sys.stdout = sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), write_through=True)
            sys.__stderr__ = sys.stderr
            os.read(go_read, 1)
            if begin is not None:
                begin()

            def acknowledge(images: int) -> None:
                shared[:8] = (int.from_bytes(shared[:8], "little") + images).to_bytes(8, "little")

            job.act(folder, acknowledge)
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except OSError as error:
            status = 1
            os.write(2, f"{error}\n".replace("\n", " ").encode() + b"\n") if begin is None else None
        except BaseException:
            traceback.print_exc()
        finally:
            os.kill(os.getpid(), signal.SIGKILL) if status == 9 else os._exit(status)
    os.close(go_read)
    try:
        holder = None if hold is None else hold(pid)
        os.write(go_write, b"g")
        _, raw = os.waitpid(pid, 0)
        if isinstance(holder, subprocess.Popen):
            holder.wait()
    finally:
        os.close(go_write)
    said.seek(0)
    with said:
        return End(
            os.waitstatus_to_exitcode(raw), said.read().decode(errors="replace"), int.from_bytes(shared[:8], "little")
        )


def strace(*options: str) -> Callable[[int], subprocess.Popen[str]]:
    """Something that holds a process by strace, and returns when it does."""

    def hold(pid: int) -> subprocess.Popen[str]:
        command = ["strace", "-f", "-y", "-p", str(pid), *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        line = process.stderr.readline()
        if "attached" not in line:
            raise OSError(errno.EPERM, f"strace cannot trace here: {line.strip()}")
        process.stderr.close()
        return process

    return hold


def points_of(job: Job, folder: Path) -> list[tuple[str, int]]:
    """Every write-like call that a job makes in its folder: (name, its number among calls of this name)."""
    log = folder.with_suffix(".log")
    end = run(job, folder, strace("-o", str(log), "-e", f"trace={CALLS}"))
    if end.status != 0:
        raise RuntimeError(f"undisturbed, it ended with {end.status}: {end.stderr}")
    seen: Counter[str] = Counter()
    points = []
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(?:\d+ +)?(\w+)\(", line)
        if match is None:
            continue
        name = match.group(1)
        seen[name] += 1
        reads = name == "openat" and "O_CREAT" not in line
        if str(folder) in line and not reads and name != "lseek" and not ("<" in line and "DEL" in line):
            points.append((name, seen[name]))
    log.unlink()
    return points


def inspect(
    job: Job, folder: Path, end: End, fault: str, call: str, old: dict[str, str], new: dict[str, str], counts: Counts
) -> None:
    """Count what a fault left behind, and whether the job done again comes to the right end."""
    counts.points += 1
    counts.ended_by_it += end.status != 0
    counts.acknowledged += end.acknowledged
    if end.status not in ((-signal.SIGKILL, 0) if fault == "KILL" else (0, 1)):
        counts.other_ends += 1
    lines = [line for line in end.stderr.splitlines() if line.startswith(("icrkit: ", "Traceback", "Fatal"))]
    if any(line.startswith(("Traceback", "Fatal")) for line in lines) or len(lines) > 1:
        counts.other_ends += 1
    there = contents(folder)
    # What cannot be removed, or cannot be locked, stays.
    if fault != "KILL" and call not in ("unlink", "unlinkat", "flock"):
        counts.left_behind += any(name.endswith((".part", ".lock")) for name in there)
    if job.out is not None:
        counts.wrong += there.get(job.out) not in (old[job.out], new[job.out])
    else:
        counts.lost += max(0, end.acknowledged - _held(folder))
    again = run(job, folder)
    left = {name for name in contents(folder) if job.out is not None and name.endswith(".part")}
    found = {name: sha for name, sha in contents(folder).items() if name not in left}
    counts.wrong += again.status != 0 or found != new


def _held(folder: Path) -> int:
    """Images that the manifests of all stores in a folder hold, every byte of them as written."""
    images = 0
    for store in folder.iterdir():
        if not (store / "cube.json").exists():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(CubeIncompleteError):
                verify(store)
        for manifest in store.glob("manifest*.jsonl"):
            images += sum(
                int(re.findall(rb'"images":(\d+)', line)[0]) for line in manifest.read_bytes().split(b"\n")[:-1]
            )
    return images


def by_strace(name: str, fault: str, folder: Path) -> Counts:
    """Every call of a job, failing or killed by strace."""
    job, counts = JOBS[name], Counts(name, fault)
    reference = _fresh(job, folder / "reference")
    old = contents(reference)
    points = points_of(job, reference)
    new = contents(reference)
    kind = "signal=KILL" if fault == "KILL" else f"error={fault}"
    for call, number in points:
        place = _fresh(job, folder / "place")
        end = run(
            job, place, strace("-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:{kind}:when={number}")
        )
        inspect(job, place, end, fault, call, old, new, counts)
        shutil.rmtree(place)
    shutil.rmtree(reference)
    return counts


def by_python(name: str, fault: str, folder: Path, first: int = 0, step: int = 1) -> Counts:
    """Every call of a job through `os`, or each `step`-th, failing or killed in its own process; needs no strace."""
    job, counts = JOBS[name], Counts(name, fault)
    reference = _fresh(job, folder / "reference")
    old = contents(reference)
    run(job, reference)
    new = contents(reference)
    for number in itertools.count(first, step):
        place = _fresh(job, folder / "place")
        hit = mmap.mmap(-1, 1)
        end = run(job, place, begin=lambda number=number, hit=hit: _break_call(number, fault, hit))
        if not hit[0]:
            break
        inspect(job, place, end, fault, PYTHON_CALLS[hit[0] - 1], old, new, counts)
        shutil.rmtree(place)
    shutil.rmtree(reference)
    shutil.rmtree(place, ignore_errors=True)
    return counts


def _break_call(number: int, fault: str, hit: mmap.mmap) -> None:
    left = [number]

    def broken(plain: Callable[..., object], name: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            left[0] -= 1
            if left[0] == -1:
                hit[0] = PYTHON_CALLS.index(name) + 1
                if fault == "KILL":
                    os.kill(os.getpid(), signal.SIGKILL)
                if name == "close":
                    plain(*args, **options)  # the descriptor goes whatever close answers
                raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)))
            return plain(*args, **options)

        return call

    for name in PYTHON_CALLS:
        setattr(os, name, broken(getattr(os, name), name))


def _fresh(job: Job, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    job.prepare(folder)
    return folder


def measure(names: list[str], folder: Path) -> Iterator[Counts]:
    """Every job and every fault by strace."""
    for name in names:
        for fault in FAULTS:
            yield by_strace(name, fault, folder)


@click.command(help=__doc__)
@click.option("--job", "names", multiple=True, type=click.Choice([*JOBS]), help="Only these; all by default.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Write the counts as CSV.")
@click.option("--folder", type=click.Path(path_type=Path), default=None, help="Where to write; a temporary folder.")
def main(names: tuple[str, ...], out: Path | None, folder: Path | None) -> None:
    """Exit status 1 where anything is not as it should be."""
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for counts in measure(list(names) or [*JOBS], Path(temporary)):
            rows.append(counts)
            click.echo("  ".join(f"{key} {value}" for key, value in asdict(counts).items()))
    click.echo(f"{sum(row.points for row in rows)} faults in {time.perf_counter() - begin:.0f} s")
    if out is not None:
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, asdict(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(asdict, rows))
    if not all(row.right for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
