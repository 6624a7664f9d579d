"""ICR from a Gram matrix against the d x d way round, and against the truth where features outnumber images."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.base import clone
from sklearn.model_selection import KFold, cross_val_score

import icrkit as ik
from icrkit._features import Features, as_features
from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NonFiniteError, NotEnoughDataError
from icrkit.metrics import _gram
from icrkit.metrics._crossfit import crossfit
from icrkit.metrics._decomposition import ResidualModel
from icrkit.metrics._gram import GramResidual, fisher_eigenvalues, gram_crossfit, gram_matrix
from icrkit.metrics._icr import ICREstimator, icr
from icrkit.moments import Moments, fold_of_images

PROPERTY = settings(max_examples=25, derandomize=True)
# The plug-in says nothing with fewer rows than features, and every fit says so.
pytestmark = pytest.mark.filterwarnings("ignore:the plug-in ICR:UserWarning")


def features(n: int = 20, v: int = 2, d: int = 70, seed: int = 0) -> np.ndarray:
    """Features whose views have means of their own, and variances that differ by 100."""
    rng = np.random.default_rng(seed)
    mixing = (np.geomspace(1, 0.1, d)[:, None] * rng.standard_normal((d, d))) / np.sqrt(d)
    return (rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))) @ mixing + rng.standard_normal((v, d))


def manova(h: np.ndarray, centering: str) -> tuple[np.ndarray, np.ndarray]:
    """B and W."""
    n, v, d = h.shape
    if centering == "view":
        h = h - h.mean(axis=0)
    t = h.mean(axis=1) - h.mean(axis=(0, 1))
    e = (h - h.mean(axis=1, keepdims=True)).reshape(-1, d)
    return t.T @ t / (n - 1), e.T @ e / ((n - (centering == "view")) * (v - 1))


def ratio(within: np.ndarray, share: float, h: np.ndarray, centering: str) -> tuple[float, float]:
    """Tr(P Sigma_s) and Tr(P (Sigma_xi + tau I)) of h, P of a residual covariance, by a d x d inverse."""
    tau = share * np.trace(within) / len(within)
    p = np.linalg.inv(within + tau * np.eye(len(within)))
    between, own = manova(h, centering)
    return np.trace(p @ (between - own / h.shape[1])), np.trace(p @ (own + tau * np.eye(len(own))))


def numbers(est: ICREstimator) -> list[float]:
    return [est.icr_plugin_, est.icr_crossfit_, *est.interval_, est.trace_invariant_, est.trace_residual_]


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_orthogonal_rows_by_hand():
    # Two images, differences of views sqrt(2) e_1 and -sqrt(2) e_1, image means +e_2 and -e_2, in d dimensions:
    # Sigma_xi = 2 e_1 e_1^T, B = 2 e_2 e_2^T, tau = 2 share/d. R = (2/tau - 1/(2 + tau))/d.
    d, share = 9, 0.5
    h = np.zeros((2, 2, d))
    h[:, :, 1] = [[1, 1], [-1, -1]]
    h[:, :, 0] = np.array([[1, -1], [-1, 1]]) / np.sqrt(2)
    h[:, :, 2:] = 7.0
    gram, tau = gram_matrix(h, n_folds=0), 2 * share / d
    snr = (2 / tau - 1 / (2 + tau)) / d
    gram = dataclasses.replace(gram, no_residual=gram.no_residual[:0])  # feature 1 has none
    assert icr(gram, regularization=share) == pytest.approx(1 / (1 + snr), rel=1e-14)
    assert ik.traces(gram) == pytest.approx((1.0, 2.0, 3.0), rel=1e-14)
    values = fisher_eigenvalues(gram, share)
    np.testing.assert_allclose(values[[0, -1]], [2 / tau, -1 / (2 + tau)], rtol=1e-13)
    assert values.shape == (d,) and (values[1:-1] == 0).all()


# ---- brute force: the d x d way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("centering", ["view", "none"])
@pytest.mark.parametrize(("n", "v", "d"), [(20, 2, 100), (20, 3, 100), (30, 2, 25), (30, 3, 25), (24, 2, 48)])
@pytest.mark.parametrize("share", [0.01, 0.3, 10.0])
def test_every_number_equals_that_of_moments(n, v, d, centering, share):
    h = features(n, v, d, seed=v)
    gram, moments = gram_matrix(h, n_folds=5), Moments.from_cube(h, n_folds=5)
    options = {"regularization": share, "residual_centering": centering}
    within = manova(h, centering)[1]
    signal, noise = ratio(within, share, h, centering)
    assert icr(gram, **options) == pytest.approx(1 / (1 + signal / noise), rel=1e-8)
    for correction in ("none", "crossfit"):
        assert icr(gram, correction, **options) == pytest.approx(icr(moments, correction, **options), rel=1e-8)
    assert ik.traces(gram, centering) == pytest.approx(ik.traces(moments, centering), rel=1e-10)
    spectrum = ik.fisher_spectrum(moments, share, centering).eigenvalues
    np.testing.assert_allclose(fisher_eigenvalues(gram, share, centering), spectrum, rtol=1e-8, atol=1e-8 * spectrum[0])
    ours, theirs = gram_crossfit(gram, share, centering), crossfit(moments, share, centering)
    for field in dataclasses.fields(theirs):
        got, want = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name != "replicates":  # of moments only
            np.testing.assert_allclose(got, want, rtol=1e-8, err_msg=field.name)


@pytest.mark.parametrize("centering", ["view", "none"])
@pytest.mark.parametrize("v", [2, 3])
def test_crossfit_is_a_loop_over_folds(v, centering):
    h = features(30, v, 90)
    folds, sums = fold_of_images(np.arange(30), 6), np.zeros(2)
    for k in range(6):
        within = manova(h[folds != k], centering)[1]
        sums += (folds == k).sum() * np.array(ratio(within, 0.2, h[folds == k], centering))
    result = gram_crossfit(gram_matrix(h, n_folds=6), 0.2, centering)
    assert result.n_folds == 6 and result.mean_snr == pytest.approx(sums[0] / sums[1], rel=1e-8)


@pytest.mark.parametrize("n", [6, 9])
def test_folds_of_few_images_join_as_those_of_moments_do(n):
    h = features(n, 2, 40)
    ours, theirs = gram_crossfit(gram_matrix(h), 0.5), crossfit(Moments.from_cube(h), 0.5)
    assert ours.n_folds == theirs.n_folds < 10 and ours.mean_snr == pytest.approx(theirs.mean_snr, rel=1e-8)
    np.testing.assert_allclose(ours.log_q, theirs.log_q, rtol=1e-8)


# ---- chunks, and the same features given otherwise ------------------------------------------------------------------


@PROPERTY
@given(
    chunk=st.integers(1, 90),
    v=st.sampled_from([2, 3, 4]),
    normalize=st.sampled_from([None, "l2"]),
    in_memory=st.booleans(),
    panel=st.integers(1, 70),
)
def test_chunks_do_not_matter(chunk, v, normalize, in_memory, panel):
    h = features(14, v)
    want = gram_matrix(h, normalize=normalize)
    given_as = h if in_memory else Features(OnDisk(h), np.arange(14))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_gram, "_PANEL", panel)
        got = gram_matrix(given_as, normalize=normalize, chunk=chunk)
    np.testing.assert_allclose(got.matrix, want.matrix, rtol=0, atol=1e-13 * want.matrix.max())
    np.testing.assert_array_equal(got.matrix, got.matrix.T)
    for centering in ("view", "none"):
        options = {"regularization": 0.1, "residual_centering": centering}
        assert icr(got, "crossfit", **options) == pytest.approx(icr(want, "crossfit", **options), rel=1e-11)


class OnDisk:
    """An array that is read when it is sliced, and counts the bytes."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype, self.most = values, values.shape, values.dtype, 0

    def __getitem__(self, key: Any) -> np.ndarray:
        found = self.values[key]
        self.most = max(self.most, found.nbytes)
        return found


