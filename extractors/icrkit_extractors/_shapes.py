"""Shapes of outputs and inputs as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["shape_words"]


def shape_words(shape: Any) -> str:
    """A shape, or those of several items: a free axis by its name, one without a name as ``?``, what has none as ``-``.

    Examples
    --------
    >>> shape_words(("n", 64, 8, 8)), shape_words((None, 64)), shape_words((2,))
    ('(n, 64, 8, 8)', '(?, 64)', '(2)')
    >>> shape_words(((2, 17, 32), None)), shape_words({"last_hidden_state": (2, 17, 32)}), shape_words(None)
    ('((2, 17, 32), -)', '{last_hidden_state: (2, 17, 32)}', '-')
    """
    if shape is None:
        return "-"
    if isinstance(shape, Mapping):
        return "{" + ", ".join(f"{name}: {shape_words(one)}" for name, one in shape.items()) + "}"
    if not isinstance(shape, list | tuple):
        return str(shape)
    several = any(isinstance(item, list | tuple | Mapping) for item in shape)
    return "(" + ", ".join(shape_words(item) if several else "?" if item is None else str(item) for item in shape) + ")"
