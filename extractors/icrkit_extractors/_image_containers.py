"""Arrays that a file of several holds, by name: .npz, HDF5 and zarr, none of them read before it is asked for."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from icrkit.exceptions import CubeFormatError, CubeTooLargeError, CubeUnsafeError, MissingDependencyError
from icrkit.io._hdf5 import check_storage, open_hdf5, plain_dataset
from icrkit.io._memory import free_bytes, words
from icrkit.io._parsing import parsing
from icrkit.io._zarr import check_chunks

__all__ = ["Member", "Members", "hdf5_members", "npz_members", "zarr_members"]

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


Members = Callable[[Path, str | None], tuple[dict[str, Member], str | None]]


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
