"""The study of turns under changing tails: a tiny run, and what its committed table says."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner

import icrkit as ik


@pytest.mark.parametrize("tails", ["none", "lognormal", "outliers"])
def test_the_truth_does_not_change(benchmark, tails):
    """Of t3 the sum over images converges too slowly to say."""
    course = benchmark.course(np.random.default_rng(0), tails, 20_000)
    for step in (1, 6, 12):
        assert ik.ICREstimator("crossfit").fit(course[step]).icr_ == pytest.approx(0.5, abs=0.03)


def test_the_study_runs(benchmark, tmp_path):
    out = tmp_path / "turns.csv"
    options = ["--repeats", "2", "--cells", "3", "--jobs", "1", "--out", str(out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0 and "| Gaussian throughout | 128 |" in result.output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["criterion"] for row in rows] == ["information", "icr", "information"]


def test_no_turn_is_called_in_silence(benchmark, committed, documented):
    assert len(committed) == len(benchmark.CELLS) and {row["repeats"] for row in committed} == {"100"}
    documented("statistics.md", benchmark.table(committed))
    for row in committed:
        # Where none of 128 images is an outlier there is nothing to see, nor to call.
        assert float(row["called_in_silence"]) <= 0.06 + 2 * np.sqrt(0.05 * 0.95 / 100), row
        assert row["tails"] != "none" or float(row["called"]) <= 0.05
