"""Arrays saved by numpy, torch and safetensors, as cubes; a two-dimensional one holds one image a row, of one view."""

from __future__ import annotations

import importlib.util
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icrkit._arrays import to_numpy
from icrkit.cube import Cube, from_arrays
from icrkit.exceptions import (
    CubeCorruptError,
    CubeFormatError,
    MissingDependencyError,
    UnsafeModelError,
)
from icrkit.io._memory import check_declared, check_memory
from icrkit.io._numpy import map_npy, npz_members, read_npz_member
from icrkit.io._parsing import parse_json, parsing
from icrkit.io._torch_file import load_tensors, reason

__all__ = ["open_numpy", "open_safetensors", "open_torch"]

_SAFETENSORS_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_MOST_HEADER = 100 << 20


def open_numpy(path: Path) -> Cube:
    """Cube of an .npy file (memory-mapped) or of an .npz file: keys are layers, sigmas, labels, groups, image_ids."""
    if path.suffix.lower() == ".npy":
        return _cube({"features": map_npy(path)}, path)
    members = npz_members(path)
    check_memory(sum(member.n_bytes for member in members.values()), str(path))
    return _cube({name: read_npz_member(path, name, member) for name, member in members.items()}, path)


def open_torch(path: Path) -> Cube:
    """Cube of a tensor, or of a dict of tensors, saved by torch.save; no code in the file is run."""
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(f"{path} needs torch: pip install torch")
    import pickle

    with parsing(path):
        zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_stored(path)
    with parsing(path):
        try:
            # Of torch's older format, before 1.6, nothing can be mapped.
            content = load_tensors(path, mmap=zipped)
        except pickle.UnpicklingError as error:
            raise UnsafeModelError(
                f"{path} holds more than tensors, and nothing of it was run: {reason(error)}; save tensors alone: "
                "torch.save({'layer': tensor}, 'features.pt')"
            ) from None
        tensors = content if isinstance(content, Mapping) else {"features": content}
        arrays = {str(name): _plain(tensor, f"{path}: {name!r}") for name, tensor in tensors.items()}
    return _cube(arrays, path)


def _check_stored(path: Path) -> None:
    """Refuse an archive whose members are not as torch stores them: mapped, compressed bytes would pass for values."""
    with parsing(path), zipfile.ZipFile(path) as archive:
        packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CubeFormatError(
            f"{path}: {packed[0]!r} is compressed, which torch.save does not do; unpack the archive and zip it again "
            "without compression (zip -0), or load and torch.save it"
        )


def _plain(tensor: Any, where: str) -> NDArray[Any]:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise CubeFormatError(f"{where} is a {type(tensor).__name__}; expected tensors")
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        kind = (
            "nested"
            if tensor.is_nested
            else "quantized"
            if tensor.is_quantized
            else f"{tensor.layout}, {tensor.device}"
        )
        raise CubeFormatError(
            f"{where} is not a plain tensor ({kind}); save tensor.to_dense(), .dequantize() or a padded tensor"
        )
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise UnsafeModelError(f"{where} declares more values than the file holds")
    return to_numpy(tensor)


def open_safetensors(path: Path) -> Cube:
    """Cube of a .safetensors file, memory-mapped."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER):
            raise CubeCorruptError(f"{path} is cut short, or is not a safetensors file")
        header = parse_json(file.read(length), path, "header")
    with parsing(path, "header"):
        arrays = {
            name: _mapped(path, entry, 8 + length, size) for name, entry in header.items() if name != "__metadata__"
        }
    return _cube(arrays, path)


def _mapped(path: Path, entry: dict[str, Any], base: int, size: int) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    code = entry["dtype"]
    if code not in (*_SAFETENSORS_DTYPES, "I64", "I32", "BF16"):
        raise CubeFormatError(f"{path}: dtype {code!r}; expected {', '.join(_SAFETENSORS_DTYPES)} or BF16")
    dtype = np.dtype({**_SAFETENSORS_DTYPES, "I64": "<i8", "I32": "<i4", "BF16": "<u2"}[code])
    if not all(type(n) is int and n >= 0 for n in (begin, end, *shape)):
        raise CubeCorruptError(f"{path}: a tensor has the shape {shape} and the offsets {begin}, {end}")
    count = math.prod(shape)
    check_declared(count * dtype.itemsize, size, f"{path}: a tensor of shape {shape}")
    if end - begin != count * dtype.itemsize or base + end > size:
        raise CubeCorruptError(f"{path}: a tensor of shape {shape} does not lie inside the file")
    if not count:
        return np.empty(shape, dtype)
    values: NDArray[Any] = np.memmap(path, dtype=dtype, mode="r", offset=base + begin, shape=shape)
    if code != "BF16":
        return values
    check_memory(8 * count, f"{path}: a tensor of shape {shape} in bfloat16")
    # A bfloat16 is the upper half of a float32.
    return (values.astype(np.uint32) << 16).view(np.float32)


def _cube(arrays: dict[str, NDArray[Any]], path: Path) -> Cube:
    arrays = dict(arrays)
    if not arrays:
        raise CubeFormatError(f"{path} holds no arrays; expected one per layer: (image, view, sigma, feature)")
    known: dict[str, Any] = {
        key: arrays.pop(key) for key in ("sigmas", "labels", "groups", "image_ids") if key in arrays
    }
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise CubeFormatError(
                f"{path}: layer {name!r} holds {array.dtype}; expected float32, float64 or float16"
                + (
                    " (images are no features: icrkit extract makes features of them)"
                    if array.dtype == np.uint8
                    else ""
                )
                + (
                    " (arrays that are no layers are called labels, groups, sigmas and image_ids)"
                    if len(arrays) > 1
                    else ""
                )
            )
        if array.ndim not in (2, 3, 4):
            raise CubeFormatError(
                f"{path}: layer {name!r} has shape {array.shape}; expected (image, view, sigma, feature), or "
                "(image, view, feature) or (image, feature) of one noise level"
            )
        if array.ndim == 4 and array.shape[2] != 1 and "sigmas" not in known:
            raise CubeFormatError(
                f"{path}: layer {name!r} of shape {array.shape} has {array.shape[2]} noise levels on its third axis "
                "(image, view, sigma, feature), and the file does not say which: it needs an array 'sigmas' beside the "
                "layer, as numpy.savez('features.npz', features=..., sigmas=[...]) writes it"
            )
        if array.ndim == 2:
            arrays[name] = array[:, np.newaxis]
    with parsing(path, damaged=CubeFormatError):
        data = from_arrays(arrays, **known).to_xarray()
    data.encoding["source"] = str(path)
    return Cube(data)
