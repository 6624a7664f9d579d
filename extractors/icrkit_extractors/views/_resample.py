"""Images sampled at other places: one bilinear sample for each pixel."""

from __future__ import annotations

from typing import Literal

import numpy as np

__all__ = ["resampled"]


def _mirrored(source: np.ndarray, size: int) -> np.ndarray:
    """Coordinates brought inside the image by reflection about the centres of its outermost pixels."""
    period = 2 * max(1, size - 1)
    source = np.abs(source)
    source -= period * np.floor(source / period)
    return np.minimum(source, period - source) if size > 1 else np.zeros_like(source)


def resampled(images: np.ndarray, inverse: np.ndarray, fill: float | Literal["reflect"]) -> np.ndarray:
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
