"""Tensors of checkpoints, read so that nothing in a file is ever run.

Every file is taken as hostile. What torch saved goes through ``torch.load(weights_only=True)``, whatever the
environment says. The pickles of the EDM family are another matter: see ``_pickled_network.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icrkit.exceptions import MissingDependencyError, UnsafeModelError
from icrkit.io._torch_file import load_tensors, reason
from icrkit_extractors._checkpoint_entries import network_under
from icrkit_extractors._checkpoint_globals import HARMLESS
from icrkit_extractors._state_dict import load_into, under_prefix, without_prefix

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "existing",
    "import_torch",
    "load_into",
    "read_shards",
    "read_tensors",
    "sha256_of",
    "stored_step",
    "training_args",
    "under_prefix",
    "without_prefix",
]

_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
# Weights hardly compress; the rest is room for tensors of zeros.
_MOST_COMPRESSION = 100
_WAY_OUT = (
    "save its tensors alone, where the class is at hand: torch.save(model.state_dict(), 'tensors.pt') "
    "or safetensors.torch.save_file(model.state_dict(), 'tensors.safetensors')"
)


def import_torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(f'{path} needs torch: pip install "icrkit[torch]"') from error
    return torch


def existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise UnsafeModelError(f"{path} is not a file")
    return path


def sha256_of(path: str | Path) -> str:
    """Digest of a file, 64 hexadecimal digits.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnsafeModelError
        If the path is not a file.
    """
    with open(existing(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- files of tensors -----------------------------------------------------------------------------------------------


def _read_npz(path: Path) -> dict[str, Tensor]:
    torch = import_torch(path)
    try:
        with zipfile.ZipFile(path) as archive:
            declared, size = sum(item.file_size for item in archive.infolist()), path.stat().st_size
        if declared > _MOST_COMPRESSION * size:
            raise UnsafeModelError(f"{path} has {size} bytes and declares {declared}: more than weights compress")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except UnsafeModelError:
        raise
    except Exception as error:  # zlib, zipfile and numpy share no base class for damage
        raise UnsafeModelError(f"{path} is truncated, or holds more than arrays of numbers: {error}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    import_torch(path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingDependencyError(f"{path} needs safetensors: pip install safetensors") from error
    try:
        return dict(load_file(path))
    except (SafetensorError, ValueError, KeyError, MemoryError) as error:
        raise UnsafeModelError(f"{path} is truncated, or no safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    """What torch.save wrote: tensors, containers of them, and the plain values that training scripts keep beside."""
    torch = import_torch(path)
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                declared, size = sum(item.file_size for item in archive.infolist()), path.stat().st_size
            # torch compresses nothing, so what unfolds was not written by it.
            if declared > size:
                raise UnsafeModelError(f"{path} has {size} bytes and declares {declared}")
        with torch.serialization.safe_globals(HARMLESS):
            return load_tensors(path, mmap=zipped)
    except UnsafeModelError:
        raise
    except pickle.UnpicklingError as error:
        raise UnsafeModelError(
            f"{path} holds more than tensors, and nothing of it was run: {reason(error)}; {_WAY_OUT}"
        ) from None
    except Exception as error:  # what a damaged pickle raises depends on the opcode that the damage hit
        raise UnsafeModelError(f"{path} is truncated, or not a file of torch.save: {reason(error)}") from error


def _check_held(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that declare more than the file holds, and kinds that stand for something else."""
    import torch

    storages = {}
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UnsafeModelError(f"{path}: {name!r} is no plain tensor; save tensor.to_dense() or dequantize()")
        held, declared = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
        if held < declared:
            raise UnsafeModelError(
                f"{path}: {name!r} declares the shape {tuple(tensor.shape)}, {declared} bytes, and holds {held} "
                "(an honest expanded tensor: save tensor.contiguous())"
            )
        storages[tensor.untyped_storage().data_ptr()] = held
    if sum(storages.values()) > path.stat().st_size:
        raise UnsafeModelError(f"{path} has {path.stat().st_size} bytes and declares {sum(storages.values())}")


