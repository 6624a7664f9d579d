"""Views: identity, geometry, tone, and independence of the batch."""

from __future__ import annotations

import colorsys
import json
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from icrkit.exceptions import MissingDependencyError
from icrkit_extractors import views

NOTHING = {"flip": False, "shift": 0, "rotation": 0.0, "scale": 0.0, "contrast": 0.0, "brightness": 0.0}
only = lambda **given: views.Augment(**{**NOTHING, **given})  # noqa: E731


def random_images(n: int = 64, channels: int = 1, height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, channels, height, width)).astype(np.float32)


def test_nothing_is_the_identity():
    for x in (random_images(), random_images(7, 3, 5, 8), random_images(3, 1, 1, 1)):
        np.testing.assert_array_equal(only()(x, range(len(x)), 0, 0), x)


def test_bytes_become_the_unit_range():
    x = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    unit = views.as_unit_range(x)
    assert unit.dtype == np.float32 and unit.min() == -1 and unit.max() == 1
    np.testing.assert_allclose(unit, x / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(views.Fashion()(x, [0], 0, 0), views.Fashion()(unit, [0], 0, 0))


@settings(max_examples=25, deadline=None)
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


@pytest.mark.parametrize(("rotation", "scale", "flip"), [(40.0, 0.0, False), (0.0, 0.4, False), (170.0, 0.3, True)])
def test_rotation_and_scale_equal_scipy(rotation, scale, flip):
    x = random_images(20, 2, 9, 12)
    augment = views.Augment(**{**NOTHING, "rotation": rotation, "scale": scale, "flip": flip, "shift": 2, "fill": 0.5})
    y = augment(x, range(20), 3, 1)
    inverse, _, _ = augment._draws(list(range(20)), 3, 1)
    centre = np.array([4.0, 5.5])
    for k in range(20):
        matrix, offset = inverse[k, :, :2], inverse[k, :, 2]
        for c in range(2):
            # One ring of fill as own pixels: scipy's "constant" would not interpolate across the border.
            wide = np.pad(x[k, c].astype(np.float64), 1, constant_values=0.5)
            shift = matrix @ -(centre) + offset + centre + 1
            wanted = ndimage.affine_transform(
                wide, matrix, shift, output_shape=(9, 12), order=1, mode="constant", cval=0.5
            )
            np.testing.assert_allclose(y[k, c], wanted, atol=1e-5)


def test_the_map_is_a_rotation_of_the_drawn_size():
    inverse, contrast, brightness = views.Augment()._draws(list(range(4000)), 0, 0)
    matrix = inverse[:, :, :2]
    size = np.abs(np.linalg.det(matrix)) ** -0.5
    np.testing.assert_allclose(
        matrix @ matrix.transpose(0, 2, 1) * size[:, None, None] ** 2, np.eye(2)[None] + 0 * matrix, atol=1e-12
    )
    angle = np.degrees(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0]))
    for values, low, high in ((size, 0.9, 1.1), (angle, -12, 12), (contrast, -0.3, 0.3), (brightness, -0.3, 0.3)):
        unit = (values - low) / (high - low)
        assert unit.min() >= 0 and unit.max() <= 1
        np.testing.assert_allclose(unit.mean(), 0.5, atol=0.03)
        np.testing.assert_allclose(unit.std(), 12**-0.5, atol=0.02)
    # Seven draws, none of them twice.
    drawn = np.corrcoef(np.stack([size, angle, contrast, brightness]))
    assert np.abs(drawn - np.eye(4)).max() < 0.08


def test_enlarging_enlarges():
    x = np.full((200, 1, 16, 16), -1, np.float32)
    x[:, :, 4:12, 4:12] = 1
    augment = only(scale=0.4)
    size = np.linalg.det(augment._draws(list(range(200)), 0, 0)[0][:, :, :2]) ** -0.5
    area = ((augment(x, range(200), 0, 0) + 1) / 2).sum(axis=(1, 2, 3))
    assert np.corrcoef(area, size**2)[0, 1] > 0.98
    np.testing.assert_allclose(area, 64 * size**2, rtol=0.2)


