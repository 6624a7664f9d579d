"""Neighbours of an image by what of its features is invariant, or by what differs between its views.

Source: Li et al. 2026, arXiv 2606.09718, figure 1: neighbours by the invariant component look alike, neighbours by the
residual do not.
"""

from __future__ import annotations

import dataclasses
import operator
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from icrkit._features import Features, check_views
from icrkit.exceptions import DegenerateFeaturesError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._base import CubeEstimator, row_features
from icrkit.metrics._distances import stable_descending

__all__ = ["NeighborRetrieval", "Neighbors", "neighbor_retrieval"]

COMPONENTS = ("invariant", "residual")

_TILE_BYTES = 8 << 20  # of features read at a time, if whole stored chunks allow
_QUERY_BYTES = 256 << 20  # of features of all query images, held at a time
_PIECE = 4096  # features worked on at a time: their products are summed in float64 beyond
# Below this share of the mean's length, what differs between views is rounding.
_NO_RESIDUAL = 1e-9


class Neighbors(NamedTuple):
    """Neighbours of each query image: the nearest, nearest first, then the farthest, the farthest last."""

    queries: NDArray[np.intp]
    query_ids: NDArray[Any]
    images: NDArray[np.intp]
    views: NDArray[np.intp] | None
    ids: NDArray[Any]
    similarity: NDArray[np.float64]


def neighbor_retrieval(
    X: Any,
    queries: int | Sequence[int] | NDArray[np.integer] = 0,
    component: str = "invariant",
    n_neighbors: int = 5,
    n_farthest: int = 0,
    view: int = 0,
) -> Neighbors:
    """Images most similar to a query image by the invariant or the residual part of its features; cosines, -1 to 1.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        Features, pooled or flattened; on disk they are read as they are needed.
    queries : int or sequence of int
        Numbers of the query images in X, from 0.
    component : {"invariant", "residual"}
        "invariant": compare s, the mean over the views of an image; neighbours are images. "residual": compare xi, a
        view less that mean; the query is one view of each query image, and neighbours are single views of any image,
        the query's own among them.
    n_neighbors, n_farthest : int
        How many of the most similar, and of the least similar.
    view : int
        View of the query images; for "residual" only.

    Returns
    -------
    Neighbors
        ``queries`` and ``query_ids`` (query,); ``images``, ``ids`` and ``similarity`` (query, neighbour), the nearest
        first, then the farthest, the farthest last; ``views`` likewise, None for "invariant".

    Raises
    ------
    DegenerateFeaturesError
        A query has no direction: its mean is zero, or its views are all the same.
    NonFiniteError
        NaN or infinity among the features, or their squares overflow.
    NotEnoughDataError
        "residual" and one view an image.
    ValueError
        There is no such component, image or view, or there are fewer candidates than neighbours asked for.

    Notes
    -----
    cos(a, b) = <a, b>/(|a| |b|), with a and b either s_i = sum_v h_iv/V or xi_iv = h_iv - s_i, not centred over images.
    The query itself is left out. Candidates without a direction have similarity 0 to everything, and a warning says how
    many they are. The residuals of an image sum to zero, so that its other views are the query's opposites on average,
    -1/(V - 1) where all are of one length.

    Neighbours are the same under a rotation of the features and under one scale for all of them; under a translation
    those of "residual" are, those of "invariant" are not. Other affine maps matter to both. Another order of the images
    or of the views renumbers them.

    Products and norms are accumulated over pieces of the features, in float64 beyond a piece, in one pass over X that
    holds the N x q similarities (times V for "residual"), a tile of X, and the query images; beyond 256 MiB of these
    the features are gone through in several ranges. A tile is cut as X is stored: some images with all their features
    where a stored chunk holds whole rows, as in cubes written here, and all images of a chunk with some features where
    it does not.

    References
    ----------
    Li et al. 2026, figure 1.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.load_fashion_cube().select(sigma=0.057, tolerance=0.1)
    >>> found = ik.neighbor_retrieval(cube, queries=0, n_neighbors=3)
    >>> cube.labels[found.queries], cube.labels[found.images]
    (array([9]), array([[9, 9, 9]]))
    """
    return _retrieve(row_features(X), queries, component, n_neighbors, n_farthest, view)


