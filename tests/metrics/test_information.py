"""Invariant information: the definition, loops over folds, integrals, and what it is worth where the truth is known."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats
from sklearn.base import clone

import icrkit as ik
from icrkit._features import Features
from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._crossfit import jackknife_error
from icrkit.metrics._information import (
    METHODS,
    Information,
    InvariantInformation,
    _wishart_bias,
    held_out_snr_by_direction,
    information,
    invariant_information,
    log_determinant_bias,
)
from icrkit.moments import Moments, fold_of_images

PROPERTY = settings(max_examples=8, derandomize=True)


def features(n: int = 90, v: int = 2, d: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((d, d)) + 2 * np.eye(d)
    scale = np.exp(0.5 * rng.standard_normal((n, v, 1)))
    return (rng.standard_normal((n, 1, d)) + scale * rng.standard_normal((n, v, d))) @ mixing + rng.standard_normal(
        (v, d)
    )


def covariances(h: np.ndarray, centering: str) -> tuple[np.ndarray, np.ndarray]:
    """B and W."""
    n, v, d = h.shape
    if centering == "view":
        h = h - h.mean(axis=0)
    t = h.mean(axis=1) - h.mean(axis=(0, 1))
    e = (h - h.mean(axis=1, keepdims=True)).reshape(-1, d)
    return t.T @ t / (n - 1), e.T @ e / ((n - (centering == "view")) * (v - 1))


def single_and_residual(h: np.ndarray, centering: str) -> tuple[np.ndarray, np.ndarray]:
    """T and W."""
    between, within = covariances(h, centering)
    return between + (1 - 1 / h.shape[1]) * within, within


# ---- closed form ----------------------------------------------------------------------------------------------------


def known_moments(n: int, v: int, ratios: np.ndarray, residual: np.ndarray, n_folds: int = 0) -> Moments:
    """Moments whose B and W are exactly those of the law."""
    d = len(ratios)

    def of(count: int) -> Moments:
        invariant, noise = np.diag(ratios * residual), np.diag(residual)
        return Moments(
            np.array(count),
            np.zeros((v, d)),
            (count - 1) * (invariant + noise / v),
            (count - 1) * (v - 1) * noise,
        )

    return Moments.stack([of(n // n_folds) for _ in range(n_folds)]) if n_folds else of(n)


@pytest.mark.parametrize("v", [2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_known_covariances(method, v):
    ratios, residual = np.array([7.0, 3.0, 1.0, 0.0]), np.array([2.0, 1e-4, 3.0, 50.0])
    m = known_moments(10**7, v, ratios, residual, n_folds=5)
    assert invariant_information(m, method) == pytest.approx(0.5 * np.log(8 * 4 * 2), abs=1e-6)
    assert InvariantInformation(method).fit(m).snr_ == pytest.approx(ratios, abs=1e-6)


def test_one_feature_by_hand():
    # Image means 1, 5, 10.5; half-differences give W = 1.5, so T = B + W/2. Both log determinants are of numbers.
    h = np.array([[[0.0], [2.0]], [[4.0], [6.0]], [[8.0], [13.0]]])
    b, w = np.var([1, 5, 10.5], ddof=1), 1.5
    t = b + w / 2
    # E (dT/T)^2 = 2 b^2/(N-1) + 2 (w/2)^2/m, over T^2, is 2/m' of one Wishart number.
    dof = 1 / ((b / t) ** 2 / 2 + (w / 2 / t) ** 2 / 2)
    bias = [special.digamma(m / 2) - np.log(m / 2) for m in (dof, 2)]
    want = 0.5 * (np.log(t / w) - bias[0] + bias[1])
    assert invariant_information(h, "gaussian") == pytest.approx(want, rel=1e-12)


def test_interval_by_hand():
    found = Information(2.0, np.array([1.9, 2.0, 2.1]))
    error = np.sqrt(2 / 3 * 0.02)
    assert found.standard_error == pytest.approx(error, rel=1e-12)
    half = stats.t.ppf(0.95, 2) * error
    assert found.interval(0.9) == pytest.approx((2 - half, 2 + half), rel=1e-12)


@pytest.mark.parametrize("m", [70, 100, 400, 10_000])
def test_gaussian_bias_is_that_of_a_wishart_matrix(m):
    # Inflations that Gaussian folds show on average: (m - m_k)/(m - m_k - d - 1).
    d, share = 60, np.full(10, 0.1)
    exact = special.digamma((m - np.arange(d)) / 2).mean() + np.log(2 / m)
    inflation = 1 / (1 - (d + 1) / m / 0.9)
    for ratio in ((d + 1) / m, None):
        assert log_determinant_bias(ratio, inflation, share) == pytest.approx(exact, rel=1e-2)
    assert log_determinant_bias(None, 0.99, share) == 0
    assert log_determinant_bias((d + 1) / m, 1.0, share) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("d", "m"), [(1, 5), (3, 5), (20, 30), (60, 400)])
def test_wishart_bias_out_of_scipys_entropy(d, m):
    # H = log Gamma_d(m/2) + d (d+1)/2 log 2 + m d/2 - (m-d-1)/2 psi, and E log det A = psi + d log 2.
    entropy = stats.wishart(m, np.eye(d)).entropy()
    psi = (special.multigammaln(m / 2, d) + d * (d + 1) / 2 * np.log(2) + m * d / 2 - entropy) * 2 / (m - d - 1)
    assert _wishart_bias((d + 1) / m, d) == pytest.approx(psi / d + np.log(2 / m), rel=1e-8)


def test_the_bias_is_continuous_where_the_scales_become_equal():
    share = np.array([0.2, 0.3, 0.5])
    equal = float(share @ (1 / (1 - 0.4 / (1 - share))))
    below, above = (log_determinant_bias(0.4, equal * (1 + step), share) for step in (-1e-9, 1e-9))
    assert below == pytest.approx(above, abs=1e-7)


# ---- brute force ----------------------------------------------------------------------------------------------------


def brute_crossfit(h: np.ndarray, folds: np.ndarray, centering: str, share: float) -> tuple[np.ndarray, np.ndarray]:
    """lambda by direction from all folds, and without each, by a loop over folds with scipy's eigenproblem."""
    v, d = h.shape[1:]
    signal, noise = [], []
    for k in range(folds.max() + 1):
        between_others, within_others = covariances(h[folds != k], centering)
        between, within = covariances(h[folds == k], centering)
        tau = share * np.trace(within_others) / d
        metric = within_others + tau * np.eye(d)
        _, vectors = scipy.linalg.eigh(between_others - within_others / v, metric)
        n = (folds == k).sum()
        signal.append([n * u @ (between - within / v) @ u for u in vectors.T[::-1]])
        noise.append([n * u @ (within + tau * np.eye(d)) @ u for u in vectors.T[::-1]])
    total = np.array(signal).sum(axis=0) / np.array(noise).sum(axis=0)
    without = [np.delete(signal, k, 0).sum(axis=0) / np.delete(noise, k, 0).sum(axis=0) for k in range(len(signal))]
    return total, np.array(without)


