"""Training course: how a criterion runs over checkpoints, and whether it has turned.

The test of a turn is ours, of known parts. Fold contributions change sign together (Canay, Romano & Shaikh 2017,
Econometrica 85(3): randomisation tests with few clusters); the greatest of many studentised differences pays for all of
them (Romano & Wolf 2005, JASA 100(469)); the error is spent look by look (Lan & DeMets 1983, Biometrika 70(3)); and two
estimators have to agree (Berger 1982, Technometrics 24(4)).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, NamedTuple, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from icrkit._features import NotForTables
from icrkit._progress import progress_bar
from icrkit._text import at_sigma
from icrkit.cube import Cube, from_arrays
from icrkit.exceptions import CubeFormatError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._crossfit import fold_traces
from icrkit.metrics._decomposition import held_out_folds, traces, without_constant
from icrkit.metrics._information import invariant_information
from icrkit.moments import Moments
from icrkit.readings._pairing import Draws, check_same_folds, trained_range_of
from icrkit.readings._reading import (
    READ_ERRORS,
    Reading,
    criterion_of,
    difference_lengths,
    fold_contributions,
    merits,
    naming,
    read_features,
    warn_of_heavy_tails,
)

__all__ = ["TrainingCourse", "Turn", "find_turn"]

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

# Of noise levels that are the same: that of Cube.select.
_TOLERANCE = 1e-6
# Sign changes that are tried: all of them up to so many folds, else as many drawn at random.
_ALL_FLIPS = 14
# Of the error, k/(k + _HALF) is spent after k looks.
_HALF = 10
# At 95 % confidence and below; more confidence needs more of them.
_LEAST_FOLDS = 8

READ_PARAMETERS = ("n_folds", "random_state", "confidence", "regularization", "drop_constant")
_TRACES = ("trace_invariant", "trace_residual", "trace_total")


# ---- the turn -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Turn:
    """Whether a course has turned, and how far it has fallen; places are positions in the course.

    Attributes
    ----------
    best : int
        Where merit is greatest.
    at : int or None
        Where merit, after the best, was first significantly lower than before; None while the course has not turned.
    significant : ndarray of bool (n_steps,)
        Where it is significantly lower than at some place before.
    fall : float
        Merit of the best less that of the last; 0 where the last is the best.
    low, high : float
        Confidence interval of the fall from the truly best place, whichever it is, to the last.
    rose : bool
        Whether merit is significantly higher at some place up to the best than at the first: a course that only falls
        has no peak.
    """

    best: int
    at: int | None
    significant: NDArray[np.bool_]
    fall: float
    low: float
    high: float
    rose: bool

    @property
    def turned(self) -> bool:
        """Whether the course has turned."""
        return self.at is not None

    @property
    def run(self) -> int:
        """How many of the last looks in a row were significant."""
        return len(self.significant) - 1 - int(np.flatnonzero(~self.significant)[-1])


def find_turn(
    merits: ArrayLike,
    replicates: ArrayLike,
    confidence: float = 0.95,
    random_state: int = 0,
    *,
    second: ArrayLike | None = None,
) -> Turn:
    """Whether merit, greater being better, has fallen significantly since its best, looking at every checkpoint.

    Parameters
    ----------
    merits : array (n_steps,)
        In the order of training.
    replicates : array (n_steps, n_folds)
        Merit without each fold of images; the same images in the same fold at every step.
    confidence : float
        1 - confidence bounds the probability of ever calling a turn in a course that never falls, however often one
        looks.
    random_state : int
        Seed of the sign changes, where there are more than 2^14.
    second : array (n_steps,), optional
        The same merits by another estimator, which shares the replicates: a fall must be significant in both.

    Returns
    -------
    Turn
        What it says up to some step does not depend on later ones, but that a new best takes a turn back.

    Raises
    ------
    NotEnoughDataError
        Too few folds, and so too few sign changes: 8 are the least at 95 % confidence, 11 at 99 %.
    NonFiniteError
        NaN or infinity.
    ValueError
        Shapes that do not fit, or a confidence outside 0 to 1 - 2^-14.

    Notes
    -----
    Fold g contributes c_g = merit + (G - 1)(mean of replicates - replicate g): the merit is the mean of the G
    contributions, and the spread of their mean is the jackknife error. At look k the statistic is the greatest, over
    all j < k, of sum_g x_g / sqrt(sum_g x_g^2), x_g = c_gj - c_gk, which is monotone in Student's t of the paired
    difference. Where the course is flat, x_g is as likely -x_g. So the signs of all folds are changed, 2^14 times, the
    same in every comparison and at every look, and what is seen is compared with what comes out: choosing among j, and
    the correlation of checkpoints, whatever it is, are paid for.

    Looks share the error by a spending function: after k looks (1 - confidence) k/(k + 10) is spent, 66 % of it after
    20 checkpoints, all of it never. The critical value of look k is the one that brings the share of sign changes that
    have crossed at some look up to what may be spent, no more. With more looks critical values rise slowly, and need no
    horizon.

    On a flat course, and for any number of looks, the error is below 1 - confidence, exactly where contributions are
    symmetric, approximately where folds hold enough images for a normal law. A course that rises is safer still. What
    was measured is in the documentation, "Statistics".

    The interval of the fall is that of max_j (mu_j - mu_last), by Bonferroni's t over all j. The fall that is seen,
    from a best that was chosen for being high, is too great on the average. Interval and test are not one: the interval
    is that of the last checkpoint, the test pays for every look. It may leave out 0 where no turn is called.

    A look can find something only if a sign change may cross: for the first one to, 2^G must be at least
    11/(1 - confidence). Fewer folds are refused, up to 14, beyond which there are no more sign changes.

    Two estimators, where there are two, guard each other: the error is that of the safer (an intersection-union test,
    Berger 1982). Courses of features give the corrected value, whose correction for heavy tails is noise that folds do
    not show, and one without that correction, which falls where tails alone grow lighter: ICR from the plug-in without
    each fold, information by method "gaussian".

    References
    ----------
    Canay, Romano & Shaikh 2017, Econometrica 85(3), 1013-1030, section 2; Romano & Wolf 2005, JASA 100(469), 94-108,
    section 3; Lan & DeMets 1983, Biometrika 70(3), 659-663; Berger 1982, Technometrics 24(4), 295-300.

    Examples
    --------
    >>> import numpy as np
    >>> from icrkit.readings import find_turn
    >>> merits = np.array([1.0, 2.0, 3.0, 2.9, 2.0])
    >>> noise = np.random.default_rng(0).normal(scale=0.005, size=(5, 20))
    >>> turn = find_turn(merits, merits[:, None] + noise)
    >>> turn.best, turn.at
    (2, 4)
    """
    heights, without, others = (
        np.asarray(array, dtype=np.float64) for array in (merits, replicates, merits if second is None else second)
    )
    if without.ndim != 2 or not heights.shape == others.shape == without.shape[:1] or not len(heights):
        raise ValueError(
            "merits (n_steps,), replicates (n_steps, n_folds) and, if given, second (n_steps,) are wanted, not "
            f"{heights.shape}, {without.shape} and {others.shape}"
        )
    looks = Looks(confidence, random_state)
    for merit, replicate, other in zip(heights, without, others, strict=True):
        looks.add(float(merit), replicate, None if second is None else float(other))
    return looks.turn()


class Looks:
    """The test of :func:`find_turn`, one checkpoint after the other: all that a live course has to keep.

    Parameters
    ----------
    confidence : float
    random_state : int
    """

    def __init__(self, confidence: float = 0.95, random_state: int = 0) -> None:
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
        if (1 - confidence) * 2**_ALL_FLIPS <= 1:
            raise ValueError(
                f"confidence={confidence} is too near 1: of 2^{_ALL_FLIPS} sign changes none may cross, and no turn "
                "could ever be called. Give 0.999, or less"
            )
        self.confidence, self.random_state = confidence, random_state
        self._contributions, self._others = _Rows(), _Rows()
        self._significant: list[bool] = []
        self._first, self._second = (_Boundary(1 - confidence, random_state) for _ in range(2))

    def check(self, n_folds: int, place: str = "a course") -> None:
        """Refuse too few folds, or other ones than at the looks before."""
        # The first look may spend 1/(1 + _HALF) of the error, which has to be one sign change at least.
        least = int(np.clip(np.ceil(np.log2((1 + _HALF) / (1 - self.confidence))), _LEAST_FOLDS, _ALL_FLIPS))
        if n_folds < least:
            raise NotEnoughDataError(
                f"{place}: a turn cannot be tested with {n_folds} folds of images, {least} are the least at a "
                f"confidence of {self.confidence:g} and 20 are sound. Use more images (two a fold), or n_folds=20"
            )
        before = self._contributions.seen
        if len(before) and n_folds != before.shape[1]:
            raise CubeFormatError(
                f"{place} has {n_folds} folds, what came before has {before.shape[1]}: differences are "
                "paired over the same folds"
            )

    def add(self, merit: float, replicates: Vector, second: float | None = None) -> bool:
        """Look at a new checkpoint: whether it is significantly worse than one before it."""
        self._see(merit, replicates, second)
        found = self._first.crossed_at_last(self._contributions.seen)
        if second is not None:
            found = self._second.crossed_at_last(self._others.seen) and found
        self._significant.append(found)
        return found

    def _see(self, merit: float, replicates: Vector, second: float | None) -> None:
        self.check(len(replicates))
        both = fold_contributions([merit, merit if second is None else second], replicates)
        if not np.isfinite(both).all():
            raise NonFiniteError(
                f"merit and replicates of checkpoint {len(self._contributions.seen)} are not all finite"
            )
        self._contributions.append(both[0])
        self._others.append(both[1])

    def to_json(self) -> dict[str, Any]:
        """What was found so far, beside the merits and replicates that were looked at."""
        return {
            "significant": np.flatnonzero(self._significant).tolist(),
            "crossed": [[] if one.crossed is None else np.flatnonzero(one.crossed).tolist() for one in self._both],
        }

    def restore(self, seen: Iterable[tuple[float, Vector, float | None]], found: Mapping[str, Any]) -> None:
        """Go on after looks at these merits and replicates, of which `to_json` said this; nothing is tested again."""
        for merit, replicates, second in seen:
            self._see(merit, replicates, second)
        contributions = self._contributions.seen
        self._significant = _flags(found["significant"], len(contributions)).tolist()
        for one, crossed in zip(self._both, found["crossed"], strict=True):
            if crossed:
                one.crossed = _flags(crossed, len(_flips(contributions.shape[1], self.random_state)))

    @property
    def _both(self) -> tuple[_Boundary, _Boundary]:
        return self._first, self._second

    def turn(self) -> Turn:
        """What all looks so far say."""
        contributions = self._contributions.seen
        merits = contributions.mean(axis=1)
        significant = np.array(self._significant)
        best = int(merits.argmax())
        after = np.flatnonzero(significant[best:])
        low, high = _fall_interval(contributions, self.confidence)
        at = best + int(after[0]) if len(after) else None
        rose = _has_risen(contributions[: best + 1], self.confidence)
        return Turn(best, at, significant, float(merits[best] - merits[-1]), low, high, rose)


class _Boundary:
    """Critical values look by look, from the sign changes that have crossed so far."""

    def __init__(self, error: float, random_state: int) -> None:
        self._error, self._random_state = error, random_state
        self.crossed: NDArray[np.bool_] | None = None  # sign changes, at some look

    def crossed_at_last(self, contributions: Matrix) -> bool:
        """Whether the last checkpoint is further below an earlier one than the error that is left allows.

        The error is spent ever more slowly: after k looks 10 k/(k + 10)^2 of it is left for the next ten. Where not one
        more sign change may cross, none is compared. So comparisons with all earlier checkpoints, which take time in
        proportion to their number, become rare as fast as they become long: of the looks 1,000 to 2,000 about four.
        """
        k, g = len(contributions) - 1, contributions.shape[1]
        if k == 0:
            return False
        flips = _flips(g, self._random_state)
        crossed = np.zeros(len(flips), dtype=bool) if self.crossed is None else self.crossed
        self.crossed = crossed
        may_cross = int(self._error * k / (k + _HALF) * len(flips)) - int(crossed.sum())
        if may_cross <= 0:
            return False
        differences = contributions[:-1] - contributions[-1]
        size = difference_lengths(differences)[:, None]
        if not size.any():
            return False
        # Where features did not change there is no difference, and nothing to test.
        unit = np.divide(differences, size, out=np.zeros_like(differences), where=size > 0).astype(np.float32)
        greatest = np.full(len(flips), -np.inf, dtype=np.float32)
        for start in range(0, k, 64):
            np.maximum(greatest, (flips @ unit[start : start + 64].T).max(axis=1), out=greatest)
        left = np.where(crossed, -np.inf, greatest)
        # No more than may cross lie above: ties stay below.
        critical = np.partition(left, -may_cross - 1)[-may_cross - 1]
        self.crossed = crossed | (greatest > critical)
        return bool(greatest[0] > critical)


class _Rows:
    """Rows that come one by one, kept in one array."""

    def __init__(self) -> None:
        self._array: Matrix = np.empty((0, 0))
        self._n = 0

    @property
    def seen(self) -> Matrix:
        """All so far, (n, width)."""
        return self._array[: self._n]

    def append(self, row: Vector) -> None:
        """One more; room is doubled, so that this takes no longer with many rows than with few."""
        if self._n == len(self._array):
            array = np.empty((max(16, 2 * self._n), len(row)))
            if self._n:
                array[: self._n] = self.seen
            self._array = array
        self._array[self._n] = row
        self._n += 1


def _flags(places: Sequence[int], n: int) -> NDArray[np.bool_]:
    """True at these places of n, which ascend."""
    index = np.asarray(places, dtype=np.int64)
    if index.ndim != 1 or (len(index) and not (index[0] >= 0 and index[-1] < n and (np.diff(index) > 0).all())):
        raise ValueError(f"places that ascend from 0 to below {n} are expected")
    flags = np.zeros(n, dtype=bool)
    flags[index] = True
    return flags


@functools.lru_cache(maxsize=4)
def _flips(n_folds: int, random_state: int) -> NDArray[np.float32]:
    """Sign changes of the folds, (n, n_folds); the first changes nothing."""
    if n_folds <= _ALL_FLIPS:
        bits = np.arange(2**n_folds)[:, None] >> np.arange(n_folds) & 1
    else:
        bits = np.random.default_rng(random_state % 2**32).integers(0, 2, (2**_ALL_FLIPS, n_folds))
        bits[0] = 0
    return (1 - 2 * bits).astype(np.float32)


def _fall_interval(contributions: Matrix, confidence: float) -> tuple[float, float]:
    """Interval of the greatest true fall from any place to the last; that from the last to itself is 0."""
    if len(contributions) == 1:
        return 0.0, 0.0
    n, g = contributions.shape
    differences = contributions[:-1] - contributions[-1]
    falls, errors = differences.mean(axis=1), differences.std(axis=1, ddof=1) / np.sqrt(g)
    half = float(stats.t.ppf(1 - (1 - confidence) / (2 * (n - 1)), g - 1)) * errors
    return max(0.0, float((falls - half).max())), max(0.0, float((falls + half).max()))


def _has_risen(contributions: Matrix, confidence: float) -> bool:
    """Whether some place is significantly higher than the first, by Bonferroni's t over all others."""
    differences = contributions[1:] - contributions[:1]
    differences = differences[difference_lengths(differences) > 0]
    if not len(differences):
        return False
    g = differences.shape[1]
    quantile = float(stats.t.ppf(1 - (1 - confidence) / (2 * (len(contributions) - 1)), g - 1))
    errors = differences.std(axis=1, ddof=1) / np.sqrt(g)
    return bool((differences.mean(axis=1) > quantile * errors).any())