def _retrieve(
    features: Features, queries: Any, component: str, n_neighbors: int, n_farthest: int, view: int
) -> Neighbors:
    n, v, _ = features.shape
    if component not in COMPONENTS:
        raise ValueError(f"component must be one of {COMPONENTS}, not {component!r}")
    which = _image_numbers(queries, n)
    if component == "invariant":
        per_image, own = 1, which
    else:
        if v < 2:
            raise NotEnoughDataError(f"{features.name} has 1 view an image; a residual is what two or more differ by")
        check_views(operator.index(view), v)
        per_image, own = v, which * v + view
    most = n * per_image - 1
    if n_neighbors < 0 or n_farthest < 0 or not 1 <= n_neighbors + n_farthest <= most:
        raise ValueError(
            f"n_neighbors={n_neighbors} and n_farthest={n_farthest}: from 1 to {most} neighbours of an image can be "
            f"given, with n_samples={n} images"
        )
    similarity = _similarities(features, which, own, component)
    found = np.empty((len(which), n_neighbors + n_farthest), dtype=np.intp)
    for row, mine, out in zip(similarity, own, found, strict=True):
        order = stable_descending(row)  # copies of an image tie, whatever the rounding of their products
        order = order[order != mine]
        out[:n_neighbors], out[n_neighbors:] = order[:n_neighbors], order[len(order) - n_farthest :]
    images, views = np.divmod(found, per_image)
    return Neighbors(
        which,
        features.image_ids[which],
        images,
        views if component == "residual" else None,
        features.image_ids[images],
        np.take_along_axis(similarity, found, axis=1),
    )


def _image_numbers(queries: Any, n_images: int) -> NDArray[np.intp]:
    which = np.atleast_1d(np.asarray(queries))
    if which.ndim != 1 or which.dtype.kind not in "iu" or not len(which):
        raise ValueError(f"queries must be numbers of images, not {queries!r}")
    if which.min() < 0 or which.max() >= n_images:
        raise ValueError(f"queries={queries!r}: there are {n_images} images, numbered from 0")
    return which.astype(np.intp)


def _similarities(
    features: Features, which: NDArray[np.intp], own: NDArray[np.intp], component: str
) -> NDArray[np.float64]:
    """Cosines (query, candidate) of one query row each with every row of the component, image by image."""
    n, v, _ = features.shape
    per_image = v if component == "residual" else 1
    products = np.zeros((n * per_image, len(which)))
    squares = np.zeros(n * per_image)
    sizes = np.zeros(n)  # squared lengths of the means
    with np.errstate(over="ignore", invalid="ignore"):  # looked for in the result
        for some in _feature_ranges(features, len(which)):
            queries = np.empty((len(which), some.shape[2]))
            for q, (image, row) in enumerate(zip(which, own % per_image, strict=True)):
                for piece, rows, _ in _parts(some.read(image, image + 1), component):
                    queries[q, piece] = rows[row]
            for start, tile in some.blocks(_tile_bytes(some)):
                for piece, rows, mean in _parts(tile, component):
                    here = slice(start * per_image, start * per_image + len(rows))
                    products[here] += rows @ queries[:, piece].T
                    squares[here] += np.einsum("nd,nd->n", rows, rows)
                    sizes[start : start + len(mean)] += np.einsum("nd,nd->n", mean, mean)
    if not (np.isfinite(squares).all() and np.isfinite(products).all()):
        features.raise_non_finite()
        raise NonFiniteError(f"{features.name}: squares of features overflow; scale the features down")
    return _cosines(products, squares, np.repeat(sizes, per_image), own, features, component)


def _parts(tile: NDArray[Any], component: str) -> Iterator[tuple[slice, NDArray[Any], NDArray[np.float64]]]:
    """(features, rows of the component, mean over views) of a tile (image, view, feature), piece by piece."""
    n, v, d = tile.shape
    for start in range(0, d, _PIECE):
        piece = slice(start, min(start + _PIECE, d))
        block = tile[:, :, piece]
        mean = block.mean(axis=1, dtype=np.float64)
        if component == "residual":
            # In float64: most digits of a small residual would be lost with the mean's last one.
            rows = (block - mean[:, None]).reshape(n * v, -1)
        else:
            rows = mean
        yield piece, rows, mean


