"""The right to write: one process at a time, gone with its process, and no file left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import icrkit
from icrkit.exceptions import CubeLockedError
from icrkit.io._lock import WriterLock

HOLD = "import sys; from icrkit.io._lock import WriterLock; from pathlib import Path\n"
HOLD += "lock = WriterLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.readline(); lock.release()"


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """One that holds the lock until it reads a line."""
    root = str(Path(icrkit.__file__).parent.parent)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=root, text=True, **pipes) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_another_process_is_kept_out_and_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    with another_process(path) as process:
        with pytest.raises(CubeLockedError, match=rf"pid {process.pid} on {socket.gethostname()}"):
            WriterLock(path)
        assert path.read_text() == f"pid {process.pid} on {socket.gethostname()}\n"
        process.communicate("go on\n", timeout=30)
        assert process.returncode == 0
    assert not path.exists()
    WriterLock(path).release()


def test_it_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    with another_process(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert path.exists()  # nobody was left to remove it, and it locks nobody out
    lock = WriterLock(path)
    assert path.read_text().startswith(f"pid {os.getpid()} on")
    lock.release()
    assert not path.exists()


def test_this_process_too_is_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    lock = WriterLock(path)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(CubeLockedError, match=f"pid {os.getpid()}"):
            WriterLock(path)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    lock.release()
    again = WriterLock(path)
    lock.release()  # the second time it has nothing to give back
    with pytest.raises(CubeLockedError):
        WriterLock(path)
    again.release()


def test_locks_of_different_shards_do_not_meet(tmp_path: Path) -> None:
    locks = [WriterLock(tmp_path / f"writer-{k:03d}.lock") for k in range(3)]
    for lock in locks:
        lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_file_removed_under_the_lock_does_not_make_two_holders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last holder removes its file between our open and our flock: what we lock then has no name any more.
    path = tmp_path / "writer.lock"
    opened = []
    real = os.open

    def removed_once(name: os.PathLike[str], *args: int) -> int:
        fd = real(name, *args)
        opened.append(fd)
        if len(opened) == 1:
            path.unlink()
        return fd

    monkeypatch.setattr(os, "open", removed_once)
    lock = WriterLock(path)
    assert len(opened) == 2
    assert os.path.samestat(os.stat(path), os.fstat(lock._fd))
    lock.release()


def test_a_long_stale_text_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    path.write_text("pid 123456789 on a host with a very long name indeed, longer than this one's can be" * 2)
    lock = WriterLock(path)
    assert path.read_text() == f"pid {os.getpid()} on {socket.gethostname()}\n"
    lock.release()
