"""What goes into an ONNX graph: images in its layout and type, conditioning, and what is the same for every image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from icrkit_extractors._shapes import shape_words

__all__ = ["Constant", "Layout", "cast", "fitted", "layouts_of", "named", "rows_of"]

Layout = Literal["nchw", "nhwc"]
Sizes = Sequence[int | str | None]

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    **{f"tensor({sign}int{bits})": getattr(np, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def layouts_of(sizes: Sizes, image: tuple[int, ...]) -> list[Layout]:
    """Orders of the axes in which images (channel, height, width) fit an input of four axes."""
    channels, height, width = image
    orders: dict[Layout, tuple[int, ...]] = {"nchw": (channels, height, width), "nhwc": (height, width, channels)}
    return [
        layout
        for layout, given in orders.items()
        if all(not isinstance(size, int) or size == got for size, got in zip(sizes[1:], given, strict=True))
    ]


def cast(where: str, kind: str, value: Any, images: bool = False) -> np.ndarray:
    """A value for one input, in the input's type.

    Parameters
    ----------
    where : str
        The input, for messages.
    kind : str
        Its type, as onnxruntime names it.
    value : array-like
    images : bool
        Whether these are images in [-1, 1], which an input of bytes takes as 0 to 255.
    """
    if kind not in _DTYPES:
        raise ValueError(f"{where} is of type {kind}; known are {', '.join(_DTYPES)}")
    dtype, array = np.dtype(_DTYPES[kind]), np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where} takes numbers ({kind}) and is given {array.dtype}")
    if images and dtype == np.uint8 and array.dtype.kind == "f":
        return _as_bytes(where, array)
    if dtype.kind in "iub" and array.size:
        least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        broken = ~(np.isfinite(array) & (array >= least) & (array <= most))
        if array.dtype.kind == "f":
            broken |= array != np.rint(array)
        if broken.any():
            way_out = (
                ": take levels whose times are whole, or export the network with a floating-point example for this "
                "input"
                if array.dtype.kind == "f"
                else f" from {least} to {most}"
            )
            raise ValueError(f"{where} takes whole numbers ({kind}) and is given {array[broken][0]}{way_out}")
    with np.errstate(over="ignore"):
        result = np.asarray(array, dtype=dtype, order="C")
    if dtype.kind == "f" and not np.isfinite(result[np.isfinite(array)]).all():
        largest = np.abs(array[np.isfinite(array)]).max()
        raise ValueError(f"{where} is of type {kind}, in which {largest:g} is infinite: export it in float32")
    return result


def _as_bytes(where: str, images: np.ndarray) -> np.ndarray:
    if images.size and not (images.min() >= -1 and images.max() <= 1):
        raise ValueError(
            f"{where} takes bytes, 0 to 255 for images from -1 to 1, and is given {images.min():.4g} to "
            f"{images.max():.4g}: noise cannot be kept in bytes; take noise.Clean() and the one level 0, or export the "
            "network with a floating-point input"
        )
    return np.ascontiguousarray(np.rint((images.astype(np.float64) + 1) * 127.5).astype(np.uint8))


class Constant:
    """A value that an input has for all images.

    Parameters
    ----------
    where : str
        The input, for messages.
    sizes : sequence
        The input's shape; a free axis is a name or None.
    kind : str
        The input's type.
    value : array-like
        In the input's shape; or without the axis of the images, or with one row there: then it is repeated for each
        image. A single number fills any shape whose other axes are known.
    images_axis : str, int or None
        First axis of the input of the images.
    """

    def __init__(self, where: str, sizes: Sizes, kind: str, value: Any, images_axis: int | str | None) -> None:
        array = cast(where, kind, value)
        self.per_image = False
        # Who counts images: an axis of the same name or size, or one that nobody named.
        counts = bool(sizes) and (sizes[0] == images_axis or sizes[0] is None or images_axis is None)
        inner = tuple(sizes[1:])
        if array.ndim == 0 and sizes:
            if any(not isinstance(size, int) for size in (inner if counts else sizes)):
                raise ValueError(
                    f"{where} has the shape {shape_words(sizes)}: give an array, a number does not say how long"
                )
            array = np.full(inner if counts else tuple(sizes), array)  # type: ignore[arg-type]
            self.per_image = counts
        elif counts and array.ndim == len(sizes) - 1 and _fits(array.shape, inner):
            self.per_image = True
        elif counts and array.ndim == len(sizes) and array.shape[0] == 1 and _fits(array.shape[1:], inner):
            array, self.per_image = array[0], True
        elif not (_fits(array.shape, tuple(sizes)) and (not counts or isinstance(sizes[0], int))):
            wanted = f", one row for all images, {shape_words(('1', *inner))}," if counts else ""
            raise ValueError(f"{where} has the shape {shape_words(sizes)}{wanted} and is given {array.shape}")
        self._array = np.array(array, order="C")  # ascontiguousarray would give a number an axis

    def __call__(self, n: int) -> np.ndarray:
        """The value for a batch of n images."""
        if not self.per_image:
            return self._array
        return np.ascontiguousarray(np.broadcast_to(self._array, (n, *self._array.shape)))

    def config(self) -> Any:
        """The value, for the attributes of a cube; of many numbers shape and digest."""
        if self._array.size <= 16:
            return self._array.tolist()
        digest = hashlib.sha256(str(self._array.dtype).encode() + self._array.tobytes()).hexdigest()
        return {"shape": list(self._array.shape), "sha256": digest}


def _fits(shape: tuple[int, ...], sizes: Sizes) -> bool:
    return len(shape) == len(sizes) and all(
        not isinstance(size, int) or size == got for size, got in zip(sizes, shape, strict=True)
    )


def fitted(where: str, sizes: Sizes, value: np.ndarray, n: int, fixed: int | None) -> tuple[np.ndarray, bool]:
    """A value in the input's shape, and whether its first axis is the image."""
    shared = not sizes or (sizes[0] == 1 != fixed and n != 1)
    if shared and value.shape == (n,) and n and len(sizes) <= 1:
        # Exported with one time for the whole batch: fits if all images have the same.
        if (value != value[0]).any():
            raise ValueError(f"{where} is one number for a batch and is given several")
        return value[:1].reshape(sizes), False
    if value.ndim == 1 < len(sizes) and not shared and all(size == 1 for size in sizes[1:]):
        value = value.reshape(-1, *[1] * (len(sizes) - 1))
    free = [not isinstance(size, int) or (k == 0 and size == fixed) for k, size in enumerate(sizes)]
    if value.ndim != len(sizes) or any(
        not is_free and size != got for is_free, size, got in zip(free, sizes, value.shape, strict=True)
    ):
        raise ValueError(f"{where} has the shape {shape_words(sizes)} and is given {value.shape}")
    if not shared and len(value) != n:
        raise ValueError(f"{where} is given {len(value)} rows for {n} images")
    return value, not shared


def rows_of(value: np.ndarray, start: int, size: int) -> np.ndarray:
    """That many rows from ``start`` on, the last one repeated where there are not enough."""
    if start + size <= len(value):
        return value[start : start + size]
    return value[np.minimum(np.arange(start, start + size), len(value) - 1)]


def named(inputs: Mapping[str, Any]) -> str:
    """Inputs with their shapes and types, for messages."""
    return ", ".join(f"{name} {shape_words(one.shape)} {one.type[7:-1]}" for name, one in inputs.items())
