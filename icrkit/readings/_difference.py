"""Difference of two spaces of the same images: checkpoints, models, layers or levels.

The test is that of the jackknife over folds of images (Quenouille 1956; Efron & Tibshirani 1993, chapter 11): both
spaces lose the same fold, so that what they share stays out of the error. It is made on the scale of the merit; its
interval is carried over to the values by the method of variance estimates recovery (Zou & Donner 2008, Stat. Med.
27(10)), with the test's own sign.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from icrkit.cube import Cube
from icrkit.exceptions import CubeFormatError
from icrkit.metrics._crossfit import jackknife_error
from icrkit.moments import Moments
from icrkit.readings._pairing import DRAWN_OF_MODELS, check_same_draws, check_same_folds
from icrkit.readings._reading import (
    Reading,
    criterion_of,
    difference_lengths,
    fold_contributions,
    naming,
    read_features,
    warn_of_heavy_tails,
)

__all__ = ["Difference", "PairedTest", "difference", "paired_difference", "paired_test"]

Vector = NDArray[np.float64]


class PairedTest(NamedTuple):
    """Test of no difference: t, its degrees of freedom, and the two-sided p."""

    t: float
    dof: int
    p: float


def paired_test(change: float, replicates: Vector) -> PairedTest:
    """Test of no difference, from a difference of merits and the same without each fold of images.

    Parameters
    ----------
    change : float
    replicates : ndarray (n_folds,)
        Difference of paired replicates.

    Returns
    -------
    PairedTest

    Notes
    -----
    t = change over the jackknife error, n_folds - 1 degrees of freedom. The same features twice, or a linear map of
    them, differ by rounding, whose error says nothing: t is 0.
    """
    dof = len(replicates) - 1
    if _is_rounding(change, replicates):
        return PairedTest(0.0, dof, 1.0)
    error = jackknife_error(replicates)
    t = change / error if error > 0 else float(np.copysign(np.inf, change))
    return PairedTest(t, dof, 2 * float(stats.t.sf(abs(t), dof)))


def _is_rounding(change: float, replicates: Vector) -> bool:
    """Whether no fold contributes anything to the difference but rounding."""
    return not difference_lengths(fold_contributions(change, replicates))


@dataclasses.dataclass(frozen=True)
class Difference:
    """What :func:`icrkit.paired_difference` found; printed, one sentence.

    Attributes
    ----------
    criterion : str
        "icr" or "information".
    estimate : float
        Value of b less that of a.
    low, high : float
        Confidence interval of the difference.
    p : float
        Two-sided, of no difference. Below 1 - confidence exactly where the interval leaves out 0.
    t : float
        Difference of merits over its error: positive where b is better.
    dof : int
        Degrees of freedom of t.
    a, b : float
        The two values.
    confidence : float
    n_images, n_views : int
    """

    criterion: str
    estimate: float
    low: float
    high: float
    p: float
    t: float
    dof: int
    a: float
    b: float
    confidence: float
    n_images: int
    n_views: int

    def __str__(self) -> str:
        """One sentence: the difference, its interval, p, and which of the two is better."""
        found = "which is better is not shown"
        if self.p < 1 - self.confidence:
            found = f"{'b' if self.t > 0 else 'a'} is better"
        label = criterion_of(self.criterion).label
        return (
            f"{label} of b less that of a: {self.estimate:+.3g} [{self.low:+.3g}, {self.high:+.3g}] at "
            f"{self.confidence:.0%}, p = {self.p:.2g}: {found} ({self.b:.3g} against {self.a:.3g}, "
            f"{self.n_images} images x {self.n_views} views)."
        )


def paired_difference(
    a: Any,
    b: Any,
    *,
    criterion: str = "icr",
    confidence: float = 0.95,
    n_folds: int = 10,
    regularization: float = 0.0,
    random_state: int = 0,
) -> Difference:
    """Difference of ICR, or of invariant information in nats, between two spaces of the same images.

    Parameters
    ----------
    a, b : Cube, DataArray, array (image, view, feature), or Moments
        One layer at one level each: of two checkpoints, models, layers or levels. Images are paired by their ids,
        arrays without ids row by row. Moments need folds.
    criterion : {"icr", "information"}
        Spaces of different width have no comparable ICR; their information is comparable.
    confidence : float
        Of the interval.
    n_folds, random_state : int
        Folds over images, and the seed of their hash; Moments bring their own.
    regularization : float
        tau as a share of Tr(Sigma_xi)/d.

    Returns
    -------
    Difference
        Value of b less that of a.

    Raises
    ------
    CubeFormatError
        Other images, views, seeds or folds, or ICR of spaces of different width. Noise laws may differ: they are the
        models'.
    NotEnoughDataError
        No folds, or too few images outside a fold.
    DegenerateFeaturesError, IllConditionedError, NonFiniteError
        Constant features, no residual; a singular covariance; NaN or infinity. The message says whether of a or b.

    Notes
    -----
    The test is of the difference of merits, log(R + 1/V) for ICR, which is monotone in it, and nats for information:
    t = difference over the jackknife error of paired replicates, n_folds - 1 degrees of freedom. See `difference` for
    the interval of the values, and the documentation, "Statistics", for its coverage.

    Two intervals that overlap say nothing of the difference: what both spaces share is in each of them, and in the
    difference it cancels.

    References
    ----------
    Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 11. Zou & Donner 2008, Stat. Med. 27(10), eq. 3.

    Examples
    --------
    >>> import icrkit as ik
    >>> from icrkit.readings._difference import paired_difference
    >>> cube = ik.datasets.load_fashion_cube()
    >>> found = paired_difference(cube.select(sigma=0.09), cube.select(sigma=0.3))
    >>> found.low > 0 and found.p < 0.001  # the residual's share is greater at 0.3
    True
    """
    chosen = criterion_of(criterion)
    _check_pair(a, b)
    options: dict[str, Any] = {
        "n_folds": n_folds, "random_state": random_state, "confidence": confidence, "regularization": regularization,
        "constant": "leave them out of both, as by cube.level().isel(feature=varying) or array[..., varying]",
    }  # fmt: skip
    read = []
    for name, X in (("a", a), ("b", b)):
        with naming(name):
            read.append(read_features(X, (criterion,), **options))
    (first, (one,)), (second, (other,)) = read
    if one.n_images != other.n_images:
        raise CubeFormatError(
            f"a holds {one.n_images} images, b {other.n_images}: a difference is paired image by image, over the same "
            "images"
        )
    check_same_folds([first, second], ["a", "b"])
    if one.n_features != other.n_features and not chosen.across_widths:
        raise CubeFormatError(
            f"a has {one.n_features} features, b {other.n_features}: ICR is not comparable between spaces of different "
            'width. Take criterion="information", or reduce both to one number of components first.'
        )
    warn_of_heavy_tails({"a": one, "b": other}, confidence)
    return difference(one, other, confidence)


def difference(a: Reading, b: Reading, confidence: float = 0.95) -> Difference:
    """Difference of two readings of the same images in the same folds, value of b less that of a.

    Parameters
    ----------
    a, b : Reading
        With intervals of this confidence.
    confidence : float

    Returns
    -------
    Difference

    Notes
    -----
    Where the value is the merit the interval is the t interval. ICR is a monotone function of its merit, and its
    difference depends on the place as well: D(c, x) = value(c + w x) - value(c - (1-w) x), x the difference of
    merits, c = w m_a + (1-w) m_b their weighted mean, with w such that c and x are uncorrelated. Both have intervals.
    The end e of that of x gives D(c, e); the end of the interval of D lies at a distance from the estimate that is the
    root of the sum of squares of the distance to D(c, e) and of what moving c over its own interval adds to that. As
    D(c, 0) = 0 for every c, the interval leaves out 0 exactly where that of x does, and p is below 1 - confidence.
    """
    change, replicates, estimate = b.merit - a.merit, b.replicates - a.replicates, b.value - a.value
    test = paired_test(change, replicates)
    if _is_rounding(change, replicates):
        change, replicates, estimate = 0.0, np.zeros_like(replicates), 0.0
    quantile = float(stats.t.ppf(0.5 + confidence / 2, test.dof))
    half = quantile * jackknife_error(replicates)
    weight, place_half = _place(_merit_half_width(a), _merit_half_width(b), half)
    place = weight * a.merit + (1 - weight) * b.merit

    def value_difference(at: Any, x: float) -> Any:
        return a.value_at(at + weight * x) - a.value_at(at - (1 - weight) * x)

    ends = []
    for x in (change - half, change + half):
        there = float(value_difference(place, x))
        # The merit of ICR is the log of Q: its value falls with it.
        moved = value_difference(place + np.array([-place_half, 0.0, place_half]), x)
        outwards = there - moved.min() if there < estimate else moved.max() - there
        ends.append(estimate + np.copysign(np.hypot(there - estimate, outwards), there - estimate))
    return Difference(
        criterion=a.criterion.name, estimate=estimate, low=float(min(ends)), high=float(max(ends)), p=test.p, t=test.t,
        dof=test.dof, a=a.value, b=b.value, confidence=confidence, n_images=a.n_images, n_views=a.n_views,
    )  # fmt: skip


def _merit_half_width(reading: Reading) -> float:
    """Half the width of the reading's interval, on the scale of the merit."""
    ends = [reading.merit_at(end) for end in (reading.low, reading.high)]
    return abs(float(ends[1] - ends[0])) / 2


