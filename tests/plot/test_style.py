"""The look of all displays: numbers as people write them, colours that can be told apart and exchanged."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from icrkit.exceptions import MissingDependencyError
from icrkit.plot._style import (
    ACCENT,
    COLORS,
    FAINT,
    INK,
    MUTED,
    PAPER,
    WARM,
    dress,
    log_x,
    plain,
    plain_log_axis,
    pyplot,
    shorten,
    shorten_apart,
    text_points,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.057, "0.057"),
        (0.30000000000000004, "0.3"),
        (1e-4, "0.0001"),
        (9e-5, "9e-05"),
        (80.0, "80"),
        (999.6, "1,000"),
        (1138, "1,138"),
        (12345.6, "12,346"),
        (1e6, "1e+06"),
        (-0.25, "-0.25"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert plain(value) == text


def test_long_names_keep_both_ends_and_stay_apart() -> None:
    names = [f"model.diffusion_model.transformer_blocks.{k}.attention.to_out_projection" for k in range(3)]
    for points in (60.0, 120.0, 200.0):
        short = shorten(names[0], points)
        assert text_points(short) <= points and "…" in short
        head, tail = short.split("…")
        assert names[0].startswith(head) and names[0].endswith(tail) and abs(len(head) - len(tail)) <= 1
        assert len(set(shorten_apart(names, points))) == 3
    assert shorten("mid", 60.0) == "mid" and shorten_apart(["mid", "mid"], 60.0) == ["mid", "mid"]
    assert text_points("two lines\nof text") == text_points("two lines") > text_points("of text")


@pytest.mark.parametrize("values", [[0.0, 0.01, 0.1, 2.0], [0.0, 50.0, 1000.0], [0.02, 0.5, 3.0]])
def test_a_logarithmic_axis_has_nothing_below_zero(values: list[float]) -> None:
    figure = Figure()
    ax = figure.subplots()
    ax.plot(values, values, "o")
    log_x(ax, np.array(values))
    figure.canvas.draw()
    left, right = ax.get_xlim()
    shown = [
        text for text, at in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)
        if left <= at <= right and text.get_text()
    ]  # fmt: skip
    assert shown and not any(text.get_text().startswith(("-", "\N{MINUS SIGN}")) for text in shown)
    at = ax.transAxes.inverted().transform(ax.transData.transform([(value, 1.0) for value in values]))[:, 0]
    assert 0 < at[0] < 0.1 and 0.9 < at[-1] <= 1 and (np.diff(at) > 0.1).all()


@settings(max_examples=100, derandomize=True)
@given(value=st.floats(1e-9, 1e9))
def test_numbers_keep_their_value_and_are_short(value: float) -> None:
    text = plain(value)
    rtol = 5e-3 if 1e-4 <= value < 1e6 else 0.5
    assert float(text.replace(",", "")) == pytest.approx(value, rel=rtol)
    assert len(text) <= 8


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_each_colour_occurs_once_so_that_a_page_can_exchange_it() -> None:
    assert len(set(COLORS.values())) == len(COLORS)
    for name, color in COLORS.items():
        assert to_hex(color) == color, f"{name} is not written as matplotlib writes it into an SVG"


def test_text_and_curves_stand_out_from_the_paper() -> None:
    for color in (INK, MUTED):
        assert contrast(color, PAPER) >= 4.5  # text, WCAG AA
    for color in (ACCENT, WARM):
        assert contrast(color, PAPER) >= 3  # lines
    assert contrast(FAINT, PAPER) < 2  # what should not


def test_curves_stay_apart_in_grey() -> None:
    lightness = [luminance(color) ** (1 / 2.4) for color in (INK, ACCENT, WARM, FAINT)]
    assert all(b - a > 0.05 for a, b in itertools.pairwise(lightness))


def test_dressed_axes() -> None:
    ax = Figure().subplots()
    dress(ax, "ICR")
    assert ax.get_title(loc="left") == "ICR" and ax.get_title() == ""
    assert [name for name, spine in ax.spines.items() if spine.get_visible()] == ["left", "bottom"]
    assert to_hex(ax.spines["left"].get_edgecolor()) == MUTED
    assert ax.patch.get_facecolor()[3] == 0  # the page's own ground shows


def test_decades_are_plain_numbers() -> None:
    figure = Figure()
    ax = figure.subplots()
    ax.plot([0.001, 100], [1, 2])
    ax.set_xscale("log")
    plain_log_axis(ax.xaxis)
    figure.canvas.draw()
    texts = [label.get_text() for label in ax.get_xticklabels()]
    assert {"0.001", "0.01", "0.1", "1", "10", "100"} <= set(texts)
    assert not any(label.get_text() for label in ax.get_xticklabels(minor=True))
    ax.set_xlim(30, 1500)
    figure.canvas.draw()
    assert "1,000" in [label.get_text() for label in ax.get_xticklabels()]
    between = {label.get_text() for label in ax.get_xticklabels(minor=True) if 30 < label.get_position()[0] < 1500}
    assert between == {"", "50", "200", "500"}


def test_pyplot_or_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pyplot() is sys.modules["matplotlib.pyplot"]
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr("matplotlib.pyplot")
    with pytest.raises(MissingDependencyError, match=r'pip install "icrkit\[plot\]"') as error:
        pyplot()
    assert isinstance(error.value, ImportError)
