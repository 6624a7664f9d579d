"""Whether the number of images that a pilot asks for gives the half-width that was asked of it.

    python benchmarks/sample_size.py

writes ``benchmarks/results/sample_size.csv``: for each residual law, true ICR, criterion and size of the pilot, and for
each number of views, the median over pilots of the number of images asked for, its 10th and 90th percentile, and the
half-width that so many images give, relative to the wanted one (root mean square over fresh draws).
"""

from __future__ import annotations

import itertools
from pathlib import Path

import click
import numpy as np
from study import cell_options, run_cells

import icrkit as ik
from icrkit.readings._reading import read_features
from icrkit.readings._sample_size import sample_size

RESULTS = Path(__file__).parent / "results" / "sample_size.csv"
N_FEATURES = 16
WANTED = {"icr": 0.02, "information": 0.4}
VIEWS = (2, 4, 8)  # the pilot has the first

# residual law, true ICR, criterion, the pilot's images per feature
Cell = tuple[str, float, str, int]
CELLS: list[Cell] = [*itertools.product(("gaussian", "heavy"), (0.2, 0.5, 0.9), ("icr", "information"), (4, 8, 32))]


def asked_for(cell: Cell, seed: int) -> list[int]:
    """Images that one pilot asks for, by number of views."""
    law, icr, criterion, ratio = cell
    pilot = ik.datasets.make_cube(ratio * N_FEATURES, N_FEATURES, icr=icr, residual=law, random_state=seed)
    found = sample_size(pilot, WANTED[criterion], criterion=criterion, views=VIEWS)
    return [found.by_views[v] for v in VIEWS]


def reached(cell: Cell, n_images: int, n_views: int, seed: int) -> float:
    """Half-width that so many images give, relative to the wanted one."""
    law, icr, criterion, _ = cell
    cube = ik.datasets.make_cube(
        n_images, N_FEATURES, n_views=n_views, icr=icr, residual=law, random_state=1_000_000 + seed
    )
    (found,) = read_features(cube, (criterion,))[1]
    return (found.high - found.low) / 2 / WANTED[criterion]


def run_cell(cell: Cell, repeats: int) -> list[dict[str, object]]:
    """Rows of the table, one a number of views."""
    asked = np.array([asked_for(cell, seed) for seed in range(repeats)])
    rows = []
    for v, numbers in zip(VIEWS, asked.T, strict=True):
        n = int(np.median(numbers))
        squares = np.square([reached(cell, n, v, seed) for seed in range(repeats)])
        ratio = np.sqrt(squares.mean())
        rows.append(
            dict(zip(("residual", "true_icr", "criterion", "pilot_images_per_feature"), cell, strict=True))
            | {
                "views": v,
                "images": n,
                "images_low": int(np.percentile(numbers, 10)),
                "images_high": int(np.percentile(numbers, 90)),
                "reached_to_wanted": round(ratio, 3),
                "error": round(squares.std(ddof=1) / np.sqrt(repeats) / (2 * ratio), 3),
                "repeats": repeats,
            }
        )
    return rows


@click.command()
@cell_options(len(CELLS), 60, 1, RESULTS)
def main(repeats: int, jobs: int, cells: int, out: Path) -> None:
    """Run every cell; ten minutes on one core."""
    click.echo(table(run_cells(run_cell, ((cell, repeats) for cell in CELLS[:cells]), jobs, out)))


def table(rows: list[dict[str, object]]) -> str:
    """Images asked for, in brackets the 10th and 90th percentile, and reached to wanted, a line a cell."""
    head = ["residual", "ICR", "criterion", "pilot N/d", *(f"V = {v}" for v in VIEWS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for start in range(0, len(rows), len(VIEWS)):
        group = rows[start : start + len(VIEWS)]
        cell = [str(group[0][name]) for name in ("residual", "true_icr", "criterion", "pilot_images_per_feature")]
        cell += [
            f"{row['images']} ({row['images_low']} to {row['images_high']}), {float(row['reached_to_wanted']):.2f}"
            for row in group
        ]
        lines.append("| " + " | ".join(cell) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
