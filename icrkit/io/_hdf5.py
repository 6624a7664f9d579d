"""The one way in which HDF5 files are opened and looked at, whoever wrote them."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeTooLargeError, CubeUnsafeError
from icrkit.io._memory import check_memory, words
from icrkit.io._parsing import parsing
from icrkit.io._probe import Identity, identity_of, probe

__all__ = ["DiskFile", "check_storage", "open_hdf5", "plain_dataset", "read_values"]

# Part of HDF5 itself (deflate, shuffle, fletcher32, szip, nbit, scaleoffset), and LZF, which h5py brings.
_FILTERS = (1, 2, 3, 4, 5, 6, 32000)
_NAMES = {
    4: "szip", 307: "bzip2", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32013: "zfp", 32015: "zstd",
    32017: "sz", 32026: "blosc2",
}  # fmt: skip
# Those that store more than they are given room for, and how much at most; deflate cannot do better than 1032 to 1.
_COMPRESSING = (1, 4, 5, 6, 32000)
_MOST_DEFLATED = 1032
_MOST_CHUNK = 512 << 20


class DiskFile(io.RawIOBase):
    """A file on the disk as HDF5 reads it through Python: by its own descriptor, and without HDF5's locks.

    Two readers that open one file through HDF5's own driver must use the same flag for locks, in one process and on
    some file systems across them. Here nothing is shared with other readers, nor with a forked child: reads
    name their offset.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Identity | None = None) -> None:
        super().__init__()
        self.path = os.path.abspath(path)
        self._fd = -1
        # A pipe would wait for its writer.
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
        self._fd = os.open(self.path, flags)
        self.identity = identity_of(os.fstat(self._fd), self.path)
        if identity is not None and identity != self.identity:
            raise CubeCorruptError(f"{self.path} was written anew since it was opened; open it again")
        self._place = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.identity)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.identity[2]}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        got = 0
        while got < len(view):  # one call reads 2 GB at most
            n = self._read_at(view[got:], self._place + got)
            if not n:
                break
            got += n
        self._place += got
        return got

    def _read_at(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [view], offset)
        os.lseek(self._fd, offset, os.SEEK_SET)
        piece = os.read(self._fd, len(view))
        view[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # The descriptor goes whatever is answered, and nothing was written. HDF5 drops its file without closing
            # it, so an error would end as "Exception ignored" on standard error.
            with contextlib.suppress(OSError):
                os.close(fd)
        super().close()


def open_hdf5(
    path: str | os.PathLike[str], *, group: str = "", names: Iterable[str] | None = None, **options: Any
) -> h5py.File:
    """Open an HDF5 file for reading, after another process has parsed it.

    Parameters
    ----------
    path : path
        The file.
    group : str
        Path of the group within it that will be read; the root by default.
    names : iterable of str, optional
        The datasets of the group that will be read, where their attributes will not be; by default everything.
    **options
        Of h5py.File.
    """
    probe(path, group, names)
    return open_probed(DiskFile(path), **options)


def open_probed(file: DiskFile, **options: Any) -> h5py.File:
    """Open a file that :func:`probe` found sound."""
    with parsing(file.path):
        return h5py.File(file, "r", **options)


def plain_dataset(file: h5py.Group, name: str, path: str) -> h5py.Dataset:
    """Dataset of this name, held in this very file; links, virtual data and external storage are refused unopened."""
    with parsing(path, f"variable {name!r}"):
        link = file.get(name, getlink=True)
        if link is None:
            raise CubeCorruptError(f"{path} has no variable {name!r}")
        if not isinstance(link, h5py.HardLink):
            raise CubeUnsafeError(
                f"{path}: {name!r} is a {type(link).__name__}, which leads outside; it was not followed"
            )
        found = file[name]
        if not isinstance(found, h5py.Dataset):
            raise CubeCorruptError(f"{path}: {name!r} is not a variable")
        if found.is_virtual or found.external:
            raise CubeUnsafeError(f"{path}: the values of {name!r} lie in other files; they were not opened")
        return found


def check_storage(dataset: h5py.Dataset, where: str, file_bytes: int) -> None:
    """Refuse filters that load plugins, and more values than the file can hold."""
    plan = dataset.id.get_create_plist()
    codes = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    strange = [code for code in codes if code not in _FILTERS]
    if strange:
        name = f" ({_NAMES[strange[0]]})" if strange[0] in _NAMES else ""
        raise CubeUnsafeError(
            f"{where} is stored with filter {strange[0]}{name}, which would load a plugin; write it with gzip, lzf or "
            "no compression: h5repack -f GZIP=4 OLD NEW"
        )
    missing = [code for code in codes if code < 256 and not h5py.h5z.filter_avail(code)]
    if missing:
        raise CubeFormatError(
            f"{where} is stored with filter {missing[0]} ({_NAMES.get(missing[0], 'of HDF5')}), which this build of "
            "HDF5 cannot read; write it with gzip, lzf or no compression: h5repack -f GZIP=4 OLD NEW"
        )
    declared = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
    # A netCDF dimension without a variable holds no values.
    is_dimension = dataset.ndim == 1 and dataset.is_scale and dataset.id.get_storage_size() == 0
    most = file_bytes * (_MOST_DEFLATED if any(code in _COMPRESSING for code in codes) else 1)
    if declared > most and not is_dimension:
        raise CubeTooLargeError(f"{where} declares {words(declared)}, and the file has {words(file_bytes)}")
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > _MOST_CHUNK:
        raise CubeTooLargeError(f"{where}: one chunk has more than {words(_MOST_CHUNK)}")


def read_values(file: h5py.Group, name: str, path: str, n: int | None = None) -> Any:
    """Values of a variable as a numpy array, text as str; its size is checked before anything is read.

    Parameters
    ----------
    n : int, optional
        The length that a one-dimensional variable must have.
    """
    dataset = plain_dataset(file, name, path)
    where = f"{path}: {name!r}"
    if n is not None and dataset.shape != (n,):
        raise CubeCorruptError(f"{where} has shape {dataset.shape}; expected ({n},)")
    with parsing(path, f"variable {name!r}"):
        check_storage(dataset, where, Path(path).stat().st_size)
        n_values = math.prod(dataset.shape or ())
        # A string costs some 50 bytes of Python beside its text.
        is_text = h5py.check_string_dtype(dataset.dtype) is not None
        check_memory(n_values * (dataset.dtype.itemsize + (64 if is_text else 0)), where)
        return dataset.asstr()[...] if is_text else dataset[...]
