"""Linear CKA: how alike two representations of the same images are, up to rotation and scale.

Sources: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", arXiv 1905.00414; the unbiased
HSIC of Song et al. 2012, "Feature selection via dependence maximization", JMLR 13, used so by Nguyen et al. 2021,
arXiv 2010.15327.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icrkit._features import Features, check_views
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._base import Comparison, row_features
from icrkit.moments import Moments

__all__ = ["LinearCKA", "linear_cka"]

Rows = NDArray[np.floating]

_BLOCK_BYTES = 8 << 20  # of both sets together, read at a time


def linear_cka(X: Any, Y: Any, debiased: bool = True, views: str | int = 0) -> float:
    """Linear centred kernel alignment: 1 for the same features up to rotation and scale, about 0 for unrelated ones.

    Parameters
    ----------
    X, Y : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        The same images in the same order, by their ids, of two layers, levels, checkpoints or models; numbers of
        features may differ. The images of an array, and rows, have their numbers for ids.
    debiased : bool
        Whether each HSIC is its unbiased estimate. The biased value (Kornblith 2019) is too high where images are few:
        for unrelated white features it is about 1/(1 + N/d).
    views : {"mean", "all"} or int
        Rows used of an image: one view by its number from 0, the mean over its views, or every view.

    Returns
    -------
    float
        Biased, from 0 to 1. Debiased, from -1 to 1, and of unrelated features as often below 0 as above.

    Raises
    ------
    CubeFormatError
        The images of the two sets, or their order, differ; the message says how to align them.
    NotEnoughDataError
        Debiased: fewer than four rows.
    DegenerateFeaturesError
        The features of a set do not vary; debiased: the HSIC of a set with itself is zero, all pairs of rows being
        alike but for a term of each row.
    NonFiniteError
        NaN or infinity among the features, or fourth powers that overflow.
    ValueError
        There is no view of that number.

    Notes
    -----
    HSIC(X, Y)/sqrt(HSIC(X, X) HSIC(Y, Y)). Biased, HSIC is ||X^T Y||_F^2 of centred rows. Debiased, with r_i and s_i
    the squared lengths of the centred rows, it is ||X^T Y||_F^2 - n/(n-2) sum r_i s_i + sum r_i sum s_i/((n-1)(n-2)):
    n(n-3) times the U-statistic of the two Gram matrices, which are never formed. The factors left out cancel.

    One pass over both sets in blocks: shifted rows, with their squared lengths as one more column, give all the sums,
    and the true mean enters at the end. Products are float64: debiased, one far row is
    most of every term, and cancels. Cost: n (d_x + d_y)^2 flops, and (d_x + d_y)^2 numbers in memory.

    The same under rotation, translation and scaling of either set, and under one order of images for both; not under
    other linear maps. With views="all" rows of one image count as independent, and the debiasing falls short.

    References
    ----------
    Kornblith et al. 2019, eq. 4; Song et al. 2012, eq. 5; Nguyen et al. 2021, eq. 3.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> x, y = np.random.default_rng(0).standard_normal((2, 100, 400))
    >>> round(ik.linear_cka(x, x[:, ::-1] + 1), 10)
    1.0
    >>> round(ik.linear_cka(x, y), 1), round(ik.linear_cka(x, y, debiased=False), 1)
    (0.0, 0.8)
    """
    return _cka(row_features(X), row_features(Y), debiased, views)


def _cka(x: Features, y: Features, debiased: bool, views: str | int) -> float:
    _check_pairs(x, y, views)
    split = x.shape[2] + 1
    n, sums, products = 0, np.zeros(split + y.shape[2] + 1), np.zeros((split + y.shape[2] + 1,) * 2)
    with np.errstate(over="ignore", invalid="ignore"):  # looked for in the sums
        for rows in _joint_rows(x, y, views):
            n += len(rows)
            sums += rows.sum(axis=0, dtype=np.float64)
            products += rows.T @ rows
    if not np.isfinite(products.diagonal()).all():
        x.raise_non_finite()
        y.raise_non_finite()
        raise NonFiniteError("the fourth powers of the features overflow; scale them down")
    if debiased and n < 4:
        raise NotEnoughDataError(f"{n} rows: a debiased CKA takes at least four")
    own, both = [], (slice(split), slice(split, None))
    for side, features in zip(both, (x, y), strict=True):
        if not _total_square(n, sums[side]) > 0:
            raise DegenerateFeaturesError(f"{features.name}: the features do not vary between images")
        hsic = _hsic(n, products[side, side], sums[side], sums[side], debiased)
        # Never negative, being a sum of squares (of the U-centred Gram matrix); but it is found as a difference.
        rounding = 100 * (float(np.finfo(features.dtype).eps) + n * float(np.finfo(np.float64).eps))
        if not hsic.value > rounding * hsic.size:
            raise DegenerateFeaturesError(
                f"{features.name}: the debiased HSIC of the features with themselves is zero: but for a term of each "
                f"row, all pairs of the {n} rows are alike, as one-hot rows are, or rows of which one alone differs. "
                "Give other images, or take debiased=False."
            )
        own.append(hsic.value)
    cross = _hsic(n, products[both], sums[both[0]], sums[both[1]], debiased)
    return float(cross.value / (np.sqrt(own[0]) * np.sqrt(own[1])))


def _check_pairs(x: Features, y: Features, views: str | int) -> None:
    for features in (x, y):
        check_views(views, features.shape[1])
    if views == "all" and x.shape[1] != y.shape[1]:
        raise CubeFormatError(
            f"views='all' pairs view with view: sets of {x.shape[1]} and {y.shape[1]} views have none"
        )
    if x.image_ids.tolist() != y.image_ids.tolist():
        raise CubeFormatError(
            f"the two sets ({x.shape[0]} and {y.shape[0]} images) must hold the same images in the same order, and "
            "their ids differ. Align them: _, i, j = np.intersect1d(ids_of_X, ids_of_Y, return_indices=True), then "
            "X[i] and Y[j]. An array has row numbers for ids; icrkit.from_arrays(..., image_ids=...) gives it its own."
        )


def _joint_rows(x: Features, y: Features, views: str | int) -> Iterator[Rows]:
    """Blocks of rows (x', |x'|^2, y', |y'|^2): features about a provisional mean, in units of a provisional scale.

    The mean keeps the digits of products at any offset, the scale keeps fourth powers in range; CKA sees neither.
    """
    image_bytes = [(f.shape[1] if isinstance(views, str) else 1) * f.shape[2] * f.dtype.itemsize for f in (x, y)]
    step = max(1, _BLOCK_BYTES // sum(image_bytes))
    blocks = zip(*(f.rows(views, step * k) for f, k in zip((x, y), image_bytes, strict=True)), strict=True)
    units: list[tuple[NDArray[np.float64], float]] = []
    for (_, a), (_, b) in blocks:
        units = units or [_provisional_unit(rows) for rows in (a, b)]
        joint = np.empty((len(a), a.shape[1] + b.shape[1] + 2))
        start = 0
        for rows, (mean, scale) in zip((a, b), units, strict=True):
            stop = start + rows.shape[1]
            shifted = (rows - mean) / scale
            joint[:, start:stop] = shifted
            joint[:, stop] = np.einsum("ij,ij->i", shifted, shifted)
            start = stop + 1
        yield joint


def _provisional_unit(rows: Rows) -> tuple[NDArray[np.float64], float]:
    """Mean (d,) and root mean square deviation of these rows; a constant's mean is its value to the last bit."""
    first = rows[0].astype(np.float64)
    mean = first + (rows - first).mean(axis=0)
    largest = float(np.abs(rows - mean).max())
    if not 0 < largest < np.inf:
        return mean, 1.0
    return mean, largest * float(np.sqrt(np.square((rows - mean) / largest).mean()))