_Z = np.linspace(-13, 13, 4001)
_DENSITY = stats.norm.pdf(_Z) * (_Z[1] - _Z[0])  # the trapezoidal rule is exact to rounding for such integrands


def scales(spread: float) -> np.ndarray:
    return np.exp(spread * _Z - spread**2 / 2)


def brute_root(ratio: float, spread: float) -> float:
    """u with E[t u/(1 + t u)] = ratio, t log-normal of mean 1."""
    t = scales(spread)
    return float(np.exp(optimize.brentq(lambda x: _DENSITY @ (t / (np.exp(-x) + t)) - ratio, -20, 20, xtol=1e-13)))


def brute_bias(ratio: float, inflation: float, share: np.ndarray) -> float:
    """Bias of a log determinant a feature, by integrals, for more inflation than Gaussian rows show."""
    ratios, weights = np.unique((ratio / (1 - share)).round(14), return_inverse=True)
    weights = np.bincount(weights, weights=share)

    def excess(spread: float) -> float:
        return sum(w * brute_root(y, spread) / y for w, y in zip(weights, ratios, strict=True)) - inflation

    spread = optimize.brentq(excess, 1e-6, 1.7, xtol=1e-11)
    u = brute_root(ratio, spread)
    return float(_DENSITY @ np.log1p(scales(spread) * u)) / ratio - np.log(u / ratio) - 1