def read_tensors(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Named tensors of a checkpoint; no code in the file is run.

    Parameters
    ----------
    path : path
        .npz, .safetensors, or .pt, .pth, .ckpt, .bin of ``torch.save``.
    key : str, optional
        Which network of a training checkpoint: "ema", "model", "state_dict", or dotted. May be left out where
        there is only one. Where an entry's names have prefixes, the prefix follows: "state_dict.net", "ema.ema_model".
        In .npz and .safetensors it is the prefix alone. A list of tensors, such as "ema.shadow_params", has positions
        as names.

    Returns
    -------
    dict
        Name to tensor, on the CPU. Values beside them that are no tensors (a step, an empty ``_extra_state``) are left
        out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnsafeModelError
        If the file holds more than tensors, containers, numbers (also of numpy), strings, paths and an
        ``argparse.Namespace``; if it is truncated; if it, or a tensor, declares more than it holds.
    ValueError
        If the kind of file is not known, or ``key`` does not single out a dict of tensors; lists the keys there are.
    MissingDependencyError
        If torch, or safetensors for such a file, is not installed.
    """
    path = existing(path)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return network_under(_read_npz(path), key, path)
    if suffix == ".safetensors":
        return network_under(_read_safetensors(path), key, path)
    if suffix in _TORCH_SUFFIXES:
        tensors = network_under(_read_torch(path), key, path)
        _check_held(tensors, path)
        return {name: tensor.detach() for name, tensor in tensors.items()}
    hint = " (a pickled network of the EDM code is read by the family edm)" if suffix == ".pkl" else ""
    raise ValueError(f"{path}: a checkpoint ends in .npz, .safetensors or {', '.join(_TORCH_SUFFIXES)}{hint}")


def read_shards(paths: Sequence[str | Path]) -> dict[str, Tensor]:
    """Tensors of a network that stands in one file or in several; no code in the files is run.

    Parameters
    ----------
    paths : sequence of path
        .safetensors, or .bin of ``torch.save``. Of two tensors of one name, that of the later file counts.

    Returns
    -------
    dict
        Name to tensor, on the CPU.

    Raises
    ------
    FileNotFoundError, UnsafeModelError, ValueError, MissingDependencyError
        As `read_tensors`.
    """
    if len(paths) == 1:
        return read_tensors(paths[0])
    tensors: dict[str, Tensor] = {}
    for path in map(existing, paths):
        # A shard alone need not look like a network: it may hold one scale, or positions.
        torch = import_torch(path)
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
        if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise UnsafeModelError(f"{path} is not a dict of tensors, as a shard of weights is")
        _check_held(content, path)
        tensors |= {name: tensor.detach() for name, tensor in content.items()}
    return tensors


def stored_step(path: str | Path) -> int | None:
    """Training step that a checkpoint of ``torch.save`` keeps beside its weights; None where it keeps none.

    Parameters
    ----------
    path : path
        A checkpoint; of other kinds of files, and of what is no file, nothing is read.

    Returns
    -------
    int or None

    Raises
    ------
    UnsafeModelError
        As `read_tensors`.
    """
    path = Path(path)
    if path.suffix.lower() not in _TORCH_SUFFIXES or not path.is_file():
        return None
    content = _read_torch(path)
    for name in ("global_step", "step", "iteration", "iter") if isinstance(content, Mapping) else ():
        value = content.get(name)
        if hasattr(value, "item") and value.numel() == 1:
            value = value.item()
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def training_args(path: str | Path) -> dict[str, Any]:
    """Arguments of the training script, as its checkpoint keeps them under "args"; empty where there are none.

    Parameters
    ----------
    path : path
        A training checkpoint of ``torch.save``; other kinds keep no arguments.

    Returns
    -------
    dict
        Name to value.

    Raises
    ------
    FileNotFoundError, UnsafeModelError
        As `read_tensors`.
    """
    path = existing(path)
    if path.suffix.lower() not in _TORCH_SUFFIXES:
        return {}
    content = _read_torch(path)
    args = content.get("args") if isinstance(content, Mapping) else None
    if isinstance(args, argparse.Namespace):
        args = vars(args)
    return {str(name): value for name, value in args.items()} if isinstance(args, Mapping) else {}
