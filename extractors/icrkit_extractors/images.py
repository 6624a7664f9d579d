"""Images for `extract`, read when they are asked for: arrays in files, idx files, folders of pictures, data sets.

All of them end as an `ImageSet`: slices (n, channel, height, width) of bytes or of float32, with ids and labels.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import math
import operator
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import numpy as np

from icrkit.exceptions import CubeCorruptError, CubeTooLargeError, CubeUnsafeError, MissingDependencyError
from icrkit.io._foreign import probe
from icrkit.io._memory import free_bytes, words
from icrkit.io._parts import plain_dataset

__all__ = ["ImageSet", "from_dataset", "open_images"]

_T = TypeVar("_T")

_CHANNELS = (1, 3, 4)

# By content as well as by name: some of Pillow's readers run other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
# Pillow lets other threads run while it decodes and resizes.
_THREADS = min(8, os.cpu_count() or 1)

_CONTAINERS = (".npz", ".h5", ".hdf5", ".zarr")
# Deflate cannot do better than this.
_MOST_DEFLATED = 1032
_MOST_CHUNK = 512 << 20
# deflate, shuffle, fletcher32 and LZF, which h5py brings along: any other would load a plugin.
_HDF5_FILTERS = (1, 2, 3, 32000)


# ---- pixels ---------------------------------------------------------------------------------------------------------


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError('image files and size= need Pillow: pip install "icrkit[images]"') from error
    return Image


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
    module, short = _pillow(), min(height, width)
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
class _Form:
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


def _checked_dtype(dtype: np.dtype[Any]) -> None:
    if dtype != np.uint8 and dtype.kind != "f":
        raise ValueError(f"holds {dtype}: images are uint8 from 0 to 255, or floating point in [-1, 1]")


# ---- the set --------------------------------------------------------------------------------------------------------

_Rows = np.ndarray


class ImageSet:
    """Images that are read when they are asked for; made by `open_images` and `from_dataset`.

    Attributes
    ----------
    shape : tuple of int
        (n, channel, height, width).
    dtype : numpy.dtype
        uint8 or float32.
    class_names : tuple of str or None
        Names of the classes that integer labels count.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/images.npy"
    >>> np.save(path, np.zeros((20, 8, 8, 3), dtype=np.uint8))
    >>> images = open_images(path)
    >>> images
    ImageSet(npy: 20 images, 3 x 8 x 8, uint8)
    >>> images[5:7].shape
    (2, 3, 8, 8)
    >>> images.take([3, 17]).image_ids
    array([ 3, 17])
    """

    def __init__(
        self,
        read: Callable[[_Rows], np.ndarray],
        n: int,
        record: Mapping[str, Any],
        *,
        image_ids: np.ndarray | None = None,
        labels: np.ndarray | Callable[[_Rows], np.ndarray] | None = None,
        class_names: tuple[str, ...] | None = None,
        _rows: _Rows | None = None,
        _first: np.ndarray | None = None,
    ) -> None:
        self._read, self._record = read, dict(record)
        self._ids, self._labels, self.class_names = image_ids, labels, class_names
        self._rows = np.arange(n) if _rows is None else _rows
        if not len(self._rows):
            raise ValueError("no image is left")
        # One image tells the shape of all; what cannot be read is found now.
        first = read(self._rows[:1]) if _first is None else _first
        self.shape: tuple[int, ...] = (len(self._rows), *first.shape[1:])
        self.dtype: np.dtype[Any] = first.dtype
        self._first = first

    @property
    def own_streams(self) -> bool:
        """Whether any thread may read them: not where they are somebody else's data set."""
        return bool(self._record["kind"] != "dataset")

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        n, *shape = self.shape
        return f"ImageSet({self._record['kind']}: {n} images, {' x '.join(map(str, shape))}, {self.dtype})"

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Images (n, channel, height, width) of a slice or of an array of rows; (channel, height, width) of one row."""
        wanted = self._rows[rows]
        if np.ndim(wanted) == 0:
            image: np.ndarray = self._read(wanted[None])[0]
            return image
        if wanted.ndim != 1:
            raise IndexError(f"images are taken by a slice or by one axis of rows, not by {wanted.ndim}")
        return self._read(wanted) if len(wanted) else np.empty((0, *self.shape[1:]), self.dtype)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), 64):
            yield from self[start : start + 64]

    @property
    def image_ids(self) -> np.ndarray:
        """Identities: paths within the folder, or row numbers (those of the whole set, after `take`)."""
        return self._rows if self._ids is None else self._ids[self._rows]

    @property
    def labels(self) -> np.ndarray | None:
        """Classes (n,), or None; of a data set that does not list them, this reads every item once."""
        if callable(self._labels):
            self._labels = _by_row(self._labels(self._rows), self._rows)
        return None if self._labels is None else self._labels[self._rows]

    def take(self, rows: Any) -> ImageSet:
        """Some of the images, which keep their ids.

        Parameters
        ----------
        rows : int, slice, or array-like of int or bool
            The first `rows` images; or these rows; or those where a mask (n,) is True.

        Returns
        -------
        ImageSet

        Raises
        ------
        IndexError
            If there is no such row, or the mask has another length.
        ValueError
            If a row is named twice, or none at all.
        """
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            if rows.ndim == 0:
                count = operator.index(rows.item())
                if count < 0:
                    raise ValueError(f"cannot take {count} images")
                rows = slice(count)
            elif rows.size and rows.dtype.kind not in "iub":
                raise TypeError(f"rows must be integers or a mask, not {rows.dtype}")
            elif not rows.size:
                raise ValueError("no row is named")
        chosen = self._rows[rows]
        unique, counts = np.unique(chosen, return_counts=True)
        if len(unique) < len(chosen):
            raise ValueError(f"row {unique[counts > 1][0]} is named more than once")
        same_first = len(chosen) > 0 and chosen[0] == self._rows[0]
        return ImageSet(
            self._read, len(chosen), self._record, image_ids=self._ids, labels=self._labels,
            class_names=self.class_names, _rows=chosen, _first=self._first if same_first else None,
        )  # fmt: skip

    def fingerprint(self) -> str:
        """sha256 over the shape, the ids, and the pixels of the first and the last image.

        Two sets that differ elsewhere only have the same one: reading every image would cost as much as using it.
        """
        digest = hashlib.sha256(f"{self.shape} {self.dtype.str}".encode())
        for image_id in self.image_ids.tolist():
            digest.update(f"\0{image_id}".encode())
        for image in (self._first[0], self[-1]):
            digest.update(image.tobytes())
        return digest.hexdigest()

    def config(self) -> dict[str, Any]:
        """What the images are, for the attributes of a cube; not where they lie."""
        n, *shape = self.shape
        return {
            **self._record, "n": n, "shape": list(shape), "dtype": str(self.dtype), "fingerprint": self.fingerprint(),
            **({} if self.class_names is None else {"class_names": list(self.class_names)}),
        }  # fmt: skip


def _by_row(values: np.ndarray, rows: _Rows) -> np.ndarray:
    """Values of some rows, at their places among all."""
    placed = np.zeros(int(rows.max()) + 1, dtype=values.dtype)
    placed[rows] = values
    return placed


# ---- arrays ---------------------------------------------------------------------------------------------------------


class _Member(NamedTuple):
    """An array of a file, not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Any]


