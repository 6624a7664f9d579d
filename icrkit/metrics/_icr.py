"""Invariant contamination ratio: how much residual contaminates the space of invariant features.

ICR = d / (d + Tr(Sigma_xi^-1 Sigma_s)), from 0 (clean) to 1 (residual only).
Source: Li et al. 2026, "Evaluating the Representation Space of Diffusion Models via Self-Supervised Principles",
arXiv 2606.09718. The plug-in estimate is the paper's; the cross-fitted one and its interval are ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from icrkit._arrays import to_numpy
from icrkit._features import Features, as_features, unit_rows
from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NotEnoughDataError
from icrkit.metrics._base import MomentsEstimator, is_table
from icrkit.metrics._crossfit import Crossfit, crossfit
from icrkit.metrics._decomposition import (
    Matrix,
    ResidualModel,
    Traces,
    dead_features,
    invariant_covariance,
    refuse_constant,
    residual_covariance,
    residual_dof,
    resolve_centering,
    too_few,
    traces,
    without_features,
    words_on_rare,
)
from icrkit.metrics._fisher import fisher_spectrum
from icrkit.metrics._gram import (
    Gram,
    GramResidual,
    fisher_eigenvalues,
    gram_crossfit,
    gram_matrix,
    held_out_gram_snr,
)
from icrkit.metrics._tails import Tails, tails_of
from icrkit.moments import Moments

__all__ = ["ICREstimator", "held_out_snr", "icr", "plug_in_snr"]

CORRECTIONS = ("none", "gaussian", "crossfit")
LARGEST_BIAS = 0.02  # of a plug-in ICR that is given without a word


def icr(
    moments: Moments | Gram,
    correction: str = "none",
    regularization: float = 0.0,
    residual_centering: str = "view",
) -> Any:
    """Invariant contamination ratio, from 0 (clean) to 1 (residual only).

    Parameters
    ----------
    moments : Moments or Gram
        With a leading axis "sigma" the result is an array over it. A Gram matrix (:func:`icrkit.gram_matrix`) is for
        more features than rows, and needs regularization.
    correction : {"none", "gaussian", "crossfit"}
        "none" is the paper's plug-in, biased low by about 1 - (m-d-1)/m; "gaussian" removes that bias where residuals
        are Gaussian with one covariance for all images; "crossfit" removes it for elliptical residuals, heavy tails
        and per-image scales included, and needs moments with folds.
    regularization : float
        tau as a share of Tr(Sigma_xi)/d.
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
        Constant features (in moments), or no residual; with "crossfit", image means that coincide.
    IllConditionedError
        Residual covariance singular to working precision.
    ValueError
        "gaussian" together with regularization.

    Warns
    -----
    UserWarning
        The plug-in is more than .02 below what it would be without the bias of Gaussian residuals.

    Notes
    -----
    R = Tr(W^-1 B)/d - 1/V, ICR = 1/(1 + R). "gaussian" multiplies the trace by (m-d-1)/m. Cost: one Cholesky
    factor and inverse (d^3 flops), one a fold with "crossfit". ICR is not comparable across d.

    Invariant at tau = 0 under every invertible affine map of the features, with tau under translation, rotation and one
    scale only. Invariant under the order of images ("crossfit": for given image ids, which decide the folds) and one
    order of views for all images; with centring "none" also under an order of views of its own in each image.

    From a Gram matrix the numbers are the same, at a cost that hardly depends on d; constant features are no obstacle
    there, and count in d (``gram.drop_constant()`` leaves them out). Where d > m the plug-in says little: the images'
    own residual has no variance in most directions, tau takes its place, and "none" gives about the regularization
    itself where that is small. "crossfit" does not share this. Images being fewer than features, its inverse damps more
    than tau would in the population: at d = 4 N and regularization 0.1 it gave .524 where the population's
    1/(1 + Tr((Sigma_xi + tau I)^-1 Sigma_s)/d) is .556.

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
    if not isinstance(moments, Gram) and not hasattr(moments, "within"):
        kind = type(moments).__name__
        raise TypeError(f"icr takes Moments or Gram, not {kind}: Moments.from_cube(X), or ICREstimator")
    levels: list[Any] = [moments]
    if not isinstance(moments, Gram) and "sigma" in moments.dims:
        levels = [moments.select(sigma=k) for k in range(moments.n_images.shape[moments.dims.index("sigma")])]
    found = [_value_and_unbiased(level, correction, regularization, residual_centering) for level in levels]
    result: Any = found[0][0] if levels[0] is moments else np.array([value for value, _ in found])
    if correction != "crossfit" and not isinstance(moments, Gram):  # of what is held out they are refused
        for level in levels:
            if said := words_on_rare(level, regularization, residual_centering):
                warnings.warn(
                    f"{said}. The plug-in ICR rests on these images alone there, and may be far off. "
                    "ICREstimator(drop_constant=True) leaves such features out.",
                    stacklevel=2,
                )
                break
    value, unbiased = max(found, key=lambda pair: abs(pair[1] - pair[0]))
    if abs(unbiased - value) > LARGEST_BIAS:
        warnings.warn(
            f"the plug-in ICR {value:.3f} is biased low: about {unbiased:.3f} without the bias of the inverse, were "
            "residuals Gaussian. correction='crossfit', of moments with folds, removes it.",
            stacklevel=2,
        )
    return result


