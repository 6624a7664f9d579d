"""open_cube finds the right reader, and says so where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from icrkit.cube import from_arrays
from icrkit.exceptions import CubeFormatError
from icrkit.io import open_cube


def test_text_paths_and_relative_ones(store: Any, tmp_path: Path, monkeypatch: Any) -> None:
    store.write(tmp_path / "a.cube")
    monkeypatch.chdir(tmp_path)
    cube = open_cube("a.cube")
    monkeypatch.chdir("/")
    assert_array_equal(cube["mid"].values, store.features["mid"])


def test_zarr(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    values = np.random.default_rng(0).normal(size=(6, 2, 3, 4))
    data = from_arrays({"mid": values}, [0.1, 0.3, 1.0], labels=range(6), attrs={"step": 2}).to_xarray()
    data.to_zarr(tmp_path / "a.zarr", zarr_format=2)
    cube = open_cube(tmp_path / "a.zarr")
    assert cube.step == 2
    assert_array_equal(cube.labels, range(6))
    assert_array_equal(cube[[4, 1]].select(sigma=0.3).level().values, values[[4, 1]][:, :, 1])
    data.astype(int).to_zarr(tmp_path / "b.zarr", zarr_format=2)
    with pytest.raises(CubeFormatError, match="int64"):
        open_cube(tmp_path / "b.zarr")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.pkl"])
def test_unknown_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CubeFormatError, match=r"wanted a cube store \(folder\), \.h5"):
        open_cube(tmp_path / name)


def test_folders_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(CubeFormatError, match=r"folder without cube\.json"):
        open_cube(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such cube"):
        open_cube(tmp_path / "none.cube")
    with pytest.raises(ValueError, match="'digest' or 'size'"):
        open_cube(tmp_path, verify="crc")