def test_no_more_than_a_read_is_held_of_a_file():
    array = OnDisk(np.random.default_rng(0).standard_normal((14, 2, 4000), dtype=np.float32))
    gram = gram_matrix(Features(array, np.arange(14)), chunk=100)
    assert gram.products == "float32" and array.most == 14 * 2 * 800 * 4


def test_cubes_rows_groups_and_files(tmp_path):
    h = features(20, 2, 90)
    want = numbers(ICREstimator(regularization=0.1).fit(h))
    with ik.CubeWriter(tmp_path / "x.cube", {"mid": 90}, n_views=2, n_images=20, sigmas=[0.3], dtype="float64") as out:
        out.append(np.arange(20), {"mid": h[:, :, None]})
    rows = h.reshape(-1, 90)
    for X in (ik.from_arrays(h, sigmas=[0.3]), ik.open_cube(tmp_path / "x.cube"), rows):
        assert numbers(ICREstimator(regularization=0.1).fit(X)) == pytest.approx(want, rel=1e-10)
    order = np.random.default_rng(0).permutation(40)
    est = ICREstimator(regularization=0.1).fit(rows[order], groups=np.repeat(np.arange(20), 2)[order])
    signal, noise = ratio(manova(h, "none")[1], 0.1, h, "none")  # views have no common order
    assert est.icr_plugin_ == pytest.approx(1 / (1 + signal / noise), rel=1e-8)
    moments = Moments.from_cube(rows[order], groups=np.repeat(np.arange(20), 2)[order])
    assert est.icr_crossfit_ == pytest.approx(icr(moments, "crossfit", regularization=0.1), rel=1e-8)


