"""The display of a Fisher spectrum."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import icrkit as ik
from icrkit.plot import SpectrumDisplay


def heights(ax: plt.Axes) -> np.ndarray:
    """Ends of the stems, left to right."""
    ends = [segment[1] for stems in ax.collections for segment in stems.get_segments()]
    return np.array(sorted(map(tuple, ends)))[:, 1]


def test_draws_every_eigenvalue_and_marks_negative_ones() -> None:
    values = [12.0, 1.0, 0.05, -0.03, -0.2]
    display = SpectrumDisplay(values, title="of mid").plot()
    np.testing.assert_array_equal(heights(display.ax_), values)
    assert "2 negative" in [text.get_text() for text in display.ax_.texts]
    assert any(np.all(np.asarray(line.get_ydata()) == 0) for line in display.ax_.get_lines())  # the zero line
    low, high = display.ax_.get_ylim()
    assert low < -0.2 and high > 12
    assert display.ax_._left_title.get_text() == "of mid"


def test_says_nothing_of_negative_ones_where_there_are_none() -> None:
    display = SpectrumDisplay([2.0, 0.5]).plot()
    assert not [text for text in display.ax_.texts if "negative" in text.get_text()]


@pytest.mark.parametrize("values", [np.geomspace(100, 0.01, 600), [0.02], [-0.1, -0.4]])
def test_wide_single_and_negative_spectra_are_drawn(values: np.ndarray) -> None:
    SpectrumDisplay(values).plot().figure_.canvas.draw()


def test_from_estimator_takes_an_axes() -> None:
    spectrum = ik.FisherSpectrum().fit(ik.datasets.make_cube(n_images=100, n_features=4))
    _, ax = plt.subplots()
    display = SpectrumDisplay.from_estimator(spectrum, ax=ax)
    assert display.ax_ is ax
    np.testing.assert_array_equal(heights(ax), spectrum.eigenvalues_)
    with pytest.raises(ValueError, match="not fitted"):
        SpectrumDisplay.from_estimator(ik.FisherSpectrum())
