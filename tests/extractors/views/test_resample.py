"""One bilinear sample for each pixel, as scipy takes it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from icrkit_extractors import views

NOTHING = {"flip": False, "shift": 0, "rotation": 0.0, "scale": 0.0, "contrast": 0.0, "brightness": 0.0}


only = lambda **given: views.Augment(**{**NOTHING, **given})  # noqa: E731


def random_images(n: int = 64, channels: int = 1, height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, channels, height, width)).astype(np.float32)


@pytest.mark.parametrize(("rotation", "scale", "flip"), [(40.0, 0.0, False), (0.0, 0.4, False), (170.0, 0.3, True)])
def test_rotation_and_scale_equal_scipy(rotation, scale, flip):
    x = random_images(20, 2, 9, 12)
    augment = views.Augment(**{**NOTHING, "rotation": rotation, "scale": scale, "flip": flip, "shift": 2, "fill": 0.5})
    y = augment(x, range(20), 3, 1)
    inverse, _, _ = augment._draws(list(range(20)), 3, 1, augment.shift)
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
    inverse, contrast, brightness = views.Augment()._draws(list(range(4000)), 0, 0, 2)
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
    size = np.linalg.det(augment._draws(list(range(200)), 0, 0, augment.shift)[0][:, :, :2]) ** -0.5
    area = ((augment(x, range(200), 0, 0) + 1) / 2).sum(axis=(1, 2, 3))
    assert np.corrcoef(area, size**2)[0, 1] > 0.98
    np.testing.assert_allclose(area, 64 * size**2, rtol=0.2)


def test_flat_images_stay_flat_inside():
    x = np.full((50, 1, 16, 16), 0.3, np.float32)
    y = views.Augment(**{**NOTHING, "rotation": 12.0, "scale": 0.1, "flip": True, "fill": float(np.float32(0.3))})(
        x, range(50), 0, 0
    )
    np.testing.assert_array_equal(y, x)