def _layout(shape: tuple[int, ...], layout: str | None) -> str:
    """Order of the axes: as given, or as the one place where a channel axis can be."""
    if layout is not None:
        if layout not in ("nchw", "nhwc", "nhw"):
            raise ValueError(f"layout must be 'nchw', 'nhwc' or 'nhw', not {layout!r}")
        if len(layout) != len(shape):
            raise ValueError(f"shape {shape} has not the axes of layout {layout!r}")
        return layout
    if len(shape) == 3 and shape[2] not in _CHANNELS:
        return "nhw"
    if len(shape) == 3:
        raise ValueError(f"shape {shape} may be one image: give (n, h, w, c), or say layout='nhw'")
    if len(shape) != 4:
        raise ValueError(f"shape {shape} is not that of images: (n, c, h, w), (n, h, w, c) or (n, h, w)")
    first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
    if first and last:
        raise ValueError(f"shape {shape} has two axes that may be channels: say layout='nchw' or layout='nhwc'")
    if not (first or last):
        raise ValueError(f"shape {shape} has no channel axis of 1, 3 or 4: say layout='nchw' or layout='nhwc'")
    return "nchw" if first else "nhwc"


def _looks_like_images(member: _Member) -> bool:
    try:
        _checked_dtype(member.dtype)
        _layout(member.shape, None)
    except ValueError as error:
        return "say layout" in str(error)
    return True


