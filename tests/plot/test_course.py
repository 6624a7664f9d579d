"""The displays of a training course: what is drawn is what they were given."""

from __future__ import annotations

import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import MissingDependencyError
from icrkit.moments import Moments
from icrkit.plot._course import CourseDisplay, ExpansionDisplay
from icrkit.readings._course import TrainingCourse

STEP = [100, 200, 400, 2000]
VALUE, LOW, HIGH = (np.array([3.0, 4.0, 3.5, 3.0]) + shift for shift in (0.0, -0.1, 0.1))
ICR = np.array([0.5, 0.4, 0.45, 0.5])
CRITERIA = {"information": (VALUE, LOW, HIGH), "icr": (ICR, ICR - 0.01, ICR + 0.01)}


def drawn(ax: Any, values: Any) -> bool:
    """Whether a line with these ordinates is there."""
    return any(np.array_equal(np.asarray(line.get_ydata()), values) for line in ax.get_lines())


def words(ax: Any) -> str:
    """All text of an Axes."""
    return "\n".join(text.get_text() for text in [*ax.texts, ax.title, ax._left_title])


def at(ax: Any) -> set[float]:
    """Where its vertical lines stand."""
    ends = [line.get_xdata() for line in ax.get_lines()]
    return {float(x[0]) for x in ends if len(x) == 2 and x[0] == x[1]}


@pytest.fixture(scope="module")
def course() -> TrainingCourse:
    sigmas = [0.1, 0.3, 0.6]
    cubes = [
        (step, ik.datasets.make_cube(200, 4, icr=[0.5, icr, 0.2 + icr], sigmas=sigmas))
        for step, icr in zip(STEP, [0.5, 0.3, 0.35, 0.5], strict=True)
    ]
    return TrainingCourse().fit(cubes)


def test_draws_its_numbers_and_marks() -> None:
    display = CourseDisplay(step=STEP, criteria=CRITERIA, best_step=200, turned_at=400, place="mid, σ 0.3").plot()
    information, icr = display.axes_
    assert drawn(information, VALUE) and drawn(icr, ICR)
    band = information.collections[0].get_paths()[0].vertices
    assert {LOW[0], HIGH[1]} <= set(band[:, 1])
    assert at(information) == at(icr) == {200.0, 400.0}
    assert "mid, σ 0.3\ninformation, nats" in words(information) and "ICR" in words(icr)
    assert "best: step 200" in words(information) and "turn called: step 400" in words(information)
    assert information.get_xscale() == "log" and icr.get_xlabel() == "training step"
    assert display.figure_ is information.figure


def test_a_course_that_has_not_turned_says_nothing_of_a_turn() -> None:
    (ax,) = CourseDisplay(step=STEP, criteria={"icr": CRITERIA["icr"]}, best_step=200).plot().axes_
    assert at(ax) == {200.0} and "turn" not in words(ax)
    (ax,) = CourseDisplay(step=STEP, criteria={"icr": CRITERIA["icr"]}).plot().axes_
    assert not at(ax)


def test_levels_and_series_have_panels_of_their_own() -> None:
    loss, copies = np.array([3.0, 2.0, 1.0, 2.0]), np.array([0.0, 0.2])
    display = CourseDisplay(
        step=STEP,
        criteria=CRITERIA,
        levels={"σ 0.3": VALUE / 4, "σ 0.1": VALUE[::-1] / 4},
        series={"held-out loss": loss, "copies": ([400, 2000], copies)},
        percent=["copies"],
    ).plot()
    assert len(display.axes_) == len(display.panels) == 5
    assert drawn(display.axes_[2], VALUE / 4) and "σ 0.1" in words(display.axes_[2])
    assert drawn(display.axes_[3], loss) and "held-out loss" in words(display.axes_[3])
    assert drawn(display.axes_[4], copies)
    display.figure_.canvas.draw()
    assert any("%" in label.get_text() for label in display.axes_[4].get_yticklabels())
    assert not any("%" in label.get_text() for label in display.axes_[3].get_yticklabels())
    assert display.axes_[4].get_xlim() == display.axes_[0].get_xlim()


def test_a_level_without_a_share_is_named_and_not_drawn() -> None:
    shares = {"σ 0.3": VALUE / 4, "σ 3": np.full(4, np.nan)}
    ax = CourseDisplay(step=STEP, criteria=CRITERIA, levels=shares, best_step=200).plot().axes_[2]
    assert drawn(ax, VALUE / 4) and len([line for line in ax.get_lines() if len(line.get_xdata()) == 4]) == 1
    assert [text.get_text() for text in ax.texts] == ["σ 0.3"]
    assert "not drawn, since its best is not above 0: σ 3" in words(ax)
    ax.figure.canvas.draw()
    assert "not drawn" not in words(CourseDisplay(step=STEP, criteria=CRITERIA, levels={"a": ICR}).plot().axes_[2])


