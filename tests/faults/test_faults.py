"""Every write-like call killed or failing, for everything that is written: nothing lost, wrong or left behind."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
JOBS = ("page", "store", "shards", "course", "pack", "moments", "monitor", "plot", "csv")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("faults")


@pytest.fixture
def tracer(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    done = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")


def check(counts: object) -> None:
    assert counts.points > 0, counts  # type: ignore[attr-defined]
    assert counts.right, counts  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
@pytest.mark.parametrize("fault", ["KILL", "EIO", "ENOSPC"])
@pytest.mark.parametrize(("job", "step"), [("store", 17), ("pack", 9), ("moments", 4), ("monitor", 4)])
def test_calls_of_python(faults: ModuleType, tmp_path: Path, job: str, step: int, fault: str) -> None:
    # Each fault at other calls; the slow tests take all of them.
    check(faults.by_python(job, fault, tmp_path, first=faults.FAULTS.index(fault), step=step))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["KILL", "EIO", "ENOSPC"])
@pytest.mark.parametrize("job", JOBS)
def test_calls_of_the_system(faults: ModuleType, tracer: None, tmp_path: Path, job: str, fault: str) -> None:
    check(faults.by_strace(job, fault, tmp_path))


@pytest.mark.slow
def test_the_command(faults: ModuleType, tracer: None, tmp_path: Path) -> None:
    out = tmp_path / "faults.csv"
    result = CliRunner().invoke(faults.main, ["--job", "moments", "--out", str(out), "--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert out.read_text().count("\n") == 4
    assert "left_behind 0" in result.output


def test_the_suite_sees_what_is_wrong(faults: ModuleType, tmp_path: Path) -> None:
    # A job that writes in place is found out by the same counts.
    def in_place(folder: Path, acknowledge: object) -> None:
        fd = os.open(folder / "out", os.O_WRONLY | os.O_TRUNC)
        os.write(fd, b"new, first half")
        os.write(fd, b"new, second half")
        os.close(fd)

    faults.JOBS["in place"] = faults.Job(in_place, lambda folder: (folder / "out").write_bytes(b"old"), "out")
    try:
        assert faults.by_python("in place", "ENOSPC", tmp_path).wrong > 0
        assert faults.by_python("in place", "KILL", tmp_path).wrong > 0
    finally:
        del faults.JOBS["in place"]
