"""Paired differences: what cancels, what the interval covers, and what does not pair."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import icrkit as ik
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError, NotEnoughDataError
from icrkit.moments import Moments
from icrkit.readings._course import Looks
from icrkit.readings._difference import difference, paired_difference, paired_test
from icrkit.readings._reading import CRITERIA, Reading, read
from icrkit.readings._window import p_best

PROPERTY = settings(max_examples=200, derandomize=True)
CRITERION = pytest.mark.parametrize("criterion", ["icr", "information"])


def pair(seed: int, truth: tuple[float, float], n: int = 200, d: int = 6, law: str = "gaussian", alike: float = 0.7):
    """Two levels of the same images whose residuals correlate, as features of one draw do."""
    rng = np.random.default_rng(seed)
    s = rng.standard_normal((n, 1, d))
    shared, own = rng.standard_normal((n, 2, d)), rng.standard_normal((2, n, 2, d))
    xi = np.sqrt(alike) * shared + np.sqrt(1 - alike) * own
    if law == "heavy":
        xi *= np.sqrt(3 / rng.chisquare(5, (n, 2, 1))) * np.sqrt(rng.gamma(2.0, 0.5, (n, 1, 1)))
    return [np.sqrt(1 / icr - 1) * s + e for icr, e in zip(truth, xi, strict=True)]


def truth_of(criterion: str, truth: tuple[float, float], d: int = 6) -> float:
    values = truth if criterion == "icr" else [0.5 * d * np.log(1 / icr) for icr in truth]
    return values[1] - values[0]


def reading(merit: float, replicates: np.ndarray, half: float, criterion: str = "icr") -> Reading:
    """Made up, with an interval of this half-width on the merit."""
    one = Reading(CRITERIA[criterion], 0.0, 0.0, 0.0, merit, merit + replicates, 100, 2, 4)
    low, high = sorted(float(one.value_at(merit + step)) for step in (-half, half))
    return dataclasses.replace(one, value=float(one.value_at(merit)), low=low, high=high)


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_the_test_is_students_on_the_folds_contributions():
    x = np.random.default_rng(0).standard_normal(10) + 0.4
    replicates = (x.sum() - x) / 9  # of a mean
    found = paired_test(x.mean(), replicates)
    expected = stats.ttest_1samp(x, 0)
    assert (found.t, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-12) and found.dof == 9


def test_no_difference_and_one_without_error():
    assert paired_test(0.0, np.zeros(5)) == (0.0, 4, 1.0)
    assert paired_test(-0.1, np.full(5, -0.1)) == (-np.inf, 4, 0.0)


def test_the_interval_of_information_is_that_of_t():
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, 10))
    a, b = (reading(m, r, 1.0, "information") for m, r in zip((5.0, 5.3), noise, strict=True))
    found = difference(a, b)
    half = stats.t.ppf(0.975, 9) * np.sqrt(0.9 * np.square(noise[1] - noise[0] - (noise[1] - noise[0]).mean()).sum())
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), rel=1e-9)


def test_the_interval_of_icr_is_that_of_t_where_only_the_difference_is_uncertain():
    noise = 0.01 * np.random.default_rng(0).standard_normal(10)
    found = difference(reading(0.2, np.zeros(10), 1e-9), reading(0.5, noise, 1e-9))
    half = stats.t.ppf(0.975, 9) * np.sqrt(0.9 * np.square(noise - noise.mean()).sum())
    ends = [1 / (1 + np.exp(0.5 + step) - 0.5) - 1 / (1 + np.exp(0.2) - 0.5) for step in (half, -half)]
    # The level of a is known, and so is the place: all of the error is b's.
    assert (found.low, found.high) == pytest.approx(ends, abs=2e-3)


# ---- against the estimators -----------------------------------------------------------------------------------------


def test_values_are_those_of_the_estimators():
    a, b = pair(0, (0.3, 0.5))
    of_icr, of_information = (paired_difference(a, b, criterion=name) for name in ("icr", "information"))
    values = [ik.ICREstimator("crossfit").fit(x).icr_ for x in (a, b)]
    assert [of_icr.a, of_icr.b] == pytest.approx(values, rel=1e-12)
    assert of_icr.estimate == pytest.approx(values[1] - values[0], rel=1e-12)
    values = [ik.InvariantInformation().fit(x).information_ for x in (a, b)]
    assert [of_information.a, of_information.b] == pytest.approx(values, rel=1e-12)


def test_the_test_is_that_of_compare():
    cube = ik.datasets.make_cube(300, 6, icr=[0.4, 0.5], sigmas=[0.1, 0.2], random_state=0)
    (expected,) = ik.compare(cube, metrics=["icr"]).attrs["paired_tests"]
    # compare sums in float64, whatever the features.
    moments = [Moments.from_cube(cube.select(sigma=sigma), dtype="float64") for sigma in (0.1, 0.2)]
    found = paired_difference(*moments)
    assert found.estimate == pytest.approx(expected["difference"], rel=1e-9)
    assert found.p == pytest.approx(expected["p"], rel=1e-6) and found.dof == expected["dof"]
    assert found.t == pytest.approx(-abs(expected["t"]), rel=1e-6)  # greater ICR: b is worse


# ---- invariance -----------------------------------------------------------------------------------------------------


@CRITERION
def test_turned_round_it_changes_sign(criterion):
    a, b = pair(1, (0.4, 0.5))
    there, back = paired_difference(a, b, criterion=criterion), paired_difference(b, a, criterion=criterion)
    assert there.p == pytest.approx(back.p, rel=1e-9) and there.t == pytest.approx(-back.t, rel=1e-9)
    assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low), rel=1e-9)


def test_images_pair_by_their_ids_and_maps_of_features_change_nothing():
    a, b = pair(2, (0.4, 0.45))
    want = paired_difference(a, b)
    order = np.random.default_rng(0).permutation(len(b))
    mixing = np.random.default_rng(1).standard_normal((6, 6))
    moved = ik.from_arrays({"other": b[order] @ mixing + 5}, image_ids=order)
    found = paired_difference(ik.from_arrays(a, image_ids=np.arange(len(a))), moved)
    assert (found.estimate, found.low, found.high) == pytest.approx((want.estimate, want.low, want.high), rel=1e-6)
    other = paired_difference(a, b, random_state=1, n_folds=7)
    assert other.dof == 6 and other.estimate != want.estimate


@CRITERION
def test_every_way_to_bring_features_gives_the_same(criterion):
    cube = ik.datasets.make_cube(200, 5, icr=[0.3, 0.5], sigmas=[0.1, 0.2], random_state=0)
    levels = [cube.select(sigma=sigma) for sigma in (0.1, 0.2)]
    want = paired_difference(*levels, criterion=criterion)
    for a, b in (
        [level.level() for level in levels],
        [np.asarray(level) for level in levels],
        [Moments.from_cube(level) for level in levels],
        (levels[0], np.asarray(levels[1])),
        (levels[0], Moments.from_cube(levels[1])),
    ):
        found = paired_difference(a, b, criterion=criterion)
        assert (found.estimate, found.low, found.p) == pytest.approx((want.estimate, want.low, want.p), rel=1e-9)
    assert pickle.loads(pickle.dumps(want)) == want


@PROPERTY
@given(
    merits=st.tuples(st.floats(-0.6, 4.0), st.floats(-0.6, 4.0)),
    halves=st.tuples(st.floats(0.0, 1.5), st.floats(0.0, 1.5)),
    spread=st.floats(1e-4, 0.5),
    seed=st.integers(0, 99),
    confidence=st.sampled_from([0.8, 0.95, 0.99]),
)
def test_interval_and_test_agree_whatever_the_errors(merits, halves, spread, seed, confidence):
    noise = spread * np.random.default_rng(seed).standard_normal((2, 8))
    a, b = (reading(m, r, h) for m, r, h in zip(merits, noise, halves, strict=True))
    found = difference(a, b, confidence)
    assert found.low <= found.estimate <= found.high
    if abs(found.p - (1 - confidence)) > 1e-6:
        assert (found.p < 1 - confidence) == (found.low > 0 or found.high < 0)
    if found.low > 0:
        assert found.t < 0  # greater ICR: b is worse
    if found.high < 0:
        assert found.t > 0


# ---- degenerate -----------------------------------------------------------------------------------------------------


@CRITERION
def test_the_same_features_twice_differ_by_nothing(criterion):
    a, _ = pair(0, (0.4, 0.4))
    found = paired_difference(a, a.copy(), criterion=criterion)
    assert (found.estimate, found.low, found.high, found.t, found.p) == (0, 0, 0, 0, 1)
    assert "which is better is not shown" in str(found)


@CRITERION
@pytest.mark.parametrize("seed", range(4))
def test_a_linear_map_differs_by_rounding_and_by_nothing_that_could_be_tested(criterion, seed):
    """Whether rounding looks like a difference is the processor's choice: of 24 such pairs one had p = .03."""
    a, _ = pair(seed, (0.4, 0.4))
    rng = np.random.default_rng(seed)
    maps = [np.diag(np.arange(1.0, 7)), np.linalg.qr(rng.standard_normal((6, 6)))[0], rng.standard_normal((6, 6))]
    spaces = [a, *(a @ m for m in maps), (a.astype(np.float32) @ maps[0].astype(np.float32))]
    for b in spaces[1:]:
        found = paired_difference(a, b, criterion=criterion)
        assert (found.estimate, found.low, found.high, found.t, found.p) == (0, 0, 0, 0, 1)
    readings = [read(Moments.from_cube(h, n_folds=10), criterion) for h in spaces]
    merit, replicates = np.array([r.merit for r in readings]), np.stack([r.replicates for r in readings])
    np.testing.assert_array_equal(p_best(merit, replicates), 1.0)
    watch = Looks()
    assert not any(watch.add(m, r) for m, r in zip(np.tile(merit, 20), np.tile(replicates, (20, 1)), strict=True))