def test_unit_length_comes_first():
    h = features(20, 2, 90) + 3
    unit = h / np.linalg.norm(h, axis=-1, keepdims=True)
    est = ICREstimator(regularization=0.1, normalize="l2").fit(h)
    assert numbers(est) == pytest.approx(numbers(ICREstimator(regularization=0.1).fit(unit)), rel=1e-8)
    assert est.score(h[:5]) == pytest.approx(ICREstimator(regularization=0.1).fit(unit).score(unit[:5]), rel=1e-8)
    h[3, 1] = 0
    with pytest.warns(UserWarning, match="1 feature vectors are all zero"):
        gram_matrix(h, normalize="l2")


# ---- invariance at tau > 0 ------------------------------------------------------------------------------------------


@PROPERTY
@given(order=st.permutations(range(16)), views=st.permutations(range(3)), scale=st.floats(1e-6, 1e6))
def test_rotation_translation_scale_and_order_do_not_matter(order, views, scale):
    h = features(16, 3, 60)
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((60, 60)))
    cube = ik.from_arrays(h, image_ids=np.arange(16))
    changed = scale * (h @ q)[np.array(order)][:, np.array(views)] + 10 * scale * rng.standard_normal(60)
    other = ik.from_arrays(changed, image_ids=np.array(order))
    for centering in ("view", "none"):
        for correction in ("none", "crossfit"):
            a, b = (icr(gram_matrix(x), correction, 0.1, centering) for x in (cube, other))
            assert a == pytest.approx(b, rel=1e-8)
    a, b = (fisher_eigenvalues(gram_matrix(x), 0.1) for x in (cube, other))
    np.testing.assert_allclose(a, b, atol=1e-8 * a[0])


