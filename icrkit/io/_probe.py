"""Have another process parse an HDF5 file first: some damage makes the HDF5 library spin for ever, or crash.

One process of this kind serves all files. A right digest is no reason to leave it out, since anyone can make one.
"""

from __future__ import annotations

import atexit
import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from icrkit._text import strict_json
from icrkit.exceptions import CubeCorruptError, CubeFormatError

__all__ = ["Identity", "identity_of", "probe"]

# Device, inode, size and time of the last change.
Identity = tuple[int, int, int, int]

_SCRIPT = Path(__file__).with_name("_probe_child.py")
_MOST_REMEMBERED = 100_000


def identity_of(about: os.stat_result, path: str) -> Identity:
    """What changes when a file is written anew; refuses what is no file, such as a pipe, whose reader would wait."""
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(about.st_mode):
        raise CubeFormatError(f"{path} is not a regular file")
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)


def probe(path: str | os.PathLike[str], group: str = "", names: Iterable[str] | None = None) -> None:
    """Refuse an HDF5 file that another process cannot parse, each file once a process.

    Parameters
    ----------
    path : path
        The file.
    group : str
        Path of the group within it that will be read; the root by default.
    names : iterable of str, optional
        The datasets of the group that will be read, where their attributes will not be; by default everything.

    Raises
    ------
    CubeCorruptError
        When the parser dies or does not end. What it refuses is for the reader to say.
    """
    path = os.path.abspath(path)
    identity = identity_of(os.stat(path), path)
    chosen = None if names is None else tuple(names)
    key = (identity, group, chosen)
    if (identity, group, None) in _parsed:  # and so all that is in it
        key = (identity, group, None)
    if key not in _parsed:
        with _lock:
            is_sound = _prober().ask({"path": path, "group": group, "names": chosen})
        if len(_parsed) >= _MOST_REMEMBERED:
            _parsed.clear()
        _parsed[key] = is_sound
    if not _parsed[key]:
        raise CubeCorruptError(f"{path} cannot be parsed: the HDF5 library does not end, or dies; the file is damaged")


class _Prober:
    """The other process. It ends when this one does, however that ends: by its closed input, or by its own clock."""

    def __init__(self) -> None:
        # -P: nothing is imported from the script's folder, nor from the current one. A session of its own: Ctrl-C is
        # for the parent. Without plugins: a filter that is not part of HDF5 loads none.
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env={**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def ask(self, question: dict[str, Any]) -> bool:
        """Whether it lives to answer."""
        global _running
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        try:
            try:
                process.stdin.write(strict_json(question, indent=None).encode() + b"\n")
                raw = b""
                while not raw.endswith(b"\n"):
                    piece = process.stdout.read(1 << 16)
                    if not piece:
                        break
                    raw += piece
            except BrokenPipeError:
                raw = b""
            if raw.endswith(b"\n"):
                return True
        except BaseException:
            self.end()
            _running = None
            raise
        self.end()
        _running = None
        return False

    def end(self) -> None:
        """Stop it, and wait until it is gone."""
        self.process.kill()
        self.forget()
        self.process.wait()

    def forget(self) -> None:
        """Close this process's ends of its pipes."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


# Whether the process that parsed it lived to say so.
_parsed: dict[tuple[Identity, str, tuple[str, ...] | None], bool] = {}
_lock = threading.Lock()
_running: _Prober | None = None


def _prober() -> _Prober:
    global _running
    if _running is not None and _running.process.poll() is not None:  # ended by somebody else
        _running.forget()
        _running = None
    if _running is None:
        _running = _Prober()
    return _running


@atexit.register
def _end() -> None:
    global _running
    if _running is not None:
        _running.end()
        _running = None


def _start_afresh() -> None:
    # The parent's prober is not the child's, nor is a lock that a thread of the parent held.
    global _running, _lock
    _lock = threading.Lock()
    if _running is not None:
        _running.forget()
        _running.process.returncode = 0  # not this process's child: nothing to wait for, nothing to warn of
        _running = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
