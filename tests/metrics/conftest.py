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
