"""What other packages say of an input made again from its seed: numbers frozen by the scripts of tests/oracles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

ORACLES = Path(__file__).parents[1] / "oracles"


class Oracle(NamedTuple):
    """A peer's numbers, and by name the arrays that it said them of."""

    numbers: dict[str, Any]
    made: dict[str, Any]


@pytest.fixture(scope="session")
def oracle() -> Callable[[str], Oracle]:
    """The oracle of a name: the file ``tests/oracles/NAME.json``."""

    def read(name: str) -> Oracle:
        found = json.loads((ORACLES / f"{name}.json").read_text())
        made: dict[str, Any] = {"np": np}
        exec(found["input"], made)
        return Oracle(found["numbers"], made)

    return read


@pytest.fixture(scope="session")
def of_sizes() -> Callable[..., np.ndarray]:
    """Features (n, v, d) of ICR .5 whose residuals have one size, ten times it in an image of 50, or lognormal ones."""

    def make(seed: int, scale: str = "one", n: int = 200, d: int = 8, v: int = 2) -> np.ndarray:
        rng = np.random.default_rng(seed)
        size = {
            "one": np.ones(n),
            "outliers": np.where(np.arange(n) % 50 == 0, 10.0, 1.0),
            "lognormal": np.exp(rng.standard_normal(n)),
        }[scale]
        signal = rng.standard_normal((n, 1, d))
        return signal + size[:, None, None] * rng.standard_normal((n, v, d))

    return make
