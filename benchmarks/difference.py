"""Coverage, level and power of paired differences, on two levels of the same images whose truth is known.

    python benchmarks/difference.py

writes ``benchmarks/results/difference.csv``: for each residual law, images per feature and pair of true ICR, for ICR
and for information by two of its estimators, how often the nominal 95 % interval of the difference covers the truth,
how often p is below .05, the bias of the difference, and the interval's half-width; with Monte-Carlo errors.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import click
import numpy as np
import window
from study import cell_options, run_cells

from icrkit.metrics._information import information
from icrkit.moments import Moments
from icrkit.readings._difference import Difference, difference
from icrkit.readings._reading import CRITERIA, Reading, read

RESULTS = Path(__file__).parent / "results" / "difference.csv"
QUANTITIES = ("icr", "information", "information, crossfit")

# residual law, images per feature, true ICR of both
Cell = tuple[str, float, tuple[float, float]]
CELLS: list[Cell] = [
    *itertools.product(("gaussian", "heavy", "classes"), (2, 4, 16), ((0.5, 0.5), (0.5, 0.56), (0.2, 0.6))),
    *itertools.product(("t3", "lognormal", "outliers"), (4, 16), ((0.5, 0.5), (0.5, 0.56))),
]


def true_information(law: str, icr: float, seed: int) -> float:
    """1/2 sum log(1 + lambda) of the law from which the features of one seed are drawn."""
    d = window.N_FEATURES
    ratios = np.geomspace(1.0, 0.01, d)
    ratios *= (1 / icr - 1) / ratios.mean()
    if law != "classes":
        return float(0.5 * np.log1p(ratios).sum())
    means = window.class_means(np.random.default_rng(seed))
    scale = np.sqrt(ratios)
    invariant = scale * (0.5 * np.eye(d) + 0.5 * means.T @ means / len(means)) * scale[:, None]
    return float(0.5 * np.linalg.slogdet(np.eye(d) + invariant)[1])


def crossfit_reading(moments: Moments) -> Reading:
    """Information from directions of the other folds."""
    found = information(moments, "crossfit")
    return Reading(
        CRITERIA["information"], found.value, *found.interval(), found.value, found.replicates,
        int(moments.n_images.sum()), moments.n_views, moments.n_features,
    )  # fmt: skip


def one_repeat(cell: Cell, seed: int) -> list[tuple[float, ...]]:
    """By quantity: error of the difference, whether the interval covers it, whether p < .05, and the half-width."""
    law, ratio, truth = cell
    h = window.features(np.random.default_rng(seed), law, np.array(truth), round(ratio * window.N_FEATURES), 2)
    moments = [Moments.from_cube(h[:, :, k], n_folds=10) for k in range(2)]
    true_change = [truth[1] - truth[0]]
    true_change += [true_information(law, truth[1], seed) - true_information(law, truth[0], seed)] * 2
    found: list[Difference] = [difference(*(read(m, name) for m in moments)) for name in ("icr", "information")]
    found.append(difference(*(crossfit_reading(m) for m in moments)))
    return [
        (one.estimate - true, one.low <= true <= one.high, one.p < 0.05, (one.high - one.low) / 2)
        for one, true in zip(found, true_change, strict=True)
    ]


def run_cell(cell: Cell, repeats: int) -> list[dict[str, object]]:
    """Rows of the table, one a quantity."""
    law, ratio, truth = cell
    runs = np.array([one_repeat(cell, seed) for seed in range(repeats)], dtype=float)
    rows = []
    for j, quantity in enumerate(QUANTITIES):
        error, covered, rejected, half_width = runs[:, j].T
        rows.append(
            {
                "residual": law,
                "images_per_feature": ratio,
                "true_icr_a": truth[0],
                "true_icr_b": truth[1],
                "quantity": quantity,
                "coverage": round(covered.mean(), 4),
                "coverage_error": round(np.sqrt(covered.mean() * (1 - covered.mean()) / repeats), 4),
                "rejected": round(rejected.mean(), 4),
                "bias": round(error.mean(), 4),
                "bias_error": round(error.std(ddof=1) / np.sqrt(repeats), 4),
                "half_width": round(half_width.mean(), 4),
                "ideal_half_width": round(1.96 * error.std(ddof=1), 4),
                "repeats": repeats,
            }
        )
    return rows


@click.command()
@cell_options(len(CELLS), 400, 1, RESULTS)
def main(repeats: int, jobs: int, cells: int, out: Path) -> None:
    """Run every cell; ten minutes on one core."""
    click.echo(table(run_cells(run_cell, ((cell, repeats) for cell in CELLS[:cells]), jobs, out)))


def table(rows: list[dict[str, object]]) -> str:
    """Coverage, share of p < .05 and half-width, a line a cell, as a table for the documentation."""
    head = ["residual", "N/d", "ICR", *(f"{name}: coverage, p < .05, half-width" for name in QUANTITIES)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for start in range(0, len(rows), len(QUANTITIES)):
        group = rows[start : start + len(QUANTITIES)]
        one = group[0]
        cell = [f"{one['residual']}", f"{one['images_per_feature']}", f"{one['true_icr_a']}, {one['true_icr_b']}"]
        cell += [
            f"{100 * float(row['coverage']):.0f}, {100 * float(row['rejected']):.0f}, {float(row['half_width']):.3g}"
            for row in group
        ]
        lines.append("| " + " | ".join(cell) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
