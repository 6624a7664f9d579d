"""When there are enough images for a number to mean anything."""

from __future__ import annotations

import pytest

from icrkit.readings._evidence import LEAST_DOF, Evidence


@pytest.mark.parametrize("n_views", [2, 3, 8])
@pytest.mark.parametrize("n_features", [1, 16, 64, 768])
@pytest.mark.parametrize("n_folds", [2, 10, 20])
def test_the_least_images_are_just_enough(n_views, n_features, n_folds):
    least = Evidence(10, n_views, n_features, n_folds).least_images()
    enough, short = (Evidence(n, n_views, n_features, n_folds) for n in (least, least - 1))
    assert enough.enough and enough.dof_per_feature >= LEAST_DOF - 1e-9
    assert short.dof_per_feature < LEAST_DOF or least == 2
    assert not short.enough and enough.missing("mid") == ""


def test_what_is_missing_and_the_ways_out():
    said = Evidence(80, 2, 64).missing("mid")
    assert "80 images of 2 views leave 1.1 degrees of freedom for each of the 64 features of layer mid" in said
    assert "108 images of 2 views are the least, or 37 of 4" in said
    assert Evidence(37, 4, 64).enough
