"""Numbers agree, within stated bounds, across all that must not matter: order, blocks, threads, precision, origin."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import icrkit as ik
from icrkit._features import Features
from icrkit.exceptions import IllConditionedError
from icrkit.moments import Moments

PROPERTY = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def cubes(draw, most_features: int = 12):
    """Features (image, view, feature) of some conditioning, offset and scale, and as many labels."""
    d = draw(st.integers(1, most_features))
    n, v = draw(st.integers(3 * d + 12, 3 * d + 150)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    share = draw(st.sampled_from([0.5, 0.1, 1e-3]))
    h = np.sqrt(1 - share) * rng.standard_normal((n, 1, d)) + np.sqrt(share) * rng.standard_normal((n, v, d))
    turn, _ = np.linalg.qr(rng.standard_normal((d, d)))
    h = h @ (turn * np.geomspace(1, draw(st.sampled_from([1.0, 1e-1, 1e-2])), d))
    h += draw(st.sampled_from([0.0, 1.0, 1e3, 1e4, -1e5])) * rng.standard_normal(d)
    return h * draw(st.sampled_from([1e-6, 1.0, 1e6])), rng.integers(0, 3, n)


def exact_icr(h: np.ndarray) -> float:
    """Plug-in ICR in 40 digits of the features as they are stored."""
    with mpmath.workdps(40):
        n, v, d = h.shape
        x = np.vectorize(mpmath.mpf, otypes=[object])(h.astype(np.float64))
        x = x - x.sum(axis=0) / n
        t = x.sum(axis=1) / v
        e = (x - t[:, None]).reshape(-1, d)
        between, within = mpmath.matrix((t.T @ t / (n - 1)).tolist()), e.T @ e / ((n - 1) * (v - 1))
        solved = mpmath.inverse(mpmath.matrix(within.tolist())) * between
        snr = mpmath.fsum(solved[j, j] for j in range(d)) / d - mpmath.mpf(1) / v
        return float(1 / (1 + snr))


def fitted(h: np.ndarray, dtype: str = "auto", **options) -> ik.ICREstimator | None:
    """The fit, or None where its precision is refused."""
    try:
        return ik.ICREstimator(dtype=dtype, n_folds=4, **options).fit(h)
    except IllConditionedError:
        return None


@pytest.mark.filterwarnings("ignore:the plug-in ICR|no cross-fitted:UserWarning")
@PROPERTY
@given(given=cubes(4), single=st.booleans(), products=st.sampled_from(["auto", "float32", "float64"]))
def test_the_error_bound_holds_against_forty_digits(given, single, products):
    h = given[0].astype(np.float32) if single else given[0]
    est = fitted(h, products)
    if est is not None:
        error = abs(est.icr_ / exact_icr(h) - 1)
        assert error <= est.error_bound_
        assert est.error_bound_ <= (1e-4 if est.moments_.products == "float32" else 1e-3)


@pytest.mark.parametrize("n", [400, 30_000])
@pytest.mark.parametrize("d", [1, 3, 16])
@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4, 3e4, 1e5])
def test_the_error_bound_holds_for_float32_products_far_from_the_origin(n, d, offset):
    # Deviations that are whole multiples of a coarse step: rounding goes to one side and does not cancel.
    rng = np.random.default_rng(0)
    h = rng.standard_normal((n, 1, d)) + rng.standard_normal((n, 2, d)) + offset
    h = h.astype(np.float32)
    for correction in ("none", "crossfit"):
        single, double = (ik.ICREstimator(correction, dtype=p, n_folds=4).fit(h) for p in ("float32", "float64"))
        assert abs(single.icr_ / double.icr_ - 1) <= single.error_bound_ < 2e-5
        assert double.error_bound_ < 1e-9


@pytest.mark.parametrize("share", [1e-4, 1e-8, 1e-11])
def test_the_error_bound_holds_where_the_residual_is_small_beside_the_signal(share):
    rng = np.random.default_rng(0)
    h = (rng.standard_normal((500, 1, 4)) + np.sqrt(share) * rng.standard_normal((500, 2, 4))).astype(np.float32)
    est, exact = fitted(h, "float32"), fitted(h, "float64")
    assert fitted(h).icr_ == pytest.approx(exact.icr_, rel=1e-4)
    assert est is None or abs(est.icr_ / exact.icr_ - 1) <= est.error_bound_


def numbers(h: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Numbers that no order of images or features, block, thread or precision may change."""
    est = ik.ICREstimator("none", n_folds=0).fit(h)
    with_folds = ik.from_arrays(h, image_ids=h[:, 0, 0].astype(np.float64).argsort().argsort())
    return {
        "icr": est.icr_,
        "crossfit": ik.icr(Moments.from_cube(with_folds.level(), n_folds=5), "crossfit"),
        "trace ratio": ik.trace_ratio(h),
        "information": ik.invariant_information(h, "gaussian"),
        "silhouette": ik.silhouette(h, y),
        "cosine silhouette": ik.silhouette(h, y, metric="cosine"),
        "nc1": ik.nc1(h, y),
        "cdnv": ik.cdnv(h, y),
        "class separation": ik.class_separation(h, y),
        "rankme": ik.rankme(h),
        "participation ratio": ik.participation_ratio(h),
        "frechet": ik.frechet_distance(h[::2], h[1::2]),
        "cka": ik.linear_cka(h[:, :1], h[:, 1:2], debiased=False),
        "alignment": ik.alignment(h, normalize=None),
        "uniformity": ik.uniformity(h / np.abs(h - h.mean(axis=0)).max(), normalize=None),
    }


