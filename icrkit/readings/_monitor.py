"""Monitor of a live training: the turn of :mod:`icrkit.readings._course`, looked for after every checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from icrkit.exceptions import CubeCorruptError, CubeFormatError
from icrkit.io import write_file
from icrkit.io._parsing import parse_json, parsing
from icrkit.moments import Moments
from icrkit.readings._course import (
    READ_PARAMETERS,
    Judgement,
    LevelReading,
    Looks,
    Space,
    check_same_levels,
    fold_counts,
    read_level,
    step_number,
)
from icrkit.readings._pairing import check_recorded_draws, check_same_folds
from icrkit.readings._reading import READ_ERRORS, Reading, criterion_of, warn_of_heavy_tails

__all__ = ["ICRMonitor", "MonitorState"]

# Version 1 had no digest, and looked at everything again when it was read; version 2 had every level at every step.
_FORMAT, _VERSION = "icrkit-monitor", 3
_PARAMETERS = ("criterion", "patience", "sigma", "warm_up", *READ_PARAMETERS)


@dataclasses.dataclass(frozen=True)
class MonitorState:
    """What a monitor says after a checkpoint, of one noise level.

    Attributes
    ----------
    step : int
    sigma : float
        NaN where not known.
    value : float
        Of the criterion.
    icr, information : float
    interval : (float, float)
        Of `value`.
    best_step : int
        So far; during the warm-up the step itself.
    turned : bool
        Whether features have been significantly worse at some checkpoint after the best.
    turned_at : int or None
        The first such step.
    should_stop : bool
        Whether they were at each of the last `patience` checkpoints, and, without a warm-up, had become significantly
        better before.
    fall : float
        From the best to this checkpoint, in units of the criterion, positive where it got worse.
    fall_interval : (float, float)
        Of the true fall from the truly best step so far, whichever that is.
    by_level : dict of float to MonitorState
        The levels that were measured, each read by itself; empty where the monitor watches one.
    refused : dict of float to str
        Levels that could not be measured at this checkpoint, and why.
    """

    step: int
    sigma: float
    value: float
    icr: float
    information: float
    interval: tuple[float, float]
    best_step: int
    turned: bool
    turned_at: int | None
    should_stop: bool
    fall: float
    fall_interval: tuple[float, float]
    by_level: Mapping[float, MonitorState] = dataclasses.field(default_factory=dict)
    refused: Mapping[float, str] = dataclasses.field(default_factory=dict)


class ICRMonitor:
    """Watches the features of a fixed set of images while a network trains, and says when to stop.

    Parameters
    ----------
    criterion : {"information", "icr"}
        On which a turn is called, as for :class:`icrkit.TrainingCourse`.
    patience : int
        How many checkpoints in a row must be significantly worse before `should_stop`. Without a `warm_up` the best
        must also be significantly better than the first look: features of a random start get worse before they get
        better, and a network that is trained already, which can only fall, needs ``warm_up=1``.
    confidence : float
        Of the intervals. 1 - confidence bounds the probability of ever calling a turn while features do not get worse,
        however many checkpoints are looked at.
    sigma : float, optional
        The level that decides where there are several; by default as for :class:`icrkit.TrainingCourse`.
    n_folds : int
        Folds over images; Moments bring their own.
    warm_up : int
        Checkpoints before this step are measured, and take no part in the best step or the turn: see
        :class:`icrkit.TrainingCourse`.
    regularization : float
        tau as a share of Tr(Sigma_xi)/d.
    random_state : int
        Seed of the fold hash, and of the test's sign changes.
    drop_constant : bool
        Leave out dead units, features that are constant at a checkpoint, or nearly so: see
        :class:`icrkit.TrainingCourse`.

    Attributes
    ----------
    history_ : list of dict
        A row a step and level that was measured: ``step``, ``sigma``, ``value``, ``low``, ``high``, ``icr``,
        ``information``, ``best_step``, ``turned``, ``turned_at``, ``should_stop``, ``fall``, ``fall_low``,
        ``fall_high``, as they were said at that step.
    state_ : MonitorState or None
        After the last update.
    steps_ : list of int
    sigmas_ : list of float
        Levels, ascending; NaN where not known.

    Notes
    -----
    After every update the monitor says what :class:`icrkit.TrainingCourse` would say of the checkpoints so far: both
    make one test, whose error holds for any number of looks. A turn may be taken back by a new best; a loop that has
    stopped will not see that, so give `warm_up` where training begins with a dip, and `patience`.

    Of several levels each is read by itself, at its own error; the one of `sigma` decides. A level that cannot be
    measured at a checkpoint (features that lack rank, are constant, NaN or infinite) makes no look there, neither a bad
    one nor a good one: it is named in a warning and in ``state_.refused``, and goes on with its next look. `patience`
    counts looks. Where the level that decides cannot be measured, the update fails.

    It holds no features: for each checkpoint and level both criteria and `n_folds` numbers, about a kilobyte on disk.
    An update takes as long after 2,000 checkpoints as after ten, but for rare ones that compare with all before: see
    :func:`icrkit.readings.find_turn`. After a restart it goes on as if it had never stopped. `save` it with each
    checkpoint of the network, and `load` the file that belongs to the one you resume from; `state_dict` and
    `load_state_dict` do the same inside a checkpoint.

    Examples
    --------
    >>> import icrkit as ik
    >>> monitor = ik.ICRMonitor()
    >>> for step, icr in [(100, 0.5), (200, 0.4), (300, 0.6)]:  # training goes on here
    ...     features = ik.datasets.make_cube(n_images=400, n_features=6, icr=icr, random_state=0)
    ...     state = monitor.update(step, features)
    >>> state.best_step, state.turned, state.should_stop
    (200, True, True)
    """

    def __init__(
        self,
        criterion: str = "information",
        patience: int = 1,
        confidence: float = 0.95,
        *,
        sigma: float | None = None,
        n_folds: int = 20,
        warm_up: int = 0,
        regularization: float = 0.0,
        random_state: int = 0,
        drop_constant: bool = False,
    ) -> None:
        criterion_of(criterion)
        if patience < 1:
            raise ValueError(f"patience must be 1 or more checkpoints, not {patience}")
        self.criterion = criterion
        self.patience = patience
        self.confidence = confidence
        self.sigma = sigma
        self.n_folds = n_folds
        self.warm_up = warm_up
        self.regularization = regularization
        self.random_state = random_state
        self.drop_constant = drop_constant
        self._probe: _Probe | None = None
        self._levels: list[_Level] = []
        self._heavy_tails = False
        self.steps_: list[int] = []
        self.history_: list[dict[str, Any]] = []
        self.state_: MonitorState | None = None
        Looks(confidence)  # its check

    @property
    def _parameters(self) -> dict[str, Any]:
        """By name, numpy's numbers as Python's: what a file can hold, and what comes back from it."""
        given = {name: getattr(self, name) for name in _PARAMETERS}
        return {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}

    @property
    def sigmas_(self) -> list[float]:
        """Levels, ascending; NaN where not known."""
        return [] if self._probe is None else list(self._probe.sigmas)

    def update(self, step: int, X: Any) -> MonitorState:
        """Look at the features of a checkpoint, and forget them.

        Parameters
        ----------
        step : int
            Greater than that of the update before.
        X : Cube, DataArray, array or tensor (image, view, feature), or Moments
            One layer, at one noise level or several, of the same images under the same draws at every step. Moments
            need folds.

        Returns
        -------
        MonitorState

        Raises
        ------
        CubeFormatError
            A step that does not come after the one before; other images, views, seeds, folds, features or levels than
            at the first update; several layers.
        NotEnoughDataError
            Too few folds (see :func:`icrkit.readings.find_turn`); too few images for the features.
        DegenerateFeaturesError, IllConditionedError, NonFiniteError
            Of the features at the level that decides. Of another level it is a warning, and `MonitorState.refused`.

        Notes
        -----
        An update that fails leaves the monitor as it was.
        """
        step = step_number(step)
        if self.steps_ and step <= self.steps_[-1]:
            how = "has been seen" if step in self.steps_ else f"comes before step {self.steps_[-1]}, the last one seen"
            raise CubeFormatError(
                f"step {step} {how}. A run that resumes from an earlier checkpoint goes on with the monitor that was "
                "saved with it"
            )
        name = f"step {step}"
        space = Space.of(X, name)
        if len(space.layers) != 1:
            raise CubeFormatError(
                f"{name}: a monitor watches one layer, not {', '.join(space.layers)}: take one, such as by "
                "cube.select(layer=...), or a monitor for each"
            )
        probe = self._probe or _Probe.of(space, self.sigma)
        probe.check(space, name)
        found: list[LevelReading | str] = []
        for k in range(len(space.sigmas)):
            try:
                moments, readings = self._read(space, k, name)
            except READ_ERRORS as error:
                if k == probe.headline:
                    raise
                found.append(str(error))
                continue
            probe = probe.with_counts(moments, name)
            found.append(readings)
        for reason in found:
            if isinstance(reason, str):
                warnings.warn(f"{reason} (this level is left out of this update)", stacklevel=2)
        self._probe = probe
        headline = found[probe.headline]
        if isinstance(headline, LevelReading) and not self._heavy_tails:  # said once in a run
            reading = headline.of(self.criterion)
            self._heavy_tails = reading.tails is not None and reading.tails.heavy
            warn_of_heavy_tails({name: reading}, self.confidence)
        return self._say(step, found)

    def _read(self, space: Space, k: int, name: str) -> tuple[Moments, LevelReading]:
        """Moments and readings of the k-th level."""
        moments, readings = read_level(
            space.level(space.layers[0], k),
            space.place(name, space.layers[0], k),
            **{name: value for name, value in self._parameters.items() if name in READ_PARAMETERS},
        )
        looks = self._levels[k].looks if self._levels else Looks(self.confidence, self.random_state)
        looks.check(readings.of(self.criterion).n_folds, name)
        return moments, readings

    def _say(self, step: int, found: list[LevelReading | str]) -> MonitorState:
        """State after a checkpoint whose readings are known, or why there are none."""
        assert self._probe is not None
        if not self._levels:
            self._levels = [_Level(self, sigma) for sigma in self._probe.sigmas]
        for level, readings in zip(self._levels, found, strict=True):
            level.add(step, readings)
        self.steps_.append(step)
        return self._note(step, -1)

    def _note(self, step: int, k: int) -> MonitorState:
        """Write down what was said of the k-th checkpoint."""
        states = [level.state(step, k) for level in self._levels]
        self.history_ += [_row(state) for state in states if isinstance(state, MonitorState)]
        self.state_ = self._headline(states)
        return self.state_

    # ---- restart ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that it knows, in numbers, strings, lists and dicts, for the checkpoint of a trainer.

        Returns
        -------
        dict
        """
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "parameters": self._parameters,
            "probe": None if self._probe is None else self._probe.to_json(),
            "steps": list(self.steps_),
            "levels": [level.to_json() for level in self._levels],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, in place of what this monitor has seen.

        Parameters
        ----------
        state : dict

        Raises
        ------
        CubeFormatError
            It was not given by a monitor, is of a later version, or was read with other parameters than this monitor's.
            Only `criterion`, `patience` and `warm_up` may differ: what was said is then said anew.
        CubeCorruptError
            Parts are missing or damaged.
        """
        self._restore(state, "the state")

    def _restore(self, state: Any, name: str) -> None:
        _check_format(state, name)
        with parsing(name):
            parameters = self._parameters
            _check_whole(state)
            for key, there in state["parameters"].items():
                here = parameters[key]
                if here != there and key not in ("criterion", "patience", "warm_up"):
                    raise CubeFormatError(
                        f"{name} is of a monitor with {key}={there!r}, this one has {key}={here!r}: give the same, or "
                        "take ICRMonitor.load, which has them from the file"
                    )
            new = type(self)(**parameters)
            if state["probe"] is not None:
                new._probe = _Probe.from_json(state["probe"])
                if state["version"] == 1 or state["parameters"] != parameters:
                    new._look_again(state)
                else:
                    new._go_on(state)
        self.__dict__.update(new.__dict__)
        for level in self._levels:
            level.monitor = self

    def _look_again(self, state: Mapping[str, Any]) -> None:
        """Say anew what other parameters say, or what a file of version 1 does not hold."""
        levels = [{"readings": level} if state["version"] == 1 else level for level in state["levels"]]
        read = [_readings_from_json(level) for level in levels]
        for step, found in zip(state["steps"], zip(*read, strict=True), strict=True):
            self._say(step, list(found))

    def _go_on(self, state: Mapping[str, Any]) -> None:
        """Be as the monitor was."""
        assert self._probe is not None
        steps = list(state["steps"])
        self._levels = [_Level(self, sigma) for sigma in self._probe.sigmas]
        for level, contents in zip(self._levels, state["levels"], strict=True):
            level.restore(steps, contents)
        self.steps_ = steps
        for k, step in enumerate(steps):
            self._note(step, k)

    def _headline(self, states: list[MonitorState | str]) -> MonitorState:
        """State of the level that decides, with those of all where there are several."""
        assert self._probe is not None
        state = states[self._probe.headline]
        if not isinstance(state, MonitorState):
            raise ValueError(f"the level that decides was not measured: {state}")
        if len(states) == 1:
            return state
        named = dict(zip(self._probe.sigmas, states, strict=True))
        return dataclasses.replace(
            state,
            by_level={sigma: one for sigma, one in named.items() if isinstance(one, MonitorState)},
            refused={sigma: one for sigma, one in named.items() if isinstance(one, str)},
        )

    def save(self, path: str | Path) -> None:
        """Write to a JSON file, whole or not at all.

        Parameters
        ----------
        path : path
        """
        state = self.state_dict()
        write_file(path, _as_text(state | {"sha256": _sha256(state)}).encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The monitor that :meth:`save` wrote, with its parameters.

        Parameters
        ----------
        path : path

        Returns
        -------
        ICRMonitor

        Raises
        ------
        CubeFormatError
            The file was not written by a monitor, or was written by a later version.
        CubeCorruptError
            The file is damaged.
        FileNotFoundError

        Notes
        -----
        A file of version 1 holds readings only, and all looks are made again.
        """
        state = parse_json(Path(path).read_bytes(), path)
        _check_format(state, str(path))
        with parsing(path):
            digest = state.pop("sha256", None)
            if state["version"] > 1 and digest != _sha256(state):
                raise CubeCorruptError(f"{path} is damaged: its sha256 is not that of its contents")
            monitor = cls(**state["parameters"])
            monitor._restore(state, str(path))
        return monitor

    def __repr__(self) -> str:
        seen = f"{len(self.steps_)} checkpoint{'' if len(self.steps_) == 1 else 's'}"
        if self.state_ is not None:
            turned = f", turned at {self.state_.turned_at}" if self.state_.turned else ""
            seen += f", best step {self.state_.best_step}{turned}"
        return f"<icrkit.ICRMonitor on {self.criterion}: {seen}>"


