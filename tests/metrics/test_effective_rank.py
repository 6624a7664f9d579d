"""Effective rank, participation ratio and stable rank against singular values of the rows, and public code."""

from __future__ import annotations

import functools
import gc
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.base import clone
from sklearn.decomposition import PCA

import icrkit as ik
from icrkit import linalg
from icrkit._features import Features
from icrkit.exceptions import (
    CubeFormatError,
    DegenerateFeaturesError,
    IllConditionedError,
    NonFiniteError,
    NotEnoughDataError,
)
from icrkit.metrics._base import row_moments
from icrkit.metrics._effective_rank import entropy_rank, row_eigenvalues
from icrkit.moments import Moments

PROPERTY = settings(max_examples=30, derandomize=True)
RANKS = (ik.effective_rank, ik.participation_ratio, ik.stable_rank)
ESTIMATORS = (ik.EffectiveRank(), ik.ParticipationRatio(), ik.StableRank())


def features(n: int = 40, v: int = 1, d: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, v, d)) * 0.7 ** np.arange(d) + rng.standard_normal(d)


def singular(rows: np.ndarray, centered: bool = True) -> np.ndarray:
    return np.linalg.svd(rows - rows.mean(axis=0) * centered, compute_uv=False)


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_equal_directions_count_one_each():
    axes = np.concatenate([np.eye(7)[:4], -np.eye(7)[:4]])  # four equal directions out of seven, mean zero
    for rank in RANKS:
        for centered in (True, False):
            assert rank(axes, centered=centered) == pytest.approx(4, rel=1e-12)
    for spectrum in ("singular", "eigenvalues"):
        assert ik.effective_rank(axes, spectrum=spectrum) == pytest.approx(4, rel=1e-12)
        assert ik.stable_rank(axes, spectrum=spectrum) == pytest.approx(4, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(5, 9), (9, 9), (9, 4)])
def test_the_greatest_value_there_is(n, d):
    # A simplex: centred, all directions that so many rows can span are equally strong.
    rows = np.eye(max(n, d))[:n, :d] if n <= d else np.concatenate([np.eye(d), -np.eye(d), np.zeros((n - 2 * d, d))])
    for rank in (ik.effective_rank, ik.participation_ratio, ik.stable_rank):
        assert rank(rows) == pytest.approx(min(n - 1, d), rel=1e-9)
        assert rank(rows, centered=False) == pytest.approx(min(n, d), rel=1e-9)


def test_two_directions_by_hand():
    rows = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    assert ik.participation_ratio(rows) == pytest.approx(20**2 / (18**2 + 2**2), rel=1e-13)
    assert ik.stable_rank(rows) == pytest.approx(1 + (2 / 18) ** 2, rel=1e-13)
    assert ik.stable_rank(rows, spectrum="singular") == pytest.approx(20 / 18, rel=1e-13)
    assert ik.effective_rank(rows) == pytest.approx(4 / 3**0.75, rel=1e-13)  # shares 3/4 and 1/4
    assert ik.effective_rank(rows, spectrum="eigenvalues") == pytest.approx(10 / 9**0.9, rel=1e-13)


def test_entropy_rank_of_shares():
    assert entropy_rank(np.array([1.0, 1.0, 0.0])) == pytest.approx(2)
    for renormalize in (False, True):
        p = np.array([0.75, 0.25]) + 0.1
        p = p / p.sum() if renormalize else p
        assert entropy_rank(np.array([3.0, 1.0]), 0.1, renormalize) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    with pytest.raises(ValueError, match="epsilon must be >= 0"):
        entropy_rank(np.ones(2), -1e-9)


