"""What every view takes and leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icrkit_extractors import views


def random_images(n: int = 64, channels: int = 1, height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, channels, height, width)).astype(np.float32)


def test_bytes_become_the_unit_range():
    x = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    unit = views.as_unit_range(x)
    assert unit.dtype == np.float32 and unit.min() == -1 and unit.max() == 1
    np.testing.assert_allclose(unit, x / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(views.Fashion()(x, [0], 0, 0), views.Fashion()(unit, [0], 0, 0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((3, 8, 8), np.float32), r"images\[:, None\]"),
        (np.zeros((3, 1, 8, 8), np.int64), "int64"),
        (np.full((3, 1, 8, 8), 2.0), r"\[-1, 1\], found 2 to 2"),
        (np.full((3, 1, 8, 8), np.nan), "NaN or infinity"),
        (np.full((3, 1, 8, 8), -np.inf), "NaN or infinity"),
    ],
)
def test_bad_images(bad, message):
    with pytest.raises(ValueError, match=message):
        views.Fashion()(bad, range(3), 0, 0)


def test_ids_must_fit():
    with pytest.raises(ValueError, match="2 image ids for 3 images"):
        views.Fashion()(random_images(3), [0, 1], 0, 0)
    assert views.Fashion()(random_images(0), [], 0, 0).shape == (0, 1, 16, 16)


LEVELS = range(1, 6)


@pytest.mark.parametrize("view", [*map(views.Paper, LEVELS), views.Unchanged(), views.FromTorch(lambda t: t.mul_(0.5))])
def test_a_view_leaves_its_input_alone_and_shares_no_memory(view):
    x = random_images(8, 3)
    kept = x.copy()
    y = view(x, range(8), 0, 0)
    assert not np.shares_memory(x, y)
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("view", [views.Paper(5), views.FromTorch(torch.clone), views.Unchanged()])
def test_every_view_wants_images_and_as_many_ids(view):
    with pytest.raises(ValueError, match="2 image ids for 3 images"):
        view(random_images(3), [0, 1], 0, 0)
    with pytest.raises(ValueError, match=r"images\[:, None\]"):
        view(np.zeros((3, 8, 8), np.float32), range(3), 0, 0)
    with pytest.raises(TypeError, match="an image id is an int or a string"):
        views.Paper()(random_images(1), [1.5], 0, 0)
    assert view(random_images(0, 3), [], 0, 0).shape == (0, 3, 16, 16)


def test_who_draws_from_streams_of_its_own():
    assert views.Augment.own_streams and views.Paper.own_streams and views.Unchanged.own_streams
    assert not hasattr(views.FromTorch, "own_streams")
