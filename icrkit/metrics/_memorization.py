"""Memorisation ratio: the share of generated images that lie too near to a training image, by an encoder's features.

Source: Somepalli et al. 2023, "Diffusion Art or Digital Forgery? Investigating Data Replication in Diffusion Models",
arXiv 2212.03860, on the copy-detection features (SSCD) of Pizzi et al. 2022, arXiv 2202.10261; so used by Li et al.
2026, arXiv 2606.09718.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from icrkit._features import Features
from icrkit.exceptions import NotEnoughDataError
from icrkit.metrics._base import Comparison, row_features
from icrkit.metrics._nearest_rows import CosineSearch

__all__ = ["MemorizationRatio", "memorization_ratio"]


# Of unseen images, this share are called copies where a threshold is read off them.
FALSE_ALARMS = 0.05

_WAYS_OUT = (
    "no similarity is that of a copy whatever the encoder: give threshold=, which is 0.6 for features of SSCD and "
    "means nothing for others, or unseen=, features of real images that the network was not trained on"
)


def memorization_ratio(
    generated: Any,
    training: Any,
    threshold: float | None = None,
    exclude_self: bool = False,
    views: str | int = 0,
    *,
    unseen: Any = None,
    false_alarms: float = FALSE_ALARMS,
) -> float:
    """Share of generated images more similar to a training image than a threshold, from 0 (none) to 1 (all).

    Parameters
    ----------
    generated, training : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        Features of one encoder.
    threshold : float, optional
        Cosine similarity that counts as a copy where it is exceeded. 0.6 is for SSCD features and means nothing on
        others.
    exclude_self : bool
        Both sets are the same: image i is not compared with image i.
    views : {"mean", "all"} or int
        Rows used of an image, in both sets: one view by its number from 0, the mean over its views, or every view.
    unseen : like `generated`, optional
        Real images that the network was not trained on, in place of a threshold, which is read off them.
    false_alarms : float
        Share of unseen images that such a threshold calls copies.

    Returns
    -------
    float

    Raises
    ------
    CubeFormatError
        The sets have different numbers of features.
    DegenerateFeaturesError
        All training rows are the same.
    NonFiniteError
        NaN or infinity among the features, or their squares overflow.
    NotEnoughDataError
        Fewer than two training images, no generated one, or too few unseen ones.
    ValueError
        Neither a threshold nor unseen images, or both; the threshold is not in [-1, 1); copies among the unseen images;
        there is no view of that number; or `exclude_self` and the sets differ in size.

    Notes
    -----
    The share of rows x of the generated set with max_y <x, y>/(|x| |y|) > threshold over the rows y of the training
    set: signed, so that an opposite is not a copy, and strictly greater. A row of zeros has no direction: similarity 0
    to everything, and a warning. The nearest row is read from products in the precision of the training features, its
    similarity computed in float64. The threshold of unseen images is the quantile 1 - `false_alarms` of their own
    greatest similarities: a ratio is then to be held against `false_alarms`.

    The same under one rotation of both sets, and where any feature vector is scaled by a positive factor of its own;
    not under translation or other linear maps. The order of images does not matter. More training images can only
    raise it, so that numbers compare at one size of the training set only. Cost: 2 n m d flops for n generated and m
    training rows, of which the training rows and a block of products are held in memory.

    References
    ----------
    Somepalli et al. 2023; Pizzi et al. 2022; Li et al. 2026, the memorisation ratio.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> training = np.eye(3)
    >>> ik.memorization_ratio([[2.0, 0.1, 0.0], [1.0, 1.0, 1.0], [0.0, -3.0, 0.0]], training, threshold=0.6)
    0.3333333333333333
    """
    if (threshold is None) == (unseen is None):
        raise ValueError(_WAYS_OUT if threshold is None else "give a threshold or unseen images, not both")
    search = CosineSearch(row_features(training), views)
    if threshold is None:
        threshold = _threshold_of(search, row_features(unseen, min_images=1), false_alarms)
    results = _against(search, row_features(generated, min_images=1), threshold, exclude_self)
    return float(results["memorization_ratio"])


def _threshold_of(search: CosineSearch, unseen: Features, false_alarms: float) -> float:
    """Similarity that this share of unseen images exceed."""
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms must lie between 0 and 1, not {false_alarms}")
    similarity = search.nearest(unseen).values[:, 0]
    least = math.ceil(1 / false_alarms)
    if len(similarity) < least:
        raise NotEnoughDataError(
            f"{len(similarity)} unseen images do not show which similarity {false_alarms:.3g} of them exceed: at least "
            f"{least} are needed, several times as many are sound"
        )
    threshold = float(np.quantile(similarity, 1 - false_alarms))
    if threshold > 1 - _AS_GOOD_AS_EQUAL:
        raise ValueError(
            f"more than {false_alarms:.3g} of the unseen images point where a training image does, to 1e-6: are "
            "training images among them, or does the encoder give all images one direction?"
        )
    return threshold


_AS_GOOD_AS_EQUAL = 1e-6  # float32 features of one image, computed twice


def _against(search: CosineSearch, features: Features, threshold: float, exclude_self: bool) -> dict[str, Any]:
    if not -1 <= threshold < 1:
        raise ValueError(f"threshold must lie in [-1, 1), as cosines do, not {threshold}")
    nearest = search.nearest(features, exclude_self=exclude_self)
    similarity = nearest.values[:, 0]
    share = float((similarity > threshold).mean())
    return {"memorization_ratio": share, "similarity": similarity, **search.images(nearest)}


class MemorizationRatio(Comparison):
    """Share of generated images more similar to a training image than a threshold.

    Parameters
    ----------
    threshold : float, optional
        Cosine similarity that counts as a copy where it is exceeded: 0.6 for SSCD features, nothing one could know for
        others. None takes that of `calibrate`.
    exclude_self : bool
        The set evaluated is the training set: image i is not compared with image i.
    views : {"mean", "all"} or int
        Rows used of an image: one view by its number from 0, the mean over its views, or every view. Rows of a 2-D X
        stand for themselves.
    false_alarms : float
        Share of unseen images that a calibrated threshold calls copies.

    Attributes
    ----------
    reference_ : CosineSearch
        Training rows at unit length.
    threshold_ : float
        Read off unseen images by `calibrate`.
    memorization_ratio_ : float
        Of the last evaluated set; smaller means fewer copies.
    similarity_ : ndarray (row,)
        Greatest similarity of each of its rows to any training row.
    nearest_ : ndarray (row,)
        Number of the training image with that similarity.
    nearest_ids_ : ndarray (row,)
        Its id: the number where the training set has none.

    Notes
    -----
    ``fit(training)``, then ``calibrate(unseen)`` where there is no threshold, then ``evaluate(generated)`` gives the
    share and ``score(generated)`` its negative. Definition, cost and behaviour: :func:`icrkit.memorization_ratio`.

    References
    ----------
    Somepalli et al. 2023; Pizzi et al. 2022; Li et al. 2026, the memorisation ratio.

    Examples
    --------
    >>> import numpy as np, icrkit as ik
    >>> est = ik.MemorizationRatio(threshold=0.6).fit(np.eye(3))
    >>> est.evaluate([[0.1, 2.0, 0.0], [1.0, 1.0, 1.0]]), est.nearest_[0]
    (0.5, np.int64(1))
    """

    quantity = "memorization_ratio"
    least_images = 1

    def __init__(
        self,
        threshold: float | None = None,
        *,
        exclude_self: bool = False,
        views: str | int = 0,
        false_alarms: float = FALSE_ALARMS,
    ) -> None:
        self.threshold = threshold
        self.exclude_self = exclude_self
        self.views = views
        self.false_alarms = false_alarms

    def fit(self, X: Any, y: Any = None) -> Self:
        """Take X, the training images, as the reference; a calibration of others is dropped.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
        y : ignored

        Returns
        -------
        self
        """
        super().fit(X, y)
        if hasattr(self, "threshold_"):
            del self.threshold_
        return self

    def calibrate(self, X: Any) -> Self:
        """Read the threshold off real images that the network was not trained on.

        Parameters
        ----------
        X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
            As `evaluate` takes them.

        Returns
        -------
        self

        Raises
        ------
        NotEnoughDataError
            Fewer than 1/`false_alarms`.
        ValueError
            There are copies among them.
        """
        check_is_fitted(self)
        self.threshold_ = _threshold_of(self.reference_, self._set_of(X, reset=False), self.false_alarms)
        return self

    def _summary(self, features: Features) -> CosineSearch:
        return CosineSearch(features, self.views)

    def _compared(self, reference: CosineSearch, features: Features) -> Mapping[str, Any]:
        threshold = vars(self).get("threshold_") if self.threshold is None else self.threshold
        if threshold is None:
            raise ValueError(_WAYS_OUT.replace("unseen=", "calibrate(unseen) after fit"))
        return _against(reference, features, threshold, self.exclude_self)
