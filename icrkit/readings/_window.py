"""Semantic window: the noise levels at which features are cleanest, with honest uncertainty.

Source: Li et al. 2026, arXiv 2606.09718, section 4 (the window). The set of levels that may be the best is Hsu's
multiple comparison with the best (Hsu 1984, Annals of Statistics 12(3)) on paired delete-a-fold replicates, with the
law of its largest t statistic from random rotations (Langsrud 2005, Statistics and Computing 15(1)). The documentation,
"Statistics", compares it with the model confidence set of Hansen, Lunde & Nason 2011.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from icrkit._features import NotForTables
from icrkit.cube import Cube
from icrkit.exceptions import CubeFormatError
from icrkit.metrics._decomposition import ResidualModel, dead_features, without_features
from icrkit.metrics._icr import plug_in_snr
from icrkit.moments import Moments
from icrkit.readings._evidence import Evidence
from icrkit.readings._pairing import sigma_range, trained_range_of
from icrkit.readings._reading import (
    CRITERIA,
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

__all__ = ["SemanticWindow", "best_levels", "p_best", "window_around"]

Vector = NDArray[np.float64]

LEAST_LEVELS = 3  # fewer have no lowest one between others
_N_ROTATIONS = 9_999  # p = .05 is known to .002


def best_levels(values: Vector, replicates: Vector, confidence: float = 0.95) -> NDArray[np.bool_]:
    """Which levels may be the best: a simultaneous confidence set.

    Parameters
    ----------
    values : ndarray (n_levels,)
        Merit of each level; greater is better.
    replicates : ndarray (n_levels, n_folds)
        Merit without each fold of images, the same folds at every level.
    confidence : float
        Probability with which the truly best level is in the set; where several are, each of them.

    Returns
    -------
    ndarray of bool (n_levels,)
        Never empty: the level of the greatest merit is in it.

    Notes
    -----
    See `p_best`: a level is in the set where its p is above 1 - confidence.

    Examples
    --------
    >>> import numpy as np
    >>> noise = 0.01 * np.random.default_rng(0).standard_normal((3, 10))
    >>> best_levels(np.array([1.0, 2.0, 1.999]), np.array([[1.0], [2.0], [1.999]]) + noise).tolist()
    [False, True, True]
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return p_best(values, replicates) > 1 - confidence


def p_best(values: Vector, replicates: Vector) -> Vector:
    """For each level the p-value of the hypothesis that no other level is better, from 0 to 1.

    Parameters
    ----------
    values : ndarray (n_levels,)
        Merit of each level; greater is better.
    replicates : ndarray (n_levels, n_folds)
        Merit without each fold of images, the same folds at every level.

    Returns
    -------
    ndarray (n_levels,)
        1 where the merit is the greatest.

    Notes
    -----
    The statistic of a level is the largest, over all others, of t = difference over the jackknife error of the paired
    replicates, or 0 where all are negative. Folds contribute to a difference what independent Gaussian vectors do, one
    a fold; where all levels are equal, which is the hardest case, their joint law stays what it is when the G
    contributions are rotated in the space of folds. So the law of the largest t, with the correlations between levels
    as they are and without estimating them, is that over random rotations of what was seen: exact for Gaussian
    contributions, for any number of levels and folds. Two levels give the one-sided t test. Cost: 9,999 n_levels^2
    operations; the rotations are the same in every call.

    References
    ----------
    Hsu 1984, Annals of Statistics 12(3), 1136-1144. Langsrud 2005, Statistics and Computing 15(1), 53-60.
    """
    n_folds = replicates.shape[1]
    folds = fold_contributions(values, replicates)
    folds = folds - folds.mean(axis=0)  # what all levels share cancels in every difference
    directions = np.random.default_rng(0).standard_normal((_N_ROTATIONS, n_folds))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    means = np.full((1, n_folds), n_folds**-0.5)  # the direction along which the means lie
    along = np.concatenate([means, directions]) @ folds.T
    p = np.empty(len(values))
    for level in range(len(values)):
        lengths = difference_lengths(folds - folds[level])
        # The cosine of a difference with the direction is monotone in t. That of the level itself, and of one that
        # differs by nothing, is 0.
        scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        greatest = ((along - along[:, level, None]) * scale).max(axis=1)
        p[level] = (1 + (greatest[1:] >= greatest[0]).sum()) / (1 + _N_ROTATIONS)
    return p


