"""The command: output, exit status, and what a user sees when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import icrkit as ik
from icrkit.cli import main

SIGMAS = [0.01, 0.1, 1.0]


def icrkit(*args: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of two layers and three blocks."""
    a = ik.datasets.make_cube(n_images=120, n_features=4, icr=[0.6, 0.3, 0.7], sigmas=SIGMAS)["features"].to_numpy()
    path = tmp_path / "a.cube"
    attrs = {"seed": 7, "noise": {"name": "EDM", "trained_range": [0.05, 5.0]}}
    layers = {"mid": 4, "up": 2}
    with ik.CubeWriter(path, layers, SIGMAS, n_views=2, n_images=120, attrs=attrs, block_size=40) as writer:
        writer.append(np.arange(120), {"mid": a, "up": a[..., :2]})
    return path


def assert_one_line(result: Result, *words: str) -> None:
    """Exit status 1 and one line on standard error that holds these words."""
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("icrkit: ")
    for word in words:
        assert word in result.stderr


def test_version() -> None:
    result = icrkit("--version")
    assert result.exit_code == 0 and ik.__version__ in result.stdout


def test_info(store: Path) -> None:
    result = icrkit("info", store)
    assert result.exit_code == 0
    for word in (
        "120 images x 2 views x 3 levels",
        "mid (4 features), up (2 features)",
        "0.01, 0.1, 1",
        "seed: 7",
        "complete",
    ):
        assert word in result.stdout
    facts = json.loads(icrkit("info", store, "--json").stdout)
    assert facts["layers"] == {"mid": 4, "up": 2} and facts["sigmas"] == SIGMAS
    assert facts["n_images"] == 120 and facts["labels"] is False and facts["attrs"]["seed"] == 7


def test_info_of_an_unfinished_store(tmp_path: Path) -> None:
    path = tmp_path / "half.cube"
    writer = ik.CubeWriter(path, {"mid": 3}, [0.1], n_views=2, n_images=20, block_size=10)
    writer.append(np.arange(10), {"mid": np.zeros((10, 2, 1, 3))})
    writer.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reader says that it is partial
        result = icrkit("info", path)
    assert result.exit_code == 0 and "1 of 2 blocks" in result.stdout and "10 images" in result.stdout
    assert_one_line(icrkit("sweep", path), "1 of 2 blocks")


def test_verify_and_pack(store: Path, tmp_path: Path) -> None:
    result = icrkit("verify", store)
    assert result.exit_code == 0 and "3 blocks" in result.stdout
    packed = tmp_path / "a.h5"
    assert icrkit("pack", store, packed).exit_code == 0
    assert ik.open_cube(packed).shape == (120, 2, 3)
    part = next(store.glob("part-*1.h5"))
    damaged = bytearray(part.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    part.write_bytes(damaged)
    assert_one_line(icrkit("verify", store), part.name)


def test_sweep(store: Path, tmp_path: Path) -> None:
    result = icrkit("sweep", store, "--plot", tmp_path / "a.png", "--report", tmp_path / "a.html")
    assert result.exit_code == 0, result.stderr
    assert "Layer mid is cleanest at noise level σ = 0.1." in result.stdout
    assert "outside the trained range" in result.stdout
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert "σ = 0.1" in (tmp_path / "a.html").read_text("utf-8")
    read = json.loads(icrkit("sweep", store, "--json", "--layer", "up").stdout)
    assert list(read["layers"]) == ["up"] and read["best_sigma"] == 0.1


def test_demo_hands_over(monkeypatch: pytest.MonkeyPatch, store: Path, tmp_path: Path) -> None:
    from icrkit.demo import DemoResult
    from icrkit.report import Sweep

    seen: dict[str, Any] = {}

    def run_demo(out: str, **options: Any) -> DemoResult:
        seen.update(out=out, **options)
        return DemoResult(Sweep.of(ik.open_cube(store)), {"report": Path(out) / "report.html"})

    monkeypatch.setattr("icrkit.demo.run_demo", run_demo)
    result = icrkit("demo", "--out", tmp_path, "--quiet")
    assert result.exit_code == 0 and str(tmp_path / "report.html") in result.stdout
    assert seen == {"out": str(tmp_path), "progress": False}
    assert json.loads(icrkit("demo", "--json").stdout)["best_sigma"] == 0.1
    assert seen == {"out": "icrkit-demo", "progress": True}


@pytest.mark.parametrize("command", ["info", "verify", "sweep"])
def test_no_such_path(command: str, tmp_path: Path) -> None:
    assert_one_line(icrkit(command, tmp_path / "absent.cube"), "absent.cube")


def test_bad_data_is_one_line(store: Path, tmp_path: Path) -> None:
    assert_one_line(icrkit("sweep", store, "--layer", "down"), "no layer 'down'", "mid, up")
    assert_one_line(icrkit("sweep", store, "--plot", tmp_path / "no" / "such" / "a.png"), "such", "no such folder")
    result = icrkit("sweep", store, "--plot", tmp_path / "a.xyz")
    assert result.exit_code == 2 and "a.xyz: wanted a name that ends in .png" in result.stderr


def test_debug_shows_the_traceback(store: Path) -> None:
    result = icrkit("--debug", "sweep", store, "--layer", "down")
    assert result.exit_code == 1
    assert isinstance(result.exception, ik.exceptions.CubeFormatError)


@pytest.mark.parametrize("args", [["fly"], ["sweep"], ["sweep", "x", "--colour"], ["pack", "x"], ["--loud"]])
def test_wrong_usage(args: list[str]) -> None:
    result = icrkit(*args)
    assert result.exit_code == 2 and "Usage: " in result.stderr


def test_warnings_are_lines_without_source(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    def warn(path: str) -> int:
        warnings.simplefilter("always")
        warnings.warn("two\nlines", stacklevel=1)
        return 3

    monkeypatch.setattr("icrkit.cli.cube_io.verify", warn)
    result = icrkit("verify", store)
    assert result.exit_code == 0 and result.stderr == "icrkit: warning: two lines\n"


def test_interrupt(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("icrkit.cli.cube_io.verify", interrupted)
    monkeypatch.setattr("icrkit.demo.run_demo", interrupted)
    result = icrkit("verify", store)
    assert result.exit_code == 130 and result.stderr == "\nicrkit: interrupted\n"
    assert "goes on from here" in icrkit("demo").stderr


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
