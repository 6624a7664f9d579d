"""A store in one file: written by a stream of levels, its digest kept where HDF5 does not look."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

from icrkit.exceptions import CubeCorruptError, CubeFormatError
from icrkit.io._block import LIBVER, name_dims, write_frame
from icrkit.io._durable import PART_SUFFIX, sync_folder
from icrkit.io._layout import Layout, Line, read_layout
from icrkit.io._parts import Part, file_sha256
from icrkit.io._reader import lazy_dataset, open_store

__all__ = ["open_packed", "pack", "packed_part"]

_MARK = b"\nicrkit-pack "
_LENGTH = 192
_ATTRIBUTE = "icrkit_cube"


def pack(path: str | Path, out: str | Path) -> Path:
    """Put a complete store into one NetCDF4 file, a block of a level at a time.

    Parameters
    ----------
    path : str or Path
        The store.
    out : str or Path
        The file to make, "out.h5"; replaced as a whole at the end.

    Returns
    -------
    Path
        The file. Plain ``xarray.open_dataset(out, engine="h5netcdf")`` reads it; its digest stands behind its end.

    Raises
    ------
    CubeIncompleteError, CubeCorruptError
        As :func:`icrkit.open_cube`.
    CubeFormatError
        When `path` is no store, or `out` a folder.
    OSError
        When the disk is full; nothing is left behind.
    """
    source, out = Path(path), Path(out)
    if out.is_dir():
        raise CubeFormatError(f"{out} is a folder; pack makes a file")
    layout = read_layout(source)
    dataset = open_store(source)
    temporary = out.with_name(out.name + PART_SUFFIX)
    rows = min(layout.block_size, layout.n_images)
    try:
        # HDF5 dies in its close when the disk is full, so that is found out before HDF5 comes in.
        _reserve(temporary, (-(-layout.n_images // rows) * rows * layout.image_bytes) + (1 << 20))
        places = _skeleton(temporary, layout, dataset, rows)
        fd = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
        try:
            n_bytes = os.fstat(fd).st_size
            os.posix_fallocate(fd, 0, n_bytes + _LENGTH)
            for layer, first, level, offset in places:
                values = dataset[layer][first : first + rows, :, level].values
                _write_at(fd, np.ascontiguousarray(values).data.cast("B"), offset)
            text = _MARK + json.dumps({"bytes": n_bytes, "sha256": file_sha256(temporary, n_bytes)}).encode()
            _write_at(fd, memoryview(text.ljust(_LENGTH - 1) + b"\n"), n_bytes)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(out.resolve().parent)
    return out


def packed_part(path: Path) -> Part | None:
    """A file made by pack, as one part whose digest can be checked; None for a file without such a digest."""
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _LENGTH))
        raw = file.read()
    if not raw.startswith(_MARK):
        return None
    try:
        content = json.loads(raw[len(_MARK) :])
        n_bytes, sha256 = int(content["bytes"]), str(content["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise CubeCorruptError(f"{path}: the digest at its end is damaged") from error
    part = Part(str(path), 0, 0, Line(0, 0, n_bytes, sha256, None, None), tail=_LENGTH)
    part.check_size()
    return part


def open_packed(path: Path, part: Part, verify: str) -> xr.Dataset:
    """Dataset of a packed file, lazily indexed."""
    if verify == "digest":
        part.check_digest()
    with h5py.File(path, "r", locking=False) as file:
        raw = file.attrs.get(_ATTRIBUTE)
    if not isinstance(raw, str):
        raise CubeFormatError(f"{path} has no attribute {_ATTRIBUTE}: it was not made by pack")
    layout = Layout.from_dict(json.loads(raw), path)
    whole = Part(part.path, 0, 0, Line(0, layout.n_images, part.line.n_bytes, part.line.sha256, None, None), part.tail)
    return lazy_dataset(path, layout, [whole], verify)


def _reserve(path: Path, n_bytes: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(fd, 0, n_bytes)
    finally:
        os.close(fd)


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _skeleton(path: Path, layout: Layout, dataset: xr.Dataset, rows: int) -> list[tuple[str, int, int, int]]:
    """Write the file without its features; where each chunk of them goes: (layer, first image, level, offset)."""
    labels = dataset["labels"].values.tolist() if "labels" in dataset.coords else None
    places = []
    with h5py.File(path, "w", libver=LIBVER) as file:
        file.attrs[_ATTRIBUTE] = json.dumps(layout.to_dict())
        for key, value in layout.attrs.items():
            if isinstance(value, int | float | str):
                file.attrs[key] = value
        scales, others = write_frame(file, layout, dataset["image"].values.tolist(), labels)
        for name, size in layout.layers.items():
            # Room for every chunk at once, and nothing written into it.
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_chunk((rows, layout.n_views, 1, size))
            plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            plan.set_obj_track_times(False)
            space = h5py.h5s.create_simple((layout.n_images, layout.n_views, len(layout.sigmas), size))
            kind = h5py.h5t.py_create(np.dtype(layout.dtype).newbyteorder("<"))
            variable = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, plan))
            name_dims(variable, name, scales, others)
            for first in range(0, layout.n_images, rows):
                for level in range(len(layout.sigmas)):
                    chunk = variable.id.get_chunk_info_by_coord((first, 0, level, 0))
                    places.append((name, first, level, int(chunk.byte_offset)))
    return places