# ---- the estimator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centering", ["view", "none"])
@pytest.mark.parametrize("v", [2, 3])
def test_the_estimator_switches_where_features_outnumber_rows(v, centering):
    h = features(20, v, 20 * v + 1)
    options = {"regularization": 0.3, "residual_centering": centering}
    est = ICREstimator(**options).fit(h)
    through_moments = ICREstimator(**options).fit(Moments.from_cube(h))
    for name in (
        *("icr_", "icr_plugin_", "icr_crossfit_", "mean_snr_", "total_snr_", "n_folds_"),
        *("trace_invariant_", "trace_residual_", "trace_total_", "n_features_in_"),
    ):
        assert getattr(est, name) == pytest.approx(getattr(through_moments, name), rel=1e-8), name
    assert est.interval_ == pytest.approx(through_moments.interval_, rel=1e-7)
    assert est.error_bound_ < 1e-10 and est.condition_number_ > 1
    # As many negative eigenvalues as the residual has dimensions: nothing else reaches there.
    assert est.n_negative_ == (20 - (centering == "view")) * (v - 1)
    other = features(6, v, 20 * v + 1, seed=9)
    assert est.score(other) == pytest.approx(through_moments.score(other), rel=1e-8)
    signal, noise = ratio(manova(h, centering)[1], 0.3, other, centering)
    assert est.score(other) == pytest.approx(-1 / (1 + signal / noise), rel=1e-8)
    assert not hasattr(est, "icr_gaussian_")
    square = ICREstimator(**options).fit(h[:, :, :-1])  # as many as rows
    assert square.moments_.n_features == 20 * v


def test_held_out_images_may_have_more_views():
    h, other = features(20, 2, 50), features(7, 3, 50, seed=9)
    for centering in ("view", "none"):
        options = {"regularization": 0.3, "residual_centering": centering}
        est, want = (ICREstimator(**options).fit(x) for x in (h, Moments.from_cube(h)))
        assert est.score(other) == pytest.approx(want.score(other), rel=1e-8)


def test_what_needs_d_by_d_says_so():
    h = features(20, 2, 60)
    est = ICREstimator(regularization=0.1).fit(h)
    for name in ("moments_", "invariant_covariance_", "residual_covariance_"):
        assert not hasattr(est, name)
        with pytest.raises(AttributeError, match=rf"has no {name} here: the 60 features outnumber the 40 rows.*PCA"):
            getattr(est, name)
    with pytest.raises(AttributeError, match="has no transform here: the 60 features"):
        est.transform(h)
    with pytest.raises(ValueError, match="fitted through the Gram matrix of all images"):
        est.partial_fit(h)
    with pytest.raises(TypeError, match="the features are needed"):
        est.score(Moments.from_cube(h))
    with pytest.raises(ValueError, match="X has 59 features, but ICREstimator is expecting 60"):
        est.score(h[:, :, :-1])
    assert int(est.from_moments(Moments.from_cube(h)).moments_.total.n_images) == 20
    assert est.transform(h).shape == h.shape and est.partial_fit(h + 1).n_features_in_ == 60
    assert not hasattr(ICREstimator(), "moments_")
    assert ICREstimator(regularization=0.1).partial_fit(h).moments_.n_features == 60


def test_clone_pickle_and_cross_validation():
    h = features(40, 2, 100)
    est = ICREstimator("crossfit", regularization=0.1).fit(h)
    again = pickle.loads(pickle.dumps(est))
    assert numbers(again) == numbers(est) == numbers(clone(est).fit(h)) and again.score(h[:4]) == est.score(h[:4])
    scores = cross_val_score(est, ik.from_arrays(h), cv=KFold(4, shuffle=True, random_state=0))
    assert ((scores > -1) & (scores < 0)).all()


def test_without_folds_or_with_too_few_images_there_is_no_crossfit():
    est = ICREstimator(regularization=0.1, n_folds=0).fit(features())
    assert est.n_folds_ == 0
    with pytest.raises(AttributeError, match=r"has no icr_crossfit_ here: .*folds"):
        _ = est.icr_crossfit_
    with pytest.warns(UserWarning, match="stands alone: .*at least two folds of two images; there are 3"):
        ICREstimator(regularization=0.1).fit(features(3))
    with pytest.raises(NotEnoughDataError, match="at least two folds"):
        ICREstimator("crossfit", regularization=0.1).fit(features(3))


