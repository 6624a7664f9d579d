"""Text for people and for programs: one safe line, strict JSON, and cells that a spreadsheet takes for text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["at_sigma", "cell_text", "count", "printable", "strict_json"]


def count(n: int, what: str) -> str:
    """A number of things, one of which has no s at its end.

    Examples
    --------
    >>> count(1, "level"), count(12, "level")
    ('1 level', '12 levels')
    """
    return f"{n} {what}{'' if n == 1 else 's'}"


def at_sigma(sigma: float) -> str:
    """The noise level as the end of a place's name; nothing where the features are of none that is known.

    Examples
    --------
    >>> "layer mid" + at_sigma(0.1), "layer mid" + at_sigma(float("nan"))
    ('layer mid, sigma 0.1', 'layer mid')
    """
    return "" if math.isnan(sigma) else f", sigma {sigma:g}"


def printable(text: object) -> str:
    """One line that is safe in a terminal: what is not printable is shown as an escape.

    Names, attributes and ids come out of files that anyone may have written. Control characters would move the cursor
    or forge lines, directional marks reorder what is read, and bytes that are no UTF-8 cannot be encoded.

    Examples
    --------
    >>> printable("a\\x1b[31m\\nb")
    'a\\\\x1b[31m\\\\nb'
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def strict_json(value: Any, indent: int | None = 1, *, compact: bool = False) -> str:
    """JSON that every parser reads (RFC 8259): a number that is not finite is null.

    What icrkit writes or prints as JSON comes from here, or forbids such numbers, as the state of a monitor does.

    Parameters
    ----------
    value : object
        Mappings, sequences, scalars and arrays; of anything else its text.
    indent : int or None
        None for one line.
    compact : bool
        One line without a space.
    """
    separators, depth = ((",", ":"), None) if compact else (None, indent)
    return json.dumps(_jsonable(value), indent=depth, separators=separators, allow_nan=False)


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return _jsonable(value.tolist()) if hasattr(value, "tolist") else str(value)


def cell_text(text: object) -> str:
    """Text as a cell of a CSV file: a spreadsheet does not take it for a formula.

    Examples
    --------
    >>> cell_text("=1+1"), cell_text("mid")
    ("'=1+1", 'mid')
    """
    line = printable(text)
    return f"'{line}" if str(text).lstrip()[:1] in ("=", "+", "-", "@", "＝", "＋", "－", "＠") else line
