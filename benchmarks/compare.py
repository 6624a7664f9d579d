"""Time of all moment-based metrics together, as a ratio to one ICR fit and what else of d x d they need.

    python benchmarks/compare.py

Everything runs in turn, in random order, several rounds in one process; each ratio is taken within its round, and the
median given. Seconds and ratios are of the processor in user mode; ``_system`` says what the system took beside it, for
pages of memory mostly, which hangs on what ran before and on what else the machine does; ratios ``_whole`` are of both.

What else of d x d they need are bare calls of LAPACK: the eigenvalues of single rows about their mean and about the
origin, LiDAR's generalised ones, and the information's inverses of the covariance of single views without each fold,
with its determinants. The metrics of single rows see one view, in float64: the product that takes is not in an ICR fit,
and is timed beside it. Writes ``benchmarks/results/compare.csv``.
"""

from __future__ import annotations

import csv
import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, eigh
from threadpoolctl import threadpool_limits

import icrkit as ik
from icrkit.linalg import SpdFactor
from icrkit.metrics import known_metrics

RESULTS = Path(__file__).parent / "results" / "compare.csv"


def features(n_images: int, n_views: int, d: int, dtype: str) -> NDArray[np.floating]:
    """Features with true ICR 1/2."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((n_images, n_views, d), dtype=np.float32)
    h += rng.standard_normal((n_images, 1, d), dtype=np.float32)
    return h.astype(dtype)


def icr_fit(h: NDArray[np.floating]) -> ik.Moments:
    """One ICR fit with folds and interval."""
    est = ik.ICREstimator(correction="crossfit").fit(h)
    assert est.interval_
    return est.moments_


def eigenproblems(moments: ik.Moments) -> None:
    """All of d x d that an ICR fit has not, and no more: each eigenproblem and each inverse once."""
    total = moments.total
    np.linalg.eigvalsh(total.between)
    np.linalg.eigvalsh(total.between)
    eigh(total.between, total.within_uncentred, eigvals_only=True, check_finite=False)
    single = total.between + total.within  # the cost does not depend on what is in it
    for _ in range(moments.n_folds):
        SpdFactor(single.T.astype(moments.products, order="F"), overwrite=True).inverse_lower(consume=True)
    SpdFactor(single).trace_powers(total.between)  # of all images, and how many degrees of freedom it has
    SpdFactor(total.within)


def one_view_product(h: NDArray[np.floating], rows_a_block: int = 1024) -> None:
    """The bare rank-k update of one view's rows in float64."""
    total = np.zeros((h.shape[2],) * 2, order="F")
    for start in range(0, len(h), rows_a_block):
        block = h[start : start + rows_a_block, 0].astype(np.float64)
        total = blas.dsyrk(1.0, block.T, beta=1.0, c=total, lower=1, overwrite_c=1)


def one_by_one(h: NDArray[np.floating]) -> None:
    """Each estimator on its own, as a user would write it."""
    for make in dict.fromkeys(metric.make for metric in known_metrics().values() if metric.takes_moments):
        make().fit(h)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Processor time of one call, in user mode and in the system."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    # What takes less than the system's clock ticks still takes time.
    return max(after.ru_utime - before.ru_utime, 1e-6), after.ru_stime - before.ru_stime


def measure(h: NDArray[np.floating], rounds: int) -> dict[str, float]:
    """Median seconds, and the ratios of `compare` to what it is measured against."""
    cube = ik.from_arrays(h)
    moments = icr_fit(h)
    works: dict[str, Callable[[], object]] = {
        "icr_fit": lambda: icr_fit(h),
        "eigenproblems": lambda: eigenproblems(moments),
        "one_view_product": lambda: one_view_product(h),
        "compare": lambda: ik.compare(cube, "moments"),
        "one_by_one": lambda: one_by_one(h),
    }
    times, system = np.empty((2, len(works), rounds))
    rng = np.random.default_rng(0)
    for i in range(rounds):
        for k in rng.permutation(len(works)):  # memory that the work before gave back is cheaper to get
            times[k, i], system[k, i] = seconds(list(works.values())[k])
    found = {name: round(float(np.median(t)), 3) for name, t in zip(works, times, strict=True)}
    found |= {f"{name}_system": round(float(np.median(t)), 3) for name, t in zip(works, system, strict=True)}
    for suffix, clock in (("", times), ("_whole", times + system)):
        found |= {name + suffix: round(float(np.median(ratio)), 2) for name, ratio in ratios(clock).items()}
    return found


def ratios(times: NDArray[np.float64]) -> dict[str, Any]:
    """Of the times of the five works in their order."""
    fit, eig, product, together, apart = times
    return {
        "to_fit_and_eigenproblems": together / (fit + eig),
        "to_these_and_product": together / (fit + eig + product),
        "less_product": (together - product) / (fit + eig),
        "one_by_one_to_compare": apart / together,
    }


@click.command()
@click.option("--images", default=16384, show_default=True)
@click.option("--features", "d", default=(1152,), multiple=True, show_default=True, help="May be repeated.")
@click.option("--views", default=(2, 4), multiple=True, show_default=True, help="May be repeated.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--threads", default=1, show_default=True, help="BLAS threads.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(images: int, d: tuple[int, ...], views: tuple[int, ...], rounds: int, threads: int, out: Path) -> None:
    """Measure, print and write the table."""
    rows = []
    with threadpool_limits(threads, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for width in d:
            for v in views:
                for dtype in ("float32", "float64"):
                    row = {"dtype": dtype, "N": images, "V": v, "d": width, "threads": threads}
                    rows.append(row | measure(features(images, v, width, dtype), rounds))
                    click.echo("  ".join(f"{key}={value}" for key, value in rows[-1].items()))
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
