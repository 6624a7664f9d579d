"""Neighbours by the invariant and by the residual against scikit-learn's cosines, in memory and however stored."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics.pairwise import cosine_similarity

import icrkit as ik
from icrkit._features import Features
from icrkit.exceptions import DegenerateFeaturesError, NonFiniteError, NotEnoughDataError
from icrkit.metrics import _neighbors
from icrkit.metrics._neighbors import NeighborRetrieval, Neighbors, neighbor_retrieval

PROPERTY = settings(max_examples=30, derandomize=True)


def features(n: int = 20, v: int = 3, d: int = 7, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 1, d)) + 0.5 * rng.standard_normal((n, v, d)) + 0.5


def brute(h: np.ndarray, query: int, component: str, view: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Candidates, nearest first and without the query, and their cosines."""
    mean = h.mean(axis=1)
    if component == "invariant":
        rows, own = mean, query
    else:
        rows, own = (h - mean[:, None]).reshape(-1, h.shape[2]), query * h.shape[1] + view
    cosines = cosine_similarity(rows[own : own + 1], rows)[0]
    order = np.argsort(-cosines, kind="stable")
    order = order[order != own]
    return order, cosines[order]


def same(a: Neighbors, b: Neighbors, rtol: float = 1e-10) -> None:
    for field in Neighbors._fields:
        one, two = getattr(a, field), getattr(b, field)
        if field == "similarity":
            np.testing.assert_allclose(one, two, rtol=rtol, atol=rtol)
        else:
            np.testing.assert_array_equal(one, two)


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_directions_by_hand():
    h = np.array([[[1.0, 1.0], [1.0, -1.0]], [[0.0, 5.0], [0.0, 3.0]], [[3.0, 2.0], [1.0, 2.0]]])
    found = neighbor_retrieval(h, queries=0, n_neighbors=2)  # means (1, 0), (0, 4), (2, 2)
    np.testing.assert_array_equal(found.images, [[2, 1]])
    np.testing.assert_allclose(found.similarity, [[np.sqrt(0.5), 0.0]], atol=1e-15)
    assert found.views is None
    # Residuals: +-(0, 1) twice, +-(1, 0).
    found = neighbor_retrieval(h, queries=0, component="residual", n_neighbors=1, n_farthest=2, view=1)
    np.testing.assert_array_equal(found.images, [[1, 0, 1]])
    np.testing.assert_array_equal(found.views, [[1, 0, 0]])
    np.testing.assert_array_equal(found.similarity, [[1.0, -1.0, -1.0]])


def test_other_views_of_the_query_are_its_opposites_on_average():
    h = features(v=5)
    found = neighbor_retrieval(h, queries=3, component="residual", n_neighbors=99)
    xi = h[3] - h[3].mean(axis=0)
    own = found.images[0] == 3
    assert own.sum() == 4
    lengths = np.linalg.norm(xi, axis=1)
    assert (found.similarity[0, own] * lengths[found.views[0, own]]).sum() == pytest.approx(-lengths[0], rel=1e-12)


# ---- independent code -----------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(3, 30),
    v=st.integers(2, 4),
    d=st.integers(2, 20),
    component=st.sampled_from(["invariant", "residual"]),
    piece=st.integers(1, 30),
    tile=st.integers(1, 4000),
    seed=st.integers(0, 99),
)
def test_any_pieces_give_the_neighbours_of_scikit_learn(n, v, d, component, piece, tile, seed):
    h = features(n, v, d, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_neighbors, "_PIECE", piece)
        patch.setattr(_neighbors, "_TILE_BYTES", tile)
        patch.setattr(_neighbors, "_QUERY_BYTES", tile)
        found = neighbor_retrieval(h, [0, n - 1], component, n_neighbors=1, n_farthest=1, view=v - 1)
    per_image = v if component == "residual" else 1
    for q, query in enumerate([0, n - 1]):
        order, cosines = brute(h, query, component, v - 1)
        images, views = np.divmod(order[[0, -1]], per_image)
        np.testing.assert_array_equal(found.images[q], images)
        if component == "residual":
            np.testing.assert_array_equal(found.views[q], views)
        np.testing.assert_allclose(found.similarity[q], cosines[[0, -1]], rtol=1e-9, atol=1e-12)


