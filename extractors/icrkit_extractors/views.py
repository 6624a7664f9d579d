"""Views of an image: random augmentations that depend on (seed, image id, view) and on nothing else.

A view is any callable ``(images, image_ids, view, seed) -> images``. `Paper` has the five levels of the paper;
`Augment` moves and scales grey images, with `Fashion` and `Digits` as its settings for the two example sets;
`FromTorch` takes a transform of torchvision or kornia, or any other; `Unchanged` leaves images as they are.
Augment first, then noise.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from icrkit.exceptions import MissingDependencyError
from icrkit_extractors._streams import generators

if TYPE_CHECKING:
    import torch

__all__ = ["Augment", "Digits", "Fashion", "FromTorch", "Paper", "Unchanged", "View", "as_unit_range"]

# Images are resampled in groups of about this many pixels: the float64 coordinates then stay in the cache.
_PIXELS_AT_ONCE = 1 << 15
# Colours are changed in larger groups, since images of one batch take the four changes in 24 different orders.
_COLOURS_AT_ONCE = 1 << 18


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


def _given(images: np.ndarray, image_ids: Iterable[object]) -> tuple[np.ndarray, list[object]]:
    """Images in the unit range and as many ids."""
    images, ids = as_unit_range(images), list(image_ids)
    if len(ids) != len(images):
        raise ValueError(f"{len(ids)} image ids for {len(images)} images")
    return images, ids


def _blocks(images: np.ndarray, values_at_once: int) -> Iterator[slice]:
    """Runs of images of about so many values."""
    step = max(1, values_at_once // max(1, images[:1].size))
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def _mirrored(source: np.ndarray, size: int) -> np.ndarray:
    """Coordinates brought inside the image by reflection about the centres of its outermost pixels."""
    period = 2 * max(1, size - 1)
    source = np.abs(source)
    source -= period * np.floor(source / period)
    return np.minimum(source, period - source) if size > 1 else np.zeros_like(source)


def _resampled(images: np.ndarray, inverse: np.ndarray, fill: float | Literal["reflect"]) -> np.ndarray:
    """Bilinear samples of each image at ``inverse`` (n, 2, 3) applied to the output's pixel coordinates.

    Coordinates are (row, column) from the image's centre; outside the image is ``fill``.
    """
    reflect = isinstance(fill, str)
    n, channels, height, width = images.shape
    y = np.arange(height)[:, None] - (height - 1) / 2
    x = np.arange(width)[None, :] - (width - 1) / 2

    def corner_and_weight(row: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        a, b, c = (row[:, k, None, None] for k in range(3))
        source = (a * y + b * x) + (c + (size - 1) / 2)
        # One pixel beyond the image all is fill already.
        source = _mirrored(source, size) if reflect else np.clip(source, -1, size)
        corner = np.floor(source)
        return corner.astype(np.intp) + 1, (source - corner).astype(np.float32)

    top, down = corner_and_weight(inverse[:, 0], height)
    left, right = corner_and_weight(inverse[:, 1], width)

    # Two pixels of fill at the far side: the lower right neighbour of the last corner exists as well. Channels come
    # first, since they share their coordinates.
    padded = np.full((channels, n, height + 3, width + 3), 0 if reflect else fill, dtype=np.float32)
    padded[:, :, 1 : height + 1, 1 : width + 1] = images.swapaxes(0, 1)
    first = np.arange(n)[:, None, None] * ((height + 3) * (width + 3))
    upper_left = first + (top * (width + 3) + left)
    lower_left = upper_left + (width + 3)
    upper_right, lower_right = upper_left + 1, lower_left + 1

    sampled = np.empty_like(images)
    for channel, plane in enumerate(padded.reshape(channels, -1)):
        # a + w (b - a) rather than (1 - w) a + w b: a flat area stays exactly what it is.
        upper = plane.take(upper_left)
        upper += right * (plane.take(upper_right) - upper)
        lower = plane.take(lower_left)
        lower += right * (plane.take(lower_right) - lower)
        upper += down * (lower - upper)
        sampled[:, channel] = upper
    return sampled


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

    own_streams: ClassVar[bool] = True

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
        images, ids = _given(images, image_ids)
        inverse, contrast, brightness = self._draws(ids, view, seed)
        result = np.empty_like(images)
        for block in _blocks(images, _PIXELS_AT_ONCE):
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


# ---- the paper's levels ---------------------------------------------------------------------------------------------


def _grey(x: np.ndarray) -> np.ndarray:
    """Luma (n, height, width) of colours in [0, 1], with torchvision's weights."""
    if x.shape[1] == 1:
        return x[:, 0]
    grey: np.ndarray = 0.2989 * x[:, 0]
    grey += 0.587 * x[:, 1]
    grey += 0.114 * x[:, 2]
    return grey


