"""The study of the window: its truth, its methods, a tiny run, and what its committed table says."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

import icrkit as ik

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_window", BENCHMARKS / "window.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("law", ["gaussian", "heavy", "classes"])
def test_the_truth_is_that_of_many_images(law):
    study = load()
    truth = study.true_icr("two best", 4)
    assert truth.argmin() == 1 and truth[1] == truth[2]
    h = study.features(np.random.default_rng(0), law, truth, 20_000, 2)
    found = [ik.icr(ik.Moments.from_cube(h[:, :, k], n_folds=0)) for k in range(4)]
    np.testing.assert_allclose(found, truth, atol=0.01)
    if law == "classes":
        return  # whose means are the same at every level
    # Neighbours see nearly the same draws.
    assert np.corrcoef(h[:, 0, 0, 0], h[:, 0, 1, 0])[0, 1] == pytest.approx(np.exp(-1 / 3), abs=0.03)


def test_every_method_on_three_levels():
    """One clearly worst, two near one another."""
    study = load()
    noise = 0.01 * np.random.default_rng(0).standard_normal((3, 10))
    values = np.array([0.0, 1.0, 1.005])
    for name, choose in study.METHODS.items():
        assert choose(values, values[:, None] + noise).tolist() == [False, True, True], name


def test_the_model_confidence_set_holds_all_levels_that_are_equal():
    """Its promise is for all of them together, and holds with rotations of ten folds; with a bootstrap it does not."""
    study, runs, rng = load(), 150, np.random.default_rng(0)
    held = {"mcs rotation": 0, "mcs bootstrap": 0}
    for _ in range(runs):
        folds = np.cumsum(rng.standard_normal((10, 6)), axis=1)
        for name in held:
            held[name] += study.METHODS[name](folds.mean(axis=0), ((folds.sum(axis=0) - folds) / 9).T).all()
    assert held["mcs rotation"] / runs > 0.95 - 3 * np.sqrt(0.05 * 0.95 / runs)
    assert held["mcs bootstrap"] / runs < 0.85


def test_the_study_runs(tmp_path):
    study, out = load(), tmp_path / "window.csv"
    study.CELLS = [("gaussian", "one best", 3, 4, 2, 10), ("heavy", "layers", 3, 4, 2, 10)]
    options = ["--repeats", "2", "--cells", "2", "--out", str(out)]
    result = CliRunner().invoke(study.main, options, catch_exceptions=False)
    assert result.exit_code == 0 and "| gaussian | one best | 3 | 4 | 2 | 10 | icr |" in result.output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["method"] for row in rows] == list(study.METHODS) * 3
    assert [row["criterion"] for row in rows[::4]] == ["icr", "information", "information"]


def committed() -> list[dict[str, str]]:
    with load().RESULTS.open() as file:
        return list(csv.DictReader(file))


def test_the_committed_study_holds_what_the_documentation_says():
    rows, study = committed(), load()
    n_sets = sum(1 if cell[1] == "layers" else 2 for cell in study.CELLS)
    assert len(rows) == len(study.METHODS) * n_sets and min(int(row["repeats"]) for row in rows) >= 250
    by_method = {name: [row for row in rows if row["method"] == name] for name in study.METHODS}
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
