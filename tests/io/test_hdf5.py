"""One file in the hands of several readers; what is refused before it is read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from icrkit.cube import from_arrays
from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeTooLargeError, CubeUnsafeError
from icrkit.io import open_cube, pack
from icrkit.io._hdf5 import DiskFile, check_storage, read_values
from icrkit.moments import Moments

VALUES = np.random.default_rng(0).normal(size=(12, 2, 1, 4)).astype("f4")


@pytest.fixture(params=["foreign", "part", "packed", "moments"])
def path(request: Any, store: Any, tmp_path: Path) -> Path:
    if request.param == "foreign":
        from_arrays({"mid": VALUES}, [0.1]).to_xarray().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        return tmp_path / "a.nc"
    if request.param == "moments":
        Moments.from_cube(from_arrays({"mid": VALUES}, [0.1]), dtype="float64").save(tmp_path / "m.h5")
        return tmp_path / "m.h5"
    folder = store.write(tmp_path / "a.cube")
    if request.param == "packed":
        return pack(folder, tmp_path / "a.h5")
    return folder / "part-00000.h5"


def ours(path: Path) -> Any:
    if path.name == "m.h5":
        return Moments.load(path)
    cube = open_cube(path.parent if path.name.startswith("part") else path)
    cube[cube.layers[0]].values  # noqa: B018
    return cube


def theirs(path: Path) -> Any:
    return h5py.File(path, "r")


def xarrays(path: Path) -> Any:
    return xr.open_dataset(path, engine="h5netcdf", phony_dims="sort")


@pytest.mark.parametrize("other", [theirs, xarrays])
@pytest.mark.parametrize("locking", ["default", False, True])
def test_every_order_of_readers(path: Path, other: Any, locking: Any) -> None:
    first = ours(path)
    between = other(path) if locking == "default" else h5py.File(path, "r", locking=locking)
    again = ours(path)
    between.close()
    last = other(path)
    last.close()
    assert first is not again


def test_pickles_as_its_path(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    file = pickle.loads(pickle.dumps(DiskFile(tmp_path / "a")))
    file.seek(-4, 2)
    assert file.read(3) == b"678"
    assert file.tell() == 9
    (tmp_path / "a").write_bytes(b"other")
    with pytest.raises(CubeCorruptError, match="written anew"):
        pickle.loads(pickle.dumps(file))
    with pytest.raises(IsADirectoryError):
        DiskFile(tmp_path)
    with pytest.raises(CubeFormatError, match="not a regular file"):
        DiskFile("/dev/null")


def test_sizes_and_filters(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", shape=(10**12,), dtype="i8", chunks=(1000,))
        file.create_dataset("few", data=np.arange(3))
        file.create_dataset("lzf", data=np.zeros((100, 4)), compression="lzf")
        file.create_dataset("scaled", data=np.zeros((100, 4)), scaleoffset=2)
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((4,))
        plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
        h5py.h5d.create(file.id, b"zstd", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((4,)), plan)
    path = str(tmp_path / "a.h5")
    with h5py.File(path) as file:
        with pytest.raises(CubeTooLargeError, match="declares 8 TB"):
            read_values(file, "image", path)
        with pytest.raises(CubeCorruptError, match=r"shape \(3,\); expected \(4,\)"):
            read_values(file, "few", path, 4)
        assert_array_equal(read_values(file, "few", path, 3), range(3))
        for name in ("lzf", "scaled"):
            check_storage(file[name], name, 100_000)
        with pytest.raises(CubeUnsafeError, match=r"filter 32015 \(zstd\).*h5repack"):
            check_storage(file["zstd"], "x", 10_000)