def _per_image(values: np.ndarray) -> np.ndarray:
    return values[:, None, None, None].astype(np.float32)


def _brightness(x: np.ndarray, factor: np.ndarray) -> None:
    """Colours (n, channel, height, width) in [0, 1] times the factor (n,) of their image, in place, clipped."""
    x *= _per_image(factor)
    np.minimum(x, 1, out=x)


def _contrast(x: np.ndarray, factor: np.ndarray) -> None:
    """Distance of each value from the mean luma of its image times ``factor``, in place, clipped."""
    mean = _row_means(_grey(x).reshape(len(x), -1))
    x *= _per_image(factor)
    x += _per_image((1 - factor) * mean)
    np.clip(x, 0, 1, out=x)


def _saturation(x: np.ndarray, factor: np.ndarray) -> None:
    """Distance of each colour from its own luma times ``factor``, in place, clipped."""
    grey = _grey(x)[:, None] * _per_image(1 - factor)
    x *= _per_image(factor)
    x += grey
    np.clip(x, 0, 1, out=x)


def _hue(x: np.ndarray, turn: np.ndarray) -> None:
    """Hue of each colour (HSV) moved by ``turn`` (n,) of the full circle, in place."""
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    # The hue is kept in sixths of the circle times the chroma, from -3 to 3 of them: nothing is divided, and grey
    # needs no case of its own.
    chroma = high - low
    twice = chroma + chroma
    half = twice + chroma
    hue = np.where(high == red, green - blue, np.where(high == green, (blue - red) + twice, (red - green) - twice))
    hue += _per_image(turn)[:, 0] * (half + half)
    hue -= (half + half) * (hue >= half)
    hue += (half + half) * (hue < -half)
    # Red falls off from 0; green and blue rise from what lies opposite to them.
    np.clip((high + chroma) - np.abs(hue), low, high, out=red)
    rise = low - chroma
    np.clip(rise + np.abs(hue + chroma), low, high, out=green)
    np.clip(rise + np.abs(hue - chroma), low, high, out=blue)


_JITTER: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
}
_ORDERS = np.array(list(itertools.permutations(range(len(_JITTER)))))

Strength = float | Sequence[float]


class _Limits(NamedTuple):
    """First level that uses a strength, the value that changes nothing, the least and the greatest there may be."""

    level: int
    nothing: float
    least: float
    greatest: float


_FACTOR = _Limits(3, 1.0, 0.0, math.inf)
_LIMITS = {
    "brightness": _FACTOR,
    "contrast": _FACTOR,
    "saturation": _FACTOR,
    "hue": _Limits(3, 0.0, -0.5, 0.5),
    "rotation": _Limits(4, 0.0, -360.0, 360.0),
}


def _interval(name: str, strength: Strength) -> tuple[float, float]:
    """What a strength is drawn from: (low, high) as given, or so far to both sides of what changes nothing."""
    limits = _LIMITS[name]
    if isinstance(strength, Real):
        reach = float(strength)
        low, high, fits = limits.nothing - reach, limits.nothing + reach, reach >= 0
        # A factor is never negative, however far it may go up.
        low = max(0.0, low) if limits is _FACTOR else low
    elif isinstance(strength, Sequence) and len(strength) == 2 and all(isinstance(end, Real) for end in strength):
        low, high = map(float, strength)
        fits = low <= high
    else:
        raise ValueError(f"{name} must be a number or a pair (low, high), not {strength!r}")
    if not (fits and limits.least <= low and high <= limits.greatest and math.isfinite(high)):
        raise ValueError(
            f"{name} must be a number, 0 or more, or a pair (low, high) with low <= high, within "
            f"[{limits.least:g}, {limits.greatest:g}], not {strength!r}"
        )
    return low, high


