"""The training course: its test of a turn against brute force and known truth, its numbers, and what it refuses."""

from __future__ import annotations

import gc
import itertools
import sys
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import icrkit as ik
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._crossfit import crossfit
from icrkit.metrics._information import invariant_information
from icrkit.moments import Moments
from icrkit.readings._course import Looks, TrainingCourse, fall_between, find_turn, headline_level
from icrkit.readings._reading import merits, read

STEPS = [100, 200, 300, 400, 500]
ICR = [0.7, 0.5, 0.4, 0.45, 0.5]


def flat_course(rng: np.random.Generator, n_steps: int, n_folds: int, tails: float = 30) -> tuple[Any, Any]:
    """Merits and replicates of a course whose folds differ by noise alone."""
    folds = rng.standard_t(tails, (n_steps, n_folds)) + rng.standard_normal(n_folds)  # what checkpoints share
    return from_folds(folds)


def from_folds(folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merits that are means over folds, and the same without each."""
    g = folds.shape[1]
    return folds.mean(axis=1), (folds.sum(axis=1, keepdims=True) - folds) / (g - 1)


def t_statistic(differences: np.ndarray) -> float:
    return float(stats.ttest_1samp(differences, 0).statistic)


def by_brute_force(folds: np.ndarray, confidence: float) -> list[bool]:
    """The same test from its words: every sign change, Student's t of every pair, and the error spent so far."""
    n_steps, g = folds.shape
    changes = [np.array(signs) for signs in itertools.product([1, -1], repeat=g)]
    crossed = np.zeros(len(changes), dtype=bool)
    found = [False]
    for k in range(1, n_steps):
        differences = folds[:k] - folds[k]
        greatest = np.array([max(t_statistic(signs * x) for x in differences) for signs in changes])
        allowed = int((1 - confidence) * k / (k + 10) * len(changes)) - int(crossed.sum())
        order = np.sort(greatest[~crossed])[::-1]
        critical = order[allowed] if allowed > 0 else np.inf
        crossed |= greatest > critical
        found.append(bool(greatest[0] > critical))
    return found


# ---- the turn -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_test_is_what_its_words_say(seed):
    rng = np.random.default_rng(seed)
    folds = rng.standard_normal((4, 8)) + np.array([0.0, 3.0, 1.0, -1.0])[:, None]
    turn = find_turn(*from_folds(folds), confidence=0.8)
    assert turn.significant.tolist() == by_brute_force(folds, 0.8)
    assert turn.significant.any()
    assert turn.best == int(folds.mean(axis=1).argmax())
    assert turn.fall == pytest.approx(folds.mean(axis=1).max() - folds[-1].mean())


def test_a_fall_that_all_folds_see_is_called_where_it_happens():
    level = np.array([1.0, 2.0, 3.0, 2.9, 2.0])
    folds = level[:, None] + np.random.default_rng(0).normal(scale=0.02, size=(5, 20))
    turn = find_turn(*from_folds(folds))
    assert (turn.best, turn.at, turn.turned, turn.run) == (2, 3, True, 2)
    assert turn.low < 1.0 < turn.high and turn.high - turn.low < 0.1


def test_a_new_best_takes_a_turn_back():
    level = np.array([1.0, 2.0, 1.0, 1.5, 3.0, 2.9])
    folds = level[:, None] + np.random.default_rng(0).normal(scale=0.3, size=(6, 20))
    course = from_folds(folds)
    early, late = (find_turn(course[0][:k], course[1][:k]) for k in (4, 6))
    assert (early.best, early.at) == (1, 2)
    assert (late.best, late.at, late.run) == (4, None, 0)
    assert late.significant[2]  # what was said then still stands in the record


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 7), st.sampled_from([8, 10]))
def test_what_is_said_at_a_step_hangs_on_no_later_one(seed, n_steps, n_folds):
    rng = np.random.default_rng(seed)
    heights, without = from_folds(rng.standard_normal((n_steps, n_folds)) + 2 * rng.standard_normal((n_steps, 1)))
    whole = find_turn(heights, without).significant
    for k in range(1, n_steps):
        assert find_turn(heights[:k], without[:k]).significant.tolist() == whole[:k].tolist()


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_scale_origin_and_order_of_folds_do_not_matter(seed, scale, origin):
    rng = np.random.default_rng(seed)
    folds = rng.standard_normal((5, 10)) + 3 * rng.standard_normal((5, 1))
    one = find_turn(*from_folds(folds))
    other = find_turn(*from_folds((scale * folds + origin)[:, rng.permutation(10)]))
    assert one.significant.tolist() == other.significant.tolist()
    assert (other.fall, other.low, other.high) == pytest.approx(
        (scale * one.fall, scale * one.low, scale * one.high), abs=1e-9 * (scale + abs(origin))
    )


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 25), st.sampled_from([0.8, 0.95]))
def test_no_more_sign_changes_cross_than_may(seed, n_steps, confidence):
    # Where each sign change is as likely as none, this is the error itself.
    rng = np.random.default_rng(seed)
    looks = Looks(confidence)
    for merit, replicates in zip(*flat_course(rng, n_steps, 10, tails=3), strict=True):
        looks.add(merit, replicates)
    k = n_steps - 1
    assert looks._first.crossed is not None
    assert looks._first.crossed.mean() <= (1 - confidence) * k / (k + 10)


