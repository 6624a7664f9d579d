"""What all estimators share: reading X, scikit-learn's bookkeeping, and transforming features of any shape.

An estimator's own file holds its algebra; this one holds none.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._set_output import _wrap_data_with_container
from sklearn.utils.validation import check_is_fitted, validate_data

from icrkit._features import Features, as_features, labelled_like
from icrkit.cube import Cube
from icrkit.exceptions import CubeFormatError, IllConditionedError
from icrkit.metrics._decomposition import check_residual, enough_images
from icrkit.moments import Moments

__all__ = ["CubeEstimator", "FeatureTransformer", "MomentsEstimator"]


class CubeEstimator(BaseEstimator):  # type: ignore[misc]
    """Reads X, whatever it is, into `Features`, and remembers the number of features.

    X may be a Cube with one layer and one level, a DataArray (dims by name), an array or tensor (image, view, feature),
    or rows (row, feature) with ``groups`` or ``n_views`` consecutive rows to an image.
    """

    def _features(
        self, X: Any, *, groups: Any = None, reset: bool, normalize: str | None = None, min_views: int = 2
    ) -> Features:
        n_views = getattr(self, "n_views", None)
        if not is_table(X):
            features = as_features(X, groups=groups, normalize=normalize, min_views=min_views)
            self._check_n_features_of(features.shape[2], reset=reset)
            return features
        X = validate_data(self, X, reset=reset, dtype=(np.float64, np.float32), ensure_min_samples=2)
        if groups is None and len(X) < 2 * (n_views or 2):
            raise ValueError(f"n_samples={len(X)} rows are fewer than two images of n_views={n_views} rows")
        return as_features(X, n_views=n_views, groups=groups, normalize=normalize, min_views=min_views)

    def _check_n_features_of(self, n_features: int, *, reset: bool) -> None:
        # The wording is scikit-learn's, for 3-D input that its own check does not take.
        if reset:
            self.n_features_in_ = n_features
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
        elif n_features != self.n_features_in_:
            raise ValueError(
                f"X has {n_features} features, but {type(self).__name__} is expecting {self.n_features_in_} features "
                "as input"
            )


class FeatureTransformer(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    CubeEstimator,
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
    """Transforms feature vectors one by one: rows stay rows, (image, view, feature) keeps its first two axes.

    Subclasses define ``_transform_rows(rows) -> rows``. ``set_output`` makes frames of 2-D results; on 3-D results it
    is accepted and changes nothing.
    """

    def transform(self, X: Any) -> Any:
        """Transform every feature vector of X.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature) or rows (row, feature)

        Returns
        -------
        ndarray (row, n_out) for rows, ndarray (image, view, n_out) for arrays, DataArray for cubes and DataArrays
        """
        check_is_fitted(self)
        if is_table(X):
            rows = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
            return _wrap_data_with_container("transform", self._transform_rows(rows), X, self)
        features = as_features(X, min_views=1, min_images=1)
        self._check_n_features_of(features.shape[2], reset=False)
        n, v, d = features.shape
        result = self._transform_rows(features.read().reshape(n * v, d)).reshape(n, v, -1)
        return labelled_like(X, result)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Fit to X, then transform it; scikit-learn's own would make a frame of a result with three axes."""
        return self.fit(X, y, **fit_params).transform(X)

    def _transform_rows(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        raise NotImplementedError


class MomentsEstimator(FeatureTransformer):
    """Estimator for which moments suffice: from features, from a stream of them, or from moments made before.

    Subclasses define ``_finish(moments) -> self``, which sets `moments_` and every result, and have the parameters
    ``dtype``, ``regularization`` and ``residual_centering``; ``n_folds``, ``random_state`` and ``normalize`` if they
    need them.
    """

    moments_: Moments
    dtype: str
    regularization: float
    residual_centering: str

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Fit to X in one pass over its features.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
        y : ignored
        groups : array (row,), optional
            Image of each row, for 2-D X.

        Returns
        -------
        self
        """
        if isinstance(X, Moments):
            return self.from_moments(X)
        features = self._features(X, groups=groups, reset=True, normalize=getattr(self, "normalize", None))
        moments = self._moments_of(features, self.dtype)
        try:
            return self._finish(moments)
        except IllConditionedError:
            # The pass judged its precision by the view-centred residual; another centring may ask for more.
            if self.dtype != "auto" or moments.products == "float64":
                raise
        return self._finish(self._moments_of(features, "float64"))

    def partial_fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Add images to what was fitted before; products in float64 unless ``dtype`` says float32.

        Images without ids of their own (numbered from 0 in every call) count on from those seen so far. Until there are
        enough images for the estimate asked for, nothing but `moments_` is set. Where the estimate fails all the same,
        the images have been added.

        Parameters
        ----------
        X, y, groups
            As for `fit`; X is not Moments.

        Returns
        -------
        self
        """
        first = not hasattr(self, "moments_")
        features = self._features(X, groups=groups, reset=first, normalize=getattr(self, "normalize", None))
        if not first and np.array_equal(features.image_ids, np.arange(features.shape[0])):
            seen = int(self.moments_.total.n_images)
            features = dataclasses.replace(features, image_ids=features.image_ids + seen)
        dtype = self.dtype
        new = self._moments_of(features, "float64" if dtype == "auto" else dtype)
        self.moments_ = new if first else self.moments_ + new
        return self._finish(self.moments_) if self._ready(self.moments_) else self

    def from_moments(self, moments: Moments) -> Self:
        """Fit to moments made before: of another machine, of merged shards, of a training loop.

        Parameters
        ----------
        moments : Moments
            Of one level.

        Returns
        -------
        self
        """
        self._check_moments(moments, reset=True)
        return self._finish(moments)

    def _moments_of(self, features: Features, dtype: str) -> Moments:
        return Moments.from_cube(
            features, n_folds=getattr(self, "n_folds", 0), dtype=dtype, random_state=getattr(self, "random_state", 0)
        )

    def _held_out(self, X: Any, groups: Any) -> Moments:
        """Moments, without folds, of the images that a fitted estimator is to score."""
        if isinstance(X, Moments):
            self._check_moments(X, reset=False)
            moments = X.total
        else:
            features = self._features(X, groups=groups, reset=False, normalize=getattr(self, "normalize", None))
            moments = Moments.from_cube(features, n_folds=0, dtype=self.dtype)
        if (
            not moments.within_uncentred_diagonal.any()
        ):  # dead units may be dead in all held-out images; not all of them
            check_residual(moments, "the held-out features")
        return moments

    def _ready(self, moments: Moments) -> bool:
        """Whether a stream has seen enough for the estimate asked for."""
        return enough_images(moments, self.regularization, self.residual_centering)

    def _check_moments(self, moments: Moments, *, reset: bool) -> None:
        normalize = getattr(self, "normalize", None)
        if normalize is not None:
            raise ValueError(f"normalize={normalize!r} needs features; moments hold none any more")
        self._check_n_features_of(moments.n_features, reset=reset)

    def _finish(self, moments: Moments) -> Self:
        raise NotImplementedError


def is_table(X: Any) -> bool:
    """Whether X goes through scikit-learn's own checks: anything but labelled or 3-D features."""
    if isinstance(X, Cube | xr.DataArray | Features | Moments):
        return False
    return getattr(X, "ndim", None) != 3


def image_labels(X: Any, y: Any) -> NDArray[Any]:
    """Labels, one an image: ``y``, or those that the cube carries."""
    if y is not None:
        return np.asarray(y)
    labels: Any = None
    if isinstance(X, Cube):
        labels = X.labels
    elif isinstance(X, xr.DataArray) and "labels" in X.coords:
        labels = X["labels"].to_numpy()
    if labels is None:
        raise CubeFormatError("requires y to be passed, but the target y is None and X carries no labels")
    return np.asarray(labels)
