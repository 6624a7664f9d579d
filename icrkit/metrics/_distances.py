"""Squared distances between rows, right where rows are close to each other and far from everything else.

|x|^2 + |y|^2 - 2<x, y> costs the digits by which the squares exceed the distance: all of them where one class lies far
off and the others are close together. So the origin is taken anew for each pair of blocks, and what is still small
beside the squares is computed from the difference of the two rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["TIE", "middle", "pair_squares", "squared_distances", "stable_descending"]

Matrix = NDArray[np.float64]

# Relative difference of two numbers below which they tie: their order would be that of rounding. Sums of products were
# measured to differ by less than 1e-14 between BLAS kernels.
TIE = 1e-12

_CLOSE = 1e-5  # share of the squares below which a squared distance is computed anew: the others are right to 1e-10
_PAIRS = 1 << 19  # numbers of a difference of rows, held at a time


def middle(rows: Matrix) -> Matrix:
    """Origin (d,) near most of the rows, whatever a few of them are: the median of each feature."""
    # One of the rows' own values of each feature: equal rows come out as exact zeros, and pixels as whole numbers.
    some = rows[:: -(-len(rows) // 255)]
    half = (len(some) - 1) // 2
    return np.asarray(np.partition(some, half, axis=0)[half])


def squared_distances(x: Matrix, y: Matrix, centre: Matrix | None = None) -> Matrix:
    """|x_i - y_j|^2, (n, m), to a relative error of about 1e-10.

    Parameters
    ----------
    x, y : ndarray (n, d), (m, d)
        In units in which squares stay in range.
    centre : ndarray (d,), optional
        Origin between the two sets; halfway between the middles of both by default.
    """
    if centre is None:
        centre = 0.5 * middle(x) + 0.5 * middle(y)
    a = x - centre
    b = a if y is x else y - centre
    squares_a = np.einsum("nd,nd->n", a, a)
    squares_b = squares_a if y is x else np.einsum("nd,nd->n", b, b)
    found = np.matmul(a, (-2.0 * b).T)
    found += squares_a[:, None]
    found += squares_b
    some = np.flatnonzero(found.min(axis=1) < _CLOSE * (squares_a + squares_b.max()))
    if some.size:
        i, j = np.nonzero(found[some] < _CLOSE * squares_a[some, None] + _CLOSE * squares_b)
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
    group = np.cumsum(np.concatenate([[False], np.diff(-values[order]) > tolerance]))
    return np.asarray(order[np.lexsort((order, group))])
