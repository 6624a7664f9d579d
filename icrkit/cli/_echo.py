"""What every command prints and writes: safe lines, strict JSON, and files looked at before the work."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from icrkit._text import printable, strict_json

__all__ = [
    "FIGURES",
    "PAGES",
    "check_targets",
    "say",
    "say_json",
    "say_result",
    "signs_of",
    "spatial_sign_option",
    "warn",
]

# For features of which a few images outweigh the rest.
spatial_sign_option = click.option("--spatial-sign", is_flag=True, help="Give all images one size first.")
FIGURES = (".png", ".svg", ".pdf")
PAGES = (".html", ".htm")


def signs_of(cube: Any, wanted: bool) -> Any:
    """The cube, with its images at one size where that is wanted."""
    if not wanted:
        return cube
    from icrkit.metrics import spatial_sign

    return spatial_sign(cube)


def say(line: object = "") -> None:
    """Print one line."""
    click.echo(printable(line))


def warn(line: str) -> None:
    """Print one line on standard error, as the group shows warnings, whatever filters there are."""
    warnings.showwarning(line, UserWarning, __file__, 0)  # which the group has replaced


def say_json(value: Any) -> None:
    """Print JSON."""
    click.echo(strict_json(value))


def say_result(result: Any) -> None:
    """Table, headline and sentences of a sweep or a course."""
    for line in result.to_text().split("\n"):
        say(line)
    say()
    say(f"{result.headline}.")
    for sentence in result.sentences:
        say(sentence)


def check_targets(targets: Mapping[str | None, Sequence[str]]) -> None:
    """Refuse files that cannot be written, by folder or ending, before the work and not after it."""
    for path, endings in targets.items():
        if path is None:
            continue
        folder = Path(path).resolve().parent
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(folder))
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "this folder cannot be written to", str(folder))
        if Path(path).suffix.lower() not in endings:
            raise click.UsageError(f"{path}: expected a name that ends in {' or '.join(endings)}")
