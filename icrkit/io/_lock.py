"""The right to write: a lock of the system, which dies with its process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from filelock import FileLock, Timeout

from icrkit.exceptions import CubeLockedError, CubeUnsafeError
from icrkit.io._durable import NO_LINK, write_all

# Windows locks the first byte against readers too, so what they are to read begins behind it.
_OWNER_AT = 1
# What file systems answer that have no locks; some network and FUSE mounts.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class WriterLock:
    """Exclusive right to write one shard of a store; raises CubeLockedError where another writer has it.

    A forked child does not have it, and does not keep it alive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pid = os.getpid()
        self._lock, self._identity = _acquire(path)

    def ensure(self) -> None:
        """Take the lock again where its file was removed by hand; CubeLockedError where another has it by now."""
        if _identity(self.path) != self._identity:
            self._lock, self._identity = _acquire(self.path)  # the old one goes with its last reference

    def release(self) -> None:
        """Give the right back; the file goes too, so that a finished store is the same bytes however it came about."""
        if not self._lock.is_locked or self._pid != os.getpid():
            return
        if _identity(self.path) == self._identity:
            # While still holding it: nobody can be waiting on another file. Windows removes it with the lock.
            with contextlib.suppress(PermissionError):
                self.path.unlink(missing_ok=True)
        self._lock.release()


def read_owner(path: Path) -> str:
    """Who holds the lock, as its file says."""
    try:
        fd = os.open(path, os.O_RDONLY | NO_LINK)
    except OSError:
        return "pid and host unknown"
    try:
        os.lseek(fd, _OWNER_AT, os.SEEK_SET)
        return os.read(fd, 256).decode(errors="replace").split("\n")[0].strip("\0 ") or "pid and host unknown"
    except OSError:
        return "pid and host unknown"
    finally:
        os.close(fd)


def _acquire(path: Path) -> tuple[FileLock, tuple[int, int] | None]:
    while True:
        _check_kind(path)
        # A marker file in place of a lock of the system would outlive a killed process.
        lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire()
            break
        except Timeout:
            if not os.path.lexists(path):
                continue  # its holder has just finished
            raise CubeLockedError(
                f"{path.parent} is being written by another process ({read_owner(path)}); wait for it or end it. "
                "The lock is the process's own: it ends when the process does."
            ) from None
        except (OSError, NotImplementedError) as error:
            code = getattr(error, "errno", errno.ENOSYS)
            if code not in _NO_LOCKS:
                raise
            raise OSError(
                code,
                f"the file system cannot lock files ({os.strerror(code)}), and without a lock two writers could mix "
                "their blocks; write the store to another disk and copy it, or have this one mounted with locks "
                "(flock on Lustre, lockd on NFS)",
                str(path.parent),
            ) from error
    try:
        return lock, _sign(path)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
        raise


def _sign(path: Path) -> tuple[int, int]:
    fd = os.open(path, os.O_RDWR | NO_LINK)
    try:
        found = os.fstat(fd)
        os.lseek(fd, _OWNER_AT, os.SEEK_SET)
        write_all(fd, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    finally:
        os.close(fd)
    return found.st_dev, found.st_ino


def _check_kind(path: Path) -> None:
    """Refuse what would have another file written to."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise CubeUnsafeError(f"{path} is a link or not a plain file, so nothing was written; remove it")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