# ---- brute force ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(2, 40),
    d=st.integers(1, 30),
    views=st.sampled_from(["mean", "all", 0, 2]),
    centered=st.booleans(),
    seed=st.integers(0, 99),
)
def test_singular_values_of_the_rows(n, d, views, centered, seed):
    h = features(n, 3, d, seed)
    rows = {"mean": h.mean(axis=1), "all": h.reshape(-1, d)}.get(views, h[:, views if isinstance(views, int) else 0])
    s = singular(rows, centered)
    s[s < 1e-9 * s[0]] = 0
    for spectrum, values in (("singular", s), ("eigenvalues", s**2)):
        want = np.exp(entropy(values))  # scipy's, of values divided by their sum
        assert ik.effective_rank(h, views, spectrum=spectrum, centered=centered) == pytest.approx(want, rel=1e-8)
        want = (values**2).sum() / values[0] ** 2
        assert ik.stable_rank(h, views, spectrum=spectrum, centered=centered) == pytest.approx(want, rel=1e-10)
    want = (s**2).sum() ** 2 / (s**4).sum()
    assert ik.participation_ratio(h, views, centered=centered) == pytest.approx(want, rel=1e-10)


def test_norms_of_numpys_covariance():
    rows = features()[:, 0]
    s = np.cov(rows.T)
    assert ik.participation_ratio(rows) == pytest.approx(np.trace(s) ** 2 / np.trace(s @ s), rel=1e-12)
    want = np.linalg.norm(s, "fro") ** 2 / np.linalg.norm(s, 2) ** 2
    assert ik.stable_rank(rows) == pytest.approx(want, rel=1e-12)


def test_explained_variance_of_scikit_learn():
    rows = features(50, d=8)[:, 0]
    want = np.exp(entropy(PCA().fit(rows).explained_variance_ratio_))
    assert ik.effective_rank(rows, spectrum="eigenvalues") == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("name", ["rows", "wide"])
def test_google_research(oracle, name):
    numbers, made = oracle("google_research")
    x = made[name]
    want = numbers[f"stable_rank({name})"]
    assert ik.stable_rank(x, spectrum="singular", centered=False) == pytest.approx(want, rel=1e-8)
    assert ik.stable_rank(x, spectrum="singular") == pytest.approx(numbers[f"ne_sum({name})"], rel=1e-8)


def test_corvic_engine(oracle):
    numbers, made = oracle("corvic_engine")
    assert ik.stable_rank(made["rows"], spectrum="singular") == pytest.approx(numbers["ne_sum(rows)"], rel=1e-8)


# ---- moments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [40, 5])
@pytest.mark.parametrize("est", ESTIMATORS, ids=lambda est: type(est).__name__)
def test_moments_give_what_features_give(est, n):
    h = features(n, 2, 8)
    for views in ("mean", "all"):
        est = clone(est).set_params(views=views)
        want = est.fit(h).score(h)
        for n_folds in (0, 2):
            assert est.fit(ik.Moments.from_cube(h, n_folds=n_folds)).score(h) == want
            assert est.score(ik.Moments.from_cube(h, n_folds=n_folds)) == pytest.approx(want, rel=1e-9)
    one = row_moments(h, 1)
    assert est.fit(one).score(one) == pytest.approx(clone(est).set_params(views=1).fit(h).score(h), rel=1e-12)
    with pytest.raises(ValueError, match="moments of 2 views hold none of view 0 alone"):
        clone(est).set_params(views=0).fit(ik.Moments.from_cube(h))


def test_moments_of_two_levels_are_refused():
    two = ik.Moments.stack([ik.Moments.from_cube(features(9, 2), n_folds=0)] * 2, "sigma", np.array([0.1, 0.2]))
    with pytest.raises(CubeFormatError, match="one level"):
        ik.effective_rank(two, "mean")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("n", "d", "rank"), [(300, 8, 3), (300, 64, 5), (20, 64, 4)])
def test_rounding_is_no_direction(n, d, rank, dtype):
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d)) + 3).astype(dtype)
    moments = ik.Moments.from_cube(np.repeat(rows[:, None], 2, axis=1), n_folds=0, dtype=dtype)
    assert moments.products == dtype
    for centered in (True, False):
        values = row_eigenvalues(row_moments(moments, "mean"), centered)
        assert len(values) == min(n, d) and np.count_nonzero(values) == rank + (not centered)
        np.testing.assert_allclose(
            values[:rank] ** 0.5,
            singular(rows.astype(float), centered)[:rank],
            rtol=1e-10 if dtype == "float64" else 1e-4,
        )


