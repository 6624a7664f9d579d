"""The display of a sweep: what is drawn is what it was given."""

from __future__ import annotations

import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import MissingDependencyError
from icrkit.plot import SigmaCurveDisplay

SIGMA = np.array([0.01, 0.1, 1.0])
NUMBERS: dict[str, Any] = {
    "sigma": SIGMA,
    "value": np.array([0.52, 0.4, 0.8]),
    "low": np.array([0.5, 0.38, 0.78]),
    "high": np.array([0.54, 0.42, 0.82]),
    "plugin": np.array([0.5, 0.37, 0.79]),
}
INFORMATION: dict[str, Any] = {
    "value": np.array([9.0, 11.0, 3.0]),
    "low": np.array([8.0, 10.0, 2.0]),
    "high": np.array([10.0, 12.0, 4.0]),
}


def lines(ax: Any) -> list[np.ndarray]:
    """Ordinates of every line of an Axes."""
    return [np.asarray(line.get_ydata()) for line in ax.get_lines()]


def drawn(ax: Any, values: np.ndarray) -> bool:
    """Whether a line with these ordinates is there."""
    return any(len(y) == len(values) and np.array_equal(y, values) for y in lines(ax))


def words(ax: Any) -> str:
    """All text of an Axes."""
    return "\n".join(text.get_text() for text in [*ax.texts, ax.title, ax._left_title])


def test_draws_its_numbers() -> None:
    display = SigmaCurveDisplay(**NUMBERS, chosen=0.1, window=(0.1, 0.1), layer="mid").plot()
    ax = display.ax_
    assert display.figure_ is ax.figure
    assert drawn(ax, NUMBERS["value"]) and drawn(ax, NUMBERS["plugin"])
    band = ax.collections[0].get_paths()[0].vertices
    assert {0.78, 0.82} <= set(band[:, 1])
    assert ax.get_xscale() == "log"
    assert "mid" in words(ax) and "chosen: σ = 0.1" in words(ax) and "plug-in" in words(ax)
    assert display.accuracy_ax_ is None


def test_untrained_levels_are_hatched_and_named() -> None:
    display = SigmaCurveDisplay(**NUMBERS, trained_range=(0.05, 5.0)).plot()
    hatched = [patch for patch in display.ax_.patches if patch.get_hatch()]
    assert len(hatched) == 1 and "below the\ntrained range" in words(display.ax_)
    assert drawn(display.ax_, NUMBERS["value"][1:])  # solid over trained levels only
    both = SigmaCurveDisplay(**NUMBERS, trained_range=(0.05, 0.5)).plot()
    assert len([patch for patch in both.ax_.patches if patch.get_hatch()]) == 2
    assert "above the\ntrained range" in words(both.ax_)


def test_nothing_is_hatched_where_all_levels_were_trained() -> None:
    display = SigmaCurveDisplay(**NUMBERS, trained_range=(0.001, 10.0)).plot()
    assert not [patch for patch in display.ax_.patches if patch.get_hatch()]
    assert "trained" not in words(display.ax_)


def test_accuracy_gets_a_panel_of_its_own() -> None:
    accuracy, error = np.array([0.6, 0.7, 0.3]), np.array([0.01, 0.02, 0.03])
    display = SigmaCurveDisplay(**NUMBERS, accuracy=accuracy, accuracy_error=error, chosen=0.1).plot()
    assert drawn(display.accuracy_ax_, accuracy)
    assert len(display.figure_.axes) == 2
    segments = display.accuracy_ax_.collections[0].get_segments()
    np.testing.assert_allclose([s[1, 1] - s[0, 1] for s in segments], 2 * error)


def test_one_axes_leaves_accuracies_out() -> None:
    _, ax = plt.subplots()
    display = SigmaCurveDisplay(**NUMBERS, accuracy=np.ones(3)).plot(ax)
    assert display.ax_ is ax and display.accuracy_ax_ is None


