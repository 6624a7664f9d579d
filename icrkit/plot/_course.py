"""A training course: criteria over steps with the best step and the turn, and the expansion of feature space."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
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
    shorten,
)

__all__ = ["CourseDisplay", "ExpansionDisplay"]

Vector = NDArray[np.float64]

_PATCH = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0}
_TITLES = {
    "information": "information, nats: higher is better",
    "icr": "ICR: lower is cleaner",
}


class CourseDisplay:
    """Criteria over training steps, with their intervals, the best step, and where the turn was called.

    Parameters
    ----------
    step : array (n_steps,)
        Ascending.
    criteria : mapping of str to (value, low, high)
        "information" or "icr", or another name, each with a panel of its own in this order: arrays (n_steps,) of the
        value and its interval. The first is the one on which the turn was called.
    best_step, turned_at : int, optional
        Where features were best, and where they were first significantly worse.
    levels : mapping of str to array (n_steps,), optional
        The first criterion at every level, each as a share of its own best, the level of the other panels first: one
        panel. NaN where the best is not positive: such a level is named and not drawn.
    series : mapping of str to array (n_steps,), or to (steps, values), optional
        Other numbers of the training, such as a held-out loss or the share of copies: a panel each.
    percent : collection of str
        Names of series that are shares, shown in percent.
    warm_up : int
        Steps before it took no part.
    place : str, optional
        Layer and level, for the title.
    confidence : float
        Level of the intervals, for the title.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : list of matplotlib Axes
        One a panel, from above.

    Examples
    --------
    >>> from icrkit.plot import CourseDisplay
    >>> display = CourseDisplay(
    ...     step=[100, 200, 400],
    ...     criteria={"information": ([3.0, 4.0, 3.0], [2.9, 3.9, 2.9], [3.1, 4.1, 3.1])},
    ...     best_step=200,
    ...     turned_at=400,
    ... )
    >>> len(display.plot().axes_)
    1
    """

    figure_: Any
    axes_: list[Any]

    def __init__(
        self,
        *,
        step: ArrayLike,
        criteria: Mapping[str, Sequence[ArrayLike]],
        best_step: int | None = None,
        turned_at: int | None = None,
        levels: Mapping[str, ArrayLike] | None = None,
        series: Mapping[str, Any] | None = None,
        percent: Collection[str] = (),
        warm_up: int = 0,
        place: str | None = None,
        confidence: float = 0.95,
    ) -> None:
        self.step = np.asarray(step, dtype=np.float64)
        self.criteria = {
            name: tuple(np.asarray(array, dtype=np.float64) for array in arrays) for name, arrays in criteria.items()
        }
        self.best_step = best_step
        self.turned_at = turned_at
        self.levels = {name: np.asarray(values, dtype=np.float64) for name, values in (levels or {}).items()}
        self.series = {name: _pair(values, self.step) for name, values in (series or {}).items()}
        self.percent = frozenset(percent)
        self.warm_up = warm_up
        self.place = place
        self.confidence = confidence

    @classmethod
    def from_estimator(
        cls,
        course: Any,
        *,
        layer: str | None = None,
        sigma: float | None = None,
        levels: bool = False,
        series: Mapping[str, Any] | None = None,
        percent: Collection[str] = (),
        ax: Any = None,
    ) -> Self:
        """Draw a fitted :class:`icrkit.TrainingCourse`: its own criterion above, the other below.

        Parameters
        ----------
        course : TrainingCourse
            Fitted.
        layer, sigma : str, float, optional
            Those of the course's headline by default.
        levels : bool
            Whether every noise level of the layer is shown too.
        series, percent
            As for the class.
        ax : sequence of Axes, optional
            As for :meth:`plot`.

        Returns
        -------
        CourseDisplay
            Drawn.

        Examples
        --------
        >>> import icrkit as ik
        >>> cubes = {
        ...     step: ik.datasets.make_cube(n_images=200, n_features=4, icr=icr)
        ...     for step, icr in [(100, 0.5), (200, 0.3), (400, 0.4)]
        ... }
        >>> display = ik.plot.CourseDisplay.from_estimator(ik.TrainingCourse().fit(cubes))
        >>> display.best_step, display.turned_at
        (200, 400)
        """
        check_is_fitted(course)
        at, name = level_of(course, layer, sigma)
        curve, judged = course.curve_.isel(**at), course.by_level_.isel(**at)
        turned_at = float(judged["turned_at"])
        shares = {}
        if levels:
            whole = course.curve_[course.criterion].isel(layer=at["layer"])
            used = whole.where(whole["step"] >= course.warm_up)
            best = used.max("step") if course.criterion == "information" else used.min("step")
            best = best.where(best > 0)  # of others there is no share
            order = sorted(range(whole.sizes["sigma"]), key=lambda k: k != at["sigma"])
            sigmas = whole["sigma"].to_numpy()
            shares = {f"σ {plain(float(sigmas[k]))}": (whole / best).isel(sigma=k).to_numpy() for k in order}
        names = sorted(("information", "icr"), key=lambda criterion: criterion != course.criterion)
        display = cls(
            step=curve["step"].to_numpy(),
            criteria={
                criterion: [curve[criterion + end].to_numpy() for end in ("", "_low", "_high")] for criterion in names
            },
            best_step=int(judged["best_step"]),
            turned_at=None if np.isnan(turned_at) else int(turned_at),
            levels=shares,
            series=series,
            percent=percent,
            warm_up=course.warm_up,
            place=name,
            confidence=course.confidence,
        )
        return display.plot(ax)

    @property
    def panels(self) -> tuple[float, ...]:
        """Heights of the panels, relative to one another."""
        return (
            1.5,
            *(1.0 for _ in list(self.criteria)[1:]),
            *(1.0 for _ in range(bool(self.levels))),
            *(0.8 for _ in self.series),
        )

    def plot(self, ax: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : Axes or sequence of Axes, optional
            One a panel, as many as `panels`, from above: the criteria, the levels, the series. With fewer the last
            panels are left out; none makes a new figure.

        Returns
        -------
        CourseDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        if ax is None:
            heights = self.panels
            size = (7.2, 0.7 + 1.6 * sum(heights))
            ax = pyplot().subplots(
                len(heights), 1, figsize=size, sharex=True, height_ratios=heights, layout="constrained"
            )[1]
        axes = list(np.ravel(ax))
        draws: list[Callable[[Any], None]] = [functools.partial(self._draw_criterion, name) for name in self.criteria]
        draws += [self._draw_levels] if self.levels else []
        draws += [functools.partial(self._draw_series, name) for name in self.series]
        self.axes_ = axes[: len(draws)]
        self.figure_ = axes[0].figure
        for draw, panel in zip(draws, self.axes_, strict=False):
            draw(panel)
        for panel in self.axes_:
            _set_steps(panel, self.step)
            self._mark(panel)
        for panel in self.axes_[:-1]:
            panel.tick_params(labelbottom=False)
        self.axes_[-1].set_xlabel("training step", fontsize=TEXT_SIZE, color=INK)
        self._name_marks(self.axes_[0])
        return self

    def _draw_criterion(self, name: str, ax: Any) -> None:
        value, low, high = self.criteria[name]
        title = _TITLES.get(name, name)
        if name == next(iter(self.criteria)):
            title = title if self.place is None else f"{_fitting(self.place, ax)}\n{title}"
        dress(ax, title)
        ax.fill_between(self.step, low, high, color=ACCENT, alpha=0.22, linewidth=0)
        ax.plot(self.step, value, color=ACCENT, marker="o", markersize=3.5, linewidth=1.8, clip_on=False)
        if self.best_step is not None:
            at = int(np.argmin(np.abs(self.step - self.best_step)))
            ax.plot(self.step[at], value[at], "o", color=INK, markersize=6.5, zorder=4)
        ax.margins(y=0.08)
        ax.yaxis.get_major_locator().set_params(nbins=5)

    def _draw_levels(self, ax: Any) -> None:
        from matplotlib.ticker import PercentFormatter

        without = [name for name, share in self.levels.items() if np.isnan(share).all()]
        left_out = f"\nnot drawn, since its best is not above 0: {', '.join(without)}" if without else ""
        dress(ax, f"each noise level, as a share of its best{left_out}")
        colors = (ACCENT, WARM, INK, MUTED)
        labels = []
        for k, (name, share) in enumerate(self.levels.items()):
            if name in without:
                continue
            color, dashes = colors[k % 4], ((), (4, 2), (1.5, 1.5))[k // 4 % 3]
            ax.plot(self.step, share, color=color, linewidth=1.4, dashes=dashes)
            labels.append((share[-1], name, color))
        ax.margins(y=0.08)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.yaxis.get_major_locator().set_params(nbins=4)
        _label_ends(ax, self.step[-1], labels)

    def _draw_series(self, name: str, ax: Any) -> None:
        dress(ax, name)
        steps, values = self.series[name]
        ax.plot(steps, values, color=WARM, marker="s", markersize=3.2, linewidth=1.6, clip_on=False)
        ax.margins(y=0.12)
        if name in self.percent:
            from matplotlib.ticker import PercentFormatter

            ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.yaxis.get_major_locator().set_params(nbins=3)

    def _mark(self, ax: Any) -> None:
        left, right = ax.get_xlim()
        if self.warm_up > self.step[0]:
            mark_region(ax, left, min(self.warm_up, right), "warm-up" if ax is self.axes_[0] else "")
        if self.best_step is not None:
            ax.axvline(self.best_step, color=INK, linewidth=0.8, zorder=1)
        if self.turned_at is not None:
            ax.axvline(self.turned_at, color=WARM, linewidth=1.0, dashes=(4, 2.5), zorder=1)
        ax.set_xlim(left, right)

    def _name_marks(self, ax: Any) -> None:
        """Words at the lower ends of the lines: the best's before it, the turn's after it, where there is room."""
        bottom, top = ax.get_ylim()
        words: list[tuple[int, str, str, float]] = []
        if self.best_step is not None:
            words.append((self.best_step, "best: step", INK, 0.3))
        if self.turned_at is not None:
            words.append((self.turned_at, "turn called: step", WARM, 0.7))
        ax.set_ylim(bottom - (0.1 * len(words) + 0.04) * (top - bottom), top)
        for line, (step, text, color, least) in enumerate(reversed(words)):
            _name_line(ax, step, f"{text} {step}", color, to_left=_fraction(ax, step) > least, points=4 + 14 * line)


class ExpansionDisplay:
    """Traces of invariant and residual covariance over training steps, of features scaled to unit length.

    Parameters
    ----------
    step : array (n_steps,)
        Ascending.
    invariant, residual : array (n_steps,)
        Tr Sigma_s and Tr Sigma_xi.
    best_step : int, optional
        Where the course was best.
    place : str, optional
        Layer and level, for the title.

    Attributes
    ----------
    figure_ : matplotlib Figure
    ax_ : matplotlib Axes

    Notes
    -----
    Tr Sigma_s says how far the features of unit length of different images lie apart, Tr Sigma_xi those of the views of
    one image. Unlike ICR and information they depend on the scale of each direction.

    References
    ----------
    Li et al. 2026, arXiv 2606.09718: its figure of traces over training.

    Examples
    --------
    >>> from icrkit.plot import ExpansionDisplay
    >>> ax = ExpansionDisplay(step=[10, 100], invariant=[0.2, 0.5], residual=[0.6, 0.3]).plot().ax_
    """

    figure_: Any
    ax_: Any

    def __init__(
        self,
        *,
        step: ArrayLike,
        invariant: ArrayLike,
        residual: ArrayLike,
        best_step: int | None = None,
        place: str | None = None,
    ) -> None:
        self.step = np.asarray(step, dtype=np.float64)
        self.invariant = np.asarray(invariant, dtype=np.float64)
        self.residual = np.asarray(residual, dtype=np.float64)
        self.best_step = best_step
        self.place = place

    @classmethod
    def from_estimator(
        cls, course: Any, *, layer: str | None = None, sigma: float | None = None, ax: Any = None
    ) -> Self:
        """Draw the traces of a :class:`icrkit.TrainingCourse` that was fitted on features.

        Parameters
        ----------
        course : TrainingCourse
            Fitted.
        layer, sigma : str, float, optional
            Those of the course's headline by default.
        ax : Axes, optional

        Returns
        -------
        ExpansionDisplay
            Drawn.

        Raises
        ------
        ValueError
            The course was fitted on Moments, which know nothing of features scaled to unit length.

        Examples
        --------
        >>> import icrkit as ik
        >>> cubes = {step: ik.datasets.make_cube(n_images=200, n_features=4, icr=0.3) for step in (100, 200, 400)}
        >>> display = ik.plot.ExpansionDisplay.from_estimator(ik.TrainingCourse().fit(cubes))
        >>> display.invariant.shape
        (3,)
        """
        check_is_fitted(course)
        at, name = level_of(course, layer, sigma)
        curve = course.curve_.isel(**at)
        invariant, residual = (curve[f"trace_{part}"].to_numpy() for part in ("invariant", "residual"))
        if np.isnan(invariant).any():
            raise ValueError(
                "this course has no traces: it was fitted on Moments. Fit it on features, which can be scaled to unit "
                "length"
            )
        best_step = int(course.by_level_["best_step"].isel(**at))
        step = curve["step"].to_numpy()
        return cls(step=step, invariant=invariant, residual=residual, best_step=best_step, place=name).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : Axes, optional
            A new figure by default.

        Returns
        -------
        ExpansionDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        if ax is None:
            ax = pyplot().subplots(figsize=(7.2, 3.0), layout="constrained")[1]
        self.ax_, self.figure_ = ax, ax.figure
        dress(
            ax,
            "\n".join(
                [*([] if self.place is None else [_fitting(self.place, ax)]), "variance of unit-length features"]
            ),
        )
        labels = []
        for values, name, color, marker in (
            (self.invariant, "invariant", ACCENT, "o"),
            (self.residual, "residual", WARM, "s"),
        ):
            ax.plot(self.step, values, color=color, marker=marker, markersize=3.5, linewidth=1.8, clip_on=False)
            labels.append((values[-1], name, color))
        # Room at the top for the words.
        ax.set_ylim(min(0.0, float(self.invariant.min())), 1.25 * max(self.invariant.max(), self.residual.max()))
        _set_steps(ax, self.step)
        if self.best_step is not None:
            ax.axvline(self.best_step, color=INK, linewidth=0.8, zorder=1)
            left = _fraction(ax, self.best_step) > 0.3
            _name_line(ax, self.best_step, f"best: step {self.best_step}", INK, to_left=left, at_top=True)
        ax.set_xlabel("training step", fontsize=TEXT_SIZE, color=INK)
        _label_ends(ax, self.step[-1], labels)
        return self


def _pair(values: Any, step: Vector) -> tuple[Vector, Vector]:
    """Steps and values of a series: of its own steps, or of the course's."""
    if isinstance(values, tuple) and len(values) == 2:
        steps, values = values
        return np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    return step, np.asarray(values, dtype=np.float64)


