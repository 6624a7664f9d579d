"""Changes of colour: each one exact, one after the other in the order drawn for the image."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from icrkit_extractors import views
from icrkit_extractors.views._colour import JITTER


def random_images(n: int = 64, channels: int = 1, height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, channels, height, width)).astype(np.float32)


def colours(n: int = 2, height: int = 8, width: int = 8, seed: int = 0) -> np.ndarray:
    """Colours in [0, 1], grey ones, pure ones and ties among them."""
    x = np.random.default_rng(seed).random((n, 3, height, width), dtype=np.float32)
    x[:, :, 0] = np.round(2 * x[:, :, 0]) / 2
    x[:, :, 1] = x[:, :1, 1]
    return x


def changed(name: str, x: np.ndarray, amounts: object) -> np.ndarray:
    x = x.copy()
    JITTER[name](x, np.broadcast_to(np.asarray(amounts, dtype=float), len(x)))
    return x


def test_brightness_multiplies_and_contrast_and_saturation_blend():
    x = colours(3)
    f = np.array([0.0, 0.6, 1.7])
    per = f[:, None, None, None]
    grey = (0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]).astype(np.float64)
    mean = grey.mean(axis=(1, 2, 3), keepdims=True)
    for name, wanted in (
        ("brightness", per * x),
        ("contrast", mean + per * (x - mean)),
        ("saturation", grey + per * (x - grey)),
    ):
        np.testing.assert_allclose(changed(name, x, f), np.clip(wanted, 0, 1), atol=4e-7)


def test_a_third_of_the_circle_permutes_the_channels():
    x = colours()
    np.testing.assert_allclose(changed("hue", x, 1 / 3), np.roll(x, 1, axis=1), atol=4e-7)
    np.testing.assert_allclose(changed("hue", x, -1 / 3), np.roll(x, -1, axis=1), atol=4e-7)
    np.testing.assert_allclose(changed("hue", x, 0.0), x, atol=2e-7)
    grey = np.repeat(x[:, :1], 3, axis=1)
    np.testing.assert_array_equal(changed("hue", grey, 0.2), grey)


@pytest.mark.parametrize("turn", [-0.5, -0.31, 0.02, 0.1, 0.5])
def test_hue_equals_colorsys(turn):
    x = colours(1, 12, 12)
    turned = changed("hue", x, turn)[0].reshape(3, -1).T
    for before, after in zip(x[0].reshape(3, -1).T.astype(float), turned, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        np.testing.assert_allclose(after, colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=1e-6)


def test_colours_change_one_after_the_other_in_the_order_of_the_image():
    x = 2 * colours(60) - 1
    paper = views.Paper(brightness=0.9, contrast=0.9, saturation=0.9, hue=0.4)
    draws = paper._draws(list(range(60)), 1, 2, 4)
    before = views.Paper(2)(x, range(60), 1, 2)
    wanted = np.empty_like(x)
    for k in range(60):
        one = (before[k : k + 1] + 1) / 2
        for number in draws.order[k]:
            name = list(JITTER)[number]
            one = changed(name, one, draws.jitter[name][k])
        wanted[k] = 2 * one[0] - 1
    np.testing.assert_allclose(paper(x, range(60), 1, 2), wanted, atol=1e-6)
    # Clipping makes the order matter: with another one the result would not be the same.
    assert len({tuple(order) for order in draws.order.tolist()}) > 10


def test_grey_images_have_no_saturation_and_no_hue():
    x = random_images(30)
    only_colour = views.Paper(3, brightness=0, contrast=0)
    np.testing.assert_array_equal(only_colour(x, range(30), 0, 0), views.Paper(2)(x, range(30), 0, 0))
    # Brightness and contrast are what three equal channels get.
    grey = views.Paper(3, saturation=0, hue=0)
    rgb = grey(np.repeat(x, 3, axis=1), range(30), 0, 0)
    np.testing.assert_allclose(np.repeat(grey(x, range(30), 0, 0), 3, axis=1), rgb, atol=2e-4)


def test_colours_need_one_or_three_channels():
    x = random_images(3, 4)
    assert views.Paper(2)(x, range(3), 0, 0).shape == x.shape
    assert views.Paper(4, brightness=0, contrast=0, saturation=0, hue=0)(x, range(3), 0, 0).shape == x.shape
    with pytest.raises(ValueError, match=r"brightness, hue: colours change in images of 1 or 3 channels, not 4"):
        views.Paper(3, contrast=0, saturation=(1, 1))(x, range(3), 0, 0)
