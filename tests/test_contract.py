"""Axes that look swapped, indexes of several levels, fill values: what the contract notices by itself."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import icrkit as ik

MORE = "more views than"


def features(n: int = 300, v: int = 8, d: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 3 * rng.standard_normal(d) + rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))


@pytest.mark.parametrize("axes", [(1, 0, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize("read", [ik.Moments.from_cube, ik.from_arrays])
def test_swapped_axes_are_noticed(axes, read):
    h = features().transpose(axes)
    n, v, d = h.shape
    with pytest.warns(UserWarning, match=f"read as {n} images x {v} views x {d} features, with {MORE}"):
        read(h)


@pytest.mark.parametrize("shape", [(300, 8, 16), (20, 2, 3), (60, 4, 2), (100, 16, 4), (2, 2, 5)])
def test_axes_in_order_are_believed(shape):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{MORE}")
        ik.from_arrays(features(*shape))
        ik.Moments.from_cube(features(*shape), n_folds=0)


def test_named_axes_are_believed():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{MORE}")
        ik.Moments.from_cube(xr.DataArray(features(8, 300), dims=("image", "view", "feature")), n_folds=0)
        swapped = xr.DataArray(features().swapaxes(0, 1), dims=("view", "image", "feature"))
        assert ik.ICREstimator().fit(swapped).icr_ == pytest.approx(ik.ICREstimator().fit(features()).icr_)


def test_an_index_of_several_levels():
    h = features(60, 2, 4)
    a = xr.DataArray(h.reshape(6, 10, 2, 4), dims=("cls", "idx", "view", "feature"))
    a = a.assign_coords(cls=list("abcdef"), idx=range(10)).stack(image=("cls", "idx"))
    cube = ik.Cube(a)
    assert cube.image_ids[:2].tolist() == ["a/0", "a/1"] and cube[:3].n_images == 3
    assert ik.ICREstimator().fit(a).icr_ == ik.ICREstimator().fit(cube).icr_
    assert ik.ICREstimator().fit(a).transform(a).sizes["image"] == 60


@pytest.mark.parametrize("make", [lambda a: a, ik.Cube, lambda a: ik.Cube(a.to_dataset(name="mid"))])
def test_a_selection_whose_size_dask_does_not_know(make):
    h = features(80, 2, 4)
    keep = np.arange(80) % 3 > 0
    some = da.from_array(h, chunks=(20, 2, 4))[da.from_array(keep, chunks=20)]
    X = make(xr.DataArray(some, dims=("image", "view", "feature")))
    assert ik.ICREstimator().fit(X).icr_ == pytest.approx(ik.ICREstimator().fit(h[keep]).icr_, rel=1e-9)