# ---- what a course and a monitor read off one checkpoint ------------------------------------------------------------


class LevelReading(NamedTuple):
    """Both criteria of one layer at one level of one checkpoint."""

    icr: Reading
    information: Reading
    plug_in: float  # log Q without cross-fitting
    gaussian: float | None  # information without a correction for heavy tails; None where it is not known

    def of(self, criterion: str) -> Reading:
        """That of the criterion."""
        return self.icr if criterion == "icr" else self.information

    def look(self, criterion: str) -> tuple[float, Vector, float | None]:
        """What the test of a turn wants of it: merit, replicates, and the merit by a second estimator."""
        reading = self.of(criterion)
        second = self.plug_in if criterion == "icr" else self.gaussian
        return reading.merit, reading.replicates, second


def read_level(
    X: Any,
    place: str,
    *,
    n_folds: int,
    random_state: int,
    drop_constant: bool,
    regularization: float,
    confidence: float,
) -> tuple[Moments, LevelReading]:
    """Moments of one layer at one level, and what is read off them; ``place`` tells in errors which it is."""
    if isinstance(X, Moments) and X.dims != ("fold",):
        raise NotEnoughDataError(f"{place}: moments need folds: Moments.from_cube(X, n_folds={n_folds})")
    folds: dict[str, Any] = {"n_folds": n_folds, "random_state": random_state}
    with naming(place):
        if drop_constant and not isinstance(X, Moments):
            # In float64 at once: what is left is not read a second time.
            X = Moments.from_cube(X, dtype="float64", **folds)
        varying = X
        if drop_constant:
            varying = without_constant(X)
        moments, (icr, information) = read_features(
            varying, ("icr", "information"), confidence=confidence, regularization=regularization, **folds
        )
        # Where tau > 0 its bias is not known.
        gaussian = None if regularization > 0 else float(invariant_information(moments.total, "gaussian"))
        others = [fold.between_others for fold in fold_traces(held_out_folds(moments, regularization), regularization)]
        plug_in = float(np.log(others).mean() - np.log(moments.n_features))
    return X if drop_constant else moments, LevelReading(icr, information, plug_in, gaussian)


