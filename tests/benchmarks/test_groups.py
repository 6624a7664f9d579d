"""The study of dependent images: its truth, a tiny run, and what its committed table says."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner

import icrkit as ik


@pytest.mark.parametrize("kind", ["fives", "video", "copies"])
def test_the_truth_is_that_of_many_images(benchmark, kind):
    h, group = benchmark.features(np.random.default_rng(0), kind, 3000, 0.4)
    moments = ik.Moments.from_cube(ik.from_arrays(h, groups=group), n_folds=10)
    assert ik.icr(moments, "crossfit") == pytest.approx(0.4, abs=0.01)


def test_the_study_runs(benchmark, tmp_path):
    out = tmp_path / "groups.csv"
    options = ["--repeats", "2", "--cells", "1", "--jobs", "1", "--out", str(out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0 and "| five near copies of each scene | 32 |" in result.output
    assert [row["given"] for row in csv.DictReader(out.read_text().splitlines())] == ["False", "True"]


def test_intervals_hold_over_groups_and_not_without(benchmark, committed, documented):
    documented("statistics.md", benchmark.table(committed))
    assert len(committed) == 2 * len(benchmark.CELLS)
    error = np.sqrt(0.95 * 0.05 / 200)
    grouped = [row for row in committed if row["given"] == "True"]
    for row in grouped:
        assert min(float(row["icr"]), float(row["information"])) >= 0.93 - 3 * error, row
        assert float(row["mean_icr"]) == pytest.approx(float(row["true_icr"]), abs=0.015), row
    means = {
        given: np.mean([[float(row["icr"]), float(row["information"])] for row in committed if row["given"] == given])
        for given in ("True", "False")
    }
    assert means["False"] < 0.85 < 0.94 < means["True"]
