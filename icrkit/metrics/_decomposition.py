"""Invariant and residual covariance of features: h = s + xi, s = E[h | image], xi = h - s.

One-way random-effects MANOVA by the method of moments. Source: Li et al. 2026, arXiv 2606.09718, section 3 and
appendix B.6 (two views); V views as in any text on variance components.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, IllConditionedError, NotEnoughDataError
from icrkit.linalg import SpdFactor
from icrkit.moments import MAX_ERROR, UNIT_ROUNDOFF, Moments

if TYPE_CHECKING:
    from icrkit._features import Features
    from icrkit.metrics._gram import Gram

__all__ = ["Traces", "between_covariance", "invariant_covariance", "residual_covariance", "residual_dof", "traces"]

Matrix = NDArray[np.float64]


def resolve_centering(moments: Moments | Gram | Features, residual_centering: str) -> str:
    """The centring in force: views without a common order have no means of their own to remove."""
    if residual_centering not in ("view", "none"):
        raise ValueError(f"residual_centering must be 'view' or 'none', not {residual_centering!r}")
    return residual_centering if moments.views_ordered else "none"


def residual_dof(moments: Moments, residual_centering: str = "view") -> NDArray[np.int64]:
    """Degrees of freedom m of the residual covariance: (N-1)(V-1), or N(V-1) with centring "none"."""
    lost = 1 if resolve_centering(moments, residual_centering) == "view" else 0
    return np.asarray((moments.n_images - lost) * (moments.n_views - 1))


def enough_images(moments: Moments, regularization: float, residual_centering: str = "view") -> bool:
    """Whether a stream has seen enough for a residual covariance that can be factored."""
    dof = int(residual_dof(moments.total, residual_centering))
    return dof > moments.n_features or (regularization > 0 and dof > 1)


def held_out_folds(moments: Moments, regularization: float = 0.0, residual_centering: str = "view") -> Moments:
    """Folds that can be held out: at least two, each of two images, and m > d left by the largest or tau > 0.

    Raises
    ------
    NotEnoughDataError
        There are no folds, or too few images for them.
    DegenerateFeaturesError
        A feature whose views differ in a few images only.
    """
    if "fold" not in moments.dims:
        raise NotEnoughDataError(
            "cross-fitting needs moments with folds: Moments.from_cube(X, n_folds=10), or an estimator with n_folds > 1"
        )
    moments = moments.usable_folds()
    if moments.n_folds < 2:
        of = ", whose groups fell into one fold" if moments.grouped else ""
        raise NotEnoughDataError(
            f"cross-fitting needs at least two folds of two images; there are {int(moments.n_images.sum())} images{of}"
        )
    others = dataclasses.replace(moments.total, n_images=moments.total.n_images - moments.n_images.max())
    m, d = int(residual_dof(others, residual_centering)), moments.n_features
    if m <= d and regularization == 0:
        raise NotEnoughDataError(
            f"cross-fitting needs more images: without its largest fold m = {m} residual degrees of freedom are left "
            f"for d = {d} features. Use more images or views, fewer features, or regularization > 0."
        )
    _refuse_rare(moments, regularization, residual_centering)
    return moments


def _refuse_rare(moments: Moments, regularization: float, residual_centering: str) -> None:
    if said := words_on_rare(moments, regularization, residual_centering):
        raise DegenerateFeaturesError(
            f"{said}. Such units hardly ever fire, and folds that do not know them make every number wild. "
            "drop_constant=True leaves them out, where there is that parameter; more images or regularization > 0 help "
            "as well."
        )


def words_on_rare(moments: Moments, regularization: float, residual_centering: str = "view") -> str:
    """Which features hardly ever fire, as far as folds know; empty where none does."""
    dof, within = int(residual_dof(moments.total, residual_centering)), moments.total.within_uncentred_diagonal
    tau = regularization * float(within.sum()) / max(dof, 1) / moments.n_features
    rare, counts = rare_features(moments, tau, dof)
    if not rare.size:
        return ""
    which = ", ".join(f"{k} (about {n})" for k, n in zip(rare[:10].tolist(), counts[:10].tolist(), strict=True))
    return (
        f"{rare.size} of {moments.n_features} features differ between the views of a few images only, fewer than "
        f"{_FEWEST_FIRING}: {which}{', ...' if rare.size > 10 else ''}"
    )


def residual_covariance(moments: Moments, residual_centering: str = "view") -> Matrix:
    """Residual covariance Sigma_xi = W of one view about its image, (*lead, d, d).

    Parameters
    ----------
    moments : Moments
    residual_centering : {"view", "none"}
        Whether each view's own mean over images is removed first (the paper's number), or not (MANOVA).

    Returns
    -------
    ndarray (*lead, d, d)
        Positive semidefinite; of rank m at most, m = (N-1)(V-1) or, with "none", N(V-1).

    Raises
    ------
    NotEnoughDataError
        Fewer than two images.

    References
    ----------
    Li et al. 2026, eq. B.6: Cov(h1 - h2)/2 for two views.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> h = np.array([[[0.0], [2.0]], [[4.0], [6.0]], [[8.0], [13.0]]])
    >>> m = ik.Moments.from_cube(h, n_folds=0)
    >>> float(ik.residual_covariance(m)[0, 0])
    1.5
    >>> float(np.var(h[:, 0] - h[:, 1], ddof=1)) / 2
    1.5
    >>> round(float(ik.residual_covariance(m, residual_centering="none")[0, 0]), 6)  # the second view lies 3 higher
    5.5
    """
    m = residual_dof(moments, residual_centering)
    if (m < 1).any():
        raise NotEnoughDataError("at least two images and two views are needed for a residual covariance")
    centred = resolve_centering(moments, residual_centering) == "view"
    if centred:
        return np.asarray(moments.within / m[..., None, None])
    scatter = moments.within_uncentred
    scatter /= m[..., None, None]
    return scatter


def between_covariance(moments: Moments) -> Matrix:
    """Covariance B of the image means over N - 1, (*lead, d, d): invariant plus W/V."""
    if (moments.n_images < 2).any():
        raise NotEnoughDataError("at least two images are needed for a covariance between images")
    return np.asarray(moments.between / (moments.n_images - 1)[..., None, None])


def invariant_covariance(moments: Moments, residual_centering: str = "view") -> Matrix:
    """Invariant covariance Sigma_s = B - W/V, (*lead, d, d); an estimate, which need not be PSD.

    With centring "view" it is the symmetrised covariance between different views, averaged over pairs of views.

    Parameters
    ----------
    moments : Moments
    residual_centering : {"view", "none"}
        Of W: see :func:`icrkit.residual_covariance`.

    Returns
    -------
    ndarray (*lead, d, d)
        Symmetric; may have negative eigenvalues, which are not clipped.

    Raises
    ------
    NotEnoughDataError
        Fewer than two images.

    References
    ----------
    Li et al. 2026, eq. B.6: Cov((h1 + h2)/2) - Cov(h1 - h2)/4 for two views.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> h = np.array([[[0.0], [2.0]], [[4.0], [6.0]], [[8.0], [13.0]]])
    >>> float(ik.invariant_covariance(ik.Moments.from_cube(h, n_folds=0))[0, 0])
    22.0
    >>> float(np.cov(h[:, 0, 0], h[:, 1, 0])[0, 1])
    22.0
    """
    return between_covariance(moments) - residual_covariance(moments, residual_centering) / moments.n_views


class Traces(NamedTuple):
    """Total variance and its two parts, in squared feature units."""

    invariant: float
    residual: float
    total: float


def traces(moments: Moments | Gram, residual_centering: str = "view") -> Traces:
    """Tr Sigma_s, Tr Sigma_xi and their sum Tr Sigma_h, in squared feature units.

    Parameters
    ----------
    moments : Moments or Gram
        One level; folds are merged.
    residual_centering : {"view", "none"}
        See :func:`icrkit.residual_covariance`.

    Returns
    -------
    Traces
        Named tuple (invariant, residual, total). The invariant trace is an estimate, and may be negative where there
        is hardly any signal.

    Notes
    -----
    Invariant under translation, rotation, the order of images and one order of views for all; with centring "none" also
    under an order of views of its own in each image. A scale c multiplies them by c^2; other affine maps matter. For
    features of unit length take moments with ``normalize="l2"``. Cost: 2 d flops.

    References
    ----------
    Li et al. 2026, eq. B.6, of which these are the traces.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> h = np.array([[[0.0], [2.0]], [[4.0], [6.0]], [[8.0], [13.0]]])
    >>> ik.traces(ik.Moments.from_cube(h, n_folds=0))
    Traces(invariant=22.0, residual=1.5, total=23.5)
    """
    if not isinstance(moments, Moments):
        return moments.traces(residual_centering)
    moments = moments.total
    m = residual_dof(moments, residual_centering)
    centred = resolve_centering(moments, residual_centering) == "view"
    diagonal = moments.within.diagonal() if centred else moments.within_uncentred_diagonal
    residual = float(diagonal.sum() / m)
    between = float(np.einsum("...ii->...", moments.between) / (moments.n_images - 1))
    invariant = between - residual / moments.n_views
    return Traces(invariant, residual, invariant + residual)


def check_squares(moments: Moments, name: str = "", *, each: bool = False) -> None:
    """Refuse features so small that their squares have lost digits: where all are, or where any is.

    Raises
    ------
    DegenerateFeaturesError
    """
    spread = moments.between.diagonal() + moments.within_uncentred_diagonal
    small = np.flatnonzero((spread < 1e-290) & ~_never_varies(moments))
    if small.size and (each or spread.max() < 1e-290):
        raise DegenerateFeaturesError(
            f"{small.size} of {moments.n_features} features{_of(name)} are so small that their squares underflow: "
            f"{_listed(small)}. Scale them up."
        )


def _of(name: str) -> str:
    return f" of {name}" if name else ""


def constant_features(moments: Moments) -> NDArray[np.int64]:
    """Indices of features that never vary, over images or views."""
    return np.flatnonzero(_never_varies(moments))


def _never_varies(moments: Moments) -> NDArray[np.bool_]:
    """Which features (d,) never vary, over images or views: from the features themselves where moments know it."""
    if known := moments.variation:
        return np.asarray(~known["varies"] & (known["example"] == known["example"][:1]).all(axis=0))
    # Moments of an older version. Their sums are float64, so that less than its rounding of the mean is no variation;
    # a feature whose square underflows may be one.
    spread = moments.between.diagonal() + moments.within_uncentred_diagonal
    size = np.abs(moments.mean).max(axis=0)
    rounding = float(moments.n_images) * moments.n_views * np.square(4 * UNIT_ROUNDOFF["float64"] * size)
    return np.asarray((spread <= rounding) & ((size == 0) | (size > 1e-130)))


# Images in which a feature must differ between views: see benchmarks/rare.py. With a unit that fires in 2 to 5 images
# ICR was off by up to 1.3 and information by up to 60 nats; in 8 by .4 and 2.5, in 12 by .4 and 2.4, in 20 by .2 and
# 1.8.
_FEWEST_FIRING = 12


def rare_features(moments: Moments, tau: float = 0.0, dof: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of features whose views differ in a few images only, such as units that hardly ever fire.

    Parameters
    ----------
    moments : Moments
        With folds; of moments without, nothing is known.
    tau : float
        Added to the diagonal of the residual covariance: where it exceeds what a fold alone may show of a feature, the
        feature does no harm.
    dof : int
        m of the total's residual.

    Returns
    -------
    ndarray of int, ndarray of int
        Features, and about how many images each of them differs in.

    Notes
    -----
    Images fall into the G folds at random: n of them leave a fold out with probability (1 - 1/G)^n, so that the share
    of folds without the feature says what n is, whatever the number of images. Rare is below 12.
    """
    nothing = np.empty(0, dtype=np.int64)
    if moments.dims != ("fold",) or not moments.variation:
        return nothing, nothing
    held = moments.n_images >= 2  # of one image nothing differs from another
    n_folds = int(held.sum())
    if n_folds < 3:
        return nothing, nothing
    without = 1 - moments.variation["views_vary"][held].mean(axis=0)
    some = (without < 1) & (moments.within.sum(axis=0).diagonal() * n_folds > tau * dof)
    rare = np.flatnonzero(some & (without >= (1 - 1 / n_folds) ** _FEWEST_FIRING))
    return rare, np.ceil(np.log(without[rare]) / np.log(1 - 1 / n_folds)).astype(np.int64)


