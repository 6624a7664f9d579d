"""A folder as ``save_pretrained`` writes it: a configuration, and weights in one file or several."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds {type(config).__name__}, not one JSON object")
    return config


class _Layout(NamedTuple):
    """How a package names weights, and which of two kinds of them its own ``from_pretrained`` takes."""

    stem: str
    pickled: str
    index_first: bool


_LAYOUTS = {
    # A folder may hold a whole file and shards, of other weights: what is hashed must be what is loaded.
    "diffusers": _Layout("diffusion_pytorch_model", "diffusion_pytorch_model", index_first=True),
    "transformers": _Layout("model", "pytorch_model", index_first=False),
}


def weight_files(
    folder: Path,
    package: Literal["diffusers", "transformers"],
    variant: str | None = None,
    name: str | None = None,
) -> list[Path]:
    """Files of the weights that the package loads, in the order of their names; empty where there are none.

    Parameters
    ----------
    folder : Path
        Where ``save_pretrained`` wrote.
    package : {"diffusers", "transformers"}
        Which wrote it. Where there are both, diffusers takes the shards of an index, and transformers a whole file.
    variant : str, optional
        Such as ``fp16`` in ``diffusion_pytorch_model.fp16.safetensors``.
    name : str, optional
        The file or the index, where the configuration names it.

    Returns
    -------
    list of Path
        Safetensors, whole or in shards; or else pickled ``.bin`` files.

    Raises
    ------
    UnsafeModelError
        If an index, or ``name``, points out of the folder.
    FileNotFoundError
        If a shard, or ``name``, is missing.
    ValueError
        If an index does not list files, or has a name of the older form.
    """
    if name is not None:
        _check_inside(folder, name, "config.json")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} does not contain {name}, which config.json names as its weights")
        return _shards(folder / name) if name.endswith(".index.json") else [folder / name]
    layout, middle = _LAYOUTS[package], "" if variant is None else f".{variant}"
    for stem, suffix in ((layout.stem, "safetensors"), (layout.pickled, "bin")):
        whole, index = folder / f"{stem}{middle}.{suffix}", folder / f"{stem}.{suffix}.index{middle}.json"
        if variant is not None and not index.is_file():
            _refuse_older(folder / f"{stem}.{suffix}{middle}.index.json", index)
            _refuse_older(folder / f"{stem}{middle}.{suffix}.index.json", index)
        if index.is_file() and (layout.index_first or not whole.is_file()):
            return _shards(index)
        if whole.is_file():
            return [whole]
    return []


def _refuse_older(older: Path, index: Path) -> None:
    # Whether diffusers takes it depends on the dots in the names of the folders above.
    if older.is_file():
        raise ValueError(f"{older} is an index with a name of the older form: rename it to {index.name}")


def _check_inside(folder: Path, name: str, source: str) -> None:
    if not isinstance(name, str) or Path(name).name != name:
        raise UnsafeModelError(f"{folder / source} points out of its folder: {name!r}")


def _shards(index: Path) -> list[Path]:
    folder, places = index.parent, read_config(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} has no weight_map of names of tensors to names of files")
    names = sorted(set(places.values()))
    for name in names:
        _check_inside(folder, name, index.name)
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} does not contain {name}, which {index.name} lists")
    return [folder / name for name in names]


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