def test_two_estimators_must_agree():
    rng = np.random.default_rng(0)
    heights, without = from_folds(np.array([1.0, 3.0, 2.0, 1.0])[:, None] + 0.1 * rng.standard_normal((4, 20)))
    alone = find_turn(heights, without)
    assert alone.significant.tolist() == [False, False, True, True]
    assert find_turn(heights, without, second=heights + 7.0).significant.tolist() == alone.significant.tolist()
    half = find_turn(heights, without, second=np.array([1.0, 3.0, 3.0, 1.0]))
    assert half.significant.tolist() == [False, False, False, True]
    # Where the course is best, and how far it fell, is what the first of them says.
    assert (half.best, half.fall, half.low, half.high) == (alone.best, alone.fall, alone.low, alone.high)
    assert not find_turn(heights, without, second=np.arange(4.0)).turned


def test_flat_courses_seldom_turn_where_the_naive_rule_nearly_always_does():
    rng = np.random.default_rng(0)
    limit = stats.t.ppf(0.95, 9)
    called = naive = covered = 0
    for _ in range(200):
        heights, without = flat_course(rng, 20, 10)
        turn = find_turn(heights, without)
        called += bool(turn.significant.any())
        covered += turn.low == 0
        folds = heights[:, None] + 9 * (without.mean(axis=1, keepdims=True) - without)
        naive += any(t_statistic(folds[heights[:k].argmax()] - folds[k]) > limit for k in range(1, 20))
    assert called / 200 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
    assert naive / 200 > 0.8
    assert covered / 200 >= 0.95


def test_falls_are_found_and_their_interval_holds_the_true_one():
    rng = np.random.default_rng(1)
    level = np.append(np.linspace(0, 3, 8), np.linspace(3, 2, 7)[1:])
    called = covered = 0
    for _ in range(40):
        folds = level[:, None] + 0.5 * rng.standard_normal((14, 20))
        turn = find_turn(*from_folds(folds))
        called += turn.turned
        covered += turn.low <= 1.0 <= turn.high
    assert called >= 36 and covered >= 36


def test_the_interval_of_two_checkpoints_is_that_of_a_paired_t_test():
    folds = np.array([5.0, 3.0])[:, None] + np.random.default_rng(0).standard_normal((2, 12))
    turn = find_turn(*from_folds(folds))
    expected = stats.ttest_rel(folds[0], folds[1]).confidence_interval(0.95)
    assert (turn.low, turn.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("level", "rose"),
    [
        ([1.0, 2.0, 3.0, 1.0], True),
        ([1.0, 1.001, 0.5, 0.4], False),  # a dip whose best is the second look, by chance
        ([3.0, 2.0, 1.0, 2.0], False),
        ([1.0], False),
    ],
)
def test_a_rise_is_one_that_the_folds_see(level, rose):
    noise = np.random.default_rng(0).normal(scale=0.05, size=(len(level), 20))
    noise -= noise.mean(axis=1, keepdims=True)
    turn = find_turn(*from_folds(np.array(level)[:, None] + noise))
    assert turn.best == int(np.argmax(level)) and turn.rose is rose


