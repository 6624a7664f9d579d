"""Silhouette: whether rows lie closer to their own class than to the nearest other one.

Source: Rousseeuw 1987, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis",
J. Comput. Appl. Math. 20, 53-65.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from icrkit._features import Features, unit_rows
from icrkit.exceptions import DegenerateFeaturesError, NotEnoughDataError
from icrkit.metrics._base import Measure, labelled_features, row_features
from icrkit.metrics._classes import add_by_label, class_codes, read_rows
from icrkit.metrics._distances import MANY, middle, squared_distances
from icrkit.moments import Moments

__all__ = ["Silhouette", "silhouette"]

Rows = NDArray[np.float64]
Codes = NDArray[np.int64]


def silhouette(
    X: Any,
    y: Any = None,
    labels: str = "classes",
    n_clusters: int = 10,
    *,
    metric: str = "euclidean",
    random_state: int = 0,
    views: str | int = "mean",
    block_size: int = 1024,
) -> float:
    """Silhouette coefficient, mean over rows; from -1 to 1 (classes are tight and far apart).

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
    y : array (n_images,), or (row,) for rows
        Class of each image; the cube's labels where left out. Not read where ``labels="kmeans"``.
    labels : {"classes", "kmeans"}
        What the rows are grouped by: the classes in y, or clusters that k-means finds among them.
    n_clusters : int
        Clusters of k-means.
    metric : {"euclidean", "cosine"}
        Distance between rows.
    random_state : int
        Seed of k-means.
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.
    block_size : int
        Rows in a block of the distance matrix, of which no more is ever held.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        There is no view of that number, or an option has no such value.
    NotEnoughDataError
        Fewer than two classes, no two rows of one class, or fewer rows than clusters.
    NonFiniteError
        NaN or infinity among the features.
    DegenerateFeaturesError
        All rows are equal (or, with "cosine", point the same way), or there are fewer distinct rows than clusters.

    Notes
    -----
    Mean of (b - a)/max(a, b): a is the mean distance of a row to the others of its class, b the least of its mean
    distances to the other classes; 0 for the only row of a class. scikit-learn's ``silhouette_score``. Labels that have
    nothing to do with the features read a little below 0, since b is the least of several. Euclidean distances cost
    N^2 d flops (each pair once), in blocks, each about an origin of its own, so that classes far from all others cost
    no digits; products are float64, or float32 for float32 features in 2,048 rows or more where no distance in the
    block is small beside the squares: right to 1e-7. Cosine distances need no pairs:
    their mean over a class is 1 - <u, m>, u the row and m the class's mean, both of unit vectors; that costs N d K. A
    zero row has no direction and lies at distance 1 from all others, with a warning. k-means: 10 starts from k-means++,
    on unit vectors with "cosine". Invariant under rotation, scaling and order; "euclidean" under translation as well,
    "cosine" under any positive scaling of each row; not under other affine maps. With k-means the order of the rows
    decides which of them it starts from.

    References
    ----------
    Rousseeuw 1987, J. Comput. Appl. Math. 20, section 2.

    Examples
    --------
    >>> import icrkit as ik
    >>> ik.silhouette([[0.0], [1.0], [4.0], [5.0]], [0, 0, 1, 1])
    0.746031746031746
    """
    if labels not in ("classes", "kmeans"):
        raise ValueError(f"labels must be 'classes' or 'kmeans', not {labels!r}")
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"metric must be 'euclidean' or 'cosine', not {metric!r}")
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, not {block_size}")
    features, y = labelled_features(X, y) if labels == "classes" else (row_features(X), None)
    rows = read_rows(features, views)
    n, per_image, d = rows.shape
    rows = rows.reshape(n * per_image, d).astype(np.float64)
    # In units of a power of two, which changes no digits: squares and sums stay in range.
    rows = np.ldexp(rows, -int(np.frexp(np.abs(rows).max())[1]))
    if metric == "cosine":
        rows = unit_rows(rows, features.name)
    # Rows that are c times one row point the same way but for the rounding of their own type.
    eps = np.finfo(features.dtype if metric == "cosine" else np.float64).eps
    if not np.abs(rows - rows[0]).max() > 8 * eps * np.abs(rows).max():
        how = "point the same way" if metric == "cosine" else "are equal"
        raise DegenerateFeaturesError(
            f"{features.name}: all rows {how} (n_features={d}): no class lies apart from another"
        )
    if metric == "euclidean":
        rows -= middle(rows)  # distances do not depend on the origin, and rounding is least near most of the rows
    if labels == "kmeans":
        codes = _clusters(rows, n_clusters, random_state)
    else:
        codes = np.repeat(class_codes(y)[1], per_image)
    counts = np.bincount(codes)
    if counts.max() < 2:
        raise NotEnoughDataError(f"each of the {len(counts)} classes has n_samples=1 row: none is near its own")
    order = np.argsort(codes, kind="stable")  # rows of a class side by side: sums over runs
    rows, codes = rows[order], codes[order]
    single = features.single and len(rows) >= MANY
    to_class = _cosine_sums(rows, codes) if metric == "cosine" else _euclidean_sums(rows, codes, block_size, single)
    return float(_coefficients(to_class, codes, counts).mean())


def _coefficients(sums: NDArray[np.float64], codes: Codes, counts: Codes) -> NDArray[np.float64]:
    """(b - a)/max(a, b) of each row, from the sums (N, K) of its distances to each class, which become means."""
    own = np.arange(len(codes)), codes
    a = sums[own] / np.maximum(counts - 1, 1)[codes]
    sums /= counts
    sums[own] = np.inf
    b = sums.min(axis=1)
    larger = np.maximum(a, b)
    defined = (counts[codes] > 1) & (larger > 0)
    return np.where(defined, b - a, 0.0) / np.where(defined, larger, 1.0)


def _euclidean_sums(rows: Rows, codes: Codes, block_size: int, single: bool) -> NDArray[np.float64]:
    """Sums of each row's distances to the rows of each class, (N, K), codes ascending; every block of pairs once."""
    n = len(rows)
    blocks = [slice(start, min(start + block_size, n)) for start in range(0, n, block_size)]
    centres = [middle(rows[block]) for block in blocks]
    runs = [np.unique(codes[block], return_index=True) for block in blocks]
    sums = np.zeros((int(codes[-1]) + 1, n))
    for i, here in enumerate(blocks):
        mine = rows[here]
        present, first = runs[i]
        bounds = list(zip(present.tolist(), itertools.pairwise([*first.tolist(), len(mine)]), strict=True))
        for j, there in enumerate(blocks[i:], start=i):
            others = mine if i == j else rows[there]
            distances = squared_distances(mine, others, 0.5 * centres[i] + 0.5 * centres[j], single=single)
            np.sqrt(distances, out=distances)
            if i == j:
                np.fill_diagonal(distances, 0)
            present, first = runs[j]
            sums[present, here] += np.add.reduceat(distances, first, axis=1).T
            if j > i:
                # Run by run: along this axis reduceat takes ten times as long.
                for k, (start, stop) in bounds:
                    sums[k, there] += distances[start:stop].sum(axis=0)
    return sums.T


