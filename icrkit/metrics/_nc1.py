"""Within-class variability collapse (NC1): how tightly classes cluster, against how far apart they lie.

Source: Papyan, Han & Donoho 2020, "Prevalence of neural collapse during the terminal phase of deep learning training",
PNAS 117(40). Variants: Han, Papyan & Donoho 2022, arXiv 2106.02073; the quotient of traces is common in later work.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from icrkit._features import Features
from icrkit.exceptions import DegenerateFeaturesError
from icrkit.linalg import oriented
from icrkit.metrics._base import FeatureTransformer, image_labels, is_table, labelled_features
from icrkit.metrics._classes import class_means, deviations

__all__ = ["ClassMoments", "NC1Scorer", "class_moments", "nc1"]

Matrix = NDArray[np.float64]
VARIANTS = ("pinv", "svd", "quotient")


class ClassMoments(NamedTuple):
    """Counts (K,), means (K, d) as `ClassMeans` has them, and pooled scatter (d, d) about these, of labelled rows."""

    classes: NDArray[Any]
    counts: NDArray[np.int64]
    means: Matrix
    origin: NDArray[np.float64]
    within: Matrix

    @property
    def within_covariance(self) -> Matrix:
        """Sigma_W = (1/n) sum (h - mu_k)(h - mu_k)^T."""
        return self.within / int(self.counts.sum())

    def centred_means(self, global_mean: str = "classes") -> Matrix:
        """mu_k - mu_G, (K, d), with mu_G the mean of the class means or of the samples."""
        if global_mean not in ("classes", "samples"):
            raise ValueError(f"global_mean must be 'classes' or 'samples', not {global_mean!r}")
        weights = None if global_mean == "classes" else self.counts
        return self.means - np.average(self.means, axis=0, weights=weights)

    def between_covariance(self, global_mean: str = "classes") -> Matrix:
        """Sigma_B = (1/K) sum (mu_k - mu_G)(mu_k - mu_G)^T."""
        centred = self.centred_means(global_mean)
        return centred.T @ centred / len(centred)


def class_moments(features: Features, y: NDArray[Any], views: str | int = "mean") -> ClassMoments:
    """Per-class means, and the scatter about them: see `class_means` for parameters and errors."""
    found = class_means(features, y, views)
    within = np.zeros((features.shape[2],) * 2)
    for rows, _ in deviations(features, found, views):
        within += rows.T @ rows
    return ClassMoments(found.classes, found.counts, found.means, found.origin, within)


def nc1(X: Any, y: Any = None, variant: str = "pinv", global_mean: str = "classes", views: str | int = "mean") -> float:
    """Within-class variability collapse, from 0 (collapsed) up.

    Parameters
    ----------
    X : Cube, DataArray or array (image, view, feature), or ClassMoments
    y : array (n_images,)
        Class of each image; the cube's labels where left out.
    variant : {"pinv", "svd", "quotient"}
        "pinv": Tr(Sigma_B^+ Sigma_W)/K (Papyan 2020). "svd": the same without the division by K (Han 2022).
        "quotient": Tr Sigma_W/Tr Sigma_B.
    global_mean : {"classes", "samples"}
        mu_G: mean of the class means, or of the samples; they differ where classes are unbalanced.
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        There is no view of that number.
    NotEnoughDataError
        Fewer than two classes, or one row in every class.
    NonFiniteError
        NaN or infinity among the features, or squares that overflow.
    DegenerateFeaturesError
        All class means coincide, or squares underflow.

    Notes
    -----
    Sigma_W = (1/n) sum (h - mu_k)(h - mu_k)^T, Sigma_B = (1/K) sum_k (mu_k - mu_G)(mu_k - mu_G)^T. The pseudo-inverse
    keeps exactly the directions that the centred class means span, at most K - 1. Invariant under rotation,
    translation, one scale, the order of images and the names of classes; "pinv" and "svd" under every invertible affine
    map only where those means span the whole space (d < K), "quotient" never. Cost: two passes over the features,
    2 n d^2 flops, and an SVD of K x d.

    References
    ----------
    Papyan, Han & Donoho 2020, PNAS 117(40), section "NC1".

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> h = np.array([[0.0, 1.0], [0.0, -1.0], [4.0, 1.0], [4.0, -1.0], [1.0, 0.0], [5.0, 0.0]])
    >>> round(ik.nc1(np.repeat(h[:, None], 2, axis=1), [0, 0, 1, 1, 0, 1]), 4)
    0.0278
    """
    moments = X if isinstance(X, ClassMoments) else class_moments(*labelled_features(X, y), views)
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {VARIANTS}, not {variant!r}")
    centred = moments.centred_means(global_mean)
    n_classes, n = len(centred), int(moments.counts.sum())
    values, directions = _mean_directions(centred, moments)
    if variant == "quotient":
        return float(np.trace(moments.within) / n / (np.square(centred).sum() / n_classes))
    # Sigma_B^+ = sum_j v_j v_j^T K/s_j^2, from the singular values s of the centred means.
    scatter = np.einsum("jd,de,je->j", directions, moments.within, directions, optimize=True)
    trace = float((scatter / n * n_classes / values**2).sum())
    return trace if variant == "svd" else trace / n_classes


def _mean_directions(centred: Matrix, moments: ClassMoments) -> tuple[NDArray[np.float64], Matrix]:
    """Non-zero singular values and right singular vectors (r, d) of the centred class means, r <= min(K - 1, d)."""
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    # Rows are rounded where they lie, and their means with them: what is less between these is no direction.
    spread = np.trace(moments.within) / moments.counts.sum()
    means = np.square(np.abs(moments.means) + np.abs(moments.origin)).sum(axis=1)
    size = float(np.sqrt(means.max() + spread))
    tolerance = max(float(values[0]), size) * max(*centred.shape, 16) * np.finfo(np.float64).eps
    rank = min(int((values > tolerance).sum()), len(centred) - 1)
    if rank == 0:
        raise DegenerateFeaturesError("all class means coincide: features do not vary between classes")
    return values[:rank], oriented(directions[:rank].T).T


class NC1Scorer(FeatureTransformer):
    """Within-class variability collapse of labelled features.

    Parameters
    ----------
    variant : {"pinv", "svd", "quotient"}
        See :func:`icrkit.nc1`.
    global_mean : {"classes", "samples"}
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one. Rows of a 2-D X stand for themselves.

    Attributes
    ----------
    nc1_ : float
        Lower is more collapsed.
    classes_ : ndarray (K,)
    within_covariance_, between_covariance_ : ndarray (d, d)
    components_ : ndarray (r, d)
        Orthonormal basis of the centred class means, r <= min(K - 1, d).
    mean_ : ndarray (d,)
        mu_G.

    Notes
    -----
    ``score(X, y)`` is minus the NC1 of X itself; ``transform`` gives coordinates along `components_`.
    Formula and behaviour: see :func:`icrkit.nc1`.

    References
    ----------
    Papyan, Han & Donoho 2020, PNAS 117(40).

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, n_classes=3, random_state=0)
    >>> ik.NC1Scorer().fit(cube).components_.shape
    (2, 8)
    """

    def __init__(self, variant: str = "pinv", *, global_mean: str = "classes", views: str | int = "mean") -> None:
        self.variant = variant
        self.global_mean = global_mean
        self.views = views

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.one_d_labels = True
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Compute NC1 of X.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        y : array (n_images,), or (row,) for rows
            Classes; the cube's labels where left out.
        """
        moments = self._class_moments(X, y, reset=True)
        self.classes_ = moments.classes
        self.nc1_ = nc1(moments, variant=self.variant, global_mean=self.global_mean)
        self.within_covariance_ = moments.within_covariance
        self.between_covariance_ = moments.between_covariance(self.global_mean)
        centred = moments.centred_means(self.global_mean)
        self.mean_ = moments.origin + (moments.means[0] - centred[0])
        self.components_ = _mean_directions(centred, moments)[1]
        self._n_features_out = len(self.components_)
        return self

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the NC1 of (X, y); greater is better."""
        check_is_fitted(self)
        return -nc1(self._class_moments(X, y, reset=False), variant=self.variant, global_mean=self.global_mean)

    def _class_moments(self, X: Any, y: Any, *, reset: bool) -> ClassMoments:
        features = self._row_features(X, reset=reset)
        labels = image_labels(X, y, features.shape[0])
        return class_moments(features, labels, 0 if is_table(X) else self.views)

    def _transform_rows(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray((rows - self.mean_) @ self.components_.T)
