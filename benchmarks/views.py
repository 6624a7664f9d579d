"""Images a second through each kind of view, on one core.

    python benchmarks/views.py

Colour images of 32 x 32, as bytes and as floats. CPU time of this process, which uses one thread: other work on the
machine moves it less than the time on the clock. All views run in turn, several rounds; the median over the
rounds and the fastest are given. Writes ``benchmarks/results/views.csv``.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path

import click
import numpy as np

from icrkit_extractors import views

RESULTS = Path(__file__).parent / "results" / "views.csv"


def contenders() -> dict[str, views.View]:
    """What is measured: the five levels, reflecting at the two that differ, and the view for grey images."""
    return {
        **{f"Paper({level})": views.Paper(level) for level in range(1, 6)},
        'Paper(3, fill="reflect")': views.Paper(3, fill="reflect"),
        'Paper(5, fill="reflect")': views.Paper(5, fill="reflect"),
        "Augment()": views.Augment(),
    }


def cpu_seconds(view: views.View, images: np.ndarray, batch: int) -> float:
    """CPU time of one view of all images, given in batches as `extract` does."""
    start = time.process_time()
    for first in range(0, len(images), batch):
        rows = range(first, min(first + batch, len(images)))
        view(images[rows.start : rows.stop], rows, 0, 0)
    return time.process_time() - start


@click.command()
@click.option("--images", default=2048, show_default=True)
@click.option("--side", default=32, show_default=True, help="Height and width in pixels.")
@click.option("--batch", default=256, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(images: int, side: int, batch: int, rounds: int, out: Path) -> None:
    """Measure, print and write the table."""
    as_bytes = np.random.default_rng(0).integers(0, 256, (images, 3, side, side), dtype=np.uint8)
    given = {"uint8": as_bytes, "float32": views.as_unit_range(as_bytes)}
    cases = [(name, view, kind) for name, view in contenders().items() for kind in given]
    times = np.array([[cpu_seconds(view, given[kind], batch) for _, view, kind in cases] for _ in range(rounds)])
    rows = [
        {
            "view": name,
            "input": kind,
            "images_per_second": round(images / middle),
            "fastest": round(images / least),
            "side": side,
        }
        for (name, _, kind), middle, least in zip(cases, np.median(times, axis=0), times.min(axis=0), strict=True)
    ]
    click.echo(f"{'view':26}{'input':9}{'images/s':>10}{'fastest':>10}")
    for row in rows:
        click.echo(f"{row['view']:26}{row['input']:9}{row['images_per_second']:>10,}{row['fastest']:>10,}")
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
