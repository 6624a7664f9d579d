"""Whether a network gives an image the same features at every call and beside every other image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["differs", "first_difference", "neighbours", "places_like_first", "signature"]

# Relative to the norm of an image's output. The passes that are compared have the same shapes, hence the same kernels,
# and mostly the same bits; what is left is the order of sums on some devices, far below these.
_TOLERANCE = {"float64": 1e-8, "float32": 1e-4, "complex64": 1e-4, "complex128": 1e-8}
_TOLERANCE_HALF = 2e-2
_SAMPLED = 4096


def differs(one: torch.Tensor, other: torch.Tensor, half: bool = False) -> bool:
    """Whether two outputs for one image are different beyond rounding; False where either is not finite."""
    import torch

    if one.shape != other.shape:
        return True
    a, b = (torch.view_as_real(t) if t.is_complex() else t for t in (one, other))
    a, b = a.double(), b.double()
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return False
    kind = str(one.dtype).removeprefix("torch.")
    tolerance = _TOLERANCE_HALF if half else _TOLERANCE.get(kind, _TOLERANCE_HALF)
    return bool((a - b).norm() > tolerance * torch.maximum(a.norm(), b.norm()))


def neighbours(x: torch.Tensor, places: Sequence[int] = (0,)) -> torch.Tensor:
    """The batch with the first image in these places, and others around it."""
    other = x[:1] / 2 - x if x.is_floating_point() else x.roll(1, 0)
    other[list(places)] = x[:1]
    return other


def places_like_first(n: int, conditioning: Mapping[str, Any]) -> list[int]:
    """Places other than the first that an image may take with the same conditioning: half-way and last.

    Parameters
    ----------
    n : int
        Images in the batch.
    conditioning : mapping
        What has n rows has one for each image.
    """
    rows = [value for value in conditioning.values() if hasattr(value, "__len__") and not isinstance(value, str)]
    rows = [value for value in rows if not hasattr(value, "ndim") or value.ndim]
    rows = [value for value in rows if not isinstance(value, Mapping) and len(value) == n]
    same = [place for place in range(1, n) if all(_equal(value[0], value[place]) for value in rows)]
    return sorted({same[len(same) // 2], same[-1]}) if same else []


def _equal(one: Any, other: Any) -> bool:
    same = one == other
    return bool(same.all() if hasattr(same, "all") else same)


def signature(output: Any) -> torch.Tensor | None:
    """Some numbers of what a module gives for the first image."""
    import torch

    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, Sequence) and not isinstance(output, str):
        output = next((item for item in output if isinstance(item, torch.Tensor)), None)
    if not isinstance(output, torch.Tensor) or output.is_nested or not output.ndim or not output.numel():
        return None
    if output.layout is not torch.strided or not (output.is_floating_point() or output.is_complex()):
        return None
    row = output[0].detach().reshape(-1)
    return row[:: -(-row.numel() // _SAMPLED)].clone()


def first_difference(
    run: Callable[[int, Callable[[nn.Module, Any], None]], None], names: Mapping[nn.Module, str], half: bool
) -> str:
    """The first module whose output differs between two runs, in words; empty where that cannot be said.

    Parameters
    ----------
    run : callable (which, note)
        Run the network as the first or second time, and give each module and its output to ``note``.
    names : mapping of module to str
    half : bool
        Whether parts compute in half precision.
    """
    passes: list[list[tuple[nn.Module, torch.Tensor | None]]] = [[], []]
    for which in (0, 1):
        run(which, lambda part, output, into=passes[which]: into.append((part, signature(output))))  # type: ignore[misc]
    for (part, one), (again, other) in zip(*passes, strict=False):
        if part is not again or (one is not None and other is not None and differs(one, other, half)):
            return f", first in the output of {names.get(part, 'the network')!r} ({type(part).__name__})"
    return ""
