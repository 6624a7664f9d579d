"""pack and verify: one file, whole or not there; every damaged block by name."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeIncompleteError
from icrkit.io import open_cube, pack, verify

Flip = Callable[[Path, int], None]


class TestPack:
    def test_the_same_cube(self, store: Any, tmp_path: Path) -> None:
        path = store.write(tmp_path / "a.cube")
        out = pack(path, tmp_path / "a.h5")
        cube = open_cube(out)
        assert cube.source == str(out)
        assert_array_equal(cube.image_ids, store.ids)
        assert_array_equal(cube.labels, store.labels)
        assert cube.attrs == open_cube(path).attrs
        assert cube.sigmas.tolist() == [0.1, 0.3, 1.0]
        for name, values in store.features.items():
            assert_array_equal(cube[name].values, values)
            assert_array_equal(cube[[22, 3, 9]].select(layer=name, sigma=0.3).level(), values[[22, 3, 9]][:, :, 1])
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.cube", "a.h5"]
        assert verify(out) == 1

    def test_plain_xarray_opens_it(self, store: Any, tmp_path: Path) -> None:
        pack(store.write(tmp_path / "a.cube"), tmp_path / "a.h5")
        with xr.open_dataset(tmp_path / "a.h5", engine="h5netcdf") as dataset:
            assert_array_equal(dataset["mid"].values, store.features["mid"])
            assert dataset["image"].values.tolist() == store.ids.tolist()
            assert_array_equal(dataset.coords["labels"], store.labels)
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["mid"].chunks == (5, 2, 1, 5)

    def test_shards_and_every_block_size(self, store: Any, tmp_path: Path) -> None:
        path = tmp_path / "a.cube"
        for shard in range(3):
            with store.open(path, shard=(shard, 3)) as writer:
                store.append(writer, writer.image_range)
        assert_array_equal(open_cube(pack(path, tmp_path / "a.h5"))["up.0"].values, store.features["up.0"])
        path = store.write(tmp_path / "b.cube", block_size=100)
        assert_array_equal(open_cube(pack(path, tmp_path / "b.h5"))["up.0"].values, store.features["up.0"])

    def test_replaces_as_a_whole(self, store: Any, tmp_path: Path, files: Any) -> None:
        out = tmp_path / "a.h5"
        out.write_bytes(b"old")
        pack(store.write(tmp_path / "a.cube"), out)
        first = out.read_bytes()
        pack(tmp_path / "a.cube", out)
        assert out.read_bytes() == first

    def test_what_cannot_be_packed(self, store: Any, flip_bit: Flip, tmp_path: Path) -> None:
        path = store.begin(tmp_path / "a.cube", 2)
        out = tmp_path / "a.h5"
        out.write_bytes(b"old")
        with pytest.raises(CubeIncompleteError, match="2 of 5"):
            pack(path, out)
        store.write(path)
        flip_bit(path / "part-00003.h5", 5000)
        with pytest.raises(CubeCorruptError, match="part-00003"):
            pack(path, out)
        with pytest.raises(CubeFormatError, match="folder"):
            pack(path, tmp_path)
        with pytest.raises(CubeFormatError, match="no cube store"):
            pack(tmp_path, out)
        assert out.read_bytes() == b"old"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.cube", "a.h5"]

    def test_disk_full(self, store: Any, tmp_path: Path, monkeypatch: Any) -> None:
        path = store.write(tmp_path / "a.cube")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                pack(path, tmp_path / "a.h5")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        def full(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            pack(path, tmp_path / "a.h5")
        assert [p.name for p in tmp_path.iterdir()] == ["a.cube"]


class TestPackedDamage:
    def test_a_flipped_bit(self, store: Any, flip_bit: Flip, tmp_path: Path) -> None:
        out = pack(store.write(tmp_path / "a.cube"), tmp_path / "a.h5")
        whole = out.read_bytes()
        for place in np.linspace(0, len(whole) - 193, 7).astype(int):
            out.write_bytes(whole)
            flip_bit(out, int(place))
            with pytest.raises(CubeCorruptError):
                open_cube(out)
            with pytest.raises(CubeCorruptError):
                verify(out)

    def test_truncated(self, store: Any, tmp_path: Path) -> None:
        out = pack(store.write(tmp_path / "a.cube"), tmp_path / "a.h5")
        whole = out.read_bytes()
        out.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CubeCorruptError):
            open_cube(out)
        out.write_bytes(whole[:1000] + whole[-192:])
        with pytest.raises(CubeCorruptError, match="bytes"):
            open_cube(out)

    def test_damaged_digest(self, store: Any, tmp_path: Path) -> None:
        out = pack(store.write(tmp_path / "a.cube"), tmp_path / "a.h5")
        whole = out.read_bytes()
        out.write_bytes(whole.replace(b'"sha256":', b'"sha255":'))
        with pytest.raises(CubeCorruptError, match="digest at its end"):
            open_cube(out)


class TestVerify:
    def test_lists_all_bad_blocks(self, store: Any, flip_bit: Flip, tmp_path: Path) -> None:
        path = store.write(tmp_path / "a.cube")
        assert verify(path) == 5
        flip_bit(path / "part-00001.h5", 4000)
        (path / "part-00002.h5").unlink()
        os.truncate(path / "part-00004.h5", 10)
        with pytest.raises(CubeCorruptError) as caught:
            verify(path)
        for words in ("3 of 5", "part-00001.h5 (bytes", "part-00002.h5 (missing)", "part-00004.h5 (10 of"):
            assert words in str(caught.value)
        for name in ("part-00001.h5", "part-00004.h5"):
            (path / name).unlink()
        store.write(path)
        assert verify(path) == 5

    def test_unfinished(self, store: Any, tmp_path: Path) -> None:
        with pytest.raises(CubeIncompleteError, match="2 of 5 blocks are there, all of them right"):
            verify(store.begin(tmp_path / "a.cube", 2))

    def test_without_digest(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.zeros((2, 2, 2)))
        with pytest.raises(CubeFormatError, match="no digest"):
            verify(tmp_path / "a.npy")
