"""Views of an image: random augmentations that depend on (seed, image id, view) and on nothing else.

A view is any callable ``(images, image_ids, view, seed) -> images``. `Augment` is the one that comes along;
`Fashion` and `Digits` are its settings for the two example sets. Augment first, then noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from icrkit_extractors._streams import generators

__all__ = ["Augment", "Digits", "Fashion", "View", "as_unit_range"]

# Images are resampled in groups of about this many pixels: the float64 coordinates then stay in the cache.
_PIXELS_AT_ONCE = 1 << 14


class View(Protocol):
    """What `extract` asks of a view: a callable, with ``config()`` where it has parameters to record."""

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
        unit: np.ndarray = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
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


def _row_means(rows: np.ndarray) -> np.ndarray:
    """Mean of each row in float64, added up in an order that depends on the row's length alone."""
    # numpy's own reductions choose their order by the shape and strides of the whole array.
    sums = rows.astype(np.float64)
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        paired = sums[:, :half] + sums[:, half : 2 * half]
        sums = np.concatenate([paired, sums[:, 2 * half :]], axis=1)
    means: np.ndarray = sums[:, 0] / rows.shape[1]
    return means


def _resampled(images: np.ndarray, inverse: np.ndarray, fill: float) -> np.ndarray:
    """Bilinear samples of each image at ``inverse`` (n, 2, 3) applied to the output's pixel coordinates.

    Coordinates are (row, column) from the image's centre; outside the image is ``fill``.
    """
    n, channels, height, width = images.shape
    y = np.arange(height)[:, None] - (height - 1) / 2
    x = np.arange(width)[None, :] - (width - 1) / 2

    def corner_and_weight(row: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        a, b, c = (row[:, k, None, None] for k in range(3))
        source = (a * y + b * x) + (c + (size - 1) / 2)
        # One pixel beyond the image all is fill already.
        source = np.clip(source, -1, size)
        corner = np.floor(source)
        return corner.astype(np.intp) + 1, (source - corner).astype(np.float32)

    top, down = corner_and_weight(inverse[:, 0], height)
    left, right = corner_and_weight(inverse[:, 1], width)

    # Two pixels of fill at the far side: the lower right neighbour of the last corner exists as well.
    padded = np.full((n, channels, height + 3, width + 3), fill, dtype=np.float32)
    padded[:, :, 1 : height + 1, 1 : width + 1] = images
    plane = (height + 3) * (width + 3)
    first = np.arange(n * channels).reshape(n, channels, 1, 1) * plane
    index = first + (top * (width + 3) + left)[:, None]
    flat, right, down = padded.ravel(), right[:, None], down[:, None]

    # a + w (b - a) rather than (1 - w) a + w b: a flat area stays exactly what it is.
    upper: np.ndarray = flat[index]
    upper += right * (flat[index + 1] - upper)
    index += width + 3
    lower = flat[index]
    lower += right * (flat[index + 1] - lower)
    upper += down * (lower - upper)
    return upper


@dataclass(frozen=True)
class Augment:
    """Random flip, shift, rotation and scale in one resampling, then contrast and brightness.

    Parameters
    ----------
    flip : bool
        Mirror left and right with probability 1/2.
    shift : int
        Largest shift in pixels; rows and columns each by a whole number, uniform on -shift..shift.
    rotation : float
        Largest angle in degrees about the image's centre; uniform on [-rotation, rotation].
    scale : float
        Largest relative change of size about the centre; the factor is uniform on [1 - scale, 1 + scale].
    contrast : float
        Largest relative change of contrast: the distance of a pixel from the image's mean (over pixels and
        channels) is multiplied by a factor uniform on [1 - contrast, 1 + contrast].
    brightness : float
        Largest relative change of brightness: the intensity above black, (value + 1) / 2, is multiplied by
        a factor uniform on [1 - brightness, 1 + brightness]; after contrast.
    fill : float
        Value outside the image, in [-1, 1]; -1 is black.

    Raises
    ------
    ValueError
        If a range is negative, or large enough that a factor may reach 0.

    Notes
    -----
    Each image takes seven draws from its own stream whatever the parameters, so that changing one
    parameter leaves the draws of the others as they were. An image alone, in a batch, or in another order
    gives bitwise the same result; with all ranges 0 images come back exactly. The result is clipped to [-1, 1].

    Examples
    --------
    >>> images = np.full((2, 1, 8, 8), 0.5, np.float32)
    >>> Augment()(images, [10, 11], view=0, seed=0).shape
    (2, 1, 8, 8)
    """

    flip: bool = True
    shift: int = 2
    rotation: float = 12.0
    scale: float = 0.1
    contrast: float = 0.3
    brightness: float = 0.3
    fill: float = -1.0

    def __post_init__(self) -> None:
        if not isinstance(self.shift, int | np.integer) or self.shift < 0:
            raise ValueError(f"shift must be a whole number of pixels, 0 or more, not {self.shift!r}")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation must lie between 0 and 180 degrees, not {self.rotation}")
        for name in ("scale", "contrast", "brightness"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1): the factor is 1 +- {name}, not {getattr(self, name)}")
        if not -1 <= self.fill <= 1:
            raise ValueError(f"fill must lie in [-1, 1], where images do, not {self.fill}")

    def config(self) -> dict[str, Any]:
        """Name and parameters, for the attributes of a cube."""
        return {
            "name": "Augment",
            "flip": bool(self.flip),
            "shift": int(self.shift),
            **{name: float(getattr(self, name)) for name in ("rotation", "scale", "contrast", "brightness", "fill")},
        }

    def _draws(self, image_ids: list[object], view: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inverse maps (n, 2, 3), contrast and brightness less 1 (n,)."""
        inverse = np.empty((len(image_ids), 2, 3))
        tone = np.empty((len(image_ids), 2))
        step = 2 * self.shift + 1
        for row, stream in enumerate(generators(seed, image_ids, view, "augment")):
            flip, down, right, angle, scale, contrast, brightness = stream.random(7).tolist()
            mirror = -1.0 if self.flip and flip < 0.5 else 1.0
            down, right = math.floor(down * step) - self.shift, math.floor(right * step) - self.shift
            angle = math.radians(self.rotation * (2 * angle - 1))
            size = 1 + self.scale * (2 * scale - 1)
            # From output to input: take back the shift, the rotation and scale, then the flip of the columns.
            cos, sin = math.cos(angle) / size, math.sin(angle) / size
            inverse[row] = (
                (cos, sin, -(cos * down + sin * right)),
                (-mirror * sin, mirror * cos, -mirror * (cos * right - sin * down)),
            )
            tone[row] = self.contrast * (2 * contrast - 1), self.brightness * (2 * brightness - 1)
        return inverse, tone[:, 0], tone[:, 1]

    def __call__(self, images: np.ndarray, image_ids: Iterable[object], view: int, seed: int) -> np.ndarray:
        """One view of each image.

        Parameters
        ----------
        images : ndarray (n, channel, height, width)
            float32 in [-1, 1], or uint8.
        image_ids : iterable of int or str, of length n
            Identities of the images: what the draws depend on, beside view and seed.
        view : int
            Number of the view.
        seed : int
            Seed of the whole extraction.

        Returns
        -------
        ndarray, shaped like images, float32 in [-1, 1]

        Raises
        ------
        ValueError
            If images have another shape, type or range, or the ids another number.
        """
        images, ids = as_unit_range(images), list(image_ids)
        if len(ids) != len(images):
            raise ValueError(f"{len(ids)} image ids for {len(images)} images")
        inverse, contrast, brightness = self._draws(ids, view, seed)
        result = np.empty_like(images)
        at_once = max(1, _PIXELS_AT_ONCE // max(1, images[:1].size))
        for start in range(0, len(images), at_once):
            block = slice(start, start + at_once)
            x = _resampled(images[block], inverse[block], self.fill)
            mean = _row_means(x.reshape(len(x), -1))[:, None, None, None].astype(np.float32)
            more, lighter = (f[block, None, None, None].astype(np.float32) for f in (contrast, brightness))
            # Added as a change, so that a factor of 1 changes no bit.
            x += more * (x - mean)
            x += lighter * (x + np.float32(1))
            np.clip(x, -1, 1, out=result[block])
        return result


def Fashion() -> Augment:
    """Views of Fashion-MNIST at 16 x 16: flip, shift 2, 12 degrees, 10 % in size, 30 % in tone."""
    return Augment()


def Digits() -> Augment:
    """Views of the 8 x 8 digits: as `Fashion`, without flip (a mirrored digit is none) and with shift 1."""
    return Augment(flip=False, shift=1)
