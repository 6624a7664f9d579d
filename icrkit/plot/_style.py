"""The look that all displays share: few colours, thin frames, plain numbers on the axes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icrkit.exceptions import MissingDependencyError
from icrkit.io import write_file

# Each colour occurs for one purpose only, so that a page can exchange it for a dark one. Their lightness differs too:
# curves stay apart when printed in grey.
INK = "#1b1f24"
MUTED = "#5c6670"
FAINT = "#c9ced4"
PAPER = "#fefefe"
ACCENT = "#1c5d99"
WARM = "#b8501e"
COLORS = {"ink": INK, "muted": MUTED, "faint": FAINT, "paper": PAPER, "accent": ACCENT, "warm": WARM}

TEXT_SIZE = 9.0
SMALL_TEXT = 8.0


def pyplot() -> Any:
    """matplotlib.pyplot, or an error that says how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingDependencyError('plots need matplotlib: pip install "icrkit[plot]"') from error
    return plt


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure whole or not at all: PNG, SVG, PDF or what else matplotlib writes, by the ending of the name."""
    ending = Path(path).suffix[1:].lower()
    if not ending:
        known = ", ".join(f".{name}" for name in sorted(figure.canvas.get_supported_filetypes()))
        raise ValueError(f"{path} has no ending that says what to write; expected one of {known}")
    drawn = io.BytesIO()
    figure.savefig(drawn, format=ending, dpi=200)
    write_file(path, drawn.getbuffer())


def plain(value: float) -> str:
    """A number as people write it: 0.057, not 5.7e-2."""
    if 999.5 <= abs(value) < 1e6:
        return f"{round(value):,}"
    return f"{value:.3g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else f"{value:.0e}"


def dress(ax: Any, title: str) -> None:
    """Title at the left in place of a turned axis label; no box."""
    ax.set_title(title, loc="left", fontsize=TEXT_SIZE + 1, color=INK, pad=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(MUTED)
    ax.tick_params(which="both", colors=MUTED, labelsize=SMALL_TEXT, width=0.8)
    ax.set_facecolor("none")


def text_points(words: str, size: float = SMALL_TEXT) -> float:
    """Points that the longest line of a text takes, however a figure is laid out."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    return max(
        float(text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]) for line in words.split("\n")
    )


def shorten(words: str, points: float, size: float = SMALL_TEXT) -> str:
    """A name that takes so many points at most: both its ends, with an ellipsis between them."""
    shown, kept = words, len(words)
    while kept > 4 and text_points(shown, size) > points:
        kept -= 1
        shown = f"{words[: kept // 2]}…{words[len(words) - (kept - kept // 2) :]}"
    return shown


def shorten_apart(names: Sequence[str], points: float, size: float = SMALL_TEXT) -> list[str]:
    """Names as :func:`shorten` makes them, with as many points more as it takes to tell them from one another."""
    shown = [shorten(name, points, size) for name in names]
    while len(set(shown)) < len(set(names)):
        points *= 1.2
        shown = [shorten(name, points, size) for name in names]
    return shown


def mark_region(ax: Any, start: float, stop: float, words: str = "") -> None:
    """Hatch what does not count, from an end of the axis to somewhere, and name it at its upper end."""
    ax.axvspan(start, stop, facecolor="none", edgecolor=FAINT, hatch="////", linewidth=0, zorder=0)
    if not words:
        return
    ends = ax.transData.transform([(start, 0.0), (stop, 0.0)])
    left, right = (min(1.0, max(0.0, float(x))) for x in ax.transAxes.inverted().transform(ends)[:, 0])
    x, side = (left + right) / 2, "center"
    room = (right - left) * _AXES_SHARE * ax.get_window_extent().width * 72 / ax.figure.dpi
    if room < text_points(words):
        # Wider than what it names: from the outer end on, so that it covers no numbers and no names of curves.
        x, side = (left + 0.01, "left") if left < 1 - right else (right - 0.01, "right")
    ax.text(
        x, 0.975, words, transform=ax.transAxes, ha=side, va="top", fontsize=SMALL_TEXT, color=MUTED,
        linespacing=1.15, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip


_AXES_SHARE = 0.85  # of its place that an axis keeps beside its numbers and the names of curves


def log_x(ax: Any, values: Any) -> None:
    """A logarithmic x axis for what is drawn, which begins at 0 where that is among the values and never below."""
    values = np.asarray(values, dtype=np.float64)
    least = float(values[values > 0].min())
    if values.min() > 0:
        ax.set_xscale("log")
    else:
        ax.set_xscale("symlog", linthresh=least, linscale=0.5)
        _, right = ax.get_xlim()
        ax.set_xlim(-0.2 * least, right)
    plain_log_axis(ax.xaxis)


def plain_log_axis(axis: Any) -> None:
    """Decades as plain numbers, and where the axis has fewer than three of them 2 and 5 between."""
    from matplotlib.ticker import FuncFormatter

    def between(value: float, position: Any) -> str:
        low, high = (abs(end) for end in axis.get_view_interval())
        digit = f"{abs(value):.0e}"[0]
        return plain(value) if digit in "25" and low > 0 and high < 1000 * low else ""

    axis.set_major_formatter(FuncFormatter(lambda value, position: plain(value)))
    axis.set_minor_formatter(FuncFormatter(between))
    # Minor ticks are shorter by so much: their names are to stand in one line with the others.
    axis.set_tick_params(which="minor", pad=5.0)
