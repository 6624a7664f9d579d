"""Measures of images under several views: which rows are views of one image, and their moments."""

from __future__ import annotations

from typing import Any, Self

from icrkit._features import Features, as_features
from icrkit.backends import moments_of
from icrkit.exceptions import CubeFormatError
from icrkit.metrics._base import Measure
from icrkit.moments import Moments

__all__ = ["ViewMeasure", "view_moments"]


def view_moments(X: Any, *, n_views: int = 2, groups: Any = None, normalize: str | None = None) -> Moments:
    """Moments of images under at least two views, without leading axes; float64 products where they are made here.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature), rows (row, feature), or Moments
    n_views : int
        Consecutive rows to an image, for rows without groups.
    groups : array (row,), optional
        Image of each row.
    normalize : {None, "l2"}
        Scale every feature vector to unit length first.

    Raises
    ------
    ValueError
        `normalize` is asked for and X is Moments.
    NotEnoughDataError
        Fewer than two images or two views.
    CubeFormatError
        Several levels.
    """
    if not isinstance(X, Moments):
        features = as_features(X, n_views=n_views, groups=groups, normalize=normalize)
        return moments_of(features, n_folds=0, dtype="float64")
    if normalize is not None:
        raise ValueError(f"normalize={normalize!r} needs features; moments hold none any more")
    if "sigma" in X.dims:
        raise CubeFormatError(f"moments of one level are wanted, not along {X.dims}: moments.select(sigma=0)")
    return X.total


class ViewMeasure(Measure):
    """A measure that needs several views of each image, and of these the moments.

    Subclasses have the parameter ``n_views``, and ``normalize`` if they need it; their ``_results`` is given Moments.
    """

    takes_moments = True

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Compute the number on X.

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
        return self._keep(*self._given(X, y, groups, reset=True))

    def partial_fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Add images to those of the fit before: see `FromMoments.partial_fit`.

        Parameters
        ----------
        X, y, groups
            As for `fit`; X is not Moments.

        Returns
        -------
        self
        """
        return self._add(X, groups)

    def score(self, X: Any, y: Any = None, *, groups: Any = None) -> float:
        """The number on X, signed so that greater is better."""
        return self._score(X, y, groups)

    def _read(self, X: Any, groups: Any = None, *, reset: bool, min_images: int | None = None) -> Features:
        normalize = getattr(self, "normalize", None)
        return self._features(X, groups=groups, reset=reset, normalize=normalize, min_images=min_images or 2)

    def _own_moments(self, given: Features | Moments) -> Moments:
        return view_moments(given)
