"""Small grey images moved, scaled and lightened: the views of the two example sets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from icrkit_extractors._streams import generators
from icrkit_extractors.views._resample import resampled
from icrkit_extractors.views._view import PIXELS_AT_ONCE, blocks, images_and_ids, row_means, shift_of

__all__ = ["Augment", "Digits", "Fashion"]


@dataclass(frozen=True)
class Augment:
    """Random flip, shift, rotation and scale in one resampling, then contrast and brightness.

    Parameters
    ----------
    flip : bool
        Mirror left and right with probability 1/2.
    shift : int, optional
        Largest shift in pixels; rows and columns each by a whole number, uniform on -shift..shift. Default: an eighth
        of the image's shorter side, rounded.
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
    shift: int | None = None
    rotation: float = 12.0
    scale: float = 0.1
    contrast: float = 0.3
    brightness: float = 0.3
    fill: float = -1.0

    own_streams: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.shift is not None and (not isinstance(self.shift, int | np.integer) or self.shift < 0):
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
            "shift": "side / 8" if self.shift is None else int(self.shift),
            **{name: float(getattr(self, name)) for name in ("rotation", "scale", "contrast", "brightness", "fill")},
        }

    def _draws(
        self, image_ids: list[object], view: int, seed: int, most: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inverse maps (n, 2, 3), contrast and brightness less 1 (n,)."""
        inverse = np.empty((len(image_ids), 2, 3))
        tone = np.empty((len(image_ids), 2))
        step = 2 * most + 1
        for row, stream in enumerate(generators(seed, image_ids, view, "augment")):
            flip, down, right, angle, scale, contrast, brightness = stream.random(7).tolist()
            mirror = -1.0 if self.flip and flip < 0.5 else 1.0
            down, right = math.floor(down * step) - most, math.floor(right * step) - most
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
        images, ids = images_and_ids(images, image_ids)
        most = shift_of(images) if self.shift is None else int(self.shift)
        inverse, contrast, brightness = self._draws(ids, view, seed, most)
        result = np.empty_like(images)
        for block in blocks(images, PIXELS_AT_ONCE):
            x = resampled(images[block], inverse[block], self.fill)
            mean = row_means(x.reshape(len(x), -1))[:, None, None, None].astype(np.float32)
            more, lighter = (f[block, None, None, None].astype(np.float32) for f in (contrast, brightness))
            # Added as a change, so that a factor of 1 changes no bit.
            x += more * (x - mean)
            x += lighter * (x + np.float32(1))
            np.clip(x, -1, 1, out=result[block])
        return result


def Fashion() -> Augment:
    """Views of Fashion-MNIST at 16 x 16: flip, shift 2, 12 degrees, 10 % in size, 30 % in tone."""
    return Augment(shift=2)


def Digits() -> Augment:
    """Views of the 8 x 8 digits: as `Fashion`, without flip (a mirrored digit is none) and with shift 1."""
    return Augment(flip=False, shift=1)
