"""Time and memory of what compares rows pair by pair, as ratios to the bare products that it needs, or to a peer.

    python benchmarks/memorization.py

The limit is the matrix product alone, float32, in blocks that are thrown away: n x m x d for the nearest training rows,
each pair once where a set is compared with itself. Silhouettes, of as many rows as there are training rows, are held
against scikit-learn's. Everything runs in turn, several rounds in one process, and each
ratio is taken within its round, so that a noisy machine moves both sides. Peak memory is that of a fresh process, the
features among it. Writes ``benchmarks/results/memorization.csv``.

    python benchmarks/memorization.py --retrieval DIR

Neighbours in a store of the size of the paper's first figure (2,000 images x 15 views x 147,456 features, 17.7 GB, in
DIR while it runs), each component in a fresh process, as ratios to reading the store alone. Writes
``benchmarks/results/retrieval.csv``.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import icrkit as ik
from icrkit.metrics._auth_pct import auth_pct
from icrkit.metrics._memorization import memorization_ratio
from icrkit.metrics._nearest_ratio import nearest_ratio

RESULTS = Path(__file__).parent / "results"
NAMES = ("memorization_ratio", "nearest_ratio", "auth_pct", "uniformity", "silhouette", "silhouette_cosine")
Array = NDArray[np.float32]
Work = Callable[[], object]

PEAK = r"""
import re
def peak_mb():
    # The high-water mark of this program: getrusage would count the process that started it too.
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024 / 1e6
"""

ONE = (
    PEAK
    + r"""
import runpy, sys
benchmark = runpy.run_path(sys.argv[1])
imports = peak_mb()
x, y = benchmark["rows"](*map(int, sys.argv[3:]))
benchmark["measures"](x, y)[sys.argv[2]][1]()
print(round(imports), round(peak_mb()))
"""
)

RETRIEVE = (
    PEAK
    + r"""
import json, sys, time
import icrkit as ik
from icrkit.metrics._neighbors import neighbor_retrieval
cube = ik.open_cube(sys.argv[1], verify="size")
imports, start = peak_mb(), time.perf_counter()
if sys.argv[2] == "reading alone":
    array = cube.level()
    for i in range(0, len(array), int(sys.argv[3])):
        array[i : i + int(sys.argv[3])].to_numpy()
else:
    neighbor_retrieval(cube, queries=range(10), component=sys.argv[2])
print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak_mb(), "imports_mb": imports}))
"""
)


def rows(generated: int, training: int, d: int) -> tuple[Array, Array]:
    """Generated rows, a tenth of them near copies, and training rows."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal((training, d), dtype=np.float32)
    x = rng.standard_normal((generated, d), dtype=np.float32)
    x[::10] *= 0.1
    x[::10] += y[rng.integers(0, training, len(x[::10]))]
    return x, y


def products(x: Array, y: Array, block: int = 1024) -> None:
    """The bare products of all rows."""
    out = np.empty((block, len(y)), np.float32)
    for start in range(0, len(x), block):
        piece = x[start : start + block]
        np.matmul(piece, y.T, out=out[: len(piece)])


def products_of_pairs(x: Array, block: int = 1024) -> None:
    """The bare products of a set with itself, each pair once."""
    out = np.empty(block * len(x), np.float32)
    for start in range(0, len(x), block):
        piece, rest = x[start : start + block], x[start:]
        np.matmul(piece, rest.T, out=out[: len(piece) * len(rest)].reshape(len(piece), len(rest)))


