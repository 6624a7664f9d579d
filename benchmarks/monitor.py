"""Time of one update of the monitor, once features exist, and the size of the file it saves.

    python benchmarks/monitor.py

writes ``benchmarks/results/monitor.csv``: for each size of the probe set the median and the longest of the updates of a
course, as seconds and as a share of a minute of training, and bytes per checkpoint in the saved file. And
``benchmarks/results/monitor_looks.csv``: what a checkpoint adds once its features are read, in a course of thousands,
hundred by hundred, and how long its state takes to save and to load.
"""

from __future__ import annotations

import csv
import dataclasses
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from threadpoolctl import threadpool_limits

import icrkit as ik
from icrkit.readings._monitor import ICRMonitor

LOOKS = Path(__file__).parent / "results" / "monitor_looks.csv"
RESULTS = Path(__file__).parent / "results" / "monitor.csv"
# images, views, features, levels
CELLS = ((4096, 2, 256, 1), (4096, 2, 256, 3), (4096, 2, 64, 1), (4096, 2, 768, 1), (1024, 8, 256, 1))


def features_of(n_images: int, n_views: int, d: int, levels: int, step: int) -> ik.Cube:
    """Features of one checkpoint: the same draws at every step, more and more signal."""
    rng = np.random.default_rng(0)
    residual = rng.standard_normal((n_images, n_views, levels, d), dtype=np.float32)
    image = rng.standard_normal((n_images, 1, 1, d), dtype=np.float32)
    return ik.from_arrays(
        {"mid": residual + np.float32(0.5 + 0.05 * step) * image}, sigmas=0.1 * np.arange(1, levels + 1)
    )


def run_cell(cell: tuple[int, int, int, int], updates: int, threads: int) -> dict[str, object]:
    """One row of the table."""
    monitor, seconds = ICRMonitor(), []
    with threadpool_limits(threads, user_api="blas"):
        for step in range(updates + 1):
            cube = features_of(*cell, step)
            begun = time.perf_counter()
            monitor.update(step, cube)
            seconds.append(time.perf_counter() - begun)
    with tempfile.TemporaryDirectory() as folder:
        monitor.save(Path(folder) / "monitor.json")
        size = (Path(folder) / "monitor.json").stat().st_size
    middle = float(np.median(seconds[1:]))  # the first draws the sign changes and wakes the threads
    return dict(zip(("images", "views", "features", "levels"), cell, strict=True)) | {
        "threads": threads,
        "updates": updates,
        "seconds": round(middle, 3),
        "longest": round(max(seconds), 3),
        "percent_of_a_minute": round(100 * middle / 60, 2),
        "bytes_a_checkpoint": round(size / (updates + 1)),
    }


def run_looks(looks: int, every: int) -> list[dict[str, object]]:
    """Rows of the second table: one for each block of looks, on readings that rise and fall slowly."""
    once = ICRMonitor()
    once.update(0, features_of(200, 2, 4, 1, 0))
    (level,) = once._levels
    found, rng, monitor = level.readings[0], np.random.default_rng(0), ICRMonitor()
    monitor._probe = once._probe  # so that only the readings of a checkpoint are left out
    rows, seconds = [], []
    for step in range(looks):
        merit = float(np.sin(step / 300) + rng.normal(0, 0.001))
        information = dataclasses.replace(found.information, merit=merit, replicates=merit + rng.normal(0, 0.01, 20))
        begun = time.perf_counter()
        monitor._say(step, [found._replace(information=information, gaussian=merit)])
        seconds.append(time.perf_counter() - begun)
        if (step + 1) % every == 0:
            with tempfile.TemporaryDirectory() as folder:
                path, times = Path(folder) / "monitor.json", [time.perf_counter()]
                monitor.save(path)
                times.append(time.perf_counter())
                ICRMonitor.load(path)
                times.append(time.perf_counter())
            milliseconds = 1e3 * np.array(seconds)
            rows.append(
                {
                    "looks": step + 1,
                    "median_ms": round(float(np.median(milliseconds)), 2),
                    "mean_ms": round(float(milliseconds.mean()), 2),
                    "longest_ms": round(float(milliseconds.max()), 1),
                    "save_s": round(times[1] - times[0], 3),
                    "load_s": round(times[2] - times[1], 3),
                }
            )
            seconds.clear()
    return rows


def write(rows: list[dict[str, object]], out: Path) -> None:
    """A table, on the way to a file and to a person."""
    for row in rows:
        click.echo("  ".join(f"{name}={value}" for name, value in row.items()))
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@click.command()
@click.option("--updates", default=20, show_default=True)
@click.option("--threads", default=1, show_default=True, help="BLAS threads.")
@click.option("--cells", default=len(CELLS), show_default=True, help="Only the first so many.")
@click.option("--looks", default=2000, show_default=True, help="Checkpoints of the long course.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
@click.option("--out-looks", type=click.Path(path_type=Path), default=LOOKS, show_default=False)
def main(updates: int, threads: int, cells: int, looks: int, out: Path, out_looks: Path) -> None:
    """Measure, print and write the tables."""
    if cells:
        write([run_cell(cell, updates, threads) for cell in CELLS[:cells]], out)
    write(run_looks(looks, max(1, looks // 8)), out_looks)


if __name__ == "__main__":
    main()
