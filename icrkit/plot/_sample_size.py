"""ICR against the number of images: which estimate moves because of its bias, and which is already there."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from icrkit.plot._style import ACCENT, INK, MUTED, PAPER, SMALL_TEXT, TEXT_SIZE, WARM, dress, pyplot

__all__ = ["SampleSizeDisplay"]


class SampleSizeDisplay:
    """ICR by three estimates over the number of images, from 0 (clean) to 1 (residual only).

    Parameters
    ----------
    n_images : array (n_sizes,)
        Ascending.
    plugin : array (n_sizes,)
        The paper's estimate.
    crossfit, low, high : array (n_sizes,)
        Cross-fitted estimate and its confidence interval; NaN where there is none.
    gaussian : array (n_sizes,), optional
        Corrected as if residuals were Gaussian.
    plugin_expected : array (n_sizes,), optional
        What the plug-in's bias makes of the cross-fitted value.
    n_features : int, optional
        Marked: up to so many images, of two views, the plug-in is 0.
    confidence : float
        Level of the interval, for its label.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes

    Examples
    --------
    >>> from icrkit.plot._sample_size import SampleSizeDisplay
    >>> display = SampleSizeDisplay(
    ...     n_images=[100, 400], plugin=[0.3, 0.45], crossfit=[0.5, 0.5], low=[0.4, 0.45], high=[0.6, 0.55]
    ... )
    >>> ax = display.plot().ax_
    """

    figure_: Any
    ax_: Any

    def __init__(
        self,
        *,
        n_images: ArrayLike,
        plugin: ArrayLike,
        crossfit: ArrayLike,
        low: ArrayLike,
        high: ArrayLike,
        gaussian: ArrayLike | None = None,
        plugin_expected: ArrayLike | None = None,
        n_features: int | None = None,
        confidence: float = 0.95,
    ) -> None:
        self.n_images = np.asarray(n_images, dtype=np.float64)
        self.plugin = np.asarray(plugin, dtype=np.float64)
        self.crossfit = np.asarray(crossfit, dtype=np.float64)
        self.low = np.asarray(low, dtype=np.float64)
        self.high = np.asarray(high, dtype=np.float64)
        self.gaussian = None if gaussian is None else np.asarray(gaussian, dtype=np.float64)
        self.plugin_expected = None if plugin_expected is None else np.asarray(plugin_expected, dtype=np.float64)
        self.n_features = n_features
        self.confidence = confidence

    @classmethod
    def from_curve(cls, curve: Any, *, ax: Any = None) -> Self:
        """Draw what :func:`icrkit.sample_size_curve` returned.

        Parameters
        ----------
        curve : xarray.Dataset
        ax : Axes, optional

        Returns
        -------
        SampleSizeDisplay
            Drawn.

        Examples
        --------
        >>> import icrkit as ik
        >>> from icrkit.plot._sample_size import SampleSizeDisplay
        >>> from icrkit.readings._sample_size import sample_size_curve
        >>> curve = sample_size_curve(ik.datasets.make_cube(n_images=200, n_features=8))
        >>> SampleSizeDisplay.from_curve(curve).n_features
        8
        """
        names = ("n_images", "plugin", "crossfit", "low", "high", "gaussian", "plugin_expected")
        display = cls(
            **{name: curve[name].to_numpy() for name in names},
            n_features=curve.attrs["n_features"],
            confidence=curve.attrs["confidence"],
        )
        return display.plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : Axes, optional
            A new figure by default.

        Returns
        -------
        SampleSizeDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        if ax is None:
            ax = pyplot().subplots(figsize=(7.2, 4.2), layout="constrained")[1]
        self.ax_, self.figure_ = ax, ax.figure
        dress(ax, f"ICR with {self.confidence:.0%} interval, over the number of images")
        n = self.n_images
        ax.fill_between(n, self.low, self.high, color=ACCENT, alpha=0.22, linewidth=0)
        ax.plot(n, self.crossfit, "o-", color=ACCENT, markersize=4.5, linewidth=2.0, label="cross-fitted", zorder=4)
        if self.gaussian is not None:
            ax.plot(n, self.gaussian, "^:", color=MUTED, markersize=4, linewidth=1.2, label="gaussian")
        ax.plot(n, self.plugin, "s-", color=WARM, markersize=4, linewidth=1.4, label="plug-in", zorder=3)
        if self.plugin_expected is not None:
            ax.plot(n, self.plugin_expected, color=INK, linewidth=1.0, dashes=(4, 2.5), label="plug-in, expected")
        self._set_axes(ax)
        ax.legend(loc="lower right", fontsize=SMALL_TEXT, frameon=False, labelcolor=INK)
        return self

    def _set_axes(self, ax: Any) -> None:
        from matplotlib.ticker import FuncFormatter, NullLocator

        n = self.n_images
        ax.set_xscale("log")
        ax.set_xlim(n[0] / 1.12, n[-1] * 1.12)
        ax.set_xticks(_ticks(n))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:,.0f}"))
        ax.xaxis.set_minor_locator(NullLocator())
        # The widest intervals are cut: they would press all curves together.
        top = min(1.4 * float(np.nanmax([self.crossfit, self.plugin])), 1.0)
        ax.set_ylim(-0.03 * top, top)
        ax.set_xlabel("images", fontsize=TEXT_SIZE, color=INK)
        if self.n_features is not None and n[0] <= self.n_features <= n[-1]:
            ax.axvline(self.n_features, color=MUTED, linewidth=0.8, zorder=1)
            ax.annotate(
                f"{self.n_features} features", (self.n_features, 1.0), xycoords=("data", "axes fraction"),
                xytext=(5, -3), textcoords="offset points", va="top", fontsize=SMALL_TEXT, color=MUTED,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}, zorder=5,
            )  # fmt: skip


def _ticks(n: Any) -> Any:
    """Sizes that are named: those so far apart that their names do not meet."""
    kept = [n[-1]]
    for size in n[-2::-1]:
        if np.log(kept[-1] / size) > np.log(n[-1] / n[0]) / 9:
            kept.append(size)
    return kept[::-1]
