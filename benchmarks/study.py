"""What the simulation studies share: their cells are run one after the other or side by side, into one table."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

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
