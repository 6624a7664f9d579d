"""Arrays and flat dumps of features, put into order for a cube."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from icrkit._arrays import missing, to_column, to_numpy
from icrkit._contract import AXES, WANTED
from icrkit.exceptions import CubeFormatError


def layers_and_levels(
    layers: Mapping[str, ArrayLike] | ArrayLike, sigmas: ArrayLike | None
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float64]]:
    """Layers as (image, view, sigma, feature) that agree with one another, and their noise levels."""
    if not isinstance(layers, Mapping):
        layers = {"features": layers}
    if not layers:
        raise CubeFormatError("a cube needs at least one layer: from_arrays({'mid': array})")
    levels = None if sigmas is None else np.atleast_1d(to_numpy(sigmas, "sigmas").astype(np.float64))
    arrays: dict[str, NDArray[Any]] = {}
    for name, given in layers.items():
        array = to_numpy(_by_name(given, str(name)), f"layer {name!r}")
        if array.ndim == 3:
            array = array[:, :, np.newaxis, :]
        if array.ndim != 4:
            raise CubeFormatError(
                f"layer {name!r} has shape {array.shape}; wanted {WANTED} or (image, view, feature). "
                "Rows (row, feature) go through from_rows."
            )
        arrays[str(name)] = array
    first = next(iter(arrays))
    head = arrays[first].shape[:3]
    for name, array in arrays.items():
        if array.shape[:3] != head:
            raise CubeFormatError(
                f"layers {first!r} and {name!r} differ in (image, view, sigma): {head} and {array.shape[:3]}"
            )
    if levels is None:
        if head[2] != 1:
            raise CubeFormatError(f"layer {first!r} has {head[2]} levels; say which: from_arrays(..., sigmas=[...])")
        levels = np.array([np.nan])
    if levels.shape != (head[2],):
        raise CubeFormatError(f"sigmas has {levels.size} levels and layer {first!r} {head[2]} on its sigma axis")
    return arrays, levels


def _by_name(given: Any, layer: str) -> Any:
    """A DataArray whose dims are named, in the order of a cube; anything else as it is."""
    if not isinstance(given, xr.DataArray):
        return given
    features = [dim for dim in given.dims if str(dim).startswith("feature")]
    known: list[Hashable] = [*(dim for dim in AXES if dim in given.dims), *features]
    if not known:  # xarray's own names, dim_0 and so on
        return given
    if len(features) != 1 or len(known) != given.ndim or not {"image", "view"} <= set(known):
        raise CubeFormatError(f"layer {layer!r} has dims {tuple(map(str, given.dims))}; wanted {WANTED}")
    return given.transpose(*known)


def common_count(ids: NDArray[Any], counts: NDArray[np.intp], n_views: int | None) -> int:
    wanted = int(np.bincount(counts).argmax()) if n_views is None and counts.size else (n_views or 1)
    wrong = np.flatnonzero(counts != wanted)
    if wrong.size:
        image, count = ids[wrong[0]].item(), int(counts[wrong[0]])
        raise CubeFormatError(
            f"image {image!r} has {count} views (rows), where {wanted} are wanted; {wrong.size} of {len(ids)} "
            "images differ. Drop surplus rows and images with too few of them: with inverse from "
            f"numpy.unique(groups, return_inverse=True), keep = numpy.bincount(inverse)[inverse] == {wanted}."
        )
    return wanted


def labels_by_image(labels: NDArray[Any], order: NDArray[np.intp], ids: NDArray[Any], n_views: int) -> NDArray[Any]:
    if labels.shape == (len(ids),) and n_views != 1:
        return labels
    if labels.shape != (len(order),):
        wanted = f"({len(order)},) by row or ({len(ids)},) by image"
        raise CubeFormatError(f"labels has shape {labels.shape}; wanted {wanted}")
    table = labels[order].reshape(len(ids), n_views)
    absent = missing(table)
    some = np.flatnonzero(absent.any(axis=1) & ~absent.all(axis=1))
    if some.size:
        raise CubeFormatError(
            f"missing label of image {ids[some[0]].item()!r}: its rows have {table[some[0]].tolist()}; {some.size} "
            "images have a label in some rows and none in others"
        )
    differ = np.flatnonzero(((table != table[:, :1]) & ~absent).any(axis=1))
    if differ.size:
        image, found = ids[differ[0]].item(), table[differ[0]].tolist()
        raise CubeFormatError(f"rows of image {image!r} have different labels: {found}")
    return table[:, 0]


def image_of_rows(groups: Any, n_rows: int) -> NDArray[Any]:
    """The image of each row, of one type that can be sorted; none may be missing."""
    images = to_column(groups, "groups")
    if images.shape != (n_rows,):
        raise CubeFormatError(f"groups has shape {images.shape}; wanted ({n_rows},), the image of each row")
    absent = np.flatnonzero(missing(images) | (images == np.inf if images.dtype.kind == "f" else False))
    if absent.size:
        raise CubeFormatError(
            f"groups holds None, infinity or NaN at row {absent[0]}, and in {absent.size} of {n_rows} rows: leave "
            "those rows out"
        )
    if images.dtype == object:
        words = np.array([str(image) for image in images])
        if len(np.unique(words)) < len(set(images.tolist())):
            raise CubeFormatError("groups holds different values that read the same, such as 1 and '1': use one type")
        return words
    return images
