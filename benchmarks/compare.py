"""Time of all moment-based metrics together, as a ratio to one ICR fit and what else of d x d they need.

    python benchmarks/compare.py

Everything runs in turn, in random order, several rounds in one process; each ratio is taken within its round, and the
median given. Seconds are of the processor, in user mode and in the system together. Before each call, as much memory is
taken and given back as any of them needs, so that none pays for another's giving its memory back to the machine.

What else of d x d they need are bare calls of LAPACK: the eigenvalues of single rows about their mean and about the
origin, and LiDAR's generalised ones. Invariant information needs inverses of the covariance of single views without
each fold, and its determinant: `compare` is timed with it, and against these too, and without it.

Features are float64, float32, and float32 with a residual of condition number 1e4, as real features have it, for which
products in float32 do not suffice. Writes ``benchmarks/results/compare.csv``.
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
from scipy.linalg import eigh
from speed import iid
from threadpoolctl import threadpool_limits

import icrkit as ik
from icrkit.linalg import SpdFactor
from icrkit.metrics import known_metrics

RESULTS = Path(__file__).parent / "results" / "compare.csv"
CASES = (("float32", 1.0), ("float32", 1e4), ("float64", 1.0))  # type, condition number of the residual


def icr_fit(h: NDArray[np.floating]) -> ik.Moments:
    """One ICR fit with folds and interval."""
    est = ik.ICREstimator(correction="crossfit").fit(h)
    assert est.interval_
    return est.moments_


def one_eigenproblem(moments: ik.Moments) -> None:
    """Eigenvalues of single rows about one origin."""
    np.linalg.eigvalsh(moments.total.between)


def eigenproblems(moments: ik.Moments) -> None:
    """All eigenproblems that an ICR fit has not, each once: of single rows about two origins, and LiDAR's."""
    total = moments.total
    one_eigenproblem(moments)
    one_eigenproblem(moments)
    eigh(total.between, total.within_uncentred, eigvals_only=True, check_finite=False)


def information_needs(moments: ik.Moments) -> None:
    """What of d x d invariant information adds to an ICR fit."""
    total = moments.total
    single = total.between + total.within  # the cost does not depend on what is in it
    for _ in range(moments.n_folds):
        SpdFactor(single.T.astype(moments.products, order="F"), overwrite=True).inverse_lower(consume=True)
    SpdFactor(single.T).trace_powers(total.between)  # of all images, and how many degrees of freedom it has


def names(information: bool) -> list[str]:
    """Metrics of one set for which moments suffice."""
    found = [metric.name for metric in known_metrics().values() if metric.takes_moments and not metric.two_sets]
    return [name for name in found if information or name != "information"]


def one_by_one(h: NDArray[np.floating]) -> None:
    """Each estimator on its own, as a user would write it."""
    for make in dict.fromkeys(metric.make for metric in known_metrics().values() if metric.takes_moments):
        make().fit(h)


def seconds(work: Callable[[], object], n_bytes: int) -> float:
    """Processor time of one call, with so much memory at hand."""
    np.ones(n_bytes, dtype=np.uint8)
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(h: NDArray[np.floating], rounds: int) -> dict[str, float | str]:
    """Median seconds, and the ratios of `compare` to what it is measured against."""
    cube = ik.from_arrays(h)
    moments = icr_fit(h)
    works: dict[str, Callable[[], object]] = {
        "icr_fit": lambda: icr_fit(h),
        "one_eigenproblem": lambda: one_eigenproblem(moments),
        "eigenproblems": lambda: eigenproblems(moments),
        "information_needs": lambda: information_needs(moments),
        "compare": lambda: ik.compare(cube, names(information=True)),
        "without_information": lambda: ik.compare(cube, names(information=False)),
        "one_by_one": lambda: one_by_one(h),
    }
    n_bytes = 4 * moments.within.nbytes
    times = np.empty((len(works), rounds))
    rng = np.random.default_rng(0)
    for i in range(rounds):
        for k in rng.permutation(len(works)):
            times[k, i] = seconds(list(works.values())[k], n_bytes)
    fit, one, eig, more, together, without, apart = times
    ratios = {
        "without_information_to_fit_and_eigenproblems": without / (fit + eig),
        "compare_to_fit_and_needs": together / (fit + eig + more),
        # One reduction serves both origins: as if the second eigenproblem cost nothing.
        "without_information_to_least": without / (fit + eig - one),
        "compare_to_least": together / (fit + eig - one + more),
        "one_by_one_to_compare": apart / together,
    }
    found: dict[str, float | str] = {"products": moments.products}
    found |= {name: round(float(np.median(t)), 3) for name, t in zip(works, times, strict=True)}
    return found | {name: round(float(np.median(ratio)), 2) for name, ratio in ratios.items()}


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
                for dtype, condition in CASES:
                    case = {"dtype": dtype, "condition": f"{condition:g}", "N": images, "V": v, "d": width}
                    h = iid(images, v, width, condition).astype(dtype)
                    rows.append(case | {"threads": threads} | measure(h, rounds))
                    click.echo("  ".join(f"{key}={value}" for key, value in rows[-1].items()))
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
