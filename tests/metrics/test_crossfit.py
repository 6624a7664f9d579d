"""Cross-fitting: a loop over folds with an inverse each, and what it is worth where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import icrkit as ik
from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NotEnoughDataError
from icrkit.metrics._crossfit import (
    Crossfit,
    FoldTraces,
    HeldTraces,
    crossfit,
    direction_shape,
    direction_variance,
    jackknife_error,
    scale_variation,
)
from icrkit.moments import Moments, fold_of_images

pytestmark = pytest.mark.filterwarnings("ignore:the plug-in ICR:UserWarning")


def features(n: int, v: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((d, d)) + 2 * np.eye(d)
    return (rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))) @ mixing + rng.standard_normal((v, d))


def manova(h: np.ndarray, centering: str) -> tuple[np.ndarray, np.ndarray, int]:
    """B, W and m."""
    n, v, d = h.shape
    if centering == "view":
        h = h - h.mean(axis=0)
    t = h.mean(axis=1) - h.mean(axis=(0, 1))
    e = (h - h.mean(axis=1, keepdims=True)).reshape(-1, d)
    m = (n - (centering == "view")) * (v - 1)
    return t.T @ t / (n - 1), e.T @ e / m, m


def brute(h: np.ndarray, folds: np.ndarray, centering: str, share: float) -> dict[str, np.ndarray]:
    """Traces of each fold under the inverse of the others, and the replicates of log Q, by the definition."""
    d, v = h.shape[2], h.shape[1]
    names = ("signal", "noise", "log_q", "residual", "inverse")
    found: dict[str, list[float]] = {name: [] for name in names}
    all_within = manova(h, centering)[1]
    held = np.linalg.inv(all_within + share * np.trace(all_within) / d * np.eye(d))
    for k in np.unique(folds):
        between_others, within_others, _ = manova(h[folds != k], centering)
        between, within, _ = manova(h[folds == k], centering)
        tau = share * np.trace(within_others) / d
        p = np.linalg.inv(within_others + tau * np.eye(d))
        n_k = int((folds == k).sum())
        found["signal"].append(n_k * np.trace(p @ (between - within / v)))
        found["noise"].append(n_k * np.trace(p @ (within + tau * np.eye(d))))
        found["residual"].append(np.trace(p @ within))
        found["log_q"].append(np.log(np.trace(p @ between_others) / d))
        # By what the plug-in of the others changes when the inverse loses the fold as well.
        q, q_held = (np.trace(x @ between_others) / np.trace(x @ (within_others + tau * np.eye(d))) for x in (p, held))
        found["inverse"].append(np.log(q / q_held))
    want = {name: np.array(values) for name, values in found.items()}
    others = {name: want[name].sum() - want[name] for name in ("signal", "noise")}
    want["replicates"] = np.log(others["signal"] / others["noise"] + 1 / v) + want.pop("inverse")
    return want


def brute_direction_variance(h: np.ndarray, residual: np.ndarray, centering: str) -> float:
    """2 (Tr(M^2) (1 + kappa) + 1/(N-1) + 1/m)/(m - d - 3) without regularization, from whitened matrices."""
    n, v, d = h.shape
    between, within, m = manova(h, centering)
    root = np.linalg.inv(np.linalg.cholesky(within))
    white = root @ between @ root.T
    shape = max(np.square(white / np.trace(white) - np.eye(d) / d).sum() - 1 / (m - d) - 1 / (n - 1), 0)
    gaussian = 2 / (d * (v - 1))
    spread = np.var(residual, ddof=1) / residual.mean() ** 2 * n / len(residual)
    kappa = max((spread - gaussian) / (1 + gaussian), 0)
    return 2 * (shape * (1 + kappa) + 1 / (n - 1) + 1 / m) / (m - d - 3)


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_jackknife_of_three_replicates_by_hand():
    assert jackknife_error(np.array([0.0, 1.0, 2.0])) == pytest.approx(np.sqrt(2 / 3 * 2), rel=1e-15)
    assert jackknife_error(np.full(10, 0.3)) == pytest.approx(0, abs=1e-15)


def test_interval_by_hand():
    signal, noise = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    result = Crossfit(signal, noise, 2, 0.04, np.zeros(3))
    assert (result.mean_snr, result.icr, result.q, result.n_folds) == (1.0, 0.5, 1.5, 3)
    # Ratios of (signal + noise/2) to noise without each fold: 7/4, 6/4, 5/4.
    replicates = np.log([7 / 4, 6 / 4, 5 / 4])
    error = np.sqrt(2 / 3 * np.square(replicates - replicates.mean()).sum() + 0.04)
    assert result.standard_error == pytest.approx(error, rel=1e-14)
    half = stats.t.ppf(0.95, 2) * error
    want = (1 / (0.5 + 1.5 * np.exp(half)), 1 / (0.5 + 1.5 * np.exp(-half)))
    assert result.interval(0.9) == pytest.approx(want, rel=1e-13)
    assert result.interval(0.99)[0] < result.interval(0.9)[0] < 0.5 < result.interval(0.9)[1] < result.interval(0.99)[1]


def test_a_negative_ratio_is_reported_and_has_an_interval():
    result = Crossfit(np.array([-0.1, 0.05, -0.2]), np.ones(3), 2, 0.0, np.zeros(3))
    low, high = result.interval()
    assert result.mean_snr < 0 and low < result.icr < high and result.icr > 1


def test_direction_variance_by_hand():
    # Two directions of which one holds all of B: Tr(M^2) = 1 - 1/2, less 1/(m - d) and 1/(N - 1).
    of = {"n_images": 101, "d": 2.0, "dof": 100}
    shape = direction_shape(3.0, 9.0, **of)
    assert shape == pytest.approx(0.5 - 1 / 98 - 1 / 100, rel=1e-14)
    assert direction_variance(shape, 0.0, **of) == pytest.approx(2 * (0.5 - 1 / 98 + 1 / 100) / 95, rel=1e-14)
    # Signal alike in all directions leaves the noise alone.
    assert direction_shape(3.0, 4.5, **of) == 0
    assert direction_variance(0.0, 0.0, **of) == pytest.approx(2 * (1 / 100 + 1 / 100) / 95, rel=1e-14)
    # Scales that vary between images: spread (N/G) Var/mean^2 = 101/2 * 2/4, of which 1 is Gaussian.
    kappa = scale_variation(np.array([1.0, 3.0]), n_images=101, n_views=2, d=2.0)
    assert kappa == pytest.approx((101 / 2 * 2 / 4 - 1) / 2, rel=1e-14)
    assert scale_variation(np.array([2.0, 2.0]), n_images=101, n_views=2, d=2.0) == 0
    got = direction_variance(shape, kappa, **of)
    assert got == pytest.approx(2 * (shape * (1 + kappa) + 2 / 100) / 95, rel=1e-14)


def test_the_value_from_traces_of_folds_by_hand():
    folds = [FoldTraces(10, 4.0, 2.0, 0.5, 3.0), FoldTraces(30, 5.0, 2.0, 0.5, 6.0)]
    found = Crossfit.of(folds, n_views=2, n_features=3, dof=39, damped=0.5, powers=(4.0, 8.0), products="float64")
    assert found.mean_snr == (10 * 3 + 30 * 4) / (40 * 2.5) == 1.5
    np.testing.assert_allclose(found.log_q, np.log([1, 2]), rtol=1e-15)
    assert found.replicates is None
    held = [HeldTraces(6.0, 3.0), HeldTraces(2.0, 4.0)]
    found = Crossfit.of(folds, held, n_views=2, n_features=3, dof=39, damped=0.5, powers=(4.0, 8.0), products="float64")
    # Sums of the other fold over themselves, 4/2.5 + 1/2 and 3/2.5 + 1/2, times plug-ins without the fold, over the
    # same with the inverse held.
    np.testing.assert_allclose(found.replicates, np.log([2.1 * 1 / 2, 1.7 * 2 / 0.5]), rtol=1e-14)


# ---- brute force ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centering", ["view", "none"])
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("v", [2, 3, 5])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_loop_over_folds(centering, share, v, ordered):
    n, d = 90, 6
    h = features(n, v, d, seed=v)
    folds = fold_of_images(np.arange(n), 7)
    assert np.bincount(folds).min() >= 2
    est = ik.ICREstimator("crossfit", n_folds=7, regularization=share, residual_centering=centering, confidence=0.9)
    if ordered:
        est.fit(h)
    else:
        est.fit(h.reshape(-1, d), groups=np.repeat(np.arange(n), v))
    want = brute(h, folds, centering if ordered else "none", share)
    result = crossfit(est.moments_, share, centering)
    for name in ("signal", "noise", "log_q", "replicates"):
        np.testing.assert_allclose(getattr(result, name), want[name], rtol=1e-9, atol=1e-9, err_msg=name)
    snr = want["signal"].sum() / want["noise"].sum()
    assert result.mean_snr == pytest.approx(snr, rel=1e-10)
    assert est.icr_ == est.icr_crossfit_ == result.icr == pytest.approx(1 / (1 + snr), rel=1e-10)
    assert est.interval_ == result.interval(0.9) and est.n_folds_ == 7
    if share == 0:
        variance = brute_direction_variance(h, want["residual"], centering if ordered else "none")
        assert result.direction_variance == pytest.approx(variance, rel=1e-9)


def test_fewer_images_than_two_a_fold_join_folds():
    n, d, v = 9, 2, 8
    h = features(n, v, d)
    folds = fold_of_images(np.arange(n), 10)
    groups = folds % 4  # at most one fold for every two images
    counts = np.bincount(groups, minlength=4)
    joined, current = np.zeros(4, int), 0
    for k in range(4):
        joined[k] = current
        if counts[joined == current].sum() >= 2:
            current += 1
    joined = np.minimum(joined, current - 1)
    want = brute(h, joined[groups], "view", 0.0)
    result = crossfit(Moments.from_cube(h, n_folds=10))
    np.testing.assert_allclose(result.signal, want["signal"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.log_q, want["log_q"], rtol=1e-9, atol=1e-9)


# ---- folds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_folds", "most"), [(16, 10, 8), (13, 10, 6), (5, 10, 2), (200, 7, 7), (20, 10, 10)])
def test_number_of_folds(n, n_folds, most):
    est = ik.ICREstimator(n_folds=n_folds).fit(features(n, 8, 2))
    assert 2 <= est.n_folds_ <= most
    if n == 200:
        assert est.n_folds_ == most


@pytest.mark.parametrize("last", [0, 1])
def test_a_last_fold_without_images_is_no_replicate(last):
    h = features(60, 2, 3)
    parts = [Moments.from_block(part) for part in np.array_split(h[: 60 - last], 6)]
    parts.append(Moments.from_block(h[60 - last :]) if last else Moments.empty(2, 3))
    result = crossfit(Moments.stack(parts))
    assert result.n_folds == 6
    assert np.unique(result.log_q.round(9)).size == 6


def test_the_value_does_not_see_that_images_are_sorted_by_class():
    cube = ik.datasets.make_cube(500, 16, icr=0.5, n_classes=10, random_state=0)
    assert (np.diff(cube.labels) >= 0).all()
    here = crossfit(Moments.from_cube(cube))
    there = crossfit(Moments.from_cube(cube[np.random.default_rng(0).permutation(500)]))
    assert there.icr == pytest.approx(here.icr, rel=1e-10)
    assert there.interval() == pytest.approx(here.interval(), rel=1e-9)
    assert abs(here.icr - 0.5) < 0.03
    # What contiguous folds would say: each holds one class, and all that tells classes apart is lost.
    contiguous = Moments.stack([Moments.from_block(part) for part in np.array_split(cube.level().values, 10)])
    assert crossfit(contiguous).icr > 0.6


# ---- degenerate -----------------------------------------------------------------------------------------------------


def test_folds_are_needed():
    with pytest.raises(NotEnoughDataError, match=r"needs moments with folds: Moments\.from_cube\(X, n_folds=10\)"):
        crossfit(Moments.from_cube(features(20, 2, 3), n_folds=0))
    with pytest.raises(NotEnoughDataError, match="at least two folds of two images; there are 3 images"):
        crossfit(Moments.from_cube(features(3, 20, 3)))
    with pytest.raises(NotEnoughDataError, match="at least two folds"):
        crossfit(Moments.from_cube(features(30, 2, 3), n_folds=1))


def test_too_few_images_without_the_largest_fold():
    h = features(12, 2, 10)  # m = 11 > d, but not without a fold
    largest = np.bincount(fold_of_images(np.arange(12), 4)).max()
    with pytest.raises(NotEnoughDataError, match=rf"without its largest fold m = {11 - largest} .* d = 10 "):
        crossfit(Moments.from_cube(h, n_folds=4))
    assert 0 < crossfit(Moments.from_cube(h, n_folds=4), regularization=0.1).icr < 1


@pytest.mark.parametrize(
    ("active", "error", "said"),
    [
        (0.0, DegenerateFeaturesError, "views of a few images only, fewer than 12: 1 "),
        (7.0, IllConditionedError, "without one of the folds"),
    ],
)
def test_a_feature_alive_in_one_fold_only_is_no_garbage(active, error, said):
    # Rounding must not pass for a residual: without that fold the inverse would be of the order of 1e16.
    h = features(60, 2, 3)
    others = fold_of_images(np.arange(60), 5) != 2
    h[others, :, 1] = active * h[others, :, 0] + active
    with pytest.raises(error, match=said):
        crossfit(Moments.from_cube(h, n_folds=5))


@pytest.mark.filterwarnings("ignore:no cross-fitted ICR:UserWarning")
@pytest.mark.parametrize(("d", "share"), [(3, 0.0), (3, 0.2), (200, 0.2)])  # the last through the Gram matrix
def test_image_means_that_coincide_leave_the_plug_in_alone(d, share):
    half = np.random.default_rng(0).standard_normal((40, 1, d))
    h = np.concatenate([half, -half], axis=1)
    est = ik.ICREstimator(regularization=share).fit(h)
    # B = 0: R = -Tr(P W)/(V d), and without regularization Tr(P W) = d.
    assert est.icr_ == pytest.approx(2.0, rel=1e-12) if share == 0 else 1 < est.icr_ < 2
    for name in ("icr_crossfit_", "interval_"):
        with pytest.raises(AttributeError, match="means over views of all 40 images coincide"):
            getattr(est, name)
    with pytest.raises(DegenerateFeaturesError, match="means over views of all 40 images coincide"):
        ik.ICREstimator("crossfit", regularization=share).fit(h)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_image_means_that_differ_in_one_fold_only(dtype):
    # Rounding must not pass for what the other folds hold.
    half = np.random.default_rng(0).standard_normal((60, 1, 3))
    h = np.concatenate([half, -half], axis=1)
    h[fold_of_images(np.arange(60), 5) == 2] += np.random.default_rng(1).standard_normal((1, 2, 3))
    with pytest.raises(DegenerateFeaturesError, match="or of all but one fold"):
        crossfit(Moments.from_cube(h.astype(dtype), n_folds=5), 0.1)


# ---- statistics -----------------------------------------------------------------------------------------------------


def repeats(law: str, n_images: int, d: int, n: int, n_views: int = 2, icr: float = 0.5) -> tuple[np.ndarray, ...]:
    """Cross-fitted and plug-in values, and whether the 95 % interval covers the truth."""
    runs = []
    for seed in range(n):
        cube = ik.datasets.make_cube(n_images, d, n_views=n_views, icr=icr, residual=law, random_state=seed)
        m = Moments.from_cube(cube)
        result = crossfit(m)
        low, high = result.interval()
        runs.append((result.icr, ik.icr(m), low <= icr <= high))
    return tuple(np.array(runs).T)


@pytest.mark.parametrize("law", ["gaussian", "heavy"])
def test_the_mean_is_right_at_three_images_for_two_features(law):
    value, plug_in, _ = repeats(law, 48, 32, 400)
    error = value.std(ddof=1) / np.sqrt(len(value))
    assert error < 0.005  # Monte-Carlo
    assert abs(value.mean() - 0.5) < 0.01
    assert plug_in.mean() < 0.3  # half of the truth


@pytest.mark.parametrize("law", ["gaussian", "heavy"])
@pytest.mark.parametrize("icr", [0.1, 0.95])
def test_the_interval_covers_the_truth(law, icr):
    value, _, covered = repeats(law, 64, 16, 300, icr=icr)
    error = np.sqrt(0.95 * 0.05 / len(covered))
    assert 0.93 - 2 * error < covered.mean() < 0.99 + error
    assert abs(value.mean() - icr) < 0.01 + 3 * value.std() / np.sqrt(len(value))


# ---- what rounding must not decide ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tau", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("centre", [0.0, 0.1, 1e4 / 3])
def test_means_that_all_coincide_are_refused_and_divide_nothing(dtype, tau, centre):
    # Centred image by image, about any point: what is left between the means is rounding, or nothing.
    rng = np.random.default_rng(0)
    half = rng.integers(-(2**10), 2**10, (60, 1, 4)) / 2.0**10
    h = np.concatenate([half, -half], axis=1) + np.round(np.array([3, 1.1, 0.7, 0.1]) * centre * 2**10) / 2.0**10
    for d in (4, 200):
        wide = np.concatenate([h, np.roll(np.resize(h, (60, 2, d)), 1, axis=0)], axis=2)[..., :d] if d > 4 else h
        wide = np.concatenate([wide[:, :1], 2 * centre * 0 - wide[:, :1]], axis=1) if d > 4 else wide
        if d > 4 and tau == 0:
            continue
        with pytest.raises(DegenerateFeaturesError, match="means over views of all 60 images coincide"):
            ik.ICREstimator("crossfit", regularization=tau, n_folds=5).fit(wide.astype(dtype))
    assert ik.ICREstimator("none", regularization=0.1, n_folds=0).fit(h.astype(dtype)).icr_ > 1
    with pytest.raises(DegenerateFeaturesError, match="coincide"):
        ik.lidar(h.astype(dtype))


@pytest.mark.parametrize("tau", [1e3, 1e12, 1e30])
def test_a_tau_that_is_all_there_is_divides_by_no_rounding(tau):
    rng = np.random.default_rng(0)
    for d in (4, 60):
        h = rng.standard_normal((20, 1, d)) + rng.standard_normal((20, 2, d))
        est = ik.ICREstimator("crossfit", regularization=tau, n_folds=5).fit(h)
        low, high = est.interval_
        assert np.isfinite([low, high]).all() and est.icr_ == pytest.approx(1, abs=2 / tau)