def _total_square(n: int, sums: NDArray[np.float64]) -> float:
    """Sum over rows of the squared length about the true mean, from the sums of (x', |x'|^2)."""
    return float(sums[-1] - sums[:-1] @ sums[:-1] / n)


class _Hsic(NamedTuple):
    """n(n-3) HSIC, or its biased value, and the size of the terms that were added up to it."""

    value: float
    size: float


def _hsic(
    n: int, products: NDArray[np.float64], sums_a: NDArray[np.float64], sums_b: NDArray[np.float64], debiased: bool
) -> _Hsic:
    """||A^T B||_F^2 of centred rows, less its bias, from products and sums of (a', |a'|^2) and (b', |b'|^2)."""
    shift_a, shift_b = sums_a[:-1] / n, sums_b[:-1] / n
    centred = products[:-1, :-1] - n * np.outer(shift_a, shift_b)
    squared = float(np.vdot(centred, centred))
    if not debiased:
        return _Hsic(squared, squared)
    # The squared length about the true mean is linear in the row: |a'|^2 - 2 shift.a' + |shift|^2.
    weights_a, weights_b = np.append(-2.0 * shift_a, 1.0), np.append(-2.0 * shift_b, 1.0)
    total_a, total_b = _total_square(n, sums_a), _total_square(n, sums_b)
    constant_a, constant_b = float(shift_a @ shift_a), float(shift_b @ shift_b)
    both = float(weights_a @ products @ weights_b)
    both += constant_b * total_a + constant_a * total_b - n * constant_a * constant_b
    terms = (squared, -n / (n - 2) * both, total_a * total_b / ((n - 1) * (n - 2)))
    return _Hsic(sum(terms), sum(map(abs, terms)))


class LinearCKA(Comparison):
    """Linear CKA of features with those of a reference on the same images.

    Parameters
    ----------
    debiased : bool
        Whether each HSIC is its unbiased estimate.
    views : {"mean", "all"} or int
        Rows used of an image: one view by its number from 0, the mean over its views, or every view. Rows of a 2-D X
        stand for themselves, paired by their numbers.

    Attributes
    ----------
    reference_ : Features
        The reference itself, in memory or on disk: it is read again with each set.
    linear_cka_ : float
        Of the set evaluated last. Greater is more alike.

    Notes
    -----
    ``fit(reference)``, then ``evaluate(X)`` and ``score(X)`` give the number; X may have another number of features.
    Definition and behaviour: :func:`icrkit.linear_cka`.

    References
    ----------
    Kornblith et al. 2019, eq. 4; Nguyen et al. 2021, eq. 3.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> h = np.random.default_rng(0).standard_normal((300, 6))
    >>> est = ik.LinearCKA().fit(h)
    >>> est.evaluate(h[:, :3]) < round(est.evaluate(5 * h), 10) == 1.0
    True
    """

    quantity = "linear_cka"
    greater_is_better = True

    def __init__(self, debiased: bool = True, *, views: str | int = 0) -> None:
        self.debiased = debiased
        self.views = views

    def _set_of(self, X: Any, *, reset: bool) -> Features:
        # Of any width: layers of different ones are compared.
        found: Features = super()._set_of(X, reset=reset) if reset or isinstance(X, Moments) else row_features(X)
        return found

    def _summary(self, features: Features) -> Features:
        return features

    def _compared(self, reference: Features, features: Features) -> Mapping[str, Any]:
        return {"linear_cka": _cka(features, reference, self.debiased, self.views)}