def test_from_estimator_holds_the_window() -> None:
    cube = ik.datasets.make_cube(n_images=300, n_features=4, icr=[0.6, 0.3, 0.5], sigmas=[0.01, 0.1, 1.0])
    window = ik.SemanticWindow().fit(cube)
    display = SigmaCurveDisplay.from_estimator(window)
    np.testing.assert_array_equal(display.value, window.curve_["icr"].to_numpy()[0])
    assert display.chosen == window.best_sigma_ == 0.1
    assert display.window == window.window_
    with pytest.raises(ValueError, match="not fitted"):
        SigmaCurveDisplay.from_estimator(ik.SemanticWindow())


def test_from_estimator_draws_what_the_levels_were_ranked_by() -> None:
    cube = ik.datasets.make_cube(n_images=300, n_features=4, icr=[0.6, 0.3, 0.5], sigmas=[0.01, 0.1, 1.0])
    window = ik.SemanticWindow(criterion="information").fit(cube)
    display = SigmaCurveDisplay.from_estimator(window)
    one = window.curve_.sel(layer="features")
    for name, column in (("value", "information"), ("low", "information_low"), ("high", "information_high")):
        np.testing.assert_array_equal(getattr(display, name), one[column])
    assert display.criterion == "information" and display.plugin is None
    assert drawn(display.ax_, one["information"].to_numpy()) and "plug-in" not in words(display.ax_)
    assert "information of features, nats" in words(display.ax_) and "higher is better" in words(display.ax_)
    of_icr = SigmaCurveDisplay.from_estimator(window, criterion="icr")
    np.testing.assert_array_equal(of_icr.value, one["icr"])
    assert of_icr.chosen == display.chosen and "lower is cleaner" in words(of_icr.ax_)
    with pytest.raises(ValueError, match="criterion must be one of"):
        SigmaCurveDisplay.from_estimator(window, criterion="auc")


@pytest.mark.parametrize("criterion", ["icr", "information"])
def test_names_stand_clear_of_the_curve(criterion: str) -> None:
    numbers = NUMBERS if criterion == "icr" else {"sigma": SIGMA, **INFORMATION}
    display = SigmaCurveDisplay(**numbers, criterion=criterion, trained_range=(0.05, 5.0), chosen=0.1).plot()
    ax = display.ax_
    display.figure_.canvas.draw()
    (named,) = (text for text in ax.texts if "trained range" in text.get_text())
    top_of_band = ax.transData.transform([(0.01, numbers["high"][:2].max())])[0, 1]
    assert named.get_window_extent().y0 > top_of_band
    (chosen,) = (text for text in ax.texts if "chosen" in text.get_text())
    assert chosen.get_window_extent().y1 < ax.transData.transform([(0.1, numbers["low"][1])])[0, 1]


def test_levels_outside_the_trained_range_are_drawn_and_not_chosen() -> None:
    cube = ik.datasets.make_cube(n_images=300, n_features=4, icr=[0.2, 0.3, 0.5], sigmas=[0.01, 0.1, 1.0])
    display = SigmaCurveDisplay.from_estimator(ik.SemanticWindow(trained_range=(0.1, 1.0)).fit(cube))
    assert len(display.sigma) == 3 and display.chosen == 0.1
    assert display.trained_range == (0.1, 1.0)


@pytest.mark.parametrize("sigma", [[0.0, 0.1, 1.0], [0.5]])
def test_clean_and_single_levels_are_drawn(sigma: list[float]) -> None:
    n = len(sigma)
    display = SigmaCurveDisplay(sigma=sigma, value=[0.5] * n, low=[0.5] * n, high=[0.5] * n, chosen=sigma[0]).plot()
    display.figure_.canvas.draw()


def test_matplotlib_is_needed_for_drawing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    display = SigmaCurveDisplay(**NUMBERS)
    with pytest.raises(MissingDependencyError, match=r'pip install "icrkit\[plot\]"'):
        display.plot()
