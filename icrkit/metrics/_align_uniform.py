"""Alignment and uniformity of features on the unit sphere.

Source: Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere", arXiv 2005.10242, section 4.1.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from icrkit._features import Features, as_features, unit_rows
from icrkit.exceptions import NonFiniteError
from icrkit.metrics._base import FeatureTransformer

__all__ = ["AlignUniform", "alignment", "uniformity"]

Rows = NDArray[np.floating]


def alignment(X: Any, alpha: float = 2.0, normalize: str | None = "l2") -> float:
    """Mean distance between views of one image, to the power alpha; from 0 (views agree) to 2^alpha on unit vectors.

    Parameters
    ----------
    X : Cube, DataArray or array (image, view, feature)
    alpha : float
        Power of the Euclidean distance; positive.
    normalize : {"l2", None}
        Scale every feature vector to unit length first.

    Returns
    -------
    float
        Mean over images and unordered pairs of views of ||h_iv - h_iw||^alpha. For alpha = 2 it is 2 Tr(Sigma_xi) with
        centring "none".

    Raises
    ------
    NonFiniteError
        NaN or infinity among the features.

    References
    ----------
    Wang & Isola 2020, eq. 3.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> ik.alignment(np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 2.0]]]))
    1.0
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be positive, not {alpha}")
    features = as_features(X, normalize=normalize)
    n, v, _ = features.shape
    total = 0.0
    for _, block in features.blocks():
        for a in range(v):
            for b in range(a + 1, v):
                squared = np.square(block[:, a] - block[:, b], dtype=np.float64).sum(axis=-1)
                total += float((squared if alpha == 2 else squared ** (alpha / 2)).sum())
    return _finite(total / (n * v * (v - 1) / 2), features)


def uniformity(
    X: Any,
    t: float = 2.0,
    normalize: str | None = "l2",
    over_views: str = "mean",
    block_size: int = 1024,
) -> float:
    """Logarithm of the mean Gaussian potential between different images; lower is more uniform, at most 0.

    Parameters
    ----------
    X : Cube, DataArray or array (image, view, feature)
    t : float
        Width of the potential exp(-t ||x - y||^2); positive.
    normalize : {"l2", None}
        Scale every feature vector to unit length first.
    over_views : {"mean", "pooled"}
        The mean of the per-view values (the authors' use), or all views together, without pairs of one image.
    block_size : int
        Rows in a block of the distance matrix, of which no more is ever held.

    Returns
    -------
    float
        log mean over pairs of different images of exp(-t ||x - y||^2), over all pairs.

    Raises
    ------
    NonFiniteError
        NaN or infinity among the features.

    Notes
    -----
    Products have the precision of the features. Cost: N^2 d flops a view (each pair once), V times that pooled.

    References
    ----------
    Wang & Isola 2020, eq. 4.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> round(ik.uniformity(np.array([[[1.0, 0.0]] * 2, [[-1.0, 0.0]] * 2]), t=1.0), 12)
    -4.0
    """
    if t <= 0:
        raise ValueError(f"t must be positive, not {t}")
    if over_views not in ("mean", "pooled"):
        raise ValueError(f"over_views must be 'mean' or 'pooled', not {over_views!r}")
    features = as_features(X, normalize=normalize, min_views=1)
    n, v, _ = features.shape
    block = features.read()
    # The distances do not depend on the origin, and rounding is least around the mean.
    block = block - block.mean(axis=(0, 1))
    if over_views == "mean":
        logs = [_log_mean_potential(np.ascontiguousarray(block[:, a]), None, t, block_size) for a in range(v)]
        return _finite(float(np.mean(logs)), features)
    images = np.repeat(np.arange(n), v)
    return _finite(_log_mean_potential(block.reshape(n * v, -1), images, t, block_size), features)


