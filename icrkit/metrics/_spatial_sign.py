"""Spatial signs: images of one size, for features of which a few images outweigh the rest.

Tyler 1987, "A distribution-free M-estimator of multivariate scatter", Annals of Statistics 15(1), with the views of an
image as one observation; the centre is the spatial median in the same metric (Hettmansperger & Randles 2002, "A
practical affine equivariant multivariate median", Biometrika 89(4)). Leaving the image out of its own metric is ours.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from icrkit._features import DIMS, as_features, labelled_like
from icrkit.cube import Cube
from icrkit.exceptions import IllConditionedError, NotEnoughDataError
from icrkit.linalg import SpdFactor
from icrkit.moments import Moments

__all__ = ["spatial_sign"]

Matrix = NDArray[np.float64]

_TOLERANCE = 1e-7  # of a size; what is left changes no digit that is printed
_MOST_STEPS = 200
_LEAST_SIZE = 0.01  # of the median: an image that is nearer to the centre is not moved out to the others
_OWN_SHARE = 1 - 1e-6  # an image that has a direction for itself: its size without itself would be infinite


def spatial_sign(X: Any) -> Any:
    """Features in which all images have one size: what is left of them is where they point.

    Parameters
    ----------
    X : Cube, DataArray or array (image, view, feature)
        Every layer and level of a cube by itself.

    Returns
    -------
    Cube, DataArray or ndarray
        As X, in memory: m_v + (h_iv - m_v)/r_i for view v of image i. The size r_i is the root mean square distance of
        the image's views from the centre m_v in the metric S^-1, S the scatter of the result, without the image itself.

    Raises
    ------
    NotEnoughDataError
        No more rows (images times views) than features that vary.
    IllConditionedError
        Features that depend on each other linearly.
    NonFiniteError
        NaN or infinity.

    Warns
    -----
    ConvergenceWarning
        If sizes still change after 200 steps.

    Notes
    -----
    ICR of the result is that of images of one size. For Gaussian features it is nearly theirs (.50 becomes .51 at d =
    32). Where the residual of a few images is ten times that of the rest, it is nearly the ICR of the rest, and the
    interval holds ("Heavy tails" in the documentation, "Statistics"). Moving all views of an image towards the centre,
    or away from it, by one factor changes nothing; an invertible linear map of the features maps the result. Cost: a
    few passes over the features (5 to 20), each n V d^2 flops.

    References
    ----------
    Tyler 1987, Annals of Statistics 15(1), 234-251; Hettmansperger & Randles 2002, Biometrika 89(4).

    Examples
    --------
    One image in fifty has ten times the residual:

    >>> import numpy as np, icrkit as ik
    >>> rng = np.random.default_rng(0)
    >>> size = np.where(np.arange(500) % 50 == 0, 10.0, 1.0)[:, None, None]
    >>> features = rng.standard_normal((500, 1, 8)) + size * rng.standard_normal((500, 2, 8))
    >>> clean = np.delete(features, np.s_[::50], axis=0)
    >>> signs = ik.spatial_sign(features)
    >>> round(ik.ICREstimator().fit(clean).icr_crossfit_, 1), round(ik.ICREstimator().fit(signs).icr_crossfit_, 1)
    (0.5, 0.5)
    """
    if isinstance(X, xr.Dataset):
        X = Cube(X)
    if isinstance(X, Cube):
        return _of_cube(X)
    if isinstance(X, xr.DataArray) and "sigma" in X.dims and X.sizes["sigma"] > 1:
        levels = [spatial_sign(X.isel(sigma=k)) for k in range(X.sizes["sigma"])]
        return xr.concat(levels, dim=X["sigma"] if "sigma" in X.coords else "sigma").transpose(*X.dims)
    features = as_features(X)
    block = features.read()
    features.check_finite(block)
    signs = _signs(block.astype(np.float64), features.name).astype(block.dtype)
    return labelled_like(X, signs)


def _of_cube(cube: Cube) -> Cube:
    data = cube.to_xarray().copy()
    for layer in cube.layers:
        array = data[layer]
        order = ("sigma", *(name for name in ("image", "view") if name in array.dims))
        rest = [name for name in array.dims if name not in order]
        values = array.transpose(*order, *rest).to_numpy()
        levels = [
            _signs(_finite(level, f"layer {layer} at sigma {sigma:g}"), f"layer {layer} at sigma {sigma:g}")
            for level, sigma in zip(values, cube.sigmas, strict=True)
        ]
        signs = np.stack(levels).astype(array.dtype if array.dtype != np.float16 else np.float32)
        data[layer] = xr.Variable((*order, *rest), signs, array.attrs).transpose(*array.dims)
    data.attrs["spatial_sign"] = True
    return Cube(data)


def _finite(level: NDArray[Any], name: str) -> Matrix:
    features = as_features(xr.DataArray(level, dims=DIMS, name=name))
    block = features.read()
    features.check_finite(block)
    return block.astype(np.float64)


def _signs(block: Matrix, name: str) -> Matrix:
    """Images of one size, of features (n, V, d)."""
    n, v, _ = block.shape
    moments = Moments.from_block(block)
    varies = np.flatnonzero(moments.variation["varies"])
    if n * v - v <= varies.size:
        raise NotEnoughDataError(
            f"{name}: {n} images of {v} views for {varies.size} features that vary; spatial_sign needs more rows than "
            "features. Reduce the features first, with PerView(PCA(n_components))."
        )
    # Units of the features, so that the metric is well conditioned to begin with.
    scale = np.sqrt((moments.between * v + moments.within).diagonal()[varies] / (n * v))
    rows = (block[..., varies] - moments.mean[:, varies]) / scale
    weights, centre = np.ones(n), np.zeros((v, varies.size))
    for _ in range(_MOST_STEPS):
        deviations = rows - centre
        new = _weights(deviations, weights, name)
        step = float(np.abs(new / weights - 1).max())
        weights = new
        centre = centre + np.einsum("i,ivd->vd", weights, deviations) / weights.sum()
        if step < _TOLERANCE:
            break
    else:
        warnings.warn(
            f"{name}: sizes of images still change by {step:.1g} after {_MOST_STEPS} steps; a few images may hold a "
            "direction for themselves",
            ConvergenceWarning,
            stacklevel=4,
        )
    signs = block.copy()
    signs[..., varies] = moments.mean[:, varies] + scale * (centre + weights[:, None, None] * (rows - centre))
    return signs


def _weights(deviations: Matrix, weights: Matrix, name: str) -> Matrix:
    """One over each image's size, in the metric of the weighted scatter of the others, (n,)."""
    n, v, d = deviations.shape
    weighted = (weights[:, None, None] * deviations).reshape(-1, d)
    try:
        factor = SpdFactor(weighted.T @ weighted)
        if not factor.lower.diagonal().min() > 1e-7 * factor.lower.diagonal().max():
            raise np.linalg.LinAlgError
    except np.linalg.LinAlgError:
        raise IllConditionedError(
            f"{name}: features depend on each other linearly, or nearly; spatial_sign needs a metric. Remove them, or "
            "reduce with PerView(PCA(n_components)) first."
        ) from None
    whitened = factor.whiten(weighted).reshape(n, v, d)
    own = _OWN_SHARE * (whitened @ whitened.transpose(0, 2, 1))
    size = np.trace(np.linalg.solve(np.eye(v) - own, own), axis1=1, axis2=2) / weights**2
    # An image in the centre has no direction, and stays there.
    found = 1.0 / np.sqrt(np.maximum(size, _LEAST_SIZE**2 * np.median(size)))
    return np.asarray(found / np.sqrt(np.square(found).mean()))
