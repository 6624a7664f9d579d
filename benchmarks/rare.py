"""What a feature that hardly ever fires does to ICR and information, were it not refused.

    python benchmarks/rare.py

writes ``benchmarks/results/rare.csv``: for a unit that is zero but in so many images, and for one that is faint in the
others, by number of images, features and views: least, median and most of what it adds to ICR and to information; how
often it is refused (fewer than about 12 images), and how often heavy tails are warned of; and the greatest fold over
the median one (`Tails.fold`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from study import Row, cell_options, run_cells

from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError
from icrkit.metrics import _decomposition
from icrkit.metrics._crossfit import crossfit
from icrkit.metrics._decomposition import ResidualModel, rare_features
from icrkit.metrics._information import information
from icrkit.metrics._tails import tails_of
from icrkit.moments import Moments

RESULTS = Path(__file__).parent / "results" / "rare.csv"
FAINT = 1e-4  # of the size of other features

# kind, images that fire, (images, features, views)
Cell = tuple[str, int, tuple[int, int, int]]
SHAPES = ((300, 16, 2), (300, 32, 2), (1024, 32, 2), (300, 32, 8))
CELLS: list[Cell] = [
    *itertools.product(("rectified", "signed"), (2, 3, 5, 8, 12, 20, 30, 50), SHAPES),
    *itertools.product(("faint",), (1, 3), ((4096, 16, 2),)),
]


def features(rng: np.random.Generator, kind: str, firing: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Features (n, v, d + 1) of ICR .5, the last of which fires in so many images."""
    n, d, v = shape
    h = rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))
    who = rng.choice(n, firing, replace=False)
    unit = np.zeros((n, v, 1))
    if kind == "rectified":
        unit[who] = np.maximum(1 + rng.standard_normal((firing, 1, 1)) + rng.standard_normal((firing, v, 1)), 0)
    else:
        if kind == "faint":
            unit = FAINT * (rng.standard_normal((n, 1, 1)) + rng.standard_normal((n, v, 1)))
        unit[who] = 3 * rng.standard_normal((firing, 1, 1)) + rng.standard_normal((firing, v, 1))
    return np.concatenate([h, unit], axis=2)


def one_repeat(cell: Cell, seed: int) -> tuple[float, float, bool, bool, float]:
    """What the unit adds to ICR and information, NaN where neither exists; refused, warned, and the greatest fold."""
    kind, firing, shape = cell
    h = features(np.random.default_rng([seed, firing, *shape]), kind, firing, shape)
    moments = Moments.from_cube(h, n_folds=10, dtype="float64")
    refused = bool(rare_features(moments)[0].size)
    clean = moments.select_features(np.arange(shape[1]))
    least = _decomposition._FEWEST_FIRING
    _decomposition._FEWEST_FIRING = 0  # the rule is off: what it is there for is measured here
    try:
        tails = tails_of(moments, ResidualModel(moments.total))
        added = crossfit(moments).icr - crossfit(clean).icr, information(moments).value - information(clean).value
    except (DegenerateFeaturesError, IllConditionedError):  # in the images of one fold only
        return float("nan"), float("nan"), refused, False, float("nan")
    finally:
        _decomposition._FEWEST_FIRING = least
    return *added, refused, tails is not None and tails.heavy, float("nan") if tails is None else tails.fold


def run_cell(cell: Cell, repeats: int) -> list[Row]:
    """One row of the table."""
    kind, firing, (n, d, v) = cell
    runs = np.array([one_repeat(cell, seed) for seed in range(repeats)], dtype=float)
    row: Row = {"kind": kind, "firing": firing, "images": n, "features": d, "views": v, "repeats": repeats}
    for name, values in (("icr", runs[:, 0]), ("information", runs[:, 1]), ("fold", runs[:, 4])):
        known = values[~np.isnan(values)]
        numbers = [of(known) if known.size else np.nan for of in (np.min, np.median, np.max)]
        row |= {f"{name}_{of}": round(float(x), 3) for of, x in zip(("least", "median", "most"), numbers, strict=True)}
    row |= {"singular": float(np.isnan(runs[:, 0]).mean()), "refused": float(runs[:, 2].mean())}
    return [row | {"warned": float(runs[:, 3].mean())}]


def table(rows: Sequence[Row]) -> str:
    """By kind and images that fire: the farthest off over all shapes, and least and most of refusals and warnings."""
    lines = ["| unit | images it fires in | ICR off by up to | information off by up to | refused | warned |"]
    lines.append("|---|---|---|---|---|---|")
    for (kind, firing), group in itertools.groupby(rows, lambda row: (str(row["kind"]), str(row["firing"]))):
        found = list(group)
        off = [
            max(abs(float(str(row[f"{name}_{end}"]))) for row in found for end in ("least", "most"))
            for name in ("icr", "information")
        ]
        refused, warned = (
            " to ".join(
                sorted({f"{100 * of(float(str(row[name])) for row in found):.0f}" for of in (min, max)}, key=int)
            )
            for name in ("refused", "warned")
        )
        lines.append(f"| {kind} | {firing} | {off[0]:.2f} | {off[1]:.1f} | {refused} | {warned} |")
    return "\n".join(lines)


@click.command()
@cell_options(len(CELLS), 40, 2, RESULTS)
def main(repeats: int, jobs: int, cells: int, out: Path) -> None:
    """Run all cells; a few minutes of two cores."""
    click.echo(table(run_cells(run_cell, [(cell, repeats) for cell in CELLS[:cells]], jobs, out)))


if __name__ == "__main__":
    main()
