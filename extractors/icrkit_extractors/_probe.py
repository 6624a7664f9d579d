"""What a source does to the first two images, as a few numbers: whether a store is continued by the network it has.

Names, files and digests say what a network is made of. Numbers in plain attributes, code, hooks and versions of
libraries decide features too, and no list of them would be whole. The features themselves show them all.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["probe_difference", "probe_numbers"]

# Rounding differs between processors, kernels and numbers of threads. In units of a layer's norm: float32 on CPUs came
# within 1e-5 of each other, TF32 and half precision within 1e-2; an unrelated network is at about 1.
_ROUNDING, _COARSE_ROUNDING = 1e-3, 3e-2
_COARSE = ("float16", "bfloat16")


def probe_numbers(features: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Five numbers per layer: the norm of the features, and two projections each of their mean and their difference.

    Parameters
    ----------
    features : mapping of str to ndarray (n, d)
        Features of one or two images.

    Returns
    -------
    dict
        Layer to [norm, mean, mean, difference, difference], rounded to seven digits.
    """
    probe = {}
    for name, h in features.items():
        rows = np.asarray(h[:2], dtype=np.float64)
        mean, difference = rows.mean(axis=0), rows[0] - rows[-1]
        place = np.arange(1, len(mean) + 1)
        # Directions that no symmetry of the features is blind to; their last digits do not matter.
        projections = [float(np.cos(k * place) @ vector) for vector in (mean, difference) for k in (1.7, 2.3)]
        # Over the root of the number of images: the norm of one image.
        norm = float(np.linalg.norm(rows) / np.sqrt(len(rows)))
        probe[name] = [float(f"{value:.7g}") for value in (norm, *projections)]
    return probe


def _rounding(record: Mapping[str, Any]) -> float:
    coarse = (
        record.get("dtype") in _COARSE
        or record.get("autocast") is not None
        or record.get("device", "cpu") != "cpu"
        or any(provider != "CPUExecutionProvider" for provider in record.get("providers") or ())
    )
    torch = sys.modules.get("torch")
    # Below "highest" float32 products may be taken in bfloat16 or TF32, on some processors and not on others.
    coarse = coarse or (torch is not None and torch.get_float32_matmul_precision() != "highest")
    return _COARSE_ROUNDING if coarse else _ROUNDING


def probe_difference(before: object, now: Mapping[str, list[float]], record: Mapping[str, Any]) -> str | None:
    """What differs by more than rounding between two probes of the same images.

    Parameters
    ----------
    before : object
        A probe as a store records it.
    now : mapping
        As `probe_numbers` gives it.
    record : mapping
        What is known of the source: its type, device and providers decide how far rounding goes.

    Returns
    -------
    str or None
        The layer and how far apart it is; None where the probes agree, or cannot be compared.
    """
    if not isinstance(before, Mapping):
        return None
    allowed = _rounding(record)
    for name, numbers in now.items():
        there = before.get(name)
        if (
            not isinstance(there, list)
            or len(there) != len(numbers)
            or not all(isinstance(x, int | float) for x in there)
        ):
            continue
        norm = max(numbers[0], abs(there[0]))
        apart = max(abs(a - b) for a, b in zip(there, numbers, strict=True))
        if apart > allowed * norm:
            return f"layer {name!r} differs by {apart / norm:.2g} of its norm (rounding is below {allowed:g})"
    return None
