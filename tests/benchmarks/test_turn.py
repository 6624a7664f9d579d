"""The study of the turn: its truth, a tiny run, and what its committed table says."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

import icrkit as ik
from icrkit.metrics._information import invariant_information


@pytest.mark.parametrize("residual", ["gaussian", "heavy", "lighter", "classes"])
@pytest.mark.parametrize("link", [0.0, 0.9])
def test_the_truth_is_that_of_many_images(benchmark, residual, link):
    # Class means are drawn anew for each course, and add to its truth what is the same at every checkpoint.
    cell = benchmark.Cell("turn", residual=residual, link=link, features=4, images_per_feature=2500, fall_percent=20)
    found = np.array([invariant_information(h) for h in benchmark.features_of(cell, np.random.default_rng(0))])
    truth = benchmark.truth(cell)
    assert truth.argmax() == benchmark.PEAK and truth[-1] == pytest.approx(0.8 * truth[benchmark.PEAK])
    if residual == "classes":
        return
    np.testing.assert_allclose(found, truth, rtol=0.06)
    icr = [1 / (1 + ratios.mean()) for ratios in benchmark.spectra(cell)]
    np.testing.assert_allclose(benchmark.truth(dataclasses.replace(cell, criterion="icr")), icr)
    assert icr[benchmark.PEAK] == pytest.approx(benchmark.ICR)


def test_flat_courses_are_flat_and_draws_are_linked(benchmark):
    cell = benchmark.Cell("flat", residual="classes", link=0.9, features=4, images_per_feature=2500)
    found = [invariant_information(h) for h in benchmark.features_of(cell, np.random.default_rng(0))]
    assert np.ptp(found) < 0.06 * np.mean(found)
    for link, least, most in ((0.0, -0.1, 0.2), (0.9, 0.7, 0.95), (0.99, 0.95, 1.0)):
        cell = benchmark.Cell("flat", "merits", link=link, folds=20)
        courses = [benchmark.read_course(cell, seed).values[:2] for seed in range(300)]
        assert least < np.corrcoef(np.transpose(courses))[0, 1] < most


def test_merits_pair_with_their_replicates(benchmark):
    cell = benchmark.Cell("flat", "merits", residual="skewed", folds=10)
    errors, falls = [], []
    for seed in range(300):
        course = benchmark.read_course(cell, seed)
        folds = benchmark.contributions(course)
        np.testing.assert_allclose(folds.mean(axis=1), course.values)
        errors.append((folds[0] - folds[1]).var(ddof=1) / 10)
        falls.append(course.values[0] - course.values[1])
    assert np.var(falls) == pytest.approx(np.mean(errors), rel=0.2)


def test_a_rule_sees_a_fall_and_is_blind_to_a_rise(benchmark):
    folds = np.linspace(0, 1, 20)[:, None] + 0.01 * np.random.default_rng(0).standard_normal((20, 20))
    for rule, judge in benchmark.RULES.items():
        for course, expected in ((folds, False), (folds[::-1], True)):
            merits, without = course.mean(axis=1), (course.sum(axis=1, keepdims=True) - course) / 19
            assert judge(benchmark.Course(merits, without, merits))[-1] == expected, rule
    assert sum(benchmark.spent(k) for k in range(1, 2000)) < 0.05


def test_the_study_runs(benchmark, tmp_path, monkeypatch):
    cells = (
        benchmark.Cell("flat", features=4, images_per_feature=20, folds=10),
        benchmark.Cell("flat", "merits", folds=10),
        benchmark.Cell("turn", features=4, images_per_feature=40, fall_percent=20, folds=10, criterion="icr"),
    )
    monkeypatch.setattr(benchmark, "CELLS", cells)
    out = tmp_path / "turn.csv"
    options = ["--repeats", "3", "--power-repeats", "2", "--out", str(out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0 and "| flat | merits |" in result.output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["rule"] for row in rows] == [*benchmark.RULES] * 3
    assert rows[0]["fall_coverage"] and not rows[-7]["fall_coverage"] and rows[-7]["repeats"] == "2"


@pytest.mark.filterwarnings("ignore:.* features identical to those of an image before")
def test_a_network_is_read_under_fresh_draws(benchmark, monkeypatch):
    cube = ik.datasets.load_fashion_cube().select(sigma=0.3).level().to_numpy().astype(np.float32)
    monkeypatch.setattr(benchmark, "features_of_network", lambda: [np.tile(cube, (6, 1, 1))] * 3)
    course = benchmark.read_course(benchmark.NETWORK[0], 0)
    assert course.replicates.shape == (3, 20) and np.ptp(course.values) == 0 and not benchmark.turn_of(course).turned


def test_tails_keep_their_variance_while_they_grow_lighter(benchmark):
    rng = np.random.default_rng(0)
    tails = 3 * rng.gamma(2.0, 0.5, 400_000) / rng.chisquare(5, 400_000)
    for power in (0.0, 0.3, 0.8):
        assert np.mean(tails**power) == pytest.approx(benchmark.mean_of_power(power), rel=0.01)
    assert benchmark.mean_of_power(1.0) == pytest.approx(1.0)


# ---- the committed table --------------------------------------------------------------------------------------------


def rate(rows: list[dict[str, str]], rule: str, **wanted: object) -> list[tuple[float, float]]:
    """Share of courses in which a rule called a turn, and its error, of every cell that is wanted."""
    return [
        (float(row["called"]), float(row["called_error"]))
        for row in rows
        if row["rule"] == rule and all(row[name] == str(value) for name, value in wanted.items())
    ]


def test_the_committed_study_is_whole(benchmark, committed):
    assert len(committed) == len(benchmark.CELLS) * len(benchmark.RULES)
    for group, cell in zip(range(0, len(committed), len(benchmark.RULES)), benchmark.CELLS, strict=True):
        assert {name: committed[group][name] for name in dataclasses.asdict(cell)} == {
            name: str(value) for name, value in dataclasses.asdict(cell).items()
        }


def test_false_turns_stay_below_five_percent(committed):
    rows = [row for row in committed if row["course"] != "turn"]
    for called, error in rate(rows, "sign changes"):
        assert called <= 0.05 + 2 * error
    twenty = [row for row in rows if row["course"] == "flat" and row["checkpoints"] == "20"]
    fresh = rate(twenty, "naive", link="0.0")
    assert all(called > 0.8 for called, _ in fresh)
    assert max(called for called, _ in rate(twenty, "multiplier bootstrap")) > 0.2
    # What the second estimator is for.
    heavy = rate(twenty, "one estimator", source="features", residual="heavy", link="0.0")
    assert all(called > 0.05 + 2 * error for called, error in heavy)


def test_it_finds_more_than_the_other_rules_that_hold(benchmark, committed):
    rows = [row for row in committed if row["course"] == "turn"]
    found = {rule: sum(called for called, _ in rate(rows, rule)) for rule in benchmark.RULES}
    assert found["sign changes"] > found["Bonferroni"] > found["half-sample"]
    same_draws = [
        rate(rows, "sign changes", link="0.9", images_per_feature="8", fall_percent=str(f))[0][0]
        for f in (2, 5, 10, 20)
    ]
    assert same_draws == sorted(same_draws)


def test_the_interval_of_the_fall_holds_it(committed):
    coverage = [float(row["fall_coverage"]) for row in committed if row["fall_coverage"]]
    assert min(coverage) > 0.93
