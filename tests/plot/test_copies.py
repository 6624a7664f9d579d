"""The display of generated images: what is drawn is what it was given, where it belongs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from icrkit.exceptions import MissingDependencyError
from icrkit.plot._copies import CopiesDisplay
from icrkit.plot._style import FAINT, WARM

RNG = np.random.default_rng(0)
GENERATED, NEAREST = RNG.integers(0, 256, (2, 2, 3, 1, 8, 8), dtype=np.uint8)
COPIED = np.array([[False, True, False], [True, True, False]])


def display(**changed: Any) -> CopiesDisplay:
    given: dict[str, Any] = {"steps": [100, 200], "generated": GENERATED, "nearest": NEAREST, "copied": COPIED}
    return CopiesDisplay(**given | changed)


def test_each_image_stands_over_its_nearest_and_copies_are_framed() -> None:
    axes = display().plot().axes_
    assert axes.shape == (4, 3)
    for k in range(2):
        for j in range(3):
            above, below = axes[2 * k, j], axes[2 * k + 1, j]
            for ax, images in ((above, GENERATED), (below, NEAREST)):
                (image,) = ax.get_images()
                np.testing.assert_array_equal(image.get_array(), images[k, j, 0])
                assert image.get_clim() == (0, 255)
            assert to_hex(above.spines["left"].get_edgecolor()) == (WARM if COPIED[k, j] else FAINT)
            assert to_hex(below.spines["left"].get_edgecolor()) == FAINT
            upper, lower = above.get_position(), below.get_position()
            assert upper.x0 == lower.x0 and upper.y0 > lower.y1
    assert axes[1, 0].get_position().y0 > axes[2, 0].get_position().y1


def test_words_and_size() -> None:
    drawn = display(rule="nearer than most").plot(Figure())
    words = [text.get_text() for text in drawn.figure_.texts]
    assert words.count("generated") == words.count("nearest in training") == 2
    assert {"step 100", "step 200", "Framed: nearer than most"} <= set(words)
    assert not any("Framed" in text.get_text() for text in display().plot().figure_.texts)
    positions = [ax.get_position() for ax in drawn.axes_.ravel()]
    assert all(0 <= p.x0 < p.x1 <= 1 and 0 <= p.y0 < p.y1 <= 1 for p in positions)
    width, height = drawn.figure_.get_size_inches()
    assert positions[0].width * width == pytest.approx(positions[0].height * height)  # pixels are square


def test_colours_are_shown_as_colours() -> None:
    colour = RNG.integers(0, 256, (1, 2, 3, 8, 8), dtype=np.uint8)
    axes = display(steps=[1], generated=colour, nearest=colour, copied=np.zeros((1, 2), bool)).plot().axes_
    np.testing.assert_array_equal(axes[0, 1].get_images()[0].get_array(), np.moveaxis(colour[0, 1], 0, -1))


@pytest.mark.parametrize(
    "changed", [{"steps": [1]}, {"copied": COPIED[:, :2]}, {"nearest": NEAREST[:1]}, {"copied": COPIED[0]}]
)
def test_parts_that_do_not_agree(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must agree in steps and images"):
        display(**changed)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "icrkit\[plot\]"'):
        display().plot()
