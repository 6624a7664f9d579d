"""Memorization."""

from __future__ import annotations

import json
import re
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


def test_memorization_of_feature_files(icrkit, sets):
    result = icrkit("memorization", *sets, "--threshold", 0.6)
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.startswith("memorization ratio 0.3000: 3 of 10 generated images")
    pairs = [line.split()[:2] for line in result.stdout.splitlines()[4:7]]
    assert sorted(pairs) == [["2", "30"], ["5", "1"], ["7", "4"]]


def test_images_are_named_on_both_sides(icrkit, store):
    options = ["--layer", "mid", "--sigma", 0.1, "--threshold", 0.99]
    packed = store.parent / "named.npz"
    level = ik.open_cube(store).select(layer="mid", sigma=0.1)["mid"].isel(sigma=0).to_numpy()
    ids = np.array([f"a rather long name {k}" for k in range(len(level))])
    np.savez(packed, features=level, image_ids=ids)
    lines = icrkit("memorization", packed, store, *options).stdout.splitlines()
    head, *rows = lines[3:]
    assert head.split("   ")[-2:] == ["training", "similarity"] and len({len(row) for row in [head, *rows]}) == 1
    for row in rows:
        name, nearest, similarity = re.split(" {3,}", row.strip())
        assert name == f"a rather long name {nearest}" and float(similarity) == pytest.approx(1, abs=1e-4)
    assert json.loads(icrkit("memorization", packed, store, *options, "--json").stdout)["ids"] == ids.tolist()


def test_memorization_as_json_with_a_threshold(icrkit, sets):
    read = json.loads(icrkit("memorization", *sets, "--threshold", 0.999, "--json").stdout)
    assert read["memorization_ratio"] == 0.0 and read["threshold"] == 0.999 and not read["exclude_self"]
    assert len(read["similarity"]) == len(read["nearest"]) == read["n_generated"] == 10
    assert read["nearest"][2] == 30 and read["similarity"][2] > 0.9


def test_a_set_against_itself_leaves_each_image_aside(icrkit, sets):
    _, training = sets
    read = json.loads(icrkit("memorization", training, training, "--threshold", 0.6, "--json").stdout)
    assert read["exclude_self"] and read["memorization_ratio"] == 0.0
    assert "itself aside" in icrkit("memorization", training, training, "--threshold", 0.6).stdout


def test_memorization_of_cubes_takes_one_layer_and_level(icrkit, assert_one_line, store, other):
    both = "b.cube has layers mid, up and noise levels 0.01, 0.1, 1: choose one with --layer and --sigma"
    assert_one_line(icrkit("memorization", "--threshold", 0.6, store, other), both)
    assert_one_line(
        icrkit("memorization", "--threshold", 0.6, store, other, "--layer", "mid"),
        "b.cube has noise levels 0.01",
        "choose one with --sigma\n",
    )
    assert_one_line(
        icrkit("memorization", "--threshold", 0.6, store, other, "--sigma", 0.1),
        "has layers mid, up: choose one with --layer\n",
    )
    options = ["--layer", "mid", "--sigma", 0.1, "--json"]
    read = json.loads(icrkit("memorization", "--threshold", 0.6, store, other, *options).stdout)
    left, right = (ik.open_cube(path).select(layer="mid", sigma=0.1) for path in (store, other))
    wanted = ik.metrics.memorization_ratio(left, right, 0.6)
    assert read["memorization_ratio"] == pytest.approx(wanted) and read["n_generated"] == 120


def test_plain_features_stand_beside_a_cube_of_many_levels(icrkit, store, tmp_path):
    level = ik.open_cube(store).select(layer="mid", sigma=0.1)
    np.save(tmp_path / "plain.npy", level["mid"].isel(sigma=0).to_numpy()[:, 0])
    result = icrkit(
        "memorization", tmp_path / "plain.npy", store, "--threshold", 0.6, "--layer", "mid", "--sigma", 0.1, "--json"
    )
    assert json.loads(result.stdout)["memorization_ratio"] == 1.0


def test_memorization_says_what_is_wrong_in_one_line(icrkit, assert_one_line, assert_usage, sets, tmp_path):
    generated, training = sets
    assert_one_line(icrkit("memorization", generated, tmp_path / "absent.npy", "--threshold", 0.6), "absent.npy")
    assert_usage(icrkit("memorization", generated, training, "--threshold", 2), "--threshold", "-1<=x<1")
    np.save(tmp_path / "none.npy", np.empty((10, 0)))
    assert_one_line(
        icrkit("memorization", tmp_path / "none.npy", tmp_path / "none.npy", "--threshold", 0.6), "0 feature(s)"
    )
    np.save(tmp_path / "narrow.npy", np.eye(3))
    assert_one_line(icrkit("memorization", generated, tmp_path / "narrow.npy", "--threshold", 0.6), "64", "3")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    assert_one_line(
        icrkit("memorization", generated, tmp_path / "objects.npy", "--threshold", 0.6),
        "objects.npy",
    )


def test_what_counts_as_a_copy_has_to_be_said(icrkit, assert_usage, sets):
    assert_usage(icrkit("memorization", *sets), "say what counts as a copy: --threshold", "--unseen")
    both = icrkit("memorization", *sets, "--threshold", 0.6, "--unseen", sets[0])
    assert_usage(both, "not both")


def test_unseen_images_give_the_threshold(icrkit, assert_one_line, sets, tmp_path):
    np.save(tmp_path / "unseen.npy", np.random.default_rng(3).standard_normal((100, 64)))
    read = json.loads(icrkit("memorization", *sets, "--unseen", tmp_path / "unseen.npy", "--json").stdout)
    assert read["memorization_ratio"] >= 0.3 and 0.2 < read["threshold"] < 0.6 and read["false_alarms"] == 0.05
    text = icrkit("memorization", *sets, "--unseen", tmp_path / "unseen.npy", "--false-alarms", 0.02).stdout
    assert "Of the unseen images 0.02 are" in text
    assert_one_line(icrkit("memorization", *sets, "--unseen", sets[0]), "10 unseen images", "at least 20")