def test_a_rise_of_two_checkpoints_is_that_of_a_paired_t_test():
    found = []
    for seed in range(60):
        folds = np.array([0.0, 0.6])[:, None] + np.random.default_rng(seed).standard_normal((2, 12))
        low = stats.ttest_rel(folds[1], folds[0]).confidence_interval(0.95).low
        found.append(find_turn(*from_folds(folds)).rose)
        assert found[-1] == (low > 0)
    assert 5 < sum(found) < 55


def test_flat_courses_seldom_rise():
    rng = np.random.default_rng(0)
    rose = [find_turn(*flat_course(rng, 10, 20)).rose for _ in range(300)]
    assert np.mean(rose) <= 0.05  # .025 at most on average


def test_checkpoints_that_do_not_differ_neither_rise_nor_turn():
    heights, without = from_folds(np.tile(np.random.default_rng(0).standard_normal(12), (5, 1)))
    turn = find_turn(heights, without)
    assert (turn.turned, turn.fall, turn.low, turn.high, turn.rose) == (False, 0.0, 0.0, 0.0, False)
    rounded = without + 1e-16 * np.arange(5)[:, None]
    assert not find_turn(heights, rounded).rose


def test_one_checkpoint_is_the_best_of_itself():
    turn = find_turn([1.0], np.ones((1, 8)))
    assert (turn.best, turn.at, turn.fall, turn.run) == (0, None, 0.0, 0)


@pytest.mark.parametrize(
    ("heights", "without", "confidence", "error", "words"),
    [
        ([1, 2], np.ones((2, 7)), 0.95, NotEnoughDataError, "7 folds of images, 8 are the least"),
        ([1, np.nan], np.ones((2, 8)), 0.95, NonFiniteError, "checkpoint 1"),
        ([1, 2, 3], np.ones((2, 8)), 0.95, ValueError, r"\(n_steps,\)"),
        ([], np.ones((0, 8)), 0.95, ValueError, r"\(n_steps,\)"),
        ([1, 2], np.ones((2, 8)), 1.0, ValueError, "between 0 and 1"),
        (
            [1, 2],
            np.ones((2, 8)),
            0.99,
            NotEnoughDataError,
            "8 folds of images, 11 are the least at a confidence of 0.99",
        ),
        ([1, 2], np.ones((2, 20)), 0.99995, ValueError, "0.99995 is too near 1.*Give 0.999"),
        ([[1, 2]], np.ones((2, 8)), 0.95, ValueError, r"\(n_steps,\)"),
    ],
)
def test_find_turn_refuses(heights, without, confidence, error, words):
    with pytest.raises(error, match=words):
        find_turn(heights, without, confidence)


@pytest.mark.parametrize(
    ("confidence", "folds"), [(0.8, 8), (0.95, 8), (0.96, 9), (0.99, 11), (1 - 0.05 / 6, 11), (0.999, 14)]
)
def test_with_the_least_folds_the_first_look_can_call_a_turn(confidence, folds):
    heights, without = from_folds(np.tile([[3.0], [0.0]], (1, folds)))
    assert find_turn(heights, without, confidence).at == 1
    assert folds == 8 or int((1 - confidence) / 11 * 2 ** (folds - 1)) == 0  # with fewer no sign change may cross
    with pytest.raises(NotEnoughDataError, match=f"{folds} are the least at a confidence of"):
        find_turn(heights, without[:, 1:], confidence)


# ---- a course of features -------------------------------------------------------------------------------------------


