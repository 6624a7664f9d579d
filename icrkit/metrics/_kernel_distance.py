"""Kernel distance (KID): how far two sets of features lie apart under a cubic kernel, without bias.

Source: Binkowski et al. 2018, "Demystifying MMD GANs", arXiv 1801.01401, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icrkit._features import Features, check_views
from icrkit.exceptions import CubeFormatError, NonFiniteError
from icrkit.metrics._base import Comparison, row_features

__all__ = ["KernelDistance", "kernel_distance"]

Rows = NDArray[np.floating]

_BLOCK_ENTRIES = 1 << 17  # of a kernel matrix, held at a time


class _Distance(NamedTuple):
    """Mean over subsets, and its standard error."""

    mean: float
    standard_error: float


def kernel_distance(
    X: Any,
    reference: Any,
    views: str | int = 0,
    n_subsets: int = 100,
    subset_size: int = 1000,
    random_state: int = 0,
) -> float:
    """Squared maximum mean discrepancy under a cubic kernel (KID); about 0 where the two distributions agree.

    Parameters
    ----------
    X, reference : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        The same number of features; different numbers of images are allowed.
    views : {"mean", "all"} or int
        Rows used of an image: one view by its number from 0, the mean over its views, or every view. With "all" a
        subset holds one view, drawn at random, of each image in it: no pair is of one image.
    n_subsets : int
        Subsets over which the estimate is averaged.
    subset_size : int
        Images in a subset of each set; at most as many as the smaller set has.
    random_state : int
        Seed of the draws.

    Returns
    -------
    float
        Unbiased, so that it may be below zero.

    Raises
    ------
    CubeFormatError
        The sets have different numbers of features.
    NonFiniteError
        NaN or infinity among the features, or their third powers overflow.
    ValueError
        There is no view of that number; no subset, or one of fewer than two images, is asked for.

    Notes
    -----
    Mean over subsets of sum_{i != j} [k(x_i, x_j) + k(y_i, y_j)]/(m (m - 1)) - 2 sum_ij k(x_i, y_j)/m^2, with
    k(x, y) = (x.y/d + 1)^3 and m = min(subset_size, N of both). The kernel is used less its values at the common mean,
    k(x, y) - k(x, c) - k(c, y) + k(c, c), which leaves the estimate as it is and costs no digits to features far from
    the origin. Products are float64: the distance is a small difference of large sums.

    The same under one rotation of both sets. The kernel knows the origin and a unit: translation and scale change the
    number, so that it compares sets under one encoder only. Another order of images draws others; where both sets are
    used whole there is nothing to draw. Cost: 6 m^2 d flops a subset; the rows of both sets are held in memory.

    References
    ----------
    Binkowski et al. 2018, section 4.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> h = np.random.default_rng(0).standard_normal((2, 400, 8))
    >>> same, shifted = ik.kernel_distance(h[0], h[1]), ik.kernel_distance(h[0], h[1] + 0.5)
    >>> round(same, 2), round(shifted, 2)
    (0.02, 1.35)
    """
    x, y = (_rows(row_features(s), views) for s in (X, reference))
    return _distance(x, y, n_subsets, subset_size, random_state).mean


def _rows(features: Features, views: str | int) -> Rows:
    """Rows (image, choice, feature) from which a subset takes one an image: one choice, or every view."""
    check_views(views, features.shape[1])
    rows = (features if isinstance(views, str) else features.view(int(views))).read()
    if not np.isfinite(rows).all():
        features.raise_non_finite()
    return rows.mean(axis=1, keepdims=True, dtype=np.float64) if views == "mean" else rows


def _distance(x: Rows, y: Rows, n_subsets: int, subset_size: int, random_state: int) -> _Distance:
    if x.shape[2] != y.shape[2]:
        raise CubeFormatError(f"sets of {x.shape[2]} and of {y.shape[2]} features have no distance")
    if n_subsets < 1:
        raise ValueError(f"n_subsets must be at least 1, not {n_subsets}")
    m = min(subset_size, len(x), len(y))
    if m < 2:
        raise ValueError(f"subset_size must be at least 2, not {subset_size}")
    if x.shape[:2] == y.shape[:2] == (m, 1):
        n_subsets = 1  # all are the same
    rng = np.random.default_rng(random_state)
    with np.errstate(over="ignore", invalid="ignore"):  # looked for in the result
        centre = (x.mean(axis=(0, 1), dtype=np.float64) + y.mean(axis=(0, 1), dtype=np.float64)) / 2
        values = np.array([_unbiased(_draw(x, m, rng), _draw(y, m, rng), centre) for _ in range(n_subsets)])
    if not np.isfinite(values).all():
        raise NonFiniteError("the kernel's third powers overflow; scale the features of both sets down")
    error = values.std(ddof=1) / np.sqrt(n_subsets) if n_subsets > 1 else 0.0
    return _Distance(float(values.mean()), float(error))


def _draw(rows: Rows, m: int, rng: np.random.Generator) -> Rows:
    n, choices, _ = rows.shape
    images = rng.choice(n, m, replace=False)
    return np.asarray(rows[images, rng.integers(choices, size=m) if choices > 1 else 0])


def _unbiased(x: Rows, y: Rows, centre: NDArray[np.float64]) -> float:
    m = len(x)
    u, v = (np.subtract(rows, centre, dtype=np.float64) for rows in (x, y))
    within = _kernel_sum(u, u, centre, same=True) + _kernel_sum(v, v, centre, same=True)
    return within / (m * (m - 1)) - 2.0 * _kernel_sum(u, v, centre) / m**2


def _kernel_sum(u: Rows, v: Rows, centre: NDArray[np.float64], *, same: bool = False) -> float:
    """Sum over pairs of k(x, y) - k(x, c) - k(c, y) + k(c, c), of x = c + u and y = c + v; without i = j where same.

    With b = 1 + |c|^2/d, p = u.c/d, q = v.c/d and g = u.v/d the kernel is (b + p + q + g)^3. What depends on x alone or
    on y alone is left out term by term: subtracted as numbers, it would take most digits with it where b is large.
    """
    d = len(centre)
    base = 1.0 + float(centre @ centre) / d
    p, q = u @ centre / d, v @ centre / d
    step = max(1, _BLOCK_ENTRIES // len(v))
    total = 0.0
    for start in range(0, len(u), step):
        here = slice(start, start + step)
        g = u[here] @ v.T / d
        linear = p[here, None] + q
        kernel = 3.0 * p[here, None] * q * (2.0 * base + linear)
        linear += base
        kernel += g * (3.0 * linear * (linear + g) + g * g)
        total += float(kernel.sum())
        if same:
            total -= float(kernel.diagonal(start).sum())
    return total


class KernelDistance(Comparison):
    """Kernel distance (KID) of features from a reference set.

    Parameters
    ----------
    views : {"mean", "all"} or int
        Rows used of an image: one view by its number from 0, the mean over its views, or one view drawn for each
        subset. Rows of a 2-D X stand for themselves.
    n_subsets : int
        Subsets over which the estimate is averaged.
    subset_size : int
        Images in a subset of each set; at most as many as the smaller set has.
    random_state : int
        Seed of the draws.

    Attributes
    ----------
    reference_ : ndarray (image, 1 or view, feature)
        Rows of the reference.
    kernel_distance_ : float
        Of the set evaluated last: mean over subsets. Lower is nearer.
    standard_error_ : float
        Of that mean: what the draw of subsets leaves open, which more of them would settle. It says nothing of what
        other images would have given; 0 where both sets are used whole.

    Notes
    -----
    ``fit(reference)``, then ``evaluate(X)`` gives the number and ``score(X)`` its negative. Definition and behaviour:
    :func:`icrkit.kernel_distance`.

    References
    ----------
    Binkowski et al. 2018, section 4.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> h = np.random.default_rng(0).standard_normal((400, 8))
    >>> est = ik.KernelDistance(subset_size=100).fit(h[:200])
    >>> round(est.evaluate(h[200:]), 2), round(est.standard_error_, 3)
    (-0.02, 0.003)
    """

    quantity = "kernel_distance"

    def __init__(
        self, *, views: str | int = 0, n_subsets: int = 100, subset_size: int = 1000, random_state: int = 0
    ) -> None:
        self.views = views
        self.n_subsets = n_subsets
        self.subset_size = subset_size
        self.random_state = random_state

    def _summary(self, features: Features) -> Rows:
        return _rows(features, self.views)

    def _compared(self, reference: Rows, features: Features) -> Mapping[str, Any]:
        rows = _rows(features, self.views)
        mean, error = _distance(rows, reference, self.n_subsets, self.subset_size, self.random_state)
        return {"kernel_distance": mean, "standard_error": error}
