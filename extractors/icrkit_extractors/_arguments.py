"""Texts of the command line as values: literals, options, noise laws, views, levels, shards."""

from __future__ import annotations

import ast
import importlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from icrkit_extractors import noise, views

__all__ = ["law_of", "levels_of", "literal", "options_of", "shard_of", "view_of"]

# What a name on the command line stands for.
VIEWS: dict[str, Callable[..., Any]] = {
    name.lower(): getattr(views, name) for name in ("Paper", "Augment", "Fashion", "Digits", "Unchanged")
}
# More are a slip of the keyboard: each is a forward pass of every view of every image.
_MOST_LEVELS = 10_000


def literal(text: str) -> Any:
    """A Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def item_of(text: str) -> Any:
    """Which item of an output: a position, a name or a way to it ("1.0"), or a dict of layers to these."""
    value = literal(text)
    return text if isinstance(value, float) else value


def options_of(texts: Iterable[str], option: str) -> dict[str, Any]:
    """``NAME=VALUE`` as a dict; ``NAME.KEY=VALUE`` is an entry of the dict NAME."""
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name, dot, key = name.partition(".")
        if not equals or not name.isidentifier() or (dot and not key):
            raise click.BadParameter(f"{text!r} is not name=value", param_hint=option)
        inside = given.setdefault(name, {}) if dot else given
        if not isinstance(inside, dict) or (key or name) in inside:
            raise click.BadParameter(f"{name + dot + key} is given twice", param_hint=option)
        inside[key or name] = literal(value)
    return given


def _made(text: str, known: Mapping[str, Callable[..., Any]], option: str) -> Any:
    """What NAME, NAME:VALUE or NAME:KEY=VALUE,... stands for."""
    name, _, rest = text.partition(":")
    if name.lower() not in known:
        raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}", param_hint=option)
    # Commas inside brackets belong to a value.
    parts = re.split(r",(?![^(\[]*[)\]])", rest) if rest else []
    positional = [literal(part) for part in parts if "=" not in part]
    named = {key: literal(value) for key, _, value in (part.partition("=") for part in parts if "=" in part)}
    try:
        return known[name.lower()](*positional, **named)
    except (TypeError, ValueError, OverflowError) as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint=option) from error


def law_of(text: str) -> Any:
    """The noise law of ``--noise``."""
    name, _, rest = text.partition(":")
    if name != "scheduler":
        return _made(text, noise.LAWS, "--noise")
    try:
        return noise.from_scheduler(json.loads(Path(rest).read_text(encoding="utf-8")))
    except OSError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise click.BadParameter(f"{rest} is not a scheduler_config.json: {error}", param_hint="--noise") from error


def view_of(text: str) -> Any:
    """The views of ``--views``."""
    module, _, name = text.partition(":")
    if "." in module and name:
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise click.BadParameter(f"{text!r}: {error}", param_hint="--views") from error
        return found() if isinstance(found, type) else found
    return _made(text, VIEWS, "--views")


def levels_of(text: str | None, law: Any) -> list[float]:
    """The noise levels of ``--sigmas``."""
    if text is None:
        if isinstance(law, noise.Clean):
            return [0.0]
        trained = getattr(law, "trained_range", None)
        hint = f"; this network was trained on {trained[0]:.3g} to {trained[1]:.3g}" if trained else ""
        raise click.UsageError(f"--sigmas is needed, such as 0.05,0.1,0.2 or 0.02:2:10 (low:high:count){hint}")
    try:
        levels = _range(text) if ":" in text else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is neither a list like 0.05,0.1 nor low:high:count", param_hint="--sigmas"
        ) from error
    wrong = [level for level in levels if not 0 <= level < math.inf]
    if wrong:
        raise click.BadParameter(
            f"{text!r}: a noise level is a number from 0 up, not {wrong[0]:g}", param_hint="--sigmas"
        )
    return levels


def _range(text: str) -> list[float]:
    first, last, number = text.split(":")
    low, high, count = float(first), float(last), int(number)
    if not (0 < low < high < math.inf and 2 <= count <= _MOST_LEVELS):
        raise click.BadParameter(
            f"{text!r}: low:high:count has 0 < low < high, and a count from 2 to {_MOST_LEVELS:,}",
            param_hint="--sigmas",
        )
    # Four digits: levels that a person can type again. The ends stay as they were typed.
    between = [float(f"{value:.4g}") for value in np.geomspace(low, high, count)[1:-1]]
    return [low, *between, high]


def shard_of(text: str | None) -> tuple[int, int] | None:
    """Part and number of parts of ``--shard``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise click.BadParameter(f"{text!r} is not I/N with I from 0 to N - 1", param_hint="--shard")
    return int(match[1]), int(match[2])