def checkpoint(icr: Any, step: int | None = None, **options: Any) -> ik.Cube:
    """A cube; one seed means the same images under the same draws."""
    given = {"n_images": 240, "n_features": 4, "random_state": 0} | options
    cube = ik.datasets.make_cube(icr=icr, **given)
    if step is None:
        return cube
    data = cube.to_xarray()
    return ik.Cube(data.assign_attrs(step=step))


def two_layers(step: int, small: list[float], large: list[float], **attrs: Any) -> ik.Cube:
    """Layers of 3 and 6 features at levels .1, .3, .6."""
    sigmas = [0.1, 0.3, 0.6]
    layers = {
        name: checkpoint(icr, n_features=d, sigmas=sigmas, random_state=d)["features"].to_numpy()
        for name, d, icr in (("small", 3, small), ("large", 6, large))
    }
    return ik.from_arrays(layers, sigmas=sigmas, attrs={"step": step, **attrs})


@pytest.fixture(scope="module")
def cubes() -> dict[int, ik.Cube]:
    return {step: checkpoint(icr) for step, icr in zip(STEPS, ICR, strict=True)}


@pytest.fixture(scope="module")
def course(cubes) -> TrainingCourse:
    return TrainingCourse().fit(cubes)


def test_a_course_turns_where_its_features_do(course):
    assert (course.best_step_, course.turned_, course.turned_at_) == (300, True, 400)
    truth = [
        0.5 * np.log1p(np.geomspace(1, 0.01, 4) / np.geomspace(1, 0.01, 4).mean() * (1 / r - 1)).sum() for r in ICR
    ]
    low, high = course.fall_interval_
    assert low < truth[2] - truth[4] < high
    assert course.relative_fall_ == pytest.approx(course.fall_ / float(course.curve_["information"].max()))


def test_its_numbers_are_those_of_the_functions(course, cubes):
    curve = course.curve_.isel(layer=0, sigma=0)
    for step, cube in cubes.items():
        at, moments = curve.sel(step=step), Moments.from_cube(cube, n_folds=20)
        assert float(at["icr"]) == ik.icr(moments, correction="crossfit")
        assert float(at["information"]) == invariant_information(moments)
        assert float(at["total_snr"]) == pytest.approx(4 * (1 / float(at["icr"]) - 1))
        unit = ik.traces(Moments.from_cube(cube, n_folds=0, normalize="l2"))
        assert [float(at[f"trace_{name}"]) for name in unit._fields] == list(unit)
        for name in ("icr", "information"):
            reading = read(moments, name)
            assert (float(at[f"{name}_low"]), float(at[f"{name}_high"])) == (reading.low, reading.high)
    assert course.curve_["icr"].dims == ("layer", "sigma", "step")
    assert course.fall_ == pytest.approx(float(curve["information"][2] - curve["information"][4]))


def test_a_course_that_rises_or_stays_has_not_turned(cubes):
    rising = TrainingCourse().fit({step: cubes[step] for step in STEPS[:3]})
    assert (rising.turned_, rising.turned_at_, rising.best_step_, rising.fall_) == (False, None, 300, 0.0)
    assert rising.fall_interval_[0] == 0.0
    same = TrainingCourse().fit([(step, cubes[300]) for step in STEPS])
    assert not same.turned_ and same.fall_interval_ == (0.0, 0.0)


def test_icr_is_a_criterion_too(cubes, course):
    by_icr = TrainingCourse("icr").fit(cubes)
    assert (by_icr.best_step_, by_icr.turned_at_) == (300, 400)
    value = course.curve_["icr"].isel(layer=0, sigma=0)
    assert by_icr.fall_ == pytest.approx(float(value[4] - value[2]))
    low, high = by_icr.fall_interval_
    assert 0 < low < 0.1 < high < 0.2


def test_the_other_criterion_needs_no_second_reading(cubes, course):
    by_icr, switched = TrainingCourse("icr").fit(cubes), course.with_criterion("icr")
    assert course.criterion == "information" and switched.fall_interval_ == by_icr.fall_interval_
    assert switched.get_params() == by_icr.get_params()
    xr.testing.assert_identical(switched.by_level_, by_icr.by_level_)
    xr.testing.assert_identical(switched.curve_, by_icr.curve_)
    with pytest.raises(ValueError, match="loss"):
        switched.with_criterion("loss")
    with pytest.raises(NotFittedError):
        TrainingCourse().with_criterion("icr")


