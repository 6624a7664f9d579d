"""The search for nearest rows against scikit-learn's and prdc's, whatever the blocks, the precision and the place."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

import icrkit as ik
from icrkit._features import Features
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError
from icrkit.metrics import _nearest_rows
from icrkit.metrics._base import row_features
from icrkit.metrics._nearest_rows import CosineSearch, DistanceSearch, Nearest

PROPERTY = settings(max_examples=40, derandomize=True)


def cubes(n: int = 30, m: int = 25, v: int = 2, d: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A set searched for and the set searched, alike in law."""
    rng = np.random.default_rng(seed)
    scales = np.linspace(0.3, 2.0, d)
    return tuple(scales * rng.standard_normal((k, v, d)) + 1.0 for k in (n, m))


def rows_of(h: np.ndarray, views: str | int) -> np.ndarray:
    if views == "mean":
        return h.mean(axis=1)
    return h.reshape(-1, h.shape[2]) if views == "all" else h[:, views]


def by_distance(x: np.ndarray, y: np.ndarray, k: int = 1, **options: object) -> Nearest:
    views = options.pop("views", 0)
    return DistanceSearch(row_features(y), views).nearest(row_features(x), k, **options)


def by_cosine(x: np.ndarray, y: np.ndarray, k: int = 1, **options: object) -> Nearest:
    views = options.pop("views", 0)
    return CosineSearch(row_features(y), views).nearest(row_features(x), k, **options)


def read_by(patch: pytest.MonkeyPatch, images: int) -> None:
    """Have features read so many images at a time."""

    def blocks(self, target_bytes=None):
        for start in range(0, self.shape[0], images):
            yield start, self.read(start, start + images)

    patch.setattr(Features, "blocks", blocks)


# ---- independent code -----------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(2, 40),
    m=st.integers(4, 40),
    v=st.integers(1, 3),
    k=st.integers(1, 3),
    views=st.sampled_from(["mean", "all", 0]),
    seed=st.integers(0, 99),
    blocks=st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50)),
    images=st.integers(1, 50),
)
def test_any_blocks_give_the_neighbours_of_scikit_learn(n, m, v, k, views, seed, blocks, images):
    x, y = cubes(n, m, v, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in zip(("_QUERIES", "_CANDIDATES", "_MOST_CLOSE"), blocks, strict=True):
            patch.setattr(_nearest_rows, name, size)
        read_by(patch, images)
        found = by_distance(x, y, k, views=views)
        turned = by_cosine(x, y, k, views=views)
    distances, rows = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows_of(y, views)).kneighbors(
        rows_of(x, views)
    )  # fmt: skip
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.values, distances, rtol=1e-8)
    cosines = cosine_similarity(rows_of(x, views), rows_of(y, views))
    order = np.argsort(-cosines, axis=1)[:, :k]
    np.testing.assert_array_equal(turned.rows, order)
    np.testing.assert_allclose(turned.values, np.take_along_axis(cosines, order, axis=1), rtol=1e-12, atol=1e-14)


@PROPERTY
@given(
    n=st.integers(2, 30),
    v=st.integers(1, 4),
    views=st.sampled_from(["mean", "all", 0]),
    blocks=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_an_image_is_not_its_own_neighbour(n, v, views, blocks):
    _, y = cubes(2, n, v)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_nearest_rows, "_QUERIES", blocks[0])
        patch.setattr(_nearest_rows, "_CANDIDATES", blocks[1])
        near, alike = (search(y, y, exclude_self=True, views=views) for search in (by_distance, by_cosine))
    rows = rows_of(y, views)
    image = np.arange(len(rows)) // (v if views == "all" else 1)
    distances = np.where(image[:, None] == image, np.inf, cdist(rows, rows))
    cosines = np.where(image[:, None] == image, -np.inf, cosine_similarity(rows))
    np.testing.assert_array_equal(near.rows[:, 0], distances.argmin(axis=1))
    np.testing.assert_array_equal(alike.rows[:, 0], cosines.argmax(axis=1))
    np.testing.assert_allclose(near.values[:, 0], distances.min(axis=1), rtol=1e-12)


def test_prdc_has_the_same_distances(oracle):
    numbers, made = oracle("prdc")
    own = by_distance(made["training"], made["training"], 2, exclude_self=True).values
    other = by_distance(made["generated"], made["training"], 2).values
    for k, which in enumerate(("nearest", "second nearest")):
        np.testing.assert_allclose(own[:, k], numbers[f"{which} within training"], rtol=1e-8)
        np.testing.assert_allclose(other[:, k], numbers[f"{which} of another set"], rtol=1e-8)


# ---- precision ------------------------------------------------------------------------------------------------------


