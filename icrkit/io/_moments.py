"""Moments files: HDF5, one dataset an array, written whole or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from icrkit._text import strict_json
from icrkit.exceptions import CubeFormatError
from icrkit.io._block import in_memory
from icrkit.io._durable import new_file, write_all
from icrkit.io._hdf5 import open_hdf5, read_values
from icrkit.io._parsing import parse_json, parsing
from icrkit.io._sealed import check_seal, seal_file

__all__ = ["read_moments", "write_moments"]

_FORMAT = "icrkit-moments"


def write_moments(moments: Any, path: str | Path) -> None:
    """Write a dataclass of arrays, dicts of arrays and plain values."""
    plain: dict[str, Any] = {}
    with in_memory() as (file, image):
        for field in dataclasses.fields(moments):
            value = getattr(moments, field.name)
            if isinstance(value, np.ndarray):
                _write(file, field.name, value)
            elif isinstance(value, dict):
                plain[field.name] = {"keys": list(value)}
                for key, array in value.items():
                    _write(file, f"{field.name}.{key}", np.asarray(array))
            else:
                plain[field.name] = value
        file.attrs["format"] = _FORMAT
        file.attrs["fields"] = strict_json(plain, indent=None)
    with new_file(path) as fd:
        write_all(fd, image.getbuffer())
        seal_file("moments", fd)


def read_moments(cls: type[Any], path: str | Path) -> Any:
    """Read what write_moments wrote, as an instance of cls."""
    seal = check_seal(path)
    if seal is None or seal.kind != "moments":
        raise CubeFormatError(f"{path} is not a moments file, or lost its end, where the digest of one stands")
    with open_hdf5(path) as file, parsing(path):
        if file.attrs.get("format") != _FORMAT:
            raise CubeFormatError(f"{path} is not a moments file")
        plain = parse_json(file.attrs["fields"], path, "attribute fields")
        found: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = plain.get(field.name)
            if isinstance(value, dict):
                found[field.name] = {key: _read(file, f"{field.name}.{key}", path) for key in value["keys"]}
            elif field.name in plain:
                found[field.name] = tuple(value) if isinstance(value, list) else value
            elif field.name in file or field.default_factory is dataclasses.MISSING:
                found[field.name] = _read(file, field.name, path)  # files of older versions lack some
    with parsing(path):
        return cls(**found)


def _write(file: h5py.File, name: str, array: np.ndarray[Any, Any]) -> None:
    if array.dtype.kind in "UTO":
        file.create_dataset(name, data=array.astype(object), dtype=h5py.string_dtype("utf-8"), track_times=False)
    else:
        file.create_dataset(name, data=array, track_times=False)


def _read(file: h5py.File, name: str, path: str | Path) -> Any:
    values = read_values(file, name, str(path))
    return np.array(values.tolist()) if values.dtype == object else values
