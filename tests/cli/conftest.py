"""What every test of a command needs: to run it, and to hold how it fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import icrkit as ik
from icrkit.cli import main

SIGMAS = [0.01, 0.1, 1.0]


@pytest.fixture(scope="session")
def icrkit() -> Callable[..., Result]:
    """Run the command in this process."""

    def run(*args: object) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args])

    return run


@pytest.fixture(scope="session")
def assert_one_line() -> Callable[..., None]:
    """Exit status and one line on standard error that holds these words."""

    def check(result: Result, *words: str, status: int = 1) -> None:
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1 and result.stderr.startswith("icrkit: ")
        for word in words:
            assert word in result.stderr

    return check


@pytest.fixture(scope="session")
def assert_usage() -> Callable[..., None]:
    """Exit status of wrong usage, and an error that holds these words."""

    def check(result: Result, *words: str) -> None:
        assert result.exit_code == 2 and result.stdout == "", result.output
        error = " ".join(result.stderr.split())
        assert error.startswith("Usage: ")
        for word in words:
            assert word in error

    return check


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
