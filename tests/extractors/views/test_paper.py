"""The paper's levels: those of torchvision, on whole pixels and between them, the same whatever the batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from icrkit_extractors import views
from icrkit_extractors.views import _paper
from icrkit_extractors.views._colour import JITTER


def random_images(n: int = 64, channels: int = 1, height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, channels, height, width)).astype(np.float32)


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
    JITTER[name](x, np.broadcast_to(np.asarray(amounts, dtype=float), len(x)))
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


PADS = {0.5: {"constant_values": 0.5}, "reflect": {"mode": "reflect"}}


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("fill", PADS)
def test_higher_levels_sample_one_map(level, fill):
    n, height, width = 20, 9, 12
    x = random_images(n, 2, height, width)
    paper = just(level, padding=2, flip=0.5, rotation=(20, 120), center_crop=0.6, fill=fill)
    y = paper(x, range(n), 3, 1)
    draws = paper._draws(list(range(n)), 3, 1, paper.padding)
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
    draws = paper._draws(list(range(40)), 0, 0, paper.padding)
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


@settings(max_examples=25)
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
    monkeypatch.setattr(_paper, "_COLOURS_AT_ONCE", 7 * x[0].size)
    monkeypatch.setattr(_paper, "PIXELS_AT_ONCE", 1)
    np.testing.assert_array_equal(views.Paper(level)(x, range(30), 0, 0), whole)


def test_draws_are_uniform_over_their_ranges_and_independent():
    paper = views.Paper(5, padding=3, brightness=(0.5, 0.9), hue=0.2, contrast=1.5, rotation=(10, 40))
    draws = paper._draws(list(range(6000)), 0, 0, paper.padding)
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
    full = views.Paper(5)._draws(ids, 0, 0, 4)
    for paper in (views.Paper(3), views.Paper(5, brightness=0, contrast=(1, 2), hue=0.5, center_crop=0.5, fill=0.0)):
        draws = paper._draws(ids, 0, 0, 4)
        for same in ("move", "mirror", "order"):
            np.testing.assert_array_equal(getattr(draws, same), getattr(full, same))
        np.testing.assert_array_equal(draws.jitter["saturation"], full.jitter["saturation"])
    np.testing.assert_array_equal(views.Paper(5, padding=0)._draws(ids, 0, 0, 0).angle, full.angle)
    assert not views.Paper(1)._draws(ids, 0, 0, 4).mirror.any() and not views.Paper(3)._draws(ids, 0, 0, 4).angle.any()


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


def test_a_crop_beyond_the_image_leaves_fill():
    y = views.Paper(1, padding=40, fill=0.25)(random_images(50, 1, 4, 4), range(50), 0, 0)
    assert (y == 0.25).all(axis=(1, 2, 3)).sum() > 30


def test_paper_config_holds_what_the_level_uses():
    assert views.Paper(1, rotation=45).config() == {"name": "Paper", "level": 1, "padding": "side / 8", "fill": -1.0}
    assert views.Paper(5, padding=4, hue=(0, 0.25), fill="reflect", flip=1).config() == {
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


@pytest.mark.parametrize(("side", "padding"), [(1, 0), (3, 0), (4, 1), (8, 1), (16, 2), (28, 4), (32, 4), (256, 32)])
def test_the_shift_grows_with_the_image(side, padding):
    """4 pixels, usual at 32 x 32, would move an image of 8 x 8 by half of it."""
    x = random_images(6, 1, side, side + 5)
    for fill in (-1.0, "reflect"):
        by_side, by_hand = views.Paper(2, fill=fill), views.Paper(2, padding=padding, fill=fill)
        np.testing.assert_array_equal(by_side(x, range(6), 0, 0), by_hand(x, range(6), 0, 0))
    own = views.Augment()(x, range(6), 0, 0)
    np.testing.assert_array_equal(own, views.Augment(shift=padding)(x, range(6), 0, 0))
