"""The monitor's cost: a tiny run, and what the committed table says."""

from __future__ import annotations

import csv

from click.testing import CliRunner


def test_it_runs(benchmark, tmp_path, monkeypatch):
    out = tmp_path / "monitor.csv"
    monkeypatch.setattr(benchmark, "CELLS", ((200, 2, 8, 2),))
    options = ["--updates", "3", "--cells", "1", "--looks", "24", "--out", str(out)]
    options += ["--out-looks", str(tmp_path / "looks.csv")]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0 and "images=200" in result.output
    (row,) = csv.DictReader(out.read_text().splitlines())
    looks = [int(row["looks"]) for row in csv.DictReader((tmp_path / "looks.csv").read_text().splitlines())]
    assert looks == [3, 6, 9, 12, 15, 18, 21, 24]
    assert float(row["longest"]) > 0 and int(row["bytes_a_checkpoint"]) < 5000


def test_an_update_costs_less_than_one_percent_of_a_minute(committed):
    rows = {tuple(int(row[n]) for n in ("images", "views", "features", "levels")): row for row in committed}
    row = rows[4096, 2, 256, 1]
    assert row["threads"] == "1" and float(row["longest"]) < 0.6 and float(row["percent_of_a_minute"]) < 1
    # The file does not grow with images or features.
    sizes = [int(row["bytes_a_checkpoint"]) for cell, row in rows.items() if cell[3] == 1]
    assert max(sizes) < 1.1 * min(sizes) < 2000
