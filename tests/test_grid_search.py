"""Cubes on disk in scikit-learn's searches: the same numbers as in memory, in other processes too."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline

import icrkit as ik


@pytest.fixture(scope="module")
def cube():
    """Two layers at twelve levels of the real example: its features, and those after a random projection."""
    mid = ik.datasets.load_fashion_cube()["mid"].to_numpy().astype(np.float32)[:200, ..., :24]
    narrow = mid @ np.random.default_rng(0).standard_normal((24, 10)).astype(np.float32)
    sigmas = ik.datasets.load_fashion_cube().sigmas
    return ik.from_arrays({"mid": mid, "narrow": narrow}, sigmas=sigmas, image_ids=[f"test-{i}" for i in range(200)])


@pytest.fixture(scope="module")
def stored(cube, tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "cube.cube"
    widths = {"mid": 24, "narrow": 10}
    with ik.CubeWriter(path, layers=widths, sigmas=cube.sigmas, n_views=2, n_images=200, block_size=64) as writer:
        writer.append(cube.image_ids, {name: cube[name].to_numpy() for name in cube.layers})
    return ik.open_cube(path)


def test_twelve_levels_of_two_layers_from_disk_in_two_processes(cube, stored):
    pipe = make_pipeline(ik.SelectLevel(), ik.ICREstimator(n_folds=0))
    grid = {"selectlevel__sigma": list(cube.sigmas), "selectlevel__layer": ["mid", "narrow"]}
    folds = KFold(5, shuffle=True, random_state=0)
    here = GridSearchCV(pipe, grid, cv=folds).fit(cube)
    there = GridSearchCV(pipe, grid, cv=folds, n_jobs=2).fit(stored)
    assert here.cv_results_["mean_test_score"].shape == (24,)
    # Workers run BLAS in one thread, which adds float32 products in another order.
    scores = [search.cv_results_["mean_test_score"] for search in (here, there)]
    np.testing.assert_allclose(*scores, rtol=1e-6)
    assert here.best_params_ == there.best_params_
    assert -1 < there.best_score_ < 0


def test_images_sorted_by_class_give_the_same_as_shuffled_ones(stored):
    level = stored.select(layer="mid", sigma=stored.sigmas[5])
    order = np.random.default_rng(1).permutation(len(stored))
    straight = ik.ICREstimator(correction="crossfit").fit(level)
    shuffled = ik.ICREstimator(correction="crossfit").fit(level[order])
    assert shuffled.icr_ == pytest.approx(straight.icr_, rel=1e-6)
    assert shuffled.interval_ == pytest.approx(straight.interval_, rel=1e-5)
