"""The nearest rows of a set to those of another, by cosine or by distance: what the measures of memorisation share.

The matrix of products exists in blocks only, in float32, about an origin among the queries. With a bound on their
rounding they say which rows may be the nearest; these are looked at again in float64, by the difference of the two
rows. So no product decides: not at a large common offset, and not where one cluster lies far from the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icrkit._features import Features, check_views
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError
from icrkit.metrics._distances import TIE, middle, pair_squares, places, rounding_share, squared_distances

__all__ = ["CosineSearch", "DistanceSearch", "Nearest", "per_image"]

Rows = NDArray[np.floating]
Matrix = NDArray[np.float64]

# Rows and columns of the block of products: 8 MiB in float32, so that its minima are found before it leaves the cache.
_QUERIES = 2048
_CANDIDATES = 1024
_MOST_CLOSE = 16  # rows that may be the nearest of a query in a block; where there are more, float64 products choose


class Nearest(NamedTuple):
    """Of each row: the rows nearest to it, nearest first, and how near (cosines, or distances)."""

    rows: NDArray[np.intp]
    values: NDArray[np.float64]


def per_image(features: Features, views: str | int) -> int:
    """Rows of one image."""
    return features.shape[1] if views == "all" else 1


class _Search:
    """Rows kept for a search, in the precision of their features."""

    def __init__(self, features: Features, views: str | int) -> None:
        check_views(views, features.shape[1])
        self.views = views
        self.per_image = per_image(features, views)
        self.n_images, _, self.n_features = features.shape
        self.image_ids = features.image_ids
        dtype = np.dtype(np.float64) if views == "mean" else features.dtype  # as means over views come
        self.rows = np.empty((self.n_images * self.per_image, self.n_features), dtype=dtype)
        for start, rows in features.rows(views):
            self.rows[start * self.per_image : start * self.per_image + len(rows)] = rows
        _check_finite(self.rows, features)
        if (self.rows == self.rows[0]).all():
            raise DegenerateFeaturesError(
                f"{features.name}: all rows of the training set are the same, and none is nearer than another"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # looked for in the result
            self._keep(features)

    def nearest(self, features: Features, k: int = 1, *, exclude_self: bool = False) -> Nearest:
        """The k rows of the set nearest to each row of ``features``; of no image itself where ``exclude_self``.

        Of rows equally near, to a relative 1e-12 of the distance, the first come first.
        """
        check_views(self.views, features.shape[1])
        self._check_kin(features, exclude_self)
        n = features.shape[0] * per_image(features, self.views)
        found = Nearest(np.empty((n, k), dtype=np.intp), np.empty((n, k)))
        for start, given in self._pieces(features):
            _check_finite(given, features)
            with np.errstate(over="ignore", invalid="ignore"):
                queries = self._placed(given, self._sizes(given, features))
            if not np.abs(queries).max(initial=0.0) < 1e150:
                raise NonFiniteError(
                    f"{features.name}: distances from the training set overflow; take both sets from one encoder, and "
                    "scale them down"
                )
            here = slice(start, start + len(given))
            found.rows[here], squares = self._nearest(queries, k, start if exclude_self else None)
            found.values[here] = self._values(squares)
        return found

    def images(self, nearest: Nearest) -> dict[str, Any]:
        """The image of the nearest row, of each row searched for: its number and its id."""
        images = nearest.rows[:, 0] // self.per_image
        return {"nearest": images, "nearest_ids": self.image_ids[images]}

    def _check_kin(self, features: Features, exclude_self: bool) -> None:
        if features.shape[2] != self.n_features:
            raise CubeFormatError(
                f"{features.name} has {features.shape[2]} features and the training set {self.n_features}: rows of one "
                "encoder are wanted"
            )
        if exclude_self and (features.shape[0], per_image(features, self.views)) != (self.n_images, self.per_image):
            raise ValueError(
                f"exclude_self leaves out image i for image i: both sets must be the same, and {features.name} has "
                f"{features.shape[0]} images where the training set has {self.n_images}"
            )

    def _pieces(self, features: Features) -> Iterator[tuple[int, Rows]]:
        per = per_image(features, self.views)
        for start, rows in features.rows(self.views):
            for a in range(0, len(rows), _QUERIES):
                yield start * per + a, rows[a : a + _QUERIES]

    def _nearest(self, queries: Matrix, k: int, own: int | None) -> tuple[NDArray[np.intp], Matrix]:
        """Rows nearest to each query and their squared distances; ``own``: number of the first query among the rows."""
        n = len(queries)
        bound, most = np.full(n, np.inf), np.full((n, k), np.inf)  # of the k-th square: nothing beyond it is wanted
        candidates: list[tuple[NDArray[np.intp], NDArray[np.intp], Matrix]] = []
        # One origin for a piece of queries: halfway to a block's rows would make bounds twice as tight.
        origin = middle(queries)
        left = _single(queries, origin)
        for start in range(0, len(self.rows), _CANDIDATES):
            rows = self._block(start)
            pairs = _bounds(left, _single(rows, origin))
            self._prepare(pairs, queries, start, own)
            within = _within(pairs, most, bound)
            if np.count_nonzero(within) > _MOST_CLOSE * max(n, 64):
                exact = squared_distances(queries, rows)
                nothing = np.zeros(n), np.zeros(len(rows))
                pairs = _Pairs(exact, nothing[0], (1e-8 * exact.max(axis=1), nothing[1]))
                self._prepare(pairs, queries, start, own)
                within = _few(exact, _within(pairs, most, bound), k)
            if own is not None:
                _leave_out(within, own, start, self.per_image, False)
            i, j = places(within)
            squares = pair_squares(queries, rows, i, j)
            self._correct_pairs(squares, queries, i, start + j)
            candidates.append((i, start + j, squares))
        return _first(n, k, *(np.concatenate(parts) for parts in zip(*candidates, strict=True)))

    def _block(self, start: int) -> Matrix:
        """Rows from number ``start`` on, placed, in float64."""
        rows = self.rows[start : start + _CANDIDATES]
        return self._placed(rows, self.sizes[start : start + len(rows)] if self.sizes is not None else None)

    sizes: Matrix | None = None

    def _prepare(self, pairs: _Pairs, queries: Matrix, start: int, own: int | None) -> None:
        self._correct(pairs, queries, start)
        if own is not None:
            _leave_out(pairs.least, own, start, self.per_image, np.inf)

    def _correct(self, pairs: _Pairs, queries: Matrix, start: int) -> None:
        """Set in place what the squared distances of a block are not."""

    def _correct_pairs(self, squares: Matrix, queries: Matrix, i: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
        """The same of single pairs."""

    def _keep(self, features: Features) -> None:
        """Make ready to place rows."""
        raise NotImplementedError

    def _sizes(self, given: Rows, features: Features) -> Matrix | None:
        """What given rows are divided by, one each, or None."""
        return None

    def _placed(self, rows: Rows, sizes: Matrix | None) -> Matrix:
        """Rows in float64 so that the nearest has the least distance."""
        raise NotImplementedError

    def _values(self, squares: Matrix) -> Matrix:
        """How near rows are at these squared distances."""
        raise NotImplementedError


class _Pairs(NamedTuple):
    """Lower bounds of the squared distances of a block: ``least`` (n, m) plus ``added`` (n,).

    The upper ones lie above by no more than ``slack``, of the row (n,) and of the column (m,).
    """

    least: NDArray[Any]
    added: Matrix
    slack: tuple[Matrix, Matrix]


@np.errstate(over="ignore", invalid="ignore")  # what float32 cannot hold may be near, and is looked at again
def _single(rows: Matrix, origin: Matrix) -> tuple[NDArray[np.float32], Matrix]:
    """Rows about an origin and a column of ones, in float32, and their squared lengths."""
    n, d = rows.shape
    side = np.ones((n, d + 1), np.float32)
    np.subtract(rows, origin, out=side[:, :d], casting="same_kind")
    return side, np.einsum("nd,nd->n", side[:, :d], side[:, :d]).astype(np.float64)


@np.errstate(over="ignore", invalid="ignore")
def _bounds(queries: tuple[NDArray[np.float32], Matrix], rows: tuple[NDArray[np.float32], Matrix]) -> _Pairs:
    """Bounds of the squared distances, from float32 products."""
    (left, squares), (right, others) = queries, rows
    d = left.shape[1] - 1
    # Of the squares: rounding of the rows, and of a sum of d products.
    share = rounding_share(d)
    right *= -2
    right[:, d] = (1 - share) * others
    return _Pairs(left @ right.T, (1 - share) * squares, (2 * share * squares, 2 * share * others))


@np.errstate(over="ignore", invalid="ignore")
def _within(pairs: _Pairs, most: Matrix, bound: Matrix) -> NDArray[np.bool_]:
    """Which pairs may be among the nearest; ``most`` (n, k) and ``bound`` (n,) are brought up to date."""
    least, added, slack = pairs
    k = min(most.shape[1], least.shape[1])
    near = least.argmin(axis=1)[:, None] if k == 1 else np.argpartition(least, k - 1, axis=1)[:, :k]
    upper = np.take_along_axis(least, near, axis=1) + (added + slack[0])[:, None] + slack[1][near]
    upper[np.isnan(upper)] = np.inf
    most[:] = np.sort(np.concatenate([most, upper], axis=1), axis=1)[:, : most.shape[1]]
    bound[:] = most[:, -1] * (1 + 1e-7)
    # What is no number (products beyond float32's range) may be anything.
    beyond = (bound - added).astype(least.dtype)
    return np.asarray(~(least > beyond[:, None]))


def _few(squares: Matrix, within: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
    """Of each row's pairs within, no more than a few of the least: the rest tie with them, and come later."""
    crowded = np.flatnonzero(np.count_nonzero(within, axis=1) > k + _MOST_CLOSE)
    for row in crowded:
        columns = np.flatnonzero(within[row])
        # By the leading 36 binary digits, of which rounding leaves those of copies the same.
        leading = (squares[row, columns].view(np.int64) + (1 << 15)) >> 16
        kept = columns[np.argsort(leading, kind="stable")[: k + _MOST_CLOSE]]
        within[row] = False
        within[row, kept] = True
    return within


