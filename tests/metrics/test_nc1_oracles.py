"""NC1 against the numbers of neural-collapse, frozen by tests/oracles/neural_collapse.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import icrkit as ik

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "neural_collapse.json").read_text())
MADE: dict[str, np.ndarray] = {}
exec(ORACLE["input"], MADE)
NC1 = [name for name in ORACLE["numbers"] if not name.startswith("cdnv")]


@pytest.mark.parametrize("name", NC1)
def test_all_variants_of_neural_collapse(name):
    variant, data, *of_samples = name.replace(", mean of samples", " of samples").split(" of ")
    rows, y = MADE[data], MADE[f"{data}_y"]
    value = ik.nc1(rows, y, variant, "samples" if of_samples else "classes")
    if variant == "svd":  # Han 2022 does not divide by the number of classes; the peer does
        value /= len(np.unique(y))
    assert value == pytest.approx(ORACLE["numbers"][name], rel=1e-8)


def test_every_variant_was_asked_for():
    assert len(NC1) == 11 and {name.split()[0] for name in NC1} == {"pinv", "svd", "quotient"}
