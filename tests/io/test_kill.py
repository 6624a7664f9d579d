"""A writer killed at any moment loses the block in flight, and the resumed store is the same bytes."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# What a kill can fall between: everything that changes the disk.
CALLS = ("open", "write", "fsync", "replace", "mkdir", "unlink", "truncate", "ftruncate", "close")


@pytest.fixture
def kill_writer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("kill_writer")


def write_until(path: str, job: Any, calls_left: int) -> None:
    """Write a store, and end the process without any cleanup at the given system call, before it is made."""
    import kill_writer

    left = [calls_left]

    def counted(plain: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return plain(*args, **options)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    kill_writer.write(path, job)


def test_ended_before_each_system_call(kill_writer: ModuleType, tmp_path: Path) -> None:
    job = kill_writer.Job(n_images=11, block_size=4, batch=3)
    kill_writer.write(str(tmp_path / "whole.cube"), job)
    whole = kill_writer.contents(tmp_path / "whole.cube")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["icrkit.io"])
    calls, left_behind = 0, []
    while True:
        path = tmp_path / f"ended-{calls:03d}.cube"
        process = context.Process(target=write_until, args=(str(path), job, calls))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == 9
        left_behind.append(kill_writer.committed_blocks(path))
        kill_writer.write(str(path), job)
        assert kill_writer.contents(path) == whole, f"ended before call {calls}"
        calls += 1
    assert left_behind == sorted(left_behind)
    assert set(left_behind) == {0, 1, 2, 3}
    assert calls > 30


def test_killed_at_random_moments(kill_writer: ModuleType, tmp_path: Path) -> None:
    job = kill_writer.Job(n_images=150)
    kills = list(kill_writer.run(5, 0, job, tmp_path))
    assert sum(kill.inside(job) for kill in kills) >= 4
    for kill in kills:
        assert kill.same_bytes
        assert kill.opens
        assert kill.lost_images == 0
        assert kill.uncommitted_images < job.block_size


@pytest.mark.slow
def test_killed_fifty_times(kill_writer: ModuleType, tmp_path: Path) -> None:
    job = kill_writer.Job()
    kills = list(kill_writer.run(50, 1, job, tmp_path))
    assert sum(kill.inside(job) for kill in kills) >= 40
    assert all(kill.same_bytes and kill.opens and kill.lost_images == 0 for kill in kills)
    assert max(kill.uncommitted_images for kill in kills) < job.block_size


def test_the_command(kill_writer: ModuleType, tmp_path: Path) -> None:
    result = CliRunner().invoke(kill_writer.main, ["--kills", "1", "--images", "60", "--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "1 resumed to the bytes of an undisturbed run; 0 committed images lost" in result.output
    assert list(tmp_path.iterdir()) == []
