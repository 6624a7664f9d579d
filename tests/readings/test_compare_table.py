"""The table of all metrics over twelve levels in docs/metrics.md holds what `compare` gives on the cube that ships."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

import icrkit as ik
from icrkit.metrics import known_metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
NAMES = [name for name, metric in known_metrics().items() if not metric.two_sets]
# The one that takes longest; its classifier is that of the few labels.
FAST = [name for name in NAMES if name != "linear_probe"]


class Page(NamedTuple):
    """What the page prints: levels, which of them are trained, and by metric its numbers and its two correlations."""

    sigmas: list[float]
    trained: list[bool]
    numbers: dict[str, list[float]]
    correlations: dict[str, list[float]]


@pytest.fixture(scope="module")
def page() -> Page:
    section = PAGE.read_text(encoding="utf-8").split("## All metrics over twelve levels\n", 1)[1]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    levels = head[1:13]
    cells = {re.fullmatch(r"`(\w+)`", name)[1]: values for name, *values in rows}
    return Page(
        [float(level.strip("()")) for level in levels],
        ["(" not in level for level in levels],
        {name: [float(cell) for cell in values[:12]] for name, values in cells.items()},
        {name: [float(cell) for cell in values[12:]] for name, values in cells.items() if all(values)},
    )


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    with pytest.warns(UserWarning, match="alpha_req of"):  # fewer eigenvalues than its ranks
        return ik.compare(ik.datasets.load_fashion_cube(), FAST)


def test_every_metric_of_one_set_at_every_level(page, table):
    assert set(page.numbers) == set(NAMES)
    assert set(page.correlations) == set(NAMES) - {"few_label_probe"}
    assert page.sigmas == pytest.approx(table["sigma"].tolist(), rel=1e-6)
    assert page.trained == table["trained"].tolist()


@pytest.mark.parametrize("name", FAST)
def test_numbers_are_those_of_compare_to_three_digits(page, table, name):
    values = table[name].to_numpy()
    half_a_digit = 0.5 * 10.0 ** (np.floor(np.log10(np.abs(values))) - 2)
    assert (np.abs(values - page.numbers[name]) < 1.05 * half_a_digit).all()


def test_correlations_are_those_of_the_trained_levels_and_of_all(page, table):
    for k, rows in enumerate((table[table["trained"].astype(bool)], table)):
        rho = ik.rank_correlation(rows, "few_label_probe", n_resamples=9)["rho"]
        printed = {name: values[k] for name, values in page.correlations.items() if name in FAST}
        assert printed == pytest.approx(rho.to_dict(), abs=0.0051)
