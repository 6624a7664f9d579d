"""open_cube for stores, lazy arrays over their parts, and the xarray engine "icrkit"."""

from __future__ import annotations

import os
import warnings
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from icrkit._contract import AXES, feature_dim
from icrkit.exceptions import CubeFormatError, CubeIncompleteError, CubeTooLargeError
from icrkit.io._hdf5 import open_hdf5
from icrkit.io._layout import CONFIG_NAME, Layout, read_layout, read_manifest
from icrkit.io._memory import check_memory, words
from icrkit.io._parts import Part, names_in, part_names, read_part

__all__ = ["IcrkitBackendEntrypoint", "open_store"]


def open_store(folder: str | Path, allow_partial: bool = False, verify: str = "digest") -> xr.Dataset:
    """Dataset of a cube store, lazily indexed; reads cube.json and the manifests only."""
    check_mode(verify)
    folder = Path(os.path.abspath(folder))
    layout = read_layout(folder)
    parts = committed_parts(folder, layout, allow_partial)
    return lazy_dataset(folder, layout, parts, verify)


def check_mode(verify: str) -> None:
    """Refuse an unknown way of checking."""
    if verify not in ("digest", "size"):
        raise ValueError(f"verify is {verify!r}; wanted 'digest' or 'size'")


def committed_parts(folder: Path, layout: Layout, allow_partial: bool) -> list[Part]:
    """Committed parts in order of shard and block, each of the right size; complains of missing ones."""
    parts: list[Part] = []
    start = 0
    for shard in range(layout.n_shards):
        for line in read_manifest(folder, layout, shard)[0]:
            part = Part(str(folder / layout.part_name(shard, line.block)), shard, start, line)
            if line.n_bytes < line.images * layout.image_bytes:
                declared, held = words(line.images * layout.image_bytes), words(line.n_bytes)
                raise CubeTooLargeError(f"{part.path} ({held}) cannot hold the {declared} that cube.json declares")
            try:
                part.check_size()
            except CubeIncompleteError:
                if not allow_partial:
                    raise
                continue
            parts.append(part)
            start = part.stop
    total = sum(map(layout.n_blocks, range(layout.n_shards)))
    if len(parts) < total:
        found = f"{folder}: {len(parts)} of {total} blocks are there ({start} of {layout.n_images} images)"
        if not allow_partial or not parts:
            raise CubeIncompleteError(
                f"{found}. Run the extraction again, it goes on from there; or use what there is with "
                "open_cube(path, allow_partial=True)."
            )
        warnings.warn(f"{found}; the others are left out", stacklevel=4)
    return parts


def lazy_dataset(source: Path, layout: Layout, parts: list[Part], verify: str) -> xr.Dataset:
    """Dataset over parts in order; reads ids and labels only."""
    ids, along = _names(layout, parts, verify)
    n_images = parts[-1].stop
    coords: dict[Hashable, Any] = {"image": ("image", ids), "sigma": ("sigma", np.array(layout.sigmas))}
    coords |= {name: ("image", values) for name, values in along.items()}
    if layout.alphas is not None:
        coords["alpha"] = ("sigma", np.array(layout.alphas))
    light = [part.light() for part in parts]
    variables: dict[Hashable, xr.Variable] = {}
    for name, size in layout.layers.items():
        array = _StoredLayer(layout, light, name, (n_images, layout.n_views, len(layout.sigmas), size), verify)
        encoding = {
            "source": str(source),
            "preferred_chunks": {"image": layout.block_size, "sigma": 1},
            "dtype": np.dtype(layout.dtype),
        }
        data: Any = indexing.LazilyIndexedArray(array)
        variables[name] = xr.Variable((*AXES, feature_dim(name)), data, encoding=encoding, fastpath=True)
    attrs = dict(layout.attrs)
    if n_images < layout.n_images:
        attrs["partial"] = f"{n_images} of {layout.n_images} images"
    dataset = xr.Dataset(variables, coords=coords, attrs=attrs)
    dataset.encoding["source"] = str(source)
    return dataset


