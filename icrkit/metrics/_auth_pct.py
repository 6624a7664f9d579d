"""Authenticity (AuthPct): the share of generated images that are no nearer to a training image than its own kin are.

Sources: Alaa et al. 2022, "How Faithful is your Synthetic Data? Sample-level Metrics for Evaluating and Auditing
Generative Models", arXiv 2102.08921; under this name Jiralerspong et al. 2023, arXiv 2302.04440, and Stein et al. 2023,
arXiv 2306.04675.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icrkit._features import Features
from icrkit.metrics._base import Comparison, row_features
from icrkit.metrics._distances import TIE
from icrkit.metrics._nearest_rows import DistanceSearch

__all__ = ["AuthPct", "auth_pct"]


class _Training(NamedTuple):
    """Training rows, and the distance of each from its own nearest."""

    search: DistanceSearch
    radii: NDArray[np.float64]


def auth_pct(generated: Any, training: Any, views: str | int = 0) -> float:
    """Share of generated images farther from their nearest training image than that is from its own; from 0 to 1.

    Parameters
    ----------
    generated, training : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        Features of one encoder.
    views : {"mean", "all"} or int
        Rows used of an image, in both sets: one view by its number from 0, the mean over its views, or every view; the
        views of one image are not one another's neighbours.

    Returns
    -------
    float
        A share, though named after a percentage. About 1/2 for new images of the training law.

    Raises
    ------
    CubeFormatError
        The sets have different numbers of features.
    DegenerateFeaturesError
        All training rows are the same.
    NonFiniteError
        NaN or infinity among the features, or their range overflows.
    NotEnoughDataError
        Fewer than two training images, or no generated one.
    ValueError
        There is no view of that number.

    Notes
    -----
    The share of generated x with d(x, y) > min_{z != y} d(y, z), y the training row nearest to x and z other training
    rows, Euclidean distances: strictly greater, so that a tie is not authentic. In other words x is not authentic
    where it and y are nearest to each other. Hence for new images of the training law the share is 1 less the
    probability of that: 1/3 on a line, 0.38 in a plane, towards 1/2 in high dimension.

    Which rows may be nearest is read from float32 products with a bound on their rounding; which one is, and how far
    it lies, from the differences in float64. Distances that agree to 1e-12 tie. A training image
    that occurs twice has distance 0 from its own: every
    x near it but no copy counts as authentic, so that duplicates are to be removed first.

    The same under one rotation, translation or scaling of both sets, and any order of images; not under other linear
    maps. Cost: 2 m (m + n) d flops for m training and n generated rows, the first part once in ``fit`` of
    :class:`icrkit.AuthPct`; the training rows and a block of products are held in memory.

    References
    ----------
    Alaa et al. 2022, the estimate of authenticity; Jiralerspong et al. 2023, AuthPct.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> ik.auth_pct([[0.1], [5.0], [9.0]], training=[[0.0], [1.0], [4.5]])
    0.3333333333333333
    """
    return float(_against(_training(row_features(training), views), row_features(generated, min_images=1))["auth_pct"])


def _training(features: Features, views: str | int) -> _Training:
    search = DistanceSearch(features, views)
    return _Training(search, search.nearest(features, exclude_self=True).values[:, 0])


def _against(training: _Training, features: Features) -> dict[str, Any]:
    nearest = training.search.nearest(features)
    distance, radius = nearest.values[:, 0], training.radii[nearest.rows[:, 0]]
    share = float((distance > radius * (1 + TIE)).mean())
    return {"auth_pct": share, "distance": distance, "radius": radius, **training.search.images(nearest)}


class AuthPct(Comparison):
    """Share of generated images farther from their nearest training image than that is from its own.

    Parameters
    ----------
    views : {"mean", "all"} or int
        Rows used of an image: one view by its number from 0, the mean over its views, or every view. Rows of a 2-D X
        stand for themselves.

    Attributes
    ----------
    reference_ : tuple (search, radii)
        Training rows, and the distance of each from its own nearest.
    auth_pct_ : float
        Of the set evaluated last: a share. Greater is better.
    distance_ : ndarray (row,)
        Distance of each of its rows from the nearest training row.
    radius_ : ndarray (row,)
        Distance of that training row from its own nearest.
    nearest_ : ndarray (row,)
        Number of the training image.
    nearest_ids_ : ndarray (row,)
        Its id: the number where the training set has none.

    Notes
    -----
    ``fit(training)`` finds the distances within the training set; ``evaluate(generated)`` and ``score(generated)`` give
    the share. Definition, cost and behaviour: :func:`icrkit.auth_pct`.

    References
    ----------
    Alaa et al. 2022, the estimate of authenticity; Jiralerspong et al. 2023, AuthPct.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> est = ik.AuthPct().fit([[0.0], [1.0], [4.5]])
    >>> est.evaluate([[0.1], [9.0]]), est.nearest_.tolist(), est.radius_.tolist()
    (0.5, [0, 2], [1.0, 3.5])
    """

    quantity = "auth_pct"
    least_images = 1
    greater_is_better = True

    def __init__(self, *, views: str | int = 0) -> None:
        self.views = views

    def _summary(self, features: Features) -> _Training:
        return _training(features, self.views)

    def _compared(self, reference: _Training, features: Features) -> Mapping[str, Any]:
        return _against(reference, features)