def measures(x: Array, y: Array) -> dict[str, tuple[Work, Work]]:
    """The limit, or scikit-learn's way, and the measure, by name; smaller sets where these were asked for."""
    some, classes = x[: len(x) * 2 // 5], np.arange(len(y)) % 10
    return {
        "memorization_ratio": (lambda: products(x, y), lambda: memorization_ratio(x, y, 0.6)),
        "nearest_ratio": (lambda: products(x, y), lambda: nearest_ratio(x, y)),
        "auth_pct": (lambda: (products(some, y), products_of_pairs(y)), lambda: auth_pct(some, y)),
        "uniformity": (lambda: products_of_pairs(some), lambda: ik.uniformity(some[:, None])),
        "silhouette": (lambda: silhouette_score(y, classes), lambda: ik.silhouette(y, classes)),
        "silhouette_cosine": (
            lambda: silhouette_score(y, classes, metric="cosine"),
            lambda: ik.silhouette(y, classes, metric="cosine"),
        ),
    }


def n_rows(name: str, generated: int, training: int) -> tuple[int, ...]:
    """Rows of each set that a measure of this name gets."""
    if name.startswith("silhouette"):
        return (training,)
    some = generated * 2 // 5
    return (some,) if name == "uniformity" else (some if name == "auth_pct" else generated, training)


def seconds(work: Work) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak(name: str, sizes: tuple[int, int, int]) -> tuple[int, int]:
    """Resident memory of a fresh process after its imports, and at its peak."""
    command = [sys.executable, "-c", ONE, __file__, name, *map(str, sizes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    imports, most = map(int, done.stdout.split())
    return imports, most


def retrieval(folder: Path, sizes: tuple[int, int, int]) -> list[dict[str, object]]:
    """Write the store, read it, and find neighbours in it."""
    n, v, d = sizes
    path = folder / "retrieval-benchmark.cube"
    block = max(1, (32 << 20) // (v * d * 4))
    shutil.rmtree(path, ignore_errors=True)
    try:
        rng = np.random.default_rng(0)
        with ik.CubeWriter(
            path, layers={"maps": d}, sigmas=[0.1], n_views=v, n_images=n, block_size=block
        ) as writer:  # fmt: skip
            for start in tqdm(range(0, n, block), unit="block"):
                ids = np.arange(start, min(start + block, n))
                h = rng.standard_normal((len(ids), v, 1, d), dtype=np.float32)
                h += rng.standard_normal((len(ids), 1, 1, d), dtype=np.float32)
                writer.append(ids, {"maps": h})
        table: list[dict[str, object]] = []
        first = 0.0
        stored = ik.open_cube(path, verify="size").level()
        for start in range(0, n, block):  # fills the system's cache, as far as that goes
            stored[start : start + block].to_numpy()
        for what in ("reading alone", "invariant", "residual"):
            command = [sys.executable, "-c", RETRIEVE, str(path), what, str(block)]
            done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            first = first or done["seconds"]
            table.append(
                {
                    "what": what,
                    "seconds": round(done["seconds"], 2),
                    "ratio": round(done["seconds"] / first, 2),
                    "peak_mb": round(done["peak_mb"]),
                    "imports_mb": round(done["imports_mb"]),
                    "gigabytes": round(n * v * d * 4 / 1e9, 3),
                }
            )
            click.echo("  ".join(f"{key}={value}" for key, value in table[-1].items()))
    finally:
        shutil.rmtree(path, ignore_errors=True)
    return table


@click.command()
@click.option("--generated", default=50_000, show_default=True, help="Rows; 2/5 of them for AuthPct and uniformity.")
@click.option("--training", default=10_000, show_default=True)
@click.option("--features", default=512, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=(1, 2), multiple=True, show_default=True, help="BLAS threads; may be repeated.")
@click.option("--what", default=NAMES, multiple=True, show_default=True, help="May be repeated.")
@click.option("--retrieval", "folder", type=click.Path(file_okay=False, path_type=Path), help="Where to put the store.")
@click.option("--cube", default=(2000, 15, 147_456), nargs=3, show_default=True, help="Images, views, features.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    generated: int,
    training: int,
    features: int,
    rounds: int,
    threads: tuple[int, ...],
    what: tuple[str, ...],
    folder: Path | None,
    cube: tuple[int, int, int],
    out: Path | None,
) -> None:
    """Measure, print and write the table."""
    if folder is not None:
        table = retrieval(folder, cube)
        out = out or RESULTS / "retrieval.csv"
    else:
        sizes = (generated, training, features)
        given = rows(*sizes)
        memory = {name: peak(name, sizes) for name in what}
        table = []
        for n in threads:
            with threadpool_limits(n, user_api="blas"):
                for name in what:
                    limit, work = measures(*given)[name]
                    limit(), work()  # wakes the threads
                    times = np.array([[seconds(limit), seconds(work)] for _ in range(rounds)])
                    row: dict[str, object] = {
                        "threads": n,
                        "what": name,
                        "limit_seconds": round(float(np.median(times[:, 0])), 3),
                        "seconds": round(float(np.median(times[:, 1])), 3),
                        "ratio": round(float(np.median(times[:, 1] / times[:, 0])), 2),
                        "peak_mb": memory[name][1],
                        "imports_mb": memory[name][0],
                        "against": "scikit-learn" if name.startswith("silhouette") else "products",
                        "rows": " x ".join(map(str, n_rows(name, generated, training))),
                        "features": features,
                    }
                    table.append(row)
                    click.echo("  ".join(f"{key}={value}" for key, value in row.items()))
        out = out or RESULTS / "memorization.csv"
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
