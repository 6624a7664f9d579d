"""The commands of the metric family: score, compare, memorization."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import icrkit as ik
from icrkit.cli import main

SIGMAS = [0.01, 0.1, 1.0]
TRAINED = {"noise": {"name": "EDM", "trained_range": [0.05, 5.0]}}


def icrkit(*args: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, [str(arg) for arg in args])


def assert_one_line(result: Result, *words: str, status: int = 1) -> None:
    """Exit status and one line on standard error that holds these words."""
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("icrkit: ")
    for word in words:
        assert word in result.stderr


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


def test_score_of_one_level(store):
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


def test_score_of_all_levels_marks_untrained_ones(store):
    result = icrkit("score", store, "--metrics", "icr")
    assert result.exit_code == 0
    assert "(0.01)     0.1       1" in result.stdout and "outside the noise" in result.stdout
    assert result.stdout.count("layer ") == 2 and "0.3" in result.stdout


def test_score_as_json(store):
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


@pytest.mark.filterwarnings("always::UserWarning")
def test_what_is_missing_is_a_dash_and_null(store):
    tiny = store.parent / "tiny.npz"
    h = np.random.default_rng(0).standard_normal((20, 2, 40)).astype(np.float32)
    np.savez(tiny, mid=h, sigmas=[0.1])
    result = icrkit("score", tiny, "--metrics", "icr,rankme")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2].split() == ["icr", "↓", "-"]
    assert result.stderr.startswith("icrkit: warning: icr of cube tiny, layer mid, sigma 0.1: NaN, since NotEnough")
    read = json.loads(icrkit("score", tiny, "--metrics", "icr,rankme", "--json").stdout)
    assert read["rows"][0]["icr"] is None and read["rows"][0]["rankme"] > 1


def test_score_says_what_is_wrong_in_one_line(store, tmp_path):
    assert_one_line(icrkit("score", tmp_path / "absent.cube"), "absent.cube")
    assert_one_line(icrkit("score", store, "--metrics", "icrr"), "no metric 'icrr'; there are icr, total_snr")
    assert_one_line(icrkit("score", store, "--layer", "down"), "no layer 'down'", "mid, up")
    assert_one_line(icrkit("score", store, "--sigma", 0.2), "0.01, 0.1, 1")
    assert_one_line(icrkit("score", store, "--metrics", "linear_cka"), "number of two sets")
    np.save(tmp_path / "plain.npy", np.random.default_rng(0).standard_normal((30, 2, 3)))
    assert_one_line(icrkit("score", tmp_path / "plain.npy", "--metrics", "nc1"), "nc1 needs labels")
    assert icrkit("score").exit_code == 2


# ---- compare --------------------------------------------------------------------------------------------------------


def test_compare_two_cubes(store, other, tmp_path):
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
    assert {line.split()[0] for line in ranks[2:]} == {"icr", "trace_ratio"} and "all levels" in ranks[1]
    assert all(line.split()[3] == "8" for line in ranks[2:])  # of 12 rows those inside the trained range
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert len(rows) == 12 and list(rows[0])[:3] == ["cube", "layer", "sigma"] and float(rows[0]["icr"]) > 0
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG" and "<svg" in (tmp_path / "t.svg").read_text("utf-8")


def test_compare_as_json(store, other):
    options = ["--layer", "mid", "--metrics", "icr,rankme", "--rank-by", "icr", "--json"]
    result = icrkit("compare", store, other, *options)
    assert result.exit_code == 0
    read = json.loads(result.stdout)
    assert [row["cube"] for row in read["rows"]] == ["a"] * 3 + ["b"] * 3
    assert sorted(test["varies"] for test in read["paired_tests"]) == ["cube"] * 3 + ["sigma"] * 6
    ranks = read["rank_correlation"]
    assert ranks["column"] == "icr" and [row["metric"] for row in ranks["metrics"]] == ["rankme"]
    assert ranks["metrics"][0]["n"] == 4 and ranks["metrics"][0]["low"] is None


def test_many_levels_are_printed_in_blocks(tmp_path):
    sigmas = np.geomspace(0.01, 1, 14)
    cube = ik.datasets.make_cube(60, 3, icr=0.4, sigmas=sigmas, random_state=0)
    np.savez(tmp_path / "many.npz", mid=cube["features"].to_numpy(), sigmas=sigmas)
    result = icrkit("compare", tmp_path / "many.npz", "--metrics", "icr")
    assert [len(line.split()) for line in result.stdout.splitlines() if line.startswith("  sigma")] == [13, 3]


def test_a_target_that_cannot_be_written_is_said_before_the_work(store, tmp_path, monkeypatch):
    def work(*args: object, **options: object) -> None:
        raise AssertionError("worked first")

    monkeypatch.setattr("icrkit.readings.compare", work)
    missing = tmp_path / "no" / "such" / "t.csv"
    assert_one_line(icrkit("compare", store, "--csv", missing), "no such folder")
    result = icrkit("compare", store, "--plot", tmp_path / "t.xyz")
    assert result.exit_code == 2 and "t.xyz: wanted a name that ends in .png" in result.stderr
    assert icrkit("compare", store, "--csv", tmp_path / "t.png").exit_code == 2


def test_compare_says_what_is_wrong_in_one_line(store):
    assert_one_line(icrkit("compare", store, "--metrics", "icr", "--rank-by", "fid"), "no column 'fid'")
    assert icrkit("compare").exit_code == 2


# ---- memorization ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Three copies of training images among ten generated ones."""
    rng = np.random.default_rng(0)
    training = rng.standard_normal((40, 64)).astype(np.float32)
    generated = rng.standard_normal((10, 64)).astype(np.float32)
    generated[[2, 5, 7]] = training[[30, 1, 4]] + 0.1 * generated[[2, 5, 7]]
    np.save(tmp_path / "generated.npy", generated)
    np.save(tmp_path / "training.npy", training)
    return tmp_path / "generated.npy", tmp_path / "training.npy"


