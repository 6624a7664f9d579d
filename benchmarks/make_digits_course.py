"""Make the course that ships in icrkit/data, and the table that says how the same recipe went under other seeds.

    python benchmarks/make_digits_course.py

trains the network of ``icrkit demo --train`` on 128 digits for 600 steps, once for each of five seeds, reads 500
held-out digits in 8 views at 12 checkpoints, and writes ``benchmarks/results/digits_course.csv``: every seed, layer,
noise level and checkpoint, with the loss on held-out images, the copies among 256 generated images, and the step at
which each criterion was best and at which its turn was called. The features of the first seed, of 256 images at one
layer and level, go as float16 into ``icrkit/data/digits_course``; rows with 256 images are what the calls would be on
as many. Ten minutes of one core. Needs the ``torch`` extra.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

import icrkit as ik
from icrkit.demo_training import (
    CALLED_LAYER,
    CALLED_SIGMA,
    MANY,
    N_VIEWS,
    Checkpoint,
    checkpoint_steps,
    digits_split,
    train_digits,
)
from icrkit.io import pack
from icrkit.readings._course import TrainingCourse

RESULTS = Path(__file__).parent / "results" / "digits_course.csv"
N_SHIPPED = 256


def rows_of(seed: int, checkpoints: list[Checkpoint], cubes: list[ik.Cube]) -> Iterator[dict[str, Any]]:
    """A row for each layer, level and checkpoint."""
    course = TrainingCourse().fit(cubes)
    fits = {name: course.with_criterion(name) for name in ("information", "icr")}
    curve = course.curve_
    for layer in curve["layer"].to_numpy():
        for sigma in curve["sigma"].to_numpy():
            level = {"layer": layer, "sigma": sigma}
            called = {}
            for name, fit in fits.items():
                judged = fit.by_level_.sel(level)
                turned_at = float(judged["turned_at"])
                called |= {
                    f"{name}_best_step": int(judged["best_step"]),
                    f"{name}_turned_at": "" if np.isnan(turned_at) else int(turned_at),
                    f"{name}_fall": f"{float(judged['fall']):.4f}",
                    f"{name}_fall_low": f"{float(judged['fall_low']):.4f}",
                    f"{name}_fall_high": f"{float(judged['fall_high']):.4f}",
                }
            for checkpoint in checkpoints:
                one = curve.sel(level).sel(step=checkpoint.step)
                names = [f"{name}{end}" for name in ("information", "icr") for end in ("", "_low", "_high")]
                yield {
                    "seed": seed,
                    "n_images": len(cubes[0]),
                    "layer": layer,
                    "sigma": f"{sigma:g}",
                    "step": checkpoint.step,
                    "training_loss": f"{checkpoint.training_loss:.4f}",
                    "held_out_loss": f"{checkpoint.held_out_loss:.4f}",
                    "near_copies": f"{checkpoint.near_copies:.4f}",
                    "copies": f"{checkpoint.nearest_ratio:.4f}",
                    **{name: f"{float(one[name]):.4f}" for name in names},
                    **called,
                }


def shipped(cube: ik.Cube, n_images: int) -> ik.Cube:
    """What ships of a checkpoint, in memory: one layer at one level, float16."""
    part = cube.select(layer=CALLED_LAYER, sigma=[CALLED_SIGMA])[:n_images]
    attrs = {name: value for name, value in cube.attrs.items() if name not in ("n_views", "icrkit_version")}
    return ik.from_arrays(
        {CALLED_LAYER: part[CALLED_LAYER].to_numpy().astype(np.float16)},
        sigmas=part.sigmas,
        labels=part.labels,
        image_ids=part.image_ids,
        attrs=attrs | {"layers": [CALLED_LAYER], "data": "digits of scikit-learn (UCI, CC BY 4.0)"},
    )


def write_course(cubes: list[ik.Cube], out: Path) -> int:
    """Pack every checkpoint into a folder that is made anew; bytes written."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for cube in cubes:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "step.cube"
            with ik.CubeWriter(
                store,
                layers=cube.n_features,
                sigmas=cube.sigmas,
                n_views=cube.n_views,
                n_images=len(cube),
                dtype="float16",
                attrs=cube.attrs,
            ) as writer:
                writer.append(cube.image_ids, {CALLED_LAYER: cube[CALLED_LAYER].to_numpy()}, labels=cube.labels)
            pack(store, out / f"step-{cube.step:08d}.h5")
    return sum(path.stat().st_size for path in out.iterdir())


def summary(rows: list[dict[str, Any]]) -> str:
    """One line: where the seed's loss, readings and copies turned, at the layer and level of the call."""
    at = [r for r in rows if r["layer"] == CALLED_LAYER and r["sigma"] == f"{CALLED_SIGMA:g}"]
    lowest = min(at, key=lambda r: float(r["held_out_loss"]))["step"]
    passed = {
        name: next((r["step"] for r in at if float(r[name]) > MANY), "never") for name in ("near_copies", "copies")
    }
    first = at[0]
    return (
        f"seed {first['seed']}, {first['n_images']} images: loss lowest {lowest}, information best "
        f"{first['information_best_step']} called {first['information_turned_at'] or 'never'}, ICR best "
        f"{first['icr_best_step']} called {first['icr_turned_at'] or 'never'}, near copies above {MANY:.0%} "
        f"{passed['near_copies']}, copies {passed['copies']}"
    )


@click.command()
@click.option("--seeds", default=5, show_default=True, help="So many, from 0; the first one's features are shipped.")
@click.option("--steps", default=600, show_default=True)
@click.option("--checkpoints", default=12, show_default=True)
@click.option("--held-out", default=500, show_default=True)
@click.option("--shipped-images", default=N_SHIPPED, show_default=True)
@click.option("--generated", default=256, show_default=True)
@click.option("--views", default=N_VIEWS, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--out", type=click.Path(path_type=Path), default=ik.datasets.data_path("digits_course"))
def main(
    seeds: int, steps: int, checkpoints: int, held_out: int, shipped_images: int, generated: int, views: int,
    results: Path, out: Path,
) -> None:  # fmt: skip
    """Train, read, pack, and write the table."""
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        found = train_digits(
            digits_split(n_held_out=held_out, seed=seed),
            checkpoint_steps(steps, checkpoints),
            n_views=views,
            n_generated=generated,
            seed=seed,
        )
        small = [shipped(c.cube, shipped_images) for c in found]
        for cubes in ([c.cube for c in found], small):
            rows += rows_of(seed, found, cubes)
            click.echo(summary([row for row in rows if row["seed"] == seed and row["n_images"] == len(cubes[0])]))
        if seed == 0:
            click.echo(f"{out}: {write_course(small, out) / 1e6:.2f} MB")
        with results.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
