"""The study of the window: its truth, its methods, a tiny run, and what its committed table says."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner

import icrkit as ik


@pytest.mark.parametrize("law", ["gaussian", "heavy", "classes"])
def test_the_truth_is_that_of_many_images(benchmark, law):
    truth = benchmark.true_icr("two best", 4)
    assert truth.argmin() == 1 and truth[1] == truth[2]
    h = benchmark.features(np.random.default_rng(0), law, truth, 20_000, 2)
    found = [ik.icr(ik.Moments.from_cube(h[:, :, k], n_folds=0)) for k in range(4)]
    np.testing.assert_allclose(found, truth, atol=0.01)
    if law == "classes":
        return  # whose means are the same at every level
    # Neighbours see nearly the same draws.
    assert np.corrcoef(h[:, 0, 0, 0], h[:, 0, 1, 0])[0, 1] == pytest.approx(np.exp(-1 / 3), abs=0.03)


def test_every_method_on_three_levels(benchmark):
    """One clearly worst, two near one another."""
    noise = 0.01 * np.random.default_rng(0).standard_normal((3, 10))
    values = np.array([0.0, 1.0, 1.005])
    for name, choose in benchmark.METHODS.items():
        assert choose(values, values[:, None] + noise).tolist() == [False, True, True], name


def test_the_model_confidence_set_holds_all_levels_that_are_equal(benchmark):
    """Its promise is for all of them together, and holds with rotations of ten folds; with a bootstrap it does not."""
    runs, rng = 150, np.random.default_rng(0)
    held = {"mcs rotation": 0, "mcs bootstrap": 0}
    for _ in range(runs):
        folds = np.cumsum(rng.standard_normal((10, 6)), axis=1)
        for name in held:
            held[name] += benchmark.METHODS[name](folds.mean(axis=0), ((folds.sum(axis=0) - folds) / 9).T).all()
    assert held["mcs rotation"] / runs > 0.95 - 3 * np.sqrt(0.05 * 0.95 / runs)
    assert held["mcs bootstrap"] / runs < 0.85


def test_the_study_runs(benchmark, tmp_path, monkeypatch):
    out = tmp_path / "window.csv"
    monkeypatch.setattr(benchmark, "CELLS", [("gaussian", "one best", 3, 4, 2, 10), ("heavy", "layers", 3, 4, 2, 10)])
    options = ["--repeats", "2", "--cells", "2", "--out", str(out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0 and "| gaussian | one best | 3 | 4 | 2 | 10 | icr |" in result.output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["method"] for row in rows] == list(benchmark.METHODS) * 3
    assert [row["criterion"] for row in rows[::4]] == ["icr", "information", "information"]


def test_the_committed_study_holds_what_the_documentation_says(benchmark, committed):
    n_sets = sum(1 if cell[1] == "layers" else 2 for cell in benchmark.CELLS)
    assert len(committed) == len(benchmark.METHODS) * n_sets and min(int(row["repeats"]) for row in committed) >= 250
    by_method = {name: [row for row in committed if row["method"] == name] for name in benchmark.METHODS}
    ours = by_method["rotation"]
    for row in ours:
        assert float(row["coverage"]) >= 0.95 - 2 * float(row["coverage_error"]), row
        assert float(row["coverage_error"]) < 0.011, row
    sizes = {name: np.array([float(row["set_size"]) for row in found]) for name, found in by_method.items()}
    assert (sizes["rotation"] <= sizes["bonferroni"] + 0.03).all()
    assert sizes["rotation"].sum() < sizes["bonferroni"].sum() < sizes["mcs rotation"].sum()
    # What the model confidence set promises of all equal levels it keeps with rotations, and not with a bootstrap.
    flat = [row for row in by_method["mcs rotation"] if row["curve"] == "flat"]
    assert all(float(row["coverage_of_all"]) >= 0.92 for row in flat)
    flat = [row for row in by_method["mcs bootstrap"] if row["curve"] == "flat"]
    assert min(float(row["coverage_of_all"]) for row in flat) < 0.75
