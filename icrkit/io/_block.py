"""The bytes of one block: a NetCDF4 file, built whole in memory and the same every time."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from icrkit._contract import AXES, feature_dim
from icrkit.io._layout import Layout

_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable.{:10d}"


def encode_block(
    layout: Layout,
    shard: int,
    block: int,
    ids: list[Any],
    labels: list[Any] | None,
    features: Mapping[str, NDArray[Any]],
    groups: list[Any] | None = None,
) -> bytes:
    """NetCDF4 file of one block.

    Parameters
    ----------
    features : dict of str to array of shape (levels, images, views, features)
        Level first, as the file has it: each level is one chunk.
    """
    n_images = len(ids)
    with in_memory() as (file, image):
        file.attrs["icrkit_config"] = layout.digest
        file.attrs["icrkit_shard"] = np.int64(shard)
        file.attrs["icrkit_block"] = np.int64(block)
        scales, others = write_frame(file, layout, ids, labels, groups)
        for name, size in layout.layers.items():
            shape = (n_images, layout.n_views, len(layout.sigmas), size)
            variable = file.create_dataset(
                name,
                shape=shape,
                dtype=np.dtype(layout.dtype).newbyteorder("<"),
                chunks=(n_images, layout.n_views, 1, size),
                track_times=False,
            )
            name_dims(variable, name, scales, others)
            for level in range(len(layout.sigmas)):
                variable.id.write_direct_chunk((0, 0, level, 0), np.ascontiguousarray(features[name][level]))
    return image.getvalue()


@contextmanager
def in_memory() -> Iterator[tuple[h5py.File, io.BytesIO]]:
    """HDF5 file that no disk is behind, and its bytes once it is closed.

    Not by HDF5's own file image: in 1.14 that carries a checksum which the same library refuses to open.
    """
    image = io.BytesIO()
    with create_file(image) as file:
        yield file, image


def create_file(target: Any) -> h5py.File:
    """HDF5 file in an open binary file, whose bytes do not depend on the clock.

    ``h5py.File`` has no option for the root group's time stamps, which HDF5 1.14 writes and 2.0 does not.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    # Superblock 2, object headers with checksums, and no "open for writing" mark.
    access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V18)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, target)
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    return h5py.File(h5py.h5f.create(b"in memory", h5py.h5f.ACC_TRUNC, creation, access))


def write_frame(
    file: h5py.File, layout: Layout, ids: list[Any], labels: list[Any] | None, groups: list[Any] | None = None
) -> tuple[dict[str, h5py.Dataset], list[str]]:
    """Write dims and coordinates; the dims by name, and the names of coordinates that are no dims."""
    scales = {
        "image": coordinate(file, "image", ids),
        "view": plain_dim(file, "view", layout.n_views),
        "sigma": coordinate(file, "sigma", list(layout.sigmas)),
    }
    for name, size in layout.layers.items():
        scales[feature_dim(name)] = plain_dim(file, feature_dim(name), size)
    for number, (dim, scale) in enumerate(scales.items()):
        if dim in ("image", "sigma"):
            scale.make_scale(dim)
        scale.attrs["_Netcdf4Dimid"] = np.int32(number)
    others = []
    for name, values in (("labels", labels), ("groups", groups)):
        if values is not None:
            coordinate(file, name, values).dims[0].attach_scale(scales["image"])
            others.append(name)
    if layout.alphas is not None:
        coordinate(file, "alpha", list(layout.alphas)).dims[0].attach_scale(scales["sigma"])
        others.append("alpha")
    return scales, others


def name_dims(variable: h5py.Dataset, layer: str, scales: dict[str, h5py.Dataset], others: list[str]) -> None:
    """Give a layer its dims, and say which coordinates go with it."""
    for axis, dim in enumerate((*AXES, feature_dim(layer))):
        variable.dims[axis].attach_scale(scales[dim])
    if others:
        variable.attrs["coordinates"] = " ".join(others)


def coordinate(file: h5py.File, name: str, values: list[Any]) -> h5py.Dataset:
    """Write a one-dimensional variable of integers, floats or text."""
    if isinstance(values[0], str):
        return file.create_dataset(name, data=values, dtype=h5py.string_dtype("utf-8"), track_times=False)
    kind = "<f8" if isinstance(values[0], float) else "<i8"
    return file.create_dataset(name, data=np.array(values, dtype=kind), track_times=False)


def plain_dim(file: h5py.File, name: str, size: int) -> h5py.Dataset:
    """Write a dimension that has no values of its own."""
    # As netCDF does: a dimension without a variable is a dataset that was never filled.
    scale = file.create_dataset(name, shape=(size,), dtype=">f4", track_times=False)
    scale.make_scale(_NO_VARIABLE.format(size))
    return scale
