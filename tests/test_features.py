"""Everything that an estimator accepts as X, and everything it refuses before a value is read."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit._features import Features, as_features, labelled_like, n_levels, split_levels, unit_rows
from icrkit.exceptions import CubeFormatError, NonFiniteError, NotEnoughDataError

PROPERTY = settings(max_examples=40, derandomize=True)


@pytest.fixture
def h() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((6, 1, 4)) + 0.1 * rng.standard_normal((6, 3, 4))


def rows_of(h: np.ndarray) -> np.ndarray:
    return h.reshape(-1, h.shape[2])


# ---- what is accepted -----------------------------------------------------------------------------------------------


def test_every_form_of_the_same_features_reads_the_same(h):
    dims = ("image", "view", "feature")
    array = xr.DataArray(h, dims=dims)
    forms = {
        "array": h,
        "DataArray": array,
        "transposed": array.transpose("feature", "image", "view"),
        "one level": array.expand_dims(sigma=[0.3]).transpose("sigma", ...),
        "Cube": ik.from_arrays(h),
        "torch": torch.tensor(h, requires_grad=True),
        "Features": Features(h, np.arange(6)),
    }
    for name, X in forms.items():
        features = as_features(X)
        np.testing.assert_array_equal(features.read(), h, err_msg=name)
        np.testing.assert_array_equal(features.image_ids, np.arange(6), err_msg=name)
        assert features.shape == (6, 3, 4) and features.views_ordered, name
    for X in (rows_of(h), rows_of(h).tolist(), torch.tensor(rows_of(h))):
        np.testing.assert_array_equal(as_features(X, n_views=3).read(), h)


@PROPERTY
@given(order=st.permutations(range(18)))
def test_rows_find_their_images_by_group_whatever_their_order(order):
    rng = np.random.default_rng(1)
    h = rng.standard_normal((6, 3, 4))
    groups = np.repeat(np.array(["f", "b", "a", "e", "c", "d"]), 3)
    features = as_features(rows_of(h)[order], groups=groups[order])
    assert not features.views_ordered
    assert features.image_ids.tolist() == list("abcdef")
    of_image = dict(zip("fbaecd", h, strict=True))
    for image, views in zip("abcdef", features.read(), strict=True):
        np.testing.assert_array_equal(np.sort(views, axis=0), np.sort(of_image[image], axis=0))


def test_ids_and_the_name_for_messages_come_with_the_data(h):
    cube = ik.from_arrays({"mid": h}, sigmas=[0.25], image_ids=list("abcdef"))
    for X in (cube, cube["mid"], cube.level()):
        features = as_features(X)
        assert features.image_ids.tolist() == list("abcdef")
        assert features.name == "mid at sigma 0.25"
    part = as_features(cube[[4, 1]])
    assert part.image_ids.tolist() == ["e", "b"]


@pytest.mark.parametrize(
    ("given", "read"),
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64"), ("int32", "float64"), ("bool", "float64")],
)
def test_dtype_in_which_blocks_are_read(h, given, read):
    features = as_features(h.astype(given))
    assert features.dtype == read and features.read().dtype == read
    np.testing.assert_array_equal(features.read(), h.astype(given).astype(read))


def test_bfloat16_tensors_are_read_as_float32(h):
    tensor = torch.tensor(h).to(torch.bfloat16)
    features = as_features(tensor)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features.read(), tensor.float().numpy())


# ---- blocks ---------------------------------------------------------------------------------------------------------


class _Counted:
    """A file, as far as Features can tell: an array that knows what was read of it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.reads = array, array.shape, array.dtype, []

    def __getitem__(self, key: slice) -> np.ndarray:
        self.reads.append(key)
        return self.array[key]


