"""Indexes of several levels, and selections of a size that is not known."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import icrkit as ik


def features(n: int = 300, v: int = 8, d: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 3 * rng.standard_normal(d) + rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))


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
