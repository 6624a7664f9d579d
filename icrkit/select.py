"""Pipeline parts that choose from a cube: a layer and level, the mean over views, a 2-D transformer for every view."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from icrkit._arrays import missing, n_axes, to_column, to_numpy
from icrkit._features import Features, NotForTables, as_features, labelled_like
from icrkit.cube import Cube
from icrkit.exceptions import CubeFormatError

__all__ = ["MeanViews", "PerView", "SelectLevel"]


def _images(X: Any) -> Features:
    """Features of one image or more; rows without images are refused, as their mean over views is not defined."""
    if not isinstance(X, Cube | xr.DataArray | xr.Dataset) and n_axes(X) == 2:
        raise CubeFormatError(
            f"X has shape {to_numpy(X).shape}; expected (image, view, feature). Rows become a cube with "
            "from_rows(X, groups=...)"
        )
    return as_features(X, min_views=1, min_images=1)


def _finite_rows(features: Features) -> NDArray[Any]:
    """Every view of every image as a row."""
    block = features.read()
    features.check_finite(block)
    return block.reshape(-1, block.shape[2])


def _targets(y: Any, n_images: int) -> NDArray[Any]:
    """Labels or other targets, one per image; none may be missing."""
    targets = to_column(y, "y")
    if len(targets) != n_images:
        raise CubeFormatError(f"y has {len(targets)} entries, and X has {n_images} images")
    absent = np.flatnonzero(missing(targets).reshape(n_images, -1).any(axis=1))
    if absent.size:
        raise CubeFormatError(
            f"y is missing for {absent.size} of {n_images} images, the first is number {absent[0]}; leave them out"
        )
    return targets


class _CubeStep(
    NotForTables,
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
    """A step whose result is a cube or 3-D: ``set_output`` is accepted and changes nothing."""

    def set_output(self, *, transform: str | None = None) -> Self:
        """Accepted, so that a Pipeline can pass it on; frames are 2-D and these results are not."""
        return self


class SelectLevel(OneToOneFeatureMixin, _CubeStep):  # type: ignore[misc]
    """One layer at one noise level of a cube.

    Parameters
    ----------
    layer : str, optional
        May be left out where there is one layer.
    sigma : float, optional
        May be left out where there is one level.
    tolerance : float
        Relative; a level farther off is an error that lists the levels.

    Attributes
    ----------
    n_features_in_ : int
        Features of the chosen layer.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=20, n_features=3, sigmas=[0.1, 1.0], random_state=0)
    >>> ik.SelectLevel(sigma=1.0).fit_transform(cube).level().shape
    (20, 2, 3)
    """

    def __init__(self, layer: str | None = None, sigma: float | None = None, *, tolerance: float = 1e-6) -> None:
        self.layer = layer
        self.sigma = sigma
        self.tolerance = tolerance

    def fit(self, X: Any, y: Any = None) -> Self:
        """Note the number of features of the chosen layer; `transform` does not need it.

        Parameters
        ----------
        X : Cube, or DataArray (image, view, sigma, feature)
        y : ignored
        """
        self.n_features_in_ = self.transform(X).level().sizes["feature"]
        return self

    def transform(self, X: Any) -> Cube:
        """The chosen level, as a Cube that is still lazy.

        Parameters
        ----------
        X : Cube, or DataArray (image, view, sigma, feature)
        """
        cube = X if isinstance(X, Cube) else Cube(X)
        chosen = cube.select(layer=self.layer, sigma=self.sigma, tolerance=self.tolerance)
        chosen.level()  # says which layers and levels there are, where the choice leaves several
        return chosen

    def __sklearn_is_fitted__(self) -> bool:
        return True


class MeanViews(
    NotForTables,
    OneToOneFeatureMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Mean over the views of each image: (image, view, feature) to rows (image, feature).

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=20, n_features=3, random_state=0)
    >>> ik.MeanViews().fit_transform(cube).shape
    (20, 3)
    """

    takes_arrays = True

    def fit(self, X: Any, y: Any = None) -> Self:
        """Note the number of features.

        Parameters
        ----------
        X : Cube, DataArray or array (image, view, feature)
        y : ignored
        """
        self.n_features_in_ = _images(X).shape[2]
        return self

    def transform(self, X: Any) -> Any:
        """Rows (image, feature); a frame under ``set_output``."""
        check_is_fitted(self)
        features = _images(X)
        if features.shape[2] != self.n_features_in_:
            raise ValueError(
                f"X has {features.shape[2]} features, but MeanViews is expecting {self.n_features_in_} features "
                "as input"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # looked for in the result
            rows = np.concatenate(
                [block.mean(axis=1, dtype=np.float64).astype(block.dtype) for _, block in features.blocks()]
            )
        features.check_finite(rows)
        return rows


class PerView(_CubeStep):
    """Any transformer of 2-D rows, over the feature axis of every view.

    Parameters
    ----------
    transformer : estimator
        Fitted on all views of all images as rows, e.g. ``PCA(64)``.

    Attributes
    ----------
    transformer_ : estimator
    n_features_in_ : int

    Notes
    -----
    Fitting sees the images of the training split only, as any step of a Pipeline. Labels are repeated for each view.

    Examples
    --------
    >>> import icrkit as ik
    >>> from sklearn.decomposition import PCA
    >>> cube = ik.datasets.make_cube(n_images=50, n_features=6, random_state=0)
    >>> ik.PerView(PCA(2)).fit_transform(cube).shape
    (50, 2, 2)
    """

    takes_arrays = True

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the transformer on the rows (image x view, feature) of X.

        Parameters
        ----------
        X : Cube, DataArray or array (image, view, feature)
        y : array (image,), optional
        """
        features = _images(X)
        n, v, d = features.shape
        labels = None if y is None else np.repeat(_targets(y, n), v, axis=0)
        self.transformer_ = clone(self.transformer).fit(_finite_rows(features), labels)
        self.n_features_in_ = d
        return self

    def transform(self, X: Any) -> Any:
        """(image, view, n_out): a DataArray for cubes and DataArrays, else an ndarray."""
        check_is_fitted(self, "transformer_")
        features = _images(X)
        n, v, _ = features.shape
        rows = np.asarray(self.transformer_.transform(_finite_rows(features)))
        if rows.ndim != 2 or len(rows) != n * v:
            raise CubeFormatError(
                f"{type(self.transformer).__name__} gave shape {rows.shape} for {n * v} rows; one row each is wanted"
            )
        return labelled_like(X, rows.reshape(n, v, -1))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the transformer's features.

        Parameters
        ----------
        input_features : array-like of str, optional
            Names of the features of X.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self, "transformer_")
        return np.asarray(self.transformer_.get_feature_names_out(input_features), dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "transformer_")