def _value_and_unbiased(
    moments: Moments | Gram, correction: str, regularization: float, residual_centering: str
) -> tuple[float, float]:
    """ICR of one level, and what it would be without the bias that Gaussian residuals give the plug-in."""
    if correction == "crossfit":
        cross_fit = gram_crossfit if isinstance(moments, Gram) else crossfit
        value = cross_fit(moments, regularization, residual_centering).icr  # type: ignore[arg-type]
        return value, value
    d, v = moments.n_features, moments.n_views
    if isinstance(moments, Gram):
        gram_model = GramResidual(moments, regularization, residual_centering)
        snr = gram_model.mean_snr() if correction == "none" else _refuse_gaussian()
        m, damped = gram_model.dof, gram_model.damped
    else:
        model = ResidualModel(moments.total, regularization, residual_centering)
        snr = plug_in_snr(model, moments.total, correction, residual_centering)
        m, damped = model.dof, model.damped
    # Where tau damps the residual, only what is left of d is inflated.
    inflated = (d - damped) / d
    share = 0.0 if correction == "gaussian" else min((d - damped + 1) / m, 1.0)
    unbiased = (1 - share) * (snr + inflated / v) - inflated / v
    return 1.0 / (1.0 + snr), 1.0 / (1.0 + max(unbiased, 0.0))


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
            _refuse_gaussian()
        return model.traces(invariant_covariance(moments, residual_centering))[0] / d
    factor = 1.0
    if correction == "gaussian":
        if m <= d + 1:
            raise NotEnoughDataError(f"correction='gaussian' needs m > d + 1; m = {m}, d = {d}")
        factor = (m - d - 1) / m
    (trace,) = model.traces(moments.between)
    return factor * trace / int(moments.n_images - 1) / d - 1.0 / moments.n_views


def _refuse_gaussian() -> NoReturn:
    raise NotEnoughDataError("correction='gaussian' needs regularization=0: the bias is not known otherwise")


def held_out_snr(model: ResidualModel, moments: Moments, residual_centering: str = "view") -> float:
    """Mean SNR of other images under a fitted residual covariance: Tr(P Sigma_s)/Tr(P (Sigma_xi + tau I)).

    The held-out images may be fewer than the features.
    """
    invariant, residual = model.traces(
        invariant_covariance(moments, residual_centering), residual_covariance(moments, residual_centering)
    )
    return invariant / (residual + model.damped)


