"""The benchmark of one fit, tiny: its contenders agree."""

from __future__ import annotations

import csv

import pytest
from click.testing import CliRunner


def test_speed_runs_and_its_contenders_agree(benchmark, tmp_path):
    out = tmp_path / "speed.csv"
    options = ["--images", "64", "--features", "8", "--rounds", "1", "--threads", "1", "--out", str(out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {row["case"] for row in rows} == {"iid", "condition 1e5"} and len(rows) == 9
    h = benchmark.iid(400, 2, 8)
    assert benchmark.numpy_script(h) == pytest.approx(benchmark.ik.ICREstimator(n_folds=0).fit(h).icr_, rel=1e-5)


def test_the_hard_case_is_as_hard_as_it_says(benchmark):
    assert benchmark.ik.ICREstimator(n_folds=0).fit(benchmark.iid(4000, 2, 16, 1e5)).condition_number_ > 1e4