def test_flat_images_stay_flat_inside():
    x = np.full((50, 1, 16, 16), 0.3, np.float32)
    y = views.Augment(**{**NOTHING, "rotation": 12.0, "scale": 0.1, "flip": True, "fill": float(np.float32(0.3))})(
        x, range(50), 0, 0
    )
    np.testing.assert_array_equal(y, x)


def test_black_stays_black():
    x = np.full((50, 1, 16, 16), -1, np.float32)
    np.testing.assert_array_equal(views.Fashion()(x, range(50), 0, 0), x)


def test_contrast_about_the_mean():
    x = 0.3 * random_images(30, 3)
    augment = only(contrast=0.3)
    change = augment._draws(list(range(30)), 0, 0)[1][:, None, None, None]
    mean = x.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
    np.testing.assert_allclose(augment(x, range(30), 0, 0), mean + (1 + change) * (x - mean), atol=1e-6)


def test_brightness_multiplies_intensity():
    x = 0.3 * random_images(30)
    augment = only(brightness=0.3)
    change = augment._draws(list(range(30)), 0, 0)[2][:, None, None, None]
    np.testing.assert_allclose(augment(x, range(30), 0, 0), (1 + change) * (x + 1) - 1, atol=1e-6)


def test_one_parameter_leaves_the_draws_of_the_others():
    wide, _, tone = views.Augment(rotation=0.0)._draws(list(range(20)), 0, 0)
    other, _, same = views.Augment(rotation=0.0, contrast=0.0, flip=False)._draws(list(range(20)), 0, 0)
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


# ---- the paper's levels ---------------------------------------------------------------------------------------------

LEVELS = range(1, 6)
ONE = {
    "padding": 0,
    "flip": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "rotation": 0.0,
    "center_crop": 1.0,
}


def just(level: int, **given: object) -> views.Paper:
    return views.Paper(level, **{**ONE, **given})


def colours(n: int = 2, height: int = 8, width: int = 8, seed: int = 0) -> np.ndarray:
    """Colours in [0, 1], grey ones, pure ones and ties among them."""
    x = np.random.default_rng(seed).random((n, 3, height, width), dtype=np.float32)
    x[:, :, 0] = np.round(2 * x[:, :, 0]) / 2
    x[:, :, 1] = x[:, :1, 1]
    return x


def changed(name: str, x: np.ndarray, amounts: object) -> np.ndarray:
    x = x.copy()
    views._JITTER[name](x, np.broadcast_to(np.asarray(amounts, dtype=float), len(x)))
    return x


@pytest.mark.parametrize("fill", [-1.0, "reflect"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_level_without_strength_is_the_identity(level, fill):
    for x in (random_images(5, 3), random_images(5, 1, 5, 8), random_images(3, 3, 1, 1), random_images(2, 7, 3, 1)):
        np.testing.assert_array_equal(just(level, fill=fill)(x, range(len(x)), 0, 0), x)


@pytest.mark.parametrize("level", LEVELS)
def test_bytes_and_floats_are_the_same_image(level):
    x = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16), dtype=np.uint8)
    y = views.Paper(level)(x, range(20), 0, 0)
    np.testing.assert_array_equal(y, views.Paper(level)(views.as_unit_range(x), range(20), 0, 0))
    assert y.dtype == np.float32 and y.min() >= -1 and y.max() <= 1


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


