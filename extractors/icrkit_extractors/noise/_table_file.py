"""A table of timesteps as a file or a checkpoint keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from icrkit.exceptions import UnsafeModelError
from icrkit_extractors._checkpoint import read_tensors
from icrkit_extractors.noise._table import DDPM

__all__ = ["ddpm", "read_table"]

# What the table is called in checkpoints: the share of the image that is left, or the betas.
_BARS = ("alphas_cumprod", "alphas_bar", "alpha_bar", "alphabar")
_BETAS = ("betas", "beta")


def read_table(path: str | Path, key: str | None = None) -> dict[str, np.ndarray]:
    """The table of timesteps in a file, as `DDPM` takes it.

    Parameters
    ----------
    path : path
        .npy with one axis, or a checkpoint or file of tensors as `extract` reads them.
    key : str, optional
        Dotted name of the table in a checkpoint, such as "state_dict.alphas_cumprod" or "model.betas". Default: the
        one that is called alphas_cumprod (or alphas_bar, alpha_bar), or else betas.

    Returns
    -------
    dict
        ``{"alphas_cumprod": table}`` or, by its name, ``{"betas": table}``.

    Raises
    ------
    ValueError
        If there is no such table or several, or it has more than one axis.
    FileNotFoundError, UnsafeModelError, MissingDependencyError
        If the file is not there, holds more than tensors, or needs a package.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/alphas.npy"
    >>> np.save(path, np.array([0.9, 0.5, 0.1]))
    >>> DDPM(**read_table(path)).sigmas_at([1])
    [1.0]
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        try:
            name, table = key or _BARS[0], np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (ValueError, TypeError, EOFError) as error:
            raise UnsafeModelError(f"{path} is not an array of numbers: {error}") from error
    else:
        name, table = _in_checkpoint(path, key)
    if table.ndim != 1 or table.dtype.kind not in "fiu":
        raise ValueError(f"{path}: the table {name!r} must be numbers (timestep,), not {table.dtype} {table.shape}")
    return {"betas" if _last(name) in _BETAS else "alphas_cumprod": table.astype(np.float64)}


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _in_checkpoint(path: Path, key: str | None) -> tuple[str, np.ndarray]:
    entry, _, name = (key or "").rpartition(".")
    tensors = read_tensors(path, entry or None)
    found = [name] if name in tensors else [held for held in tensors if _last(held) == name]
    if key is None:
        found = next((held for known in (_BARS, _BETAS) if (held := [n for n in tensors if _last(n) in known])), [])
    if len(found) != 1:
        flat = [held for held, value in tensors.items() if value.ndim == 1 and "." not in held]
        raise ValueError(
            f"{path} has {len(found)} tables {f'called {key!r}' if key else 'of timesteps'}: say which, such as "
            f"table={path.name}:{(found or flat or [_BARS[0]])[0]} (of one axis: {', '.join(flat[:12]) or 'none'})"
        )
    return found[0], tensors[found[0]].double().numpy()


def ddpm(*args: Any, table: str | None = None, **options: Any) -> DDPM:
    """`DDPM` as a command line gives it: ``table=FILE[:KEY]`` beside its own parameters."""
    if table is None:
        return DDPM(*args, **options)
    path, colon, key = str(table).rpartition(":")
    # A colon may belong to the path.
    if not colon or Path(str(table)).is_file():
        path, key = str(table), ""
    return DDPM(*args, **read_table(path, key or None), **options)
