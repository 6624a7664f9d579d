"""Classes of labelled rows: which there are, their means, and how far their rows lie from these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icrkit._features import Features, unit_rows
from icrkit.exceptions import NotEnoughDataError

__all__ = ["ClassSpread", "add_by_label", "class_codes", "class_spread", "labelled_rows", "read_rows"]

Matrix = NDArray[np.float64]


class ClassSpread(NamedTuple):
    """Counts (K,), means (K, d) and mean squared distances to them (K,), of labelled rows.

    ``means`` are taken from the first row, so that no digits are lost far from the origin and equal rows give exact
    zeros. ``variances`` are traces of the class covariances, ddof 0.
    """

    classes: NDArray[Any]
    counts: NDArray[np.int64]
    means: Matrix
    variances: Matrix


def class_codes(y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Classes in order (K,), and the number of each label among them (n,).

    Raises
    ------
    NotEnoughDataError
        Fewer than two classes.
    """
    classes, codes = np.unique(np.asarray(y), return_inverse=True)
    if len(classes) < 2:
        raise NotEnoughDataError(f"y holds 1 class ({classes[0]!r}); at least two are needed to tell them apart")
    return classes, codes


def class_spread(
    features: Features, y: NDArray[Any], views: str | int = "mean", normalize: str | None = None
) -> ClassSpread:
    """Per-class means, then the mean squared distance to them, in two passes over blocks.

    One pass would have to subtract, and under collapse that leaves rounding only.

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
        Fewer than two classes.
    NonFiniteError
        NaN or infinity among the features.
    """
    classes, codes = class_codes(y)
    means = np.zeros((len(classes), features.shape[2]))
    squares, counts = np.zeros(len(classes)), np.zeros(len(classes), dtype=np.int64)
    for rows, labels in _rows_from_the_first(features, codes, views, normalize):
        if not np.isfinite(rows).all():
            features.raise_non_finite()
        add_by_label(means, rows, labels)
        counts += np.bincount(labels, minlength=len(classes))
    means /= counts[:, None]
    for rows, labels in _rows_from_the_first(features, codes, views, normalize):
        distances = np.square(rows - means[labels]).sum(axis=1)
        squares += np.bincount(labels, weights=distances, minlength=len(classes))
    return ClassSpread(classes, counts, means, squares / counts)


def labelled_rows(
    features: Features, codes: NDArray[np.int64], views: str | int
) -> Iterator[tuple[Matrix, NDArray[np.int64]]]:
    """(rows, code of each) over all images, in blocks and in float64."""
    for start, rows in features.rows(views):
        per_image = features.shape[1] if views == "all" else 1
        labels = np.repeat(codes[start : start + len(rows) // per_image], per_image)
        yield rows.astype(np.float64, copy=False), labels


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
    rows = np.concatenate([block for _, block in features.rows(views)])
    if not np.isfinite(rows).all():
        features.raise_non_finite()
    return rows.reshape(features.shape[0], -1, features.shape[2])


def _rows_from_the_first(
    features: Features, codes: NDArray[np.int64], views: str | int, normalize: str | None
) -> Iterator[tuple[Matrix, NDArray[np.int64]]]:
    origin: Any = None
    for rows, labels in labelled_rows(features, codes, views):
        if normalize == "l2":
            rows = unit_rows(rows, features.name)
        origin = rows[0].copy() if origin is None else origin
        with np.errstate(invalid="ignore"):  # infinities become NaN, which the caller looks for
            yield rows - origin, labels
