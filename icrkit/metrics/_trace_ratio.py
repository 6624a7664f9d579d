"""Trace ratio: residual over invariant variance, summed over features.

Source: Li et al. 2026, arXiv 2606.09718, who argue against it: the features of greatest variance rule it, which the
invariant contamination ratio whitens away.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from icrkit.exceptions import DegenerateFeaturesError
from icrkit.metrics._decomposition import Traces, check_residual, check_squares, traces
from icrkit.metrics._view_measure import ViewMeasure, view_moments
from icrkit.moments import Moments

__all__ = ["TraceRatio", "trace_ratio"]


def checked_traces(moments: Moments, residual_centering: str = "view") -> Traces:
    """Traces of features that vary, between views as well.

    Raises
    ------
    NotEnoughDataError, DegenerateFeaturesError
        See :func:`icrkit.trace_ratio`.
    """
    found = traces(moments, residual_centering)
    check_squares(moments)
    if not found.total > 0:
        raise DegenerateFeaturesError(f"none of the {moments.n_features} features varies")
    if not found.residual > 1e-17 * found.total:
        check_residual(moments)
    return found


def ratio(found: Traces) -> float:
    """Residual over invariant trace, infinite where the estimate of the latter isn't positive."""
    if found.invariant > 0:
        return found.residual / found.invariant
    warnings.warn(
        f"no invariant variance is left: the estimate of Tr Sigma_s is {found.invariant:.3g} beside Tr Sigma_xi = "
        f"{found.residual:.3g}; the trace ratio is infinite",
        stacklevel=3,
    )
    return float("inf")


def trace_ratio(
    X: Any,
    residual_centering: str = "view",
    normalize: str | None = None,
    *,
    n_views: int = 2,
    groups: Any = None,
) -> float:
    """Trace ratio Tr Sigma_xi/Tr Sigma_s of residual and invariant variance, from 0 up; lower is cleaner.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
    residual_centering : {"view", "none"}
        See :func:`icrkit.residual_covariance`.
    normalize : {None, "l2"}
        Scale every feature vector to unit length first. Moments must be made with it.
    n_views : int
        Consecutive rows to an image, for 2-D X without groups.
    groups : array (row,), optional
        Image of each row, for 2-D X.

    Returns
    -------
    float
        Infinite, with a warning, where the estimate of Tr Sigma_s is not positive: hardly any signal.

    Raises
    ------
    ValueError
        `normalize` is asked for and X is Moments.
    NotEnoughDataError
        Fewer than two images or two views.
    NonFiniteError
        NaN or infinity among the features.
    DegenerateFeaturesError
        No feature varies, or the views of each image are identical.

    Notes
    -----
    Sigma_xi = W over (N - 1)(V - 1), or N(V - 1) with centring "none"; Sigma_s = B - W/V, B over N - 1. Both traces
    are unbiased, their ratio is too high by a share of the order of Var(Tr Sigma_s)/Tr(Sigma_s)^2. No inverse: more
    features than images will do. Invariant under rotation, translation, scaling, order of the images and one
    permutation of the views for all of them (any inside an image with "none"); not under other affine maps, which is
    the case against it. With ``normalize="l2"`` the length of each row drops out, and translation matters. Cost: one
    pass; where moments are at hand, their diagonals.

    References
    ----------
    Li et al. 2026, arXiv 2606.09718, eq. B.6 for the traces.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> h = np.array([[[0.0], [2.0]], [[4.0], [6.0]], [[8.0], [13.0]]])
    >>> round(ik.trace_ratio(h), 6)  # 1.5 / 22
    0.068182
    """
    return ratio(
        checked_traces(view_moments(X, n_views=n_views, groups=groups, normalize=normalize), residual_centering)
    )


class TraceRatio(ViewMeasure):
    """Trace ratio of features: residual over invariant variance.

    Parameters
    ----------
    residual_centering : {"view", "none"}
        See :func:`icrkit.residual_covariance`.
    normalize : {None, "l2"}
        Scale every feature vector to unit length first.
    n_views : int
        Consecutive rows to an image, for 2-D X without groups.

    Attributes
    ----------
    trace_ratio_ : float
        Lower is cleaner; infinite where no invariant variance is found.
    trace_invariant_, trace_residual_ : float
        Tr Sigma_s and Tr Sigma_xi.

    Notes
    -----
    ``score(X)`` is minus the trace ratio of X. Formula and behaviour: see :func:`icrkit.trace_ratio`.

    References
    ----------
    Li et al. 2026, arXiv 2606.09718, eq. B.6 for the traces.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, icr=0.2, random_state=0)
    >>> 0 < ik.TraceRatio().fit(cube).trace_ratio_ < 1
    True
    """

    quantity = "trace_ratio"
    greater_is_better = False

    def __init__(self, residual_centering: str = "view", normalize: str | None = None, *, n_views: int = 2) -> None:
        self.residual_centering = residual_centering
        self.normalize = normalize
        self.n_views = n_views

    def _results(self, given: Any, y: Any) -> Mapping[str, Any]:
        found = checked_traces(given, self.residual_centering)
        return {"trace_ratio": ratio(found), "trace_invariant": found.invariant, "trace_residual": found.residual}
