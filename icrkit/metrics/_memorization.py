"""Memorisation ratio: the share of generated images that lie too near to a training image, by an encoder's features.

Source: Somepalli et al. 2023, "Diffusion Art or Digital Forgery? Investigating Data Replication in Diffusion Models",
arXiv 2212.03860, on the copy-detection features (SSCD) of Pizzi et al. 2022, arXiv 2202.10261; so used by Li et al.
2026, arXiv 2606.09718.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icrkit._features import Features
from icrkit.metrics._base import Comparison, row_features
from icrkit.metrics._distances import TIE
from icrkit.metrics._nearest_rows import CosineSearch

__all__ = ["MemorizationRatio", "memorization_ratio"]


def memorization_ratio(
    generated: Any, training: Any, threshold: float = 0.6, exclude_self: bool = False, views: str | int = 0
) -> float:
    """Share of generated images more similar to a training image than a threshold, from 0 (none) to 1 (all).

    Parameters
    ----------
    generated, training : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        Features of one encoder.
    threshold : float
        Cosine similarity that counts as a copy where it is exceeded. 0.6 is for SSCD features and means nothing on
        others: look at the similarities of unseen real images first.
    exclude_self : bool
        Both sets are the same: image i is not compared with image i.
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
        NaN or infinity among the features, or their squares overflow.
    NotEnoughDataError
        Fewer than two training images, or no generated one.
    ValueError
        The threshold is not in [-1, 1), there is no view of that number, or `exclude_self` and the sets differ in size.

    Notes
    -----
    The share of rows x of the generated set with max_y <x, y>/(|x| |y|) > threshold over the rows y of the training
    set: signed, so that an opposite is not a copy, and strictly greater. A row of zeros has no direction: similarity 0
    to everything, and a warning. The nearest row is read from products in the precision of the training features, its
    similarity computed in float64.

    The same under one rotation of both sets, and where any feature vector is scaled by a positive factor of its own;
    not under translation or other linear maps. The order of images does not matter. More training images can only
    raise it, so that numbers compare at one size of the training set only. Cost: 2 n m d flops for n generated and m
    training rows, of which the training rows and a block of products are held in memory.

    References
    ----------
    Somepalli et al. 2023; Pizzi et al. 2022; Li et al. 2026, the memorisation ratio.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> training = np.eye(3)
    >>> ik.memorization_ratio([[2.0, 0.1, 0.0], [1.0, 1.0, 1.0], [0.0, -3.0, 0.0]], training)
    0.3333333333333333
    """
    search = CosineSearch(row_features(training), views)
    results = _against(search, row_features(generated, min_images=1), threshold, exclude_self)
    return float(results["memorization_ratio"])


def _against(search: CosineSearch, features: Features, threshold: float, exclude_self: bool) -> dict[str, Any]:
    if not -1 <= threshold < 1:
        raise ValueError(f"threshold must lie in [-1, 1), as cosines do, not {threshold}")
    nearest = search.nearest(features, exclude_self=exclude_self)
    similarity = nearest.values[:, 0]
    # The threshold itself is no copy, whatever its rounding.
    share = float((1 - similarity < (1 - threshold) * (1 - TIE)).mean())
    return {"memorization_ratio": share, "similarity": similarity, **search.images(nearest)}


class MemorizationRatio(Comparison):
    """Share of generated images more similar to a training image than a threshold.

    Parameters
    ----------
    threshold : float
        Cosine similarity that counts as a copy where it is exceeded.
    exclude_self : bool
        The set evaluated is the training set: image i is not compared with image i.
    views : {"mean", "all"} or int
        Rows used of an image: one view by its number from 0, the mean over its views, or every view. Rows of a 2-D X
        stand for themselves.

    Attributes
    ----------
    reference_ : CosineSearch
        Training rows at unit length.
    memorization_ratio_ : float
        Of the set evaluated last. Lower is better.
    similarity_ : ndarray (row,)
        Greatest similarity of each of its rows to any training row.
    nearest_ : ndarray (row,)
        Number of the training image with that similarity.
    nearest_ids_ : ndarray (row,)
        Its id: the number where the training set has none.

    Notes
    -----
    ``fit(training)``, then ``evaluate(generated)`` gives the share and ``score(generated)`` its negative. Definition,
    cost and behaviour: :func:`icrkit.memorization_ratio`.

    References
    ----------
    Somepalli et al. 2023; Pizzi et al. 2022; Li et al. 2026, the memorisation ratio.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> est = ik.MemorizationRatio(threshold=0.6).fit(np.eye(3))
    >>> est.evaluate([[0.1, 2.0, 0.0], [1.0, 1.0, 1.0]]), est.nearest_[0]
    (0.5, np.int64(1))
    """

    quantity = "memorization_ratio"
    least_images = 1

    def __init__(self, threshold: float = 0.6, *, exclude_self: bool = False, views: str | int = 0) -> None:
        self.threshold = threshold
        self.exclude_self = exclude_self
        self.views = views

    def _summary(self, features: Features) -> CosineSearch:
        return CosineSearch(features, self.views)

    def _compared(self, reference: CosineSearch, features: Features) -> Mapping[str, Any]:
        return _against(reference, features, self.threshold, self.exclude_self)