def test_far_offsets_and_odd_scales_cost_no_digits():
    x, y = cubes()
    want = by_distance(x, y, 2)
    for scale, offset in ((1e-30, 0.0), (1e30, 0.0), (1.0, 1e4), (1e-140, 0.0), (1e140, 0.0)):
        found = by_distance(x * scale + offset, y * scale + offset, 2)
        np.testing.assert_array_equal(found.rows, want.rows)
        np.testing.assert_allclose(found.values, want.values * scale, rtol=1e-11)
    for scale, offset in ((1e-30, 0.0), (1e30, 0.0), (1.0, 1e3)):
        found = by_distance(*((h * scale + offset).astype(np.float32) for h in (x, y)), 2)
        np.testing.assert_array_equal(found.rows, want.rows)
        np.testing.assert_allclose(found.values, want.values * scale, rtol=1e-3 if offset else 1e-6)
    want = by_cosine(x, y)
    for scale in (1e-140, 1e140):
        np.testing.assert_allclose(by_cosine(x * scale, y * scale).values, want.values, rtol=1e-12)
    for scale in (1e-30, 1e30):
        found = by_cosine(*((h * scale).astype(np.float32) for h in (x, y)))
        np.testing.assert_allclose(found.values, want.values, rtol=1e-6)


def test_copies_have_distance_zero_and_cosine_one():
    _, y = cubes(m=2000, v=1, d=64)
    y = (y + 100).astype(np.float32)
    near, alike = by_distance(y[::3], y), by_cosine(y[::3], y)
    for found in (near, alike):
        np.testing.assert_array_equal(found.rows[:, 0], np.arange(0, 2000, 3))
    assert (near.values == 0).all()
    np.testing.assert_allclose(alike.values, 1.0, rtol=1e-12)
    np.testing.assert_allclose(by_cosine((2.7 * y[::3]).astype(np.float32), y).values, 1.0, rtol=1e-12)
    # Near copies keep their distance from 1, of which single products in float32 would see nothing.
    close = (y[::3] * (1 + 1e-5 * np.random.default_rng(0).standard_normal(y[::3].shape))).astype(np.float32)
    unit, other = (h[:, 0] / np.linalg.norm(h[:, 0], axis=1, keepdims=True) for h in map(np.float64, (close, y[::3])))
    want = np.square(unit - other).sum(axis=1) / 2
    np.testing.assert_allclose(1 - by_cosine(close, y).values[:, 0], want, rtol=0.02)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_of_pixels_are_exact(dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 256, (n, 1, 27)) for n in (30, 25))
    found = by_distance(x.astype(dtype), y.astype(dtype), 2)
    squares = np.square(x - y[:, 0]).sum(axis=2)
    np.testing.assert_array_equal(found.values, np.sqrt(np.sort(squares, axis=1)[:, :2]))


def test_float32_finds_what_float64_finds():
    x, y = cubes(300, 400, 1, 64)
    for search in (by_distance, by_cosine):
        wide, narrow = search(x, y, 2), search(x.astype(np.float32), y.astype(np.float32), 2)
        assert (wide.rows == narrow.rows).mean() > 0.99
        np.testing.assert_allclose(narrow.values, wide.values, rtol=1e-5)


# ---- degenerate input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [by_distance, by_cosine])
def test_what_is_degenerate_is_named(search):
    x, y = cubes()
    with pytest.raises(DegenerateFeaturesError, match="all rows of the training set are the same"):
        search(x, np.ones((9, 1, 5)))
    with pytest.raises(CubeFormatError, match="5 features and the training set 4"):
        search(x, y[:, :, :4])
    with pytest.raises(ValueError, match="exclude_self"):
        search(x, y, exclude_self=True)
    with pytest.raises(ValueError, match="numbered from 0"):
        search(x, y, views=2)
    for bad in (np.nan, np.inf):
        spoilt = x.copy()
        spoilt[3, 0, 1] = bad
        for first, second in ((spoilt, y), (y, spoilt)):
            with pytest.raises(NonFiniteError, match="image 3, view 0, feature 1"):
                search(first, second)
    with pytest.raises(NonFiniteError, match="overflow"):
        search(x, np.where(y > 1, 1e308, -1e308))


SETS = (
    (ik.MemorizationRatio(0.6), functools.partial(ik.memorization_ratio, threshold=0.6)),
    (ik.AuthPct(), ik.auth_pct),
    (ik.NearestRatio(), ik.nearest_ratio),
)


