"""All numbers of a sweep over noise levels, and the sentences that say what they mean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from icrkit.cube import Cube
from icrkit.metrics import FisherSpectrum
from icrkit.plot import SigmaCurveDisplay
from icrkit.readings import SemanticWindow
from icrkit.report._figure import figure

__all__ = ["PANELS", "Sweep"]

# Heights of the curve and of the accuracies below it.
PANELS = (1.7, 1.0)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Result of a sweep: what tables, figures, pages and JSON are made from.

    Attributes
    ----------
    window : SemanticWindow
        Fitted.
    curve : xarray.Dataset
        By layer and sigma: the variables of ``window.curve_``, and where a probe was run ``accuracy`` and
        ``accuracy_error``.
    spectrum : FisherSpectrum
        Of the chosen layer at the chosen level.
    n_images, n_views : int
    n_features : dict
        By layer.
    attrs : dict
        Attributes of the cube.
    probe : str
        What the accuracies are of, in words.
    rank_correlation : dict
        Layer to Spearman's correlation of ICR with accuracy, (over the levels inside the trained range, over all);
        empty without a probe, or with fewer than three levels inside.
    """

    window: SemanticWindow
    curve: xr.Dataset
    spectrum: FisherSpectrum
    n_images: int
    n_views: int
    n_features: dict[str, int]
    attrs: dict[str, Any]
    probe: str = ""
    rank_correlation: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, cube: Cube, layer: str | None = None) -> Self:
        """Sweep a cube.

        Parameters
        ----------
        cube : Cube
            With known noise levels.
        layer : str, optional
            All layers by default.

        Returns
        -------
        Sweep

        Raises
        ------
        CubeFormatError
            If noise levels are not known, or none is inside the trained range.

        Examples
        --------
        >>> import icrkit as ik
        >>> cube = ik.datasets.make_cube(n_images=200, n_features=4, icr=[0.3, 0.6], sigmas=[0.1, 1.0])
        >>> Sweep.of(cube).headline
        'Layer features is cleanest at noise level σ = 0.1'
        """
        window = SemanticWindow(layer=layer).fit(cube)
        return cls(
            window=window,
            curve=window.curve_,
            spectrum=FisherSpectrum().fit(window.transform(cube)),
            n_images=cube.n_images,
            n_views=cube.n_views,
            n_features=cube.n_features,
            attrs=cube.attrs,
        )

    @property
    def trained_range(self) -> tuple[float, float] | None:
        """Noise levels that the network was trained on, as the cube records them."""
        return self.window.trained_range_

    # ---- what was found, in words ---------------------------------------------------------------------------------

    @property
    def layers(self) -> list[str]:
        """Names of the layers, the chosen one first."""
        names = [str(name) for name in self.curve["layer"].to_numpy()]
        return sorted(names, key=lambda name: name != self.window.best_layer_)

    @property
    def headline(self) -> str:
        """The answer in one sentence, without its full stop."""
        return f"Layer {self.window.best_layer_} is cleanest at noise level σ = {self.window.best_sigma_:g}"

    @property
    def sentences(self) -> list[str]:
        """What else there is to say about the choice, most important first."""
        window, best = self.window, self._at(self.window.best_layer_, self.window.best_sigma_)
        (low, high), candidates = window.window_, window.confidence_set_
        sure = f"{window.confidence:.0%}"
        words = f"Its ICR is {best['icr']:.3f} there, {sure} interval {best['low']:.3f} to {best['high']:.3f}. "
        if len(candidates) == 1:
            words += f"With {sure} confidence no other level is better."
        else:
            words += f"The window is {low:g} to {high:g}; "
            words += f"with {sure} confidence the best level is one of {_listed(candidates)}."
        said = [words]
        if window.at_edge_ and len(window.curve_["sigma"]) > 1:
            said.append("It is the first or last level that could be chosen: the best one may lie beyond.")
        outside = self._outside()
        if outside:
            said.append(outside)
        if "accuracy" in self.curve:
            said.append(self._said_of_accuracy())
        return said

    def _said_of_accuracy(self) -> str:
        layer = self.window.best_layer_
        one = self.curve.sel(layer=layer)
        trained = one.isel(sigma=np.flatnonzero(one["trained"].to_numpy()))
        top = trained.isel(sigma=int(trained["accuracy"].to_numpy().argmax()))
        chosen = self._at(layer, self.window.best_sigma_)
        words = (
            f"No label was used to choose. {self.probe[:1].upper()}{self.probe[1:]}: accuracy "
            f"{chosen['accuracy']:.1%} ± {chosen['accuracy_error']:.1%} at the chosen level"
        )
        if float(top["sigma"]) == self.window.best_sigma_:
            words += ", the highest of all candidates."
        else:
            words += f"; the highest of all candidates is {float(top['accuracy']):.1%} at {float(top['sigma']):g}."
        if layer in self.rank_correlation:
            inside, everywhere = self.rank_correlation[layer]
            words += f" Rank correlation of ICR with accuracy over the candidates: {inside:.2f}"
            words += "." if bool(self.curve["trained"].all()) else f" ({everywhere:.2f} over all levels)."
        return words

    def _outside(self) -> str:
        """What lies beyond the noise that the network was trained on."""
        if self.trained_range is None or bool(self.curve["trained"].all()):
            return ""
        low, high = self.trained_range
        sigma = self.curve["sigma"].to_numpy()
        parts = [
            f"{_listed(levels, 'and')} {'lie' if len(levels) > 1 else 'lies'} {where}"
            for levels, where in ((sigma[sigma < low], "below"), (sigma[sigma > high], "above"))
            if len(levels)
        ]
        words = f"{', '.join(parts)} the noise this network was trained on ({low:.2g} to {high:.2g}): "
        words += "measured, but no candidates"
        one = self.curve.sel(layer=self.window.best_layer_)
        beyond = float(one["icr"].where(~one["trained"]).min())
        if beyond < self._at(self.window.best_layer_, self.window.best_sigma_)["icr"]:
            words += f", though ICR goes down to {beyond:.3f} there"
        return words + "."

    def _at(self, layer: str, sigma: float) -> dict[str, float]:
        one = self.curve.sel(layer=layer, sigma=sigma)
        return {str(name): float(one[name]) for name in one.data_vars}

    # ---- what was found, in rows ----------------------------------------------------------------------------------

    def rows(self, layer: str) -> list[dict[str, Any]]:
        """One dict a level, ascending: the variables of the curve, and ``best``, the lowest ICR of the candidates."""
        one = self.curve.sel(layer=layer).drop_vars("layer")
        best = float(one["sigma"][int(np.nanargmin(one["icr"].where(one["trained"]).to_numpy()))])
        columns = {"sigma": one["sigma"].to_numpy().tolist()}
        columns |= {str(name): one[name].to_numpy().tolist() for name in one.data_vars}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [{**row, "best": row["sigma"] == best} for row in rows]

    def to_text(self, layer: str | None = None) -> str:
        """Table of one layer, by default the chosen one, for a terminal."""
        layer = layer or self.window.best_layer_
        rows = self.rows(layer)
        with_accuracy = "accuracy" in self.curve
        lines = [f"layer {layer} ({self.n_features[layer]} features), {self.n_images} images x {self.n_views} views"]
        lines.append(
            f"    sigma    ICR   {self.window.confidence:.0%} interval   plug-in" + "   accuracy" * with_accuracy
        )
        for row in rows:
            mark = "->" if row["best"] else " *" if row["in_set"] else "  "
            text = f"{mark} {row['sigma']:>6.4g}  {row['icr']:.3f}"
            text += f"   {row['low']:.3f} - {row['high']:.3f}   {row['plugin']:.3f}"
            if with_accuracy:
                text += f"     {row['accuracy']:.3f} +- {row['accuracy_error']:.3f}"
            lines.append(text if row["trained"] else f"{text}   outside the trained range")
        lines.append("-> lowest ICR   * may be the best level")
        return "\n".join(lines)

    def with_accuracy(self, accuracy: xr.Dataset, probe: str) -> Self:
        """The same sweep with accuracies of a probe beside it.

        Parameters
        ----------
        accuracy : xarray.Dataset
            ``accuracy`` and ``accuracy_error`` by layer and sigma.
        probe : str
            What was run, in words.
        """
        curve = self.curve.merge(accuracy, join="left")
        inside = curve.isel(sigma=np.flatnonzero(curve["trained"].to_numpy()))
        correlation = {}
        if inside.sizes["sigma"] > 2:
            for layer in self.layers:
                one, whole = (part.sel(layer=layer) for part in (inside, curve))
                correlation[layer] = (_rank_correlation(one), _rank_correlation(whole))
        return dataclasses.replace(self, curve=curve, probe=probe, rank_correlation=correlation)

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps(self.to_dict(), indent=1, default=lambda value: np.asarray(value).tolist())

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        window = self.window
        layers = {
            layer: {
                "n_features": self.n_features[layer],
                "best_sigma": next(row["sigma"] for row in self.rows(layer) if row["best"]),
                "confidence_set": [row["sigma"] for row in self.rows(layer) if row["in_set"]],
                "rank_correlation": self.rank_correlation.get(layer, (None, None))[0],
                "rank_correlation_all_levels": self.rank_correlation.get(layer, (None, None))[1],
                "levels": [{k: v for k, v in row.items() if k != "best"} for row in self.rows(layer)],
            }
            for layer in self.layers
        }
        return {
            "best_layer": window.best_layer_,
            "best_sigma": window.best_sigma_,
            "window": list(window.window_),
            "confidence_set": window.confidence_set_.tolist(),
            "confidence": window.confidence,
            "at_edge": window.at_edge_,
            "trained_range": None if self.trained_range is None else list(self.trained_range),
            "says": [self.headline + ".", *self.sentences],
            "n_images": self.n_images,
            "n_views": self.n_views,
            "probe": self.probe or None,
            "layers": layers,
            "spectrum": {
                "eigenvalues": self.spectrum.eigenvalues_.tolist(),
                "n_negative": self.spectrum.n_negative_,
            },
            "attrs": self.attrs,
        }

    def draw(self, ax: Any = None) -> SigmaCurveDisplay:
        """The curve of the chosen layer; see :meth:`icrkit.plot.SigmaCurveDisplay.plot` for ``ax``."""
        one = self.curve.sel(layer=self.window.best_layer_)
        accuracy = {name: one[name].to_numpy() for name in ("accuracy", "accuracy_error") if name in one}
        return SigmaCurveDisplay.from_estimator(self.window, **accuracy, ax=ax)

    def save_figure(self, path: str | Path) -> Path:
        """Write the curve of the chosen layer to a file: PNG, SVG or PDF, by its ending.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        ValueError
            If the ending is none that matplotlib writes.
        """
        path = Path(path)
        two = "accuracy" in self.curve
        with figure((7.2, 5.6 if two else 4.2), PANELS if two else ()) as (canvas, axes):
            self.draw(axes)
            canvas.savefig(path, dpi=200)
        return path


def _rank_correlation(one: xr.Dataset) -> float:
    return float(spearmanr(one["icr"], one["accuracy"]).statistic)


def _listed(levels: Iterable[float], last: str = "or") -> str:
    *others, end = (f"{level:g}" for level in levels)
    return f"{', '.join(others)} {last} {end}" if others else end
