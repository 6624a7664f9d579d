"""Metrics of cubes: score and compare."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import icrkit as ik

Run = Callable[..., Result]
Check = Callable[..., None]

SIGMAS = [0.01, 0.1, 1.0]


TRAINED = {"noise": {"name": "EDM", "trained_range": [0.05, 5.0]}}


def save(path: Path, icr: list[float], n: int = 120) -> Path:
    """A cube file of two layers with labels."""
    cube = ik.datasets.make_cube(n, 8, n_classes=3, icr=icr, sigmas=SIGMAS, random_state=0)
    h = cube["features"].to_numpy()
    with ik.CubeWriter(path, {"mid": 8, "up": 4}, SIGMAS, n_views=2, n_images=n, attrs=TRAINED) as writer:
        writer.append(np.arange(n), {"mid": h, "up": h[..., :4]}, labels=cube.labels)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return save(tmp_path / "a.cube", [0.3, 0.4, 0.7])


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return save(tmp_path / "b.cube", [0.3, 0.5, 0.7])


# ---- score ----------------------------------------------------------------------------------------------------------


def test_score_of_one_level(icrkit, store):
    result = icrkit("score", store, "--layer", "mid", "--sigma", 0.1, "--metrics", "icr,trace_ratio,knn_probe")
    assert result.exit_code == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    est = ik.ICREstimator(correction="crossfit").fit(ik.open_cube(store).select(layer="mid", sigma=0.1))
    assert lines[0] == "a, layer mid (8 features), 120 images x 2 views"
    assert lines[1].split() == ["sigma", "0.1"]
    low, high = est.interval_
    assert lines[2].split() == ["icr", "↓", f"{est.icr_:.3f}", f"{low:.3f}", "-", f"{high:.3f}"]
    assert lines[3].split()[:2] == ["trace_ratio", "↓"] and len(lines[3].split()) == 3
    assert lines[4].split()[:2] == ["knn_probe", "↑"] and "+-" in lines[4]


def test_score_of_all_levels_marks_untrained_ones(icrkit, store):
    result = icrkit("score", store, "--metrics", "icr")
    assert result.exit_code == 0
    assert "(0.01)     0.1       1" in result.stdout and "outside the noise" in result.stdout
    assert result.stdout.count("layer ") == 2 and "0.3" in result.stdout


def test_score_as_json(icrkit, store):
    result = icrkit("score", store, "--layer", "up", "--metrics", "icr", "--metrics", "rankme", "--json")
    assert result.exit_code == 0
    read = json.loads(result.stdout)
    assert [row["sigma"] for row in read["rows"]] == SIGMAS
    assert read["greater_is_better"] == {"icr": False, "rankme": True}
    assert [test["varies"] for test in read["paired_tests"]] == ["sigma"] * 3
    assert read["rows"][0]["trained"] is False and read["rows"][0]["step"] is None
    level = ik.open_cube(store).select(layer="up", sigma=1.0)
    # Asked for beside ICR, single rows have float32 products where these suffice; the estimator's own are float64.
    assert read["rows"][2]["rankme"] == pytest.approx(ik.rankme(level), rel=1e-6)
    alone = json.loads(icrkit("score", store, "--layer", "up", "--metrics", "rankme", "--json").stdout)
    assert alone["rows"][2]["rankme"] == pytest.approx(ik.rankme(level), rel=1e-9)


def test_what_is_missing_is_a_dash_and_null(icrkit, store):
    tiny = store.parent / "tiny.npz"
    h = np.random.default_rng(0).standard_normal((20, 2, 40)).astype(np.float32)
    np.savez(tiny, mid=h, sigmas=[0.1])
    result = icrkit("score", tiny, "--metrics", "icr,rankme")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2].split() == ["icr", "↓", "-"]
    assert result.stderr.startswith("icrkit: warning: icr of cube tiny, layer mid, sigma 0.1: NaN, since the residual")
    read = json.loads(icrkit("score", tiny, "--metrics", "icr,rankme", "--json").stdout)
    assert read["rows"][0]["icr"] is None and read["rows"][0]["rankme"] > 1


def test_score_says_what_is_wrong_in_one_line(icrkit, assert_one_line, assert_usage, store, tmp_path):
    assert_one_line(icrkit("score", tmp_path / "absent.cube"), "absent.cube")
    assert_usage(icrkit("score", store, "--metrics", "icrr"), "no metric 'icrr'; there are icr, total_snr")
    assert_one_line(icrkit("score", store, "--layer", "down"), "no layer 'down'", "mid, up")
    assert_one_line(icrkit("score", store, "--sigma", 0.2), "0.01, 0.1, 1")
    assert_usage(icrkit("score", store, "--metrics", "linear_cka"), "number of two sets")
    assert_usage(icrkit("score", store, "--metrics", ","), "no metric is named")
    np.save(tmp_path / "plain.npy", np.random.default_rng(0).standard_normal((30, 2, 3)))
    assert_one_line(icrkit("score", tmp_path / "plain.npy", "--metrics", "nc1"), "nc1 needs labels")
    assert icrkit("score").exit_code == 2


# ---- compare --------------------------------------------------------------------------------------------------------


def test_compare_two_cubes(icrkit, store, other, tmp_path):
    result = icrkit(
        "compare", store, other, "--metrics", "icr,trace_ratio,few_label_probe", "--rank-by", "few_label_probe",
        "--csv", tmp_path / "t.csv", "--plot", tmp_path / "t.png", "--curves", tmp_path / "t.svg",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.count(", layer ") == 4
    differences = [line for line in result.stdout.splitlines() if " -> " in line]
    assert len(differences) == 6 and "a -> b, mid, sigma 0.1: +0.09" in result.stdout
    assert "p by Holm over 18 tests" in result.stdout
    ranks = result.stdout.split("rank correlation with few_label_probe")[1].splitlines()
    assert {line.split()[0] for line in ranks[2:4]} == {"icr", "trace_ratio"} and "all levels" in ranks[1]
    assert all(line.split()[3] == "8" for line in ranks[2:4])  # of 12 rows those inside the trained range
    assert ranks[4:] == ["Rows of 4 and 8 features are ranked together: ICR does not compare between them."]
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert len(rows) == 12 and list(rows[0])[:3] == ["cube", "layer", "sigma"] and float(rows[0]["icr"]) > 0
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG" and "<svg" in (tmp_path / "t.svg").read_text("utf-8")


def test_compare_as_json(icrkit, store, other):
    options = ["--layer", "mid", "--metrics", "icr,rankme", "--rank-by", "icr", "--json"]
    result = icrkit("compare", store, other, *options)
    assert result.exit_code == 0
    read = json.loads(result.stdout)
    assert [row["cube"] for row in read["rows"]] == ["a"] * 3 + ["b"] * 3
    assert sorted(test["varies"] for test in read["paired_tests"]) == ["cube"] * 3 + ["sigma"] * 6
    ranks = read["rank_correlation"]
    assert ranks["column"] == "icr" and [row["metric"] for row in ranks["metrics"]] == ["rankme"]
    assert ranks["metrics"][0]["n"] == 4 and ranks["metrics"][0]["low"] is None


def test_many_levels_are_printed_in_blocks(icrkit, tmp_path):
    sigmas = np.geomspace(0.01, 1, 14)
    cube = ik.datasets.make_cube(60, 3, icr=0.4, sigmas=sigmas, random_state=0)
    np.savez(tmp_path / "many.npz", mid=cube["features"].to_numpy(), sigmas=sigmas)
    result = icrkit("compare", tmp_path / "many.npz", "--metrics", "icr")
    assert [len(line.split()) for line in result.stdout.splitlines() if line.startswith("  sigma")] == [13, 3]


@pytest.mark.filterwarnings("always::UserWarning")
def test_what_is_ranked_by_is_computed_too(icrkit, store):
    options = ["--layer", "mid", "--rank-by", "icr", "--json"]
    read = json.loads(icrkit("compare", store, "--metrics", "rankme", *options).stdout)
    assert list(read["greater_is_better"]) == ["rankme", "icr"]
    assert read["rank_correlation"]["greater_is_better"] is False
    read = json.loads(
        icrkit("compare", store, "--layer", "mid", "--metrics", "moments", "--rank-by", "knn_probe", "--json").stdout
    )
    known = ik.metrics.known_metrics().values()
    moments = [metric.name for metric in known if metric.takes_moments and not metric.two_sets]
    assert list(read["greater_is_better"]) == [*moments, "knn_probe"]
    assert [row["metric"] for row in read["rank_correlation"]["metrics"]].count("knn_probe") == 0


def test_a_place_of_a_row_can_be_ranked_by(icrkit, store):
    read = json.loads(icrkit("compare", store, "--metrics", "icr", "--rank-by", "sigma", "--json").stdout)
    other = ["--rank-by", "sigma", "--lower-is-better", "--json"]
    turned = json.loads(icrkit("compare", store, "--metrics", "icr", *other).stdout)
    found, turned = (one["rank_correlation"]["metrics"][0]["rho"] for one in (read, turned))
    assert found == pytest.approx(-turned) and found < 0  # ICR, lower is better, rises with sigma here


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is said before any metric is computed."""

    def work(*args: object, **options: object) -> None:
        raise AssertionError("worked first")

    monkeypatch.setattr("icrkit.readings.compare", work)


