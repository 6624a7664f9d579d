"""The Fisher spectrum, one bar a direction."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from icrkit.plot._style import ACCENT, INK, MUTED, SMALL_TEXT, TEXT_SIZE, WARM, dress, plain_log_axis, pyplot

__all__ = ["SpectrumDisplay"]

_LINEAR = 0.1


class SpectrumDisplay:
    """Invariant signal-to-noise ratio of each direction of the feature space, in descending order.

    Parameters
    ----------
    eigenvalues : array (k,)
        lambda, descending. Negative ones are estimates of what is close to zero, and are drawn as such.
    title : str, optional

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes

    Examples
    --------
    >>> from icrkit.plot import SpectrumDisplay
    >>> ax = SpectrumDisplay([4.0, 1.0, 0.2, -0.1]).plot().ax_
    """

    figure_: Any
    ax_: Any

    def __init__(self, eigenvalues: ArrayLike, *, title: str | None = None) -> None:
        self.eigenvalues = np.asarray(eigenvalues, dtype=np.float64)
        self.title = title

    @classmethod
    def from_estimator(cls, spectrum: Any, *, title: str | None = None, ax: Any = None) -> Self:
        """Draw the eigenvalues of a fitted :class:`icrkit.FisherSpectrum`.

        Parameters
        ----------
        spectrum : FisherSpectrum
            Fitted.
        title : str, optional
        ax : Axes, optional

        Returns
        -------
        SpectrumDisplay
            Drawn.

        Examples
        --------
        >>> import icrkit as ik
        >>> spectrum = ik.FisherSpectrum().fit(ik.datasets.make_cube(n_images=100, n_features=4))
        >>> len(ik.plot.SpectrumDisplay.from_estimator(spectrum).eigenvalues)
        4
        """
        check_is_fitted(spectrum)
        return cls(spectrum.eigenvalues_, title=title).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : Axes, optional
            A new figure by default.

        Returns
        -------
        SpectrumDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        if ax is None:
            ax = pyplot().subplots(figsize=(7.2, 2.8), layout="constrained")[1]
        self.ax_, self.figure_ = ax, ax.figure
        dress(ax, self.title or "signal-to-noise ratio λ of each direction")
        values = self.eigenvalues
        rank = np.arange(1, len(values) + 1)
        below = values < 0
        # Ratios span decades and cross zero: logarithmic outside +-0.1, linear between.
        ax.set_yscale("symlog", linthresh=_LINEAR, linscale=0.5)
        for part, color, marker in ((~below, ACCENT, "o"), (below, WARM, "v")):
            ax.vlines(rank[part], 0, values[part], color=color, linewidth=1.6 if len(values) <= 150 else 0.6)
            if len(values) <= 150:
                ax.plot(rank[part], values[part], marker, color=color, markersize=3.5, linestyle="none")
        ax.axhline(0, color=INK, linewidth=0.9)
        ax.axhline(1, color=MUTED, linewidth=0.8, dashes=(4, 2.5), zorder=0)
        ax.annotate(
            "λ = 1: as much signal as noise", (1, 1), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", ha="right", fontsize=SMALL_TEXT, color=MUTED,
        )  # fmt: skip
        if below.any():
            ax.annotate(
                f"{below.sum()} negative", (rank[below].mean(), 0), xytext=(0, 5), textcoords="offset points",
                ha="center", fontsize=SMALL_TEXT, color=WARM,
            )  # fmt: skip
        top, bottom = max(1.0, float(values.max())), min(0.0, float(values.min()))
        ax.set_ylim(1.6 * bottom or -0.02, 1.8 * top)
        ax.set_xlim(0.3, len(values) + 0.7)
        ax.set_xlabel("direction", fontsize=TEXT_SIZE, color=INK)
        ax.xaxis.get_major_locator().set_params(integer=True)
        decades = [10.0**k for k in range(-1, 1 + int(np.log10(top)))]
        ax.set_yticks([-_LINEAR] * bool(bottom < -_LINEAR / 2) + [0.0, *decades])
        plain_log_axis(ax.yaxis)
        return self
