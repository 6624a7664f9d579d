"""Cross-fitting: the inverse residual covariance from some images, the traces under it from others.

The plug-in estimate uses the same images twice, once for the inverse and once for what is whitened by it, and is biased
low for it. Here the images of each fold meet the inverse of the other folds. The interval is ours: its derivation and
its measured coverage are in the documentation, "Statistics".
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError
from icrkit.linalg import SpdFactor, subtract_outer
from icrkit.metrics._decomposition import (
    ResidualModel,
    between_covariance,
    held_out_folds,
    least_share,
    resolve_centering,
    traces,
)
from icrkit.moments import UNIT_ROUNDOFF, Moments, helmert

__all__ = [
    "Crossfit",
    "FoldTraces",
    "crossfit",
    "direction_shape",
    "direction_variance",
    "fold_traces",
    "held_out_trace",
    "jackknife_error",
    "scale_variation",
]

Matrix = NDArray[np.float64]

_PANEL = 128  # columns of a matrix that stay in the cache


class FoldTraces(NamedTuple):
    """Traces under P, the inverse residual covariance of all images outside one fold."""

    n_images: int  # of the fold
    between: float  # Tr(P B) of the fold
    residual: float  # Tr(P W) of the fold
    damped: float  # tau Tr P
    between_others: float  # Tr(P B) of the other images


class HeldTraces(NamedTuple):
    """Traces of all images but one fold, under the inverse residual covariance of all images."""

    between: float  # Tr(P B)
    residual: float  # Tr(P (W + tau I)), tau that of the images outside the fold


@dataclasses.dataclass(frozen=True)
class Crossfit:
    """Cross-fitted mean SNR, with what its uncertainty is made of.

    Attributes
    ----------
    signal, noise : ndarray (n_folds,)
        n_k Tr(P_k Sigma_s,k) and n_k Tr(P_k (W_k + tau I)) of each fold k, P_k from the other folds.
    n_views : int
        V.
    direction_variance : float
        Variance of log Q that comes from the noise in the direction of P: see Notes.
    log_q : ndarray (n_folds,)
        log(Tr(P_-g B_-g)/d), the plug-in without fold g: P and B from the same images.
    replicates : ndarray (n_folds,) or None
        Cross-fitted log Q without fold g, for the difference between two spaces of the same images: see Notes. None
        from a Gram matrix.

    Notes
    -----
    Q = R + 1/V = Tr(P B)/Tr(P W) is always positive, R may not be. Two independent parts make the variance of log Q.

    1. The images on which the traces are taken: a delete-a-fold jackknife of the ratio of sums.
    2. The inverse. All P_k share most of their images, so that no fold shows its noise. Its scale cancels in the ratio;
       its direction does not. For m residual degrees of freedom the inverse Wishart law gives a relative variance of
       Tr(P M) for traceless M, of 2 Tr(M^2)/(m - d - 3), with M = B/Tr(B) - I/d in whitened coordinates. Heavy tails
       multiply it by 1 + kappa, kappa the squared variation of the residual scale between images, read off the spread
       of Tr(P_k W_k) over folds. The sampling noise of B and W about their means adds 1/(N-1) + 1/m to Tr(M^2).

    In the difference between two spaces of the same images part of the noise of the inverse is shared and cancels, so
    that it has to be seen fold by fold. Without fold g the estimate loses the traces of that fold, and every inverse
    loses its images. The first is known exactly: it is the ratio of sums without the fold, with the inverses held. The
    second is taken from the plug-in, whose inverse is that of the other images in any case:

        replicate_g = log Q(sums without g) + log Tr(P_-g B_-g)/Tr(P_-g W_-g) - log Tr(P B_-g)/Tr(P W_-g),

    P that of all images. A replicate of the plug-in alone does not see what heavy tails do to the images held out,
    since an image shrinks its own traces through the inverse.
    """

    signal: NDArray[np.float64]
    noise: NDArray[np.float64]
    n_views: int
    direction_variance: float
    log_q: NDArray[np.float64]
    replicates: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        folds: Sequence[FoldTraces],
        held: Sequence[HeldTraces] | None = None,
        *,
        n_views: int,
        n_features: int,
        dof: int,
        damped: float,
        powers: tuple[float, float],
        products: str,
    ) -> Crossfit:
        """From the traces of each fold, and of all images m, tau Tr P, and Tr(P B) and Tr((P B)^2).

        Raises
        ------
        DegenerateFeaturesError
            The means over views of all images coincide, or of all but those of one fold.
        """
        n, between, residual, damped_fold, between_others = np.array(folds, dtype=np.float64).T
        if not between_others.min() > least_share(products) * residual.mean():  # rounding of the means
            raise DegenerateFeaturesError(
                f"the means over views of all {int(n.sum())} images coincide, or of all but one fold of them: "
                "1/V + mean SNR, on whose logarithm the interval stands, is zero. Are the features centred image by "
                "image?"
            )
        # Where tau is all there is, no direction is the residual's, and rounding says how many are left.
        n_images, d = int(n.sum()), max(n_features - damped, 1e-9 * n_features)
        shape = direction_shape(*powers, n_images=n_images, d=d, dof=dof)
        kappa = scale_variation(residual, n_images=n_images, n_views=n_views, d=d)
        found = cls(
            signal=n * (between - residual / n_views),
            noise=n * (residual + damped_fold),
            n_views=n_views,
            direction_variance=direction_variance(shape, kappa, n_images=n_images, d=d, dof=dof),
            log_q=np.log(between_others / n_features),
        )
        if held is None:
            return found
        held_between, held_residual = np.array(held, dtype=np.float64).T
        inverse = found.log_q - np.log(held_between / held_residual)
        return dataclasses.replace(found, replicates=found.log_q_with_inverses_held + inverse)

    @property
    def mean_snr(self) -> float:
        """R; may be negative where there is hardly any signal."""
        return float(self.signal.sum() / self.noise.sum())

    @property
    def icr(self) -> float:
        """1/(1 + R)."""
        return 1.0 / (1.0 + self.mean_snr)

    @property
    def n_folds(self) -> int:
        """G."""
        return len(self.signal)

    @property
    def q(self) -> float:
        """Q = R + 1/V."""
        return self.mean_snr + 1.0 / self.n_views

    @property
    def standard_error(self) -> float:
        """Standard error of log Q."""
        return float(np.hypot(jackknife_error(self.log_q_with_inverses_held), np.sqrt(self.direction_variance)))

    @property
    def log_q_with_inverses_held(self) -> NDArray[np.float64]:
        """Log Q without the traces of fold g, under the inverses P_k as they are, (n_folds,)."""
        total = self.signal + self.noise / self.n_views
        return np.asarray(np.log((total.sum() - total) / (self.noise.sum() - self.noise)))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Confidence interval of ICR, (low, high).

        Notes
        -----
        Symmetric on log Q with a t quantile of n_folds - 1 degrees of freedom, then mapped by
        ICR = 1/(1 + Q - 1/V). On log R the coverage would fall to one half as R goes to 0.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
        half = stats.t.ppf(0.5 + confidence / 2, self.n_folds - 1) * self.standard_error
        low, high = (1.0 / (1.0 + self.q * np.exp(step) - 1.0 / self.n_views) for step in (half, -half))
        return float(low), float(high)


def jackknife_error(replicates: NDArray[np.float64]) -> float:
    """Standard error from delete-a-group values: sqrt((G-1)/G sum (x_g - mean)^2)."""
    g = len(replicates)
    return float(np.sqrt((g - 1) / g * np.square(replicates - replicates.mean()).sum()))


def crossfit(moments: Moments, regularization: float = 0.0, residual_centering: str = "view") -> Crossfit:
    """Mean SNR with the inverse residual covariance from the other folds, and all that its interval needs.

    Parameters
    ----------
    moments : Moments
        With leading axis "fold" (``Moments.from_cube(X, n_folds=10)``).
    regularization : float
        tau, from the training images' W.
    residual_centering : {"view", "none"}

    Returns
    -------
    Crossfit

    Raises
    ------
    NotEnoughDataError
        No folds, or too few images outside a fold: m <= d.
    DegenerateFeaturesError
        The means over views of all images coincide, or of all but those of one fold.
    IllConditionedError
        The residual covariance without one of the folds is singular to working precision.

    Notes
    -----
    With P_k the inverse of the residual covariance without fold k, and B_k, W_k of fold k:
    R = sum_k n_k Tr(P_k (B_k - W_k/V)) / sum_k n_k Tr(P_k (W_k + tau_k I)). The inflation of P_k appears in numerator
    and denominator alike and cancels where E[W^-1] is proportional to Sigma_xi^-1. Moments of the other folds are the
    total less the fold: no second pass. Cost: one inverse (d^3 flops) a fold, and 2 d^3 for interval and replicates.
    """
    moments = held_out_folds(moments, regularization, residual_centering)
    total, d, v = moments.total, moments.n_features, moments.n_views
    folds = fold_traces(moments, regularization, residual_centering)
    model = ResidualModel(total, regularization, residual_centering)
    powers = model.trace_powers(between_covariance(total))
    return Crossfit.of(
        folds, held_traces(moments, model), n_views=v, n_features=d, dof=model.dof, damped=model.damped, powers=powers,
        products=total.products,
    )  # fmt: skip


# Traces of moments that are still in use: ICR and the information read off the same.
_TRACED: weakref.WeakKeyDictionary[Moments, dict[tuple[float, str], list[FoldTraces]]] = weakref.WeakKeyDictionary()


def fold_traces(
    moments: Moments, regularization: float = 0.0, residual_centering: str = "view"
) -> Sequence[FoldTraces]:
    """Traces of each fold under the inverse residual covariance of the others; once for moments that stay in use.

    Parameters
    ----------
    moments : Moments
        With folds that can be held out: see `held_out_folds`.
    regularization : float
        tau, from the other folds' W.
    residual_centering : {"view", "none"}

    Raises
    ------
    IllConditionedError
        The residual covariance without one of the folds is singular to working precision.
    """
    known = _TRACED.setdefault(moments, {})
    key = regularization, resolve_centering(moments, residual_centering)
    if key not in known:
        splits = [_Split(moments.total, moments.select(fold=k), key[1]) for k in range(moments.n_folds)]
        known[key] = [_fold_traces(split, regularization) for split in splits]
    return known[key]


def held_traces(moments: Moments, model: ResidualModel) -> list[HeldTraces]:
    """Traces of the images outside each fold under the inverse of all images.

    Parameters
    ----------
    moments : Moments
        With folds that can be held out.
    model : ResidualModel
        Of all images.

    Notes
    -----
    4 d^2 flops a fold, and the model's inverse, which it keeps.
    """
    total, n_folds = moments.total, moments.n_folds
    folds = [moments.select(fold=k) for k in range(n_folds)]
    between, within, *of_folds = model.traces(
        total.between, total.within, *(fold.between for fold in folds), *(fold.within for fold in folds)
    )
    size = traces(total, model.centering).residual
    held = []
    for fold, in_between, in_within in zip(folds, of_folds[:n_folds], of_folds[n_folds:], strict=True):
        split = _Split(total, fold, model.centering)
        residual = split.within_of_others(within - in_within, model.quadratic) / split.dof_others
        between_others = between - in_between - split.pull * model.quadratic(split.grand[None, :])
        if model.tau:
            left = float(np.trace(total.within) - np.trace(fold.within))
            of_others = split.within_of_others(left, lambda rows: float(np.square(rows).sum())) / split.dof_others
            residual += model.damped * of_others / size
        held.append(HeldTraces(between_others / (split.n_others - 1), residual))
    return held


def held_out_trace(
    moments: Moments, fold: int, between: float, within: float, tau: float = 0.0, residual_centering: str = "view"
) -> float:
    """Tr(A_-k^-1 A_k) of fold k, A = between * B + within * W + tau I, A_-k that of the other folds.

    Parameters
    ----------
    moments : Moments
        With folds that can be held out.
    fold : int
        k.
    between, within, tau : float
        Weights, not negative.
    residual_centering : {"view", "none"}

    Raises
    ------
    IllConditionedError
        A_-k is singular to working precision.

    Notes
    -----
    One inverse, d^3 flops, in the precision of the products.
    """
    total = moments.total
    split = _Split(total, moments.select(fold=fold), residual_centering)
    matrix = split.scatter_of_others(between / (split.n_others - 1), within / split.dof_others)
    # What the check of the residual lets pass has the sum with the between scatter as well, which is greater.
    whole = None if between else within / split.dof_others * total.within.diagonal()
    factor = split.factor(matrix, tau, whole)
    in_between, in_within = split.traces(factor, split.fold.between)
    damped = tau * float(np.trace(factor.inverse_lower())) if tau else 0.0
    between_trace, within_trace = split.fold_traces(factor, in_between, in_within)
    return between * between_trace + within * within_trace + damped


def direction_shape(first: float, second: float, *, n_images: int, d: float, dof: int) -> float:
    """Tr(M^2) of `Crossfit`, the noise of P and of B taken out: how unlike the directions are.

    Parameters
    ----------
    first, second : float
        Tr(P B) and Tr((P B)^2) of all images.
    n_images : int
    d : float
        Directions that are the residual's: d less tau Tr P.
    dof : int
        m.
    """
    return max(second / first**2 - 1 / d - 1 / max(dof - d, 1.0) - 1 / (n_images - 1), 0.0)


def scale_variation(fold_residual: NDArray[np.float64], *, n_images: int, n_views: int, d: float) -> float:
    """kappa of `Crossfit`: squared variation of the residual scale between images.

    Parameters
    ----------
    fold_residual : ndarray (n_folds,)
        Tr(P W) of each fold, P from the others.
    n_images, n_views : int
        Of all folds.
    d : float
    """
    # Relative variance over images of Tr(P W_i): kappa + 2 (1 + kappa)/(d (V - 1)).
    gaussian = 2 / (d * (n_views - 1))
    spread = float(np.var(fold_residual, ddof=1) / fold_residual.mean() ** 2) * n_images / len(fold_residual)
    return max((spread - gaussian) / (1 + gaussian), 0.0)


def direction_variance(shape: float, kappa: float, *, n_images: int, d: float, dof: int) -> float:
    """Variance of log Q from the direction of the inverse residual covariance: see `Crossfit`.

    Parameters
    ----------
    shape, kappa : float
        From `direction_shape` and `scale_variation`.
    n_images : int
    d : float
    dof : int
        m.
    """
    return 2 * (shape * (1 + kappa) + 1 / (n_images - 1) + 1 / dof) / max(dof - d - 3.0, 1.0)


class _Split:
    """One fold, and the other images: the total less the fold, of which only what is asked for is formed."""

    def __init__(self, total: Moments, fold: Moments, residual_centering: str) -> None:
        self.total, self.fold = total, fold
        self.grouped = total.grouped
        n, self.n_fold = int(total.n_images), int(fold.n_images)
        self.n_others = n - self.n_fold
        self._others_mean = (n * total.mean - self.n_fold * fold.mean) / self.n_others
        delta = fold.mean - self._others_mean
        self._contrasts = helmert(total.n_views)
        self.grand, self._turned = delta.mean(axis=0), self._contrasts @ delta
        self.pull = self.n_fold * self.n_others / n  # weight of the difference of means in a merge
        self._centred = resolve_centering(total, residual_centering) == "view"
        self.dof_others, self.dof_fold = (
            (count - self._centred) * (total.n_views - 1) for count in (self.n_others, self.n_fold)
        )

    def scatter_of_others(self, between: float, within: float) -> NDArray[np.floating]:
        """between * (their between scatter) + within * (their within scatter), lower triangle, Fortran-ordered.

        In the precision of the products: its error is of the same order, u * cond, and an inverse costs half.
        """
        total, fold, d = self.total, self.fold, self.total.n_features
        matrix = np.empty((d, d), dtype=total.products, order="F")
        for start in range(0, d, _PANEL):
            # Scatters are symmetric: what lies right of the diagonal lies below it, in the order LAPACK works in.
            panel = slice(start, start + _PANEL), slice(start, None)
            part = within * (total.within[panel] - fold.within[panel])
            if between:
                part += between * (total.between[panel] - fold.between[panel])
            matrix.T[panel] = part
        subtract_outer(matrix, self._turned, within * self.pull)
        if between:
            subtract_outer(matrix, self.grand, between * self.pull)
        if not self._centred:
            subtract_outer(matrix, self._contrasts @ self._others_mean, -within * self.n_others)
        return matrix

    def within_of_others(self, left: float, square: Callable[[Matrix], float]) -> float:
        """A trace of the others' within scatter: of the total's less the fold's, and a sum of squares of rows."""
        left -= self.pull * square(self._turned)
        return left if self._centred else left + self.n_others * square(self._contrasts @ self._others_mean)

    def fold_traces(self, factor: SpdFactor, between: float, within: float) -> tuple[float, float]:
        """Traces of the fold's between and residual covariance, from those of its scatters.

        Of groups a fold has few, and its means take a large part of what lies between them: they are taken about the
        means of all images, as in the total.
        """
        if not self.grouped:
            return between / (self.n_fold - 1), within / self.dof_fold
        n = self.n_fold + self.n_others
        moved, size = self.n_fold * (self.n_others / n) ** 2, self.n_fold * (1 - 1 / n)
        between += moved * factor.quadratic(self.grand[None, :])
        if not self._centred:
            return between / size, within / self.dof_fold
        return between / size, (within + moved * factor.quadratic(self._turned)) / (size * (self.total.n_views - 1))

    def factor(self, matrix: NDArray[np.floating], damping: float, whole: NDArray[np.float64] | None) -> SpdFactor:
        """Factor of a scatter of the others, given up for it, with ``damping`` added to its diagonal.

        ``whole`` is the diagonal of the total's: where what the others leave of a feature is down to the rounding of
        the subtraction, the factor exists and means nothing.
        """
        if damping:
            matrix[np.diag_indices_from(matrix)] += damping
        least = np.inf
        try:
            factor = SpdFactor(matrix, overwrite=True)
            if whole is not None:  # a pivot is the residual of a feature given those before it
                least = float((np.square(factor.lower.diagonal()) / (whole + damping)).min())
        except np.linalg.LinAlgError:
            least = 0.0
        if not least > 1e3 * UNIT_ROUNDOFF[self.total.products]:
            raise IllConditionedError(
                f"a covariance without one of the folds is singular to working precision: residual m = "
                f"{self.dof_others}, d = {self.total.n_features}. A feature may vary in a few images only. Use more "
                "images, fewer features, dtype='float64', or regularization > 0."
            )
        return factor

    def traces(self, factor: SpdFactor, *others: Matrix) -> list[float]:
        """Under the inverse of a factor, given up for it: traces of these, and of the fold's within scatter."""
        *found, within = factor.traces(*others, self.fold.within, consume=True)
        if not self._centred:
            within += self.n_fold * factor.quadratic(self._contrasts @ self.fold.mean)
        return [*found, within]


def _fold_traces(split: _Split, regularization: float) -> FoldTraces:
    """Traces of one fold under the inverse of the others.

    The between scatter of the other images is never formed: its trace follows from those of the total and the fold.
    """
    total, fold, m = split.total, split.fold, split.dof_others
    scatter = split.scatter_of_others(0.0, 1.0)
    damping = regularization * float(np.trace(scatter)) / len(scatter)
    factor = split.factor(scatter, damping, total.within.diagonal())
    # P = m * inverse of the scatter.
    in_total, in_fold, residual = split.traces(factor, total.between, fold.between)
    in_others = in_total - in_fold - split.pull * factor.quadratic(split.grand[None, :])
    if not in_others > 10 * UNIT_ROUNDOFF[total.products] * in_total:
        in_others = 0.0  # rounding of the subtraction
    between, within = split.fold_traces(factor, in_fold, residual)
    return FoldTraces(
        n_images=split.n_fold,
        between=m * between,
        residual=m * within,
        damped=damping * float(np.trace(factor.inverse_lower())) if damping else 0.0,
        between_others=m * in_others / (split.n_others - 1),
    )
