"""Semantic window: the noise levels at which features are cleanest, with honest uncertainty.

Source: Li et al. 2026, arXiv 2606.09718, section 4 (the window). The set of levels that may be the best is Hsu's
multiple comparison with the best (Hsu 1984, Annals of Statistics 12(3)), on paired delete-a-fold replicates.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from icrkit.cube import Cube
from icrkit.exceptions import CubeFormatError
from icrkit.metrics._crossfit import Crossfit, crossfit, jackknife_error
from icrkit.metrics._decomposition import ResidualModel
from icrkit.metrics._icr import plug_in_snr
from icrkit.moments import Moments

__all__ = ["SemanticWindow", "best_levels", "window_around"]


def best_levels(crossfits: list[Crossfit], confidence: float = 0.95) -> NDArray[np.bool_]:
    """Which levels may have the lowest ICR: a simultaneous confidence set for the best.

    Parameters
    ----------
    crossfits : list of Crossfit, one a level
        Of the same images in the same folds.
    confidence : float
        Probability with which the truly best level is in the set.

    Returns
    -------
    ndarray of bool (n_levels,)

    Notes
    -----
    A level leaves the set when some other level is better by more than t times the jackknife error of their difference
    in log Q, which is monotone in ICR. The errors are of paired replicates: both levels lose the same fold. t has
    n_folds - 1 degrees of freedom and pays for the n_levels - 1 comparisons that the truly best level must survive
    (Bonferroni), so that it is left out with probability at most 1 - confidence, however the levels are correlated.
    """
    n_levels, n_folds = len(crossfits), crossfits[0].n_folds
    if n_levels == 1:
        return np.ones(1, dtype=bool)
    log_q = np.log([c.q for c in crossfits])
    replicates = np.stack([c.log_q for c in crossfits])
    limit = float(stats.t.ppf(1 - (1 - confidence) / (n_levels - 1), n_folds - 1))
    beaten = np.zeros(n_levels, dtype=bool)
    for level in range(n_levels):
        for other in range(n_levels):
            difference = log_q[other] - log_q[level]
            if difference > 0 and difference > limit * jackknife_error(replicates[other] - replicates[level]):
                beaten[level] = True
                break
    return ~beaten


def window_around(values: NDArray[np.float64], allowed: NDArray[np.bool_]) -> slice:
    """The contiguous run of allowed positions around the lowest value."""
    low = high = int(np.argmin(values))
    while low > 0 and allowed[low - 1]:
        low -= 1
    while high < len(values) - 1 and allowed[high + 1]:
        high += 1
    return slice(low, high + 1)


class SemanticWindow(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[misc, call-arg]
    """Chooses the noise level with the cleanest features, without labels.

    Parameters
    ----------
    layer : str or list of str, optional
        Layers to sweep; all by default, and `best_layer_` is that of the greatest total SNR at its best level.
    criterion : {"icr"}
        What the levels are ranked by: the lowest cross-fitted ICR.
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

    Attributes
    ----------
    best_sigma_ : float
        Candidate of the lowest ICR in `best_layer_`.
    best_layer_ : str
    confidence_set_ : ndarray
        Every candidate of `best_layer_` that may be the best.
    window_ : tuple of float
        (low, high): the contiguous run of `confidence_set_` around `best_sigma_`.
    at_edge_ : bool
        Whether the lowest ICR is at the first or last candidate: the optimum may lie outside.
    trained_range_ : (float, float) or None
    curve_ : xarray.Dataset
        ``icr``, ``low``, ``high``, ``plugin``, ``total_snr`` and ``in_set`` by layer and sigma, all levels, ascending;
        ``trained`` by sigma says which of them are candidates.

    Notes
    -----
    As a step of a Pipeline, ``transform`` selects the chosen layer and level. Layers of different width are compared by
    total SNR d R, since ICR itself is not comparable across d.

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
    ) -> None:
        self.layer = layer
        self.criterion = criterion
        self.n_folds = n_folds
        self.confidence = confidence
        self.regularization = regularization
        self.random_state = random_state
        self.trained_range = trained_range

    def fit(self, X: Any, y: Any = None) -> Self:
        """Sweep the levels of each layer, one pass each.

        Parameters
        ----------
        X : Cube, or DataArray (image, view, sigma, feature)
        y : ignored
        """
        if self.criterion != "icr":
            raise ValueError(f"criterion must be 'icr', not {self.criterion!r}")
        cube = X if isinstance(X, Cube) else Cube(X)
        if self.layer is not None:
            cube = cube.select(layer=self.layer)
        if np.isnan(cube.sigmas).any():
            raise CubeFormatError("a sweep needs noise levels, and this cube does not know its own: give sigmas")
        sigmas = np.sort(cube.sigmas)
        self.trained_range_ = self._trained_range(cube)
        low, high = self.trained_range_ or (-np.inf, np.inf)
        trained = (low <= sigmas) & (sigmas <= high)
        if not trained.any():
            raise CubeFormatError(
                f"no noise level lies in the trained range {low:g} to {high:g}: nothing to choose from. "
                "trained_range=None lets every level be chosen."
            )
        curve = xr.concat([self._sweep(cube, name, sigmas, trained) for name in cube.layers], dim="layer")
        self.curve_ = curve.assign(trained=("sigma", trained))
        self._choose(self.curve_.isel(sigma=np.flatnonzero(trained)))
        return self

    def _choose(self, candidates: xr.Dataset) -> None:
        lowest = candidates["icr"].to_numpy().argmin(axis=1)
        height = candidates["total_snr"].to_numpy()[np.arange(len(lowest)), lowest]
        self.best_layer_ = str(candidates["layer"].to_numpy()[height.argmax()])
        chosen = candidates.sel(layer=self.best_layer_)
        sigmas, icr, in_set = (chosen[name].to_numpy() for name in ("sigma", "icr", "in_set"))
        best = int(icr.argmin())
        run = sigmas[window_around(icr, in_set)]
        self.best_sigma_ = float(sigmas[best])
        self.confidence_set_ = sigmas[in_set]
        self.window_ = (float(run[0]), float(run[-1]))
        self.at_edge_ = best in (0, len(icr) - 1)

    def _trained_range(self, cube: Cube) -> tuple[float, float] | None:
        found: Any = self.trained_range
        if isinstance(found, str):
            if found != "auto":
                raise ValueError(f"trained_range must be 'auto', None or (low, high), not {found!r}")
            noise = cube.attrs.get("noise")
            found = noise.get("trained_range") if isinstance(noise, dict) else None
        if found is None:
            return None
        low, high = (float(sigma) for sigma in found)
        return low, high

    def _sweep(self, cube: Cube, layer: str, sigmas: NDArray[np.float64], trained: NDArray[np.bool_]) -> xr.Dataset:
        results, plugins, widths = [], [], []
        for sigma in sigmas:
            level = cube.select(layer=layer, sigma=sigma)
            moments = Moments.from_cube(level, n_folds=self.n_folds, random_state=self.random_state)
            model = ResidualModel(moments.total, self.regularization)
            model.error_bound(moments.products)
            plugins.append(1 / (1 + plug_in_snr(model, moments.total)))
            results.append(crossfit(moments, self.regularization))
            widths.append(moments.n_features)
        intervals = np.array([r.interval(self.confidence) for r in results])
        # Levels outside the trained range are no candidates: whether one of them may be the best is not asked.
        in_set = np.zeros(len(sigmas), dtype=bool)
        in_set[trained] = best_levels(
            [r for r, inside in zip(results, trained, strict=True) if inside], self.confidence
        )
        columns = {
            "icr": np.array([r.icr for r in results]),
            "low": intervals[:, 0],
            "high": intervals[:, 1],
            "plugin": np.array(plugins),
            "total_snr": np.array([d * r.mean_snr for d, r in zip(widths, results, strict=True)]),
            "in_set": in_set,
        }
        return xr.Dataset(
            {name: ("sigma", values) for name, values in columns.items()}, coords={"sigma": sigmas, "layer": layer}
        )

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
