"""Which rows are views of one image, and what moments of them are taken."""

from __future__ import annotations

import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import CubeFormatError, NotEnoughDataError
from icrkit.metrics._view_measure import view_moments

ESTIMATORS = (ik.LiDAR(), ik.TraceRatio())


def features(n: int = 20, v: int = 2, d: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 1, d)) + 0.5 * rng.standard_normal((n, v, d))


def test_rows_become_images():
    h = features(20, 3)
    rows, groups = h.reshape(-1, 4), np.repeat(np.arange(20), 3)
    want = view_moments(h)
    for found in (view_moments(rows, n_views=3), view_moments(rows, groups=groups), view_moments(ik.from_arrays(h))):
        assert (int(found.n_images), found.n_views) == (20, 3) and found.dims == ()
        np.testing.assert_allclose(found.between, want.between, atol=1e-12)
        np.testing.assert_allclose(found.within_uncentred, want.within_uncentred, atol=1e-12)


def test_products_are_float64_and_folds_are_merged():
    h = features().astype(np.float32)
    assert view_moments(h).products == "float64"
    m = ik.Moments.from_cube(h, n_folds=3)
    assert view_moments(m) is m.total


def test_unit_length_needs_features():
    h = features()
    unit = h / np.linalg.norm(h, axis=2, keepdims=True)
    np.testing.assert_allclose(view_moments(h, normalize="l2").within, view_moments(unit).within, atol=1e-13)
    with pytest.raises(ValueError, match="normalize='l2' needs features"):
        view_moments(ik.Moments.from_cube(h), normalize="l2")


@pytest.mark.parametrize("est", ESTIMATORS, ids=lambda est: type(est).__name__)
def test_what_has_no_views_or_several_levels_is_refused(est):
    h = features()
    two = ik.Moments.stack([ik.Moments.from_cube(h, n_folds=0)] * 2, "sigma", np.array([0.1, 0.2]))
    with pytest.raises(CubeFormatError, match="one level"):
        est.fit(two)
    with pytest.raises(CubeFormatError, match="sigma"):
        est.fit(ik.from_arrays(np.stack([h, h], axis=2), sigmas=[0.1, 0.2]))
    with pytest.raises(NotEnoughDataError, match="not a multiple of n_views=2"):
        est.fit(h.reshape(-1, 4)[:-1])
    with pytest.raises(NotEnoughDataError, match="view"):
        est.fit(h[:, :1])


@pytest.mark.parametrize("est", ESTIMATORS, ids=lambda est: type(est).__name__)
def test_held_out_features_are_as_wide_as_the_fitted_ones(est):
    h = features()
    est.fit(ik.Moments.from_cube(h))
    assert est.n_features_in_ == 4
    for narrow in (h[..., :3], h[..., :3].reshape(-1, 3), ik.Moments.from_cube(h[..., :3])):
        with pytest.raises(ValueError, match=r"X has 3 features, but \w+ is expecting 4"):
            est.score(narrow)
