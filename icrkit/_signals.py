"""Signals of the process that runs a command; imports nothing that takes time."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["Terminated", "drop_output", "signals", "stop_signal"]

_received: list[int] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C, so that locks, children and unfinished files are given back on the way out."""


def stop_signal() -> int | None:
    """The signal that asked this process to stop, if any did: code on the way may have turned it into another error."""
    return _received[0] if _received else None


def _stop(number: int, frame: Any) -> None:
    _received.append(number)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise inside, wherever the process is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    # What the parent told to ignore stays ignored: nohup, and background jobs of a shell.
    wanted = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def drop_output() -> None:
    """Nobody reads on, or nothing more can be written: what is still buffered must not be flushed at exit."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.__stdout__.fileno() if sys.__stdout__ is not None else 1)
        os.close(null)
