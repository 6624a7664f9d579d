"""Squared distances between rows, right where rows are close to each other and far from everything else.

|x|^2 + |y|^2 - 2<x, y> costs the digits by which the squares exceed the distance: all of them where one class lies far
off and the others are close together. So the origin is taken anew for each pair of blocks, and what is still small
beside the squares is computed from the difference of the two rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MANY",
    "TIE",
    "middle",
    "pair_squares",
    "places",
    "rounding_share",
    "squared_distances",
    "stable_descending",
]

Matrix = NDArray[np.float64]

# Relative difference of two numbers below which they tie: their order would be that of rounding. Sums of products were
# measured to differ by less than 1e-14 between BLAS kernels.
TIE = 1e-12

# Rows from which on a mean over all pairs may take float32 products of float32 features, where no difference of them is
# small beside the squares: rounding averages out over so many pairs, to less than 1e-8 of the mean (1e-7 of copies of a
# few rows). Fewer pairs cost little in float64.
MANY = 2048

_CLOSE = 1e-5  # share of the squares below which a squared distance is computed anew: the others are right to 1e-10
_SMALL = 0.05  # the same of float32 products, where the whole block is computed anew
_PAIRS = 1 << 19  # numbers of a difference of rows, held at a time


def middle(rows: Matrix) -> Matrix:
    """Origin (d,) near most of the rows, whatever a few of them are: the median of each feature."""
    # One of the rows' own values of each feature: equal rows come out as exact zeros, and pixels as whole numbers.
    some = rows[:: -(-len(rows) // 255)]
    half = (len(some) - 1) // 2
    return np.asarray(np.partition(some, half, axis=0)[half])


def places(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of what is true: ``np.nonzero``, ten times as fast where little is."""
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return rows, columns


def rounding_share(n_features: int) -> float:
    """Bound on the rounding of a float32 product of rows, as a share of the product of their lengths."""
    return float((16 + 4 * np.sqrt(n_features)) * 2.0**-24)


def squared_distances(x: Matrix, y: Matrix, centre: Matrix | None = None, *, single: bool = False) -> Matrix:
    """|x_i - y_j|^2, (n, m), to a relative error of about 1e-10.

    Parameters
    ----------
    x, y : ndarray (n, d), (m, d)
        In units in which squares stay in range.
    centre : ndarray (d,), optional
        Origin between the two sets; halfway between the middles of both by default.
    single : bool
        Whether float32 products suffice where no distance is small: errors of about 1e-6 with either sign.
    """
    if centre is None:
        centre = 0.5 * middle(x) + 0.5 * middle(y)
    a = x - centre
    b = a if y is x else y - centre
    squares_a = np.einsum("nd,nd->n", a, a)
    squares_b = squares_a if y is x else np.einsum("nd,nd->n", b, b)
    if single:
        found = np.add(a.astype(np.float32) @ (-2.0 * b).astype(np.float32).T, squares_a[:, None])
        found += squares_b
        if y is x:
            np.fill_diagonal(found, np.inf)
        # A comparison that NaN and infinity beyond float32's range fail, too.
        if (found.min(axis=1) > _SMALL * (squares_a + squares_b.max())).all():
            if y is x:
                np.fill_diagonal(found, 0.0)
            return np.asarray(found)
    found = np.matmul(a, (-2.0 * b).T)
    found += squares_a[:, None]
    found += squares_b
    some = np.flatnonzero(found.min(axis=1) < _CLOSE * (squares_a + squares_b.max()))
    if some.size:
        i, j = places(found[some] < _CLOSE * squares_a[some, None] + _CLOSE * squares_b)
        i = some[i]
        found[i, j] = pair_squares(x, y, i, j)
    return np.asarray(found)


def pair_squares(x: Matrix, y: Matrix, i: NDArray[np.intp], j: NDArray[np.intp]) -> Matrix:
    """|x_i - y_j|^2 of some pairs, from the differences."""
    found = np.empty(len(i))
    step = max(1, _PAIRS // x.shape[1])
    for start in range(0, len(i), step):
        some = slice(start, start + step)
        difference = x[i[some]] - y[j[some]]
        found[some] = np.einsum("nd,nd->n", difference, difference)
    return found


def stable_descending(values: Matrix, tolerance: float = TIE) -> NDArray[np.intp]:
    """Order (n,) of values, the greatest first; those within a tolerance of the one before keep their places."""
    order = np.argsort(-values, kind="stable")
    apart = np.diff(-values[order]) > tolerance
    if apart.all():
        return np.asarray(order)
    group = np.cumsum(np.concatenate([[False], apart]))
    return np.asarray(order[np.lexsort((order, group))])
