"""LiDAR: the effective rank of linear discriminant analysis in which each image is a class and its views the samples.

Source: Thilak et al. 2024, "LiDAR: Sensing linear probing performance in joint embedding SSL architectures", ICLR,
arXiv 2312.04000.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NotEnoughDataError
from icrkit.linalg import SpdFactor, eigenvalues
from icrkit.metrics._decomposition import (
    between_covariance,
    check_residual,
    check_squares,
    constant_features,
    refuse_equal_means,
    residual_covariance,
    residual_dof,
)
from icrkit.metrics._effective_rank import entropy_rank
from icrkit.metrics._view_measure import ViewMeasure, view_moments
from icrkit.moments import MAX_ERROR, Moments

__all__ = ["LiDAR", "discriminant_eigenvalues", "lidar"]


def discriminant_eigenvalues(moments: Moments, delta: float = 1e-4) -> NDArray[np.float64]:
    """Eigenvalues of (W + delta I)^-1/2 B (W + delta I)^-1/2, descending, (d,); negative rounding is zero.

    Parameters
    ----------
    moments : Moments
        Of one level.
    delta : float
        See :func:`icrkit.lidar`.

    Raises
    ------
    ValueError, NotEnoughDataError, DegenerateFeaturesError, IllConditionedError
        See :func:`icrkit.lidar`.
    """
    if not delta >= 0:
        raise ValueError(f"delta must be >= 0, not {delta}")
    within, between = residual_covariance(moments, "none"), between_covariance(moments)
    dof, d = int(residual_dof(moments, "none")), moments.n_features
    check_squares(moments)
    refuse_equal_means(moments)
    if not moments.within_uncentred_diagonal.sum() > 1e-17 * np.trace(moments.between):
        check_residual(moments)
    if delta == 0 and dof < d:
        raise NotEnoughDataError(
            f"W is singular: N(V - 1) = {dof} residual degrees of freedom for d = {d} features at delta = 0; more "
            "images or views, fewer features, or delta > 0"
        )
    if delta == 0 and (constant := constant_features(moments)).size:
        raise DegenerateFeaturesError(
            f"{constant.size} of {d} features are constant, the first is feature {constant[0]}: drop them, or delta > 0"
        )
    within[np.diag_indices(d)] += delta
    try:
        factor = SpdFactor(within.T)
        error = moments.error_bound(factor.correlation_condition(within), within.diagonal() * dof)
    except np.linalg.LinAlgError:
        error = float("inf")
    if not error <= MAX_ERROR[moments.products]:
        raise IllConditionedError(
            f"W + delta I is singular to working precision: d = {d} features, {dof} residual degrees of freedom, delta "
            f"= {delta:g}, mean residual variance {np.trace(within) / d - delta:.3g}. Remove linearly dependent "
            "features, or take a delta that is not lost beside the variance"
            + ("; moments with float64 products bear more." if moments.products == "float32" else ".")
        )
    # L^-1 B L^-T has the same eigenvalues as the symmetric square roots give.
    values = eigenvalues(factor.congruent(between, overwrite=True), overwrite=True)[::-1]
    return np.asarray(np.maximum(values, 0.0))


def lidar(X: Any, delta: float = 1e-4, epsilon: float = 1e-8, *, n_views: int = 2, groups: Any = None) -> float:
    """LiDAR: effective rank of the views' linear discriminant analysis; from 1 to about min(N - 1, d).

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
    delta : float
        Added to the diagonal of W, in squared feature units.
    epsilon : float
        Added to every share of the spectrum.
    n_views : int
        Consecutive rows to an image, for 2-D X without groups.
    groups : array (row,), optional
        Image of each row, for 2-D X.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        delta or epsilon is negative.
    NotEnoughDataError
        Fewer than two images or two views, or N(V - 1) < d at delta = 0.
    NonFiniteError
        NaN or infinity among the features.
    DegenerateFeaturesError
        The views of each image are identical, or the images' means coincide; constant features at delta = 0.
    IllConditionedError
        W + delta I is singular to working precision.

    Notes
    -----
    exp(-sum_k p_k log p_k), p_k = lambda_k/||lambda||_1 + epsilon (not renormalised), over the d eigenvalues lambda of
    (W + delta I)^-1/2 B (W + delta I)^-1/2; W over N(V - 1) about each image's own mean (centring "none"), B over
    N - 1. B is not corrected by W/V: lambda is the signal-to-noise ratio plus 1/V, so that features without any
    signal have LiDAR near d, the greatest there is. Read it beside a measure of signal. Biased downwards while N is
    not large against d. Invariant under rotation, translation, order of the images, and order of the views inside an
    image; under every invertible affine map at delta = 0; under scaling by c only where delta is scaled by c^2. Cost:
    one pass, a Cholesky factor and the eigenvalues of a d x d matrix.

    Public code: stable-pretraining agrees (its shares are lambda + epsilon over their sum). reptrix does not: it takes
    the entropy of the principal components of the rows of the discriminant matrix, so of eigenvalues squared.

    References
    ----------
    Thilak et al. 2024, arXiv 2312.04000, the definition of LiDAR.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, random_state=0)
    >>> 1 < ik.lidar(cube) < 8
    True
    """
    return entropy_rank(discriminant_eigenvalues(view_moments(X, n_views=n_views, groups=groups), delta), epsilon)


class LiDAR(ViewMeasure):
    """LiDAR of features: the effective rank of linear discriminant analysis with images as classes.

    Parameters
    ----------
    delta : float
        Added to the diagonal of W, in squared feature units.
    epsilon : float
        Added to every share of the spectrum.
    n_views : int
        Consecutive rows to an image, for 2-D X without groups.

    Attributes
    ----------
    lidar_ : float
        From 1 to min(N - 1, d), and with epsilon a trifle above.

    Notes
    -----
    ``score(X)`` is the LiDAR of X. Formula, behaviour and public code: see :func:`icrkit.lidar`.

    References
    ----------
    Thilak et al. 2024, arXiv 2312.04000, the definition of LiDAR.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, random_state=0)
    >>> 1 < ik.LiDAR().fit(cube).lidar_ < 8
    True
    """

    quantity = "lidar"

    def __init__(self, delta: float = 1e-4, epsilon: float = 1e-8, *, n_views: int = 2) -> None:
        self.delta = delta
        self.epsilon = epsilon
        self.n_views = n_views

    def _results(self, given: Any, y: Any) -> Mapping[str, Any]:
        return {"lidar": lidar(given, **self.get_params())}