def test_several_metrics_share_one_eigenproblem(monkeypatch):
    solved = []
    reduce = linalg._tridiagonal
    monkeypatch.setattr(linalg, "_tridiagonal", lambda a, **how: solved.append(len(a)) or reduce(a, **how))
    moments = row_moments(features(), 0)
    for est in (ik.EffectiveRank(), ik.StableRank(spectrum="singular"), ik.AlphaReQ(ranks=(1, 6)), ik.StableRank()):
        est.fit(moments)
    for est in (ik.RankMe(), ik.RankMe(epsilon=0.0), ik.EffectiveRank(centered=False), ik.ParticipationRatio()):
        est.fit(moments)
    assert len(solved) == 1


def test_eigenvalues_that_are_kept_do_not_keep_the_moments():
    moments = row_moments(features(), 0)
    ik.effective_rank(moments)
    gone = weakref.ref(moments)
    del moments
    gc.collect()
    assert gone() is None


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_rotation_scale_translation_and_order_do_not_matter(seed, scale, shift):
    rng = np.random.default_rng(seed)
    h = features(30, 2, 5, seed)
    q, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    changed = (scale * (h @ q + shift))[rng.permutation(30)]
    for rank in RANKS:
        assert rank(changed) == pytest.approx(rank(h), rel=1e-8)
        # About the origin translation matters, the rest does not.
        assert rank(scale * h @ q, centered=False) == pytest.approx(rank(h, centered=False), rel=1e-8)


@pytest.mark.parametrize("rank", RANKS)
def test_other_maps_matter(rank):
    h = features(60, 2, 4)
    assert rank(h * [1, 1, 1, 100]) < 0.9 * rank(h)
    assert rank(h + 1000, centered=False) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("n_images", [1, 7])
def test_blocks_do_not_matter(monkeypatch, n_images):
    h = features(41, 2)
    want = [rank(h, views) for rank in RANKS for views in ("mean", "all", 1)]

    def blocks(self, target_bytes=None):
        for start in range(0, self.shape[0], n_images):
            yield start, self.read(start, start + n_images)

    monkeypatch.setattr(Features, "blocks", blocks)
    assert [rank(h, views) for rank in RANKS for views in ("mean", "all", 1)] == pytest.approx(want, rel=1e-11)


def test_dead_units_do_not_matter():
    h = features()
    dead = np.concatenate([h, np.full((40, 1, 30), 0.1)], axis=2)
    for rank in RANKS:
        assert rank(dead) == pytest.approx(rank(h), rel=1e-12)


# ---- degenerate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("est", ESTIMATORS, ids=lambda est: type(est).__name__)
def test_what_is_wrong_is_named(est):
    h = features(20, 2, 4)
    with pytest.raises(DegenerateFeaturesError, match=r"the 4 feature\(s\) of 20 rows do not vary: all rows are equal"):
        est.fit(np.ones((20, 2, 4)))
    with pytest.raises(DegenerateFeaturesError, match="are all zero"):
        clone(est).set_params(centered=False).fit(np.zeros((20, 2, 4)))
    with pytest.raises(NotEnoughDataError, match="at least 2 images"):
        est.fit(h[:1])
    with pytest.raises(ValueError, match="views=2: the features have 2"):
        clone(est).set_params(views=2).fit(h)
    h[3, 0, 2] = np.nan
    with pytest.raises(NonFiniteError, match="image 3, view 0, feature 2"):
        est.fit(h)
    with pytest.raises(ValueError, match="X has 3 features, but"):
        clone(est).fit(features()).score(features()[..., :3])


@pytest.mark.parametrize("est", ESTIMATORS, ids=lambda est: type(est).__name__)
def test_means_whose_squares_overflow_matter_about_the_origin_only(est):
    h = features() * 1e150
    far = h + 2e154 * np.array([1, -1, 1, 0, 1, 1])
    assert clone(est).fit(far).score(far) == pytest.approx(clone(est).fit(h).score(h), rel=1e-9)
    with pytest.raises(NonFiniteError, match="squares of their means overflow float64; scale the features down"):
        clone(est).set_params(centered=False).fit(far)


