"""Images for `extract`, read when they are asked for: arrays in files, idx files, folders of pictures, data sets.

All of them end as an `ImageSet`: slices (n, channel, height, width) of bytes or of float32, with ids and labels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from icrkit_extractors._image_arrays import from_array, from_members, idx_labels, open_idx, open_npy
from icrkit_extractors._image_containers import hdf5_members, npz_members, zarr_members
from icrkit_extractors._image_dataset import from_dataset
from icrkit_extractors._image_folder import SUFFIXES, open_folder
from icrkit_extractors._image_form import Form
from icrkit_extractors._image_labels import class_labels
from icrkit_extractors._image_rows import ArrayFile
from icrkit_extractors._image_set import ImageSet

__all__ = ["ImageSet", "from_dataset", "open_images"]

_CONTAINERS = (".npz", ".h5", ".hdf5", ".zarr")


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
    labels : array-like (n,), str or False, optional
        Classes, or the array of the file that holds them, or False for none. By default: in a folder whose images all
        lie in two or more folders, these, in order of their names; of ``x_train`` ``y_train``, of ``test_images``
        ``test_labels``, else ``labels``, ``label``, ``y`` or ``targets``; of an idx file the one beside it with
        "labels" in its name for "images". They are integers, text of any kind (bytes in UTF-8, the strings of HDF5 and
        zarr), booleans, enumerations, or categories as anndata writes them; what is found and is none of these, or
        lacks the class of an image, is refused.
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
        more than 8 bits; or labels are there that cannot be read. The message names the file or the array.
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
    form = Form(size, channels, background, value_range)
    suffix = where.suffix.lower()
    if where.is_dir() and (
        suffix == ".zarr" or any((where / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))
    ):
        return from_members(zarr_members, where, key, layout, labels, form, "zarr")
    if suffix == ".npz":
        return from_members(npz_members, where, key, layout, labels, form, "npz")
    if suffix in (".h5", ".hdf5"):
        return from_members(hdf5_members, where, key, layout, labels, form, "hdf5")
    if key is not None:
        raise ValueError(f"{where} has no named arrays, so key={key!r} means nothing here")
    if isinstance(labels, str):
        raise ValueError(f"{where} has no named arrays, so labels={labels!r} means nothing here: give the labels")
    if where.is_dir():
        if layout is not None:
            raise ValueError("layout is for arrays, and image files have their own")
        return open_folder(where, form, labels)
    if suffix in SUFFIXES:
        raise ValueError(f"{where} is one image: give the folder")
    if not where.is_file():
        raise ValueError(f"{where} is neither a file nor a folder")
    known: dict[str, Any] = {}
    if suffix == ".npy":
        array, kind = ArrayFile(open_npy, where), "npy"
    else:
        array, kind = ArrayFile(open_idx, where), "idx"
        labels = idx_labels(where, array.shape[0]) if labels is None else labels
    if labels is not None and labels is not False:
        known["labels"] = class_labels(labels, array.shape[0] if array.shape else 0, str(where))
    return from_array(array, layout, form, str(where), kind, **known)
