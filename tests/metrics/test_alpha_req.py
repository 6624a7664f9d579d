"""alpha-ReQ against straight-line fits by numpy, and two public implementations."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import icrkit as ik
from icrkit.exceptions import DegenerateFeaturesError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._base import row_moments

PROPERTY = settings(max_examples=30, derandomize=True)


def features(n: int = 60, v: int = 2, d: int = 20, alpha: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((d, d)))
    return (rng.standard_normal((n, v, d)) * np.arange(1, d + 1) ** (-alpha / 2)) @ q + 1


def exact(alpha: float, d: int = 120) -> np.ndarray:
    """Rows whose covariance has the eigenvalues k^-alpha, up to a factor."""
    axes = np.diag(np.arange(1, d + 1) ** (-alpha / 2))
    return np.concatenate([axes, -axes])


# ---- closed form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("weights", ["1/rank", None])
@pytest.mark.parametrize("ranks", [(11, 100), (1, 120), (3, 4)])
def test_a_power_law_gives_its_exponent(alpha, weights, ranks):
    assert ik.alpha_req(exact(alpha), ranks=ranks, weights=weights) == pytest.approx(alpha, abs=1e-11)


def test_ranks_outside_the_range_do_not_count():
    rows = exact(1.0)
    rows[:, :10] *= 7  # ranks 1 to 10
    rows[:, 100:] *= 0.1  # ranks 101 to 120
    assert ik.alpha_req(rows) == pytest.approx(1.0, abs=1e-11)
    assert ik.alpha_req(rows, ranks=(10, 100)) > 1.01
    assert ik.alpha_req(rows, ranks=(11, 101)) > 1.01


# ---- brute force ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(8, 60),
    d=st.integers(6, 40),
    first=st.integers(1, 3),
    last=st.integers(4, 6),
    views=st.sampled_from(["mean", "all", 0, 1]),
    weights=st.sampled_from(["1/rank", None]),
    seed=st.integers(0, 99),
)
def test_a_line_fitted_by_numpy(n, d, first, last, views, weights, seed):
    h = features(n, 2, d, seed=seed)
    rows = {"mean": h.mean(axis=1), "all": h.reshape(-1, d), 0: h[:, 0], 1: h[:, 1]}[views]
    values = np.linalg.eigvalsh(np.cov(rows.T))[::-1][first - 1 : last]
    rank = np.arange(first, last + 1)
    # numpy squares its weights
    slope, _ = np.polyfit(np.log(rank), np.log(values), 1, w=rank**-0.5 if weights else None)
    assert ik.alpha_req(h, views, (first, last), weights) == pytest.approx(-slope, rel=1e-8, abs=1e-10)
    if isinstance(views, str):
        moments = ik.Moments.from_cube(h, n_folds=2)
        assert ik.alpha_req(moments, views, (first, last), weights) == pytest.approx(-slope, rel=1e-8, abs=1e-10)


def test_reptrix(oracle):
    numbers, made = oracle("reptrix")
    assert ik.alpha_req(made["decay"]) == pytest.approx(numbers["get_alpha(decay)[0]"], rel=1e-8)
    want = numbers["get_alpha(decay, fit_range=np.arange(4, 40))[0]"]  # from 0: ranks 5 to 40
    assert ik.alpha_req(made["decay"], ranks=(5, 40)) == pytest.approx(want, rel=1e-8)


def test_corvic_engine_weighs_all_ranks_alike(oracle):
    numbers, made = oracle("corvic_engine")
    want = numbers["alpha_req(rows)"]
    assert ik.alpha_req(made["rows"], ranks=(1, 16), weights=None) == pytest.approx(want, rel=1e-8)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_rotation_scale_translation_and_order_do_not_matter(seed, scale, shift):
    rng = np.random.default_rng(seed)
    h = features(30, 2, 12, seed=seed)
    q, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    changed = (scale * (h @ q + shift))[rng.permutation(30)]
    assert ik.alpha_req(changed, ranks=(2, 10)) == pytest.approx(ik.alpha_req(h, ranks=(2, 10)), rel=1e-7)


def test_other_maps_matter():
    h = features()
    steeper = h * 0.5 ** np.arange(20)
    assert ik.alpha_req(steeper, ranks=(1, 20)) > 2 * ik.alpha_req(h, ranks=(1, 20))


# ---- degenerate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d", "stop"), [(200, 40, 40), (30, 150, 29)])
def test_fewer_ranks_than_asked_for_are_taken_and_said(n, d, stop):
    h = features(n, 1, d)
    with pytest.warns(UserWarning, match=rf"over ranks 11 to {stop}, not to 100: {n} rows of {d} features") as caught:
        found = ik.alpha_req(h)
    assert caught[0].filename == __file__
    with warnings.catch_warnings(action="error"):
        assert found == ik.alpha_req(h, ranks=(11, stop))
    with pytest.warns(UserWarning, match="not to 100"):
        assert ik.AlphaReQ().fit(h).ranks_ == (11, stop)


def test_dead_and_copied_features_are_no_ranks():
    h = features(200, 1, 16)
    more = np.concatenate([h, h[..., :5], np.ones((200, 1, 9))], axis=2)
    with pytest.warns(UserWarning, match="over ranks 1 to 16, not to 20"):
        assert np.isfinite(ik.alpha_req(more, ranks=(1, 20)))


@pytest.mark.parametrize(
    ("d", "message"),
    [
        (6, r"60 rows of 6 feature\(s\) have 6 eigenvalue.* ranks 11 to 100 needs two.*: ranks=\(1, 6\) takes all"),
        (11, "have 11 eigenvalue"),
        (1, "have 1 eigenvalue.*: more rows or features"),
    ],
)
def test_no_line_through_fewer_than_two_points(d, message):
    with pytest.raises(NotEnoughDataError, match=message):
        ik.alpha_req(features(d=d))


def test_what_is_wrong_is_named():
    h = features()
    with pytest.raises(DegenerateFeaturesError, match="all rows are equal"):
        ik.alpha_req(0 * h + 1)
    for ranks in ((0, 5), (5, 5), (9, 2)):
        with pytest.raises(ValueError, match="1 <= first < last"):
            ik.alpha_req(h, ranks=ranks)
    with pytest.raises(ValueError, match="weights must be '1/rank' or None"):
        ik.alpha_req(h, weights="rank")
    h[0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="image 0, view 0, feature 0"):
        ik.alpha_req(h)


# ---- the estimator --------------------------------------------------------------------------------------------------


def test_cubes_rows_moments_clone_and_pickle():
    h = features()
    est = ik.AlphaReQ(ranks=(2, 20)).fit(h)
    assert est.alpha_ == ik.alpha_req(h, ranks=(2, 20)) == -est.score(h) and est.ranks_ == (2, 20)
    for fitted in (
        clone(est).fit(ik.from_arrays(h)),
        clone(est).fit(h[:, 0]),
        clone(est).fit(row_moments(h, 0)),
        pickle.loads(pickle.dumps(est)),
    ):
        assert fitted.alpha_ == pytest.approx(est.alpha_, rel=1e-12)
    changed = ik.AlphaReQ("mean", (1, 9), weights=None).fit(h)
    assert changed.alpha_ == ik.alpha_req(h, "mean", (1, 9), None)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_samples_decay_faster_than_the_truth():
    found = [ik.alpha_req(features(n, 1, 128), ranks=(11, 90)) for n in (200, 1000, 5000)]
    assert found == sorted(found, reverse=True) and found[0] > 1.1
    assert found[-1] == pytest.approx(1, abs=0.02)
