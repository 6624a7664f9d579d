"""A course's numbers and sentences."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NotEnoughDataError
from icrkit.report import Course, Series

N, VIEWS = 200, 3
STEPS = (100, 200, 400, 800, 1600)
# Signal-to-noise ratios of four directions at each step: both criteria rise and fall, or one of them alone.
RISE_AND_FALL = ((1,) * 4, (3,) * 4, (6,) * 4, (4,) * 4, (2,) * 4)
STILL_RISING = ((1,) * 4, (2,) * 4, (3,) * 4, (4,) * 4, (6,) * 4)
FLAT = ((3,) * 4,) * 5
ICR_TURNS_ALONE = ((1,) * 4, (40, 0, 0, 0), (20, 1, 1, 1), (9, 2, 2, 2), (3.2,) * 4)
INFORMATION_TURNS_ALONE = ICR_TURNS_ALONE[:1] + ICR_TURNS_ALONE[:0:-1]


def cubes(
    snr: Sequence[Sequence[float]] = RISE_AND_FALL,
    sigmas: Sequence[float] | None = (0.1, 0.3),
    layers: Sequence[str] = ("mid", "up"),
    noise: float = 0.0,
    **attrs: Sequence[Any],
) -> list[ik.Cube]:
    """Checkpoints of the same images under the same draws; the second layer and the first level are noisier."""
    rng = np.random.default_rng(0)
    image, rest = rng.standard_normal((N, 1, 1, 4)), rng.standard_normal((N, VIEWS, 2, 4))
    rest *= [[1.5], [1.0]]
    made = []
    for k, (step, ratios) in enumerate(zip(STEPS, snr, strict=True)):
        seen = rest + noise * rng.standard_normal(rest.shape)
        h = {name: image * np.sqrt(ratios) / (1 + number) + seen for number, name in enumerate(layers)}
        h = {name: block if sigmas else block[:, :, 0] for name, block in h.items()}
        known = {name: values[k] for name, values in attrs.items()}
        made.append(ik.from_arrays(h, sigmas=sigmas, attrs={"step": step, "seed": 7, **known}))
    return made


@pytest.fixture(scope="module")
def turned() -> Course:
    return Course.of(cubes(), layer="mid", sigma=0.3)


# ---- sentences ------------------------------------------------------------------------------------------------------


def test_a_turn_is_told_with_its_size_and_steps(turned: Course) -> None:
    course = turned.course
    assert course.turned_ and course.best_step_ == 400
    fall = f"{100 * course.relative_fall_:.0f}%"
    assert turned.headline == f"Information was highest at step 400 and has fallen by {fall} since"
    call, other, levels = turned.sentences[:3]
    assert "layer mid at noise level σ = 0.3" in call and "nats at step 400" in call
    low, high = course.fall_interval_
    assert f"a fall of {course.fall_:.2f} (95% interval {low:.2f} to {high:.2f})" in call
    assert f"At step {course.turned_at_} it was first beyond chance (95%, over all 5 checkpoints)" in call
    assert "stopped then, and kept step 400" in call
    assert other.startswith("ICR agrees: it was lowest at step 400 and has risen by ")
    assert levels == "Of 4 readings (2 layers, 2 levels) all have turned; they were highest at step 400."


def test_still_improving() -> None:
    course = Course.of(cubes(STILL_RISING))
    assert course.headline == "Information is still rising at step 1600"
    call, other, levels = course.sentences[:3]
    assert call.endswith("nats, the highest of 5 checkpoints.") and "stop" not in " ".join(course.sentences)
    assert other == "ICR shows no turn either; it is lowest at step 1600."
    assert levels == "Of 4 readings (2 layers, 2 levels) none shows a turn."
    assert Course.of(cubes(STILL_RISING), criterion="icr").headline == "ICR is still falling at step 1600"


def test_a_best_by_luck_is_no_turn() -> None:
    course = Course.of(cubes(FLAT, noise=0.1))
    assert not course.course.turned_ and course.course.best_step_ != STEPS[-1]
    assert course.headline == "Information shows no turn beyond chance by step 1600"
    assert "over 5 checkpoints that may be chance" in course.sentences[0]
    high = course.course.fall_interval_[1]
    assert f"That is no all-clear: a true fall of up to {high:.2f} nats since the best step fits" in course.sentences[1]


def test_a_loss_that_has_risen_speaks_against_no_turn() -> None:
    """By the recipe of docs/training.md information "had not turned" while the loss rose by a third."""
    for snr, words in (
        (FLAT, "shows no turn beyond chance by step 1600"),
        (STILL_RISING, "is still rising at step 1600"),
    ):
        loss = [0.4, 0.35, 0.3, 0.36, 0.4]
        course = Course.of(cubes(snr, noise=0.1 if snr is FLAT else 0.02, loss_heldout=loss))
        assert course.headline == f"Information {words}, but loss heldout has risen by 33% since its lowest"
        said = " ".join(course.sentences)
        assert "Loss heldout has risen by 33% since step 400." in said and "keep to it" in said
        steady = Course.of(cubes(snr, noise=0.1 if snr is FLAT else 0.02, loss_heldout=[0.4, 0.35, 0.3, 0.30, 0.3]))
        assert "but" not in steady.headline and "keep to it" not in " ".join(steady.sentences)


def test_too_few_images_are_no_evidence() -> None:
    made = [ik.Cube(cube.to_xarray().isel(image=slice(40))) for cube in cubes(layers=["mid"])]
    wide = [
        ik.from_arrays(np.random.default_rng(k).standard_normal((40, 2, 30)), attrs={"step": k}) for k in range(1, 5)
    ]
    few, enough = Course.of(wide), Course.of(made)
    assert few.headline == "Too few images to say whether information has turned"
    assert few.sentences[0].startswith("40 images of 2 views leave 1.2 degrees of freedom for each of the 30 features")
    read = json.loads(few.to_json())["evidence"]
    assert read["sufficient"] is False and read["least_images"] == 49 and len(read["missing"]) == 1
    assert json.loads(enough.to_json())["evidence"]["sufficient"] is True


def test_why_this_level_is_said_where_nobody_named_one() -> None:
    law = {"name": "DDPM", "trained_range": [0.01, 40.0]}
    made = cubes(sigmas=(0.3, 0.6))
    made = [ik.Cube(cube.to_xarray().assign_attrs(noise=law)) for cube in made]
    course = Course.of(made)
    assert course.course.sigma_ == 0.6
    words = "The call is made at σ = 0.6, of these levels the nearest to the middle of the noise that training draws"
    assert f"{words} (0.63)." in course.sentences
    assert not any("The call is made" in said for said in Course.of(made, sigma=0.3).sentences)


def test_a_fall_that_chance_does_not_make_and_looking_often_does() -> None:
    """Its interval leaves 0 out, and the test of many looks does not call it: it must not be said to be chance."""
    course = _with_turn(Course.of(cubes(FLAT, noise=0.1)), fall=0.26, fall_low=0.05, fall_high=0.48)
    call = course.sentences[0]
    assert "a fall of 0.26 (95% interval 0.05 to 0.48): looking again and again is paid for, and over 5 " in call
    assert call.endswith("over 5 checkpoints that is not enough to call a turn.") and "may be chance" not in call


def _with_turn(course: Course, **values: float) -> Course:
    """The course with other numbers at the place of the headline."""
    by_level = course.course.by_level_.copy(deep=True)
    for name, value in values.items():
        by_level[name].loc[{"layer": course.course.layer_, "sigma": course.course.sigma_}] = value
    return _with_levels(course, by_level)


@pytest.mark.parametrize("ends", [4, 6])
@pytest.mark.parametrize("start", [(), (0.669,), (0.4,)], ids=["first", "level", "rise"])
def test_a_call_that_a_new_best_took_back_is_told(ends: int, start: tuple[float, ...]) -> None:
    """A training watched would have stopped at it, but where nothing had risen before, and not at the later turn."""
    first = start != (0.4,)
    ratios = [[snr] * 4 for snr in (*start, *(0.67, 0.43, 1.0, 1.5, 1.2, 1.0)[:ends])]
    rng = np.random.default_rng(0)
    image, rest = rng.standard_normal((N, 1, 4)), rng.standard_normal((N, VIEWS, 4))
    made = [
        (100 * k, ik.from_arrays(image * np.sqrt(snr) + rest + 0.02 * rng.standard_normal(rest.shape)))
        for k, snr in enumerate(ratios)
    ]
    course, monitor = Course.of(made), ik.ICRMonitor()
    stops = [step for step, cube in made if monitor.update(step, cube).should_stop]
    assert course.course.turned_ is (ends == 6)
    call, dip = course.sentences[0], 100 + 100 * len(start)
    earlier = f" An earlier fall was beyond chance at step {dip}, until a new best took that back"
    values = course.curve["information"].to_numpy().ravel()
    assert int(values[: len(start) + 2].argmax()) == len(start)  # of "level" by chance
    if first:
        assert dip not in stops and call.endswith(earlier + ".")
    else:
        assert stops[0] == dip and call.endswith(earlier + ": a training watched here would have stopped then.")
    assert call.count("would have stopped") == (ends == 6 or not first)
    if ends == 6:
        turned = course.course.turned_at_
        assert turned == (stops[0] if first else stops[1])
        assert f"At step {turned} it was first beyond chance (95%, over all {len(made)} checkpoints)" in call
    # A checkpoint of the warm-up does not shift the steps, and a fall from it is none.
    assert earlier in Course.of([(-100, made[-1][1]), *made], warm_up=0).sentences[0]
    assert "earlier" not in Course.of([(-100, made[0][1]), *made[1:]], warm_up=dip).sentences[0]


def test_a_best_that_is_not_positive_has_no_share(turned: Course) -> None:
    """As information has it by chance, where features tell nothing."""
    low = turned.curve.copy(deep=True)
    low["information"] -= 10.0
    course = _with_levels(turned, turned.course.by_level_, low)
    fall = f"{turned.course.fall_:.2f} nats"
    assert course.headline == f"Information was highest at step 400 and has fallen by {fall} since"
    assert all(np.isnan(level["relative_fall"]) for level in course.levels())
    assert json.loads(course.to_json())["relative_fall"] is None
    (line,) = (words for line in course.to_text().splitlines() if (words := line.split())[:2] == ["mid", "0.3"])
    assert line[2:5] == ["400", str(turned.course.turned_at_), "-"] and "-" not in line[5:]
    by_icr = Course.of(cubes(), "icr", layer="mid", sigma=0.3)
    by_icr = _with_levels(by_icr, by_icr.course.by_level_, low)
    assert by_icr.sentences[1] == f"Information agrees: it was highest at step 400 and has fallen by {fall} since."


def test_icr_alone_is_no_reason_to_stop() -> None:
    course = Course.of(cubes(ICR_TURNS_ALONE), layer="mid", sigma=0.3)
    assert not course.course.turned_
    other = next(said for said in course.sentences if said.startswith("ICR"))
    assert other.startswith("ICR alone has turned: it was lowest at step 200")
    assert "With plenty of training images" in other and other.endswith("that is no reason to stop.")
    by_icr = Course.of(cubes(ICR_TURNS_ALONE), "icr", layer="mid", sigma=0.3)
    assert by_icr.headline.startswith("ICR was lowest at step 200 and has risen by ")
    assert by_icr.sentences[1].startswith("Information shows no turn; it is highest at step 1600. ")
    assert by_icr.sentences[1].endswith("this may be a false stop.")


def test_where_information_turns_alone_they_differ() -> None:
    course = Course.of(cubes(INFORMATION_TURNS_ALONE), layer="mid", sigma=0.3)
    assert course.course.turned_
    assert course.sentences[1].startswith("ICR shows no turn; ")
    assert course.sentences[1].endswith("look at a held-out loss or at samples.")
    by_icr = Course.of(cubes(INFORMATION_TURNS_ALONE), "icr", layer="mid", sigma=0.3)
    assert by_icr.sentences[1].startswith("Information alone has turned: ")
    assert "no reason" not in by_icr.sentences[1] and "false stop" not in by_icr.sentences[1]


def test_one_reading_is_not_the_network(turned: Course) -> None:
    other = turned.course.by_level_.copy(deep=True)
    other["turned_at"][:] = np.nan
    other["turned_at"].loc[{"layer": "up", "sigma": 0.1}] = 800.0
    course = _with_levels(turned, other)
    assert "1 has turned (up at 0.1), highest at step 400. One reading is not the network: look" in " ".join(
        course.sentences
    )
    one = Course.of(cubes(sigmas=None, layers=["mid"]))
    assert one.place == "layer mid" and np.isnan(one.sigmas).all()
    assert "This is one layer at one noise level, not the network" in " ".join(one.sentences)
    assert "low noise" not in " ".join(one.sentences)


def _with_levels(course: Course, by_level: Any, curve: Any = None) -> Course:
    """The course with another verdict by layer and level, or with other values."""
    fitted = type(course.course)().set_params(**course.course.get_params())
    curve = course.curve if curve is None else curve
    fitted.__dict__.update(course.course.__dict__, by_level_=by_level, curve_=curve)
    return dataclasses.replace(course, course=fitted)


def test_low_noise_turns_early() -> None:
    words = "At low noise both numbers turn early in nearly every course"
    made = cubes()
    assert words in " ".join(Course.of(made, sigma=0.1).sentences)
    assert words not in " ".join(Course.of(made, sigma=0.3).sentences)


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_rows_are_the_curve(turned: Course) -> None:
    rows = turned.rows()
    assert [row["step"] for row in rows] == list(STEPS)
    curve = turned.curve.sel(layer="mid", sigma=0.3)
    for name in ("icr", "icr_low", "information", "information_high", "trace_residual"):
        assert [row[name] for row in rows] == curve[name].to_numpy().tolist()
    assert [row["step"] for row in rows if row["best"]] == [400]
    assert [row["step"] for row in rows if row["called"]] == [turned.course.turned_at_]
    assert turned.rows("up", 0.1)[0]["icr"] == float(turned.curve["icr"].sel(layer="up", sigma=0.1)[0])


def test_levels_are_each_read_by_itself(turned: Course) -> None:
    levels = turned.levels()
    assert [(one["layer"], one["sigma"]) for one in levels] == [("mid", 0.1), ("mid", 0.3), ("up", 0.1), ("up", 0.3)]
    for one in levels:
        judged = turned.course.by_level_.sel(layer=one["layer"], sigma=one["sigma"])
        assert one["fall"] == float(judged["fall"]) and one["turned_at"] == float(judged["turned_at"])
        values = turned.curve["information"].sel(layer=one["layer"], sigma=one["sigma"])
        assert one["relative_fall"] == pytest.approx(float(1 - values[-1] / values.max()))
        assert one["other_best_step"] == 400
    assert Course.of(cubes(), layer="up", sigma=0.3).layers == ["up", "mid"]


@pytest.mark.parametrize("sigmas", [(0.3, 0.3000015), (0.0, 5e-9)])
def test_levels_that_lie_close_together_are_not_mixed_up(sigmas: tuple[float, float]) -> None:
    made = [
        (step, ik.datasets.make_cube(N, 4, icr=[icr, 0.9], sigmas=list(sigmas)))
        for step, icr in zip(STEPS, (0.5, 0.3, 0.4), strict=False)
    ]
    course = Course.of(made)
    for level, sigma in zip(course.levels(), sigmas, strict=True):
        judged = course.course.by_level_.sel(sigma=sigma).isel(layer=0)
        assert (level["best_step"], level["fall"]) == (int(judged["best_step"]), float(judged["fall"]))
        assert level["relative_fall"] == pytest.approx(
            level["fall"] / max(r["information"] for r in course.rows(sigma=sigma))
        )
    first, second = course.levels()
    assert first["fall"] > 0.3 > 0.05 > second["fall"]
    with pytest.raises(ValueError, match=r"no level 0\.2; it has "):
        course.rows(sigma=0.2)


def test_table(turned: Course) -> None:
    table = turned.to_text().splitlines()
    assert table[0] == "layer mid at noise level σ = 0.3 (4 features), 200 images x 3 views"
    assert [line.split()[1] for line in table if line.startswith("->  ")] == ["400"]
    assert [line.split()[1] for line in table if line.startswith(" ! ")] == [str(turned.course.turned_at_)]
    assert len([line for line in table if line.startswith(("mid ", "up "))]) == 4
    ends = {len(line) for line in table if line.startswith(("mid ", "up ", "layer  "))}
    assert len(ends) == 1  # columns stand below one another


def test_json_holds_everything(turned: Course) -> None:
    course = turned.with_series(Series("loss", [100, 200], [1.0, float("nan")], best="lowest"))
    text = course.to_json()
    assert "NaN" not in text
    read = json.loads(text)
    assert read["criterion"] == "information" and read["best_step"] == 400 and read["turned"] is True
    assert read["turned_at"] == turned.course.turned_at_ and read["fall"] == turned.course.fall_
    assert len(read["levels"]) == 4 and len(read["levels"][0]["steps"]) == 5
    assert read["levels"][1]["steps"][0]["information"] == turned.rows()[0]["information"]
    assert read["series"]["loss"] == {
        "steps": [100, 200], "values": [1.0, None], "best_step": 100, "threshold": None, "passed_at": None,
    }  # fmt: skip
    assert json.loads(Course.of(cubes(sigmas=None, layers=["mid"])).to_json())["sigma"] is None


def test_what_cubes_record_joins_them() -> None:
    loss = [1.0, 0.6, 0.5, 0.7, 0.9]
    recorded = {"loss_heldout": loss, "copies": [0, 0, 1, 2, 3], "model_sha256": list("abcde"), "done": [True] * 5}
    course = Course.of(cubes(**recorded))
    assert course.attrs == {"seed": 7, "done": True}  # what differs is no setting of the course
    series = {one.name: one for one in course.series}
    assert set(series) == {"loss heldout", "copies"}
    assert series["loss heldout"].best_step == 400 and series["copies"].best is None
    assert np.asarray(series["copies"].values).tolist() == [0, 0, 1, 2, 3]
    assert "Loss heldout: lowest at step 400." in course.sentences
    assert " 0.600" in course.to_text()


def test_real_features() -> None:
    course = Course.of(ik.datasets.load_digits_course())
    assert course.n_features == {"dec.8x8_block0": 32} and course.sigmas == [0.3]
    assert course.course.turned_ and course.headline.startswith("Information was highest at step ")
    assert course.sentences[1].startswith("ICR agrees: it was lowest at step ")
    assert "Held out loss: lowest at step 246." in course.sentences[-1]


# ---- other numbers --------------------------------------------------------------------------------------------------


def test_series_say_where_they_are_best_and_what_they_pass() -> None:
    loss = Series("held-out loss", [1, 2, 3], [0.5, 0.4, 0.6], best="lowest")
    assert loss.best_step == 2 and loss.sentence == "Held-out loss: lowest at step 2."
    copies = Series("copies", [1, 2, 3], [0.0, 0.05, 0.07], threshold=0.05, percent=True)
    assert copies.passed_at == 3 and copies.sentence == "Copies: above 5% at step 3."
    assert Series("copies", [1, 2], [0, 0.01], threshold=0.05, percent=True).sentence == "Copies: never above 5%."
    accuracy = Series("accuracy", [1, 2], [0.5, 0.6], best="highest", threshold=0.55)
    assert accuracy.sentence == "Accuracy: highest at step 2, above 0.550 at step 2."
    assert Series("gradient", [1, 2], [3, 4]).sentence == ""


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.0, 0.00391, 0.0156, 0.203], ["0.000", "0.004", "0.016", "0.203"]),
        ([2e-3, 1e-3, 0.0], ["0.002", "0.001", "0.000"]),
        ([2.25e-3, 1e-4], ["0.00225", "0.0001"]),
        ([120.0, 14.2, 3e-7], ["120", "14.2", "3e-07"]),
        ([3e7, 2e6, float("nan")], ["3e+07", "2e+06", "–"]),
    ],
)
def test_small_values_have_the_decimals_of_their_column(values: list[float], shown: list[str]) -> None:
    series = Series("loss", range(1, len(values) + 1), values)
    assert [series.told(value) for value in values] == shown
    assert Series("nothing", [1], [float("nan")], best="lowest").best_step is None


def test_series_tell_their_values() -> None:
    loss = Series("loss", [1, 3], [0.5, 1234.5])
    assert [loss.told(loss.at(step)) for step in (1, 2, 3)] == ["0.500", "–", "1234"]
    assert [loss.told(value) for value in (0.0, 1.234, 12.34, 0.00012, 2e7)] == [
        "0.000", "1.23", "12.3", "0.00012", "2e+07",
    ]  # fmt: skip
    assert Series("copies", [1], [0.05], percent=True).told(0.05) == "5%"


@pytest.mark.parametrize(
    ("steps", "values", "best", "words"),
    [
        ([1, 2], [0.5], None, "with one value each"),
        ([2, 1], [0.5, 0.4], None, "steps must ascend"),
        ([], [], None, "with one value each"),
        ([1, 2], [0.5, 0.4], "least", "best must be"),
    ],
)
def test_bad_series(steps: list[int], values: list[float], best: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=f"loss: .*{words}"):
        Series("loss", steps, values, best=best)


# ---- bad input, and figures -----------------------------------------------------------------------------------------


def test_bad_courses_are_refused() -> None:
    made = cubes()
    with pytest.raises(NotEnoughDataError, match="at least three checkpoints"):
        Course.of(made[:2])
    with pytest.raises(CubeFormatError, match="steps must increase"):
        Course.of(made[::-1])
    with pytest.raises(CubeFormatError, match="does not know its training step"):
        Course.of([ik.datasets.make_cube(n_images=50, n_features=3)])
    with pytest.raises(ValueError, match="criterion must be one of"):
        Course.of(made, criterion="loss")
    with pytest.raises(CubeFormatError, match="other images"):
        Course.of([made[0], (200, made[1][:100])])


def test_constant_features_may_be_left_out() -> None:
    one = [cube.select(layer="mid", sigma=0.3) for cube in cubes()]
    dead = [(cube.step, np.insert(cube["mid"].to_numpy()[:, :, 0], 1, 0.0, axis=2)) for cube in one]
    with pytest.raises(DegenerateFeaturesError, match=r"step 100, .* drop_constant=True"):
        Course.of([(step, ik.from_arrays(h)) for step, h in dead])
    course, whole = Course.of([(step, ik.from_arrays(h)) for step, h in dead], drop_constant=True), Course.of(one)
    np.testing.assert_allclose(course.curve["icr"], whole.curve["icr"], rtol=1e-6)
    assert course.headline == whole.headline
    assert {row["n_features"] for row in course.rows()} == {4}


def test_warm_up_has_no_say() -> None:
    down_first = ((9,) * 4, (3,) * 4, (4,) * 4, (5,) * 4, (6,) * 4)
    assert Course.of(cubes(down_first)).course.turned_
    late = Course.of(cubes(down_first), warm_up=200)
    assert late.headline == "From step 200 on, information is still rising at step 1600"
    call, other, levels = late.sentences[:3]
    assert call.endswith(" nats, the highest of 4 checkpoints from step 200 on.")
    assert other == "ICR shows no turn either; from step 200 on it is lowest at step 1600."
    assert levels == "Of 4 readings (2 layers, 2 levels, from step 200 on) none shows a turn."
    assert "-> highest information from step 200 on   !" in late.to_text()
    # What is said is of the best that has a say, though one before it is higher.
    dip_and_fall = Course.of(cubes(((9,) * 4, *RISE_AND_FALL[1:])), layer="mid", sigma=0.3, warm_up=101)
    assert dip_and_fall.headline.startswith("From step 101 on, information was highest at step 400 and has fallen by ")
    assert "beyond chance (95%, over all 4 checkpoints from step 101 on)" in dip_and_fall.sentences[0]
    assert dip_and_fall.sentences[1].startswith("ICR agrees: from step 101 on it was lowest at step 400 ")
    nothing_left_out = Course.of(cubes(), warm_up=100)
    assert "from step" not in " ".join([nothing_left_out.headline, *nothing_left_out.sentences]).lower()


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_figures_by_their_ending(turned: Course, tmp_path: Path, ending: str) -> None:
    shown = turned.with_series(Series("loss", STEPS, [1, 2, 3, 4, 5]))
    for expansion in (False, True):
        path = shown.save_figure(tmp_path / f"figure.{ending}", expansion=expansion)
        assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")


def test_every_panel_is_drawn(turned: Course) -> None:
    shown = turned.with_series(Series("loss", STEPS, [1, 2, 3, 4, 5]), Series("copies", STEPS[2:], [0, 0, 1]))
    display = shown.draw()
    assert len(display.axes_) == len(shown.panels) == len(display.panels) == 5
    assert tuple(display.panels) == shown.panels
    one = Course.of(cubes(sigmas=None, layers=["mid"]))
    assert len(one.draw().axes_) == len(one.panels) == 2


def test_a_fitted_course_is_taken_as_it_is():
    cubes = [
        (step, ik.datasets.make_cube(n_images=200, n_features=4, icr=icr))
        for step, icr in zip((1, 2, 4), (0.5, 0.3, 0.4), strict=True)
    ]
    fitted = ik.TrainingCourse("icr").fit(cubes)
    taken, read = Course.of(fitted), Course.of(cubes, "icr")
    assert taken.course is fitted and (taken.headline, taken.sentences[0]) == (read.headline, read.sentences[0])
    assert (taken.n_images, taken.n_views, taken.n_features) == (200, 2, {"features": 4})
    assert taken.to_json() == Course.of(fitted).to_json()


def test_a_layer_that_cannot_be_measured_is_left_out_and_named() -> None:
    wide = np.random.default_rng(0).standard_normal((N, VIEWS, 2, 500))
    checkpoints = [
        ik.from_arrays(
            {"wide": wide, **{name: one[name].to_numpy() for name in one.layers}}, sigmas=one.sigmas, attrs=one.attrs
        )
        for one in cubes()
    ]
    with pytest.warns(UserWarning, match="layer wide is left out: step 100, layer wide"):
        found = Course.of(checkpoints)
    right = Course.of(cubes())
    assert list(found.refused) == ["wide"] and sorted(found.layers) == ["mid", "up"]
    assert found.headline == right.headline and found.to_text() == right.to_text()
    assert any(said.startswith("Layer wide was not measured. step 100") for said in found.sentences)
    assert list(json.loads(found.to_json())["refused"]) == ["wide"]
    with pytest.raises(NotEnoughDataError, match="layer wide"):
        Course.of(checkpoints, layer="wide")