def test_one_sentence_says_it():
    a, b = pair(0, (0.3, 0.6))
    assert str(paired_difference(a, b)).startswith("ICR of b less that of a: +0.")
    assert "a is better (0." in str(paired_difference(a, b))
    found = str(paired_difference(b, a, criterion="information", confidence=0.9))
    assert "information (nats) of b less that of a: +" in found and "at 90%" in found and "b is better" in found


def test_images_and_draws_that_do_not_pair_are_refused():
    cube = ik.datasets.make_cube(120, 4, icr=[0.3, 0.5], sigmas=[0.1, 0.2], random_state=0)
    a, b = cube.select(sigma=0.1), cube.select(sigma=0.2)
    with pytest.raises(CubeFormatError, match=r"b holds other images than a: 20 are missing \(such as"):
        paired_difference(a, b[:100])
    other = ik.datasets.make_cube(120, 4, icr=0.5, random_state=1)
    with pytest.raises(CubeFormatError, match="b and a differ in seed: 1 against 0"):
        paired_difference(a, other)
    three = ik.datasets.make_cube(120, 4, n_views=3, random_state=0)
    with pytest.raises(CubeFormatError, match="b has 3 views, a 2"):
        paired_difference(a, three)
    with pytest.raises(CubeFormatError, match="b has 3 views, a 2"):
        paired_difference(np.asarray(a), np.asarray(three))
    with pytest.raises(CubeFormatError, match="a holds 120 images, b 100"):
        paired_difference(np.asarray(a), np.asarray(b)[:100])
    with pytest.raises(CubeFormatError, match="the folds of b hold"):
        paired_difference(*(Moments.from_cube(x, random_state=k) for k, x in enumerate((a, b))))
    with pytest.raises(CubeFormatError, match="one layer and one noise level are needed"):
        paired_difference(cube, cube)


