"""What a caller hands to the writer, checked before any of it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icrkit._arrays import missing, to_column, to_numpy
from icrkit.exceptions import CubeFormatError, NonFiniteError
from icrkit.io._layout import Layout


def checked_features(layout: Layout, features: Mapping[str, ArrayLike], ids: list[Any]) -> dict[str, NDArray[Any]]:
    """Features of each layer as finite numbers (image, view, sigma, feature); refuses all others."""
    if set(features) != set(layout.layers):
        raise CubeFormatError(f"layers given: {sorted(features)}; the store has {sorted(layout.layers)}")
    arrays = {}
    for name, d in layout.layers.items():
        array = to_numpy(features[name], f"layer {name!r}")
        if array.ndim == 3 and len(layout.sigmas) == 1:
            array = array[:, :, np.newaxis, :]
        wanted = (len(ids), layout.n_views, len(layout.sigmas), d)
        if array.shape != wanted or array.dtype.kind not in "fiu":
            raise CubeFormatError(
                f"layer {name!r}: {array.dtype} {array.shape}; wanted numbers, (image, view, sigma, feature) = {wanted}"
            )
        _check_finite(layout, name, array, ids)
        arrays[name] = array
    return arrays


def _check_finite(layout: Layout, name: str, array: NDArray[Any], ids: list[Any]) -> None:
    dtype = np.dtype(layout.dtype)
    narrower = array.dtype.kind != "f" or array.dtype.itemsize > dtype.itemsize
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(dtype) if narrower else array)
    if finite.all():
        return
    bad = np.argwhere(~finite)
    row, view, level, feature = map(int, bad[0])
    value = array[row, view, level, feature]
    words = "NaN or infinite values" if not np.isfinite(value) else f"values beyond the range of {dtype}"
    raise NonFiniteError(
        f"layer {name!r}: {len(bad)} {words}; the first ({value}) at image {ids[row]!r}, view {view}, level sigma="
        f"{layout.sigmas[level]:g}, feature {feature}. No block was written. Look for overflow in half precision, or "
        "for broken weights."
    )


def levels_of(values: ArrayLike) -> tuple[float, ...]:
    """Noise levels as float64, exactly as JSON will keep them."""
    return tuple(float(value) for value in np.atleast_1d(to_numpy(values, "sigmas").astype(np.float64)))


def dtype_name(dtype: Any) -> str:
    """Name of a dtype, or of what is none."""
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return str(dtype)  # refused with the list of those that can be stored


_FOR_MISSING = {
    "labels": "Give images without a label a class of their own, or none.",
    "groups": "Give an image that belongs to no other a group of its own.",
    "image_ids": "Give each an id.",
}


def scalars(values: ArrayLike, what: str, n: int | None = None) -> list[Any]:
    """Ids, labels or groups as a list of Python integers, floats or text."""
    array = to_column(values, what)
    if array.ndim != 1 or (n is not None and len(array) != n):
        raise CubeFormatError(f"{what} has shape {array.shape}; wanted ({'n' if n is None else n},)")
    absent = np.flatnonzero(missing(array))
    if absent.size:
        raise CubeFormatError(
            f"{what}: {absent.size} of {len(array)} are missing, the first is number {absent[0]} of this call. "
            + _FOR_MISSING[what]
        )
    if array.dtype.kind in "iub":
        if array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise CubeFormatError(f"{what} beyond int64")
        integers: list[Any] = array.astype(np.int64).tolist()
        return integers
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise CubeFormatError(f"{what}: {np.isinf(array).sum()} of {len(array)} are infinite; give finite numbers")
    if (array.dtype.kind == "f" and what == "labels") or array.size == 0:
        floats: list[Any] = array.tolist()
        return floats
    if array.dtype.kind in "UT":
        texts: list[str] = array.tolist()
        if any("\0" in text for text in texts):
            raise CubeFormatError(f"{what} holds a NUL character")
        return texts
    wanted = "integers, floats or text" if what == "labels" else "integers or text"
    raise CubeFormatError(f"{what} are {array.dtype}; wanted {wanted}")
