"""Bias and interval coverage of the cross-fitted ICR, against cubes whose truth is known.

    python benchmarks/coverage.py

writes ``benchmarks/results/coverage.csv``: for each residual law, images per feature, number of views and true ICR, the
mean of the cross-fitted and the plug-in estimate and the coverage of the nominal 95 % interval, each with its
Monte-Carlo error. "half", a residual law that is not elliptical, stands beside the two for which the estimate is right.
"""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import click
import numpy as np
from joblib import Parallel, delayed

import icrkit as ik
from icrkit.metrics._crossfit import crossfit
from icrkit.metrics._decomposition import ResidualModel
from icrkit.metrics._icr import plug_in_snr

RESULTS = Path(__file__).parent / "results" / "coverage.csv"
N_FEATURES = 32
LAWS = ("gaussian", "heavy", "half")
RATIOS = (1.5, 2, 4, 8, 16)
TRUTHS = (0.05, 0.2, 0.5, 0.8, 0.95, 0.99)
VIEWS = (2, 4)


def one_repeat(law: str, ratio: float, truth: float, n_views: int, seed: int) -> tuple[float, float, bool]:
    """Cross-fitted ICR, plug-in ICR, and whether the interval covers the truth, on one cube."""
    n_images = round(ratio * N_FEATURES)
    cube = ik.datasets.make_cube(n_images, N_FEATURES, n_views=n_views, icr=truth, residual=law, random_state=seed)
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


@click.command()
@click.option("--repeats", default=1000, show_default=True)
@click.option("--jobs", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def main(repeats: int, jobs: int, out: Path) -> None:
    """Run every cell; about a quarter of an hour on two cores."""
    cells = [
        cell
        for cell in itertools.product(LAWS, RATIOS, TRUTHS, VIEWS)
        # Four views at every fourth of the cells would only repeat the picture.
        if cell[3] == 2 or (cell[1] in (2, 4) and cell[2] in (0.05, 0.5, 0.99))
    ]
    rows = []
    tasks = (delayed(run_cell)(*cell, repeats) for cell in cells)
    with click.progressbar(Parallel(n_jobs=jobs, return_as="generator")(tasks), length=len(cells)) as results:
        for row in results:
            rows.append(row)
            with out.open("w", newline="") as file:
                writer = csv.DictWriter(file, row)
                writer.writeheader()
                writer.writerows(rows)
    click.echo(summary(rows))


def summary(rows: list[dict[str, object]]) -> str:
    """Worst coverage and bias, by residual law and images per feature."""
    lines = ["residual  N/d    coverage (least, most)   largest |bias| crossfit   plug-in"]
    for law, ratio in itertools.product(LAWS, RATIOS):
        cells = [r for r in rows if r["residual"] == law and float(r["images_per_feature"]) == ratio]
        coverage = [float(r["coverage"]) for r in cells]
        bias, plugin = (
            max(abs(float(r[name]) - float(r["true_icr"])) for r in cells) for name in ("crossfit_mean", "plugin_mean")
        )
        lines.append(f"{law:9} {ratio:<6} {min(coverage):.3f}  {max(coverage):.3f}{bias:22.4f}{plugin:18.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