def brute_held_out(h: np.ndarray, folds: np.ndarray, centering: str, tau: float = 0.0) -> np.ndarray:
    """Tr(A_-k^-1 A_k)/d of each fold, A = T and W."""
    d = h.shape[2]
    pairs = [
        [m + tau * np.eye(d) for part in (h[folds != k], h[folds == k]) for m in single_and_residual(part, centering)]
        for k in range(folds.max() + 1)
    ]
    return np.array([[np.trace(np.linalg.solve(a[j], a[j + 2])) / d for j in (0, 1)] for a in pairs])


@pytest.mark.parametrize("centering", ["view", "none"])
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("v", [2, 3, 5])
def test_crossfit_is_a_loop_over_folds(centering, share, v):
    n, d = 90, 6
    h = features(n, v, d, seed=v)
    folds = fold_of_images(np.arange(n), 7)
    snr, without = brute_crossfit(h, folds, centering, share)
    options = {"regularization": share, "residual_centering": centering}
    est = InvariantInformation("crossfit", n_folds=7, confidence=0.9, **options).fit(h)
    np.testing.assert_allclose(est.snr_, snr, rtol=1e-8, atol=1e-9)
    want = Information(0.5 * np.log1p(snr).sum(), 0.5 * np.log1p(without).sum(axis=1))
    assert est.information_ == pytest.approx(want.value, rel=1e-9)
    assert est.interval_ == pytest.approx(want.interval(0.9), rel=1e-8)
    assert invariant_information(h, "crossfit", share, centering, n_folds=7) == est.information_
    assert est.n_folds_ == 7 and est.method_ == "crossfit"


@pytest.mark.parametrize(("v", "centering", "spread"), [(2, "view", 0.9), (4, "none", 0.4)])
def test_elliptical_by_integrals(v, centering, spread):
    n, d = 60, 6
    rng = np.random.default_rng(v)
    scale = np.exp(spread * rng.standard_normal((n, 1, 1)))
    h = scale * (2 * rng.standard_normal((n, 1, d)) * np.geomspace(2, 0.1, d) + rng.standard_normal((n, v, d)))
    folds = fold_of_images(np.arange(n), 3)
    share = np.bincount(folds) / n
    held_out = brute_held_out(h, folds, centering)
    inflation = share @ held_out
    between, within = covariances(h, centering)
    single = between + (1 - 1 / v) * within
    m = (n - (centering == "view")) * (v - 1)
    x = [np.linalg.solve(single, part) for part in (between, (1 - 1 / v) * within)]
    first, second = ((np.trace(a) ** 2 + np.trace(a @ a)) / dof for a, dof in zip(x, (n - 1, m), strict=True))
    ratios = (first + second) / d, (d + 1) / m
    bias = [brute_bias(y, c, share) for y, c in zip(ratios, inflation, strict=True)]
    log_det = [np.linalg.slogdet(a)[1] for a in (single, within)]
    want = 0.5 * (log_det[0] - log_det[1] - d * (bias[0] - bias[1]))
    found = information(Moments.from_cube(h, n_folds=3), residual_centering=centering)
    assert found.value == pytest.approx(want, rel=1e-8)
    # Contributions of the folds, and their standard error.
    relative = held_out / inflation
    count = np.bincount(folds)
    contribution = 0.5 * d * (relative[:, 0] - relative[:, 1]) * share * np.sqrt((count - 1) / count) * 3 / 2
    np.testing.assert_allclose(want - found.replicates, contribution, rtol=1e-6, atol=1e-8)
    assert found.standard_error == jackknife_error(found.replicates)


@pytest.mark.parametrize("centering", ["view", "none"])
def test_elliptical_with_regularization_takes_the_ratio_of_gaussian_rows(centering):
    n, d, v = 90, 6, 3
    h = features(n, v, d)
    folds = fold_of_images(np.arange(n), 4)
    share = np.bincount(folds) / n
    pair = single_and_residual(h, centering)
    tau = 0.3 * np.trace(pair[1]) / d
    value = 0.0
    for j, sign in ((0, 0.5), (1, -0.5)):
        inflation = share @ brute_held_out(h, folds, centering, tau)[:, j]
        y = optimize.brentq(lambda y, c=inflation: share @ (1 / (1 - y / (1 - share))) - c, 1e-9, 0.5)
        bias = -1 - np.log1p(-y) * (1 - y) / y
        value += sign * (np.linalg.slogdet(pair[j] + tau * np.eye(d))[1] - d * bias)
    m = Moments.from_cube(h, n_folds=4)
    assert invariant_information(m, regularization=0.3, residual_centering=centering) == pytest.approx(value, rel=1e-8)


