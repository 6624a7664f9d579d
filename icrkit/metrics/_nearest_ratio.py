"""Nearest-neighbour ratio: the share of generated images far nearer to one training image than to any other.

Sources: Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to Memorize", ICML workshop on
Structured Probabilistic Inference and Generative Modeling; Gu et al. 2023, "On Memorization in Diffusion Models", arXiv
2310.02664.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from icrkit._features import Features
from icrkit.metrics._base import Comparison, row_features
from icrkit.metrics._distances import TIE
from icrkit.metrics._nearest_rows import DistanceSearch

__all__ = ["NearestRatio", "nearest_ratio"]


def nearest_ratio(generated: Any, training: Any, threshold: float = 1 / 3, views: str | int = 0) -> float:
    """Share of generated images whose distances to the two nearest training images have a small ratio; from 0 to 1.

    Parameters
    ----------
    generated, training : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        Features of one encoder, or pixels, as in the sources.
    threshold : float
        Ratio below which an image counts as a copy.
    views : {"mean", "all"} or int
        Rows used of an image, in both sets: one view by its number from 0, the mean over its views, or every view.

    Returns
    -------
    float

    Raises
    ------
    CubeFormatError
        The sets have different numbers of features.
    DegenerateFeaturesError
        All training rows are the same.
    NonFiniteError
        NaN or infinity among the features, or distances that overflow.
    NotEnoughDataError
        Fewer than two training images, or no generated one.
    ValueError
        The threshold is not in (0, 1], or there is no view of that number.

    Notes
    -----
    The share of generated x with d(x, y_1)/d(x, y_2) < threshold, y_1 the training row nearest to x, y_2 the nearest of
    other images, Euclidean distances, not squared. A copy, d(x, y_1) = 0, has ratio 0 even where y_1 occurs twice (code
    of the sources makes 0/0 of it, which counts as none). A near copy of an image that occurs twice is missed: remove
    duplicates first.

    It needs no unit: for new images of the training law the ratio is below r with probability r^k where the law has
    dimension k, so that at 1/3 chance gives 1/3 on a line, 1/9 in a plane and next to nothing beyond ten. The same
    under one rotation, translation or scaling of both sets, and any order of images; not under other linear maps.
    Which rows may be nearest is read from float32 products with a bound on their rounding; which one is, and how far
    it lies, from the differences in float64. Distances that agree to 1e-12 tie, and the first row is the nearest.
    Cost: 2 n m d flops for n generated and m training rows, of which the
    training rows and a block of products are held in memory.

    References
    ----------
    Yoon et al. 2023, the criterion of memorisation; Gu et al. 2023, the memorisation ratio.

    Examples
    --------
    >>> import icrkit as ik
    >>> ik.nearest_ratio([[1.0], [4.0]], training=[[0.0], [10.0]])
    0.5
    """
    results = _against(DistanceSearch(row_features(training), views), row_features(generated, min_images=1), threshold)
    return float(results["nearest_ratio"])


def _against(search: DistanceSearch, features: Features, threshold: float) -> dict[str, Any]:
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], as ratios of sorted distances do, not {threshold}")
    # One more than an image has rows: among these is another image.
    nearest = search.nearest(features, k=search.per_image + 1)
    images = nearest.rows // search.per_image
    other = (images != images[:, :1]).argmax(axis=1)
    first, second = nearest.values[:, 0].copy(), nearest.values[np.arange(len(other)), other]
    ratio = np.divide(first, second, out=np.zeros_like(first), where=first > 0)
    share = float((ratio < threshold * (1 - TIE)).mean())  # the threshold itself is no copy, whatever its rounding
    return {"nearest_ratio": share, "ratio": ratio, "distance": first, **search.images(nearest)}


class NearestRatio(Comparison):
    """Share of generated images far nearer to one training image than to any other.

    Parameters
    ----------
    threshold : float
        Ratio of the distances to the nearest and to the second nearest training image below which an image counts as a
        copy.
    views : {"mean", "all"} or int
        Rows used of an image: one view by its number from 0, the mean over its views, or every view. Rows of a 2-D X
        stand for themselves.

    Attributes
    ----------
    reference_ : DistanceSearch
        Training rows.
    nearest_ratio_ : float
        Of the set evaluated last: a share. Lower is better.
    ratio_ : ndarray (row,)
        Ratio of each of its rows.
    distance_ : ndarray (row,)
        Its distance from the nearest training row.
    nearest_ : ndarray (row,)
        Number of that row's image.
    nearest_ids_ : ndarray (row,)
        Its id: the number where the training set has none.

    Notes
    -----
    ``fit(training)``, then ``evaluate(generated)`` gives the share and ``score(generated)`` its negative. Definition,
    cost and behaviour: :func:`icrkit.nearest_ratio`.

    References
    ----------
    Yoon et al. 2023, the criterion of memorisation; Gu et al. 2023, the memorisation ratio.

    Examples
    --------
    >>> import icrkit as ik
    >>> est = ik.NearestRatio().fit([[0.0], [10.0]])
    >>> est.evaluate([[1.0], [6.0]]), est.ratio_.round(3).tolist()
    (0.5, [0.111, 0.667])
    """

    quantity = "nearest_ratio"
    least_images = 1

    def __init__(self, threshold: float = 1 / 3, *, views: str | int = 0) -> None:
        self.threshold = threshold
        self.views = views

    def _summary(self, features: Features) -> DistanceSearch:
        return DistanceSearch(features, self.views)

    def _compared(self, reference: DistanceSearch, features: Features) -> Mapping[str, Any]:
        return _against(reference, features, self.threshold)
