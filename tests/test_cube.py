"""Cube: the contract on dims, types, ids and levels; indexing as scikit-learn does it; adapters."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_validate, train_test_split
from sklearn.utils import _safe_indexing

from icrkit.cube import Cube, from_arrays, from_rows
from icrkit.exceptions import CubeFormatError

DIMS = ("image", "view", "sigma", "feature")


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"mid": rng.normal(size=(12, 2, 3, 5)), "up.0": rng.normal(size=(12, 2, 3, 4)).astype("f4")}


@pytest.fixture
def cube(arrays: dict[str, np.ndarray]) -> Cube:
    ids = np.array([f"im{i}" for i in range(12)])
    return from_arrays(arrays, [0.1, 0.3, 1.0], labels=np.arange(12) % 3, image_ids=ids, attrs={"step": 7})


class MeanDistance(BaseEstimator):
    """A score that depends on the level and on which images were fitted."""

    def __init__(self, sigma: float = 0.1) -> None:
        self.sigma = sigma

    def fit(self, X: Cube, y: Any = None) -> MeanDistance:
        assert isinstance(X, Cube)
        self.mean_ = X.select(layer="mid", sigma=self.sigma).level().values.mean(axis=(0, 1))
        return self

    def score(self, X: Cube, y: Any = None) -> float:
        level = X.select(layer="mid", sigma=self.sigma).level().values
        return -float(np.linalg.norm(level.mean(axis=(0, 1)) - self.mean_))


class TestProperties:
    def test_what_it_knows(self, cube: Cube, arrays: dict[str, np.ndarray]) -> None:
        assert cube.layers == ("mid", "up.0")
        assert cube.sigmas.dtype == np.float64
        assert_array_equal(cube.sigmas, [0.1, 0.3, 1.0])
        assert (cube.n_images, cube.n_views, len(cube), cube.step, cube.source) == (12, 2, 12, 7, None)
        assert cube.n_features == {"mid": 5, "up.0": 4}
        assert_array_equal(cube.labels, np.arange(12) % 3)
        assert cube.image_ids.tolist()[:2] == ["im0", "im1"]
        assert cube.attrs == {"step": 7}
        assert cube.shape == (12, 2, 3)
        assert cube.select(layer="mid").shape == (12, 2, 3, 5)

    def test_layer(self, cube: Cube, arrays: dict[str, np.ndarray]) -> None:
        layer = cube["up.0"]
        assert layer.dims == DIMS
        assert layer.name == "up.0"
        assert_array_equal(layer.values, arrays["up.0"])
        assert_array_equal(layer.coords["labels"], cube.labels)
        assert_array_equal(layer.coords["sigma"], cube.sigmas)

    def test_repr(self, cube: Cube) -> None:
        text = repr(cube)
        for words in ("12 images", "2 views", "3 levels", "mid (5 features, float64)", "0.1, 0.3, 1", "step=7"):
            assert words in text

    def test_without_ids_labels_and_sigma(self) -> None:
        cube = from_arrays(np.zeros((4, 2, 3)))
        assert cube.labels is None
        assert_array_equal(cube.image_ids, np.arange(4))
        assert np.isnan(cube.sigmas).all()
        assert cube.step is None
        assert cube.level().shape == (4, 2, 3)
        assert cube.select(sigma=cube.sigmas[0]).shape == (4, 2, 1, 3)

    def test_to_xarray_and_back(self, cube: Cube, arrays: dict[str, np.ndarray]) -> None:
        dataset = cube.to_xarray()
        assert dataset["mid"].dims == ("image", "view", "sigma", "feature_mid")
        again = Cube(dataset)
        assert again.layers == cube.layers
        assert again.attrs == cube.attrs
        assert_array_equal(again["mid"].values, arrays["mid"])

    def test_a_layer_makes_a_cube(self, cube: Cube, arrays: dict[str, np.ndarray]) -> None:
        again = Cube(cube["mid"])
        assert again.layers == ("mid",)
        assert again.step == 7
        assert_array_equal(again.labels, cube.labels)
        assert_array_equal(again["mid"].values, arrays["mid"])


class TestSelect:
    def test_level_within_relative_tolerance(self, cube: Cube, arrays: dict[str, np.ndarray]) -> None:
        assert_array_equal(cube.select(layer="mid", sigma=0.3 * (1 + 5e-7)).level().values, arrays["mid"][:, :, 1])
        assert cube.select(sigma=np.float32(0.1)).sigmas.tolist() == [0.1]
        with pytest.raises(CubeFormatError, match=r"0\.1, 0\.3, 1"):
            cube.select(sigma=0.3 * (1 + 5e-6))
        assert cube.select(sigma=0.31, tolerance=0.05).sigmas.tolist() == [0.3]

    def test_level_zero_is_found(self) -> None:
        cube = from_arrays(np.zeros((2, 2, 2, 1)), sigmas=[0.0, 1e-9])
        assert cube.select(sigma=0).sigmas.tolist() == [0.0]
        with pytest.raises(CubeFormatError):
            cube.select(sigma=1e-12)

    def test_several(self, cube: Cube) -> None:
        chosen = cube.select(layer=["up.0", "mid"], sigma=[1.0, 0.1])
        assert chosen.layers == ("up.0", "mid")
        assert chosen.sigmas.tolist() == [1.0, 0.1]

    def test_errors_list_what_there_is(self, cube: Cube) -> None:
        with pytest.raises(CubeFormatError, match=r"mid, up\.0"):
            cube.select(layer="down")
        with pytest.raises(CubeFormatError, match=r"mid, up\.0"):
            cube["down"]
        with pytest.raises(CubeFormatError, match=r"layers mid, up\.0 and levels 0\.1, 0\.3, 1"):
            cube.level()

    def test_as_an_array(self, cube: Cube, arrays: dict[str, np.ndarray]) -> None:
        one = cube.select(layer="mid", sigma=1.0)
        assert_array_equal(np.asarray(one), arrays["mid"][:, :, 2])
        with pytest.raises(CubeFormatError):
            np.asarray(cube)


class TestIndexing:
    @pytest.mark.parametrize(
        "key",
        [
            slice(2, 9, 3),
            [3, 0, 3],
            np.array([5, -1]),
            np.arange(12) % 2 == 0,
            [True] * 3 + [False] * 9,
            [],
            np.int64(4),
            -2,
        ],
    )
    def test_images(self, cube: Cube, arrays: dict[str, np.ndarray], key: Any) -> None:
        wanted = arrays["mid"][[key] if np.ndim(key) == 0 and not isinstance(key, slice) else key]
        for index in (key, (key, ...), (key, slice(None))):
            assert_array_equal(cube[index]["mid"].values, wanted.reshape(-1, 2, 3, 5))

    def test_everything(self, cube: Cube) -> None:
        assert cube[...].image_ids.tolist() == cube.image_ids.tolist()

    def test_beyond_the_end(self, cube: Cube) -> None:
        for key in (12, [0, 13], -13):
            with pytest.raises(IndexError, match="of 12 images"):
                cube[key]
        assert len(list(cube)) == 12

    @pytest.mark.parametrize("key", [(slice(None), 0), [0.5], np.zeros((2, 2), int), [True]])
    def test_nothing_but_images(self, cube: Cube, key: Any) -> None:
        with pytest.raises(IndexError):
            cube[key]


class TestScikitLearn:
    def test_safe_indexing(self, cube: Cube) -> None:
        for key in ([1, 2], np.array([1, 2]), slice(1, 3), np.isin(np.arange(12), [1, 2])):
            part = _safe_indexing(cube, key)
            assert isinstance(part, Cube)
            assert part.image_ids.tolist() == ["im1", "im2"]

    def test_splits(self, cube: Cube) -> None:
        for train, test in KFold(3, shuffle=True, random_state=0).split(cube):
            assert len(cube[train]) + len(cube[test]) == 12
        for _, test in StratifiedKFold(4).split(cube, cube.labels):
            assert sorted(cube[test].labels.tolist()) == [0, 1, 2]
        left, right = train_test_split(cube, test_size=0.25, random_state=0)
        assert (len(left), len(right)) == (9, 3)

    def test_cross_validate_equals_by_hand(self, cube: Cube) -> None:
        folds = KFold(3, shuffle=True, random_state=0)
        got = cross_validate(MeanDistance(0.3), cube, cv=folds)["test_score"]
        byhand = [MeanDistance(0.3).fit(cube[a]).score(cube[b]) for a, b in folds.split(cube)]
        assert_array_equal(got, byhand)

    def test_grid_search_over_levels(self, cube: Cube) -> None:
        search = GridSearchCV(MeanDistance(), {"sigma": cube.sigmas}, cv=KFold(3, shuffle=True, random_state=0))
        assert search.fit(cube).best_params_["sigma"] in cube.sigmas

    def test_pickles(self, cube: Cube, arrays: dict[str, np.ndarray]) -> None:
        again = pickle.loads(pickle.dumps(cube))
        assert_array_equal(again["mid"].values, arrays["mid"])
        assert again.attrs == cube.attrs


class TestContract:
    def test_dims_go_by_name_in_memory(self) -> None:
        values = np.arange(24.0).reshape(4, 3, 2)
        cube = Cube(xr.DataArray(values, dims=("feature", "image", "view"), coords={"sigma": 0.3}, name="mid"))
        assert cube.sigmas.tolist() == [0.3]
        assert_array_equal(cube.level().values, values.transpose(1, 2, 0))

    def test_dask_stays_lazy(self) -> None:
        dask_array = pytest.importorskip("dask.array")
        values = np.arange(48.0).reshape(4, 2, 2, 3)
        data = xr.DataArray(dask_array.from_array(values, chunks=2), dims=DIMS, coords={"sigma": [0.1, 1]})
        level = Cube(data).select(sigma=1)[[2, 0]].level()
        assert level.chunks is not None
        assert_array_equal(level.values, values[[2, 0], :, 1])

    @pytest.mark.parametrize(
        ("dims", "found"),
        [
            (("dim_0", "dim_1", "dim_2", "dim_3"), "dim_0"),
            (("image", "views", "sigma", "feature"), "views"),
            (("images", "view", "sigma", "feature"), "images"),
            (("image", "view", "sigma", "channel"), "channel"),
        ],
    )
    def test_dims_missing_or_unnamed(self, dims: tuple[str, ...], found: str) -> None:
        with pytest.raises(CubeFormatError) as caught:
            Cube(xr.DataArray(np.zeros((3, 2, 1, 4)), dims=dims))
        assert found in str(caught.value)
        assert "(image, view, sigma, feature)" in str(caught.value)

    @pytest.mark.parametrize("dtype", [object, "U3", "S3", complex])
    def test_features_are_numbers(self, dtype: Any) -> None:
        with pytest.raises(CubeFormatError, match="wanted float32"):
            from_arrays(np.zeros((3, 2, 4)).astype(dtype))

    def test_integers_in_memory_are_fine(self) -> None:
        assert from_arrays(np.ones((3, 2, 4), dtype=int)).shape == (3, 2, 1, 4)

    def test_repeated_ids(self) -> None:
        for ids in (["a", "b", "a"], [4, 1, 4], np.array(["x", "y", "x"], dtype=object)):
            with pytest.raises(CubeFormatError, match=r"ids repeat.*\[0, 2\]"):
                from_arrays(np.zeros((3, 2, 4)), image_ids=ids)

    @pytest.mark.parametrize("sigmas", [[0.1, 0.1], [0.3, 0.3 * (1 + 1e-8)], [np.nan, 1.0]])
    def test_equal_levels(self, sigmas: list[float]) -> None:
        with pytest.raises(CubeFormatError, match="levels"):
            from_arrays(np.zeros((3, 2, 2, 4)), sigmas=sigmas)

    def test_levels_are_not_negative(self) -> None:
        with pytest.raises(CubeFormatError, match=r"0 or more; found -4, 2.*exp\(-s/2\)"):  # log SNR
            from_arrays(np.zeros((3, 2, 2, 4)), sigmas=[-4.0, 2.0])
        assert from_arrays(np.zeros((3, 2, 2, 4)), sigmas=[0.0, 2.0]).sigmas.tolist() == [0.0, 2.0]

    def test_other_objects(self) -> None:
        with pytest.raises(CubeFormatError, match="from_arrays"):
            Cube(np.zeros((3, 2, 1, 4)))  # type: ignore[arg-type]
        with pytest.raises(CubeFormatError, match="no variable"):
            Cube(xr.Dataset())


class TestFromArrays:
    def test_shapes_must_agree(self) -> None:
        with pytest.raises(CubeFormatError, match=r"'a' and 'b'.*\(3, 2, 1\).*\(4, 2, 1\)"):
            from_arrays({"a": np.zeros((3, 2, 4)), "b": np.zeros((4, 2, 4))})
        with pytest.raises(CubeFormatError, match="from_rows"):
            from_arrays(np.zeros((3, 4)))
        with pytest.raises(CubeFormatError, match="2 levels; say which"):
            from_arrays(np.zeros((3, 2, 2, 4)))
        with pytest.raises(CubeFormatError, match="sigmas has 3"):
            from_arrays(np.zeros((3, 2, 2, 4)), sigmas=[1, 2, 3])
        with pytest.raises(CubeFormatError, match=r"labels has shape \(2,\)"):
            from_arrays(np.zeros((3, 2, 4)), labels=[0, 1])
        with pytest.raises(CubeFormatError, match="at least one layer"):
            from_arrays({})

    def test_lists_and_no_copy(self) -> None:
        assert from_arrays([[[1.0, 2.0], [3.0, 4.0]]]).shape == (1, 2, 1, 2)
        values = np.zeros((3, 2, 4))
        assert np.shares_memory(from_arrays(values).level().values, values)

    def test_torch_tensors(self) -> None:
        torch = pytest.importorskip("torch")
        tensor = torch.arange(24.0).reshape(3, 2, 4).requires_grad_()
        assert_array_equal(from_arrays(tensor).level().values, np.arange(24.0).reshape(3, 2, 4))
        assert from_arrays(tensor.to(torch.bfloat16)).level().dtype == np.float32


class TestFromRows:
    @given(st.data())
    def test_any_order_of_rows_keeps_the_order_of_views(self, data: st.DataObject) -> None:
        n_images, n_views = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
        groups = np.array(data.draw(st.permutations(np.repeat(np.arange(n_images) * 3, n_views).tolist())))
        rows = np.arange(len(groups) * 2.0).reshape(-1, 2)
        cube = from_rows(rows, groups=groups, sigma=0.5)
        assert cube.attrs["views_ordered"] is False
        for row, image in enumerate(cube.image_ids):
            assert_array_equal(cube.level().values[row], rows[groups == image])

    def test_consecutive_rows(self) -> None:
        rows = np.arange(12.0).reshape(6, 2)
        cube = from_rows(rows, n_views=3, labels=[4, 4, 4, 5, 5, 5])
        assert_array_equal(cube.level().values, rows.reshape(2, 3, 2))
        assert_array_equal(cube.labels, [4, 5])
        assert "views_ordered" not in cube.attrs

    def test_labels_by_image_or_row(self) -> None:
        rows, groups = np.zeros((4, 2)), ["b", "a", "b", "a"]
        assert_array_equal(from_rows(rows, groups, labels=[1, 0, 1, 0]).labels, [0, 1])
        assert_array_equal(from_rows(rows, groups, labels=[8, 9]).labels, [8, 9])
        with pytest.raises(CubeFormatError, match="image 'a' have different labels"):
            from_rows(rows, groups, labels=[1, 0, 1, 2])
        with pytest.raises(CubeFormatError, match="labels has shape"):
            from_rows(rows, groups, labels=[1, 0, 1])

    def test_unequal_numbers_of_views(self) -> None:
        with pytest.raises(CubeFormatError, match=r"image 7 has 3 views.*2 are wanted.*Drop surplus"):
            from_rows(np.zeros((7, 2)), groups=[1, 1, 3, 3, 7, 7, 7])
        with pytest.raises(CubeFormatError, match="image 1 has 2 views"):
            from_rows(np.zeros((4, 2)), groups=[1, 1, 3, 3], n_views=3)

    def test_which_rows_belong_together_must_be_said(self) -> None:
        with pytest.raises(CubeFormatError, match="groups="):
            from_rows(np.zeros((4, 2)))
        with pytest.raises(CubeFormatError, match="whole number"):
            from_rows(np.zeros((5, 2)), n_views=2)
        with pytest.raises(CubeFormatError, match="groups has shape"):
            from_rows(np.zeros((4, 2)), groups=[0, 0, 1])
        with pytest.raises(CubeFormatError, match="NaN at row 1"):
            from_rows(np.zeros((2, 2)), groups=[0.0, np.nan])
        with pytest.raises(CubeFormatError, match="from_arrays"):
            from_rows(np.zeros((4, 2, 2)), n_views=2)


def test_named_axes_are_taken_by_their_names() -> None:
    h = np.random.default_rng(0).normal(size=(7, 2, 3, 4))
    want = from_arrays({"mid": h}, sigmas=[0.1, 0.3, 1.0])
    named = xr.DataArray(h, dims=("image", "view", "sigma", "feature"))
    for dims in (("view", "image", "sigma", "feature"), ("feature", "sigma", "image", "view")):
        cube = from_arrays({"mid": named.transpose(*dims)}, sigmas=[0.1, 0.3, 1.0])
        np.testing.assert_array_equal(cube["mid"].values, want["mid"].values)
    one = from_arrays(named[:, :, 0].transpose("feature", "view", "image"))
    np.testing.assert_array_equal(one["features"].values[:, :, 0], h[:, :, 0])
    unnamed = from_arrays(xr.DataArray(h[:, :, 0]))
    np.testing.assert_array_equal(unnamed["features"].values[:, :, 0], h[:, :, 0])
    with pytest.raises(CubeFormatError, match=r"layer 'features' has dims \('image', 'time', 'feature'\)"):
        from_arrays(xr.DataArray(h[:, :, 0], dims=("image", "time", "feature")))
