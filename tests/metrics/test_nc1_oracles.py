"""NC1 against the numbers of neural-collapse, frozen by tests/oracles/neural_collapse.py."""

from __future__ import annotations

import numpy as np
import pytest

import icrkit as ik

DATA = ("balanced", "unbalanced", "narrow")
NC1 = [
    *(f"pinv of {data}" for data in DATA),
    *(f"svd of {data}" for data in DATA[:2]),
    *(f"quotient of {data}" for data in DATA),
    *(f"quotient of {data}, mean of samples" for data in DATA),
]


@pytest.mark.parametrize("name", NC1)
def test_all_variants_of_neural_collapse(oracle, name):
    numbers, made = oracle("neural_collapse")
    variant, data, *of_samples = name.replace(", mean of samples", " of samples").split(" of ")
    rows, y = made[data], made[f"{data}_y"]
    value = ik.nc1(rows, y, variant, "samples" if of_samples else "classes")
    if variant == "svd":  # Han 2022 does not divide by the number of classes; the peer does
        value /= len(np.unique(y))
    assert value == pytest.approx(numbers[name], rel=1e-8)


def test_every_variant_was_asked_for(oracle):
    assert set(NC1) == {name for name in oracle("neural_collapse").numbers if not name.startswith("cdnv")}
    assert len(NC1) == 11 and {name.split()[0] for name in NC1} == {"pinv", "svd", "quotient"}
