"""Signals: a command ends in one line, whenever it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from icrkit._signals import Terminated, signals, stop_signal

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
# The command with one module that stops the process while it is imported: the moment of most tracebacks.
STOPPED = """
import os, runpy, sys, types
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            {action}
sys.meta_path.insert(0, Finder())
sys.argv = ["icrkit", "sweep", {path!r}]
runpy.run_module("icrkit", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(autouse=True)
def signals_are_heard():
    """Tests that run in the background of a shell, or under nohup, inherit signals that are ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_both_signals_raise_and_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, kind in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)):
        with pytest.raises(kind), signals():
            assert stop_signal() is None
            os.kill(os.getpid(), number)
        assert stop_signal() == number
    with signals():
        assert stop_signal() is None
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_is_left_alone():
    failed = []

    def work():
        try:
            with signals():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed


@pytest.mark.parametrize("module", ["icrkit.cli", "click", "icrkit.report", "numpy", "xarray", "sklearn.base"])
@pytest.mark.parametrize(("name", "status", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_stop_during_imports_is_one_line(tmp_path: Path, module: str, name: str, status: int, word: str) -> None:
    action = f"os.kill(os.getpid(), __import__('signal').{name})"
    code = STOPPED.format(module=module, path=str(tmp_path / "absent.cube"), action=action)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", f"\nicrkit: {word}\n")


def test_an_interrupt_that_a_module_turns_into_its_own_error_is_still_one(tmp_path: Path) -> None:
    swallow = "except KeyboardInterrupt: raise ImportError('numpy is broken') from None"
    action = f"try: os.kill(os.getpid(), 2)\n            {swallow}"
    code = STOPPED.format(module="icrkit.report", path=str(tmp_path / "absent.cube"), action=action)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nicrkit: interrupted\n")
