"""Rows in any order are the rows of the array, and HDF5 is asked for as few slices as there are places."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from icrkit.exceptions import CubeCorruptError
from icrkit_extractors._image_rows import ArrayFile, rows_of

ARRAY = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 4), dtype=np.uint8)
ROWS = {
    "permuted": np.random.default_rng(1).permutation(40),
    "a part": np.array([31, 2, 3, 4, 17, 16, 39, 0]),
    "descending": np.arange(40)[::-1],
    "in order": np.arange(5, 17),
    "one": np.array([7]),
    "repeated": np.array([7, 2, 7, 7, 2]),
}


class Counted:
    """A dataset that notes what is read of it."""

    def __init__(self, dataset: Any) -> None:
        self._dataset, self.read = dataset, []
        self.shape, self.dtype, self.chunks = dataset.shape, dataset.dtype, dataset.chunks

    def __getitem__(self, rows: Any) -> np.ndarray:
        assert isinstance(rows, slice), "HDF5's own selections are slow"
        self.read.append((rows.start, rows.stop))
        return self._dataset[rows]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("chunk", [None, 1, 7, 40])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_rows_of_hdf5(rows, chunk, compression, tmp_path):
    if chunk is None and compression:
        pytest.skip("only chunks are compressed")
    chunks = None if chunk is None else (chunk, 3, 2, 4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = Counted(file.create_dataset("a", data=ARRAY, chunks=chunks, compression=compression))
        np.testing.assert_array_equal(rows_of(dataset, ROWS[rows]), ARRAY[ROWS[rows]])
    wanted = np.unique(ROWS[rows])
    # No more slices than places: runs of rows, or chunks.
    runs = 1 + int((np.diff(wanted) > 1).sum())
    assert len(dataset.read) <= min(runs, len(np.unique(wanted // (chunk or 1))))
    # Nothing is read that lies in no chunk of a row asked for, and no row twice.
    read = np.concatenate([np.arange(start, stop) for start, stop in dataset.read])
    assert len(np.unique(read)) == len(read) and set(read // (chunk or 1)) == set(wanted // (chunk or 1))


@pytest.mark.parametrize("rows", ROWS)
def test_rows_of_zarr_of_memory_and_of_maps(rows, tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    stored = zarr.create_array(tmp_path / "a.zarr", data=ARRAY, chunks=(7, 3, 4, 4))
    for array in (ARRAY, np.load(tmp_path / "a.npy", mmap_mode="r"), stored):
        np.testing.assert_array_equal(rows_of(array, ROWS[rows]), ARRAY[ROWS[rows]])


def load(path: Path, key: str | None) -> Any:
    return zarr.open_array(path, mode="r")


def test_another_array_in_another_process_is_found_out(tmp_path, monkeypatch):
    zarr.save_array(tmp_path / "a.zarr", ARRAY)
    array = ArrayFile(load, tmp_path / "a.zarr")
    np.testing.assert_array_equal(array.rows(np.array([3, 1])), ARRAY[[3, 1]])
    monkeypatch.setattr("os.getpid", lambda: -1)  # as after a fork
    np.testing.assert_array_equal(array.rows(np.array([3, 1])), ARRAY[[3, 1]])
    shutil.rmtree(tmp_path / "a.zarr")
    zarr.save_array(tmp_path / "a.zarr", ARRAY[:39])
    monkeypatch.setattr("os.getpid", lambda: -2)
    with pytest.raises(CubeCorruptError, match=r"has changed since it was opened.*\(40, 3, 4, 4\).*\(39, 3, 4, 4\)"):
        array.rows(np.array([3]))


def test_what_is_in_memory_or_mapped_is_not_read_again_after_a_fork(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", ARRAY)
    opened = []

    def once(path: Path, key: str | None) -> np.ndarray:
        opened.append(path)
        return np.load(path, mmap_mode="r")

    array = ArrayFile(once, tmp_path / "a.npy")
    monkeypatch.setattr("os.getpid", lambda: -1)
    np.testing.assert_array_equal(array.rows(np.array([3, 1])), ARRAY[[3, 1]])
    assert len(opened) == 1
