"""Fisher spectrum: the invariant signal-to-noise ratio of each direction of the feature space.

Sigma_s v = lambda (Sigma_xi + tau I) v. Source: Li et al. 2026, arXiv 2606.09718, section 3; the eigenproblem is
Fisher's, with each image a class.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from icrkit.linalg import generalized_eigh
from icrkit.metrics._base import MomentsEstimator
from icrkit.metrics._decomposition import (
    Matrix,
    ResidualModel,
    invariant_covariance,
    residual_covariance,
)
from icrkit.moments import Moments

__all__ = ["FisherSpectrum", "Spectrum", "fisher_spectrum"]


class Spectrum(NamedTuple):
    """Generalised eigenvalues (k,), descending, and directions (d, k), one a column."""

    eigenvalues: NDArray[np.float64]
    directions: Matrix


def fisher_spectrum(
    moments: Moments,
    regularization: float = 0.0,
    residual_centering: str = "view",
    n_components: int | None = None,
) -> Spectrum:
    """Invariant signal-to-noise ratios lambda, descending, and their directions.

    Parameters
    ----------
    moments : Moments
        Folds are merged.
    regularization : float
        tau as a share of Tr(Sigma_xi)/d.
    residual_centering : {"view", "none"}
    n_components : int, optional
        The largest so many; all by default.

    Returns
    -------
    Spectrum
        Directions are orthonormal under Sigma_xi + tau I.

    Raises
    ------
    NotEnoughDataError, DegenerateFeaturesError, IllConditionedError
        As for :func:`icrkit.icr`.

    Notes
    -----
    Sigma_s = B - W/V is an estimate: eigenvalues down to -1/V occur, and are not clipped. Their mean is the plug-in
    mean SNR. Biased upwards at the top and downwards at the bottom when images are few for the features.

    At tau = 0 eigenvalues are invariant under every invertible affine map h -> A h + b, and directions v go to A^-T v,
    with the sign that makes the entry of greatest magnitude positive. With tau so under translation, rotation and one
    scale only. Invariant under the order of images and one order of views for all; with centring "none" also under an
    order of views of its own in each image. Cost: a symmetric generalised eigenproblem of order d.

    References
    ----------
    Li et al. 2026, section 3.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=500, n_features=4, icr=0.5, random_state=0)
    >>> ik.fisher_spectrum(ik.Moments.from_cube(cube)).eigenvalues.shape
    (4,)
    """
    total = moments.total
    model = ResidualModel(total, regularization, residual_centering)
    model.error_bound()
    residual = residual_covariance(total, residual_centering)
    residual[np.diag_indices_from(residual)] += model.tau
    return Spectrum(*generalized_eigh(invariant_covariance(total, residual_centering), residual, n_components))


class FisherSpectrum(MomentsEstimator):
    """Directions of the feature space by their invariant signal-to-noise ratio.

    Parameters
    ----------
    n_components : int, optional
        Directions kept, those of greatest ratio; all by default.
    regularization : float
        tau as a share of Tr(Sigma_xi)/d.
    residual_centering : {"view", "none"}
    n_views : int
        Consecutive rows to an image, for 2-D X without groups.
    dtype : {"auto", "float32", "float64"}

    Attributes
    ----------
    eigenvalues_ : ndarray (n_components,)
        lambda, descending.
    components_ : ndarray (n_components, d)
        Directions, orthonormal under the residual covariance.
    n_negative_ : int
        Negative eigenvalues among all d; the whole spectrum is computed for it.
    mean_ : ndarray (d,)
    moments_ : Moments

    Notes
    -----
    ``score`` is the mean signal-to-noise ratio of other images over the kept directions:
    Tr(C Sigma_s C^T)/Tr(C (Sigma_xi + tau I) C^T), C the components. Behaviour: see :func:`icrkit.fisher_spectrum`.

    References
    ----------
    Li et al. 2026, section 3.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=500, n_features=8, icr=0.5, random_state=0)
    >>> ik.FisherSpectrum(n_components=2).fit_transform(cube).shape
    (500, 2, 2)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        regularization: float = 0.0,
        residual_centering: str = "view",
        n_views: int = 2,
        dtype: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.regularization = regularization
        self.residual_centering = residual_centering
        self.n_views = n_views
        self.dtype = dtype

    def _finish(self, moments: Moments) -> Self:
        moments = moments.total
        if self.n_components is not None and not 1 <= self.n_components <= moments.n_features:
            raise ValueError(f"n_components={self.n_components} must be between 1 and d={moments.n_features}")
        model = ResidualModel(moments, self.regularization, self.residual_centering)
        values, directions = fisher_spectrum(moments, self.regularization, self.residual_centering)
        self.moments_, self._model = moments, model
        self.eigenvalues_ = values[: self.n_components]
        self.components_ = np.ascontiguousarray(directions[:, : self.n_components].T)
        self.n_negative_ = int((values < 0).sum())
        self.mean_ = moments.mean.mean(axis=0)
        self._n_features_out = len(self.eigenvalues_)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "components_")

    def score(self, X: Any, y: Any = None, *, groups: Any = None) -> float:
        """Mean invariant signal-to-noise ratio of X over the kept directions; greater is better."""
        check_is_fitted(self)
        moments, c, centering = self._held_out(X, groups), self.components_, self._model.centering
        signal, noise = (
            float(np.einsum("ki,ij,kj->", c, matrix, c, optimize=True))
            for matrix in (invariant_covariance(moments, centering), residual_covariance(moments, centering))
        )
        return signal / (noise + self._model.tau * float(np.square(c).sum()))

    def _transform_rows(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray((rows - self.mean_) @ self.components_.T)
