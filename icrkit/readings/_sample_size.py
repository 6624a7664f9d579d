"""How many images: those that a wanted precision needs, from a pilot, and the curve of ICR against their number.

The standard error of a value is scaled from the pilot's number of images and views to another by the law that Gaussian
features would have; what the pilot showed beyond that law, tails and scales that differ between images, is kept as a
factor. Ours; how well it predicts is in the documentation, "Statistics".
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from icrkit._features import Features, as_features
from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NotEnoughDataError
from icrkit.linalg import SpdFactor
from icrkit.metrics._crossfit import (
    crossfit,
    direction_shape,
    direction_variance,
    fold_traces,
    jackknife_error,
    scale_variation,
)
from icrkit.metrics._decomposition import (
    ResidualModel,
    between_covariance,
    held_out_folds,
    residual_covariance,
)
from icrkit.metrics._icr import plug_in_snr
from icrkit.moments import Moments, fold_of_images
from icrkit.readings._evidence import LEAST_DOF
from icrkit.readings._reading import Reading, criterion_of, read_features, warn_of_heavy_tails

__all__ = ["SampleSize", "sample_size", "sample_size_curve"]

MOST_IMAGES = 10**9
_WITHOUT = "leave them out, as by cube.level().isel(feature=varying) or array[..., varying]"
_PILOT_FOLDS = (10, 50)  # the more, the better its variance is known; of four images or more


@dataclasses.dataclass(frozen=True)
class SampleSize:
    """How many images are needed; printed, one sentence.

    Attributes
    ----------
    n_images : int
        Images needed with as many views as the pilot has.
    by_views : dict of int to int
        Images needed, by number of views: more views of an image make up for fewer images, up to a point.
    half_width, confidence : float
        What was asked for.
    criterion : str
        "icr" or "information".
    value : float
        Of the pilot.
    n_views : int
        Of the pilot.
    pilot_images : int
    pilot_half_width : float
        Half the width of the interval, at this confidence, with the pilot's images and views, as predicted.
    """

    n_images: int
    by_views: dict[int, int]
    half_width: float
    confidence: float
    criterion: str
    value: float
    n_views: int
    pilot_images: int
    pilot_half_width: float

    def __str__(self) -> str:
        """One sentence: the images needed, at the pilot's views and at others."""
        others = " or ".join(f"{n:,} of {v}" for v, n in self.by_views.items() if v != self.n_views)
        quantity, unit = ("ICR", "") if self.criterion == "icr" else ("information", " nats")
        return (
            f"{self.n_images:,} images of {self.n_views} views give {quantity} {self.value:.3g} to within "
            f"{self.half_width:g}{unit} at {self.confidence:.0%}{f'; so do {others}' if others else ''}. The pilot's "
            f"{self.pilot_images:,} give it to {self.pilot_half_width:.2g}{unit}."
        )


