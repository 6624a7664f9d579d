"""The monitor's cost: a tiny run, and what the committed table says."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_monitor", BENCHMARKS / "monitor.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_it_runs(tmp_path, monkeypatch):
    benchmark, out = load(), tmp_path / "monitor.csv"
    monkeypatch.setattr(benchmark, "CELLS", ((200, 2, 8, 2),))
    options = ["--updates", "3", "--cells", "1", "--out", str(out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0 and "images=200" in result.output
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert float(row["longest"]) > 0 and int(row["bytes_a_checkpoint"]) < 5000


def test_an_update_costs_less_than_one_percent_of_a_minute():
    with load().RESULTS.open() as file:
        rows = {
            tuple(int(row[n]) for n in ("images", "views", "features", "levels")): row for row in csv.DictReader(file)
        }
    row = rows[4096, 2, 256, 1]
    assert row["threads"] == "1" and float(row["longest"]) < 0.6 and float(row["percent_of_a_minute"]) < 1
    # The file does not grow with images or features.
    sizes = [int(row["bytes_a_checkpoint"]) for cell, row in rows.items() if cell[3] == 1]
    assert max(sizes) < 1.1 * min(sizes) < 2000
