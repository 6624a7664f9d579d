"""Alignment and uniformity of features on the unit sphere.

Source: Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere", arXiv 2005.10242, section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from icrkit._features import Features, as_features, unit_rows
from icrkit.exceptions import NonFiniteError
from icrkit.metrics._base import FeatureTransformer
from icrkit.metrics._distances import MANY, middle, squared_distances

__all__ = ["AlignUniform", "alignment", "uniformity"]

Rows = NDArray[np.float64]


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
        NaN or infinity among the features, or distances that overflow.
    ValueError
        `alpha` is not positive and finite.

    Notes
    -----
    Invariant under rotation, the order of images, and the order of views within each image. With "l2" also under a
    positive scale for each vector, while translation matters; without normalisation also under translation, even
    another one for each image, while a scale c multiplies it by c^alpha. Not under other affine maps. Cost: one pass,
    3 N d V (V - 1)/2 flops.

    References
    ----------
    Wang & Isola 2020, eq. 3.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> ik.alignment(np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 2.0]]]))
    1.0
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha must be positive and finite, not {alpha}")
    features = as_features(X, normalize=normalize)
    n, v, _ = features.shape
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # looked for in the result
        for _, block in features.blocks():
            for a in range(v):
                for b in range(a + 1, v):
                    total += float(_powers(np.subtract(block[:, a], block[:, b], dtype=np.float64), alpha).sum())
        return _finite(total / (n * v * (v - 1) / 2), features)


def _powers(rows: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Length of each row to the power alpha; squares are taken of the row in units of its largest entry."""
    # Units are powers of two, which change no digits.
    exponent = np.frexp(np.abs(rows).max(axis=-1))[1].clip(-1000, 1000)
    unit = np.ldexp(1.0, exponent)
    squared = np.square(rows / unit[:, None]).sum(axis=-1)
    return np.asarray((squared if alpha == 2 else squared ** (alpha / 2)) * unit**alpha)


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
        Rows in a block of the distance matrix, 8 times as many columns, of which no more is ever held.

    Returns
    -------
    float
        log mean over pairs of different images of exp(-t ||x - y||^2), over all pairs.

    Raises
    ------
    NonFiniteError
        NaN or infinity among the features, or distances that overflow.
    ValueError
        `t` is not positive and finite, or `block_size` is less than 1.

    Notes
    -----
    Invariant under rotation, the order of images, and one order of views for all images; "pooled" also under an order
    of its own in each image. With "l2" also under a positive scale for each vector, while translation matters; without
    normalisation also under translation, while a scale c does what c^2 t in place of t would. Not under other affine
    maps.

    Potentials are float64: those of features that lie close together differ from 1 in their last digits. So are the
    products, but for float32 features in 2,048 rows or more, where their rounding averages out: right to 1e-7. Where
    features lie so far apart that potentials leave float64's range, each block has an origin of its own. Cost: N^2 d
    flops a view (each pair once) and N^2/2 exponentials, V times that pooled.

    References
    ----------
    Wang & Isola 2020, eq. 4.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> round(ik.uniformity(np.array([[[1.0, 0.0]] * 2, [[-1.0, 0.0]] * 2]), t=1.0), 12)
    -4.0
    """
    if not 0 < t < np.inf:
        raise ValueError(f"t must be positive and finite, not {t}")
    if over_views not in ("mean", "pooled"):
        raise ValueError(f"over_views must be 'mean' or 'pooled', not {over_views!r}")
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, not {block_size}")
    features = as_features(X, normalize=normalize, min_views=1)
    n, v, d = features.shape
    block = features.read()
    # The distances do not depend on the origin, and rounding is least around the mean. In units of 1/sqrt(2t) the
    # exponent of the potential is <x, y> - |x|^2/2 - |y|^2/2.
    pooled = over_views == "pooled"
    scaled = np.empty((1, n * v, d) if pooled else (v, n, d))
    by_view = scaled.reshape(n, v, d).swapaxes(0, 1) if pooled else scaled
    with np.errstate(over="ignore", invalid="ignore"):  # looked for in the result
        centre = block.mean(axis=(0, 1), dtype=np.float64)
        for a, rows in enumerate(by_view):
            np.subtract(block[:, a], centre, out=rows)
            rows *= np.sqrt(2.0 * t)
        logs = [_log_mean_potential(rows, v if pooled else 1, block_size, features.single) for rows in scaled]
    return _finite(float(np.mean(logs)), features)


# Half the greatest square of a row up to which no potential, and no factor of one, leaves the range of float64.
_NEAR = 150.0
_NEAR_SINGLE = 20.0  # up to which float32 products are taken: each is right to 1e-5 or so, their means to far more
_WIDE = 8  # columns of a block of products to its rows


def _log_mean_potential(rows: Rows, per_image: int, block_size: int, single: bool = False) -> float:
    """log mean of exp(-d^2/2) over pairs of rows of different images, each of ``per_image`` rows side by side."""
    halves = np.einsum("nd,nd->n", rows, rows) / 2
    farthest = float(halves.max())
    if not np.isfinite(farthest):
        return float("nan")
    step = max(1, block_size // per_image) * per_image
    n_pairs = len(rows) * (len(rows) - per_image) / 2
    if single and len(rows) >= MANY and farthest <= _NEAR_SINGLE:
        rounded = rows.astype(np.float32)
        halves_rounded = np.einsum("nd,nd->n", rounded, rounded, dtype=np.float64) / 2
        found = _log_sum_near(rounded, halves_rounded, per_image, step) - float(np.log(n_pairs))
        # Rounding is a share of the squares: the result must not be small beside them, as it is for one far row.
        if -found > halves.mean() / 4:
            return min(found, 0.0)
    if farthest <= _NEAR:
        log_sum = _log_sum_near(rows, halves, per_image, step)
    else:
        log_sum = _log_sum_far(rows, per_image, step)
    return min(log_sum - float(np.log(n_pairs)), 0.0)  # rounding of coincident rows


def _log_sum_near(rows: NDArray[Any], halves: NDArray[np.float64], per_image: int, step: int) -> float:
    """log of the sum of exp(-|x|^2/2) exp(<x, y>) exp(-|y|^2/2) over pairs: the outer factors are taken apart."""
    weights = np.exp(-halves)
    total = 0.0
    wide = np.empty(min(step, len(rows)) * min(_WIDE * step, len(rows)) if rows.dtype == np.float32 else 0)
    for here, there, products in _blocks_of_products(rows, step):
        potentials = wide[: products.size].reshape(products.shape) if len(wide) else products
        products = np.exp(products, out=potentials, dtype=np.float64)
        if here.start == there.start:
            square = products[:, : len(products)]
            square *= 0.5  # it holds both orders of a pair
            _own(square, per_image, 0.0)
        total += float(weights[here] @ (products @ weights[there]))
    return float(np.log(total))


def _log_sum_far(rows: Rows, per_image: int, step: int) -> float:
    """The same where potentials may all underflow: about the greatest exponent seen so far, in float64."""
    largest, total = -np.inf, 0.0
    blocks = [slice(start, min(start + step, len(rows))) for start in range(0, len(rows), step)]
    centres = [middle(rows[block]) for block in blocks]
    for i, here in enumerate(blocks):
        for j, there in enumerate(blocks[i:], start=i):
            mine = rows[here]
            others = mine if i == j else rows[there]
            exponent = squared_distances(mine, others, 0.5 * centres[i] + 0.5 * centres[j])
            exponent *= -0.5
            if i == j:
                exponent -= np.log(2.0)  # it holds both orders of a pair
                _own(exponent, per_image, -np.inf)
            peak = float(exponent.max())
            if peak > largest:
                total, largest = total * float(np.exp(largest - peak)), peak
            if np.isfinite(largest):
                exponent -= largest
                np.exp(exponent, out=exponent)
                total += float(exponent.sum())
    return largest + float(np.log(total))


def _blocks_of_products(rows: NDArray[Any], step: int) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
    """(rows here, rows there, their products) for each pair of rows once, but in squares on the diagonal, twice.

    In one buffer, and few: each call of BLAS waits for all of its threads.
    """
    n, wide = len(rows), _WIDE * step
    buffer = np.empty(min(step, n) * min(wide, n), dtype=rows.dtype)
    for start in range(0, n, step):
        here = slice(start, min(start + step, n))
        for first in range(start, n, wide):
            there = slice(first, min(first + wide, n))
            shape = here.stop - here.start, there.stop - there.start
            products = buffer[: shape[0] * shape[1]].reshape(shape)
            np.matmul(rows[here], rows[there].T, out=products)
            yield here, there, products


def _own(square: Rows, per_image: int, value: float) -> None:
    """Set the pairs of one image in a square on the diagonal."""
    for a in range(per_image):
        for b in range(per_image):
            np.fill_diagonal(square[a::per_image, b::per_image], value)


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
        Rows in a block of the distance matrix, 8 times as many columns.

    Attributes
    ----------
    alignment_ : float
        Lower is better.
    uniformity_ : float
        Lower is more uniform.

    Notes
    -----
    Needs the features themselves: moments do not suffice. ``score(X)`` is -(alignment + uniformity) of X.
    Behaviour: see :func:`icrkit.alignment` and :func:`icrkit.uniformity`.

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

    def _transform_rows(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        return unit_rows(rows) if self.normalize == "l2" else rows