def dead_features(moments: Moments) -> NDArray[np.int64]:
    """Indices of features that never vary, or whose views differ in so few images that folds cannot know them."""
    return np.union1d(constant_features(moments.total), rare_features(moments)[0])


def without_constant(moments: Moments) -> Moments:
    """Moments of the features that vary, and not in a few images only.

    Raises
    ------
    DegenerateFeaturesError
        None does.
    """
    return without_features(moments, dead_features(moments))


def without_features(moments: Moments, constant: NDArray[np.int64]) -> Moments:
    """Moments of all features but these.

    Raises
    ------
    DegenerateFeaturesError
        If none is left.
    """
    if not constant.size:
        return moments
    kept = np.setdiff1d(np.arange(moments.n_features), constant)
    if not kept.size:
        raise DegenerateFeaturesError("every feature is constant, or nearly so: the layer is dead")
    return moments.select_features(kept)


def check_degenerate(moments: Moments, name: str = "") -> None:
    """Refuse constant features, features too small to be squared, and features without any residual, by their indices.

    Raises
    ------
    DegenerateFeaturesError
    """
    check_squares(moments, name, each=True)
    constant = constant_features(moments)
    if constant.size:
        refuse_constant(constant, moments.n_features, name)
    check_residual(moments, name)


def refuse_constant(features: NDArray[np.int64], n_features: int, name: str = "") -> NoReturn:
    """Say that these features are constant."""
    raise DegenerateFeaturesError(
        f"{features.size} of {n_features} features{_of(name)} are constant: {_listed(features)}. Dead units are common "
        "in real networks: drop_constant=True leaves them out, where there is that parameter."
    )


