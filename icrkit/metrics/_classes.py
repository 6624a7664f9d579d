"""Classes of labelled rows: which there are, their means, and how far their rows lie from these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d

from icrkit._arrays import missing, to_column
from icrkit._features import Features, unit_rows
from icrkit.exceptions import DegenerateFeaturesError, NonFiniteError, NotEnoughDataError

__all__ = [
    "ClassMeans",
    "ClassSpread",
    "add_by_label",
    "check_squares",
    "checked_labels",
    "class_codes",
    "class_means",
    "class_spread",
    "deviations",
    "labelled_rows",
    "read_rows",
]

Matrix = NDArray[np.float64]


class ClassMeans(NamedTuple):
    """Classes (K,) of labelled rows, how many there are of each (K,), and their means (K, d).

    ``means`` are taken from the first row, ``origin`` (d,), so that no digits are lost far from the origin and equal
    rows give exact zeros. ``codes`` (n_images,) is the number of each image's class.
    """

    classes: NDArray[Any]
    codes: NDArray[np.int64]
    counts: NDArray[np.int64]
    means: Matrix
    origin: NDArray[np.float64]


class ClassSpread(NamedTuple):
    """Counts (K,), means (K, d) as `ClassMeans` has them, and mean squared distances to these (K,), of labelled rows.

    ``variances`` are traces of the class covariances, ddof 0.
    """

    classes: NDArray[Any]
    counts: NDArray[np.int64]
    means: Matrix
    variances: Matrix


def checked_labels(y: Any, n_images: int) -> NDArray[Any]:
    """Class labels, one an image: there for each, and of a kind that tells classes apart.

    Raises
    ------
    ValueError
        Labels are not one to an image; one is NaN, None or infinite; they are continuous, or of mixed types.
    """
    labels = to_column(column_or_1d(to_column(y, "y"), warn=True), "y")
    check_consistent_length(np.empty(n_images), labels)
    bad = np.flatnonzero(missing(labels) | (np.isinf(labels) if labels.dtype.kind == "f" else False))
    if bad.size:
        raise ValueError(
            f"Input y contains NaN, None or infinity: {bad.size} of {n_images} labels, the first is "
            f"{labels[bad[0]]} at number {bad[0]}. Leave those images out."
        )
    check_classification_targets(labels)
    return labels


def check_squares(largest: float, name: str) -> None:
    """Refuse features, the largest of this size, whose squares leave float64's range; a metric by ratios sees no scale.

    Raises
    ------
    NonFiniteError
        They overflow.
    DegenerateFeaturesError
        They underflow.
    """
    if largest > 1e150:
        raise NonFiniteError(f"{name}: squares of features up to {largest:.2g} overflow; scale the features down")
    if 0 < largest < 1e-130:
        raise DegenerateFeaturesError(
            f"{name}: squares of features up to {largest:.2g} underflow; scale the features up"
        )


def refuse_overflow(features: Features) -> NoReturn:
    """Say which feature is not finite, or that a sum of finite ones is not."""
    features.raise_non_finite()
    raise NonFiniteError(f"{features.name}: all features are finite, but their sums overflow; scale the features down")


def class_codes(y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Classes in order (K,), and the number of each label among them (n,).

    Raises
    ------
    NotEnoughDataError
        Fewer than two classes.
    """
    classes, codes = np.unique(np.asarray(y), return_inverse=True)
    if len(classes) < 2:
        raise NotEnoughDataError(f"y holds 1 class, {classes[0]}; at least two are needed to tell them apart")
    return classes, codes


def _check_spread(codes: NDArray[np.int64], features: Features, views: str | int) -> None:
    """Refuse classes of one row each: they have no spread, and would read as perfectly collapsed.

    With ``views="all"`` the views of an image are rows.

    Raises
    ------
    NotEnoughDataError
    """
    n_views = features.shape[1]
    if len(np.unique(codes)) < len(codes) or (views == "all" and n_views > 1):
        return
    all_views = ", or take views='all' to count their views as rows" if n_views > 1 else ""
    raise NotEnoughDataError(
        f"each of the {len(codes)} classes has n_samples=1 row, and no spread: give classes two images or "
        f"more{all_views}"
    )


