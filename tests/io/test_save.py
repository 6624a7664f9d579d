"""A cube that is saved is read back equal, whatever it came from; and so is what plain xarray wrote."""

from __future__ import annotations

import json

import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import CubeFormatError
from icrkit.io import _save

ATTRS = {
    "step": 300,
    "model": "unet",
    "lr": 1e-4,
    "noise": {"trained_range": [0.1, 80.0], "kind": "edm"},
    "note": "json is text: json",
    "ema": True,
    "seed": None,
    "sizes": [1, 2],
}


def cube(labels: object = None, ids: object = None, dtype: str = "float32") -> ik.Cube:
    h = np.random.default_rng(0).standard_normal((30, 2, 2, 4)).astype(dtype)
    return ik.from_arrays({"mid": h, "up": h[..., :3]}, [0.1, 0.3], labels=labels, image_ids=ids, attrs=ATTRS)


def assert_equal(back: ik.Cube, there: ik.Cube) -> None:
    assert back.layers == there.layers and back.step == there.step
    for layer in there.layers:
        assert back[layer].dtype == there[layer].dtype
        np.testing.assert_array_equal(back[layer].values, there[layer].values)
    np.testing.assert_array_equal(back.sigmas, there.sigmas)
    np.testing.assert_array_equal(back.image_ids, there.image_ids)
    np.testing.assert_array_equal(back.labels, there.labels)
    assert back.attrs == there.attrs


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("labels", [None, np.arange(30) % 3, list("abc") * 10])
@pytest.mark.parametrize("ids", [None, [f"img{i}" for i in range(30)]])
def test_a_saved_cube_comes_back(labels, ids, dtype, tmp_path):
    there = cube(labels, ids, dtype)
    path = there.save(tmp_path / "x.h5")
    assert_equal(ik.open_cube(path), there)
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


def test_a_lazy_selection_is_streamed(tmp_path, monkeypatch):
    first = ik.open_cube(cube(np.arange(30) % 3).save(tmp_path / "x.h5"))
    monkeypatch.setattr(_save, "TARGET_BLOCK_BYTES", 500)
    some = first[5:25].select(layer="mid", sigma=0.3)
    assert_equal(ik.open_cube(some.save(tmp_path / "y.nc")), some)


def test_attributes_survive_plain_xarray(tmp_path):
    there = cube(np.arange(30) % 3)
    there.to_xarray().to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    back = ik.open_cube(tmp_path / "x.nc")
    assert back.attrs == ATTRS and back.step == 300
    assert json.loads(there.to_xarray().attrs["noise"].removeprefix("json:")) == ATTRS["noise"]
    assert ik.Cube(there.to_xarray()).attrs == ATTRS


def test_what_cannot_be_saved_leaves_nothing(tmp_path):
    with pytest.raises(CubeFormatError, match="ends in"):
        cube().save(tmp_path / "x.cube")
    with pytest.raises(CubeFormatError, match="labels: 1 of 30 are missing"):
        cube([np.nan, *range(29)]).save(tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())