@PROPERTY
@given(n=st.integers(2, 50), v=st.integers(1, 3), d=st.integers(1, 5), target=st.integers(1, 3000))
def test_blocks_cover_every_image_once_and_keep_to_their_size(n, v, d, target):
    stored = _Counted(np.random.default_rng(0).standard_normal((n, v, d)))
    features = Features(stored, np.arange(n))
    starts, blocks = zip(*features.blocks(target), strict=True)
    np.testing.assert_array_equal(np.concatenate(blocks), stored.array)
    np.testing.assert_array_equal(starts, np.cumsum([0, *(len(b) for b in blocks)])[:-1])
    assert all(len(b) == 1 or b.nbytes <= target for b in blocks)
    assert len(stored.reads) == len(blocks)


def test_nothing_is_read_to_check_shapes_and_types():
    stored = _Counted(np.zeros((4, 2, 3)))
    as_features(Features(stored, np.arange(4)))
    assert stored.reads == []


# ---- unit length ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 99), scale=st.floats(1e-6, 1e6), dtype=st.sampled_from([np.float32, np.float64]))
def test_l2_gives_unit_rows_blind_to_scale(seed, scale, dtype):
    h = np.random.default_rng(seed).standard_normal((5, 2, 7)).astype(dtype)
    unit = as_features(h * dtype(scale), normalize="l2").read()
    assert unit.dtype == np.float64  # far from the origin unit vectors differ in their last digits only
    tolerance = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, rtol=tolerance)
    np.testing.assert_allclose(unit * np.linalg.norm(h, axis=-1, keepdims=True), h, rtol=20 * tolerance, atol=tolerance)


def test_a_zero_vector_has_no_direction_and_stays_zero():
    rows = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    with pytest.warns(UserWarning, match="mid: 2 feature vectors are all zero"):
        np.testing.assert_array_equal(unit_rows(rows, "mid"), [[0, 0], [0.6, 0.8], [0, 0]])


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [("image", "view", "channel"), ("dim_0", "dim_1", "dim_2"), ("view", "feature", "x")])
def test_other_dims_are_named_with_those_wanted(h, dims):
    with pytest.raises(CubeFormatError) as error:
        as_features(xr.DataArray(h, dims=dims))
    assert str(dims) in str(error.value) and "('image', 'view', 'feature')" in str(error.value)


def test_a_missing_dim_is_named():
    with pytest.raises(CubeFormatError, match=r"\('image', 'feature'\) found"):
        as_features(xr.DataArray(np.zeros((4, 3)), dims=("image", "feature")))


def test_several_levels_must_be_chosen_from(h):
    cube = ik.from_arrays({"a": np.stack([h, h], axis=2)}, sigmas=[0.1, 1.0])
    with pytest.raises(CubeFormatError, match=r"levels 0\.1, 1"):
        as_features(cube)
    with pytest.raises(CubeFormatError, match="choose one level"):
        as_features(cube["a"])
    with pytest.raises(CubeFormatError, match="layers a, b"):
        as_features(ik.from_arrays({"a": h, "b": h}))


@pytest.mark.parametrize("shape", [(6,), (6, 2, 2, 2), ()])
def test_other_numbers_of_axes(shape):
    with pytest.raises(CubeFormatError, match=f"X has {len(shape)} axes; wanted"):
        as_features(np.zeros(shape))


@pytest.mark.parametrize(
    ("dtype", "match"), [(object, "object"), ("U8", "dtype <U8"), (complex, "Complex data not supported"), ("S3", "S3")]
)
def test_features_that_are_not_real_numbers(h, dtype, match):
    with pytest.raises(CubeFormatError, match=match):
        as_features(h.astype(dtype))
    with pytest.raises(CubeFormatError):
        as_features(xr.DataArray(h.astype(dtype), dims=("image", "view", "feature")))


def test_one_image_or_one_view_is_not_enough(h):
    with pytest.raises(NotEnoughDataError, match="at least 2 images"):
        as_features(h[:1])
    with pytest.raises(NotEnoughDataError, match="at least 2 images"):
        as_features(h[:0])
    for views in (0, 1):
        with pytest.raises(NotEnoughDataError, match=rf"{views} view\(s\) an image; at least 2 .* n_views=2"):
            as_features(h[:, :views])
    assert as_features(h[:, :1], min_views=1).shape == (6, 1, 4)
    with pytest.raises(NotEnoughDataError, match=r"0 feature\(s\) \(shape=\(6, 3, 0\)\) while a minimum of 1"):
        as_features(h[..., :0])


