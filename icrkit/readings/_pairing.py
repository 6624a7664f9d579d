"""Whether spaces may be compared: of the same images, under the same draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icrkit.cube import Cube
from icrkit.exceptions import CubeFormatError
from icrkit.moments import Moments

__all__ = ["check_recorded_draws", "check_same_draws", "check_same_folds", "recorded_draws"]

# What a cube records of the images and of what was drawn for them. What is not recorded is not asked.
_DRAWN = ("seed", "views", "noise", "noise_draws", "images", "encode")


def check_same_draws(cubes: Sequence[Cube], names: Sequence[str]) -> None:
    """Refuse cubes that do not pair image by image with the first of them.

    Parameters
    ----------
    cubes : sequence of Cube
    names : sequence of str
        What to call each in the message.

    Raises
    ------
    CubeFormatError
        Other images, another number of views, or another seed, augmentation or noise law; the message names what
        differs and in which cube.
    """
    first = cubes[0]
    ids = {str(i) for i in first.image_ids}
    for cube, name in zip(cubes[1:], names[1:], strict=True):
        others = {str(i) for i in cube.image_ids}
        if ids != others:
            missing, new = sorted(ids - others), sorted(others - ids)
            parts = [f"{len(missing)} are missing (such as {missing[0]!r})"] if missing else []
            parts += [f"{len(new)} are new (such as {new[0]!r})"] if new else []
            raise CubeFormatError(
                f"{name} holds other images than {names[0]}: {', '.join(parts)}. Differences are paired image by "
                "image: extract all from the same images"
            )
        if cube.n_views != first.n_views:
            raise CubeFormatError(f"{name} has {cube.n_views} views, {names[0]} {first.n_views}: use as many")
        check_recorded_draws(recorded_draws(first), recorded_draws(cube), names[0], name)


def recorded_draws(cube: Cube) -> dict[str, Any]:
    """What a cube records of the images and of what was drawn for them."""
    return {key: cube.attrs[key] for key in _DRAWN if cube.attrs.get(key) is not None}


def check_recorded_draws(here: Mapping[str, Any], there: Mapping[str, Any], here_name: str, there_name: str) -> None:
    """Refuse records that differ in something both of them have.

    Raises
    ------
    CubeFormatError
    """
    for key in (key for key in _DRAWN if key in here and key in there):
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


def _told(value: Any, other: Any) -> str:
    """The value, or of a mapping only what differs from the other."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        value = {key: item for key, item in value.items() if key not in other or other[key] != item}
    return repr(value)
