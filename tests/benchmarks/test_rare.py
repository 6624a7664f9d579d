"""The study of units that hardly ever fire: a tiny run, and what its committed table says."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from icrkit.metrics import _decomposition


def test_the_study_runs_and_leaves_the_rule_as_it_was(benchmark, tmp_path):
    out, before = tmp_path / "rare.csv", _decomposition._FEWEST_FIRING
    options = ["--repeats", "2", "--cells", "4", "--jobs", "1", "--out", str(out)]
    result = CliRunner().invoke(benchmark.main, options, catch_exceptions=False)
    assert result.exit_code == 0 and "| rectified | 2 |" in result.output
    assert len(out.read_text().splitlines()) == 5 and before == _decomposition._FEWEST_FIRING


@pytest.mark.parametrize(("kind", "firing"), [("rectified", 3), ("signed", 5), ("faint", 2)])
def test_a_unit_fires_in_so_many_images(benchmark, kind, firing):
    h = benchmark.features(np.random.default_rng(0), kind, firing, (300, 4, 2))
    fires = (np.abs(h[..., 4]).max(axis=1) > 100 * benchmark.FAINT).sum()
    assert h.shape == (300, 2, 5)
    assert 0 < fires <= firing if kind == "rectified" else fires == firing  # rectified to zero in some of them


def test_the_committed_study_holds_what_the_documentation_says(benchmark, committed, documented):
    assert len(committed) == len(benchmark.CELLS) and {row["repeats"] for row in committed} == {"40"}
    documented("statistics.md", benchmark.table(committed))
    for row in committed:
        firing, off = int(row["firing"]), max(abs(float(row[f"information_{end}"])) for end in ("least", "most"))
        if row["kind"] == "faint":
            continue  # folds see one image, and not always three, as the documentation says
        if firing <= 8:
            assert float(row["refused"]) >= 0.9
        if firing >= 12:
            assert off < 3
        if firing >= 30:
            assert float(row["refused"]) == 0
