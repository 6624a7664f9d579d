"""Bias of the estimators of invariant information and coverage of their intervals, on cubes whose truth is known.

    python benchmarks/information.py

writes ``benchmarks/results/information.csv``: for each residual law, width, images per feature, number of views, true
ICR and number of folds, and for each method, the mean relative error, its spread, and the coverage of the nominal 95 %
interval, with their Monte-Carlo errors. Cells that the file holds already are kept. Beside the Gaussian and the
heavy-tailed law stand two that the correction was not made for: "half" is not elliptical, and in "classes" half of the
invariant variance lies between eight classes.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from joblib import Parallel, delayed
from study import cell_options

import icrkit as ik
from icrkit.exceptions import IllConditionedError
from icrkit.metrics._information import METHODS, information

RESULTS = Path(__file__).parent / "results" / "information.csv"
N_CLASSES = 8

# residual law, features, images per feature, views, true ICR, folds
Cell = tuple[str, int, float, int, float, int]
ELLIPTICAL = ("gaussian", "heavy")
CELLS: list[Cell] = [
    *itertools.product(ELLIPTICAL, (32,), (1.5, 2, 4, 8, 16), (2, 4), (0.5,), (10,)),
    *itertools.product(ELLIPTICAL, (32,), (1.5, 4), (8,), (0.5,), (10,)),
    *itertools.product(ELLIPTICAL, (32,), (4, 16), (2,), (0.05, 0.9), (10,)),
    *itertools.product(ELLIPTICAL, (16, 64), (4,), (2,), (0.5,), (10,)),
    *itertools.product(ELLIPTICAL, (32,), (2, 4), (2,), (0.5,), (5,)),
    *itertools.product(("half", "classes"), (32,), (1.5, 4, 16), (2,), (0.5,), (10,)),
    *itertools.product(ELLIPTICAL, (32,), (2, 8, 16), (8,), (0.5,), (10,)),
    *itertools.product(("classes",), (32,), (2, 8), (2,), (0.5,), (10,)),
    *itertools.product(("classes",), (32,), (1.5, 2, 4, 8, 16), (4, 8), (0.5,), (10,)),
]


def true_information(law: str, n_features: int, n_images: int, icr: float, seed: int) -> float:
    """1/2 sum log(1 + lambda) of the law that `make_cube` draws from."""
    ratios = np.geomspace(1.0, 0.01, n_features)
    ratios *= (1 / icr - 1) / ratios.mean()
    if law != "classes":
        return float(0.5 * np.log1p(ratios).sum())
    # The class means are part of the law: they are drawn again, after what make_cube draws before them.
    rng = np.random.default_rng(seed)
    rng.standard_normal((n_images, n_features))
    means = rng.standard_normal((N_CLASSES, n_features))
    means = (means - means.mean(axis=0)) / means.std(axis=0)
    scale = np.sqrt(ratios)
    invariant = scale * (0.5 * np.eye(n_features) + 0.5 * means.T @ means / N_CLASSES) * scale[:, None]
    return float(0.5 * np.linalg.slogdet(np.eye(n_features) + invariant)[1])


def make(law: str, n_features: int, n_images: int, n_views: int, icr: float, seed: int) -> ik.Cube:
    """The cube of one repeat."""
    residual, classes = ("gaussian", N_CLASSES) if law == "classes" else (law, None)
    return ik.datasets.make_cube(
        n_images, n_features, n_views=n_views, icr=icr, residual=residual, n_classes=classes, random_state=seed
    )


def one_repeat(cell: Cell, seed: int) -> np.ndarray:
    """Value and half-width relative to the truth, of each method, (n_methods, 2)."""
    law, d, ratio, n_views, icr, n_folds = cell
    n_images = round(ratio * d)
    truth = true_information(law, d, n_images, icr, seed)
    moments = ik.Moments.from_cube(make(law, d, n_images, n_views, icr, seed), n_folds=n_folds)
    found = [information(moments, method) for method in METHODS]
    return np.array([(one.value, one.interval()[1] - one.value) for one in found]) / truth


def all_repeats(cell: Cell) -> Iterator[np.ndarray]:
    """`one_repeat` of one seed after the other."""
    for seed in itertools.count():
        # Of ten thousand matrices that mix the features one is singular to working precision, and the cube refused.
        with contextlib.suppress(IllConditionedError):
            yield one_repeat(cell, seed)


def run_cell(cell: Cell, repeats: int) -> list[dict[str, object]]:
    """Rows of the table, one a method."""
    runs = np.array(list(itertools.islice(all_repeats(cell), repeats)))
    rows = []
    for j, method in enumerate(METHODS):
        value, half_width = runs[:, j].T
        covered = (np.abs(value - 1) <= half_width).mean()
        rows.append(
            dict(zip(("residual", "features", "images_per_feature", "views", "true_icr", "folds"), cell, strict=True))
            | {
                "method": method,
                "bias_percent": round(100 * (value.mean() - 1), 2),
                "bias_error": round(100 * value.std(ddof=1) / np.sqrt(repeats), 2),
                "spread_percent": round(100 * value.std(ddof=1), 2),
                "coverage": round(covered, 4),
                "coverage_error": round(np.sqrt(covered * (1 - covered) / repeats), 4),
                "repeats": repeats,
            }
        )
    return rows


def stored(path: Path) -> dict[Cell, list[dict[str, object]]]:
    """Rows of the file by cell."""
    found: dict[Cell, list[dict[str, object]]] = {}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                law, *numbers = (row[n] for n in ("residual", "features", "images_per_feature", "views", "true_icr"))
                d, ratio, n_views, icr = map(float, numbers)
                found.setdefault((law, int(d), ratio, int(n_views), icr, int(row["folds"])), []).append(row)
    return found


@click.command()
@cell_options(len(CELLS), 500, 1, RESULTS)
def main(repeats: int, jobs: int, cells: int, out: Path) -> None:
    """Run every cell that is not in the file; all of them take a quarter of an hour of one core."""
    rows = stored(out)
    missing = [cell for cell in CELLS[:cells] if cell not in rows]
    tasks = (delayed(run_cell)(cell, repeats) for cell in missing)
    with click.progressbar(Parallel(n_jobs=jobs, return_as="generator")(tasks), length=len(missing)) as results:
        for cell, found in zip(missing, results, strict=True):
            rows[cell] = found
            with out.open("w", newline="") as file:
                writer = csv.DictWriter(file, found[0], lineterminator="\n")
                writer.writeheader()
                writer.writerows(row for cell in CELLS if cell in rows for row in rows[cell])
    click.echo(table([row for cell in CELLS[:cells] for row in rows[cell]]))


def table(rows: list[dict[str, object]]) -> str:
    """Bias and coverage in per cent, a line a cell, as a table for the documentation."""
    head = ["residual", "d", "N/d", "V", "ICR", "folds", *(f"{m}: bias, coverage" for m in METHODS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for start in range(0, len(rows), len(METHODS)):
        group = rows[start : start + len(METHODS)]
        cell = [f"{group[0][name]}" for name in ("residual", "features", "images_per_feature")]
        cell += [f"{group[0][name]}" for name in ("views", "true_icr", "folds")]
        cell += [f"{float(row['bias_percent']):+.1f}, {100 * float(row['coverage']):.0f}" for row in group]
        lines.append("| " + " | ".join(cell) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
