"""The benchmark of pairwise measures, tiny."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner


def test_it_runs(benchmark, tmp_path):
    out = tmp_path / "memorization.csv"
    options = ["--generated", "100", "--training", "40", "--features", "8", "--rounds", "1", "--threads", "1"]
    options += ["--what", "memorization_ratio", "--what", "auth_pct"]  # each has a process of its own
    result = CliRunner().invoke(benchmark.main, [*options, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    rows = {row["what"]: row for row in csv.DictReader(out.read_text().splitlines())}
    assert list(rows) == ["memorization_ratio", "auth_pct"]
    for row in rows.values():
        assert float(row["ratio"]) > 0 and int(row["imports_mb"]) <= int(row["peak_mb"]) < 1000
    assert rows["auth_pct"]["rows"] == "40 x 40" and rows["memorization_ratio"]["rows"] == "100 x 40"


def test_its_rows_hold_copies_that_are_found(benchmark):
    x, y = benchmark.rows(200, 100, 32)
    found = {name: work() for name, (_, work) in benchmark.measures(x, y).items()}
    assert tuple(found) == benchmark.NAMES
    for name in ("memorization_ratio", "nearest_ratio"):
        assert found[name] == pytest.approx(0.1, abs=0.02)
    assert 0.3 < found["auth_pct"] < 0.9 and found["uniformity"] < 0
    limits = {name: limit() for name, (limit, _) in benchmark.measures(x, y).items()}
    for name in ("silhouette", "silhouette_cosine"):
        assert found[name] == pytest.approx(limits[name], abs=1e-5)
    assert not np.array_equal(x[0], y[0])


# What it costs at most, and of how many rows.
LIMITS = {
    "memorization_ratio": (1.5, "50000 x 10000"),
    "nearest_ratio": (1.5, "50000 x 10000"),
    "auth_pct": (2.0, "20000 x 10000"),
    "uniformity": (2.0, "20000"),
    "silhouette": (1.0, "10000"),
    "silhouette_cosine": (1.0, "10000"),
}


def test_the_committed_table_keeps_its_word(committed):
    assert {(row["what"], row["threads"]) for row in committed} == {(name, n) for name in LIMITS for n in "12"}
    for row in committed:
        most, n_rows = LIMITS[row["what"]]
        assert float(row["ratio"]) <= most, row
        assert (row["rows"], row["features"]) == (n_rows, "512"), row
        assert int(row["peak_mb"]) < 1000, row


def test_retrieval_from_a_store(benchmark, tmp_path):
    out = tmp_path / "retrieval.csv"
    options = ["--retrieval", str(tmp_path), "--cube", "12", "3", "500", "--out", str(out)]
    assert CliRunner().invoke(benchmark.main, options, catch_exceptions=False).exit_code == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["what"] for row in rows] == ["reading alone", "invariant", "residual"]
    assert [path.name for path in tmp_path.iterdir()] == ["retrieval.csv"]
