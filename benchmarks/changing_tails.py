"""Turns that are called where nothing but the tails of the residual changes, and whether a warning goes with them.

    python benchmarks/changing_tails.py

writes ``benchmarks/results/changing_tails.csv``: courses in which the truth stays what it is and the tails of the
residual grow lighter; how often a turn is called, how often heavy tails are warned of, and how often a turn is called
without that.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from study import Row, cell_options, run_cells

import icrkit as ik

RESULTS = Path(__file__).parent / "results" / "changing_tails.csv"
N_STEPS, N_FEATURES = 12, 16  # checkpoints, and features of a course
# tails, images, criterion
Cell = tuple[str, int, str]
CELLS: list[Cell] = list(itertools.product(("none", "lognormal", "outliers", "t3"), (128, 256), ("information", "icr")))


def course(rng: np.random.Generator, tails: str, n: int) -> dict[int, np.ndarray]:
    """Features by step, linked by .9 of the residual, whose tails go from heavy to none at an ICR of .5."""
    signal, shared = rng.standard_normal((n, 1, N_FEATURES)), rng.standard_normal((n, 2, N_FEATURES))
    normal, chosen, row = rng.standard_normal((n, 1, 1)), rng.random((n, 1, 1)) < 0.02, rng.chisquare(3, (n, 2, 1))
    mean_squares = 1 / np.random.default_rng(0).chisquare(3, 100_000)
    found = {}
    for step, heaviness in enumerate(np.linspace(1, 0, N_STEPS), 1):
        residual = np.sqrt(0.9) * shared + np.sqrt(0.1) * rng.standard_normal(shared.shape)
        if tails == "lognormal":
            residual *= np.exp(heaviness * normal - heaviness**2)
        elif tails == "outliers":
            times = 1 + 9 * heaviness
            residual *= np.where(chosen, times, 1.0) / np.sqrt(0.98 + 0.02 * times**2)
        elif tails == "t3":
            residual *= row ** (-heaviness / 2) / np.sqrt(np.mean(mean_squares**heaviness))
        found[step] = signal + residual
    return found


def run_cell(cell: Cell, repeats: int) -> list[dict[str, object]]:
    """One row of the table."""
    tails, n, criterion = cell
    called, warned = np.zeros(repeats, dtype=bool), np.zeros(repeats, dtype=bool)
    for seed in range(repeats):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fitted = ik.TrainingCourse(criterion).fit(course(np.random.default_rng([seed, n]), tails, n))
        called[seed] = fitted.turned_
        warned[seed] = any("unequal size" in str(one.message) for one in said)
    silent = float((called & ~warned).mean())
    return [
        {
            "tails": tails, "images": n, "criterion": criterion, "called": round(float(called.mean()), 4),
            "warned": round(float(warned.mean()), 4), "called_in_silence": round(silent, 4), "repeats": repeats,
        }
    ]  # fmt: skip


LABELS = {
    "none": "Gaussian throughout", "lognormal": "lognormal scale of an image, to none",
    "outliers": "one image in fifty of ten times the residual, to none",
    "t3": "t with 3 degrees of freedom, to Gaussian",
}  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """A row for each kind of tails and number of images, in per cent."""
    lines = [
        "| tails, first to last | images (d = 16) | information called | ICR called | warned | called in silence |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for (tails, n), pair in itertools.groupby(rows, lambda row: (str(row["tails"]), str(row["images"]))):
        of = {str(row["criterion"]): row for row in pair}
        if len(of) == 2:
            by_information, by_icr = of["information"], of["icr"]
            called, called_by_icr, warned, silent, silent_by_icr = (
                f"{100 * float(str(value)):.0f}"
                for value in (
                    by_information["called"], by_icr["called"], by_information["warned"],
                    by_information["called_in_silence"], by_icr["called_in_silence"],
                )
            )  # fmt: skip
            lines.append(
                f"| {LABELS[tails]} | {n} | {called} | {called_by_icr} | {warned} | {silent}, {silent_by_icr} |"
            )
    return "\n".join(lines)


@click.command()
@cell_options(len(CELLS), 100, 2, RESULTS)
def main(repeats: int, jobs: int, cells: int, out: Path) -> None:
    """Run all cells; about ten minutes of two cores."""
    click.echo(table(run_cells(run_cell, [(cell, repeats) for cell in CELLS[:cells]], jobs, out)))


if __name__ == "__main__":
    main()