def test_every_way_of_giving_a_course_is_the_same(cubes, course):
    ways: list[Any] = [
        list(cubes.items()),
        [checkpoint(icr, step) for step, icr in zip(STEPS, ICR, strict=True)],
        iter(cubes.items()),
        [(np.int64(step), cube["features"]) for step, cube in cubes.items()],
        [(step, cube["features"].isel(sigma=0).to_numpy()) for step, cube in cubes.items()],
    ]
    for way in ways:
        other = TrainingCourse().fit(way)
        np.testing.assert_array_equal(other.curve_["information"], course.curve_["information"])
        assert other.turned_at_ == 400


def test_moments_give_all_but_the_traces(cubes, course):
    moments = {step: Moments.from_cube(cube, n_folds=20) for step, cube in cubes.items()}
    other = TrainingCourse().fit({step: m.select(sigma=0) if "sigma" in m.dims else m for step, m in moments.items()})
    np.testing.assert_array_equal(other.curve_["icr"], course.curve_["icr"])
    assert other.turned_at_ == 400 and np.isnan(other.sigma_)
    assert np.isnan(other.curve_["trace_total"]).all()


def test_moments_of_layers_and_levels():
    cubes = [two_layers(step, [a] * 3, [0.5, a, 0.6]) for step, a in zip(STEPS, ICR, strict=True)]
    moments = [
        (cube.step, {layer: Moments.from_cube(cube.select(layer=layer), n_folds=20) for layer in cube.layers})
        for cube in cubes
    ]
    one, other = TrainingCourse().fit(cubes), TrainingCourse().fit(moments)
    np.testing.assert_array_equal(one.curve_["information"], other.curve_["information"])
    assert one.by_level_.equals(other.by_level_)
    assert (other.layer_, other.sigma_) == ("large", 0.3)


def test_each_layer_and_level_is_read_by_itself():
    cubes = [two_layers(step, [0.8, a, 0.5], [0.5, 0.5, a]) for step, a in zip(STEPS, ICR, strict=True)]
    course = TrainingCourse().fit(cubes)
    table = course.by_level_
    assert table["turned"].to_numpy().tolist() == [[False, True, False], [False, False, True]]
    alone = TrainingCourse().fit([cube.select(layer="small", sigma=0.3) for cube in cubes])
    at = table.sel(layer="small", sigma=0.3)
    assert (alone.best_step_, alone.turned_at_) == (int(at["best_step"]), int(at["turned_at"])) == (300, 400)
    assert (alone.fall_, *alone.fall_interval_) == (float(at["fall"]), float(at["fall_low"]), float(at["fall_high"]))
    assert np.isnan(table["turned_at"].sel(layer="large", sigma=0.1))


@pytest.mark.parametrize(
    ("layer", "sigma", "attrs", "expected"),
    [
        (None, None, {}, ("large", 0.3)),  # more features at the same ICR hold more
        (None, None, {"noise": {"trained_range": [0.25, 1.2]}}, ("large", 0.6)),
        ("small", None, {"noise": {"trained_range": (0.05, 0.2)}}, ("small", 0.1)),
        (None, 0.6, {"noise": {"trained_range": [0.05, 0.2]}}, ("large", 0.6)),
    ],
)
def test_the_headline(layer, sigma, attrs, expected):
    cubes = [two_layers(step, [0.5] * 3, [0.5] * 3, **attrs) for step in STEPS[:3]]
    course = TrainingCourse(layer=layer, sigma=sigma).fit(cubes)
    assert (course.layer_, course.sigma_) == expected