def _names(layout: Layout, parts: list[Part], verify: str) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Ids of the images, and labels and groups where there are any."""
    ids: list[Any] = []
    along: dict[str, list[Any]] = {"labels": [], "groups": []}
    for part in parts:
        line = part.line
        of_ids, labels, groups = line.ids, line.labels, line.groups
        if of_ids is None:  # a manifest that says only what it must
            of_ids, labels, groups = _from_part(part, layout, verify)
        ids += of_ids
        along["labels"] += labels or []
        along["groups"] += groups or []
    for name, values in along.items():
        if values and len(values) != len(ids):
            raise CubeFormatError(
                f"{len(values)} {name} for {len(ids)} images: some shards have {name} and others none"
            )
    return _as_array(ids), {name: _as_array(values) for name, values in along.items() if values}


def _from_part(part: Part, layout: Layout, verify: str) -> tuple[list[Any], list[Any] | None, list[Any] | None]:
    if verify == "digest":
        part.check_digest()
    with open_hdf5(part.path, names=part_names(layout)) as file:
        return names_in(file, part)


def _as_array(values: Sequence[Any]) -> NDArray[Any]:
    kinds = {type(value) for value in values}
    if not kinds <= {int} and not kinds <= {str} and not kinds <= {float}:
        raise CubeFormatError(f"ids, labels and groups are all integers, all floats or all text, not {kinds}")
    array = np.array(values)
    if array.dtype.kind not in "iufU":
        raise CubeFormatError("ids, labels and groups hold integers beyond 64 bits")
    return array


class _StoredLayer(BackendArray):
    """A layer (image, view, sigma, feature) spread over parts; pickles as paths."""

    def __init__(self, layout: Layout, parts: list[Part], layer: str, shape: tuple[int, ...], verify: str) -> None:
        self.layout = layout
        self.parts = parts
        self.starts = np.array([part.start for part in parts])
        self.layer = layer
        self.shape = shape
        self.dtype = np.dtype(layout.dtype)
        self.verify = verify

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if not isinstance(key, indexing.VectorizedIndexer):
            return self._read(key.tuple)
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        images, views, levels, features = (_chosen(k, size) for k, size in zip(key, self.shape, strict=True))
        # Level first, so that each level is read straight into place.
        n_bytes = len(levels) * len(images) * len(views) * len(features) * self.dtype.itemsize
        check_memory(n_bytes, f"layer {self.layer!r}")
        out = np.empty((len(levels), len(images), len(views), len(features)), dtype=self.dtype)
        in_order = bool(np.all(images[1:] > images[:-1]))
        order = np.arange(len(images)) if in_order else np.argsort(images, kind="stable")
        some_views = None if np.array_equal(views, np.arange(self.shape[1])) else views
        some_features = None if np.array_equal(features, np.arange(self.shape[3])) else features
        ascending = images[order]
        cuts = np.searchsorted(ascending, self.starts)
        for part, begin, end in zip(self.parts, cuts, [*cuts[1:], len(images)], strict=True):
            if begin == end:
                continue
            rows = ascending[begin:end] - part.start
            for place, level in enumerate(levels):
                target = out[place, begin:end] if in_order else np.empty_like(out[place, begin:end])
                read_part(
                    part, self.layout, self.layer, rows, int(level), some_views, some_features, target, self.verify
                )
                if not in_order:
                    out[place, order[begin:end]] = target
        values = np.moveaxis(out, 0, 2)
        dropped = tuple(0 if isinstance(k, int | np.integer) else slice(None) for k in key)
        return values[dropped]


def _chosen(key: Any, size: int) -> NDArray[np.intp]:
    if isinstance(key, slice):
        return np.arange(*key.indices(size))
    return np.atleast_1d(np.where(np.asarray(key) < 0, np.asarray(key) + size, key)).astype(np.intp)


class IcrkitBackendEntrypoint(BackendEntrypoint):
    """xarray engine "icrkit": ``xarray.open_dataset("out.cube", engine="icrkit")``."""

    description = "Cube stores of icrkit: features of images under views and noise levels"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "allow_partial", "verify")

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[Any],
        *,
        drop_variables: str | Iterable[str] | None = None,
        allow_partial: bool = False,
        verify: str = "digest",
    ) -> xr.Dataset:
        """Dataset with dims (image, view, sigma, feature_LAYER), one variable a layer; lazy."""
        dataset = open_store(os.fspath(filename_or_obj), allow_partial=allow_partial, verify=verify)
        if drop_variables is not None:
            names = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables)
            dataset = dataset.drop_vars(names, errors="ignore")
        return dataset

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether the path is a folder with a cube.json."""
        return isinstance(filename_or_obj, str | os.PathLike) and (Path(filename_or_obj) / CONFIG_NAME).is_file()
