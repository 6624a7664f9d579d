"""zarr stores of others: what they declare and lack is looked at before their features are read."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path
from typing import Any

import xarray as xr

from icrkit.exceptions import (
    CubeCorruptError,
    CubeFormatError,
    CubeIncompleteError,
    CubeTooLargeError,
    MissingDependencyError,
)
from icrkit.io._foreign import guarded
from icrkit.io._memory import words
from icrkit.io._parsing import parsing

__all__ = ["check_chunks", "open_zarr"]

_MOST_CHUNK = 512 << 20
_MAY_BE_EQUAL = ("labels", "groups", "label", "y", "targets", "codes", "mask", "values")


def open_zarr(path: Path) -> xr.Dataset:
    """Dataset of a zarr store, lazily indexed."""
    try:
        import zarr
    except ImportError as error:
        raise MissingDependencyError(f"{path} needs zarr: pip install zarr") from error
    with parsing(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr, about metadata that is not consolidated or data types to come
        node = zarr.open(str(path), mode="r")
        if isinstance(node, zarr.Array):
            raise CubeFormatError(f"{path} is one zarr array without named dims; expected a group as xarray writes it")
        for name, array in node.arrays():
            with parsing(path, f"array {name!r}"):
                check_chunks(array, path / name, f"{path}: array {name!r}")
    try:
        with parsing(path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = xr.open_dataset(path, engine="zarr", cache=False, decode_times=False, chunks=None)
    except CubeCorruptError as error:
        if isinstance(error.__cause__, ValueError | KeyError):  # no dims, or metadata of another convention
            raise CubeFormatError(f"{path}: {error.__cause__}") from error
        raise
    return guarded(data, path)


def check_chunks(array: Any, folder: Path, where: str) -> None:
    """Refuse chunks beyond memory, and a chunk that is not there: zarr reads the fill value in its place, in silence.

    Parameters
    ----------
    array : zarr.Array
    folder : Path
        Where its chunks are files; elsewhere (in a zip file, on a server) their presence is not looked at.
    where : str
        Names the array in messages.
    """
    chunks, shards = tuple(array.chunks), getattr(array, "shards", None)
    grid = tuple(shards or chunks)
    n_bytes = math.prod(grid) * array.dtype.itemsize
    if n_bytes > _MOST_CHUNK:
        raise CubeTooLargeError(f"{where}: one chunk declares {words(n_bytes)}; at most {words(_MOST_CHUNK)} are read")
    if not folder.is_dir() or 0 in array.shape:
        return
    counts = [-(-side // step) for side, step in zip(array.shape, grid, strict=True)]
    # A chunk that holds nothing but the fill value need not be written: so may a single value be, or all labels.
    may_be_equal = math.prod(array.shape) == 1 or (array.ndim == 1 and folder.name in _MAY_BE_EQUAL)
    if may_be_equal and not _has_chunks(folder / array.metadata.encode_chunk_key((0,) * array.ndim)):
        return
    # However many are declared: as soon as one is lost, the search is over.
    places = itertools.product(*map(range, counts))
    lost = next((p for p in places if not (folder / array.metadata.encode_chunk_key(p)).is_file()), None)
    if lost is not None:
        raise CubeIncompleteError(
            f"{where} lacks chunk {lost} of {tuple(counts)}: it is lost, or was left out because it holds nothing but "
            "the fill value; zarr.config.set({'array.write_empty_chunks': True}) writes such chunks too"
        )
    if shards is None and any("blosc" in repr(codec).lower() for codec in array.compressors):
        for place in itertools.product(*map(range, counts)):
            _check_blosc(folder / array.metadata.encode_chunk_key(place), n_bytes, f"{where}, chunk {place}")


def _has_chunks(first: Path) -> bool:
    # Beside the metadata, the folder of an array's first chunk holds chunks, whose names are numbers.
    return first.parent.is_dir() and any(item.name[:1].isdigit() for item in first.parent.iterdir())


def _check_blosc(path: Path, n_bytes: int, where: str) -> None:
    # The decoder goes by the length in this header, and past the end of a file that was cut short, in silence.
    with open(path, "rb") as file:
        head = file.read(16)
        size = file.seek(0, 2)
    if int.from_bytes(head[12:16], "little") != size or int.from_bytes(head[4:8], "little") != n_bytes:
        raise CubeCorruptError(f"{where} is damaged: {path} has {size} bytes, and its header tells of others")
