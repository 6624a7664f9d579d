"""The pass with numpy: whatever the blocks, bins and chunks, the same sums; digits kept at any offset and scale."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit._features import Features, as_features
from icrkit.backends import PASSES, _numpy
from icrkit.exceptions import DegenerateFeaturesError, NonFiniteError
from icrkit.metrics._base import row_moments
from icrkit.metrics._effective_rank import row_eigenvalues
from icrkit.moments import Moments, fold_of_images

pytestmark = pytest.mark.filterwarnings("ignore:the plug-in ICR:UserWarning")

PROPERTY = settings(max_examples=40, derandomize=True)


def assert_same(a: Moments, b: Moments, rtol: float) -> None:
    """Equal up to rounding, relative to the greatest spread."""
    np.testing.assert_array_equal(a.n_images, b.n_images)
    spread = float((b.between + b.within).max())
    for name, size in (("mean", spread**0.5), ("between", spread), ("within", spread)):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=rtol * size, err_msg=name)


def in_blocks(monkeypatch: pytest.MonkeyPatch, n_images: int) -> None:
    def blocks(self, target_bytes=None):
        for start in range(0, self.shape[0], n_images):
            yield start, self.read(start, start + n_images)

    monkeypatch.setattr(Features, "blocks", blocks)


# ---- closed form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_images_by_hand(dtype):
    h = np.array([[[0.0, 0.0], [2.0, 0.0]], [[4.0, 1.0], [10.0, 1.0]]], dtype)
    m = _numpy.accumulate(as_features(h), None, 0, dtype)
    np.testing.assert_array_equal(m.mean, [[2.0, 0.5], [6.0, 0.5]])
    np.testing.assert_allclose(m.between, [[18.0, 3.0], [3.0, 0.5]], rtol=1e-15)
    np.testing.assert_allclose(m.within, [[4.0, 0.0], [0.0, 0.0]], rtol=1e-15)


# ---- blocks, bins, chunks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 1e-6)])
@pytest.mark.parametrize("n_views", [2, 3, 5])
@pytest.mark.parametrize("n_folds", [0, 3])
def test_blocks_of_any_size_give_the_same(monkeypatch, dtype, rtol, n_views, n_folds):
    h = np.random.default_rng(0).standard_normal((131, n_views, 9)).astype(dtype) + np.arange(9, dtype=dtype)
    want = Moments.from_cube(h, n_folds=n_folds, dtype=dtype)
    for n_images in (1, 2, 7, 64, 130, 131):
        in_blocks(monkeypatch, n_images)
        assert_same(Moments.from_cube(h, n_folds=n_folds, dtype=dtype), want, rtol)


@PROPERTY
@given(
    n=st.integers(2, 300),
    v=st.integers(2, 5),
    rows=st.integers(1, 400),
    chunk=st.integers(1, 4000),
    promote=st.integers(1, 3),
    n_folds=st.integers(0, 4),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_bins_and_chunks_of_any_size_give_the_same(n, v, rows, chunk, promote, n_folds, dtype):
    h = np.random.default_rng(n).standard_normal((n, v, 6)).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_numpy, "_BIN_ROWS", rows)
        patch.setattr(_numpy, "_CHUNK_BYTES", chunk)
        patch.setattr(_numpy, "_PROMOTE_EVERY", promote)
        m = Moments.from_cube(h, n_folds=n_folds, dtype=dtype)
    assert_same(m.total, Moments.from_block(h), 2e-6 if dtype == "float32" else 1e-12)


def test_several_full_bins_and_a_rest():
    h = np.random.default_rng(0).standard_normal((5000, 2, 3))  # a bin takes 512 images
    folds = fold_of_images(np.arange(5000), 3)
    m = Moments.from_cube(h, n_folds=3)
    for k in range(3):
        assert_same(m.select(fold=k), Moments.from_block(h[folds == k]), 1e-12)
    single = Moments.from_cube(h.astype(np.float32), n_folds=0, dtype="float32")
    assert_same(single, Moments.from_block(h.astype(np.float32)), 1e-6)


def test_float32_sums_do_not_drift_with_the_number_of_images(monkeypatch):
    monkeypatch.setattr(_numpy, "_BIN_ROWS", 128)
    sign = np.random.default_rng(0).choice([-0.1, 0.1], (100_000, 1, 2)).astype(np.float32)
    h = np.concatenate([sign, -sign], axis=1)  # equal squares: roundings of the running sum all go the same way
    assert_same(Moments.from_cube(h, n_folds=0, dtype="float32"), Moments.from_block(h), 1e-6)
    monkeypatch.setattr(_numpy, "_PROMOTE_EVERY", 10**9)
    drifted = Moments.from_cube(h, n_folds=0, dtype="float32")
    assert abs(drifted.within[0, 0] / Moments.from_block(h).within[0, 0] - 1) > 2e-6


def test_every_scatter_is_exactly_symmetric():
    m = Moments.from_cube(np.random.default_rng(0).standard_normal((50, 3, 150)), n_folds=2)
    for scatter in (m.between, m.within):
        np.testing.assert_array_equal(scatter, np.swapaxes(scatter, 1, 2))


# ---- offsets, scales, conditioning ----------------------------------------------------------------------------------


def reference_icr(h: np.ndarray) -> float:
    """Plug-in ICR in 50 digits of the features as they are stored."""
    with mpmath.workdps(50):
        n, v, d = h.shape
        x = [[[mpmath.mpf(float(h[i, a, j])) for j in range(d)] for a in range(v)] for i in range(n)]
        image = [[mpmath.fsum(x[i][a][j] for a in range(v)) / v for j in range(d)] for i in range(n)]
        view = [[mpmath.fsum(x[i][a][j] for i in range(n)) / n for j in range(d)] for a in range(v)]
        grand = [mpmath.fsum(view[a][j] for a in range(v)) / v for j in range(d)]
        t = [[image[i][j] - grand[j] for j in range(d)] for i in range(n)]
        e = [[x[i][a][j] - image[i][j] - view[a][j] + grand[j] for j in range(d)] for i in range(n) for a in range(v)]
        between, within = mpmath.zeros(d), mpmath.zeros(d)
        for j in range(d):
            for k in range(d):
                between[j, k] = mpmath.fsum(row[j] * row[k] for row in t) / (n - 1)
                within[j, k] = mpmath.fsum(row[j] * row[k] for row in e) / ((n - 1) * (v - 1))
        solved = mpmath.lu_solve(within, between) if d == 1 else within**-1 * between
        snr = mpmath.fsum(solved[j, j] for j in range(d)) / d - mpmath.mpf(1) / v
        return float(1 / (1 + snr))


def hard_features(dtype: str, *, offset: float = 0.0, scales: bool = False, cond: float = 1.0) -> np.ndarray:
    """60 images, 2 views, 4 features of spread 1, of which two agree but for 1/sqrt(cond)."""
    rng = np.random.default_rng(5)
    h = rng.standard_normal((60, 1, 4)) + rng.standard_normal((60, 2, 4))
    if cond > 1:
        h[..., 1] = h[..., 0] + 2 / np.sqrt(cond) * h[..., 1]
    if scales:
        h = h * np.array([1e-6, 1e-2, 1e2, 1e6])
    return (h + offset).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("case", "second_pass"),
    [
        ({}, False),
        ({"offset": 1e4}, False),
        ({"scales": True}, False),
        ({"cond": 1e2}, False),
        ({"cond": 1e3}, True),
        ({"cond": 1e6}, True),
        ({"cond": 1e8}, True),
        ({"cond": 1e8, "scales": True}, True),
    ],
    ids=str,
)
def test_hard_features_come_out_right_against_fifty_digits(dtype, case, second_pass):
    h = hard_features(dtype, **case)
    m = Moments.from_cube(h, n_folds=0)
    assert m.products == ("float64" if second_pass or dtype == "float64" else "float32")
    unit = 2.0**-24 if m.products == "float32" else 2.0**-53
    error = abs(ik.icr(m) - reference_icr(h))
    assert error <= 4 * unit * m.condition_number
    assert error < 1e-4


def test_offset_and_conditioning_together_in_float64():
    h = hard_features("float64", offset=1e4, cond=1e8)
    assert abs(ik.icr(Moments.from_cube(h, n_folds=0)) - reference_icr(h)) < 1e-6


@pytest.mark.parametrize("scale", [1e-20, 1e-25, 1e18, 1e25])
def test_squares_beyond_float32_are_taken_in_float64(scale):
    h = (hard_features("float64") * scale).astype(np.float32)
    m = Moments.from_cube(h, n_folds=0)
    assert m.products == "float64"
    assert ik.icr(m) == pytest.approx(reference_icr(h), abs=1e-9)


def test_squares_of_image_means_beyond_float32_are_taken_in_float64():
    h = np.random.default_rng(0).standard_normal((60, 2, 3))
    h[:30] += 1e21
    h = h.astype(np.float32)
    h[:, 1] *= np.float32(1.001)  # the residual stays inside the range
    for n_folds in (0, 10):
        m = Moments.from_cube(h, n_folds=n_folds)
        assert m.products == "float64" and np.isfinite(m.between).all()


@pytest.mark.parametrize("dtype", ["auto", "float64"])
@pytest.mark.parametrize("n_folds", [0, 10])
@pytest.mark.parametrize("scale", [1e154, 1e200, 1e307])
def test_squares_beyond_float64_are_refused_as_such(dtype, n_folds, scale):
    h = np.random.default_rng(0).standard_normal((60, 2, 4))
    assert np.isfinite(Moments.from_cube(h * 1e150, n_folds=n_folds, dtype=dtype).within).all()
    h[..., [1, 3]] *= scale
    match = (
        r"X: all features are finite, but the squares of 2 of 4 overflow float64 .*feature 1.*scale the features down"
    )
    with pytest.raises(NonFiniteError, match=match):
        Moments.from_cube(h, n_folds=n_folds, dtype=dtype)


@pytest.mark.parametrize("n_folds", [0, 10])
def test_squares_beyond_float32_are_refused_where_float32_was_asked_for(n_folds):
    h = (hard_features("float64") * 1e25).astype(np.float32)
    with pytest.raises(
        NonFiniteError, match=r"4 of 4 overflow float32 .*take dtype='auto', or scale the features down"
    ):
        Moments.from_cube(h, n_folds=n_folds, dtype="float32")


@pytest.mark.parametrize("n_folds", [0, 10])
@pytest.mark.parametrize("scale", [1e-17, 1e-23, 1e-30])
def test_one_tiny_feature_among_others_is_not_taken_for_constant(n_folds, scale):
    h = hard_features("float64")
    h[..., 2] *= scale
    h = h.astype(np.float32)
    m = Moments.from_cube(h, n_folds=n_folds)
    assert m.products == "float64" and m.total.within[2, 2] > 0
    # The reference, too, takes a power of two out first: 50 digits do not span squares of 1e-30 beside 1.
    up = 2.0 ** np.array([0, 0, -round(np.log2(scale)), 0])
    assert ik.icr(m) == pytest.approx(reference_icr(h.astype(np.float64) * up), abs=1e-9)
    assert ik.ICREstimator(n_folds=n_folds, drop_constant=True).fit(h).dropped_features_.size == 0


@pytest.mark.parametrize("n_folds", [0, 10])
def test_a_tiny_feature_that_wakes_up_after_the_first_block_is_not_taken_for_constant(monkeypatch, n_folds):
    in_blocks(monkeypatch, 20)
    h = hard_features("float32")
    h[..., 2] = 0.25
    h[..., 3] *= np.float32(1e-23)
    h[:40, :, 3] = 0
    m = Moments.from_cube(h, n_folds=n_folds)
    assert m.products == "float64"
    assert not m.total.within[2].any() and m.total.within[3, 3] > 0


@pytest.mark.parametrize("n_folds", [0, 10])
@pytest.mark.parametrize("value", [0.0, 0.1, -3e4, 1e-23])
def test_an_exactly_constant_feature_costs_no_second_pass(monkeypatch, n_folds, value):
    in_blocks(monkeypatch, 16)
    h = hard_features("float32")
    h[..., 1] = value
    h[..., 3] = 2 * value
    assert Moments.from_cube(h, n_folds=n_folds).products == "float32"
    h[:, 1, 3] = value - 1  # of each view its own
    assert Moments.from_cube(h, n_folds=n_folds).products == "float32"
    assert Moments.from_cube(np.full_like(h, value), n_folds=n_folds).products == "float32"


def test_the_order_of_the_offsets_is_no_trap():
    # The first block has another mean than the rest: a shift is a guess, never a bias.
    h = np.random.default_rng(0).standard_normal((6000, 2, 3))
    h[3000:] += 500
    m = Moments.from_cube(h, n_folds=0)
    assert_same(m, Moments.from_block(h), 1e-12)
    assert_same(Moments.from_cube(h.astype(np.float32), n_folds=0), Moments.from_block(h.astype(np.float32)), 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [0.1, 1e4 / 3, -7e-5])
def test_a_constant_feature_has_exactly_no_scatter(dtype, value):
    h = np.random.default_rng(0).standard_normal((1111, 2, 3)).astype(dtype)
    h[..., 1] = value
    m = Moments.from_cube(h, n_folds=4)
    for scatter in (m.between, m.within, m.total.within_uncentred[None]):
        assert not scatter[:, 1].any() and not scatter[:, :, 1].any()
    np.testing.assert_allclose(m.mean[:, :, 1], value, rtol=1e-7 if dtype == "float32" else 1e-15)


def test_nothing_but_constants_is_told_from_nothing_but_tiny_numbers():
    for dtype in (np.float32, np.float64):
        with pytest.raises(DegenerateFeaturesError, match=r"3 of 3 features .* \[0, 1, 2\]"):
            ik.ICREstimator().fit(np.ones((10, 2, 3), dtype))


# ---- choices --------------------------------------------------------------------------------------------------------


def test_products_asked_for_are_those_made():
    h = np.random.default_rng(0).standard_normal((50, 2, 3))
    for features in (h, h.astype(np.float32), h.astype(np.float16)):
        for dtype in ("float32", "float64"):
            assert Moments.from_cube(features, dtype=dtype).products == dtype
    assert Moments.from_cube(h).products == "float64"
    assert Moments.from_cube(h.astype(np.float32)).products == "float32"
    with pytest.raises(ValueError, match="dtype must be 'auto', 'float32' or 'float64', not 'half'"):
        Moments.from_cube(h, dtype="half")


def test_float64_products_of_float32_features_are_exact_to_float64():
    h = (np.random.default_rng(0).standard_normal((70, 2, 4)) + 1e3).astype(np.float32)
    assert_same(Moments.from_cube(h, dtype="float64", n_folds=0), Moments.from_block(h), 1e-12)


def test_the_backend_is_looked_up_by_name(monkeypatch):
    seen = []

    def spy(features, folds, n_folds, products):
        seen.append((features.shape, n_folds, products))
        return _numpy.accumulate(features, folds, n_folds, products)

    monkeypatch.setitem(PASSES, "numpy", spy)
    Moments.from_cube(hard_features("float32", cond=1e8), n_folds=2)
    assert seen == [((60, 2, 4), 2, "float32"), ((60, 2, 4), 2, "float64")]


@pytest.mark.parametrize(("cond", "products"), [(10.0, "float32"), (1e4, "float64"), (1e8, "float64")])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_single_rows_in_float32_keep_every_eigenvalue(cond, products, offset):
    rng = np.random.default_rng(2)
    rotation, _ = np.linalg.qr(rng.standard_normal((40, 40)))
    rows = rng.standard_normal((500, 40)) * np.geomspace(1, cond**-0.5, 40) @ rotation + offset
    h = rows[:, None].astype(np.float32)
    m = row_moments(h, 0, "auto")
    assert m.products == products and row_moments(h, 0).products == "float64"
    exact = np.linalg.eigvalsh(np.cov(h[:, 0].astype(np.float64), rowvar=False) * 499)[::-1]
    np.testing.assert_allclose(row_eigenvalues(m), exact, rtol=1e-4)


def test_single_rows_with_dead_units_need_no_float64():
    h = np.random.default_rng(0).standard_normal((300, 1, 6)).astype(np.float32)
    h[..., 2] = 0.1
    m = row_moments(h, 0, "auto")
    assert m.products == "float32"
    assert np.count_nonzero(row_eigenvalues(m)) == 5
    assert row_moments(h[:4], 0, "auto").products == "float64"  # fewer rows than features: zeros are to be told
    h[..., 2] = h[..., 1]
    assert row_moments(h, 0, "auto").products == "float64"
    h[..., 2] *= 1e-25
    assert row_moments(h, 0, "auto").products == "float64"


# ---- degenerate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_folds", [0, 5])
def test_one_bad_cell_is_named_with_image_view_level_feature_and_count(value, dtype, n_folds):
    h = np.random.default_rng(0).standard_normal((300, 3, 5)).astype(dtype)
    h[217, 2, 3] = value
    cube = ik.from_arrays({"mid": h}, sigmas=[0.3], image_ids=[f"img{i}" for i in range(300)])
    with pytest.raises(NonFiniteError) as error:
        Moments.from_cube(cube, n_folds=n_folds)
    for part in ("mid at sigma 0.3", "1 of 4500", str(value), "image img217", "view 2", "feature 3"):
        assert part in str(error.value)


def test_inf_and_minus_inf_do_not_hide_each_other():
    h = np.random.default_rng(0).standard_normal((20, 2, 3))
    h[3, 0, 1], h[3, 1, 1] = np.inf, -np.inf
    with pytest.raises(NonFiniteError, match=r"2 of 120 .* image 3, view 0, feature 1"):
        Moments.from_cube(h, n_folds=0)


def test_a_bad_cell_far_into_a_stream_of_blocks(monkeypatch):
    in_blocks(monkeypatch, 16)
    h = np.zeros((200, 2, 3)) + np.random.default_rng(0).standard_normal((200, 2, 3))
    h[199, 1, 2] = np.nan
    with pytest.raises(NonFiniteError, match="image 199, view 1, feature 2"):
        Moments.from_cube(h, n_folds=3)
    h[0] = np.nan
    with pytest.raises(NonFiniteError, match=r"7 of 1200 .* image 0, view 0, feature 0"):
        Moments.from_cube(h, n_folds=3)


def test_a_fold_without_images_is_empty():
    m = Moments.from_cube(np.random.default_rng(0).standard_normal((3, 2, 2)), n_folds=10)
    assert int(m.n_images.sum()) == 3
    empty = m.n_images == 0
    assert empty.any()
    for array in (m.mean, m.between, m.within):
        assert not array[empty].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_array_in_memory_goes_fold_by_fold_to_the_same_bits_as_a_stream(monkeypatch, dtype):
    # In memory all folds share one workspace; a file is read once, and fills the bins of all folds side by side.
    h = np.random.default_rng(0).standard_normal((3000, 3, 6)).astype(dtype)
    h += np.random.default_rng(1).standard_normal((3000, 1, 6)).astype(dtype)
    folds = fold_of_images(np.arange(3000), 4)
    assert as_features(h).in_memory
    here = _numpy.accumulate(as_features(h), folds, 4, dtype)
    monkeypatch.setattr(Features, "in_memory", False)
    stream = _numpy.accumulate(as_features(h), folds, 4, dtype)
    for name in ("n_images", "mean", "between", "within"):
        np.testing.assert_array_equal(getattr(here, name), getattr(stream, name), err_msg=name)
