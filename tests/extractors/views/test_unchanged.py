"""No augmentation."""

from __future__ import annotations

import numpy as np

from icrkit_extractors import views


def test_unchanged_is_the_image():
    x = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    np.testing.assert_array_equal(views.Unchanged()(x, range(3), 5, 7), views.as_unit_range(x))
    assert views.Unchanged().config() == {"name": "Unchanged"}
