"""Arrays of images in files: .npy, .npz, idx, HDF5 and zarr; which axis and which array it is, and its labels."""

from __future__ import annotations

import difflib
import gzip
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from icrkit.exceptions import (
    CubeCorruptError,
    CubeFormatError,
    CubeTooLargeError,
    CubeUnsafeError,
    MissingDependencyError,
)
from icrkit.io._hdf5 import check_storage, open_hdf5, plain_dataset
from icrkit.io._memory import free_bytes, words
from icrkit.io._numpy import map_npy
from icrkit.io._parsing import parsing
from icrkit.io._zarr import check_chunks
from icrkit_extractors._image_form import CHANNELS, Form, checked_dtype
from icrkit_extractors._image_labels import class_labels
from icrkit_extractors._image_rows import ArrayFile
from icrkit_extractors._image_set import ImageSet, Rows

__all__ = [
    "from_array",
    "from_members",
    "hdf5_members",
    "idx_labels",
    "npz_members",
    "open_idx",
    "open_npy",
    "zarr_members",
]

# Deflate cannot do better than this.
_MOST_DEFLATED = 1032
# Chunks that are kept unpacked: rows in another order than the file's come back to them.
_CHUNK_CACHE = 64 << 20


class Member(NamedTuple):
    """An array of a file, not read yet; or categories, which can be labels only."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Any]
    what: str = ""  # where it is no plain array

    @property
    def is_array(self) -> bool:
        return not self.what

    def __str__(self) -> str:
        return self.what or f"{self.shape} {self.dtype}"

    def load_labels(self) -> Any:
        """All values, text as text."""
        array = self.load()
        if not isinstance(array, h5py.Dataset):
            return array if isinstance(array, list | np.ma.MaskedArray) else array[:]
        names = h5py.check_enum_dtype(array.dtype)
        if names is not None and array.dtype != bool:
            by_value = {value: name for name, value in names.items()}
            return [by_value.get(value) for value in array[:].ravel().tolist()]
        return array[:]


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


Members = Callable[[Path, str | None], tuple[dict[str, Member], str | None]]


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


def _refuse(path: Path, name: str, what: str) -> Any:
    raise ValueError(f"{path}: {name!r} is {what}: no array")


def npz_members(path: Path, key: str | None) -> tuple[dict[str, Member], str | None]:
    """Arrays of an .npz file by their headers; one that is asked for is read whole."""

    def load(name: str, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        if dtype.hasobject:
            raise ValueError(
                f"{path}, array {name!r} holds Python objects, which are not read: save it as numbers, or as text, "
                "np.array(values, dtype=str)"
            )
        declared = math.prod(shape) * dtype.itemsize
        if declared > size:
            raise ValueError(f"{path}, array {name!r}: declares {words(declared)} and holds {words(size)}")
        if size > free_bytes():
            raise CubeTooLargeError(
                f"{path}, array {name!r} needs {words(size)} and {words(free_bytes())} are free; "
                "np.save it as .npy, of which only what is used is read"
            )
        with parsing(path, f"array {name!r}", CubeFormatError), np.load(path, allow_pickle=False) as arrays:
            array: np.ndarray = arrays[name]
            return array

    members = {}
    with parsing(path, damaged=CubeFormatError), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            name = info.filename.removesuffix(".npy")
            with parsing(path, f"array {name!r}", CubeFormatError), archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                if version > (2, 0):
                    what = "a table of named fields"  # in letters beyond Latin-1
                    members[name] = Member((), np.dtype("V"), partial(_refuse, path, name, what), what)
                    continue
                header = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
                shape, _, dtype = header[version[0] - 1](file)
            members[name] = Member(shape, dtype, partial(load, name, info.file_size, shape, dtype))
    return members, key


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
        raise ValueError(f"{path}: is damaged or no idx file: {error}") from error
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


# ---- HDF5 and zarr --------------------------------------------------------------------------------------------------


def _checked_storage(dataset: h5py.Dataset, where: str, file_bytes: int) -> h5py.Dataset:
    check_storage(dataset, where, file_bytes)
    return dataset


def hdf5_members(path: Path, key: str | None) -> tuple[dict[str, Member], str | None]:
    """Arrays beside the one that `key` names (in the root without it), and its name among them."""
    groups = (key or "").strip("/").split("/")[:-1]
    file = open_hdf5(path, group="/".join(groups), rdcc_nbytes=_CHUNK_CACHE)
    with parsing(path):
        return _members_of(file, path, key)


def _members_of(file: h5py.File, path: Path, key: str | None) -> tuple[dict[str, Member], str | None]:
    *groups, last = (key or "").strip("/").split("/")
    group = file
    for depth, name in enumerate((*groups, last)):
        link = group.get(name, getlink=True) if name else None
        if link is not None and not isinstance(link, h5py.HardLink):
            raise CubeUnsafeError(f"{path}: {name!r} is a {type(link).__name__}, which leads elsewhere; not followed")
        if depth == len(groups):
            break
        if link is None or group.get(name, getclass=True) is not h5py.Group:
            raise CubeFormatError(f"{path} has no group {name!r} on the way to {key!r}; there are {', '.join(group)}")
        group = group[name]

    def load(name: str) -> h5py.Dataset:
        where = f"{path}, array {name!r}"
        return _checked_storage(plain_dataset(group, name, str(path)), where, path.stat().st_size)

    def load_part(name: str, part: str) -> h5py.Dataset:
        dataset = plain_dataset(group[name], part, str(path))
        return _checked_storage(dataset, f"{path}, array '{name}/{part}'", path.stat().st_size)

    def shapes(name: str) -> dict[str, tuple[int, ...]]:
        """Those of the datasets in the group `name` that may be parts of one array."""
        inside = group[name]
        held = [part for part in _PARTS if isinstance(inside.get(part, getlink=True), h5py.HardLink)]
        return {part: inside[part].shape for part in held if inside.get(part, getclass=True) is h5py.Dataset}

    members = {}
    for name in group:
        link = group.get(name, getlink=True)
        # Asking for what lies behind another link would open it.
        kind = group.get(name, getclass=True) if isinstance(link, h5py.HardLink) else None
        if kind is None:
            what = f"a {type(link).__name__}, which is not followed"
        elif kind is h5py.Dataset and group[name].shape is not None:
            members[name] = Member(group[name].shape, group[name].dtype, partial(load, name))
            continue
        else:
            what = "a group" if kind is h5py.Group else "empty"
            if kind is h5py.Group and (made := _of_parts(shapes(name), partial(load_part, name))) is not None:
                members[name] = made
                continue
        members[name] = Member((), np.dtype("V"), partial(_refuse, path, name, what), what)
    return members, last or None


# Categories, and values that may be missing, as anndata and pandas write them: a group.
_PARTS = ("codes", "categories", "values", "mask")


def _of_parts(shapes: Mapping[str, tuple[int, ...]], load: Callable[[str], Any]) -> Member | None:
    """Labels that are stored as a group; None where the group is another one."""

    def categories() -> list[Any]:
        names = load("categories")[:].tolist()
        # -1 is what has none.
        return [names[code] if 0 <= code < len(names) else None for code in load("codes")[:].tolist()]

    def masked() -> np.ndarray:
        return np.ma.MaskedArray(load("values")[:], load("mask")[:])

    if {"codes", "categories"} <= set(shapes):
        return Member(shapes["codes"], np.dtype("V"), categories, "categories")
    if {"values", "mask"} <= set(shapes):
        return Member(shapes["values"], np.dtype("V"), masked, "values with a mask")
    return None


def _checked_chunks(array: Any, where: str, path: Path) -> Any:
    check_chunks(array, path / array.path if array.path else path, where)
    return array


def _load_part(inside: Mapping[str, Any], where: str, path: Path, part: str) -> Any:
    return _checked_chunks(inside[part], f"{where}{part}'", path)


def zarr_members(path: Path, key: str | None) -> tuple[dict[str, Member], str | None]:
    """As `hdf5_members`; a store that is one array has it under the store's own name."""
    try:
        import zarr
    except ImportError as error:
        raise MissingDependencyError(f'{path} needs zarr: pip install "zarr>=3.1"') from error
    if tuple(int(part) for part in zarr.__version__.split(".")[:2]) < (3, 1):
        raise MissingDependencyError(
            f'{path} needs a later zarr than {zarr.__version__}, which runs pickles: pip install "zarr>=3.1"'
        )
    *groups, last = (key or "").strip("/").split("/")
    with parsing(path, damaged=CubeFormatError):
        node = zarr.open(os.fspath(path), mode="r", path="/".join(groups))
        is_one = isinstance(node, zarr.Array)
        arrays = {path.stem: node} if is_one else dict(node.arrays())
        groups_inside = {} if is_one else dict(node.groups())
    members = {
        name: Member(array.shape, array.dtype, partial(_checked_chunks, array, f"{path}, array {name!r}", path))
        for name, array in arrays.items()
    }
    for name, inside in groups_inside.items():
        nothing = Member((), np.dtype("V"), partial(_refuse, path, name, "a group"), "a group")
        load = partial(_load_part, inside, f"{path}, array '{name}/", path)
        parts = {part: inside[part] for part in _PARTS if part in inside}
        shapes = {part: array.shape for part, array in parts.items() if isinstance(array, zarr.Array)}
        members[name] = _of_parts(shapes, load) or nothing
    return members, last or None
