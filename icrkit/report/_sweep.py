"""All numbers of a sweep over noise levels, and the sentences that say what they mean."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from icrkit._text import count, printable, strict_json
from icrkit.cube import Cube
from icrkit.metrics import FisherSpectrum
from icrkit.plot import SigmaCurveDisplay
from icrkit.plot._style import INK, dress, save_figure
from icrkit.readings import SemanticWindow
from icrkit.readings._evidence import Evidence
from icrkit.readings._reading import criterion_of
from icrkit.report._figure import figure
from icrkit.report._words import TERMS, capital, image_count, interval, level_words, listed, number, with_unit

__all__ = ["Sweep"]

_TITLES = {"icr": "ICR: lower is cleaner", "information": "information, nats: higher is better"}
_ENDS = {"icr": ("low", "high"), "information": ("information_low", "information_high")}  # of the interval, in a curve


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
        By layer, those that were left out aside.
    attrs : dict
        Attributes of the cube.
    probe : str
        What the accuracies are of, in words.
    rank_correlation : dict
        Layer to Spearman's correlation of the criterion with accuracy, (over the levels inside the trained range, over
        all); empty without a probe, or with fewer than three levels inside.
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
    def of(cls, cube: Cube, layer: str | None = None, criterion: str = "icr", *, drop_constant: bool = False) -> Self:
        """Sweep a cube.

        Parameters
        ----------
        cube : Cube
            With at least three known noise levels.
        layer : str, optional
            All layers by default.
        criterion : {"icr", "information"}
            What the levels are ranked by.
        drop_constant : bool
            Leave out dead units: features that are constant at some level, or nearly so.

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
        >>> cube = ik.datasets.make_cube(200, 4, icr=[0.3, 0.6, 0.8], sigmas=[0.1, 1.0, 2.0])
        >>> Sweep.of(cube).headline
        'Layer features is cleanest at noise level σ = 0.1'
        """
        if not isinstance(cube, Cube):
            raise TypeError(
                f"Sweep.of takes a Cube, not {type(cube).__name__}; of a fitted window give the cube again, from which "
                "the spectrum of its best level is read: Sweep.of(cube, criterion=window.criterion)"
            )
        window = SemanticWindow(layer=layer, criterion=criterion, drop_constant=drop_constant).fit(cube)
        dropped = window.dropped_features_
        kept = np.setdiff1d(np.arange(window.n_features_in_), dropped[window.best_layer_])
        return cls(
            window=window,
            curve=window.curve_,
            spectrum=FisherSpectrum().fit(window.transform(cube).level().isel(feature=kept)),
            n_images=cube.n_images,
            n_views=cube.n_views,
            n_features={name: d - len(dropped.get(name, ())) for name, d in cube.n_features.items()},
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
    def criterion(self) -> str:
        """What the levels were ranked by."""
        return str(self.window.criterion)

    @property
    def confidence(self) -> float:
        """Of intervals and of the set of levels that may be the best."""
        return float(self.window.confidence)

    @property
    def headline(self) -> str:
        """The answer in one sentence, without its full stop."""
        layer = self.window.best_layer_
        clean = self.criterion == "icr"
        if not self.evidence.enough or not self._is_finite:
            what = "is cleanest" if clean else "tells most about its images"
            return f"Too few images to say at which noise level layer {layer} {what}"
        if not self.holds_images:
            return f"At no noise level is layer {layer} shown to hold anything of its images"
        if not self.separates:
            what = "is cleaner" if clean else "tells more about its images"
            return f"No noise level can be named at which layer {layer} {what} than at any other"
        what = "is cleanest" if clean else "tells most about its images"
        return f"Layer {layer} {what} at noise level σ = {level_words(self.window.best_sigma_)}"

    @property
    def evidence(self) -> Evidence:
        """What the numbers of the chosen layer rest on."""
        width = self.n_features[self.window.best_layer_]
        return Evidence(self.n_images, self.n_views, width, self.window.n_folds)

    @property
    def holds_images(self) -> bool:
        """Whether features of the best level are shown to hold more of their images than chance makes of residual."""
        p = self.window.by_layer_["p_residual_only"].sel(layer=self.window.best_layer_)
        return float(p) < 1 - self.confidence

    @property
    def separates(self) -> bool:
        """Whether any level is shown to be worse than the best, of those that could be chosen."""
        return len(self.window.confidence_set_) < int(self.curve["trained"].sum())

    @property
    def _is_finite(self) -> bool:
        best = self._at(self.window.best_layer_, self.window.best_sigma_)
        return bool(np.isfinite([best[name] for name in (self.criterion, *_ENDS[self.criterion])]).all())

    @property
    def missing(self) -> list[str]:
        """What a headline that names a level would need beside what there is: sentences; none if it names one."""
        layer, said = self.window.best_layer_, []
        if self.window.has_evidence_:
            return []
        if not self.evidence.enough:
            said.append(f"{self.evidence.missing(layer)}.")
        elif not self._is_finite:
            said.append(f"The {TERMS[self.criterion].name} of layer {layer} or its interval is not finite.")
        elif not self.holds_images:
            best, term = self._at(layer, self.window.best_sigma_), TERMS[self.criterion]
            low, high = (best[name] for name in _ENDS[self.criterion])
            nothing = "1 is residual only" if self.criterion == "icr" else "0 is nothing"
            said.append(
                f"{capital(term.name)} is {term.best} at σ = {level_words(self.window.best_sigma_)}: "
                f"{with_unit(best[self.criterion], self.criterion)}, {self.confidence:.0%} interval "
                f"{interval(low, high, self.criterion)}, where {nothing}. Over "
                f"{count(int(self.curve['trained'].sum()), 'level')} that is no more than chance. Either the noise "
                "hides the images, or views of different images stand together."
            )
        else:
            levels = listed(self.window.confidence_set_.tolist())
            said.append(
                f"With {self.confidence:.0%} confidence the best of the levels that could be chosen may be any of "
                f"them, {levels}: either they are alike, or {self.n_images} images are too few to tell them apart. "
                "Four times as many halve the intervals."
            )
        return said

    @property
    def sentences(self) -> list[str]:
        """What else there is to say about the choice, most important first."""
        if self.missing:
            return [*self.missing, *filter(None, [self._outside()]), *self._said_beside()]
        window, best = self.window, self._at(self.window.best_layer_, self.window.best_sigma_)
        (low, high), candidates = window.window_, window.confidence_set_
        sure = f"{window.confidence:.0%}"
        low_end, high_end = (best[name] for name in _ENDS[self.criterion])
        words = f"Its {TERMS[self.criterion].name} is {with_unit(best[self.criterion], self.criterion)} there, "
        words += f"{sure} interval {interval(low_end, high_end, self.criterion)}. "
        if len(candidates) == 1:
            words += f"With {sure} confidence no other level is better."
        else:
            words += (
                f"The window is {level_words(low)} alone; "
                if low == high
                else f"The window is {level_words(low)} to {level_words(high)}; "
            )
            words += f"with {sure} confidence the best level is {listed(candidates)}."
        said = [words, self._said_of_the_other()]
        if len(self.layers) > 1:
            said.append(self._said_of_layers())
        if window.at_edge_:
            said.append(self._said_of_the_edge())
        outside = self._outside()
        if outside:
            said.append(outside)
        return said + self._said_beside()

    def _said_beside(self) -> list[str]:
        """Of what the choice does not rest on."""
        said = [self._said_of_accuracy()] if "accuracy" in self.curve else []
        said += [
            f"{count(len(left_out), 'feature')} of layer {layer} that {'is' if len(left_out) == 1 else 'are'} constant "
            f"at some level {'is' if len(left_out) == 1 else 'are'} left out at every level."
            for layer, left_out in self.window.dropped_features_.items()
            if len(left_out)
        ]
        return said + [f"Layer {layer} was not measured. {reason}" for layer, reason in self.refused.items()]

    @property
    def refused(self) -> dict[str, str]:
        """Layers that could not be measured, and why."""
        return dict(self.window.refused_)

    def _said_of_the_other(self) -> str:
        """Where the criterion that did not choose is best."""
        other = TERMS[self.criterion].other
        layer, chosen = self.window.best_layer_, self.window.best_sigma_
        best = self._best(layer, other)
        words = f"{capital(TERMS[other].name)} is {with_unit(self._at(layer, chosen)[other], other)} there"
        if best == chosen:
            return f"{words}, and {TERMS[other].best} at the same level."
        there = number(self._at(layer, best)[other], other)
        return f"{words}, and {TERMS[other].best} at σ = {level_words(best)} ({there})."

    def _said_of_the_edge(self) -> str:
        """Where the chosen level is the first or last that could be."""
        sigmas = self.curve["sigma"].to_numpy()[self.curve["trained"].to_numpy()]
        lowest = self.window.best_sigma_ == sigmas.min()
        end, beyond = ("lowest", "below") if lowest else ("highest", "above")
        best = level_words(self.window.best_sigma_)
        return f"σ = {best} is the {end} level that could be chosen: the best may lie {beyond} it."

    def _said_of_layers(self) -> str:
        found = self.window.by_layer_
        told, rivals = [], []
        for layer in self.layers:
            one = found.sel(layer=layer)
            value = with_unit(float(one["information"]), "information")
            told.append(f"{value} in {layer} at σ = {level_words(float(one['best_sigma']))}")
            if layer != self.window.best_layer_ and bool(one["may_be_best"]):
                rivals.append(layer)
        words = f"Layers are compared by information, each at its best level: {listed(told, 'and')}. "
        sure = f"With {self.confidence:.0%} confidence"
        return words + (
            f"{sure} {listed(rivals)} may have the most too." if rivals else f"{sure} no other has as much."
        )

    def _best(self, layer: str, criterion: str | None = None) -> float:
        """Best candidate of a layer."""
        name = criterion or self.criterion
        one = self.curve.sel(layer=layer)
        merit = one[name].where(one["trained"]).to_numpy() * (1 if criterion_of(name).greater_is_better else -1)
        return float(one["sigma"][int(np.nanargmax(merit))])

    def _said_of_accuracy(self) -> str:
        layer = self.window.best_layer_
        one = self.curve.sel(layer=layer)
        trained = one.isel(sigma=np.flatnonzero(one["trained"].to_numpy()))
        top = trained.isel(sigma=int(trained["accuracy"].to_numpy().argmax()))
        chosen = self._at(layer, self.window.best_sigma_)
        words = (
            f"No label was used to choose. {capital(self.probe)}: accuracy "
            f"{chosen['accuracy']:.1%} ± {chosen['accuracy_error']:.1%} at the chosen level"
        )
        if float(top["sigma"]) == self.window.best_sigma_:
            words += ", the highest of all candidates."
        else:
            where = level_words(float(top["sigma"]))
            words += f"; the highest of all candidates is {float(top['accuracy']):.1%} at {where}."
        if layer in self.rank_correlation:
            inside, everywhere = self.rank_correlation[layer]
            words += (
                f" Rank correlation of {TERMS[self.criterion].name} with accuracy over the candidates: {inside:.2f}"
            )
            words += "." if bool(self.curve["trained"].all()) else f" ({everywhere:.2f} over all levels)."
        return words

    def _outside(self) -> str:
        """What lies beyond the noise that the network was trained on."""
        if self.trained_range is None or bool(self.curve["trained"].all()):
            return ""
        low, high = self.trained_range
        sigma = self.curve["sigma"].to_numpy()
        parts = [
            f"{listed(levels, 'and')} {'lie' if len(levels) > 1 else 'lies'} {where}"
            for levels, where in ((sigma[sigma < low], "below"), (sigma[sigma > high], "above"))
            if len(levels)
        ]
        words = f"{', '.join(parts)} the noise this network was trained on ({low:.2g} to {high:.2g}): "
        words += "measured, but no candidates"
        name, one = self.criterion, self.curve.sel(layer=self.window.best_layer_)
        sign = 1 if criterion_of(name).greater_is_better else -1
        beyond = float(sign * (sign * one[name].where(~one["trained"])).max())
        if sign * beyond > sign * self._at(self.window.best_layer_, self.window.best_sigma_)[name]:
            words += f", though {TERMS[name].name} goes {'up' if sign > 0 else 'down'} to {number(beyond, name)} there"
        return words + "."

    def _at(self, layer: str, sigma: float) -> dict[str, float]:
        one = self.curve.sel(layer=layer, sigma=sigma)
        return {str(name): float(one[name]) for name in one.data_vars}

    # ---- what was found, in rows ----------------------------------------------------------------------------------

    def rows(self, layer: str) -> list[dict[str, Any]]:
        """One dict a level, ascending: the variables of the curve, ``best``, and ``chosen``.

        The best is that of the candidates; it is chosen where there is evidence for it.
        """
        one = self.curve.sel(layer=layer).drop_vars("layer")
        best = self._best(layer)
        columns = {"sigma": one["sigma"].to_numpy().tolist()}
        columns |= {str(name): one[name].to_numpy().tolist() for name in one.data_vars}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        evident = bool(self.window.by_layer_["has_evidence"].sel(layer=layer))
        return [{**row, "best": row["sigma"] == best, "chosen": evident and row["sigma"] == best} for row in rows]

    def to_text(self, layer: str | None = None) -> str:
        """Table of one layer, by default the chosen one, for a terminal."""
        layer = layer or self.window.best_layer_
        rows = self.rows(layer)
        with_accuracy = "accuracy" in self.curve
        images = f"{image_count(self.n_images, self.attrs)} x {self.n_views} views"
        lines = [f"layer {layer} ({self.n_features[layer]} features), {images}"]
        sure = f"{self.window.confidence:.0%}"
        head = f"       sigma    ICR   {sure} interval   information   {sure} interval   plug-in"
        lines.append(head + "   accuracy" * with_accuracy)
        for row in rows:
            mark = "->" if row["chosen"] else " *" if row["in_set"] else "  " if row["trained"] else "()"
            text = f"{mark} {level_words(row['sigma']):>9}  {row['icr']:.3f}   {row['low']:.3f} - {row['high']:.3f}"
            nats = (number(row[name], "information") for name in ("information", *_ENDS["information"]))
            text += "   {:>11}   {:>5} - {:<6}".format(*nats) + f"   {row['plugin']:>7.3f}"
            if with_accuracy:
                text += f"   {row['accuracy']:.3f} +- {row['accuracy_error']:.3f}"
            lines.append(text)
        words = "" if not any(row["chosen"] for row in rows) else f"-> best by {TERMS[self.criterion].name}   "
        words += "* may be the best level"
        lines.append(words + "   () outside the trained range" * (not all(row["trained"] for row in rows)))
        return "\n".join(map(printable, lines))

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
                correlation[layer] = (self._agreement(inside, layer), self._agreement(curve, layer))
        return dataclasses.replace(self, curve=curve, probe=probe, rank_correlation=correlation)

    def _agreement(self, curve: xr.Dataset, layer: str) -> float:
        one = curve.sel(layer=layer)
        return float(spearmanr(one[self.criterion], one["accuracy"]).statistic)

    def to_json(self) -> str:
        """All of it as JSON."""
        return strict_json(self.to_dict())

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
                "levels": [{k: v for k, v in row.items() if k not in ("best", "chosen")} for row in self.rows(layer)],
            }
            for layer in self.layers
        }
        return {
            "criterion": self.criterion,
            "best_layer": window.best_layer_,
            "best_sigma": window.best_sigma_,
            "window": list(window.window_),
            "confidence_set": window.confidence_set_.tolist(),
            "confidence": window.confidence,
            "at_edge": window.at_edge_,
            "trained_range": None if self.trained_range is None else list(self.trained_range),
            "evidence": {
                "sufficient": not self.missing,
                "missing": self.missing,
                "dof_per_feature": self.evidence.dof_per_feature,
                "least_images": self.evidence.least_images(),
            },
            "says": [self.headline + ".", *self.sentences],
            "n_images": self.n_images,
            "n_views": self.n_views,
            "probe": self.probe or None,
            "layers": layers,
            "refused": self.refused,
            "dropped_features": {name: one.tolist() for name, one in self.window.dropped_features_.items()},
            "spectrum": {
                "eigenvalues": self.spectrum.eigenvalues_.tolist(),
                "n_negative": self.spectrum.n_negative_,
            },
            "attrs": self.attrs,
        }

    @property
    def panels(self) -> tuple[float, ...]:
        """Heights of the criterion, of the other criterion and of accuracies, relative to one another."""
        return (1.6, 1.1, *(1.0 for _ in range("accuracy" in self.curve)))

    def draw(self, ax: Any = None) -> SigmaCurveDisplay:
        """The curves of the chosen layer.

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            As many as `panels`; on one alone, or in a new figure, the criterion as by
            :meth:`icrkit.plot.SigmaCurveDisplay.plot`.
        """
        one = self.curve.sel(layer=self.window.best_layer_)
        accuracy: dict[str, Any] = {
            name: one[name].to_numpy() for name in ("accuracy", "accuracy_error") if name in one
        }
        if ax is None or not np.iterable(ax):
            return SigmaCurveDisplay.from_estimator(self.window, **accuracy, ax=ax)
        first, second, *rest = ax
        display = SigmaCurveDisplay.from_estimator(self.window, **accuracy, ax=[first, *rest])
        other, chosen = TERMS[self.criterion].other, self.window.best_sigma_
        value, low, high = (one[column].to_numpy() for column in (other, *_ENDS[other]))
        SigmaCurveDisplay(
            sigma=one["sigma"].to_numpy(),
            value=value,
            low=low,
            high=high,
            criterion=other,
            window=self.window.window_ if self.window.has_evidence_ else None,
            trained_range=self.trained_range,
            confidence=self.confidence,
        ).plot(second)
        if self.window.has_evidence_:
            second.axvline(chosen, color=INK, linewidth=0.8, zorder=1)
            second.plot(chosen, float(one[other].sel(sigma=chosen)), "o", color=INK, markersize=6.5, zorder=4)
        for panel, name in ((first, self.criterion), (second, other)):
            dress(panel, _TITLES[name])  # short enough for a phone
        first.tick_params(labelbottom=False)
        first.set_xlabel("")
        if rest:
            second.tick_params(labelbottom=False)
            second.set_xlabel("")
        return display

    def save_figure(self, path: str | Path) -> Path:
        """Write the curves of the chosen layer to a file: PNG, SVG or PDF, by its ending.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        ValueError
            If the ending is none that matplotlib writes.
        """
        path = Path(path)
        with figure((7.2, 0.7 + 2.1 * sum(self.panels)), self.panels) as (canvas, axes):
            self.draw(axes)
            save_figure(canvas, path)
        return path