def check_residual(moments: Moments, name: str = "") -> None:
    """Refuse features without any residual, with their indices.

    Raises
    ------
    DegenerateFeaturesError
    """
    # Scatter scales with the square: 1e-9 relative between views is 1e-18 here. Rounding of float32 features to
    # different neighbours would be 1e-14, and is a residual.
    within = moments.within if moments.views_ordered else moments.within_uncentred  # an offset is no residual
    residual, between = within.diagonal(), moments.between.diagonal()
    none = residual <= 1e-17 * (between + residual)
    if moments.variation:  # where the views of every image are equal, or differ by what they differ by in the first
        alike = ~moments.variation["views_vary"]
        if not moments.views_ordered:
            example = moments.variation["example"]
            alike = alike & (example == example[:1]).all(axis=0)
        none = none | alike
    if none.any():
        refuse_no_residual(np.flatnonzero(none), moments.n_features, name)


def refuse_no_residual(features: NDArray[np.int64], n_features: int, name: str = "") -> NoReturn:
    """Say that these features have no residual."""
    raise DegenerateFeaturesError(
        f"no residual in {features.size} of {n_features} features{_of(name)} ({_listed(features)}): the views of an "
        "image are identical there. Were the views augmented and noised with different draws, and not one view stored "
        "twice?"
    )


