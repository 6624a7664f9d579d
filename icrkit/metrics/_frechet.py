"""Frechet distance of two sets of features, as Gaussians, and its value extrapolated to infinitely many images.

Sources: Dowson & Landau 1982, "The Frechet distance between multivariate normal distributions", J. Multivariate Anal.
12(3); Heusel et al. 2017, arXiv 1706.08500 (FID, on one encoder's features); Chong & Forsyth 2020, "Effectively
unbiased FID and Inception Score and where to find them", arXiv 1911.07023 (FID infinity).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack, svdvals

from icrkit._features import Features, check_views
from icrkit.exceptions import CubeFormatError, NotEnoughDataError
from icrkit.metrics._base import Comparison, row_features, row_moments
from icrkit.metrics._decomposition import check_squares
from icrkit.moments import Moments

__all__ = ["FrechetDistance", "frechet_distance", "frechet_distance_infinite"]

Matrix = NDArray[np.float64]

_N_SIZES = 15  # of Chong & Forsyth


class _Distance(NamedTuple):
    """The distance, and the numerical rank of each covariance."""

    value: float
    ranks: tuple[int, int]


class _Extrapolation(NamedTuple):
    """The intercept, and the points (number of images, distance) of the line."""

    value: float
    sizes: NDArray[np.int64]
    distances: NDArray[np.float64]


def frechet_distance(m1: Any, m2: Any, views: str | int = 0) -> float:
    """Squared Frechet distance of two sets of features, from 0 (same mean and covariance) up.

    Parameters
    ----------
    m1, m2 : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
        The same number of features; different numbers of images are allowed.
    views : {"mean", "all"} or int
        Rows used of an image: one view by its number from 0, the mean over its views, or every view. Moments of one
        view are what they are.

    Returns
    -------
    float
        In squared units of the features.

    Raises
    ------
    CubeFormatError
        The sets have different numbers of features.
    NotEnoughDataError
        Fewer than two rows in a set.
    NonFiniteError
        NaN or infinity among the features.
    ValueError
        There is no view of that number, or moments of several views hold none of it alone.

    Notes
    -----
    ||mu_1 - mu_2||^2 + Tr S_1 + Tr S_2 - 2 Tr (S_1^1/2 S_2 S_1^1/2)^1/2, covariances with ddof 1. The last trace is
    computed as the sum of the singular values of A_1^T A_2 with any S = A A^T: the same number, but a covariance's
    small eigenvalues are never squared and rooted again. A is a Cholesky factor with pivoting of the correlation
    matrix, which stops at the numerical rank, so that fewer images than features and constant features are no special
    case. A result below zero is rounding and given as 0.

    Biased upwards by a term of order 1/N in each set: sets of different sizes are compared by
    :func:`icrkit.frechet_distance_infinite`. Cost: one pass over each set, then about 6 d^3 flops.

    The same under one rotation or translation of both sets, and any order of images; multiplied by c^2 where both are
    scaled by c; not the same under other linear maps.

    References
    ----------
    Dowson & Landau 1982; Heusel et al. 2017, eq. 6.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> h = np.random.default_rng(0).standard_normal((500, 4))
    >>> round(ik.frechet_distance(h, h + [3.0, 0.0, 0.0, 0.0]), 10)
    9.0
    """
    return _distance(row_moments(m1, views), row_moments(m2, views)).value


def frechet_distance_infinite(X: Any, reference: Any, views: str | int = 0, random_state: int = 0) -> float:
    """Frechet distance of X from a reference, extrapolated to infinitely many images of X; about 0 where they agree.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        At least 20 images.
    reference : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
        Used whole at every size.
    views : {"mean", "all"} or int
        As for :func:`icrkit.frechet_distance`.
    random_state : int
        Seed of the draws of images.

    Returns
    -------
    float
        May be below zero by the noise of the line.

    Raises
    ------
    NotEnoughDataError
        Fewer than 20 images in X.
    TypeError
        X is Moments, of which no images can be drawn.
    CubeFormatError, NonFiniteError, ValueError
        As for :func:`icrkit.frechet_distance`.

    Notes
    -----
    Distances at 15 numbers of images, evenly spaced from N/10 to N, each of images drawn anew without replacement, and
    all views of an image with it; the intercept of the least-squares line through them over 1/N. The reference's own
    bias remains: take the same reference throughout. The line is straight from about N = 20 d on: between S = I and
    4 I at d = 5, a bias of .42 at N = 10 d became -.24, one of .22 at 20 d -.02. Cost: 8 passes over X, held in memory,
    and 15 distances. Behaves under rotation, translation and scale as the distance does; another order of images draws
    others.

    References
    ----------
    Chong & Forsyth 2020.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> rng = np.random.default_rng(0)
    >>> reference, h = rng.standard_normal((20_000, 8)), rng.standard_normal((400, 8))
    >>> round(ik.frechet_distance(h, reference), 2), round(ik.frechet_distance_infinite(h, reference), 2)
    (0.05, -0.02)
    """
    features = X if isinstance(X, Moments) else row_features(X)
    return _extrapolation(features, row_moments(reference, views), views, random_state).value


def _distance(first: Moments, second: Moments) -> _Distance:
    d = first.n_features
    if second.n_features != d:
        raise CubeFormatError(f"sets of {d} and of {second.n_features} features have no distance")
    value, factors = float(np.square(first.mean - second.mean).sum()), []
    for m in (first, second):
        n = int(m.n_images)
        if n < 2:
            raise NotEnoughDataError(f"{n} row(s) have no covariance: at least two are needed in each set")
        check_squares(m)
        covariance = m.between / (n - 1)
        value += float(np.trace(covariance))
        factors.append(_factor(covariance, float(np.finfo(m.products).eps) * m.cancellation))
    a, b = factors
    value -= 2.0 * float(svdvals(a.T @ b, check_finite=False).sum())
    return _Distance(max(value, 0.0), (a.shape[1], b.shape[1]))


def _factor(covariance: Matrix, rounding: float) -> Matrix:
    """A (d, rank) with A A^T the covariance, by Cholesky with pivoting of the correlation matrix.

    Scaled to unit diagonal, so that a feature of small scale is not taken for the rounding of a large one.
    """
    scale = np.sqrt(covariance.diagonal())
    scale[scale == 0] = 1.0
    # Pivots up to max(d, 8) units of rounding are what it made of zero: see `row_eigenvalues`.
    tolerance = max(len(scale), 8) * rounding
    lower, pivots, rank, _ = lapack.dpstrf(covariance / scale / scale[:, None], lower=1, tol=tolerance)
    factor = np.empty((len(scale), rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    return factor * scale[:, None]


def _extrapolation(
    features: Features | Moments, reference: Moments, views: str | int, random_state: int
) -> _Extrapolation:
    if isinstance(features, Moments):
        raise TypeError("the extrapolation draws images of X: give its features, moments do not suffice")
    n, n_views, _ = features.shape
    check_views(views, n_views)
    if n < 20:
        raise NotEnoughDataError(f"{features.name} has {n} images; an extrapolation from N/10 to N takes at least 20")
    if not isinstance(views, str):
        features, views = features.view(int(views)), 0
    images = features.read()
    rng = np.random.default_rng(random_state)
    sizes = np.linspace(n // 10, n, _N_SIZES).astype(np.int64)
    drawn = (np.sort(rng.choice(n, size, replace=False)) for size in sizes)
    distances = np.array(
        [_distance(row_moments(Features(images[k], k, name=features.name), views), reference).value for k in drawn]
    )
    _, intercept = np.polyfit(1.0 / sizes, distances, 1)
    return _Extrapolation(float(intercept), sizes, distances)


class FrechetDistance(Comparison):
    """Squared Frechet distance of features from a reference set.

    Parameters
    ----------
    views : {"mean", "all"} or int
        Rows used of an image: one view by its number from 0, the mean over its views, or every view. Rows of a 2-D X
        stand for themselves.
    infinite : bool
        Extrapolate to infinitely many images: see :func:`icrkit.frechet_distance_infinite`.
    random_state : int
        Seed of the extrapolation's draws.

    Attributes
    ----------
    reference_, moments_ : Moments
        Of the rows used of the reference.
    frechet_distance_ : float
        Of the set evaluated last: at its N images, or extrapolated where `infinite`. Lower is nearer.
    ranks_ : tuple of two int
        Numerical rank of the covariance of the set evaluated last, and of the reference; what lies beyond is rounding
        and left out.
    sizes_, distances_ : ndarray (15,)
        Where `infinite`: numbers of images, and the distance at each.

    Notes
    -----
    ``fit(reference)``, then ``evaluate(X)`` gives the number and ``score(X)`` its negative; all take Moments too,
    ``evaluate`` where not `infinite`. ``partial_fit`` adds images to the reference. Definition, bias and behaviour:
    :func:`icrkit.frechet_distance`.

    References
    ----------
    Heusel et al. 2017, eq. 6; Chong & Forsyth 2020.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> h = np.random.default_rng(0).standard_normal((500, 4))
    >>> est = ik.FrechetDistance().fit(h)
    >>> round(est.evaluate(h + 1), 10)
    4.0
    """

    quantity = "frechet_distance"
    takes_moments = True

    def __init__(self, *, views: str | int = 0, infinite: bool = False, random_state: int = 0) -> None:
        self.views = views
        self.infinite = infinite
        self.random_state = random_state

    def _summary(self, features: Features | Moments) -> Moments:
        return row_moments(features, self.views)

    def _compared(self, reference: Moments, features: Features | Moments) -> Mapping[str, Any]:
        distance = _distance(row_moments(features, self.views), reference)
        results = {"frechet_distance": distance.value, "ranks": distance.ranks}
        if not self.infinite:
            return results
        line = _extrapolation(features, reference, self.views, self.random_state)
        return {**results, "frechet_distance": line.value, "sizes": line.sizes, "distances": line.distances}
