"""Bias and interval coverage of the cross-fitted ICR, against cubes whose truth is known.

    python benchmarks/coverage.py

writes ``benchmarks/results/coverage.csv``: for each residual law, images per feature, number of views and true ICR, the
mean of the cross-fitted and the plug-in estimate and the coverage of the nominal 95 % interval, each with its
Monte-Carlo error. Cells that the file holds already, from as many repeats, are kept. In "classes" residuals are
Gaussian and half of the invariant variance lies between eight classes. "half", a residual law that is not elliptical,
stands beside those for which the estimate is right.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from joblib import Parallel, delayed
from study import cell_options

import icrkit as ik
from icrkit.metrics._crossfit import crossfit
from icrkit.metrics._decomposition import ResidualModel
from icrkit.metrics._icr import plug_in_snr

RESULTS = Path(__file__).parent / "results" / "coverage.csv"
N_FEATURES = 32
N_CLASSES = 8
LAWS = ("gaussian", "heavy", "classes", "half")
RATIOS = (1.5, 2, 4, 8, 16)
TRUTHS = (0.05, 0.2, 0.5, 0.8, 0.95, 0.99)
VIEWS = (2, 4, 8)

# residual law, images per feature, true ICR, views
Cell = tuple[str, float, float, int]
CELLS: list[Cell] = [
    cell
    for cell in itertools.product(LAWS, RATIOS, TRUTHS, VIEWS)
    # Where the estimate is known to be off, four views at some of the cells say enough.
    if cell[0] != "half" or cell[3] == 2 or (cell[3] == 4 and cell[1] in (2, 4) and cell[2] in (0.05, 0.5, 0.99))
]
COLUMNS = (
    "residual", "images_per_feature", "views", "true_icr", "crossfit_mean", "crossfit_error", "plugin_mean", "coverage",
    "coverage_error", "repeats",
)  # fmt: skip


def one_repeat(law: str, ratio: float, truth: float, n_views: int, seed: int) -> tuple[float, float, bool]:
    """Cross-fitted ICR, plug-in ICR, and whether the interval covers the truth, on one cube."""
    n_images = round(ratio * N_FEATURES)
    residual, n_classes = ("gaussian", N_CLASSES) if law == "classes" else (law, None)
    cube = ik.datasets.make_cube(
        n_images, N_FEATURES, n_views=n_views, icr=truth, residual=residual, n_classes=n_classes, random_state=seed
    )
    moments = ik.Moments.from_cube(cube, n_folds=10)
    result = crossfit(moments)
    low, high = result.interval(0.95)
    plugin = 1 / (1 + plug_in_snr(ResidualModel(moments.total), moments.total))
    return result.icr, plugin, low <= truth <= high


def run_cell(law: str, ratio: float, truth: float, n_views: int, repeats: int) -> dict[str, object]:
    """One row of the table."""
    runs = np.array([one_repeat(law, ratio, truth, n_views, seed) for seed in range(repeats)])
    icr, plugin, covered = runs.T
    return {
        "residual": law,
        "images_per_feature": ratio,
        "views": n_views,
        "true_icr": truth,
        "crossfit_mean": round(icr.mean(), 4),
        "crossfit_error": round(icr.std(ddof=1) / np.sqrt(repeats), 4),
        "plugin_mean": round(plugin.mean(), 4),
        "coverage": round(covered.mean(), 4),
        "coverage_error": round(np.sqrt(covered.mean() * (1 - covered.mean()) / repeats), 4),
        "repeats": repeats,
    }


def cell_of(row: dict[str, object]) -> Cell:
    """Which cell a row of the file is of."""
    return (
        str(row["residual"]), float(str(row["images_per_feature"])), float(str(row["true_icr"])), int(str(row["views"]))
    )  # fmt: skip


def stored(path: Path, repeats: int) -> dict[Cell, dict[str, object]]:
    """Rows of the file from so many repeats or more."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows: list[dict[str, object]] = list(csv.DictReader(file))
    return {cell_of(row): row for row in rows if int(str(row["repeats"])) >= repeats}


def write(path: Path, rows: dict[Cell, dict[str, object]]) -> None:
    """All rows in the study's order; at no time is the file half written."""
    beside = path.with_suffix(".part")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows[cell] for cell in CELLS if cell in rows)
    os.replace(beside, path)


@click.command()
@cell_options(len(CELLS), 1000, 2, RESULTS)
def main(repeats: int, jobs: int, cells: int, out: Path) -> None:
    """Run every cell that is not in the file; all of them take about an hour of one core."""
    wanted = CELLS[:cells]
    rows = stored(out, repeats)
    missing = [cell for cell in wanted if cell not in rows]
    tasks = (delayed(run_cell)(*cell, repeats) for cell in missing)
    with click.progressbar(Parallel(n_jobs=jobs, return_as="generator")(tasks), length=len(missing)) as results:
        for cell, row in zip(missing, results, strict=True):
            rows[cell] = row
            write(out, rows)
    click.echo(summary([rows[cell] for cell in wanted]))


def summary(rows: Sequence[dict[str, object]]) -> str:
    """Coverage and worst bias over the true ICRs, by residual law, images per feature and views."""
    lines = ["residual  N/d    V    coverage (least, most)   largest |bias| crossfit   plug-in"]
    for law, ratio, n_views in itertools.product(LAWS, RATIOS, VIEWS):
        group = [row for row in rows if (cell_of(row)[:2], cell_of(row)[3]) == ((law, ratio), n_views)]
        if not group:
            continue
        coverage = [float(str(row["coverage"])) for row in group]
        bias, plugin = (
            max(abs(float(str(row[name])) - float(str(row["true_icr"]))) for row in group)
            for name in ("crossfit_mean", "plugin_mean")
        )
        lines.append(
            f"{law:9} {ratio:<6} {n_views:<4} {min(coverage):.3f}  {max(coverage):.3f}{bias:22.4f}{plugin:18.4f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
