"""Text for people and for programs."""

from __future__ import annotations

import json
from collections import OrderedDict

import numpy as np
import pytest

from icrkit._text import cell_text, printable, strict_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mid", "mid"),
        ("σ = 0.1 ± 2 %, ICR ↓", "σ = 0.1 ± 2 %, ICR ↓"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\nicrkit: forged\r", r"a\nicrkit: forged\r"),
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),  # the second set of control characters too
        ("\u202egnp.exe\u2028", r"\u202egnp.exe\u2028"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\udce9"),
    ],
)
def test_one_line_that_is_safe(text, shown):
    assert printable(text) == shown
    assert printable(printable(text)) == shown
    printable(text).encode("utf-8")


def test_json_of_anything_is_strict():
    value = {
        1: [np.nan, np.inf, -np.inf, np.float32("nan"), np.float64(0.1), np.int64(3), np.bool_(True)],
        "array": np.array([[1.0, np.nan]]),
        "nested": OrderedDict(a=({"b": np.inf},)),
        "text": "\ud800\x1b",
        "object": np.dtype("float32"),
        "none": None,
    }

    def refuse(name):
        raise AssertionError(name)

    read = json.loads(strict_json(value), parse_constant=refuse)
    assert read["1"] == [None, None, None, None, 0.1, 3, True]
    assert read["array"] == [[1.0, None]] and read["nested"] == {"a": [{"b": None}]}
    assert read["object"] == "float32" and read["none"] is None
    assert strict_json(value).isascii()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\r=", "\n@", "＝", "－"])
def test_a_cell_is_no_formula(start):
    cell = cell_text(start + 'HYPERLINK("x")')
    assert cell[0] == "'" and "\t" not in cell and "\r" not in cell and "\n" not in cell


def test_other_cells_stay():
    assert [cell_text(text) for text in ("mid", "a-b", "0.1", "")] == ["mid", "a-b", "0.1", ""]