# Two images 3 x 3 x 4 through torchvision 0.29.1's adjust_brightness, _contrast, _saturation, _hue (float32) and rotate
# (bilinear, no fill, float64), in units of 1e-7.
AMOUNTS = {
    "brightness": (0.6, 1.4),
    "contrast": (0.6, 1.4),
    "saturation": (0.6, 1.4),
    "hue": (-0.3, 0.1),
    "rotation": (-25.0, 70.0),
}
FROZEN = {
    "brightness": [
        3000000,
        3000000,
        4440000,
        600000,
        5400000,
        5040000,
        1200000,
        3420000,
        5640000,
        1800000,
        4020000,
        180000,
        3000000,
        3000000,
        780000,
        3000000,
        5400000,
        1380000,
        3600000,
        5820000,
        1980000,
        4200000,
        360000,
        2580000,
        3000000,
        3000000,
        3180000,
        5400000,
        1560000,
        3780000,
        6000000,
        2160000,
        4380000,
        540000,
        2760000,
        4980000,
        2660000,
        7840000,
        10000000,
        4060000,
        9240000,
        280000,
        5460000,
        10000000,
        1680000,
        6860000,
        10000000,
        0,
        9800000,
        10000000,
        4480000,
        9660000,
        700000,
        5880000,
        10000000,
        2100000,
        7280000,
        10000000,
        3500000,
        10000000,
        9800000,
        4900000,
        10000000,
        1120000,
        6300000,
        10000000,
        2520000,
        7700000,
        10000000,
        3920000,
        9100000,
        0,
    ],
    "contrast": [
        5029364,
        5029364,
        6469364,
        2629364,
        7429364,
        7069364,
        3229364,
        5449364,
        7669364,
        3829364,
        6049364,
        2209364,
        5029364,
        5029364,
        2809364,
        5029364,
        7429364,
        3409364,
        5629364,
        7849364,
        4009364,
        6229364,
        2389364,
        4609364,
        5029364,
        5029364,
        5209364,
        7429364,
        3589364,
        5809364,
        8029364,
        4189364,
        6409364,
        2569364,
        4789364,
        7009364,
        599539,
        5779539,
        10000000,
        1999539,
        7179539,
        0,
        3399538,
        8579539,
        0,
        4799539,
        9979539,
        0,
        7739538,
        10000000,
        2419539,
        7599538,
        0,
        3819539,
        8999540,
        39539,
        5219539,
        10000000,
        1439539,
        10000000,
        7739538,
        2839539,
        8019539,
        0,
        4239539,
        9419539,
        459539,
        5639539,
        10000000,
        1859539,
        7039538,
        0,
    ],
    "saturation": [
        4999800,
        4999800,
        5871664,
        2303960,
        8707800,
        6871624,
        3303920,
        6543212,
        7871584,
        3843320,
        5171692,
        1603988,
        4999800,
        4999800,
        2211664,
        4703960,
        8707800,
        3211624,
        5703920,
        8943213,
        4211584,
        6243320,
        1511692,
        4003988,
        4999800,
        4999800,
        4611664,
        7103960,
        4867800,
        5611624,
        8103920,
        5283212,
        6611584,
        2583320,
        3911692,
        6403988,
        470036,
        4756784,
        10000000,
        2056676,
        8128304,
        0,
        3056715,
        9128344,
        0,
        4056756,
        10000000,
        0,
        7610036,
        10000000,
        2288412,
        7656676,
        0,
        4496008,
        8656716,
        588344,
        5496048,
        9656755,
        1588384,
        10000000,
        7610036,
        1816784,
        7888412,
        0,
        5188304,
        10000000,
        116716,
        6188344,
        10000000,
        1116756,
        7188384,
        0,
    ],
    "hue": [
        5000000,
        5000000,
        1300000,
        3400004,
        9000000,
        2300000,
        4400004,
        9700000,
        3300000,
        7000000,
        600000,
        2700004,
        5000000,
        5000000,
        4080000,
        9000000,
        2600000,
        5080002,
        10000000,
        3600000,
        6080002,
        900000,
        3380003,
        8300000,
        5000000,
        5000000,
        7400000,
        1000000,
        7720000,
        8400000,
        2000000,
        4480000,
        9400000,
        1780000,
        6700000,
        300000,
        1900000,
        3500000,
        9300000,
        800000,
        6600000,
        999995,
        1800000,
        7600000,
        1999996,
        2800000,
        8600000,
        0,
        3939999,
        9600000,
        3200000,
        6900000,
        500000,
        200000,
        7900000,
        1500000,
        1200000,
        8900000,
        2500000,
        10000000,
        7000000,
        5059998,
        3539998,
        2359999,
        839999,
        8200000,
        3359999,
        1839998,
        9200000,
        4359999,
        2839999,
        6000002,
    ],
    "rotation": [
        5679091,
        6105771,
        5535441,
        2116850,
        8652520,
        7059096,
        3353773,
        3100369,
        2664704,
        4179865,
        4019123,
        3036189,
        5679091,
        4944390,
        2679813,
        1340822,
        5371554,
        3366504,
        4906769,
        6200549,
        2475226,
        3525498,
        3637364,
        5907869,
        2335906,
        4972441,
        4552356,
        3179881,
        5199631,
        5332261,
        8867173,
        7022833,
        1699198,
        2326860,
        6479793,
        3503585,
        2243086,
        7075047,
        5800198,
        379132,
        3278115,
        3954433,
        4891015,
        5011798,
        1934829,
        4010314,
        3532184,
        1284775,
        911619,
        4567816,
        4386328,
        8994174,
        5648422,
        6393228,
        5706772,
        1533856,
        6641990,
        2716532,
        7021647,
        2094516,
        1721360,
        4975047,
        3864132,
        286553,
        2093542,
        5447391,
        4552609,
        3787987,
        6373071,
        5901676,
        5024953,
        763049,
    ],
}