# ---- precision ------------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.sampled_from([10, 40, 80]),
    v=st.sampled_from([2, 3]),
    d=st.sampled_from([50, 400, 1000]),
    decay=st.sampled_from([0.0, 0.5, 1.0, 1.5]),
    share=st.sampled_from([1e-4, 1e-2, 1.0]),
    tails=st.booleans(),
    seed=st.integers(0, 999),
)
def test_float32_products_stay_within_the_bound(n, v, d, decay, share, tails, seed):
    rng = np.random.default_rng(seed)
    scale = np.arange(1, d + 1) ** -decay * (rng.gamma(1.0, size=(n, 1, 1)) if tails else 1.0)
    h = (rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))) * scale + 3 * rng.standard_normal(d)
    h = h.astype(np.float32)
    exact, gram = gram_matrix(h, n_folds=5, dtype="float64"), gram_matrix(h, n_folds=5)
    assert gram.products == "float32"
    try:
        model = GramResidual(gram, share)
        assert abs(1 / (1 + model.mean_snr()) - icr(exact, regularization=share)) <= model.error_bound <= 1e-4
        value = icr(gram, "crossfit", share)
    except IllConditionedError:
        assert share < 1 or decay == 1.5
        return
    assert abs(value - icr(exact, "crossfit", share)) <= 1e-4


def test_float32_is_right_at_any_offset_and_scale():
    h = features(30, 2, 400).astype(np.float32)
    want = numbers(ICREstimator(regularization=0.1).fit(h.astype(np.float64)))
    # Powers of two change no digit of the features.
    for scale in (2.0**-120, 2.0**100):
        est = ICREstimator(regularization=0.1).fit(h * np.float32(scale))
        assert est._gram_fit.gram.products == "float32"
        assert numbers(est)[:2] == pytest.approx(want[:2], rel=1e-5)
    moved = (h + 1024).astype(np.float32)
    want = numbers(ICREstimator(regularization=0.1).fit(moved.astype(np.float64)))
    assert numbers(ICREstimator(regularization=0.1).fit(moved)) == pytest.approx(want, rel=1e-5)


def test_float16_features_and_int_features():
    h = np.round(8 * features(20, 2, 60))
    want = numbers(ICREstimator(regularization=0.1).fit(h))
    assert numbers(ICREstimator(regularization=0.1).fit(h.astype(np.float16))) == pytest.approx(want, rel=1e-5)
    assert numbers(ICREstimator(regularization=0.1).fit(h.astype(np.int32))) == pytest.approx(want, rel=1e-12)


def test_too_little_regularization_for_float32_is_read_again_in_float64():
    h = features(30, 2, 70).astype(np.float32)
    # In the span of the contrasts what is left of the image means is next to nothing.
    h = (h.reshape(60, 70)[:, :6] @ np.random.default_rng(0).standard_normal((6, 70))).reshape(30, 2, 70)
    h = h.astype(np.float32)
    est = ICREstimator(regularization=1e-5).fit(h)
    assert est._gram_fit.gram.products == "float64" and est.error_bound_ < 1e-5
    with pytest.raises(IllConditionedError, match=r"1e-05 is too little for float32 .* m = 29 .*dtype='float64'"):
        ICREstimator(regularization=1e-5, dtype="float32").fit(h)
    with pytest.raises(IllConditionedError, match="too little for float64 products"):
        ICREstimator(regularization=1e-15).fit(h.astype(np.float64))


# ---- degenerate input -----------------------------------------------------------------------------------------------


