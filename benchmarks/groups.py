"""Coverage of intervals where images depend on each other, with and without their groups.

    python benchmarks/groups.py

writes ``benchmarks/results/groups.csv``: for each kind of dependence, number of groups and true ICR, how often the
nominal 95 % intervals of ICR and of information cover the truth, and the means of both estimates, where every image
counts as one and where groups are given.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from study import Row, cell_options, least_to_most, run_cells

import icrkit as ik
from icrkit.readings._reading import read

RESULTS = Path(__file__).parent / "results" / "groups.csv"
N_FEATURES, N_VIEWS, N_FRAMES = 16, 2, 20

# kind of dependence, groups, true ICR
Cell = tuple[str, int, float]
CELLS: list[Cell] = [
    cell
    for cell in itertools.product(("fives", "video", "copies"), (32, 64, 256), (0.2, 0.5, 0.8))
    # Copies bring no new residual: below four images a feature folds are too small.
    if cell[:2] != ("copies", 32)
]


def features(rng: np.random.Generator, kind: str, n_groups: int, icr: float) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, v, d) of unit residual covariance, and the group of each image."""
    own = np.sqrt(1 / icr - 1) * rng.standard_normal((n_groups, 1, N_FEATURES))
    group = np.arange(n_groups)
    if kind == "copies":  # a quarter of the images are exact copies of others
        h = own + rng.standard_normal((n_groups, N_VIEWS, N_FEATURES))
        again = n_groups // 3
        return np.concatenate([h, h[:again]]), np.concatenate([group, group[:again]])
    if kind == "fives":  # near copies: 95 % of the invariant variance is that of the scene
        size = 5
        signal = np.sqrt(0.95) * np.repeat(own, size, axis=0)
        signal += np.sqrt(0.05 * (1 / icr - 1)) * rng.standard_normal(signal.shape)
    else:  # frames of a video: autoregressive, .9 from frame to frame
        size = N_FRAMES
        frames = [own]
        for _ in range(size - 1):
            step = np.sqrt((1 - 0.81) * (1 / icr - 1)) * rng.standard_normal(own.shape)
            frames.append(0.9 * frames[-1] + step)
        signal = np.stack(frames, axis=1).reshape(-1, 1, N_FEATURES)
    return signal + rng.standard_normal((len(signal), N_VIEWS, N_FEATURES)), np.repeat(group, size)


def run_cell(cell: Cell, repeats: int) -> list[dict[str, object]]:
    """A row without and one with groups."""
    kind, n_groups, icr = cell
    truth = {"icr": icr, "information": 0.5 * N_FEATURES * np.log(1 / icr)}
    rows = []
    for grouped in (False, True):
        covered, values = np.zeros((repeats, 2)), np.zeros((repeats, 2))
        for seed in range(repeats):
            h, group = features(np.random.default_rng([seed, n_groups]), kind, n_groups, icr)
            cube = ik.from_arrays(h, groups=group if grouped else None)
            moments = ik.Moments.from_cube(cube, n_folds=10, dtype="float64")
            found = [read(moments, criterion) for criterion in truth]
            covered[seed] = [one.low <= true <= one.high for one, true in zip(found, truth.values(), strict=True)]
            values[seed] = [one.value for one in found]
        icr_covered, information_covered = covered.mean(axis=0).round(4).tolist()
        rows.append(
            {
                "kind": kind, "groups": n_groups, "true_icr": icr, "given": grouped, "icr": icr_covered,
                "information": information_covered, "mean_icr": round(float(values[:, 0].mean()), 4),
                "mean_information": round(float(values[:, 1].mean()), 3),
                "true_information": round(truth["information"], 3), "repeats": repeats,
            }
        )  # fmt: skip
    return rows


LABELS = {
    "fives": "five near copies of each scene", "video": "20 frames of each video, .9 from frame to frame",
    "copies": "a quarter are exact copies",
}  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Least and most over the true ICRs, without groups and with them."""
    lines = ["| images | groups | ICR, every image by itself | information | ICR, with groups | information |"]
    lines.append("|---|---|---|---|---|---|")
    for (kind, n), group in itertools.groupby(rows, lambda row: (str(row["kind"]), str(row["groups"]))):
        found = list(group)
        shares = [
            least_to_most([row for row in found if str(row["given"]) == given], name)
            for given, name in itertools.product(("False", "True"), ("icr", "information"))
        ]
        lines.append(f"| {LABELS[kind]} | {n} | {' | '.join(shares)} |")
    return "\n".join(lines)


@click.command()
@cell_options(len(CELLS), 200, 2, RESULTS)
def main(repeats: int, jobs: int, cells: int, out: Path) -> None:
    """Run all cells; some minutes of two cores."""
    warnings.simplefilter("ignore")  # copies are warned of where they have no groups
    click.echo(table(run_cells(run_cell, [(cell, repeats) for cell in CELLS[:cells]], jobs, out)))


if __name__ == "__main__":
    main()
