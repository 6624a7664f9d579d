"""pack: a store as one file, written by a stream of levels; HDF5 itself never touches the disk."""

from __future__ import annotations

import errno
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from icrkit._text import strict_json
from icrkit.exceptions import CubeCorruptError, CubeFormatError
from icrkit.io._block import create_file, name_dims, write_frame
from icrkit.io._durable import new_file, write_all
from icrkit.io._layout import CONFIG_NAME, Layout, jsonable, read_layout
from icrkit.io._reader import open_store
from icrkit.io._sealed import read_seal, seal_file

__all__ = ["PACK_ATTRIBUTE", "pack"]

# Content of cube.json in a packed file; one that has it has a seal too.
PACK_ATTRIBUTE = "icrkit_cube"


def pack(path: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Put a complete store into one NetCDF4 file, a block of a level at a time.

    Parameters
    ----------
    path : str or Path
        The store.
    out : str or Path
        The file to make, "out.h5". An earlier packed file is replaced as a whole at the end.
    overwrite : bool
        Replace a file of another kind too. Files inside a store are never replaced.

    Returns
    -------
    Path
        The file. Plain ``xarray.open_dataset(out, engine="h5netcdf")`` reads it; its digest stands behind its end.

    Raises
    ------
    CubeIncompleteError, CubeCorruptError
        As :func:`icrkit.open_cube`.
    CubeFormatError
        When `path` is not a store, or `out` is a folder, lies inside a store, or has an ending by which another kind
        of file would be read.
    FileExistsError
        When `out` exists and was not made by pack.
    OSError
        When the disk is full; nothing is left behind.
    """
    source, out = Path(path), Path(out)
    if source.is_file():
        raise CubeFormatError(f"{source} is a file; pack expects a store, a folder with {CONFIG_NAME}")
    layout = read_layout(source)
    layout = replace(layout, attrs=jsonable(layout.attrs))  # older stores spell out what is not finite
    _check_out(out, overwrite)
    dataset = open_store(source)
    rows = min(layout.block_size, layout.n_images)
    frame, places = _frame(layout, dataset, rows)
    with new_file(out) as fd:
        for offset, piece in frame.pieces():
            _write_at(fd, piece, offset)
        for layer, first, level, offset in places:
            values = dataset[layer][first : first + rows, :, level].values
            _write_at(fd, np.ascontiguousarray(values).data.cast("B"), offset)
        os.ftruncate(fd, frame.size)
        seal_file("cube", fd)
    return out


_ENDINGS = (".h5", ".hdf5", ".nc", ".nc4")


def check_ending(out: Path) -> None:
    """Refuse a name by which the file would not be opened as what it is.

    Raises
    ------
    CubeFormatError
    """
    if out.suffix.lower() not in _ENDINGS:
        raise CubeFormatError(f"{out}: expected a name that ends in {', '.join(_ENDINGS)}")


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuse what would be lost, or not be found again, before any work."""
    if out.is_dir():
        raise CubeFormatError(f"{out} is a folder; pack makes a file")
    store = next((folder for folder in out.resolve().parents if (folder / CONFIG_NAME).is_file()), None)
    if store is not None:
        raise CubeFormatError(f"{out} lies inside the store {store}; choose a place outside")
    check_ending(out)
    if not out.is_file() or overwrite:
        return
    try:
        seal = read_seal(out)
    except CubeCorruptError:
        seal = None  # damaged, and of whichever kind
    if seal is None or seal.kind != "cube":
        said = "the file exists and is not a whole packed cube; choose another name, or overwrite=True replaces it"
        raise FileExistsError(errno.EEXIST, said, str(out))


class _Pages(io.RawIOBase):
    """A file in memory of which only the pages that were written take any: between them lies room for features."""

    _PAGE = 64 << 10

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._place = 0
        self.size = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        n = max(0, min(len(view), self.size - self._place))
        for begin, end, page, offset in self._cut(n):
            held = self._pages.get(page)
            view[begin:end] = bytes(end - begin) if held is None else held[offset : offset + end - begin]
        self._place += n
        return n

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for begin, end, page, offset in self._cut(len(view)):
            held = self._pages.setdefault(page, bytearray(self._PAGE))
            held[offset : offset + end - begin] = view[begin:end]
        self._place += len(view)
        self.size = max(self.size, self._place)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self.size = self._place if size is None else size
        return self.size

    def pieces(self) -> list[tuple[int, memoryview]]:
        """What was written, page by page: (place, bytes)."""
        starts = sorted(page * self._PAGE for page in self._pages)
        return [(s, memoryview(self._pages[s // self._PAGE])[: max(0, self.size - s)]) for s in starts]

    def _cut(self, n: int) -> list[tuple[int, int, int, int]]:
        """The next n bytes, cut at the ends of pages: (begin, end, page, place in it)."""
        cuts, done = [], 0
        while done < n:
            page, offset = divmod(self._place + done, self._PAGE)
            end = min(n, done + self._PAGE - offset)
            cuts.append((done, end, page, offset))
            done = end
        return cuts


def _frame(layout: Layout, dataset: xr.Dataset, rows: int) -> tuple[_Pages, list[tuple[str, int, int, int]]]:
    """The file without its features, and where each chunk of them goes: (layer, first image, level, offset)."""
    along = [dataset[name].values.tolist() if name in dataset.coords else None for name in ("labels", "groups")]
    frame, places = _Pages(), []
    with create_file(frame) as file:
        file.attrs[PACK_ATTRIBUTE] = strict_json(layout.to_dict(), indent=None)
        for key, value in layout.attrs.items():
            if isinstance(value, int | float | str):
                file.attrs[key] = value
        scales, others = write_frame(file, layout, dataset["image"].values.tolist(), *along)
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
    return frame, places


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    os.lseek(fd, offset, os.SEEK_SET)
    write_all(fd, data)
