"""The script that makes the shipped course, run tiny: what it packs and its table come from one training."""

from __future__ import annotations

import csv

import numpy as np
from click.testing import CliRunner

import icrkit as ik
from icrkit.demo_training import CALLED_LAYER
from icrkit.readings._course import TrainingCourse


def test_runs_tiny(benchmark, tmp_path):
    table, out = tmp_path / "table.csv", tmp_path / "course"
    options = {
        "seeds": 1, "steps": 10, "checkpoints": 3, "held-out": 50, "shipped-images": 44, "generated": 4, "views": 4,
        "results": table, "out": out,
    }  # fmt: skip
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    result = CliRunner().invoke(benchmark.main, given, catch_exceptions=False)
    assert result.exit_code == 0 and "seed 0, 44 images: loss lowest 10" in result.stdout
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 3 * (6 + 1)  # checkpoints; layers and levels, and the one that ships
    cubes = [ik.open_cube(path) for path in sorted(out.iterdir())]
    assert [path.name for path in sorted(out.iterdir())] == [f"step-{step:08d}.h5" for step in (6, 8, 10)]
    assert all(cube.shape == (44, 4, 1, 32) and cube.attrs["layers"] == [CALLED_LAYER] for cube in cubes)
    curve = TrainingCourse().fit(cubes).curve_["information"].to_numpy().ravel()
    mine = [float(row["information"]) for row in rows if row["n_images"] == "44"]
    np.testing.assert_allclose(curve, mine, atol=6e-5)


def test_all_five_seeds_are_in_the_table(benchmark):
    rows = list(csv.DictReader(benchmark.RESULTS.read_text().splitlines()))
    counted = {(row["seed"], row["n_images"], row["layer"], row["sigma"]) for row in rows}
    assert {seed for seed, *_ in counted} == set("01234")
    assert len(counted) == 5 * (6 + 1) and len(rows) == 12 * len(counted)
