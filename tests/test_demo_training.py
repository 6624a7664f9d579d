"""The training demo in small: a network is trained, and every number comes from it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_digits

import icrkit as ik
from icrkit import demo_training
from icrkit.cli import main
from icrkit.demo_training import (
    CALLED_LAYER,
    CALLED_SIGMA,
    LAYERS,
    SIGMAS,
    TrainingDemoResult,
    checkpoint_steps,
    digits_split,
    run_training_demo,
    train_digits,
)
from icrkit.exceptions import MissingDependencyError
from icrkit.readings._course import TrainingCourse
from icrkit.report import Course, Series

SMALL: dict[str, Any] = {
    "n_images": 24, "n_steps": 12, "n_checkpoints": 3, "n_held_out": 60, "n_generated": 10, "n_views": 4, "seed": 1,
}  # fmt: skip


class Run(TrainingDemoResult):
    """What the demo found, and what it showed."""

    shown: str


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Run:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # a log gets no bar
    with contextlib.redirect_stderr(terminal) as shown:
        found = run_training_demo(tmp_path_factory.mktemp("demo") / "out", **SMALL)
    run = Run(found.course, found.checkpoints, found.files)
    object.__setattr__(run, "shown", shown.getvalue())
    return run


# ---- split and steps ------------------------------------------------------------------------------------------------


def test_the_split_takes_digits_in_the_order_of_the_seed() -> None:
    split, digits = digits_split(20, 30, seed=3), load_digits()
    order = np.random.default_rng(3).permutation(1797)
    np.testing.assert_array_equal(split.held_out[:, 0], digits.images[order[:30]] / 8 - 1)
    np.testing.assert_array_equal(split.train[:, 0], digits.images[order[30:50]] / 8 - 1)
    np.testing.assert_array_equal(split.labels, digits.target[order[:30]])
    assert split.ids == [f"digit-{i}" for i in order[:30]]
    np.testing.assert_array_equal(split.unseen, np.delete(digits.images[order], range(30, 50), axis=0)[:, None] / 8 - 1)
    assert split.train.dtype == np.float32 and split.train.min() == -1 and split.train.max() == 1


@pytest.mark.parametrize("sizes", [(1, 30), (30, 1), (1000, 798)])
def test_more_digits_than_there_are(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"together at most 1797, not \d+ and \d+"):
        digits_split(*sizes)


def test_steps_are_a_factor_apart_and_end_with_the_last() -> None:
    steps = checkpoint_steps(1000, 5, 2.0)
    assert steps == (62, 125, 250, 500, 1000)
    assert checkpoint_steps(3, 10) == (1, 2, 3)  # none twice


# ---- training and looking -------------------------------------------------------------------------------------------


def test_checkpoints_are_of_the_network_in_training(result: Run) -> None:
    split = digits_split(24, 60, seed=1)
    assert [c.step for c in result.checkpoints] == [8, 10, 12]
    for c in result.checkpoints:
        assert c.cube.layers == LAYERS and c.cube.sigmas.tolist() == list(SIGMAS) and c.cube.shape == (60, 4, 3)
        assert c.cube.step == c.step and c.cube.image_ids.tolist() == split.ids
        np.testing.assert_array_equal(c.cube.labels, split.labels)
        assert c.cube.attrs["noise"]["trained_range"] and c.cube.attrs["seed"] == 1
        for name in ("held_out_loss", "training_loss", "nearest_ratio", "near_copies"):
            assert c.cube.attrs[name] == getattr(c, name)
    first, _, last = result.checkpoints
    assert last.held_out_loss < first.held_out_loss and last.training_loss < first.training_loss
    assert not np.allclose(first.cube["mid"], last.cube["mid"], atol=1e-3)
    assert first.cube.attrs["weights_sha256"] != last.cube.attrs["weights_sha256"]


def test_copies_are_counted_against_training_and_unseen_images(result: Run) -> None:
    split, c = digits_split(24, 60, seed=1), result.checkpoints[-1]
    rows, train = c.generated.reshape(10, -1), split.train.reshape(24, -1)

    def nearest(x: np.ndarray) -> np.ndarray:
        return np.sort(np.linalg.norm(x[:, None].astype(float) - train, axis=2), axis=1)

    distance = nearest(rows)
    np.testing.assert_allclose(c.ratio, distance[:, 0] / distance[:, 1], rtol=1e-5)
    assert c.nearest_ratio == (c.ratio < 1 / 3).mean() == ik.nearest_ratio(rows, train)
    limit = np.quantile(nearest(split.unseen.reshape(len(split.unseen), -1))[:, 0], 0.01)
    np.testing.assert_array_equal(c.near, distance[:, 0] < limit)
    assert c.near_copies == c.near.mean()
    np.testing.assert_allclose(np.linalg.norm(rows - train[c.nearest], axis=1), distance[:, 0], rtol=1e-5)


def test_training_images_are_copies_of_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    split = digits_split(24, 60, seed=1)
    monkeypatch.setattr(
        "icrkit_extractors.models.denoiser.sample", lambda net, n, **options: np.repeat(split.train[:5], 2, axis=0)[:n]
    )
    (c,) = train_digits(split, [1], n_views=2, n_generated=8, progress=False)
    assert c.nearest_ratio == c.near_copies == 1.0 and c.nearest.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_near_copies_are_as_many_as_the_limit_says_of_unseen_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the distance that one unseen digit of a hundred keeps below: of them all, just so many do."""
    split = digits_split(24, 60, seed=2)
    unseen, train = split.unseen.reshape(-1, 64).astype(float), split.train.reshape(-1, 64).astype(float)
    distance = np.sqrt(np.square(unseen[:, None] - train).sum(axis=2)).min(axis=1)
    nearest = np.argsort(distance)[: int(0.01 * len(unseen)) + 1]
    monkeypatch.setattr("icrkit_extractors.models.denoiser.sample", lambda net, n, **options: split.unseen[:n])
    (c,) = train_digits(split, [1], n_views=2, n_generated=len(unseen), progress=False)
    assert set(np.flatnonzero(c.near)) == set(nearest)
    assert c.near_copies == len(nearest) / len(unseen) == 18 / 1773


