"""What ``--dry-run`` prints."""

from __future__ import annotations

from dataclasses import replace

from icrkit_extractors._plan import plan_lines
from icrkit_extractors.run import Estimate

COST = Estimate(
    n_images=1000, n_views=2, n_levels=5, layers={"narrow": 64, "wide": 4096}, forwards=10_000,
    bytes=4 * 1000 * 2 * 5 * (64 + 4096), seconds=100.0,
)  # fmt: skip


def test_each_layer_has_its_bytes():
    assert plan_lines(COST)[:4] == [
        "layers: narrow (64 features, 2.56 MB), wide (4096 features, 164 MB)",
        "forward passes: 10000 (1000 images x 2 views x 5 levels)",
        "features: 166 MB",
        "time: about 2 min at 100 img/s",
    ]


def test_moments_have_the_square_of_the_features():
    lines = plan_lines(COST, moments_only=True)
    # 16 bytes for each of 4096^2 products, 5 levels and 10 folds.
    assert "wide (4096 features, 13.4 GB)" in lines[0] and lines[2] == "moments, in memory: 13.4 GB"


def test_a_layer_with_more_features_than_residuals_is_named():
    hint = plan_lines(COST)[4]
    assert hint.startswith("hint: ICR needs more images than 1000 for wide: 6828 for its 4096 features at 2 views")
    assert hint.endswith("or a PCA afterwards")
    assert "3415 for its 4096 features at 3 views" in plan_lines(replace(COST, n_views=3))[4]
    both = replace(COST, n_images=10)
    assert "for wide and 1 more: 6828" in plan_lines(both)[4]
    for enough in (replace(COST, n_images=6828), replace(COST, n_views=1)):
        assert len(plan_lines(enough)) == 4