def _first(
    n: int, k: int, query: NDArray[np.intp], row: NDArray[np.intp], squares: Matrix
) -> tuple[NDArray[np.intp], Matrix]:
    """The k nearest of each query's candidates; those that tie in the order of their rows."""
    order = np.lexsort((row, squares, query))
    query, row, squares = query[order], row[order], squares[order]
    apart = np.ones(len(order), dtype=bool)
    apart[1:] = (query[1:] != query[:-1]) | (squares[1:] > squares[:-1] * (1 + 2 * TIE))
    order = np.lexsort((row, np.cumsum(apart)))
    place = np.searchsorted(query, np.arange(n))[:, None] + np.arange(k)
    return row[order][place], squares[order][place]


def _leave_out(block: NDArray[Any], first_query: int, first_row: int, per: int, value: float) -> None:
    """Set the rows of a query's own image in a block of pairs."""
    n_queries, n_rows = block.shape
    start = max(first_row // per * per, first_query)
    stop = min(-(-(first_row + n_rows) // per) * per, first_query + n_queries)
    for query in range(start, stop):
        own = query // per * per - first_row
        block[query - first_query, max(own, 0) : own + per] = value


def _check_finite(rows: Rows, features: Features) -> None:
    if not np.isfinite(rows).all():
        features.raise_non_finite()
        raise NonFiniteError(f"{features.name}: distances overflow; scale the features of both sets down")


class CosineSearch(_Search):
    """Rows of a training set by direction: the nearest has the greatest signed cosine.

    1 less half the squared distance of unit vectors, which keeps the digits by which near copies differ from 1.
    """

    def _keep(self, features: Features) -> None:
        self.sizes = self._sizes(self.rows, features)
        self.zero = np.asarray(~self.rows.any(axis=1))

    def _sizes(self, given: Rows, features: Features) -> Matrix:
        norms = np.sqrt(np.einsum("nd,nd->n", given, given, dtype=np.float64))
        _check_finite(norms, features)
        zero = norms < 1e-145
        if given[zero].any():
            raise DegenerateFeaturesError(f"{features.name}: squares of features underflow; scale both sets up")
        if zero.any():
            warnings.warn(
                f"{features.name}: {int(zero.sum())} feature vectors are all zero and similar to nothing", stacklevel=2
            )
            norms[zero] = 1.0
        return np.asarray(norms)

    def _placed(self, rows: Rows, sizes: Matrix | None) -> Matrix:
        assert sizes is not None
        return np.divide(rows, sizes[:, None], dtype=np.float64)

    def _correct(self, pairs: _Pairs, queries: Matrix, start: int) -> None:
        # A zero row has cosine 0 with everything, as rows at a right angle have.
        none = np.flatnonzero(~queries.any(axis=1))
        pairs.least[none] = 2.0 - pairs.added[none, None]
        there = np.flatnonzero(self.zero[start : start + pairs.least.shape[1]])
        pairs.least[:, there] = 2.0 - pairs.added[:, None]

    def _correct_pairs(self, squares: Matrix, queries: Matrix, i: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
        squares[np.asarray(~queries.any(axis=1))[i] | self.zero[rows]] = 2.0

    def _values(self, squares: Matrix) -> Matrix:
        return np.asarray((1.0 - squares / 2).clip(-1.0, 1.0))


class DistanceSearch(_Search):
    """Rows of a training set by place: the nearest has the least Euclidean distance."""

    unit: float

    def _keep(self, features: Features) -> None:
        mean = self.rows.mean(axis=0, dtype=np.float64)
        farthest = np.maximum(self.rows.max(axis=0) - mean, mean - self.rows.min(axis=0)).max()
        # A power of two changes no digits, and squares stay in range.
        self.unit = float(2.0 ** np.ceil(np.log2(farthest)))
        _check_finite(np.array([self.unit]), features)

    def _placed(self, rows: Rows, sizes: Matrix | None) -> Matrix:
        return np.divide(rows, self.unit, dtype=np.float64)

    def _values(self, squares: Matrix) -> Matrix:
        return np.asarray(self.unit * np.sqrt(squares))
