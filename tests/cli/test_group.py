"""The command: exit status, and what a user sees when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

import icrkit as ik
from icrkit.cli import main

Run = Callable[..., Result]
Check = Callable[..., None]


def test_version(icrkit: Run) -> None:
    result = icrkit("--version")
    assert result.exit_code == 0 and ik.__version__ in result.stdout


def test_every_command_is_described_in_a_whole_line(icrkit: Run) -> None:
    shown = icrkit("--help").stdout.split("Commands:\n")[1].split("\n\n")[0]
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert len(lines) == 11 and all(words.endswith(".") and not words.endswith("...") for words in lines.values())


@pytest.mark.parametrize("name", sorted([*main.commands, "extract"]))
def test_every_option_is_described(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help and option.help.endswith("."), option.name
            assert "open_images" not in option.help and option.make_metavar(click.Context(command)) != "TEXT", (
                option.name
            )


def test_sweep(icrkit: Run, store: Path, tmp_path: Path) -> None:
    result = icrkit("sweep", store, "--plot", tmp_path / "a.png", "--report", tmp_path / "a.html")
    assert result.exit_code == 0, result.stderr
    assert "Layer mid is cleanest at noise level σ = 0.1." in result.stdout
    assert "outside the trained range" in result.stdout
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert "σ = 0.1" in (tmp_path / "a.html").read_text("utf-8")
    read = json.loads(icrkit("sweep", store, "--json", "--layer", "up").stdout)
    assert list(read["layers"]) == ["up"] and read["best_sigma"] == 0.1


@pytest.mark.parametrize("command", ["info", "verify", "sweep"])
def test_no_such_path(icrkit: Run, assert_one_line: Check, command: str, tmp_path: Path) -> None:
    assert_one_line(icrkit(command, tmp_path / "absent.cube"), "absent.cube")


def test_bad_data_is_one_line(icrkit: Run, assert_one_line: Check, store: Path, tmp_path: Path) -> None:
    assert_one_line(icrkit("sweep", store, "--layer", "down"), "no layer 'down'", "mid, up")
    assert_one_line(icrkit("sweep", store, "--plot", tmp_path / "no" / "such" / "a.png"), "such", "no such folder")
    result = icrkit("sweep", store, "--plot", tmp_path / "a.xyz")
    assert result.exit_code == 2 and "a.xyz: expected a name that ends in .png" in result.stderr


def test_debug_shows_the_traceback(icrkit: Run, store: Path) -> None:
    result = icrkit("--debug", "sweep", store, "--layer", "down")
    assert result.exit_code == 1
    assert isinstance(result.exception, ik.exceptions.CubeFormatError)


@pytest.mark.parametrize("args", [["fly"], ["sweep"], ["sweep", "x", "--colour"], ["pack", "x"], ["--loud"]])
def test_wrong_usage(icrkit: Run, args: list[str]) -> None:
    result = icrkit(*args)
    assert result.exit_code == 2 and "Usage: " in result.stderr


def test_warnings_are_lines_without_source(icrkit: Run, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    def warn(path: str) -> int:
        warnings.simplefilter("always")
        warnings.warn("two\nlines", stacklevel=1)
        return 3

    monkeypatch.setattr("icrkit.io.verify", warn)
    result = icrkit("verify", store)
    assert result.exit_code == 0 and result.stderr == "icrkit: warning: two lines\n"


def test_interrupt(icrkit: Run, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("icrkit.io.verify", interrupted)
    monkeypatch.setattr("icrkit.demo.run_demo", interrupted)
    result = icrkit("verify", store)
    assert result.exit_code == 130 and result.stderr == "\nicrkit: interrupted\n"
    assert "goes on from here" in icrkit("demo").stderr


class Cancelled(BaseException):
    """What some packages raise past every handler of Exception."""


@pytest.mark.parametrize("kind", [Cancelled, GeneratorExit])
def test_whatever_ends_a_command_is_one_line(
    icrkit: Run, assert_one_line: Check, monkeypatch: pytest.MonkeyPatch, store: Path, kind: type[BaseException]
) -> None:
    def end(path: str) -> None:
        raise kind("over")

    monkeypatch.setattr("icrkit.io.verify", end)
    assert_one_line(icrkit("verify", store), f"unexpected {kind.__name__}: over")


def test_notes_of_an_error_say_where_it_happened(
    icrkit: Run, assert_one_line: Check, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    def fail(path: str) -> None:
        error = ValueError("too wide")
        error.add_note("Net failed at net.py:7,\nin forward")
        raise error

    monkeypatch.setattr("icrkit.io.verify", fail)
    assert_one_line(icrkit("verify", store), "too wide (Net failed at net.py:7, in forward)")


def test_a_reader_that_leaves_is_no_error(store: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "icrkit", "info", str(store)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, env=_environment())
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def _environment() -> dict[str, str]:
    """A child finds the package where this process does, installed or not."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
