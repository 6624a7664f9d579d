"""Parts of a store: checked once a process, then read by level and by runs of images."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from icrkit._text import strict_json
from icrkit.exceptions import CubeCorruptError, CubeIncompleteError, CubeUnsafeError
from icrkit.io._hdf5 import check_storage, open_hdf5, plain_dataset, read_values
from icrkit.io._layout import Layout, Line
from icrkit.io._parsing import parsing
from icrkit.io._probe import Identity, identity_of

_HASH_PIECE = 2 << 20
# Between wanted images, reading on is cheaper than another call up to about this many bytes.
_GAP_BYTES = 64 << 10
_PIECE_BYTES = 4 << 20
# A pass over ranges of features comes back to each part once a range.
_OPEN_FILES = 64

_verified: set[tuple[Identity, str]] = set()
_files: OrderedDict[tuple[str, Identity], h5py.File] = OrderedDict()
_files_lock = threading.RLock()


@dataclass(frozen=True)
class Part:
    """One committed block: its file, and what the manifest says of it."""

    path: str
    shard: int
    start: int
    line: Line
    # Bytes behind those that the digest covers (a packed file keeps its own digest there).
    tail: int = 0
    # Digest of ids and labels as the manifest has them; the lists themselves would be heavy to pickle.
    names: str = ""

    def light(self) -> Part:
        """The part with a digest of its ids and labels in their place."""
        line = self.line
        names = "" if line.ids is None else names_digest(line.ids, line.labels, line.groups)
        return replace(self, line=replace(line, ids=None, labels=None, groups=None), names=names)

    @property
    def stop(self) -> int:
        """Row after the last, in the opened cube."""
        return self.start + self.line.images

    def check_size(self) -> None:
        """Refuse a part that is missing or has another length; reads nothing."""
        try:
            size = os.stat(self.path).st_size
        except FileNotFoundError:
            raise CubeIncompleteError(
                f"{self.path} is missing (block {self.line.block}); run the extraction again, it writes this block "
                "only, or open_cube(..., allow_partial=True)"
            ) from None
        if size != self.line.n_bytes + self.tail:
            raise CubeCorruptError(
                f"{self.path} has {size} bytes, and {self.line.n_bytes + self.tail} were written (block "
                f"{self.line.block}); run the extraction again, it writes this block only"
            )

    def check_digest(self) -> None:
        """Refuse a part whose bytes changed; each file is hashed once a process."""
        identity = _identity(self.path)
        if (identity, self.line.sha256) in _verified:
            return
        self.check_size()
        found = file_sha256(self.path, self.line.n_bytes)
        if found != self.line.sha256:
            raise CubeCorruptError(
                f"{self.path} (block {self.line.block}): its bytes changed after they were written (sha256 "
                f"{found[:12]}, recorded {self.line.sha256[:12]}). Remove the file and run the extraction again: it "
                "writes this block only. icrkit verify lists all such blocks."
            )
        _verified.add((identity, self.line.sha256))


def file_sha256(path: str | Path, n_bytes: int | None = None) -> str:
    """sha256 of a file (of its first n_bytes), in pieces."""
    digest = hashlib.sha256()
    piece = bytearray(_HASH_PIECE)
    view = memoryview(piece)
    left = os.stat(path).st_size if n_bytes is None else n_bytes
    with open(path, "rb", buffering=0) as file:
        while left > 0:
            got = file.readinto(view[: min(left, _HASH_PIECE)])
            if not got:
                break
            digest.update(view[:got])
            left -= got
    return digest.hexdigest()


def read_part(
    part: Part,
    layout: Layout,
    layer: str,
    rows: NDArray[np.intp],
    level: int,
    views: NDArray[np.intp] | None,
    features: NDArray[np.intp] | None,
    out: NDArray[Any],
    verify: str,
) -> None:
    """Read features of ascending rows (counted in the part) of one level into out (rows, views, features)."""
    if verify == "digest":
        part.check_digest()
    else:
        part.check_size()
    view_box, view_pick = _box(views, layout.n_views)
    box, pick = _box(features, layout.layers[layer])
    with _files_lock:
        variable = _variable(part, layout, layer)
        as_stored = view_pick is None and pick is None
        if as_stored and bool(np.all(np.diff(rows) == 1)):
            first = int(rows[0])
            # Of the same rank as in the file, or HDF5 goes through the selection element by element: ten times slower.
            selection = np.s_[first : first + len(rows), view_box, level : level + 1, box]
            with parsing(part.path, f"layer {layer!r}"):
                variable.read_direct(out[:, :, np.newaxis], selection)
            return
        row_bytes = (view_box.stop - view_box.start) * (box.stop - box.start) * variable.dtype.itemsize
        for begin, end in _runs(rows, row_bytes):
            first, last = int(rows[begin]), int(rows[end - 1])
            with parsing(part.path, f"layer {layer!r}"):
                span = variable[first : last + 1, view_box, level : level + 1, box][rows[begin:end] - first, :, 0]
            if view_pick is not None:
                span = span[:, view_pick]
            out[begin:end] = span if pick is None else span[:, :, pick]


def _box(chosen: NDArray[np.intp] | None, size: int) -> tuple[slice, NDArray[np.intp] | None]:
    """The stretch of an axis that holds all that is chosen, and where in it that lies; None where it is all of it."""
    if chosen is None or not len(chosen):
        return slice(0, size), chosen
    first, last = int(chosen.min()), int(chosen.max())
    whole = len(chosen) == last - first + 1 and bool(np.all(np.diff(chosen) == 1))
    return slice(first, last + 1), None if whole else chosen - first


def _runs(rows: NDArray[np.intp], row_bytes: int) -> list[tuple[int, int]]:
    """Cut ascending rows into runs (begin, end) worth one read each."""
    gap, most = max(1, _GAP_BYTES // row_bytes), max(1, _PIECE_BYTES // row_bytes)
    runs, begin = [], 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i] - rows[i - 1] > gap or rows[i] - rows[begin] >= most:
            runs.append((begin, i))
            begin = i
    return runs


def _identity(path: str) -> Identity:
    try:
        about = os.stat(path)
    except FileNotFoundError:
        raise CubeIncompleteError(f"{path} is missing; it was there when the cube was opened") from None
    return identity_of(about, path)


def _variable(part: Part, layout: Layout, layer: str) -> h5py.Dataset:
    key = (part.path, _identity(part.path))
    if key in _files:
        _files.move_to_end(key)
        return _files[key][layer]
    # No chunk cache: whole levels go from the file into the caller's array.
    file = open_hdf5(part.path, names=part_names(layout), rdcc_nbytes=0)
    with parsing(part.path, f"block {part.line.block}"):
        check_part(file, part, layout)
    _files[key] = file
    while len(_files) > _OPEN_FILES:
        _files.popitem(last=False)[1].close()
    return file[layer]


def part_names(layout: Layout) -> tuple[str, ...]:
    """Datasets of a part that are read; nothing else in it is, attributes neither."""
    return (*layout.layers, "image", "labels", "groups")


def check_part(file: h5py.File, part: Part, layout: Layout) -> None:
    """Refuse a part whose frame, ids or labels are not those of cube.json and the manifest."""
    for layer, size in layout.layers.items():
        variable = plain_dataset(file, layer, part.path)
        wanted = (part.line.images, layout.n_views, len(layout.sigmas), size)
        if variable.shape != wanted or variable.dtype != np.dtype(layout.dtype):
            raise CubeCorruptError(
                f"{part.path}: layer {layer!r} is {variable.dtype} {variable.shape}, and cube.json says {layout.dtype} "
                f"{wanted}"
            )
        if variable.id.get_create_plist().get_nfilters():
            raise CubeUnsafeError(f"{part.path}: layer {layer!r} has a filter, and icrkit writes none")
        check_storage(variable, f"{part.path}: layer {layer!r}", part.line.n_bytes)
    if part.names and part.names != names_digest(*names_in(file, part)):
        raise CubeCorruptError(f"{part.path}: its image ids, labels or groups are not those of the manifest")


def names_in(file: h5py.File, part: Part) -> tuple[list[Any], list[Any] | None, list[Any] | None]:
    """Image ids, labels and groups of a part."""
    n, path = part.line.images, part.path
    with parsing(path, f"block {part.line.block}"):
        there = [name for name in ("labels", "groups") if file.get(name, getlink=True) is not None]
    found = {name: read_values(file, name, path, n).tolist() for name in there}
    return read_values(file, "image", path, n).tolist(), found.get("labels"), found.get("groups")


def names_digest(ids: list[Any], labels: list[Any] | None, groups: list[Any] | None = None) -> str:
    """Digest of ids, labels and groups."""
    names = [ids, labels] if groups is None else [ids, labels, groups]
    return hashlib.sha256(strict_json(names, compact=True).encode()).hexdigest()


def _start_afresh() -> None:
    # A child must not wait for a lock that a thread of its parent held.
    global _files_lock
    _files_lock = threading.RLock()
    _files.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which forks nothing
    os.register_at_fork(after_in_child=_start_afresh)
