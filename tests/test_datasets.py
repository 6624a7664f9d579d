"""Synthetic cubes are what they say: the truth, the laws of the residuals, the classes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import icrkit as ik
from icrkit.datasets import make_cube, make_heavy_cube
from icrkit.demo_training import CALLED_LAYER, CALLED_SIGMA, checkpoint_steps, digits_split
from icrkit.metrics._crossfit import crossfit
from icrkit.moments import Moments
from icrkit.readings._course import TrainingCourse
from icrkit.readings._pairing import check_same_draws

TABLE = Path(__file__).parents[1] / "benchmarks" / "results" / "digits_course.csv"


def parts_of(cube: ik.Cube) -> tuple[np.ndarray, np.ndarray]:
    """Image means and differences of two views, whitened by the residual covariance."""
    h = cube.level().values
    e = (h[:, 0] - h[:, 1]) / np.sqrt(2)
    root = np.linalg.inv(np.linalg.cholesky(np.cov(e.T)))
    return h.mean(axis=1) @ root.T, e @ root.T


def test_shape_and_attributes():
    cube = make_cube(30, 5, n_views=3, icr=[0.2, 0.4], sigmas=[0.1, 1.0], random_state=7)
    assert cube.shape == (30, 3, 2, 5) and cube.layers == ("features",) and cube.labels is None
    assert cube.sigmas.tolist() == [0.1, 1.0]
    assert cube.attrs["true_icr"] == [0.2, 0.4] and cube.attrs["residual"] == "gaussian" and cube.attrs["seed"] == 7
    assert make_cube(30, 5).attrs["true_icr"] == [0.5]
    assert make_cube(30, 5, icr=0.3, sigmas=[1, 2, 3]).attrs["true_icr"] == [0.3] * 3


def test_the_seed_decides_everything():
    a, b, c = (make_cube(20, 4, residual="heavy", random_state=seed)["features"].values for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.isclose(a, c).any()


@pytest.mark.parametrize("law", ["gaussian", "heavy", "half"])
@pytest.mark.parametrize("n_views", [2, 4])
@pytest.mark.parametrize("n_classes", [None, 5])
def test_the_true_icr_is_found_from_many_images(law, n_views, n_classes):
    truth = [0.1, 0.5, 0.9]
    cube = make_cube(
        8000, 6, n_views=n_views, icr=truth, sigmas=[1, 2, 3], residual=law, n_classes=n_classes, random_state=0
    )
    found = [crossfit(Moments.from_cube(cube.select(sigma=s))).icr for s in cube.sigmas]
    np.testing.assert_allclose(found, truth, atol=0.012)


def test_ratios_of_the_directions_fall_by_a_hundred():
    values = ik.FisherSpectrum().fit(make_cube(60_000, 5, icr=0.2, random_state=0)).eigenvalues_
    want = np.geomspace(1, 0.01, 5)
    np.testing.assert_allclose(values, 4 * want / want.mean(), rtol=0.05)


def test_levels_share_images_and_draws():
    h = make_cube(50, 4, icr=[0.5, 0.5, 0.8], sigmas=[1, 2, 3], random_state=0)["features"].values
    np.testing.assert_array_equal(h[:, :, 0], h[:, :, 1])
    residual = h - h.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(residual[:, :, 2], residual[:, :, 0], atol=1e-12)


def test_labels_are_sorted_balanced_and_carry_half_of_the_signal():
    cube = make_cube(20_000, 4, icr=0.2, n_classes=8, random_state=0)
    assert (np.diff(cube.labels) >= 0).all() and set(np.bincount(cube.labels)) == {2500}
    t, _ = parts_of(cube)
    means = np.stack([t[cube.labels == c].mean(axis=0) for c in range(8)])
    share = np.trace(np.cov(means.T, ddof=0)) / (np.trace(np.cov(t.T)) - 4 / 2)  # less what is left of the residual
    assert share == pytest.approx(0.5, abs=0.02)


def test_laws_of_the_residuals():
    kurtosis, spread = {}, {}
    for law in ("gaussian", "heavy", "half"):
        _, e = parts_of(make_cube(20_000, 8, residual=law, random_state=0))
        kurtosis[law] = stats.kurtosis(e, axis=0).mean()
        size = np.square(e).mean(axis=1)
        spread[law] = size.std() / size.mean()
    assert abs(kurtosis["gaussian"]) < 0.1
    assert kurtosis["heavy"] > 1.5 and 0.1 < kurtosis["half"] < kurtosis["heavy"]
    assert spread["gaussian"] == pytest.approx(0.5, abs=0.02)  # sqrt(2/8)
    assert spread["heavy"] > 0.8 and spread["heavy"] > spread["half"] > spread["gaussian"]


def test_the_heavy_cube_is_the_cube_with_heavy_residuals():
    a, b = make_heavy_cube(20, 4, icr=0.3, random_state=5), make_cube(20, 4, icr=0.3, residual="heavy", random_state=5)
    np.testing.assert_array_equal(a["features"], b["features"])
    assert a.attrs == b.attrs


@pytest.mark.parametrize("icr", [0.0, 1.0, -0.1, 1.5, [0.5, 1.0], np.nan])
def test_a_truth_outside_zero_and_one(icr):
    with pytest.raises(ValueError, match="icr must lie between 0 and 1"):
        make_cube(10, 3, icr=icr, sigmas=[1, 2] if np.ndim(icr) else None)


def test_an_unknown_law():
    with pytest.raises(ValueError, match="residual must be 'gaussian', 'heavy' or 'half', not 'cauchy'"):
        make_cube(10, 3, residual="cauchy")


def test_another_number_of_levels():
    with pytest.raises(ValueError):
        make_cube(10, 3, icr=[0.2, 0.3, 0.4], sigmas=[1, 2])


def test_an_unknown_split():
    with pytest.raises(ValueError, match="subset must be 'train' or 'test', not 'valid'"):
        ik.datasets.load_fashion_images("valid")


def test_the_digits_course_is_part_of_what_the_demo_reads():
    course, split = ik.datasets.load_digits_course(), digits_split()
    assert tuple(step for step, _ in course) == checkpoint_steps()
    for step, cube in course:
        assert cube.step == step and cube.layers == (CALLED_LAYER,) and cube.sigmas.tolist() == [CALLED_SIGMA]
        assert cube.shape == (256, 8, 1, 32) and cube[CALLED_LAYER].dtype == np.float16
        assert cube.image_ids.tolist() == split.ids[:256]
        np.testing.assert_array_equal(cube.labels, split.labels[:256])
        assert cube.attrs["noise"]["trained_range"] and cube.attrs["n_training_images"] == 128
        assert 0 <= cube.attrs["nearest_ratio"] <= cube.attrs["near_copies"] <= 1
    check_same_draws([cube for _, cube in course], [str(step) for step, _ in course])
    assert len({cube.attrs["weights_sha256"] for _, cube in course}) == len(course)
    files = list(ik.datasets.data_path("digits_course").iterdir())
    assert len(files) == len(course) and sum(path.stat().st_size for path in files) < 2_000_000


def test_the_digits_course_turns_as_its_table_says():
    with TABLE.open() as file:
        rows = [row for row in csv.DictReader(file) if (row["seed"], row["n_images"]) == ("0", "256")]
    course = ik.datasets.load_digits_course()
    for criterion in ("information", "icr"):
        fitted = TrainingCourse(criterion).fit(course)
        curve = fitted.curve_[criterion].to_numpy().ravel()
        np.testing.assert_allclose(curve, [float(row[criterion]) for row in rows], atol=6e-5)
        assert str(fitted.best_step_) == rows[0][f"{criterion}_best_step"]
        assert str(fitted.turned_at_) == rows[0][f"{criterion}_turned_at"]
    for (_, cube), row in zip(course, rows, strict=True):
        for name, column in (("held_out_loss",) * 2, ("near_copies",) * 2, ("nearest_ratio", "copies")):
            assert cube.attrs[name] == pytest.approx(float(row[column]), abs=6e-5)


def test_the_digits_course_turns_while_nothing_is_copied():
    course = ik.datasets.load_digits_course()
    fitted = TrainingCourse().fit(course)
    loss = {step: cube.attrs["held_out_loss"] for step, cube in course}
    copies = {step: cube.attrs["nearest_ratio"] for step, cube in course}
    lowest = min(loss, key=loss.get)
    assert fitted.turned_ and fitted.best_step_ <= lowest < fitted.turned_at_ < max(loss)
    assert max(share for step, share in copies.items() if step <= fitted.turned_at_) == 0
    assert loss[max(loss)] > 1.3 * loss[lowest]
