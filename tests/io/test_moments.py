"""Moments files keep every field, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from icrkit.exceptions import CubeCorruptError, CubeFormatError
from icrkit.io import read_moments, write_moments


@dataclass
class Sums:
    """Arrays, dicts of arrays and plain values, as Moments has them."""

    count: np.ndarray
    scatter: np.ndarray
    dims: tuple[str, ...] = ()
    coords: dict[str, np.ndarray] = field(default_factory=dict)
    ordered: bool = True
    products: str = "float64"


@pytest.fixture
def sums() -> Sums:
    rng = np.random.default_rng(0)
    coords = {"sigma": np.array([0.1, 0.3]), "name": np.array(["ä", "b"])}
    return Sums(np.array([3, 4]), rng.normal(size=(2, 3, 3)), ("sigma",), coords, ordered=False)


def test_back_as_it_was(sums: Sums, tmp_path: Path) -> None:
    write_moments(sums, tmp_path / "m.h5")
    again = read_moments(Sums, tmp_path / "m.h5")
    assert_array_equal(again.count, sums.count)
    assert_array_equal(again.scatter, sums.scatter)
    assert again.scatter.dtype == np.float64
    assert (again.dims, again.ordered, again.products) == (("sigma",), False, "float64")
    assert_array_equal(again.coords["sigma"], [0.1, 0.3])
    assert again.coords["name"].tolist() == ["ä", "b"]


def test_scalars(tmp_path: Path) -> None:
    write_moments(Sums(np.array(5), np.zeros((2, 2))), str(tmp_path / "m.h5"))
    assert read_moments(Sums, tmp_path / "m.h5").count.shape == ()


def test_other_files(sums: Sums, store: Any, tmp_path: Path) -> None:
    path = store.write(tmp_path / "a.cube")
    with pytest.raises(CubeFormatError, match="not a moments file"):
        read_moments(Sums, path / "part-00000.h5")
    write_moments(sums, tmp_path / "m.h5")
    whole = (tmp_path / "m.h5").read_bytes()
    (tmp_path / "m.h5").write_bytes(whole[:100])  # nothing is left that says what it was
    with pytest.raises(CubeFormatError, match="or lost its end"):
        read_moments(Sums, tmp_path / "m.h5")


def test_damage_is_seen_before_it_is_parsed(sums: Sums, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.h5"
    write_moments(sums, path)
    whole = path.read_bytes()
    monkeypatch.setattr(h5py, "File", lambda *args, **options: pytest.fail("it was parsed"))
    for place in range(0, len(whole) - 192, 997):
        changed = bytearray(whole)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(CubeCorruptError, match="bytes changed"):
            read_moments(Sums, path)
    for other in (whole[:-1], whole + b"\n", whole[1:]):
        path.write_bytes(other)
        with pytest.raises(CubeCorruptError, match="bytes"):
            read_moments(Sums, path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_moments(Sums, tmp_path / "none.h5")
