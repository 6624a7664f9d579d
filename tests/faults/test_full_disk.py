"""A file system that is really full: the old file stays whole, nothing is left behind, and room is all it takes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("faults")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Folder that is a file system of half a megabyte."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root may mount a small file system, on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, room: int) -> Path:
    """Take all of the room on a disk but so many bytes, by a file outside the job's folder."""
    ballast = disk / "ballast"
    about = os.statvfs(disk)
    with ballast.open("wb", buffering=0) as file:
        file.write(bytes(about.f_bavail * about.f_frsize - room))
    assert os.statvfs(disk).f_bavail * about.f_frsize == room
    return ballast


# A page of room, where the file needs more: some is written before the disk is full.
@pytest.mark.parametrize(
    ("name", "room"),
    [("pack", 4096), ("moments", 4096), ("monitor", 0), ("page", 4096), ("plot", 4096), ("csv", 0)],
)
def test_the_old_file_stays(faults: ModuleType, disk: Path, name: str, room: int) -> None:
    job, folder = faults.JOBS[name], disk / "job"
    faults.warm(job, folder)
    faults._fresh(job, folder)
    old = faults.contents(folder)
    ballast = fill(disk, room)
    end = faults.run(job, folder)
    assert end.status == 1, end
    assert faults.ends_well(job, end, "ENOSPC"), end
    assert "No space left" in end.stderr or not job.is_command
    assert faults.contents(folder) == old
    ballast.unlink()
    again = faults.run(job, folder)
    assert (again.status, again.stderr) == (0, "")
    new = faults.contents(folder)
    assert new.keys() == old.keys()
    assert {name for name in old if new[name] != old[name]} == {job.out}


@pytest.mark.parametrize("pages", [0, 1, 4, 6])
def test_a_store_goes_on_once_there_is_room(faults: ModuleType, disk: Path, pages: int) -> None:
    job, folder = faults.JOBS["store"], disk / "job"
    faults.warm(job, folder)
    whole = faults.contents(folder)
    faults._fresh(job, folder)
    ballast = fill(disk, pages * 4096)
    end = faults.run(job, folder)
    assert end.status == 1 and faults.ends_well(job, end, "ENOSPC"), end
    assert faults._held(folder) >= end.acknowledged
    assert not [name for name in faults.contents(folder) if name.endswith((".part", ".lock"))]
    ballast.unlink()
    assert faults.run(job, folder).status == 0
    assert faults.contents(folder) == whole
