"""Headers of .npy and .npz files, compared with what the file holds before anything is allocated."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeTooLargeError
from icrkit.io._memory import check_declared, check_memory, words
from icrkit.io._parsing import parsing

__all__ = ["NpzMember", "map_npy", "npz_members", "read_npz_member"]

# Deflate cannot do better than 1032 to 1; bzip2 and LZMA can, and their headers are compared all the same.
_MOST_COMPRESSED = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


class NpzMember(NamedTuple):
    """An array of an .npz file by its header."""

    file_name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    n_bytes: int


def map_npy(path: Path) -> NDArray[Any]:
    """Array of an .npy file, memory-mapped."""
    with open(path, "rb") as file, parsing(path):
        shape, dtype = _header(file, str(path))
        _check_shape(shape, dtype, path.stat().st_size - file.tell(), str(path))
        if 0 in shape:
            return np.empty(shape, dtype)
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array


def npz_members(path: Path) -> dict[str, NpzMember]:
    """Arrays of an .npz file by their names; nothing but headers is read."""
    members = {}
    with parsing(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            where = f"{path}, array {info.filename.removesuffix('.npy')!r}"
            if info.is_dir() or not info.filename.endswith(".npy"):
                raise CubeFormatError(f"{path}: {info.filename!r} is not an .npy array; expected what np.savez writes")
            if info.flag_bits & 1:
                raise CubeFormatError(f"{where} is encrypted; write the file again without a password")
            if info.compress_type not in _METHODS:
                raise CubeFormatError(
                    f"{where} is compressed by method {info.compress_type}, which Python does not read; expected what "
                    "np.savez or np.savez_compressed writes"
                )
            if info.file_size > info.compress_size * _MOST_COMPRESSED.get(info.compress_type, 1 << 20) + 1024:
                raise CubeTooLargeError(
                    f"{where} declares {words(info.file_size)}, and the file has {words(info.compress_size)}"
                )
            with parsing(path, f"array {info.filename.removesuffix('.npy')!r}"), archive.open(info) as file:
                shape, dtype = _header(file, where)
                _check_shape(shape, dtype, info.file_size - file.tell(), where)
            members[info.filename.removesuffix(".npy")] = NpzMember(info.filename, shape, dtype, info.file_size)
    return members


def read_npz_member(path: Path, name: str, member: NpzMember) -> NDArray[Any]:
    """Values of one array of an .npz file."""
    check_memory(member.n_bytes, f"{path}, array {name!r}")
    with parsing(path, f"array {name!r}"), zipfile.ZipFile(path) as archive, archive.open(member.file_name) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        # Only at its end does zipfile compare the checksum.
        file.read(1)
        return array


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    # Version 3 differs from 2 by the encoding of field names.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise CubeFormatError(f"{where} holds Python objects, which are not read; expected numbers")
    if any(side < 0 for side in shape):
        raise CubeCorruptError(f"{where} declares the shape {shape}")
    return tuple(shape), dtype


def _check_shape(shape: tuple[int, ...], dtype: np.dtype[Any], held: int, where: str) -> None:
    check_declared(math.prod(shape) * dtype.itemsize, held, f"{where} of shape {shape}")