def fold_counts(moments: Moments) -> Moments:
    """Moments that know how many images, views and features there were, and nothing else."""
    empty = Moments.empty(moments.n_views, 1, n_folds=moments.n_folds)
    return dataclasses.replace(empty, n_images=moments.n_images)


def fall_between(best: Reading, last: Reading, merit: float) -> float:
    """A fall of merit in units of the criterion, positive where it got worse, about the middle of both readings."""
    middle = (best.merit + last.merit) / 2
    change = float(best.value_at(middle + merit / 2) - best.value_at(middle - merit / 2))
    return change if best.criterion.greater_is_better else 0.0 - change


def headline_level(sigmas: Vector, trained_range: tuple[float, float] | None = None) -> int:
    """Position of the level nearest, in log, to the geometric mean of the trained range; else of the middle one.

    Parameters
    ----------
    sigmas : ndarray (n_levels,)
        Ascending.
    trained_range : (float, float), optional

    Returns
    -------
    int
    """
    if trained_range is None or not (sigmas > 0).any():
        return (len(sigmas) - 1) // 2
    with np.errstate(divide="ignore"):
        distance = np.abs(np.log(sigmas) - np.log(trained_range).mean())
    return int(distance.argmin())


def step_number(step: Any) -> int:
    """A training step: a whole number."""
    try:
        return operator.index(step)
    except TypeError:
        raise ValueError(f"training steps are whole numbers, not {step!r}") from None