def class_means(
    features: Features, y: NDArray[Any], views: str | int = "mean", normalize: str | None = None
) -> ClassMeans:
    """Means of the rows of each class, in one pass over blocks.

    Parameters
    ----------
    features : Features
    y : ndarray (n_images,)
        Class of each image.
    views : {"mean", "all"} or int
        Rows used: the mean over views of each image, every view, or one view.
    normalize : {None, "l2"}
        Scale these rows to unit length first; a zero row stays zero, with a warning.

    Raises
    ------
    ValueError
        There is no view of that number.
    NotEnoughDataError
        Fewer than two classes, or one row in every class.
    NonFiniteError
        NaN or infinity among the features, or squares that overflow.
    DegenerateFeaturesError
        Squares that underflow.
    """
    classes, codes = class_codes(y)
    _check_spread(codes, features, views)
    counts, means = np.zeros(len(classes), dtype=np.int64), np.zeros((len(classes), features.shape[2]))
    origin, largest = None, 0.0
    for rows, labels in labelled_rows(features, codes, views, normalize):
        origin = rows[0].copy() if origin is None else origin
        rows = rows - origin
        largest = max(largest, float(np.abs(rows).max()))
        add_by_label(means, rows, labels)
        counts += np.bincount(labels, minlength=len(classes))
    check_squares(largest, features.name)
    assert origin is not None
    return ClassMeans(classes, codes, counts, means / counts[:, None], origin)


def deviations(
    features: Features, found: ClassMeans, views: str | int = "mean", normalize: str | None = None
) -> Iterator[tuple[Matrix, NDArray[np.int64]]]:
    """(rows less the mean of their class, code of each), in blocks: a second pass.

    From one pass their squares would be a difference, and under collapse that leaves rounding only.
    """
    for rows, labels in labelled_rows(features, found.codes, views, normalize):
        yield rows - found.origin - found.means[labels], labels


def class_spread(
    features: Features, y: NDArray[Any], views: str | int = "mean", normalize: str | None = None
) -> ClassSpread:
    """Per-class means, and the mean squared distance to them: see `class_means` for parameters and errors."""
    found = class_means(features, y, views, normalize)
    squares = np.zeros(len(found.classes))
    for rows, labels in deviations(features, found, views, normalize):
        squares += np.bincount(labels, weights=np.square(rows).sum(axis=1), minlength=len(squares))
    return ClassSpread(found.classes, found.counts, found.means, squares / found.counts)


def labelled_rows(
    features: Features, codes: NDArray[np.int64], views: str | int, normalize: str | None = None
) -> Iterator[tuple[Matrix, NDArray[np.int64]]]:
    """(rows, code of each) over all images, in blocks and in float64; NaN and infinity are refused."""
    for start, rows in features.rows(views):
        per_image = features.shape[1] if views == "all" else 1
        if not np.isfinite(rows).all():
            refuse_overflow(features)
        labels = np.repeat(codes[start : start + len(rows) // per_image], per_image)
        rows = rows.astype(np.float64, copy=False)
        yield unit_rows(rows, features.name) if normalize == "l2" else rows, labels


def add_by_label(sums: Matrix, rows: Matrix, labels: NDArray[np.int64]) -> None:
    """Add each row to the row of ``sums`` that its label names."""
    order = np.argsort(labels, kind="stable")
    present, first = np.unique(labels[order], return_index=True)
    sums[present] += np.add.reduceat(rows[order], first, axis=0)


def read_rows(features: Features, views: str | int) -> NDArray[Any]:
    """All rows in memory, (n_images, rows of an image, n_features): for what compares rows with each other.

    Parameters
    ----------
    features : Features
    views : {"mean", "all"} or int
        One row an image (the mean over its views, in float64, or one view), or every view.

    Raises
    ------
    ValueError
        There is no view of that number.
    NonFiniteError
        NaN or infinity among the features.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.concatenate([block for _, block in features.rows(views)])
    if not np.isfinite(rows).all():
        refuse_overflow(features)
    return rows.reshape(features.shape[0], -1, features.shape[2])
