"""Images of other people's data sets, item by item."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from icrkit_extractors._image_form import CHANNELS, Form, checked_dtype, from_pillow
from icrkit_extractors._image_labels import as_label, class_labels
from icrkit_extractors._image_set import ImageSet, OneByOne, Rows

__all__ = ["from_dataset"]


_NOTHING = object()


def _item(dataset: Any, row: int, key: str | None, label_key: str) -> tuple[Any, Any]:
    """Image and label (`_NOTHING` where there is none) of one item."""
    try:
        item = dataset[row]
    except Exception as error:
        error.add_note(f"while reading item {row} of the data set")
        raise
    if isinstance(item, Mapping):
        fields = [key] if key is not None else ["image", "img"]
        found = [field for field in fields if field in item]
        if not found:
            raise ValueError(f"item {row} has the fields {', '.join(map(str, item))}: name that of the image with key=")
        return item[found[0]], item.get(label_key, _NOTHING)
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else _NOTHING
    return item, _NOTHING


def _item_pixels(image: Any, row: int, layout: str | None, background: int | None, value_range: Any) -> np.ndarray:
    """Pixels (height, width, channel) of an item's image."""
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        try:
            return from_pillow(image, background)
        except ValueError as error:
            raise ValueError(f"item {row}: {error}") from error
    is_tensor = hasattr(image, "new_full")
    if is_tensor:
        image = image.detach().cpu()
        pixels = (image.float() if image.is_floating_point() else image).numpy()
    elif isinstance(image, np.ndarray):
        pixels = image
    else:
        raise TypeError(f"item {row} is a {type(image).__name__}: wanted a Pillow image, a numpy array or a tensor")
    order = layout or ("chw" if is_tensor else "hwc")
    try:
        checked_dtype(pixels.dtype)
    except ValueError as error:
        raise ValueError(f"item {row} {error}") from error
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.ndim == 3 and order == "chw":
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim != 3 or (layout is None and pixels.shape[2] not in CHANNELS):
        raise ValueError(
            f"item {row} has shape {tuple(image.shape)}: tensors are taken as (c, h, w), arrays as (h, w, c), "
            "with 1, 3 or 4 channels; layout='chw' or 'hwc' says otherwise"
        )
    if pixels.dtype != np.uint8 and value_range is None:
        raise ValueError(
            f"item {row} is floating point, from {pixels.min():.4g} to {pixels.max():.4g}: say what black and white "
            "are, value_range=(0, 1) after torchvision's ToTensor, or value_range=(-1, 1)"
        )
    return np.asarray(pixels)


@dataclass(frozen=True)
class _Items:
    """Items of a data set, as images and as labels."""

    dataset: Any
    key: str | None
    label_key: str
    layout: str | None
    background: int | None
    value_range: tuple[float, float] | None

    def pixels(self, row: int) -> np.ndarray:
        image, _ = _item(self.dataset, row, self.key, self.label_key)
        return _item_pixels(image, row, self.layout, self.background, self.value_range)

    def name(self, row: int) -> str:
        return f"item {row}"

    def label(self, row: int) -> int | str | None:
        """Class of an item; None where there is nothing beside the image."""
        value = _item(self.dataset, row, self.key, self.label_key)[1]
        if value is _NOTHING:
            return None
        try:
            found = as_label(value)
        except TypeError as error:
            raise ValueError(f"the label of item {row} is {error}; labels=False ignores it") from None
        if found is None:
            raise ValueError(f"item {row} has no label ({value!r}); labels=False ignores the others as well")
        return found

    def labels(self, rows: Rows) -> np.ndarray:
        found = [self.label(row) for row in rows.tolist()]
        if None in found:
            raise ValueError(
                f"item {rows[found.index(None)]} has no label, and item 0 has one; labels=False ignores them"
            )
        return class_labels(found, len(found), "the data set")


