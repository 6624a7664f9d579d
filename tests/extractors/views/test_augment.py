"""Small grey images: what Augment draws, how far it moves, and what stays the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icrkit_extractors import views

NOTHING = {"flip": False, "shift": 0, "rotation": 0.0, "scale": 0.0, "contrast": 0.0, "brightness": 0.0}


only = lambda **given: views.Augment(**{**NOTHING, **given})  # noqa: E731


def random_images(n: int = 64, channels: int = 1, height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, channels, height, width)).astype(np.float32)


def test_nothing_is_the_identity():
    for x in (random_images(), random_images(7, 3, 5, 8), random_images(3, 1, 1, 1)):
        np.testing.assert_array_equal(only()(x, range(len(x)), 0, 0), x)


@settings(max_examples=25)
@given(
    n=st.integers(1, 90),
    channels=st.integers(1, 3),
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    view=st.integers(0, 5),
    seed=st.integers(0, 10),
)
def test_alone_in_a_batch_in_another_order(n, channels, height, width, view, seed):
    x, ids = random_images(n, channels, height, width, seed), [f"img{k}" for k in range(n)]
    augment = views.Augment(shift=min(2, height - 1))
    whole = augment(x, ids, view, seed)
    assert whole.shape == x.shape and whole.dtype == np.float32
    assert whole.min() >= -1 and whole.max() <= 1
    order = np.random.default_rng(seed).permutation(n)
    np.testing.assert_array_equal(augment(x[order], [ids[k] for k in order], view, seed), whole[order])
    for k in {0, n // 2, n - 1}:
        np.testing.assert_array_equal(augment(x[k : k + 1], ids[k : k + 1], view, seed)[0], whole[k])
    strided = np.asfortranarray(np.repeat(x, 2, axis=3))[..., ::2]
    np.testing.assert_array_equal(augment(strided, ids, view, seed), whole)


def test_views_seeds_and_ids_differ():
    x = np.repeat(random_images(1), 2, axis=0)
    first = views.Fashion()(x, [0, 1], 0, 0)
    assert not np.array_equal(first[0], first[1])
    for other in (
        views.Fashion()(x, [0, 1], 1, 0),
        views.Fashion()(x, [0, 1], 0, 1),
        views.Fashion()(x, ["0", "1"], 0, 0),
    ):
        assert not np.array_equal(first[0], other[0])


def test_the_input_is_left_alone():
    x = random_images()
    kept = x.copy()
    views.Fashion()(x, range(64), 0, 0)
    np.testing.assert_array_equal(x, kept)


def test_flip_mirrors_columns_of_half_the_images():
    x = random_images(400)
    y = only(flip=True)(x, range(400), 0, 0)
    mirrored = np.array([np.array_equal(b, a[..., ::-1]) for a, b in zip(x, y, strict=True)])
    same = np.array([np.array_equal(b, a) for a, b in zip(x, y, strict=True)])
    assert np.all(mirrored ^ same)
    assert 150 < mirrored.sum() < 250


def test_shift_is_whole_pixels_uniform_with_black_beyond():
    x = random_images(1000, 1, 5, 5)
    y = only(shift=1)(x, range(1000), 0, 0)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1)
    counts = np.zeros((3, 3), int)
    for k in range(1000):
        hits = [(i, j) for i in range(3) for j in range(3) if np.array_equal(padded[k, :, i : i + 5, j : j + 5], y[k])]
        assert len(hits) == 1
        counts[hits[0]] += 1
    # 111 expected, standard deviation 10.
    assert counts.min() > 60 and counts.max() < 162


def test_a_shift_beyond_the_image_leaves_fill():
    y = views.Augment(**{**NOTHING, "shift": 40, "fill": 0.25})(random_images(50, 1, 4, 4), range(50), 0, 0)
    assert (y == 0.25).all(axis=(1, 2, 3)).sum() > 30


def test_black_stays_black():
    x = np.full((50, 1, 16, 16), -1, np.float32)
    np.testing.assert_array_equal(views.Fashion()(x, range(50), 0, 0), x)


def test_contrast_about_the_mean():
    x = 0.3 * random_images(30, 3)
    augment = only(contrast=0.3)
    change = augment._draws(list(range(30)), 0, 0, augment.shift)[1][:, None, None, None]
    mean = x.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
    np.testing.assert_allclose(augment(x, range(30), 0, 0), mean + (1 + change) * (x - mean), atol=1e-6)


def test_brightness_multiplies_intensity():
    x = 0.3 * random_images(30)
    augment = only(brightness=0.3)
    change = augment._draws(list(range(30)), 0, 0, augment.shift)[2][:, None, None, None]
    np.testing.assert_allclose(augment(x, range(30), 0, 0), (1 + change) * (x + 1) - 1, atol=1e-6)


def test_one_parameter_leaves_the_draws_of_the_others():
    wide, _, tone = views.Augment(rotation=0.0)._draws(list(range(20)), 0, 0, 2)
    other, _, same = views.Augment(rotation=0.0, contrast=0.0, flip=False)._draws(list(range(20)), 0, 0, 2)
    np.testing.assert_array_equal(tone, same)
    np.testing.assert_array_equal(wide[:, 0], other[:, 0])


def test_presets():
    assert views.Fashion() == views.Augment(
        flip=True, shift=2, rotation=12.0, scale=0.1, contrast=0.3, brightness=0.3, fill=-1.0
    )
    assert views.Digits() == views.Augment(flip=False, shift=1)
    assert views.Digits().config() == {
        "name": "Augment",
        "flip": False,
        "shift": 1,
        "rotation": 12.0,
        "scale": 0.1,
        "contrast": 0.3,
        "brightness": 0.3,
        "fill": -1.0,
    }


@pytest.mark.parametrize(
    "bad",
    [
        {"shift": -1},
        {"shift": 1.5},
        {"rotation": -1},
        {"rotation": float("nan")},
        {"scale": 1.0},
        {"contrast": -0.1},
        {"brightness": 2},
        {"fill": 1.5},
    ],
)
def test_parameters_out_of_range(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        views.Augment(**bad)
