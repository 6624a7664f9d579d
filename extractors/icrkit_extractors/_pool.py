"""From a layer's output to one feature vector an image: which axis holds the features, and what becomes of the rest."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Pool"]

_GRID = re.compile(r"grid:([1-9][0-9]*)")


def _is_tensor(output: Any) -> bool:
    # torch is not imported to find out: a tensor exists only where somebody else did.
    return hasattr(output, "new_full")


def _is_complex(output: Any) -> bool:
    return bool(output.is_complex() if _is_tensor(output) else np.iscomplexobj(output))


def _joined(parts: list[Any]) -> Any:
    if _is_tensor(parts[0]):
        import torch  # here already, for there is a tensor

        return torch.cat(parts, dim=1)
    return np.concatenate(parts, axis=1)


def _mean(output: Any, axes: tuple[int, ...]) -> Any:
    if _is_tensor(output):
        return output.float().mean(dim=axes)
    return output.mean(axis=axes, dtype=np.float32)


def _grid_means(maps: Any, k: int) -> Any:
    """Means (n, d, k, k) of maps (n, d, h, w); cell i of an axis is floor(i h / k) to ceil((i + 1) h / k)."""
    if _is_tensor(maps):
        from torch.nn import functional

        return functional.adaptive_avg_pool2d(maps.float(), k)
    n, d, h, w = maps.shape
    means = np.empty((n, d, k, k), dtype=np.float32)
    for i in range(k):
        rows = slice(i * h // k, -(-(i + 1) * h // k))
        for j in range(k):
            columns = slice(j * w // k, -(-(j + 1) * w // k))
            means[:, :, i, j] = maps[:, :, rows, columns].mean(axis=(2, 3), dtype=np.float32)
    return means


@dataclass(frozen=True)
class Pool:
    """Features (n, d) from a layer's output (n, ...).

    Parameters
    ----------
    how : str
        "mean" averages over space or over all tokens; "none" flattens the output as it is; "class" takes the first
        token; "patches" averages over the tokens after the first ``n_prefix``; "grid:K" averages over the cells of a
        K x K grid of the map, or of the tokens after the first ``n_prefix`` laid out as a square, row by row.
        Outputs (n, d) and (n,) pass through.
    feature_axis : int, optional
        Axis of the features. Default: 1 for outputs (n, channel, height, width) and the last for
        (n, token, channel); outputs of more axes need it stated. "none" does not ask for it.
    n_prefix : int
        Class and register tokens before the patches, for "patches" and "grid:K".

    Raises
    ------
    ValueError
        If ``how`` is none of these, ``feature_axis`` is 0 (the images) or ``n_prefix`` is negative.

    Notes
    -----
    Everything is summed in float32. Of complex outputs the features are the real parts, then the imaginary ones: twice
    as many. "grid:K" has features feature by feature, then row by row (d K K of them); its
    cells are those of torch's ``adaptive_avg_pool2d`` and overlap where K does not divide the map.

    Examples
    --------
    >>> maps = np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)
    >>> Pool()("mid", maps, 1)
    array([[ 7.5, 23.5]], dtype=float32)
    >>> Pool("grid:2")("mid", maps, 1).tolist()
    [[2.5, 4.5, 10.5, 12.5, 18.5, 20.5, 26.5, 28.5]]
    """

    how: str = "mean"
    feature_axis: int | None = None
    n_prefix: int = 1

    def __post_init__(self) -> None:
        if self.how not in ("mean", "none", "class", "patches") and not _GRID.fullmatch(str(self.how)):
            raise ValueError(f"pool must be 'mean', 'none', 'class', 'patches' or 'grid:K', not {self.how!r}")
        if self.feature_axis == 0:
            raise ValueError("feature_axis is 0, which is the axis of the images")
        if self.n_prefix < 0:
            raise ValueError(f"n_prefix must be 0 or more, not {self.n_prefix}")

    def _axis(self, where: str, ndim: int) -> int:
        """Axis of the features, counted from the front."""
        if self.feature_axis is None:
            if ndim not in (3, 4):
                raise ValueError(f"{where}: state feature_axis, or flatten with pool='none'")
            return 1 if ndim == 4 else 2
        axis = self.feature_axis + ndim if self.feature_axis < 0 else self.feature_axis
        if not 0 < axis < ndim:
            raise ValueError(f"{where}: it has no feature_axis {self.feature_axis}")
        return axis

    def _maps(self, where: str, output: Any, axis: int) -> Any:
        """The output as (n, d, h, w)."""
        if output.ndim == 4:
            return output.movedim(axis, 1) if _is_tensor(output) else np.moveaxis(output, axis, 1)
        if output.ndim != 3:
            raise ValueError(f"{where}: pool={self.how!r} takes maps (n, c, h, w) or tokens (n, token, c)")
        by_feature = output if axis == 1 else output.swapaxes(1, 2)
        patches = by_feature[:, :, self.n_prefix :]
        side = math.isqrt(patches.shape[2])
        if side**2 != patches.shape[2]:
            raise ValueError(
                f"{where}: {patches.shape[2]} tokens after the first n_prefix={self.n_prefix} are no square grid"
            )
        return patches.reshape(*patches.shape[:2], side, side)

    def _pooled(self, where: str, output: Any) -> Any:
        axis = self._axis(where, output.ndim)
        if self.how == "mean":
            return _mean(output, tuple(k for k in range(1, output.ndim) if k != axis))
        if (grid := _GRID.fullmatch(self.how)) is not None:
            maps, k = self._maps(where, output, axis), int(grid[1])
            if min(maps.shape[2:]) < k:
                raise ValueError(f"{where}: a map of {maps.shape[2]} x {maps.shape[3]} has no {k} x {k} grid")
            return _grid_means(maps, k)
        if output.ndim != 3:
            raise ValueError(f"{where}: pool={self.how!r} takes tokens (n, token, c)")
        tokens = output if axis == 2 else output.swapaxes(1, 2)
        if self.how == "class":
            return tokens[:, 0]
        if tokens.shape[1] <= self.n_prefix:
            raise ValueError(f"{where}: no token is left after the first n_prefix={self.n_prefix}")
        return _mean(tokens[:, self.n_prefix :], (1,))

    def __call__(self, name: str, output: Any, n: int) -> Any:
        """Features of one layer's output.

        Parameters
        ----------
        name : str
            The layer, for messages.
        output : ndarray or Tensor (n, ...)
            What the layer gave.
        n : int
            Images in the batch.

        Returns
        -------
        ndarray or Tensor (n, d), float32, contiguous
            Of the same framework, on the same device.

        Raises
        ------
        ValueError
            If the first axis is not the batch, or the shape is empty or not one that ``how`` takes; names layer and
            shape.
        """
        shape = tuple(output.shape)
        if not shape or shape[0] != n:
            raise ValueError(f"layer {name!r} gives shape {shape} for {n} images: its first axis must be the image")
        if 0 in shape:
            raise ValueError(f"layer {name!r} gives shape {shape}, which holds no number")
        if _is_complex(output):
            parts = [self(name, part, n) for part in (output.real, output.imag)]
            return _joined(parts)
        kept: Any = output
        if len(shape) > 2 and self.how != "none":
            kept = self._pooled(f"layer {name!r} gives shape {shape}", output)
        kept = kept.reshape(n, math.prod(kept.shape[1:]))
        return kept.float().contiguous() if _is_tensor(kept) else np.ascontiguousarray(kept, dtype=np.float32)

    def config(self) -> dict[str, Any]:
        """What was pooled and how, for the attributes of a cube."""
        record: dict[str, Any] = {"pool": self.how}
        if self.how != "none":
            record["feature_axis"] = "1 of 4, last of 3" if self.feature_axis is None else self.feature_axis
        if self.how == "patches" or _GRID.fullmatch(self.how):
            record["n_prefix"] = self.n_prefix
        return record
