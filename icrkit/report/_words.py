"""Numbers, lists and criteria as sentences and tables have them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = [
    "TERMS",
    "Terms",
    "capital",
    "image_count",
    "interval",
    "level_words",
    "listed",
    "number",
    "share",
    "with_unit",
]


class Terms(NamedTuple):
    """How one speaks of a criterion.

    Attributes
    ----------
    name : str
    other : str
        The criterion to look at beside it.
    unit : str
        To put behind a number.
    best : str
        Where it is best, it is this.
    change : str
        Change for the worse.
    changed : str
        What it has done when it is worse.
    improving : str
        What it does while it gets better.
    """

    name: str
    other: str
    unit: str
    best: str
    change: str
    changed: str
    improving: str


TERMS = {
    "icr": Terms("ICR", "information", "", "lowest", "rise", "risen", "falling"),
    "information": Terms("information", "icr", " nats", "highest", "fall", "fallen", "rising"),
}


def image_count(n_images: int, attrs: Mapping[str, Any]) -> str:
    """How many images, and whether they were given one size."""
    return f"{n_images} images{' of one size (spatial signs)' if attrs.get('spatial_sign') else ''}"


def number(value: float, criterion: str) -> str:
    """A value of a criterion: ICR to three decimals, information to three digits or a tenth of a nat."""
    decimals = 3 if criterion == "icr" else 2 if abs(value) < 9.995 else 1
    return f"{value:.{decimals}f}"


def with_unit(value: float, criterion: str) -> str:
    """A value of a criterion, as ``0.484`` or ``4.09 nats``."""
    return number(value, criterion) + TERMS[criterion].unit


def interval(low: float, high: float, criterion: str) -> str:
    """An interval of a criterion, as ``3.89 to 4.29``."""
    return f"{number(low, criterion)} to {number(high, criterion)}"


def share(value: float) -> str:
    """A share in percent, to two digits where it is small: ``12%``, ``5%``, ``0.12%``; a dash where there is none."""
    if math.isnan(value):
        return "–"
    percent = 100 * value
    return f"{percent:.0f}%" if abs(percent) >= 9.95 else f"{percent:.2g}%"


def capital(words: str) -> str:
    """The words with a capital first letter."""
    return words[:1].upper() + words[1:]


def level_words(sigma: float) -> str:
    """A noise level, to four digits: those between two ends are long numbers."""
    return f"{sigma:.4g}"


def listed(items: Iterable[Any], last: str = "or") -> str:
    """``0.1, 0.3 or 0.6``."""
    *others, end = (level_words(item) if isinstance(item, float) else str(item) for item in items)
    return f"{', '.join(others)} {last} {end}" if others else end
