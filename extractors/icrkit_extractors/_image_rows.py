"""Rows of an array in a file: each process opens the file for itself, and rows are read in the order of the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from icrkit.exceptions import CubeCorruptError

__all__ = ["ArrayFile", "rows_of"]


class ArrayFile:
    """An array of a file that is opened where it is used: a handle does not survive a fork, nor can it be pickled.

    Parameters
    ----------
    opener : callable (path, key) -> array
        A function of a module, so that another process finds it.
    path : path
    key : str or None
        What ``opener`` takes to find the array in the file.
    array : array, optional
        What ``opener`` would give, where it is open already.
    """

    def __init__(
        self, opener: Callable[[Path, str | None], Any], path: Path, key: str | None = None, array: Any = None
    ) -> None:
        self._opener, self._path, self._key = opener, Path(path).absolute(), key
        self._array, self._process = opener(path, key) if array is None else array, os.getpid()
        self.shape = tuple(int(side) for side in self._array.shape)
        self.dtype: np.dtype[Any] = self._array.dtype

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_array": None, "_process": None}

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Rows in the order asked for."""
        # A fork shares what is in memory or mapped, but not the handle of a file.
        inherited = self._process != os.getpid() and not isinstance(self._array, np.ndarray)
        if self._array is None or inherited:
            array = self._opener(self._path, self._key)
            if tuple(array.shape) != self.shape or array.dtype != self.dtype:
                raise CubeCorruptError(
                    f"{self._path} has changed since it was opened: the array was {self.shape} {self.dtype}, and is "
                    f"{tuple(array.shape)} {array.dtype}"
                )
            self._array, self._process = array, os.getpid()
        return rows_of(self._array, rows)


def rows_of(array: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of an array in memory, in a map of a file, or of HDF5 or zarr.

    HDF5's own selection of rows here and there costs a quarter of a millisecond per row, twenty times a plain slice.
    So its rows are read as slices, ascending; and rows of one chunk in one slice, since the chunk is decompressed whole
    for each of them.
    """
    if isinstance(array, np.ndarray):
        first, last = int(rows[0]), int(rows[-1])
        in_order = last - first == len(rows) - 1 and bool(np.all(np.diff(rows) == 1))
        return np.asarray(array[first : last + 1] if in_order else array[rows])
    unique, back = np.unique(rows, return_inverse=True)
    if unique[-1] - unique[0] == len(unique) - 1:
        read = np.asarray(array[int(unique[0]) : int(unique[-1]) + 1])
    elif hasattr(array, "oindex"):
        read = np.asarray(array.oindex[unique])  # zarr looks up the chunks by itself
    else:
        chunk = array.chunks[0] if array.chunks else 1
        apart = (np.diff(unique) > 1) & (np.diff(unique // chunk) > 0)
        read = np.empty((len(unique), *array.shape[1:]), dtype=array.dtype)
        place = 0
        for group in np.split(unique, np.flatnonzero(apart) + 1):
            start, stop = int(group[0]), int(group[-1]) + 1
            block = array[start:stop]
            read[place : place + len(group)] = block if len(group) == len(block) else block[group - start]
            place += len(group)
    return read if np.array_equal(back, np.arange(len(rows))) else read[back]