def window_around(values: Vector, allowed: NDArray[np.bool_]) -> slice:
    """The contiguous run of allowed positions around the greatest value."""
    low = high = int(np.argmax(values))
    while low > 0 and allowed[low - 1]:
        low -= 1
    while high < len(values) - 1 and allowed[high + 1]:
        high += 1
    return slice(low, high + 1)


class _Level(NamedTuple):
    """A layer at one level: the plug-in ICR, a reading of each criterion, and features that were left out."""

    plugin: float
    readings: dict[str, Reading]
    dropped: NDArray[np.int64]


class _Layer(NamedTuple):
    """A layer at all levels: its part of the curve, the readings of each criterion, and features that were left out."""

    curve: xr.Dataset
    readings: dict[str, list[Reading]]
    dropped: NDArray[np.int64]


class SemanticWindow(
    NotForTables,
    OneToOneFeatureMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
    """Chooses the noise level with the cleanest features, without labels.

    Parameters
    ----------
    layer : str or list of str, optional
        Layers to sweep; all by default, and `best_layer_` is that of the most invariant information at its best level.
    criterion : {"icr", "information"}
        What the levels are ranked by: the lowest cross-fitted ICR, or the most invariant information.
    n_folds : int
        Folds over images; fewer where there are few images.
    confidence : float
        Of the intervals, and of the set of levels that may be the best.
    regularization : float
        tau as a share of Tr(Sigma_xi)/d.
    random_state : int
        Seed of the fold hash.
    trained_range : "auto", None or (low, high)
        Noise levels that the network was trained on. Levels outside are measured, but cannot be chosen: features there
        are those of the network's extrapolation, and may look good again. "auto" takes what the cube records,
        ``attrs["noise"]["trained_range"]``, if anything; None lets every level be chosen.
    drop_constant : bool
        Leave out dead units, features that are constant at some level or nearly so, at every level of the layer, and
        record them, instead of refusing the layer.

    Attributes
    ----------
    best_sigma_ : float
        Best candidate of `best_layer_`.
    best_layer_ : str
    confidence_set_ : ndarray
        Every candidate of `best_layer_` that may be the best.
    has_evidence_ : bool
        Whether `best_sigma_` may be named: there are as many images as were studied, numbers are finite, features there
        are shown to hold something of their images, and some candidate is shown to be worse.
    window_ : tuple of float
        (low, high): the contiguous run of `confidence_set_` around `best_sigma_`.
    at_edge_ : bool
        Whether the best candidate is the first or last of them: the optimum may lie outside.
    trained_range_ : (float, float) or None
    n_features_in_ : int
        Features of `best_layer_`, those that were left out included.
    dropped_features_ : dict of str to ndarray of int
        By layer, what `drop_constant` left out; ``transform`` keeps all.
    curve_ : xarray.Dataset
        By layer and sigma, all levels, ascending: ``icr`` with ``low`` and ``high``, ``plugin``, ``total_snr``,
        ``information`` with ``information_low`` and ``information_high``, and ``in_set``; ``trained`` by sigma says
        which levels are candidates.
    refused_ : dict of str to str
        Layers that could not be measured, such as one too wide for the images, and why. The others are read.
    by_layer_ : xarray.Dataset
        By layer: ``best_sigma``, ``has_evidence``, ``window_low``, ``window_high``, ``at_edge``, ``icr`` and
        ``information`` at the best level, ``p_residual_only``, the p-value of the hypothesis that features there hold
        nothing of their images, by Bonferroni over the candidates, and ``may_be_best``, whether no other layer has more
        information, each at its best level.

    Notes
    -----
    As a step of a Pipeline, ``transform`` selects the chosen layer and level. Both criteria come from one pass over the
    features of a level; `criterion` says which of them decides. Layers of different width are compared by information,
    since ICR is not comparable across d. `may_be_best` takes each layer's best level as given.

    Examples
    --------
    >>> import icrkit as ik
    >>> window = ik.SemanticWindow().fit(ik.datasets.load_fashion_cube())
    >>> low, high = window.window_
    >>> low <= window.best_sigma_ <= high
    True
    """

    def __init__(
        self,
        layer: str | list[str] | None = None,
        criterion: str = "icr",
        n_folds: int = 10,
        *,
        confidence: float = 0.95,
        regularization: float = 0.0,
        random_state: int = 0,
        trained_range: str | tuple[float, float] | None = "auto",
        drop_constant: bool = False,
    ) -> None:
        self.layer = layer
        self.criterion = criterion
        self.n_folds = n_folds
        self.confidence = confidence
        self.regularization = regularization
        self.random_state = random_state
        self.trained_range = trained_range
        self.drop_constant = drop_constant

    def fit(self, X: Any, y: Any = None) -> Self:
        """Sweep the levels of each layer, one pass each.

        Parameters
        ----------
        X : Cube, or DataArray (image, view, sigma, feature)
            At least three noise levels.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        CubeFormatError
            Fewer than three levels, levels that are not known, none inside the trained range, or no such layer.
        NotEnoughDataError, DegenerateFeaturesError, IllConditionedError, NonFiniteError
            Of some layer at some level, where no layer is left; the message says which. Where others are left, it is
            a warning.
        """
        criterion_of(self.criterion)
        cube = X if isinstance(X, Cube) else Cube(X)
        if self.layer is not None:
            cube = cube.select(layer=self.layer)
        sigmas = np.sort(cube.sigmas)
        if np.isnan(sigmas).any():
            raise CubeFormatError(
                f"a sweep needs noise levels, {LEAST_LEVELS} or more, and these features are of a single one that is "
                "not recorded: sigmas says which they are of features (image, view, sigma, feature); "
                "icrkit.ICREstimator measures a single level"
            )
        if len(sigmas) < LEAST_LEVELS:
            raise CubeFormatError(
                f"a window needs at least {LEAST_LEVELS} noise levels, and this cube has {len(sigmas)} "
                f"({', '.join(f'{sigma:g}' for sigma in sigmas)}): among fewer none lies between others. Extract more; "
                "or compare two levels with icrkit.paired_difference, layers at one level by "
                "icrkit.InvariantInformation"
            )
        trained_range = self._trained_range(cube)
        low, high = trained_range or (-np.inf, np.inf)
        trained = (low <= sigmas) & (sigmas <= high)
        if not trained.any():
            raise CubeFormatError(
                f"no noise level lies in the trained range {low:g} to {high:g}: nothing to choose from. "
                "trained_range=None lets every level be chosen."
            )
        layers: dict[str, _Layer] = {}
        refused: dict[str, ValueError] = {}
        for name in cube.layers:
            try:
                layers[name] = self._sweep(cube, name, sigmas, trained)
            except READ_ERRORS as error:
                refused[name] = error
        if not layers:
            raise next(iter(refused.values()))
        self.refused_ = {name: str(error) for name, error in refused.items()}
        for name, reason in self.refused_.items():
            warnings.warn(f"layer {name} is left out: {reason}", stacklevel=2)
        self._warn_of_tails(layers, sigmas)
        curve = xr.concat([found.curve for found in layers.values()], dim="layer")
        self.trained_range_ = trained_range
        self.curve_ = curve.assign(trained=("sigma", trained))
        sizes = cube.n_images, cube.n_views
        self.dropped_features_ = {name: found.dropped for name, found in layers.items()}
        widths = {name: cube.n_features[name] - found.dropped.size for name, found in layers.items()}
        evidence = {name: Evidence(*sizes, width, self.n_folds) for name, width in widths.items()}
        self._choose(layers, evidence, sigmas, np.flatnonzero(trained))
        self.n_features_in_ = cube.n_features[self.best_layer_]
        return self

    def _warn_of_tails(self, layers: dict[str, _Layer], sigmas: Vector) -> None:
        readings = {
            f"layer {name} at sigma {sigma:g}": reading
            for name, layer in layers.items()
            for sigma, reading in zip(sigmas, layer.readings[self.criterion], strict=True)
        }
        warn_of_heavy_tails(readings, self.confidence, stacklevel=3)

    def _choose(
        self, layers: dict[str, _Layer], evidence: dict[str, Evidence], sigmas: Vector, candidates: NDArray[np.int64]
    ) -> None:
        rows, at_best = [], []
        for name, (curve, readings, _) in layers.items():
            merit, _ = merits([readings[self.criterion][k] for k in candidates])
            in_set = curve["in_set"].to_numpy()[candidates]
            best, run = int(merit.argmax()), sigmas[candidates[window_around(merit, in_set)]]
            at_best.append(readings["information"][candidates[best]])
            decides = readings[self.criterion][candidates[best]]
            is_finite = bool(np.isfinite([decides.value, decides.low, decides.high]).all())
            p = min(1.0, len(merit) * decides.p_residual_only(self.confidence))
            is_better = p < 1 - self.confidence and not bool(in_set.all())
            rows.append(
                {
                    "layer": name,
                    "best_sigma": sigmas[candidates[best]],
                    "has_evidence": evidence[name].enough and is_finite and is_better,
                    "p_residual_only": p,
                    "window_low": run[0],
                    "window_high": run[-1],
                    "at_edge": best in (0, len(merit) - 1),
                    **{criterion: readings[criterion][candidates[best]].value for criterion in CRITERIA},
                }
            )
        columns = {key: ("layer", [row[key] for row in rows]) for key in rows[0]}
        self.by_layer_ = xr.Dataset(
            {**columns, "may_be_best": ("layer", best_levels(*merits(at_best), self.confidence))}
        )
        self.best_layer_ = str(rows[int(np.argmax([one.merit for one in at_best]))]["layer"])
        chosen = self.by_layer_.sel(layer=self.best_layer_)
        self.best_sigma_ = float(chosen["best_sigma"])
        self.has_evidence_ = bool(chosen["has_evidence"])
        self.window_ = (float(chosen["window_low"]), float(chosen["window_high"]))
        self.at_edge_ = bool(chosen["at_edge"])
        self.confidence_set_ = sigmas[layers[self.best_layer_].curve["in_set"].to_numpy()]

    def _trained_range(self, cube: Cube) -> tuple[float, float] | None:
        found: Any = self.trained_range
        if isinstance(found, str):
            if found != "auto":
                raise ValueError(f"trained_range must be 'auto', None or (low, high), not {found!r}")
            return trained_range_of(cube)
        return None if found is None else sigma_range(found, "trained_range")

    def _sweep(self, cube: Cube, layer: str, sigmas: Vector, trained: NDArray[np.bool_]) -> _Layer:
        nothing = np.empty(0, dtype=np.int64)
        levels = [self._read(cube, layer, sigma, nothing) for sigma in sigmas]
        dropped = functools.reduce(np.union1d, (level.dropped for level in levels))
        # Levels compare over the same features only: those that lost fewer are read again.
        levels = [
            level if level.dropped.size == dropped.size else self._read(cube, layer, sigma, dropped)
            for level, sigma in zip(levels, sigmas, strict=True)
        ]
        plugins = [level.plugin for level in levels]
        readings = {name: [level.readings[name] for level in levels] for name in CRITERIA}
        # Levels outside the trained range are no candidates: whether one of them may be the best is not asked.
        in_set = np.zeros(len(sigmas), dtype=bool)
        candidates = [one for one, inside in zip(readings[self.criterion], trained, strict=True) if inside]
        in_set[trained] = best_levels(*merits(candidates), self.confidence)
        icr, information = (readings[name] for name in ("icr", "information"))
        columns = {
            "icr": [one.value for one in icr],
            "low": [one.low for one in icr],
            "high": [one.high for one in icr],
            "plugin": plugins,
            "total_snr": [one.n_features * (1 / one.value - 1) for one in icr],
            "information": [one.value for one in information],
            "information_low": [one.low for one in information],
            "information_high": [one.high for one in information],
            "in_set": in_set,
        }
        curve = xr.Dataset(
            {name: ("sigma", np.asarray(values)) for name, values in columns.items()},
            coords={"sigma": sigmas, "layer": layer},
        )
        return _Layer(curve, readings, dropped)

    def _read(self, cube: Cube, layer: str, sigma: float, dropped: NDArray[np.int64]) -> _Level:
        """One level without the features in ``dropped``, and without those that are constant where they may be."""
        folds: dict[str, Any] = {"n_folds": self.n_folds, "random_state": self.random_state}
        X: Any = cube.select(layer=layer, sigma=sigma)
        with naming(f"layer {layer}, sigma {sigma:g}"):
            if self.drop_constant:
                # In float64 at once: what is left is not read a second time.
                moments = Moments.from_cube(X, dtype="float64", **folds)
                dropped = np.union1d(dropped, dead_features(moments))
                X = without_features(moments, dropped)
            moments, found = read_features(
                X,
                tuple(CRITERIA),
                **folds,
                confidence=self.confidence,
                regularization=self.regularization,
                constant="drop_constant=True leaves them out at every level",
            )
        snr = plug_in_snr(ResidualModel(moments.total, self.regularization), moments.total)
        return _Level(1 / (1 + float(snr)), dict(zip(CRITERIA, found, strict=True)), dropped)

    def transform(self, X: Any) -> Cube:
        """X at the chosen layer and level, still lazy."""
        check_is_fitted(self)
        cube = X if isinstance(X, Cube) else Cube(X)
        if self.best_layer_ not in cube.layers:
            raise CubeFormatError(f"the window was fitted on layer {self.best_layer_!r}; X has {list(cube.layers)}")
        return cube.select(layer=self.best_layer_, sigma=self.best_sigma_)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Accepted, so that a Pipeline can pass it on; the result is a cube."""
        return self
