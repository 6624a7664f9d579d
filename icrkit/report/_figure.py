"""Figures inside a page: SVG whose colours and font are the page's, and PNG images, as text."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icrkit.exceptions import MissingDependencyError
from icrkit.plot._style import COLORS

__all__ = ["figure", "inline_svg", "png_uri"]


@contextlib.contextmanager
def figure(size: tuple[float, float], panels: tuple[float, ...] = (), style: dict[str, Any] | None = None) -> Any:
    """A figure that pyplot does not know, and its axes; the user's own style does not reach it.

    Parameters
    ----------
    size : (float, float)
        Width and height in inches.
    panels : tuple of float
        Heights of stacked panels with a common x axis, relative to one another; one panel by default.
    style : dict
        Settings of matplotlib.
    """
    try:
        from matplotlib import style as styles
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError('figures need matplotlib: pip install "icrkit[report]"') from error
    with styles.context(["default", {"hatch.linewidth": 0.8, **(style or {})}]):
        canvas = Figure(figsize=size, layout="constrained")
        heights = panels or (1.0,)
        yield canvas, canvas.subplots(len(heights), 1, sharex=True, height_ratios=heights)


def inline_svg(draw: Callable[[Any], Any], size: tuple[float, float], name: str, panels: tuple[float, ...] = ()) -> str:
    """An ``<svg>`` element without fixed colours.

    Parameters
    ----------
    draw : callable
        Draws on the Axes it is given; on an array of Axes where there are several panels.
    size : (float, float)
        Width and height in inches, 72 units each.
    name : str
        Begins every id inside, so that figures of one page do not share any.
    panels : tuple of float
        As for `figure`.

    Returns
    -------
    str
        Text stays text. Each colour of ``icrkit.plot`` is a CSS variable, ``var(--ink)`` and so on.
    """
    with figure(size, panels, {"svg.fonttype": "none", "svg.hashsalt": name}) as (canvas, axes):
        draw(axes)
        written = io.StringIO()
        canvas.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"<style.*?</style>\s*", "", svg, flags=re.DOTALL)  # it would reach the whole page
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg).replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for word, color in COLORS.items():
        svg = svg.replace(color, f"var(--{word})")
    return svg


def png_uri(image: NDArray[np.uint8]) -> str:
    """A small image as a ``data:`` address.

    Parameters
    ----------
    image : ndarray (channel, height, width), uint8
        One channel is grey, three are red, green and blue; of other numbers the mean is shown.
    """
    if len(image) not in (1, 3):
        image = image.mean(axis=0, keepdims=True).astype(np.uint8)
    channels, height, width = image.shape
    rows = np.moveaxis(image, 0, -1).reshape(height, width * channels)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()  # filter 0 before each row

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()
