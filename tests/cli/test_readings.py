"""The commands of the readings: sweep by either criterion, and course."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

import icrkit as ik
from icrkit.report import Course

Run = Callable[..., Result]
Check = Callable[..., None]

N = 200


STEPS = (90, 200, 1000, 4000)  # as text they sort otherwise


SNR = (1.0, 3.0, 6.0, 2.0)


def save(path: Path, snr: float, n: int = N, **attrs: Any) -> Path:
    """A cube file of two layers at two levels, under the same draws as every other."""
    rng = np.random.default_rng(0)
    image, rest = rng.standard_normal((N, 1, 1, 4)), rng.standard_normal((N, 2, 2, 4))
    h = (image * np.sqrt(snr) + rest * [[1.0], [1.5]])[:n]
    with ik.CubeWriter(
        path, {"mid": 4, "up": 4}, [0.1, 0.3], n_views=2, n_images=n, attrs={"seed": 7} | attrs
    ) as writer:
        writer.append(np.arange(n), {"mid": h, "up": h + rest[:n]})
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints, named as the extraction names them."""
    folder = tmp_path_factory.mktemp("run")
    for step, snr in zip(STEPS, SNR, strict=True):
        save(folder / f"step-{step:08d}.cube", snr, step=step, loss_heldout=1 / snr)
    return folder


# ---- course ---------------------------------------------------------------------------------------------------------


def test_course_of_a_folder(icrkit: Run, run: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("course.png", "expansion.svg", "course.html")]
    options = zip(("--plot", "--expansion", "--report"), files, strict=True)
    result = icrkit("course", run, "--layer", "mid", "--sigma", 0.3, *(word for pair in options for word in pair))
    assert result.exit_code == 0 and result.stderr == ""
    course = Course.of([ik.open_cube(path) for path in sorted(run.iterdir())], layer="mid", sigma=0.3)
    assert course.course.turned_ and course.course.best_step_ == 1000
    assert result.stdout.splitlines() == [
        *course.to_text().splitlines(), "", course.headline + ".", *course.sentences,
    ]  # fmt: skip
    assert "Loss heldout: lowest at step 1000." in result.stdout
    assert files[0].read_bytes()[:4] == b"\x89PNG" and files[1].read_text("utf-8").startswith("<?xml")
    assert course.headline in files[2].read_text("utf-8")


def test_cubes_are_sorted_by_their_steps(icrkit: Run, run: Path, tmp_path: Path) -> None:
    renamed = [tmp_path / f"{name}.cube" for name in "dbca"]
    for path, link in zip(sorted(run.iterdir()), renamed, strict=True):
        link.symlink_to(path)
    one, other = (icrkit("course", *paths, "--json") for paths in ([run], sorted(renamed)))
    assert one.exit_code == 0 and one.stdout == other.stdout
    read = json.loads(one.stdout)
    assert [row["step"] for row in read["levels"][0]["steps"]] == list(STEPS)
    assert read["criterion"] == "information" and read["best_step"] == 1000


def test_course_by_icr_after_a_warm_up(icrkit: Run, assert_one_line: Check, run: Path) -> None:
    read = json.loads(icrkit("course", run, "--criterion", "icr", "--layer", "up", "--json").stdout)
    assert read["criterion"] == "icr" and read["layer"] == "up" and read["says"][0].startswith("ICR was lowest")
    warm = json.loads(icrkit("course", run, "--warm-up", 200, "--json").stdout)
    assert warm["best_step"] == 1000
    assert_one_line(icrkit("course", run, "--warm-up", 1000), "at least three checkpoints", "from step 1000")


