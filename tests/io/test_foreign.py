"""HDF5 files of others: damaged, hostile or merely not a cube; and netCDF cubes that are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from icrkit.cube import from_arrays
from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeTooLargeError, CubeUnsafeError
from icrkit.io import _foreign, open_cube


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 2, 3, 4)).astype("f4")


@pytest.fixture
def no_probe(monkeypatch: Any) -> None:
    # The other process costs a start, and these files do parse.
    monkeypatch.setattr(_foreign, "probe", lambda path: None)


def hdf5(path: Path, build: Callable[[h5py.File], None]) -> Path:
    with h5py.File(path, "w") as file:
        build(file)
    return path


def dataset(file: h5py.File, name: str, **options: Any) -> h5py.Dataset:
    """A 4-D variable with named dims."""
    made = file.create_dataset(name, **options)
    for axis, dim in enumerate(("image", "view", "sigma", f"feature_{name}")):
        if dim not in file:
            file.create_dataset(dim, data=np.arange(made.shape[axis], dtype="f8")).make_scale(dim)
        made.dims[axis].attach_scale(file[dim])
    return made


class TestNetcdf:
    def test_written_by_xarray(self, tmp_path: Path, values: np.ndarray) -> None:
        cube = from_arrays({"mid": values}, [0.1, 0.3, 1.0], labels=range(6), attrs={"step": 3})
        cube.to_xarray().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        again = open_cube(tmp_path / "a.nc")
        assert again.layers == ("mid",)
        assert again.step == 3
        assert_array_equal(again.labels, range(6))
        level = again.select(sigma=0.3)[[5, 1]].level()
        assert level.encoding["source"] == str(tmp_path / "a.nc")
        assert_array_equal(level.values, values[[5, 1]][:, :, 1])

    def test_without_a_sigma_dim(self, tmp_path: Path, values: np.ndarray, no_probe: None) -> None:
        data = xr.DataArray(values[:, :, 0], dims=("image", "view", "feature"), coords={"sigma": 0.3}, name="mid")
        data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        cube = open_cube(tmp_path / "a.nc")
        assert cube.sigmas.tolist() == [0.3]
        assert_array_equal(cube["mid"].values, values[:, :, :1])
        some = cube["mid"].isel(image=[4, 2], view=1, feature=slice(1, 3))
        assert_array_equal(some.values, values[[4, 2], 1, :1, 1:3])
        assert_array_equal(cube[1:3].level().values, values[1:3, :, 0])

    def test_dims_swapped(self, tmp_path: Path, values: np.ndarray, no_probe: None) -> None:
        data = xr.DataArray(values, dims=("view", "image", "sigma", "feature"), name="mid", coords={"sigma": [1, 2, 3]})
        data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        with pytest.raises(CubeFormatError, match=r"\('view', 'image', 'sigma', 'feature'\); wanted \(image, view"):
            open_cube(tmp_path / "a.nc")

    @pytest.mark.parametrize(("kind", "words"), [("i4", "int32"), (complex, "complex"), ("S3", "text")])
    def test_not_floating_point(self, tmp_path: Path, kind: Any, words: str, no_probe: None) -> None:
        path = hdf5(tmp_path / "a.h5", lambda file: dataset(file, "mid", data=np.zeros((3, 2, 1, 4)).astype(kind)))
        with pytest.raises(CubeFormatError, match=words):
            open_cube(path)

    def test_dims_unnamed(self, tmp_path: Path, values: np.ndarray, no_probe: None) -> None:
        path = hdf5(tmp_path / "a.h5", lambda file: file.create_dataset("mid", data=values))
        with pytest.raises(CubeFormatError, match=r"'mid' has dims \('unnamed', .*expected \(image, view, sigma"):
            open_cube(path)

    def test_no_features_at_all(self, tmp_path: Path, no_probe: None) -> None:
        with pytest.raises(CubeFormatError, match="dims found"):
            open_cube(hdf5(tmp_path / "a.h5", lambda file: file.create_group("x")))


class TestDamage:
    def test_truncated_and_nonsense(self, tmp_path: Path, values: np.ndarray) -> None:
        path = tmp_path / "a.nc"
        from_arrays({"mid": values}, [0.1, 0.3, 1.0]).to_xarray().to_netcdf(path, engine="h5netcdf")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CubeCorruptError, match="cannot be parsed"):
            open_cube(path)
        path.write_bytes(b"")
        with pytest.raises(CubeCorruptError, match="not an HDF5 or NetCDF file"):
            open_cube(path)


@pytest.mark.usefixtures("no_probe")
class TestHostile:
    def test_declares_far_more_than_it_holds(self, tmp_path: Path) -> None:
        def build(file: h5py.File) -> None:
            file.create_dataset("mid", (10**9, 10, 10, 400_000), "f4", chunks=(1, 10, 1, 4000))

        path = hdf5(tmp_path / "a.h5", build)
        assert path.stat().st_size < 10_000
        with pytest.raises(CubeTooLargeError, match="'mid' declares 160 PB"):
            open_cube(path)

    def test_gzip_bomb(self, tmp_path: Path) -> None:
        def build(file: h5py.File) -> None:
            dataset(file, "mid", data=np.zeros((64, 2, 1, 4096), "f4"), chunks=(8, 2, 1, 4096), compression="gzip")

        cube = open_cube(hdf5(tmp_path / "a.h5", build))  # deflate may do that; it is streamed
        assert cube[3:5].level().values.shape == (2, 2, 4096)

    def test_one_huge_chunk(self, tmp_path: Path) -> None:
        def build(file: h5py.File) -> None:
            chunk = (2**12, 2, 1, 2**15)
            dataset(file, "mid", shape=chunk, dtype="f4", chunks=chunk, compression="gzip").id.write_direct_chunk(
                (0, 0, 0, 0), os.urandom(2_000_000)
            )

        with pytest.raises(CubeTooLargeError, match="one chunk"):
            open_cube(hdf5(tmp_path / "a.h5", build))

    @pytest.mark.parametrize("kind", ["external link", "soft link", "virtual", "external storage"])
    def test_leads_outside(self, tmp_path: Path, values: np.ndarray, kind: str) -> None:
        secret = hdf5(tmp_path / "secret.h5", lambda file: file.create_dataset("mid", data=values))
        layout = h5py.VirtualLayout(values.shape, "f4")
        layout[:] = h5py.VirtualSource(str(secret), "mid", values.shape)

        def build(file: h5py.File) -> None:
            if kind == "external link":
                file["mid"] = h5py.ExternalLink(str(secret), "mid")
            elif kind == "soft link":
                file["mid"] = h5py.SoftLink("/nowhere")
            elif kind == "virtual":
                file.create_virtual_dataset("mid", layout)
            else:
                file.create_dataset("mid", values.shape, "f4", external=[(str(secret), 0, values.nbytes)])

        path = hdf5(tmp_path / "a.h5", build)
        opened = secret.stat().st_atime_ns
        with pytest.raises(CubeUnsafeError):
            open_cube(path)
        assert secret.stat().st_atime_ns == opened

    def test_unknown_filter(self, tmp_path: Path) -> None:
        def build(file: h5py.File) -> None:
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_chunk((3, 2, 1, 4))
            plan.set_filter(40_000, h5py.h5z.FLAG_OPTIONAL, (1,))
            h5py.h5d.create(file.id, b"mid", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((3, 2, 1, 4)), plan)

        with pytest.raises(CubeUnsafeError, match="filter 40000"):
            open_cube(hdf5(tmp_path / "a.h5", build))

    def test_groups_are_not_entered(self, tmp_path: Path, values: np.ndarray) -> None:
        path = tmp_path / "a.nc"
        from_arrays({"mid": values}, [0.1, 0.3, 1.0]).to_xarray().to_netcdf(path, engine="h5netcdf")
        with h5py.File(path, "r+") as file:
            group = file.create_group("deep")
            group["cycle"] = file["/"]
            for _ in range(3000):
                group = group.create_group("g")
        assert_array_equal(open_cube(path)["mid"].values, values)