@dataclasses.dataclass(frozen=True)
class Space:
    """What a checkpoint holds: layers and levels, and the features or moments of each.

    Attributes
    ----------
    layers : tuple of str
    sigmas : ndarray (n_levels,)
        Ascending; NaN where not known.
    draws : Draws or None
        Of the cube.
    cube : Cube or None
    moments : mapping of str to Moments
        By layer; empty where there is a cube.
    """

    layers: tuple[str, ...]
    sigmas: Vector
    draws: Draws | None
    cube: Cube | None
    moments: Mapping[str, Moments]

    @classmethod
    def of(cls, checkpoint: Any, name: str) -> Space:
        """From a Cube, an xarray object, an array (image, view, feature), Moments, or a mapping of layer to Moments."""
        if isinstance(checkpoint, Moments):
            return cls._of_moments({"features": checkpoint}, name)
        if isinstance(checkpoint, Mapping) and not isinstance(checkpoint, xr.Dataset):
            return cls._of_moments(checkpoint, name)
        cube = checkpoint
        if isinstance(checkpoint, xr.DataArray | xr.Dataset):
            cube = Cube(checkpoint)
        elif not isinstance(checkpoint, Cube):
            if getattr(checkpoint, "ndim", None) != 3:
                shape = f" of shape {tuple(checkpoint.shape)}" if hasattr(checkpoint, "shape") else ""
                raise CubeFormatError(
                    f"{name}: a Cube, features (image, view, feature) or Moments are wanted, not "
                    f"{type(checkpoint).__name__}{shape}; rows become a cube by icrkit.from_rows"
                )
            cube = from_arrays(checkpoint)
        return cls(cube.layers, np.sort(cube.sigmas), Draws.of(cube), cube, {})

    @classmethod
    def _of_moments(cls, moments: Mapping[Any, Any], name: str) -> Space:
        found: dict[str, Moments] = {}
        levels: list[Vector] = []
        for layer, one in moments.items():
            if not isinstance(one, Moments):
                raise CubeFormatError(f"{name}: Moments of layer {layer!r} are wanted, not {type(one).__name__}")
            if "fold" not in one.dims:
                raise NotEnoughDataError(
                    f"{name}: the moments of layer {layer!r} have no folds: Moments.from_cube(X, n_folds=20)"
                )
            found[str(layer)] = one
            levels.append(np.sort(np.asarray(one.coords["sigma"] if "sigma" in one.dims else [np.nan], dtype=float)))
        if not found:
            raise CubeFormatError(f"{name} has no layers: Moments by layer are wanted, and the mapping is empty")
        if not all(np.array_equal(levels[0], other, equal_nan=True) for other in levels):
            raise CubeFormatError(f"{name}: every layer's moments must be at the same levels")
        return cls(tuple(found), levels[0], None, None, found)

    def bare(self) -> Space:
        """The same without features or moments: all that is asked of a first checkpoint."""
        return dataclasses.replace(self, cube=None, moments={})

    def level(self, layer: str, k: int) -> Any:
        """Features or moments of a layer at the k-th level."""
        if self.cube is not None:
            cube = self.cube.select(layer=layer)
            return cube if len(self.sigmas) == 1 else cube.select(sigma=self.sigmas[k])
        moments = self.moments[layer]
        if "sigma" not in moments.dims:
            return moments
        return moments.select(sigma=int(np.argsort(moments.coords["sigma"])[k]))

    def width(self, layer: str) -> int:
        """Number of features of a layer."""
        return self.moments[layer].n_features if self.cube is None else self.cube.n_features[layer]

    def place(self, name: str, layer: str, k: int) -> str:
        """What to call a layer at a level in a message."""
        sigma = self.sigmas[k]
        return f"{name}, layer {layer}" + at_sigma(sigma)

    def level_of(self, sigma: float) -> int:
        """Position of a level."""
        found = np.flatnonzero(np.isclose(self.sigmas, sigma, rtol=_TOLERANCE, atol=0))
        if not len(found):
            raise CubeFormatError(f"no level sigma={sigma:g} here; the levels are {_listed(self.sigmas)}")
        return int(found[0])

    def headline(self, sigma: float | None = None) -> int:
        """Position of the level that decides: the one asked for, or that of `headline_level`."""
        if sigma is not None:
            return self.level_of(sigma)
        return headline_level(self.sigmas, trained_range_of(self.cube))

    def check_alike(self, first: Space, name: str, first_name: str) -> None:
        """Refuse other layers, levels, images or draws than those of the first checkpoint."""
        if (self.draws is None) != (first.draws is None):
            raise CubeFormatError(f"{first_name} and {name}: give features of all checkpoints, or moments of all")
        if set(self.layers) != set(first.layers):
            raise CubeFormatError(
                f"{name} has layers {', '.join(self.layers)}; {first_name} has {', '.join(first.layers)}: take the "
                "same, such as by cube.select(layer=...)"
            )
        check_same_levels(self.sigmas, first.sigmas, name, first_name)
        if self.draws is not None and first.draws is not None:
            first.draws.check(self.draws, first_name, name)


