"""Time of one ICR fit, as a ratio to the least that any implementation must do.

    python benchmarks/speed.py

The limit is one symmetric rank-k update (BLAS ssyrk, in blocks) over the same rows: N V d (d + 1) flops. Everything
runs in turn, several rounds in one process, and each ratio is taken within its round, so that a noisy machine moves
both sides. Writes ``benchmarks/results/speed.csv``.
"""

from __future__ import annotations

import csv
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from threadpoolctl import threadpool_info, threadpool_limits

import icrkit as ik

RESULTS = Path(__file__).parent / "results" / "speed.csv"
Array = NDArray[np.float32]


def iid(n_images: int, n_views: int, d: int, condition: float = 1.0) -> Array:
    """Features with true ICR 1/2, and a residual covariance of the given condition number after scaling."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((n_images, n_views, d), dtype=np.float32)
    h += rng.standard_normal((n_images, 1, d), dtype=np.float32)
    if condition > 1:
        h *= np.geomspace(1, condition**-0.5, d).astype(np.float32)
        rotation, _ = np.linalg.qr(rng.standard_normal((d, d)))
        h = (h.reshape(-1, d) @ rotation.astype(np.float32)).reshape(h.shape)
    return h


def limit(h: Array, rows_a_block: int = 2048) -> None:
    """The bare rank-k update."""
    rows = h.reshape(-1, h.shape[2])
    total = np.zeros((h.shape[2],) * 2, np.float32, order="F")
    for start in range(0, len(rows), rows_a_block):
        block = rows[start : start + rows_a_block]
        total = blas.ssyrk(1.0, block.T, beta=1.0, c=total, overwrite_c=1)


def numpy_script(h: Array) -> float:
    """What a user would write from the paper's formula."""
    t, e = (h[:, 0] + h[:, 1]) / 2, h[:, 0] - h[:, 1]
    residual = np.cov(e.T) / 2
    invariant = np.cov(t.T) - residual / 2
    d = h.shape[2]
    return float(d / (d + np.trace(np.linalg.solve(residual, invariant))))


def lda(h: Array) -> None:
    """Fisher's discriminant with each image a class: the same spectrum, by the library people know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        LinearDiscriminantAnalysis().fit(h.reshape(-1, h.shape[2]), np.repeat(np.arange(len(h)), h.shape[1]))


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(h: Array, case: str, rounds: int, with_lda: bool) -> list[dict[str, object]]:
    """Median seconds and ratio to the limit of each contender."""
    contenders: dict[str, Callable[[], object]] = {
        "limit: ssyrk over the rows": lambda: limit(h),
        "icrkit, no folds": lambda: ik.ICREstimator(n_folds=0).fit(h),
        "icrkit, 10 folds, crossfit, interval": lambda: ik.ICREstimator(correction="crossfit").fit(h).interval_,
        "np.cov script": lambda: numpy_script(h),
    }
    limit(h)  # wakes the threads
    for work in contenders.values():
        work()
    times = np.array([[seconds(work) for work in contenders.values()] for _ in range(rounds)])
    ratios = np.median(times / times[:, :1], axis=0)
    rows = [
        {"case": case, "what": name, "seconds": round(s, 3), "ratio": round(r, 2)}
        for name, s, r in zip(contenders, np.median(times, axis=0), ratios, strict=True)
    ]
    if with_lda:
        once = seconds(lambda: lda(h))
        ratio = once / float(np.median(times[:, 0]))
        rows.append(
            {"case": case, "what": "scikit-learn LDA, once", "seconds": round(once, 3), "ratio": round(ratio, 2)}
        )
    return rows


@click.command()
@click.option("--images", default=16384, show_default=True)
@click.option("--features", default=1152, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--threads", default=(1, 2), multiple=True, show_default=True, help="BLAS threads; may be repeated.")
@click.option("--lda/--no-lda", "with_lda", default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(images: int, features: int, rounds: int, threads: tuple[int, ...], with_lda: bool, out: Path) -> None:
    """Measure, print and write the table."""
    cases = {"iid": iid(images, 2, features), "condition 1e5": iid(images, 2, features, 1e5)}
    rows = []
    for n in threads:
        with threadpool_limits(n, user_api="blas"):
            for case, h in cases.items():
                for row in measure(h, case, rounds, with_lda and case == "iid" and n == max(threads)):
                    row = {"threads": n, **row, "N": images, "V": 2, "d": features}
                    rows.append(row)
                    click.echo("  ".join(f"{key}={value}" for key, value in row.items()))
    kernels = {f"{i['internal_api']} {i.get('version')} {i.get('architecture', '')}" for i in threadpool_info()}
    click.echo(f"BLAS: {', '.join(sorted(kernels))}")
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
