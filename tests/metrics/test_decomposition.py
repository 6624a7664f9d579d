"""Invariant and residual covariance: against loops over images, views and pairs of views, and against the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NotEnoughDataError
from icrkit.metrics._decomposition import ResidualModel, between_covariance, check_degenerate, residual_dof
from icrkit.moments import Moments

PROPERTY = settings(max_examples=30, derandomize=True)


def features(n: int, v: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((d, d)) + 2 * np.eye(d)
    return (rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))) @ mixing + rng.standard_normal((v, d))


def manova(h: np.ndarray, centering: str) -> tuple[np.ndarray, np.ndarray, int]:
    """B, W and m by loops: the definition."""
    n, v, d = h.shape
    if centering == "view":
        h = h - h.mean(axis=0, keepdims=True)
    between, within = np.zeros((d, d)), np.zeros((d, d))
    grand = h.mean(axis=(0, 1))
    for i in range(n):
        between += np.outer(h[i].mean(axis=0) - grand, h[i].mean(axis=0) - grand)
        for a in range(v):
            within += np.outer(h[i, a] - h[i].mean(axis=0), h[i, a] - h[i].mean(axis=0))
    m = (n - 1 if centering == "view" else n) * (v - 1)
    return between / (n - 1), within / m, m


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_three_images_by_hand():
    m = Moments.from_block(np.array([[[0.0], [2.0]], [[4.0], [6.0]], [[8.0], [13.0]]]))
    # Image means 1, 5, 10.5; differences 2, 2, 5: mean 3, variance 3.
    assert ik.residual_covariance(m).item() == pytest.approx(1.5, rel=1e-14)
    assert ik.residual_covariance(m, "none").item() == pytest.approx((4 + 4 + 25) / 2 / 3, rel=1e-14)
    b = np.var([1, 5, 10.5], ddof=1)
    assert between_covariance(m).item() == pytest.approx(b, rel=1e-14)
    assert ik.traces(m) == pytest.approx((b - 0.75, 1.5, b + 0.75), rel=1e-14)
    assert (residual_dof(m), residual_dof(m, "none")) == (2, 3)


@PROPERTY
@given(n=st.integers(2, 30), d=st.integers(1, 6), seed=st.integers(0, 99))
def test_two_views_are_the_papers_formula(n, d, seed):
    h = features(n, 2, d, seed)
    t, e = h.mean(axis=1), h[:, 0] - h[:, 1]
    cov_t, cov_e = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (t, e))
    m = Moments.from_cube(h, n_folds=0)
    np.testing.assert_allclose(ik.residual_covariance(m), cov_e / 2, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(ik.invariant_covariance(m), cov_t - cov_e / 4, rtol=1e-10, atol=1e-11)


# ---- brute force ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(2, 20),
    v=st.sampled_from([2, 3, 5]),
    d=st.integers(1, 5),
    centering=st.sampled_from(["view", "none"]),
    seed=st.integers(0, 99),
)
def test_covariances_equal_loops(n, v, d, centering, seed):
    h = features(n, v, d, seed)
    between, within, dof = manova(h, centering)
    m = Moments.from_cube(h, n_folds=3).total
    tolerance = {"rtol": 1e-10, "atol": 1e-11 * np.abs(between).max()}
    assert residual_dof(m, centering) == dof
    np.testing.assert_allclose(ik.residual_covariance(m, centering), within, **tolerance)
    np.testing.assert_allclose(between_covariance(m), between, **tolerance)
    np.testing.assert_allclose(ik.invariant_covariance(m, centering), between - within / v, **tolerance)
    parts = ik.traces(m, centering)
    assert parts.residual == pytest.approx(np.trace(within), rel=1e-11)
    assert parts.invariant == pytest.approx(np.trace(between - within / v), rel=1e-9, abs=1e-9 * np.trace(between))
    assert parts.total == parts.invariant + parts.residual


@PROPERTY
@given(n=st.integers(2, 20), v=st.sampled_from([2, 3, 5]), d=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_invariant_covariance_is_the_mean_covariance_between_different_views(n, v, d, seed):
    h = features(n, v, d, seed)
    centred = h - h.mean(axis=0)
    cross = [centred[:, a].T @ centred[:, b] / (n - 1) for a, b in itertools.permutations(range(v), 2)]
    np.testing.assert_allclose(
        ik.invariant_covariance(Moments.from_cube(h, n_folds=0)), np.mean(cross, axis=0), rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("centering", ["view", "none"])
def test_traces_of_rsatoolbox(oracle, centering):
    # Half its mean crossvalidated distance between images is Tr Sigma_s/d: between different views "view", rows "none".
    numbers, made = oracle("rsatoolbox")
    parts = ik.traces(Moments.from_cube(made["h"]), centering)
    assert parts.invariant == pytest.approx(numbers[f"trace of invariant, {centering}"], rel=1e-8)
    assert parts.residual == pytest.approx(numbers[f"trace of residual, {centering}"], rel=1e-8)


def test_rsatoolbox_has_another_covariance_with_other_degrees_of_freedom(oracle):
    numbers, made = oracle("rsatoolbox")
    n, v, _ = made["h"].shape
    residual = ik.traces(Moments.from_cube(made["h"]), "none").residual
    assert residual * n * (v - 1) / ((n - 1) * v) == pytest.approx(numbers["trace of cov_from_measurements"], rel=1e-8)


@pytest.mark.parametrize("v", [2, 3, 5])
def test_views_without_an_order_are_never_centred_one_by_one(v):
    h = features(30, v, 4)
    ordered = Moments.from_cube(h, n_folds=0)
    grouped = Moments.from_cube(h.reshape(-1, 4), groups=np.repeat(np.arange(30), v), n_folds=0)
    assert ordered.views_ordered and not grouped.views_ordered
    for centering in ("view", "none"):
        np.testing.assert_allclose(
            ik.residual_covariance(grouped, centering), ik.residual_covariance(ordered, "none"), rtol=1e-12
        )
        assert residual_dof(grouped, centering) == 30 * (v - 1)
    assert ik.traces(grouped) == pytest.approx(ik.traces(ordered, "none"), rel=1e-12)
    assert ik.traces(ordered).residual != pytest.approx(ik.traces(ordered, "none").residual, rel=1e-3)


@pytest.mark.parametrize("centering", ["view", "none"])
def test_leading_axes_are_kept(centering):
    m = Moments.from_cube(features(60, 3, 4), n_folds=4)
    for function in (ik.residual_covariance, ik.invariant_covariance):
        stacked = function(m, centering)
        assert stacked.shape == (4, 4, 4)
        for k in range(4):
            np.testing.assert_allclose(stacked[k], function(m.select(fold=k), centering), rtol=1e-14)


def test_traces_of_folds_are_those_of_the_total():
    h = features(60, 3, 4)
    assert ik.traces(Moments.from_cube(h)) == pytest.approx(ik.traces(Moments.from_block(h)), rel=1e-12)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 99), v=st.sampled_from([2, 3, 5]))
def test_order_of_views_within_each_image_does_not_matter_without_centring(seed, v):
    h = features(25, v, 3, seed)
    mixed = np.stack([one[np.random.default_rng(seed + i).permutation(v)] for i, one in enumerate(h)])
    same = np.stack([one[np.random.default_rng(seed).permutation(v)] for one in h])
    m, m_mixed, m_same = (Moments.from_cube(x, n_folds=0) for x in (h, mixed, same))
    np.testing.assert_allclose(ik.residual_covariance(m_mixed, "none"), ik.residual_covariance(m, "none"), rtol=1e-10)
    for centering in ("view", "none"):
        np.testing.assert_allclose(
            ik.residual_covariance(m_same, centering), ik.residual_covariance(m, centering), rtol=1e-10, atol=1e-12
        )


@PROPERTY
@given(seed=st.integers(0, 99), scale=st.floats(0.01, 100), centering=st.sampled_from(["view", "none"]))
def test_traces_are_blind_to_rotation_translation_and_order_and_go_with_the_square_of_a_scale(seed, scale, centering):
    rng = np.random.default_rng(seed)
    h = features(25, 3, 4, seed)
    q, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    changed = scale * (h @ q + 10 * rng.standard_normal(4))[rng.permutation(25)][:, rng.permutation(3)]
    a, b = (ik.traces(Moments.from_cube(x), centering) for x in (h, changed))
    assert b == pytest.approx(np.multiply(scale**2, a), rel=1e-9)
    mixed = np.stack([one[rng.permutation(3)] for one in h])
    assert ik.traces(Moments.from_cube(mixed), "none") == pytest.approx(ik.traces(Moments.from_cube(h), "none"))
    stretched = ik.traces(Moments.from_cube(h * [5, 1, 1, 1]), centering)
    assert stretched.total != pytest.approx(a.total, rel=0.1)


# ---- the residual model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centering", ["view", "none"])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_model_is_the_regularised_residual_covariance(centering, share):
    h = features(40, 3, 5)
    between, within, dof = manova(h, centering)
    moments = Moments.from_cube(h, n_folds=0)
    model = ResidualModel(moments, share, centering)
    tau = share * np.trace(within) / 5
    full = within + tau * np.eye(5)
    assert model.dof == dof and model.tau == pytest.approx(tau, rel=1e-12)
    assert model.traces(between, within) == pytest.approx(
        [np.trace(np.linalg.solve(full, x)) for x in (between, within)], rel=1e-11
    )
    assert model.damped == pytest.approx(tau * np.trace(np.linalg.inv(full)), rel=1e-11)
    white = model.whiten(np.linalg.cholesky(full).T)  # rows whose scatter is the covariance itself
    np.testing.assert_allclose(white.T @ white, np.eye(5), atol=1e-11)
    unit = 1 / np.sqrt(full.diagonal())
    assert model.condition_number == pytest.approx(np.linalg.cond(full * unit[:, None] * unit, 1), rel=1e-6)
    # What centring took away, and the rounding of features that a small residual is a difference of, magnify it.
    unit_roundoff, signal = 2.0**-53, (between.diagonal() * (len(h) - 1) / (within.diagonal() * dof)).max()
    magnified = moments.cancellation + unit_roundoff * signal
    assert 1 <= moments.cancellation < 1.2
    assert model.error_bound() == pytest.approx(unit_roundoff * magnified * (64 + model.condition_number), rel=1e-12)


def test_a_model_does_not_change_its_moments():
    m = Moments.from_cube(features(40, 2, 5), n_folds=0)
    kept = m.within.copy()
    for share in (0.0, 1.0):
        for centering in ("view", "none"):
            ResidualModel(m, share, centering)
    np.testing.assert_array_equal(m.within, kept)


# ---- degenerate -----------------------------------------------------------------------------------------------------


def test_one_image_has_no_covariances():
    m = Moments.from_block(np.zeros((1, 2, 3)))
    with pytest.raises(NotEnoughDataError, match="two images and two views"):
        ik.residual_covariance(m)
    with pytest.raises(NotEnoughDataError, match="two images"):
        ik.invariant_covariance(m, "none")
    with pytest.raises(NotEnoughDataError, match="two images and two views"):
        ik.residual_covariance(Moments.from_block(np.zeros((5, 1, 3))))


def test_unknown_centring_and_negative_regularization():
    m = Moments.from_cube(features(40, 2, 3), n_folds=0)
    with pytest.raises(ValueError, match="residual_centering must be 'view' or 'none', not 'image'"):
        ik.residual_covariance(m, "image")
    with pytest.raises(ValueError, match="regularization must be >= 0, not -1"):
        ResidualModel(m, -1.0)


def test_constant_features_are_listed_ten_at_most():
    h = features(40, 2, 30)
    h[..., 3:20] = np.arange(17)
    with pytest.raises(DegenerateFeaturesError, match=r"17 of 30 .* \[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, \.\.\.\]"):
        check_degenerate(Moments.from_cube(h, n_folds=0))
    check_degenerate(Moments.from_cube(features(40, 2, 30), n_folds=0))


@pytest.mark.parametrize("relative", [0.0, 1e-10, 1e-9])
def test_views_that_agree_have_no_residual(relative):
    h = np.repeat(features(40, 1, 3), 2, axis=1)
    h = h - h.mean(axis=(0, 1))
    h[:, 1] *= 1 + relative
    with pytest.raises(DegenerateFeaturesError, match="no residual in 3 of 3"):
        check_degenerate(Moments.from_cube(h, n_folds=0))
    h[:, 1] *= 1 + 1e-6
    check_degenerate(Moments.from_cube(h, n_folds=0))


def test_float32_rounding_is_a_residual():
    h = np.repeat(features(200, 1, 3), 2, axis=1).astype(np.float32)
    h[:, 1] = np.nextafter(h[:, 1], np.float32(np.inf))
    check_degenerate(Moments.from_cube(h, n_folds=0))


def test_a_singular_model_names_rank_and_sizes():
    h = features(40, 2, 4)
    h[..., 3] = h[..., 1] - 2 * h[..., 0]
    with pytest.raises(IllConditionedError, match=r"rank 3 of d = 4 features, m = 39 "):
        model = ResidualModel(Moments.from_cube(h, n_folds=0))
        model.error_bound()
    assert ResidualModel(Moments.from_cube(h, n_folds=0), 1e-3).error_bound() < 1e-9


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centering", ["view", "none"])
def test_both_covariances_are_unbiased(centering):
    rng = np.random.default_rng(0)
    invariant, residual = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, -0.5], [-0.5, 2.0]])
    sums, squares, runs = np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), 4000
    for _ in range(runs):
        s = rng.multivariate_normal([0, 0], invariant, (5, 1))
        h = s + rng.multivariate_normal([0, 0], residual, (5, 3))
        m = Moments.from_block(h)
        found = np.stack([ik.invariant_covariance(m, centering), ik.residual_covariance(m, centering)])
        sums += found
        squares += found**2
    mean = sums / runs
    error = np.sqrt((squares / runs - mean**2) / runs)
    assert (np.abs(mean - [invariant, residual]) < 4 * error).all()
    assert (error < 0.05).all()