def check_same_levels(sigmas: Vector, first: Vector, name: str, first_name: str) -> None:
    """Refuse other noise levels."""
    if len(sigmas) == len(first) and np.allclose(sigmas, first, rtol=_TOLERANCE, atol=0, equal_nan=True):
        return
    raise CubeFormatError(
        f"{name} has levels {_listed(sigmas)}; {first_name} has {_listed(first)}: take the same, such as by "
        "cube.select(sigma=...)"
    )


def _listed(sigmas: Vector) -> str:
    return ", ".join(f"{sigma:g}" for sigma in sigmas)


# ---- estimator ------------------------------------------------------------------------------------------------------


def _checkpoints(X: Any) -> Iterator[tuple[int, Any]]:
    """Step and features of each checkpoint; steps increase strictly."""
    if isinstance(X, Cube | Moments | xr.DataArray | xr.Dataset | np.ndarray) or not isinstance(X, Iterable):
        raise CubeFormatError(f"a course is a sequence of (step, cube) pairs, not {type(X).__name__}")
    before: int | None = None
    places = itertools.count()  # enumerate would hold the last checkpoint while the next one is made
    for item in X.items() if isinstance(X, Mapping) else X:
        place = next(places)
        if isinstance(item, Cube):
            if item.step is None:
                raise CubeFormatError(
                    f"cube {place} of the course does not know its training step: give (step, cube) pairs, or "
                    'attrs={"step": ...} when features are extracted'
                )
            item = (item.step, item)
        if not isinstance(item, Sequence) or len(item) != 2:
            raise CubeFormatError(f"item {place} of the course is a {type(item).__name__}, and no (step, cube) pair")
        step = step_number(item[0])
        if before is not None and step <= before:
            how = "occurs twice" if step == before else f"comes after step {before}: sort the checkpoints"
            raise CubeFormatError(f"steps must increase, and step {step} {how}")
        before, checkpoint = step, item[1]
        del item
        yield step, checkpoint
        del checkpoint


