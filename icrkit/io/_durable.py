"""Bytes that are on the disk, or not there at all."""

from __future__ import annotations

import os
from pathlib import Path

# Of a name whose file is not finished.
PART_SUFFIX = ".part"


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole: temporary name, fsync, replace, fsync of the folder. On failure no temporary file is left."""
    temporary = path.with_name(path.name + PART_SUFFIX)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_line(path: Path, line: bytes, length: int) -> None:
    """Add a line to a file of known length in one write; on failure the file is as it was."""
    created = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        try:
            view = memoryview(line)
            while view:  # one write; a second one only says why the first was cut short
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        except BaseException:
            os.ftruncate(fd, length)
            raise
    finally:
        os.close(fd)
    if created:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
