"""The scripts in benchmarks/, run tiny so that they never rot, and their committed tables."""

from __future__ import annotations

import csv
import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# Scripts import each other, as they do when they are run; last in the path, they hide no package.
sys.path.append(str(BENCHMARKS))


@functools.cache
def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script_name(request) -> str:
    """Of the script that the file of tests is named after."""
    return request.path.stem.removeprefix("test_")


@pytest.fixture
def benchmark(script_name) -> ModuleType:
    """The script, loaded once: what a test changes in it, it changes with monkeypatch."""
    return load(script_name)


@pytest.fixture
def committed(script_name) -> list[dict[str, str]]:
    """Rows of its committed table."""
    with (BENCHMARKS / "results" / f"{script_name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def documented() -> Callable[[str, str], None]:
    """Checks that every line of a table stands in a page of the documentation."""

    def check(page: str, table: str) -> None:
        text = (BENCHMARKS.parent / "docs" / page).read_text(encoding="utf-8").splitlines()
        missing = [line for line in table.splitlines() if line not in text]
        assert not missing, f"docs/{page} lacks:\n" + "\n".join(missing)

    return check