def _chosen(members: Mapping[str, _Member], key: str | None, path: Path) -> str:
    """Name of the array of images."""
    listed = ", ".join(f"{name} {member.shape} {member.dtype}" for name, member in members.items()) or "no array"
    if key is not None:
        if key in members:
            return key
        near = difflib.get_close_matches(key, members, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{path} has no array {key!r}{hint}; it holds {listed}")
    found = [name for name, member in members.items() if _looks_like_images(member)]
    if len(found) != 1:
        what = f"{len(found)} arrays that may be images" if found else "no array that looks like images"
        raise ValueError(f"{path} has {what}: name one with key=; it holds {listed}")
    return found[0]


def _label_names(name: str) -> list[str]:
    """What the labels of the array `name` may be called."""
    swapped = [
        name.replace("images", "labels"), name.replace("image", "label"), name.replace("arr_0", "arr_1"),
        re.sub(r"(?<![A-Za-z])[xX](?![A-Za-z])", "y", name), "labels", "label", "y", "targets",
    ]  # fmt: skip
    return [other for other in dict.fromkeys(swapped) if other != name]


def _are_labels(member: _Member, n: int) -> bool:
    return member.shape in ((n,), (n, 1)) and member.dtype.kind in "iuU"


def _checked_labels(labels: Any, n: int, where: str) -> np.ndarray:
    values = np.asarray(labels)
    if values.shape == (n, 1):
        values = values[:, 0]
    if values.shape != (n,) or values.dtype.kind not in "iuU":
        raise ValueError(f"{where}: labels of shape {values.shape} and type {values.dtype} for {n} images")
    return values


def _rows_of(array: Any, rows: _Rows) -> np.ndarray:
    first, last = int(rows[0]), int(rows[-1])
    if last - first == len(rows) - 1 and bool(np.all(np.diff(rows) == 1)):
        return np.asarray(array[first : last + 1])
    if isinstance(array, np.ndarray):
        return np.asarray(array[rows])
    # HDF5 takes ascending rows only.
    unique, back = np.unique(rows, return_inverse=True)
    return np.asarray(getattr(array, "oindex", array)[unique])[back]


def _from_array(array: Any, layout: str | None, form: _Form, where: str, kind: str, **known: Any) -> ImageSet:
    """Images of anything with shape, dtype and slices."""
    shape = tuple(int(side) for side in array.shape)
    try:
        _checked_dtype(array.dtype)
        order = _layout(shape, layout)
    except ValueError as error:
        raise ValueError(f"{where} {error}" if str(error).startswith("holds") else f"{where}: {error}") from error
    if 0 in shape:
        raise ValueError(f"{where} holds no image: its shape is {shape}")

    def read(rows: _Rows) -> np.ndarray:
        named = f"{where}, image {rows[0]}" if len(rows) == 1 else f"{where}, images {rows.min()} to {rows.max()}"
        try:
            block = _rows_of(array, rows)
        except (OSError, RuntimeError, ValueError, zlib.error) as error:
            raise CubeCorruptError(f"{named} cannot be read: {error}") from error
        block = block[..., None] if order == "nhw" else np.moveaxis(block, 1, -1) if order == "nchw" else block
        try:
            return form(block)
        except ValueError as error:
            raise ValueError(f"{named}: {error}") from error

    return ImageSet(read, shape[0], {"kind": kind, **form.config()}, **known)


def _from_members(
    members: Mapping[str, _Member], path: Path, key: str | None, layout: str | None, labels: Any, form: _Form, kind: str
) -> ImageSet:
    name = _chosen(members, key, path)
    n = members[name].shape[0] if members[name].shape else 0
    if labels is None:
        found = [other for other in _label_names(name) if other in members and _are_labels(members[other], n)]
        labels = np.asarray(members[found[0]].load()[:]) if found else None
    elif isinstance(labels, str):
        if labels not in members:
            raise ValueError(f"{path} has no array {labels!r} of labels; it holds {', '.join(members)}")
        labels = members[labels].load()[:]
    where = f"{path}, array {name!r}"
    known = {} if labels is None else {"labels": _checked_labels(labels, n, where)}
    if members[name].dtype.kind == "O":
        raise ValueError(f"{where} holds Python objects, which are not read: images are uint8 or floating point")
    return _from_array(members[name].load(), layout, form, where, kind, **known)


# ---- numpy files ----------------------------------------------------------------------------------------------------


def _open_npy(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except (ValueError, EOFError) as error:
        if "Python objects" in str(error):
            raise ValueError(f"{path} holds Python objects, which are not read: images are numbers") from error
        raise ValueError(f"{path} is damaged or no .npy file: {error}") from error


def _npz_members(path: Path) -> dict[str, _Member]:
    """Arrays of an .npz file by their headers; one that is asked for is read whole."""

    def load(name: str, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        declared = math.prod(shape) * dtype.itemsize
        if declared > size:
            raise ValueError(f"{path}, array {name!r}: declares {words(declared)} and holds {words(size)}")
        if size > free_bytes():
            raise CubeTooLargeError(
                f"{path}, array {name!r} needs {words(size)} and {words(free_bytes())} are free; "
                "np.save it as .npy, of which only what is used is read"
            )
        try:
            with np.load(path, allow_pickle=False) as arrays:
                array: np.ndarray = arrays[name]
                return array
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path}, array {name!r} is damaged: {error}") from error

    members = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                with archive.open(info) as file:
                    version = np.lib.format.read_magic(file)
                    if version > (2, 0):
                        continue  # names of fields beyond Latin-1: no image has any
                    header = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
                    shape, _, dtype = header[version[0] - 1](file)
                name = info.filename.removesuffix(".npy")
                members[name] = _Member(shape, dtype, partial(load, name, info.file_size, shape, dtype))
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or no .npz file: {error}") from error
    return members


# ---- idx files ------------------------------------------------------------------------------------------------------


def _idx_bytes(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and bytes of an idx file of unsigned bytes; plain ones are mapped, compressed ones read whole."""
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    size = path.stat().st_size
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or not 1 <= head[3] <= 4:
                raise ValueError("does not begin as an idx file does")
            if head[2] != 8:
                raise ValueError(f"has elements of type 0x{head[2]:02x}; unsigned bytes (0x08) are read")
            sides = file.read(4 * head[3])
            shape = tuple(int.from_bytes(sides[k : k + 4], "big") for k in range(0, 4 * head[3], 4))
            count, offset = math.prod(shape), 4 + 4 * head[3]
            if not packed:
                if size != offset + count:
                    raise ValueError(f"declares {count} bytes of shape {shape} and holds {size - offset}")
                mapped = np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=shape)
                return shape, mapped
            if count > min(size * _MOST_DEFLATED, free_bytes()):
                raise CubeTooLargeError(
                    f"{path} declares {words(count)}: more than it can hold, or than the {words(free_bytes())} free"
                )
            # One more than there should be: only at its end does gzip compare its checksum.
            data = file.read(count + 1)
            if len(data) != count:
                raise ValueError(f"declares {count} bytes of shape {shape} and holds another number")
    except CubeTooLargeError:
        raise
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: is damaged or no idx file: {error}") from error
    return shape, np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _idx_labels(path: Path, n: int) -> np.ndarray | None:
    """Labels in the file beside it, which has "labels" in its name for "images"."""
    name = path.name.removesuffix(".gz")
    if "images" not in name:
        return None
    name = re.sub(r"idx[34]", "idx1", name.replace("images", "labels"))
    for beside in (path.with_name(name), path.with_name(name + ".gz")):
        if beside.is_file():
            shape, labels = _idx_bytes(beside)
            if shape != (n,):
                raise ValueError(f"{beside} holds labels of shape {shape}, and {path} {n} images")
            return np.array(labels)
    return None


# ---- HDF5 and zarr --------------------------------------------------------------------------------------------------


def _checked_storage(dataset: h5py.Dataset, where: str, file_bytes: int) -> h5py.Dataset:
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    strange = [code for code in filters if code not in _HDF5_FILTERS]
    if strange:
        raise CubeUnsafeError(
            f"{where} is stored with filter {strange[0]}, which would load a plugin; write it with gzip, lzf or none"
        )
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    if declared > file_bytes * (_MOST_DEFLATED if 1 in filters or 32000 in filters else 1):
        raise CubeTooLargeError(f"{where} declares {words(declared)}, and the file has {words(file_bytes)}")
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > _MOST_CHUNK:
        raise CubeTooLargeError(f"{where}: one chunk has more than {words(_MOST_CHUNK)}")
    return dataset


def _hdf5_members(path: Path, key: str | None) -> tuple[dict[str, _Member], str | None]:
    """Arrays beside the one that `key` names (in the root without it), and its name among them."""
    probe(path)
    file = h5py.File(path, "r", locking=False)
    *groups, last = (key or "").strip("/").split("/")
    group = file
    for depth, name in enumerate((*groups, last)):
        link = group.get(name, getlink=True) if name else None
        if link is not None and not isinstance(link, h5py.HardLink):
            raise CubeUnsafeError(f"{path}: {name!r} is a {type(link).__name__}, which leads elsewhere; not followed")
        if depth == len(groups):
            break
        if link is None or group.get(name, getclass=True) is not h5py.Group:
            raise ValueError(f"{path} has no group {name!r} on the way to {key!r}; there are {', '.join(group)}")
        group = group[name]

    def load(name: str) -> h5py.Dataset:
        where = f"{path}, array {name!r}"
        return _checked_storage(plain_dataset(group, name, str(path)), where, path.stat().st_size)

    members = {}
    for name in group:
        held = isinstance(group.get(name, getlink=True), h5py.HardLink)
        if held and group.get(name, getclass=True) is h5py.Dataset and group[name].shape is not None:
            members[name] = _Member(group[name].shape, group[name].dtype, partial(load, name))
    return members, last or None


def _checked_chunks(array: Any, where: str) -> Any:
    if math.prod(array.chunks) * array.dtype.itemsize > _MOST_CHUNK:
        raise CubeTooLargeError(f"{where}: one chunk has more than {words(_MOST_CHUNK)}")
    return array


def _zarr_members(path: Path, key: str | None) -> tuple[dict[str, _Member], str | None]:
    """As `_hdf5_members`; a store that is one array has it under the store's own name."""
    try:
        import zarr
    except ImportError as error:
        raise MissingDependencyError(f'{path} needs zarr: pip install "zarr>=3.1"') from error
    if tuple(int(part) for part in zarr.__version__.split(".")[:2]) < (3, 1):
        raise MissingDependencyError(
            f'{path} needs a later zarr than {zarr.__version__}, which runs pickles: pip install "zarr>=3.1"'
        )
    *groups, last = (key or "").strip("/").split("/")
    try:
        node = zarr.open(os.fspath(path), mode="r", path="/".join(groups))
        arrays = {path.stem: node} if isinstance(node, zarr.Array) else dict(node.arrays())
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise ValueError(f"{path} cannot be opened as zarr: {error}") from error
    members = {
        name: _Member(array.shape, array.dtype, partial(_checked_chunks, array, f"{path}, array {name!r}"))
        for name, array in arrays.items()
    }
    return members, last or None


# ---- folders of pictures --------------------------------------------------------------------------------------------


def _colours(image: Any) -> int:
    """1 for a grey Pillow image, 3 for any other."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError(
            f"holds grey values of more than 8 bits (mode {image.mode}), whose black and white are not known: "
            "save it with 8 bits, or give an array in [-1, 1]"
        )
    return 1 if image.mode in ("1", "L", "LA", "La") else 3


def _from_pillow(image: Any, background: int | None) -> np.ndarray:
    """Pixels (height, width, channel) of a Pillow image: grey or RGB, uint8."""
    mode, grey = image.mode, _colours(image) == 1
    alpha = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    wanted = ("LA" if grey else "RGBA") if alpha else ("L" if grey else "RGB")
    pixels = np.asarray(image if mode == wanted else image.convert(wanted))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return _without_alpha(pixels, background) if alpha else pixels


def _pictured(path: Path, use: Callable[[Any], _T]) -> _T:
    """What `use` makes of an image file that Pillow has opened, or an error that names the file."""
    module = _pillow()
    try:
        with module.open(path, formats=_FORMATS) as image:
            return use(image)
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # each of Pillow's readers raises its own kinds
        said = str(error) if isinstance(error, ValueError) else f"cannot be read as an image: {error}"
        raise ValueError(f"{path}: {said}") from error


def _decoded(path: Path, background: int | None) -> np.ndarray:
    from PIL import ImageOps

    def pixels(image: Any) -> np.ndarray:
        image.load()
        return _from_pillow(ImageOps.exif_transpose(image), background)

    # Checksums, where the format has them: decoding a PNG does not look at them. After it an image must be reopened.
    _pictured(path, lambda image: image.verify())
    return _pictured(path, pixels)


def _head(path: Path) -> tuple[tuple[int, int], int]:
    """Height and width, and channels, of an image file, without decoding it."""
    from PIL import ImageOps

    def look(image: Any) -> tuple[tuple[int, int], int]:
        channels = _colours(image)
        # A PNG's would be looked for behind its pixels, by decoding them.
        turned = (image.format != "PNG" or "exif" in image.info) and image.getexif().get(0x0112, 1) >= 5
        if turned and image.format == "TIFF":
            # Versions of Pillow differ in whether its size is turned already.
            image, turned = ImageOps.exif_transpose(image), False
        width, height = image.size
        return ((width, height) if turned else (height, width)), channels

    return _pictured(path, look)


def _files(folder: Path) -> list[str]:
    """Paths of the image files within a folder, sorted folder by folder; links are followed, hidden names are not."""

    def refuse(error: OSError) -> None:
        raise error  # a folder that cannot be read would be left out in silence

    found, others, entered = [], set(), set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        about = os.stat(parent)
        if (about.st_dev, about.st_ino) in entered:
            folders.clear()
            continue
        entered.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(parent, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() in _SUFFIXES and path.is_file():  # a pipe of that name would never end
                found.append(path.relative_to(folder).parts)
            else:
                others.add(path.suffix or name)
    if not found:
        held = f"it holds {', '.join(sorted(others)[:8])}" if others else "it is empty"
        raise ValueError(f"{folder} holds no image file ({', '.join(_SUFFIXES)}); {held}")
    names = ["/".join(parts) for parts in sorted(found)]
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        bad = next(name for name in names if "\\udc" in ascii(name))
        raise ValueError(f"{folder}: the name {bad!r} is not UTF-8, as an image id must be: rename the file") from error
    return names


def _classes(names: list[str]) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Labels and class names, where every image lies in one of two or more folders."""
    parts = [name.split("/", 1) for name in names]
    if min(map(len, parts)) < 2:
        return None
    class_names, labels = np.unique([first for first, _ in parts], return_inverse=True)
    return (labels, tuple(class_names.tolist())) if len(class_names) > 1 else None


def _open_folder(folder: Path, form: _Form, labels: Any) -> ImageSet:
    _pillow()
    from PIL import ImageFile

    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ValueError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, with which half an image passes for a whole one: unset it"
        )
    names = _files(folder)
    if form.size is None or form.channels is None:
        # Found now rather than after hours.
        size, channels = _head(folder / names[0])
        for name in names[1:]:
            other, others = _head(folder / name)
            if form.size is None and other != size:
                raise _mixed_sizes(str(folder / names[0]), size, str(folder / name), other)
            if form.channels is None and others != channels:
                raise _mixed_channels(str(folder / names[0]), channels, str(folder / name), others)
    known: dict[str, Any] = {}
    if labels is not None:
        known["labels"] = _checked_labels(labels, len(names), str(folder))
    elif (classes := _classes(names)) is not None:
        known["labels"], known["class_names"] = classes
    read = _OneByOne(
        lambda row: _decoded(folder / names[row], form.background),
        lambda row: str(folder / names[row]),
        form,
        _THREADS,
    )
    return ImageSet(read, len(names), {"kind": "folder", **form.config()}, image_ids=np.array(names), **known)


# ---- images one by one ----------------------------------------------------------------------------------------------


def _mixed_sizes(name: str, size: tuple[int, ...], other: str, other_size: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"images of different sizes: {name} is {size[0]} x {size[1]}, {other} is {other_size[0]} x {other_size[1]} "
        "(height x width); size=N makes all of them N x N"
    )


def _mixed_channels(name: str, channels: int, other: str, others: int) -> ValueError:
    return ValueError(f"{name} has {channels} channels, {other} has {others}; channels=1 or 3 makes them the same")


class _OneByOne:
    """Reads images with `get` (row -> height, width, channel), which all must come out as the first does."""

    def __init__(self, get: Callable[[int], np.ndarray], name: Callable[[int], str], form: _Form, threads: int) -> None:
        self._get, self._name, self._form, self._threads = get, name, form, threads
        self._like: tuple[str, tuple[int, ...], np.dtype[Any]] | None = None

    def _one(self, row: int) -> np.ndarray:
        pixels = self._get(row)
        try:
            image: np.ndarray = self._form(pixels[None])[0]
        except ValueError as error:
            raise ValueError(f"{self._name(row)}: {error}") from error
        first, shape, dtype = self._like = self._like or (self._name(row), image.shape, image.dtype)
        if image.shape[1:] != shape[1:]:
            raise _mixed_sizes(first, shape[1:], self._name(row), image.shape[1:])
        if image.shape != shape:
            raise _mixed_channels(first, shape[0], self._name(row), image.shape[0])
        if image.dtype != dtype:
            raise ValueError(f"{first} is {dtype}, {self._name(row)} is {image.dtype}")
        return image

    def __call__(self, rows: _Rows) -> np.ndarray:
        wanted = rows.tolist()
        if len(wanted) == 1 or self._threads == 1:
            return np.stack([self._one(row) for row in wanted])
        with ThreadPoolExecutor(self._threads, thread_name_prefix="icrkit-images") as pool:
            return np.stack(list(pool.map(self._one, wanted)))


# ---- data sets ------------------------------------------------------------------------------------------------------


def _item(dataset: Any, row: int, key: str | None, label_key: str) -> tuple[Any, Any]:
    """Image and label (None where there is none) of one item."""
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
        return item[found[0]], item.get(label_key)
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _item_pixels(image: Any, row: int, layout: str | None, background: int | None, value_range: Any) -> np.ndarray:
    """Pixels (height, width, channel) of an item's image."""
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        try:
            return _from_pillow(image, background)
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
        _checked_dtype(pixels.dtype)
    except ValueError as error:
        raise ValueError(f"item {row} {error}") from error
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.ndim == 3 and order == "chw":
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim != 3 or (layout is None and pixels.shape[2] not in _CHANNELS):
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


def _as_label(value: Any) -> int | str | None:
    """A class, as an int or a string; None for anything else, such as boxes."""
    if isinstance(value, str):
        return value
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()
    try:
        return operator.index(value)
    except TypeError:
        return None


def _listed_labels(dataset: Any, n: int, label_key: str) -> np.ndarray | None:
    """Labels that a data set lists without reading its images."""
    listed = [getattr(dataset, name, None) for name in ("targets", "labels")]
    if label_key in (getattr(dataset, "column_names", None) or ()):
        listed.append(dataset[label_key])
    for values in listed:
        if values is not None and not callable(values) and np.shape(values) == (n,):
            labels = np.asarray(values)
            if labels.dtype.kind in "iuU":
                return labels
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
    form = _Form(size, channels, background, value_range)
    label_key = labels if isinstance(labels, str) else "label"

    def get(row: int) -> np.ndarray:
        image, _ = _item(dataset, row, key, label_key)
        return _item_pixels(image, row, layout, background, value_range)

    if not np.array_equal(get(0), get(0), equal_nan=True):
        raise ValueError(
            "item 0 is another image each time it is read: take the random transform out; extract(views=...) augments"
        )

    def walked(rows: _Rows) -> np.ndarray:
        found = [_as_label(_item(dataset, row, key, label_key)[1]) for row in rows.tolist()]
        if None in found:
            raise ValueError(
                f"item {rows[found.index(None)]} has no label, and item 0 has one; labels=False ignores them"
            )
        return np.asarray(found)

    known: dict[str, Any] = {}
    if labels is not None and labels is not False and not isinstance(labels, str):
        known["labels"] = _checked_labels(labels, n, "the data set")
    elif labels is not False:
        first, listed = _as_label(_item(dataset, 0, key, label_key)[1]), _listed_labels(dataset, n, label_key)
        # A transform of the labels changes the items only.
        if listed is not None and first in (None, listed[0].item()):
            known["labels"] = listed
        elif first is not None:
            known["labels"] = walked
        elif isinstance(labels, str):
            raise ValueError(f"item 0 has no class in the field {labels!r}")
    names, features = getattr(dataset, "classes", None), getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        names = getattr(features.get(label_key), "names", None)
    if "labels" in known and isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        known["class_names"] = tuple(names)
    read = _OneByOne(get, lambda row: f"item {row}", form, threads=1)
    return ImageSet(read, n, {"kind": "dataset", **form.config()}, **known)


# ---- files ----------------------------------------------------------------------------------------------------------


def _split(path: str | os.PathLike[str], key: str | None) -> tuple[Path, str | None]:
    """Path and key of ``file.h5:key``."""
    text = os.fspath(path)
    left, colon, right = text.rpartition(":")
    if colon and not os.path.exists(text) and Path(left).suffix.lower() in _CONTAINERS:
        if key is not None:
            raise ValueError(f"{text} names an array, and key={key!r} another")
        return Path(left), right
    return Path(text), key


def open_images(
    path: str | os.PathLike[str],
    *,
    size: int | None = None,
    channels: int | None = None,
    key: str | None = None,
    labels: Any = None,
    layout: str | None = None,
    value_range: tuple[float, float] | None = None,
    background: int | None = None,
) -> ImageSet:
    """Images of a file or a folder, read when they are asked for.

    Parameters
    ----------
    path : path
        A folder of image files; an .npy, .npz, HDF5 (.h5, .hdf5) or .zarr array; an idx file as of MNIST, plain or
        .gz. ``file.h5:name`` is `path` and `key` in one.
    size : int, optional
        Make every image `size` x `size`.
    channels : {1, 3}, optional
        Make every image grey or RGB.
    key : str, optional
        Array of an .npz, HDF5 or zarr file; by default the only one that looks like images. ``group/name`` in the
        latter two.
    labels : array-like (n,) or str, optional
        Classes, or the array of the file that holds them. By default: in a folder whose images all lie in two or more
        folders, these, in order of their names; of ``x_train`` ``y_train``, of ``test_images`` ``test_labels``, else
        ``labels``, ``label``, ``y`` or ``targets``, where these are integers or strings, one an image; of an idx
        file the one beside it with "labels" in its name for "images".
    layout : {"nchw", "nhwc", "nhw"}, optional
        Order of the axes of an array. By default the channels are the only one of the second and the last of four axes
        that has a length of 1, 3 or 4, and three axes are (n, h, w).
    value_range : (float, float), optional
        Black and white of a floating-point array, which become -1 and 1. By default floats are left as they are.
    background : int, optional
        Grey level, 0 to 255, behind transparent pixels.

    Returns
    -------
    ImageSet
        uint8 for bytes and image files, float32 for floating point.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    ValueError
        If the file is truncated or damaged (an image file when it is read), holds no images, several arrays that may be
        images, Python objects, integers other than bytes, or pictures of several sizes, without `size`, or numbers
        of channels, without `channels`; if pixels are transparent and there is no `background`, or grey values have
        more than 8 bits. The message names the file or the array.
    CubeUnsafeError
        If an HDF5 array lies in another file, or needs a plugin.
    CubeTooLargeError
        If a file declares more than it can hold, or an .npz or .gz file more than there is memory.
    CubeCorruptError
        If HDF5 cannot parse the file, or a piece of an array cannot be read.
    MissingDependencyError
        If Pillow (image files, `size`) or zarr is not installed.

    Notes
    -----
    Image ids are the paths within the folder (with "/"), row numbers elsewhere.

    `size` resizes the short side to `size` and the long one in proportion, rounded down, with Pillow's antialiased
    bicubic filter, and cuts the centre out: torchvision's ``Resize(size, BICUBIC)`` and ``CenterCrop(size)`` on Pillow
    images. Floating point is kept within the range that an image had. Grey is 0.299 R + 0.587 G + 0.114 B, rounded as
    by Pillow.

    Image files are PNG, JPEG, WebP, BMP, GIF, TIFF or PNM, by suffix and content; other files in a folder, and names
    that begin with a dot, are left out. They are turned upright (EXIF), palettes become RGB, of several frames the
    first is taken, of 16-bit RGB the high byte. Only PNG has checksums, and they are looked at; elsewhere a changed
    byte may pass for pixels. Without `size` or `channels` the heads of all files are read first, some 20,000 a
    second. Slices are decoded by several threads.

    Of an array only what is used is read, but .npz and .gz files are held whole.

    Examples
    --------
    >>> from icrkit.datasets import data_path
    >>> images = open_images(data_path("fashion_images.npz"), key="test_images", size=32)
    >>> images
    ImageSet(npz: 1000 images, 1 x 32 x 32, uint8)
    >>> images.labels[:3].tolist()
    [9, 2, 1]
    """
    where, key = _split(path, key)
    if not where.exists():
        raise FileNotFoundError(2, "no such images", str(where))
    form = _Form(size, channels, background, value_range)
    suffix = where.suffix.lower()
    if where.is_dir() and (
        suffix == ".zarr" or any((where / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))
    ):
        members, last = _zarr_members(where, key)
        return _from_members(members, where, last, layout, labels, form, "zarr")
    if suffix == ".npz":
        return _from_members(_npz_members(where), where, key, layout, labels, form, "npz")
    if suffix in (".h5", ".hdf5"):
        members, last = _hdf5_members(where, key)
        return _from_members(members, where, last, layout, labels, form, "hdf5")
    if key is not None:
        raise ValueError(f"{where} has no named arrays, so key={key!r} means nothing here")
    if where.is_dir():
        if layout is not None:
            raise ValueError("layout is for arrays, and image files have their own")
        return _open_folder(where, form, labels)
    if suffix in _SUFFIXES:
        raise ValueError(f"{where} is one image: give the folder")
    if not where.is_file():
        raise ValueError(f"{where} is neither a file nor a folder")
    known: dict[str, Any] = {}
    if suffix == ".npy":
        array, kind = _open_npy(where), "npy"
    else:
        (_, array), kind = _idx_bytes(where), "idx"
        labels = _idx_labels(where, len(array)) if labels is None else labels
    if labels is not None:
        known["labels"] = _checked_labels(labels, len(array), str(where))
    return _from_array(array, layout, form, str(where), kind, **known)
