"""A table of metrics as pictures: a map of all numbers, and a curve for each metric."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from icrkit.plot._style import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    PAPER,
    SMALL_TEXT,
    TEXT_SIZE,
    WARM,
    dress,
    log_x,
    plain,
    pyplot,
    shorten_apart,
    text_points,
)

__all__ = ["ComparisonCurveDisplay", "ComparisonMapDisplay"]

_PLACE = ["cube", "layer", "sigma"]
# Bound to the number of features: ICR is a mean over them, and the greatest rank there can be grows with them.
_BOUND_TO_WIDTH = ("icr", "lidar", "rankme", "effective_rank", "participation_ratio", "stable_rank")
_MOST_WRITTEN = 16  # columns, beyond which cells are too narrow for numbers
_FEW = 8  # columns, below which the title takes two lines
_CELL_TEXT = 7.0


class ComparisonMapDisplay:
    """All numbers of a comparison: a row a metric, a column a level, and the best level of each metric framed.

    Parameters
    ----------
    values : array (n_metrics, n_columns)
        NaN where there is none.
    metrics : sequence of str
    greater_is_better : sequence of bool
        By metric.
    groups, levels : sequence of str
        Names of each column: those of one group stand together under its name.
    trained : array of bool (n_columns,), optional
        Columns that may be the best; the others are outside the noise that the network was trained on.
    n_features : array of int (n_columns,), optional
        Of each column; equal where left out.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes

    Notes
    -----
    Each metric has a scale of its own, from its worst value (pale) to its best (dark): shades of different metrics do
    not compare, and a metric that hardly varies has as many shades as one that does.

    ICR and ranks (LiDAR, RankMe, effective rank, participation ratio, stable rank) do not compare between numbers of
    features: where these differ, each has a scale of its own, and a best level where it has several.

    Examples
    --------
    >>> from icrkit.plot import ComparisonMapDisplay
    >>> display = ComparisonMapDisplay(
    ...     [[0.5, 0.7], [12.0, 9.0]], metrics=["icr", "rankme"], greater_is_better=[False, True],
    ...     groups=["mid", "mid"], levels=["0.1", "1"],
    ... )
    >>> display.best.tolist()
    [0, 0]
    """

    figure_: Any
    ax_: Any

    def __init__(
        self,
        values: ArrayLike,
        *,
        metrics: Sequence[str],
        greater_is_better: Sequence[bool],
        groups: Sequence[str],
        levels: Sequence[str],
        trained: ArrayLike | None = None,
        n_features: ArrayLike | None = None,
    ) -> None:
        self.values = np.asarray(values, dtype=np.float64)
        self.metrics = list(metrics)
        self.greater_is_better = np.asarray(greater_is_better, dtype=bool)
        self.groups = list(groups)
        self.levels = list(levels)
        n_columns = self.values.shape[1]
        self.trained = np.ones(n_columns, dtype=bool) if trained is None else np.asarray(trained, dtype=bool)
        self.n_features = np.zeros(n_columns, dtype=int) if n_features is None else np.asarray(n_features, dtype=int)

    @classmethod
    def from_table(cls, table: Any, *, metrics: Sequence[str] | None = None, ax: Any = None) -> Self:
        """Draw the table that :func:`icrkit.compare` returned.

        Parameters
        ----------
        table : pandas.DataFrame
        metrics : sequence of str, optional
            All of its metrics by default.
        ax : Axes, optional

        Returns
        -------
        ComparisonMapDisplay
            Drawn.

        Examples
        --------
        >>> import icrkit as ik
        >>> cube = ik.datasets.make_cube(n_images=200, n_features=4, icr=[0.3, 0.6], sigmas=[0.1, 1.0])
        >>> table = ik.compare(cube, metrics=["icr", "rankme"])
        >>> ik.plot.ComparisonMapDisplay.from_table(table).levels
        ['0.1', '1']
        """
        directions = _directions(table, metrics)
        several = [name for name in ("cube", "layer") if table[name].nunique() > 1] or ["layer"]
        display = cls(
            table[list(directions)].to_numpy(dtype=np.float64).T,
            metrics=list(directions),
            greater_is_better=list(directions.values()),
            groups=[", ".join(map(str, row)) for row in table[several].to_numpy()],
            levels=[plain(sigma) if np.isfinite(sigma) else "" for sigma in table["sigma"]],
            trained=_trained(table),
            n_features=table.get("n_features"),
        )
        return display.plot(ax)

    @property
    def bound(self) -> list[str]:
        """Metrics of which columns of different width do not compare, where there are such."""
        several = len(np.unique(self.n_features)) > 1
        return [name for name in self.metrics if several and name in _BOUND_TO_WIDTH]

    @property
    def shades(self) -> Any:
        """Values from 0, the worst of a metric, to 1, the best; 1 where there is only one to compare."""
        signed = np.where(self.greater_is_better[:, None], self.values, -self.values)
        signed[~np.isfinite(signed)] = np.nan
        shades = np.full(signed.shape, np.nan)
        for row, columns in self._compared():
            values = signed[row, columns]
            found = np.isfinite(values)
            if found.any():
                low, high = values[found].min(), values[found].max()
                shades[row, columns] = (values - low) / (high - low) if high > low else np.where(found, 1.0, np.nan)
        return shades

    @property
    def framed(self) -> Any:
        """Array of bool (n_metrics, n_columns): the best of each metric among columns that compare and may be best."""
        shades = np.where(self.trained & np.isfinite(self.shades), self.shades, -1.0)
        framed = np.zeros(shades.shape, dtype=bool)
        for row, columns in self._compared():
            best = columns[shades[row, columns].argmax()]
            # One level of its width has nothing to be better than.
            alone = len(columns) == 1 and len(self.levels) > 1
            framed[row, best] = shades[row, best] >= 0 and not alone
        return framed

    @property
    def best(self) -> Any:
        """Column of each metric's best value; -1 where it has none, or several, since not all columns compare."""
        framed = self.framed
        return np.where(framed.sum(axis=1) == 1, framed.argmax(axis=1), -1)

    def _compared(self) -> Iterator[tuple[int, Any]]:
        """(row of a metric, columns that compare in it)."""
        widths = np.unique(self.n_features)
        bound = self.bound
        for row, name in enumerate(self.metrics):
            for some in [self.n_features == width for width in widths] if name in bound else [self.n_features >= 0]:
                yield row, np.flatnonzero(some)

    def plot(self, ax: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : Axes, optional
            A new figure by default.

        Returns
        -------
        ComparisonMapDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        plt = pyplot()
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.patches import Rectangle

        n_metrics, n_columns = self.values.shape
        written = n_columns <= _MOST_WRITTEN
        if ax is None:
            width = 1.9 + n_columns * (0.5 if written else 0.17)
            slant = self._slant() / 72
            height = 1.3 + 0.27 * n_metrics + slant
            width += 0.8 * slant / math.tan(math.radians(_ANGLE))  # the last name reaches beyond its columns
            ax = plt.subplots(figsize=(max(width, 4.2), height), layout="constrained")[1]
        self.ax_, self.figure_ = ax, ax.figure
        space = "\n" if n_columns < _FEW else " "
        dress(ax, f"each metric on its own scale:{space}dark is better, the best level framed")
        ax.spines[["left", "bottom"]].set_visible(False)
        edges = self._edges()
        cmap = LinearSegmentedColormap.from_list("shades", [PAPER, ACCENT])
        shades, framed = self.shades, self.framed
        for k, left in enumerate(edges):
            for row in range(n_metrics):
                shade = shades[row, k]
                missing = not np.isfinite(shade)
                ax.add_patch(
                    Rectangle(
                        (left, row - 0.5), 1, 1, facecolor="none" if missing else cmap(0.06 + 0.8 * shade),
                        edgecolor=FAINT if missing else PAPER, hatch="////" if missing else None, linewidth=0.6,
                    )
                )  # fmt: skip
                if written and np.isfinite(self.values[row, k]):
                    ax.text(
                        left + 0.5, row, _short(self.values[row, k]), ha="center", va="center", fontsize=_CELL_TEXT,
                        color=PAPER if shade > 0.55 else INK, fontweight="bold" if framed[row, k] else "normal",
                    )  # fmt: skip
        for row, k in np.argwhere(framed):
            ax.add_patch(
                Rectangle(
                    (edges[k], row - 0.5), 1, 1, facecolor="none", edgecolor=WARM, linewidth=1.6, zorder=4,
                    clip_on=False,
                )
            )  # fmt: skip
        self._name(ax, edges)
        return self

    def _edges(self) -> Any:
        """Left edge of each column: groups stand apart."""
        begins = [k for k in range(1, len(self.groups)) if self.groups[k] != self.groups[k - 1]]
        gap = 0.25 * max(1.0, len(self.levels) / _MOST_WRITTEN)
        return np.arange(len(self.levels)) + gap * np.searchsorted(begins, np.arange(len(self.levels)), side="right")

    def _name(self, ax: Any, edges: Any) -> None:
        n_metrics = len(self.metrics)
        ax.set_xlim(edges[0], edges[-1] + 1)
        ax.set_ylim(n_metrics - 0.5, -0.5)
        arrows = ["↑" if greater else "↓" for greater in self.greater_is_better]
        names = [name.replace("_", " ") + "*" * (name in self.bound) for name in self.metrics]
        names = [f"{name} {arrow}" for name, arrow in zip(names, arrows, strict=True)]
        ax.set_yticks(np.arange(n_metrics), names, fontsize=SMALL_TEXT)
        every = max(1, round(len(edges) / 48))
        ax.set_xticks(edges[::every] + 0.5, self.levels[::every], fontsize=_CELL_TEXT + 0.5)
        if len(self.levels) > _MOST_WRITTEN:
            ax.tick_params(axis="x", rotation=90)
        ax.tick_params(length=0)
        for label in ax.get_yticklabels():
            label.set_color(INK)
        for label, inside in zip(ax.get_xticklabels(), self.trained[::every], strict=True):
            label.set_color(INK if inside else MUTED)
            label.set_fontstyle("normal" if inside else "italic")
        words = "noise level σ"
        if not self.trained.all():
            words += ("\n" if len(edges) < _FEW else " ") + "(italic: outside the trained range, not framed)"
        if self.bound:
            words += "\n* at equal numbers of features only"
        ax.set_xlabel(words, fontsize=TEXT_SIZE, color=INK)
        starts = [k for k in range(len(edges)) if k == 0 or self.groups[k] != self.groups[k - 1]]
        if len(starts) > 1:
            slant, shown = self._slant(), self._shown_groups()
            ax.set_title(ax.get_title(loc="left"), loc="left", fontsize=TEXT_SIZE + 1, color=INK, pad=20 + slant)
            for start, stop in zip(starts, [*starts[1:], len(edges)], strict=True):
                ax.text(
                    edges[start] if slant else (edges[start] + edges[stop - 1] + 1) / 2, -0.62,
                    shown[self.groups[start]], ha="left" if slant else "center", va="bottom",
                    rotation=_ANGLE if slant else 0, rotation_mode="anchor", fontsize=SMALL_TEXT, color=MUTED,
                )  # fmt: skip

    def _slant(self) -> float:
        """Points that names of groups take upwards: none where each fits above its columns."""
        counts = Counter(self.groups)
        column = 72 * (0.5 if len(self.levels) <= _MOST_WRITTEN else 0.17)
        if len(counts) < 2 or all(text_points(name) < column * n for name, n in counts.items()):
            return 0.0
        return max(map(text_points, self._shown_groups().values())) * math.sin(math.radians(_ANGLE))

    def _shown_groups(self) -> dict[str, str]:
        """Names of groups, none longer than can stand slanted above the map unless they would be alike."""
        names = list(dict.fromkeys(self.groups))
        return dict(zip(names, shorten_apart(names, _LONGEST), strict=True))


_ANGLE = 25  # degrees
_LONGEST = 190.0  # points of a group's name


class ComparisonCurveDisplay:
    """One small panel a metric: its values over noise levels or steps, a line for each layer of each cube.

    Parameters
    ----------
    panels : dict of str to dict
        Metric to its lines: the name of a line to ``x``, ``y``, where there is an interval ``low`` and ``high``, and
        ``trained``, whether a point lies inside the noise that the network was trained on; arrays in the order of x.
    greater_is_better : dict of str to bool
        By metric.
    x_name : str
        What x is.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : list of matplotlib Axes
        One a metric.

    Notes
    -----
    An arrow after the name of a metric says where better is. The best point of each line that may be chosen is filled;
    lines are dotted where the network was not trained.

    Examples
    --------
    >>> from icrkit.plot import ComparisonCurveDisplay
    >>> line = {"x": [0.1, 1.0], "y": [0.4, 0.7]}
    >>> display = ComparisonCurveDisplay({"icr": {"mid": line}}, greater_is_better={"icr": False})
    >>> len(display.plot().axes_)
    1
    """

    figure_: Any
    axes_: list[Any]

    def __init__(
        self,
        panels: Mapping[str, Mapping[str, Mapping[str, ArrayLike]]],
        *,
        greater_is_better: Mapping[str, bool],
        x_name: str = "noise level σ",
    ) -> None:
        self.panels = {
            metric: {
                name: {key: np.asarray(values, dtype=np.float64) for key, values in line.items()}
                for name, line in lines.items()
            }
            for metric, lines in panels.items()
        }
        self.greater_is_better = dict(greater_is_better)
        self.x_name = x_name

    @classmethod
    def from_table(cls, table: Any, *, metrics: Sequence[str] | None = None, figure: Any = None) -> Self:
        """Draw the table that :func:`icrkit.compare` returned.

        Parameters
        ----------
        table : pandas.DataFrame
            Over noise levels; over steps where it has one level and several steps.
        metrics : sequence of str, optional
            All of its metrics by default.
        figure : matplotlib Figure, optional

        Returns
        -------
        ComparisonCurveDisplay
            Drawn.

        Examples
        --------
        >>> import icrkit as ik
        >>> cube = ik.datasets.make_cube(n_images=200, n_features=4, icr=[0.3, 0.6], sigmas=[0.1, 1.0])
        >>> table = ik.compare(cube, metrics=["icr", "rankme"])
        >>> list(ik.plot.ComparisonCurveDisplay.from_table(table).panels)
        ['icr', 'rankme']
        """
        directions = _directions(table, metrics)
        over_steps = table["sigma"].nunique(dropna=False) == 1 and table["step"].nunique() > 1
        x, others = ("step", ["layer"]) if over_steps else ("sigma", ["cube", "layer"])
        several = [name for name in others if table[name].nunique() > 1] or ["layer"]
        groups = {", ".join(map(str, name)): rows.sort_values(x) for name, rows in table.groupby(several, sort=False)}
        panels: dict[str, dict[str, dict[str, Any]]] = {}
        for metric in directions:
            columns = {"y": metric, "low": f"{metric}_low", "high": f"{metric}_high"}
            present = {key: column for key, column in columns.items() if column in table}
            panels[metric] = {
                name: {
                    **{key: rows[column].to_numpy(dtype=np.float64) for key, column in {"x": x, **present}.items()},
                    "trained": _trained(rows),
                }
                for name, rows in groups.items()
            }
        x_name = "training step" if over_steps else "noise level σ"
        return cls(panels, greater_is_better=directions, x_name=x_name).plot(figure)

    def plot(self, figure: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        figure : matplotlib Figure, optional
            A new one by default.

        Returns
        -------
        ComparisonCurveDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        plt = pyplot()
        n = len(self.panels)
        across = min(4, n)
        down = -(-n // across)
        names = list(next(iter(self.panels.values())))
        width = 0.4 + 2.3 * across if figure is None else figure.get_figwidth()
        names = shorten_apart(names, 72 * width - _HANDLE)
        fitting = int(72 * width / (max(map(text_points, names)) + _HANDLE))
        columns = max(1, min(4, len(names), fitting))
        if figure is None:
            height = 0.6 + 1.55 * down + 0.19 * (-(-len(names) // columns) - 1)
            figure = plt.figure(figsize=(width, height), layout="constrained")
        self.figure_ = figure
        grid = figure.subplots(down, across, squeeze=False).ravel()
        self.axes_ = list(grid[:n])
        for ax, (metric, lines) in zip(self.axes_, self.panels.items(), strict=True):
            self._draw(ax, metric, lines)
        for k, ax in enumerate(self.axes_):
            if k + across < n:  # another panel below has the same x
                ax.tick_params(labelbottom=False)
        for ax in grid[n:]:
            ax.set_visible(False)
        figure.supxlabel(self.x_name, fontsize=TEXT_SIZE, color=INK)
        if len(names) > 1:
            figure.legend(
                self.axes_[0].get_lines()[: len(names)], names, loc="outside upper left", ncols=columns,
                fontsize=SMALL_TEXT, frameon=False, labelcolor=INK,
            )  # fmt: skip
        return self

    def _draw(self, ax: Any, metric: str, lines: Mapping[str, Mapping[str, Any]]) -> None:
        greater = self.greater_is_better[metric]
        dress(ax, f"{metric.replace('_', ' ')} {'↑' if greater else '↓'}")
        ax.set_title(ax.get_title(loc="left"), loc="left", fontsize=TEXT_SIZE, color=INK, pad=4)
        styles = [_style(k) for k in range(len(lines))]
        inside = [line.get("trained", np.ones(len(line["x"]))) > 0 for line in lines.values()]
        for (color, dashes), line, trained in zip(styles, lines.values(), inside, strict=True):
            # Lines first: the legend takes them in this order.
            marks = {"color": color, "marker": "o", "markerfacecolor": PAPER, "markeredgewidth": 0.8, "clip_on": False}
            y = np.where(trained, line["y"], np.nan)
            ax.plot(line["x"], y, **marks, linewidth=1.4, dashes=dashes, markersize=3, zorder=3)
        for (color, _), line, trained in zip(styles, lines.values(), inside, strict=True):
            if not trained.all():
                ax.plot(line["x"], line["y"], color=color, linewidth=1.0, linestyle=":", marker=".", markersize=2)
            if "low" in line and "high" in line:
                ax.fill_between(line["x"], line["low"], line["high"], color=color, alpha=0.18, linewidth=0)
            y = np.where(trained & np.isfinite(line["y"]), line["y"] if greater else -line["y"], -np.inf)
            if np.isfinite(y).any():
                best = int(y.argmax())
                ax.plot(line["x"][best], line["y"][best], "o", color=color, markersize=5, clip_on=False, zorder=5)
        x = np.concatenate([line["x"] for line in lines.values()])
        ax.margins(x=0.04, y=0.12)
        positive = x[x > 0]
        if np.isfinite(x).all() and len(positive) > 1 and positive.max() > 10 * positive.min():
            log_x(ax, x)
        ax.yaxis.get_major_locator().set_params(nbins=4)


_HANDLE = 48.0  # points that a line and the space around it take in a legend


def _style(k: int) -> tuple[str, tuple[float, ...]]:
    """Colour and dashes of the k-th line: colours first, so that a few lines are all solid."""
    colors = (ACCENT, WARM, INK, MUTED)
    dashes: tuple[tuple[float, ...], ...] = ((), (4, 2), (1.5, 1.5))
    return colors[k % len(colors)], dashes[k // len(colors) % len(dashes)]


def _directions(table: Any, metrics: Sequence[str] | None) -> dict[str, bool]:
    known: Mapping[str, bool] = table.attrs.get("greater_is_better", {})
    found = {name: known[name] for name in known if name in table} if metrics is None else {}
    for name in metrics or ():
        if name not in known or name not in table:
            raise ValueError(f"the table has no metric {name!r}; it has {', '.join(known)}")
        found[name] = known[name]
    if not found:
        raise ValueError("the table names no metric: give the one that icrkit.compare returned")
    return found


def _trained(table: Any) -> Any:
    """Whether each level may be the best: where the cube does not say, it may."""
    return table["trained"].fillna(True).to_numpy(dtype=bool)


def _short(value: float) -> str:
    size = abs(value)
    return f"{value:.3f}" if size < 1 else f"{value:#.3g}" if size < 100 else plain(value)
