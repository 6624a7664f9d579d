"""Class-distance normalized variance (CDNV): how wide two classes are, against how far apart their means lie.

Source: Galanti, György & Hutter 2022, "On the role of neural collapse in transfer learning", ICLR, arXiv 2112.15121.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.spatial.distance import pdist

from icrkit._features import Features
from icrkit.exceptions import DegenerateFeaturesError
from icrkit.metrics._base import Measure, labelled_features
from icrkit.metrics._classes import class_spread
from icrkit.moments import Moments

__all__ = ["CDNV", "cdnv"]


def cdnv(X: Any, y: Any = None, views: str | int = "mean") -> float:
    """Class-distance normalized variance, mean over pairs of classes; from 0 (collapsed) up.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
    y : array (n_images,), or (row,) for rows
        Class of each image; the cube's labels where left out.
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.

    Returns
    -------
    float
        Lower is more collapsed.

    Raises
    ------
    ValueError
        There is no view of that number.
    NotEnoughDataError
        Fewer than two classes, or one row in every class.
    NonFiniteError
        NaN or infinity among the features, or squares that overflow.
    DegenerateFeaturesError
        Two classes have the same mean, or squares underflow.

    Notes
    -----
    Mean over pairs of classes i < j of (v_i + v_j)/(2 ||mu_i - mu_j||^2), with mu_k the class means and v_k the mean
    squared distance of a class's rows to its mean (the trace of its covariance, ddof 0). All classes weigh the same,
    whatever their sizes. Biased downwards with small classes: v_k by the share 1/n_k, and the distance between means
    has v_i/n_i + v_j/n_j added to its square; a class of one row has v = 0. Invariant under rotation, translation,
    scaling and order; not under other affine maps. Cost: two passes over the features, and K^2 d for the pairs.

    References
    ----------
    Galanti, György & Hutter 2022, arXiv 2112.15121, definition of the CDNV.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> rows = np.array([[0.0, 1.0], [0.0, -1.0], [4.0, 1.0], [4.0, -1.0]])
    >>> ik.cdnv(rows, [0, 0, 1, 1])
    0.0625
    """
    spread = class_spread(*labelled_features(X, y), views)
    # Differences, never products: means may lie close together and far from the origin.
    squared = pdist(spread.means, "sqeuclidean")
    i, j = np.triu_indices(len(spread.classes), k=1)
    size = spread.variances + np.square(spread.means).sum(axis=1)
    same = np.flatnonzero(squared <= (16 * np.finfo(np.float64).eps) ** 2 * (size[i] + size[j]))  # rounding of means
    if len(same):
        a, b = (spread.classes[k[same[0]]] for k in (i, j))
        raise DegenerateFeaturesError(f"classes {a} and {b} have the same mean: their distance is zero")
    return float(np.mean((spread.variances[i] + spread.variances[j]) / (2 * squared)))


class CDNV(Measure):
    """Class-distance normalized variance of labelled features.

    Parameters
    ----------
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one. Rows of a 2-D X stand for themselves.

    Attributes
    ----------
    cdnv_ : float
        Lower is more collapsed.

    Notes
    -----
    ``score(X, y)`` is minus the CDNV of X itself. Formula and behaviour: see :func:`icrkit.cdnv`.

    References
    ----------
    Galanti, György & Hutter 2022, arXiv 2112.15121.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, n_classes=3, random_state=0)
    >>> ik.CDNV().fit(cube).cdnv_ > 0
    True
    """

    quantity = "cdnv"
    greater_is_better = False
    needs_labels = True

    def __init__(self, views: str | int = "mean") -> None:
        self.views = views

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        return {"cdnv": cdnv(given, y, self.views)}
