"""What varies in a set of features, decided by comparing the features themselves.

Whether a feature is constant must not hang on rounding: a scatter of equal numbers is zero with one BLAS kernel and
1e-20 with another. So every set of moments carries one image's features, and which features of any other image
differ from them. As moments do, this merges; and it says nothing (an empty dict) where it is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Variation",
    "VariationTracker",
    "merge",
    "nothing_varies",
    "of_rows",
    "reduce",
    "stack_variations",
    "variation_of",
]

# example (*lead, V, d): the features of one of the images, in float64.
# varies (*lead, d): whether some image differs from the example, in any view.
# views_vary (*lead, d): whether the differences between views are other than the example's in some image.
Variation = dict[str, NDArray[Any]]

_FIRST_IMAGES = 16  # enough to see nearly every feature that varies; the rest are compared in the other images


def nothing_varies(lead: tuple[int, ...], n_views: int, n_features: int) -> Variation:
    """What varies in no images: the identity of `merge`."""
    return {
        "example": np.zeros((*lead, n_views, n_features)),
        "varies": np.zeros((*lead, n_features), dtype=bool),
        "views_vary": np.zeros((*lead, n_features), dtype=bool),
    }


class VariationTracker:
    """Collects what varies in images that come in blocks; compares only what has not varied so far."""

    def __init__(self, n_views: int, n_features: int) -> None:
        self.found = nothing_varies((), n_views, n_features)
        self._begun = False

    @np.errstate(invalid="ignore", over="ignore")  # NaN and infinity are for the pass to find
    def add(self, block: NDArray[np.floating], index: NDArray[np.int64] | None = None) -> None:
        """Compare the images of a block (n_images, n_views, n_features), or those at ``index``."""
        n = len(block) if index is None else len(index)
        if n == 0:
            return
        if not self._begun:
            self.found["example"] = block[0 if index is None else index[0]].astype(np.float64)
            self._begun = True
        start, step = 0, _FIRST_IMAGES
        while start < n and not self.found["views_vary"].all():
            stop = min(start + step, n)
            self._compare(block[start:stop] if index is None else block[index[start:stop]])
            start, step = stop, 1024

    def _compare(self, images: NDArray[np.floating]) -> None:
        # What is the same in every image has the same differences between views, too.
        varies, views_vary = self.found["varies"], self.found["views_vary"]
        still = np.flatnonzero(~views_vary)
        if still.size < len(views_vary):
            images = images[:, :, still]
        images, example = images.astype(np.float64), self.found["example"][:, still]
        other = images[:, 1:] - images[:, :1] != example[1:] - example[:1]
        views_vary[still] = other.any(axis=(0, 1))
        varies[still] |= (images != example).any(axis=(0, 1))
        varies |= views_vary


def variation_of(block: NDArray[np.floating]) -> Variation:
    """What varies in a block (n_images, n_views, n_features)."""
    tracker = VariationTracker(*block.shape[1:])
    tracker.add(block)
    return tracker.found


def merge(a: Variation, n_a: NDArray[np.int64], b: Variation, n_b: NDArray[np.int64]) -> Variation:
    """What varies in two sets together, of so many images each (*lead,)."""
    if not (a and b):
        return {}
    first, second = (n_a > 0)[..., None], (n_b > 0)[..., None]
    differs = _differ(a["example"], b["example"])
    both = first & second
    return {
        "example": np.where(first[..., None], a["example"], b["example"]),
        "varies": (a["varies"] & first) | (b["varies"] & second) | (differs[0] & both),
        "views_vary": (a["views_vary"] & first) | (b["views_vary"] & second) | (differs[1] & both),
    }


def reduce(found: Variation, n_images: NDArray[np.int64], axis: int) -> Variation:
    """What varies in all sets along a leading axis together."""
    if not found:
        return {}
    held = n_images > 0
    fullest = np.expand_dims(n_images.argmax(axis=axis), axis)
    example = np.take_along_axis(found["example"], fullest[..., None, None], axis=axis)
    differs = _differ(found["example"], example)
    return {
        "example": np.squeeze(example, axis),
        "varies": np.asarray(((found["varies"] | differs[0]) & held[..., None]).any(axis=axis)),
        "views_vary": np.asarray(((found["views_vary"] | differs[1]) & held[..., None]).any(axis=axis)),
    }


def stack_variations(parts: Sequence[Variation]) -> Variation:
    """What varies in each of several sets, along a new first axis."""
    if not all(parts):
        return {}
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def of_rows(found: Variation, views: str) -> Variation:
    """What varies among single rows of images: the means over their views, or "all" of these."""
    if not found:
        return {}
    example = found["example"]
    first = example[:1]
    if views == "all":
        return {
            "example": first,
            "varies": found["varies"] | (example != first).any(axis=0),
            "views_vary": np.zeros_like(found["views_vary"]),
        }
    mean = first + (example - first).mean(axis=0, keepdims=True)
    return {"example": mean, "varies": found["varies"], "views_vary": np.zeros_like(found["views_vary"])}


@np.errstate(invalid="ignore", over="ignore")
def _differ(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether two images differ in a feature, and in its differences between views."""
    views = a[..., 1:, :] - a[..., :1, :] != b[..., 1:, :] - b[..., :1, :]
    return np.asarray((a != b).any(axis=-2)), np.asarray(views.any(axis=-2))
