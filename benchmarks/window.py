"""Coverage and size of the set of levels that may be the best, by four methods, on courses whose truth is known.

    python benchmarks/window.py

writes ``benchmarks/results/window.csv``: for each residual law, curve of ICR over levels, number of levels, images per
feature, views and folds, for each criterion and method, how often a truly best level is in the set (where several are,
the mean over them), how often all of them are, and how many levels the set holds; with Monte-Carlo errors.

Methods, all on the same paired replicates: "rotation" is `icrkit.readings._window.best_levels`; "bonferroni" is Hsu's
multiple comparison with the best with Bonferroni's t; "mcs rotation" is the model confidence set of Hansen, Lunde &
Nason 2011 (statistic T_max) with the law of the statistic from rotations of the folds, "mcs bootstrap" the same with
T_R and a bootstrap over folds, as it is used elsewhere. In the rows "layers" levels are layers at their chosen levels:
two of equal information, one of them with eight features of pure noise more, and one of less.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from scipy import stats
from study import cell_options, run_cells

from icrkit.readings._reading import CRITERIA, merits, read_features
from icrkit.readings._window import best_levels

RESULTS = Path(__file__).parent / "results" / "window.csv"
N_FEATURES, N_NOISE = 16, 8
N_DRAWS = 999

# residual law, curve, levels, images per feature, views, folds
Cell = tuple[str, str, int, float, int, int]
LAWS = ("gaussian", "heavy", "classes")
CURVES = ("flat", "one best", "two best")
CELLS: list[Cell] = [
    *itertools.product(LAWS, CURVES, (12,), (4, 16), (2,), (10,)),
    *itertools.product(("gaussian", "heavy"), CURVES, (5,), (4,), (2,), (10,)),
    *itertools.product(("gaussian", "heavy"), ("flat", "one best"), (12,), (2,), (2,), (10,)),
    *itertools.product(("heavy",), ("flat", "one best"), (12,), (4,), (4,), (10,)),
    *itertools.product(("heavy",), ("flat", "one best"), (12,), (16,), (2,), (20,)),
    *itertools.product(("gaussian", "heavy"), ("layers",), (3,), (4,), (2,), (10,)),
]


def true_icr(curve: str, n_levels: int) -> np.ndarray:
    """ICR of each level: .5 everywhere, or a parabola with its lowest point at a level, or between two."""
    if curve == "flat":
        return np.full(n_levels, 0.5)
    lowest = n_levels // 2 - (0.5 if curve == "two best" else 0.0)
    return 0.45 + 0.25 * ((np.arange(n_levels) - lowest) / (n_levels / 2)) ** 2


def features(
    rng: np.random.Generator, law: str, truth: np.ndarray, n_images: int, n_views: int, length: float = 3.0
) -> np.ndarray:
    """Features (image, view, level, feature) of known ICR: neighbouring levels see nearly the same draws.

    Invariant part and residual of two levels correlate by exp(-distance/length), image by image and draw by draw.
    """
    n_levels = len(truth)
    means = class_means(rng) if law == "classes" else None
    distance = np.abs(np.subtract.outer(np.arange(n_levels), np.arange(n_levels)))
    root = np.linalg.cholesky(np.exp(-distance / length))
    invariant = np.einsum("kj,njd->nkd", root, rng.standard_normal((n_images, n_levels, N_FEATURES)))
    residual = np.einsum("kj,nvjd->nvkd", root, rng.standard_normal((n_images, n_views, n_levels, N_FEATURES)))
    if means is not None:
        invariant = np.sqrt(0.5) * (invariant + means[np.arange(n_images) % len(means)][:, None])
    if law == "heavy":  # t with 5 degrees of freedom, and a scale of its own for each image, the same at every level
        scale = np.sqrt(rng.gamma(2.0, 0.5, size=(n_images, 1, 1, 1)))
        residual *= scale * np.sqrt(3 / rng.chisquare(5, size=(n_images, n_views, 1, 1)))
    if law == "t3":
        residual *= np.sqrt(1 / rng.chisquare(3, size=(n_images, n_views, 1, 1)))
    if law == "lognormal":  # of the scale of an image
        residual *= np.exp(rng.standard_normal((n_images, 1, 1, 1)) - 1)
    if law == "outliers":  # one image in fifty has ten times the residual
        residual *= np.where(rng.random((n_images, 1, 1, 1)) < 0.02, 10, 1) / np.sqrt(0.98 + 0.02 * 100)
    ratios = np.geomspace(1.0, 0.01, N_FEATURES)
    signal = np.sqrt((1 / truth - 1)[:, None] * ratios / ratios.mean()) * invariant
    return signal[:, None] + residual


def class_means(rng: np.random.Generator) -> np.ndarray:
    """Means of eight classes, of mean 0 and variance 1 over the classes."""
    means = rng.standard_normal((8, N_FEATURES))
    return (means - means.mean(axis=0)) / means.std(axis=0)


# ---- methods --------------------------------------------------------------------------------------------------------


def contributions(values: np.ndarray, replicates: np.ndarray) -> np.ndarray:
    """What each fold contributes to the merits, (n_folds, n_levels): the mean is the merit."""
    n_folds = replicates.shape[1]
    return (values[:, None] + (n_folds - 1) * (replicates.mean(axis=1, keepdims=True) - replicates)).T


def bonferroni(values: np.ndarray, replicates: np.ndarray) -> np.ndarray:
    """Hsu's multiple comparison with the best, Bonferroni's t over the other levels."""
    folds = contributions(values, replicates)
    n_folds, n_levels = folds.shape
    differences = folds[:, None, :] - folds[:, :, None]  # of the others less this one
    error = differences.std(axis=0, ddof=1) / np.sqrt(n_folds)
    limit = stats.t.ppf(1 - 0.05 / (n_levels - 1), n_folds - 1)
    return ~(differences.mean(axis=0) > limit * error).any(axis=1)


def mcs_rotation(values: np.ndarray, replicates: np.ndarray) -> np.ndarray:
    """Model confidence set, T_max: the worst level leaves while equal merit of those that remain is rejected."""
    folds = contributions(values, replicates)
    n_folds, n_levels = folds.shape
    directions = np.random.default_rng(0).standard_normal((N_DRAWS, n_folds))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions = np.concatenate([np.full((1, n_folds), n_folds**-0.5), directions])
    left = np.arange(n_levels)
    while len(left) > 1:
        behind = folds[:, left].mean(axis=1, keepdims=True) - folds[:, left]
        along = directions @ behind
        t = along / np.sqrt((np.square(behind).sum(axis=0) - np.square(along)) / (n_folds - 1))
        greatest = t.max(axis=1)
        if (1 + (greatest[1:] >= greatest[0]).sum()) / (1 + N_DRAWS) > 0.05:
            break
        left = np.delete(left, t[0].argmax())
    return np.isin(np.arange(n_levels), left)


def mcs_bootstrap(values: np.ndarray, replicates: np.ndarray) -> np.ndarray:
    """Model confidence set, T_R: the greatest |t| between two levels, errors and law from a bootstrap over folds."""
    folds = contributions(values, replicates)
    n_folds, n_levels = folds.shape
    drawn = np.random.default_rng(0).multinomial(n_folds, np.full(n_folds, 1 / n_folds), size=N_DRAWS) / n_folds
    means, shifts = folds.mean(axis=0), drawn @ folds - folds.mean(axis=0)
    pairs = shifts[:, :, None] - shifts[:, None, :]
    error = np.sqrt(np.square(pairs).mean(axis=0)) + np.eye(n_levels)
    pairs = np.abs(pairs / error)
    t = (means - means[:, None]) / error  # of the level in the column over that in the row
    left = np.arange(n_levels)
    while len(left) > 1:
        among = np.ix_(left, left)
        greatest = pairs[:, left][:, :, left].max(axis=(1, 2))
        if (1 + (greatest >= t[among].max()).sum()) / (1 + N_DRAWS) > 0.05:
            break
        left = np.delete(left, t[among].max(axis=1).argmax())
    return np.isin(np.arange(n_levels), left)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "rotation": best_levels,
    "bonferroni": bonferroni,
    "mcs rotation": mcs_rotation,
    "mcs bootstrap": mcs_bootstrap,
}


# ---- the study ------------------------------------------------------------------------------------------------------


def one_repeat(cell: Cell, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Merits and replicates of all levels, by criterion."""
    law, curve, n_levels, ratio, n_views, n_folds = cell
    rng, n_images = np.random.default_rng(seed), round(ratio * N_FEATURES)
    if curve == "layers":
        return {"information": layers_at_their_best(rng, law, n_images, n_views, n_folds)}
    h = features(rng, law, true_icr(curve, n_levels), n_images, n_views)
    found = [read_features(h[:, :, k], tuple(CRITERIA), n_folds=n_folds)[1] for k in range(n_levels)]
    return {name: merits([one[j] for one in found]) for j, name in enumerate(CRITERIA)}


