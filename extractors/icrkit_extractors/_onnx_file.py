"""An ONNX file, taken as hostile: read once, whole, and nothing outside its own folder is opened on its behalf.

Values that it keeps in files beside it stay there, mapped into memory.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from icrkit.exceptions import UnsafeModelError
from icrkit_extractors._onnx_functions import check_functions

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

__all__ = ["ModelFile", "read_model"]

# The most that protobuf puts into one message.
_LARGEST = 2**31 - 1


def _read_bytes(path: Path) -> bytes:
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise UnsafeModelError(f"{path} is not a file")
    data = path.read_bytes()
    if not data:
        raise UnsafeModelError(f"{path} is empty: not an ONNX model")
    return data


def _messages(model: ModelProto) -> Iterator[Any]:
    """Every message of a model, in whatever subgraph, function or attribute it sits."""
    waiting: list[Any] = [model]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend(value if isinstance(value, Sequence) else (value,))
            elif field.type == field.TYPE_STRING and any(
                isinstance(text, bytes) for text in ((value,) if isinstance(value, str | bytes) else value)
            ):
                raise ValueError(f"a {field.name} is no text")


def _parsed(onnx: Any, data: bytes, path: Path) -> ModelProto:
    try:
        model: ModelProto = onnx.ModelProto.FromString(data)
        for _ in _messages(model):
            pass
    except Exception as error:  # protobuf's own error class has moved between its versions
        raise UnsafeModelError(f"{path} is truncated or not an ONNX model: {error}") from error
    if not model.graph.output:
        raise UnsafeModelError(f"{path} is truncated or not an ONNX model: it holds no graph with outputs")
    return model


# Stored several to a byte, though numpy's stand-ins for them take a whole one.
_PACKED = {"FLOAT4E2M1": 4, "INT2": 2, "INT4": 4, "UINT2": 2, "UINT4": 4}


def _size(onnx: Any, tensor: TensorProto, what: str) -> int:
    """Bytes that a tensor's shape and type ask for."""
    try:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError):
        raise UnsafeModelError(f"{what} has elements of the unknown type {tensor.data_type}") from None
    if dtype.kind == "O":
        raise UnsafeModelError(f"{what} holds text, which is never kept in another file")
    return int(-(-math.prod(tensor.dims) * _PACKED.get(name, 8 * dtype.itemsize) // 8))


class _Beside:
    """Files in the folder of a model, each mapped into memory once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = folder.resolve()
        self.maps: dict[str, np.ndarray] = {}

    def _real(self, location: str, what: str) -> Path:
        """Path of a file without links; refuses what leads out of the folder."""
        outside = f"{what} points to {location!r}, which is not a file in the model's own folder"
        # The letters are ways out on Windows, and a star, with which onnxruntime marks an address in memory.
        if not location or location[0] == "/" or ".." in location.split("/") or re.search(r"[\\:*\0]", location):
            raise UnsafeModelError(outside)
        try:
            real = (self._folder / location).resolve(strict=True)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{what} is kept in {location!r}, which is not there: it belongs into the folder {self._folder}"
            ) from None
        except (OSError, RuntimeError):
            raise UnsafeModelError(outside) from None
        if not real.is_relative_to(self._root):
            raise UnsafeModelError(f"{outside}: a link leads out of it (copy the file itself there)")
        return real

    def _mapped(self, real: Path, what: str) -> np.ndarray:
        # A pipe would wait for its other end; a link put there since would be followed.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            with open(real, "rb", opener=lambda path, _: os.open(path, flags)) as file:
                status = os.fstat(file.fileno())
                if stat.S_ISREG(status.st_mode):
                    return np.memmap(file, dtype=np.uint8, mode="r") if status.st_size else np.empty(0, dtype=np.uint8)
        except OSError as error:
            raise UnsafeModelError(f"{what} is in {real}, which cannot be read: {error}") from None
        raise UnsafeModelError(f"{what} is in {real}, which is no regular file")

    def place(self, onnx: Any, tensor: TensorProto, what: str) -> tuple[str, int, int]:
        """File (its name in the folder), offset and length of a tensor's values, checked against shape and file."""
        entry = {item.key: item.value for item in tensor.external_data}
        size = _size(onnx, tensor, what)
        try:
            offset, length = int(entry.get("offset") or 0), int(entry.get("length") or size)
        except ValueError:
            raise UnsafeModelError(f"{what} has an offset or a length that is no number") from None
        real = self._real(entry.get("location", ""), what)
        name = real.relative_to(self._root).as_posix()
        if name not in self.maps:
            self.maps[name] = self._mapped(real, what)
        if offset < 0 or length != size or offset + size > len(self.maps[name]):
            raise UnsafeModelError(
                f"{what} of shape {tuple(tensor.dims)} needs {size} bytes and is said to be the {length} from {offset} "
                f"of {name!r}, which has {len(self.maps[name])}"
            )
        return name, offset, size


def _check_tensors(onnx: Any, model: ModelProto, path: Path) -> dict[str, np.ndarray]:
    """Refuse tensors that are not as they say; returns the other files that hold values, by name.

    What the model says of other files is written anew, from what was checked: onnxruntime opens these files itself.
    """
    beside = _Beside(path.parent)
    # Kept, so that the walk below meets the same objects.
    outer = {id(tensor): tensor for tensor in model.graph.initializer}
    inlined = 0
    for tensor in [message for message in _messages(model) if isinstance(message, onnx.TensorProto)]:
        what = f"{path}: tensor {tensor.name!r}"
        if any(size < 0 for size in tensor.dims):
            raise UnsafeModelError(f"{what} declares the shape {tuple(tensor.dims)}")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            name, offset, length = beside.place(onnx, tensor, what)
            del tensor.external_data[:]
            if id(tensor) in outer:
                for key, value in (("location", name), ("offset", offset), ("length", length)):
                    tensor.external_data.add(key=key, value=str(value))
            else:
                # Not everywhere in branches and attributes does onnxruntime look into other files.
                inlined += length
                if inlined > _LARGEST:
                    raise UnsafeModelError(
                        f"{path}: tensors in branches and attributes have more than {_LARGEST} bytes"
                    )
                tensor.ClearField("data_location")
                tensor.raw_data = beside.maps[name][offset : offset + length].tobytes()
        elif tensor.external_data:
            raise UnsafeModelError(f"{what} points to another file and does not say that its values are there")
        # Two bits is the smallest element there is.
        elif math.prod(tensor.dims) > 4 * tensor.ByteSize():
            raise UnsafeModelError(
                f"{what} declares the shape {tuple(tensor.dims)} and holds {tensor.ByteSize()} bytes"
            )
    return beside.maps


class ModelFile(NamedTuple):
    """A model that was checked."""

    model: ModelProto
    data: bytes
    sha256: str  # of the file and, after it, of those that hold its values, sorted by name
    has_files: bool  # whether there are any; the model's own places of values are then not those of the file


def read_model(onnx: Any, path: Path) -> ModelFile:
    """Read a model and check all that it says of functions, tensors and other files."""
    data = _read_bytes(path)
    model = _parsed(onnx, data, path)
    check_functions(model, path)
    files = _check_tensors(onnx, model, path)
    digest = hashlib.sha256(data)
    for name in sorted(files):
        digest.update(files[name].data)
    return ModelFile(model, data, digest.hexdigest(), bool(files))
