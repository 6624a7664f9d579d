"""verify: hash every byte of a cube again."""

from __future__ import annotations

import warnings
from pathlib import Path

from icrkit.exceptions import (
    CubeCorruptError,
    CubeFormatError,
    CubeIncompleteError,
    CubeTooLargeError,
    CubeUnsafeError,
)
from icrkit.io._hdf5 import open_hdf5
from icrkit.io._layout import CONFIG_NAME, Layout, read_layout, read_manifest
from icrkit.io._packed import open_packed, packed_part
from icrkit.io._parts import Part, check_part, file_sha256, part_names

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
        data = open_packed(path, part, "digest")
        for layer in data.data_vars:
            data[layer][:1, :1, :1, :1].values  # noqa: B018 (parses the frame of the layer)
        return 1
    layout = read_layout(path)
    bad: list[str] = []
    good = 0
    known = {CONFIG_NAME}
    for shard in range(layout.n_shards):
        known |= {layout.manifest_name(shard), layout.lock_name(shard)}
        for line in read_manifest(path, layout, shard)[0]:
            part_path = path / layout.part_name(shard, line.block)
            known.add(part_path.name)
            fault = _fault(Part(str(part_path), shard, 0, line), layout)
            if fault:
                bad.append(f"{part_path.name} ({fault})")
            else:
                good += 1
    strange = sorted(repr(item.name) for item in path.iterdir() if item.name not in known)
    if strange:
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        warnings.warn(
            f"{path} holds files that no manifest names, and which were not looked at: {', '.join(strange[:5])}{more}",
            stacklevel=2,
        )
    total = sum(map(layout.n_blocks, range(layout.n_shards)))
    if bad:
        raise CubeCorruptError(
            f"{path}: {len(bad)} of {total} blocks are damaged: {', '.join(bad)}. Remove these files and run the "
            "extraction again: it writes these blocks only."
        )
    if good < total:
        raise CubeIncompleteError(f"{path}: {good} of {total} blocks are there, all of them right")
    return good


def _fault(part: Part, layout: Layout) -> str | None:
    """What is wrong with a part: its bytes, its frame, or its ids and labels, which the manifest repeats."""
    path, line = Path(part.path), part.line
    if not path.exists():
        return "missing"
    if path.stat().st_size != line.n_bytes:
        return f"{path.stat().st_size} of {line.n_bytes} bytes"
    if file_sha256(path) != line.sha256:
        return "bytes changed"
    try:
        with open_hdf5(path, names=part_names(layout)) as file:
            check_part(file, part.light(), layout)
    except (CubeCorruptError, CubeUnsafeError, CubeTooLargeError) as error:
        return str(error).removeprefix(f"{path}: ")
    return None