def _log_mean_potential(rows: Rows, images: NDArray[np.int64] | None, t: float, block_size: int) -> float:
    """log mean of exp(-t d^2) over pairs of rows; rows of one image are not paired where ``images`` is given."""
    squares = np.square(rows, dtype=np.float64).sum(axis=1)
    if not squares.max() < 1e30:
        rows = rows.astype(np.float64)  # products would leave float32's range
    n, per_image = len(rows), 1 if images is None else int(np.bincount(images)[0])
    n_pairs = n * (n - per_image)
    largest, total = -np.inf, 0.0
    for a in range(0, len(rows), block_size):
        here = slice(a, a + block_size)
        for b in range(a, len(rows), block_size):
            there = slice(b, b + block_size)
            exponent = rows[here] @ rows[there].T
            exponent = 2.0 * t * exponent.astype(np.float64, copy=False)
            exponent -= t * squares[here, None]
            exponent -= t * squares[None, there]
            np.minimum(exponent, 0.0, out=exponent)  # rounding of coincident rows
            if images is not None:
                exponent[images[here, None] == images[None, there]] = -np.inf
            weight = 2 if b > a else 1  # off-diagonal blocks stand for both orders
            if images is None and a == b:
                np.fill_diagonal(exponent, -np.inf)
            # A running maximum keeps far-apart rows from underflowing to log 0.
            peak = float(exponent.max())
            if peak > largest:
                total, largest = total * float(np.exp(largest - peak)), peak
            if np.isfinite(largest):
                np.exp(exponent - largest, out=exponent)
                total += weight * float(exponent.sum())
    return largest + float(np.log(total / n_pairs))


def _finite(value: float, features: Features) -> float:
    if not np.isfinite(value):
        features.raise_non_finite()
        raise NonFiniteError(f"{features.name}: distances overflow; scale the features down")
    return value


class AlignUniform(FeatureTransformer):
    """Alignment of views and uniformity of images, on the unit sphere.

    Parameters
    ----------
    alpha : float
        Power of the distance in the alignment.
    t : float
        Width of the potential in the uniformity.
    normalize : {"l2", None}
        Scale every feature vector to unit length first.
    over_views : {"mean", "pooled"}
        How the uniformity treats views.
    n_views : int
        Consecutive rows to an image, for 2-D X without groups.
    block_size : int
        Rows in a block of the distance matrix.

    Attributes
    ----------
    alignment_ : float
        Lower is better.
    uniformity_ : float
        Lower is more uniform.

    Notes
    -----
    Needs the features themselves: moments do not suffice. ``score(X)`` is -(alignment + uniformity) of X.

    References
    ----------
    Wang & Isola 2020, arXiv 2005.10242, eqs. 3 and 4.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=200, n_features=8, icr=0.2, random_state=0)
    >>> est = ik.AlignUniform().fit(cube)
    >>> est.uniformity_ < 0 < est.alignment_
    True
    """

    def __init__(
        self,
        alpha: float = 2.0,
        t: float = 2.0,
        *,
        normalize: str | None = "l2",
        over_views: str = "mean",
        n_views: int = 2,
        block_size: int = 1024,
    ) -> None:
        self.alpha = alpha
        self.t = t
        self.normalize = normalize
        self.over_views = over_views
        self.n_views = n_views
        self.block_size = block_size

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Compute both numbers on X.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        y : ignored
        groups : array (row,), optional
            Image of each row, for 2-D X.
        """
        self.alignment_, self.uniformity_ = self._both(self._features(X, groups=groups, reset=True))
        self._n_features_out = self.n_features_in_
        return self

    def score(self, X: Any, y: Any = None, *, groups: Any = None) -> float:
        """-(alignment + uniformity) of X; greater is better."""
        check_is_fitted(self)
        return -sum(self._both(self._features(X, groups=groups, reset=False)))

    def _both(self, features: Features) -> tuple[float, float]:
        return (
            alignment(features, self.alpha, self.normalize),
            uniformity(features, self.t, self.normalize, self.over_views, self.block_size),
        )

    def _transform_rows(self, rows: Rows) -> Rows:
        return unit_rows(rows) if self.normalize == "l2" else rows
