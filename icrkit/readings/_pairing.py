"""What cubes record of their images and draws, and whether spaces may be compared: of the same images and draws."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icrkit._text import strict_json
from icrkit.cube import Cube
from icrkit.exceptions import CubeFormatError
from icrkit.moments import Moments

__all__ = [
    "DRAWN",
    "DRAWN_OF_MODELS",
    "Draws",
    "check_recorded_draws",
    "check_same_draws",
    "check_same_folds",
    "recorded_draws",
    "sigma_range",
    "trained_range_of",
]

# What a cube records of the images and of what was drawn for them. What is not recorded is not asked.
DRAWN = ("seed", "views", "noise", "noise_draws", "images", "encode")
# A noise law and a way to latents belong to a model: they are no draws of images, and those of two models may differ.
DRAWN_OF_MODELS = tuple(key for key in DRAWN if key not in ("noise", "encode"))


def check_same_draws(cubes: Sequence[Cube], names: Sequence[str], drawn: Sequence[str] = DRAWN) -> None:
    """Refuse cubes that do not pair image by image with the first of them.

    Parameters
    ----------
    cubes : sequence of Cube
    names : sequence of str
        What to call each in the message.
    drawn : sequence of str
        What must be the same where it is recorded: all of it for one model, `DRAWN_OF_MODELS` for several.

    Raises
    ------
    CubeFormatError
        Other images, another number of views, or another seed, augmentation or noise law; the message names what
        differs and in which cube.
    """
    first = Draws.of(cubes[0])
    for cube, name in zip(cubes[1:], names[1:], strict=True):
        first.check(Draws.of(cube), names[0], name, drawn)


@dataclasses.dataclass(frozen=True)
class Draws:
    """What a cube has to share with another one to be paired with it; no features.

    Attributes
    ----------
    ids : frozenset of str
        Of the images.
    n_views : int
    recorded : dict
        See `recorded_draws`.
    """

    ids: frozenset[str]
    n_views: int
    recorded: Mapping[str, Any]

    @classmethod
    def of(cls, cube: Cube) -> Draws:
        """Of a cube."""
        return cls(frozenset(map(str, cube.image_ids)), cube.n_views, recorded_draws(cube))

    def check(self, other: Draws, name: str, other_name: str, drawn: Sequence[str] = DRAWN) -> None:
        """Refuse another cube that does not pair with this one; see `check_same_draws`."""
        if self.ids != other.ids:
            missing, new = sorted(self.ids - other.ids), sorted(other.ids - self.ids)
            parts = [f"{len(missing)} are missing (such as {missing[0]!r})"] if missing else []
            parts += [f"{len(new)} are new (such as {new[0]!r})"] if new else []
            raise CubeFormatError(
                f"{other_name} holds other images than {name}: {', '.join(parts)}. Differences are paired image by "
                "image: extract all from the same images"
            )
        if self.n_views != other.n_views:
            raise CubeFormatError(f"{other_name} has {other.n_views} views, {name} {self.n_views}: use as many")
        check_recorded_draws(self.recorded, other.recorded, name, other_name, drawn)


def recorded_draws(cube: Cube) -> dict[str, Any]:
    """What a cube records of the images and of what was drawn for them, as it comes back from a file.

    A cube in memory and the same from disk then agree: tuples are lists, numpy's numbers are Python's.
    """
    found = {key: cube.attrs[key] for key in DRAWN if cube.attrs.get(key) is not None}
    plain: dict[str, Any] = json.loads(strict_json(found))
    return plain


def check_recorded_draws(
    here: Mapping[str, Any],
    there: Mapping[str, Any],
    here_name: str,
    there_name: str,
    drawn: Sequence[str] = DRAWN,
) -> None:
    """Refuse records that differ in something both of them have.

    Raises
    ------
    CubeFormatError
    """
    for key in (key for key in drawn if key in here and key in there):
        if here[key] != there[key]:
            raise CubeFormatError(
                f"{there_name} and {here_name} differ in {key}: {_told(there[key], here[key])} against "
                f"{_told(here[key], there[key])}. Differences are paired draw by draw: extract all with the same"
            )


def check_same_folds(moments: Sequence[Moments], names: Sequence[str]) -> None:
    """Refuse moments whose folds cannot hold the same images, or that have other views.

    Raises
    ------
    CubeFormatError
        Other numbers of images in some fold, or of views.
    """
    first = moments[0]
    for other, name in zip(moments[1:], names[1:], strict=True):
        if other.n_views != first.n_views:
            raise CubeFormatError(f"{name} has {other.n_views} views, {names[0]} {first.n_views}: use as many")
        if other.n_images.shape != first.n_images.shape or not np.array_equal(other.n_images, first.n_images):
            raise CubeFormatError(
                f"the folds of {name} hold {np.ravel(other.n_images).tolist()} images, those of {names[0]} "
                f"{np.ravel(first.n_images).tolist()}: differences are paired over the same images in the same folds"
            )


def trained_range_of(cube: Cube | None) -> tuple[float, float] | None:
    """Noise levels (low, high) that the network was trained on, where the cube records them.

    Raises
    ------
    CubeFormatError
        What it records is no range.
    """
    noise = None if cube is None else cube.attrs.get("noise")
    found = noise.get("trained_range") if isinstance(noise, Mapping) else None
    return None if found is None else sigma_range(found, 'the cube\'s attrs["noise"]["trained_range"]')


def sigma_range(found: Any, name: str) -> tuple[float, float]:
    """Noise levels (low, high) from what was given; ``name`` is what to call it in the message.

    Raises
    ------
    CubeFormatError
        Not two numbers, the lower one first.
    """
    try:
        low, high = (float(sigma) for sigma in found)
    except (TypeError, ValueError):
        low = high = np.nan
    if not low <= high:
        raise CubeFormatError(f"{name} must be two noise levels, (low, high), not {found!r}")
    return low, high


def _told(value: Any, other: Any) -> str:
    """The value, or of a mapping only what differs from the other."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        value = {key: item for key, item in value.items() if key not in other or other[key] != item}
    return repr(value)