def test_score_and_transform_are_along_the_fitted_directions():
    h, other = features(), features(4, 2, 5, seed=7)  # fewer images than features
    for share in (0.0, 0.4):
        est = InvariantInformation(regularization=share).fit(h)
        between, within = covariances(other, "view")
        tau = share * np.trace(covariances(h, "view")[1]) / 5
        c = est.components_
        snr = [(u @ (between - within / 2) @ u) / (u @ (within + tau * np.eye(5)) @ u) for u in c]
        assert est.score(other) == pytest.approx(0.5 * np.log1p(snr).sum(), rel=1e-9)
        assert est.score(Moments.from_cube(other)) == pytest.approx(est.score(other), rel=1e-9)
        fisher = ik.FisherSpectrum(regularization=share).fit(h)
        np.testing.assert_allclose(est.transform(h), fisher.transform(h), rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(est.eigenvalues_, fisher.eigenvalues_, rtol=1e-8)
        assert est.score(h) == pytest.approx(0.5 * np.log1p(est.eigenvalues_).sum(), rel=1e-9)


# ---- input ----------------------------------------------------------------------------------------------------------


def test_everything_an_estimator_takes():
    h = features(60, 2, 4)
    want = invariant_information(h)
    cube = ik.from_arrays({"a": h[:, :, None]}, sigmas=[0.1], image_ids=np.arange(60))
    rows, groups = h.reshape(-1, 4), np.repeat(np.arange(60), 2)
    for given_as in (cube, cube["a"], Moments.from_cube(h)):
        assert invariant_information(given_as) == pytest.approx(want, rel=1e-12)
    assert invariant_information(rows, n_views=2) == pytest.approx(want, rel=1e-12)
    uncentred = invariant_information(h, residual_centering="none")
    assert invariant_information(rows, groups=groups) == pytest.approx(uncentred, rel=1e-10)
    levels = ik.from_arrays({"a": np.stack([h, 2 * h], axis=2)}, sigmas=[0.1, 1.0])
    for method in METHODS:
        found = invariant_information(Moments.from_cube(levels["a"]), method)
        np.testing.assert_allclose(found, [invariant_information(h, method)] * 2, rtol=1e-9)


def test_stream_clone_and_pickle():
    h = features(60, 2, 5)
    want = InvariantInformation(n_folds=4).fit(h)
    streamed = InvariantInformation(n_folds=4)
    for a, b, ready in ((0, 3, False), (3, 8, False), (8, 60, True)):
        streamed.partial_fit(h[a:b])
        assert hasattr(streamed, "information_") == ready
    merged = want.moments_.select(fold=[2, 3, 0, 1])
    for est in (streamed, clone(want).fit(h), pickle.loads(pickle.dumps(want)), clone(want).from_moments(merged)):
        assert est.information_ == pytest.approx(want.information_, rel=1e-9)
        assert est.interval_ == pytest.approx(want.interval_, rel=1e-9)
        np.testing.assert_allclose(est.snr_, want.snr_, rtol=1e-8)
    refitted = clone(want).fit(features(60, 2, 5, seed=3))
    assert refitted.snr_ is refitted.snr_  # kept
    first = refitted.snr_
    assert not np.allclose(refitted.fit(h).snr_, first)  # and not kept for other features


def test_float32_products_where_they_suffice():
    rng = np.random.default_rng(0)
    h = (rng.standard_normal((2000, 1, 8)) + rng.standard_normal((2000, 2, 8))).astype(np.float32)
    low, high = (InvariantInformation(dtype=dtype).fit(h) for dtype in ("float32", "float64"))
    assert low.moments_.products == "float32"
    assert low.information_ == pytest.approx(high.information_, rel=1e-5)


def test_a_strong_signal_that_all_features_share_costs_little_in_float32():
    rng = np.random.default_rng(0)
    h = rng.standard_normal((400, 1, 12)) + rng.standard_normal((400, 2, 12)) + 200 * rng.standard_normal((400, 1, 1))
    low, high = (invariant_information(Moments.from_cube(h, dtype=dtype)) for dtype in ("float32", "float64"))
    assert low == pytest.approx(high, abs=2e-3)
    h += 1e4 * rng.standard_normal((400, 1, 1))
    with pytest.raises(IllConditionedError, match="covariance of single views is singular"):
        invariant_information(Moments.from_cube(h, dtype="float32"))
    want = invariant_information(Moments.from_cube(h, dtype="float64"))
    given = h.astype(np.float32)  # read a second time
    assert invariant_information(given) == pytest.approx(want, abs=1e-2)
    assert InvariantInformation().fit(given).information_ == invariant_information(given)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 999), v=st.sampled_from([2, 3]), method=st.sampled_from(METHODS))
