"""Ways of making the one pass: one file each, chosen by the type of the array that holds the features.

A backend is a function ``(features, folds, n_folds, products) -> Moments``, registered in `PASSES`. The numpy one
serves arrays in memory and lazily read files; `moments_of` is where a second one would be chosen.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from icrkit._features import Features, as_features, n_levels, split_levels
from icrkit._image_sample import SampleTracker
from icrkit._repeats import RepeatTracker
from icrkit.backends import _numpy
from icrkit.cube import Cube
from icrkit.exceptions import NonFiniteError
from icrkit.linalg import SpdFactor
from icrkit.moments import MAX_ERROR, Moments, fold_of_images

__all__ = ["PASSES", "moments_of"]

Pass = Callable[[Features, NDArray[np.int64] | None, int, str], Moments]

PASSES: dict[str, Pass] = {"numpy": _numpy.accumulate}


def moments_of(
    X: Any,
    *,
    n_folds: int,
    dtype: str,
    random_state: int = 0,
    n_views: int | None = None,
    groups: Any = None,
    normalize: str | None = None,
    min_views: int = 2,
) -> Moments:
    """Moments of X by the backend that fits its array: see :meth:`icrkit.Moments.from_cube`.

    With ``min_views=1`` features of one view are taken too: their `within` is zero, and "auto" judges float32 by
    whether the least eigenvalue of `between` survives it.
    """
    if dtype not in ("auto", "float32", "float64"):
        raise ValueError(f"dtype must be 'auto', 'float32' or 'float64', not {dtype!r}")
    if operator.index(n_folds) < 0:
        raise ValueError(f"n_folds must be 0 (no folds) or more, not {n_folds}")
    X = Cube(X) if isinstance(X, xr.Dataset) else X
    levels = n_levels(X)
    if levels is not None:
        parts = [
            moments_of(x, n_folds=n_folds, dtype=dtype, random_state=random_state, normalize=normalize)
            for x in split_levels(X)
        ]
        return Moments.stack(parts, "sigma", levels)
    features = as_features(X, n_views=n_views, groups=groups, normalize=normalize, min_views=min_views)
    if features.watch is not None:  # somebody sees to repeats: these are a part of the images
        return _moments_of(features, n_folds, dtype, random_state)
    repeats = RepeatTracker(features.shape[0], features.shape[2])
    moments = _moments_of(features.watched(repeats.add), n_folds, dtype, random_state)
    repeats.warn(features.image_ids, features.groups)
    return moments


def _moments_of(features: Features, n_folds: int, dtype: str, random_state: int) -> Moments:
    folds = fold_of_images(features.units, n_folds, random_state) if n_folds else None
    tracker = SampleTracker(features.image_ids, *features.shape[1:], features.dtype)
    moments = _passed(features.watched(tracker.add), folds, n_folds, dtype)
    return moments.replace_unchecked(sample=tracker.sample)


def _passed(features: Features, folds: NDArray[np.int64] | None, n_folds: int, dtype: str) -> Moments:
    make = PASSES["numpy"]
    products = dtype
    if dtype == "auto":
        products = "float64"
        if features.dtype == np.float32:
            moments = make(features, folds, n_folds, "float32")
            if _float32_suffices(moments):
                return moments
    moments = make(features, folds, n_folds, products)
    _refuse_overflow(moments, features.name)
    return moments


def _float32_suffices(moments: Moments) -> bool:
    """Whether the sums of a pass with float32 products can be trusted, or the features must be read in float64."""
    total = _merged(moments)
    n = max(int(total.n_images), 1)
    one_view = total.n_views == 1
    scatter = total.between if one_view else total.within
    scale, greatest = scatter.diagonal() / n, float(total.between.diagonal().max()) / n
    # Squares near the ends of float32's range lose digits whatever the conditioning; beyond them they are zero, as the
    # scatter of a constant feature is. Constant features are common (dead units), and cost no second pass.
    varies = total.variation["varies"]
    if not ((~varies | ((scale > 1e-30) & (scale < 1e30))).all() and greatest < 1e30):
        return False
    if not varies.any():
        return True  # the metric says so
    if not varies.all():
        total = total.select_features(varies)
    if one_view:
        return _spectrum_survives_float32(total)
    if not total.views_ordered:  # the metrics whiten by the residual about the images, whatever the views' own means
        total = total.replace_unchecked(within=total.within_uncentred)
    return total.error_bound(total.condition_number, total.within.diagonal()) <= MAX_ERROR["float32"]


def _spectrum_survives_float32(rows: Moments) -> bool:
    """Whether rounding leaves the least eigenvalue of `between` its digits; spectra are not blind to units."""
    d = rows.n_features
    try:
        factor = SpdFactor(rows.between.T.astype(np.float32, order="F"), overwrite=True)
        condition = factor.condition(rows.between, np.ones(d))
    except np.linalg.LinAlgError:
        return False
    # What lies below d units of rounding counts as zero: no eigenvalue may come near.
    return rows.error_bound(condition) <= min(MAX_ERROR["float32"], 0.1 / d)


def _refuse_overflow(moments: Moments, name: str) -> None:
    # An entry of a scatter is no larger than those of its row and column on the diagonal.
    total = _merged(moments)
    finite = np.isfinite(total.between.diagonal()) & np.isfinite(total.within.diagonal())
    if finite.all():
        return
    bad = np.flatnonzero(~finite)
    way_out = "take dtype='auto', or scale" if moments.products == "float32" else "scale"
    raise NonFiniteError(
        f"{name}: all features are finite, but the squares of {bad.size} of {finite.size} overflow {moments.products} "
        f"(the first is feature {bad[0]}); {way_out} the features down. ICR does not depend on their scale."
    )


@np.errstate(invalid="ignore", over="ignore")  # whether sums overflowed is for the caller to see
def _merged(moments: Moments) -> Moments:
    return moments.total