def layers_at_their_best(
    rng: np.random.Generator, law: str, n_images: int, n_views: int, n_folds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Information of three layers, each at the level of its lowest ICR."""
    truth = true_icr("one best", 5)
    first, second, third = (features(rng, law, icr, n_images, n_views) for icr in (truth, truth, truth + 0.1))
    noise = rng.standard_normal((*second.shape[:3], N_NOISE))
    at_best = []
    for h in (first, np.concatenate([second, noise], axis=3), third):
        levels = [read_features(h[:, :, k], tuple(CRITERIA), n_folds=n_folds)[1] for k in range(len(truth))]
        at_best.append(levels[int(np.argmin([icr.value for icr, _ in levels]))][1])
    return merits(at_best)


def run_cell(cell: Cell, repeats: int) -> list[dict[str, object]]:
    """Rows of the table, one a criterion and method."""
    _, curve, n_levels, *_ = cell
    truth = np.array([0.0, 0.0, 1.0]) if curve == "layers" else true_icr(curve, n_levels)
    best = truth == truth.min()
    sets: dict[tuple[str, str], list[np.ndarray]] = {}
    for seed in range(repeats):
        for criterion, seen in one_repeat(cell, seed).items():
            for method, choose in METHODS.items():
                sets.setdefault((criterion, method), []).append(choose(*seen))
    rows = []
    for (criterion, method), chosen in sets.items():
        held, size = np.array(chosen)[:, best], np.array(chosen).sum(axis=1)
        rows.append(
            dict(
                zip(("residual", "curve", "levels", "images_per_feature", "views", "folds"), cell, strict=True),
                criterion=criterion,
                method=method,
                coverage=round(held.mean(), 4),
                coverage_error=round(held.mean(axis=1).std(ddof=1) / np.sqrt(repeats), 4),
                coverage_of_all=round(held.all(axis=1).mean(), 4),
                set_size=round(size.mean(), 3),
                set_size_error=round(size.std(ddof=1) / np.sqrt(repeats), 3),
                repeats=repeats,
            )
        )
    return rows


@click.command()
@cell_options(len(CELLS), 250, 1, RESULTS)
def main(repeats: int, jobs: int, cells: int, out: Path) -> None:
    """Run every cell; about half an hour on one core."""
    click.echo(table(run_cells(run_cell, ((cell, repeats) for cell in CELLS[:cells]), jobs, out)))


def table(rows: list[dict[str, object]]) -> str:
    """Coverage of a best level, of all of them, and size of the set, a line a cell and criterion."""
    head = ["residual", "curve", "levels", "N/d", "V", "folds", "criterion", *METHODS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for start in range(0, len(rows), len(METHODS)):
        group = rows[start : start + len(METHODS)]
        names = ("residual", "curve", "levels", "images_per_feature", "views", "folds", "criterion")
        cell = [f"{group[0][name]}" for name in names]
        cell += [
            f"{100 * float(row['coverage']):.1f}, {100 * float(row['coverage_of_all']):.0f}, "
            f"{float(row['set_size']):.2f}"
            for row in group
        ]
        lines.append("| " + " | ".join(cell) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