def level_of(course: Any, layer: str | None = None, sigma: float | None = None) -> tuple[dict[str, int], str]:
    """Positions of a layer and level in a course's tables, by default those of its headline, and what to call them."""
    layers, sigmas = list(course.curve_["layer"].to_numpy()), course.curve_["sigma"].to_numpy()
    layer = course.layer_ if layer is None else layer
    if layer not in layers:
        raise ValueError(f"the course has no layer {layer!r}; it has {', '.join(layers)}")
    wanted = course.sigma_ if sigma is None else sigma
    near = np.flatnonzero(np.isclose(sigmas, wanted, rtol=1e-6, atol=0, equal_nan=True))
    if not len(near):
        raise ValueError(f"the course has no level {wanted:g}; it has {', '.join(f'{s:g}' for s in sigmas)}")
    known = f", σ {plain(float(sigmas[near[0]]))}" if np.isfinite(sigmas[near[0]]) else ""
    return {"layer": layers.index(layer), "sigma": int(near[0])}, f"{layer}{known}"


def _fitting(place: str, ax: Any) -> str:
    """A place's name as the figure has room for it beside the numbers of the axis."""
    return shorten(place, 0.8 * 72 * ax.figure.get_figwidth(), TEXT_SIZE + 1)


def _set_steps(ax: Any, step: Vector) -> None:
    """Logarithmic where steps are spread over more than a decade."""
    ax.margins(x=0.02)
    positive = step[step > 0]
    if len(positive) > 1 and positive[-1] > 10 * positive[0]:
        log_x(ax, step)  # the untrained network is step 0