def test_a_column_to_rank_by_is_looked_for_before_the_work(
    icrkit, assert_one_line, assert_usage, store, tmp_path, no_work
):
    assert_usage(icrkit("compare", store, "--metrics", "icr", "--rank-by", "fid"), "--rank-by", "no metric 'fid'")
    assert_usage(icrkit("compare", store, "--rank-by", "icr_low"), "columns that are no metrics: sigma, step")
    assert_usage(icrkit("compare", store, "--rank-by", "linear_cka"), "two sets")
    assert_usage(icrkit("compare", store, "--metrics", "icr", "--rank-by", "icr"), "no other metric")
    assert_usage(icrkit("compare", store, "--rank-by", "icr", "--lower-is-better"), "--join")
    assert_usage(icrkit("compare", store, "--lower-is-better"), "--rank-by")
    plain = tmp_path / "plain.npy"
    np.save(plain, np.random.default_rng(0).standard_normal((30, 2, 3)))
    for metrics in ("all", "moments", "icr"):
        result = icrkit("compare", plain, "--metrics", metrics, "--rank-by", "knn_probe")
        assert_one_line(result, "knn_probe needs labels, and plain carries none")


@pytest.mark.filterwarnings("always::UserWarning")
def test_constant_features_are_left_out_on_demand(icrkit, assert_one_line, tmp_path):
    h = np.random.default_rng(0).standard_normal((80, 1, 5)) + np.random.default_rng(1).standard_normal((80, 2, 5))
    h[:, :, 3] = 0.0
    np.savez(tmp_path / "dead.npz", mid=h, sigmas=[0.1])
    wanted = ik.ICREstimator(correction="crossfit").fit(h[:, :, [0, 1, 2, 4]]).icr_
    for command in ("score", "compare"):
        arguments = (command, tmp_path / "dead.npz", "--metrics", "icr", "--json")
        assert_one_line(icrkit(*arguments), "nothing could be computed", "icr: 1 of 5 features are constant: [3]")
        gone = icrkit(*arguments, "--drop-constant")
        assert "1 of 5 features are constant, or nearly so, and left out" in gone.stderr
        assert json.loads(gone.stdout)["rows"][0]["icr"] == pytest.approx(wanted, rel=1e-6)