SLACK = {"frechet": 1e-6, "rankme": 1e-6, "nc1": 1e-7, "cosine silhouette": 1e-6, "class separation": 1e-6}


def assert_agree(found: dict[str, float], want: dict[str, float], rel: float) -> None:
    for name, value in want.items():
        assert found[name] == pytest.approx(value, rel=max(rel, SLACK.get(name, 0.0)), abs=1e-9), name


def well_behaved(seed: int, n: int = 90, d: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    h = rng.standard_normal((3, 1, d))[y] + rng.standard_normal((n, 1, d)) + 0.5 * rng.standard_normal((n, 2, d))
    return h @ rng.standard_normal((d, d)), y


@pytest.mark.filterwarnings("ignore::UserWarning")
@PROPERTY
@given(seed=st.integers(0, 999), offset=st.sampled_from([0.0, 10.0, 1e4]), step=st.integers(1, 90), data=st.data())
def test_order_blocks_and_threads_change_nothing(seed, offset, step, data):
    h, y = well_behaved(seed)
    h = h + offset
    want, rng = numbers(h, y), np.random.default_rng(seed)
    far = 1e-8 * (1 + offset / 100)  # the features themselves are rounded by other maps and sums
    features = rng.permutation(h.shape[2])
    moved = numbers(h[:, :, features], y)
    moved["crossfit"] = want["crossfit"]  # its ids come from the first feature
    assert_agree(moved, want, far)
    images = rng.permutation(len(h))
    ordered = numbers(h[images], y[images])
    ordered["frechet"] = want["frechet"]  # of the halves by number
    assert_agree(ordered, want, far)

    def blocks(self, target_bytes=None):
        for start in range(0, self.shape[0], step):
            yield start, self.read(start, start + step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Features, "blocks", blocks)
        assert_agree(numbers(h, y), want, far)
    with threadpool_limits(data.draw(st.sampled_from([1, 2])), user_api="blas"):
        assert_agree(numbers(h, y), want, far)
    with threadpool_limits(1, user_api="blas"):
        cuts = np.sort(rng.integers(1, len(h), 2))
        parts = [Moments.from_block(part) for part in np.split(h, cuts)]
        assert ik.icr(parts[0] + parts[1] + parts[2]) == pytest.approx(want["icr"], rel=far)


@pytest.mark.filterwarnings("ignore::UserWarning")
@PROPERTY
@given(seed=st.integers(0, 999), offset=st.sampled_from([0.0, 10.0, 1e3]))
def test_float32_features_give_the_numbers_of_the_same_features_in_float64(seed, offset):
    h, y = well_behaved(seed)
    single = (h + offset).astype(np.float32)
    # The trace ratio and ICR take float32 products where they suffice, all distances float64.
    assert_agree(numbers(single, y), numbers(single.astype(np.float64), y), 1e-4)
