"""The study of invariant information: its truth, a tiny run, and what its committed table says."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner

import icrkit as ik


@pytest.mark.parametrize("law", ["gaussian", "heavy", "half", "classes"])
def test_the_truth_is_that_of_many_images(benchmark, law):
    truth = benchmark.true_information(law, 6, 40_000, 0.4, 3)
    eigenvalues = ik.FisherSpectrum().fit(benchmark.make(law, 6, 40_000, 2, 0.4, 3)).eigenvalues_
    assert 0.5 * np.log1p(eigenvalues).sum() == pytest.approx(truth, rel=0.01)


def test_the_study_runs(benchmark, tmp_path):
    out = tmp_path / "information.csv"
    options = ["--repeats", "2", "--cells", "2", "--out", str(out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0 and "| gaussian | 32 | 1.5 | 2 | 0.5 | 10 |" in result.output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["method"] for row in rows] == ["elliptical", "crossfit", "gaussian"] * 2


def cells(rows: list[dict[str, str]], **wanted: object) -> list[dict[str, str]]:
    return [row for row in rows if all(row[name] == str(value) for name, value in wanted.items())]


def test_the_committed_study_holds_what_the_documentation_says(benchmark, committed):
    assert len(committed) == 3 * len(benchmark.CELLS) and min(int(row["repeats"]) for row in committed) >= 500
    enough = [row for row in cells(committed, method="elliptical") if float(row["images_per_feature"]) >= 4]
    for row in enough:
        if row["true_icr"] != "0.9":  # there is a nat and a half there, and a few per cent of it is within the error
            assert abs(float(row["bias_percent"])) < 1.5 + 2 * float(row["bias_error"]), row
        assert 0.93 - 2 * float(row["coverage_error"]) <= float(row["coverage"]), row
        if row["folds"] == "10":
            assert float(row["coverage"]) <= 0.98 + 2 * float(row["coverage_error"]), row
    # What each of the others cannot do.
    wide = cells(committed, method="crossfit", features=64)
    assert all(float(row["bias_percent"]) < -4 and float(row["coverage"]) < 0.9 for row in wide)
    (heavy,) = cells(
        committed,
        method="gaussian",
        residual="heavy",
        features=32,
        images_per_feature=4,
        views=2,
        folds=10,
        true_icr=0.5,
    )
    assert float(heavy["bias_percent"]) > 10


def test_a_cell_comes_out_as_in_its_table(benchmark, committed):
    cell, repeats = ("heavy", 16, 4, 2, 0.5, 10), 60
    again = benchmark.run_cell(cell, repeats)
    stored = cells(committed, residual="heavy", features=16, images_per_feature=4, views=2, folds=10)
    for now, then in zip(again, stored, strict=True):
        assert now["method"] == then["method"]
        assert now["bias_percent"] == pytest.approx(float(then["bias_percent"]), abs=4 * now["bias_error"])
        assert now["coverage"] == pytest.approx(float(then["coverage"]), abs=4 * np.sqrt(0.05 * 0.95 / repeats))
