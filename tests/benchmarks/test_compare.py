"""The benchmark of all moment-based metrics runs tiny, and its table keeps what the documentation says."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from click.testing import CliRunner

import icrkit as ik

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_it_runs(tmp_path):
    out = tmp_path / "compare.csv"
    options = ["--images", "200", "--features", "16", "--views", "2", "--rounds", "1", "--out", str(out)]
    result = CliRunner().invoke(load("compare").main, options, catch_exceptions=False)
    assert result.exit_code == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(row["dtype"], row["condition"]) for row in rows] == [
        ("float32", "1"),
        ("float32", "10000"),
        ("float64", "1"),
    ]
    assert [row["products"] for row in rows] == ["float32", "float64", "float64"]
    assert all(float(row["compare"]) > 0 for row in rows)


def test_its_baseline_is_what_the_metrics_need():
    compare = load("compare")
    h = compare.iid(300, 2, 8).astype("float64")
    moments = compare.icr_fit(h)
    assert moments.n_folds == 10
    icr = ik.ICREstimator(correction="crossfit").fit(h).icr_
    assert abs(icr - 0.5) < 0.1
    assert ik.compare(ik.from_arrays(h), ["icr"])["icr"][0] == icr
    np.testing.assert_allclose(moments.total.between, moments.total.between.T)


def test_the_committed_table_keeps_its_word():
    with load("compare").RESULTS.open() as file:
        rows = list(csv.DictReader(file))
    cases = {(row["dtype"], row["condition"], row["V"]) for row in rows}
    assert cases == {(*case, v) for case in (("float32", "1"), ("float32", "10000"), ("float64", "1")) for v in "24"}
    for row in rows:
        assert float(row["to_fit_and_eigenproblems"]) <= 1.2, row
        assert float(row["one_by_one_to_compare"]) >= 2.5, row
