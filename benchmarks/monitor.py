"""Time of one update of the monitor, once features exist, and the size of the file it saves.

    python benchmarks/monitor.py

writes ``benchmarks/results/monitor.csv``: for each size of the probe set the median and the longest of the updates of a
course, as seconds and as a share of a minute of training, and bytes a checkpoint in the saved file.
"""

from __future__ import annotations

import csv
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from threadpoolctl import threadpool_limits

import icrkit as ik
from icrkit.readings._monitor import ICRMonitor

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


@click.command()
@click.option("--updates", default=20, show_default=True)
@click.option("--threads", default=1, show_default=True, help="BLAS threads.")
@click.option("--cells", default=len(CELLS), show_default=True, help="Only the first so many.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def main(updates: int, threads: int, cells: int, out: Path) -> None:
    """Measure, print and write the table."""
    rows = []
    for cell in CELLS[:cells]:
        rows.append(run_cell(cell, updates, threads))
        click.echo("  ".join(f"{name}={value}" for name, value in rows[-1].items()))
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