class TrainingCourse(NotForTables, BaseEstimator):  # type: ignore[misc]
    """How good features are over the checkpoints of a training, and whether they have turned for the worse.

    Parameters
    ----------
    criterion : {"information", "icr"}
        On which a turn is called. ICR turns earlier; with many training images it may creep up while held-out loss
        still falls.
    layer : str, optional
        Of the headline attributes; by default that of the greatest information at its best step.
    sigma : float, optional
        Noise level of the headline attributes; by default the one nearest, in log, to the geometric mean of the levels
        that the network was trained on (0.3 for EDM), where the cubes record them, else the middle one.
    confidence : float
        Of the intervals. 1 - confidence bounds, for each layer and level, the probability of calling a turn in a course
        that never falls.
    n_folds : int
        Folds over images; Moments bring their own.
    warm_up : int
        Checkpoints before this step are measured, and take no part in the best step or the turn. The first features of
        a network are those of its random start, and often get worse before they get better.
    regularization : float
        tau as a share of Tr(Sigma_xi)/d.
    random_state : int
        Seed of the fold hash, and of the test's sign changes.
    drop_constant : bool
        Leave out dead units: features that are constant at a checkpoint, or nearly so. They hold no information; an ICR
        of fewer features does not compare.

    Attributes
    ----------
    curve_ : xarray.Dataset
        By layer, sigma and step: ``icr``, ``icr_low``, ``icr_high``, ``information`` (nats), ``information_low``,
        ``information_high``, ``total_snr``, ``n_features`` (that vary), and ``trace_invariant``, ``trace_residual``,
        ``trace_total`` of features scaled to unit length; traces are NaN where the course was fitted on Moments. sigma
        is NaN where not known.
    layer_, sigma_ : str, float
        Of the headline: what all of the following but `by_level_` is about.
    best_step_ : int
    turned_ : bool
    turned_at_ : int or None
        Step, after the best, at which the turn was first significant.
    fall_ : float
        From the best to the last checkpoint in units of the criterion, positive where it got worse. The best was chosen
        for being best, so that this is too great on the average.
    fall_interval_ : (float, float)
        Of the true fall from the truly best step, whichever that is, to the last: the choice is paid for.
    relative_fall_ : float
        `fall_` over the value at the best step; NaN where that is not above 0, as it may be where there is almost none.
    refused_ : dict of str to str
        Layers that could not be measured at some checkpoint, such as one too wide for the images, and why. The others
        are read.
    turn_ : Turn
        With positions instead of steps, counted from the end of the warm-up.
    by_level_ : xarray.Dataset
        By layer and sigma, each read by itself: ``best_step``, ``turned``, ``turned_at`` (NaN for none), ``fall``,
        ``fall_low``, ``fall_high``.

    Notes
    -----
    The test is that of :func:`icrkit.readings.find_turn`: with 95 % confidence at most 5 % of the courses that never
    fall are said to turn, however many checkpoints are looked at. What is said at a step hangs on no later one, but
    that a new best takes a turn back. A turn says that features got worse, not why. Where images are many a small fall
    is significant: look at `fall_interval_` too.

    Each layer and level of `by_level_` is a reading of its own, at its own 5 %: of six that never fall one turns with a
    probability of up to 30 %. ``confidence=1 - 0.05 / 6`` (Bonferroni) keeps all of them together below 5 %.

    All checkpoints must hold the same images under the same draws. They are read one at a time: one pass for each layer
    and level, one more for its traces. Nothing of the size of the features is kept, not even of the first checkpoint.

    References
    ----------
    See :func:`icrkit.readings.find_turn`.

    Examples
    --------
    >>> import icrkit as ik
    >>> cubes = {
    ...     100 * k: ik.datasets.make_cube(n_images=400, n_features=6, icr=icr, random_state=0)
    ...     for k, icr in enumerate([0.7, 0.5, 0.4, 0.45, 0.5], start=1)
    ... }
    >>> course = ik.TrainingCourse().fit(cubes)
    >>> course.best_step_, course.turned_, course.turned_at_
    (300, True, 400)
    """

    def __init__(
        self,
        criterion: str = "information",
        layer: str | None = None,
        sigma: float | None = None,
        *,
        confidence: float = 0.95,
        n_folds: int = 20,
        warm_up: int = 0,
        regularization: float = 0.0,
        random_state: int = 0,
        drop_constant: bool = False,
    ) -> None:
        self.criterion = criterion
        self.layer = layer
        self.sigma = sigma
        self.confidence = confidence
        self.n_folds = n_folds
        self.warm_up = warm_up
        self.regularization = regularization
        self.random_state = random_state
        self.drop_constant = drop_constant

    def fit(self, X: Any, y: Any = None, *, progress: bool = False) -> Self:
        """Read every checkpoint, and find the turn.

        Parameters
        ----------
        X : sequence of (step, checkpoint), mapping of step to checkpoint, or sequence of Cube that know their step
            Steps increase strictly. A checkpoint is a Cube, an array (image, view, feature), Moments with folds (and
            levels), or a mapping of layer to such Moments. An iterator will do: one checkpoint is held at a time.
        y : ignored
        progress : bool
            Show a progress bar.

        Returns
        -------
        self

        Raises
        ------
        CubeFormatError
            Steps that do not increase, or are missing; a checkpoint of other images, views, seeds, folds, layers,
            widths or levels than the first; a layer or level asked for that is not there.
        NotEnoughDataError
            Fewer than three checkpoints after the warm-up; fewer than 8 folds, or, of more than 95 % confidence, than
            :func:`icrkit.readings.find_turn` needs; too few images for the features.
        DegenerateFeaturesError, IllConditionedError, NonFiniteError
            Of some checkpoint, where no layer is left or the one asked for is not; the message says which. Where others
            are left, it is a warning.
        """
        criterion_of(self.criterion)
        read = _Reader(self)
        total = len(X) if isinstance(X, Sized) else None
        # A bar around the loop would hold the last checkpoint while the next one is made.
        with progress_bar(progress, total, "course", "checkpoint") as bar:
            for step, checkpoint in _checkpoints(X):
                read.checkpoint(step, checkpoint)
                del checkpoint
                bar.update()
        used = [k for k, step in enumerate(read.steps) if step >= self.warm_up]
        if len(used) < 3:
            late = f" from step {self.warm_up} on" if self.warm_up > 0 else ""
            raise NotEnoughDataError(f"a course needs at least three checkpoints, and has {len(used)}{late}")
        layers = read.leave_out_refused()
        for layer, reason in read.refused.items():
            warnings.warn(f"layer {layer} is left out: {reason}", stacklevel=2)
        places = itertools.product(used, enumerate(layers), enumerate(read.first.sigmas))
        readings = {
            f"step {read.steps[n]}, layer {layer}, sigma {sigma:g}": read.readings[n][i, k].of(self.criterion)
            for n, (i, layer), (k, sigma) in places
        }
        warn_of_heavy_tails(readings, self.confidence)
        curve = _curve(read, {"layer": list(layers), "sigma": read.first.sigmas})
        self._judge(
            _Readings(curve, [read.readings[k] for k in used], np.array(read.steps)[used], read.level, read.refused)
        )
        return self

    def with_criterion(self, criterion: str) -> Self:
        """The same course by another criterion; nothing is read again.

        Parameters
        ----------
        criterion : {"information", "icr"}

        Returns
        -------
        TrainingCourse
            A new one, fitted, of the same `curve_`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            An unknown criterion.
        """
        check_is_fitted(self, "curve_")
        criterion_of(criterion)
        other: Self = clone(self).set_params(criterion=criterion)
        other._judge(self._readings)
        return other

    @property
    def sizes(self) -> CourseSizes:
        """Images, views, and features by layer, of the last checkpoint that was fitted."""
        check_is_fitted(self, "curve_")
        last = self._readings.readings[-1][:, 0]
        widths = {str(layer): one.icr.n_features for layer, one in zip(self.curve_["layer"].values, last, strict=True)}
        return CourseSizes(last[0].icr.n_images, last[0].icr.n_views, widths)

    def _judge(self, read: _Readings) -> None:
        """Find the turns."""
        curve, steps = read.curve, read.steps
        layers, sigmas = curve["layer"].to_numpy(), curve["sigma"].to_numpy()
        grid = np.empty((len(layers), len(sigmas)), dtype=object)
        for at in np.ndindex(grid.shape):
            readings = [one[at] for one in read.readings]
            grid[at] = Judgement.of(readings, self.criterion, self.confidence, self.random_state)
        by_level = _by_level(grid, steps, {"layer": layers, "sigma": sigmas})
        if self.layer is None:
            best_steps = by_level["best_step"].isel(sigma=read.level)
            at_best = curve["information"].isel(sigma=read.level).sel(step=best_steps)
            layer = int(at_best.to_numpy().argmax())
        else:
            layer = int(np.flatnonzero(layers == self.layer)[0])
        # Nothing below raises: a fit that fails leaves the one before it whole.
        judged: Judgement = grid[layer, read.level]
        self._readings = read
        self.refused_ = dict(read.refused)
        self.curve_, self.by_level_ = curve, by_level
        self.layer_, self.sigma_ = str(layers[layer]), float(sigmas[read.level])
        self.turn_ = judged.turn
        self.best_step_ = int(steps[judged.turn.best])
        self.turned_ = judged.turn.turned
        self.turned_at_ = None if judged.turn.at is None else int(steps[judged.turn.at])
        self.fall_, self.fall_interval_ = judged.fall, (judged.low, judged.high)
        self.relative_fall_ = judged.fall / judged.best if judged.best > 0 else float("nan")


