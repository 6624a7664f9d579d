"""Distances against exact ones, at large offsets and beside one far class or outlier, and the metrics made of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit.metrics._distances import middle, pair_squares, squared_distances, stable_descending
from icrkit.metrics._probes import _CosineNeighbors, _first_of_greatest

Long = np.longdouble


def exact_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([np.square(y.astype(Long) - row).sum(axis=1) for row in x.astype(Long)])


def rows_at(offset: float, far: float, outlier: float, dtype: type, n: int = 90, d: int = 6):
    """Rows of three classes at a common offset, the last far away, one row farther still; two views alike."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    x = 0.3 * rng.standard_normal((n, d)) + offset
    x[y == 1, 0] += 1
    x[y == 2, 1] += far
    x[0] += outlier
    return x.astype(dtype), y


PLACES = [(0, 0, 0), (1e4, 0, 0), (0, 1e4, 0), (0, 0, 1e5), (1e4, 1e4, 1e6), (-1e4, 1e5, 0)]
places = pytest.mark.parametrize(("offset", "far", "outlier"), PLACES)
types = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@settings(max_examples=60)
@given(
    n=st.integers(1, 40), m=st.integers(1, 40), d=st.integers(1, 9), seed=st.integers(0, 999),
    far=st.sampled_from([0.0, 1e4, 1e8, 1e14]), close=st.sampled_from([1.0, 1e-3, 1e-9]),
)  # fmt: skip
def test_squared_distances_are_right_to_ten_digits(n, m, d, seed, far, close):
    rng = np.random.default_rng(seed)
    x, y = (close * rng.standard_normal((k, d)) for k in (n, m))
    x[::3] += far
    y[::4] += far
    y[0] = x[0]  # a copy
    found, want = squared_distances(x, y), exact_squares(x, y).astype(float)
    np.testing.assert_allclose(found, want, rtol=1e-9)
    assert found[0, 0] == 0
    i, j = np.divmod(np.arange(n * m), m)
    np.testing.assert_allclose(pair_squares(x, y, i, j).reshape(n, m), want, rtol=1e-12)
    np.testing.assert_allclose(squared_distances(x, x), exact_squares(x, x).astype(float), rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 255, 256, 1000])