def test_a_constant_near_the_end_of_the_range_does_not_matter():
    h = np.concatenate([features(), np.full((40, 1, 1), 1.5e308)], axis=2)
    assert ik.effective_rank(h) == pytest.approx(ik.effective_rank(features()), rel=1e-12)
    with pytest.raises(NonFiniteError, match="squares of their means overflow"):
        ik.rankme(h)


def test_float32_moments_that_lose_eigenvalues_are_refused_where_these_matter():
    rng = np.random.default_rng(0)
    h = (rng.standard_normal((600, 2, 24)) * np.geomspace(1, 1e-4, 24)).astype(np.float32)
    h[..., 5] = 3.0  # a dead unit is no lost one
    m = Moments.from_cube(h, dtype="float32")
    for call in (ik.rankme, ik.effective_rank, functools.partial(ik.alpha_req, ranks=(2, 23))):
        with pytest.raises(IllConditionedError, match=r"cannot tell \d+ of 23 eigenvalues from zero.*dtype='float64'"):
            call(m, "mean")
        assert call(Moments.from_cube(h, dtype="float64"), "mean") == pytest.approx(call(h, "mean"), rel=1e-9)
    for call in (ik.stable_rank, ik.participation_ratio, functools.partial(ik.alpha_req, ranks=(2, 6))):
        assert call(m, "mean") == pytest.approx(call(h, "mean"), rel=1e-5)
    alike = rng.standard_normal((600, 2, 24)).astype(np.float32) + 50
    alike[..., 5] = 3.0
    assert ik.rankme(Moments.from_cube(alike, dtype="float32"), "all") == pytest.approx(
        ik.rankme(alike, "all"), rel=1e-6
    )
    few = Moments.from_cube(alike[:10], dtype="float32")  # fewer rows than features
    assert ik.effective_rank(few, "mean") == pytest.approx(ik.effective_rank(alike[:10], "mean"), rel=1e-5)


@pytest.mark.parametrize("est", [ik.EffectiveRank(spectrum="values"), ik.StableRank(spectrum=None)])
def test_unknown_spectra_are_refused(est):
    with pytest.raises(ValueError, match="spectrum must be 'singular' or 'eigenvalues'"):
        est.fit(features())


# ---- the estimators -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("est", "rank"), list(zip(ESTIMATORS, RANKS, strict=True)), ids=[type(est).__name__ for est in ESTIMATORS]
)
def test_cubes_rows_clone_and_pickle(est, rank):
    h = features(30, 2)
    want = rank(h)
    for fitted in (
        est.fit(h),
        clone(est).fit(ik.from_arrays(h)),
        clone(est).fit(h[:, 0]),
        pickle.loads(pickle.dumps(est.fit(h))),
    ):
        assert getattr(fitted, f"{rank.__name__}_") == pytest.approx(want, rel=1e-12)
    assert est.fit(h).score(h[:, :1]) == pytest.approx(want, rel=1e-12)
    options = {"centered": False} | ({"spectrum": "singular"} if rank is not ik.participation_ratio else {})
    changed = clone(est).set_params(views="all", **options).fit(h)
    assert getattr(changed, f"{rank.__name__}_") == pytest.approx(rank(h, "all", **options), rel=1e-12)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_white_noise_fills_all_directions_as_rows_outnumber_features():
    rng = np.random.default_rng(0)
    few, many = rng.standard_normal((100, 20)), rng.standard_normal((20_000, 20))
    assert 19 < ik.effective_rank(few) < ik.effective_rank(many) == pytest.approx(20, abs=0.01)
    assert ik.stable_rank(few) < ik.stable_rank(many) < 20
    # The sample's 1/PR lies 1/N above the truth.
    assert ik.participation_ratio(few) == pytest.approx(1 / (1 / 20 + 1 / 100), rel=0.06)
    assert ik.participation_ratio(many) == pytest.approx(1 / (1 / 20 + 1 / 20_000), rel=0.002)
