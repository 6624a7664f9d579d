"""The monitor: it says what a course would, survives a restart exactly, and refuses what does not belong to it."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import CubeCorruptError, CubeFormatError, DegenerateFeaturesError, NotEnoughDataError
from icrkit.moments import Moments
from icrkit.readings import _course
from icrkit.readings._course import TrainingCourse
from icrkit.readings._monitor import ICRMonitor, _sha256
from icrkit.readings._reading import READ_ERRORS

STEPS = [10, 100, 200, 300, 400, 500]
ICR = [0.6, 0.7, 0.5, 0.4, 0.45, 0.5]
LEVELS = [0.1, 0.3, 0.6]


def features(icr: Any, **options: Any) -> ik.Cube:
    """A cube; one seed means the same images under the same draws."""
    given = {"n_images": 240, "n_features": 4, "random_state": 0} | options
    return ik.datasets.make_cube(icr=icr, **given)


def several(icr: float) -> ik.Cube:
    """Three levels, of which the last never changes."""
    return features([icr, 1.1 * icr, 0.5], sigmas=LEVELS)


def follow(monitor: ICRMonitor, make: Any = features, steps: Any = STEPS) -> ICRMonitor:
    """Updates at those of the steps that are wanted."""
    for step, icr in zip(STEPS, ICR, strict=True):
        if step in steps:
            monitor.update(step, make(icr))
    return monitor


# ---- what it says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["information", "icr"])
def test_after_every_update_it_says_what_a_course_would(criterion):
    monitor = ICRMonitor(criterion)
    cubes = {step: features(icr) for step, icr in zip(STEPS, ICR, strict=True)}
    for k, (step, cube) in enumerate(cubes.items(), start=1):
        state = monitor.update(step, cube)
        if k < 3:
            continue
        course = TrainingCourse(criterion).fit(dict(list(cubes.items())[:k]))
        assert (state.best_step, state.turned, state.turned_at) == (
            course.best_step_,
            course.turned_,
            course.turned_at_,
        )
        assert (state.fall, state.fall_interval) == (course.fall_, course.fall_interval_)
        at = course.curve_.isel(layer=0, sigma=0, step=-1)
        assert (state.icr, state.information) == (float(at["icr"]), float(at["information"]))
        assert state.value == float(at[criterion])
        assert state.interval == (float(at[f"{criterion}_low"]), float(at[f"{criterion}_high"]))
    assert (state.best_step, state.turned_at, state.should_stop) == (300, 400, True)


def test_a_dip_is_called_and_taken_back_and_a_warm_up_leaves_it_out():
    monitor = follow(ICRMonitor())
    said = {row["step"]: (row["turned_at"], row["should_stop"]) for row in monitor.history_}
    # What has not risen from its first look has no peak yet: nobody is told to stop.
    assert said[100] == (100, False) and said[200] == (None, False) and said[500] == (400, True)
    trained = {row["step"]: row["should_stop"] for row in follow(ICRMonitor(warm_up=1)).history_}
    assert trained[100] and not trained[200]  # whoever says where training begins means it
    warm = follow(ICRMonitor(warm_up=50))
    first, *_ = warm.history_
    assert (first["best_step"], first["turned"], first["should_stop"], first["fall"]) == (10, False, False, 0.0)
    assert not any(row["turned"] for row in warm.history_[:4]) and warm.state_.turned_at == 400


def test_a_second_look_that_is_better_by_chance_is_no_rise():
    """A dip from the second look on stops nobody, and a fall after a rise does."""
    chance = 0
    for seed in range(6):
        monitor = ICRMonitor()
        for step, icr in enumerate([0.5, 0.5, 0.8, 0.8], start=1):
            state = monitor.update(step, features(icr, random_state=10 * seed + step).level().to_numpy())
        chance += state.best_step == 2
        assert state.turned and not state.should_stop
        monitor.update(5, features(0.2, random_state=10 * seed + 5).level().to_numpy())
        assert monitor.update(6, features(0.5, random_state=10 * seed + 6).level().to_numpy()).should_stop
    assert chance >= 2


def test_patience_counts_checkpoints_in_a_row():
    stops = [row["step"] for row in follow(ICRMonitor(patience=2)).history_ if row["should_stop"]]
    assert stops == [500]
    assert not any(row["should_stop"] for row in follow(ICRMonitor(patience=3)).history_)


def test_several_levels_are_each_read_by_itself():
    monitor = follow(ICRMonitor(), several)
    state = monitor.state_
    assert list(state.by_level) == LEVELS == monitor.sigmas_
    assert state.sigma == 0.3 and state.by_level[0.3].value == state.value
    assert (state.by_level[0.1].turned_at, state.by_level[0.6].turned_at) == (400, None)
    alone = follow(ICRMonitor(), lambda icr: several(icr).select(sigma=0.1))
    assert state.by_level[0.1] == alone.state_
    assert len(monitor.history_) == len(STEPS) * 3
    assert follow(ICRMonitor(sigma=0.6), several).state_.turned is False


def test_moments_arrays_and_cubes_say_the_same():
    cube = follow(ICRMonitor()).state_
    array = follow(ICRMonitor(), lambda icr: features(icr).level().to_numpy()).state_
    moments = follow(ICRMonitor(), lambda icr: Moments.from_cube(features(icr).level(), n_folds=20)).state_
    levels = follow(ICRMonitor(), lambda icr: Moments.from_cube(several(icr), n_folds=20)).state_
    named = follow(ICRMonitor(), lambda icr: {"mid": Moments.from_cube(several(icr), n_folds=20)}).state_
    for other in (array, moments):
        assert (other.value, other.turned_at, other.fall) == (cube.value, cube.turned_at, cube.fall)
    assert levels == named == follow(ICRMonitor(), several).state_


def test_dead_units_are_dropped_when_asked():
    def make(icr):
        return np.insert(features(icr).level().to_numpy(), 0, 0.0, axis=2)

    state = follow(ICRMonitor(drop_constant=True), make).state_
    assert (state.information, state.turned_at) == (pytest.approx(follow(ICRMonitor()).state_.information), 400)
    with pytest.raises(DegenerateFeaturesError, match="step 1, layer features: every feature is constant"):
        ICRMonitor(drop_constant=True).update(1, np.ones((240, 2, 4)))
    with pytest.raises(DegenerateFeaturesError, match=r"step 10, layer features: 1 of 5 .* drop_constant=True"):
        follow(ICRMonitor(), make)


def test_tensors_are_taken_as_they_are():
    torch = pytest.importorskip("torch")
    state = follow(ICRMonitor(), lambda icr: torch.from_numpy(features(icr).level().to_numpy())).state_
    assert state.turned_at == 400


# ---- a restart ------------------------------------------------------------------------------------------------------


def heavy(criterion: str, k: int, icr: float) -> np.ndarray:
    """So few images, and such seeds, that one estimator calls a turn where the other does not."""
    seed = {"information": 180, "icr": 120}[criterion] + k
    return ik.datasets.make_heavy_cube(n_images=120, n_features=20, icr=icr, random_state=seed).level().to_numpy()


@pytest.mark.parametrize(
    ("criterion", "stops"), [("information", [False, False, False, False, True, False]), ("icr", [False] * 6)]
)
def test_both_estimators_are_asked_and_come_back_from_a_file(tmp_path, criterion, stops):
    path, monitor = tmp_path / "monitor.json", ICRMonitor(criterion)
    for k, icr in enumerate([0.7, 0.3, 0.36, 0.4, 0.42, 0.45]):
        monitor.update(k, heavy(criterion, k, icr))
        monitor.save(path)
        (level,) = json.loads(path.read_text())["levels"]
        assert all(isinstance(row["gaussian"], float) for row in level["readings"])
        monitor = ICRMonitor.load(path)
    assert [row["should_stop"] for row in monitor.history_] == stops


@pytest.mark.parametrize(
    "options",
    [
        {"warm_up": np.int64(5)},
        {"n_folds": np.int64(20), "patience": np.uint8(2), "random_state": np.int32(1)},
        {"sigma": np.float32(0.5), "confidence": np.float32(0.9), "regularization": np.float16(0.0)},
        {"drop_constant": np.bool_(True)},
    ],
    ids=str,
)
def test_parameters_of_numpy_are_saved(tmp_path, options):
    path, monitor = tmp_path / "monitor.json", ICRMonitor(**options)
    monitor.patience = np.int64(1)  # set later too
    monitor.update(10, features([0.6, 0.5], sigmas=[0.5, 1.0]))
    monitor.save(path)
    written = json.loads(path.read_text())
    assert len(written.pop("sha256")) == 64 and json.loads(json.dumps(monitor.state_dict())) == written
    loaded = ICRMonitor.load(path)
    assert loaded.state_ == monitor.state_ and loaded.state_dict() == monitor.state_dict()
    monitor.load_state_dict(loaded.state_dict())
    assert type(loaded.patience) is int


def test_draws_recorded_in_numpy_or_tuples_are_those_of_the_file(tmp_path):
    def recorded(icr, **attrs):
        made = features(icr)
        return ik.Cube(made.to_xarray().assign_attrs(attrs))

    noise = {"name": "EDM", "trained_range": (0.1, 2.0)}
    monitor = ICRMonitor()
    monitor.update(10, recorded(0.6, seed=np.int64(3), noise=noise))
    monitor.save(tmp_path / "monitor.json")
    again = recorded(0.5, seed=3, noise={**noise, "trained_range": [0.1, 2.0]})
    for other in (monitor, ICRMonitor.load(tmp_path / "monitor.json")):
        other.update(20, again)
        with pytest.raises(CubeFormatError, match="differ in seed: 4 against 3"):
            other.update(30, recorded(0.5, seed=np.int64(4), noise=noise))


@pytest.mark.parametrize("make", [features, several, lambda icr: Moments.from_cube(several(icr), n_folds=16)])
@pytest.mark.parametrize("cut", [0, 1, 4])
def test_a_run_that_was_split_is_the_whole_run(tmp_path, make, cut):
    whole = follow(ICRMonitor("icr", 2, 0.9, warm_up=50), make)
    first = follow(ICRMonitor("icr", 2, 0.9, warm_up=50), make, STEPS[:cut])
    first.save(tmp_path / "monitor.json")
    second = follow(ICRMonitor.load(tmp_path / "monitor.json"), make, STEPS[cut:])
    assert repr(second.history_) == repr(whole.history_)  # NaN levels are not equal to themselves
    assert repr(second.state_) == repr(whole.state_)
    for monitor, name in ((whole, "whole.json"), (second, "second.json")):
        monitor.save(tmp_path / name)
    assert (tmp_path / "second.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_trainers_checkpoint_keeps_it(tmp_path):
    whole, first = follow(ICRMonitor()), follow(ICRMonitor(), steps=STEPS[:3])
    state = json.loads(json.dumps(first.state_dict()))
    second = follow(ICRMonitor(), steps=STEPS[:1])
    second.load_state_dict(state)
    assert repr(follow(second, steps=STEPS[3:]).history_) == repr(whole.history_)
    assert first.steps_ == STEPS[:3]
    # What readings do not hang on may differ, and holds from the first checkpoint on.
    other = ICRMonitor("icr", patience=2, warm_up=50)
    other.load_state_dict(whole.state_dict())
    assert repr(other.history_) == repr(follow(ICRMonitor("icr", patience=2, warm_up=50)).history_)
    other.patience = 1
    assert other.update(600, features(0.5)).should_stop  # its levels follow it, not the one they were made with


def test_a_file_of_the_first_version_is_read(tmp_path):
    whole = follow(ICRMonitor("icr", 2, warm_up=50), several)
    state = whole.state_dict()
    state |= {"version": 1, "levels": [level["readings"] for level in state["levels"]]}
    (tmp_path / "monitor.json").write_text(json.dumps(state))
    loaded = ICRMonitor.load(tmp_path / "monitor.json")
    assert repr(loaded.history_) == repr(whole.history_) and loaded.state_dict() == whole.state_dict()


def test_a_file_of_the_second_version_is_read(tmp_path):
    whole = follow(ICRMonitor("icr", 2, warm_up=50), several)
    state = whole.state_dict() | {"version": 2}
    (tmp_path / "monitor.json").write_text(json.dumps(state | {"sha256": _sha256(state)}))
    loaded = ICRMonitor.load(tmp_path / "monitor.json")
    assert repr(loaded.history_) == repr(whole.history_) and loaded.state_dict() == whole.state_dict()


# ---- a level that cannot be measured --------------------------------------------------------------------------------


def spoil(array: np.ndarray, how: str) -> np.ndarray:
    """Features of one level that have no reading."""
    array = array.copy()
    if how == "constant":
        array[..., 1] = 3.0
    elif how == "no rank":
        array[..., 1] = array[..., 0]
    else:
        array[7, 0, 1] = float(how)
    return array


def broken(icr: float, how: str, level: int = 0) -> ik.Cube:
    """Three levels, one of which cannot be measured."""
    array = several(icr)["features"].to_numpy().copy()
    array[:, :, level] = spoil(array[:, :, level], how)
    return ik.from_arrays({"features": array}, sigmas=LEVELS)


WORDS = {"constant": "constant", "no rank": "singular", "nan": "NaN", "inf": "the first is inf"}


@pytest.mark.parametrize("how", WORDS)
@pytest.mark.parametrize("step", [10, 200, 400, 500])
def test_a_level_that_cannot_be_measured_is_named_and_the_others_go_on(tmp_path, how, step):
    monitor, path = ICRMonitor(), tmp_path / "monitor.json"
    for at, icr in zip(STEPS, ICR, strict=True):
        if at == step:
            with pytest.warns(UserWarning, match=rf"step {step}, layer features, sigma 0\.1: .*{WORDS[how]}.*left out"):
                state = monitor.update(at, broken(icr, how))
            (reason,) = state.refused.values()
            assert list(state.refused) == [0.1] and reason.startswith(f"step {step}, layer features, sigma 0.1: ")
            assert list(state.by_level) == [0.3, 0.6]
        else:
            assert monitor.update(at, several(icr)).refused == {}
        monitor.save(path)
        loaded = ICRMonitor.load(path)
        assert loaded.state_ == monitor.state_ and loaded.history_ == monitor.history_
        assert loaded.state_dict() == monitor.state_dict()
        monitor = loaded
    # The others say what they would without it; it says what it would without that look.
    others = follow(ICRMonitor(), lambda icr: several(icr).select(sigma=[0.3, 0.6]))
    alone = follow(
        ICRMonitor(), lambda icr: several(icr).select(sigma=0.1), steps=[one for one in STEPS if one != step]
    )
    rows = {sigma: [row for row in monitor.history_ if row["sigma"] == sigma] for sigma in LEVELS}
    assert rows[0.3] + rows[0.6] == sorted(others.history_, key=lambda row: row["sigma"])
    assert rows[0.1] == alone.history_
    # So too where all is said anew.
    again = ICRMonitor("icr", patience=2, warm_up=50)
    again.load_state_dict(monitor.state_dict())
    steps = [one for one in STEPS if one != step]
    alone = follow(ICRMonitor("icr", 2, warm_up=50), lambda icr: several(icr).select(sigma=0.1), steps=steps)
    assert [row for row in again.history_ if row["sigma"] == 0.1] == alone.history_


@pytest.mark.parametrize("how", WORDS)
@pytest.mark.parametrize(("sigma", "level"), [(None, 1), (0.6, 2)])
def test_the_level_that_decides_must_be_measured(how, sigma, level):
    monitor = follow(ICRMonitor(sigma=sigma), several, steps=STEPS[:2])
    before = repr(monitor.history_)
    with pytest.raises(READ_ERRORS, match=rf"step 200, layer features, sigma {LEVELS[level]}: "):
        monitor.update(200, broken(0.5, how, level))
    assert repr(monitor.history_) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda level: level["said"].__setitem__(1, None), "step 100 was not measured, and something was said"),
        (lambda level: level["readings"].__setitem__(1, "lost"), "step 100 was not measured, and something was said"),
        (
            lambda level: level.update(readings=["a", "b"], said=[None, None], significant=[], crossed=[[], []]),
            "level that decides was not measured: a",
        ),
    ],
)
def test_a_state_that_contradicts_itself_about_what_was_measured(change, words):
    state = json.loads(json.dumps(follow(ICRMonitor(), steps=STEPS[:2]).state_dict()))
    change(state["levels"][0])
    with pytest.raises(CubeCorruptError, match=words):
        ICRMonitor().load_state_dict(state)


# ---- many checkpoints -----------------------------------------------------------------------------------------------


class Compared(np.ndarray):
    """Sign changes that count the checkpoints that they are compared with."""

    counts: list[int] = []

    def __matmul__(self, other: Any) -> Any:
        self.counts.append(other.shape[1])
        return np.asarray(self) @ other


def test_two_thousand_looks_stay_as_cheap_as_the_first(tmp_path, monkeypatch):
    n, flips = 2000, _course._flips(20, 0)
    monkeypatch.setattr(_course, "_flips", lambda *_: flips.view(Compared))
    monkeypatch.setattr(Compared, "counts", [])
    first = follow(ICRMonitor(), steps=STEPS[:1])
    (found,) = [level.readings[0] for level in first._levels]
    rng, monitor, compared = np.random.default_rng(0), ICRMonitor(), []
    monitor._probe = first._probe
    for step in range(n):
        information = dataclasses.replace(
            found.information, merit=step / n, replicates=step / n + rng.normal(0, 0.01, 20)
        )
        before = len(Compared.counts)
        monitor._say(step, [found._replace(information=information, gaussian=step / n)])
        compared.append(sum(Compared.counts[before:]))
    # Looks that compare with all before become rare as fast as they become long: both estimators, of 2,000 looks.
    assert sum(compared) < 40 * n  # every look with all before: 2,000 n
    assert sum(map(bool, compared[n // 2 :])) < 20
    monitor.save(tmp_path / "monitor.json")
    assert (tmp_path / "monitor.json").stat().st_size < 1500 * n

    def look(*_: Any) -> None:
        raise AssertionError("a look was made again")

    monkeypatch.setattr(_course.Looks, "add", look)
    loaded = ICRMonitor.load(tmp_path / "monitor.json")
    assert loaded.history_ == monitor.history_ and loaded.state_dict() == monitor.state_dict()
    monkeypatch.undo()
    for one in (monitor, loaded):
        worse = dataclasses.replace(information, merit=0.0, replicates=rng.normal(0, 0.01, 20) * 0)
        one._say(n, [found._replace(information=worse, gaussian=0.0)])
    assert loaded.state_ == monitor.state_


@pytest.mark.parametrize(
    ("options", "words"),
    [({"confidence": 0.9}, "confidence=0.95, this one has confidence=0.9"), ({"n_folds": 10}, "n_folds=20, this one")],
)
def test_a_state_of_other_readings_is_refused(options, words):
    other = ICRMonitor(**options)
    with pytest.raises(CubeFormatError, match=words):
        other.load_state_dict(follow(ICRMonitor(), steps=STEPS[:2]).state_dict())
    with pytest.raises(CubeFormatError, match="the state was not written by ICRMonitor"):
        other.load_state_dict({})
    assert other.steps_ == []


def test_the_file_is_small_whatever_the_features(tmp_path):
    sizes = []
    for n_images, d in ((240, 4), (1200, 12)):
        monitor = follow(ICRMonitor(), lambda icr, n=n_images, d=d: features(icr, n_images=n, n_features=d))
        monitor.save(tmp_path / "monitor.json")
        sizes.append((tmp_path / "monitor.json").stat().st_size)
        assert len(pickle.dumps(monitor)) < 60_000
    assert max(sizes) < 2000 * len(STEPS) and abs(sizes[1] - sizes[0]) < 0.1 * sizes[0]


def test_a_save_that_fails_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "monitor.json"
    monitor = follow(ICRMonitor(), steps=STEPS[:2])
    monitor.save(path)
    before = path.read_bytes()
    monitor.update(200, features(0.5))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(OSError, match="no space"):
        monitor.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda text: text[: len(text) // 2], CubeCorruptError, "damaged"),
        (lambda text: "[1]", CubeFormatError, "was not written by ICRMonitor.save"),
        (
            lambda text: text.replace('"version":3', '"version":4'),
            CubeFormatError,
            "of version 4; this icrkit reads versions 1 to 3",
        ),
        (lambda text: text.replace('"version":3', '"version":true'), CubeFormatError, "of version True"),
        (lambda text: text.replace('"merit"', '"merits"'), CubeCorruptError, "its sha256"),
        (lambda text: text.replace('"steps":[10,', '"steps":['), CubeCorruptError, "its sha256"),
        (lambda text: text.replace("0.0", "0.1", 1), CubeCorruptError, "its sha256"),
        (lambda text: text.replace('"sha256"', '"sha255"'), CubeCorruptError, "its sha256"),
    ],
)
def test_a_damaged_or_foreign_file(tmp_path, change, error, words):
    path = tmp_path / "monitor.json"
    follow(ICRMonitor(), steps=STEPS[:2]).save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(error, match=words):
        ICRMonitor.load(path)
    with pytest.raises(FileNotFoundError):
        ICRMonitor.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state["probe"].update(headline=7), "of 1 levels number 7 decides"),
        (lambda state: state["probe"].update(headline=-1), "of 1 levels number -1 decides"),
        (lambda state: state["probe"].update(headline=None), "TypeError"),
        (lambda state: state.update(parameters={}), "parameters confidence, criterion, .* are missing or not known"),
        (lambda state: state["parameters"].pop("warm_up"), "parameters warm_up are missing"),
        (lambda state: state["parameters"].update(speed=1), "speed"),
        (lambda state: state.update(parameters=[]), "TypeError"),
        (lambda state: state.update(steps=[100, 10]), "whole numbers in ascending order"),
        (lambda state: state.update(steps=[10, 10]), "whole numbers in ascending order"),
        (lambda state: state.update(steps=[10.0, 100]), "whole numbers in ascending order"),
        (lambda state: state.update(steps=[10, float("inf")]), "whole numbers in ascending order"),
        (lambda state: state.update(steps=None), "TypeError"),
        (lambda state: state.update(probe=None), "there are steps, and not what was seen at them"),
        (lambda state: state.update(levels=[]), "ValueError"),
        (lambda state: state["levels"][0]["readings"][1].pop("gaussian"), "KeyError"),
        (lambda state: state["levels"][0]["readings"][1]["icr"].update(merits=1.0), "TypeError"),
        (lambda state: state["levels"][0]["said"].pop(), "2 readings and 1 statements of 2 steps"),
        (lambda state: state["levels"][0]["said"][1].__setitem__(0, 55), "is not what a monitor says"),
        (lambda state: state["levels"][0]["said"][1].__setitem__(1, 55), "is not what a monitor says"),
        (lambda state: state["levels"][0]["said"][1].__setitem__(2, 1), "is not what a monitor says"),
        (lambda state: state["levels"][0].update(significant=[2]), "places that ascend from 0 to below 2"),
        (lambda state: state["levels"][0].update(significant=[-1]), "places that ascend"),
        (lambda state: state["levels"][0].update(crossed=[[5, 5], []]), "places that ascend from 0 to below 16384"),
        (lambda state: state["levels"][0].update(crossed=[[16384], []]), "places that ascend"),
        (lambda state: state["levels"][0].update(crossed=[[]]), "ValueError"),
    ],
)
def test_parts_that_do_not_fit_are_damage(tmp_path, change, words):
    path, whole = tmp_path / "monitor.json", follow(ICRMonitor(), steps=STEPS[:2])
    state = json.loads(json.dumps(whole.state_dict()))
    change(state)
    sha256 = _sha256(state)
    path.write_text(json.dumps(state | {"sha256": sha256}).replace("Infinity", "1e400"))
    with pytest.raises(
        CubeCorruptError, match=rf"monitor\.json (is damaged|cannot be parsed): .*{words if sha256 else ''}"
    ):
        ICRMonitor.load(path)
    before = repr(whole.history_)
    with pytest.raises(CubeCorruptError, match="the state cannot be parsed"):
        whole.load_state_dict(state)
    assert repr(whole.history_) == before


# ---- what is refused ------------------------------------------------------------------------------------------------

ARRAY = features(0.5).level().to_numpy()
BAD: list[tuple[Any, Any, type[Exception], str]] = [
    (400, features(0.5), CubeFormatError, "step 400 has been seen"),
    (150, features(0.5), CubeFormatError, "step 150 comes before step 400.*goes on with the monitor that was saved"),
    (1.5, features(0.5), ValueError, "whole numbers"),
    (600, features(0.5, n_images=239), CubeFormatError, r"other images \(239\) than the first update \(240\)"),
    (600, features(0.5)[::-1], CubeFormatError, ""),  # another order is no other set
    (600, features(0.5, random_state=1), CubeFormatError, "differ in seed: 1 against 0"),
    (600, features(0.5, n_views=3), CubeFormatError, "3 views"),
    (600, features(0.5, n_features=3), CubeFormatError, "step 600 has 3 features, the first update had 4"),
    (
        600,
        features([0.5, 0.5], sigmas=[0.1, 1.0]),
        CubeFormatError,
        "step 600 has levels 0.1, 1; the first update has 1",
    ),
    (600, Moments.from_cube(ARRAY, n_folds=20), CubeFormatError, "levels nan"),
    (600, ARRAY, CubeFormatError, "levels nan"),
    (600, ARRAY[:, 0], CubeFormatError, "rows become a cube"),
    (600, ik.from_arrays({"a": ARRAY, "b": ARRAY}), CubeFormatError, "watches one layer, not a, b"),
    (
        600,
        ik.from_arrays({"a": ARRAY}, sigmas=[1.0]),
        CubeFormatError,
        "of layer 'a', the first update was of 'features'",
    ),
]


@pytest.mark.parametrize(("step", "X", "error", "words"), BAD, ids=[words for *_, words in BAD])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_does_not_belong_is_refused_and_changes_nothing(tmp_path, step, X, error, words, restarted):
    monitor = follow(ICRMonitor(), steps=STEPS[:5])
    if restarted:
        monitor.save(tmp_path / "monitor.json")
        monitor = ICRMonitor.load(tmp_path / "monitor.json")
    if not words:
        monitor.update(step, X)
        return
    before = repr(monitor.history_)
    with pytest.raises(error, match=words):
        monitor.update(step, X)
    assert repr(monitor.history_) == before
    assert monitor.update(500, features(0.5)).step == 500


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        (Moments.from_cube(ARRAY, n_folds=0), NotEnoughDataError, "have no folds"),
        (Moments.from_cube(ARRAY, n_folds=4), NotEnoughDataError, "cannot be tested with 4 folds"),
        (np.ones((240, 2, 4)), DegenerateFeaturesError, "step 1, layer features: 4 of 4"),
        ({}, CubeFormatError, "step 1 has no layers"),
    ],
)
def test_a_first_update_that_fails_leaves_it_new(X, error, words):
    monitor = ICRMonitor()
    with pytest.raises(error, match=words):
        monitor.update(1, X)
    assert monitor.state_ is None and monitor.steps_ == [] == monitor.sigmas_
    assert monitor.update(1, features(0.5)).best_step == 1


def test_more_confidence_needs_more_folds():
    with pytest.raises(
        NotEnoughDataError, match=r"step 1: .* 10 folds of images, 11 are the least at a confidence of 0\.99"
    ):
        ICRMonitor(confidence=0.99, n_folds=10).update(1, features(0.5))


def test_moments_of_other_images_are_refused_by_their_folds():
    monitor = ICRMonitor()
    monitor.update(1, Moments.from_cube(ARRAY, n_folds=20))
    with pytest.raises(CubeFormatError, match="the folds of step 2 hold"):
        monitor.update(2, Moments.from_cube(ARRAY, n_folds=20, random_state=1))
    with pytest.raises(CubeFormatError, match="moments at every step"):
        monitor.update(2, ARRAY)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": "loss"}, "criterion must be one of"),
        ({"patience": 0}, "patience must be 1 or more checkpoints, not 0"),
        ({"confidence": 95}, "confidence must lie between 0 and 1"),
    ],
)
def test_parameters_are_checked_at_once(options, words):
    with pytest.raises(ValueError, match=words):
        ICRMonitor(**options)


def test_a_level_to_decide_that_is_not_there():
    with pytest.raises(CubeFormatError, match=r"no level sigma=0\.2 here"):
        ICRMonitor(sigma=0.2).update(1, several(0.5))


def test_it_shows_where_it_stands(tmp_path: Path):
    assert repr(ICRMonitor()) == "<icrkit.ICRMonitor on information: 0 checkpoints>"
    monitor = follow(ICRMonitor(patience=4))
    assert repr(monitor) == "<icrkit.ICRMonitor on information: 6 checkpoints, best step 300, turned at 400>"
    monitor.save(tmp_path / "monitor.json")
    assert json.loads((tmp_path / "monitor.json").read_text())["parameters"]["patience"] == 4
