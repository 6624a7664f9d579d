"""Time and peak memory of ICR with more features than rows, against what a user would write.

    python benchmarks/gram.py --dir DIR

writes a cube of 2,000 images, 2 views and 16,384 features (262 MB), and runs each contender on it in a fresh process.
The limit is the bare product of the rows with themselves, in float32. The d x d way (np.cov) would need 2 GB a matrix
and several of them, and m <= d leaves no inverse without regularization; a user goes through PCA:

- all components (np.linalg.svd of the rows), then the paper's formula with tau I added: the plug-in, exactly;
- 256 components (scikit-learn), then ICR without regularization: another number, which depends on how many.

Writes ``benchmarks/results/gram.csv``.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

import icrkit as ik
from icrkit.metrics._gram import gram_matrix

RESULTS = Path(__file__).parent / "results" / "gram.csv"
REGULARIZATION = 0.1
Array = NDArray[np.float32]


def write_cube(path: Path, n_images: int, n_features: int) -> None:
    """Random-effects features with equal variances throughout: R_tau is 1/(1 + REGULARIZATION)."""
    rng = np.random.default_rng(0)
    with ik.CubeWriter(
        path, layers={"map": n_features}, sigmas=[1.0], n_views=2, n_images=n_images, dtype="float32"
    ) as writer:
        for start in range(0, n_images, 256):
            n = min(256, n_images - start)
            h = rng.standard_normal((n, 2, 1, n_features), dtype=np.float32)
            h += rng.standard_normal((n, 1, 1, n_features), dtype=np.float32)
            writer.append(np.arange(start, start + n), {"map": h})


def read(path: Path) -> Array:
    """All features (image, view, feature) in memory."""
    return np.asarray(ik.open_cube(path)["map"])[:, :, 0]


def limit(path: Path) -> None:
    """The product of all rows with themselves."""
    rows = read(path).reshape(-1, ik.open_cube(path)["map"].shape[-1])
    rows @ rows.T


def crossfit(path: Path) -> float:
    """Ten folds, the cross-fitted value and its interval."""
    return ik.ICREstimator("crossfit", regularization=REGULARIZATION).fit(ik.open_cube(path)).icr_


def plug_in(path: Path) -> float:
    """The plug-in alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the plug-in ICR")  # which is what is timed
        return float(ik.icr(gram_matrix(ik.open_cube(path), n_folds=0), regularization=REGULARIZATION))


def svd_script(path: Path) -> float:
    """The plug-in by hand: coordinates of the rows in their own span, and the paper's formula there."""
    h = read(path)
    d = h.shape[2]
    rows = (h - h.mean(axis=0)).reshape(-1, d)
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    coordinates = (left * values).reshape(len(h), 2, -1).astype(np.float64)
    t, e = coordinates.mean(axis=1), coordinates[:, 0] - coordinates[:, 1]
    residual = np.cov(e.T) / 2
    invariant = np.cov(t.T) - residual / 2
    residual += REGULARIZATION * np.trace(residual) / d * np.eye(len(residual))
    return float(d / (d + np.trace(np.linalg.solve(residual, invariant))))


def pca_script(path: Path, n_components: int = 256) -> float:
    """Another quantity: cross-fitted ICR of the first principal components."""
    h = read(path)
    reduced = PCA(min(n_components, len(h) // 4), random_state=0).fit_transform(h.reshape(-1, h.shape[2]))
    return ik.ICREstimator("crossfit").fit(reduced.reshape(len(h), 2, -1)).icr_


CONTENDERS: dict[str, Callable[[Path], float | None]] = {
    "limit": limit,
    "icrkit crossfit": crossfit,
    "icrkit plug-in": plug_in,
    "all components by SVD": svd_script,
    "256 components by PCA": pca_script,
}


def run(what: str, path: Path, threads: int) -> dict[str, object]:
    """Time, peak memory and result of one contender, in a process of its own."""
    command = [sys.executable, __file__, "--only", what, "--dir", str(path), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def measure(what: str, path: Path) -> dict[str, object]:
    """The same in this process; the high-water mark of memory is the operating system's, and processor time that of all
    threads: other work on the machine prolongs the seconds, and not those.
    """
    start, cpu = time.perf_counter(), time.process_time()
    value = CONTENDERS[what](path)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
    icr = None if value is None else round(value, 5)
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_mb": round(peak), "icr": icr}


@click.command()
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--images", default=2000, show_default=True)
@click.option("--features", default=16384, show_default=True)
@click.option("--threads", default=2, show_default=True, help="BLAS threads.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--only", type=click.Choice(list(CONTENDERS)), help="One contender on the cube DIR, as JSON.")
def main(folder: Path, images: int, features: int, threads: int, out: Path, only: str | None) -> None:
    """Write the cube, measure each contender, clean up."""
    if only is not None:
        with threadpool_limits(threads, user_api="blas"):
            click.echo(json.dumps(measure(only, folder)))
        return
    path = folder / "gram-benchmark.cube"
    shutil.rmtree(path, ignore_errors=True)
    try:
        write_cube(path, images, features)
        rows = []
        for what in CONTENDERS:
            rows.append({"what": what, "N": images, "V": 2, "d": features, "threads": threads})
            rows[-1] |= run(what, path, threads)
            click.echo("  ".join(f"{key}={value}" for key, value in rows[-1].items()))
    finally:
        shutil.rmtree(path, ignore_errors=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
