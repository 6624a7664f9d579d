"""The curve of ICR or information over noise levels, and what was chosen on it."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from icrkit.plot._style import (
    ACCENT,
    INK,
    MUTED,
    PAPER,
    SMALL_TEXT,
    TEXT_SIZE,
    WARM,
    dress,
    log_x,
    mark_region,
    plain,
    pyplot,
)
from icrkit.readings._reading import criterion_of

__all__ = ["SigmaCurveDisplay"]

# Names of value, low and high in the curve of a window.
_COLUMNS = {"icr": ("icr", "low", "high"), "information": ("information", "information_low", "information_high")}


class SigmaCurveDisplay:
    """ICR or invariant information over noise levels, with the chosen level and window.

    Parameters
    ----------
    sigma : array (n_levels,)
        Noise levels, ascending.
    value, low, high : array (n_levels,)
        Cross-fitted ICR, or information in nats, and its confidence interval.
    criterion : {"icr", "information"}
        Which of them.
    plugin : array (n_levels,), optional
        The paper's plug-in estimate of ICR.
    chosen : float, optional
        The chosen level.
    window : (float, float), optional
        Lowest and highest level of the semantic window.
    trained_range : (float, float), optional
        Noise levels the model saw often in training; levels outside are drawn as such.
    accuracy, accuracy_error : array (n_levels,), optional
        Accuracy of a probe, from 0 to 1, and its standard error: a second panel.
    layer : str, optional
        Name, for the title.
    confidence : float
        Level of the interval, for its label.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes
        Of the curve.
    accuracy_ax_ : matplotlib Axes or None

    Examples
    --------
    >>> from icrkit.plot import SigmaCurveDisplay
    >>> display = SigmaCurveDisplay(sigma=[0.1, 1.0], value=[0.4, 0.7], low=[0.38, 0.68], high=[0.42, 0.72], chosen=0.1)
    >>> ax = display.plot().ax_
    """

    figure_: Any
    ax_: Any
    accuracy_ax_: Any

    def __init__(
        self,
        *,
        sigma: ArrayLike,
        value: ArrayLike,
        low: ArrayLike,
        high: ArrayLike,
        criterion: str = "icr",
        plugin: ArrayLike | None = None,
        chosen: float | None = None,
        window: tuple[float, float] | None = None,
        trained_range: tuple[float, float] | None = None,
        accuracy: ArrayLike | None = None,
        accuracy_error: ArrayLike | None = None,
        layer: str | None = None,
        confidence: float = 0.95,
    ) -> None:
        self.sigma = np.asarray(sigma, dtype=np.float64)
        self.value = np.asarray(value, dtype=np.float64)
        self.low = np.asarray(low, dtype=np.float64)
        self.high = np.asarray(high, dtype=np.float64)
        self.criterion = criterion
        self.plugin = None if plugin is None else np.asarray(plugin, dtype=np.float64)
        self.chosen = chosen
        self.window = window
        self.trained_range = trained_range
        self.accuracy = None if accuracy is None else np.asarray(accuracy, dtype=np.float64)
        self.accuracy_error = None if accuracy_error is None else np.asarray(accuracy_error, dtype=np.float64)
        self.layer = layer
        self.confidence = confidence

    @classmethod
    def from_estimator(
        cls,
        window: Any,
        *,
        criterion: str | None = None,
        accuracy: ArrayLike | None = None,
        accuracy_error: ArrayLike | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw what a fitted :class:`icrkit.SemanticWindow` found in its best layer.

        Without evidence for a level none is marked.

        Parameters
        ----------
        window : SemanticWindow
            Fitted.
        criterion : {"icr", "information"}, optional
            What is drawn; by default what the window ranked the levels by.
        accuracy, accuracy_error : array (n_levels,), optional
            Of a probe, at the levels of ``window.curve_``, ascending.
        ax : Axes, or (Axes, Axes), optional
            As for :meth:`plot`.

        Returns
        -------
        SigmaCurveDisplay
            Drawn.

        Examples
        --------
        >>> import icrkit as ik
        >>> cube = ik.datasets.make_cube(n_images=200, n_features=4, icr=[0.3, 0.6, 0.8], sigmas=[0.1, 1.0, 2.0])
        >>> display = ik.plot.SigmaCurveDisplay.from_estimator(ik.SemanticWindow().fit(cube))
        >>> display.chosen
        0.1
        """
        check_is_fitted(window)
        one = window.curve_.sel(layer=window.best_layer_)
        drawn = window.criterion if criterion is None else criterion
        value, low, high = (one[name].to_numpy() for name in _COLUMNS[criterion_of(drawn).name])
        display = cls(
            sigma=one["sigma"].to_numpy(),
            value=value,
            low=low,
            high=high,
            criterion=drawn,
            plugin=one["plugin"].to_numpy() if drawn == "icr" else None,
            chosen=window.best_sigma_ if window.has_evidence_ else None,
            window=window.window_ if window.has_evidence_ else None,
            trained_range=window.trained_range_,
            accuracy=accuracy,
            accuracy_error=accuracy_error,
            layer=window.best_layer_,
            confidence=window.confidence,
        )
        return display.plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : Axes, or (Axes, Axes), optional
            Where to draw the curve, or the curve and the accuracies. One Axes alone leaves accuracies out; none makes
            a new figure.

        Returns
        -------
        SigmaCurveDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        if ax is None:
            axes = self._new_axes()
        else:
            axes = list(ax) if np.iterable(ax) else [ax]
        self.ax_ = axes[0]
        self.accuracy_ax_ = axes[1] if len(axes) > 1 and self.accuracy is not None else None
        self.figure_ = self.ax_.figure
        self._draw_curve(self.ax_)
        if self.accuracy_ax_ is not None:
            self._draw_accuracy(self.accuracy_ax_)
        for panel in (self.ax_, self.accuracy_ax_):
            if panel is not None:
                self._set_x(panel)
        self._draw_places(self.ax_, named=True)
        if self.accuracy_ax_ is not None:
            self._draw_places(self.accuracy_ax_, named=False)
            self.ax_.tick_params(labelbottom=False)
        (self.accuracy_ax_ or self.ax_).set_xlabel("noise level σ", fontsize=TEXT_SIZE, color=INK)
        return self

    def _new_axes(self) -> list[Any]:
        plt = pyplot()
        if self.accuracy is None:
            return [plt.subplots(figsize=(7.2, 4.2), layout="constrained")[1]]
        _, axes = plt.subplots(2, 1, figsize=(7.2, 5.6), sharex=True, height_ratios=[1.7, 1], layout="constrained")
        return list(axes)

    def _inside(self) -> Any:
        if self.trained_range is None:
            return np.ones(len(self.sigma), dtype=bool)
        return (self.sigma >= self.trained_range[0]) & (self.sigma <= self.trained_range[1])

    def _draw_curve(self, ax: Any) -> None:
        layer = "" if self.layer is None else f" of {self.layer}"
        if self.criterion == "icr":
            dress(ax, f"ICR{layer} with {self.confidence:.0%} interval: lower is cleaner")
        else:
            dress(ax, f"information{layer}, nats, with {self.confidence:.0%} interval: higher is better")
        ax.fill_between(self.sigma, self.low, self.high, color=ACCENT, alpha=0.22, linewidth=0)
        self._draw_line(ax, self.value, ACCENT, "o")
        labels: list[tuple[float, str, str]] = []
        values = [self.low, self.high]
        if self.plugin is not None:
            ax.plot(self.sigma, self.plugin, color=MUTED, linewidth=1.0, dashes=(4, 2.5))
            labels = [(self.value[-1], "cross-fitted", ACCENT), (self.plugin[-1], "plug-in", MUTED)]
            values.append(self.plugin)
        bottom, top = float(np.min(values)), float(np.max(values))
        span = (top - bottom) or 1.0
        # Room for the name of the chosen level below a curve that is lowest there, and above it for that of the
        # untrained ones.
        if self.criterion == "icr":
            ax.set_ylim(bottom - 0.27 * span, top + 0.12 * span)
        else:
            ax.set_ylim(bottom - 0.06 * span, top + (0.12 if self._inside().all() else 0.24) * span)
        _label_ends(ax, self.sigma[-1], labels, gap=0.08 * span)

    def _draw_accuracy(self, ax: Any) -> None:
        from matplotlib.ticker import PercentFormatter

        dress(ax, "few-label accuracy ± standard error")
        self._draw_line(ax, self.accuracy, WARM, "s")
        if self.accuracy_error is not None:
            ax.errorbar(self.sigma, self.accuracy, self.accuracy_error, fmt="none", ecolor=WARM, elinewidth=1.2)
        ax.margins(y=0.15)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    def _draw_line(self, ax: Any, values: Any, color: str, marker: str) -> None:
        """Solid where the model was trained; dotted and hollow elsewhere."""
        inside = self._inside()
        style = {"color": color, "marker": marker, "markersize": 4.5, "clip_on": False}
        if not inside.all():
            ax.plot(self.sigma, values, **style, linewidth=1.2, linestyle=":", markerfacecolor=PAPER)
        ax.plot(self.sigma[inside], values[inside], **style, linewidth=2.0)

    def _set_x(self, ax: Any) -> None:
        # Clean images are the level 0.
        if len(self.sigma) > 1 and (self.sigma > 0).sum() > 1:
            log_x(ax, self.sigma)

    def _draw_places(self, ax: Any, named: bool) -> None:
        """Window, chosen level, and the levels outside the trained range."""
        left, right = ax.get_xlim()
        if self.trained_range is not None:
            low, high = self.trained_range
            if self.sigma[0] < low:
                mark_region(ax, left, min(low, right), "below the\ntrained range" if named else "")
            if self.sigma[-1] > high:
                mark_region(ax, max(high, left), right, "above the\ntrained range" if named else "")
        ax.set_xlim(left, right)
        words = []
        if self.chosen is not None:
            ax.axvline(self.chosen, color=INK, linewidth=0.8, zorder=1)
            words.append(f"chosen: σ = {plain(self.chosen)}")
        if self.window is not None:
            ax.axvspan(*self.window, color=ACCENT, alpha=0.12, linewidth=1, zorder=0)
            first, last = map(plain, self.window)
            words.append(f"window: {first} alone" if first == last else f"window: {first} to {last}")
        if named and self.chosen is not None:
            at = int(np.argmin(np.abs(self.sigma - self.chosen)))
            ax.plot(self.chosen, self.value[at], "o", color=INK, markersize=7.5, zorder=4)
            to_left = _fraction(ax, self.chosen) > 0.6
            ax.annotate(
                "\n".join(words), (self.chosen, 0.0), xycoords=("data", "axes fraction"),
                xytext=(-5 if to_left else 5, 5), textcoords="offset points", ha="right" if to_left else "left",
                fontsize=TEXT_SIZE, color=INK, linespacing=1.3,
            )  # fmt: skip


def _fraction(ax: Any, x: float) -> float:
    """Where x is, from 0 at the left end of the axis to 1."""
    return float(ax.transAxes.inverted().transform(ax.transData.transform((x, 0.0)))[0])


def _label_ends(ax: Any, x: float, labels: list[tuple[float, str, str]], gap: float) -> None:
    """Names of curves at their right ends, apart from one another."""
    last = np.inf
    for y, words, color in sorted(labels, key=lambda label: -label[0]):
        last = min(y, last - gap)
        ax.annotate(
            words, (x, last), xytext=(9, 0), textcoords="offset points", va="center",
            fontsize=SMALL_TEXT, color=color, annotation_clip=False,
        )  # fmt: skip