def test_rows_that_do_not_divide_by_the_views():
    with pytest.raises(NotEnoughDataError, match=r"n_samples=7 rows, which is not a multiple of n_views=2.*groups="):
        as_features(np.zeros((7, 3)))


def test_images_with_different_numbers_of_views_are_named():
    with pytest.raises(CubeFormatError, match="image 2 has 1 views"):
        as_features(np.zeros((5, 3)), groups=[1, 1, 2, 3, 3])


def test_groups_go_with_rows_only(h):
    with pytest.raises(CubeFormatError, match="groups go with 2-D rows"):
        as_features(h, groups=np.arange(6))
    with pytest.raises(CubeFormatError, match=r"wanted \(18,\)"):
        as_features(rows_of(h), groups=np.arange(6))


def test_unknown_normalisation(h):
    with pytest.raises(ValueError, match="normalize must be None or 'l2', not 'l1'"):
        as_features(h, normalize="l1")


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_cells_are_counted_and_the_first_is_placed(value):
    h = np.zeros((400, 2, 8), np.float32)
    h[[321, 377], 1, 5] = value
    ids = np.array([f"image{i}" for i in range(400)])
    cube = ik.from_arrays({"mid": h}, sigmas=[0.5], image_ids=ids)
    with pytest.raises(NonFiniteError) as error:
        as_features(cube).raise_non_finite()
    for part in ("mid at sigma 0.5", "2 of 6400", str(value), "image image321", "view 1", "feature 5"):
        assert part in str(error.value)
    as_features(h[:300]).raise_non_finite()


def test_shuffled_rows_are_noticed_and_ordered_ones_are_not():
    noticed = 0
    for seed in range(40):
        cube = ik.datasets.make_cube(n_images=200, n_features=16, icr=0.7, random_state=seed)
        rows = rows_of(cube.level().values)
        as_features(rows, n_views=2)  # a warning would be an error
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            as_features(np.random.default_rng(seed).permutation(rows), n_views=2)
        noticed += any(re.search(r"were they shuffled\? .* pass groups=", str(w.message)) for w in caught)
    assert noticed >= 20  # it errs towards silence


# ---- levels and labels ----------------------------------------------------------------------------------------------


def test_levels_are_split_in_order(h):
    cube = ik.from_arrays({"a": np.stack([h, 2 * h], axis=2)}, sigmas=[0.1, 1.0])
    for X in (cube, cube["a"]):
        np.testing.assert_array_equal(n_levels(X), [0.1, 1.0])
        for k, one in enumerate(split_levels(X)):
            np.testing.assert_array_equal(as_features(one).read(), (k + 1) * h)
    for X in (cube.select(sigma=1.0), cube["a"].isel(sigma=0), h):
        assert n_levels(X) is None
    with pytest.raises(CubeFormatError, match=r"\['a', 'b'\]: choose one"):
        split_levels(ik.from_arrays({"a": cube["a"].values, "b": cube["a"].values}, sigmas=[0.1, 1.0]))


def test_results_carry_the_coordinates_of_the_images(h):
    cube = ik.from_arrays({"mid": h}, sigmas=[0.25], image_ids=list("abcdef"), labels=range(6), attrs={"step": 3})
    result = labelled_like(cube, np.zeros((6, 3, 2)))
    assert result.dims == ("image", "view", "feature") and result.name == "mid"
    assert result["image"].values.tolist() == list("abcdef")
    assert result["labels"].values.tolist() == list(range(6))
    assert float(result["sigma"]) == 0.25 and result.attrs["step"] == 3
    turned = labelled_like(cube["mid"].transpose("feature", "sigma", "view", "image"), np.zeros((6, 3, 2)))
    xr.testing.assert_identical(turned.drop_attrs(), result.drop_attrs())
    plain = np.zeros((6, 3, 2))
    assert labelled_like(h, plain) is plain