def _listed_labels(dataset: Any, n: int, label_key: str, needed: bool) -> np.ndarray | None:
    """Labels that a data set lists without reading its images; refuses strange ones where items have none."""
    listed = [getattr(dataset, name, None) for name in ("targets", "labels")]
    if label_key in (getattr(dataset, "column_names", None) or ()):
        listed.append(dataset[label_key])
    for values in listed:
        if hasattr(values, "__len__") and not isinstance(values, str | Mapping) and len(values) == n:
            try:
                return class_labels(values, n, "the labels that the data set lists")
            except ValueError:
                if needed:
                    raise
    return None


def from_dataset(
    dataset: Any,
    *,
    size: int | None = None,
    channels: int | None = None,
    key: str | None = None,
    labels: Any = None,
    layout: str | None = None,
    value_range: tuple[float, float] | None = None,
    background: int | None = None,
) -> ImageSet:
    """Images of a data set that is indexed by number, such as those of torch, torchvision and Hugging Face.

    Parameters
    ----------
    dataset : object with ``len(dataset)`` and ``dataset[row]``
        An item is an image, (image, label, ...), or a mapping with a field ``image`` or ``img``. An image is a Pillow
        image, an array (h, w) or (h, w, c), or a tensor (c, h, w) or (h, w).
    size, channels, background
        As for `open_images`.
    key : str, optional
        Field of the image, where items are mappings.
    labels : array-like (n,), str or False, optional
        Classes; or the field that holds them (default ``label``); or False for none. By default what the data set lists
        as ``targets``, ``labels`` or that column, and where it lists none, the labels of the items: then every
        item is read once more when labels are asked for.
    layout : {"chw", "hwc"}, optional
        Order of the axes of arrays or tensors, where it is not that.
    value_range : (float, float), optional
        Black and white of floating-point items, which become -1 and 1: (0, 1) after torchvision's ``ToTensor``. It
        is not guessed.

    Returns
    -------
    ImageSet

    Raises
    ------
    TypeError
        If the data set has no length, or an item is something else.
    ValueError
        If an item's shape, type or range is another one, floating-point items come without `value_range`, sizes are
        mixed without `size`, or an item changes when it is read again (a random transform).

    Examples
    --------
    >>> digits = [(np.full((8, 8), k, dtype=np.uint8), k % 2) for k in range(10)]
    >>> images = from_dataset(digits, size=16, channels=3)
    >>> images, images.labels[:4].tolist()
    (ImageSet(dataset: 10 images, 3 x 16 x 16, uint8), [0, 1, 0, 1])
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"a {type(dataset).__name__} has no length or cannot be indexed, and images are read in any order; "
            "list(...) it, or write its images to a folder"
        )
    if layout not in (None, "chw", "hwc"):
        raise ValueError(f"layout must be 'chw' or 'hwc', not {layout!r}")
    n = len(dataset)
    if n == 0:
        raise ValueError("the data set is empty")
    form = Form(size, channels, background, value_range)
    label_key = labels if isinstance(labels, str) else "label"

    items = _Items(dataset, key, label_key, layout, background, value_range)
    if not np.array_equal(items.pixels(0), items.pixels(0), equal_nan=True):
        raise ValueError(
            "item 0 is another image each time it is read: take the random transform out; extract(views=...) augments"
        )

    known: dict[str, Any] = {}
    if labels is not None and labels is not False and not isinstance(labels, str):
        known["labels"] = class_labels(labels, n, "the data set")
    elif labels is not False:
        first = items.label(0)
        listed = _listed_labels(dataset, n, label_key, needed=first is None)
        # A transform of the labels changes the items only.
        if listed is not None and first in (None, listed[0].item()):
            known["labels"] = listed
        elif first is not None:
            known["labels"] = items.labels
        elif isinstance(labels, str):
            raise ValueError(f"item 0 has no class in the field {labels!r}")
    names, features = getattr(dataset, "classes", None), getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        names = getattr(features.get(label_key), "names", None)
    if "labels" in known and isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        known["class_names"] = tuple(names)
    read = OneByOne(items, form, threads=1)
    return ImageSet(read, n, {"kind": "dataset", **form.config()}, **known)