class _Draws(NamedTuple):
    """What is done to each image of a batch."""

    move: np.ndarray  # (n, 2) rows and columns, whole pixels
    mirror: np.ndarray  # (n,) bool
    order: np.ndarray  # (n, 4) the changes of colour, first to last
    jitter: dict[str, np.ndarray]  # (n,) a factor or turn each
    angle: np.ndarray  # (n,) degrees

    def of(self, block: slice) -> _Draws:
        jitter = {name: values[block] for name, values in self.jitter.items()}
        return _Draws(self.move[block], self.mirror[block], self.order[block], jitter, self.angle[block])


def _jittered(x: np.ndarray, draws: _Draws, names: Iterable[str]) -> None:
    """The named changes of colour, for each image in its own order, in place."""
    for place in draws.order.T:
        for number, (name, change) in enumerate(_JITTER.items()):
            rows = np.flatnonzero(place == number)
            if name in names and len(rows):
                some = x[rows]
                change(some, draws.jitter[name][rows])
                x[rows] = some


@dataclass(frozen=True)
class Paper:
    """The paper's five levels: random crop; then also flip; colour jitter; rotation; centre crop.

    Parameters
    ----------
    level : int
        1: random crop of the padded image. 2: also a random horizontal flip. 3, the paper's default: also colour
        jitter. 4: also a random rotation. 5: also a centre crop. Strengths of higher levels are not used.
    padding : int
        Pixels added on each side before the crop, which has the size of the image: rows and columns move by a whole
        number of pixels each, uniform on -padding..padding.
    fill : float or "reflect"
        Value outside the image, in [-1, 1]: -1 is black, torchvision's fill of 0. Or the image itself, reflected about
        the centres of its outermost pixels.
    flip : float
        Probability that an image is mirrored left and right.
    brightness, contrast, saturation : float or (float, float)
        The factor is uniform on [max(0, 1 - b), 1 + b], or on [low, high]. Brightness multiplies the intensities in
        [0, 1]; contrast the distance from the mean luma of the image; saturation that of a colour from its own luma.
    hue : float or (float, float)
        The hue (HSV) moves by a part of the full circle that is uniform on [-hue, hue], at most half of it, or on
        [low, high].
    rotation : float or (float, float)
        Degrees counter-clockwise about the image's centre, uniform on [-rotation, rotation] or on [low, high].
    center_crop : float
        Side of the centre crop as a fraction of the image's. It is scaled back to the size of the image.

    Raises
    ------
    ValueError
        If there is no such level, or a strength is out of range, that of a higher level included.

    Notes
    -----
    The paper names the parts of its levels and gives no strengths. Those here are ours: 4 pixels, usual at 32 x 32;
    jitter (0.4, 0.4, 0.4, 0.1); 15 degrees; 28 of 32 pixels.

    Each part is defined as in torchvision (``RandomCrop``, ``RandomHorizontalFlip``, ``ColorJitter``,
    ``RandomRotation`` with bilinear interpolation, ``CenterCrop`` then ``Resize``): the four changes of colour come in
    an order drawn for each image, each clipped to [0, 1]; one-channel images have no saturation and no hue. Levels 1
    to 3 are what its transforms give one after the other. At levels 4 and 5 some things differ, since crop, flip,
    rotation and centre crop are one map from the pixels of the output to those of the input, and colours come last:

    - pixels are interpolated once, instead of once a transform;
    - what the random crop cut off comes back where the rotation reaches it, and the centre crop's edge is
      interpolated with what lies beyond, instead of fill or a repeated edge;
    - pixels at the edge of the rotated image are interpolated with fill, which torchvision's rotation of tensors weighs
      twice there;
    - the corners that a rotation fills count in the mean of the contrast and change colour with the image, as
      the margin of the random crop does at every level.

    Each image takes nine draws from its own stream, whatever the level and the strengths: changing one leaves the other
    draws as they were, and level 2 is level 1 with some images mirrored. An image alone, in a batch, or in another
    order gives bitwise the same result.

    References
    ----------
    Li et al. 2026, "Evaluating the Representation Space of Diffusion Models via Self-Supervised Principles",
    arXiv 2606.09718, appendix B.6, "Sensitivity of ICR to augmentation design".

    Examples
    --------
    >>> images = np.full((2, 3, 32, 32), 128, np.uint8)
    >>> Paper()(images, ["a", "b"], view=0, seed=0).shape
    (2, 3, 32, 32)
    >>> Paper(level=2, fill="reflect").config()
    {'name': 'Paper', 'level': 2, 'padding': 4, 'fill': 'reflect', 'flip': 0.5}
    """

    level: int = 3
    _: KW_ONLY
    padding: int = 4
    fill: float | Literal["reflect"] = -1.0
    flip: float = 0.5
    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.4
    hue: Strength = 0.1
    rotation: Strength = 15.0
    center_crop: float = 0.875

    own_streams: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.level, bool) or self.level not in range(1, 6):
            raise ValueError(
                "level must be 1 (random crop), 2 (and flip), 3 (and colour jitter), 4 (and rotation) or "
                f"5 (and centre crop), not {self.level!r}"
            )
        if not isinstance(self.padding, int | np.integer) or self.padding < 0:
            raise ValueError(f"padding must be a whole number of pixels, 0 or more, not {self.padding!r}")
        if not (self.fill == "reflect" or (isinstance(self.fill, Real) and -1 <= self.fill <= 1)):
            raise ValueError(f'fill must lie in [-1, 1], where images do, or be "reflect", not {self.fill!r}')
        # Augment's flip is a bool, which would read here as always or never.
        if isinstance(self.flip, bool) or not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be a probability, such as 0.5, not {self.flip!r}")
        for name in _LIMITS:
            _interval(name, getattr(self, name))
        if not 0 < self.center_crop <= 1:
            raise ValueError(f"center_crop must be a fraction of the side, in (0, 1], not {self.center_crop!r}")

    def _used(self, name: str) -> tuple[float, float]:
        """Interval of a strength at this level."""
        limits = _LIMITS[name]
        return _interval(name, getattr(self, name)) if limits.level <= self.level else (limits.nothing,) * 2

    def config(self) -> dict[str, Any]:
        """Name, level and the strengths that the level uses, for the attributes of a cube; intervals as [low, high]."""
        strengths: dict[str, tuple[int, Any]] = {
            "padding": (1, int(self.padding)),
            "fill": (1, self.fill if isinstance(self.fill, str) else float(self.fill)),
            "flip": (2, float(self.flip)),
            **{name: (limits.level, list(self._used(name))) for name, limits in _LIMITS.items()},
            "center_crop": (5, float(self.center_crop)),
        }
        used = {name: value for name, (level, value) in strengths.items() if level <= self.level}
        return {"name": "Paper", "level": int(self.level), **used}

    def _draws(self, image_ids: list[object], view: int, seed: int) -> _Draws:
        unit = np.empty((len(image_ids), 9))
        for row, stream in zip(unit, generators(seed, image_ids, view, "paper"), strict=True):
            stream.random(out=row)
        strengths = {}
        for name, column in zip(_LIMITS, unit.T[4:], strict=True):
            low, high = self._used(name)
            strengths[name] = low + (high - low) * column
        angle = strengths.pop("rotation")
        return _Draws(
            move=np.floor(unit[:, :2] * (2 * int(self.padding) + 1)).astype(np.intp) - int(self.padding),
            mirror=(unit[:, 2] < self.flip) & (self.level >= 2),
            order=_ORDERS[(unit[:, 3] * len(_ORDERS)).astype(np.intp)],
            jitter=strengths,
            angle=angle,
        )

    def _move(self, images: np.ndarray, draws: _Draws, out: np.ndarray) -> None:
        """Cropped and mirrored images: copies of whole pixels."""
        height, width = images.shape[2:]
        padding = int(self.padding)
        around = ((0, 0), (0, 0), (padding, padding), (padding, padding))
        for block in _blocks(images, _PIXELS_AT_ONCE):
            if isinstance(self.fill, str):
                padded = np.pad(images[block], around, mode="reflect")
            else:
                padded = np.pad(images[block], around, constant_values=self.fill)
            corners, mirrors = (draws.move[block] + padding).tolist(), draws.mirror[block].tolist()
            for one, wide, (top, left), mirror in zip(out[block], padded, corners, mirrors, strict=True):
                crop = wide[:, top : top + height, left : left + width]
                one[...] = crop[:, :, ::-1] if mirror else crop

    def _turn(self, images: np.ndarray, draws: _Draws, out: np.ndarray) -> None:
        """Cropped, mirrored, rotated and enlarged images: one bilinear sample for each pixel."""
        side = float(self.center_crop) if self.level == 5 else 1.0
        inverse = np.empty((len(images), 2, 3))
        # Python's cosine: numpy's, on many numbers at once, need not be the one it has for a single number.
        for row, (down, right), mirrored, angle in zip(
            inverse, draws.move.tolist(), draws.mirror.tolist(), draws.angle.tolist(), strict=True
        ):
            cos, sin = side * math.cos(math.radians(angle)), side * math.sin(math.radians(angle))
            mirror = -1.0 if mirrored else 1.0
            # From output to input: out of the centre crop, back by the rotation, the flip of the columns and the crop.
            row[...] = (cos, sin, down), (-mirror * sin, mirror * cos, right)
        for block in _blocks(images, _PIXELS_AT_ONCE):
            np.clip(_resampled(images[block], inverse[block], self.fill), -1, 1, out=out[block])

    def _changes(self, channels: int) -> list[str]:
        """Changes of colour that are more than nothing."""
        changes = [name for name in _JITTER if self._used(name) != (_LIMITS[name].nothing,) * 2]
        if changes and channels not in (1, 3):
            raise ValueError(
                f"{', '.join(changes)}: colours change in images of 1 or 3 channels, not {channels}; take level 1 or "
                "2, or set these to 0"
            )
        return [name for name in changes if channels == 3 or name in ("brightness", "contrast")]

    def __call__(self, images: np.ndarray, image_ids: Iterable[object], view: int, seed: int) -> np.ndarray:
        """One view of each image.

        Parameters
        ----------
        images : ndarray (n, channel, height, width)
            float32 in [-1, 1], or uint8; at levels 3 to 5 grey or RGB.
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
            If images have another shape, type or range, the ids another number, or colours are to change in images of
            neither one nor three channels.
        """
        images, ids = _given(images, image_ids)
        changes = self._changes(images.shape[1])
        whole_pixels = self._used("rotation") == (0, 0) and (self.level < 5 or self.center_crop == 1)
        place = self._move if whole_pixels else self._turn
        draws = self._draws(ids, view, seed)
        result = np.empty_like(images)
        for block in _blocks(images, _COLOURS_AT_ONCE):
            drawn, x = draws.of(block), result[block]
            place(images[block], drawn, x)
            if changes:
                x += np.float32(1)
                x *= np.float32(0.5)
                _jittered(x, drawn, changes)
                x *= np.float32(2)
                x -= np.float32(1)
        return result


