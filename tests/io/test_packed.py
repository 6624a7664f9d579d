"""Packed files and verify: damage is seen before anything is parsed; every damaged block by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeIncompleteError
from icrkit.io import open_cube, pack, verify

Flip = Callable[[Path, int], None]


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

    @pytest.mark.parametrize("n", [-5000, -193, -192, -191, -1, 1, 191, 192, 5000, 100_000])
    def test_lost_or_gained_bytes(self, store: Any, tmp_path: Path, n: int) -> None:
        """A pack without its digest is not read as somebody else's file."""
        out = pack(store.write(tmp_path / "a.cube"), tmp_path / "a.h5")
        whole = out.read_bytes()
        for name in ("a.h5", "a.nc"):
            (tmp_path / name).write_bytes(whole[:n] if n < 0 else whole + b"\n" * n)
            with pytest.raises(CubeCorruptError, match=name.replace(".", r"\.")):
                open_cube(tmp_path / name)

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
