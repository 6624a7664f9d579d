"""The display of ICR against the number of images: what is drawn is what it was given."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import MissingDependencyError
from icrkit.plot._sample_size import SampleSizeDisplay
from icrkit.readings._sample_size import sample_size_curve

NUMBERS: dict[str, Any] = {
    "n_images": [64, 128, 256],
    "plugin": np.array([0.0, 0.3, 0.42]),
    "crossfit": np.array([np.nan, 0.52, 0.5]),
    "low": np.array([np.nan, 0.4, 0.45]),
    "high": np.array([np.nan, 0.9, 0.55]),
}


def drawn(ax: Any, values: np.ndarray) -> bool:
    """Whether a line with these ordinates is there."""
    return any(np.array_equal(line.get_ydata(), values, equal_nan=True) for line in ax.get_lines())


def test_draws_its_numbers() -> None:
    gaussian, expected = np.array([np.nan, 0.5, 0.49]), np.array([0.0, 0.31, 0.43])
    display = SampleSizeDisplay(**NUMBERS, gaussian=gaussian, plugin_expected=expected, n_features=64).plot()
    ax = display.ax_
    assert display.figure_ is ax.figure
    for values in (NUMBERS["plugin"], NUMBERS["crossfit"], gaussian, expected):
        assert drawn(ax, values)
    band = ax.collections[0].get_paths()[0].vertices
    assert {0.4, 0.45, 0.55, 0.9} <= set(band[:, 1])
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["cross-fitted", "gaussian", "plug-in", "plug-in, expected"]
    assert "64 features" in [text.get_text() for text in ax.texts] and ax.get_xscale() == "log"
    display.figure_.canvas.draw()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["64", "128", "256"]
    # The curves have the room: the widest interval is cut.
    assert ax.get_ylim()[1] == pytest.approx(1.4 * 0.52)


def test_from_curve_holds_the_curve() -> None:
    curve = sample_size_curve(ik.datasets.make_cube(400, 8, random_state=0), [8, 64, 400])
    display = SampleSizeDisplay.from_curve(curve)
    for name in ("plugin", "crossfit", "low", "high", "gaussian", "plugin_expected"):
        np.testing.assert_array_equal(getattr(display, name), curve[name])
    assert display.n_features == 8 and display.confidence == 0.95
    _, ax = plt.subplots()
    assert SampleSizeDisplay.from_curve(curve, ax=ax).ax_ is ax


def test_one_size_and_no_extras_are_drawn() -> None:
    display = SampleSizeDisplay(**{name: values[-1:] for name, values in NUMBERS.items()}).plot()
    display.figure_.canvas.draw()
    assert len(display.ax_.get_lines()) == 2


def test_names_of_sizes_do_not_meet() -> None:
    n = np.unique(np.geomspace(50, 60_000, 60).astype(int))
    display = SampleSizeDisplay(n_images=n, **{name: np.full(len(n), 0.5) for name in list(NUMBERS)[1:]}).plot()
    display.figure_.canvas.draw()
    boxes = [label.get_window_extent() for label in display.ax_.get_xticklabels()]
    assert len(boxes) > 4 and all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_matplotlib_is_needed_for_drawing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    display = SampleSizeDisplay(**NUMBERS)
    with pytest.raises(MissingDependencyError, match=r'pip install "icrkit\[plot\]"'):
        display.plot()