def test_no_regularization_is_refused_before_anything_is_read():
    h = features(20, 2, 60)
    for call in (
        lambda: ICREstimator().fit(Features(None_to_read(20, 2, 10**9), np.arange(20))),
        lambda: icr(gram_matrix(h)),
        lambda: icr(gram_matrix(h), "crossfit"),
        lambda: fisher_eigenvalues(gram_matrix(h), 0.0),
    ):
        with pytest.raises(NotEnoughDataError, match=r"m = 19 .*Three ways out: more images.*PCA.*regularization > 0"):
            call()
    with pytest.raises(NotEnoughDataError, match=r"needs regularization > 0.*Moments.from_cube.*m = 19 .* d = 5 "):
        icr(gram_matrix(h[:, :, :5]))
    with pytest.raises(ValueError, match="regularization must be >= 0, not -1"):
        ICREstimator(regularization=-1).fit(h)


class None_to_read:
    """The shape of features, and nothing behind it."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.dtype = shape, np.dtype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_features(dtype):
    h = features(20, 2, 60).astype(dtype)
    padded = np.concatenate([h[..., :30], np.full((20, 2, 40), 0.1, dtype), h[..., 30:]], axis=2)
    gram, dead = gram_matrix(padded, chunk=7), np.arange(30, 70)
    np.testing.assert_array_equal(gram.constant, dead)
    # They count in d: as 40 more dimensions without anything in them, so that tau is less and R is of 100.
    want = gram_matrix(h)
    for correction in ("none", "crossfit"):
        again = icr(gram, correction, regularization=0.1)
        assert again == pytest.approx(
            icr(dataclasses.replace(want, n_features=100), correction, regularization=0.1), rel=1e-6
        )
        dropped = icr(gram.drop_constant(), correction, regularization=0.1)
        assert dropped == pytest.approx(icr(want, correction, regularization=0.1), rel=1e-6)
    with pytest.raises(DegenerateFeaturesError, match=r"40 of 100 features .* constant: \[30, 31, .*drop_constant"):
        ICREstimator(regularization=0.1).fit(padded)
    est, kept = (ICREstimator(regularization=0.1, drop_constant=True).fit(x) for x in (padded, h))
    np.testing.assert_array_equal(est.dropped_features_, dead)
    assert numbers(est) == pytest.approx(numbers(kept), rel=1e-5) and kept.dropped_features_.size == 0
    lit = padded[:8] + 0
    lit[:, :, 30:70] = features(8, 2, 40)  # units that are dead in the fitted images alone
    assert est.score(lit) == pytest.approx(kept.score(np.delete(lit, dead, axis=2)), rel=1e-5)


def test_a_feature_that_differs_between_views_alone_is_not_constant():
    h = features(20, 2, 60)
    h[:, :, 5] = [1.0, 2.0]
    assert gram_matrix(h).constant.size == 0
    with pytest.raises(DegenerateFeaturesError, match=r"no residual in 1 of 60 features .*\[5\]"):
        ICREstimator(regularization=0.1).fit(h)


def test_no_residual():
    h = features(20, 2, 60)
    twice = np.repeat(h[:, :1], 2, axis=1)
    for X in (twice, twice * (1 + 1e-10 * np.arange(2)[:, None])):
        with pytest.raises(DegenerateFeaturesError, match=r"no residual in 60 of 60 features .*stored twice"):
            ICREstimator(regularization=0.1).fit(X)
    h[:, 1, [3, 8]] = h[:, 0, [3, 8]]
    with pytest.raises(DegenerateFeaturesError, match=r"no residual in 2 of 60 features .*\[3, 8\]"):
        icr(gram_matrix(h), regularization=0.1)
    est = ICREstimator(regularization=0.1).fit(features(20, 2, 60))
    with pytest.raises(DegenerateFeaturesError, match=r"no residual .* the held-out images"):
        est.score(twice)
    for drop in (False, True):
        with pytest.raises(DegenerateFeaturesError, match=r"60 of 60 features .* constant"):
            ICREstimator(regularization=0.1, drop_constant=drop).fit(np.ones((20, 2, 60)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalize", [None, "l2"])
def test_non_finite_features_are_found(value, normalize):
    h = features(20, 2, 60).astype(np.float32)
    h[7, 1, 41] = value
    with pytest.raises(
        NonFiniteError, match=r"1 of 2400 features are missing, NaN or inf.* image 7, view 1, feature 41"
    ):
        ICREstimator(regularization=0.1, normalize=normalize).fit(h)


def test_squares_that_overflow_are_told_apart():
    with pytest.raises(NonFiniteError, match="their squares overflow; scale them down"):
        gram_matrix(1e200 * features())
    with pytest.raises(NonFiniteError, match="overflow"):
        gram_matrix(np.float32(3e38) * np.sign(features()).astype(np.float32))


def test_bad_parameters():
    h = features()
    for options, message in (({"chunk": 0}, "chunk must be at least 1"), ({"dtype": "float16"}, "dtype must be")):
        with pytest.raises(ValueError, match=message):
            gram_matrix(h, **options)
    for est, message in (
        (ICREstimator("jackknife", regularization=0.1), "correction must be one of"),
        (ICREstimator("gaussian", regularization=0.1), "needs regularization=0"),
        (ICREstimator(regularization=0.1, residual_centering="image"), "residual_centering must be"),
        (ICREstimator(regularization=0.1, normalize="l1"), "normalize must be"),
    ):
        with pytest.raises(ValueError, match=message):
            est.fit(h)
    with pytest.raises(ValueError, match="needs regularization=0"):
        icr(gram_matrix(h), "gaussian", regularization=0.1)
    for few in (h[:1], h[:, :1]):
        with pytest.raises(NotEnoughDataError):
            gram_matrix(few)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_truth_with_four_times_as_many_features_as_images():
    n, d, share = 24, 96, 1.0
    cube = ik.datasets.make_cube(4800, d, icr=0.5, random_state=0)
    h = as_features(cube).read()
    population = Moments.from_cube(h, n_folds=0)
    model = ResidualModel(population, share)
    invariant, residual = ik.invariant_covariance(population), ik.residual_covariance(population)
    truth = model.traces(invariant)[0] / d
    sets = [ICREstimator("crossfit", regularization=share).fit(h[k : k + n]) for k in range(0, len(h), n)]
    snr = np.array([est.mean_snr_ for est in sets])
    error = snr.std(ddof=1)
    # One set of images agrees with the population's R_tau within its sampling error, and its interval holds it...
    assert error < 0.08 and np.abs(snr - truth).mean() < 2 * error
    assert np.mean([low <= 1 / (1 + truth) <= high for low, high in (est.interval_ for est in sets)]) > 0.95
    # ... but on average it is higher. An inverse made of m < d contrasts damps as tau does not: as kappa > tau would,
    # kappa (1 - Tr(Sigma (Sigma + kappa I)^-1)/m) = tau (the deterministic equivalent). R is that of its directions.
    m = round(0.9 * n) - 1
    values = scipy.linalg.eigvalsh(residual)
    kappa = brentq(lambda k: k * (1 - (values / (values + k)).sum() / m) - model.tau, model.tau, 1e3 * values.max())
    p = np.linalg.inv(residual + kappa * np.eye(d))
    expected = np.trace(p @ invariant) / np.trace(p @ (residual + model.tau * np.eye(d)))
    assert snr.mean() == pytest.approx(expected, abs=4 * error / np.sqrt(len(sets)))
    assert 1.05 * truth < expected < 1.2 * truth


def test_the_plug_in_tells_nothing_where_features_outnumber_images():
    values = {}
    for true in (0.2, 0.8):
        h = as_features(ik.datasets.make_cube(60, 240, icr=true, random_state=1)).read()
        est = ICREstimator(regularization=0.01).fit(h)
        values[true] = est.icr_plugin_, est.icr_crossfit_
    assert max(values[0.2][0], values[0.8][0]) < 0.05
    assert values[0.2][1] == pytest.approx(0.2, abs=0.06) and values[0.8][1] == pytest.approx(0.8, abs=0.1)
