"""HDF5 and NetCDF files that icrkit did not write: looked at with care before anything is read."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from icrkit._contract import WANTED
from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeUnsafeError
from icrkit.io._hdf5 import DiskFile, check_storage, open_probed, plain_dataset
from icrkit.io._memory import check_memory
from icrkit.io._pack import PACK_ATTRIBUTE
from icrkit.io._parsing import parsing
from icrkit.io._probe import probe

__all__ = ["guarded", "open_foreign"]

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# A user block of other bytes may stand before the HDF5 file: 512 bytes, or any doubling of that.
_MOST_USER_BLOCK = 1 << 20


def open_foreign(path: Path) -> xr.Dataset:
    """Dataset of a NetCDF file, of HDF5 or of the classic kinds, lazily indexed."""
    head = _head(path)
    if head[:3] == b"CDF":
        return _open_classic(path, head)
    if head[:8] != _HDF5_MAGIC and not _has_user_block(path):
        raise CubeCorruptError(f"{path} is not an HDF5 or NetCDF file, or its first bytes are damaged")
    probe(path)
    file = DiskFile(path)
    with open_probed(file) as root, parsing(path):
        if PACK_ATTRIBUTE in root.attrs:
            raise CubeCorruptError(
                f"{path} was made by icrkit pack, and the digest at its end is lost: bytes were cut off or added. "
                "Pack the store again, or copy the file again"
            )
        _check_root(root, str(path), file.identity[2])
        if root.userblock_size:
            raise CubeFormatError(
                f"{path} begins with {root.userblock_size} bytes that are not HDF5 (a user block), as MATLAB writes "
                "them; copy it without: h5repack OLD NEW, or h5jam's h5unjam -i OLD -o NEW"
            )
    # netCDF4-C crashes on float16, so h5netcdf is named; by a DiskFile, so that other readers' locks do not count.
    return _opened(path, DiskFile(path, file.identity), "h5netcdf")


def _opened(path: Path, source: Any, engine: str) -> xr.Dataset:
    try:
        with parsing(path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = xr.open_dataset(source, engine=engine, cache=False, decode_times=False)
    except CubeCorruptError as error:
        if isinstance(error.__cause__, ValueError):
            raise CubeFormatError(f"{path}: {error.__cause__}; expected dims {WANTED}") from error
        raise
    return guarded(data, path)


def _open_classic(path: Path, head: bytes) -> xr.Dataset:
    if head[3] not in (1, 2):
        raise CubeFormatError(
            f"{path} is NetCDF3 of kind CDF-{head[3]}, which is not read; nccopy -k nc4 OLD NEW makes NetCDF4"
        )
    return _opened(path, str(path), "scipy")


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(8).ljust(8, b"\0")


def _has_user_block(path: Path) -> bool:
    with open(path, "rb") as file:
        offset = 512
        while offset <= _MOST_USER_BLOCK:
            file.seek(offset)
            if file.read(8) == _HDF5_MAGIC:
                return True
            offset *= 2
    return False


def guarded(data: xr.Dataset, path: Path) -> xr.Dataset:
    """The dataset, its coordinates read, and its layers so that errors of their later reading name the file."""
    source = str(path)
    variables = {}
    for name, variable in data.variables.items():
        n_bytes = variable.size * variable.dtype.itemsize
        if name in data.coords or variable.ndim < 2:
            # A string costs some 50 bytes of Python beside its text.
            check_memory(n_bytes + (64 * variable.size if variable.dtype.hasobject else 0), f"{path}: {name!r}")
            with parsing(path, f"variable {name!r}"):
                variables[name] = xr.Variable(variable.dims, variable.values, variable.attrs, variable.encoding)
            continue
        lazy: Any = indexing.LazilyIndexedArray(_Guarded(variable, source, str(name)))
        kept = xr.Variable(variable.dims, lazy, variable.attrs, variable.encoding, fastpath=True)
        variables[name] = kept
    with parsing(path):
        found = xr.Dataset(
            {name: variables[name] for name in data.data_vars},
            {name: variables[name] for name in data.coords},
            data.attrs,
        )
    found.encoding = {**data.encoding, "source": source}
    found.set_close(data.close)
    return found


class _Guarded(BackendArray):
    """A variable of another engine, whose errors become icrkit's."""

    def __init__(self, variable: xr.Variable, source: str, name: str) -> None:
        self.variable = variable
        self.source = source
        self.name = name
        self.shape = variable.shape
        self.dtype = variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        chosen = self.variable[key]
        check_memory(chosen.size * self.dtype.itemsize, f"{self.source}: {self.name!r}")
        with parsing(self.source, f"variable {self.name!r}"):
            return chosen.values


def _check_root(file: h5py.File, path: str, size: int) -> None:
    # Only the root's own names are looked at: groups, and cycles among them, are never entered.
    for name in file:
        link = file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise CubeUnsafeError(f"{path}: {name!r} is a {type(link).__name__}, which leads elsewhere; not followed")
        if file.get(name, getclass=True) is not h5py.Dataset:
            continue
        dataset = plain_dataset(file, name, path)
        check_storage(dataset, f"{path}: {name!r}", size)
        if dataset.ndim in (3, 4) and not all(dataset.dims[axis] for axis in range(dataset.ndim)):
            found: tuple[Any, ...] = tuple(scale[0].name if scale else "unnamed" for scale in dataset.dims)
            raise CubeFormatError(f"{path}: layer {name!r} has dims {found}; expected {WANTED}")