def would_stop(course: TrainingCourse, step: int) -> bool:
    """Whether a monitor that called a turn at this step told a loop to stop: after a warm-up, or a rise before.

    Parameters
    ----------
    course : TrainingCourse
        Fitted.
    step : int
        After the warm-up.
    """
    read = course._readings
    layer = course.curve_["layer"].to_numpy().tolist().index(course.layer_)
    until = [one[layer, read.level] for at, one in zip(read.steps, read.readings, strict=True) if at <= step]
    heights, without = merits([readings.of(course.criterion) for readings in until])
    contributions = fold_contributions(heights, without)[: int(heights.argmax()) + 1]
    return course.warm_up > 0 or _has_risen(contributions, course.confidence)


class CourseSizes(NamedTuple):
    """Of the cubes of a course."""

    n_images: int
    n_views: int
    n_features: dict[str, int]


class _Readings(NamedTuple):
    """What was read off a course: numbers only."""

    curve: xr.Dataset
    readings: list[Any]  # by step after the warm-up: array (layer, sigma) of LevelReading
    steps: NDArray[np.int64]  # after the warm-up
    level: int  # of the headline
    refused: dict[str, str]


class Judgement(NamedTuple):
    """A turn, and its fall in units of the criterion."""

    turn: Turn
    fall: float
    low: float
    high: float
    best: float  # value at the best step

    @classmethod
    def of(cls, readings: Sequence[LevelReading], criterion: str, confidence: float, random_state: int) -> Judgement:
        """Of a course of readings."""
        looks = Looks(confidence, random_state)
        for reading in readings:
            looks.add(*reading.look(criterion))
        turn = looks.turn()
        return cls.of_turn(turn, readings[turn.best].of(criterion), readings[-1].of(criterion))

    @classmethod
    def of_turn(cls, turn: Turn, best: Reading, last: Reading) -> Judgement:
        """Of a turn that is known, and the readings of its best and its last checkpoint."""
        fall, low, high = (fall_between(best, last, merit) for merit in (turn.fall, turn.low, turn.high))
        return cls(turn, fall, low, high, best.value)


