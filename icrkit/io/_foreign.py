"""HDF5 and NetCDF files that icrkit did not write: looked at with care before anything is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from icrkit._contract import WANTED
from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeTooLargeError, CubeUnsafeError
from icrkit.io._memory import words
from icrkit.io._parts import plain_dataset

__all__ = ["open_foreign"]

# One damaged attribute can make the HDF5 parser spin for ever, and it cannot be interrupted from within.
_PROBE_SECONDS = 20.0
_PROBE = """
import sys, h5py
with h5py.File(sys.argv[1], "r", locking=False) as file:
    dict(file.attrs)
    for name in file:
        if isinstance(file.get(name, getlink=True), h5py.HardLink):
            item = file[name]
            if isinstance(item, h5py.Dataset):
                dict(item.attrs); item.shape, item.dtype, item.is_virtual, item.external, item.chunks
"""
# deflate, shuffle, fletcher32: part of HDF5 itself. Deflate cannot do better than 1032 to 1.
_FILTERS = (1, 2, 3)
_MOST_DEFLATED = 1032
_MOST_CHUNK = 512 << 20


def open_foreign(path: Path) -> xr.Dataset:
    """Dataset of an HDF5 or NetCDF4 file without a digest, lazily indexed by h5netcdf."""
    probe(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            _check_root(file, str(path))
    except OSError as error:
        if isinstance(error, CubeCorruptError):
            raise
        raise CubeCorruptError(f"{path} cannot be parsed: {error}") from error
    try:
        # netCDF4-C crashes on float16, so h5netcdf is named.
        return xr.open_dataset(path, engine="h5netcdf", cache=False, decode_times=False)
    except ValueError as error:
        raise CubeFormatError(f"{path}: {error}; wanted dims {WANTED}") from error


def probe(path: Path, seconds: float = _PROBE_SECONDS) -> None:
    """Have another process parse the file, within a time; raises CubeCorruptError where it cannot."""
    command = [sys.executable, "-c", _PROBE, os.fspath(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise CubeCorruptError(f"{path}: parsing it took more than {seconds:g} s; it is damaged") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"the parser died (status {done.returncode})"])[-1]
        raise CubeCorruptError(f"{path} cannot be parsed: {last}")


def _check_root(file: h5py.File, path: str) -> None:
    # Only the root's own names are looked at: groups, and cycles among them, are never entered.
    size = os.stat(path).st_size
    for name in file:
        link = file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise CubeUnsafeError(f"{path}: {name!r} is a {type(link).__name__}, which leads elsewhere; not followed")
        if file.get(name, getclass=True) is not h5py.Dataset:
            continue
        dataset = plain_dataset(file, name, path)
        _check_dataset(dataset, name, path, size)


def _check_dataset(dataset: h5py.Dataset, name: str, path: str, file_bytes: int) -> None:
    plan = dataset.id.get_create_plist()
    codes = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    strange = [code for code in codes if code not in _FILTERS]
    if strange:
        raise CubeUnsafeError(f"{path}: {name!r} is stored with filter {strange[0]}, which would load a plugin")
    declared = int(np.prod([int(n) for n in dataset.shape or ()], dtype=object)) * dataset.dtype.itemsize
    most = file_bytes * (_MOST_DEFLATED if 1 in codes else 1)
    # A netCDF dimension without a variable holds no values.
    is_dimension = dataset.ndim == 1 and dataset.is_scale and dataset.id.get_storage_size() == 0
    if declared > most and not is_dimension:
        raise CubeTooLargeError(f"{path}: {name!r} declares {words(declared)}, and the file has {words(file_bytes)}")
    if dataset.chunks and int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize > _MOST_CHUNK:
        raise CubeTooLargeError(f"{path}: one chunk of {name!r} has more than {words(_MOST_CHUNK)}")
    if dataset.ndim in (3, 4) and not all(dataset.dims[axis] for axis in range(dataset.ndim)):
        found: tuple[Any, ...] = tuple(scale[0].name if scale else "unnamed" for scale in dataset.dims)
        raise CubeFormatError(f"{path}: layer {name!r} has dims {found}; wanted {WANTED}")
