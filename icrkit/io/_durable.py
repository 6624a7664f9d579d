"""The one way in which files are written: on the disk whole, or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from icrkit.exceptions import CubeLockedError

# Ends the names of files that are not finished.
PART_SUFFIX = ".part"

# A name of 255 bytes is the longest that file systems take, and the temporary name adds 22.
_MOST_CHARACTERS = 48
# None of these exist on every system. Python opens every descriptor as not inheritable by itself.
# Flags of a file that is not opened through a symbolic link.
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINK
# What file systems answer that cannot sync a folder (some network and FUSE mounts).
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def write_file(path: str | os.PathLike[str], data: bytes | memoryview, *, follow_link: bool = True) -> None:
    """Write a file whole, in place of the one that is there; on failure that one stays as it was.

    Parameters
    ----------
    path : str or path-like
        The file. A device or a pipe is written to as it is.
    data : bytes
        Its content.
    follow_link : bool
        Where `path` is a symbolic link: replace the file that it leads to, or else the link itself.

    Raises
    ------
    OSError
        When it cannot be written (disk full, no right to). No temporary file is left.

    Notes
    -----
    A temporary file of an unpredictable name is made beside the file, exclusively, written, synced, and renamed. It
    gets the mode of the file that it replaces; a new file gets what the umask says. Of several processes that write to
    one path the last one wins, and a reader sees one content or the other.
    """
    with new_file(path, follow_link=follow_link) as fd:
        write_all(fd, data)


@contextlib.contextmanager
def new_file(path: str | os.PathLike[str], *, follow_link: bool = True) -> Iterator[int]:
    """Descriptor, open for reading and writing, of a file that takes the place of `path` when the block ends well.

    As :func:`write_file`, for contents that are not made at once.
    """
    target, old = _destination(Path(path), follow_link)
    if old is not None and not stat.S_ISREG(old.st_mode):
        with open(target, "r+b" if stat.S_ISBLK(old.st_mode) else "wb", buffering=0) as special:
            yield special.fileno()
        return
    temporary = target.with_name(f"{target.name[:_MOST_CHARACTERS]}.{secrets.token_hex(8)}{PART_SUFFIX}")
    is_ours = True
    try:
        try:
            # Nobody else may open it before it has its mode. O_EXCL follows no link.
            fd = os.open(temporary, _CREATE, 0o666 if old is None else 0o600)
        except OSError as error:
            is_ours = not isinstance(error, FileExistsError)
            error.filename = str(target)  # the temporary name says nothing to whoever reads this
            raise
        try:
            yield fd
            if old is not None:
                _take_over(fd, old)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, target)
    except BaseException:
        if is_ours:
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of the data at the descriptor's place, in as many calls as it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def append_line(path: Path, line: bytes, length: int) -> None:
    """Add a line to a file of known length in one write; on failure the file is as it was.

    A symbolic link is refused, and so is a file of another length: somebody else wrote to it.
    """
    created = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_LINK, 0o666)
    try:
        found = os.fstat(fd).st_size
        if found != length:
            raise CubeLockedError(
                f"{path} has {found} bytes, and this process left it with {length}: another process wrote to it (was a "
                "lock file removed?). Nothing was added; end one of the two, and start again, which resumes"
            )
        try:
            write_all(fd, line)  # one write; a second one only says why the first was cut short
            os.fsync(fd)
        except BaseException:
            os.ftruncate(fd, length)
            raise
    finally:
        os.close(fd)
    if created:
        sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folders
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # a folder in which one may write and not list: nothing is lost but the time of a power cut
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(fd)


def _destination(path: Path, follow_link: bool) -> tuple[Path, os.stat_result | None]:
    """The file to make, its links resolved, and what is there now."""
    if path.is_symlink() and not follow_link:
        return path, None
    try:
        old = os.stat(path)
    except FileNotFoundError:
        old = None
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, "expected a file to write, and this is a folder", str(path))
    if old is not None and not os.access(path, os.W_OK):
        # A rename would not ask: it needs a right to the folder only.
        raise PermissionError(errno.EACCES, "the file is protected against writing", str(path))
    if path.is_symlink() and (old is None or stat.S_ISREG(old.st_mode)):
        path = Path(os.path.realpath(path))
    return path, old


def _take_over(fd: int, old: os.stat_result) -> None:
    """Give the new file the mode of the old one, and its group where that is allowed."""
    if not hasattr(os, "fchmod"):
        return  # Windows
    mode = stat.S_IMODE(old.st_mode) & 0o777
    if os.fstat(fd).st_gid != old.st_gid:
        try:
            os.fchown(fd, -1, old.st_gid)
        except OSError:
            mode &= ~0o070  # what the old group might do is no right of another one
    os.fchmod(fd, mode)
