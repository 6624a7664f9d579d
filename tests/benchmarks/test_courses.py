"""The study of training courses: a tiny run of all of it, and what its committed table says."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")


def test_images_that_train_are_not_those_held_out(benchmark):
    for n in (128, 1297):
        training, held_out = benchmark.images_of(benchmark.Course("digits", n, 600, 32, 3), "")
        assert training.shape == (n, 1, 8, 8) and len(held_out) == 500 and -1 <= training.min() < training.max() <= 1
        places = {image.tobytes() for image in held_out}
        assert not any(image.tobytes() in places for image in training)
    other, _ = benchmark.images_of(benchmark.Course("digits", 128, 600, 32, 4), "")
    assert not np.array_equal(training[:128], other)


def test_the_study_runs(benchmark, tmp_path, monkeypatch):
    course = benchmark.Course("digits", 60, 12, 8, 0)
    for name, value in {"COURSES": (course,), "N_CHECKPOINTS": 4, "N_HELD_OUT": 200, "N_SAMPLES": 8}.items():
        monkeypatch.setattr(benchmark, name, value)
    threads = torch.get_num_threads()
    try:
        for command in (["train"], ["measure"], ["read", "--results", str(tmp_path)]):
            options = [*command, "--out", str(tmp_path / "courses")]
            result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
            assert result.exit_code == 0
    finally:
        torch.set_num_threads(threads)
    assert "| digits 60, width 8, 12 steps | 1 | mid | 0.1 |" in result.output
    rows, curves = (
        list(csv.DictReader((tmp_path / f).read_text().splitlines())) for f in ("courses.csv", "courses_curves.csv")
    )
    assert len(rows) == 2 * 3 and len(curves) == len(rows) * len(course.steps) == 24
    for k, row in enumerate(rows):
        curve = curves[4 * k : 4 * k + 4]
        for name, best, lowest in (
            ("loss_heldout", "loss_best", 1),
            ("icr", "icr_best", 1),
            ("information", "information_best", -1),
        ):
            assert row[best] == min(curve, key=lambda point: lowest * float(point[name]))["step"], name
        steps = [point["step"] for point in curve]
        assert int(row["icr_apart"]) == steps.index(row["icr_best"]) - steps.index(row["loss_best"])
        assert row["copies_from"] == next((point["step"] for point in curve if float(point["copies"]) > 0.05), "")
