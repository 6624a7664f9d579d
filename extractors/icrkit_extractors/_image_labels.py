"""Classes of images, from whatever holds them: integers, text, categories. They are read or refused, never dropped."""

from __future__ import annotations

import enum
import math
import operator
import sys
from typing import Any

import numpy as np

__all__ = ["as_label", "class_labels"]

_WAY_OUT = "labels=False leaves all of them out, labels=[...] gives others"


def as_label(value: Any) -> int | str | None:
    """One class as an int or a string; None for what is missing.

    Raises
    ------
    TypeError
        If it is neither, such as a box, a vector or a number with a fraction.
    """
    if value is None or value is np.ma.masked:
        return None
    if isinstance(value, enum.Enum) and not isinstance(value, int):
        value = value.name
    if isinstance(value, np.datetime64 | np.timedelta64):
        if np.isnat(value):
            return None
        raise TypeError(f"{value!r}, a time")
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()
    if _is_missing(value):
        return None
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise TypeError(f"the bytes {value!r}, which are not UTF-8") from None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        return operator.index(value)
    except TypeError:
        shown = repr(value)
        raise TypeError(f"{shown[:60]}{'...' * (len(shown) > 60)}, which is no class") from None


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    pandas = sys.modules.get("pandas")
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)


def class_labels(labels: Any, n: int, where: str) -> np.ndarray:
    """Classes (n,), integers or text, one per image.

    Parameters
    ----------
    labels : array-like (n,) or (n, 1)
        Integers, booleans, whole floats, text, bytes in UTF-8, or Python objects that are one of these; pandas series
        and categories, masked arrays and tensors as well.
    n : int
    where : str
        What holds them, for messages.

    Raises
    ------
    ValueError
        If the shape is another one, a class is missing, or is none of these, or numbers and text are mixed; names
        the first image of which that is so.
    """
    detach = getattr(labels, "detach", None)
    values = labels if isinstance(labels, np.ma.MaskedArray) else detach().cpu().numpy() if detach else labels
    if not isinstance(values, np.ndarray):
        # Not of the type that numpy would find for all: it turns 1 beside "a" into text, and None into an object.
        listed = hasattr(values, "dtype") or isinstance(values, str | bytes) or not hasattr(values, "__iter__")
        values = np.asarray(values) if listed else _objects(values)
    if values.shape == (n, 1):
        values = values[:, 0]
    if values.shape != (n,):
        raise ValueError(f"{where}: labels of shape {values.shape} for {n} images; {_WAY_OUT}")
    if values.dtype.kind in "iuU" and not np.ma.is_masked(values):
        return np.asarray(values)
    if values.dtype.kind == "b" and not np.ma.is_masked(values):
        return np.asarray(values).astype(np.int64)
    found = []
    for row, value in enumerate(values if values.dtype.kind in "SOMmV" else values.tolist()):
        try:
            label = as_label(value)
        except TypeError as error:
            raise ValueError(
                f"{where}: the label of image {row} is {error} (type {values.dtype}); {_WAY_OUT}"
            ) from None
        if label is None:
            raise ValueError(f"{where}: image {row} has no label ({value!r}): take the image out, or {_WAY_OUT}")
        if found and isinstance(label, str) != isinstance(found[0], str):
            raise ValueError(f"{where}: labels are numbers and text: {found[0]!r}, and {label!r} of image {row}")
        found.append(label)
    result = np.asarray(found)
    if result.dtype.kind not in "iuU":
        raise ValueError(f"{where}: the labels reach {max(map(abs, found))}, beyond 64 bits; {_WAY_OUT}")
    return result


def _objects(values: Any) -> np.ndarray:
    """A sequence as an array of its items, without a type in common; sequences of sequences as numpy takes them."""
    items = list(values)
    if any(isinstance(item, list | tuple | np.ndarray) and np.ndim(item) for item in items):
        try:
            return np.asarray(items)
        except ValueError:  # of different lengths
            pass
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
