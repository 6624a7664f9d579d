"""repair: a manifest made anew from the lines that can be read and the parts that are whole."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from icrkit.io._durable import write_file
from icrkit.io._layout import OPEN_DIGEST, Layout, Line, read_layout
from icrkit.io._lock import WriterLock
from icrkit.io._parts import file_sha256

__all__ = ["Repair", "repair"]


@dataclass(frozen=True)
class Repair:
    """Blocks and manifest lines as repair found them.

    Attributes
    ----------
    n_blocks : int
        Blocks of the cube.
    n_whole : int
        Blocks whose bytes are as they were written.
    n_open : int
        Blocks that were written once and are lost or changed; the next extraction writes them again, with whatever
        features come.
    n_dropped : int
        Manifest lines that were left out: torn, repeated, or out of their place.
    """

    n_blocks: int
    n_whole: int
    n_open: int
    n_dropped: int


def repair(path: str | Path) -> Repair:
    """Mend the manifest of a store, and give up the parts that were lost or changed.

    Parameters
    ----------
    path : str or Path
        The store. Nobody may be writing to it.

    Returns
    -------
    Repair

    Raises
    ------
    CubeLockedError
        When a writer is at work.
    CubeFormatError, CubeCorruptError
        When there is no store, or its cube.json is damaged.

    Notes
    -----
    Every part is hashed. Blocks whose bytes are those of a line count, wherever the line stands; the others are written
    again by the next run of the extraction, and no digest is compared with then. No part is removed.
    """
    folder = Path(path)
    layout = read_layout(folder)
    found = [_repair_shard(folder, layout, shard) for shard in range(layout.n_shards)]
    total = sum(map(layout.n_blocks, range(layout.n_shards)))
    return Repair(total, *(sum(counts) for counts in zip(*found, strict=True)))


def _repair_shard(folder: Path, layout: Layout, shard: int) -> tuple[int, int, int]:
    """Blocks that are whole, blocks that are open, and lines left out, of one shard."""
    lock = WriterLock(folder / layout.lock_name(shard))
    try:
        manifest = folder / layout.manifest_name(shard)
        try:
            raw = manifest.read_bytes()
        except FileNotFoundError:
            return 0, 0, 0
        known, n_lines = _lines_of(raw, layout, shard)
        lines = []
        for block in range(layout.n_blocks(shard)):
            if block not in known:
                break
            part = folder / layout.part_name(shard, block)
            lines.append(next((line for line in known[block] if _is_of(part, line)), _open(known[block][0])))
        n_open = sum(line.is_open for line in lines)
        content = b"".join(line.encode() for line in lines)
        if content != raw:
            write_file(manifest, content, follow_link=False)
        return len(lines) - n_open, n_open, n_lines - len(lines)
    finally:
        lock.release()


def _lines_of(raw: bytes, layout: Layout, shard: int) -> tuple[dict[int, list[Line]], int]:
    """Lines that can be read, by block, and the number of all lines."""
    known: dict[int, list[Line]] = {}
    pieces = [piece for piece in raw.split(b"\n") if piece]
    for piece in pieces:
        with contextlib.suppress(ValueError, RecursionError):
            line = Line.decode(piece)
            if line.images == len(layout.block_range(shard, line.block)) > 0:
                known.setdefault(line.block, []).append(line)
    return known, len(pieces)


def _open(line: Line) -> Line:
    return replace(line, sha256=OPEN_DIGEST)


def _is_of(part: Path, line: Line) -> bool:
    try:
        return part.stat().st_size == line.n_bytes and file_sha256(part) == line.sha256
    except FileNotFoundError:
        return False
