"""A block's bytes: the same every time, readable by anyone, and what was put in."""

from __future__ import annotations

import io
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

from icrkit.io._block import encode_block
from icrkit.io._layout import Layout

LAYERS = {"mid": 3, "up.0": 2}


def layout(**changes: Any) -> Layout:
    options: dict[str, Any] = {"layers": LAYERS, "sigmas": (0.1, 1.0), "n_views": 2, "n_images": 10, "block_size": 4}
    return Layout(**(options | changes))


def levels_first(dtype: str = "float32", n: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((2, n, 2, d)).astype(dtype) for name, d in LAYERS.items()}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_plain_xarray_reads_what_was_put_in(dtype: str) -> None:
    features = levels_first(dtype)
    raw = encode_block(layout(dtype=dtype, alphas=(0.9, 0.4)), 0, 2, ["a", "b", "ü", "d"], [3, 1, 1, 2], features)
    with xr.open_dataset(io.BytesIO(raw), engine="h5netcdf") as data:
        for name, d in LAYERS.items():
            assert data[name].dims == ("image", "view", "sigma", f"feature_{name}")
            assert data[name].shape == (4, 2, 2, d) and data[name].dtype == dtype
            np.testing.assert_array_equal(data[name].values, np.moveaxis(features[name], 0, 2))
            assert set(data[name].coords) == {"image", "sigma", "labels", "alpha"}
        assert data["image"].values.tolist() == ["a", "b", "ü", "d"]
        assert data["labels"].dims == ("image",) and data["labels"].values.tolist() == [3, 1, 1, 2]
        assert data["sigma"].values.tolist() == [0.1, 1.0]
        assert data["alpha"].dims == ("sigma",) and data["alpha"].values.tolist() == [0.9, 0.4]


def test_it_knows_its_place_and_its_configuration() -> None:
    plan = layout()
    with h5py.File(io.BytesIO(encode_block(plan, 5, 7, [0, 1, 2, 3], None, levels_first()))) as file:
        assert file.attrs["icrkit_config"] == plan.digest
        assert (file.attrs["icrkit_shard"], file.attrs["icrkit_block"]) == (5, 7)
        assert "labels" not in file and "alpha" not in file


def test_a_level_is_one_chunk_without_filters() -> None:
    with h5py.File(io.BytesIO(encode_block(layout(), 0, 0, [0, 1, 2, 3], None, levels_first()))) as file:
        for name, d in LAYERS.items():
            assert file[name].chunks == (4, 2, 1, d)
            assert file[name].id.get_num_chunks() == 2
            assert file[name].id.get_create_plist().get_nfilters() == 0


def test_the_same_bytes_every_time_and_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[Any] = [0, 1, 2, 3]
    first = encode_block(layout(), 0, 0, ids, ids, levels_first())
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert encode_block(layout(), 0, 0, ids, ids, levels_first()) == first
    changed = levels_first()
    changed["mid"][1, 2, 0, 1] += 1
    assert encode_block(layout(), 0, 0, ids, ids, changed) != first
    assert encode_block(layout(), 0, 1, ids, ids, levels_first()) != first


def test_a_short_last_block() -> None:
    raw = encode_block(layout(), 0, 2, [8, 9], [0.5, 1.5], levels_first(n=2))
    with xr.open_dataset(io.BytesIO(raw), engine="h5netcdf") as data:
        assert data["mid"].shape == (2, 2, 2, 3)
        assert data["labels"].values.tolist() == [0.5, 1.5]


def test_nothing_is_left_on_the_disk(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encode_block(layout(), 0, 0, [0, 1, 2, 3], None, levels_first())
    assert list(tmp_path.iterdir()) == []