@pytest.mark.parametrize(
    ("sigmas", "trained", "expected"),
    [
        ([0.1, 0.3, 0.6], (np.exp(-3.6), np.exp(1.2)), 1),  # EDM: exp(-1.2) is .30
        ([0.0, 0.1, 10.0], (0.01, 1.0), 1),
        ([0.1, 0.2, 0.3, 0.4], None, 1),
        ([np.nan], (0.1, 1.0), 0),
    ],
)
def test_the_headline_level(sigmas, trained, expected):
    assert headline_level(np.array(sigmas), trained) == expected


def test_the_warm_up_is_measured_and_not_judged(cubes):
    course = TrainingCourse(warm_up=150).fit({10: checkpoint(0.2), **cubes})
    assert (course.best_step_, course.turned_at_, course.turn_.best) == (300, 400, 1)
    assert course.curve_["step"].to_numpy().tolist() == [10, *STEPS]
    with pytest.raises(NotEnoughDataError, match="at least three checkpoints, and has 2 from step 400 on"):
        TrainingCourse(warm_up=400).fit(cubes)


def test_an_affine_map_of_the_features_changes_nothing(course, cubes):
    mixing, offset = np.random.default_rng(0).standard_normal((4, 4)), np.arange(4.0)
    mapped = [(s, cube["features"].isel(sigma=0).to_numpy() @ mixing + offset) for s, cube in cubes.items()]
    other = TrainingCourse().fit(mapped)
    np.testing.assert_allclose(other.curve_["information"], course.curve_["information"], rtol=1e-9)
    assert other.fall_interval_ == pytest.approx(course.fall_interval_, rel=1e-8)
    assert other.turned_at_ == course.turned_at_


def test_dead_units_are_dropped_when_asked(course, cubes):
    dead = {step: np.insert(cube["features"].isel(sigma=0).to_numpy(), 2, 7.0, axis=2) for step, cube in cubes.items()}
    dead[500][..., 4] = -1.0  # one more of them at the end
    with pytest.raises(DegenerateFeaturesError, match=r"step 100, layer features: 1 of 5 .* drop_constant=True"):
        TrainingCourse().fit(dead)
    dropped = TrainingCourse(drop_constant=True).fit(dead)
    assert dropped.curve_["n_features"].to_numpy().ravel().tolist() == [4, 4, 4, 4, 3]
    information = course.curve_["information"]
    np.testing.assert_allclose(dropped.curve_["information"][..., :4], information[..., :4], rtol=1e-12)
    assert dropped.turned_at_ == 400
    moments = {step: Moments.from_cube(h, n_folds=20) for step, h in dead.items()}
    same = TrainingCourse(drop_constant=True).fit(moments)
    np.testing.assert_array_equal(same.curve_["icr"], dropped.curve_["icr"])


def test_a_layer_that_is_dead_throughout_is_named(cubes):
    given = {step: cube.level().to_numpy() for step, cube in cubes.items()} | {500: np.ones((240, 2, 4))}
    for way in (given, {step: Moments.from_cube(h, n_folds=20) for step, h in given.items()}):
        with pytest.raises(DegenerateFeaturesError, match="step 500, layer features: every feature is constant"):
            TrainingCourse(drop_constant=True).fit(way)


@pytest.mark.parametrize("make", [lambda h: h, lambda h: ik.from_arrays(h), lambda h: Moments.from_cube(h, n_folds=20)])
@pytest.mark.parametrize("progress", [False, True])
def test_no_checkpoint_is_held_while_the_next_one_is_made(make, progress):
    held, checkpoints, features = [], [], checkpoint(0.5).level().to_numpy()

    def training():
        for step in range(4):
            gc.collect()
            held.append(sum(one() is not None for one in checkpoints))
            x = make(features + step)
            checkpoints.append(weakref.ref(x))
            yield step, x
            del x

    course = TrainingCourse().fit(training(), progress=progress)
    gc.collect()
    assert course.curve_.sizes["step"] == 4 and held == [0, 0, 0, 0]
    assert not any(one() is not None for one in checkpoints)


def test_a_share_of_nothing_is_no_number():
    rng = np.random.default_rng(20)  # noise, of which the corrected value is below 0 at all three
    course = TrainingCourse().fit([(step, rng.standard_normal((60, 2, 4))) for step in range(3)])
    assert (course.curve_["information"] < 0).all()
    assert course.fall_ > 0 and np.isnan(course.relative_fall_)


