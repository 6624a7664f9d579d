"""Fail or kill at every write-like system call, one after the other, and look at what is left.

    python benchmarks/faults.py --out benchmarks/results/faults.csv

Each job writes to one folder, in a forked process that strace holds: once for every call that the undisturbed job
makes on a file of that folder, the process is killed before it, or the call fails with EIO or ENOSPC. Then the job
runs again, undisturbed, and every byte is compared. Needs strace, and the right to trace (Linux). `fault_jobs.py` has
the jobs.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import gc
import hashlib
import io
import itertools
import mmap
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import click
from fault_jobs import JOBS, Job

from icrkit.exceptions import CubeIncompleteError
from icrkit.io import _parts, verify

# Whatever changes a disk, or gives the right to; of other calls none is made in the folder of a job.
CALLS = "openat,write,pwrite64,fsync,ftruncate,truncate,rename,renameat,renameat2,unlink,mkdir,fchmod,close,flock,lseek"
PYTHON_CALLS = ("open", "write", "fsync", "ftruncate", "truncate", "replace", "unlink", "mkdir", "fchmod", "close")
FAULTS = ("KILL", "EIO", "ENOSPC")


@dataclass
class Counts:
    """What a job's faults left, over all calls."""

    job: str
    fault: str
    points: int = 0
    missed: int = 0
    ended_by_it: int = 0
    acknowledged: int = 0
    lost: int = 0
    wrong: int = 0
    left_behind: int = 0
    other_ends: int = 0

    @property
    def right(self) -> bool:
        """Whether every fault happened, nothing was lost, wrong or left, and every error was one line."""
        if self.fault == "KILL" and self.ended_by_it != self.points:
            return False
        return not (self.missed or self.lost or self.wrong or self.left_behind or self.other_ends)


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
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(said.fileno(), 2)
            sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0, closefd=False), write_through=True)
            sys.stderr = sys.__stderr__ = io.TextIOWrapper(os.fdopen(2, "wb", 0, closefd=False), write_through=True)
            if hold is not None:
                # Temporary files have the same names in every such run, so that strace can be told them beforehand.
                numbers = itertools.count()
                secrets.token_hex = lambda nbytes=None: f"{next(numbers):016x}"
            gc.disable()  # files are not closed when it happens to run
            gc.freeze()  # and below only what is new is looked at
            os.read(go_read, 1)
            if begin is not None:
                begin()

            def acknowledge(images: int) -> None:
                shared[:8] = (int.from_bytes(shared[:8], "little") + images).to_bytes(8, "little")

            status = _status(job, folder, acknowledge)
            gc.collect()  # what objects say when they go
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
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


def _status(job: Job, folder: Path, acknowledge: Callable[[int], None]) -> int:
    try:
        job.act(folder, acknowledge)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        if isinstance(error, OSError) and not job.is_command:
            return 1
        traceback.print_exc()
        return 70
    return 0