@pytest.mark.parametrize("noise", [{"name": "VP"}, {"name": "EDM", "sigma_data": 0.6}])
def test_models_of_other_noise_laws_pair_by_the_draws_they_share(noise):
    a, b = pair(0, (0.3, 0.5))
    laws = [{"name": "EDM", "sigma_data": 0.5, "trained_range": (0.1, 2.0)}, noise]
    cubes = [ik.from_arrays(h, attrs={"seed": 3, "noise": law}) for h, law in zip((a, b), laws, strict=True)]
    assert paired_difference(*cubes) == paired_difference(a, b)
    with pytest.raises(CubeFormatError, match="b and a differ in seed: 4 against 3"):
        paired_difference(cubes[0], ik.from_arrays(b, attrs={"seed": 4, "noise": noise}))


def test_constant_features_are_named_with_what_to_do():
    a, b = pair(0, (0.3, 0.5))
    dead = b.copy()
    dead[:, :, 2] = 7.0
    with pytest.raises(
        DegenerateFeaturesError, match=r"^b: 1 of 6 features are constant \(2\), such as dead units: "
    ) as e:
        paired_difference(a, dead)
    assert "drop_constant" not in str(e.value) and "cube.level().isel(feature=varying)" in str(e.value)
    with pytest.raises(DegenerateFeaturesError, match=r"^a: 1 of 6"):
        paired_difference(Moments.from_cube(dead), Moments.from_cube(b), criterion="information")
    # What the message says to do can be done.
    varying = [0, 1, 3, 4, 5]
    cubes = [ik.from_arrays(h).level().isel(feature=varying) for h in (a, dead)]
    assert paired_difference(*cubes) == paired_difference(a[..., varying], dead[..., varying])