def test_memorization_of_feature_files(sets):
    result = icrkit("memorization", *sets)
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.startswith("memorization ratio 0.3000: 3 of 10 generated images")
    pairs = [line.split()[:2] for line in result.stdout.splitlines()[4:7]]
    assert sorted(pairs) == [["2", "30"], ["5", "1"], ["7", "4"]]


def test_memorization_as_json_with_a_threshold(sets):
    read = json.loads(icrkit("memorization", *sets, "--threshold", 0.999, "--json").stdout)
    assert read["memorization_ratio"] == 0.0 and read["threshold"] == 0.999 and not read["exclude_self"]
    assert len(read["similarity"]) == len(read["nearest"]) == read["n_generated"] == 10
    assert read["nearest"][2] == 30 and read["similarity"][2] > 0.9


def test_a_set_against_itself_leaves_each_image_aside(sets):
    _, training = sets
    read = json.loads(icrkit("memorization", training, training, "--json").stdout)
    assert read["exclude_self"] and read["memorization_ratio"] == 0.0
    assert "itself aside" in icrkit("memorization", training, training).stdout


def test_memorization_of_cubes_takes_one_layer_and_level(store, other):
    assert_one_line(icrkit("memorization", store, other), "one layer and one noise level")
    options = ["--layer", "mid", "--sigma", 0.1, "--json"]
    read = json.loads(icrkit("memorization", store, other, *options).stdout)
    left, right = (ik.open_cube(path).select(layer="mid", sigma=0.1) for path in (store, other))
    wanted = ik.metrics.memorization_ratio(left, right, 0.6)
    assert read["memorization_ratio"] == pytest.approx(wanted) and read["n_generated"] == 120


def test_memorization_says_what_is_wrong_in_one_line(sets, tmp_path):
    generated, training = sets
    assert_one_line(icrkit("memorization", generated, tmp_path / "absent.npy"), "absent.npy")
    assert_one_line(icrkit("memorization", generated, training, "--threshold", 2), "threshold")
    np.save(tmp_path / "narrow.npy", np.eye(3))
    assert_one_line(icrkit("memorization", generated, tmp_path / "narrow.npy"), "64", "3")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    assert_one_line(icrkit("memorization", generated, tmp_path / "objects.npy"), "objects.npy")
