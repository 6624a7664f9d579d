"""Readings: values are those of the estimators, merits are monotone in them, replicates pair."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, IllConditionedError, NotEnoughDataError
from icrkit.metrics._crossfit import crossfit, jackknife_error
from icrkit.moments import Moments
from icrkit.readings._reading import (
    CRITERIA,
    criterion_of,
    difference_error,
    fold_contributions,
    merits,
    naming,
    read,
    read_features,
)

CRITERION = pytest.mark.parametrize("criterion", list(CRITERIA))


@pytest.fixture(scope="module")
def cube() -> ik.Cube:
    return ik.datasets.make_cube(300, 6, n_views=3, icr=[0.4, 0.45], sigmas=[0.1, 0.2], random_state=0)


@pytest.fixture(scope="module")
def moments(cube: ik.Cube) -> Moments:
    return Moments.from_cube(cube.select(sigma=0.1))


# ---- closed form ----------------------------------------------------------------------------------------------------


@given(merit=st.floats(-1.0, 5.0))
@settings(derandomize=True, max_examples=50)
def test_merit_and_value_are_one_to_one(merit):
    made = read(Moments.from_cube(ik.datasets.make_cube(60, 2, random_state=0)))
    value = made.value_at(merit)
    assert value == pytest.approx(1 / (1 + np.exp(merit) - 0.5), rel=1e-12)
    assert made.merit_at(value) == pytest.approx(merit, abs=1e-9)
    assert made.value_at(merit + 0.1) < value  # greater merit, cleaner
    nats = dataclasses.replace(made, criterion=CRITERIA["information"])
    assert nats.value_at(merit) == merit == nats.merit_at(merit)


def test_the_error_of_a_difference_is_that_of_paired_replicates():
    a, b = np.random.default_rng(0).standard_normal((2, 7))
    assert difference_error(a, b) == jackknife_error(b - a) == difference_error(b, a)
    assert difference_error(a, a + 3.0) == pytest.approx(0.0, abs=1e-12)


def test_contributions_of_folds_have_the_merits_mean_and_the_jackknifes_error():
    folds = np.random.default_rng(0).standard_normal((3, 7))
    without = (folds.sum(axis=1, keepdims=True) - folds) / 6  # of a mean
    np.testing.assert_allclose(fold_contributions(folds.mean(axis=1), without), folds, rtol=1e-12)
    one = fold_contributions(2.5, without[0])
    assert one.mean() == pytest.approx(2.5)
    assert one.std(ddof=1) / np.sqrt(7) == pytest.approx(jackknife_error(without[0]))


def test_the_criteria():
    assert not CRITERIA["icr"].greater_is_better and not CRITERIA["icr"].across_widths
    assert CRITERIA["information"].greater_is_better and CRITERIA["information"].across_widths
    assert criterion_of("icr") is CRITERIA["icr"]
    with pytest.raises(ValueError, match="criterion must be one of 'icr', 'information', not 'ICR'"):
        criterion_of("ICR")


# ---- against the estimators -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the plug-in ICR:UserWarning")
@pytest.mark.parametrize("regularization", [0.0, 0.2])
def test_values_and_intervals_are_those_of_the_estimators(cube, moments, regularization):
    options = {"confidence": 0.9, "regularization": regularization}
    found = read(moments, "icr", **options)
    est = ik.ICREstimator("crossfit", **options).fit(cube.select(sigma=0.1))
    assert (found.value, found.low, found.high) == pytest.approx((est.icr_, *est.interval_), rel=1e-12)
    assert found.value_at(found.merit) == pytest.approx(found.value, rel=1e-12)
    np.testing.assert_array_equal(found.replicates, crossfit(moments, regularization).replicates)
    found = read(moments, "information", **options)
    est = ik.InvariantInformation(**options).fit(cube.select(sigma=0.1))
    assert (found.value, found.low, found.high) == pytest.approx((est.information_, *est.interval_), rel=1e-12)
    assert found.merit == found.value
    assert (found.n_images, found.n_views, found.n_features, found.n_folds) == (300, 3, 6, 10)


@CRITERION
def test_readings_of_features_are_those_of_their_moments(cube, moments, criterion):
    want = read(moments, criterion)
    seen, (found,) = read_features(cube.select(sigma=0.1), (criterion,))
    assert found.value == want.value and seen.n_folds == 10
    again, (found,) = read_features(moments, (criterion,))
    assert again is moments and found.value == want.value
    _, both = read_features(cube.select(sigma=0.1), tuple(CRITERIA), n_folds=5, random_state=3)
    assert [one.criterion.name for one in both] == list(CRITERIA) and both[0].n_folds == 5
    values, replicates = merits(both[:1] * 3)
    assert values.shape == (3,) and replicates.shape == (3, 5)


@CRITERION
def test_what_levels_share_cancels_in_their_difference(criterion):
    made = ik.datasets.make_cube(400, 6, icr=[0.4, 0.41], sigmas=[0.1, 0.2], random_state=0)
    a, b = (read_features(made.select(sigma=sigma), (criterion,))[1][0] for sigma in (0.1, 0.2))
    assert difference_error(a.replicates, b.replicates) < 0.2 * jackknife_error(a.replicates)


# ---- invariance -----------------------------------------------------------------------------------------------------


@CRITERION
def test_maps_of_features_and_the_order_of_images_change_nothing(cube, criterion):
    level = cube.select(sigma=0.1)
    want = read_features(level, (criterion,))[1][0]
    order = np.random.default_rng(0).permutation(300)
    mixing = np.random.default_rng(1).standard_normal((6, 6))
    moved = ik.from_arrays(np.asarray(level)[order] @ mixing + 1, image_ids=order)
    found = read_features(moved, (criterion,))[1][0]
    assert (found.value, found.low, found.high) == pytest.approx((want.value, want.low, want.high), rel=1e-6)
    np.testing.assert_allclose(found.replicates, want.replicates, rtol=1e-6)


# ---- degenerate -----------------------------------------------------------------------------------------------------


@CRITERION
def test_what_cannot_be_read(cube, criterion):
    level = np.asarray(cube.select(sigma=0.1))
    with pytest.raises(NotEnoughDataError, match="folds"):
        read(Moments.from_cube(level, n_folds=0), criterion)
    with pytest.raises(NotEnoughDataError, match="more images"):
        read_features(level[:4], (criterion,))
    with pytest.raises(DegenerateFeaturesError, match="constant"):
        read_features(np.concatenate([level, np.ones((300, 3, 1))], axis=2), (criterion,))
    with pytest.raises(IllConditionedError):
        read_features(np.concatenate([level, level[..., :1]], axis=2), (criterion,))
    with pytest.raises(CubeFormatError, match="moments of one level"):
        read_features(cube, (criterion,))


@CRITERION
def test_a_reading_that_cannot_drop_constant_features_says_what_to_do(cube, criterion):
    level = np.asarray(cube.select(sigma=0.1))
    dead = np.concatenate([level, np.ones((300, 3, 12))], axis=2)
    for X in (dead, Moments.from_cube(dead)):
        with pytest.raises(DegenerateFeaturesError) as error:
            read_features(X, (criterion,), constant="leave them out")
        which = "6, 7, 8, 9, 10, 11, 12, 13, 14, 15, ..."
        assert str(error.value) == f"12 of 18 features are constant ({which}), such as dead units: leave them out"
    twice = np.repeat(level[:, :1], 2, axis=1)
    with pytest.raises(DegenerateFeaturesError, match="residual"):
        read_features(twice, (criterion,), constant="leave them out")
    with pytest.raises(CubeFormatError, match="moments of one level"):
        read_features(Moments.from_cube(cube), (criterion,), constant="leave them out")


def test_errors_of_what_is_read_say_where():
    cause = NotEnoughDataError("too few images")
    with pytest.raises(NotEnoughDataError, match=r"^layer mid: too few images$") as error, naming("layer mid"):
        raise cause
    assert error.value.__cause__ is cause
    with pytest.raises(ValueError, match=r"^confidence$"), naming("layer mid"):
        raise ValueError("confidence")


def test_float32_features_are_read_again_where_a_criterion_asks_for_it():
    """A signal that all features share leaves the residual well conditioned, and the single views' covariance not."""
    rng = np.random.default_rng(0)
    shared = 1e3 * rng.standard_normal((200, 1, 1))
    h = (shared + rng.standard_normal((200, 2, 4))).astype(np.float32)
    assert Moments.from_cube(h).products == "float32"
    seen, found = read_features(h, tuple(CRITERIA))
    assert seen.products == "float64"
    want = read_features(h.astype(np.float64), tuple(CRITERIA))[1]
    assert [one.value for one in found] == pytest.approx([one.value for one in want], rel=1e-6)
    with pytest.raises(IllConditionedError):
        read_features(Moments.from_cube(h), ("information",))  # there is nothing to read again


