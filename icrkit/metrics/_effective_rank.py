"""Effective ranks: over how many directions features spread, by the entropy or by the powers of their spectrum.

Sources: Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality", EUSIPCO. Participation ratio:
Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262. Stable rank:
Rudelson & Vershynin 2007, "Sampling from large matrices", J. ACM 54(4).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas
from scipy.special import entr

from icrkit._features import Features
from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NonFiniteError
from icrkit.linalg import eigenvalues_with_outer
from icrkit.metrics._base import Measure, row_moments
from icrkit.metrics._decomposition import check_squares, constant_features
from icrkit.moments import Moments

__all__ = [
    "EffectiveRank",
    "ParticipationRatio",
    "StableRank",
    "check_resolved",
    "effective_rank",
    "entropy_rank",
    "participation_ratio",
    "row_eigenvalues",
    "row_spectrum",
    "stable_rank",
]

Vector = NDArray[np.float64]

# Eigenvalues of moments that are still in use, uncentred and centred: several metrics read one eigenproblem.
_SOLVED: weakref.WeakKeyDictionary[Moments, tuple[Vector, Vector]] = weakref.WeakKeyDictionary()


def check_spread(moments: Moments, centered: bool = True) -> None:
    """Refuse rows whose scatter X^T X, about their mean or about the origin, is zero or overflows.

    Raises
    ------
    DegenerateFeaturesError, NonFiniteError
    """
    check_squares(moments)
    spread = np.trace(moments.between)
    if not centered:
        with np.errstate(over="ignore"):
            spread += float(moments.n_images) * np.square(moments.mean[0]).sum()
        if not np.isfinite(spread):
            raise NonFiniteError(
                "all features are finite, but the squares of their means overflow float64; scale the features down, or "
                "take centered=True"
            )
    if not spread > 0:
        what = "do not vary: all rows are equal" if centered else "are all zero"
        raise DegenerateFeaturesError(f"the {moments.n_features} feature(s) of {moments.n_images} rows {what}")


def row_eigenvalues(moments: Moments, centered: bool = True) -> Vector:
    """Eigenvalues of the scatter of single rows, descending, min(N, d) of them: squared singular values of the rows.

    Both are solved once, together, for moments that stay in use. What rounding makes of zero is zero: eigenvalues up to
    max(d, 8) units of rounding, in the precision of the products of the largest one about the mean, and in float64 of
    the largest one about the origin, since the mean is added in float64 (measured: 2.5 units at most, d = 4 to 400,
    N = 50 to 20,000, offsets to 1000 times the spread). None about the origin is smaller than that of its rank about
    the mean, which stands for those that are lost so.

    Parameters
    ----------
    moments : Moments
        Of rows: see `row_moments`.
    centered : bool

    Raises
    ------
    DegenerateFeaturesError
        All are zero.
    NonFiniteError
        About the origin they overflow.
    """
    check_spread(moments, centered)
    if moments not in _SOLVED:
        n, d = int(moments.n_images), moments.n_features
        with np.errstate(over="ignore"):
            about_mean, about_origin = eigenvalues_with_outer(moments.between.T, np.sqrt(n) * moments.mean[0])
        unit = max(d, 8) * moments.cancellation * float(np.finfo(moments.products).eps) * about_mean[-1]
        unit_64 = max(d, 8) * float(np.finfo(np.float64).eps)
        centred = _without_rounding(about_mean, n, unit)
        # Far from the origin those that the largest leaves no digits of are still no smaller than about the mean.
        uncentred = np.maximum(_without_rounding(about_origin, n, unit + unit_64 * about_origin[-1]), centred)
        uncentred.flags.writeable = False
        _SOLVED[moments] = uncentred, centred
    return _SOLVED[moments][centered]


def _without_rounding(ascending: Vector, n_rows: int, most: float) -> Vector:
    values = ascending[::-1][:n_rows].copy()
    values[values <= most] = 0.0
    values.flags.writeable = False
    return values


def check_resolved(moments: Moments, values: Vector) -> None:
    """Refuse leading eigenvalues of float32 products where some are zero that may be none.

    Those of features that never vary, and those that fewer rows than features leave, are exact zeros.

    Raises
    ------
    IllConditionedError
    """
    if moments.products == "float64":
        return
    varying = moments.n_features - constant_features(moments).size
    present, due = int(np.count_nonzero(values)), min(len(values), int(moments.n_images) - 1, varying)
    if present < due:
        raise IllConditionedError(
            f"float32 products cannot tell {due - present} of {due} eigenvalues from zero: make the moments with "
            "dtype='float64', or give the features"
        )


def row_spectrum(X: Any, views: str | int, spectrum: str, centered: bool, *, whole: bool = True) -> Vector:
    """Singular values of the rows of X, or the eigenvalues of their scatter, descending, min(N, d) of them.

    Parameters
    ----------
    X, views
        See `row_moments`.
    spectrum : {"singular", "eigenvalues"}
    centered : bool
    whole : bool
        Whether the small ones matter.

    Raises
    ------
    DegenerateFeaturesError
        All are zero.
    IllConditionedError
        They are of moments with float32 products, which cannot tell small ones from zero.
    """
    if spectrum not in ("singular", "eigenvalues"):
        raise ValueError(f"spectrum must be 'singular' or 'eigenvalues', not {spectrum!r}")
    moments = row_moments(X, views)
    values = row_eigenvalues(moments, centered)
    if whole:
        check_resolved(moments, values)
    return np.sqrt(values) if spectrum == "singular" else values


def entropy_rank(values: Vector, epsilon: float = 0.0, renormalize: bool = False) -> float:
    """exp(-sum p log p), p = value / sum of values + epsilon: how many equal values would have this entropy.

    Parameters
    ----------
    values : ndarray (n,)
        Not negative, not all zero.
    epsilon : float
        Added to every share.
    renormalize : bool
        Divide the shares by their sum again, 1 + n epsilon.
    """
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be >= 0, not {epsilon}")
    shares = values / values.sum() + epsilon
    if renormalize:
        shares /= shares.sum()
    return float(np.exp(entr(shares).sum()))


def effective_rank(X: Any, views: str | int = 0, *, spectrum: str = "singular", centered: bool = True) -> float:
    """Effective rank: number of equally strong directions with the entropy of the spectrum; from 1 to min(N - 1, d).

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.
    spectrum : {"singular", "eigenvalues"}
        Shares of the singular values (Roy & Vetterli), or of the variance along principal directions.
    centered : bool
        Subtract the mean row first; without it the greatest value is min(N, d).

    Returns
    -------
    float

    Raises
    ------
    ValueError
        There is no view of that number.
    NotEnoughDataError
        Fewer than two images.
    NonFiniteError
        NaN or infinity among the features.
    DegenerateFeaturesError
        All rows are equal (or, uncentred, zero).
    IllConditionedError
        Moments with float32 products, which cannot tell small eigenvalues from zero.

    Notes
    -----
    exp(-sum p log p), p_k = s_k/||s||_1, s the singular values of the centred rows: square roots of the eigenvalues of
    their scatter, so that those below about 1e-8 sqrt(d) times the largest count as zero, or, uncentred, as those of
    the centred rows. Centred, at most N - 1 are not zero. Biased downwards while N is not large against d. Invariant
    under rotation, translation, scaling and order of the images; not under other affine maps. Uncentred it is RankMe at
    epsilon = 0, and translation matters. Cost: one pass and the eigenvalues of a d x d matrix, solved once for all
    metrics that are given the same Moments.

    References
    ----------
    Roy & Vetterli 2007, EUSIPCO, Definition 1.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> rows = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # singular values 3 and 1, times sqrt(2)
    >>> round(ik.effective_rank(rows), 4), round(ik.effective_rank(rows, spectrum="eigenvalues"), 4)
    (1.7548, 1.3841)
    """
    return entropy_rank(row_spectrum(X, views, spectrum, centered))


def participation_ratio(X: Any, views: str | int = 0, *, centered: bool = True) -> float:
    """Participation ratio of the covariance spectrum: (Tr S)^2/Tr S^2; from 1 to min(N - 1, d).

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.
    centered : bool
        S is the covariance; else the matrix of second moments about the origin, and the greatest value min(N, d).

    Returns
    -------
    float

    Raises
    ------
    ValueError
        There is no view of that number.
    NotEnoughDataError
        Fewer than two images.
    NonFiniteError
        NaN or infinity among the features.
    DegenerateFeaturesError
        All rows are equal (or, uncentred, zero).

    Notes
    -----
    ddof cancels. Biased downwards: for Gaussian rows 1/PR is about 1/N above that of the true covariance. Invariant
    under rotation, translation, scaling and order of the images; not under other affine maps. Cost: one pass, no
    eigenvalues.

    References
    ----------
    Gao et al. 2017, bioRxiv 214262, the participation ratio.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> ik.participation_ratio(np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))  # (9 + 1)^2/(81 + 1)
    1.2195121951219512
    """
    rows = row_moments(X, views)
    check_spread(rows, centered)
    scatter = rows.between
    if not centered:
        scatter = scatter + float(rows.n_images) * np.outer(rows.mean[0], rows.mean[0])
    return float(np.trace(scatter) / blas.dnrm2(scatter.ravel())) ** 2


def stable_rank(X: Any, views: str | int = 0, *, spectrum: str = "eigenvalues", centered: bool = True) -> float:
    """Stable rank ||S||_F^2/||S||_2^2 of the covariance S; from 1 to min(N - 1, d).

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.
    spectrum : {"eigenvalues", "singular"}
        "eigenvalues": of the covariance. "singular": of the matrix of rows itself, which is Tr S/||S||_2.
    centered : bool
        Subtract the mean row first; without it the greatest value is min(N, d).

    Returns
    -------
    float

    Raises
    ------
    ValueError
        There is no view of that number.
    NotEnoughDataError
        Fewer than two images.
    NonFiniteError
        NaN or infinity among the features.
    DegenerateFeaturesError
        All rows are equal (or, uncentred, zero).

    Notes
    -----
    sum v_k^2/v_1^2 over the eigenvalues or singular values v; ddof cancels. Centred with ``spectrum="singular"`` it is
    NESum (He & Ozay 2022). Ruled by the one largest value: biased downwards, because that of a sample is too large.
    Invariant under rotation, translation, scaling and order of the images; not under other affine maps. Cost: as
    `effective_rank`.

    References
    ----------
    Rudelson & Vershynin 2007, J. ACM 54(4), section 1 (there of any matrix: "numerical rank"). He & Ozay 2022, ICML,
    Definition 4.1.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> rows = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 9 and 1, times 2
    >>> round(ik.stable_rank(rows), 4), round(ik.stable_rank(rows, spectrum="singular"), 4)
    (1.0123, 1.1111)
    """
    values = row_spectrum(X, views, spectrum, centered, whole=False)
    return float(np.square(values / values[0]).sum())


class EffectiveRank(Measure):
    """Effective rank of features: the exponential of the entropy of their spectrum.

    Parameters
    ----------
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one.
    spectrum : {"singular", "eigenvalues"}
        See :func:`icrkit.effective_rank`.
    centered : bool
        Subtract the mean row first.

    Attributes
    ----------
    effective_rank_ : float
        From 1 to min(N - 1, d); uncentred, to min(N, d).

    Notes
    -----
    ``score(X)`` is the effective rank of X. Formula and behaviour: see :func:`icrkit.effective_rank`.

    References
    ----------
    Roy & Vetterli 2007, EUSIPCO, Definition 1.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, random_state=0)
    >>> 1 < ik.EffectiveRank().fit(cube).effective_rank_ < 8
    True
    """

    quantity = "effective_rank"
    takes_moments = True

    def __init__(self, views: str | int = 0, *, spectrum: str = "singular", centered: bool = True) -> None:
        self.views = views
        self.spectrum = spectrum
        self.centered = centered

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        return {"effective_rank": effective_rank(given, **self.get_params())}


class ParticipationRatio(Measure):
    """Participation ratio of features: (Tr S)^2/Tr S^2 of their covariance.

    Parameters
    ----------
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one.
    centered : bool
        Subtract the mean row first.

    Attributes
    ----------
    participation_ratio_ : float
        From 1 to min(N - 1, d); uncentred, to min(N, d).

    Notes
    -----
    ``score(X)`` is the participation ratio of X. Behaviour: see :func:`icrkit.participation_ratio`.

    References
    ----------
    Gao et al. 2017, bioRxiv 214262.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, random_state=0)
    >>> 1 < ik.ParticipationRatio().fit(cube).participation_ratio_ < 8
    True
    """

    quantity = "participation_ratio"
    takes_moments = True

    def __init__(self, views: str | int = 0, *, centered: bool = True) -> None:
        self.views = views
        self.centered = centered

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        return {"participation_ratio": participation_ratio(given, **self.get_params())}


class StableRank(Measure):
    """Stable rank of features: squared norms of their covariance, Frobenius over spectral.

    Parameters
    ----------
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one.
    spectrum : {"eigenvalues", "singular"}
        See :func:`icrkit.stable_rank`.
    centered : bool
        Subtract the mean row first.

    Attributes
    ----------
    stable_rank_ : float
        From 1 to min(N - 1, d); uncentred, to min(N, d).

    Notes
    -----
    ``score(X)`` is the stable rank of X. Formula and behaviour: see :func:`icrkit.stable_rank`.

    References
    ----------
    Rudelson & Vershynin 2007, J. ACM 54(4), section 1.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, random_state=0)
    >>> 1 < ik.StableRank().fit(cube).stable_rank_ < 8
    True
    """

    quantity = "stable_rank"
    takes_moments = True

    def __init__(self, views: str | int = 0, *, spectrum: str = "eigenvalues", centered: bool = True) -> None:
        self.views = views
        self.spectrum = spectrum
        self.centered = centered

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        return {"stable_rank": stable_rank(given, **self.get_params())}