def frozen_images() -> np.ndarray:
    x = ((np.arange(72) * 37) % 101 / 100).reshape(2, 3, 3, 4)
    # A grey pixel, ties for the greatest and the least channel, and a pure green.
    x[0, :, 0, :2] = 0.5
    x[0, :2, 1, 0] = 0.9
    x[1, 1:, 0, 0] = 0.7
    x[1, :, 2, 3] = 0, 1, 0
    return x.astype(np.float32)


@pytest.mark.parametrize("name", FROZEN)
def test_torchvision_gives_the_same(name):
    x = frozen_images()
    wanted = np.array(FROZEN[name]).reshape(x.shape) * 1e-7
    if name != "rotation":
        np.testing.assert_allclose(changed(name, x, AMOUNTS[name]), wanted, atol=1e-6)
        return
    for k, angle in enumerate(AMOUNTS[name]):
        y = just(4, rotation=(angle, angle))(2 * x[k : k + 1] - 1, [0], 0, 0)
        np.testing.assert_allclose((y[0] + 1) / 2, wanted[k], atol=1e-6)


@pytest.mark.parametrize("fill", [-1.0, 0.25, "reflect"])
def test_the_first_levels_copy_a_window_of_the_padded_image(fill):
    n = 1000
    x = random_images(n, 2, 5, 4)
    around = ((0, 0), (0, 0), (1, 1), (1, 1))
    padded = np.pad(x, around, mode=fill) if fill == "reflect" else np.pad(x, around, constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 4), axis=(2, 3))
    first = views.Paper(1, padding=1, fill=fill)(x, range(n), 0, 0)
    second = views.Paper(2, padding=1, fill=fill)(x, range(n), 0, 0)
    hits = (windows == first[:, :, None, None]).all(axis=(1, 4, 5))
    assert (hits.sum(axis=(1, 2)) == 1).all()
    # 111 expected, standard deviation 10.
    assert hits.sum(axis=0).min() > 60 and hits.sum(axis=0).max() < 162
    mirrored = (second == first[..., ::-1]).all(axis=(1, 2, 3))
    assert (mirrored ^ (second == first).all(axis=(1, 2, 3))).all()
    assert 420 < mirrored.sum() < 580


def test_colours_change_one_after_the_other_in_the_order_of_the_image():
    x = 2 * colours(60) - 1
    paper = views.Paper(brightness=0.9, contrast=0.9, saturation=0.9, hue=0.4)
    draws = paper._draws(list(range(60)), 1, 2)
    before = views.Paper(2)(x, range(60), 1, 2)
    wanted = np.empty_like(x)
    for k in range(60):
        one = (before[k : k + 1] + 1) / 2
        for number in draws.order[k]:
            name = list(views._JITTER)[number]
            one = changed(name, one, draws.jitter[name][k])
        wanted[k] = 2 * one[0] - 1
    np.testing.assert_allclose(paper(x, range(60), 1, 2), wanted, atol=1e-6)
    # Clipping makes the order matter: with another one the result would not be the same.
    assert len({tuple(order) for order in draws.order.tolist()}) > 10


