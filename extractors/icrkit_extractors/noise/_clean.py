"""No noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from icrkit_extractors.noise._law import Array, Level, as_floats

__all__ = ["Clean"]


@dataclass(frozen=True)
class Clean:
    """No noise and no conditioning: for encoders, at the one level 0.

    Examples
    --------
    >>> Clean().levels([0.0])
    [Level(alpha=1.0, sigma=0.0)]
    """

    def levels(self, sigmas: Iterable[float]) -> list[Level]:
        """The level (1, 0); any other is a ValueError."""
        values = as_floats("sigmas", sigmas)
        if values != [0.0]:
            raise ValueError(f"clean images have the one noise level 0: sigmas=[0.0], not {values}")
        return [Level(1.0, 0.0)]

    def __call__(self, x0: Array, noise: Array, sigma: float | Level) -> tuple[Array, dict[str, Array]]:
        """The images as they are, and no conditioning."""
        self.levels([sigma.ratio if isinstance(sigma, Level) else sigma])
        return x0, {}

    def config(self) -> dict[str, Any]:
        """The law, for the attributes of a cube."""
        return {"name": "Clean"}
