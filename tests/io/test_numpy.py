"""Arrays that were saved with numpy, and what is refused before anything is allocated."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeTooLargeError
from icrkit.io import open_cube


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 2, 4)).astype("f4")


def test_npy(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values)
    cube = open_cube(tmp_path / "a.npy")
    assert cube.source == str(tmp_path / "a.npy")
    assert_array_equal(cube.level().values, values)


def test_npz(tmp_path: Path, values: np.ndarray) -> None:
    both = np.stack([values, values + 1], axis=2)
    known = {"sigmas": [0.1, 1], "labels": range(6), "image_ids": list("abcdef")}
    np.savez(tmp_path / "a.npz", mid=both, up=both[..., :2], **known)
    cube = open_cube(tmp_path / "a.npz")
    assert cube.layers == ("mid", "up")
    assert cube.sigmas.tolist() == [0.1, 1]
    assert cube.image_ids.tolist() == list("abcdef")
    assert_array_equal(cube.labels, range(6))
    assert_array_equal(cube.select(layer="mid", sigma=1).level(), values + 1)


@pytest.mark.parametrize("kind", [object, "U2", int, complex])
def test_not_floating_point(tmp_path: Path, kind: Any) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 2)).astype(kind), allow_pickle=True)
    np.savez(tmp_path / "a.npz", mid=np.zeros((2, 2, 2)).astype(kind), allow_pickle=True)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(CubeFormatError, match=r"expected (float|numbers)"):
            open_cube(tmp_path / name)


@pytest.mark.parametrize("shape", [(), (6,), (6, 2, 1, 4, 1)])
def test_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(CubeFormatError, match=r"has shape .* expected \(image, view, sigma, feature\)"):
        open_cube(tmp_path / "a.npy")


def test_layers_of_rows_and_of_views_do_not_go_together(tmp_path: Path, values: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", mid=values, up=values[:, 0])
    with pytest.raises(CubeFormatError, match=r"'mid' and 'up' differ in \(image, view, sigma\)"):
        open_cube(tmp_path / "a.npz")


def test_damaged(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", mid=values)
    for name in ("a.npy", "a.npz"):
        raw = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(raw[: len(raw) // 2])
        with pytest.raises(CubeCorruptError):
            open_cube(tmp_path / name)


@pytest.mark.parametrize("sides", [(10**5, 2, 10**11), (2**62, 2, 8), (10**30, 2, 4)])
def test_a_small_archive_that_declares_petabytes(tmp_path: Path, sides: tuple[int, ...]) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {sides}, }}"
    header += " " * (117 - len(header)) + "\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
            archive.writestr("mid.npy", member)
        with pytest.raises(CubeTooLargeError, match=r"a\.npz, array 'mid' .*declares .* and holds 64 bytes"):
            open_cube(tmp_path / "a.npz")


def test_what_is_not_an_array(tmp_path: Path) -> None:
    for name, content in (("mid.npy", b"text"), ("mid.npy", b""), ("readme.txt", b"text"), ("mid.npy/", b"")):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr(name, content)
        with pytest.raises((CubeCorruptError, CubeFormatError), match=r"a\.npz"):
            open_cube(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "w"):
        pass
    with pytest.raises(CubeFormatError, match=r"a\.npz holds no arrays"):
        open_cube(tmp_path / "a.npz")


def test_larger_than_memory(tmp_path: Path, values: np.ndarray, monkeypatch: Any) -> None:
    np.savez_compressed(tmp_path / "a.npz", mid=np.zeros((1000, 2, 10)))
    monkeypatch.setattr("icrkit.io._memory.free_bytes", lambda: 10_000)
    with pytest.raises(CubeTooLargeError, match="needs 160 KB"):
        open_cube(tmp_path / "a.npz")
