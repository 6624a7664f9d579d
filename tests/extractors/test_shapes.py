"""Shapes as a person reads them."""

from __future__ import annotations

import pytest

from icrkit_extractors._shapes import shape_words


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 64, 8, 8), "(2, 64, 8, 8)"),
        (["n", None, "Conv_dim_0"], "(n, ?, Conv_dim_0)"),
        ((), "()"),
        (((2, 32), ((2, 3), (2, 4))), "((2, 32), ((2, 3), (2, 4)))"),
        (((2, 17), None), "((2, 17), -)"),
        ({"a": (2, 3), "b": None}, "{a: (2, 3), b: -}"),
        (None, "-"),
    ],
)
def test_words(shape: object, words: str) -> None:
    assert shape_words(shape) == words
