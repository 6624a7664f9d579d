"""Files of several arrays: the arrays are named without being read, and what is hostile is neither run nor followed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from icrkit.exceptions import CubeCorruptError, CubeTooLargeError, CubeUnsafeError
from icrkit_extractors._image_containers import hdf5_members, npz_members, zarr_members
from icrkit_extractors.images import open_images


@pytest.fixture
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the other process that parses an HDF5 file first: it takes a third of a second."""
    monkeypatch.setattr("icrkit.io._hdf5.probe", lambda *_, **__: None)


def nchw(images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, -1, 1)


def test_members_are_named_with_their_shapes_and_read_when_asked_for(tmp_path, photos, unprobed):
    np.savez(tmp_path / "a.npz", images=photos, y=np.arange(len(photos)))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/images"], file["deep/y"] = photos, np.arange(len(photos))
        file["deep"].create_group("more")
    group = zarr.create_group(tmp_path / "a.zarr")
    group["images"], group["y"] = photos, np.arange(len(photos))
    for members_of, path, key, last in (
        (npz_members, "a.npz", None, None), (hdf5_members, "a.h5", "deep/images", "images"),
        (zarr_members, "a.zarr", None, None),
    ):  # fmt: skip
        members, name = members_of(tmp_path / path, key)
        arrays = {member: (held.shape, held.dtype) for member, held in members.items() if held.is_array}
        assert arrays == {"images": (photos.shape, photos.dtype), "y": ((len(photos),), np.dtype("i8"))}
        assert name == last
        np.testing.assert_array_equal(members["images"].load()[:], photos)
    members, _ = hdf5_members(tmp_path / "a.h5", "deep/images")
    assert str(members["more"]) == "a group" and str(members["y"]) == f"({len(photos)},) int64"


def test_small_files_that_declare_much(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", shape=(1 << 40, 3, 8, 8), chunks=(16, 3, 8, 8), dtype="u1", compression="gzip")
        file.create_dataset("chunk", shape=(1 << 12, 3, 512, 512), chunks=(1 << 10, 3, 512, 512), dtype="u1")
    with pytest.raises(CubeTooLargeError, match=r"a\.h5, array 'images' declares"):
        open_images(tmp_path / "a.h5", key="images")
    zarr.create_array(tmp_path / "a.zarr", shape=(1 << 30, 3, 8, 8), chunks=(1 << 22, 3, 8, 8), dtype="u1")
    with pytest.raises(CubeTooLargeError, match="one chunk declares 805 MB"):
        open_images(tmp_path / "a.zarr")
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((100, 3, 8, 8), np.uint8))
    monkeypatch.setattr("icrkit_extractors._image_containers.free_bytes", lambda: 10_000)
    with pytest.raises(CubeTooLargeError, match=r"array 'images' needs 19.3 KB and 10 KB are free; np.save it as .npy"):
        open_images(tmp_path / "a.npz")


def test_hdf5_that_leads_elsewhere_is_not_followed(tmp_path, photos, unprobed):
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file["group/images"] = photos
        file["images"] = photos
    (tmp_path / "raw").write_bytes(photos.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["external"] = h5py.ExternalLink("outside.h5", "/images")
        file["elsewhere"] = h5py.ExternalLink("outside.h5", "/group")
        file["soft"] = h5py.SoftLink("/external")
        layout = h5py.VirtualLayout(shape=photos.shape, dtype="u1")
        layout[:] = h5py.VirtualSource(tmp_path / "outside.h5", "images", shape=photos.shape)
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", photos.shape, "u1", external=[(str(tmp_path / "raw"), 0, photos.size)])
        file["own"] = photos
    for key in ("external", "soft", "virtual", "raw", "elsewhere/images"):
        with pytest.raises(CubeUnsafeError, match=r"a\.h5"):
            open_images(tmp_path / "a.h5", key=key)
    np.testing.assert_array_equal(open_images(tmp_path / "a.h5", key="own")[:], nchw(photos))
    with pytest.raises(ValueError, match="no group 'nowhere' on the way to 'nowhere/images'"):
        open_images(tmp_path / "a.h5", key="nowhere/images")
    with pytest.raises(ValueError, match=r"has no array 'group'; it holds images \(12, 24, 32, 3\) uint8"):
        open_images(tmp_path / "outside.h5", key="group")


def test_zarr_that_runs_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "a.zarr"
    path.mkdir()
    about = {
        "zarr_format": 2, "shape": [4, 8, 8], "chunks": [4, 8, 8], "dtype": "|u1", "order": "C", "fill_value": 0,
        "compressor": None, "filters": None,
    }  # fmt: skip
    (path / "0.0.0").write_bytes(pickle.dumps(Trap()))
    for hostile in ({"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}}, {"dtype": "|O"}):
        (path / ".zarray").write_text(json.dumps(about | hostile))
        with pytest.raises(ValueError, match=r"a\.zarr cannot be parsed"):
            open_images(path)[:]
    assert not (tmp_path / "sprung").exists()
    (path / ".zarray").write_text(json.dumps(about))
    (path / "0.0.0").write_bytes(bytes(range(256)))
    np.testing.assert_array_equal(open_images(path)[:].ravel(), np.arange(256))
    (path / "0.0.0").write_bytes(bytes(100))
    with pytest.raises(CubeCorruptError, match=r"a\.zarr, array 'a', image 0 cannot be read"):
        open_images(path)
