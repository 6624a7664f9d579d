"""LiDAR against scikit-learn's discriminant analysis, its own definition step by step, and public code."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power
from scipy.stats import entropy
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import icrkit as ik
from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._lidar import discriminant_eigenvalues

PROPERTY = settings(max_examples=30, derandomize=True)


def features(n: int = 40, v: int = 3, d: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((n, 1, d)) * 0.7 ** np.arange(d)
    return signal + 0.5 * rng.standard_normal((n, v, d)) + rng.standard_normal(d)


def within_and_between(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n, v, d = h.shape
    means = h.mean(axis=1)
    e = (h - means[:, None]).reshape(-1, d)
    return e.T @ e / (n * (v - 1)), np.cov(means.T, ddof=1).reshape(d, d)


def definition(h: np.ndarray, delta: float = 1e-4, epsilon: float = 1e-8) -> float:
    """Thilak et al. 2024, with matrix square roots."""
    w, b = within_and_between(h)
    root = np.real(fractional_matrix_power(w + delta * np.eye(len(w)), -0.5))
    values = np.clip(np.linalg.eigvalsh(root @ b @ root), 0, None)
    p = values / values.sum() + epsilon
    return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_two_directions_by_hand():
    # Image means at (+-3, 0) and (0, +-1), views at +-1/sqrt(2) from them along both axes: W = I, B = diag(18, 2)/3.
    means = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    offsets = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) * np.sqrt(1.5)
    h = means[:, None] + offsets
    w, b = within_and_between(h)
    np.testing.assert_allclose(w, np.eye(2), atol=1e-14)
    np.testing.assert_allclose(b, np.diag([6, 2 / 3]), atol=1e-14)
    p = np.array([0.9, 0.1])
    for delta in (0.0, 1e-4, 1.0):  # W is a multiple of I: delta changes no share
        assert ik.lidar(h, delta, 0.0) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-12)
    p += 1e-3
    assert ik.lidar(h, epsilon=1e-3) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-12)


# ---- brute force ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(2, 40),
    v=st.integers(2, 4),
    d=st.integers(1, 20),
    delta=st.sampled_from([1e-4, 1e-2, 1.0]),
    epsilon=st.sampled_from([0.0, 1e-8, 1e-3]),
    seed=st.integers(0, 99),
)
def test_the_definition_with_matrix_square_roots(n, v, d, delta, epsilon, seed):
    h = features(n, v, d, seed)
    want = definition(h, delta, epsilon)
    assert ik.lidar(h, delta, epsilon) == pytest.approx(want, rel=1e-8)
    for n_folds in (0, 2):
        assert ik.lidar(ik.Moments.from_cube(h, n_folds=n_folds), delta, epsilon) == pytest.approx(want, rel=1e-8)


@pytest.mark.parametrize(("n", "v", "d"), [(40, 3, 6), (5, 8, 12)])
def test_discriminant_analysis_of_scikit_learn(n, v, d):
    h = features(n, v, d)
    lda = LinearDiscriminantAnalysis().fit(h.reshape(-1, d), np.repeat(np.arange(n), v))
    want = np.exp(entropy(lda.explained_variance_ratio_))
    assert ik.lidar(h, delta=0, epsilon=0) == pytest.approx(want, rel=1e-8)


@pytest.mark.parametrize("v", [2, 5])
def test_eigenvalues_are_signal_to_noise_ratios_and_the_noise_of_a_mean(v):
    m = ik.Moments.from_cube(features(60, v), n_folds=0)
    want = ik.fisher_spectrum(m, residual_centering="none").eigenvalues + 1 / v
    np.testing.assert_allclose(discriminant_eigenvalues(m, 0.0), want, rtol=1e-10)


def test_stable_pretraining(oracle):
    numbers, made = oracle("stable_pretraining")
    cube = made["cube"]
    assert ik.lidar(cube, epsilon=0) == pytest.approx(numbers["LiDAR of cube, epsilon=0"], rel=1e-8)
    want = numbers["LiDAR of cube, epsilon=0, delta=0.03"]
    assert ik.lidar(cube, 0.03, epsilon=0) == pytest.approx(want, rel=1e-8)
    # Its epsilon is added to the eigenvalues, ours to their shares, as in the paper.
    assert ik.lidar(cube) == pytest.approx(numbers["LiDAR of cube"], rel=1e-6)


@pytest.mark.parametrize(("call", "delta"), [("", 1e-6), (", del_sigma_augs=0.03", 0.03)])
def test_reptrix_takes_another_spectrum(oracle, call, delta):
    """reptrix 0.1.0 says 2.50 where the definition gives 6.02.

    It hands the discriminant matrix to its function for features, and so gets the principal components of the matrix's
    rows: its eigenvalues squared, with the mean row taken out. (That it divides neither scatter by its degrees of
    freedom costs nothing but another delta.) Done so here, its number comes out.
    """
    numbers, made = oracle("reptrix")
    cube = made["cube"]
    n, v, d = cube.shape
    said = numbers[f"get_lidar(cube, {n}, {v}{call})"]
    w, b = within_and_between(cube)
    root = np.real(fractional_matrix_power((v - 1) * w + delta * np.eye(d), -0.5))
    matrix = (n - 1) * root @ b @ root
    p = PCA(svd_solver="full").fit(matrix).explained_variance_ratio_ + 1e-7
    assert np.exp(-(p * np.log(p)).sum()) == pytest.approx(said, rel=1e-8)
    # Of the matrix's own eigenvalues, with its delta and epsilon, the definition.
    p = np.linalg.eigvalsh(matrix) / np.trace(matrix) + 1e-7
    ours = ik.lidar(cube, delta / (v - 1), 1e-7)
    assert ours == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-8)
    assert ours > 2 * said


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 999), scale=st.floats(1e-2, 1e2), shift=st.floats(-100, 100))
def test_rotation_translation_and_order_of_images_and_views_do_not_matter(seed, scale, shift):
    rng = np.random.default_rng(seed)
    h = features(30, 3, 5, seed)
    q, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    changed = rng.permuted(np.arange(3) + np.zeros((30, 1), int), axis=1)  # another order in each image
    changed = np.take_along_axis(h, changed[..., None], axis=1)[rng.permutation(30)] @ q + shift
    assert ik.lidar(changed) == pytest.approx(ik.lidar(h), rel=1e-9)
    # The unit of delta is that of squared features.
    assert ik.lidar(scale * changed, scale**2 * 1e-2) == pytest.approx(ik.lidar(h, 1e-2), rel=1e-9)


@PROPERTY
@given(seed=st.integers(0, 999))
def test_any_invertible_map_at_no_delta(seed):
    rng = np.random.default_rng(seed)
    h = features(30, 2, 4, seed)
    (q, _), (r, _) = (np.linalg.qr(rng.standard_normal((4, 4))) for _ in range(2))
    changed = h @ (q * [0.01, 0.1, 1, 10] @ r) + 3
    assert ik.lidar(changed, delta=0) == pytest.approx(ik.lidar(h, delta=0), rel=1e-8)
    assert ik.lidar(changed, delta=1) != pytest.approx(ik.lidar(h, delta=1), rel=1e-3)


# ---- degenerate -----------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_named():
    h = features()
    with pytest.raises(DegenerateFeaturesError, match="no residual in 6 of 6 features"):
        ik.lidar(np.repeat(h[:, :1], 2, axis=1))
    with pytest.raises(DegenerateFeaturesError, match="means over views of all 40 images coincide"):
        ik.lidar(np.repeat(h[:1], 40, axis=0))
    with pytest.raises(NotEnoughDataError, match="at least 2 are needed"):
        ik.lidar(h[:, :1])
    with pytest.raises(NotEnoughDataError, match="two images and two views"):
        ik.lidar(ik.Moments.empty(3, 6))
    with pytest.raises(NotEnoughDataError, match=r"N\(V - 1\) = 4 residual degrees of freedom for d = 6 .* delta > 0"):
        ik.lidar(h[:2], delta=0)
    for options in ({"delta": -1.0}, {"epsilon": -1.0}):
        with pytest.raises(ValueError, match="must be >= 0"):
            ik.lidar(h, **options)
    h[4, 1, 5] = np.inf
    with pytest.raises(NonFiniteError, match="image 4, view 1, feature 5"):
        ik.lidar(h)


def test_dependent_and_constant_features_need_a_delta():
    h = features()
    dead = np.concatenate([h, np.ones((40, 3, 2))], axis=2)
    copied = np.concatenate([h, h[..., :2]], axis=2)
    with pytest.raises(DegenerateFeaturesError, match="2 of 8 features are constant, the first is feature 6"):
        ik.lidar(dead, delta=0)
    with pytest.raises(IllConditionedError, match=r"W \+ delta I is singular .* d = 8 features"):
        ik.lidar(copied, delta=0)
    with pytest.raises(IllConditionedError, match=r"delta = 0\.0001"):  # lost beside a variance of 1e12
        ik.lidar(1e6 * copied)
    assert ik.lidar(dead, epsilon=0) == pytest.approx(ik.lidar(h, epsilon=0), rel=1e-10)
    assert ik.lidar(copied) == pytest.approx(definition(copied), rel=1e-8)


def test_float32_moments_that_cannot_bear_it_say_so():
    h = features()
    copied = 10 * np.concatenate([h, h[..., :2]], axis=2).astype(np.float32)
    moments = ik.Moments.from_cube(copied, n_folds=0, dtype="float32")
    with pytest.raises(IllConditionedError, match="moments with float64 products bear more"):
        ik.lidar(moments)
    assert ik.lidar(copied) == pytest.approx(definition(copied.astype(float)), rel=1e-7)


# ---- the estimator --------------------------------------------------------------------------------------------------


def test_rows_groups_cubes_moments_clone_and_pickle():
    h = features(30, 3)
    est = ik.LiDAR(n_views=3).fit(h)
    assert est.lidar_ == ik.lidar(h) == est.score(h)
    rows, groups = h.reshape(-1, 6), np.repeat(np.arange(30), 3)
    order = np.random.default_rng(0).permutation(90)
    for fitted in (
        clone(est).fit(rows),
        ik.LiDAR().fit(rows[order], groups=groups[order]),
        clone(est).fit(ik.from_arrays(h)),
        clone(est).fit(ik.Moments.from_cube(h)),
        pickle.loads(pickle.dumps(est)),
    ):
        assert fitted.lidar_ == pytest.approx(est.lidar_, rel=1e-10)
    assert ik.lidar(rows, n_views=3) == pytest.approx(est.lidar_, rel=1e-12)
    assert ik.lidar(rows[order], groups=groups[order]) == pytest.approx(est.lidar_, rel=1e-12)
    assert est.score(rows[order], groups=groups[order]) == pytest.approx(est.lidar_, rel=1e-12)
    assert ik.LiDAR(1.0, 1e-3).fit(h).lidar_ == ik.lidar(h, 1.0, 1e-3)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_no_signal_at_all_has_the_greatest_lidar():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((5000, 2, 10))
    signal = 3 * rng.standard_normal((5000, 1, 10)) * 0.7 ** np.arange(10)
    assert ik.lidar(noise) == pytest.approx(10, abs=0.05)
    assert ik.lidar(signal + noise) < 7


def test_it_tends_to_the_entropy_of_the_true_ratios():
    rng = np.random.default_rng(0)
    scale = 0.8 ** np.arange(8)
    h = rng.standard_normal((20_000, 1, 8)) * scale + rng.standard_normal((20_000, 2, 8)) * np.array([[2.0], [4.0]])
    snr = scale**2 / 10 + 1 / 2  # residual variance of a view: the mean of 4 and 16
    assert ik.lidar(h) == pytest.approx(np.exp(entropy(snr)), rel=0.01)
    assert ik.lidar(h[:40]) < ik.lidar(h[:200]) < ik.lidar(h)
