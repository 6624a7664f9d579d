"""The door for arrays: from frameworks, tables and masks to numpy. A missing value becomes NaN, never a fill value."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse import issparse

from icrkit.exceptions import CubeFormatError

__all__ = ["missing", "n_axes", "to_column", "to_numpy"]

# Of a list's items, those that are numbers, text or nothing and not arrays; numpy's scalars look like both.
_SCALARS = (np.generic, str, bytes, int, float, complex, type(None))


def to_numpy(given: Any, what: str = "X") -> NDArray[Any]:
    """An ndarray of whatever holds numbers.

    Parameters
    ----------
    given : array-like
        An array or a sequence of arrays of any library that speaks ``__array__`` or ``__dlpack__``; a tensor on any
        device, with or without gradient, in bfloat16 too; a DataFrame; a masked array; nested lists.
    what : str
        For messages.

    Returns
    -------
    ndarray
        Not a copy where none is needed. Masked entries, None and NA are NaN (NaT among dates); numbers that hold any
        become floats. Objects that are not numbers stay objects: whoever reads them says what they are.

    Raises
    ------
    CubeFormatError
        Sparse, quantised or ragged arrays, a path, or what is no array at all.
    """
    array = given if type(given) is np.ndarray else _converted(given, what)
    if array.dtype.kind == "V" and array.dtype.name.startswith(("bfloat16", "float8", "float6", "float4")):
        return array.astype(np.float32)  # ml_dtypes, of jax and others; float32 holds every value of them
    if array.dtype == object and array.size:
        absent = missing(array)
        if absent.any() and all(_is_number(value) for value in array[~absent].flat):
            return np.where(absent, np.nan, array).astype(np.float64)
    return array


def to_column(given: Any, what: str) -> NDArray[Any]:
    """Labels, ids or groups: an ndarray of one type where there is one, with None among text for what is missing.

    Parameters
    ----------
    given : array-like
        As for `to_numpy`; shapes are for the caller to check.
    what : str
        For messages.

    Returns
    -------
    ndarray
        Objects that are all integers, numbers or text get that dtype. `missing` says which entries are none.
    """
    array = to_numpy(given, what)
    if array.dtype != object or not array.size:
        return array
    absent = missing(array)
    there = array[~absent]
    if all(isinstance(value, str) for value in there.flat):
        if not absent.any():
            return array.astype(str)
        array = array.copy()
        array[absent] = None
        return array
    if not absent.any():
        for kinds, dtype in (((bool, np.bool_), bool), ((int, np.integer), np.int64), ((float, np.floating), float)):
            if all(isinstance(value, kinds) and (dtype is bool or _is_number(value)) for value in there.flat):
                try:
                    return array.astype(dtype)
                except OverflowError:
                    return array
    return array


def missing(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Which entries are none: NaN, NaT, None, NA."""
    if array.dtype.kind in "fc":
        return np.asarray(np.isnan(array))
    if array.dtype.kind in "mM":
        return np.asarray(np.isnat(array))
    if array.dtype.kind == "T":  # numpy's text of variable length may have a missing value of its own
        return np.array([not isinstance(value, str) for value in array.flat], dtype=bool).reshape(array.shape)
    if array.dtype != object:
        return np.zeros(array.shape, dtype=bool)
    from pandas import isna  # slow to import, and seldom needed

    return np.asarray(isna(array))


def n_axes(given: Any) -> int:
    """Number of axes, without reading anything that says so itself."""
    ndim = getattr(given, "ndim", None)
    if isinstance(ndim, int):
        return ndim
    if isinstance(given, list | tuple):
        return 1 + (n_axes(given[0]) if given and not isinstance(given[0], _SCALARS) else 0)
    return to_numpy(given).ndim


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _converted(given: Any, what: str) -> NDArray[Any]:
    torch, pandas = (sys.modules.get(name) for name in ("torch", "pandas"))  # never imported for the user
    if isinstance(given, np.ma.MaskedArray):
        return _unmasked(given)
    if torch is not None and isinstance(given, torch.Tensor):
        return _of_tensor(torch, given, what)
    if pandas is not None and isinstance(given, pandas.DataFrame):
        return _of_frame(pandas, given)
    if isinstance(given, list | tuple):
        return _of_sequence(given, what)
    if isinstance(given, str | os.PathLike):
        raise CubeFormatError(f"{what} is a path, {os.fspath(given)!r}: open it with icrkit.open_cube")
    if issparse(given):
        raise CubeFormatError(f"{what} is a sparse {type(given).__name__}: pass a dense array, such as X.toarray()")
    if isinstance(given, xr.DataArray | xr.Variable):
        given = given.data  # dask behind it may hold masks, which .values drops
    try:
        array = np.asanyarray(given)
        if array.dtype == object and array.ndim == 0 and hasattr(given, "__dlpack__"):
            array = np.from_dlpack(given)
    except Exception as error:
        try:
            array = np.from_dlpack(given, device="cpu")
        except Exception:
            raise CubeFormatError(
                f"{what}: a {type(given).__name__} cannot be read as an array ({error}); pass a numpy array"
            ) from error
    return _unmasked(array) if isinstance(array, np.ma.MaskedArray) else np.asarray(array)


def _unmasked(array: Any) -> NDArray[Any]:
    mask = np.ma.getmaskarray(array)
    data = np.asarray(array.data)
    if data.dtype.names or not mask.any():
        return data
    if data.dtype.kind in "iub":
        data = data.astype(np.float64)
    if data.dtype.kind not in "fcmM":
        data = data.astype(object)
    nothing: Any = {"f": np.nan, "c": np.nan, "O": None}.get(data.dtype.kind, "NaT")
    return np.where(mask, np.asarray(nothing, dtype=data.dtype), data)


def _of_tensor(torch: Any, tensor: Any, what: str) -> NDArray[Any]:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        kind = "without values (meta)" if tensor.is_meta else "nested" if tensor.is_nested else "sparse or quantised"
        raise CubeFormatError(f"{what} is a tensor that is {kind}: pass a dense one, of floats")
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        tensor = tensor.float()  # bfloat16 and float8, of which numpy has none; float32 holds every value of them
    return np.asarray(tensor.numpy())


def _of_frame(pandas: Any, frame: Any) -> NDArray[Any]:
    array = frame.to_numpy()
    kinds = pandas.api.types
    if array.dtype == object and all(kinds.is_numeric_dtype(t) and t.kind != "c" for t in frame.dtypes):
        array = frame.to_numpy(dtype=np.float64, na_value=np.nan)  # nullable and Arrow columns
    return np.asarray(array)


def _of_sequence(given: Sequence[Any], what: str) -> NDArray[Any]:
    items = [None if item is np.ma.masked else item for item in given]
    try:
        if items and all(_is_array_like(item) for item in items):
            return np.stack([to_numpy(item, what) for item in items])
        return np.asarray(items)
    except CubeFormatError:
        raise
    except ValueError as error:
        raise CubeFormatError(f"{what}: a {type(given).__name__} whose items differ in shape ({error})") from error


def _is_array_like(item: Any) -> bool:
    if isinstance(item, _SCALARS):
        return False
    return isinstance(item, list | tuple) or hasattr(item, "__array__") or hasattr(item, "__dlpack__")
