"""Arrays of images in files: which axis and which array it is, and its labels; .npy and idx files themselves."""

from __future__ import annotations

import difflib
import gzip
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from icrkit.exceptions import (
    CubeCorruptError,
    CubeTooLargeError,
)
from icrkit.io._memory import free_bytes, words
from icrkit.io._numpy import map_npy
from icrkit_extractors._image_containers import Member, Members
from icrkit_extractors._image_form import CHANNELS, Form, checked_dtype
from icrkit_extractors._image_labels import class_labels
from icrkit_extractors._image_rows import ArrayFile
from icrkit_extractors._image_set import ImageSet, Rows

__all__ = [
    "from_array",
    "from_members",
    "idx_labels",
    "open_idx",
    "open_npy",
]

# Deflate cannot do better than this.
_MOST_DEFLATED = 1032


def _layout(shape: tuple[int, ...], layout: str | None) -> str:
    """Order of the axes: as given, or as the one place where a channel axis can be."""
    if layout is not None:
        if layout not in ("nchw", "nhwc", "nhw"):
            raise ValueError(f"layout must be 'nchw', 'nhwc' or 'nhw', not {layout!r}")
        if len(layout) != len(shape):
            raise ValueError(f"shape {shape} has not the axes of layout {layout!r}")
        return layout
    if len(shape) == 3 and shape[2] not in CHANNELS:
        return "nhw"
    if len(shape) == 3:
        raise ValueError(f"shape {shape} may be one image: give (n, h, w, c), or say layout='nhw'")
    if len(shape) != 4:
        raise ValueError(f"shape {shape} is not that of images: (n, c, h, w), (n, h, w, c) or (n, h, w)")
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first and last:
        raise ValueError(f"shape {shape} has two axes that may be channels: say layout='nchw' or layout='nhwc'")
    if not (first or last):
        raise ValueError(f"shape {shape} has no channel axis of 1, 3 or 4: say layout='nchw' or layout='nhwc'")
    return "nchw" if first else "nhwc"


def _looks_like_images(member: Member) -> bool:
    try:
        checked_dtype(member.dtype)
        _layout(member.shape, None)
    except ValueError as error:
        return "say layout" in str(error)
    return True


def _chosen(members: Mapping[str, Member], key: str | None, path: Path) -> str:
    """Name of the array of images."""
    listed = ", ".join(f"{name} {member}" for name, member in members.items()) or "no array"
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


@dataclass(frozen=True)
class _Reader:
    """Images of an array by rows."""

    array: ArrayFile
    order: str
    form: Form
    where: str

    def __call__(self, rows: Rows) -> np.ndarray:
        one = len(rows) == 1
        named = f"{self.where}, image {rows[0]}" if one else f"{self.where}, images {rows.min()} to {rows.max()}"
        try:
            block = self.array.rows(rows)
        except CubeCorruptError:
            raise
        except Exception as error:  # h5py's, zarr's and zlib's errors share no other base
            raise CubeCorruptError(f"{named} cannot be read: {error}") from error
        if self.order == "nhw":
            block = block[..., None]
        elif self.order == "nchw":
            block = np.moveaxis(block, 1, -1)
        try:
            return self.form(block)
        except ValueError as error:
            raise ValueError(f"{named}: {error}") from error


def from_array(array: ArrayFile, layout: str | None, form: Form, where: str, kind: str, **known: Any) -> ImageSet:
    """Images of an array in a file."""
    shape = array.shape
    try:
        checked_dtype(array.dtype)
        order = _layout(shape, layout)
    except ValueError as error:
        raise ValueError(f"{where} {error}" if str(error).startswith("holds") else f"{where}: {error}") from error
    if 0 in shape:
        raise ValueError(f"{where} holds no image: its shape is {shape}")
    return ImageSet(_Reader(array, order, form, where), shape[0], {"kind": kind, **form.config()}, **known)


def _open(members_of: Members, path: Path, key: str | None) -> Any:
    """One array of a file that has several; ``key`` is its full name."""
    members, name = members_of(path, key)
    if name not in members:
        raise CubeCorruptError(f"{path} has changed since it was opened: it has no array {key!r} any longer")
    return members[name].load()


def _labels_beside(members: Mapping[str, Member], name: str, n: int, path: Path) -> np.ndarray | None:
    """Labels that a file holds for the array `name`: the first of the usual names that has one for each image."""
    found = [other for other in _label_names(name) if other in members]
    fitting = [other for other in found if members[other].shape in ((n,), (n, 1))]
    if not found:
        return None
    if not fitting:
        listed = ", ".join(f"{other!r} ({members[other].what or members[other].shape})" for other in found)
        raise ValueError(
            f"{path} holds {listed}, which are not one label for each of the {n} images: labels=NAME names another "
            "array, labels=False leaves them out"
        )
    return class_labels(members[fitting[0]].load_labels(), n, f"{path}, array {fitting[0]!r}")


def from_members(
    members_of: Members, path: Path, key: str | None, layout: str | None, labels: Any, form: Form, kind: str
) -> ImageSet:
    """Images of one array of a file that has several, with the labels beside it."""
    members, last = members_of(path, key)
    name = _chosen({other: member for other, member in members.items() if member.is_array}, last, path)
    n = members[name].shape[0] if members[name].shape else 0
    where = f"{path}, array {name!r}"
    if members[name].dtype.kind == "O":
        raise ValueError(f"{where} holds Python objects, which are not read: images are uint8 or floating point")
    known = {}
    if labels is None:
        known["labels"] = _labels_beside(members, name, n, path)
    elif isinstance(labels, str):
        if labels not in members:
            raise ValueError(f"{path} has no array {labels!r} of labels; it holds {', '.join(members)}")
        known["labels"] = class_labels(members[labels].load_labels(), n, f"{path}, array {labels!r}")
    elif labels is not False:
        known["labels"] = class_labels(labels, n, where)
    full = "/".join([*(key or "").strip("/").split("/")[:-1], name])
    array = ArrayFile(partial(_open, members_of), path, full, members[name].load())
    return from_array(array, layout, form, where, kind, **known)


# ---- numpy files ----------------------------------------------------------------------------------------------------


def open_npy(path: Path, _: str | None = None) -> np.ndarray:
    try:
        return map_npy(path)
    except CubeCorruptError as error:
        raise ValueError(f"{path} is damaged or not an .npy file: {error}") from error


# ---- idx files ------------------------------------------------------------------------------------------------------


def open_idx(path: Path, _: str | None = None) -> np.ndarray:
    return idx_bytes(path)[1]


def idx_bytes(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
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
    except (ValueError, EOFError, OverflowError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged, or is not an idx file: {error}") from error
    return shape, np.frombuffer(data, dtype=np.uint8).reshape(shape)


def idx_labels(path: Path, n: int) -> np.ndarray | None:
    """Labels in the file beside it, which has "labels" in its name for "images"."""
    name = path.name.removesuffix(".gz")
    if "images" not in name:
        return None
    name = re.sub(r"idx[34]", "idx1", name.replace("images", "labels"))
    for beside in (path.with_name(name), path.with_name(name + ".gz")):
        if beside.is_file():
            shape, labels = idx_bytes(beside)
            if shape != (n,):
                raise ValueError(f"{beside} holds labels of shape {shape}, and {path} {n} images")
            return np.array(labels)
    return None
