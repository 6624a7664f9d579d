"""alpha-ReQ: how fast the eigenvalues of the covariance decay, as the exponent of a power law of their rank.

Source: Agrawal et al. 2022, "alpha-ReQ: Assessing representation quality in self-supervised learning by measuring
eigenspectrum decay", NeurIPS. The weighted fit is that of Stringer et al. 2019, Nature 571.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icrkit._features import Features
from icrkit.exceptions import NotEnoughDataError
from icrkit.metrics._base import Measure, row_moments
from icrkit.metrics._effective_rank import check_resolved, row_eigenvalues
from icrkit.moments import Moments

__all__ = ["AlphaReQ", "PowerLaw", "alpha_req", "power_law"]


class PowerLaw(NamedTuple):
    """Exponent of eigenvalue ~ rank^-alpha, and the first and last rank that it was fitted to."""

    alpha: float
    ranks: tuple[int, int]


def power_law(moments: Moments, ranks: tuple[int, int] = (11, 100), weights: str | None = "1/rank") -> PowerLaw:
    """Power law of the eigenvalues of the covariance of single rows.

    Parameters
    ----------
    moments : Moments
        Of rows: see `row_moments`.
    ranks, weights
        See :func:`icrkit.alpha_req`.

    Raises
    ------
    ValueError, NotEnoughDataError, DegenerateFeaturesError
        See :func:`icrkit.alpha_req`.
    """
    first, last = ranks
    if not 1 <= first < last:
        raise ValueError(f"ranks must be (first, last) with 1 <= first < last, not {ranks}")
    if weights not in ("1/rank", None):
        raise ValueError(f"weights must be '1/rank' or None, not {weights!r}")
    values = row_eigenvalues(moments)
    present = int(np.count_nonzero(values))
    stop = min(last, present)
    check_resolved(moments, values[:last])
    if stop <= first:
        raise NotEnoughDataError(
            f"{moments.n_images} rows of {moments.n_features} feature(s) have {present} eigenvalue(s) that are not "
            f"zero; a slope over ranks {first} to {last} needs two of those: {_way_out(present)}"
        )
    if stop < last:
        warnings.warn(
            f"power law over ranks {first} to {stop}, not to {last}: {moments.n_images} rows of {moments.n_features} "
            "features have no more eigenvalues that are not zero",
            stacklevel=3,
        )
    return PowerLaw(_decay(values[first - 1 : stop], first, weights), (int(first), stop))


def _way_out(present: int) -> str:
    return f"ranks=(1, {present}) takes all there are" if present > 1 else "more rows or features"


def _decay(values: NDArray[np.float64], first: int, weights: str | None) -> float:
    """Minus the slope of log value on log rank, by least squares."""
    rank = np.arange(first, first + len(values), dtype=np.float64)
    weight = 1.0 / rank if weights is not None else np.ones_like(rank)
    x = np.log(rank)
    x -= np.average(x, weights=weight)
    return -float((weight * x * np.log(values)).sum() / (weight * x * x).sum())


def alpha_req(
    X: Any, views: str | int = 0, ranks: tuple[int, int] = (11, 100), weights: str | None = "1/rank"
) -> float:
    """alpha-ReQ: decay exponent of the covariance spectrum; 0 for equal eigenvalues, about 1 for good features.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.
    ranks : tuple (first, last)
        Eigenvalues in the fit, from 1, both ends included. Where fewer are not zero, those there are, with a warning.
    weights : {"1/rank", None}
        Of the squared residuals; None for a plain least-squares line.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        There is no view of that number, or ranks are not (first, last) with 1 <= first < last.
    NotEnoughDataError
        Fewer than two images, or fewer than two eigenvalues within the range.
    NonFiniteError
        NaN or infinity among the features.
    DegenerateFeaturesError
        All rows are equal.
    IllConditionedError
        Moments with float32 products, which cannot tell small eigenvalues from zero.

    Notes
    -----
    Minus the slope of log eigenvalue on log rank. ddof and units move the intercept only. Of singular values it would
    be half as large. At most min(N - 1, d) eigenvalues are not zero, and those of a sample decay faster than the true
    ones: biased upwards while N is not large against the last rank. Invariant under rotation, translation, scaling and
    order of the images; not under other affine maps. Neither large nor small is good in itself: the paper finds the
    best features near 1. Cost: one pass and the eigenvalues of a d x d matrix.

    References
    ----------
    Agrawal et al. 2022, NeurIPS, section 2. Weights and range: Stringer et al. 2019, Nature 571, Methods.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> axes = np.diag(np.arange(1, 121) ** -0.5)  # eigenvalues 1/rank
    >>> round(ik.alpha_req(np.concatenate([axes, -axes])), 6)
    1.0
    """
    return power_law(row_moments(X, views), ranks, weights).alpha


class AlphaReQ(Measure):
    """alpha-ReQ of features: how fast the eigenvalues of their covariance decay.

    Parameters
    ----------
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one.
    ranks : tuple (first, last)
        Eigenvalues in the fit; fewer, with a warning, where there are fewer.
    weights : {"1/rank", None}
        Of the squared residuals.

    Attributes
    ----------
    alpha_ : float
        Best near 1.
    ranks_ : tuple (first, last)
        Ranks of the eigenvalues that were there to be fitted.

    Notes
    -----
    ``score(X)`` is minus alpha of X: slower decay is greater. Formula and behaviour: see :func:`icrkit.alpha_req`.

    References
    ----------
    Agrawal et al. 2022, NeurIPS, section 2.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=16, random_state=0)
    >>> est = ik.AlphaReQ(ranks=(1, 16)).fit(cube)
    >>> est.alpha_ > 0, est.ranks_
    (True, (1, 16))
    """

    quantity = "alpha"
    greater_is_better = False
    takes_moments = True

    def __init__(
        self, views: str | int = 0, ranks: tuple[int, int] = (11, 100), *, weights: str | None = "1/rank"
    ) -> None:
        self.views = views
        self.ranks = ranks
        self.weights = weights

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        return power_law(row_moments(given, self.views), self.ranks, self.weights)._asdict()
