"""The right to write: an flock that dies with its process."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from icrkit.exceptions import CubeLockedError

_held: set[int] = set()


class WriterLock:
    """Exclusive right to write one shard of a store; raises CubeLockedError where another writer has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(fd, 256, 0).decode(errors="replace").strip() or "pid and host unknown"
                os.close(fd)
                raise CubeLockedError(
                    f"{path.parent} is being written by another process ({owner}); wait for it or end it. "
                    "The lock is the process's own: it ends when the process does."
                ) from None
            except BaseException:
                os.close(fd)
                raise
            if _is_still(path, fd):
                break
            os.close(fd)  # the last holder removed the file between our open and our flock
        self._fd = fd
        self._pid = os.getpid()
        _held.add(fd)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Give the right back; the file goes too, so that a finished store is the same bytes however it came about."""
        if self._fd < 0 or self._pid != os.getpid():
            return
        self.path.unlink(missing_ok=True)  # while still holding it: nobody can be waiting on another file
        _held.discard(self._fd)
        os.close(self._fd)
        self._fd = -1


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _forget_in_child() -> None:
    # A forked data-loading worker that outlives its parent must not keep the parent's lock alive.
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
