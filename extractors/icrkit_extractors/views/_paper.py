"""The paper's five levels of views."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from icrkit_extractors._streams import generators
from icrkit_extractors.views._colour import JITTER, jittered
from icrkit_extractors.views._resample import resampled
from icrkit_extractors.views._view import PIXELS_AT_ONCE, blocks, images_and_ids, shift_of

__all__ = ["Paper", "Strength"]

# Colours are changed in larger groups, since images of one batch take the four changes in 24 different orders.
_COLOURS_AT_ONCE = 1 << 18

_ORDERS = np.array(list(itertools.permutations(range(len(JITTER)))))


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


@dataclass(frozen=True)
class Paper:
    """The paper's five levels: random crop; then also flip; colour jitter; rotation; centre crop.

    Parameters
    ----------
    level : int
        1: random crop of the padded image. 2: also a random horizontal flip. 3, the paper's default: also colour
        jitter. 4: also a random rotation. 5: also a centre crop. Strengths of higher levels are not used.
    padding : int, optional
        Pixels added on each side before the crop, which has the size of the image: rows and columns move by a whole
        number of pixels each, uniform on -padding..padding. Default: an eighth of the image's shorter side, rounded: 4
        at 32 x 32, 1 at 8 x 8, 32 at 256 x 256.
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
    The paper names the parts of its levels and gives no strengths. Those here are ours: 4 of 32 pixels; jitter
    (0.4, 0.4, 0.4, 0.1); 15 degrees; 28 of 32 pixels.

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
    {'name': 'Paper', 'level': 2, 'padding': 'side / 8', 'fill': 'reflect', 'flip': 0.5}
    """

    level: int = 3
    _: KW_ONLY
    padding: int | None = None
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
        if self.padding is not None and (not isinstance(self.padding, int | np.integer) or self.padding < 0):
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
            "padding": (1, "side / 8" if self.padding is None else int(self.padding)),
            "fill": (1, self.fill if isinstance(self.fill, str) else float(self.fill)),
            "flip": (2, float(self.flip)),
            **{name: (limits.level, list(self._used(name))) for name, limits in _LIMITS.items()},
            "center_crop": (5, float(self.center_crop)),
        }
        used = {name: value for name, (level, value) in strengths.items() if level <= self.level}
        return {"name": "Paper", "level": int(self.level), **used}

    def _padding(self, images: np.ndarray) -> int:
        return shift_of(images) if self.padding is None else int(self.padding)

    def _draws(self, image_ids: list[object], view: int, seed: int, padding: int) -> _Draws:
        unit = np.empty((len(image_ids), 9))
        for row, stream in zip(unit, generators(seed, image_ids, view, "paper"), strict=True):
            stream.random(out=row)
        strengths = {}
        for name, column in zip(_LIMITS, unit.T[4:], strict=True):
            low, high = self._used(name)
            strengths[name] = low + (high - low) * column
        angle = strengths.pop("rotation")
        return _Draws(
            move=np.floor(unit[:, :2] * (2 * padding + 1)).astype(np.intp) - padding,
            mirror=(unit[:, 2] < self.flip) & (self.level >= 2),
            order=_ORDERS[(unit[:, 3] * len(_ORDERS)).astype(np.intp)],
            jitter=strengths,
            angle=angle,
        )

    def _move(self, images: np.ndarray, draws: _Draws, out: np.ndarray) -> None:
        """Cropped and mirrored images: copies of whole pixels."""
        height, width = images.shape[2:]
        padding = self._padding(images)
        around = ((0, 0), (0, 0), (padding, padding), (padding, padding))
        for block in blocks(images, PIXELS_AT_ONCE):
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
        for block in blocks(images, PIXELS_AT_ONCE):
            np.clip(resampled(images[block], inverse[block], self.fill), -1, 1, out=out[block])

    def _changes(self, channels: int) -> list[str]:
        """Changes of colour that are more than nothing."""
        changes = [name for name in JITTER if self._used(name) != (_LIMITS[name].nothing,) * 2]
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
        images, ids = images_and_ids(images, image_ids)
        changes = self._changes(images.shape[1])
        whole_pixels = self._used("rotation") == (0, 0) and (self.level < 5 or self.center_crop == 1)
        place = self._move if whole_pixels else self._turn
        draws = self._draws(ids, view, seed, self._padding(images))
        result = np.empty_like(images)
        for block in blocks(images, _COLOURS_AT_ONCE):
            drawn, x = draws.of(block), result[block]
            place(images[block], drawn, x)
            if changes:
                x += np.float32(1)
                x *= np.float32(0.5)
                jittered(x, drawn.order, drawn.jitter, changes)
                x *= np.float32(2)
                x -= np.float32(1)
        return result