def _cosine_sums(unit: Rows, codes: Codes) -> NDArray[np.float64]:
    """Sums of each row's cosine distances to the other rows of each class, (N, K), without pairs.

    1 - <u, v> = |u - v|^2/2 + e_u + e_v, e = (1 - |u|^2)/2: 0, and 1/2 for a zero row. The sum of squares over a class
    follows from its sums about any origin: about the mean of all rows few digits are lost where all point one way.
    """
    zero = np.asarray(~unit.any(axis=1))
    counts = np.bincount(codes)
    centred = unit - unit.mean(axis=0)
    squares = np.square(centred).sum(axis=1)
    totals = np.zeros((len(counts), unit.shape[1]))
    add_by_label(totals, centred, codes)
    of_class = np.bincount(codes, weights=squares), np.bincount(codes, weights=zero)
    terms = squares[:, None] * counts + of_class[0]
    sums = (terms - 2 * centred @ totals.T) / 2
    sums[sums <= 64 * np.finfo(np.float64).eps * terms] = 0.0  # rounding of directions that agree
    sums += (zero[:, None] * counts + of_class[1]) / 2
    own = np.arange(len(codes)), codes
    sums[own] -= zero  # a row and itself are no pair
    return np.asarray(sums)


def _clusters(rows: Rows, n_clusters: int, random_state: int) -> Codes:
    if not 2 <= n_clusters < len(rows):
        raise NotEnoughDataError(f"n_clusters={n_clusters}: wanted 2 to n_samples - 1 = {len(rows) - 1} of the rows")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            codes = KMeans(n_clusters, n_init=10, random_state=random_state).fit_predict(rows)
        except ConvergenceWarning as warning:
            raise DegenerateFeaturesError(f"there are fewer distinct rows than n_clusters={n_clusters}") from warning
    return np.asarray(codes, dtype=np.int64)


class Silhouette(Measure):
    """Silhouette coefficient of features, by their classes or by clusters.

    Parameters
    ----------
    labels : {"classes", "kmeans"}
        What the rows are grouped by: the classes in y, or clusters that k-means finds among them.
    n_clusters : int
        Clusters of k-means.
    metric : {"euclidean", "cosine"}
        Distance between rows.
    random_state : int
        Seed of k-means.
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one. Rows of a 2-D X stand for themselves.
    block_size : int
        Rows in a block of the distance matrix.

    Attributes
    ----------
    silhouette_ : float
        From -1 to 1.

    Notes
    -----
    Needs y, or a cube with labels, unless ``labels="kmeans"``. ``score(X, y)`` is the silhouette of X itself. Formula
    and behaviour: see :func:`icrkit.silhouette`.

    References
    ----------
    Rousseeuw 1987, J. Comput. Appl. Math. 20, section 2.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, n_classes=3, random_state=0)
    >>> ik.Silhouette().fit(cube).silhouette_ > 0
    True
    >>> ik.Silhouette("kmeans", n_clusters=3).fit(cube.level()).silhouette_ > 0
    True
    """

    quantity = "silhouette"

    def __init__(
        self,
        labels: str = "classes",
        n_clusters: int = 10,
        *,
        metric: str = "euclidean",
        random_state: int = 0,
        views: str | int = "mean",
        block_size: int = 1024,
    ) -> None:
        self.labels = labels
        self.n_clusters = n_clusters
        self.metric = metric
        self.random_state = random_state
        self.views = views
        self.block_size = block_size

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Whether y is read."""
        return self.labels == "classes"

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        return {"silhouette": silhouette(given, y, **self.get_params())}