def test_the_middle_lies_among_most_rows_and_is_exact_for_equal_ones(n):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 3))
    x[: (n - 1) // 3] += 1e9
    assert (np.abs(middle(x)) < 10).all()
    np.testing.assert_array_equal(middle(np.full((n, 3), 0.1)), [0.1] * 3)


def test_ties_keep_their_places_and_nothing_else_does():
    values = np.array([0.5, 1.0, 0.5 + 1e-16, 0.3, 1.0 - 1e-13, 0.5 - 1e-14, 0.7])
    np.testing.assert_array_equal(stable_descending(values), [1, 4, 6, 0, 2, 5, 3])
    rng = np.random.default_rng(0)
    spread = rng.permutation(100) / 100
    np.testing.assert_array_equal(stable_descending(spread), np.argsort(-spread))


# ---- the metrics ----------------------------------------------------------------------------------------------------


def exact_silhouette(squares: np.ndarray, y: np.ndarray) -> float:
    distances = np.sqrt(squares)
    total = Long(0)
    for i in range(len(y)):
        mean = [distances[i, y == k].sum() / ((y == k).sum() - (k == y[i])) for k in range(3)]
        a, b = mean[y[i]], min(mean[k] for k in range(3) if k != y[i])
        total += (b - a) / max(a, b)
    return float(total / len(y))


@types
@places
@pytest.mark.parametrize("block_size", [1024, 20])
def test_silhouette(offset, far, outlier, dtype, block_size):
    x, y = rows_at(offset, far, outlier, dtype)
    want = exact_silhouette(exact_squares(x, x), y)
    assert ik.silhouette(x, y, block_size=block_size) == pytest.approx(want, rel=1e-8)
    unit = x.astype(Long) / np.sqrt(np.square(x.astype(Long)).sum(axis=1, keepdims=True))
    want = exact_silhouette((exact_squares(unit, unit) / 2) ** 2, y)
    assert ik.silhouette(x, y, metric="cosine") == pytest.approx(want, rel=1e-5, abs=1e-7)


@types
@places
@pytest.mark.parametrize("t", [0.01, 2.0])
def test_uniformity_and_alignment(offset, far, outlier, dtype, t):
    x, _ = rows_at(offset, far, outlier, dtype)
    pairs = np.triu_indices(len(x), 1)
    want = np.log(np.exp(-t * exact_squares(x, x)[pairs]).mean())
    assert ik.uniformity(x[:, None], t, normalize=None, block_size=20) == pytest.approx(float(want), rel=1e-9)
    h = np.stack([x, x[::-1]], axis=1)
    want = np.square(x.astype(Long) - x[::-1].astype(Long)).sum(axis=1).mean()
    assert ik.alignment(h, normalize=None) == pytest.approx(float(want), rel=1e-12)
    unit = h.astype(Long) / np.sqrt(np.square(h.astype(Long)).sum(axis=2, keepdims=True))
    want = np.square(unit[:, 0] - unit[:, 1]).sum(axis=1).mean()
    assert ik.alignment(h) == pytest.approx(float(want), rel=1e-7)
    want = np.log(np.exp(-t * exact_squares(unit[:, 0], unit[:, 0])[pairs]).mean())
    assert ik.uniformity(h, t) == pytest.approx(float(want), rel=1e-5, abs=1e-12)


@types
@places
def test_kernel_distance(offset, far, outlier, dtype):
    x, _ = rows_at(offset, far, outlier, dtype)
    a, b = x[::2].astype(Long), x[1::2].astype(Long)
    m, d = len(a), x.shape[1]
    centre = x.astype(Long).mean(axis=0)

    def kernel(p, q):
        # Less its values at the mean: the estimate is the same, and long double has digits to spare.
        parts = [(p @ q.T / d + 1) ** 3, (p @ centre / d + 1)[:, None] ** 3, (q @ centre / d + 1) ** 3]
        return parts[0] - parts[1] - parts[2] + (centre @ centre / d + 1) ** 3

    within = sum(kernel(s, s).sum() - np.trace(kernel(s, s)) for s in (a, b)) / (m * (m - 1))
    want, size = within - 2 * kernel(a, b).sum() / m**2, np.abs(kernel(a, b)).mean()
    noise = float(np.abs((a @ b.T / d + 1) ** 3).max()) * 1e-17  # of the reference itself
    assert ik.kernel_distance(x[::2], x[1::2]) == pytest.approx(float(want), rel=1e-8, abs=1e-10 * float(size) + noise)


@types
@places
def test_cka(offset, far, outlier, dtype):
    x, _ = rows_at(offset, far, outlier, dtype)
    z = (np.abs(x - np.median(x, axis=0)) + 0.1 * x[:, ::-1]).astype(dtype)
    n = len(x)

    def hsic(p, q):
        p, q = (s.astype(Long) - s.astype(Long).mean(axis=0) for s in (p, q))
        k, g = (s @ s.T for s in (p, q))
        k[np.diag_indices(n)] = g[np.diag_indices(n)] = 0
        both = (
            (k * g).sum()
            + k.sum() * g.sum() / ((n - 1) * (n - 2))
            - 2 * (k.sum(axis=0) * g.sum(axis=0)).sum() / (n - 2)
        )
        return both / (n * (n - 3))

    want = hsic(x, z) / np.sqrt(hsic(x, x) * hsic(z, z))
    try:
        assert ik.linear_cka(x, z) == pytest.approx(float(want), rel=1e-6)
    except ik.exceptions.DegenerateFeaturesError:
        assert outlier  # one far row is all there is, to the precision of the features


@types
@places
def test_neighbours(offset, far, outlier, dtype):
    x, _ = rows_at(offset, far, outlier, dtype)
    unit = x.astype(Long) / np.sqrt(np.square(x.astype(Long)).sum(axis=1, keepdims=True))
    cosines = unit @ unit.T
    found = ik.neighbor_retrieval(x, queries=[3, 5], n_neighbors=4)
    for row, images, values in zip((3, 5), found.images, found.similarity, strict=True):
        others = np.delete(np.argsort(-cosines[row], kind="stable"), np.argsort(-cosines[row], kind="stable") == row)
        np.testing.assert_allclose(
            cosines[row, images].astype(float), cosines[row, others[:4]].astype(float), atol=2e-12
        )
        np.testing.assert_allclose(values, cosines[row, images].astype(float), atol=1e-14)


def test_copies_of_an_image_are_found_in_their_order():
    rng = np.random.default_rng(0)
    rows = np.tile(rng.standard_normal((5, 1, 37)), (60, 1, 1)).astype(np.float32)
    found = ik.neighbor_retrieval(rows, queries=[0, 7], n_neighbors=20)
    np.testing.assert_array_equal(found.images, [np.arange(5, 105, 5), np.delete(np.arange(2, 107, 5), 1)])


@types
@places
def test_class_measures(offset, far, outlier, dtype):
    x, y = rows_at(offset, far, outlier, dtype)
    wide = x.astype(Long)
    means = np.array([wide[y == k].mean(axis=0) for k in range(3)])
    spread = np.array([np.square(wide[y == k] - means[k]).sum(axis=1).mean() for k in range(3)])
    pairs = [(spread[i] + spread[j]) / 2 / np.square(means[i] - means[j]).sum() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert ik.cdnv(x, y) == pytest.approx(float(np.mean(pairs)), rel=1e-8)
    centred = means - means.mean(axis=0)
    quotient = (spread.sum() * 30 / 90) / (np.square(centred).sum() / 3)
    assert ik.nc1(x, y, "quotient") == pytest.approx(float(quotient), rel=1e-9)
    unit = wide / np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    means = np.array([unit[y == k].mean(axis=0) for k in range(3)])
    within = np.mean([np.square(unit[y == k] - means[k]).sum(axis=1).mean() for k in range(3)])
    between = np.square(means - means.mean(axis=0)).sum() / 3
    assert ik.class_separation(x, y) == pytest.approx(float(between / (within + between)), rel=1e-6)


@types
@places
def test_frechet_distance_and_ranks(offset, far, outlier, dtype):
    x, _ = rows_at(offset, far, outlier, dtype)
    a, b = x[::2].astype(Long), x[1::2].astype(Long)
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    same = ik.frechet_distance(x[::2], (x[::2].astype(np.float64) + 3.0))
    traces = np.square(a - a.mean(axis=0)).sum() / (len(a) - 1)
    assert same == pytest.approx(9.0 * x.shape[1], abs=1e-12 * float(traces) + 1e-9 * (1 + abs(offset)))
    assert ik.frechet_distance(x[::2], x[1::2]) >= float(shift) * (1 - 1e-9)
    centred = x.astype(Long) - x.astype(Long).mean(axis=0)
    values = np.square(np.linalg.svd(centred.astype(np.float64), compute_uv=False))
    assert ik.participation_ratio(x) == pytest.approx(float(values.sum() ** 2 / np.square(values).sum()), rel=1e-6)


# ---- float32 products of many rows -----------------------------------------------------------------------------------


def many_rows(kind: str, n: int = 2100, d: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Rows enough for float32 products, of two views alike; as float32 holds them."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 4
    x = rng.standard_normal((4, d))[y] + 0.5 * rng.standard_normal((n, d))
    if kind == "offset":
        x += 1e4
    elif kind == "far class":
        x[y == 3] += 1e4
    elif kind == "outlier":
        x[7] += 3.0
    x = x[y] if kind == "copies" else x
    return (1e-3 * x if kind == "close" else x).astype(np.float32), y


@pytest.mark.parametrize("kind", ["plain", "offset", "far class", "outlier", "copies", "close"])
def test_means_over_many_pairs_in_float32_are_those_in_float64(kind):
    x, y = many_rows(kind)
    wide, halves = x.astype(np.float64), x[:, None] / np.float32(8)
    assert ik.silhouette(x, y) == pytest.approx(ik.silhouette(wide, y), rel=2e-7)
    for t in (0.1, 2.0):
        want = ik.uniformity(halves.astype(np.float64), t, normalize=None)
        assert ik.uniformity(halves, t, normalize=None) == pytest.approx(want, rel=2e-7)
        assert ik.uniformity(x[:, None], t) == pytest.approx(ik.uniformity(wide[:, None], t), rel=2e-7)


@pytest.mark.parametrize("kind", ["plain", "offset", "far class", "outlier", "copies", "close"])
@pytest.mark.parametrize("temperature", [0.1, 1e-5])
def test_votes_of_float32_products_count_only_where_rounding_cannot_change_them(kind, temperature):
    x, y = many_rows(kind)
    rng = np.random.default_rng(1)
    x = (x + rng.standard_normal(x.shape)).astype(np.float32)  # classes overlap, and votes are close
    x[1000:1100] = x[900:1000]
    probe = _CosineNeighbors(20, temperature).fit(x[:1500], y[:1500])
    want = _first_of_greatest(probe._votes(x[1500:]))
    np.testing.assert_array_equal(probe.predict(x[1500:]), want)
