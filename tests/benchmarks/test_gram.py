"""The benchmark of the Gram matrix, tiny: the number written by hand is the plug-in's."""

from __future__ import annotations

import csv

import pytest
from click.testing import CliRunner


def test_it_runs_and_its_contenders_agree(benchmark, tmp_path, monkeypatch):
    in_a_process = benchmark.run

    def run(what, path, threads):
        return in_a_process(what, path, threads) if what == "icrkit crossfit" else benchmark.measure(what, path)

    monkeypatch.setattr(benchmark, "run", run)
    out = tmp_path / "gram.csv"
    options = ["--dir", str(tmp_path), "--images", "60", "--features", "500", "--threads", "1", "--out", str(out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0
    rows = {row["what"]: row for row in csv.DictReader(out.read_text().splitlines())}
    assert len(rows) == 5 and rows["limit"]["icr"] == ""
    by_hand, ours = (float(rows[what]["icr"]) for what in ("all components by SVD", "icrkit plug-in"))
    assert by_hand == pytest.approx(ours, abs=1e-4)
    assert float(rows["icrkit crossfit"]["icr"]) == pytest.approx(1.1 / 2.1, abs=0.06)
    assert [path.name for path in tmp_path.iterdir()] == ["gram.csv"]


def test_the_committed_numbers_hold_what_is_promised(committed):
    rows = {row["what"]: row for row in committed}
    ours = rows["icrkit crossfit"]
    assert (ours["N"], ours["d"], ours["threads"]) == ("2000", "16384", "2")
    assert float(ours["seconds"]) < 60 and int(ours["peak_mb"]) < 2000
    assert float(rows["icrkit plug-in"]["icr"]) == pytest.approx(float(rows["all components by SVD"]["icr"]), rel=1e-3)
