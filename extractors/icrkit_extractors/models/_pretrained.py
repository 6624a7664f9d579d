"""A folder as ``save_pretrained`` writes it: a configuration, and weights in one file or several."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from icrkit.exceptions import UnsafeModelError
from icrkit_extractors._checkpoint import sha256_of

__all__ = ["digest", "read_config", "weight_files"]


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file as a dict.

    Parameters
    ----------
    path : Path
        A JSON file.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it does not hold one JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds {type(config).__name__}, not one JSON object")
    return config


def weight_files(folder: Path, stem: str, variant: str | None = None) -> list[Path]:
    """Files of the weights, in the order of their names; empty where there are none.

    Parameters
    ----------
    folder : Path
        Where ``save_pretrained`` wrote.
    stem : str
        ``model`` (transformers) or ``diffusion_pytorch_model`` (diffusers).
    variant : str, optional
        Such as ``fp16`` in ``diffusion_pytorch_model.fp16.safetensors``.

    Returns
    -------
    list of Path
        The safetensors file, or its shards, or else a pickled ``.bin`` file.

    Raises
    ------
    UnsafeModelError
        If the index of the shards points out of the folder.
    FileNotFoundError
        If a shard is missing.
    ValueError
        If the index is none.
    """
    middle = "" if variant is None else f".{variant}"
    whole = folder / f"{stem}{middle}.safetensors"
    if whole.is_file():
        return [whole]
    index = folder / f"{stem}.safetensors.index{middle}.json"
    if index.is_file():
        places = read_config(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise ValueError(f"{index} has no weight_map of names of tensors to names of files")
        names = sorted(set(places.values()))
        for name in names:
            if Path(name).name != name:
                raise UnsafeModelError(f"{index} points out of its folder: {name!r}")
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} lacks {name}, which {index.name} lists")
        return [folder / name for name in names]
    pickled = folder / f"{'pytorch_model' if stem == 'model' else stem}{middle}.bin"
    return [pickled] if pickled.is_file() else []


def digest(files: list[Path]) -> str:
    """SHA-256 of the files' bytes one after the other: of one file, its own.

    Parameters
    ----------
    files : list of Path
        At least one.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    if len(files) == 1:
        return sha256_of(files[0])
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                whole.update(block)
    return whole.hexdigest()
