"""Whether there are enough images for a number to mean anything: a decision is announced on evidence only.

The rule is that of the studies behind the intervals ("What was measured" in the documentation, "Statistics"): fewer
residual degrees of freedom than 1.5 per feature, without the largest fold, were not studied, and what was seen below
that is noise in both directions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["LEAST_DOF", "Evidence"]

LEAST_DOF = 1.5  # held-out residual degrees of freedom per feature: the least that was studied


class Evidence(NamedTuple):
    """What the numbers of one layer rest on.

    Attributes
    ----------
    n_images, n_views, n_features, n_folds : int
    """

    n_images: int
    n_views: int
    n_features: int
    n_folds: int = 10

    @property
    def dof_per_feature(self) -> float:
        """Residual degrees of freedom outside a fold, for each feature."""
        return (self.n_images * (1 - 1 / self.n_folds) - 1) * (self.n_views - 1) / self.n_features

    @property
    def enough(self) -> bool:
        """Whether they are as many as were studied."""
        return self.n_images >= self.least_images()

    def least_images(self, n_views: int | None = None) -> int:
        """Smallest number of images, of so many views, that is enough.

        Examples
        --------
        >>> Evidence(80, 2, 64).least_images(), Evidence(80, 2, 64).least_images(4)
        (108, 37)
        """
        views = self.n_views if n_views is None else n_views
        wanted = (LEAST_DOF * self.n_features / (views - 1) + 1) * self.n_folds / (self.n_folds - 1)
        return max(math.ceil(wanted - 1e-9), 2)

    def missing(self, layer: str) -> str:
        """What is missing, in a sentence without its full stop; empty if nothing."""
        if self.enough:
            return ""
        more = 2 * self.n_views
        return (
            f"{self.n_images} images of {self.n_views} views leave {self.dof_per_feature:.2g} degrees of freedom for "
            f"each of the {self.n_features} features of layer {layer}, and below {LEAST_DOF:g} its ICR and information "
            f"may be anything: {self.least_images()} images of {self.n_views} views are the least, or "
            f"{self.least_images(more)} of {more}; four images per feature are sound"
        )