def test_real_features_by_both_components():
    cube = ik.datasets.load_fashion_cube().select(sigma=0.057, tolerance=0.1)
    h = cube.level().to_numpy().astype(np.float64)
    for component in ("invariant", "residual"):
        found = neighbor_retrieval(cube, range(5), component, n_neighbors=10)
        for q in range(5):
            order, cosines = brute(h, q, component)
            np.testing.assert_array_equal(found.images[q], order[:10] // (2 if component == "residual" else 1))
            np.testing.assert_allclose(found.similarity[q], cosines[:10], rtol=1e-6)
    # What the paper's first figure shows: half of the neighbours by s are of the query's kind, a tenth by chance.
    shares = []
    for component in ("invariant", "residual"):
        found = neighbor_retrieval(cube, range(100), component, n_neighbors=10)
        shares.append((cube.labels[found.images] == cube.labels[found.queries][:, None]).mean())
    assert shares[0] > 0.45 > 0.3 > shares[1]


# ---- however stored -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", ["invariant", "residual"])
def test_stores_dask_and_zarr_give_what_the_array_gives(component, tmp_path, monkeypatch):
    monkeypatch.setattr(_neighbors, "_TILE_BYTES", 500)
    h = features(23, 3, 40).astype(np.float32)
    ids = np.arange(100, 123)
    want = neighbor_retrieval(ik.from_arrays(h, image_ids=ids), [4, 0], component, 4, 1, view=2)
    with ik.CubeWriter(
        tmp_path / "a.cube", layers={"mid": 40}, sigmas=[0.1], n_views=3, n_images=23, block_size=5
    ) as writer:
        writer.append(ids, {"mid": h[:, :, None]})
    array = xr.DataArray(h, dims=("image", "view", "feature"), coords={"image": ids})
    array.name = "mid"
    by_rows, by_features = array.chunk({"image": 4}), array.chunk({"feature": 9})
    array.to_dataset().to_zarr(tmp_path / "a.zarr", encoding={"mid": {"chunks": (23, 3, 9)}}, consolidated=False)
    zarr = xr.open_zarr(tmp_path / "a.zarr", chunks=None, consolidated=False)["mid"]
    for X in (
        ik.open_cube(tmp_path / "a.cube"),
        by_rows,
        by_features,
        array.transpose("feature", "image", "view"),
        zarr,
    ):
        same(neighbor_retrieval(X, [4, 0], component, 4, 1, view=2), want, rtol=1e-6)


def test_what_is_read_follows_the_stored_chunks(monkeypatch):
    monkeypatch.setattr(_neighbors, "_TILE_BYTES", 4000)
    read = []

    class Stored:
        """An array that remembers what was read of it."""

        dtype = np.dtype(np.float64)

        def __init__(self, values: np.ndarray, chunks: dict[str, int]) -> None:
            self.values, self.shape, self.encoding = values, values.shape, {"preferred_chunks": chunks}

        def __getitem__(self, key):
            if isinstance(key, tuple):
                return Stored(self.values[key], self.encoding["preferred_chunks"])
            read.append(self.values[key].shape)
            return self.values[key]

    h = features(30, 2, 60)
    for chunks, tiles in (
        ({"image": 7, "sigma": 1}, {(7, 2, 60), (2, 2, 60)}),  # whole rows: as many images as a chunk has
        ({"image": 30, "feature_mid": 10}, {(30, 2, 10)}),  # a chunk of features of all images
        ({"image": 5, "feature_mid": 10}, {(5, 2, 50), (25, 2, 10), (5, 2, 10)}),
        ({}, {(4, 2, 60), (2, 2, 60)}),
    ):
        read.clear()
        X = Features(Stored(h, chunks), np.arange(30))
        same(_neighbors._retrieve(X, 3, "residual", 2, 0, 0), neighbor_retrieval(h, 3, "residual", 2))
        assert {shape for shape in read if shape[0] > 1} == tiles, chunks
        # The query's image beside, and everything else once.
        assert sum(np.prod(shape) for shape in read) == h.size + h[0].size


def test_memory_holds_a_tile_and_the_similarities(tmp_path):
    n, v, d = 60, 3, 20_000
    rng = np.random.default_rng(0)
    with ik.CubeWriter(
        tmp_path / "a.cube", layers={"maps": d}, sigmas=[0.1], n_views=v, n_images=n, block_size=2
    ) as writer:
        for i in range(n):
            writer.append([i], {"maps": rng.standard_normal((1, v, 1, d), dtype=np.float32)})
    cube = ik.open_cube(tmp_path / "a.cube")
    neighbor_retrieval(cube[:4], 0, "residual", 2)
    tracemalloc.start()
    neighbor_retrieval(cube, [0, 1], "residual", 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * _neighbors._TILE_BYTES < n * v * d * 4 * 3


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(scale=st.floats(1e-3, 1e3), order=st.permutations(range(20)), seed=st.integers(0, 99))
def test_rotation_scale_and_order(scale, order, seed):
    h = features()
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((7, 7)))
    changed = scale * h[np.array(order)] @ q
    for component in ("invariant", "residual"):
        want = neighbor_retrieval(h, order[4], component)
        found = neighbor_retrieval(changed, 4, component)
        np.testing.assert_array_equal(np.array(order)[found.images], want.images)
        np.testing.assert_allclose(found.similarity, want.similarity, rtol=1e-9)
    # A translation, even another one for every image, leaves residuals alone, and not means.
    moved = h + 3 * rng.standard_normal((20, 1, 7))
    same(neighbor_retrieval(moved, 0, "residual"), neighbor_retrieval(h, 0, "residual"))
    assert (neighbor_retrieval(h - 0.5, 0).similarity != neighbor_retrieval(h, 0).similarity).any()


@pytest.mark.parametrize("component", ["invariant", "residual"])
def test_other_affine_maps_matter(component):
    h = features()
    changed = neighbor_retrieval(h * np.geomspace(0.1, 10, 7), 0, component, 19)
    assert (changed.images != neighbor_retrieval(h, 0, component, 19).images).any()


def test_another_order_of_the_views_renumbers_them():
    h, order = features(), np.array([2, 0, 1])
    want, found = neighbor_retrieval(h, 4, "residual", view=2), neighbor_retrieval(h[:, order], 4, "residual", view=0)
    np.testing.assert_array_equal(found.images, want.images)
    np.testing.assert_array_equal(order[found.views], want.views)
    same(neighbor_retrieval(h[:, order], 4), neighbor_retrieval(h, 4))


# ---- the estimator --------------------------------------------------------------------------------------------------


def test_the_estimator_rows_groups_clone_and_pickle():
    h = features()
    want = neighbor_retrieval(h, [2, 5], "residual", 3, 1, view=1)
    est = NeighborRetrieval([2, 5], "residual", n_neighbors=3, n_farthest=1, view=1, n_views=3)
    rows, groups = h.reshape(60, 7), np.repeat(np.arange(20), 3)
    for fitted in (
        est.fit(h),
        clone(est).fit(ik.from_arrays(h)),
        clone(est).fit(rows),
        clone(est).fit(rows, groups=groups),
        pickle.loads(pickle.dumps(est)),
    ):
        same(fitted.neighbor_retrieval_, want)
    alone = NeighborRetrieval(n_neighbors=4).fit(h[:, 0]).neighbor_retrieval_
    np.testing.assert_array_equal(alone.images[0], brute(h[:, :1], 0, "invariant")[0][:4])


# ---- degenerate input -----------------------------------------------------------------------------------------------


def test_degenerate_input_is_named():
    h = features()
    h[2] = h[2, :1]
    for image in (2, 3):
        if image == 2:
            with pytest.raises(DegenerateFeaturesError, match="image 2 has no direction to compare, because view 1"):
                neighbor_retrieval(h, 2, "residual", view=1)
        else:
            with pytest.warns(UserWarning, match="3 of 60 candidates have no direction"):
                found = neighbor_retrieval(h, 3, "residual", 59)
            assert (found.similarity[found.images == 2] == 0).all()
    zero = features()
    zero[4] = 0
    with pytest.raises(DegenerateFeaturesError, match=r"image 4 .* it is zero"):
        neighbor_retrieval(zero, [0, 4])
    with pytest.raises(NotEnoughDataError, match="1 view an image"):
        neighbor_retrieval(h[:, :1], 0, "residual")
    with pytest.raises(NonFiniteError, match="image 5, view 1, feature 2"):
        bad = features()
        bad[5, 1, 2] = np.nan
        neighbor_retrieval(bad)
    with pytest.raises(NonFiniteError, match="overflow"):
        neighbor_retrieval(features() * 1e200)
    for queries in (20, -1, "a", [], [[1]], 1.0, True):
        with pytest.raises(ValueError, match="queries"):
            neighbor_retrieval(h, queries)
    for wrong in ({"component": "s"}, {"n_neighbors": 20}, {"n_neighbors": 0}, {"n_neighbors": 18, "n_farthest": 2}):
        with pytest.raises(ValueError, match=r"component|n_neighbors"):
            neighbor_retrieval(h, 0, **wrong)
    with pytest.raises(ValueError, match="numbered from 0"):
        neighbor_retrieval(h, 0, "residual", view=3)


def test_views_that_differ_by_rounding_have_no_residual():
    h = features(v=1).repeat(3, axis=1)
    with pytest.raises(DegenerateFeaturesError, match="differs from the mean of its views by nothing"):
        neighbor_retrieval(h * (1 + 1e-11 * np.arange(3)[:, None]), 0, "residual")
