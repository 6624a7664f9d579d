"""Ways of making the one pass: one file each, chosen by the type of the array that holds the features.

A backend is a function ``(features, folds, n_folds, products) -> Moments``. The numpy one serves arrays in memory
and lazily read files; another registers itself in `PASSES` under the name that `kind_of` gives its arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icrkit._features import Features, as_features, n_levels, split_levels
from icrkit.backends import _numpy
from icrkit.moments import MAX_ERROR, UNIT_ROUNDOFF, Moments, fold_of_images

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
) -> Moments:
    """Moments of X by the backend that fits its array: see :meth:`icrkit.Moments.from_cube`."""
    if dtype not in ("auto", "float32", "float64"):
        raise ValueError(f"dtype must be 'auto', 'float32' or 'float64', not {dtype!r}")
    levels = n_levels(X)
    if levels is not None:
        parts = [
            moments_of(x, n_folds=n_folds, dtype=dtype, random_state=random_state, normalize=normalize)
            for x in split_levels(X)
        ]
        return Moments.stack(parts, "sigma", levels)
    features = as_features(X, n_views=n_views, groups=groups, normalize=normalize)
    folds = fold_of_images(features.image_ids, n_folds, random_state) if n_folds else None
    make = PASSES["numpy"]
    if dtype != "auto":
        return make(features, folds, n_folds, dtype)
    if features.dtype == np.float64:
        return make(features, folds, n_folds, "float64")
    moments = make(features, folds, n_folds, "float32")
    if _float32_suffices(moments):
        return moments
    return make(features, folds, n_folds, "float64")


def _float32_suffices(moments: Moments) -> bool:
    total = moments.total
    scale = total.within.diagonal() / max(int(total.n_images), 1)
    # Squares near the ends of float32's range lose digits whatever the conditioning. Exact zeros are constant features,
    # which the metric refuses or drops.
    varying = scale > 0
    if not varying.any():
        return False
    if not ((scale[varying] > 1e-30) & (scale[varying] < 1e30)).all() or not np.isfinite(scale).all():
        return False
    if not varying.all():
        total = total.select_features(varying)
    if int(total.n_images - 1) * (total.n_views - 1) <= total.n_features:
        return True  # singular whatever the precision: the metric says so
    return UNIT_ROUNDOFF["float32"] * total.condition_number <= MAX_ERROR["float32"]
