"""The benchmark of views, tiny."""

from __future__ import annotations

import csv

from click.testing import CliRunner


def test_the_speed_of_views_is_measured(benchmark, tmp_path):
    out = tmp_path / "views.csv"
    options = ["--images", "6", "--side", "8", "--batch", "4", "--rounds", "2", "--out", str(out)]
    assert CliRunner().invoke(benchmark.main, options, catch_exceptions=False).exit_code == 0
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["view"] for row in rows[:10:2]] == [f"Paper({level})" for level in range(1, 6)]
    assert {row["input"] for row in rows} == {"uint8", "float32"}
    assert all(0 < int(row["images_per_second"]) <= int(row["fastest"]) for row in rows)
