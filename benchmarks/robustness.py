"""Coverage of intervals where images are of unequal size or kind: is any cell silent and wrong?

    python benchmarks/robustness.py

writes ``benchmarks/results/robustness.csv``: for each population, images per feature and number of views, how often the
nominal 95 % intervals of ICR and of information cover the truth, how often heavy tails are warned of, the coverage of
both for `spatial_sign` of the features, against its own truth (that of many images), and the greatest of all repeats'
greatest fold over the median one (`Tails.fold`).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from study import Row, cell_options, least_to_most, run_cells

import icrkit as ik
from icrkit.metrics._tails import Tails
from icrkit.readings._reading import read

RESULTS = Path(__file__).parent / "results" / "robustness.csv"
N_FEATURES, N_CLASSES, ICR = 32, 8, 0.5
MANY = 20_000  # images, for the truth of signs

Scale = Callable[[np.random.Generator, int, int], np.ndarray]


def student(dof: int, of: str) -> Scale:
    """Scales of a multivariate t of unit covariance: of each row, or of each image."""

    def scale(rng: np.random.Generator, n: int, v: int) -> np.ndarray:
        return np.sqrt((dof - 2) / rng.chisquare(dof, (n, v if of == "row" else 1, 1)))

    return scale


def gamma_times_t5(rng: np.random.Generator, n: int, v: int) -> np.ndarray:
    """The "heavy" law of `icrkit.datasets`: a t with 5 degrees of freedom times a scale of each image."""
    return student(5, "row")(rng, n, v) * np.sqrt(rng.gamma(2.0, 0.5, (n, 1, 1)))


def lognormal(rng: np.random.Generator, n: int, v: int) -> np.ndarray:
    """A scale of each image."""
    return np.exp(rng.standard_normal((n, 1, 1)) - 1.0)


def outliers(rng: np.random.Generator, n: int, v: int) -> np.ndarray:
    """One image in fifty has ten times the residual."""
    return np.where(rng.random((n, 1, 1)) < 0.02, 10.0, 1.0) / np.sqrt(0.98 + 0.02 * 100)


# Residuals that are a Gaussian row times a scale of mean square 1.
SCALES: dict[str, Scale] = {
    "t5": student(5, "row"), "heavy": gamma_times_t5, "t3": student(3, "row"), "t3 of an image": student(3, "image"),
    "lognormal": lognormal, "outliers": outliers,
}  # fmt: skip
POPULATIONS = ("gaussian", *SCALES, "t3 signal", "classes", "half", "subspaces", "multiplicative")
# population, images per feature, views
Cell = tuple[str, int, int]
CELLS: list[Cell] = list(itertools.product(POPULATIONS, (4, 16), (2, 8)))


def features(rng: np.random.Generator, population: str, n: int, v: int) -> np.ndarray:
    """Features (n, v, d) of unit residual covariance and ICR .5."""
    d = N_FEATURES
    signal, residual = rng.standard_normal((n, 1, d)), rng.standard_normal((n, v, d))
    if population in SCALES:
        residual *= SCALES[population](rng, n, v)
    elif population == "t3 signal":
        signal *= student(3, "image")(rng, n, v)
    elif population == "classes":  # half of the invariant variance lies between classes
        signal = np.sqrt(0.5) * (signal + class_means()[rng.integers(0, N_CLASSES, n), None])
    elif population == "half":  # of the features only half have heavy tails
        residual[..., : d // 2] *= gamma_times_t5(rng, n, v)
    elif population == "subspaces":  # each of four kinds of image has its residual in features of its own
        scale = np.full((4, d), 0.1)
        for kind in range(4):
            scale[kind, kind * d // 4 : (kind + 1) * d // 4] = 1.0
        scale /= np.sqrt(np.square(scale).mean(axis=0))
        residual *= scale[rng.integers(0, 4, n), None]
    elif population == "multiplicative":  # the residual of a feature is as large as its signal
        residual *= np.abs(signal)
    return signal * np.sqrt(1 / ICR - 1) + residual


def class_means() -> np.ndarray:
    """Means of the classes, (8, d), the same in every repeat; of mean square 1 in each feature."""
    means = np.random.default_rng(7).standard_normal((N_CLASSES, N_FEATURES))
    means -= means.mean(axis=0)
    return means / np.sqrt(np.square(means).mean(axis=0))


def true_information(population: str) -> float:
    """1/2 log det(I + Sigma_s)."""
    invariant = np.eye(N_FEATURES)
    if population == "classes":
        invariant = 0.5 * invariant + 0.5 * class_means().T @ class_means() / N_CLASSES
    return float(0.5 * np.linalg.slogdet(np.eye(N_FEATURES) + (1 / ICR - 1) * invariant)[1])


def intervals(h: np.ndarray) -> tuple[list[tuple[float, float, float]], Tails]:
    """(value, low, high) of ICR and of information, and what is seen of tails."""
    moments = ik.Moments.from_cube(h, n_folds=10, dtype="float64")
    found = [read(moments, criterion) for criterion in ("icr", "information")]
    assert found[0].tails is not None
    return [(one.value, one.low, one.high) for one in found], found[0].tails


def run_cell(cell: Cell, repeats: int) -> list[dict[str, object]]:
    """One row of the table."""
    population, ratio, v = cell
    truth = [ICR, true_information(population)]
    many = features(np.random.default_rng(99), population, MANY, v)
    truth_of_signs = [value for value, _, _ in intervals(ik.spatial_sign(many))[0]]
    covered, values = np.zeros((repeats, 4)), np.zeros((repeats, 2))
    warned, fold = np.zeros(repeats), np.zeros(repeats)
    for seed in range(repeats):
        h = features(np.random.default_rng([seed, ratio, v]), population, ratio * N_FEATURES, v)
        found, tails = intervals(h)
        warned[seed], fold[seed] = tails.heavy, tails.fold
        signs, _ = intervals(ik.spatial_sign(h))
        pairs = zip([*found, *signs], [*truth, *truth_of_signs], strict=True)
        covered[seed] = [low <= true <= high for (_, low, high), true in pairs]
        values[seed] = [value for value, _, _ in found]
    icr, information, icr_of_signs, information_of_signs = covered.mean(axis=0).round(4).tolist()
    return [
        {
            "population": population, "images_per_feature": ratio, "views": v, "icr": icr, "information": information,
            "warned": round(float(warned.mean()), 4), "signs_icr": icr_of_signs,
            "signs_information": information_of_signs, "mean_icr": round(float(values[:, 0].mean()), 4),
            "mean_information": round(float(values[:, 1].mean()), 3), "true_information": round(truth[1], 3),
            "true_icr_of_signs": round(truth_of_signs[0], 4), "fold_most": round(float(fold.max()), 2),
            "repeats": repeats,
        }
    ]  # fmt: skip


LABELS = {
    "gaussian": "Gaussian", "t5": "t, 5 degrees of freedom", "heavy": "t5 times a scale of each image (`heavy`)",
    "t3": "t, 3 degrees of freedom", "t3 of an image": "t3, one scale for each image",
    "lognormal": "lognormal scale of an image", "outliers": "one image in fifty with ten times the residual",
    "t3 signal": "t3 signal", "classes": "eight classes", "half": "half of the features heavy",
    "subspaces": "residual in other features for each of four kinds",
    "multiplicative": "residual as large as the signal",
}  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Least and most over the cells of each population."""
    lines = [
        "| population | ICR | information | warned | signs: ICR | signs: information |", "|---|---|---|---|---|---|"
    ]  # fmt: skip
    for population, label in LABELS.items():
        of = [row for row in rows if row["population"] == population]
        shares = ("icr", "information", "warned", "signs_icr", "signs_information")
        if of:
            lines.append(f"| {label} | {' | '.join(least_to_most(of, name) for name in shares)} |")
    return "\n".join(lines)


@click.command()
@cell_options(len(CELLS), 400, 2, RESULTS)
def main(repeats: int, jobs: int, cells: int, out: Path) -> None:
    """Run all cells; about ten minutes of two cores."""
    warnings.simplefilter("ignore")
    click.echo(table(run_cells(run_cell, [(cell, repeats) for cell in CELLS[:cells]], jobs, out)))


if __name__ == "__main__":
    main()
