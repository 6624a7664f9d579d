"""What the simulation studies share: the options of their commands, and cells that are run into one table."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from joblib import Parallel, delayed

Row = dict[str, object]
Cell = TypeVar("Cell")


def run_cells(
    run_cell: Callable[[Cell, int], Sequence[Row]], cells: Iterable[tuple[Cell, int]], jobs: int, out: Path
) -> list[Row]:
    """Rows of all cells, each with its number of repeats; the file has those that are done."""
    tasks = list(cells)
    rows: list[Row] = []
    work = Parallel(n_jobs=jobs, return_as="generator")(delayed(run_cell)(cell, repeats) for cell, repeats in tasks)
    with click.progressbar(work, length=len(tasks)) as results:
        for found in results:
            rows += found
            with out.open("w", newline="") as file:
                writer = csv.DictWriter(file, found[0], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    return rows


def cell_options(
    n_cells: int, repeats: int, jobs: int, out: Path
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options ``--repeats``, ``--jobs``, ``--cells`` and ``--out`` of a study, with these defaults."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--out", type=click.Path(path_type=Path), default=out, show_default=False),
            click.option("--cells", default=n_cells, show_default=True, help="Only the first so many."),
            click.option("--jobs", default=jobs, show_default=True),
            click.option("--repeats", default=repeats, show_default=True),
        ):
            command = option(command)
        return command

    return decorate


def least_to_most(rows: Iterable[Row], name: str) -> str:
    """Least and most of a share of the rows, in per cent, as ``94 to 96``."""
    shares = [round(100 * float(str(row[name])) + 1e-9) for row in rows]
    least, most = min(shares), max(shares)
    return f"{least} to {most}" if least != most else str(most)
