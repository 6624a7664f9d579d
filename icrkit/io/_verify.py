"""verify: hash every byte of a cube again."""

from __future__ import annotations

from pathlib import Path

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeIncompleteError
from icrkit.io._layout import read_layout, read_manifest
from icrkit.io._packed import packed_part
from icrkit.io._parts import file_sha256

__all__ = ["verify"]


def verify(path: str | Path) -> int:
    """Hash every byte of a cube again and compare with what was written; number of blocks, all of them right.

    Parameters
    ----------
    path : str or Path
        A store, or a file made by :func:`pack` (one block).

    Returns
    -------
    int
        Number of blocks.

    Raises
    ------
    CubeCorruptError
        When blocks are damaged or missing; the message names all of them.
    CubeIncompleteError
        When all committed blocks are right, and extraction has not ended.
    CubeFormatError
        When the path holds no cube with digests.
    """
    path = Path(path)
    if path.is_file():
        part = packed_part(path)
        if part is None:
            raise CubeFormatError(f"{path} carries no digest: stores and files made by pack can be verified")
        if file_sha256(path, part.line.n_bytes) != part.line.sha256:
            raise CubeCorruptError(f"{path}: its bytes changed after they were written; pack the store again")
        return 1
    layout = read_layout(path)
    bad: list[str] = []
    good = 0
    for shard in range(layout.n_shards):
        for line in read_manifest(path, layout, shard)[0]:
            part_path = path / layout.part_name(shard, line.block)
            if not part_path.exists():
                bad.append(f"{part_path.name} (missing)")
            elif part_path.stat().st_size != line.n_bytes:
                bad.append(f"{part_path.name} ({part_path.stat().st_size} of {line.n_bytes} bytes)")
            elif file_sha256(part_path) != line.sha256:
                bad.append(f"{part_path.name} (bytes changed)")
            else:
                good += 1
    total = sum(map(layout.n_blocks, range(layout.n_shards)))
    if bad:
        raise CubeCorruptError(
            f"{path}: {len(bad)} of {total} blocks are damaged: {', '.join(bad)}. Remove these files and run the "
            "extraction again: it writes these blocks only."
        )
    if good < total:
        raise CubeIncompleteError(f"{path}: {good} of {total} blocks are there, all of them right")
    return good