def test_a_best_that_is_not_positive_has_no_share() -> None:
    noise = np.random.default_rng(0).standard_normal((200, 2, 1, 6))
    signal = np.random.default_rng(1).standard_normal((200, 1, 1, 6))
    cubes = [
        (step, ik.from_arrays({"mid": np.concatenate([signal * snr + noise, rest], axis=2)}, sigmas=[0.3, 3.0]))
        for step, snr, rest in zip(
            STEP, (1, 2, 3, 4), np.random.default_rng(13).standard_normal((4, 200, 2, 1, 6)), strict=True
        )
    ]
    fitted = TrainingCourse().fit(cubes)
    assert fitted.curve_["information"].sel(sigma=3.0).max() < 0 < fitted.curve_["information"].sel(sigma=0.3).min()
    display = CourseDisplay.from_estimator(fitted, levels=True)
    assert display.levels["σ 0.3"].max() == 1 and np.isnan(display.levels["σ 3"]).all()


def test_fewer_axes_leave_the_last_panels_out() -> None:
    figure, ax = plt.subplots()
    display = CourseDisplay(step=STEP, criteria=CRITERIA).plot(ax)
    assert display.axes_ == [ax] and display.figure_ is figure
    _, axes = plt.subplots(3, 1)
    assert len(CourseDisplay(step=STEP, criteria=CRITERIA).plot(axes).axes_) == 2


def test_the_warm_up_is_hatched() -> None:
    display = CourseDisplay(step=STEP, criteria=CRITERIA, warm_up=150).plot()
    assert len([patch for patch in display.axes_[1].patches if patch.get_hatch()]) == 1
    assert "warm-up" in words(display.axes_[0])
    steps = np.array([0, 100, 200, 400])  # of which the first is the untrained network
    without = CourseDisplay(step=steps, criteria=CRITERIA).plot()
    assert "warm-up" not in words(without.axes_[0]) and not without.axes_[0].patches
    assert not CourseDisplay(step=STEP, criteria=CRITERIA).plot().axes_[0].patches


def test_from_estimator_holds_the_course(course: TrainingCourse) -> None:
    display = CourseDisplay.from_estimator(course, levels=True)
    one = course.curve_.isel(layer=0).sel(sigma=0.3)
    assert list(display.criteria) == ["information", "icr"]
    for name, arrays in display.criteria.items():
        for array, end in zip(arrays, ("", "_low", "_high"), strict=True):
            np.testing.assert_array_equal(array, one[name + end])
    assert (display.best_step, display.turned_at) == (course.best_step_, course.turned_at_) == (200, 400)
    assert list(display.levels) == ["σ 0.3", "σ 0.1", "σ 0.6"] and display.levels["σ 0.3"].max() == 1
    assert display.place == "features, σ 0.3"


def test_from_estimator_of_another_level_and_criterion(course: TrainingCourse) -> None:
    flat = CourseDisplay.from_estimator(course, sigma=0.1)
    assert flat.turned_at is None and flat.place == "features, σ 0.1"
    assert list(flat.criteria) == ["information", "icr"] and not flat.levels
    by_icr = TrainingCourse("icr", warm_up=150).fit(
        [(step, ik.datasets.make_cube(200, 4, icr=icr)) for step, icr in zip(STEP, ICR, strict=True)]
    )
    display = CourseDisplay.from_estimator(by_icr, levels=True)
    assert list(display.criteria) == ["icr", "information"] and display.warm_up == 150
    assert min(display.levels["σ 1"]) == 1
    for options, said in (({"layer": "mid"}, "no layer 'mid'; it has features"), ({"sigma": 0.2}, r"no level 0\.2")):
        with pytest.raises(ValueError, match=said):
            CourseDisplay.from_estimator(course, **options)
    with pytest.raises(ValueError, match="not fitted"):
        CourseDisplay.from_estimator(TrainingCourse())


def test_expansion_draws_the_traces_of_the_course(course: TrainingCourse) -> None:
    display = ExpansionDisplay.from_estimator(course, sigma=0.6)
    one = course.curve_.isel(layer=0).sel(sigma=0.6)
    assert drawn(display.ax_, one["trace_invariant"]) and drawn(display.ax_, one["trace_residual"])
    assert "invariant" in words(display.ax_) and "features, σ 0.6" in words(display.ax_)
    assert at(display.ax_) == {float(course.by_level_["best_step"].isel(layer=0).sel(sigma=0.6))}
    _, ax = plt.subplots()
    assert ExpansionDisplay(step=STEP, invariant=VALUE, residual=ICR).plot(ax).ax_ is ax and not at(ax)


def test_expansion_needs_features() -> None:
    moments = [(k, Moments.from_cube(np.random.default_rng(k).normal(size=(90, 2, 3)), n_folds=20)) for k in range(3)]
    with pytest.raises(ValueError, match="fitted on Moments"):
        ExpansionDisplay.from_estimator(TrainingCourse().fit(moments))
    assert CourseDisplay.from_estimator(TrainingCourse().fit(moments)).place == "features"


@pytest.mark.parametrize(("step", "scale"), [([0, 100, 400, 2000], "symlog"), ([100, 200, 300, 400], "linear")])
def test_the_axis_of_steps(step: list[int], scale: str) -> None:
    display = CourseDisplay(step=step, criteria=CRITERIA, best_step=step[0], turned_at=step[3]).plot()
    assert display.axes_[0].get_xscale() == scale
    display.figure_.canvas.draw()


def test_matplotlib_is_needed_for_drawing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    display = CourseDisplay(step=STEP, criteria=CRITERIA)
    with pytest.raises(MissingDependencyError, match=r'pip install "icrkit\[plot\]"'):
        display.plot()
