"""The benchmark of extraction, tiny: its contenders give the same features."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")


def test_it_runs(benchmark, tmp_path):
    out = tmp_path / "extract.csv"
    options = ["--network", "demo", "--images", "6", "--batch", "4", "--rounds", "1", "--threads", "1"]
    result = CliRunner().invoke(benchmark.main, [*options, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    rows = {row["what"]: row for row in csv.DictReader(out.read_text().splitlines())}
    assert len(rows) == 6 and rows["bare loop, cut by hand"]["relative_speed"] == "1.0"
    assert all(float(row["relative_speed"]) > 0 for row in rows.values())
    assert {row["network"] for row in rows.values()} == {"demo U-Net"}


@pytest.mark.parametrize("name", ["demo", "diffusers"])
def test_the_contenders_agree(benchmark, name):
    if name == "diffusers":
        pytest.importorskip("diffusers")
    case = benchmark.CASES[name]()
    work = benchmark.layer_contenders(case, 3)
    wanted = work["bare loop, cut by hand"]()
    assert wanted.std(axis=0).max() > 1e-3
    np.testing.assert_array_equal(work["TorchSource"]()[case.layer], wanted)
    np.testing.assert_array_equal(work["full forwards with a hook"](), wanted)


def test_both_ways_make_cubes_of_one_shape(benchmark):
    case = benchmark.demo()
    by_hand, by_extract = (work() for work in benchmark.whole_contenders(case, 5, 2).values())
    given = by_extract["mid"].values
    assert by_hand.shape == given.shape == (5, 2, len(benchmark.SIGMAS), 64)
    # Same views, other noise: alike in the mean.
    np.testing.assert_allclose(by_hand.mean(axis=(0, 1, 2)), given.mean(axis=(0, 1, 2)), atol=0.3 * by_hand.std())