def test_affine_maps_of_the_features(seed, v, method):
    rng = np.random.default_rng(seed)
    h = features(60, v, 4, seed)
    (q, _), (r, _) = (np.linalg.qr(rng.standard_normal((4, 4))) for _ in range(2))
    for mapped in (h @ (q * np.geomspace(0.1, 10, 4) @ r) + 10 * rng.standard_normal(4), h @ q, 1e3 * h):
        a, b = (information(Moments.from_cube(x), method) for x in (mapped, h))
        assert a.value == pytest.approx(b.value, rel=1e-7)
        np.testing.assert_allclose(a.replicates, b.replicates, rtol=1e-7)


@PROPERTY
@given(
    images=st.permutations(range(60)),
    views=st.permutations(range(3)),
    method=st.sampled_from(METHODS),
    each=st.booleans(),
)
def test_order_of_images_and_views(images, views, method, each):
    h, order = features(60, 3, 4), np.array(images)
    mixed, centering = h[order][:, np.array(views)], "view"
    if each:  # an order of its own for every image changes nothing where no view has a mean of its own
        centering = "none"
        mixed = np.take_along_axis(
            mixed, np.random.default_rng(0).permuted(np.tile(range(3), (60, 1)), axis=1)[..., None], 1
        )
    found = [
        information(Moments.from_cube(Features(x, ids)), method, residual_centering=centering)
        for x, ids in ((h, np.arange(60)), (mixed, order))
    ]
    assert found[0].value == pytest.approx(found[1].value, rel=1e-9)
    np.testing.assert_allclose(found[0].replicates, found[1].replicates, rtol=1e-9)


def test_regularization_ends_the_affine_invariance():
    h = features()
    a, b = (invariant_information(x, regularization=0.5) for x in (h, h * np.geomspace(1, 30, 5)))
    assert abs(a - b) > 0.05


@pytest.mark.parametrize("method", METHODS)
def test_features_of_pure_noise_add_nothing(method):
    added, errors = [], []
    for seed in range(20):
        h = ik.datasets.make_cube(400, 8, icr=0.5, random_state=seed)["features"].to_numpy()[:, :, 0]
        noise = np.random.default_rng(1000 + seed).standard_normal((400, 2, 16))
        few, many = (information(Moments.from_cube(x), method) for x in (h, np.concatenate([h, noise], axis=2)))
        added.append(many.value - few.value)
        errors.append(jackknife_error(many.replicates - few.replicates))
    # Eight directions of 2.2 nats; ICR would move from .5 to .75.
    assert np.mean(added) == pytest.approx(0, abs=0.12)
    assert np.mean(errors) == pytest.approx(np.std(added), rel=0.5)  # the error of paired differences


# ---- degenerate input -----------------------------------------------------------------------------------------------


def test_bad_arguments():
    m = Moments.from_cube(features())
    with pytest.raises(ValueError, match="method must be one of"):
        invariant_information(m, "plug-in")
    with pytest.raises(ValueError, match="needs regularization=0"):
        invariant_information(m, "gaussian", 0.1)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        InvariantInformation(confidence=95).fit(m)
    with pytest.raises(ValueError, match="residual_centering must be"):
        invariant_information(m, residual_centering="image")


@pytest.mark.parametrize("method", METHODS)
def test_bad_features(method):
    h = features()
    constant, twice, missing = h.copy(), h.copy(), h.copy()
    constant[:, :, 3] = 1.0
    twice[:, 1] = twice[:, 0]
    missing[4, 1, 2] = np.nan
    for bad, error, message in (
        (constant, DegenerateFeaturesError, r"constant: \[3\]"),
        (twice, DegenerateFeaturesError, "no residual"),
        (missing, NonFiniteError, "image 4"),
        (h[:, :1], ValueError, "1 view"),
        (np.concatenate([h, h[:, :, :1]], axis=2), IllConditionedError, "singular"),
        (h[:4], NotEnoughDataError, "m = 3 residual degrees of freedom"),
    ):
        with pytest.raises(error, match=message):
            invariant_information(bad, method)


