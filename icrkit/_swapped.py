"""Unnamed axes that look like another order than (image, view, feature): by their lengths, and by the values."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["warn_if_swapped"]

# More views than anybody takes by accident of a small example.
_MANY_VIEWS = 32
# Of each axis no more places are looked at.
_SAMPLE = 64
# Fewer places say nothing of an agreement, or of means; an order in which there are fewer features is not believed.
_FEW, _FEW_MEANS, _FEW_FEATURES = 8, 16, 4

# How much more another order must explain, as a share of variance: where lengths speak for it, and where they do not.
# Features of U-Nets, of noise levels from .002 to 80, and pixels (in parentheses standardised ones): what views share
# less what others share was -.08 to .84, what is each feature's own less what is each image's own .15 to .99 (-.17).
_AGREES, _AGREES_MUCH = 0.2, 0.3
_DIFFERS, _DIFFERS_MUCH = 0.2, 0.5
# Where means of features have less of the variance they were taken off, on these images or on others.
_CENTRED = 0.01


def warn_if_swapped(array: Any, name: str = "X", stacklevel: int = 3) -> None:
    """Warn of unnamed axes that look like another order.

    Parameters
    ----------
    array : array (image, view, feature), as it is read
    name : str
    stacklevel : int
        Of the warning.

    Notes
    -----
    More views than images, and more views than features where they are many, are not believed. Otherwise the values
    decide, those of numpy arrays. Their variance is split between the three axes, as in an analysis of variance, and
    two things tell them apart. Views agree: once the means of all images and of all features are taken off, the views
    of an image share more of what is left than its features do, or than different images do. And features, unlike
    images, have means of their own; where these were taken off, as from standardised features, the order is believed.
    """
    n, v, d = array.shape
    if min(n, v, d) < 1 or n < 2:
        return
    if v > n:
        found = "with more views than images"
    elif v > d and v >= _MANY_VIEWS:
        found = "with more views than features"
    else:
        order = _better_order(array)
        if order is None:
            return
        found = f"and varies as if its axes were ({', '.join(order)})"
        if v > d:
            found = f"with more views than features, {found}"
    warnings.warn(
        f"{name} is read as {n} images x {v} views x {d} features, {found}: are its axes in another order? They are "
        "(image, view, feature): numpy.moveaxis brings them there, and names leave no doubt, xarray.DataArray(X, "
        "dims=('image', 'view', 'feature')), which is read without this warning.",
        stacklevel=stacklevel,
    )


@np.errstate(all="ignore")  # whether values are finite is for the pass to find
def _better_order(array: Any) -> tuple[str, ...] | None:
    """Roles of the axes by the values, where these clearly speak for others; None where they do not."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        return None  # dask's stays lazy; what is no number is for others to refuse
    n, v, d = array.shape
    some = tuple(slice(None, None, -(-size // _SAMPLE)) for size in array.shape)
    agreement, own = _shares(array[some].astype(np.float64))
    view = max(range(3), key=lambda axis: agreement[axis])
    image, feature = sorted((axis for axis in range(3) if axis != view), key=lambda axis: own[axis])
    if view == 1:
        differ = own[0] - own[2]
        clear = differ > _DIFFERS_MUCH or (n < d and own[2] > _CENTRED and differ > _DIFFERS)
        clear = clear and min(n, d) >= _FEW_MEANS
    else:
        agree = agreement[view] - agreement[1]
        # Where each view is another transform, features of a view have means that all images share: they agree, in the
        # right order, and it is the axis of features that has means.
        clear = agree > _AGREES_MUCH and own[feature] - max(own[view], own[image]) > _DIFFERS
        clear = clear and feature != 2 and min(n, d) >= _FEW and array.shape[feature] >= _FEW_FEATURES
        clear = clear or (view == 2 and v > d and agree > _AGREES)
        clear = clear and agree > 4 / np.sqrt(array.shape[2 - view] - 1)
    if not clear:
        return None
    roles = {image: "image", view: "view", feature: "feature"}
    return tuple(roles[axis] for axis in range(3))


def _shares(values: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Of each axis: how much its places agree once means are taken off, and its own means' share of all variance.

    Both are ratios of unbiased components of variance of the complete three-way layout, one value a cell.
    """
    sizes, axes = values.shape, range(3)
    rest = values - values.mean()
    mains = [rest.mean(axis=tuple(other for other in axes if other != axis), keepdims=True) for axis in axes]
    rest = rest - sum(mains)
    # What two axes have together, beyond the means of each; named by the third.
    pairs = [rest.mean(axis=axis, keepdims=True) for axis in axes]
    rest = rest - sum(pairs)
    free = [size - 1 for size in sizes]
    error = np.square(rest).sum() / np.prod(free)
    of_pairs = [np.square(pairs[k]).sum() * sizes[k] / np.prod(np.delete(free, k)) for k in axes]
    of_mains = [np.square(mains[k]).sum() * values.size / sizes[k] / free[k] for k in axes]
    together = [(of_pairs[k] - error) / sizes[k] for k in axes]
    own = [(of_mains[k] - sum(of_pairs[j] for j in axes if j != k) + error) * sizes[k] / values.size for k in axes]
    total = sum(own) + sum(together) + error
    return [one / (one + error) for one in together], [one / total for one in own]
