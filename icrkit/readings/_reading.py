"""What is read off one space: the value of a criterion, its interval, and replicates that pair with another space's.

Every reading of :mod:`icrkit.readings` is made of these. Two spaces of the same images lose the same fold in each
replicate, so that the jackknife of the difference of their replicates (Quenouille 1956; Efron & Tibshirani 1993,
chapter 11) keeps what both share out of the error.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._crossfit import crossfit, jackknife_error
from icrkit.metrics._decomposition import ResidualModel, constant_features
from icrkit.metrics._information import information
from icrkit.metrics._tails import Tails, tails_of, warn_of_tails
from icrkit.moments import Moments

__all__ = [
    "CRITERIA",
    "READ_ERRORS",
    "Criterion",
    "Reading",
    "criterion_of",
    "difference_lengths",
    "fold_contributions",
    "naming",
    "read",
    "read_features",
    "warn_of_heavy_tails",
]

Vector = NDArray[np.float64]

# What the features of one place may lack, whatever holds at others.
READ_ERRORS = (NotEnoughDataError, DegenerateFeaturesError, IllConditionedError, NonFiniteError)

# Merits that are nearer than this, in nats or in parts of Q, are the same. Rounding of float32 features and products
# moves them by less, and an error as small would take 10^10 images.
_SAME = 1e-5


class Criterion(NamedTuple):
    """What spaces are ranked by.

    Attributes
    ----------
    name : str
    label : str
        Of an axis.
    greater_is_better : bool
    across_widths : bool
        Whether spaces of different width may be compared.
    """

    name: str
    label: str
    greater_is_better: bool
    across_widths: bool


CRITERIA = {
    "icr": Criterion("icr", "ICR", greater_is_better=False, across_widths=False),
    "information": Criterion("information", "information (nats)", greater_is_better=True, across_widths=True),
}


def criterion_of(name: str) -> Criterion:
    """The criterion of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(map(repr, CRITERIA))}, not {name!r}")
    return CRITERIA[name]


@dataclasses.dataclass(frozen=True)
class Reading:
    """A criterion of one space.

    Attributes
    ----------
    criterion : Criterion
    value : float
        ICR, from about 0 (clean) to 1, or invariant information in nats.
    low, high : float
        Confidence interval of the value.
    merit : float
        The scale on which differences are tested; greater is better for every criterion: log(R + 1/V) for ICR, nats
        for information.
    replicates : ndarray (n_folds,)
        Merit without each fold of images.
    n_images, n_views, n_features : int
    tails : Tails, optional
        How unlike the images are in size, where it is known.
    """

    criterion: Criterion
    value: float
    low: float
    high: float
    merit: float
    replicates: Vector
    n_images: int
    n_views: int
    n_features: int
    tails: Tails | None = None

    @property
    def n_folds(self) -> int:
        """G."""
        return len(self.replicates)

    def p_residual_only(self, confidence: float) -> float:
        """p-value of the hypothesis that the features hold nothing of their images: ICR 1, or 0 nats.

        Parameters
        ----------
        confidence : float
            Of `low` and `high`. The p-value is below 1 - confidence where they lie on the images' side of nothing.
        """
        nothing = float(self.merit_at(1.0 if self.criterion.name == "icr" else 0.0))
        width = abs(float(self.merit_at(self.high)) - float(self.merit_at(self.low)))
        if width == 0:
            return 0.0 if self.merit > nothing else 1.0
        law = stats.t(self.n_folds - 1)
        errors = 2 * law.ppf(0.5 + confidence / 2) * (self.merit - nothing) / width
        return min(1.0, 2 * float(law.sf(errors)))

    def value_at(self, merit: Any) -> Any:
        """Value of the criterion where the merit is this: float, or array of them."""
        if self.criterion.name == "icr":
            return 1.0 / (1.0 + np.exp(merit) - 1.0 / self.n_views)
        return merit

    def merit_at(self, value: Any) -> Any:
        """Merit where the value of the criterion is this: float, or array of them."""
        if self.criterion.name == "icr":
            return np.log(1.0 / np.asarray(value) - 1.0 + 1.0 / self.n_views)
        return value


def read(moments: Moments, criterion: str = "icr", *, confidence: float = 0.95, regularization: float = 0.0) -> Reading:
    """Read a criterion off the moments of one layer at one level.

    Parameters
    ----------
    moments : Moments
        With leading axis "fold".
    criterion : {"icr", "information"}
        ICR is the cross-fitted one; information is by method "elliptical".
    confidence : float
        Of the interval.
    regularization : float
        tau as a share of Tr(Sigma_xi)/d.

    Returns
    -------
    Reading

    Raises
    ------
    NotEnoughDataError
        No folds, or too few images outside a fold.
    DegenerateFeaturesError, IllConditionedError
        Constant features, no residual; a singular covariance.
    """
    chosen = criterion_of(criterion)
    found: Any
    model = ResidualModel(moments.total, regularization)
    if criterion == "icr":
        # The check of the moments' precision is the model's.
        model.error_bound()
        found = crossfit(moments, regularization)
        value, merit, replicates = found.icr, float(np.log(found.q)), found.replicates
    else:
        found = information(moments, "elliptical", regularization)
        value, merit, replicates = found.value, found.value, found.replicates
    low, high = found.interval(confidence)
    return Reading(
        chosen, value, low, high, merit, np.asarray(replicates), int(moments.n_images.sum()), moments.n_views,
        moments.n_features, tails_of(moments, model),
    )  # fmt: skip