def test_looking_does_not_disturb_the_training_and_the_seed_decides_it(result: Run) -> None:
    options: dict[str, Any] = {"n_views": 2, "n_generated": 10, "progress": False}
    split, last = digits_split(24, 60, seed=1), result.checkpoints[-1]
    (alone,) = train_digits(split, [12], seed=1, **options)
    np.testing.assert_array_equal(alone.generated, last.generated)
    assert alone.cube.attrs["weights_sha256"] == last.cube.attrs["weights_sha256"]
    np.testing.assert_array_equal(alone.cube["mid"][:, :2], last.cube["mid"][:, :2])
    (other,) = train_digits(split, [12], seed=2, **options)
    assert other.cube.attrs["weights_sha256"] != alone.cube.attrs["weights_sha256"]


# ---- what is written and shown --------------------------------------------------------------------------------------


def test_files_and_numbers_agree(result: Run) -> None:
    assert {name: path.name for name, path in result.files.items()} == {
        "figure": "course.png", "samples": "samples.png", "report": "report.html", "result": "result.json",
    }  # fmt: skip
    read = json.loads(result.files["result"].read_text("utf-8"))
    assert (read["layer"], read["sigma"], read["n_images"], read["n_views"]) == (CALLED_LAYER, CALLED_SIGMA, 60, 4)
    cubes = [c.cube.select(layer=CALLED_LAYER, sigma=CALLED_SIGMA) for c in result.checkpoints]
    fitted = TrainingCourse().fit(cubes)
    curve = fitted.curve_["information"].to_numpy().ravel()
    (level,) = (x for x in read["levels"] if x["layer"] == CALLED_LAYER and x["sigma"] == CALLED_SIGMA)
    np.testing.assert_allclose([row["information"] for row in level["steps"]], curve)
    assert read["best_step"] == fitted.best_step_ and len(read["levels"]) == 6
    for name, column in (
        ("held-out loss", "held_out_loss"),
        ("near copies", "near_copies"),
        ("copies", "nearest_ratio"),
    ):
        assert read["series"][name]["values"] == [getattr(c, column) for c in result.checkpoints]
    assert read["series"]["copies"]["threshold"] == 0.05
    for name in ("figure", "samples"):
        assert result.files[name].read_bytes()[:4] == b"\x89PNG"
    page = result.files["report"].read_text("utf-8")
    assert result.course.headline in page and "near copies" in page
    assert page.count('alt="nearest training image"') == 3 * 8


def test_what_is_shown_on_the_way_is_what_the_monitor_says(result: Run) -> None:
    values = result.course.curve["information"].sel(layer=CALLED_LAYER, sigma=CALLED_SIGMA).to_numpy()
    for c, value in zip(result.checkpoints, values, strict=True):
        assert f"loss {c.training_loss:.3f}, information {value:.2f}" in result.shown
    assert "12/12" in result.shown


