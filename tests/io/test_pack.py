"""pack: one file, whole or not there; nothing else is replaced."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeIncompleteError
from icrkit.io import CubeWriter, _pack, open_cube, pack, verify, write_moments

Flip = Callable[[Path, int], None]


@dataclass
class Numbers:
    """Something that is saved as moments are."""

    count: np.ndarray


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

    def test_replaces_as_a_whole(self, store: Any, tmp_path: Path) -> None:
        out = pack(store.write(tmp_path / "a.cube"), tmp_path / "a.h5")
        first = out.read_bytes()
        out.chmod(0o600)
        pack(tmp_path / "a.cube", out)
        assert out.read_bytes() == first
        assert out.stat().st_mode & 0o777 == 0o600

    def test_what_is_not_a_packed_cube_is_replaced_only_on_request(self, store: Any, tmp_path: Path) -> None:
        path, out = store.write(tmp_path / "a.cube"), tmp_path / "a.h5"
        whole = pack(path, tmp_path / "b.h5").read_bytes()
        write_moments(Numbers(np.zeros(2)), tmp_path / "m.h5")
        for old in (b"old", b"", whole[:-1], (tmp_path / "m.h5").read_bytes()):
            out.write_bytes(old)
            with pytest.raises(FileExistsError, match="not a whole packed cube"):
                pack(path, out)
            assert out.read_bytes() == old
            assert pack(path, out, overwrite=True).read_bytes() == whole
            out.unlink()

    @pytest.mark.parametrize("name", ["cube.json", "part-00000.h5", "manifest.jsonl", "new.h5", "sub/new.h5"])
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_nothing_inside_a_store(self, store: Any, tmp_path: Path, files: Any, name: str, overwrite: bool) -> None:
        path, other = store.write(tmp_path / "a.cube"), store.write(tmp_path / "b.cube")
        (tmp_path / "link.h5").symlink_to(path / name)
        before = files(path)
        for source, out in ((path, path / name), (other, path / name), (path, tmp_path / "link.h5")):
            with pytest.raises(CubeFormatError, match="inside the store"):
                pack(source, out, overwrite=overwrite)
        assert files(path) == before

    @pytest.mark.parametrize("name", ["a.npz", "a", "a.zarr", "a.h5.bak"])
    def test_a_name_by_which_it_would_not_be_read(self, store: Any, tmp_path: Path, files: Any, name: str) -> None:
        path = store.write(tmp_path / "a.cube")
        with pytest.raises(CubeFormatError, match=rf"{name}: expected a name that ends in \.h5, \.hdf5, \.nc, \.nc4"):
            pack(path, tmp_path / name)
        assert not (tmp_path / name).exists()

    def test_sources_that_are_files(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", mid=np.zeros((2, 2, 2)))
        with pytest.raises(CubeFormatError, match="is a file; pack expects a store, a folder with cube"):
            pack(tmp_path / "x.npz", tmp_path / "out.h5")

    def test_memory_does_not_grow_with_the_store(self, tmp_path: Path, monkeypatch: Any) -> None:
        # Only the frame is in memory: pages without features, however many of these there are.
        path = tmp_path / "a.cube"
        with CubeWriter(path, {"mid": 64}, [0.1, 0.3, 1.0], 2, 4000, block_size=500) as writer:
            writer.append(range(4000), {"mid": np.ones((4000, 2, 3, 64))})
        frames = []
        real = _pack._frame
        monkeypatch.setattr(_pack, "_frame", lambda *args: frames.append(real(*args)) or frames[0])
        pack(path, tmp_path / "a.h5")
        pages = frames[0][0]
        assert pages.size > 4000 * 2 * 3 * 64 * 4
        assert sum(len(piece) for _, piece in pages.pieces()) < 0.1 * pages.size

    def test_what_cannot_be_packed(self, store: Any, flip_bit: Flip, tmp_path: Path) -> None:
        path = store.begin(tmp_path / "a.cube", 2)
        out = tmp_path / "a.h5"
        old = pack(store.write(tmp_path / "b.cube"), out).read_bytes()
        with pytest.raises(CubeIncompleteError, match="2 of 5"):
            pack(path, out)
        store.write(path)
        flip_bit(path / "part-00003.h5", 5000)
        with pytest.raises(CubeCorruptError, match="part-00003"):
            pack(path, out)
        with pytest.raises(CubeFormatError, match="folder"):
            pack(path, tmp_path)
        with pytest.raises(CubeFormatError, match="not a cube store"):
            pack(tmp_path, out)
        assert out.read_bytes() == old
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.cube", "a.h5", "b.cube"]

    def test_disk_full(self, store: Any, tmp_path: Path, monkeypatch: Any) -> None:
        path = store.write(tmp_path / "a.cube")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                pack(path, tmp_path / "a.h5")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        real, left = os.write, [0]

        def full(fd: int, data: Any) -> int:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            return real(fd, data)

        monkeypatch.setattr(os, "write", full)
        for room in range(1000):
            left[0] = room
            try:
                pack(path, tmp_path / "a.h5")
            except OSError as error:
                assert error.errno == 28
                assert [p.name for p in tmp_path.iterdir()] == ["a.cube"]
            else:
                break
        assert 10 < room < 999
        assert verify(tmp_path / "a.h5") == 1


def test_pages_are_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with open(tmp_path / "a", "w+b") as plain:
        pages = _pack._Pages()
        for _ in range(300):
            place, n = int(rng.integers(0, 400_000)), int(rng.integers(0, 150_000))
            for file in (plain, pages):
                file.seek(place)
                if n % 3:
                    file.write(b"%d" % n * (n // 5))
                file.seek(place // 2)
            assert pages.read(n) == plain.read(n)
        plain.truncate(100_000)
        pages.truncate(100_000)
        whole = bytearray(100_000)
        for start, piece in pages.pieces():
            whole[start : start + len(piece)] = piece
        plain.seek(0)
        assert bytes(whole) == plain.read()
        assert pages.seek(0, os.SEEK_END) == 100_000