def read_features(
    X: Any,
    criteria: Sequence[str] = ("icr",),
    *,
    n_folds: int = 10,
    random_state: int = 0,
    confidence: float = 0.95,
    regularization: float = 0.0,
    constant: str | None = None,
) -> tuple[Moments, list[Reading]]:
    """Moments of one layer at one level, from one pass, and a reading of each criterion.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature), or Moments
        Moments bring their own folds.
    criteria : sequence of {"icr", "information"}
    n_folds, random_state : int
        Folds over images, and the seed of their hash.
    confidence, regularization : float
        As for `read`.
    constant : str, optional
        What to do about constant features, for the message of a reading that cannot drop them.

    Returns
    -------
    Moments, list of Reading

    Raises
    ------
    NotEnoughDataError, DegenerateFeaturesError, IllConditionedError, NonFiniteError
        As `read`; NaN or infinity.

    Notes
    -----
    The pass judges its precision by the residual alone. Where a criterion's conditioning asks for more, the features
    are read a second time, in float64.
    """

    def read_all(moments: Moments) -> tuple[Moments, list[Reading]]:
        options: dict[str, Any] = {"confidence": confidence, "regularization": regularization}
        try:
            return moments, [read(moments, criterion, **options) for criterion in criteria]
        except DegenerateFeaturesError as error:
            never = [] if constant is None else constant_features(moments.total).tolist()
            if not never:
                raise
            which = f"{', '.join(map(str, never[:10]))}{', ...' if len(never) > 10 else ''}"
            raise DegenerateFeaturesError(
                f"{len(never)} of {moments.n_features} features are constant ({which}), such as dead units: {constant}"
            ) from error

    if isinstance(X, Moments):
        return read_all(X)
    moments = Moments.from_cube(X, n_folds=n_folds, random_state=random_state)
    try:
        return read_all(moments)
    except IllConditionedError:
        if moments.products == "float64":
            raise
    return read_all(Moments.from_cube(X, n_folds=n_folds, random_state=random_state, dtype="float64"))


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Errors of what is read inside say where: ``place`` comes before their message."""
    try:
        yield
    except READ_ERRORS as error:
        raise type(error)(f"{place}: {error}") from error


def warn_of_heavy_tails(readings: Mapping[str, Reading], confidence: float, *, stacklevel: int = 2) -> None:
    """Warn once of all readings, by their places, whose tails are too heavy for intervals and tests."""
    heavy = {place: r.tails for place, r in readings.items() if r.tails is not None and r.tails.heavy}
    if heavy:
        worst = max(heavy, key=lambda place: heavy[place].severity)
        where = worst if len(readings) == 1 else f"{worst} (and {len(heavy) - 1} of {len(readings) - 1} other places)"
        warn_of_tails(f"{where}: {heavy[worst]}", confidence, stacklevel=stacklevel + 1)


def fold_contributions(merits: ArrayLike, replicates: Vector) -> Vector:
    """What each fold of images contributes to a merit; the error of the mean of contributions is the jackknife's.

    Parameters
    ----------
    merits : float or array (...,)
    replicates : ndarray (..., n_folds)
        Merit without each fold.

    Returns
    -------
    ndarray (..., n_folds)
        merit + (G - 1)(mean of replicates - replicates): their mean is the merit.
    """
    others = replicates.shape[-1] - 1
    shifts = others * (replicates.mean(axis=-1, keepdims=True) - replicates)
    contributions: Vector = np.asarray(merits, dtype=np.float64)[..., None] + shifts
    return contributions


def difference_lengths(differences: Vector) -> Vector:
    """How long the differences between contributions of folds are; 0 where they are rounding, and nothing to test.

    Parameters
    ----------
    differences : ndarray (..., n_folds)
        Contributions to one merit less those to another.

    Returns
    -------
    ndarray (...,)
    """
    lengths = np.linalg.norm(differences, axis=-1)
    return np.asarray(np.where(lengths > _SAME * np.sqrt(differences.shape[-1]), lengths, 0.0))


def merits(readings: Sequence[Reading]) -> tuple[Vector, Vector]:
    """Merit of each reading, (n,), and merit without each fold, (n, n_folds)."""
    return np.array([r.merit for r in readings]), np.stack([r.replicates for r in readings])


def difference_error(a: Vector, b: Vector) -> float:
    """Standard error of the difference of two merits from their paired replicates."""
    return jackknife_error(b - a)
