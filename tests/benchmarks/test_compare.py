"""The benchmark of all moment-based metrics runs tiny, and its table keeps what the documentation says."""

from __future__ import annotations

import csv
import warnings

import numpy as np
from click.testing import CliRunner

import icrkit as ik
from icrkit.metrics import known_metrics


def test_it_runs(benchmark, tmp_path):
    out = tmp_path / "compare.csv"
    options = ["--images", "200", "--features", "16", "--views", "2", "--rounds", "1", "--out", str(out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(row["dtype"], row["condition"]) for row in rows] == [
        ("float32", "1"),
        ("float32", "10000"),
        ("float64", "1"),
    ]
    assert [row["products"] for row in rows] == ["float32", "float64", "float64"]
    assert all(float(row["compare"]) > 0 for row in rows)


def test_its_baseline_is_what_the_metrics_need(benchmark):
    h = benchmark.iid(300, 2, 8).astype("float64")
    moments = benchmark.icr_fit(h)
    assert moments.n_folds == 10
    icr = ik.ICREstimator(correction="crossfit").fit(h).icr_
    assert abs(icr - 0.5) < 0.1
    assert ik.compare(ik.from_arrays(h), ["icr"])["icr"][0] == icr
    np.testing.assert_allclose(moments.total.between, moments.total.between.T)
    assert {"icr", "rankme", "lidar", "trace_ratio"} < set(benchmark.names(information=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eight eigenvalues are too few for a power law
        together = set(ik.compare(ik.from_arrays(h), "moments"))
    assert set(benchmark.names(information=True)) == set(benchmark.names(information=False)) | {"information"}
    assert set(benchmark.names(information=True)) == set(known_metrics()) & together


def test_the_committed_table_keeps_its_word(committed):
    cases = {(row["dtype"], row["condition"], row["V"]) for row in committed}
    assert cases == {(*case, v) for case in (("float32", "1"), ("float32", "10000"), ("float64", "1")) for v in "24"}
    for row in committed:
        assert float(row["without_information_to_fit_and_eigenproblems"]) <= 1.2, row
        assert float(row["compare_to_fit_and_needs"]) <= 1.2, row
        assert float(row["one_by_one_to_compare"]) >= 2.5, row
