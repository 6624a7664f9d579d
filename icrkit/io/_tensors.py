"""Arrays saved by numpy, torch and safetensors, as cubes; a two-dimensional one holds one image a row, of one view."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icrkit._rows import to_numpy
from icrkit.cube import Cube, from_arrays
from icrkit.exceptions import (
    CubeCorruptError,
    CubeFormatError,
    CubeTooLargeError,
    MissingDependencyError,
    UnsafeModelError,
)
from icrkit.io._memory import check_memory

__all__ = ["open_numpy", "open_safetensors", "open_torch"]

_SAFETENSORS_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_MOST_HEADER = 100 << 20


def open_numpy(path: Path) -> Cube:
    """Cube of an .npy file (memory-mapped) or of an .npz file, whose keys are layers, sigmas, labels, image_ids."""
    try:
        if path.suffix == ".npy":
            return _cube({"features": np.load(path, mmap_mode="r", allow_pickle=False)}, path)
        with zipfile.ZipFile(path) as archive:
            check_memory(sum(item.file_size for item in archive.infolist()), str(path))
        with np.load(path, allow_pickle=False) as arrays:
            return _cube({name: arrays[name] for name in arrays.files}, path)
    except (CubeFormatError, CubeTooLargeError):
        raise
    except ValueError as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise CubeFormatError(f"{path} holds objects; wanted float features (image, view, feature)") from error
        raise CubeCorruptError(f"{path} cannot be read: {error}") from error
    except (EOFError, zipfile.BadZipFile) as error:
        raise CubeCorruptError(f"{path} cannot be read: {error}") from error


def open_torch(path: Path) -> Cube:
    """Cube of a tensor, or of a dict of tensors, saved by torch.save; no code in the file is run."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(f"{path} needs torch: pip install torch") from error
    import pickle

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UnsafeModelError(f"{path} holds more than tensors, and nothing of it was run: {error}") from error
    except (RuntimeError, EOFError) as error:
        raise CubeCorruptError(f"{path} cannot be read: {error}") from error
    tensors = content if isinstance(content, Mapping) else {"features": content}
    arrays = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise CubeFormatError(f"{path}: {name!r} is a {type(tensor).__name__}; wanted tensors")
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise UnsafeModelError(f"{path}: {name!r} declares more values than the file holds")
        arrays[str(name)] = to_numpy(tensor)
    return _cube(arrays, path)


def open_safetensors(path: Path) -> Cube:
    """Cube of a .safetensors file, memory-mapped."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _MOST_HEADER):
            raise CubeCorruptError(f"{path} is cut short, or is no safetensors file")
        try:
            header = json.loads(file.read(length))
            arrays = {
                name: _mapped(path, entry, 8 + length, size) for name, entry in header.items() if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, CubeFormatError):
                raise
            raise CubeCorruptError(f"{path} is no safetensors file: {error}") from error
    return _cube(arrays, path)


def _mapped(path: Path, entry: dict[str, Any], base: int, size: int) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    shape = tuple(int(n) for n in entry["shape"])
    code = entry["dtype"]
    if code not in (*_SAFETENSORS_DTYPES, "I64", "I32", "BF16"):
        raise CubeFormatError(f"{path}: dtype {code}; wanted {', '.join(_SAFETENSORS_DTYPES)} or BF16")
    dtype = np.dtype({**_SAFETENSORS_DTYPES, "I64": "<i8", "I32": "<i4", "BF16": "<u2"}[code])
    count = int(np.prod(shape, dtype=object))
    if begin < 0 or end - begin != count * dtype.itemsize or base + end > size:
        raise CubeCorruptError(f"{path}: a tensor of shape {shape} does not lie inside the file")
    values: NDArray[Any] = np.memmap(path, dtype=dtype, mode="r", offset=base + begin, shape=shape)
    # A bfloat16 is the upper half of a float32.
    return (values.astype(np.uint32) << 16).view(np.float32) if code == "BF16" else values


def _cube(arrays: dict[str, NDArray[Any]], path: Path) -> Cube:
    known: dict[str, Any] = {key: arrays.pop(key) for key in ("sigmas", "labels", "image_ids") if key in arrays}
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise CubeFormatError(f"{path}: layer {name!r} holds {array.dtype}; wanted float32, float64 or float16")
        if array.ndim == 2:
            arrays[name] = array[:, np.newaxis]
    cube = from_arrays(arrays, **known)
    data = cube.to_xarray()
    data.encoding["source"] = str(path)
    return Cube(data)