def test_dead_units_are_left_out_on_demand(icrkit: Run, assert_one_line: Check, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image, rest = rng.standard_normal((N, 1, 1, 4)), rng.standard_normal((N, 2, 1, 4))
    for step, snr in zip(STEPS, SNR, strict=True):
        h = image * np.sqrt(snr) + rest
        h[..., 2] = 0
        with ik.CubeWriter(
            tmp_path / f"step-{step:08d}.cube", {"mid": 4}, [0.3], n_views=2, n_images=N, attrs={"step": step}
        ) as writer:
            writer.append(np.arange(N), {"mid": h})
    assert_one_line(icrkit("course", tmp_path), "step 90, layer mid", "[2]", "--drop-constant")
    read = json.loads(icrkit("course", tmp_path, "--drop-constant", "--json").stdout)
    assert read["best_step"] == 1000 and {row["n_features"] for row in read["levels"][0]["steps"]} == {3}


def test_bad_courses_are_one_line(icrkit: Run, assert_one_line: Check, run: Path, tmp_path: Path) -> None:
    first, second, third, _ = sorted(run.iterdir())
    assert_one_line(icrkit("course", first, second), "at least three checkpoints")
    assert_one_line(icrkit("course", run, second), "step 200 occurs twice")
    again = save(tmp_path / "again.cube", 1.0, step=200)
    assert_one_line(icrkit("course", run, again), f"step 200 occurs twice, in {second} and in {again}: leave one")
    assert_one_line(
        icrkit("course", run, save(tmp_path / "new.cube", 1.0)), "new.cube", "does not record its training step"
    )
    fewer = save(tmp_path / "fewer.cube", 1.0, n=150, step=5000)
    assert_one_line(icrkit("course", run, fewer), "step 5000", "other images", "50 are missing")
    reseeded = save(tmp_path / "reseeded.cube", 1.0, step=5000, seed=8)
    assert_one_line(icrkit("course", run, reseeded), "step 5000", "differ in seed")
    assert_one_line(icrkit("course", first, second, third, "--layer", "down"), "no layer 'down'", "mid, up")
    assert_one_line(icrkit("course", run, "--sigma", 0.2), "0.1, 0.3")
    assert_one_line(icrkit("course", tmp_path / "absent"), "absent")
    (tmp_path / "empty").mkdir()
    assert_one_line(icrkit("course", tmp_path / "empty"), "empty holds no checkpoints: expected cubes step-*")
    first.rename(tmp_path / "empty" / "step-1.txt")  # of another kind
    assert_one_line(icrkit("course", tmp_path / "empty"), "holds no checkpoints")


def test_files_are_looked_at_before_the_work(
    icrkit: Run, assert_one_line: Check, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("the course was read")

    monkeypatch.setattr("icrkit.report.Course.of", never)
    for option in ("--plot", "--expansion"):
        result = icrkit("course", run, option, tmp_path / "a.xyz")
        assert result.exit_code == 2 and "a.xyz: expected" in result.stderr
    assert_one_line(icrkit("course", run, "--report", tmp_path / "no" / "a.html"), "there is no such folder")
    assert icrkit("course", run, "--criterion", "loss").exit_code == 2
    assert icrkit("course").exit_code == 2


# ---- sweep ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def disagreeing(tmp_path: Path) -> Path:
    """ICR is lowest at the first level, where one direction is strong, information highest at the second."""
    rng = np.random.default_rng(0)
    snr = np.array([[40, 0, 0, 0], [3, 3, 3, 3], [1, 1, 1, 1]])
    h = rng.standard_normal((N, 1, 1, 4)) * np.sqrt(snr) + rng.standard_normal((N, 2, 3, 4))
    with ik.CubeWriter(tmp_path / "a.cube", {"mid": 4}, [0.1, 1.0, 2.0], n_views=2, n_images=N) as writer:
        writer.append(np.arange(N), {"mid": h})
    return tmp_path / "a.cube"


def test_sweep_by_either_criterion(icrkit: Run, disagreeing: Path, tmp_path: Path) -> None:
    page, figure = tmp_path / "a.html", tmp_path / "a.png"
    result = icrkit("sweep", disagreeing, "--criterion", "information", "--report", page, "--plot", figure)
    assert result.exit_code == 0, result.output
    assert "Layer mid tells most about its images at noise level σ = 1." in result.stdout
    assert "ICR is " in result.stdout and "lowest at σ = 0.1" in result.stdout
    assert "tells most about its images" in page.read_text("utf-8") and figure.read_bytes()[:4] == b"\x89PNG"
    chosen = {
        name: json.loads(icrkit("sweep", disagreeing, "--criterion", name, "--json").stdout)
        for name in ("icr", "information")
    }
    assert {name: read["best_sigma"] for name, read in chosen.items()} == {"icr": 0.1, "information": 1.0}
    levels = {name: read["layers"]["mid"]["levels"] for name, read in chosen.items()}
    assert [row["information"] for row in levels["icr"]] == [row["information"] for row in levels["information"]]
    assert json.loads(icrkit("sweep", disagreeing, "--json").stdout) == chosen["icr"]
    assert icrkit("sweep", disagreeing, "--criterion", "rankme").exit_code == 2


def test_a_sweep_needs_three_levels(icrkit: Run, assert_one_line: Check, run: Path) -> None:
    assert_one_line(icrkit("sweep", next(iter(sorted(run.iterdir())))), "at least 3 noise levels", "0.1, 0.3")


def test_a_layer_that_is_too_wide_is_named_and_the_others_are_read(icrkit: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    h = rng.standard_normal((60, 1, 1, 80)) * np.array([[2.0], [1.0], [0.5]]) + rng.standard_normal((60, 2, 3, 80))
    layers, path = {"mid": 4, "wide": 80}, tmp_path / "a.cube"
    with ik.CubeWriter(path, layers, [0.1, 0.2, 0.4], n_views=2, n_images=60) as writer:
        writer.append(np.arange(60), {"mid": h[..., :4], "wide": h})
    result = icrkit("sweep", path, "--report", tmp_path / "a.html")
    assert result.exit_code == 0, result.output
    assert "Layer wide was not measured. layer wide, sigma 0.1: " in result.stdout
    assert "wide was not measured" in (tmp_path / "a.html").read_text("utf-8")
    read = json.loads(icrkit("sweep", path, "--json").stdout)
    assert list(read["layers"]) == ["mid"] and list(read["refused"]) == ["wide"]
    assert icrkit("sweep", path, "--layer", "wide").exit_code == 1


@pytest.mark.filterwarnings("default:.*unequal size")
def test_images_of_one_size(tmp_path: Path, icrkit: Run) -> None:
    """Where a few images outweigh the rest the way out is named as an option, and the option is one everywhere."""
    rng = np.random.default_rng(0)
    size = np.where(np.arange(N) % 50 == 0, 10.0, 1.0)[:, None, None, None]
    h = rng.standard_normal((N, 1, 1, 4)) + size * [[0.7], [1.0], [1.5]] * rng.standard_normal((N, 2, 3, 4))
    cube = ik.from_arrays({"mid": h}, sigmas=[0.1, 0.3, 1.0])
    path = cube.save(tmp_path / "outliers.h5")
    for command in ("sweep", "score", "compare"):
        chosen = [] if command == "sweep" else ["--metrics", "icr"]
        plain = icrkit(command, str(path), *chosen)
        assert "images are of very unequal size" in plain.stderr and "or take --spatial-sign: all" in plain.stderr
        signs = icrkit(command, str(path), *chosen, "--spatial-sign")
        assert plain.exit_code == signs.exit_code == 0 and "unequal size" not in signs.stderr
        icr = ik.ICREstimator("crossfit").fit(ik.spatial_sign(cube).select(sigma=0.3)).icr_
        assert f"{icr:.3f}" in signs.stdout and f"{icr:.3f}" not in plain.stdout
    assert f"{N} images of one size (spatial signs) x 2 views" in icrkit("sweep", str(path), "--spatial-sign").stdout
    paths = [str(save(tmp_path / f"step-{k}.h5", snr, step=k)) for k, snr in zip(STEPS, SNR, strict=True)]
    assert f"{N} images of one size" in icrkit("course", *paths, "--spatial-sign").stdout
