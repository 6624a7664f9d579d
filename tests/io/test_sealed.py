"""Seals: lost, gained and changed bytes are seen without a parser."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from icrkit.exceptions import CubeCorruptError
from icrkit.io._durable import new_file, write_all
from icrkit.io._sealed import SEAL_BYTES, check_seal, read_seal, seal_file


@pytest.fixture(params=[0, 10, 5_000_000])
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with new_file(tmp_path / "a.h5") as fd:
        write_all(fd, b"x" * request.param)
        seal_file("moments", fd)
    return tmp_path / "a.h5"


def test_what_it_says(sealed: Path) -> None:
    seal = check_seal(sealed)
    assert seal is not None
    assert seal.kind == "moments"
    assert seal.n_bytes == sealed.stat().st_size - SEAL_BYTES
    assert seal.sha256 == hashlib.sha256(b"x" * seal.n_bytes).hexdigest()


@pytest.mark.parametrize("n", [1, 2, 191, 192, 193, 3000])
def test_gained_bytes(sealed: Path, n: int) -> None:
    with sealed.open("ab") as file:
        file.write(b"\n" * n)
    with pytest.raises(CubeCorruptError, match="lost or gained bytes"):
        read_seal(sealed)


@pytest.mark.parametrize("n", [1, 2, 100, 150])
def test_lost_bytes_at_the_end(sealed: Path, n: int) -> None:
    os.truncate(sealed, sealed.stat().st_size - n)
    with pytest.raises(CubeCorruptError, match="lost or gained bytes"):
        read_seal(sealed)


def test_lost_bytes_at_the_front(sealed: Path) -> None:
    raw = sealed.read_bytes()
    if len(raw) > SEAL_BYTES:
        sealed.write_bytes(raw[1:])
        with pytest.raises(CubeCorruptError, match=f"has {len(raw) - 1} bytes, and {len(raw)} were written"):
            read_seal(sealed)


def test_no_byte_may_change(sealed: Path) -> None:
    raw = sealed.read_bytes()
    n = len(raw) - SEAL_BYTES
    for place in {*range(0, n, max(1, n // 5)), *range(n, len(raw), 1 if n < 100 else 20)}:
        changed = bytearray(raw)
        changed[place] ^= 1
        sealed.write_bytes(changed)
        try:
            seal = check_seal(sealed)
        except CubeCorruptError:
            continue
        # In the seal itself: its mark, so that it is none; or a space or the kind, and what it covers is whole.
        assert place >= n
        assert seal is None or (seal.n_bytes, seal.sha256) == (n, hashlib.sha256(raw[:n]).hexdigest())


def test_files_without(tmp_path: Path) -> None:
    for raw in (b"", b"x", b"x" * 10_000):
        (tmp_path / "a").write_bytes(raw)
        assert check_seal(tmp_path / "a") is None
