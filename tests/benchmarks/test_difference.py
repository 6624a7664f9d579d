"""The study of paired differences: its truth, a tiny run, and what its committed table says."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner

import icrkit as ik


@pytest.mark.parametrize("law", ["gaussian", "classes"])
def test_the_truth_is_that_of_many_images(benchmark, law):
    h = benchmark.window.features(np.random.default_rng(3), law, np.array([0.3, 0.5]), 20_000, 2)
    for k, icr in enumerate((0.3, 0.5)):
        eigenvalues = ik.FisherSpectrum().fit(h[:, :, k]).eigenvalues_
        truth = benchmark.true_information(law, icr, 3)
        assert 0.5 * np.log1p(eigenvalues).sum() == pytest.approx(truth, rel=0.02)


def test_the_study_runs(benchmark, tmp_path):
    out = tmp_path / "difference.csv"
    options = ["--repeats", "2", "--cells", "2", "--out", str(out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0 and "| gaussian | 2 | 0.5, 0.56 |" in result.output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["quantity"] for row in rows] == ["icr", "information", "information, crossfit"] * 2


def test_the_committed_study_holds_what_the_documentation_says(benchmark, committed):
    assert len(committed) == len(benchmark.QUANTITIES) * len(benchmark.CELLS)
    assert min(int(row["repeats"]) for row in committed) >= 400
    for row in committed:
        if row["quantity"] == "information, crossfit":
            continue
        if row["quantity"] == "information" and row["residual"] in ("t3", "lognormal", "outliers"):
            continue  # too narrow there, as the documentation says
        slack = 2 * np.sqrt(0.05 * 0.95 / int(row["repeats"]))
        assert float(row["coverage"]) >= 0.93 - slack, row
        if row["true_icr_a"] == row["true_icr_b"]:
            assert float(row["rejected"]) <= 0.07 + slack, row
    # Directions of other folds make errors that are too small where images are few and residuals elliptical.
    few = [row for row in committed if row["images_per_feature"] == "4" and row["residual"] in ("gaussian", "heavy")]
    coverage = {
        quantity: np.mean([float(row["coverage"]) for row in few if row["quantity"] == quantity])
        for quantity in benchmark.QUANTITIES
    }
    assert coverage["information, crossfit"] < 0.935 < 0.96 < min(coverage["icr"], coverage["information"])


@pytest.mark.parametrize("law", ["lognormal", "outliers"])
def test_no_difference_of_icr_is_seldom_called_one_under_heavy_tails(benchmark, law):
    # 100 repeats: 7 % and three Monte-Carlo errors; plug-in replicates said it of 11 and 22 %.
    rejected = np.mean([benchmark.one_repeat((law, 16, (0.5, 0.5)), seed)[0][2] for seed in range(100)])
    assert rejected <= 0.146
