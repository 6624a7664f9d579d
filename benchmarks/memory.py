"""Peak memory of a fit on a cube file much larger than memory should be asked to hold.

    python benchmarks/memory.py --dir DIR

writes a cube of 4 GB, fits it in a fresh process, and prints the peak resident memory of that process as the operating
system counts it. The fit includes the digest of every part, ten folds, cross-fitting and the interval.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

import icrkit as ik

RESULTS = Path(__file__).parent / "results" / "memory.csv"

FIT = r"""
import json, re, sys, time
import icrkit as ik

def peak_mb():
    # The high-water mark of this program: getrusage would count the process that started it too.
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024 / 1e6

start, imports = time.perf_counter(), peak_mb()
estimator = ik.ICREstimator(correction="crossfit").fit(ik.open_cube(sys.argv[1]))
print(json.dumps({"icr": estimator.icr_, "interval": estimator.interval_, "seconds": time.perf_counter() - start,
                  "peak_mb": peak_mb(), "imports_mb": imports}))
"""


def write_cube(path: Path, gigabytes: float, n_features: int) -> int:
    """A store of random-effects features with true ICR 1/2; returns its number of images."""
    n_images = int(gigabytes * 1e9 / (2 * n_features * 4))
    rng = np.random.default_rng(0)
    with (
        ik.CubeWriter(path, layers={"features": n_features}, sigmas=[1.0], n_views=2, n_images=n_images) as writer,
        tqdm(total=n_images, unit="image") as progress,
    ):
        for start in range(0, n_images, 8192):
            n = min(8192, n_images - start)
            h = rng.standard_normal((n, 2, 1, n_features), dtype=np.float32)
            h += rng.standard_normal((n, 1, 1, n_features), dtype=np.float32)
            writer.append(np.arange(start, start + n), {"features": h})
            progress.update(n)
    return n_images


@click.command()
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--gigabytes", default=4.0, show_default=True)
@click.option("--features", default=768, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(folder: Path, gigabytes: float, features: int, out: Path) -> None:
    """Write, fit, measure, clean up."""
    path = folder / "memory-benchmark.cube"
    shutil.rmtree(path, ignore_errors=True)
    start = time.perf_counter()
    try:
        n_images = write_cube(path, gigabytes, features)
        written = time.perf_counter() - start
        done = subprocess.run([sys.executable, "-c", FIT, str(path)], check=True, capture_output=True, text=True)
    finally:
        shutil.rmtree(path, ignore_errors=True)
    result = json.loads(done.stdout)
    row = {
        "gigabytes": gigabytes,
        "images": n_images,
        "views": 2,
        "features": features,
        "peak_mb": round(result["peak_mb"]),
        "imports_mb": round(result["imports_mb"]),
        "fit_seconds": round(result["seconds"], 1),
        "write_seconds": round(written, 1),
        "icr": round(result["icr"], 4),
    }
    click.echo("\n".join(f"{name:14} {value}" for name, value in row.items()))
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
