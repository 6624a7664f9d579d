"""Tables of metrics in a terminal."""

from __future__ import annotations

import numpy as np
import pandas as pd

from icrkit.cli._table import records, say_ranks, say_table


def frame(**columns: object) -> pd.DataFrame:
    """Two rows of one layer."""
    table = pd.DataFrame(
        {
            "cube": "a", "layer": "mid", "sigma": [0.1, 0.2], "step": pd.array([3, 3], "Int64"),
            "trained": pd.array([True, None], "boolean"), "n_images": 9, "n_views": 2, "n_features": 4, **columns,
        }
    )  # fmt: skip
    table.attrs["greater_is_better"] = dict.fromkeys(columns, True)
    return table


def test_numbers_are_as_wide_as_they_need_and_what_is_missing_is_a_dash(capsys):
    say_table(frame(rank=[-123456.7, np.nan], large=[9.9e9, np.inf], share=[0.12345, 12.34]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a, step 3, layer mid (4 features), 9 images x 2 views"
    assert lines[1].split() == ["sigma", "0.1", "0.2"]
    assert lines[2].split() == ["rank", "↑", "-123457", "-"]
    assert lines[3].split() == ["large", "↑", "9.9e+09", "inf"]
    assert lines[4].split() == ["share", "↑", "0.123", "12.34"]


def test_records_keep_every_digit_and_have_none_for_what_is_missing():
    rows = records(frame(rank=[1 / 3, np.nan]))
    assert [row["rank"] for row in rows] == [1 / 3, None]
    assert [row["trained"] for row in rows] == [True, None] and rows[0]["step"] == 3


def test_ranks(capsys):
    ranks = pd.DataFrame({"rho": [0.5], "low": [np.nan], "high": [np.nan], "p": [0.03], "n": [7]}, index=["icr"])
    say_ranks(ranks, "accuracy")
    assert capsys.readouterr().out.splitlines()[-1].split() == ["icr", "0.500", "0.03", "7"]
