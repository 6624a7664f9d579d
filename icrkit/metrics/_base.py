"""What all estimators share: reading X, scikit-learn's bookkeeping, and transforming features of any shape.

An estimator's own file holds its algebra; this one holds none.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._set_output import _wrap_data_with_container
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from icrkit._arrays import n_axes, to_numpy
from icrkit._features import Features, as_features, check_dtype, check_views, labelled_like, single_rows
from icrkit._variation import of_rows
from icrkit.backends import moments_of
from icrkit.cube import Cube
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, IllConditionedError, NotEnoughDataError
from icrkit.metrics._classes import checked_labels
from icrkit.metrics._decomposition import check_residual, enough_images, held_out_folds
from icrkit.metrics._tails import Tails, warn_of_tails
from icrkit.moments import Moments

__all__ = ["Comparison", "CubeEstimator", "FeatureTransformer", "Measure", "MomentsEstimator"]


class CubeEstimator(BaseEstimator):  # type: ignore[misc]
    """Reads X, whatever it is, into `Features`, and remembers the number of features.

    X may be a Cube with one layer and one level, a DataArray (dims by name), an array or tensor (image, view, feature),
    or rows (row, feature) with ``groups`` or ``n_views`` consecutive rows to an image.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _features(
        self,
        X: Any,
        *,
        groups: Any = None,
        reset: bool,
        normalize: str | None = None,
        min_views: int = 2,
        min_images: int = 2,
    ) -> Features:
        n_views = getattr(self, "n_views", None)
        needs: dict[str, Any] = {"normalize": normalize, "min_views": min_views, "min_images": min_images}
        if not is_table(X):
            features = as_features(X, groups=groups, **needs)
            self._check_n_features_of(features.shape[2], reset=reset)
            return features
        X = self._table(X, reset=reset, min_rows=2)
        if groups is None and len(X) < min_images * (n_views or 2):
            images = "an image" if min_images == 1 else "two images"
            raise ValueError(f"n_samples={len(X)} rows are fewer than {images} of n_views={n_views} rows")
        return as_features(X, n_views=n_views, groups=groups, **needs)

    def _row_features(self, X: Any, *, reset: bool, min_images: int = 2) -> Features:
        """Features for a metric of single rows: those of a table stand for themselves, each an image of one view."""
        if is_table(X):
            features = single_rows(self._table(X, reset=reset, min_rows=min_images))
            features.check_finite(features.array)  # a comparison reads its reference only when there is another set
            return features
        features = as_features(X, min_views=1, min_images=min_images)
        self._check_n_features_of(features.shape[2], reset=reset)
        return features

    def _table(self, X: Any, *, reset: bool, min_rows: int = 1) -> NDArray[Any]:
        """Rows (row, feature) of a table, and its number and names of features noted; values are for the pass."""
        rows = to_numpy(X)
        check_dtype(rows.dtype)
        kinds = (np.float64, np.float32)
        rows = check_array(rows, dtype=kinds, ensure_min_samples=min_rows, ensure_all_finite=False, estimator=self)
        named = X if hasattr(X, "columns") and len(X.columns) == rows.shape[1] else rows
        validate_data(self, named, reset=reset, skip_check_array=True)
        return np.asarray(rows)

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
            rows = self._table(X, reset=False)
            single_rows(rows).check_finite(rows)
            return _wrap_data_with_container("transform", self._transform_rows(rows), X, self)
        features = as_features(X, min_views=1, min_images=1)
        self._check_n_features_of(features.shape[2], reset=False)
        n, v, d = features.shape
        block = features.read()
        features.check_finite(block)
        result = self._transform_rows(block.reshape(n * v, d)).reshape(n, v, -1)
        return labelled_like(X, result)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Fit to X, then transform it; scikit-learn's own would make a frame of a result with three axes."""
        return self.fit(X, y, **fit_params).transform(X)

    def _transform_rows(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        raise NotImplementedError


class FromMoments(CubeEstimator):
    """What may be read off moments: of features, of a stream of them, or made before.

    Subclasses for which moments suffice say so in `takes_moments`, and define ``_finish(moments) -> self``, which sets
    `moments_` and every result.
    """

    takes_moments: ClassVar[bool] = False
    least_images: ClassVar[int] = 2  # of a set that comes after the fit
    moments_: Moments

    @available_if(lambda self: self.takes_moments)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Add images to those of the fit before; products in float64.

        Until there are enough images, nothing but ``moments_`` is set. Where the fit fails all the same, the images
        have been added.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        y : ignored

        Returns
        -------
        self
        """
        return self._add(X)

    @available_if(lambda self: self.takes_moments)  # type: ignore[untyped-decorator]
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
        return self._finish(self._own_moments(moments))

    def _add(self, X: Any, groups: Any = None) -> Self:
        """Add the images of X to `moments_`, and finish."""
        first = not hasattr(self, "moments_")
        # A stream may end with one image; it begins with two, which tell whether there are views of images at all.
        features = self._read(X, groups, reset=first, min_images=2 if first else 1)
        if not first and np.array_equal(features.image_ids, np.arange(features.shape[0])):
            # Images without ids of their own count on from those seen so far: folds are drawn by them.
            seen = int(self.moments_.total.n_images)
            features = dataclasses.replace(features, image_ids=features.image_ids + seen)
        new = self._own_moments(features)
        self.moments_ = new if first else self.moments_ + new
        return self._finish_if_enough()

    def _check_moments(self, moments: Moments, *, reset: bool) -> None:
        if not self.takes_moments:
            raise CubeFormatError(f"{type(self).__name__} needs the features: moments do not suffice")
        normalize = getattr(self, "normalize", None)
        if normalize is not None:
            raise ValueError(f"normalize={normalize!r} needs features; moments hold none any more")
        self._check_n_features_of(moments.n_features, reset=reset)

    def _read(self, X: Any, groups: Any = None, *, reset: bool, min_images: int | None = None) -> Features:
        """Features for a metric of single rows: those of a table stand for themselves, each an image of one view."""
        return self._row_features(X, reset=reset, min_images=min_images or (2 if reset else self.least_images))

    def _own_moments(self, given: Features | Moments) -> Moments:
        """Moments of the rows that a parameter ``views`` names, where there is one, else of all views with folds."""
        if hasattr(self, "views"):
            return row_moments(given, self.views)
        if isinstance(given, Moments):
            return given
        n_folds, seed = getattr(self, "n_folds", 10), getattr(self, "random_state", 0)
        return moments_of(given, n_folds=n_folds, dtype="float64", random_state=seed)

    def _finish_if_enough(self) -> Self:
        return self._finish(self.moments_)

    def _finish(self, moments: Moments) -> Self:
        raise NotImplementedError


class MomentsEstimator(FeatureTransformer, FromMoments):
    """Estimator for which moments suffice: from features, from a stream of them, or from moments made before.

    Subclasses define ``_finish(moments) -> self``, which sets `moments_` and every result, and have the parameters
    ``dtype``, ``regularization`` and ``residual_centering``; ``n_folds``, ``random_state`` and ``normalize`` if they
    need them.
    """

    takes_moments = True
    _said: frozenset[str] = frozenset()  # what was warned of: once in a stream
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
        self._said = frozenset()
        if isinstance(X, Moments):
            self._check_moments(X, reset=True)
            return self._finish(X)
        features = self._read(X, groups, reset=True)
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
        enough images for the estimate asked for, nothing but `moments_` is set, with a warning where a feature fired
        in a few of them only. Where the estimate fails all the same, the images have been added.

        Parameters
        ----------
        X, y, groups
            As for `fit`; X is not Moments.

        Returns
        -------
        self
        """
        return self._add(X, groups)

    def _read(self, X: Any, groups: Any = None, *, reset: bool, min_images: int | None = None) -> Features:
        normalize = getattr(self, "normalize", None)
        return self._features(X, groups=groups, reset=reset, normalize=normalize, min_images=min_images or 2)

    def _own_moments(self, given: Features | Moments) -> Moments:
        if isinstance(given, Moments):
            return given
        return self._moments_of(given, "float64" if self.dtype == "auto" else self.dtype)

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
            features = self._read(X, groups, reset=False)
            moments = Moments.from_cube(features, n_folds=0, dtype=self.dtype)
        if (
            not moments.within_uncentred_diagonal.any()
        ):  # dead units may be dead in all held-out images; not all of them
            check_residual(moments, "the held-out images")
        return moments

    def _is_new(self, what: str) -> bool:
        """Whether a stream has not been warned of this yet."""
        before, self._said = self._said, self._said | {what}
        return what not in before

    def _warn_of_tails(self, tails: Tails | None, confidence: float, *, stacklevel: int) -> None:
        if tails is not None and tails.heavy and self._is_new("tails"):
            warn_of_tails(str(tails), confidence, stacklevel=stacklevel + 1)

    def _enough_folds(self, moments: Moments) -> bool:
        """Whether a stream has seen enough to hold folds out; one without folds never will, and is to be told so.

        A feature whose views have differed in a few images only may fire more often in those that come.
        """
        try:
            held_out_folds(moments, self.regularization, self.residual_centering)
        except NotEnoughDataError:
            return "fold" not in moments.dims
        except DegenerateFeaturesError as reason:
            if self._is_new("rare"):
                count = int(moments.n_images.sum())
                warnings.warn(f"no estimate of the {count} images so far: {reason}", stacklevel=6)
            return False
        return True

    def _finish_if_enough(self) -> Self:
        return self._finish(self.moments_) if self._ready(self.moments_) else self

    def _ready(self, moments: Moments) -> bool:
        """Whether a stream has seen enough for the estimate asked for."""
        return enough_images(moments, self.regularization, self.residual_centering)


class Measure(FromMoments):
    """One number of a set of features, in the attribute that `quantity` names: "rankme" is in ``rankme_``.

    Subclasses store their parameters in ``__init__``, say the four things below, and define ``_results(given, y)``,
    which gives every result by its name without the underscore; each becomes an attribute. ``given`` is `Features`,
    where a row of a table is an image of one view, or `Moments` where ``takes_moments``: of the rows that a parameter
    ``views`` names, where there is one, else of all views with ten folds. Such a measure keeps them in ``moments_``,
    and has ``from_moments`` and ``partial_fit``.

    Attributes
    ----------
    quantity : str
        Name of the number among the results.
    greater_is_better : bool
        Sign of `score`.
    needs_labels : bool
        Whether ``y`` (or the cube's labels) is read.
    takes_moments : bool
        Whether moments suffice.
    """

    quantity: ClassVar[str]
    greater_is_better: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False

    def fit(self, X: Any, y: Any = None) -> Self:
        """Compute the number on X.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments where they suffice
        y : array (image,), or (row,) for rows, optional
            Labels, where they are read; the cube's where left out.

        Returns
        -------
        self
        """
        return self._keep(*self._given(X, y, reset=True))

    def score(self, X: Any, y: Any = None) -> float:
        """The number on X, signed so that greater is better."""
        return self._score(X, y)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, f"{self.quantity}_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if self.needs_labels:
            tags.target_tags.required = True
            tags.target_tags.one_d_labels = True
        return tags

    def _given(self, X: Any, y: Any, groups: Any = None, *, reset: bool) -> tuple[Features | Moments, Any]:
        """What the number is computed on: features and their labels, or moments."""
        if isinstance(X, Moments):
            self._check_moments(X, reset=reset)
            return self._own_moments(X), None
        features = self._read(X, groups, reset=reset)
        if self.needs_labels:
            return features, image_labels(X, y, features.shape[0])
        return self._own_moments(features) if self.takes_moments else features, None

    def _score(self, X: Any, y: Any, groups: Any = None) -> float:
        check_is_fitted(self)
        value = float(self._results(*self._given(X, y, groups, reset=False))[self.quantity])
        return value if self.greater_is_better else -value

    def _keep(self, given: Features | Moments, y: Any) -> Self:
        results = self._results(given, y)
        if isinstance(given, Moments):
            self.moments_ = given
        for name, value in results.items():
            setattr(self, f"{name}_", value)
        return self

    def _finish(self, moments: Moments) -> Self:
        return self._keep(moments, None)

    def _finish_if_enough(self) -> Self:
        try:
            return self._finish(self.moments_)
        except NotEnoughDataError:
            if int(self.moments_.total.n_images) > self.moments_.n_features:
                raise  # more images will not mend it
            return self

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        raise NotImplementedError


class Comparison(FromMoments):
    """One number of two sets of features: ``fit`` takes the reference, ``evaluate`` the other set.

    Subclasses define ``_summary(features)``, what is kept of a set, and ``_compared(reference, features)``, which gives
    every result by its name; `quantity` names the number among them. ``evaluate`` returns it and sets the attributes.
    ``features`` may be `Moments` where ``takes_moments``.
    """

    quantity: ClassVar[str]
    greater_is_better: ClassVar[bool] = False

    def fit(self, X: Any, y: Any = None) -> Self:
        """Take X as the reference.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments where they suffice
        y : ignored

        Returns
        -------
        self
        """
        given = self._set_of(X, reset=True)
        if self.takes_moments:
            return self._finish(self._own_moments(given))
        self.reference_ = self._summary(given)
        return self

    def evaluate(self, X: Any) -> float:
        """The number of X against the reference.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments where they suffice

        Returns
        -------
        float
        """
        check_is_fitted(self)
        results = self._compared(self.reference_, self._set_of(X, reset=False))
        for name, value in results.items():
            setattr(self, f"{name}_", value)
        return float(results[self.quantity])

    def score(self, X: Any, y: Any = None) -> float:
        """The number of X against the reference, signed so that greater is better."""
        value = self.evaluate(X)
        return value if self.greater_is_better else -value

    def _set_of(self, X: Any, *, reset: bool) -> Any:
        if isinstance(X, Moments):
            self._check_moments(X, reset=reset)
            return X
        return self._read(X, reset=reset)

    def _finish(self, moments: Moments) -> Self:
        self.moments_, self.reference_ = moments, self._summary(moments)
        return self

    def _summary(self, features: Any) -> Any:
        raise NotImplementedError

    def _compared(self, reference: Any, features: Any) -> Mapping[str, Any]:
        raise NotImplementedError


def is_table(X: Any) -> bool:
    """Whether X goes through scikit-learn's own checks: anything but labelled or 3-D features."""
    if isinstance(X, Cube | xr.DataArray | xr.Dataset | Features | Moments):
        return False
    return n_axes(X) < 3


def labelled_features(X: Any, y: Any) -> tuple[Features, NDArray[Any]]:
    """Features, with the label of each image; rows of a table stand for themselves, and their labels are per row."""
    features = row_features(X)
    return features, image_labels(X, y, features.shape[0])


def row_features(X: Any, min_images: int = 2) -> Features:
    """Features for a metric of single rows: those of a table stand for themselves, each an image of one view."""
    if is_table(X):
        rows = to_numpy(X)
        X = rows[:, None] if rows.ndim == 2 else rows
    elif isinstance(X, xr.DataArray) and set(X.dims) == {"image", "feature"}:
        X = X.expand_dims("view")
    return as_features(X, min_views=1, min_images=min_images)


def row_moments(X: Any, views: str | int, dtype: str = "float64") -> Moments:
    """Count, mean and scatter of single rows, as `Moments` of one view: `between` is the scatter about the mean.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view. Moments of several views hold the
        first two; moments of one view are what they are.
    dtype : {"float64", "auto"}
        Precision of the products of one view. Spectra need float64, unless "auto" finds that the least eigenvalue
        survives float32. Those of several views are float64: they would be judged by the views' residual.

    Returns
    -------
    Moments
        Without leading axes.

    Raises
    ------
    ValueError
        There is no view of that number, or the moments hold several views, and one of them is asked for.
    """
    if not isinstance(X, Moments):
        features = row_features(X)
        check_views(views, features.shape[1])
        if not isinstance(views, str):
            features = features.view(int(views))
        products = dtype if features.shape[1] == 1 else "float64"
        return row_moments(moments_of(features, n_folds=0, dtype=products, min_views=1), views)
    if "sigma" in X.dims:
        raise CubeFormatError(f"moments of one level are wanted, not along {X.dims}: moments.select(sigma=0)")
    total = X.total
    if total.n_views == 1:
        # They do not say of which view they are: any number of one may be right.
        check_views(views, max(views, 0) + 1 if isinstance(views, int | np.integer) else 1)
        return total
    if not isinstance(views, str):
        raise ValueError(
            f"moments of {total.n_views} views hold none of view {views} alone: give the features, moments of that "
            "view, or views='mean' or 'all'"
        )
    check_views(views, total.n_views)
    per_image = total.n_views if views == "all" else 1
    scatter = per_image * total.between + (total.within_uncentred if views == "all" else 0.0)
    first = total.mean[:1]
    return dataclasses.replace(
        total,
        n_images=total.n_images * per_image,
        mean=first + (total.mean - first).mean(axis=0, keepdims=True),
        between=scatter,
        within=np.zeros_like(scatter),
        variation=of_rows(total.variation, views),
    ).settled()


def image_labels(X: Any, y: Any, n_images: int) -> NDArray[Any]:
    """Labels, one an image: ``y``, or those that the cube carries; checked."""
    if y is None and isinstance(X, Cube):
        y = X.labels
    elif y is None and isinstance(X, xr.DataArray | xr.Dataset) and "labels" in X.coords:
        y = X["labels"]
    if y is None:
        raise CubeFormatError("requires y to be passed, but the target y is None and X carries no labels")
    return checked_labels(y, n_images)
