"""Axes that look swapped, indexes of several levels, fill values: what the contract notices by itself."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import icrkit as ik
from icrkit.cli import main

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


@pytest.mark.parametrize("shape", [(8, 300, 16), (300, 64, 8)])
def test_swapped_axes_of_dask_are_noticed_by_their_lengths(shape):
    with pytest.warns(UserWarning, match=MORE):
        ik.Moments.from_cube(da.from_array(features(*shape), chunks=(4, -1, -1)), n_folds=0)


@pytest.mark.parametrize("n_views", [2, 4, 8])
def test_features_read_as_views_agree_less_than_views_read_as_features(n_views):
    """Few features, whose means say nothing."""
    h = features(100, n_views, 16)
    h = (h - h.mean((0, 1)))[..., : 2 * n_views].swapaxes(1, 2)
    with pytest.warns(UserWarning, match=f"{2 * n_views} views x {n_views} features, with {MORE} features"):
        ik.from_arrays(h)


@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("shape", [(60, 2, 1), (30, 6, 5), (40, 5, 3), (100, 20, 2), (3, 3, 2), (10, 4, 3)])
def test_few_features_that_go_together_are_believed(shape, noise):
    n, v, d = shape
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{MORE}")
        for seed in range(20):
            rng = np.random.default_rng(seed)
            image = rng.standard_normal((n, 1, d)) + 0.3 * rng.standard_normal((n, 1, 1))
            ik.from_arrays(image + noise * rng.standard_normal((n, v, d)))


@pytest.mark.parametrize("command", ["score", "info", "compare"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.filterwarnings("default:.*more views than")
def test_swapped_axes_are_noticed_in_a_shell(tmp_path, command, suffix):
    h = np.random.default_rng(0).standard_normal((300, 1, 64)) + np.random.default_rng(1).standard_normal((300, 8, 64))
    for name, array in (("wrong", h.swapaxes(0, 1)), ("right", h)):
        path = tmp_path / f"{name}.{suffix}"
        np.save(path, array) if suffix == "npy" else np.savez(path, mid=array)
        result = CliRunner().invoke(main, [command, str(path), *(["--metrics", "icr"] if command != "info" else [])])
        assert result.exit_code == 0, result.output
        assert ("8 images x 300 views" in result.stderr) == (MORE in result.stderr) == (name == "wrong")


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
