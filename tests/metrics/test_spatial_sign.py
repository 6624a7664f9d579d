"""Spatial signs: the equation that sizes solve, what changes nothing, and the interval where tails are heavy."""

from __future__ import annotations

import numpy as np
import pytest

import icrkit as ik


def test_in_one_dimension_a_sign_is_a_sign():
    """Of one feature and equal views an image lies on one side of the median or on the other."""
    h = np.array([-5.0, -1.0, -0.5, 0.25, 0.5, 1.0, 5.0])[:, None, None] + np.zeros((7, 2, 1))
    signs = ik.spatial_sign(h) - 0.25
    np.testing.assert_allclose(np.abs(np.delete(signs, 3, axis=0)), np.abs(signs[0, 0, 0]), rtol=1e-6)
    np.testing.assert_array_equal(np.sign(np.delete(signs[:, 0, 0], 3)), [-1, -1, -1, 1, 1, 1])


def test_sizes_solve_their_equation(of_sizes):
    h = of_sizes(5, "lognormal", n=80, d=4, v=3)
    signs = ik.spatial_sign(h)
    # About the centre, which is the mean of the signs weighted by size: every image has one size without itself.
    centre = _centre(h, signs)
    y = signs - centre
    sizes = []
    for i in range(len(y)):
        others = np.delete(y, i, axis=0)
        sizes.append(np.einsum("vd,de,ve->", y[i], np.linalg.inv(np.einsum("ivd,ive->de", others, others)), y[i]))
    np.testing.assert_allclose(sizes, np.mean(sizes), rtol=1e-4)
    np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=1e-5)


def _centre(h: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Where the lines through each image and its sign meet: signs = c + w (h - c)."""
    n = len(h)
    shift, flat = (h - signs).reshape(n, -1), h.reshape(n, -1)
    # h_i - s_i = (1 - w_i)(h_i - c): least squares for the shares 1 - w_i and for c, in turn.
    centre = signs.reshape(n, -1).mean(axis=0)
    for _ in range(200):
        y = flat - centre
        share = (shift * y).sum(axis=1) / np.square(y).sum(axis=1)
        centre = (share[:, None] * (share[:, None] * flat - shift)).sum(axis=0) / np.square(share).sum()
    return centre.reshape(h.shape[1:])


def test_size_and_maps_of_images_change_nothing(of_sizes):
    h = of_sizes(2, n=150, d=5, v=3)
    signs, matrix = ik.spatial_sign(h), np.random.default_rng(0).standard_normal((5, 5))
    np.testing.assert_allclose(ik.spatial_sign(h @ matrix + 7.0), signs @ matrix + 7.0, atol=1e-5)
    both = np.concatenate([h, -h])  # whose centre is the origin
    size = np.random.default_rng(1).uniform(0.1, 30, (300, 1, 1))
    want, found = ik.spatial_sign(both), ik.spatial_sign(size * both)
    np.testing.assert_allclose(found / np.linalg.norm(found), want / np.linalg.norm(want), atol=1e-6)


def test_every_kind_of_input_comes_back_as_it_came(of_sizes):
    h = of_sizes(1, n=60, d=3).astype(np.float32)
    h = np.concatenate([h, np.full((60, 2, 1), 2.5, np.float32)], axis=2)  # and a dead unit
    signs = ik.spatial_sign(h)
    assert signs.dtype == np.float32 and (signs[..., 3] == 2.5).all()
    levels = np.stack([h, 3 * h], axis=2)
    cube = ik.from_arrays(
        {"a": levels, "b": levels[..., :2]}, sigmas=[0.1, 1.0], image_ids=np.arange(60) + 7, labels=np.arange(60) % 3
    )
    found = ik.spatial_sign(cube)
    assert isinstance(found, ik.Cube) and found.layers == cube.layers
    np.testing.assert_allclose(found.select(layer="a", sigma=0.1).level(), signs, atol=1e-6)
    array = found["b"]
    np.testing.assert_array_equal(array["image"], np.arange(60) + 7)
    np.testing.assert_allclose(ik.spatial_sign(cube["b"]), array, atol=1e-6)
    one = cube.select(layer="a", sigma=1.0).level()
    assert ik.spatial_sign(one).dims == one.dims


def test_what_has_no_metric_is_refused(of_sizes):
    h = of_sizes(0, n=40, d=4)
    with pytest.raises(ik.exceptions.NotEnoughDataError, match="more rows than features"):
        ik.spatial_sign(of_sizes(0, n=4, d=9))
    with pytest.raises(ik.exceptions.IllConditionedError, match="depend on each other linearly"):
        ik.spatial_sign(np.concatenate([h, h[..., :1]], axis=2))
    h[3, 1, 2] = np.nan
    with pytest.raises(ik.exceptions.NonFiniteError, match="image 3, view 1, feature 2"):
        ik.spatial_sign(h)


def test_an_image_in_the_centre_stays_there(of_sizes):
    h = of_sizes(4, n=31, d=2)
    h = np.concatenate([h, -h, np.zeros((1, 2, 2))])
    np.testing.assert_allclose(ik.spatial_sign(h)[-1], 0.0, atol=1e-9)


# ---- against the truth ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["outliers", "lognormal"])
def test_the_interval_of_signs_holds_where_that_of_the_features_does_not(scale, of_sizes):
    crossfit = ik.ICREstimator("crossfit")
    truth = crossfit.fit(ik.spatial_sign(of_sizes(99, scale, n=20_000))).icr_
    inside, held = [], []
    for seed in range(60):
        h = of_sizes(seed, scale, n=80)
        low, high = crossfit.fit(ik.spatial_sign(h)).interval_
        inside.append(low <= truth <= high)
        held.append(high - low)
    assert np.mean(inside) >= 0.88  # of 60: 95 % less three Monte-Carlo errors are 87 %
    assert np.mean(held) < 0.5