# ---- statistics -----------------------------------------------------------------------------------------------------


@CRITERION
def test_p_of_residual_only_is_that_of_the_interval(criterion):
    """Noise of which levels hold more and more of the images: the interval leaves it out where p says so."""
    rng = np.random.default_rng(0)
    image, rest = rng.standard_normal((150, 1, 6)), rng.standard_normal((150, 2, 6))
    seen = []
    for share in np.linspace(0, 0.6, 13):
        for confidence in (0.8, 0.95, 0.999):
            [one] = read_features(share * image + rest, (criterion,), confidence=confidence)[1]
            beyond = one.high < 1 if criterion == "icr" else one.low > 0
            assert (one.p_residual_only(confidence) < 1 - confidence) == beyond
            seen.append(beyond)
    assert any(seen) and not all(seen)


@CRITERION
def test_intervals_cover(criterion):
    covered, runs = 0, 60
    for seed in range(runs):
        made = ik.datasets.make_heavy_cube(64, 8, icr=0.5, random_state=seed)
        ratios = np.geomspace(1, 0.01, 8)
        truth = 0.5 if criterion == "icr" else 0.5 * np.log1p(ratios / ratios.mean()).sum()
        found = read_features(made, (criterion,))[1][0]
        covered += found.low <= truth <= found.high
    assert covered / runs >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / runs)
