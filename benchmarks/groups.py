"""Coverage of intervals where images depend on each other, with and without their groups.

    python benchmarks/groups.py

writes ``benchmarks/results/groups.csv``: for each kind of dependence, number of groups and true ICR, how often the
nominal 95 % intervals of ICR and of information cover the truth, and the means of both estimates, where every image
counts as one and where groups are given.
"""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import click
import numpy as np
from study import run_cells

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


@click.command()
@click.option("--repeats", default=200, show_default=True)
@click.option("--jobs", default=2, show_default=True)
@click.option("--cells", default=len(CELLS), show_default=True, help="Only the first so many.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def main(repeats: int, jobs: int, cells: int, out: Path) -> None:
    """Run all cells; some minutes of two cores."""
    warnings.simplefilter("ignore")  # copies are warned of where they have no groups
    rows = run_cells(run_cell, [(cell, repeats) for cell in CELLS[:cells]], jobs, out)
    click.echo("| images | groups | true ICR | given | ICR | information |")
    click.echo("|---|---|---|---|---|---|")
    for row in rows:
        shares = " | ".join(f"{100 * float(str(row[name])):.0f}" for name in ("icr", "information"))
        click.echo(f"| {row['kind']} | {row['groups']} | {row['true_icr']} | {row['given']} | {shares} |")


if __name__ == "__main__":
    main()
