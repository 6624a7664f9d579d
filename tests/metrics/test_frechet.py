"""Frechet distance against scipy's matrix square root, an optimal map known beforehand, and two peers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from sklearn.base import clone

import icrkit as ik
from icrkit._features import Features
from icrkit.exceptions import CubeFormatError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._base import row_moments
from icrkit.metrics._frechet import FrechetDistance, frechet_distance, frechet_distance_infinite
from icrkit.moments import Moments

PROPERTY = settings(max_examples=30, derandomize=True)


def rows(n: int = 60, d: int = 5, seed: int = 0, decay: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scales = np.arange(1, d + 1.0) ** -decay
    return rng.standard_normal((n, d)) * scales @ np.linalg.qr(rng.standard_normal((d, d)))[0] + rng.standard_normal(d)


def brute(x: np.ndarray, y: np.ndarray) -> float:
    s, t = (np.atleast_2d(np.cov(a.T)) for a in (x, y))
    root = sqrtm(s)
    return float(
        np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
        + np.trace(s + t - 2 * np.real(sqrtm(np.real(root) @ t @ np.real(root))))
    )


# ---- closed form ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* features identical to those of an image before")
def test_one_feature_by_hand():
    x, y = np.array([[0.0], [2.0]]), np.array([[5.0], [5.0], [11.0]])
    assert frechet_distance(x, y) == pytest.approx(36 + (np.sqrt(2) - np.sqrt(12)) ** 2, rel=1e-14)


def test_a_set_has_no_distance_from_itself():
    for x in (rows(), rows(4, 10), rows(200, 40, decay=3)):
        assert 0 <= frechet_distance(x, x) < 1e-13 * np.cov(x.T).trace()


@PROPERTY
@given(n=st.integers(2, 60), d=st.integers(1, 12), decay=st.sampled_from([0.0, 1.0, 3.0]), seed=st.integers(0, 99))
def test_a_positive_map_is_optimal_and_its_cost_known(n, d, decay, seed):
    # x -> x M + b with M positive definite is the optimal transport between the two Gaussians, of any rank.
    x, rng = rows(n, d, seed, decay), np.random.default_rng(seed + 1)
    q, _ = np.linalg.qr(rng.standard_normal((d, d)))
    y = x @ (q * rng.uniform(0.5, 1.5, d) @ q.T) + rng.standard_normal(d)
    want = np.cov((x - y).T).trace() if d > 1 else np.var(x - y, ddof=1)
    want += np.square((x - y).mean(axis=0)).sum()
    assert frechet_distance(x, y) == pytest.approx(want, rel=1e-9)


def test_steep_spectra_keep_their_digits():
    d = 200
    x, rng = rows(1000, d, decay=3), np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.standard_normal((d, d)))
    y = x @ (q * rng.uniform(0.998, 1.002, d) @ q.T)
    want = np.cov((x - y).T).trace() + np.square((x - y).mean(axis=0)).sum()
    assert frechet_distance(x, y) == pytest.approx(want, rel=1e-8)
    # What the eigenvalues of the product of covariances are left with.
    s, t = np.cov(x.T), np.cov(y.T)
    values, vectors = np.linalg.eigh(s)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    trace = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(0)).sum()
    naive = np.square((x - y).mean(axis=0)).sum() + np.trace(s) + np.trace(t) - 2 * trace
    assert abs(naive - want) > 1e-3 * want


# ---- independent code -----------------------------------------------------------------------------------------------


@PROPERTY
@given(n=st.integers(20, 60), m=st.integers(20, 60), d=st.integers(1, 8), seed=st.integers(0, 99))
def test_scipys_matrix_square_root(n, m, d, seed):
    x, y = rows(n, d, seed), 1.5 * rows(m, d, seed + 1)
    assert frechet_distance(x, y) == pytest.approx(brute(x, y), rel=1e-8)


def test_torchmetrics(oracle):
    numbers, made = oracle("torchmetrics_fid")
    assert frechet_distance(made["x"], made["y"]) == pytest.approx(numbers["fid"], rel=1e-8)


def test_dgm_eval(oracle):
    numbers, made = oracle("dgm_eval_distances")
    x, reference = made["x"], made["reference"]
    assert frechet_distance(x, reference) == pytest.approx(numbers["FD"], rel=1e-8)
    assert frechet_distance(x, reference) == pytest.approx(numbers["FD efficient"], rel=1e-8)
    assert frechet_distance_infinite(x, reference) == pytest.approx(numbers["FD infinity"], rel=1e-8)


# ---- which rows, and from what --------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [0, 2, "mean", "all"])
def test_which_rows_stand_for_an_image(views):
    h, g = (np.random.default_rng(k).standard_normal((30, 3, 4)) + k for k in (0, 1))
    x, y = ({0: a[:, 0], 2: a[:, 2], "mean": a.mean(axis=1), "all": a.reshape(-1, 4)}[views] for a in (h, g))
    assert frechet_distance(h, g, views) == pytest.approx(brute(x, y), rel=1e-9)
    assert FrechetDistance(views=views).fit(g).evaluate(ik.from_arrays(h)) == pytest.approx(brute(x, y), rel=1e-9)
    if isinstance(views, str):
        moments = [Moments.from_cube(a, n_folds=0) for a in (h, g)]
        assert frechet_distance(*moments, views) == pytest.approx(brute(x, y), rel=1e-9)


def test_moments_of_parts_add_up():
    x, y = rows(50), rows(40, seed=1)
    parts = [row_moments(p, 0) for p in (x[:20], x[20:])]
    want = frechet_distance(x, y)
    assert frechet_distance(parts[0] + parts[1], y) == pytest.approx(want, rel=1e-12)
    est = FrechetDistance().fit(row_moments(y, 0))
    assert est.evaluate(parts[0] + parts[1]) == pytest.approx(want, rel=1e-12)
    assert FrechetDistance(infinite=True).fit(row_moments(y, 0)).evaluate(x) == frechet_distance_infinite(x, y)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(order=st.permutations(range(30)), scale=st.floats(1e-3, 1e3), offset=st.floats(-100, 100))
def test_rotation_translation_and_order_do_not_matter_and_scale_does(order, scale, offset):
    x, y = rows(30), rows(40, seed=1)
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))
    want = frechet_distance(x, y)
    assert frechet_distance(y, x) == pytest.approx(want, rel=1e-12)
    changed = scale * (x[np.array(order)] @ q + offset), scale * (y @ q + offset)
    assert frechet_distance(*changed) == pytest.approx(scale**2 * want, rel=1e-9)
    stretched = [a * np.array([1, 1, 1, 1, 10.0]) for a in (x, y)]
    assert abs(frechet_distance(*stretched) / want - 1) > 0.1


@PROPERTY
@given(order=st.permutations(range(30)), scale=st.floats(1e-3, 1e3))
def test_the_extrapolation_moves_with_the_distance(order, scale):
    x, y = rows(30), rows(40, seed=1)
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))
    want = frechet_distance_infinite(x, y)
    assert frechet_distance_infinite(scale * (x @ q + 1), scale * (y @ q + 1)) == pytest.approx(
        scale**2 * want, rel=1e-7
    )
    assert frechet_distance_infinite(x, y[np.argsort(np.r_[order, range(30, 40)])]) == pytest.approx(want, rel=1e-9)


def test_far_offsets_and_scales_cost_few_digits():
    x, y = rows(80), rows(90, seed=1)
    want = frechet_distance(x, y)
    assert frechet_distance(x + 1e4, y + 1e4) == pytest.approx(want, rel=1e-9)
    wide = [(a + 1e4).astype(np.float32) for a in (x, y)]
    assert frechet_distance(*wide) == pytest.approx(frechet_distance(*(a.astype(np.float64) for a in wide)), rel=1e-9)
    # A change in a feature a thousand times smaller than the others is seen in its own units.
    small = x * np.array([1e3, 1e3, 1e3, 1e3, 1.0])
    changed = small * np.array([1, 1, 1, 1, 1.5])
    want = np.var(x[:, 4], ddof=1) / 4 + (x[:, 4].mean() / 2) ** 2
    assert frechet_distance(small, changed) == pytest.approx(want, rel=1e-8)


@pytest.mark.parametrize("n_images", [1, 7])
def test_blocks_do_not_matter(monkeypatch, n_images):
    x, y = rows(41), rows(30, seed=1)
    want = frechet_distance(x, y), frechet_distance_infinite(x, y)

    def blocks(self, target_bytes=None):
        for start in range(0, self.shape[0], n_images):
            yield start, self.read(start, start + n_images)

    monkeypatch.setattr(Features, "blocks", blocks)
    assert (frechet_distance(x, y), frechet_distance_infinite(x, y)) == pytest.approx(want, rel=1e-11)


def test_another_order_and_other_maps_move_the_extrapolation():
    x, y = rows(80), rows(40, seed=1)
    want = frechet_distance_infinite(x, y)
    assert frechet_distance_infinite(x[::-1], y) != pytest.approx(want, rel=1e-3)  # other images are drawn
    stretch = np.array([5.0, 1, 1, 1, 1])
    assert frechet_distance_infinite(x * stretch, y * stretch) != pytest.approx(want, rel=0.1)


# ---- degenerate input -----------------------------------------------------------------------------------------------


def test_constant_and_collinear_features_and_few_images_are_no_special_case():
    x, y = rows(50), rows(40, seed=1)
    want = frechet_distance(x, y)
    dead = [np.c_[a, np.full(len(a), 0.1)] for a in (x, y)]
    assert frechet_distance(*dead) == pytest.approx(want, rel=1e-12)
    # A feature said twice has sqrt(2) times its deviations along the diagonal.
    twice = [np.c_[a, a] for a in (x, y)]
    assert frechet_distance(*twice) == pytest.approx(2 * want, rel=1e-9)
    est = FrechetDistance().fit(twice[1])
    est.evaluate(twice[0])
    assert est.ranks_ == (5, 5)
    few = FrechetDistance().fit(rows(8, 20))
    few.evaluate(rows(30, 20, seed=1))
    assert few.ranks_ == (20, 7)
    assert frechet_distance(np.zeros((3, 2)), np.ones((4, 2))) == 2.0


def test_errors_name_what_is_wrong():
    x, y = rows(50), rows(40, seed=1)
    with pytest.raises(CubeFormatError, match="sets of 5 and of 4 features"):
        frechet_distance(x, y[:, :4])
    with pytest.raises(ValueError, match="4 features, but FrechetDistance is expecting 5"):
        FrechetDistance().fit(row_moments(x, 0)).evaluate(row_moments(y[:, :4], 0))
    with pytest.raises(NotEnoughDataError, match="1 row"):
        frechet_distance(Moments.from_block(x[:1, None]), y)
    with pytest.raises(ValueError, match="views=1"):
        frechet_distance(x, y, views=1)
    with pytest.raises(ValueError, match="hold none of view 0"):
        frechet_distance(Moments.from_cube(np.stack([x, x + 1], axis=1)), y)
    bad = x.copy()
    bad[3, 2] = np.nan
    for measure in (frechet_distance, frechet_distance_infinite):
        with pytest.raises(NonFiniteError, match="image 3"):
            measure(bad, y)


def test_an_extrapolation_needs_images_to_draw():
    x, y = rows(50), rows(40, seed=1)
    with pytest.raises(NotEnoughDataError, match="19 images"):
        frechet_distance_infinite(x[:19], y)
    assert np.isfinite(frechet_distance_infinite(x[:20], y))
    with pytest.raises(ValueError, match="views=1"):
        frechet_distance_infinite(x, y, views=1)
    for use in (lambda m: frechet_distance_infinite(m, y), FrechetDistance(infinite=True).fit(y).evaluate):
        with pytest.raises(TypeError, match="moments do not suffice"):
            use(row_moments(x, 0))


# ---- the estimator --------------------------------------------------------------------------------------------------


def test_the_estimator_gives_the_functions_numbers():
    x, y = rows(50), rows(40, seed=1)
    est = FrechetDistance().fit(y)
    assert est.evaluate(x) == est.frechet_distance_ == frechet_distance(x, y) == -est.score(x)
    assert est.ranks_ == (5, 5) and not hasattr(est, "sizes_")
    far = FrechetDistance(infinite=True, random_state=3).fit(y)
    assert far.evaluate(x) == far.frechet_distance_ == frechet_distance_infinite(x, y, random_state=3)
    assert far.sizes_[[0, -1]].tolist() == [5, 50] and len(far.sizes_) == 15
    assert far.distances_[-1] == pytest.approx(frechet_distance(x, y), rel=1e-12)
    for other in (clone(far).fit(y), pickle.loads(pickle.dumps(far))):
        assert other.evaluate(x) == far.frechet_distance_


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_the_extrapolation_takes_the_bias_away():
    # S = I against a reference of exactly 4 I: the distance is d, and at N images it is higher.
    d, n = 5, 10**6
    reference = Moments(np.array(n), np.zeros((1, d)), 4 * (n - 1) * np.eye(d), np.zeros((d, d)))
    finite, infinite = [], []
    for seed in range(100):
        x = np.random.default_rng(seed).standard_normal((200, d))
        finite.append(frechet_distance(x, reference) - d)
        infinite.append(frechet_distance_infinite(x, reference, random_state=seed) - d)
    assert np.mean(finite) > 5 * np.std(finite) / 10
    assert abs(np.mean(infinite)) < 2 * np.std(infinite) / 10