class _Reader:
    """Reads one checkpoint after the other, and keeps numbers only."""

    def __init__(self, course: TrainingCourse) -> None:
        self._course = course
        self._options: dict[str, Any] = {name: getattr(course, name) for name in READ_PARAMETERS}
        self._counts: dict[tuple[int, int], tuple[Moments, int]] = {}
        self._looks = Looks(course.confidence, course.random_state)
        self.steps: list[int] = []
        self.refused: dict[str, str] = {}  # layers that cannot be measured at some step, and why
        self.readings: list[Any] = []  # by step: array (layer, sigma) of LevelReading
        self.traces: list[NDArray[np.float64]] = []  # by step: (layer, sigma, 3)

    def checkpoint(self, step: int, checkpoint: Any) -> None:
        """Read all layers and levels of a checkpoint."""
        name = f"step {step}"
        space = Space.of(checkpoint, name)
        if not self.steps:
            self.first, self.first_name = space.bare(), name
            if self._course.layer is not None and self._course.layer not in space.layers:
                raise CubeFormatError(f"no layer {self._course.layer!r} here; the layers are {', '.join(space.layers)}")
            self.level = space.headline(self._course.sigma)
        else:
            space.check_alike(self.first, name, self.first_name)
        readings = np.empty((len(self.first.layers), len(space.sigmas)), dtype=object)
        traces_of = np.full((*readings.shape, len(_TRACES)), np.nan)
        for i, layer in enumerate(self.first.layers):
            if layer in self.refused:
                continue
            try:
                for k in range(len(space.sigmas)):
                    readings[i, k], traces_of[i, k] = self._read((i, k), space, name)
            except READ_ERRORS as error:
                self.refused[layer] = str(error)
                if layer == self._course.layer or len(self.refused) == len(self.first.layers):
                    raise
        self.steps.append(step)
        self.readings.append(readings)
        self.traces.append(traces_of)

    def _read(self, at: tuple[int, int], space: Space, name: str) -> tuple[LevelReading, Any]:
        """A layer at a level, and its traces."""
        layer, k = self.first.layers[at[0]], at[1]
        place, features = space.place(name, layer, k), space.level(layer, k)
        moments, reading = read_level(features, place, **self._options)
        self._check_counts(at, moments, place)
        self._looks.check(reading.of(self._course.criterion).n_folds, place)
        if space.cube is None:
            return reading, np.nan
        return reading, traces(Moments.from_cube(features, n_folds=0, normalize="l2"))

    def leave_out_refused(self) -> tuple[str, ...]:
        """Keep the layers that were measured at every step; returns them."""
        left = [i for i, layer in enumerate(self.first.layers) if layer not in self.refused]
        self.readings = [readings[left] for readings in self.readings]
        self.traces = [part[left] for part in self.traces]
        return tuple(self.first.layers[i] for i in left)

    def _check_counts(self, at: tuple[int, int], moments: Moments, place: str) -> None:
        known, width = self._counts.setdefault(at, (fold_counts(moments), moments.n_features))
        check_same_folds([known, fold_counts(moments)], [self.first_name, place])
        if width != moments.n_features:
            raise CubeFormatError(
                f"{place} has {moments.n_features} features, {self.first_name} has {width}: is it the same layer of "
                "the same network?"
            )


def _curve(read: _Reader, coords: dict[str, Any]) -> xr.Dataset:
    dims = ("layer", "sigma", "step")
    icr, information = ([[r[j] for r in readings.ravel()] for readings in read.readings] for j in (0, 1))
    shape = (len(read.steps), *read.readings[0].shape)
    columns: dict[str, Any] = {}
    for criterion, found in (("icr", icr), ("information", information)):
        for suffix, name in (("", "value"), ("_low", "low"), ("_high", "high")):
            values = np.array([[getattr(r, name) for r in row] for row in found]).reshape(shape)
            columns[criterion + suffix] = (dims, np.moveaxis(values, 0, -1))
    width = np.moveaxis(np.array([[r.n_features for r in row] for row in icr]).reshape(shape), 0, -1)
    columns["n_features"] = (dims, width)
    columns["total_snr"] = (dims, width * (1 / columns["icr"][1] - 1))
    expansion = np.moveaxis(np.stack(read.traces), 0, 2)
    columns |= {name: (dims, expansion[..., j]) for j, name in enumerate(_TRACES)}
    return xr.Dataset(columns, coords=coords | {"step": read.steps})


def _by_level(grid: Any, steps: NDArray[np.int64], coords: dict[str, Any]) -> xr.Dataset:
    def column(value: Callable[[Judgement], Any]) -> tuple[tuple[str, str], Any]:
        return ("layer", "sigma"), np.array([[value(judged) for judged in row] for row in grid])

    return xr.Dataset(
        {
            "best_step": column(lambda judged: steps[judged.turn.best]),
            "turned": column(lambda judged: judged.turn.turned),
            "turned_at": column(lambda judged: np.nan if judged.turn.at is None else float(steps[judged.turn.at])),
            "fall": column(lambda judged: judged.fall),
            "fall_low": column(lambda judged: judged.low),
            "fall_high": column(lambda judged: judged.high),
        },
        coords=coords,
    )