def sample_size(
    pilot: Any,
    half_width: float = 0.01,
    *,
    criterion: str = "icr",
    confidence: float = 0.95,
    views: Sequence[int] = (2, 4, 8),
    n_folds: int = 10,
    random_state: int = 0,
) -> SampleSize:
    """Number of images needed for a confidence interval of a wanted half-width.

    Parameters
    ----------
    pilot : Cube, DataArray, array (image, view, feature), or Moments
        One layer at one level. The more images the better it knows the tails: with four a feature the half-width that
        was reached was .8 to 1.1 of the wanted one for Gaussian residuals, and up to 1.7 for heavy ones; with 32 a
        feature up to 1.2.
    half_width : float
        Half the width of the interval: of ICR, or in nats.
    criterion : {"icr", "information"}
    confidence : float
    views : sequence of int
        Numbers of views for the table; the pilot's own is added.
    n_folds : int
        Folds with which the interval will be made, two or more.
    random_state : int
        Seed of the fold hash.

    Returns
    -------
    SampleSize

    Raises
    ------
    ValueError
        A half-width that is not positive, is beyond what ICR can vary by, or would need more than a billion images;
        fewer than two views or folds.
    NotEnoughDataError, DegenerateFeaturesError, IllConditionedError
        The pilot cannot be measured.

    Notes
    -----
    For Gaussian features the variance of log Q is 2 (s + 1/d + e)/n + 2 (1/d + e)/(n (V-1)) from the images under the
    traces, s = Tr((P Sigma_B)^2)/Tr(P Sigma_B)^2 - 1/d, n = N - G, e = 1/(m' - d), m' = (N - N/G - 1)(V-1), and
    2 (s + 1/(N-1) + 1/m)/(m-d-3) from the direction of the inverse, m = (N-1)(V-1). That of information is
    S/2 (1/(N-1) + 1/m) (G/(G-1))^2/(1 - d/m'), S = sum_i ((lambda_i + 1/V)/(lambda_i + 1))^2. The pilot's own
    variances, over these, give the factors of its tails, which are taken to be the same at every N and V. s and S at
    other V follow from the pilot's: Sigma_B is Sigma_s + Sigma_xi/V.

    A pilot of features is cut into up to 50 folds, so that its variance is known to 20 % and the half-width to 10 %;
    Moments bring their own, and with 10 folds know it to half of that.

    Examples
    --------
    >>> import icrkit as ik
    >>> from icrkit.readings._sample_size import sample_size
    >>> pilot = ik.datasets.make_cube(n_images=400, n_features=8, icr=0.5, random_state=0)
    >>> needed = sample_size(pilot, half_width=0.02)
    >>> 1000 < needed.n_images < 4000
    True
    >>> needed.by_views[4] < needed.by_views[2]
    True
    """
    criterion_of(criterion)
    _check_half_width(half_width, criterion)
    if min(views, default=2) < 2:
        raise ValueError(f"views must be 2 or more, not {list(views)}: the residual is what differs between them")
    if operator.index(n_folds) < 2:
        raise ValueError(f"n_folds must be 2 or more, not {n_folds}: the interval rests on what differs between folds")
    if isinstance(pilot, Moments):
        moments, (reading,) = read_features(pilot, (criterion,), confidence=confidence, constant=_WITHOUT)
    else:
        features = as_features(pilot)
        folds = int(np.clip(features.shape[0] // 4, *_PILOT_FOLDS))
        options: dict[str, Any] = {"n_folds": folds, "random_state": random_state, "confidence": confidence}
        moments, (reading,) = read_features(features, (criterion,), constant=_WITHOUT, **options)
    n, v, d = reading.n_images, reading.n_views, reading.n_features
    if (n - 1) * (v - 1) < 2 * d:
        warnings.warn(
            f"a pilot of {n} images x {v} views is small for {d} features: it will ask for too many images. Take at "
            "least twice as many as features.",
            stacklevel=2,
        )
    warn_of_heavy_tails({"the pilot": reading}, confidence)
    law = (_ICRSpread if criterion == "icr" else _InformationSpread).of(moments, reading)
    quantile = float(stats.t.ppf(0.5 + confidence / 2, n_folds - 1))

    def half_width_of(n_images: int, n_views: int) -> float:
        return _half_width(reading, quantile * float(np.sqrt(law.variance(n_images, n_views, n_folds))), n_views)

    def needed(n_views: int) -> int:
        """Smallest number, from the least that was studied, at which the interval is narrow enough."""
        if half_width_of(MOST_IMAGES, n_views) > half_width:
            raise ValueError(f"half_width={half_width:g} would need more than a billion images of {n_views} views")
        low = max(int(LEAST_DOF * d / (n_views - 1) * n_folds / (n_folds - 1)), 2 * n_folds)
        high = MOST_IMAGES
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if half_width_of(middle, n_views) <= half_width else (middle, high)
        return high

    found = {number: needed(number) for number in sorted({v, *map(int, views)})}
    return SampleSize(
        n_images=found[v], by_views=found, half_width=half_width, confidence=confidence, criterion=criterion,
        value=reading.value, n_views=v, pilot_images=n, pilot_half_width=half_width_of(n, v),
    )  # fmt: skip


def sample_size_curve(
    X: Any,
    sizes: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    n_folds: int = 10,
    random_state: int = 0,
    n_views: int | None = None,
    groups: Any = None,
) -> xr.Dataset:
    """ICR of nested random subsets of the images, by three estimates: what more images change, and what is bias.

    Parameters
    ----------
    X : Cube, DataArray, array (image, view, feature), or rows (row, feature)
        One layer at one level.
    sizes : array of int, optional
        Numbers of images, ascending, at least two apart; ten from the number of features to all images by default.
    confidence : float
    n_folds : int
        Folds over images for the cross-fitted estimate.
    random_state : int
        Seed of the subsets and of the folds.
    n_views, groups : int, array (row,)
        How rows belong to images, for 2-D X.

    Returns
    -------
    xarray.Dataset
        By ``n_images``: ``plugin``, the paper's number, 0 where m <= d, its limit as tau goes to 0; ``gaussian``;
        ``crossfit`` with its interval ``low``, ``high``; NaN where an estimate needs more images, or a feature is
        constant in those there are. ``plugin_expected``
        is what the plug-in's bias makes of the last cross-fitted value where residuals are Gaussian. In ``attrs``:
        n_features, n_views, confidence.

    Raises
    ------
    ValueError
        Sizes that are not ascending, closer than two, or more than there are images.
    NotEnoughDataError, DegenerateFeaturesError, IllConditionedError
        All images together cannot be measured.

    Notes
    -----
    A subset is the images whose hashes are lowest, so that each holds the smaller ones and their order in X does not
    matter. Every image is read once: moments of those that come to a subset are added to the ones before.

    The plug-in's mean is about m/(m-d-1) (R + 1/V) - 1/V in place of R: with heavy tails it is lower still.

    References
    ----------
    Li et al. 2026, arXiv 2606.09718, shows the plug-in against the number of images, and takes it for convergence.

    Examples
    --------
    >>> import icrkit as ik
    >>> from icrkit.readings._sample_size import sample_size_curve
    >>> cube = ik.datasets.make_cube(n_images=2000, n_features=16, icr=0.5, random_state=0)
    >>> curve = sample_size_curve(cube, [16, 64, 2000])
    >>> curve["plugin"].values.round(1).tolist(), curve["crossfit"].values.round(1).tolist()
    ([0.0, 0.4, 0.5], [nan, 0.5, 0.5])
    """
    features = as_features(X, n_views=n_views, groups=groups)
    n, v, d = features.shape
    counts = _sizes(sizes, n, d)
    # Another seed than that of the folds: every fold is to grow with the subset.
    hashes = fold_of_images(features.units, 2**62, random_state + 2**31)
    order = np.argsort(hashes, kind="stable")
    options: dict[str, Any] = {"n_folds": n_folds, "random_state": random_state}
    moments = Moments.empty(v, d, n_folds=n_folds, views_ordered=features.views_ordered)
    rows = []
    for start, stop in itertools.pairwise([0, *counts]):
        moments += Moments.from_cube(_images(features, np.sort(order[start:stop])), **options)
        rows.append(_estimates(moments, confidence))
    last = crossfit(moments)  # which says what is missing, where anything is
    rows = [row | {"plugin_expected": _expected(last.q, n, v, d)} for row, n in zip(rows, counts, strict=True)]
    return xr.Dataset(
        {name: ("n_images", np.array([row[name] for row in rows])) for name in rows[0]},
        coords={"n_images": counts},
        attrs={"n_features": d, "n_views": v, "confidence": confidence},
    )


def _sizes(sizes: ArrayLike | None, n_images: int, n_features: int) -> list[int]:
    if sizes is not None:
        counts = [int(size) for size in np.atleast_1d(np.asarray(sizes))]
        if not counts or min(np.diff([0, *counts])) < 2 or counts[-1] > n_images:
            raise ValueError(f"sizes must ascend by two or more, up to the {n_images} images there are, not {counts}")
        return counts
    counts = []
    for size in np.geomspace(min(max(n_features, 10), n_images), n_images, 10).round().astype(int).tolist():
        if not counts or counts[-1] + 2 <= size <= n_images - 2:
            counts.append(size)
    return [*(size for size in counts if size <= n_images - 2), n_images]


def _images(features: Features, rows: NDArray[np.int64]) -> Features:
    groups = None if features.groups is None else features.groups[rows]
    return dataclasses.replace(features, array=features.array[rows], image_ids=features.image_ids[rows], groups=groups)


def _estimates(moments: Moments, confidence: float) -> dict[str, float]:
    """Each estimate of ICR; NaN where it needs more images."""
    found = dict.fromkeys(("plugin", "gaussian", "crossfit", "low", "high"), np.nan)
    total = moments.total
    try:
        model = ResidualModel(total)
        found["plugin"] = 1 / (1 + plug_in_snr(model, total))
        found["gaussian"] = 1 / (1 + plug_in_snr(model, total, "gaussian"))
        result = crossfit(moments)
    except DegenerateFeaturesError:
        return dict.fromkeys(found, np.nan)  # a feature that varies in other images only
    except (NotEnoughDataError, IllConditionedError):
        if np.isnan(found["plugin"]):  # the whitened signal is without bound
            found["plugin"] = 0.0
        return found
    found["crossfit"] = result.icr
    found["low"], found["high"] = result.interval(confidence)
    return found


def _expected(q: float, n_images: int, n_views: int, n_features: int) -> float:
    """Plug-in ICR that Gaussian residuals give on the average where Q is this."""
    m = (n_images - 1) * (n_views - 1)
    return 1 / (1 + m / (m - n_features - 1) * q - 1 / n_views) if m > n_features + 1 else 0.0


# ---- standard errors at another number of images and views ----------------------------------------------------------


class _Spread(Protocol):
    def variance(self, n_images: int, n_views: int, n_folds: int) -> float:
        """Of the merit."""


@dataclasses.dataclass(frozen=True)
class _ICRSpread:
    """Variance of log Q: see `sample_size`.

    Attributes
    ----------
    n_features : int
    signal, squares : float
        sum_i lambda_i and sum_i lambda_i^2.
    kappa : float
        Squared variation of the residual scale between images.
    factor : float
        Variance from the images under the traces, over that of Gaussian features.
    """

    n_features: int
    signal: float
    squares: float
    kappa: float
    factor: float = 1.0

    @classmethod
    def of(cls, moments: Moments, reading: Reading) -> Self:
        """As the pilot shows it."""
        found, model = crossfit(moments), ResidualModel(moments.total)
        n, v, d = reading.n_images, reading.n_views, reading.n_features
        powers = model.trace_powers(between_covariance(moments.total))
        shape = direction_shape(*powers, n_images=n, d=d, dof=model.dof)
        residual = np.array([fold.residual for fold in fold_traces(held_out_folds(moments))])
        kappa = scale_variation(residual, n_images=n, n_views=v, d=d)
        between = d * found.q  # sum_i (lambda_i + 1/V)
        signal = max(between - d / v, 0.0)
        squares = max((shape + 1 / d) * between**2 - 2 * signal / v - d / v**2, signal**2 / d)
        gaussian = cls(d, signal, squares, kappa)
        seen = found.standard_error**2 - found.direction_variance
        return dataclasses.replace(gaussian, factor=seen / gaussian._of_images(n, v, found.n_folds))

    def variance(self, n_images: int, n_views: int, n_folds: int) -> float:
        """Of log Q."""
        d, dof = self.n_features, (n_images - 1) * (n_views - 1)
        direction = direction_variance(self._shape(n_views), self.kappa, n_images=n_images, d=d, dof=dof)
        return self.factor * self._of_images(n_images, n_views, n_folds) + direction

    def _of_images(self, n_images: int, n_views: int, n_folds: int) -> float:
        d = self.n_features
        inverse = 1 / max(_held_in(n_images, n_views, n_folds) - d, 1.0)
        n = n_images - n_folds  # each fold has a mean of its own
        return 2 * (self._shape(n_views) + 1 / d + inverse) / n + 2 * (1 / d + inverse) / (n * (n_views - 1))

    def _shape(self, n_views: int) -> float:
        """Tr((P Sigma_B)^2)/Tr(P Sigma_B)^2 - 1/d."""
        d, v = self.n_features, n_views
        squares = self.squares + 2 * self.signal / v + d / v**2
        return max(squares / (self.signal + d / v) ** 2 - 1 / d, 0.0)


@dataclasses.dataclass(frozen=True)
class _InformationSpread:
    """Variance of information: see `sample_size`.

    Attributes
    ----------
    n_features : int
    signal, squares : float
        sum_i u_i and sum_i u_i^2, u = lambda/(lambda + 1).
    factor : float
        Variance over that of Gaussian features.
    """

    n_features: int
    signal: float
    squares: float
    factor: float = 1.0

    @classmethod
    def of(cls, moments: Moments, reading: Reading) -> Self:
        """As the pilot shows it."""
        total, n, v, d = moments.total, reading.n_images, reading.n_views, reading.n_features
        between, share = between_covariance(total), 1 - 1 / v
        # T^-1 B holds u + (1 - u)/V of a direction, T the covariance of single views.
        first, second = SpdFactor(between + share * residual_covariance(total)).trace_powers(between)
        signal = float(np.clip((first - d / v) / share, 0.0, d))
        squares = (second - 2 * share * signal / v - d / v**2) / share**2
        gaussian = cls(d, signal, float(np.clip(squares, signal**2 / d, signal)))
        seen = jackknife_error(reading.replicates) ** 2
        return dataclasses.replace(gaussian, factor=seen / gaussian.variance(n, v, reading.n_folds))

    def variance(self, n_images: int, n_views: int, n_folds: int) -> float:
        """In squared nats."""
        d, v, share = self.n_features, n_views, 1 - 1 / n_views
        directions = share**2 * self.squares + 2 * share * self.signal / v + d / v**2
        inverse = max(1 - d / _held_in(n_images, n_views, n_folds), 1 / d)
        n, m = n_images - 1, (n_images - 1) * (n_views - 1)
        held_out = (n_folds / (n_folds - 1)) ** 2  # a fold against the others is wider than against all
        return self.factor * held_out * directions * (1 / n + 1 / m) / (2 * inverse)


def _held_in(n_images: int, n_views: int, n_folds: int) -> float:
    """Residual degrees of freedom without one of the folds."""
    return (n_images * (1 - 1 / n_folds) - 1) * (n_views - 1)


def _half_width(reading: Reading, half: float, n_views: int) -> float:
    """Half the width of the interval of the value, from that of the merit with so many views."""
    if reading.criterion.name == "information":
        return half
    q = max(1 / reading.value - 1, 0.0) + 1 / n_views  # of no less than no signal
    low, high = (1 / (1 + q * np.exp(step) - 1 / n_views) for step in (half, -half))
    return float(high - low) / 2


def _check_half_width(half_width: float, criterion: str) -> None:
    if not (np.isfinite(half_width) and half_width > 0):
        raise ValueError(f"half_width must be positive, not {half_width}")
    if criterion == "icr" and half_width >= 0.5:
        raise ValueError(f"half_width={half_width:g}: ICR lies between 0 and 1, and any value is within that")