def warm(job: Job, folder: Path) -> None:
    """Do a job in this process, so that its forks need not import anything."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        _status(job, _fresh(job, folder), lambda images: None)
    _parts._start_afresh()  # as in a fork, which would close what was left open here
    gc.collect()


def strace(*options: str) -> Callable[[int], subprocess.Popen[str]]:
    """Something that holds a process by strace, and returns when it does. What the process starts is not held."""

    def hold(pid: int) -> subprocess.Popen[str]:
        command = ["strace", "-y", "-p", str(pid), *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        line = process.stderr.readline()
        while "Requested path" in line:  # a link on the way to the folder
            line = process.stderr.readline()
        if "attached" not in line:
            raise OSError(errno.EPERM, f"strace cannot trace here: {line.strip()}")
        process.stderr.close()
        return process

    return hold


def points_of(job: Job, folder: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """Every write-like call that a job makes in its folder, and the paths that such calls name.

    A call is its name and its number among the calls of this name on those paths.
    """
    log = folder.with_suffix(".log")
    end = run(job, folder, strace("-o", str(log), "-e", f"trace={CALLS}"))
    if end.status != 0:
        raise RuntimeError(f"undisturbed, it ended with {end.status}: {end.stderr}")
    seen: Counter[str] = Counter()
    points, paths = [], {str(folder): None}
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\w+)\(", line)
        if match is None:
            continue
        name = match.group(1)
        # Text that is written may be a path, too.
        quotes = "<" if name in ("write", "pwrite64") else '["<]'
        named = re.findall(rf'{quotes}({re.escape(str(folder))}(?:/[^"<>]*)?)[">]', line)
        if not named:
            continue
        paths |= dict.fromkeys(named)
        seen[name] += 1
        if not (name == "openat" and "O_CREAT" not in line) and name != "lseek":
            points.append((name, seen[name]))
    log.unlink()
    return points, list(paths)


def inspect(
    job: Job, folder: Path, end: End, fault: str, call: str, old: dict[str, str], new: dict[str, str], counts: Counts
) -> None:
    """Count what a fault left behind, and whether the job done again comes to the right end."""
    counts.points += 1
    counts.ended_by_it += end.status != 0
    counts.acknowledged += end.acknowledged
    counts.other_ends += not ends_well(job, end, fault)
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


def ends_well(job: Job, end: End, fault: str) -> bool:
    """Whether a disturbed process ended as it should: killed; or by an error, in one line where it is a command."""
    if fault == "KILL":
        return end.status in (-signal.SIGKILL, 0) and not end.stderr
    lines = end.stderr.splitlines()
    if not job.is_command or end.status == 0:
        return end.status in (0, 1) and not lines
    return end.status == 1 and len(lines) == 1 and lines[0].startswith("icrkit: ") and "warning:" not in lines[0]


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
    place, log = folder / "place", folder / "fault.log"
    warm(job, place)
    old = contents(_fresh(job, place))
    points, paths = points_of(job, place)
    new = contents(place)
    kind = "signal=KILL" if fault == "KILL" else f"error={fault}"
    only = [word for path in paths for word in ("-P", path)]
    for call, number in points:
        _fresh(job, place)
        what = ["-e", f"trace={call}", "-e", f"inject={call}:{kind}:when={number}"]
        end = run(job, place, strace("-o", str(log), *only, *what))
        counts.missed += ("killed by SIGKILL" if fault == "KILL" else "(INJECTED)") not in log.read_text()
        inspect(job, place, end, fault, call, old, new, counts)
    shutil.rmtree(place)
    return counts


def by_python(name: str, fault: str, folder: Path, first: int = 0, step: int = 1) -> Counts:
    """Every call of a job through `os`, or each `step`-th, failing or killed in its own process; needs no strace."""
    job, counts = JOBS[name], Counts(name, fault)
    place, seen = folder / "place", mmap.mmap(-1, 9)
    warm(job, place)
    old = contents(_fresh(job, place))
    run(job, place, begin=lambda: _break_call(place, None, fault, seen))
    new = contents(place)
    for number in range(first, int.from_bytes(seen[:8], "little"), step):
        _fresh(job, place)
        seen[8:] = b"\0"
        end = run(job, place, begin=lambda number=number: _break_call(place, number, fault, seen))
        counts.missed += not seen[8]
        inspect(job, place, end, fault, PYTHON_CALLS[seen[8] - 1], old, new, counts)
    shutil.rmtree(place)
    return counts


def _break_call(folder: Path, number: int | None, fault: str, seen: mmap.mmap) -> None:
    """Count calls on files of a folder in the first bytes of `seen`, and break one; its last byte says which it was."""
    made, fds = itertools.count(), set[object]()

    def broken(plain: Callable[..., object], name: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            inside = args[0] in fds if isinstance(args[0], int) else str(args[0]).startswith(str(folder))
            mine = next(made) if inside else None
            if mine is not None:
                seen[:8] = (mine + 1).to_bytes(8, "little")
            if name == "close":
                fds.discard(args[0])
            if mine is not None and mine == number:
                seen[8] = PYTHON_CALLS.index(name) + 1
                if fault == "KILL":
                    os.kill(os.getpid(), signal.SIGKILL)
                if name == "close":
                    plain(*args, **options)  # the descriptor goes whatever close answers
                raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)))
            result = plain(*args, **options)
            if name == "open" and inside:
                fds.add(result)
            return result

        return call

    for name in PYTHON_CALLS:
        setattr(os, name, broken(getattr(os, name), name))


def _fresh(job: Job, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for item in folder.iterdir():
        if item.name != job.source:
            shutil.rmtree(item) if item.is_dir() else item.unlink()
    job.prepare(folder)
    return folder


def measure(names: Sequence[str], folder: Path, processes: int = 1) -> Iterator[Counts]:
    """Every job and every fault by strace."""
    tasks = []
    for name, fault in itertools.product(names, FAULTS):
        place = folder / f"{name}-{fault}"
        place.mkdir()
        tasks.append((name, fault, place))
    if processes == 1:
        yield from itertools.starmap(by_strace, tasks)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(by_strace, *zip(*tasks, strict=True))


@click.command(help=__doc__)
@click.option("--job", "names", multiple=True, type=click.Choice([*JOBS]), help="Only these; all by default.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Write the counts as CSV.")
@click.option("--folder", type=click.Path(path_type=Path), default=None, help="Where to write; a temporary folder.")
@click.option("--processes", type=click.IntRange(1), default=1, help="How many jobs to disturb at once.")
def main(names: tuple[str, ...], out: Path | None, folder: Path | None, processes: int) -> None:
    """Exit status 1 where anything is not as it should be."""
    begin, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for counts in measure(names or [*JOBS], Path(temporary).resolve(), processes):
            rows.append(counts)
            click.echo("  ".join(f"{key} {value}" for key, value in asdict(counts).items()))
            if out is not None:
                with out.open("w", newline="") as file:
                    writer = csv.DictWriter(file, asdict(rows[0]), lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(map(asdict, rows))
    click.echo(f"{sum(row.points for row in rows)} faults in {time.perf_counter() - begin:.0f} s")
    if not all(row.right for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # One thread, one order of sets, and nothing written beside the sources: every run makes the same calls.
        fixed = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **fixed})
    main()
