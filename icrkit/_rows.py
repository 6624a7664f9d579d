"""Arrays and flat dumps of features, put into order for a cube."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icrkit.exceptions import CubeFormatError


def to_numpy(given: Any) -> NDArray[Any]:
    torch = sys.modules.get("torch")  # never imported for the user
    if torch is not None and isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        if given.dtype == torch.bfloat16:  # numpy has none; float32 holds every value of it
            given = given.float()
        return np.asarray(given.numpy())
    return np.asarray(given)


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
    differ = np.flatnonzero((table != table[:, :1]).any(axis=1))
    if differ.size:
        image, found = ids[differ[0]].item(), table[differ[0]].tolist()
        raise CubeFormatError(f"rows of image {image!r} have different labels: {found}")
    return table[:, 0]
