"""Tables of metrics in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from icrkit._text import at_sigma
from icrkit.cli._echo import say

__all__ = ["records", "say_ranks", "say_table", "say_tests"]

_MOST_COLUMNS = 12


def say_table(table: Any, joined: Mapping[str, bool | None] | None = None) -> None:
    """Metrics down, levels across, a block for each layer of each cube; columns of a file, with their direction, below.

    A column that nobody ranks by has no direction.
    """
    directions = table.attrs["greater_is_better"] | (joined or {})
    width = max(20, *map(len, directions))
    for (name, layer), rows in table.groupby(["cube", "layer"], sort=False):
        first = rows.iloc[0]
        step = "" if rows["step"].isna().all() else f", step {first['step']}"
        size = f"{first['n_features']} features), {first['n_images']} images x {first['n_views']} views"
        say(f"{name}{step}, layer {layer} ({size}")
        outside = ~rows["trained"].fillna(True).to_numpy(dtype=bool)
        for start in range(0, len(rows), _MOST_COLUMNS):
            part = rows.iloc[start : start + _MOST_COLUMNS]
            levels = [
                "-" if math.isnan(s) else f"({s:.3g})" if out else f"{s:.3g}"
                for s, out in zip(part["sigma"], outside[start:], strict=False)
            ]
            say(f"  {'sigma':<{width + 1}}" + "".join(f"{level:>8}" for level in levels))
            for metric, greater in directions.items():
                cells = "".join(f"{_cell(value):>8}" for value in part[metric])
                spread = _spread(part.iloc[0], metric) if len(rows) == 1 else ""
                arrow = " " if greater is None else "↑" if greater else "↓"
                say(f"  {metric:<{width}}{arrow}{cells}{spread}")
        say()
    words = "↑ greater is better   ↓ lower is better"
    if not table["trained"].fillna(True).all():
        words += "   ( ) outside the noise that the network was trained on"
    say(words)


def _cell(value: float) -> str:
    if value != value:
        return "-"
    if abs(value) < 1000:
        return f"{value:.3f}" if abs(value) < 10 else f"{value:#.4g}"
    return f"{value:.0f}" if abs(value) < 1e6 else f"{value:.1e}"  # narrower than its column: numbers never touch


def _spread(row: Any, metric: str) -> str:
    """Interval or standard error, in words."""
    low, high, error = (row.get(f"{metric}_{end}") for end in ("low", "high", "error"))
    if low is not None and low == low:
        return f"   {_cell(low)} - {_cell(high)}"
    return f"   +- {_cell(error)}" if error is not None and error == error else ""


def say_tests(table: Any) -> None:
    """Differences in ICR between cubes at one layer and level."""
    tests = table.attrs["paired_tests"]
    shown = [test for test in tests if test["varies"] == "cube"]
    if not shown:
        return
    say()
    say(f"ICR of the second cube less that of the first, same images (p by Holm over {len(tests)} tests)")
    for test in shown[:_MOST_TESTS]:
        a, b = table.iloc[test["a"]], table.iloc[test["b"]]
        say(
            f"  {a['cube']} -> {b['cube']}, {a['layer']}{at_sigma(a['sigma'])}: {test['difference']:+.4f}   "
            f"p = {test['p_adjusted']:.2g}"
        )
    if len(shown) > _MOST_TESTS:
        say(f"  and {len(shown) - _MOST_TESTS} more, with --json")


_MOST_TESTS = 24


def say_ranks(ranks: Any, column: str | None) -> None:
    """Rank correlation of each metric with a column."""
    everywhere = "rho_all" in ranks
    say()
    say(f"rank correlation with {column} (1: orders the levels as it does)")
    say(f"  {'':<21}     rho       p    n" + "   all levels" * everywhere)
    for metric, row in ranks.iterrows():
        interval = "" if row["low"] != row["low"] else f"   {row['low']:.2f} - {row['high']:.2f}"
        line = f"  {metric:<21}{_cell(row['rho']):>8}{row['p']:>8.2g}{int(row['n']):>5}"
        say(line + (f"{_cell(row['rho_all']):>13}" if everywhere else "") + interval)


def records(frame: Any) -> Any:
    """A dict for each row, with None for what is missing."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
