"""zarr stores: a lost chunk is not zeros, and a broken one names its array."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from icrkit.cube import from_arrays
from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeIncompleteError
from icrkit.io import open_cube

zarr = pytest.importorskip("zarr")
pytestmark = pytest.mark.filterwarnings("ignore")
VALUES = np.random.default_rng(0).normal(size=(8, 2, 1, 4))


def write(path: Path, version: int, labels: object = None) -> Path:
    data = from_arrays({"mid": VALUES}, [0.1], labels=labels, image_ids=range(8)).to_xarray()
    data.to_zarr(path, zarr_format=version, encoding={"mid": {"chunks": (4, 2, 1, 4)}})
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_lost_chunk(tmp_path: Path, version: int) -> None:
    path = write(tmp_path / "a.zarr", version)
    assert_array_equal(open_cube(path)["mid"].values, VALUES)
    chunk = path / "mid" / ("1.0.0.0" if version == 2 else "c/1/0/0/0")
    content = chunk.read_bytes()
    chunk.unlink()
    with pytest.raises(CubeIncompleteError, match=r"array 'mid' lacks chunk \(1, 0, 0, 0\) of \(2, 1, 1, 1\)"):
        open_cube(path)
    chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(CubeCorruptError, match="'mid'"):
        open_cube(path)["mid"].values  # noqa: B018


def test_labels_of_one_class_are_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", 3, labels=np.zeros(8, int))
    assert open_cube(path).labels.tolist() == [0] * 8


@pytest.mark.parametrize("version", [2, 3])
def test_lost_labels(tmp_path: Path, version: int) -> None:
    data = from_arrays({"mid": VALUES}, [0.1], labels=[1, 1, 2, 2, 1, 1, 2, 2]).to_xarray()
    path = tmp_path / "a.zarr"
    data.to_zarr(path, zarr_format=version, encoding={"labels": {"chunks": (4,)}})
    assert open_cube(path).labels.tolist() == [1, 1, 2, 2, 1, 1, 2, 2]
    (path / "labels" / ("0" if version == 2 else "c/0")).unlink()
    with pytest.raises(CubeIncompleteError, match=r"array 'labels' lacks chunk \(0,\) of \(2,\)"):
        open_cube(path)


def test_lost_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", 3)
    shutil.rmtree(path / "image" / "c")
    with pytest.raises(CubeIncompleteError, match="'image'"):
        open_cube(path)


def test_nesting_without_end_and_a_plain_array(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", 3)
    (path / "zarr.json").write_text("[" * 200_000)
    with pytest.raises(CubeCorruptError, match=r"a\.zarr"):
        open_cube(path)
    zarr.save_array(tmp_path / "b.zarr", VALUES)
    with pytest.raises(CubeFormatError, match="one zarr array"):
        open_cube(tmp_path / "b.zarr")
