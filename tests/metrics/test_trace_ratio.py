"""Trace ratio against covariances by numpy."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import icrkit as ik
from icrkit.exceptions import DegenerateFeaturesError, NonFiniteError, NotEnoughDataError

PROPERTY = settings(max_examples=30, derandomize=True)


def features(n: int = 40, v: int = 2, d: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    views = rng.standard_normal((v, d))  # each view has a mean of its own
    return 2 * rng.standard_normal((n, 1, d)) + 0.5 * rng.standard_normal((n, v, d)) + 0.3 * views


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_two_views_of_three_images_by_hand():
    h = np.array([[[0.0], [2.0]], [[4.0], [6.0]], [[8.0], [13.0]]])
    assert ik.trace_ratio(h) == pytest.approx(1.5 / 22, rel=1e-13)  # Cov(h1 - h2)/2, Cov(h1, h2)
    assert ik.trace_ratio(h, "none") == pytest.approx(5.5 / 20, rel=1e-13)  # (2 + 2 + 12.5)/3, 22.75 - 5.5/2


# ---- brute force ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(4, 40),
    v=st.integers(2, 4),
    d=st.integers(2, 60),
    normalize=st.sampled_from([None, "l2"]),
    residual_centering=st.sampled_from(["view", "none"]),
    seed=st.integers(0, 99),
)
def test_covariances_between_and_within_views(n, v, d, normalize, residual_centering, seed):
    h = features(n, v, d, seed)
    x = h / np.linalg.norm(h, axis=2, keepdims=True) if normalize else h
    means = x.mean(axis=1)
    e = x - means[:, None]
    if residual_centering == "view":
        e = e - e.mean(axis=0)
    residual = np.square(e).sum() / ((n - (residual_centering == "view")) * (v - 1))
    invariant = means.var(axis=0, ddof=1).sum() - residual / v
    want = residual / invariant
    assert ik.trace_ratio(h, residual_centering, normalize) == pytest.approx(want, rel=1e-9)
    est = ik.TraceRatio(residual_centering, normalize).fit(h)
    assert est.trace_ratio_ == -est.score(h) == pytest.approx(want, rel=1e-9)
    assert (est.trace_residual_, est.trace_invariant_) == pytest.approx((residual, invariant), rel=1e-9)
    for n_folds in (0, 2):
        moments = ik.Moments.from_cube(h, n_folds=n_folds, normalize=normalize)
        assert ik.trace_ratio(moments, residual_centering) == pytest.approx(want, rel=1e-9)


def test_the_covariance_between_two_views():
    h = features()
    residual = (h[:, 0] - h[:, 1]).var(axis=0, ddof=1).sum() / 2
    invariant = sum(np.cov(h[:, 0, k], h[:, 1, k])[0, 1] for k in range(6))
    assert ik.trace_ratio(h) == pytest.approx(residual / invariant, rel=1e-12)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_rotation_scale_translation_and_order_do_not_matter(seed, scale, shift):
    rng = np.random.default_rng(seed)
    h = features(30, 3, 5, seed)
    q, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    order, views = rng.permutation(30), rng.permutation(3)
    changed = scale * (h @ q)[order][:, views]
    assert ik.trace_ratio(changed + scale * shift) == pytest.approx(ik.trace_ratio(h), rel=1e-8)
    assert ik.trace_ratio(changed, normalize="l2") == pytest.approx(ik.trace_ratio(h, normalize="l2"), rel=1e-8)
    each = rng.permuted(np.arange(3) + np.zeros((30, 1), int), axis=1)[..., None]
    mixed = np.take_along_axis(h, each, axis=1)
    assert ik.trace_ratio(mixed, "none") == pytest.approx(ik.trace_ratio(h, "none"), rel=1e-9)


@PROPERTY
@given(seed=st.integers(0, 999))
def test_with_l2_the_length_of_each_row_drops_out(seed):
    h = features(30, 3, 5)
    changed = h * np.exp(2 * np.random.default_rng(seed).standard_normal((30, 3, 1)))
    assert ik.trace_ratio(changed, normalize="l2") == pytest.approx(ik.trace_ratio(h, normalize="l2"), rel=1e-9)


def test_other_maps_matter():
    h = features()
    h[..., 0] = 10 * np.random.default_rng(1).standard_normal((40, 2))  # a feature that is all noise
    value = ik.trace_ratio(h)
    assert ik.trace_ratio(h * [0.01, 1, 1, 1, 1, 1]) < 0.2 * value  # shrinking it is enough to look clean
    small, large = (ik.ICREstimator(n_folds=0).fit(x).icr_ for x in (h * [0.01, 1, 1, 1, 1, 1], h))
    assert small == pytest.approx(large, rel=1e-9)
    assert ik.trace_ratio(h + 10, normalize="l2") != pytest.approx(ik.trace_ratio(h, normalize="l2"), rel=0.1)


# ---- degenerate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual_centering", ["view", "none"])
def test_no_signal_is_infinitely_bad_and_said(residual_centering):
    h = np.random.default_rng(4).standard_normal((6, 1, 1)) * np.array([[1.0], [-1.0]])  # image means are all zero
    with pytest.warns(UserWarning, match="no invariant variance is left: the estimate of Tr Sigma_s is -") as caught:
        assert ik.trace_ratio(h, residual_centering) == np.inf
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="infinite"):
        est = ik.TraceRatio(residual_centering).fit(h)
    assert est.trace_ratio_ == np.inf and est.trace_invariant_ < 0 < est.trace_residual_


def test_what_is_wrong_is_named():
    h = features()
    with pytest.raises(DegenerateFeaturesError, match="none of the 6 features varies"):
        ik.trace_ratio(np.ones((20, 2, 6)))
    with pytest.raises(DegenerateFeaturesError, match="no residual in 6 of 6 features"):
        ik.trace_ratio(np.repeat(h[:, :1], 2, axis=1))
    with pytest.raises(DegenerateFeaturesError, match="no residual in 6 of 6 features"):
        ik.trace_ratio(np.stack([h[:, 0], h[:, 0] + 1], axis=1))  # an offset of the view is no residual
    with pytest.raises(NotEnoughDataError, match="at least 2 are needed"):
        ik.trace_ratio(h[:, :1])
    with pytest.raises(ValueError, match="residual_centering must be"):
        ik.trace_ratio(h, "image")
    with pytest.raises(ValueError, match="normalize must be"):
        ik.trace_ratio(h, normalize="max")
    with pytest.raises(ValueError, match="normalize='l2' needs features"):
        ik.trace_ratio(ik.Moments.from_cube(h), normalize="l2")
    h[1, 1, 1] = np.nan
    with pytest.raises(NonFiniteError, match="image 1, view 1, feature 1"):
        ik.trace_ratio(h)


def test_dead_units_do_not_matter():
    h = features()
    dead = np.concatenate([h, np.full((40, 2, 3), 0.1)], axis=2)
    assert ik.trace_ratio(dead) == pytest.approx(ik.trace_ratio(h), rel=1e-12)


# ---- the estimator --------------------------------------------------------------------------------------------------


def test_rows_groups_cubes_clone_and_pickle():
    h = features(30, 3)
    est = ik.TraceRatio("none", n_views=3).fit(h)
    rows, groups = h.reshape(-1, 6), np.repeat(np.arange(30), 3)
    order = np.random.default_rng(0).permutation(90)
    for fitted in (
        clone(est).fit(rows),
        ik.TraceRatio().fit(rows[order], groups=groups[order]),  # views without an order have no means of their own
        clone(est).fit(ik.from_arrays(h)),
        clone(est).fit(ik.Moments.from_cube(h)),
        pickle.loads(pickle.dumps(est)),
    ):
        assert fitted.trace_ratio_ == pytest.approx(est.trace_ratio_, rel=1e-10)
    assert ik.trace_ratio(rows, "none", n_views=3) == pytest.approx(est.trace_ratio_, rel=1e-12)
    assert ik.trace_ratio(rows[order], groups=groups[order]) == pytest.approx(est.trace_ratio_, rel=1e-12)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_it_tends_to_the_ratio_of_the_true_traces():
    rng = np.random.default_rng(0)
    h = 0.5 * rng.standard_normal((20_000, 1, 5)) * [1, 1, 1, 1, 4] + rng.standard_normal((20_000, 3, 5))
    assert ik.trace_ratio(h) == pytest.approx(5 / (0.25 * 20), rel=0.02)


def test_few_images_read_too_high():
    rng = np.random.default_rng(0)
    found = [
        ik.trace_ratio(0.5 * rng.standard_normal((50, 1, 8)) + rng.standard_normal((50, 2, 8))) for _ in range(200)
    ]
    assert 4.1 < np.mean(found) < 4.8  # the truth is 4