def test_a_fall_of_icr_is_the_difference_of_its_values():
    best, last = (read(Moments.from_cube(checkpoint(icr), n_folds=10), "icr") for icr in (0.3, 0.5))
    assert fall_between(best, last, best.merit - last.merit) == pytest.approx(last.value - best.value)
    assert fall_between(best, last, 0.0) == 0.0
    assert fall_between(best, last, 0.1) == pytest.approx(-fall_between(best, last, -0.1))


def test_parameters_are_stored_and_cloned(cubes):
    course = TrainingCourse("icr", confidence=0.9, n_folds=12)
    assert clone(course).get_params() == course.get_params()
    narrow, wide = (TrainingCourse(confidence=c).fit(cubes).curve_ for c in (0.8, 0.99))
    assert (narrow["icr_high"] < wide["icr_high"]).all()


def test_progress_goes_to_standard_error(cubes, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    TrainingCourse().fit(dict(list(cubes.items())[:3]), progress=True)
    assert "course" in capsys.readouterr().err


# ---- what is refused ------------------------------------------------------------------------------------------------


def without_folds(n_folds: int) -> Moments:
    return Moments.from_cube(checkpoint(0.5)["features"].isel(sigma=0).to_numpy(), n_folds=n_folds)


PLAIN = checkpoint(0.5)
BAD: list[tuple[Any, type[Exception], str]] = [
    ([(1, PLAIN), (2, PLAIN)], NotEnoughDataError, "at least three checkpoints, and has 2"),
    ([], NotEnoughDataError, "at least three checkpoints, and has 0"),
    ([(1, PLAIN), (3, PLAIN), (2, PLAIN)], CubeFormatError, "step 2 comes after step 3: sort"),
    ([(1, PLAIN), (3, PLAIN), (3, PLAIN)], CubeFormatError, "step 3 occurs twice"),
    ([(1.5, PLAIN)], ValueError, "whole numbers, not 1.5"),
    ([PLAIN] * 3, CubeFormatError, "cube 0 of the course does not know its training step"),
    ([1, 2, 3], CubeFormatError, "item 0 of the course is a int"),
    (PLAIN, CubeFormatError, r"a sequence of \(step, cube\) pairs, not Cube"),
    ([(1, PLAIN), (200, checkpoint(0.5, n_images=241))], CubeFormatError, "step 200 holds other images than step 1"),
    ([(1, PLAIN), (200, checkpoint(0.5, random_state=1))], CubeFormatError, "step 200 and step 1 differ in seed"),
    ([(1, PLAIN), (200, checkpoint(0.5, n_views=3))], CubeFormatError, "step 200 has 3 views"),
    ([(1, PLAIN), (200, checkpoint(0.5, n_features=5))], CubeFormatError, "step 200, layer features, sigma 1 has 5 f"),
    ([(1, PLAIN), (200, checkpoint(0.5, sigmas=[0.5]))], CubeFormatError, "step 200 has levels 0.5; step 1 has 1"),
    ([(1, PLAIN), (200, two_layers(200, [0.5] * 3, [0.5] * 3))], CubeFormatError, "step 200 has layers small, large"),
    ([(1, PLAIN), (200, without_folds(20))], CubeFormatError, "features of all checkpoints, or moments of all"),
    ([(1, without_folds(0))], NotEnoughDataError, "step 1: the moments of layer 'features' have no folds"),
    ([(1, without_folds(5))], NotEnoughDataError, "step 1, layer features: a turn cannot be tested with 5 folds"),
    ([(1, without_folds(20)), (2, without_folds(10))], CubeFormatError, "the folds of step 2, layer features hold"),
    ([(1, {})], CubeFormatError, "step 1 has no layers: Moments by layer are wanted"),
    (
        [(1, ik.from_arrays({"a": np.ones((40, 2, 4))}, sigmas=[1.0], attrs={"noise": {"trained_range": (1, 2, 3)}}))],
        CubeFormatError,
        r'attrs\["noise"\]\["trained_range"\] must be two noise levels, \(low, high\), not \(1, 2, 3\)',
    ),
    ([(1, {"a": PLAIN})], CubeFormatError, "step 1: Moments of layer 'a' are wanted, not Cube"),
    ([(1, np.zeros((40, 4)))], CubeFormatError, r"step 1: .* not ndarray of shape \(40, 4\); rows become"),
    ([(1, PLAIN), (200, np.ones((240, 2, 4)))], CubeFormatError, "step 200 has levels nan"),
    ([(7, np.ones((240, 2, 4)))], DegenerateFeaturesError, "step 7, layer features: 4 of 4 features"),
    ([(7, np.full((240, 2, 4), np.nan))], NonFiniteError, "step 7, layer features: "),
]


@pytest.mark.parametrize(("given", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_a_bad_course_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        TrainingCourse().fit(given)


def test_a_layer_or_level_that_is_not_there(cubes):
    with pytest.raises(CubeFormatError, match="no layer 'mid' here; the layers are features"):
        TrainingCourse(layer="mid").fit(cubes)
    with pytest.raises(CubeFormatError, match=r"no level sigma=0\.3 here; the levels are 1"):
        TrainingCourse(sigma=0.3).fit(cubes)
    with pytest.raises(ValueError, match="criterion must be one of"):
        TrainingCourse("loss").fit(cubes)


def test_a_fit_that_fails_leaves_the_one_before(cubes):
    course = TrainingCourse().fit(cubes)
    with pytest.raises(CubeFormatError):
        course.fit([(3, PLAIN), (2, PLAIN)])
    assert course.best_step_ == 300


@pytest.mark.parametrize("criterion", ["information", "icr"])
def test_what_a_course_tests_is_read_off_each_checkpoint(criterion):
    # So few images, and such seeds, that the two estimators differ, and what they say together does too.
    first, alone, together = {
        "information": (180, [False, False, False, True, True, False], [False, False, False, False, True, False]),
        "icr": (6, [False, False, False, False, False, True], [False] * 6),
    }[criterion]
    cubes = {k: make_heavy(icr, first + k) for k, icr in enumerate([0.7, 0.3, 0.36, 0.4, 0.42, 0.45])}
    course = TrainingCourse(criterion).fit(cubes)
    moments = [Moments.from_cube(h, n_folds=20) for h in cubes.values()]
    heights, without = merits([read(m, criterion) for m in moments])
    second = [invariant_information(m, "gaussian") for m in moments]
    if criterion == "icr":
        second = [float(crossfit(m).log_q.mean()) for m in moments]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the plug-in ICR")
            plug_in = [np.log(1 / ik.icr(m) - 1 + 1 / 2) for m in moments]
        np.testing.assert_allclose(second, plug_in, atol=0.15)
    assert [r[0, 0].look(criterion)[2] for r in course._readings.readings] == pytest.approx(second, rel=1e-12)
    turn = find_turn(heights, without, second=second)
    assert turn.significant.tolist() == course.turn_.significant.tolist() == together
    assert find_turn(heights, without).significant.tolist() == alone
    assert (turn.fall, turn.low, turn.high) == (course.turn_.fall, course.turn_.low, course.turn_.high)
    assert np.abs(heights - second).min() > 0.05


def make_heavy(icr: float, seed: int) -> np.ndarray:
    """Heavy-tailed features under fresh draws."""
    cube = ik.datasets.make_heavy_cube(n_images=120, n_features=20, icr=icr, random_state=seed)
    return cube.level().to_numpy()


def test_a_regularised_course_has_one_estimator_of_information(cubes):
    course = TrainingCourse(regularization=0.1).fit(cubes)
    readings = [read(Moments.from_cube(cube, n_folds=20), "information", regularization=0.1) for cube in cubes.values()]
    assert find_turn(*merits(readings)).significant.tolist() == course.turn_.significant.tolist()
    assert course.turned_at_ == 400