def turned(result: Run, falling: bool) -> Course:
    """A course of the same steps that turns at the last, or rises."""
    icr = [0.6, 0.3, 0.7] if falling else [0.7, 0.5, 0.3]
    cubes = {c.step: ik.datasets.make_cube(300, 4, icr=x) for c, x in zip(result.checkpoints, icr, strict=True)}
    return Course.of(list(cubes.items())).with_series(Series("x", list(cubes), [1.0, 2.0, 3.0]))


def test_a_call_to_stop_is_shown_when_it_is_made(result: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cubes = []
    for c, icr in zip(result.checkpoints, (0.6, 0.3, 0.7), strict=True):
        h = ik.datasets.make_cube(300, 4, icr=icr)["features"].to_numpy()
        layers = {CALLED_LAYER: h, "mid": h[..., :3]}
        cubes.append(ik.from_arrays(layers, sigmas=[CALLED_SIGMA], attrs={"step": c.step}))
    said: list[str] = []

    def train(split: Any, steps: Any, *, report: Any, **options: Any) -> list[Any]:
        checkpoints = [dataclasses.replace(c, cube=cube) for c, cube in zip(result.checkpoints, cubes, strict=True)]
        said.extend(report(c) for c in checkpoints)
        return checkpoints

    monkeypatch.setattr(demo_training, "train_digits", train)
    found = run_training_demo(tmp_path, **SMALL)
    assert found.course.course.turned_at_ == 12 and found.course.course.best_step_ == 10
    assert "stop" not in said[0] + said[1] and said[2].endswith("past its best at step 10: stop")


@pytest.mark.parametrize("falling", [True, False])
def test_samples_are_of_the_best_step_the_call_and_the_end(result: Run, falling: bool) -> None:
    split = digits_split(24, 60, seed=1)
    found = demo_training._samples(split, result.checkpoints, turned(result, falling))
    assert list(found.steps) == [8, 10, 12]
    order = np.argsort(result.checkpoints[-1].ratio)[:8]
    np.testing.assert_allclose(
        found.generated[2] / 127.5 - 1, np.clip(result.checkpoints[2].generated[order], -1, 1), atol=0.005
    )
    np.testing.assert_allclose(
        found.nearest[0] / 127.5 - 1, split.train[result.checkpoints[0].nearest[order]], atol=0.005
    )
    np.testing.assert_array_equal(found.copied[1], result.checkpoints[1].near[order])


def test_missing_packages_are_named_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo_training, "find_spec", lambda name: None if name == "torch" else True)
    with pytest.raises(MissingDependencyError, match=r'needs torch: pip install "icrkit\[demo,torch\]"'):
        run_training_demo(tmp_path / "out")
    with pytest.raises(ValueError, match="at most 1797"):
        monkeypatch.undo()
        run_training_demo(tmp_path / "out", n_images=1700)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sizes", [{"n_steps": 0}, {"n_steps": -3}, {"n_checkpoints": 2}, {"n_steps": 2}])
def test_too_few_checkpoints_are_refused_before_any_work(
    sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*given: Any, **options: Any) -> None:
        raise AssertionError("a network was trained")

    monkeypatch.setattr(demo_training, "train_digits", never)
    with pytest.raises(ValueError, match=r"a course needs three checkpoints: .* more n_steps or n_checkpoints"):
        run_training_demo(tmp_path / "out", **SMALL | sizes)
    assert not (tmp_path / "out").exists()


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_hands_over(result: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def run(out: str, **options: Any) -> TrainingDemoResult:
        seen.update(out=out, **options)
        return result

    monkeypatch.setattr(demo_training, "run_training_demo", run)
    shown = CliRunner().invoke(main, ["demo", "--train", "--out", str(tmp_path), "--quiet"])
    assert shown.exit_code == 0 and seen == {"out": str(tmp_path), "progress": False}
    for words in (result.course.to_text(), result.course.headline, *result.course.sentences, *result.notes):
        assert words in shown.stdout
    assert f"samples {result.files['samples']}" in shown.stdout
    read = CliRunner().invoke(main, ["demo", "--train", "--json"])
    assert json.loads(read.stdout)["best_step"] == result.course.course.best_step_
    assert seen == {"out": "icrkit-demo-train", "progress": True}


def test_an_interrupted_training_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*given: Any, **options: Any) -> SimpleNamespace:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_training, "run_training_demo", run)
    shown = CliRunner().invoke(main, ["demo", "--train"])
    assert shown.exit_code == 130 and shown.stderr.strip() == "icrkit: interrupted"