_SAID = ("best_step", "turned_at", "should_stop", "fall", "fall_low", "fall_high")


class _Level:
    """One noise level's readings so far, the test on them, and what was said; of a step that has none, why."""

    def __init__(self, monitor: ICRMonitor, sigma: float) -> None:
        self.monitor, self._sigma = monitor, sigma
        self.looks = Looks(monitor.confidence, monitor.random_state)
        self._looked: list[tuple[int, LevelReading]] = []  # step and readings, from the end of the warm-up
        self.readings: list[LevelReading | str] = []
        self.said: list[tuple[Any, ...] | None] = []

    def add(self, step: int, readings: LevelReading | str) -> None:
        """Look at one more checkpoint."""
        monitor, criterion = self.monitor, self.monitor.criterion
        self.readings.append(readings)
        if isinstance(readings, str):
            self.said.append(None)
            return
        if step >= monitor.warm_up:
            self.looks.add(*readings.look(criterion))
            self._looked.append((step, readings))
        if not self._looked:
            self.said.append((step, None, False, 0.0, 0.0, 0.0))
            return
        turn = self.looks.turn()
        best_step, best = self._looked[turn.best]
        judged = Judgement.of_turn(turn, best.of(criterion), readings.of(criterion))
        turned_at = None if turn.at is None else self._looked[turn.at][0]
        # What falls from its first look on is a random start as likely as a peak: a warm-up says which.
        rose = turn.rose or monitor.warm_up > 0
        stop = bool(turn.run >= monitor.patience and rose)
        self.said.append((best_step, turned_at, stop, judged.fall, judged.low, judged.high))

    def state(self, step: int, k: int) -> MonitorState | str:
        """What was said of the k-th checkpoint, or why it was not measured."""
        readings, row = self.readings[k], self.said[k]
        if isinstance(readings, str) or row is None:
            return str(readings)
        said = dict(zip(_SAID, row, strict=True))
        reading = readings.of(self.monitor.criterion)
        return MonitorState(
            step=step,
            sigma=self._sigma,
            value=reading.value,
            icr=readings.icr.value,
            information=readings.information.value,
            interval=(reading.low, reading.high),
            best_step=said["best_step"],
            turned=said["turned_at"] is not None,
            turned_at=said["turned_at"],
            should_stop=said["should_stop"],
            fall=said["fall"],
            fall_interval=(said["fall_low"], said["fall_high"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Readings, what the test found, and what was said."""
        return {
            "readings": [one if isinstance(one, str) else _reading_to_json(one) for one in self.readings],
            "said": [None if row is None else list(row) for row in self.said],
        } | self.looks.to_json()

    def restore(self, steps: Sequence[int], contents: Mapping[str, Any]) -> None:
        """Be as `to_json` found it; nothing is tested again."""
        self.readings = _readings_from_json(contents)
        known = frozenset(steps)
        self.said = [None if row is None else _checked_row(row, known) for row in contents["said"]]
        if not len(self.readings) == len(self.said) == len(steps):
            raise ValueError(f"{len(self.readings)} readings and {len(self.said)} statements of {len(steps)} steps")
        for step, readings, row in zip(steps, self.readings, self.said, strict=True):
            if isinstance(readings, str) != (row is None):
                raise ValueError(f"step {step} was not measured, and something was said of it, or the other way round")
            if not isinstance(readings, str) and step >= self.monitor.warm_up:
                self._looked.append((step, readings))
        self.looks.restore((one.look(self.monitor.criterion) for _, one in self._looked), contents)


def _checked_row(row: Sequence[Any], steps: frozenset[int]) -> tuple[Any, ...]:
    """What was said at a step, of the types it was said in."""
    best, turned_at, stop, *fall = row
    if best not in steps or not (turned_at is None or turned_at in steps) or type(stop) is not bool or len(fall) != 3:
        raise ValueError(f"{row!r} is not what a monitor says")
    return best, turned_at, stop, *map(float, fall)


@dataclasses.dataclass(frozen=True)
class _Probe:
    """What must stay the same from step to step."""

    layer: str
    sigmas: tuple[float, ...]
    headline: int
    images: str | None  # digest of the ids; None where only moments were seen
    n_images: int
    n_views: int
    n_features: int
    draws: Mapping[str, Any]
    fold_images: tuple[int, ...] = ()
    first: str = "the first update"

    @classmethod
    def of(cls, space: Space, sigma: float | None) -> _Probe:
        layer, draws = space.layers[0], space.draws
        headline, width = space.headline(sigma), space.width(layer)
        sigmas = tuple(float(s) for s in space.sigmas)
        if draws is None:
            moments = space.moments[layer]
            n_images = int(np.atleast_2d(moments.n_images)[0].sum())
            return cls(layer, sigmas, headline, None, n_images, moments.n_views, width, {})
        images = _digest(draws.ids)
        return cls(layer, sigmas, headline, images, len(draws.ids), draws.n_views, width, draws.recorded)

    def check(self, space: Space, name: str) -> None:
        """Refuse another layer, levels, images, draws or width."""
        layer, draws = space.layers[0], space.draws
        if layer != self.layer:
            raise CubeFormatError(f"{name} is of layer {layer!r}, {self.first} was of {self.layer!r}")
        check_same_levels(space.sigmas, np.array(self.sigmas), name, self.first)
        if (draws is None) != (self.images is None):
            raise CubeFormatError(f"{self.first} and {name}: give features at every step, or moments at every step")
        if draws is not None:
            if len(draws.ids) != self.n_images or _digest(draws.ids) != self.images:
                raise CubeFormatError(
                    f"{name} holds other images ({len(draws.ids)}) than {self.first} ({self.n_images}), or other ids "
                    "of them. Differences are paired image by image: extract the same images at every step"
                )
            if draws.n_views != self.n_views:
                raise CubeFormatError(f"{name} has {draws.n_views} views, {self.first} {self.n_views}: use as many")
            check_recorded_draws(self.draws, draws.recorded, self.first, name)
        width = space.width(layer)
        if width != self.n_features:
            raise CubeFormatError(
                f"{name} has {width} features, {self.first} had {self.n_features}: is it the same layer of the same "
                "network?"
            )

    def with_counts(self, moments: Moments, name: str) -> _Probe:
        """With the images of each fold, once they are known; refuses other ones."""
        here = tuple(int(n) for n in moments.n_images)
        if not self.fold_images:
            return dataclasses.replace(self, fold_images=here)
        known = Moments.empty(self.n_views, 1, n_folds=len(self.fold_images))
        known = dataclasses.replace(known, n_images=np.array(self.fold_images))
        check_same_folds([known, fold_counts(moments)], [self.first, name])
        return self

    def to_json(self) -> dict[str, Any]:
        contents = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return contents | {"sigmas": [None if math.isnan(s) else s for s in self.sigmas]}

    @classmethod
    def from_json(cls, contents: dict[str, Any]) -> _Probe:
        sigmas = tuple(math.nan if s is None else float(s) for s in contents["sigmas"])
        if not 0 <= contents["headline"] < len(sigmas):
            raise ValueError(f"of {len(sigmas)} levels number {contents['headline']} decides")
        return cls(**contents | {"sigmas": sigmas, "fold_images": tuple(contents["fold_images"])})


def _digest(image_ids: Iterable[str]) -> str:
    """Of the images, in any order."""
    return hashlib.blake2b("\0".join(sorted(image_ids)).encode(), digest_size=16).hexdigest()


def _as_text(state: Mapping[str, Any]) -> str:
    return json.dumps(state, allow_nan=False, separators=(",", ":"), sort_keys=True)


def _sha256(state: Mapping[str, Any]) -> str:
    """Of a state, whether it was just made or has been through a file."""
    try:
        return hashlib.sha256(_as_text(state).encode()).hexdigest()
    except (ValueError, TypeError):
        return ""  # an infinite number, which no monitor writes


def _check_format(state: Any, name: str) -> None:
    """Refuse what no monitor of this version wrote."""
    if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
        raise CubeFormatError(f"{name} was not written by ICRMonitor.save, nor is it a state_dict")
    version = state.get("version")
    if type(version) is not int or not 1 <= version <= _VERSION:
        raise CubeFormatError(f"{name} is of version {version!r}; this icrkit reads versions 1 to {_VERSION}")


def _check_whole(state: Mapping[str, Any]) -> None:
    """Refuse parts that contradict each other, or that no monitor writes."""
    names, steps = set(state["parameters"]), state["steps"]
    if names != set(_PARAMETERS):
        raise ValueError(f"parameters {', '.join(sorted(names ^ set(_PARAMETERS)))} are missing or not known")
    if not all(type(step) is int for step in steps) or sorted(set(steps)) != list(steps):
        raise ValueError("steps are not whole numbers in ascending order")
    if steps and state["probe"] is None:
        raise ValueError("there are steps, and not what was seen at them")


def _row(state: MonitorState) -> dict[str, Any]:
    others = ("by_level", "refused")
    row = {field.name: getattr(state, field.name) for field in dataclasses.fields(state) if field.name not in others}
    for name, names in (("interval", ("low", "high")), ("fall_interval", ("fall_low", "fall_high"))):
        row |= dict(zip(names, row.pop(name), strict=True))
    return row


_KEPT = ("value", "low", "high", "merit", "n_images", "n_views", "n_features")


def _reading_to_json(found: LevelReading) -> dict[str, Any]:
    rows: dict[str, Any] = {
        name: {key: getattr(found.of(name), key) for key in _KEPT} | {"replicates": found.of(name).replicates.tolist()}
        for name in ("icr", "information")
    }
    return rows | {"plug_in": found.plug_in, "gaussian": found.gaussian}


def _readings_from_json(contents: Mapping[str, Any]) -> list[LevelReading | str]:
    """Readings of a level by step; of a step that has none, why."""
    return [one if isinstance(one, str) else _reading_from_json(one) for one in contents["readings"]]


def _reading_from_json(row: dict[str, Any]) -> LevelReading:
    icr, information = (
        Reading(criterion=criterion_of(name), **row[name] | {"replicates": np.array(row[name]["replicates"])})
        for name in ("icr", "information")
    )
    # Replicates of ICR were plug-ins before they were refits, and no other was kept.
    plug_in = row.get("plug_in", float(icr.replicates.mean()))
    return LevelReading(icr, information, plug_in, row["gaussian"])
