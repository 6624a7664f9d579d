"""repair: a way out of every damaged manifest that takes no editor, and loses no block that is whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeLockedError
from icrkit.io import Repair, open_cube, repair, verify

Files = Callable[[Path], dict[str, str]]

Change = Callable[[list[bytes]], list[bytes]]


def torn(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1][:40] + b"\n", *lines[1:]]


def repeated(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines for _ in range(2)]


def shuffled(lines: list[bytes]) -> list[bytes]:
    return lines[::-1]


def of_another_run(lines: list[bytes]) -> list[bytes]:
    digest = lines[1].split(b'"sha256":"')[1][:64]
    return [lines[0], lines[1].replace(digest, b"a" * 64), *lines[1:]]


def foreign(lines: list[bytes]) -> list[bytes]:
    return [b"\xff\xfe\n", b"{}\n", b'{"block":99}\n', *lines]


@pytest.mark.parametrize("change", [torn, repeated, shuffled, of_another_run, foreign])
def test_a_mixed_manifest(store: Any, files: Files, tmp_path: Path, change: Change) -> None:
    path = store.write(tmp_path / "a.cube")
    whole = files(path)
    manifest = path / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    changed = change(lines)
    manifest.write_bytes(b"".join(changed))
    for use in (open_cube, store.write):
        with pytest.raises(CubeCorruptError, match=r"manifest.jsonl"):
            use(path)
    assert repair(path) == Repair(5, 5, 0, len(changed) - 5)
    assert files(path) == whole
    assert repair(path) == Repair(5, 5, 0, 0)


def test_lost_and_changed_parts_are_written_again(
    store: Any, files: Files, flip_bit: Callable[[Path, int], None], tmp_path: Path
) -> None:
    path = store.write(tmp_path / "a.cube")
    whole = files(path)
    (path / "part-00001.h5").unlink()
    flip_bit(path / "part-00003.h5", 4000)
    assert repair(path) == Repair(5, 3, 2, 0)
    store.write(path)
    assert verify(path) == 5
    assert files(path) == whole


def test_unfinished_stores_and_shards(store: Any, tmp_path: Path) -> None:
    path = store.begin(tmp_path / "a.cube", 2)
    with (path / "manifest.jsonl").open("ab") as file:
        file.write(b'{"torn')
    assert repair(path) == Repair(5, 2, 0, 1)
    store.write(path)
    assert verify(path) == 5
    with store.open(tmp_path / "b.cube", shard=(1, 3)) as writer:
        store.append(writer, writer.image_range)
    assert repair(tmp_path / "b.cube").n_whole == 2


def test_not_while_a_writer_is_at_work_nor_where_no_store_is(store: Any, tmp_path: Path) -> None:
    with store.open(tmp_path / "a.cube"), pytest.raises(CubeLockedError):
        repair(tmp_path / "a.cube")
    with pytest.raises(CubeFormatError, match="cube store"):
        repair(tmp_path)
