"""The benchmark of memory, tiny."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest


def test_memory_runs(benchmark, tmp_path):
    out = tmp_path / "memory.csv"
    options = ["--dir", str(tmp_path), "--gigabytes", "0.002", "--features", "16", "--out", str(out)]
    command = [sys.executable, benchmark.__file__, *options]
    subprocess.run(command, check=True, capture_output=True)
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert float(row["icr"]) == pytest.approx(0.5, abs=0.02)
    assert int(row["imports_mb"]) < int(row["peak_mb"]) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["memory.csv"]
