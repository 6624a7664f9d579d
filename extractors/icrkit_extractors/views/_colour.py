"""Brightness, contrast, saturation and hue, as torchvision defines them, in the order drawn for each image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from icrkit_extractors.views._view import row_means

__all__ = ["JITTER", "jittered"]


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
    mean = row_means(_grey(x).reshape(len(x), -1))
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


JITTER: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
}


def jittered(x: np.ndarray, order: np.ndarray, amounts: Mapping[str, np.ndarray], names: Collection[str]) -> None:
    """The named changes of colour by their amounts (n,), for each image in its own order (n, 4), in place."""
    for place in order.T:
        for number, (name, change) in enumerate(JITTER.items()):
            rows = np.flatnonzero(place == number)
            if name in names and len(rows):
                some = x[rows]
                change(some, amounts[name][rows])
                x[rows] = some
