"""All numbers of a training course, and the sentences that say what they mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from icrkit._text import printable, strict_json
from icrkit.cube import Cube
from icrkit.plot._course import CourseDisplay, ExpansionDisplay, level_of
from icrkit.plot._style import save_figure
from icrkit.readings._course import TrainingCourse, would_stop
from icrkit.readings._evidence import Evidence
from icrkit.report._figure import figure
from icrkit.report._words import TERMS, capital, image_count, interval, level_words, listed, number, share, with_unit

__all__ = ["Course", "Series"]

# Below this noise level both criteria were best before the held-out loss in nearly every course tried: at 0.1 in 52 of
# the 58 readings of benchmarks/results/courses.csv by information, and in 57 by ICR.
LOW_SIGMA = 0.2
# A loss that has risen by this share contradicts "still rising", or "no turn".
_WORTH_A_WORD = 0.05


@dataclasses.dataclass(frozen=True)
class Series:
    """Another number of the checkpoints, to be shown beside the readings.

    Attributes
    ----------
    name : str
        What it is: "held-out loss".
    steps : array (n,)
        Ascending; they need not be those of the course.
    values : array (n,)
    best : {"lowest", "highest"} or None
        Where it is best; None where it has no best.
    threshold : float, optional
        A value whose passing is worth a word.
    percent : bool
        Whether it is a share, shown in percent.
    """

    name: str
    steps: ArrayLike
    values: ArrayLike
    best: str | None = None
    threshold: float | None = None
    percent: bool = False

    def __post_init__(self) -> None:
        steps, values = np.asarray(self.steps, dtype=np.int64), np.asarray(self.values, dtype=np.float64)
        if steps.ndim != 1 or steps.shape != values.shape or not len(steps) or (np.diff(steps) <= 0).any():
            raise ValueError(
                f"{self.name}: steps must ascend, with one value each; got shapes {steps.shape} and {values.shape}"
            )
        if self.best not in (None, "lowest", "highest"):
            raise ValueError(f"{self.name}: best must be 'lowest', 'highest' or None, not {self.best!r}")
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "values", values)

    @property
    def best_step(self) -> int | None:
        """Step of the best value."""
        if self.best is None or np.isnan(self.values).all():
            return None
        at = np.nanargmin(self.values) if self.best == "lowest" else np.nanargmax(self.values)
        return int(np.asarray(self.steps)[at])

    @property
    def rise(self) -> float:
        """How far the last value is above the lowest, as a share of it, where lowest is best; else 0."""
        values = np.asarray(self.values)[np.isfinite(self.values)]
        if self.best != "lowest" or not len(values) or values.min() <= 0:
            return 0.0
        return float(values[-1] / values.min() - 1)

    @property
    def passed_at(self) -> int | None:
        """First step whose value is above the threshold."""
        above = np.flatnonzero(np.asarray(self.values) > (np.inf if self.threshold is None else self.threshold))
        return int(np.asarray(self.steps)[above[0]]) if len(above) else None

    @property
    def sentence(self) -> str:
        """What there is to say about it; empty if nothing."""
        said = [] if self.best_step is None else [f"{self.best} at step {self.best_step}"]
        if self.threshold is not None:
            limit = self.told(self.threshold)
            said.append(f"never above {limit}" if self.passed_at is None else f"above {limit} at step {self.passed_at}")
        return f"{capital(self.name)}: {', '.join(said)}." if said else ""

    def told(self, value: float) -> str:
        """A value, as a table has it."""
        if np.isnan(value):
            return "–"
        if self.percent:
            return share(value)
        decimals = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
        # A small value among larger ones has their decimals, as long as it is not lost.
        least = 5e-4 if max(np.abs(self.values)[np.isfinite(self.values)], default=0.0) >= 1e-2 else 1e-2
        return f"{value:.{decimals}f}" if value == 0 or least < abs(value) < 1e6 else f"{value:.3g}"

    def at(self, step: int) -> float:
        """Value at a step; NaN where there is none."""
        found = np.flatnonzero(np.asarray(self.steps) == step)
        return float(np.asarray(self.values)[found[0]]) if len(found) else float("nan")


class _Turn(NamedTuple):
    """One criterion of one layer at one level."""

    best_step: int
    turned_at: int | None
    fall: float
    low: float
    high: float
    relative: float  # of the best value; NaN where that is not positive, and has no share
    best: float
    last: float


@dataclasses.dataclass(frozen=True)
class Course:
    """Result of reading a training course: what tables, figures, pages and JSON are made from.

    Attributes
    ----------
    course : TrainingCourse
        Fitted, by the criterion that calls the turn.
    other : xarray.Dataset
        The same checkpoints by the other criterion: its ``by_level_``.
    n_images, n_views : int
    n_features : dict
        By layer.
    attrs : dict
        What the cubes of all checkpoints record alike.
    series : tuple of Series
        Other numbers of the checkpoints.
    """

    course: TrainingCourse
    other: xr.Dataset
    n_images: int
    n_views: int
    n_features: dict[str, int]
    attrs: dict[str, Any]
    series: tuple[Series, ...] = ()

    @classmethod
    def of(
        cls,
        cubes: TrainingCourse | Iterable[Cube | tuple[int, Cube]],
        criterion: str = "information",
        layer: str | None = None,
        sigma: float | None = None,
        *,
        warm_up: int = 0,
        drop_constant: bool = False,
        progress: bool = False,
    ) -> Self:
        """Read the checkpoints of one training.

        Parameters
        ----------
        cubes : iterable of Cube, or of (step, Cube), or a fitted TrainingCourse
            Of the same images under the same draws, in ascending order of steps; a cube alone must know its step. A
            fitted course is taken as it is, with its own criterion, layer and level. It no longer contains the cubes,
            and so neither their attributes nor the numbers recorded there.
        criterion : {"information", "icr"}
            What calls the turn; the other is shown beside it.
        layer, sigma : str, float, optional
            What the turn is called on; as :class:`icrkit.TrainingCourse` chooses by default. All are read.
        warm_up : int
            Checkpoints before this step take no part in the best step or the turn.
        drop_constant : bool
            Leave out dead units: features that are constant at a checkpoint, or nearly so.
        progress : bool
            Show progress bars.

        Returns
        -------
        Course
            Numbers that the cubes record in their attributes and that differ from checkpoint to checkpoint, such as a
            held-out loss, are its series.

        Raises
        ------
        CubeFormatError
            If a cube does not know its step, steps do not ascend, or cubes hold other images or draws.
        NotEnoughDataError
            Fewer than three checkpoints, or too few images.
        DegenerateFeaturesError
            Constant features, unless they are dropped.

        Examples
        --------
        >>> import icrkit as ik
        >>> cubes = [
        ...     (step, ik.datasets.make_cube(n_images=200, n_features=4, icr=icr))
        ...     for step, icr in [(100, 0.5), (200, 0.3), (400, 0.4)]
        ... ]
        >>> Course.of(cubes).headline
        'Information was highest at step 200 and has fallen by 22% since'
        """
        if isinstance(cubes, TrainingCourse):
            return cls._of_fitted(cubes)
        checkpoints = list(cubes)
        # The criterion is checked by the fit.
        reads = TrainingCourse(criterion, layer, sigma, warm_up=warm_up, drop_constant=drop_constant)
        fitted = reads.fit(checkpoints, progress=progress)
        other = fitted.with_criterion(TERMS[criterion].other)
        held = [item if isinstance(item, Cube) else item[1] for item in checkpoints]
        first, steps = held[0], fitted.curve_["step"].to_numpy()
        alike = {
            key: value
            for key, value in first.attrs.items()
            if key != "step" and all(repr(cube.attrs.get(key)) == repr(value) for cube in held)
        }
        return cls(
            fitted,
            other.by_level_,
            n_images=first.n_images,
            n_views=first.n_views,
            n_features=first.n_features,
            attrs=alike,
            series=tuple(_recorded(held, steps, alike)),
        )

    @classmethod
    def _of_fitted(cls, course: TrainingCourse) -> Self:
        sizes = course.sizes
        other = course.with_criterion(TERMS[course.criterion].other)
        return cls(course, other.by_level_, sizes.n_images, sizes.n_views, sizes.n_features, attrs={})

    def with_series(self, *series: Series) -> Self:
        """The same course with other numbers of its checkpoints beside it, in place of those recorded in the cubes."""
        return dataclasses.replace(self, series=series)

    # ---- what was found, in words ---------------------------------------------------------------------------------

    @property
    def criterion(self) -> str:
        """What called the turn."""
        return str(self.course.criterion)

    @property
    def confidence(self) -> float:
        """Of intervals and of the call."""
        return float(self.course.confidence)

    @property
    def curve(self) -> xr.Dataset:
        """By layer, sigma and step; see ``TrainingCourse.curve_``."""
        return self.course.curve_

    @property
    def steps(self) -> NDArray[np.int64]:
        """Of the checkpoints."""
        return np.asarray(self.curve["step"].to_numpy(), dtype=np.int64)

    @property
    def layers(self) -> list[str]:
        """Names of the layers, the one of the call first."""
        names = [str(name) for name in self.curve["layer"].to_numpy()]
        return sorted(names, key=lambda name: name != self.course.layer_)

    @property
    def sigmas(self) -> list[float]:
        """Noise levels; NaN alone where they are not known."""
        return [float(sigma) for sigma in self.curve["sigma"].to_numpy()]

    @property
    def refused(self) -> dict[str, str]:
        """Layers that could not be measured, and why."""
        return dict(self.course.refused_)

    @property
    def place(self) -> str:
        """Layer and level of the call, in words."""
        return f"layer {self.course.layer_}" + _at_level(self.course.sigma_)

    @property
    def headline(self) -> str:
        """The answer in one sentence, without its full stop."""
        terms, turn = TERMS[self.criterion], self._turn()
        if not self.evidence.enough:
            return f"Too few images to say whether {terms.name} has turned"
        name = capital(f"{self._late}, {terms.name}" if self._late else terms.name)
        if turn.turned_at is not None:
            moved = f"has {terms.changed} by {_fallen(turn, self.criterion)} since"
            return f"{name} was {terms.best} at step {turn.best_step} and {moved}"
        last = int(self.steps[-1])
        worse = [series for series in self.series if series.rise > _WORTH_A_WORD]
        against = "" if not worse else f", but {worse[0].name} has risen by {share(worse[0].rise)} since its lowest"
        if turn.best_step == last:
            return f"{name} is still {terms.improving} at step {last}{against}"
        return f"{name} shows no turn beyond chance by step {last}{against}"

    @property
    def evidence(self) -> Evidence:
        """What the numbers of the layer of the call rest on."""
        return Evidence(self.n_images, self.n_views, self.n_features[self.course.layer_], self.course.n_folds)

    @property
    def sentences(self) -> list[str]:
        """What else there is to say about the call, most important first."""
        said = [f"{self.evidence.missing(self.course.layer_)}."] if not self.evidence.enough else []
        said += [self._said_of_the_call(), *self._said_of_what_was_tested()]
        said += [self._said_of_the_other(), self._said_of_the_levels(), *self._said_of_the_level()]
        said += [f"Layer {layer} was not measured. {reason}" for layer, reason in self.refused.items()]
        beside = [series.sentence for series in self.series if series.sentence]
        said += [" ".join(beside)] if beside else []
        if self.course.sigma_ < LOW_SIGMA:  # not where the level is unknown
            words = "At low noise both numbers turn early in nearly every course, whatever the number of images"
            said.append(f"{words}: look at levels above {LOW_SIGMA}.")
        return said

    def _said_of_the_call(self) -> str:
        name, turn = self.criterion, self._turn()
        terms, last, sure = TERMS[name], int(self.steps[-1]), f"{self.confidence:.0%}"
        looks = f"{self._has_say.sum()} checkpoints" + (f" {self._late}" if self._late else "")
        taken_back, earlier, stopped = self._taken_back, "", False
        if taken_back is not None:
            stopped = would_stop(self.course, taken_back)
            earlier = f" An earlier {terms.change} was beyond chance at step {taken_back}, until a new best took that "
            earlier += "back: a training watched here would have stopped then." if stopped else "back."
        if turn.best_step == last:
            return f"In {self.place} it is {with_unit(turn.last, name)}, the {terms.best} of {looks}.{earlier}"
        words = f"In {self.place} it was {with_unit(turn.best, name)} at step {turn.best_step} and is "
        words += f"{number(turn.last, name)} at step {last}, a {terms.change} of {number(turn.fall, name)} "
        words += f"({sure} interval {interval(turn.low, turn.high, name)})"
        if turn.turned_at is None and turn.low > 0:
            words += f": looking again and again is paid for, and over {looks} that is not enough to call a turn."
        elif turn.turned_at is None:
            words += f": over {looks} that may be chance."
        else:
            words += f". At step {turn.turned_at} it was first beyond chance ({sure}, over all {looks})"
            kept = f": a training watched here would have stopped then, and kept step {turn.best_step}"
            words += f"{kept}." if would_stop(self.course, turn.turned_at) and not stopped else "."
        return words + earlier

    def _said_of_what_was_tested(self) -> list[str]:
        """How much no turn means: a test that finds nothing has not shown that there is nothing."""
        turn, name = self._turn(), self.criterion
        if turn.turned_at is not None:
            return []
        terms, last = TERMS[name], int(self.steps[-1])
        said = []
        if turn.best_step != last:
            said.append(
                f"That is no all-clear: a true {terms.change} of up to {with_unit(turn.high, name)} since the best "
                f"step fits what was seen. {capital(terms.name)} is read off features of one layer; loss, samples and "
                "copies were not tested."
            )
        for series in self.series:
            if series.rise > _WORTH_A_WORD:
                said.append(
                    f"{capital(series.name)} has risen by {share(series.rise)} since step {series.best_step}. It is "
                    f"measured on what the network is trained to do: where it and {terms.name} differ, keep to it."
                )
        return said

    def _said_of_the_level(self) -> list[str]:
        """Why this noise level, where nobody named one."""
        if self.course.sigma is not None or len(self.sigmas) < 2:
            return []
        law = self.attrs.get("noise")
        trained = law.get("trained_range") if isinstance(law, dict) else None
        words = f"The call is made at σ = {level_words(self.course.sigma_)}, of these levels "
        if trained is None:
            return [f"{words}the middle one: what noise the training draws is not recorded."]
        return [f"{words}the nearest to the middle of the noise that training draws ({np.sqrt(np.prod(trained)):.2g})."]

    def _said_of_the_other(self) -> str:
        """Whether the other criterion agrees, and what it means where it does not."""
        name, turn = TERMS[self.criterion].other, self._turn(other=True)
        terms, turned = TERMS[name], self._turn().turned_at is not None
        it, where = f"{self._late} it" if self._late else "it", f"{terms.best} at step {turn.best_step}"
        if turn.turned_at is not None:
            where += f" and has {terms.changed} by {_fallen(turn, name)} since"
        if turned and turn.turned_at is not None:
            return f"{capital(terms.name)} agrees: {it} was {where}."
        if not turned and turn.turned_at is None:
            return f"{capital(terms.name)} shows no turn either; {it} is {where}."
        if turned:
            words = f"{capital(terms.name)} shows no turn; {it} is {where}. "
            alone = "this may be a false stop"
        else:
            words = f"{capital(terms.name)} alone has turned: {it} was {where}. "
            alone = "that is no reason to stop"
        if (name == "icr") is (turn.turned_at is not None):  # it is ICR that has turned alone
            return f"{words}With plenty of training images ICR turns while the network still improves: {alone}."
        return f"{words}Where they differ, look at a held-out loss or at samples."

    def _said_of_the_levels(self) -> str:
        places = self.levels()
        if len(places) == 1:
            return "This is one layer at one noise level, not the network: read others too."
        turned = [place for place in places if place["turned_at"] is not None]
        of = [_counted(self.layers, "layer"), _counted(self.sigmas, "level"), *([self._late] if self._late else [])]
        words = f"Of {len(places)} readings ({', '.join(of)}) "
        if not turned:
            return f"{words}none shows a turn."
        low, high = (ends(place["best_step"] for place in turned) for ends in (min, max))
        at = f"at step {low}" if low == high else f"between steps {low} and {high}"
        if len(turned) == len(places):
            return f"{words}all have turned; they were {TERMS[self.criterion].best} {at}."
        which = []
        for layer in self.layers:
            sigmas = [place["sigma"] for place in turned if place["layer"] == layer]
            if sigmas:
                which.append(layer if np.isnan(sigmas).any() else f"{layer} at {listed(sigmas, 'and')}")
        words += f"{len(turned)} {'has' if len(turned) == 1 else 'have'} turned ({'; '.join(which)}), "
        words += f"{TERMS[self.criterion].best} {at}. One reading is not the network"
        return words + (": look at a held-out loss or at samples too." if self._turn().turned_at is None else ".")

    @property
    def _has_say(self) -> NDArray[np.bool_]:
        """Which checkpoints take part in the best step and the turn."""
        return self.steps >= self.course.warm_up

    @property
    def _late(self) -> str:
        """Where those begin, in words; empty where all take part."""
        return "" if self._has_say.all() else f"from step {self.course.warm_up} on"

    @property
    def _taken_back(self) -> int | None:
        """Step of the first call, at the place of the headline, that a later best has taken back."""
        turn = self.course.turn_
        before = np.flatnonzero(turn.significant[: turn.best])
        return int(self.steps[self._has_say][before[0]]) if len(before) else None

    def _turn(self, layer: str | None = None, sigma: float | None = None, *, other: bool = False) -> _Turn:
        judged = self._select(self.other if other else self.course.by_level_, layer, sigma)
        criterion = TERMS[self.criterion].other if other else self.criterion
        values = self._select(self.curve, layer, sigma)[criterion]
        best_step, fall, turned_at = int(judged["best_step"]), float(judged["fall"]), float(judged["turned_at"])
        best = float(values.sel(step=best_step))
        return _Turn(
            best_step,
            None if np.isnan(turned_at) else int(turned_at),
            fall,
            float(judged["fall_low"]),
            float(judged["fall_high"]),
            fall / best if best > 0 else float("nan"),
            best,
            float(values[-1]),
        )

    def _select(self, table: xr.Dataset, layer: str | None, sigma: float | None) -> xr.Dataset:
        """A layer and level of a table, by default those of the call; a level may be unknown."""
        return table.isel(level_of(self.course, layer, sigma)[0])

    # ---- what was found, in rows ----------------------------------------------------------------------------------

    def rows(self, layer: str | None = None, sigma: float | None = None) -> list[dict[str, Any]]:
        """One dict a checkpoint of one layer at one level, by default those of the call.

        The variables of the curve; ``best``, whether it is the best by the criterion, and ``called``, whether the turn
        is first certain there; and ``series``, the other numbers by name.
        """
        turn = self._turn(layer, sigma)
        one = self._select(self.curve, layer, sigma)
        columns = {str(name): one[name].to_numpy().tolist() for name in one.data_vars}
        return [
            {
                "step": int(step),
                **{name: values[k] for name, values in columns.items()},
                "best": int(step) == turn.best_step,
                "called": int(step) == turn.turned_at,
                "series": {series.name: series.at(int(step)) for series in self.series},
            }
            for k, step in enumerate(self.steps)
        ]

    def levels(self) -> list[dict[str, Any]]:
        """One dict a layer and level, each read by itself: where it was best, whether it turned, how far it fell."""
        found = []
        for layer in self.layers:
            for sigma in self.sigmas:
                turn, other = self._turn(layer, sigma), self._turn(layer, sigma, other=True)
                found.append(
                    {
                        "layer": layer,
                        "sigma": sigma,
                        "best_step": turn.best_step,
                        "turned_at": turn.turned_at,
                        "fall": turn.fall,
                        "fall_low": turn.low,
                        "fall_high": turn.high,
                        "relative_fall": turn.relative,
                        "other_best_step": other.best_step,
                        "other_turned_at": other.turned_at,
                    }
                )
        return found

    def to_text(self) -> str:
        """Tables for a terminal: every checkpoint, then every layer and level."""
        terms, sure = TERMS[self.criterion], f"{self.confidence:.0%} interval"
        images = f"{image_count(self.n_images, self.attrs)} x {self.n_views} views"
        size = f"{self.n_features[self.course.layer_]} features), {images}"
        lines = [f"{self.place} ({size}"]
        head = f"       step   information   {sure}     ICR   {sure}"
        lines.append(head + "".join(f"   {series.name}" for series in self.series))
        for row in self.rows():
            mark = "->" if row["best"] else " !" if row["called"] else "  "
            nats = [number(row[f"information{end}"], "information") for end in ("", "_low", "_high")]
            text = f"{mark} {row['step']:>8}   {nats[0]:>11}   {nats[1]:>5} - {nats[2]:<6}   {row['icr']:.3f}"
            text += f"   {row['icr_low']:.3f} - {row['icr_high']:.3f}"
            for series in self.series:
                text += f"   {series.told(row['series'][series.name]):>{len(series.name)}}"
            lines.append(text)
        late = f" {self._late}" if self._late else ""
        lines.append(f"-> {terms.best} {terms.name}{late}   ! the turn is called")
        if len(self.levels()) > 1:
            lines += ["", *self._level_lines()]
        return "\n".join(map(printable, lines))

    def _level_lines(self) -> list[str]:
        terms = TERMS[self.criterion]
        other = TERMS[terms.other]
        rows: list[tuple[str, ...]] = [
            (
                *("layer", "sigma", f"{terms.name} {terms.best}", "called", terms.change),
                *(f"{other.name} {other.best}", "called"),
            )
        ]
        for level in self.levels():
            relative = level["relative_fall"]
            moved = "-" if level["best_step"] == self.steps[-1] or np.isnan(relative) else share(relative)
            steps = [level[f"{of}{what}"] for of in ("", "other_") for what in ("best_step", "turned_at")]
            best, called, other_best, other_called = ("-" if step is None else str(step) for step in steps)
            rows.append((level["layer"], level_words(level["sigma"]), best, called, moved, other_best, other_called))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "   ".join(cell.rjust(width) if k else cell.ljust(width) for k, (cell, width) in enumerate(pairs))
            for pairs in (list(zip(row, widths, strict=True)) for row in rows)
        ]

    def to_json(self) -> str:
        """All of it as JSON."""
        return strict_json(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        turn = self._turn()
        return {
            "criterion": self.criterion,
            "layer": self.course.layer_,
            "sigma": self.course.sigma_,
            "best_step": turn.best_step,
            "turned": turn.turned_at is not None,
            "turned_at": turn.turned_at,
            "fall": turn.fall,
            "fall_interval": [turn.low, turn.high],
            "relative_fall": turn.relative,
            "confidence": self.confidence,
            "evidence": {
                "sufficient": self.evidence.enough,
                "missing": [] if self.evidence.enough else [self.evidence.missing(self.course.layer_) + "."],
                "dof_per_feature": self.evidence.dof_per_feature,
                "least_images": self.evidence.least_images(),
            },
            "says": [self.headline + ".", *self.sentences],
            "n_images": self.n_images,
            "n_views": self.n_views,
            "n_features": self.n_features,
            "levels": [
                {
                    **level,
                    "steps": [
                        {name: value for name, value in row.items() if name not in ("best", "called", "series")}
                        for row in self.rows(level["layer"], level["sigma"])
                    ],
                }
                for level in self.levels()
            ],
            "refused": self.refused,
            "series": {
                series.name: {
                    "steps": np.asarray(series.steps).tolist(),
                    "values": np.asarray(series.values).tolist(),
                    "best_step": series.best_step,
                    "threshold": series.threshold,
                    "passed_at": series.passed_at,
                }
                for series in self.series
            },
            "attrs": self.attrs,
        }

    # ---- figures --------------------------------------------------------------------------------------------------

    @property
    def panels(self) -> tuple[float, ...]:
        """Heights of both criteria, of all noise levels, and of each series, relative to one another."""
        return (1.5, 1.0, *(1.0 for _ in range(len(self.sigmas) > 1)), *(0.8 for _ in self.series))

    @property
    def has_traces(self) -> bool:
        """Whether traces of the features are known."""
        return not bool(np.isnan(self.curve["trace_invariant"]).any())

    def draw(self, ax: Any = None) -> CourseDisplay:
        """Both criteria over the steps at the place of the call, all its noise levels, and each series.

        Parameters
        ----------
        ax : sequence of Axes, optional
            As many as `panels`; a new figure by default.
        """
        return CourseDisplay.from_estimator(
            self.course,
            levels=len(self.sigmas) > 1,
            series={series.name: (series.steps, series.values) for series in self.series},
            percent=[series.name for series in self.series if series.percent],
            ax=ax,
        )

    def draw_expansion(self, ax: Any = None) -> ExpansionDisplay:
        """Traces of the invariant and the residual part of unit-length features over the steps."""
        return ExpansionDisplay.from_estimator(self.course, ax=ax)

    def save_figure(self, path: str | Path, *, expansion: bool = False) -> Path:
        """Write the course, or the expansion of its feature space, to a file: PNG, SVG or PDF, by its ending.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        ValueError
            If the ending is none that matplotlib writes.
        """
        path = Path(path)
        panels = () if expansion else self.panels
        with figure((7.2, 3.2 if expansion else 0.7 + 1.6 * sum(panels)), panels) as (canvas, axes):
            (self.draw_expansion if expansion else self.draw)(axes)
            save_figure(canvas, path)
        return path


def _recorded(cubes: Sequence[Cube], steps: ArrayLike, alike: dict[str, Any]) -> Iterator[Series]:
    """Numbers that all cubes record and that are not the same in all."""
    for name in cubes[0].attrs:
        values = [cube.attrs.get(name) for cube in cubes]
        if name == "step" or name in alike:
            continue
        if not all(isinstance(value, Real) and not isinstance(value, bool) for value in values):
            continue
        words = name.replace("_", " ")
        # A loss is best where it is lowest; of other numbers only their owner knows.
        yield Series(words, steps, np.array(values, dtype=np.float64), best="lowest" if "loss" in words else None)


def _at_level(sigma: float) -> str:
    return "" if np.isnan(sigma) else f" at noise level σ = {level_words(sigma)}"


def _counted(things: Sequence[Any], name: str) -> str:
    return f"{len(things)} {name}{'s' if len(things) > 1 else ''}"


def _fallen(turn: _Turn, criterion: str) -> str:
    """How far it is from its best: a share of it, or in its unit where it has no share."""
    return with_unit(turn.fall, criterion) if np.isnan(turn.relative) else share(turn.relative)