def _fraction(ax: Any, x: float) -> float:
    """Where x is, from 0 at the left end of the axis to 1."""
    return float(ax.transAxes.inverted().transform(ax.transData.transform((x, 0.0)))[0])


def _name_line(
    ax: Any, x: float, words: str, color: str, *, to_left: bool, points: float = 4, at_top: bool = False
) -> None:
    """Words beside a vertical line, so many points from the end of it."""
    ax.annotate(
        words, (x, float(at_top)), xycoords=("data", "axes fraction"), textcoords="offset points",
        xytext=(-5 if to_left else 5, -points if at_top else points), ha="right" if to_left else "left",
        va="top" if at_top else "bottom", fontsize=TEXT_SIZE, color=color, bbox=_PATCH, zorder=5,
    )  # fmt: skip


def _label_ends(ax: Any, x: float, labels: list[tuple[float, str, str]]) -> None:
    """Names of curves at their right ends, apart from one another."""
    bottom, top = ax.get_ylim()
    gap, last = 0.13 * (top - bottom), np.inf
    for y, words, color in sorted(labels, key=lambda label: -label[0]):
        last = min(y, last - gap)
        ax.annotate(
            words, (x, last), xytext=(8, 0), textcoords="offset points", va="center", fontsize=SMALL_TEXT, color=color,
            annotation_clip=False,
        )  # fmt: skip
