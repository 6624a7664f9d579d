"""The nearest rows of a set to those of another, by cosine or by distance: what the measures of memorisation share.

The matrix of products exists in blocks only. Which row is nearest is read from products in the features' precision; how
near it is, is then computed anew from the two rows, in float64, so that the number does not depend on the blocks and
costs no digits where one row is a copy of the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icrkit._features import Features, check_views
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError

__all__ = ["CosineSearch", "DistanceSearch", "Nearest", "per_image"]

Rows = NDArray[np.floating]

# Rows and columns of the block of products: 8 MiB in float32, so that its maxima are found before it leaves the cache.
_QUERIES = 2048
_CANDIDATES = 1024
_PAIRS = 128  # rows whose nearest is looked at again, at a time


class Nearest(NamedTuple):
    """Of each row: the rows nearest to it, nearest first, and how near (cosines, or distances)."""

    rows: NDArray[np.intp]
    values: NDArray[np.float64]


def per_image(features: Features, views: str | int) -> int:
    """Rows of one image."""
    return features.shape[1] if views == "all" else 1


class _Search:
    """Rows kept for a search, in the precision of their features, with room for what a kind of search puts beside."""

    beside: ClassVar[int]
    nearer_is_greater: ClassVar[bool]

    def __init__(self, features: Features, views: str | int) -> None:
        check_views(views, features.shape[1])
        self.views = views
        self.per_image = per_image(features, views)
        self.n_images, _, self.n_features = features.shape
        self.image_ids = features.image_ids
        self.rows = np.empty((self.n_images * self.per_image, self.n_features + self.beside), dtype=features.dtype)
        kept = self.rows[:, : self.n_features]
        for start, rows in features.rows(views):
            kept[start * self.per_image : start * self.per_image + len(rows)] = rows
        _check_finite(kept, features)
        if (kept == kept[0]).all():
            raise DegenerateFeaturesError(
                f"{features.name}: all rows of the training set are the same, and none is nearer than another"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # looked for in the result
            self._keep(kept, features)

    def nearest(self, features: Features, k: int = 1, *, exclude_self: bool = False) -> Nearest:
        """The k rows of the set nearest to each row of ``features``; of no image itself where ``exclude_self``."""
        check_views(self.views, features.shape[1])
        self._check_kin(features, exclude_self)
        n = features.shape[0] * per_image(features, self.views)
        found = Nearest(np.empty((n, k), dtype=np.intp), np.empty((n, k)))
        products = np.empty(_QUERIES * _CANDIDATES, dtype=self.rows.dtype)
        queries = np.empty((0, self.rows.shape[1]), dtype=self.rows.dtype)
        for start, given in self._pieces(features):
            if len(given) > len(queries):
                queries = np.empty((len(given), self.rows.shape[1]), dtype=self.rows.dtype)
            rows = queries[: len(given)]
            with np.errstate(over="ignore", invalid="ignore"):
                self._enter(given, rows, features)
            which = self._largest(rows, products, k, start if exclude_self else None)
            for a in range(0, len(rows), _PAIRS):
                pairs = which[a : a + _PAIRS]
                values = self._values(rows[a : a + _PAIRS], pairs)
                # What the products' rounding could not tell apart comes into order here.
                order = np.argsort(-values if self.nearer_is_greater else values, axis=1, kind="stable")
                here = slice(start + a, start + a + len(pairs))
                found.rows[here] = np.take_along_axis(pairs, order, axis=1)
                found.values[here] = np.take_along_axis(values, order, axis=1)
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

    def _largest(self, queries: Rows, products: Rows, k: int, own: int | None) -> NDArray[np.intp]:
        """Rows of the k largest products of each query; ``own``: number of the first query among the rows."""
        n = len(queries)
        every = np.arange(n)
        best = np.full((n, k), -np.inf, dtype=self.rows.dtype)
        which = np.zeros((n, k), dtype=np.intp)
        for start in range(0, len(self.rows), _CANDIDATES):
            there = self.rows[start : start + _CANDIDATES]
            block = products[: n * len(there)].reshape(n, len(there))
            np.matmul(queries, there.T, out=block)
            if own is not None:
                _leave_out(block, own, start, self.per_image)
            for _ in range(k):
                column = block.argmax(axis=1)
                value = block[every, column]
                block[every, column] = -np.inf
                both = np.column_stack([best, value])
                order = np.argsort(-both, axis=1, kind="stable")[:, :k]
                best = np.take_along_axis(both, order, axis=1)
                which = np.take_along_axis(np.column_stack([which, column + start]), order, axis=1)
        return which

    def _keep(self, kept: Rows, features: Features) -> None:
        """Make ready the rows kept, in place."""
        raise NotImplementedError

    def _enter(self, given: Rows, out: Rows, features: Features) -> None:
        """Write given rows into ``out`` so that a greater product with a row kept is a nearer one."""
        raise NotImplementedError

    def _values(self, queries: Rows, found: NDArray[np.intp]) -> NDArray[np.float64]:
        """How near each of the rows found is to its query."""
        raise NotImplementedError


def _leave_out(block: Rows, first_query: int, first_row: int, per: int) -> None:
    """Take the rows of a query's own image out of a block of products."""
    n_queries, n_rows = block.shape
    start = max(first_row // per * per, first_query)
    stop = min(-(-(first_row + n_rows) // per) * per, first_query + n_queries)
    for query in range(start, stop):
        own = query // per * per - first_row
        block[query - first_query, max(own, 0) : own + per] = -np.inf


def _check_finite(rows: Rows, features: Features) -> None:
    if not np.isfinite(rows).all():
        features.raise_non_finite()
        raise NonFiniteError(f"{features.name}: distances overflow; scale the features of both sets down")


class CosineSearch(_Search):
    """Rows of a training set by direction: the nearest has the greatest signed cosine."""

    beside = 0
    nearer_is_greater = True

    def _keep(self, kept: Rows, features: Features) -> None:
        self._enter(kept, kept, features)

    def _enter(self, given: Rows, out: Rows, features: Features) -> None:
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
        np.divide(given, norms[:, None], out=out, casting="same_kind")

    def _values(self, queries: Rows, found: NDArray[np.intp]) -> NDArray[np.float64]:
        queries, pairs = queries.astype(np.float64), self.rows[found].astype(np.float64)
        products = np.einsum("nd,nkd->nk", queries, pairs)
        if self.rows.dtype == np.float32:
            # Rounded to float32, rows have unit length to 1e-7 only, and a copy would not be at 1.
            squares = np.square(queries).sum(axis=1)[:, None] * np.square(pairs).sum(axis=2)
            products /= np.sqrt(np.where(squares > 0, squares, 1.0))
        return np.asarray(products.clip(-1.0, 1.0))


class DistanceSearch(_Search):
    """Rows of a training set by place: the nearest has the least Euclidean distance.

    Kept nearly about their mean, where rounding is least, in units of the greatest feature, beside -1/2 of their
    square: the product of a query (x, 1) with a row (y, -|y|^2/2) is greatest where |x - y| is least.
    """

    beside = 1
    nearer_is_greater = False
    unit: float

    def _keep(self, kept: Rows, features: Features) -> None:
        mean = kept.mean(axis=0, dtype=np.float64)
        farthest = np.maximum(kept.max(axis=0) - mean, mean - kept.min(axis=0)).max()
        # A power of two changes no digits, and a coarse centre leaves pixels and other round numbers as they are, so
        # that distances which tie still tie.
        self.unit = float(2.0 ** np.ceil(np.log2(farthest)))
        grid = self.unit / 256
        self.centre = np.rint(mean / grid) * grid
        self._place(kept, kept, features)
        self.rows[:, -1] = -np.einsum("nd,nd->n", kept, kept, dtype=np.float64) / 2

    def _place(self, given: Rows, out: Rows, features: Features) -> None:
        np.subtract(given, self.centre, out=out, casting="same_kind")
        out /= self.unit
        _check_finite(out, features)

    def _enter(self, given: Rows, out: Rows, features: Features) -> None:
        self._place(given, out[:, :-1], features)
        out[:, -1] = 1.0

    def _values(self, queries: Rows, found: NDArray[np.intp]) -> NDArray[np.float64]:
        difference = self.rows[found][:, :, :-1].astype(np.float64)
        difference -= queries[:, None, :-1]
        return np.asarray(self.unit * np.sqrt(np.einsum("nkd,nkd->nk", difference, difference)))