def test_other_errors_say_of_which():
    a, b = pair(0, (0.3, 0.5))
    with pytest.raises(NonFiniteError, match=r"^b: "):
        paired_difference(a, np.where(b > 3, np.nan, b))
    with pytest.raises(NotEnoughDataError, match=r"^a: "):
        paired_difference(a[:7], b[:7])


def test_icr_of_other_widths_is_refused_and_information_is_not():
    a, b = pair(1, (0.4, 0.4), n=400)
    wider = np.concatenate([b, np.random.default_rng(9).standard_normal((400, 2, 6))], axis=2)
    with pytest.raises(CubeFormatError, match=r'a has 6 features, b 12: .*criterion="information"'):
        paired_difference(a, wider)
    found = paired_difference(a, wider, criterion="information")
    assert found.low < 0 < found.high  # pure noise adds nothing


def test_what_else_is_refused():
    a, b = pair(0, (0.4, 0.4))
    with pytest.raises(ValueError, match="criterion must be one of 'icr', 'information', not 'auc'"):
        paired_difference(a, b, criterion="auc")
    with pytest.raises(NotEnoughDataError, match="folds"):
        paired_difference(*(Moments.from_cube(x, n_folds=0) for x in (a, b)))
    with pytest.raises(NotEnoughDataError, match="more images"):
        paired_difference(a[:7], b[:7])
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        paired_difference(a, b, confidence=95)


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["gaussian", "heavy"])
@pytest.mark.parametrize("truth", [(0.5, 0.5), (0.2, 0.6)])
def test_the_interval_covers_as_often_as_it_says(law, truth):
    runs = 100
    covered, rejected = (dict.fromkeys(CRITERIA, 0) for _ in range(2))
    for seed in range(runs):
        moments = [Moments.from_cube(x, dtype="float64") for x in pair(seed, truth, n=60, law=law)]
        for criterion in CRITERIA:
            found = difference(*(read(m, criterion) for m in moments))
            covered[criterion] += found.low <= truth_of(criterion, truth) <= found.high
            rejected[criterion] += found.p < 0.05
    for criterion in CRITERIA:
        assert covered[criterion] / runs >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / runs)
        share = rejected[criterion] / runs
        assert share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs) if truth[0] == truth[1] else share > 0.95


def test_pairing_is_worth_it():
    """What both levels share is in each interval, and not in that of the difference."""
    a, b = pair(0, (0.5, 0.53), n=600, alike=0.95)
    found = paired_difference(a, b)
    intervals = [ik.ICREstimator("crossfit").fit(x).interval_ for x in (a, b)]
    assert intervals[0][1] > intervals[1][0]  # they overlap
    assert found.low > 0 and found.high - found.low < 0.6 * (intervals[0][1] - intervals[0][0])