# ---- transforms of others, and none ---------------------------------------------------------------------------------


@contextmanager
def _global_generators_kept() -> Iterator[Callable[[int], None]]:
    """Gives a function that seeds the global generators; on the way out they are as they were."""
    import torch

    kept = torch.default_generator.get_state(), random.getstate(), np.random.get_state()  # noqa: NPY002

    def seed(number: int) -> None:
        # torch.manual_seed would seed the devices as well.
        torch.default_generator.manual_seed(number)
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)  # noqa: NPY002

    try:
        yield seed
    finally:
        torch.default_generator.set_state(kept[0])
        random.setstate(kept[1])
        np.random.set_state(kept[2])  # noqa: NPY002


@dataclass(frozen=True)
class FromTorch:
    """Views by a random transform of torch tensors: torchvision's, kornia's, or any callable or module.

    Parameters
    ----------
    transform : callable, tensor (1, channel, height, width) -> tensor of the same shape
        Takes and gives float32 on the CPU, one image at a time, in ``value_range``. Compose several beforehand.
    value_range : (float, float)
        What black and white are to the transform: (0, 1) in torchvision and kornia.
    name : str, optional
        What a cube records of the transform. Default: the name of a function or class, else its ``repr``, which shows
        the parameters of the transforms of torchvision and kornia.

    Raises
    ------
    MissingDependencyError
        When called, if torch is not installed.
    ValueError
        If ``value_range`` is not two numbers, the first one smaller.

    Notes
    -----
    Such transforms draw from global generators. Before each image those of torch (on the CPU), Python and numpy are
    seeded by (seed, image id, view), and after the batch they are put back: so views do not depend on the batch or
    the order, and nobody else's draws change. A transform that keeps a generator of its own, or remembers what it did,
    escapes this. The results depend on the version of the transform's library. One image at a time
    takes 0.2 to 3 ms; `Paper` is the fast way to torchvision's usual transforms.

    Examples
    --------
    >>> import torch
    >>> def darker(image):
    ...     return image * torch.rand(1)
    >>> FromTorch(darker)(np.ones((2, 1, 4, 4), np.float32), [0, 1], view=0, seed=0).shape
    (2, 1, 4, 4)
    """

    transform: Callable[[torch.Tensor], torch.Tensor]
    _: KW_ONLY
    value_range: tuple[float, float] = (0.0, 1.0)
    name: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.transform):
            raise ValueError(f"transform must be a callable on tensors, not {self.transform!r}")
        low, high = self.value_range
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"value_range must be (value of black, value of white), not {self.value_range!r}")

    def config(self) -> dict[str, Any]:
        """Name of the transform and its range, for the attributes of a cube."""
        name = self.name
        if name is None and hasattr(self.transform, "__qualname__"):
            name = f"{self.transform.__module__}.{self.transform.__qualname__}"
        elif name is None:
            # An address in memory would make another run's record differ.
            name = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.transform))
        return {"name": "FromTorch", "transform": name, "value_range": [float(end) for end in self.value_range]}

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
        MissingDependencyError
            If torch is not installed.
        ValueError
            If images have another shape, type or range, the ids another number, or the transform gives no tensor, or
            one of another shape or outside ``value_range``; the message names the image.
        """
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError('FromTorch needs torch: pip install "icrkit[torch]"') from error
        images, ids = _given(images, image_ids)
        low, high = self.value_range
        half, middle = np.float32((high - low) / 2), np.float32((high + low) / 2)
        result = np.empty_like(images)
        with _global_generators_kept() as reseed, torch.no_grad():
            for k, stream in enumerate(generators(seed, ids, view, "torch")):
                reseed(int(stream.integers(1 << 63)))
                # A copy: a transform may work in place.
                given = torch.from_numpy(images[k : k + 1] * half + middle)
                result[k] = self._checked(self.transform(given), given.shape, ids[k])[0]
        result -= middle
        result /= half
        return np.clip(result, -1, 1, out=result)

    def _checked(self, given: Any, shape: Sequence[int], image_id: object) -> np.ndarray:
        if not hasattr(given, "detach"):
            raise ValueError(f"the transform must give a tensor, not {type(given).__name__} (image {image_id!r})")
        values: np.ndarray = given.detach().cpu().float().numpy()
        if values.shape != tuple(shape):
            raise ValueError(f"the transform gave shape {values.shape} for {tuple(shape)} (image {image_id!r})")
        low, high = self.value_range
        rounding = 1e-4 * (high - low)
        if not (low - rounding <= values.min() and values.max() <= high + rounding):
            raise ValueError(
                f"the transform gave {values.min():.6g} to {values.max():.6g}, outside value_range {self.value_range} "
                f"(image {image_id!r}); leave out what normalises, and clamp what overshoots"
            )
        return values


@dataclass(frozen=True)
class Unchanged:
    """No augmentation: every view is the image itself.

    Notes
    -----
    Views then differ by their noise alone, and that is another question than the paper's: invariant is whatever
    survives noise, position, colour and mirror side included, not what an image shows. Such a residual can even move
    in the opposite direction over training. Of use as a comparison, and with a network that augments by itself; not
    with the noise law `noise.Clean`, where all views would be equal.

    Examples
    --------
    >>> Unchanged()(np.zeros((1, 1, 1, 2), np.uint8), ["a"], view=0, seed=0).tolist()
    [[[[-1.0, -1.0]]]]
    """

    own_streams: ClassVar[bool] = True

    def config(self) -> dict[str, Any]:
        """The name, for the attributes of a cube."""
        return {"name": "Unchanged"}

    def __call__(self, images: np.ndarray, image_ids: Iterable[object], view: int, seed: int) -> np.ndarray:
        """The images, float32 in [-1, 1]; the draws depend on nothing, since there are none.

        Raises
        ------
        ValueError
            If images have another shape, type or range, or the ids another number.
        """
        # A copy, like that of other views: a network may work in place.
        return np.array(_given(images, image_ids)[0])