# ---- numbers that cannot be computed --------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Too few images for its features: no ICR; RankMe needs no more."""
    h = np.random.default_rng(0).standard_normal((20, 2, 3, 40)).astype(np.float32)
    np.savez(tmp_path / "tiny.npz", mid=h, up=h[..., :39], sigmas=[0.1, 0.2, 0.3])
    return tmp_path / "tiny.npz"


@pytest.mark.parametrize("command", ["score", "compare"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_nothing_computed_is_an_error_and_says_why(icrkit, assert_one_line, tiny, command, options):
    result = icrkit(command, tiny, "--metrics", "icr,total_snr", "--layer", "mid", *options)
    assert_one_line(result, "nothing could be computed", "icr, total_snr: the residual covariance", "d = 40")


def test_what_was_not_computed_is_said_once_for_each_reason(icrkit, tiny):
    result = icrkit("score", tiny, "--metrics", "icr,rankme", "--layer", "mid")
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("icrkit: warning: icr of cube tiny, layer mid, sigma 0.1 and 2 more: NaN, since the re")
    read = json.loads(icrkit("score", tiny, "--metrics", "icr,rankme", "--layer", "mid", "--json").stdout)
    assert [one["sigma"] for one in read["not_computed"]] == [0.1, 0.2, 0.3]
    assert all(one["metrics"] == ["icr"] and "NotEnough" in one["reason"] for one in read["not_computed"])


# ---- compare with numbers from elsewhere ----------------------------------------------------------------------------


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_numbers_of_a_file_are_joined_and_ranked_by(icrkit, store, other, tmp_path):
    outside = write(
        tmp_path / "outside.csv",
        "layer,cube,sigma,accuracy,fid",
        "mid,a,1,0.5,30",
        "mid,a,0.1000000001,0.7,20",
        "",
        "up,a,0.1,,25",
        "mid,b,0.1,0.6,22",
        "mid,b,1.0,0.4,40",
        "up,b,0.01,0.9,1",
    )
    options = ["--metrics", "icr,rankme", "--join", outside, "--rank-by", "fid", "--lower-is-better"]
    result = icrkit("compare", store, other, *options, "--csv", tmp_path / "t.csv", "--json")
    assert result.exit_code == 0, result.output
    read = json.loads(result.stdout)
    found = {(row["cube"], row["layer"], row["sigma"]): (row["accuracy"], row["fid"]) for row in read["rows"]}
    assert found["a", "mid", 0.1] == (0.7, 20) and found["a", "up", 0.1] == (None, 25)
    assert found["b", "mid", 0.01] == (None, None) and found["b", "up", 0.01] == (0.9, 1)
    assert read["joined"] == ["accuracy", "fid"] and list(read["greater_is_better"]) == ["icr", "rankme"]
    ranks = read["rank_correlation"]
    assert ranks["column"] == "fid" and ranks["greater_is_better"] is False
    # Five rows inside the trained range have it.
    assert {row["metric"]: row["n"] for row in ranks["metrics"]} == {"icr": 5, "rankme": 5}
    table = ik.compare({"a": ik.open_cube(store), "b": ik.open_cube(other)}, ["icr", "rankme"])
    table["fid"] = [found[place][1] for place in zip(table["cube"], table["layer"], table["sigma"], strict=True)]
    inside = table[table["trained"].astype(bool)]
    wanted = ik.rank_correlation(inside, "fid", greater_is_better=False)["rho"]
    assert {row["metric"]: row["rho"] for row in ranks["metrics"]} == pytest.approx(dict(wanted))
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert list(rows[0])[-2:] == ["accuracy", "fid"] and rows[1]["fid"] == "20.0" and rows[0]["fid"] == ""


def test_joined_numbers_are_printed(icrkit, store, tmp_path):
    outside = write(tmp_path / "o.csv", "\ufeffcube,an_accuracy_on_something,fid", "a,0.5,30")
    options = ["--layer", "mid", "--metrics", "icr", "--join", outside]
    result = icrkit("compare", store, *options, "--rank-by", "fid", "--lower-is-better")
    lines = [line for line in result.stdout.splitlines() if line.startswith("  ")]
    assert lines[1].startswith("  icr                     ↓") and len(lines[1]) == len(lines[2]) == len(lines[0])
    assert lines[2].split() == ["an_accuracy_on_something", *["0.500"] * 3]  # nobody says where it is better
    assert lines[3].split() == ["fid", "↓", *["30.00"] * 3]
    assert "fid                     ↑" in icrkit("compare", store, *options, "--rank-by", "fid").stdout


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_no_rank_correlation_is_no_success(icrkit, tmp_path, as_json):
    """The table is printed all the same: it has been computed."""
    cube = ik.datasets.make_cube(60, 4, icr=[0.3, 0.6, 0.8], sigmas=[0.1, 1.0, 2.0])
    np.savez(tmp_path / "a.npz", mid=cube["features"].to_numpy(), sigmas=[0.1, 1.0, 2.0])
    alike = write(tmp_path / "alike.csv", "cube,fid", "a,30")
    few = write(tmp_path / "few.csv", "cube,sigma,fid", "a,0.1,30", "a,1,20")
    for outside, reason in ((alike, "all rows have the same fid"), (few, "3 rows are needed that have both numbers")):
        options = ["--metrics", "icr,lidar", "--join", outside, "--rank-by", "fid", "--lower-is-better", *as_json]
        result = icrkit("compare", tmp_path / "a.npz", *options)
        assert result.exit_code == 1 and "icr" in result.stdout
        assert f"icrkit: no rank correlation with fid: {reason}" in result.stderr
        assert "rank correlation with" not in result.stdout
    right = write(tmp_path / "right.csv", "cube,sigma,fid", "a,0.1,30", "a,1,20", "a,2,10")
    result = icrkit("compare", tmp_path / "a.npz", "--metrics", "icr", "--join", right, "--rank-by", "fid", *as_json)
    assert result.exit_code == 0, result.output


def test_a_file_may_speak_of_steps(icrkit, assert_one_line, tmp_path):
    runs = []
    for step in (100, 200):
        cube = ik.datasets.make_cube(60, 4, icr=0.4, sigmas=[0.1], random_state=step)
        h = cube["features"].to_numpy()
        with ik.CubeWriter(
            tmp_path / f"step-{step}.cube", {"mid": 4}, [0.1], n_views=2, n_images=60, attrs={"step": step}
        ) as w:
            w.append(np.arange(60), {"mid": h})
        runs.append(tmp_path / f"step-{step}.cube")
    outside = write(tmp_path / "o.csv", "cube,step,loss", "step-100,100,0.5", "step-200,200.0,0.3")
    read = json.loads(icrkit("compare", *runs, "--metrics", "icr", "--join", outside, "--json").stdout)
    assert [row["loss"] for row in read["rows"]] == [0.5, 0.3]
    write(outside, "cube,step,loss", "step-100,100,0.5", "step-200,300,0.3")
    assert_one_line(
        icrkit("compare", *runs, "--metrics", "icr", "--join", outside), "o.csv, line 3: step 300", "step-200 is 200"
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["cube,fid", "c,1"], ["line 2: no cube is called 'c'; there are a"]),
        (["cube,layer,fid", "a,mid,1", "a,down,2"], ["line 3: no layer 'down'", "mid, up"]),
        (["cube,sigma,fid", "a,0.11,1"], ["line 2: no level --sigma 0.11", "0.01, 0.1, 1"]),
        (["cube,sigma,fid", "a,,1"], ["line 2: no level --sigma nan"]),
        (["cube,sigma,fid", "a,low,1"], ["line 2: the sigma is 'low'"]),
        (["cube,layer,fid", "a,,1"], ["line 2: the layer is empty"]),
        (["cube,step,fid", "a,3,1"], ["line 2: step 3, and that of cube a is None"]),
        (["model,fid", "a,1"], ["no column 'cube'; its first line is model, fid"]),
        ([], ["no column 'cube'; its first line is empty"]),
        (["cube,sigma,fid", "a,0.1,1", "a,1,2", "a,0.1000000001,3"], ["line 4: cube a, sigma 0.1000000001 is in line"]),
        (["cube,fid", "a,good"], ["line 2: the fid is 'good', which is not a finite number"]),
        (["cube,fid", "a,inf"], ["line 2: the fid is 'inf'"]),
        (["cube,icr", "a,1"], ["column 'icr' has the name of a metric"]),
        (["cube,linear_cka", "a,1"], ["column 'linear_cka' has the name of a metric"]),
        (["cube,knn_probe_error", "a,1"], ["column 'knn_probe_error' has the name of a metric"]),
        (["cube,n_images,fid", "a,1,1"], ["column 'n_images' of its own"]),
        (["cube,fid,fid", "a,1,1"], ["two columns are called 'fid'"]),
        (["cube,fid,", "a,1,"], ["column 3 has no name"]),
        (["cube,sigma", "a,1"], ["no column beside cube, sigma"]),
        (["cube,fid", "a,1,2"], ["line 2: 3 values for 2 columns"]),
        (["cube,layer,fid", "a,up,1"], ["no row for any cube, layer and level that is compared"]),
        (["cube,fid"], ["no row for any cube"]),
        (['cube,fid', 'a,"1\x00"'], ["o.csv"]),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_named_with_the_place(
    icrkit, assert_one_line, lines, words, store, tmp_path, no_work
):
    outside = write(tmp_path / "o.csv", *lines)
    result = icrkit("compare", store, "--layer", "mid", "--join", outside, "--rank-by", "fid")
    assert_one_line(result, str(outside), *words)


def test_a_file_that_is_no_table_is_named(icrkit, assert_one_line, store, tmp_path, no_work):
    assert_one_line(icrkit("compare", store, "--join", tmp_path / "absent.csv"), "absent.csv: No such file")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    assert_one_line(icrkit("compare", store, "--join", tmp_path / "binary.csv"), "binary.csv: not a CSV table", "UTF-8")


def test_a_target_that_cannot_be_written_is_said_before_the_work(icrkit, assert_one_line, store, tmp_path, no_work):
    missing = tmp_path / "no" / "such" / "t.csv"
    assert_one_line(icrkit("compare", store, "--csv", missing), "no such folder")
    result = icrkit("compare", store, "--plot", tmp_path / "t.xyz")
    assert result.exit_code == 2 and "t.xyz: expected a name that ends in .png" in result.stderr
    assert icrkit("compare", store, "--csv", tmp_path / "t.png").exit_code == 2


def test_compare_without_a_cube_is_wrong_usage(icrkit, assert_usage):
    assert_usage(icrkit("compare"), "Missing argument")


# ---- memorization ---------------------------------------------------------------------------------------------------
