"""What is made of the pixels of an image: number of channels, size, range; pixels of a Pillow image."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from icrkit.exceptions import MissingDependencyError

__all__ = ["CHANNELS", "Form", "checked_dtype", "colours", "from_pillow", "pillow"]

CHANNELS = (1, 3, 4)


def checked_dtype(dtype: np.dtype[Any]) -> None:
    if dtype != np.uint8 and dtype.kind != "f":
        raise ValueError(f"holds {dtype}: images are uint8 from 0 to 255, or floating point in [-1, 1]")


def _without_alpha(images: np.ndarray, background: int | None) -> np.ndarray:
    """Images (..., colour + alpha), uint8, in front of a background."""
    colour, alpha = images[..., :-1], images[..., -1:]
    if alpha.size == 0 or alpha.min() == 255:
        return colour
    if background is None:
        raise ValueError("has transparent pixels: say with background= what is behind them, 0 (black) to 255 (white)")
    wide = alpha.astype(np.int32)
    return ((colour * wide + background * (255 - wide) + 127) // 255).astype(np.uint8)


def _with_channels(images: np.ndarray, channels: int | None, background: int | None) -> np.ndarray:
    """Images (n, height, width, channel) with 1 or 3 channels, as asked."""
    found = images.shape[-1]
    if channels is None or found == channels:
        return images
    if found == 4 and images.dtype == np.uint8:
        return _with_channels(_without_alpha(images, background), channels, background)
    if found == 1:
        return np.repeat(images, 3, axis=-1)
    if found != 3:
        raise ValueError(f"has {found} channels of {images.dtype}, which cannot become {channels}")
    if images.dtype == np.uint8:
        # Pillow's integers, so that a file and an array of its pixels give the same grey.
        red, green, blue = np.moveaxis(images.astype(np.int32), -1, 0)
        grey = ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)
    else:
        # No matrix product: its last bits may depend on how many images there are.
        red, green, blue = np.moveaxis(images, -1, 0)
        grey = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    return np.asarray(grey[..., None])


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    """One image (height, width, channel) of which the short side became `size`, cropped about the centre."""
    height, width = image.shape[:2]
    if height == width == size:
        return image
    module, short = pillow(), min(height, width)
    tall, wide = (size if side == short else int(size * side / short) for side in (height, width))
    bands = []
    for k in range(image.shape[2]):
        band = np.ascontiguousarray(image[..., k])
        fine = np.asarray(module.fromarray(band).resize((wide, tall), module.Resampling.BICUBIC))
        # Pillow keeps bytes in their range; in floating point the cubic's overshoot would stay.
        bands.append(fine if band.dtype == np.uint8 else np.clip(fine, band.min(), band.max()))
    # Rounded as by torchvision.
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    return np.stack(bands, axis=-1)[top : top + size, left : left + size]


def _ranged(images: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Floating-point images in [-1, 1]."""
    low, high = value_range
    if images.size and not (images.min() >= low and images.max() <= high):
        raise ValueError(
            f"holds pixels from {images.min():.6g} to {images.max():.6g}, outside value_range {low:g} to {high:g} "
            "(is there a Normalize among the transforms? icrkit needs images before it)"
        )
    unit: np.ndarray = np.clip((images - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1), -1, 1)
    return unit


@dataclass(frozen=True)
class Form:
    """What is made of each image: number of channels, size, range."""

    size: int | None
    channels: int | None
    background: int | None
    value_range: tuple[float, float] | None

    def __post_init__(self) -> None:
        if self.size is not None and operator.index(self.size) < 1:
            raise ValueError(f"size must be 1 or more, not {self.size}")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 or 3, not {self.channels!r}")
        if self.background is not None and not 0 <= operator.index(self.background) <= 255:
            raise ValueError(f"background must be a grey level from 0 to 255, not {self.background}")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range must be (low, high), not {self.value_range}")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images (n, height, width, channel) as (n, channel, height, width), uint8 or float32."""
        if images.dtype != np.uint8:
            images = images.astype(np.float32)
        images = _with_channels(images, self.channels, self.background)
        if self.size is not None:
            images = np.stack([_resized(image, self.size) for image in images])
        if self.value_range is not None and images.dtype != np.uint8:
            images = _ranged(images, self.value_range)
        return np.ascontiguousarray(np.moveaxis(images, -1, 1))

    def config(self) -> dict[str, Any]:
        record: dict[str, Any] = {}
        if self.size is not None:
            record |= {"size": int(self.size), "resampling": "short side, bicubic, centre crop"}
        if self.channels is not None:
            record["channels"] = int(self.channels)
        if self.background is not None:
            record["background"] = int(self.background)
        if self.value_range is not None:
            record["value_range"] = [float(value) for value in self.value_range]
        return record


# ---- Pillow ---------------------------------------------------------------------------------------------------------


def pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError('image files and size= need Pillow: pip install "icrkit[images]"') from error
    return Image


def colours(image: Any) -> int:
    """1 for a grey Pillow image, 3 for any other."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError(
            f"holds grey values of more than 8 bits (mode {image.mode}), whose black and white are not known: "
            "save it with 8 bits, or give an array in [-1, 1]"
        )
    return 1 if image.mode in ("1", "L", "LA", "La") else 3


def from_pillow(image: Any, background: int | None) -> np.ndarray:
    """Pixels (height, width, channel) of a Pillow image: grey or RGB, uint8."""
    mode, grey = image.mode, colours(image) == 1
    alpha = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    wanted = ("LA" if grey else "RGBA") if alpha else ("L" if grey else "RGB")
    pixels = np.asarray(image if mode == wanted else image.convert(wanted))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return _without_alpha(pixels, background) if alpha else pixels
