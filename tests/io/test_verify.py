"""verify: every byte again, every damaged block by name, and never more than was found."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeIncompleteError
from icrkit.io import _parts, open_cube, pack, verify

Flip = Callable[[Path, int], None]


def test_a_whole_cube(store: Any, tmp_path: Path) -> None:
    path = store.write(tmp_path / "a.cube")
    assert verify(path) == verify(str(path)) == store.n_blocks
    pack(path, tmp_path / "a.h5")
    assert verify(tmp_path / "a.h5") == 1


@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
def test_a_flipped_bit_names_its_block_and_no_other(store: Any, flip_bit: Flip, tmp_path: Path, place: float) -> None:
    path = store.write(tmp_path / "a.cube")
    part = path / "part-00003.h5"
    flip_bit(part, int(place * (part.stat().st_size - 1)))
    with pytest.raises(CubeCorruptError) as error:
        verify(path)
    assert "1 of 5 blocks are damaged: part-00003.h5 (bytes changed)." in str(error.value)
    flip_bit(part, int(place * (part.stat().st_size - 1)))
    assert verify(path) == 5


def test_all_damage_is_listed_at_once(store: Any, flip_bit: Flip, tmp_path: Path) -> None:
    path = store.write(tmp_path / "a.cube")
    sizes = [part.stat().st_size for part in sorted(path.glob("part-*"))]
    (path / "part-00000.h5").unlink()
    os.truncate(path / "part-00002.h5", 100)
    flip_bit(path / "part-00004.h5", 1234)
    with pytest.raises(CubeCorruptError) as error:
        verify(path)
    assert (
        f"3 of 5 blocks are damaged: part-00000.h5 (missing), part-00002.h5 (100 of {sizes[2]} bytes), "
        "part-00004.h5 (bytes changed)."
    ) in str(error.value)


@pytest.mark.parametrize("change", ["label", "id", "labels", "swap"])
def test_a_changed_manifest(store: Any, tmp_path: Path, change: str) -> None:
    """Parts repeat the ids and labels of their line, so that no other may stand there."""
    path = store.write(tmp_path / "a.cube")
    manifest = path / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    if change == "label":
        lines[2]["labels"][1] += 1
    elif change == "id":
        lines[2]["ids"][1] = "another"
    elif change == "labels":
        lines[2]["labels"] = None
    else:
        ids = lines[2]["ids"]
        ids[0], ids[1] = ids[1], ids[0]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        CubeCorruptError, match=r"1 of 5 blocks are damaged: part-00002\.h5 \(its image ids, labels or groups"
    ):
        verify(path)
    with pytest.raises((CubeCorruptError, CubeFormatError)):
        open_cube(path)["mid"].values  # noqa: B018


def test_what_was_read_before_is_hashed_again(store: Any, flip_bit: Flip, tmp_path: Path) -> None:
    # Readers hash a file once and remember its size and time; a bad disk changes neither.
    path = store.write(tmp_path / "a.cube")
    assert open_cube(path)["mid"].values.shape == (23, 2, 3, 5)
    part = path / "part-00001.h5"
    stat = part.stat()
    flip_bit(part, 2000)
    os.utime(part, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert _parts._verified
    with pytest.raises(CubeCorruptError, match=r"part-00001\.h5 \(bytes changed\)"):
        verify(path)


@pytest.mark.parametrize("n_blocks", [0, 1, 4])
def test_an_unfinished_cube_is_no_damaged_one(store: Any, tmp_path: Path, n_blocks: int) -> None:
    path = store.begin(tmp_path / "a.cube", n_blocks)
    with pytest.raises(CubeIncompleteError, match=f"{n_blocks} of 5 blocks are there, all of them right"):
        verify(path)


def test_damage_counts_more_than_what_is_not_there_yet(store: Any, flip_bit: Flip, tmp_path: Path) -> None:
    path = store.begin(tmp_path / "a.cube", 2)
    flip_bit(path / "part-00000.h5", 500)
    with pytest.raises(CubeCorruptError, match="1 of 5 blocks are damaged"):
        verify(path)


def test_nothing_is_changed(store: Any, files: Any, flip_bit: Flip, tmp_path: Path) -> None:
    path = store.write(tmp_path / "a.cube")
    flip_bit(path / "part-00000.h5", 500)
    before = files(path)
    with pytest.raises(CubeCorruptError):
        verify(path)
    assert files(path) == before


def test_what_holds_no_digest(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(CubeFormatError, match="carries no digest"):
        verify(tmp_path / "a.h5")
    with pytest.raises(CubeFormatError, match=r"not a cube store: it has no cube\.json"):
        verify(tmp_path)