@pytest.mark.parametrize("method", ["elliptical", "crossfit"])
def test_folds_that_cannot_be_held_out(method):
    h = features(12, 2, 7)
    with pytest.raises(NotEnoughDataError, match=r"without its largest fold m = \d+ residual degrees of freedom"):
        invariant_information(h, method)
    with pytest.raises(NotEnoughDataError, match="needs moments with folds"):
        invariant_information(Moments.from_cube(h, n_folds=0), method)
    assert np.isfinite(invariant_information(h, method, regularization=0.5))
    rare = features(60, 2, 3)
    rare[:, :, 0] *= np.where(fold_of_images(np.arange(60), 10) == 2, 1.0, 1e-13)[:, None]
    with pytest.raises(IllConditionedError, match="without one of the folds is singular"):
        invariant_information(rare, method)


def test_without_folds_the_scales_are_taken_to_be_equal():
    h = features(12, 2, 7)
    with pytest.warns(UserWarning, match=r"method_='gaussian': .* needs more images"):
        est = InvariantInformation().fit(h)
    assert est.method_ == "gaussian" and est.n_folds_ == 0
    assert est.information_ == invariant_information(h, "gaussian")
    for name in ("interval_", "snr_"):
        with pytest.raises(AttributeError, match=f"no {name} here"):
            getattr(est, name)
    with pytest.raises(NotEnoughDataError, match="needs more images"):
        InvariantInformation("crossfit").fit(h)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = InvariantInformation("gaussian", n_folds=0).fit(h)
    assert asked.information_ == pytest.approx(est.information_, rel=1e-12) and not hasattr(asked, "interval_")
    # With folds it has an interval.
    low, high = InvariantInformation("gaussian").fit(features()).interval_
    assert low < InvariantInformation("gaussian").fit(features()).information_ < high


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["gaussian", "heavy"])
def test_bias_and_coverage_at_four_images_a_feature(law):
    # Seeded; the committed study has many more cells.
    d, ratios = 16, np.geomspace(1, 0.01, 16)
    truth = 0.5 * np.log1p(ratios / ratios.mean()).sum()
    runs = []
    for seed in range(80):
        cube = ik.datasets.make_cube(4 * d, d, residual=law, icr=0.5, random_state=seed)
        m = Moments.from_cube(cube)
        found = information(m)
        low, high = found.interval()
        runs.append((found.value / truth, low <= truth <= high, invariant_information(m, "gaussian") / truth))
    value, covered, gaussian = np.mean(runs, axis=0)
    assert value == pytest.approx(1, abs=0.04)
    assert 0.9 <= covered <= 1.0
    assert (gaussian > 1.1) == (law == "heavy")


def test_bias_of_a_log_determinant_with_scales_of_its_own_for_each_row():
    # Log-normal scales: the theory is exact as d grows, whatever the spread. Held-out folds show the inflation.
    rng = np.random.default_rng(0)
    d, m, spread, n_folds = 80, 200, 0.8, 10
    found, actual = [], []
    for _ in range(20):
        scale = np.exp(spread * rng.standard_normal((m, 1)) - spread**2 / 2)
        rows = np.sqrt(scale) * rng.standard_normal((m, d))
        folds = np.arange(m) % n_folds
        held_out = [
            np.trace(
                np.linalg.solve(
                    rows[folds != k].T @ rows[folds != k] / (m * 0.9), rows[folds == k].T @ rows[folds == k]
                )
            )
            for k in range(n_folds)
        ]
        inflation = np.sum(held_out) / m / d
        found.append(log_determinant_bias((d + 1) / m, inflation, np.full(n_folds, 1 / n_folds)))
        actual.append(np.linalg.slogdet(rows.T @ rows / m)[1] / d)
    assert np.mean(found) == pytest.approx(np.mean(actual), abs=0.02)
    assert special.digamma((m - np.arange(d)) / 2).mean() + np.log(2 / m) > np.mean(actual) + 0.1


def test_held_out_spectrum_is_not_inflated():
    h = np.random.default_rng(0).standard_normal((300, 2, 20))  # no signal at all
    est = InvariantInformation().fit(h)
    assert est.eigenvalues_[0] > 0.3 and np.abs(est.snr_).max() < 0.3
    np.testing.assert_array_equal(est.snr_, held_out_snr_by_direction(est.moments_))
    low, high = est.interval_
    assert low < 0 < high
