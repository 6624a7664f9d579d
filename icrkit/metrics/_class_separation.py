"""Class separation: the share of the spread of directions that lies between classes.

Source: Kornblith, Chen, Lee & Norouzi 2021, "Why do better loss functions lead to less transferable features?",
NeurIPS, arXiv 2010.16402.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from icrkit._features import Features
from icrkit.exceptions import DegenerateFeaturesError
from icrkit.metrics._base import Measure, labelled_features
from icrkit.metrics._classes import class_spread
from icrkit.moments import Moments

__all__ = ["ClassSeparation", "class_separation"]


def class_separation(X: Any, y: Any = None, views: str | int = "mean") -> float:
    """Class separation R2 on cosine distances, from 0 (classes share one mean direction) to 1 (collapsed).

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature) or rows (row, feature)
    y : array (n_images,), or (row,) for rows
        Class of each image; the cube's labels where left out.
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one view by its number from 0.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        There is no view of that number.
    NotEnoughDataError
        Fewer than two classes, or one row in every class.
    NonFiniteError
        NaN or infinity among the features.
    DegenerateFeaturesError
        All rows point the same way.

    Notes
    -----
    R2 = 1 - d_within/d_total: d_within is the mean cosine distance of pairs within a class, d_total that of pairs from
    any two classes, pairs of a row with itself included, all classes weighing the same. With m_k the mean unit vector
    of class k that is d_within = mean_k(1 - ||m_k||^2) and d_total = 1 - ||mean_k m_k||^2, and so R2 = B/(W + B), W the
    mean over classes of the mean ||u - m_k||^2 over unit vectors u, B the mean of ||m_k - mean m||^2: no digits are
    lost where all rows point almost the same way. Biased upwards with small classes, by the pairs of a row with itself:
    about (1 - R2)/n where classes have n rows. A zero row has no direction; it stays zero in W and B, with a warning.
    Invariant under rotation, order, and any positive scaling of each row; translation and other affine maps matter.
    Cost: two passes over the features, O(N d), never pairwise.

    References
    ----------
    Kornblith, Chen, Lee & Norouzi 2021, arXiv 2010.16402, definition of class separation R2.

    Examples
    --------
    >>> import icrkit as ik
    >>> ik.class_separation([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]], [0, 0, 1, 1])
    1.0
    """
    spread = class_spread(*labelled_features(X, y), views, normalize="l2")
    within = spread.variances.mean()
    between = np.square(spread.means - spread.means.mean(axis=0)).sum() / len(spread.means)
    if not within + between > (16 * np.finfo(np.float64).eps) ** 2:  # rounding of unit vectors
        raise DegenerateFeaturesError(
            f"all rows point the same way (n_features={spread.means.shape[1]}): there is no spread of directions"
        )
    return float(between / (within + between))


class ClassSeparation(Measure):
    """Class separation R2 of labelled features, on cosine distances.

    Parameters
    ----------
    views : {"mean", "all"} or int
        Rows used of an image: the mean over its views, every view, or one. Rows of a 2-D X stand for themselves.

    Attributes
    ----------
    class_separation_ : float
        From 0 to 1; greater is more separated.

    Notes
    -----
    ``score(X, y)`` is the class separation of X itself. Separated classes go with accuracy on these classes, and, as
    the source found, with less accuracy on others. Formula and behaviour: see :func:`icrkit.class_separation`.

    References
    ----------
    Kornblith, Chen, Lee & Norouzi 2021, arXiv 2010.16402.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, n_classes=3, random_state=0)
    >>> 0 < ik.ClassSeparation().fit(cube).class_separation_ < 1
    True
    """

    quantity = "class_separation"
    needs_labels = True

    def __init__(self, views: str | int = "mean") -> None:
        self.views = views

    def _results(self, given: Features | Moments, y: Any) -> Mapping[str, Any]:
        return {"class_separation": class_separation(given, y, self.views)}
