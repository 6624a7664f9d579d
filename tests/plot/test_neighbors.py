"""The display of neighbours: what is drawn is what it was given."""

from __future__ import annotations

import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import MissingDependencyError
from icrkit.metrics._neighbors import NeighborRetrieval
from icrkit.plot._neighbors import NeighborsDisplay

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
NUMBERS: dict[str, Any] = {
    "query_images": IMAGES[:2],
    "neighbor_images": IMAGES[[[2, 3, 4], [5, 4, 3]]],
    "similarity": [[0.91, 0.5, -0.25], [0.8, 0.7, -0.001]],
    "query_ids": ["a", "b"],
    "neighbor_ids": [["c", "d", "e"], ["f", "e", "d"]],
}


def words(ax: Any) -> set[str]:
    """All text of an Axes."""
    return {t.get_text() for t in [*ax.texts, ax._left_title, ax.xaxis.label]} - {""}


def test_draws_every_image_with_its_similarity_and_id() -> None:
    display = NeighborsDisplay(**NUMBERS).plot()
    assert display.axes_.shape == (2, 4) and display.figure_ is display.axes_[0, 0].figure
    for q, k, shown in ((0, 0, 0), (0, 1, 2), (0, 3, 4), (1, 0, 1), (1, 2, 4)):
        (image,) = display.axes_[q, k].get_images()
        np.testing.assert_array_equal(image.get_array(), IMAGES[shown, 0])
        assert image.get_clim() == (0, 255)  # as bright as it is, whatever its own range
    assert words(display.axes_[0, 0]) == {"query", "a"}
    assert words(display.axes_[0, 1]) == {"nearest", "c", "0.91"}
    assert words(display.axes_[0, 3]) == {"e", "−0.25"}
    assert words(display.axes_[1, 3]) == {"d", "0.00"}  # no zero below zero


def test_the_farthest_stand_apart_and_views_are_named() -> None:
    views = [[0, 1, 2], [2, 1, 0]]
    display = NeighborsDisplay(
        **NUMBERS, n_farthest=1, neighbor_views=views, query_view=1, component="residual"
    ).plot()  # fmt: skip
    left = [ax.get_position().x0 for ax in display.axes_[0]]
    assert left[3] - left[2] > 1.1 * (left[2] - left[1])
    assert words(display.axes_[0, 3]) == {"farthest", "e", "−0.25", "view 2"}
    assert words(display.axes_[0, 1]) == {"nearest by the residual component", "c", "0.91", "view 0"}
    assert "view 1" in words(display.axes_[1, 0])
    only = NeighborsDisplay(**NUMBERS, n_farthest=3).plot()
    assert "farthest" in words(only.axes_[0, 1])


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 8, 8)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_are_taken_as_extractors_take_them(shape: tuple[int, ...], dtype: Any) -> None:
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    given = image if dtype == np.uint8 else (image / 127.5 - 1).astype(dtype)
    one = {"similarity": [[1.0]], "query_ids": [0], "neighbor_ids": [[1]]}
    display = NeighborsDisplay(query_images=given[None], neighbor_images=given[None, None], **one).plot()
    want = np.moveaxis(image, 0, 2) if shape[0] == 3 else image.reshape(8, 8)
    for ax in display.axes_[0]:
        np.testing.assert_array_equal(ax.get_images()[0].get_array(), want)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="neighbor_ids has shape"):
        NeighborsDisplay(**{**NUMBERS, "neighbor_ids": [["c", "d"], ["f", "e"]]})
    with pytest.raises(ValueError, match="an image has shape"):
        NeighborsDisplay(**{**NUMBERS, "query_images": np.zeros((2, 4, 8, 8))}).plot()


@pytest.mark.parametrize("component", ["invariant", "residual"])
def test_from_estimator_draws_what_was_found(component: str) -> None:
    cube = ik.datasets.load_fashion_cube().select(sigma=0.057, tolerance=0.1)
    images = ik.datasets.load_fashion_images("test")
    found = NeighborRetrieval([7, 3], component, n_neighbors=3, n_farthest=1, view=1).fit(cube)
    display = NeighborsDisplay.from_estimator(found, images.images)
    what = found.neighbor_retrieval_
    np.testing.assert_array_equal(display.similarity, what.similarity)
    assert display.query_ids.tolist() == ["test-7", "test-3"] and display.n_farthest == 1
    assert display.query_view == (1 if component == "residual" else None)
    for q in range(2):
        for k, image in enumerate(what.images[q]):
            drawn = display.axes_[q, 1 + k].get_images()[0].get_array()
            np.testing.assert_array_equal(drawn, images.images[image, 0])
            assert f"test-{image}" in words(display.axes_[q, 1 + k])
    names = np.array(images.class_names)[images.labels]
    named = NeighborsDisplay.from_estimator(found, images.images, names=names)
    assert words(named.axes_[0, 0]) - {"view 1"} == {"query", names[7]}
    with pytest.raises(ValueError, match="4 images were given"):
        NeighborsDisplay.from_estimator(found, images.images[:4])
    with pytest.raises(ValueError, match="not fitted"):
        NeighborsDisplay.from_estimator(NeighborRetrieval(), images.images)


def test_takes_the_axes_of_a_larger_figure() -> None:
    figure, axes = plt.subplots(4, 4)
    display = NeighborsDisplay(**NUMBERS).plot(axes[2:])
    assert display.figure_ is figure and display.axes_[1, 3] is axes[3, 3]
    assert not axes[0, 0].get_images()


def test_matplotlib_is_needed_for_drawing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    display = NeighborsDisplay(**NUMBERS)
    with pytest.raises(MissingDependencyError, match=r'pip install "icrkit\[plot\]"'):
        display.plot()