def _place(half_a: float, half_b: float, half: float) -> tuple[float, float]:
    """Weight of a's merit in a weighted mean that is uncorrelated with the difference, and the mean's half-width.

    Variances are as squared half-widths, since all come with one quantile, and the covariance follows from the three.
    The mean lies between the two merits: where their variances differ by more than the difference's own, it is the
    merit that is known better.
    """
    if half == 0:
        return 0.5, min(half_a, half_b)
    shared = (half_a**2 + half_b**2 - half**2) / 2
    weight = float(np.clip((half_b**2 - shared) / half**2, 0.0, 1.0))
    variance = weight**2 * half_a**2 + (1 - weight) ** 2 * half_b**2 + 2 * weight * (1 - weight) * shared
    return weight, float(np.sqrt(max(variance, 0.0)))


def _check_pair(a: Any, b: Any) -> None:
    """What can be known before features are read: the images of cubes and their draws, the folds of moments."""
    if isinstance(a, Moments) and isinstance(b, Moments):
        check_same_folds([a, b], ["a", "b"])
        return
    cubes = [Cube(X) if isinstance(X, xr.DataArray) else X for X in (a, b)]
    for cube in cubes:
        if isinstance(cube, Cube):
            cube.level()  # which says what there is to choose from
    if all(isinstance(cube, Cube) for cube in cubes):
        check_same_draws(cubes, ["a", "b"], DRAWN_OF_MODELS)
