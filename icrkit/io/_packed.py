"""A store in one file, as pack makes it: its digest is compared before it is parsed."""

from __future__ import annotations

import json
from pathlib import Path

import xarray as xr

from icrkit.exceptions import CubeFormatError
from icrkit.io._hdf5 import open_hdf5
from icrkit.io._layout import Layout, Line
from icrkit.io._pack import PACK_ATTRIBUTE
from icrkit.io._parsing import parsing
from icrkit.io._parts import Part
from icrkit.io._reader import lazy_dataset
from icrkit.io._sealed import SEAL_BYTES, read_seal

__all__ = ["open_packed", "packed_part"]


def packed_part(path: Path) -> Part | None:
    """A file made by pack, as one part whose digest can be checked; None for a file without such a digest."""
    seal = read_seal(path)
    if seal is None or seal.kind != "cube":
        return None
    return Part(str(path), 0, 0, Line(0, 0, seal.n_bytes, seal.sha256, None, None), tail=SEAL_BYTES)


def open_packed(path: Path, part: Part, verify: str) -> xr.Dataset:
    """Dataset of a packed file, lazily indexed."""
    if verify == "digest":
        part.check_digest()
    with open_hdf5(path) as file, parsing(path, f"attribute {PACK_ATTRIBUTE}"):
        raw = file.attrs.get(PACK_ATTRIBUTE)
    if not isinstance(raw, str):
        raise CubeFormatError(f"{path} has no attribute {PACK_ATTRIBUTE}: it was not made by pack")
    with parsing(path, f"attribute {PACK_ATTRIBUTE}"):
        layout = Layout.from_dict(json.loads(raw), path)
    whole = Part(part.path, 0, 0, Line(0, layout.n_images, part.line.n_bytes, part.line.sha256, None, None), part.tail)
    return lazy_dataset(path, layout, [whole], verify)