@pytest.mark.parametrize(("est", "measure"), SETS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("rows", [False, True])
def test_one_generated_image_is_a_set_and_one_training_image_is_none(est, measure, rows):
    x, y = (h[:, 0] if rows else h for h in cubes(8, 25))
    est = clone(est).fit(y)
    each = [est.evaluate(x[k : k + 1]) for k in range(8)]
    assert each == [measure(x[k : k + 1], y) for k in range(8)] and set(each) <= {0.0, 1.0}
    assert np.mean(each) == est.evaluate(x) == measure(x, y)
    for call in (lambda: clone(est).fit(y[:1]), lambda: measure(x, y[:1]), lambda: est.evaluate(x[:0])):
        with pytest.raises(ValueError, match=r"at least \d images? are needed|minimum of [12] is required|0 sample"):
            call()


def test_rows_beyond_the_range_of_the_training_set_overflow_by_name():
    x, y = cubes()
    with pytest.raises(NonFiniteError, match="overflow"):
        by_distance(x * 1e100, y * 1e-100)
    far, near = (x * 1e30).astype(np.float32), (y * 1e-30).astype(np.float32)  # no matter for float64
    np.testing.assert_allclose(by_distance(far, near).values[:, 0], np.linalg.norm(far[:, 0].astype(float), axis=1))


def test_zero_vectors_are_similar_to_nothing():
    x, y = cubes()
    x[4] = 0
    with pytest.warns(UserWarning, match="1 feature vectors are all zero"):
        found = by_cosine(x, y)
    assert found.values[4, 0] == 0


# ---- against exact distances ----------------------------------------------------------------------------------------


def exact_neighbours(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and distances by differences in long double."""
    squares = np.array([np.square(y.astype(np.longdouble) - row).sum(axis=1) for row in x.astype(np.longdouble)])
    rows = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return rows, np.sqrt(np.take_along_axis(squares, rows, axis=1)).astype(np.float64)


def far_cluster(dtype: type, offset: float, far: float, d: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Two sets at a common offset, a third of each in a far cluster, one row an outlier farther still."""
    rng = np.random.default_rng(1)
    sets = [0.1 * rng.standard_normal((n, 1, d)) + offset for n in (150, 700)]
    for h in sets:
        h[::3, :, 0] += far
        h[1] += 100 * far
    return tuple(h.astype(dtype) for h in sets)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("offset", "far"), [(0, 0), (1e4, 0), (0, 1e4), (0, 1e6), (1e4, 1e4), (-1e6, 1e6)])
def test_no_product_decides_which_row_is_nearest(dtype, offset, far):
    x, y = far_cluster(dtype, offset, far)
    rows, distances = exact_neighbours(x[:, 0], y[:, 0], 3)
    found = by_distance(x, y, 3)
    np.testing.assert_allclose(found.values, distances, rtol=1e-9)
    np.testing.assert_allclose(found.values[distances[:, 1] < far / 2 + 10], distances[distances[:, 1] < far / 2 + 10])
    apart = (np.diff(exact_neighbours(x[:, 0], y[:, 0], 4)[1], axis=1) > 1e-9 * distances).all(axis=1)
    np.testing.assert_array_equal(found.rows[apart], rows[apart])
    assert apart.mean() > (0.8 if dtype == np.float64 or not offset else 0.0)
    again = by_distance(y, y, exclude_self=True)
    np.testing.assert_allclose(again.values[:, 0], exact_neighbours(y[:, 0], y[:, 0], 2)[1][:, 1], rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, 100, 1e4])
def test_no_product_decides_which_row_points_the_same_way(dtype, offset):
    x, y = far_cluster(dtype, offset, 3.0)
    units = [h[:, 0].astype(np.longdouble) for h in (x, y)]
    units = [h / np.sqrt(np.square(h).sum(axis=1, keepdims=True)) for h in units]
    rows, distances = exact_neighbours(*units, 2)
    found = by_cosine(x, y)
    np.testing.assert_allclose(1 - found.values[:, 0], distances[:, 0] ** 2 / 2, rtol=1e-6, atol=1e-15)
    apart = distances[:, 1] > distances[:, 0] * (1 + 1e-6)
    np.testing.assert_array_equal(found.rows[apart, 0], rows[apart, 0])
    assert apart.mean() > 0.9


@pytest.mark.parametrize("search", [by_distance, by_cosine])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_rows_that_tie_the_first_is_the_nearest(search, dtype):
    # Copies at many places of a block: BLAS gives them products that differ in their last digits.
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30, 37)).astype(dtype)
    y = np.tile(rows, (70, 1))[:, None]
    x = (rows + 0.01 * rng.standard_normal(rows.shape))[:, None].astype(dtype)
    found = search(x, y, 3)
    np.testing.assert_array_equal(found.rows, np.arange(30)[:, None] + [0, 30, 60])
    assert (np.ptp(found.values, axis=1) == 0).all()
    # Two rows that mirror one another about a query tie, whatever the order of the sum over features.
    centre, step = rng.standard_normal(64), rng.standard_normal(64)
    y = np.stack([centre + 50, centre + step, centre - step, centre + rng.permutation(step)])[:, None]
    assert by_distance(np.stack([centre, centre])[:, None], y).rows[0, 0] == 1
