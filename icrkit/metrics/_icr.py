"""Invariant contamination ratio: how much residual contaminates the space of invariant features.

ICR = d / (d + Tr(Sigma_xi^-1 Sigma_s)), from 0 (clean) to 1 (residual only).
Source: Li et al. 2026, "Evaluating the Representation Space of Diffusion Models via Self-Supervised Principles",
arXiv 2606.09718. The plug-in estimate is the paper's; the cross-fitted one and its interval are ours.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from icrkit._features import unit_rows
from icrkit.exceptions import IllConditionedError, NotEnoughDataError
from icrkit.metrics._base import MomentsEstimator
from icrkit.metrics._crossfit import Crossfit, crossfit
from icrkit.metrics._decomposition import (
    Matrix,
    ResidualModel,
    constant_features,
    invariant_covariance,
    residual_covariance,
    residual_dof,
    traces,
)
from icrkit.metrics._fisher import fisher_spectrum
from icrkit.moments import Moments

__all__ = ["ICREstimator", "held_out_snr", "icr", "plug_in_snr"]

CORRECTIONS = ("none", "gaussian", "crossfit")


def icr(
    moments: Moments,
    correction: str = "none",
    regularization: float = 0.0,
    residual_centering: str = "view",
) -> Any:
    """Invariant contamination ratio, from 0 (clean) to 1 (residual only).

    Parameters
    ----------
    moments : Moments
        With a leading axis "sigma" the result is an array over it.
    correction : {"none", "gaussian", "crossfit"}
        "none" is the paper's plug-in, biased low by about 1 - (m-d-1)/m; "gaussian" removes that bias where residuals
        are Gaussian with one covariance for all images; "crossfit" removes it for elliptical residuals, heavy tails
        and per-image scales included, and needs moments with folds.
    regularization : float
        tau as a share of Tr(Sigma_xi)/d; with any, ICR is no longer affine invariant.
    residual_centering : {"view", "none"}
        Remove each view's own mean first (the paper's number), or not (MANOVA).

    Returns
    -------
    float, or ndarray (n_levels,)

    Raises
    ------
    NotEnoughDataError
        Fewer than two images or views, or m <= d at tau = 0.
    DegenerateFeaturesError
        Constant features or no residual.
    IllConditionedError
        Residual covariance singular to working precision.
    ValueError
        "gaussian" together with regularization.

    Notes
    -----
    R = Tr(W^-1 B)/d - 1/V, ICR = 1/(1 + R). "gaussian" multiplies the trace by (m-d-1)/m. Cost: one Cholesky
    factor and inverse (d^3 flops), one a fold with "crossfit". ICR is not comparable across d.

    References
    ----------
    Li et al. 2026, arXiv 2606.09718, eq. B.6.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=400, n_features=8, icr=0.5, random_state=0)
    >>> m = ik.Moments.from_cube(cube, n_folds=10)
    >>> round(ik.icr(m, correction="crossfit"), 1)
    0.5
    """
    if correction not in CORRECTIONS:
        raise ValueError(f"correction must be one of {CORRECTIONS}, not {correction!r}")
    if "sigma" in moments.dims:
        levels = range(moments.n_images.shape[moments.dims.index("sigma")])
        return np.array([icr(moments.select(sigma=k), correction, regularization, residual_centering) for k in levels])
    if correction == "crossfit":
        return crossfit(moments, regularization, residual_centering).icr
    snr = plug_in_snr(
        ResidualModel(moments.total, regularization, residual_centering), moments.total, correction, residual_centering
    )
    return 1.0 / (1.0 + snr)


def plug_in_snr(
    model: ResidualModel, moments: Moments, correction: str = "none", residual_centering: str = "view"
) -> float:
    """Mean SNR R of the images that the model was made from: "none" (the paper's plug-in) or "gaussian".

    Raises
    ------
    ValueError
        "gaussian" with tau > 0 or m <= d + 1: the bias of the inverse is not known there.
    """
    d, m = moments.n_features, model.dof
    if model.tau:
        if correction == "gaussian":
            raise NotEnoughDataError("correction='gaussian' needs regularization=0: the bias is not known otherwise")
        return model.traces(invariant_covariance(moments, residual_centering))[0] / d
    factor = 1.0
    if correction == "gaussian":
        if m <= d + 1:
            raise NotEnoughDataError(f"correction='gaussian' needs m > d + 1; m = {m}, d = {d}")
        factor = (m - d - 1) / m
    (trace,) = model.traces(moments.between)
    return factor * trace / int(moments.n_images - 1) / d - 1.0 / moments.n_views


def held_out_snr(model: ResidualModel, moments: Moments, residual_centering: str = "view") -> float:
    """Mean SNR of other images under a fitted residual covariance: Tr(P Sigma_s)/Tr(P (Sigma_xi + tau I)).

    The held-out images may be fewer than the features.
    """
    invariant, residual = model.traces(
        invariant_covariance(moments, residual_centering), residual_covariance(moments, residual_centering)
    )
    added = model.tau * model.trace_inverse() if model.tau else 0.0
    return invariant / (residual + added)


class ICREstimator(MomentsEstimator):
    """Invariant contamination ratio of features, with a cross-fitted value and its confidence interval.

    Parameters
    ----------
    correction : {"none", "gaussian", "crossfit"}
        Which estimate `icr_` is. "none" is the paper's plug-in; the cross-fitted value stands beside it in any case.
    regularization : float
        tau as a share of Tr(Sigma_xi)/d, added to the residual covariance.
    residual_centering : {"view", "none"}
        Remove each view's own mean over images first (the paper's number), or not (MANOVA).
    n_folds : int
        Folds over images for cross-fitting, by a hash of the image id; 0 for none (about twice as fast).
    random_state : int
        Seed of the fold hash.
    normalize : {None, "l2"}
        Scale every feature vector to unit length first. ICR itself never does.
    drop_constant : bool
        Drop features that never vary, and record them, instead of refusing them.
    dtype : {"auto", "float32", "float64"}
        Precision of the products; "auto" reads twice where float32 does not suffice.
    n_views : int
        Consecutive rows to an image, for 2-D X without groups.
    confidence : float
        Level of `interval_`.

    Attributes
    ----------
    icr_, icr_plugin_, icr_gaussian_, icr_crossfit_ : float
        From 0 (clean) to 1 (residual only). The Gaussian and cross-fitted ones raise AttributeError, with the reason,
        where the data do not allow them.
    interval_ : tuple of float
        Confidence interval (low, high) of the cross-fitted value.
    mean_snr_, total_snr_ : float
        R and d R, of the estimate that `icr_` is. d R is comparable between layers of different width; ICR is not.
    invariant_covariance_, residual_covariance_ : ndarray (d, d)
    trace_invariant_, trace_residual_, trace_total_ : float
    n_folds_ : int
    n_negative_ : int
        Negative generalised eigenvalues of the invariant covariance; an eigenproblem, solved when asked for.
    condition_number_, error_bound_ : float
        Of the scaled residual covariance (1-norm), and unit roundoff times it: a bound on the error of ICR.
    moments_ : Moments
        Of all features, dropped ones included.
    dropped_features_ : ndarray of int
    n_features_in_ : int

    Notes
    -----
    ``score`` is minus the ICR of other images under the fitted residual covariance; they may be fewer than d. It is
    right for choosing a noise level or checkpoint, or between layers of equal width, and wrong for choosing a
    regularization or a PCA dimension, which change what is measured. Split with
    ``KFold(5, shuffle=True, random_state=0)``: images are often sorted by class, and scikit-learn's default folds are
    contiguous.

    References
    ----------
    Li et al. 2026, arXiv 2606.09718, eq. B.6.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=6, icr=0.25, random_state=0)
    >>> est = ik.ICREstimator().fit(cube)
    >>> low, high = est.interval_
    >>> low < 0.25 < high
    True
    """

    _used: Moments  # without the dropped features

    def __init__(
        self,
        correction: str = "none",
        *,
        regularization: float = 0.0,
        residual_centering: str = "view",
        n_folds: int = 10,
        random_state: int = 0,
        normalize: str | None = None,
        drop_constant: bool = False,
        dtype: str = "auto",
        n_views: int = 2,
        confidence: float = 0.95,
    ) -> None:
        self.correction = correction
        self.regularization = regularization
        self.residual_centering = residual_centering
        self.n_folds = n_folds
        self.random_state = random_state
        self.normalize = normalize
        self.drop_constant = drop_constant
        self.dtype = dtype
        self.n_views = n_views
        self.confidence = confidence

    def _finish(self, moments: Moments) -> Self:
        if self.correction not in CORRECTIONS:
            raise ValueError(f"correction must be one of {CORRECTIONS}, not {self.correction!r}")
        dropped = constant_features(moments.total) if self.drop_constant else np.empty(0, dtype=np.int64)
        used = moments.select_features(_kept(moments.n_features, dropped)) if dropped.size else moments
        total, centering = used.total, self.residual_centering
        model = ResidualModel(total, self.regularization, centering)
        error_bound = model.error_bound(used.products)
        plug_in = plug_in_snr(model, total, "none", centering)
        gaussian = self._attempt(lambda: plug_in_snr(model, total, "gaussian", centering))
        fitted = self._attempt(lambda: crossfit(used, self.regularization, centering))
        chosen = {"none": plug_in, "gaussian": gaussian, "crossfit": fitted}[self.correction]
        if isinstance(chosen, Exception):  # what was asked for by name is not passed over
            raise chosen
        # Nothing below raises: a fit that fails leaves the one before it whole.
        self.moments_ = moments  # of all features: one that never varied so far may do so in the next block
        self.dropped_features_, self._used, self._model = dropped, used, model
        self.condition_number_, self.error_bound_ = model.condition_number, error_bound
        self._gaussian, self._crossfit = gaussian, fitted
        self._interval = fitted.interval(self.confidence) if isinstance(fitted, Crossfit) else fitted
        self.n_folds_ = fitted.n_folds if isinstance(fitted, Crossfit) else 0
        self.trace_invariant_, self.trace_residual_, self.trace_total_ = traces(total, centering)
        self.icr_plugin_ = 1.0 / (1.0 + plug_in)
        self.mean_snr_ = chosen.mean_snr if isinstance(chosen, Crossfit) else float(chosen)
        self.icr_ = 1.0 / (1.0 + self.mean_snr_)
        self.total_snr_ = total.n_features * self.mean_snr_
        self._n_features_out = total.n_features
        self._warn()
        return self

    def _ready(self, moments: Moments) -> bool:
        if not super()._ready(moments):
            return False
        if self.regularization > 0 or self.correction == "none":
            return True
        if self.correction == "gaussian":
            return int(residual_dof(moments.total, self.residual_centering)) > moments.n_features + 1
        folds = moments.usable_folds()
        others = dataclasses.replace(moments.total, n_images=moments.total.n_images - folds.n_images.max())
        return folds.n_folds > 1 and int(residual_dof(others, self.residual_centering)) > moments.n_features

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "icr_plugin_")

    def _attempt(self, compute: Callable[[], Any]) -> Any:
        """The result, or the reason why there is none: it is told to whoever reads the attribute."""
        try:
            return compute()
        except (NotEnoughDataError, IllConditionedError) as reason:
            return reason.with_traceback(None)  # the frames would keep the features alive

    def _warn(self) -> None:
        if isinstance(self._crossfit, Crossfit):
            low, high = self.interval_
            if self.correction == "none" and not low <= self.icr_plugin_ <= high:
                warnings.warn(
                    f"the plug-in ICR {self.icr_plugin_:.3f} lies outside the {self.confidence:.0%} interval of the "
                    f"cross-fitted one, {self.icr_crossfit_:.3f} [{low:.3f}, {high:.3f}]: the plug-in is biased when "
                    "images are few for the features. correction='crossfit' reports the latter.",
                    stacklevel=3,
                )
        elif self.n_folds > 1 and "fold" in self.moments_.dims:
            warnings.warn(f"no cross-fitted ICR, the plug-in stands alone: {self._crossfit}", stacklevel=3)

    def _result(self, attempt: Any, name: str) -> Any:
        check_is_fitted(self)
        if isinstance(attempt, Exception):
            raise AttributeError(f"{type(self).__name__} has no {name} here: {attempt}")
        return attempt

    @property
    def icr_gaussian_(self) -> float:
        """Plug-in with the bias removed that Gaussian residuals of equal covariance would have."""
        return 1.0 / (1.0 + float(self._result(getattr(self, "_gaussian", None), "icr_gaussian_")))

    @property
    def icr_crossfit_(self) -> float:
        """Cross-fitted ICR."""
        return float(self._result(getattr(self, "_crossfit", None), "icr_crossfit_").icr)

    @property
    def interval_(self) -> tuple[float, float]:
        """Confidence interval of the cross-fitted ICR."""
        low, high = self._result(getattr(self, "_interval", None), "interval_")
        return low, high

    @property
    def invariant_covariance_(self) -> Matrix:
        """Sigma_s = B - W/V, (d, d)."""
        check_is_fitted(self)
        return invariant_covariance(self._used.total, self._model.centering)

    @property
    def residual_covariance_(self) -> Matrix:
        """Sigma_xi = W, (d, d)."""
        check_is_fitted(self)
        return residual_covariance(self._used.total, self._model.centering)

    @property
    def n_negative_(self) -> int:
        """Number of negative generalised eigenvalues."""
        check_is_fitted(self)
        spectrum = fisher_spectrum(self._used, self._model.regularization, self._model.centering)
        return int((spectrum.eigenvalues < 0).sum())

    def score(self, X: Any, y: Any = None, *, groups: Any = None) -> float:
        """Minus the ICR of X under the fitted residual covariance; greater is better.

        Parameters
        ----------
        X : as for fit
            Held-out images; they may be fewer than the features.
        y : ignored
        groups : array (row,), optional

        Returns
        -------
        float
            -1/(1 + Tr(P Sigma_s)/Tr(P (Sigma_xi + tau I))), P from the fitted images.
        """
        check_is_fitted(self)
        moments = self._held_out(X, groups)
        if self.dropped_features_.size:
            moments = moments.select_features(_kept(moments.n_features, self.dropped_features_))
        return -1.0 / (1.0 + held_out_snr(self._model, moments, self._model.centering))

    def _transform_rows(self, rows: NDArray[np.floating]) -> Matrix:
        if self.normalize == "l2":
            rows = unit_rows(rows)
        if self.dropped_features_.size:
            rows = rows[:, _kept(rows.shape[1], self.dropped_features_)]
        return self._model.whiten(rows - self._used.total.mean.mean(axis=0))


def _kept(n_features: int, dropped: NDArray[np.int64]) -> NDArray[np.bool_]:
    keep = np.ones(n_features, dtype=bool)
    keep[dropped] = False
    return keep
