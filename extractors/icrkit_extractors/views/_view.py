"""What every view does: images in the unit range, ids, and groups of images that stay in the cache."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

__all__ = ["PIXELS_AT_ONCE", "View", "as_unit_range", "blocks", "images_and_ids", "row_means", "shift_of"]

# Images are resampled in groups of about this many pixels: the float64 coordinates then stay in the cache.
PIXELS_AT_ONCE = 1 << 15


class View(Protocol):
    """What `extract` asks of a view: a callable, with ``config()`` where it has parameters to record.

    A view whose draws are all its own has ``own_streams = True``: it may then run beside the network in a thread,
    which a view that draws from a global generator may not.
    """

    def __call__(self, images: np.ndarray, image_ids: Iterable[object], view: int, seed: int) -> np.ndarray:
        """Augmented images, float32 in [-1, 1], shaped like ``images``."""


def as_unit_range(images: np.ndarray) -> np.ndarray:
    """Images as float32 in [-1, 1].

    Parameters
    ----------
    images : ndarray (n, channel, height, width)
        uint8, where 0 becomes -1 and 255 becomes 1, or floating point in [-1, 1].

    Returns
    -------
    ndarray, shaped like images, float32

    Raises
    ------
    ValueError
        If the shape, the type or the range is another one, or a pixel is not finite.

    Examples
    --------
    >>> as_unit_range(np.array([[[[0, 255]]]], dtype=np.uint8)).tolist()
    [[[[-1.0, 1.0]]]]
    """
    images = np.asarray(images)
    if images.ndim != 4:
        hint = "; for one channel write images[:, None]" if images.ndim == 3 else ""
        raise ValueError(f"images must be (image, channel, height, width), not of shape {images.shape}{hint}")
    if images.dtype == np.uint8:
        unit: np.ndarray = images.astype(np.float32)
        unit /= np.float32(127.5)
        unit -= np.float32(1)
        return unit
    if images.dtype.kind != "f":
        raise ValueError(f"images must be uint8, or floating point in [-1, 1], not {images.dtype}")
    images = np.ascontiguousarray(images, dtype=np.float32)
    if not images.size:
        return images
    low, high = float(images.min()), float(images.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("images hold NaN or infinity")
    if low < -1 or high > 1:
        raise ValueError(
            f"floating-point images must lie in [-1, 1], found {low:.6g} to {high:.6g} (bytes may be passed as uint8)"
        )
    return images


def row_means(rows: np.ndarray) -> np.ndarray:
    """Mean of each row in float64, added up in an order that depends on the row's length alone."""
    # numpy's own reductions choose their order by the shape and strides of the whole array.
    sums = rows.astype(np.float64)
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        paired = sums[:, :half] + sums[:, half : 2 * half]
        sums = np.concatenate([paired, sums[:, 2 * half :]], axis=1)
    means: np.ndarray = sums[:, 0] / rows.shape[1]
    return means


def images_and_ids(images: np.ndarray, image_ids: Iterable[object]) -> tuple[np.ndarray, list[object]]:
    """Images in the unit range and as many ids."""
    images, ids = as_unit_range(images), list(image_ids)
    if len(ids) != len(images):
        raise ValueError(f"{len(ids)} image ids for {len(images)} images")
    return images, ids


def blocks(images: np.ndarray, values_at_once: int) -> Iterator[slice]:
    """Runs of images of about so many values."""
    step = max(1, values_at_once // max(1, images[:1].size))
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def shift_of(images: np.ndarray) -> int:
    """Pixels that an image moves by where nothing else is said: an eighth of the shorter side, 4 of 32."""
    return (min(images.shape[2:]) + 4) // 8