PADS = {0.5: {"constant_values": 0.5}, "reflect": {"mode": "reflect"}}


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("fill", PADS)
def test_higher_levels_sample_one_map(level, fill):
    n, height, width = 20, 9, 12
    x = random_images(n, 2, height, width)
    paper = just(level, padding=2, flip=0.5, rotation=(20, 120), center_crop=0.6, fill=fill)
    y = paper(x, range(n), 3, 1)
    draws = paper._draws(list(range(n)), 3, 1)
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    mirrored = 0
    for k in range(n):
        a, side = np.radians(draws.angle[k]), 0.6 if level == 5 else 1.0
        turn = side * np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
        # What crop and flip alone make of an image with all its surroundings, then turned.
        wide = np.pad(x[k], ((0, 0), (15, 15), (15, 15)), **PADS[fill])
        wide = np.roll(wide, -draws.move[k], axis=(1, 2))
        wide, mirrored = (wide[:, :, ::-1], mirrored + 1) if draws.mirror[k] else (wide, mirrored)
        for c in range(2):
            wanted = ndimage.affine_transform(
                wide[c].astype(float), turn, centre - turn @ centre + 15, output_shape=(height, width), order=1
            )
            np.testing.assert_allclose(y[k, c], wanted, atol=1e-5)
    assert 3 < mirrored < 17


@pytest.mark.parametrize("fill", [-0.5, "reflect"])
@pytest.mark.parametrize("shape", [(40, 3, 8, 8), (40, 1, 5, 2), (40, 2, 1, 3)])
def test_copying_and_sampling_agree_on_whole_pixels(shape, fill):
    x = random_images(*shape)
    paper = just(4, padding=6, flip=0.5, fill=fill)
    draws = paper._draws(list(range(40)), 0, 0)
    moved, turned = np.empty_like(x), np.empty_like(x)
    paper._move(x, draws, moved)
    paper._turn(x, draws, turned)
    np.testing.assert_array_equal(turned, moved)


