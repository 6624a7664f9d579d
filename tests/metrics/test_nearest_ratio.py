"""The nearest-neighbour ratio against scikit-learn's neighbours, the authors' code, and what chance gives."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors

import icrkit as ik
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError
from icrkit.metrics._nearest_ratio import NearestRatio, nearest_ratio

PROPERTY = settings(max_examples=30, derandomize=True)


def sets(n: int = 60, m: int = 50, d: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Generated rows, a third of them near copies, and training rows."""
    rng = np.random.default_rng(seed)
    training = rng.standard_normal((m, d))
    generated = rng.standard_normal((n, d))
    generated[: n // 3] = training[rng.integers(0, m, n // 3)] + 0.1 * generated[: n // 3]
    return generated, training


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_points_on_a_line_by_hand():
    training = np.array([[0.0], [12.0]])
    generated = np.array([[1.0], [3.0], [4.0], [10.0], [0.0]])  # ratios 1/11, 1/3 (a tie), 1/2, 1/5, 0
    est = NearestRatio().fit(training)
    assert est.evaluate(generated) == nearest_ratio(generated, training) == 0.6
    np.testing.assert_allclose(est.ratio_, [1 / 11, 1 / 3, 1 / 2, 1 / 5, 0], rtol=1e-15)
    assert nearest_ratio(generated, training, threshold=0.1) == 0.4


# ---- independent code -----------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(2, 60), m=st.integers(2, 60), threshold=st.sampled_from([0.1, 1 / 3, 0.8]), seed=st.integers(0, 99)
)
def test_the_definition(n, m, threshold, seed):
    generated, training = sets(n, m, seed=seed)
    distances, rows = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(training).kneighbors(generated)
    est = NearestRatio(threshold).fit(training)
    want = float((distances[:, 0] / distances[:, 1] < threshold).mean())
    assert est.evaluate(generated) == est.nearest_ratio_ == want and est.score(generated) == -want
    np.testing.assert_allclose(est.ratio_, distances[:, 0] / distances[:, 1], rtol=1e-8)
    np.testing.assert_allclose(est.distance_, distances[:, 0], rtol=1e-8)
    np.testing.assert_array_equal(est.nearest_, rows[:, 0])


def test_the_authors_code_says_the_same_of_pixels(oracle):
    numbers, made = oracle("diff_memorize")
    pixels = {name: made[name].reshape(len(made[name]), -1).astype(np.float64) for name in ("generated", "training")}
    est = NearestRatio().fit(pixels["training"])
    assert est.evaluate(pixels["generated"]) == numbers["memorize_ratio"]
    assert est.nearest_.tolist() == numbers["knn_index[:, 0]"]
    # Its distances are float32, a pixel's share each.
    assert est.distance_.mean() / np.sqrt(48) == pytest.approx(numbers["mean of knn_distance[:, 0]"], rel=1e-6)


def test_prdc_has_the_same_distances(oracle):
    numbers, made = oracle("prdc")
    est = NearestRatio(0.4).fit(made["training"])
    share = est.evaluate(made["generated"])
    first, second = (np.array(numbers[f"{which} of another set"]) for which in ("nearest", "second nearest"))
    np.testing.assert_allclose(est.distance_, first, rtol=1e-8)
    np.testing.assert_allclose(est.ratio_, first / second, rtol=1e-8)
    assert share == (first / second < 0.4).mean() > 0


def test_with_all_views_the_second_is_of_another_image():
    rng = np.random.default_rng(0)
    h = rng.standard_normal((20, 1, 4)) + 0.05 * rng.standard_normal((20, 3, 4))
    g = np.concatenate([h[:5, :2] + 0.1, rng.standard_normal((10, 2, 4))])
    est = NearestRatio(views="all").fit(h)
    share = est.evaluate(g)
    distances = np.linalg.norm(g.reshape(-1, 1, 1, 4) - h, axis=3).min(axis=2)  # from the nearest view of each image
    first, second = np.sort(distances, axis=1)[:, :2].T
    np.testing.assert_allclose(est.ratio_, first / second, rtol=1e-12)
    assert share == float((first / second < 1 / 3).mean()) >= 1 / 3
    np.testing.assert_array_equal(est.nearest_, distances.argmin(axis=1))
    assert nearest_ratio(g, ik.from_arrays(h), views="mean") == nearest_ratio(g.mean(axis=1), h.mean(axis=1))


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(order=st.permutations(range(50)), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_rotation_translation_scale_and_order_do_not_matter(order, scale, seed):
    generated, training = sets()
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    shift = 10 * rng.standard_normal(4)
    changed = [scale * h @ q + shift for h in (rng.permutation(generated), training[np.array(order)])]
    assert nearest_ratio(*changed) == nearest_ratio(generated, training)


def test_other_linear_maps_do_matter():
    generated, training = sets()
    stretch = np.array([50.0, 1, 1, 1])
    assert nearest_ratio(generated * stretch, training * stretch) != nearest_ratio(generated, training)


# ---- degenerate input -----------------------------------------------------------------------------------------------


def test_duplicates_hide_near_copies_and_no_copy():
    _, training = sets()
    twice = np.vstack([training, training[:2]])
    assert nearest_ratio(training[:2] + 1e-3, training) == 1.0
    assert nearest_ratio(training[:2] + 1e-3, twice) == 0.0
    assert nearest_ratio(training[:2], twice) == 1.0


def test_clone_pickle_and_degenerate_input():
    generated, training = sets()
    est = NearestRatio(0.4).fit(training)
    want = est.evaluate(generated)
    for other in (clone(est).fit(training), pickle.loads(pickle.dumps(est))):
        assert other.evaluate(generated) == want
    for threshold in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match="threshold must lie in"):
            nearest_ratio(generated, training, threshold)
    with pytest.raises(DegenerateFeaturesError, match="all rows of the training set are the same"):
        NearestRatio().fit(np.ones((5, 4)))
    with pytest.raises(CubeFormatError, match="rows of one encoder"):
        nearest_ratio(generated[:, :3], training)
    with pytest.raises(NonFiniteError, match="image 2"):
        nearest_ratio(generated, np.where(np.arange(50)[:, None, None] == 2, np.inf, training[:, None]))


def test_distances_that_overflow_are_named():
    generated, training = sets()
    est = NearestRatio().fit(training)
    for wrong in (generated * 1e160, np.vstack([generated, np.full(4, -1e200)])):
        for call in (lambda X=wrong: est.evaluate(X), lambda X=wrong: nearest_ratio(X, training)):
            with pytest.raises(NonFiniteError, match="X: distances from the training set overflow"):
                call()
    # Short of that the far ones are no copies.
    assert nearest_ratio(generated * 1e150, training) == 0
    assert est.evaluate(generated) > 0


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3])
def test_chance_has_the_power_of_the_dimension(d):
    # Uniform on the circle and on the sphere: P(d1/d2 < r) = r^(d - 1) where there is no edge and points are many.
    rng = np.random.default_rng(0)
    h = rng.standard_normal((2, 6000, d))
    h /= np.linalg.norm(h, axis=2, keepdims=True)
    assert nearest_ratio(*h) == pytest.approx(3.0 ** (1 - d), abs=0.025)
    assert nearest_ratio(*h, threshold=0.8) == pytest.approx(0.8 ** (d - 1), abs=0.025)