class _GramFit(NamedTuple):
    """What a fit through the Gram matrix keeps: `score` has to read the features again."""

    model: GramResidual
    gram: Gram
    features: Features


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
        Drop features that never vary, or whose views differ in fewer than about 12 images, and record them, instead of
        refusing them.
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
        Not from the Gram matrix.
    trace_invariant_, trace_residual_, trace_total_ : float
    n_folds_ : int
    n_negative_ : int
        Negative generalised eigenvalues of the invariant covariance; an eigenproblem, solved when asked for.
    condition_number_, error_bound_ : float
        Of the scaled residual covariance (1-norm), and unit roundoff times it: a bound on the error of ICR. From the
        Gram matrix: an upper bound of that of Sigma_xi + tau I, and what rounding may have done to `icr_plugin_`.
    tails_ : Tails or None
        How unlike the images of a sample are in size; a warning says so where the interval is too narrow for it. None
        from the Gram matrix, and from moments without a sample.
    moments_ : Moments
        Of all features, dropped ones included. Not from the Gram matrix.
    dropped_features_ : ndarray of int
    n_features_in_ : int

    Notes
    -----
    ``score`` is minus the ICR of other images under the fitted residual covariance; they may be fewer than d. It is
    right for choosing a noise level or checkpoint, or between layers of equal width, and wrong for choosing a
    regularization or a PCA dimension, which change what is measured. Split with
    ``KFold(5, shuffle=True, random_state=0)``: images are often sorted by class, and scikit-learn's default folds are
    contiguous. Formula and behaviour: see :func:`icrkit.icr`.

    With regularization, and more features than rows (d > N V), ``fit`` goes through the Gram matrix of the rows
    (:func:`icrkit.gram_matrix`): the same numbers in (N V)^2 d flops and 8 (N V)^2 bytes, whatever d is. There is
    nothing d x d then, so that `moments_`, both covariances and ``transform`` raise AttributeError, and ``partial_fit``
    cannot go on from there. ``score`` reads the fitted features again, which the estimator keeps (and pickles). Of the
    estimates only "crossfit" says something there: see :func:`icrkit.icr`.

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

    # Without the dropped features; or why there are none.
    _used: Moments | NotEnoughDataError
    _moments: Moments | NotEnoughDataError
    _gram_fit: _GramFit | None = None

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

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Fit to X in one pass over its features; through their Gram matrix where they outnumber the rows.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
        y : ignored
        groups : array (row,), optional
            Image of each row, for 2-D X.

        Returns
        -------
        self
        """
        if isinstance(X, Moments) or not _more_features_than_rows(X):
            return super().fit(X, y, groups=groups)
        if self.regularization == 0 and self.drop_constant:  # what is left may be fewer than the rows
            return super().fit(X, y, groups=groups)
        features = self._features(X, groups=groups, reset=True, normalize=self.normalize)
        if self.regularization == 0:  # known before anything is read
            n, v, d = features.shape
            lost = resolve_centering(features, self.residual_centering) == "view"
            raise NotEnoughDataError(too_few((n - lost) * (v - 1), d, v))
        gram = self._gram_of(features, self.dtype)
        try:
            return self._finish_gram(gram, features)
        except IllConditionedError:
            if self.dtype != "auto" or gram.products == "float64":
                raise
        return self._finish_gram(self._gram_of(features, "float64"), features)

    def partial_fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Add images to what was fitted before: see `MomentsEstimator.partial_fit`.

        Always through moments; what was fitted through the Gram matrix cannot be added to.
        """
        if self._gram_fit is not None:
            raise ValueError("this estimator was fitted through the Gram matrix of all images: fit it again instead")
        return super().partial_fit(X, y, groups=groups)

    def _gram_of(self, features: Features, dtype: str) -> Gram:
        return gram_matrix(features, n_folds=self.n_folds, dtype=dtype, random_state=self.random_state)

    def _finish_gram(self, gram: Gram, features: Features) -> Self:
        dropped = gram.constant
        if dropped.size and not (self.drop_constant and dropped.size < gram.n_features):
            refuse_constant(dropped, gram.n_features)
        gram = gram.drop_constant()
        model = GramResidual(gram, self.regularization, self.residual_centering)
        estimates = {
            "none": model.mean_snr(),
            "gaussian": self._attempt(_refuse_gaussian),
            "crossfit": self._attempt(lambda: gram_crossfit(gram, self.regularization, self.residual_centering)),
        }
        if isinstance(estimates["crossfit"], IllConditionedError) and gram.products == "float32":
            raise estimates["crossfit"]  # float64 products may mend it
        chosen = self._chosen(estimates)
        self._moments = self._used = NotEnoughDataError(
            f"the {features.shape[2]} features outnumber the {features.shape[0] * features.shape[1]} rows, whose Gram "
            "matrix was taken instead. Reduce the features first, with PerView(PCA(n_components)), to have it."
        )
        self.dropped_features_, self._gram_fit = dropped, _GramFit(model, gram, features)
        self.condition_number_, self.error_bound_ = model.condition_number, model.error_bound
        self.tails_: Tails | None = None
        return self._report(estimates, chosen, traces(gram, self.residual_centering), gram.n_features)

    def _finish(self, moments: Moments) -> Self:
        used, dropped = self._without_dead(moments)
        total, centering = used.total, self.residual_centering
        model = ResidualModel(total, self.regularization, centering)
        error_bound = model.error_bound()
        estimates = {
            "none": plug_in_snr(model, total, "none", centering),
            "gaussian": self._attempt(lambda: plug_in_snr(model, total, "gaussian", centering)),
            "crossfit": self._attempt(lambda: crossfit(used, self.regularization, centering)),
        }
        chosen = self._chosen(estimates)
        self.moments_ = moments  # of all features: one that never varied so far may do so in the next block
        self.dropped_features_, self._used, self._model, self._gram_fit = dropped, used, model, None
        self.condition_number_, self.error_bound_ = model.condition_number, error_bound
        self.tails_ = tails_of(used, model)
        return self._report(estimates, chosen, traces(total, centering), total.n_features)

    def _without_dead(self, moments: Moments) -> tuple[Moments, NDArray[np.int64]]:
        """Moments of the features that are to count, and the indices of the others."""
        dropped = dead_features(moments) if self.drop_constant else np.empty(0, dtype=np.int64)
        return without_features(moments, dropped), dropped

    def _chosen(self, estimates: dict[str, Any]) -> Any:
        """The estimate asked for. Nothing after it raises: a fit that fails leaves the one before it whole."""
        if self.correction not in CORRECTIONS:
            raise ValueError(f"correction must be one of {CORRECTIONS}, not {self.correction!r}")
        chosen = estimates[self.correction]
        if isinstance(chosen, Exception):  # what was asked for by name is not passed over
            raise chosen
        return chosen

    def _report(self, estimates: dict[str, Any], chosen: Any, parts: Traces, n_features: int) -> Self:
        self._gaussian, self._crossfit = estimates["gaussian"], estimates["crossfit"]
        fitted = self._crossfit
        self._interval = fitted.interval(self.confidence) if isinstance(fitted, Crossfit) else fitted
        self.n_folds_ = fitted.n_folds if isinstance(fitted, Crossfit) else 0
        self.trace_invariant_, self.trace_residual_, self.trace_total_ = parts
        self.icr_plugin_ = 1.0 / (1.0 + float(estimates["none"]))
        self.mean_snr_ = chosen.mean_snr if isinstance(chosen, Crossfit) else float(chosen)
        self.icr_ = 1.0 / (1.0 + self.mean_snr_)
        self.total_snr_ = n_features * self.mean_snr_
        self._n_features_out = n_features
        self._warn()
        return self

    def _ready(self, moments: Moments) -> bool:
        if not super()._ready(moments):
            return False
        if self.correction == "crossfit":
            return self._enough_folds(self._without_dead(moments)[0])
        if self.correction == "none" or self.regularization > 0:
            return True
        return int(residual_dof(moments.total, self.residual_centering)) > moments.n_features + 1

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "icr_plugin_")

    def _attempt(self, compute: Callable[[], Any]) -> Any:
        """The result, or the reason why there is none: it is told to whoever reads the attribute."""
        try:
            return compute()
        except (NotEnoughDataError, DegenerateFeaturesError, IllConditionedError) as reason:
            return reason.with_traceback(None)  # the frames would keep the features alive

    def _warn(self) -> None:
        if isinstance(self._crossfit, Crossfit):
            self._warn_of_tails(self.tails_, self.confidence, stacklevel=5)
            low, high = self.interval_
            if self.correction == "none" and not low <= self.icr_plugin_ <= high:
                warnings.warn(
                    f"the plug-in ICR {self.icr_plugin_:.3f} lies outside the {self.confidence:.0%} interval of the "
                    f"cross-fitted one, {self.icr_crossfit_:.3f} [{low:.3f}, {high:.3f}]: the plug-in is biased when "
                    "images are few for the features. correction='crossfit' reports the latter.",
                    stacklevel=4,
                )
        elif self.n_folds > 1 and (self._gram_fit is not None or "fold" in self.moments_.dims):
            warnings.warn(f"no cross-fitted ICR, the plug-in stands alone: {self._crossfit}", stacklevel=4)

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
    def moments_(self) -> Moments:
        """Moments of all features, dropped ones included."""
        found = getattr(self, "_moments", None)
        return found if isinstance(found, Moments) else self._result(found, "moments_")  # a stream may have no ICR yet

    @moments_.setter
    def moments_(self, moments: Moments) -> None:
        self._moments = moments

    @property
    def invariant_covariance_(self) -> Matrix:
        """Sigma_s = B - W/V, (d, d)."""
        used = self._result(getattr(self, "_used", None), "invariant_covariance_")
        return invariant_covariance(used.total, self._model.centering)

    @property
    def residual_covariance_(self) -> Matrix:
        """Sigma_xi = W, (d, d)."""
        used = self._result(getattr(self, "_used", None), "residual_covariance_")
        return residual_covariance(used.total, self._model.centering)

    @property
    def n_negative_(self) -> int:
        """Number of negative generalised eigenvalues."""
        check_is_fitted(self)
        if self._gram_fit is not None:
            model, gram, _ = self._gram_fit
            values = fisher_eigenvalues(gram, model.regularization, model.centering)
        else:
            used = self._result(self._used, "n_negative_")
            values = fisher_spectrum(used, self._model.regularization, self._model.centering).eigenvalues
        return int((values < 0).sum())

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
        if self._gram_fit is not None:
            if isinstance(X, Moments):
                raise TypeError("after a fit through the Gram matrix the features are needed: moments do not suffice")
            model, gram, features = self._gram_fit
            held_out = self._features(X, groups=groups, reset=False, normalize=self.normalize)
            return -1.0 / (1.0 + held_out_gram_snr(model, features, held_out, gram.products, self.dropped_features_))
        moments = self._held_out(X, groups)
        if self.dropped_features_.size:
            moments = moments.select_features(_kept(moments.n_features, self.dropped_features_))
        return -1.0 / (1.0 + held_out_snr(self._model, moments, self._model.centering))

    def _transform_rows(self, rows: NDArray[np.floating]) -> Matrix:
        used = self._result(self._used, "transform")
        if self.normalize == "l2":
            rows = unit_rows(rows)
        if self.dropped_features_.size:
            rows = rows[:, _kept(rows.shape[1], self.dropped_features_)]
        return self._model.whiten(rows - used.total.mean.mean(axis=0))


def _more_features_than_rows(X: Any) -> bool:
    if is_table(X):
        shape = to_numpy(X).shape
        return len(shape) == 2 and shape[1] > shape[0]
    n, v, d = as_features(X, min_views=0, min_images=0).shape
    return d > n * v


def _kept(n_features: int, dropped: NDArray[np.int64]) -> NDArray[np.bool_]:
    keep = np.ones(n_features, dtype=bool)
    keep[dropped] = False
    return keep