def test_a_centre_crop_enlarges_the_middle():
    x = np.full((1, 1, 16, 16), -1, np.float32)
    x[:, :, 4:12, 4:12] = 1
    y = just(5, center_crop=0.5)(x, [0], 0, 0)
    assert (y[:, :, 1:-1, 1:-1] == 1).all()
    # Halfway between pixels at the edge of the crop, which sees its neighbours.
    np.testing.assert_allclose(y[0, 0, 0, 1:-1], 0.5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    level=st.sampled_from(LEVELS),
    fill=st.sampled_from([-1.0, 0.3, "reflect"]),
    view=st.integers(0, 5),
    seed=st.integers(0, 10),
)
def test_a_level_alone_in_a_batch_in_another_order(n, channels, height, width, level, fill, view, seed):
    x, ids = random_images(n, channels, height, width, seed), [f"img{k}" for k in range(n)]
    paper = views.Paper(level, fill=fill)
    whole = paper(x, ids, view, seed)
    assert whole.shape == x.shape and whole.dtype == np.float32
    assert whole.min() >= -1 and whole.max() <= 1
    order = np.random.default_rng(seed).permutation(n)
    np.testing.assert_array_equal(paper(x[order], [ids[k] for k in order], view, seed), whole[order])
    for k in {0, n // 2, n - 1}:
        np.testing.assert_array_equal(paper(x[k : k + 1], ids[k : k + 1], view, seed)[0], whole[k])
    strided = np.asfortranarray(np.repeat(x, 2, axis=3))[..., ::2]
    np.testing.assert_array_equal(paper(strided, ids, view, seed), whole)


@pytest.mark.parametrize("level", [3, 5])
def test_blocks_do_not_show(level, monkeypatch):
    x = random_images(30, 3)
    whole = views.Paper(level)(x, range(30), 0, 0)
    monkeypatch.setattr(views, "_COLOURS_AT_ONCE", 7 * x[0].size)
    monkeypatch.setattr(views, "_PIXELS_AT_ONCE", 1)
    np.testing.assert_array_equal(views.Paper(level)(x, range(30), 0, 0), whole)


def test_draws_are_uniform_over_their_ranges_and_independent():
    paper = views.Paper(5, padding=3, brightness=(0.5, 0.9), hue=0.2, contrast=1.5, rotation=(10, 40))
    draws = paper._draws(list(range(6000)), 0, 0)
    ranges = {"brightness": (0.5, 0.9), "contrast": (0, 2.5), "saturation": (0.6, 1.4), "hue": (-0.2, 0.2)}
    units = [(draws.angle - 10) / 30, *((draws.jitter[name] - a) / (b - a) for name, (a, b) in ranges.items())]
    for unit in units:
        assert unit.min() >= 0 and unit.max() <= 1
        np.testing.assert_allclose(unit.mean(), 0.5, atol=0.02)
        np.testing.assert_allclose(unit.std(), 12**-0.5, atol=0.015)
    orders, counts = np.unique(draws.order, axis=0, return_counts=True)
    # 250 expected, standard deviation 15.5.
    assert orders.shape == (24, 4) and counts.min() > 180 and counts.max() < 320
    assert set(draws.move.ravel().tolist()) == set(range(-3, 4))
    drawn = np.corrcoef(np.stack([*units, *draws.move.T, draws.mirror, draws.order[:, 0]]))
    assert np.abs(drawn - np.eye(len(drawn))).max() < 0.06


def test_levels_and_strengths_share_their_draws():
    ids = list(range(30))
    full = views.Paper(5)._draws(ids, 0, 0)
    for paper in (views.Paper(3), views.Paper(5, brightness=0, contrast=(1, 2), hue=0.5, center_crop=0.5, fill=0.0)):
        draws = paper._draws(ids, 0, 0)
        for same in ("move", "mirror", "order"):
            np.testing.assert_array_equal(getattr(draws, same), getattr(full, same))
        np.testing.assert_array_equal(draws.jitter["saturation"], full.jitter["saturation"])
    np.testing.assert_array_equal(views.Paper(5, padding=0)._draws(ids, 0, 0).angle, full.angle)
    assert not views.Paper(1)._draws(ids, 0, 0).mirror.any() and not views.Paper(3)._draws(ids, 0, 0).angle.any()


def test_a_pair_is_the_range_of_a_number():
    x = random_images(20, 3)
    number = views.Paper(4, brightness=1.5, contrast=0.25, hue=0.2, rotation=30)
    pair = views.Paper(4, brightness=(0, 2.5), contrast=[0.75, 1.25], hue=(-0.2, 0.2), rotation=(-30, 30.0))
    np.testing.assert_array_equal(number(x, range(20), 0, 0), pair(x, range(20), 0, 0))
    assert number.config() == pair.config()


def test_paper_views_seeds_and_ids_differ():
    x = np.repeat(random_images(1, 3), 2, axis=0)
    first = views.Paper()(x, [0, 1], 0, 0)
    assert not np.array_equal(first[0], first[1])
    for other in (views.Paper()(x, [0, 1], 1, 0), views.Paper()(x, [0, 1], 0, 1), views.Paper()(x, ["0", "1"], 0, 0)):
        assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("view", [*map(views.Paper, LEVELS), views.Unchanged(), views.FromTorch(lambda t: t.mul_(0.5))])
def test_a_view_leaves_its_input_alone_and_shares_no_memory(view):
    x = random_images(8, 3)
    kept = x.copy()
    y = view(x, range(8), 0, 0)
    assert not np.shares_memory(x, y)
    np.testing.assert_array_equal(x, kept)


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


def test_a_crop_beyond_the_image_leaves_fill():
    y = views.Paper(1, padding=40, fill=0.25)(random_images(50, 1, 4, 4), range(50), 0, 0)
    assert (y == 0.25).all(axis=(1, 2, 3)).sum() > 30


def test_paper_config_holds_what_the_level_uses():
    assert views.Paper(1, rotation=45).config() == {"name": "Paper", "level": 1, "padding": 4, "fill": -1.0}
    assert views.Paper(5, hue=(0, 0.25), fill="reflect", flip=1).config() == {
        "name": "Paper",
        "level": 5,
        "padding": 4,
        "fill": "reflect",
        "flip": 1.0,
        "brightness": [0.6, 1.4],
        "contrast": [0.6, 1.4],
        "saturation": [0.6, 1.4],
        "hue": [0.0, 0.25],
        "rotation": [-15.0, 15.0],
        "center_crop": 0.875,
    }
    assert views.Paper() == views.Paper(3)
    for level in LEVELS:
        assert len(json.dumps(views.Paper(np.int64(level), padding=np.int64(2), fill=np.float32(0)).config())) > 40


@pytest.mark.parametrize(
    "bad",
    [
        {"level": 0},
        {"level": 6},
        {"level": True},
        {"level": "3"},
        {"padding": -1},
        {"padding": 1.5},
        {"fill": 1.5},
        {"fill": "edge"},
        {"flip": True},
        {"flip": 1.1},
        {"flip": float("nan")},
        {"brightness": -0.1},
        {"contrast": (0.5, 0.4)},
        {"contrast": (-0.5, 0.4)},
        {"saturation": float("inf")},
        {"saturation": float("nan")},
        {"saturation": (1.0, 1.1, 1.2)},
        {"hue": 0.6},
        {"hue": (-0.6, 0)},
        {"hue": "0.1"},
        {"rotation": -1},
        {"rotation": (0, 400)},
        {"center_crop": 0},
        {"center_crop": 1.1},
    ],
)
def test_paper_parameters_out_of_range(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        views.Paper(**bad)


@pytest.mark.parametrize("view", [views.Paper(5), views.FromTorch(torch.clone), views.Unchanged()])
def test_every_view_wants_images_and_as_many_ids(view):
    with pytest.raises(ValueError, match="2 image ids for 3 images"):
        view(random_images(3), [0, 1], 0, 0)
    with pytest.raises(ValueError, match=r"images\[:, None\]"):
        view(np.zeros((3, 8, 8), np.float32), range(3), 0, 0)
    with pytest.raises(TypeError, match="an image id is an int or a string"):
        views.Paper()(random_images(1), [1.5], 0, 0)
    assert view(random_images(0, 3), [], 0, 0).shape == (0, 3, 16, 16)


# ---- transforms of others, and none ---------------------------------------------------------------------------------


def noisy(image: torch.Tensor) -> torch.Tensor:
    """Draws from all three global generators."""
    return (image + 0.1 * torch.randn_like(image) + 0.1 * random.random() + 0.1 * np.random.rand()).clamp(0, 1)  # noqa: NPY002


class Dim(torch.nn.Module):
    def __init__(self, by: object) -> None:
        super().__init__()
        self.by = by

    def extra_repr(self) -> str:
        return f"by={self.by}"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.by


def global_draws() -> list[float]:
    return [torch.rand(1).item(), random.random(), np.random.rand()]  # noqa: NPY002


def test_a_transform_sees_intensities_one_image_at_a_time():
    x = random_images(5, 3, 4, 6)
    seen = []
    view = views.FromTorch(lambda image: seen.append(image.clone()) or 1 - image)
    np.testing.assert_allclose(view(x, range(5), 0, 0), -x, atol=2e-7)
    assert all(image.shape == (1, 3, 4, 6) and image.dtype == torch.float32 for image in seen)
    np.testing.assert_allclose(torch.cat(seen).numpy(), (x + 1) / 2, atol=1e-7)
    bytes_ = views.FromTorch(lambda image: 255 - image, value_range=(0, 255))
    np.testing.assert_allclose(bytes_(x, range(5), 0, 0), -x, atol=2e-7)
    same = views.FromTorch(torch.clone, value_range=(-1, 1))
    np.testing.assert_array_equal(same(x, range(5), 0, 0), x)


def test_a_transform_is_seeded_by_image_view_and_seed():
    x, ids = np.repeat(0.3 * random_images(1, 3), 9, axis=0), [f"img{k}" for k in range(9)]
    view = views.FromTorch(noisy)
    whole = view(x, ids, 1, 2)
    order = np.random.default_rng(0).permutation(9)
    np.testing.assert_array_equal(view(x[order], [ids[k] for k in order], 1, 2), whole[order])
    np.testing.assert_array_equal(view(x[4:5], ids[4:5], 1, 2)[0], whole[4])
    assert len({image.tobytes() for image in whole}) == 9
    for other in (view(x, ids, 0, 2), view(x, ids, 1, 3)):
        assert not (other == whole).all(axis=(1, 2, 3)).any()


def test_the_global_generators_are_put_back():
    def seeded() -> None:
        torch.manual_seed(1), random.seed(2), np.random.seed(3)  # noqa: NPY002

    def fails(image: torch.Tensor) -> torch.Tensor:
        noisy(image)
        raise RuntimeError("inside")

    seeded()
    wanted = global_draws()
    seeded()
    views.FromTorch(noisy)(random_images(3), range(3), 0, 0)
    assert global_draws() == wanted
    seeded()
    with pytest.raises(RuntimeError, match="inside"):
        views.FromTorch(fails)(random_images(3), range(3), 0, 0)
    assert global_draws() == wanted


def test_a_module_takes_part_without_a_gradient():
    module = Dim(torch.nn.Parameter(torch.tensor(0.5)))
    x = random_images(2, 3)
    np.testing.assert_allclose(views.FromTorch(module)(x, range(2), 0, 0), (x + 1) / 2 - 1, atol=2e-7)


def test_a_transform_is_recorded_by_its_name_or_its_parameters():
    assert views.FromTorch(noisy).config() == {
        "name": "FromTorch",
        "transform": f"{noisy.__module__}.noisy",
        "value_range": [0.0, 1.0],
    }
    assert views.FromTorch(Dim(0.5)).config()["transform"] == "Dim(by=0.5)"
    first, second = (views.FromTorch(Dim(object())).config()["transform"] for _ in range(2))
    assert first == second == "Dim(by=<object object>)"
    assert views.FromTorch(Dim(0.5), name="half").config()["transform"] == "half"


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda image: image[..., 1:], r"shape \(1, 3, 16, 15\) for \(1, 3, 16, 16\) \(image 'a'\)"),
        (lambda image: image[0], r"shape \(3, 16, 16\)"),
        (lambda image: image.numpy(), "a tensor, not ndarray"),
        (lambda image: 2 * image - 1, r"outside value_range \(0.0, 1.0\) \(image 'a'\); leave out what normalises"),
        (lambda image: image * torch.nan, "gave nan to nan"),
    ],
)
def test_what_a_transform_may_not_give(transform, message):
    with pytest.raises(ValueError, match=message):
        views.FromTorch(transform)(random_images(2, 3), ["a", "b"], 0, 0)


@pytest.mark.parametrize("bad", [(1, 0), (0, 0), (0, float("inf")), (float("nan"), 1)])
def test_a_value_range_goes_up(bad):
    with pytest.raises(ValueError, match="value_range"):
        views.FromTorch(torch.clone, value_range=bad)


def test_a_transform_is_callable_and_needs_torch(monkeypatch):
    with pytest.raises(ValueError, match="transform must be a callable"):
        views.FromTorch("flip")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"icrkit\[torch\]"):
        views.FromTorch(noisy)(random_images(2), range(2), 0, 0)


def test_unchanged_is_the_image():
    x = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    np.testing.assert_array_equal(views.Unchanged()(x, range(3), 5, 7), views.as_unit_range(x))
    assert views.Unchanged().config() == {"name": "Unchanged"}


def test_who_draws_from_streams_of_its_own():
    assert views.Augment.own_streams and views.Paper.own_streams and views.Unchanged.own_streams
    assert not hasattr(views.FromTorch, "own_streams")
