"""The right to write: one process at a time, gone with its process, and no file left behind."""

from __future__ import annotations

import errno
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
from icrkit.exceptions import CubeLockedError, CubeUnsafeError
from icrkit.io._lock import WriterLock, read_owner

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
        assert read_owner(path) == f"pid {process.pid} on {socket.gethostname()}"
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
    assert read_owner(path).startswith(f"pid {os.getpid()} on")
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


def test_a_lock_file_removed_by_hand_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    lock = WriterLock(path)
    lock.ensure()
    path.unlink()
    lock.ensure()
    with pytest.raises(CubeLockedError, match=f"pid {os.getpid()}"):
        WriterLock(path)
    lock.release()
    assert not path.exists()


def test_where_another_came_in_it_is_the_first_that_stops(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    lock = WriterLock(path)
    path.unlink()
    with another_process(path) as process:
        with pytest.raises(CubeLockedError, match=f"pid {process.pid}"):
            lock.ensure()
        lock.release()
        assert read_owner(path).startswith(f"pid {process.pid} on")  # it does not remove the other's
        process.communicate("go on\n", timeout=30)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["symbolic link", "dangling link", "hard link", "pipe", "folder"])
def test_a_planted_lock_is_refused_and_what_it_leads_to_stays(tmp_path: Path, kind: str) -> None:
    path, victim = tmp_path / "writer.lock", tmp_path / "victim"
    if kind != "dangling link":
        victim.write_bytes(b"precious")
    if kind.endswith("c link") or kind == "dangling link":
        path.symlink_to(victim)
    elif kind == "hard link":
        path.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    for _ in range(2):
        with pytest.raises(CubeUnsafeError, match="not a plain file"):
            WriterLock(path)
    if kind == "dangling link":
        assert not victim.exists()
    else:
        assert victim.read_bytes() == b"precious"


def test_a_forked_child_neither_has_it_nor_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    code = HOLD.split("print")[0] + "\nimport os, time\nif os.fork() == 0:\n    lock.release()\n    time.sleep(60)\n"
    code += "print('held', flush=True)\ntime.sleep(60)"
    root = str(Path(icrkit.__file__).parent.parent)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=root, text=True, stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        try:
            assert parent.stdout is not None and parent.stdout.readline() == "held\n"
            with pytest.raises(CubeLockedError, match=f"pid {parent.pid}"):
                WriterLock(path)
            parent.send_signal(signal.SIGKILL)
            parent.wait(timeout=30)
            WriterLock(path).release()  # while the child sleeps on
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def test_a_long_stale_text_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    path.write_text("pid 123456789 on a host with a very long name indeed, longer than this one's can be" * 2)
    lock = WriterLock(path)
    assert read_owner(path) == f"pid {os.getpid()} on {socket.gethostname()}"
    lock.release()


@pytest.mark.skipif(sys.platform == "win32", reason="locks are another system's there")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    import fcntl

    def flock(fd: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match=r"cannot lock files.*write the store to another disk") as caught:
        icrkit.CubeWriter(tmp_path / "a.cube", {"mid": 1}, [1.0], 2, 3)
    assert caught.value.errno == code
    assert caught.value.filename == str(tmp_path / "a.cube")
    assert not isinstance(caught.value, CubeLockedError)  # waiting would not help
    assert not list((tmp_path / "a.cube").glob("*.part"))