def least_share(products: str) -> float:
    """Share of the residual below which image means differ by rounding: of float64 features, or of the products."""
    return max(1e-17, 16 * UNIT_ROUNDOFF[products] ** 2)


def refuse_equal_means(moments: Moments) -> None:
    """Refuse images whose means over views all coincide, up to rounding: features centred image by image.

    Raises
    ------
    DegenerateFeaturesError
    """
    floor = least_share(moments.products) * moments.within_uncentred_diagonal.sum()
    if not np.trace(moments.between) > floor:
        raise DegenerateFeaturesError(f"the means over views of all {moments.n_images} images coincide")


def _listed(indices: NDArray[np.int64], most: int = 10) -> str:
    shown = ", ".join(str(i) for i in indices[:most])
    return f"[{shown}, ...]" if indices.size > most else f"[{shown}]"


class ResidualModel:
    """Residual covariance of a set of images, checked and factored: whiten by it, or take traces under its inverse.

    Parameters
    ----------
    moments : Moments
        Without leading axes.
    regularization : float
        tau = regularization * Tr(Sigma_xi)/d is added to the diagonal.
    residual_centering : {"view", "none"}

    Attributes
    ----------
    regularization, centering : float, str
        As given.
    dof : int
        m.
    tau : float
    condition_number : float
        1-norm, of Sigma_xi + tau I scaled to unit diagonal.

    Raises
    ------
    NotEnoughDataError
        m <= d at tau = 0.
    DegenerateFeaturesError
        Constant features, or no residual.
    IllConditionedError
        Not positive definite to working precision.
    """

    def __init__(self, moments: Moments, regularization: float = 0.0, residual_centering: str = "view") -> None:
        check_regularization(regularization)
        if moments.dims:
            raise CubeFormatError(f"moments of one level are wanted, not along {moments.dims}: moments.select(sigma=0)")
        check_degenerate(moments)
        self.dof = int(residual_dof(moments, residual_centering))
        if self.dof <= moments.n_features and regularization == 0:
            raise NotEnoughDataError(too_few(self.dof, moments.n_features, moments.n_views))
        self.regularization, self.centering = regularization, residual_centering
        centred = resolve_centering(moments, residual_centering) == "view"
        self.tau = 0.0
        self._moments = moments
        try:
            if centred and regularization == 0:
                self._factor, self.condition_number = moments.within_factor, moments.condition_number
                self._residual = moments.within.diagonal()
                return
            scatter = moments.within.copy() if centred else moments.within_uncentred
            self.tau = regularization * float(np.trace(scatter)) / self.dof / len(scatter)
            scatter[np.diag_indices_from(scatter)] += self.tau * self.dof
            self._residual = scatter.diagonal().copy()
            self._factor = SpdFactor(scatter)
            self.condition_number = self._factor.correlation_condition(scatter)
        except np.linalg.LinAlgError:
            raise IllConditionedError(self._singular("singular to working precision")) from None

    def error_bound(self) -> float:
        """Bound on the relative rounding error: see :meth:`icrkit.Moments.error_bound`.

        Raises
        ------
        IllConditionedError
            The bound exceeds what the precision of the products is allowed to cost (`MAX_ERROR`).
        """
        bound = self._moments.error_bound(self.condition_number, self._residual)
        if not bound <= MAX_ERROR[self._moments.products]:
            raise IllConditionedError(
                self._singular(f"singular to working precision, condition number {self.condition_number:.3g}")
            )
        return bound

    def traces(self, *others: Matrix) -> list[float]:
        """Tr(P A) for each symmetric A, P = (Sigma_xi + tau I)^-1."""
        # The factor is of the scatter, m times the covariance.
        return [self.dof * trace for trace in self._factor.traces(*others)]

    def quadratic(self, rows: Matrix) -> float:
        """sum_j r_j^T P r_j over the rows (n, d)."""
        return self.dof * self._factor.quadratic(rows)

    def trace_powers(self, other: Matrix) -> tuple[float, float]:
        """Tr(P A) and Tr(P A P A) for a symmetric A (d^3 flops)."""
        first, second = self._factor.trace_powers(other)
        return self.dof * first, self.dof**2 * second

    @property
    def log_determinant(self) -> float:
        """log det (Sigma_xi + tau I)."""
        lower = self._factor.lower
        return 2.0 * float(np.log(lower.diagonal(), dtype=np.float64).sum()) - len(lower) * float(np.log(self.dof))

    @functools.cached_property
    def damped(self) -> float:
        """tau Tr P: so many of the d directions are not the residual's, but tau's."""
        return self.tau * self.dof * float(np.trace(self._factor.inverse_lower())) if self.tau else 0.0

    def whiten(self, rows: NDArray[np.floating]) -> Matrix:
        """Rows (n, d) in coordinates in which the residual covariance is the identity."""
        return np.asarray(self._factor.whiten(rows) * np.sqrt(self.dof))

    def _singular(self, how: str) -> str:
        within = self._moments.within_uncentred
        scale = 1 / np.sqrt(within.diagonal())
        values = np.linalg.eigvalsh(within * scale[:, None] * scale)
        rank = int((values > values[-1] * len(values) * np.finfo(np.float64).eps).sum())
        products = self._moments.products
        return (
            f"the residual covariance is {how}: rank {rank} of d = {len(within)} features, m = {self.dof} residual "
            f"degrees of freedom, {products} products. Remove duplicated or linearly dependent features, reduce with "
            "PerView(PCA(n_components)) first, "
            + ("use dtype='float64', " if products == "float32" else "")
            + "or set regularization > 0."
        )


def check_regularization(regularization: float) -> None:
    """Refuse what is negative, NaN or infinite."""
    if not 0 <= regularization < np.inf:
        raise ValueError(f"regularization must be >= 0, not {regularization}, and finite")


def too_few(dof: int, d: int, v: int) -> str:
    """Message: so many residual degrees of freedom do not suffice for d features."""
    need = int(np.ceil((d + 1) / (v - 1))) + 1
    return (
        f"the residual covariance is singular: m = {dof} residual degrees of freedom for d = {d} features. Three ways "
        f"out: more images or views ({need} images at {v} views is the least, several times d is sound), fewer "
        "features with PerView(PCA(n_components)) first, or regularization > 0."
    )