def _cosines(
    products: NDArray[np.float64],
    squares: NDArray[np.float64],
    sizes: NDArray[np.float64],
    own: NDArray[np.intp],
    features: Features,
    component: str,
) -> NDArray[np.float64]:
    none = (squares < 1e-290) | (squares <= (_NO_RESIDUAL**2 * sizes if component == "residual" else 0.0))
    if none[own].any():
        row = int(own[none[own]][0])
        image, view = divmod(row, len(squares) // features.shape[0])
        why = f"view {view} differs from the mean of its views by nothing" if component == "residual" else "it is zero"
        raise DegenerateFeaturesError(
            f"{features.name}: image {features.image_ids[image]} has no direction to compare, because {why}, or so "
            "nearly that its square underflows"
        )
    if none.any():
        warnings.warn(
            f"{features.name}: {int(none.sum())} of {len(none)} candidates have no direction, and similarity 0 to "
            "everything",
            stacklevel=2,
        )
        squares = np.where(none, np.inf, squares)
    lengths = np.sqrt(squares)
    return np.clip(products.T / lengths[own, None] / lengths, -1.0, 1.0)


def _stored_chunk(array: Any) -> tuple[int, int]:
    """Images and features that are stored, and therefore read, together; 1 and 0 (all) where nothing is known."""
    sizes: dict[str, int] = dict(getattr(array, "encoding", {}).get("preferred_chunks") or {})
    sizes.update({str(dim): parts[0] for dim, parts in (getattr(array, "chunksizes", None) or {}).items()})
    features = [size for dim, size in sizes.items() if str(dim).startswith("feature")]
    return max(1, sizes.get("image", 1)), features[0] if features else 0


def _tile_bytes(features: Features) -> int:
    """Bytes of a tile: about `_TILE_BYTES`, in a whole number of stored chunks of images."""
    _, v, d = features.shape
    image_bytes = v * d * features.dtype.itemsize
    chunk, _ = _stored_chunk(features.array)
    return max(1, _TILE_BYTES // image_bytes // chunk) * chunk * image_bytes


def _feature_ranges(features: Features, n_queries: int) -> Iterator[Features]:
    """The features, or ranges of them: as they are stored, and so that those of the queries can be held."""
    _, v, d = features.shape
    item = features.dtype.itemsize
    width = min(d, max(1, _QUERY_BYTES // (n_queries * item)))
    images, chunk = _stored_chunk(features.array)
    if 0 < chunk < d:
        width = min(width, max(1, _TILE_BYTES // (images * v * chunk * item)) * chunk)
    if width == d:
        yield features
        return
    for start in range(0, d, width):
        yield dataclasses.replace(features, array=features.array[:, :, start : start + width])


class NeighborRetrieval(CubeEstimator):
    """Images most similar to query images by the invariant or the residual part of their features.

    Parameters
    ----------
    queries : int or sequence of int
        Numbers of the query images in X, from 0.
    component : {"invariant", "residual"}
        Compare means over views, or single views less that mean.
    n_neighbors, n_farthest : int
        How many of the most similar, and of the least similar.
    view : int
        View of the query images; for "residual" only.
    n_views : int
        Consecutive rows to an image, for 2-D X without groups. By default rows stand for themselves.

    Attributes
    ----------
    neighbor_retrieval_ : Neighbors
        ``queries`` and ``query_ids`` (query,); ``images``, ``ids``, ``similarity`` and, for "residual", ``views``
        (query, neighbour), the nearest first, then the farthest, the farthest last.

    Notes
    -----
    Definition, memory and behaviour: :func:`icrkit.neighbor_retrieval`. ``icrkit.plot.NeighborsDisplay.from_estimator``
    draws what was found.

    References
    ----------
    Li et al. 2026, figure 1.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> h = np.array([[[1.0, 0.0], [3.0, 1.0]], [[0.0, 1.0], [0.0, 3.0]], [[5.0, 0.0], [4.0, 2.0]]])
    >>> found = ik.NeighborRetrieval(queries=0, n_neighbors=2).fit(h).neighbor_retrieval_
    >>> found.images, found.similarity.round(3)
    (array([[2, 1]]), array([[1.   , 0.243]]))
    """

    def __init__(
        self,
        queries: int | Sequence[int] | NDArray[np.integer] = 0,
        component: str = "invariant",
        *,
        n_neighbors: int = 5,
        n_farthest: int = 0,
        view: int = 0,
        n_views: int = 1,
    ) -> None:
        self.queries = queries
        self.component = component
        self.n_neighbors = n_neighbors
        self.n_farthest = n_farthest
        self.view = view
        self.n_views = n_views

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Find the neighbours in X.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        y : ignored
        groups : array (row,), optional
            Image of each row, for 2-D X.

        Returns
        -------
        self
        """
        features = self._features(X, groups=groups, reset=True, min_views=1)
        self.neighbor_retrieval_ = _retrieve(
            features, self.queries, self.component, self.n_neighbors, self.n_farthest, self.view
        )
        return self
