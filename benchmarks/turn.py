"""How often a turn is called: in courses that never fall, and in courses that do, by several rules.

    python benchmarks/turn.py

writes ``benchmarks/results/turn.csv``: for each kind of course and each rule the share of courses in which a turn was
called, with its Monte-Carlo error; for courses that fall also how many checkpoints after the peak it was called, and
for the rule in use whether the interval of the fall holds the true fall. A course is 20 checkpoints of features whose
truth is known, read as `TrainingCourse` reads them ("features"); or merits of 200 images drawn directly ("merits",
cheap, for what hangs on folds, looks and correlation alone); or 400 images at a time of the 3,000 that ship with the
package, seen by the network that does, under fresh draws at each checkpoint ("network", needs the ``onnx`` extra).

Residuals are Gaussian, "heavy" (t5 with a scale of its own for each image), "lighter" (from heavy to Gaussian over the
course), or Gaussian with classes among the images. Between checkpoints ``link`` is the correlation of the features'
random parts: 0 stands for fresh residual draws at each, nearly independent readings; above 0 the draws are the same and
the network drifts, .99 slowly.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq
from scipy.special import gammaln
from study import run_cells

import icrkit as ik
from icrkit.readings._course import Turn, find_turn, read_level

RESULTS = Path(__file__).parent / "results" / "turn.csv"
N_CHECKPOINTS, PEAK = 20, 9
N_CLASSES = 10
N_IMAGES = 200  # where merits are drawn
ICR = 0.5  # at the peak
CONFIDENCE = 0.95

Vector = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of course."""

    course: str  # flat; rise: up to the middle, then flat; turn: up to the middle, then down
    source: str = "features"
    criterion: str = "information"
    link: float = 0.0
    residual: str = "gaussian"
    features: int = 32
    images_per_feature: float = 4
    views: int = 2
    folds: int = 20
    checkpoints: int = N_CHECKPOINTS
    fall_percent: float = 0.0


class Course(NamedTuple):
    """Merits (n,), the same without each fold (n, n_folds), and merits by the second estimator (n,)."""

    values: Vector
    replicates: Vector
    second: Vector


READING: dict[str, Any] = {
    "n_folds": 20, "random_state": 0, "drop_constant": False, "regularization": 0.0, "confidence": CONFIDENCE,
}  # fmt: skip

FLAT = [
    Cell("flat"),
    Cell("flat", residual="heavy"),
    Cell("flat", residual="classes", features=16, images_per_feature=16),
    Cell("flat", link=0.9),
    Cell("flat", link=0.9, residual="heavy"),
    Cell("flat", link=0.9, residual="classes", features=16, images_per_feature=8),
    Cell("flat", link=0.99, residual="heavy", features=64),
    Cell("flat", residual="lighter"),
    Cell("flat", link=0.9, residual="lighter", images_per_feature=16),
    *(Cell("flat", criterion="icr", residual="heavy", images_per_feature=ratio) for ratio in (4, 16)),
    Cell("flat", criterion="icr", link=0.9, images_per_feature=8),
    Cell("flat", criterion="icr", residual="lighter", images_per_feature=16),
    Cell("rise", link=0.9),
]
NETWORK = [Cell("flat", "network", residual="real", features=64, images_per_feature=6.25)]
MERITS = [
    *(Cell("flat", "merits", folds=g, residual=law) for g in (10, 20, 40) for law in ("gaussian", "skewed")),
    *(Cell("flat", "merits", link=link, residual="heavy") for link in (0.9, 0.99)),
    Cell("rise", "merits"),
    Cell("flat", "merits", checkpoints=100),
    Cell("flat", "merits", link=0.9, checkpoints=100),
]
TURN = [
    Cell("turn", link=link, residual="heavy", images_per_feature=ratio, fall_percent=fall)
    for link, ratio, fall in itertools.product((0.0, 0.9), (4, 8, 16), (2, 5, 10, 20))
]
CELLS = (*FLAT, *MERITS, *NETWORK, *TURN)


# ---- courses --------------------------------------------------------------------------------------------------------


def shape(cell: Cell) -> Vector:
    """Information at each checkpoint, as a share of that at the peak."""
    n = cell.checkpoints
    if cell.course == "flat":
        return np.ones(n)
    peak = PEAK * n // N_CHECKPOINTS
    rise = 0.6 + 0.4 * (1 - np.linspace(1, 0, peak + 1) ** 2)
    return np.append(rise, 1 - cell.fall_percent / 100 * np.arange(1, n - peak) / (n - peak - 1))


def information_of(ratios: Vector) -> float:
    """1/2 sum log(1 + lambda)."""
    return float(0.5 * np.log1p(ratios).sum())


def spectra(cell: Cell) -> Vector:
    """True signal-to-noise ratios at each checkpoint, (n_checkpoints, n_features)."""
    ratios = np.geomspace(1.0, 0.01, cell.features)
    ratios *= (1 / ICR - 1) / ratios.mean()
    whole = information_of(ratios)
    factors = [
        1.0 if share == 1 else brentq(lambda f, share=share: information_of(f * ratios) - share * whole, 1e-6, 10)
        for share in shape(cell)
    ]
    return np.outer(factors, ratios)


def drifting(rng: np.random.Generator, before: Vector | None, link: float, size: tuple[int, ...]) -> Vector:
    """Standard normal numbers that correlate with those of the checkpoint before."""
    fresh = rng.standard_normal(size)
    return fresh if before is None else link * before + np.sqrt(1 - link**2) * fresh


def features_of(cell: Cell, rng: np.random.Generator) -> Any:
    """Features (image, view, feature) of one checkpoint after the other."""
    n, v, d = round(cell.images_per_feature * cell.features), cell.views, cell.features
    heavy = cell.residual in ("heavy", "lighter")
    scale = rng.gamma(2.0, 0.5, (n, 1, 1))
    classes = rng.standard_normal((N_CLASSES, d))
    classes = ((classes - classes.mean(axis=0)) / classes.std(axis=0))[np.sort(np.arange(n) % N_CLASSES)]
    invariant = residual = tails = None
    for k, ratios in enumerate(spectra(cell)):
        # Fresh residuals are those of the same images.
        invariant = drifting(rng, invariant, cell.link or 1.0, (n, d))
        residual = drifting(rng, residual, cell.link, (n, v, d))
        if heavy and (tails is None or cell.link == 0):
            tails = scale * 3 / rng.chisquare(5, (n, v, 1))
        signal = np.sqrt(0.5) * (invariant + classes) if cell.residual == "classes" else invariant
        power = 1 - k / (cell.checkpoints - 1) if cell.residual == "lighter" else 1.0
        size = 1.0 if tails is None else np.sqrt(tails**power / mean_of_power(power))
        yield np.sqrt(ratios) * signal[:, None] + residual * size


def mean_of_power(power: float) -> float:
    """Mean of a power of the squared tails, 3 gamma(2, 1/2)/chi2(5)."""
    of_gamma = gammaln(2 + power) + power * np.log(0.5)
    return float(np.exp(of_gamma + power * np.log(1.5) + gammaln(2.5 - power) - gammaln(2.5)))


def truth(cell: Cell) -> Vector:
    """True value of the criterion at each checkpoint."""
    if cell.source != "features":
        return shape(cell)
    ratios = spectra(cell)
    if cell.criterion == "icr":
        return np.asarray(1 / (1 + ratios.mean(axis=1)))
    return np.array([information_of(one) for one in ratios])


def read_course(cell: Cell, seed: int) -> Course:
    """What is read off a course."""
    rng = np.random.default_rng(seed)
    if cell.source == "merits":
        return draw_merits(cell, rng)
    given = features_of(cell, rng)
    if cell.source == "network":
        rows = rng.permutation(3000)[: round(cell.images_per_feature * cell.features)]
        given = (h[rows] for h in features_of_network())
    read = [
        read_level(ik.Moments.from_cube(h, n_folds=cell.folds, random_state=seed), "", **READING)[1].look(
            cell.criterion
        )
        for h in given
    ]
    values, replicates, second = zip(*read, strict=True)
    return Course(np.array(values), np.array(replicates), np.array(second))


@functools.cache
def features_of_network() -> list[NDArray[np.float32]]:
    """Features of all images that ship with the package, by a network that does, once for each checkpoint."""
    from icrkit_extractors import OnnxSource, extract, noise, views

    source = OnnxSource(ik.datasets.data_path("fashion_denoiser.onnx"), layers=["mid"])
    images = np.concatenate([ik.datasets.load_fashion_images(subset).images for subset in ("train", "test")])
    cubes = (
        extract(source, images, [0.3], noise=noise.EDM(), views=views.Fashion(), seed=seed, progress=False)
        for seed in range(N_CHECKPOINTS)
    )
    return [cube.level().to_numpy() for cube in cubes]


def draw_merits(cell: Cell, rng: np.random.Generator) -> Course:
    """Merits that are means over images, each image with a fold, and the same without each fold."""
    scale = np.sqrt(rng.gamma(2.0, 0.5, N_IMAGES) / rng.chisquare(5, N_IMAGES)) if cell.residual == "heavy" else 1.0
    draws = np.empty((N_IMAGES, cell.checkpoints))
    state = None
    for k in range(cell.checkpoints):
        state = drifting(rng, state, cell.link, (N_IMAGES,))
        skewed = cell.residual == "skewed"
        draws[:, k] = stats.expon.isf(stats.norm.sf(state)) if skewed else state * scale
    member = np.eye(cell.folds)[rng.integers(cell.folds, size=N_IMAGES)]
    sums, counts = member.T @ draws, member.sum(axis=0)
    level = shape(cell)
    without = (draws.sum(axis=0) - sums) / (N_IMAGES - counts)[:, None]
    values = level + draws.mean(axis=0)
    return Course(values, (level + without).T, values)


# ---- rules ----------------------------------------------------------------------------------------------------------


def contributions(course: Course) -> Vector:
    """What each fold contributes: their mean is the merit, the error of their mean is the jackknife's."""
    g = course.replicates.shape[1]
    return course.values[:, None] + (g - 1) * (course.replicates.mean(axis=1, keepdims=True) - course.replicates)


def spent(k: int) -> float:
    """Error that look k may add, of 5 % for all looks: as in `find_turn`."""
    return (1 - CONFIDENCE) * (k / (k + 10) - (k - 1) / (k + 9))


def against_best(
    folds: Vector, limit: Callable[[int, int], float], chosen_on: Vector | None = None
) -> NDArray[np.bool_]:
    """At each checkpoint: is the paired t of its fall from the best so far above a limit (look, folds)?"""
    height = (folds if chosen_on is None else chosen_on).mean(axis=1)
    g = folds.shape[1]
    found = np.zeros(len(folds), dtype=bool)
    for k in range(1, len(folds)):
        fall = folds[height[:k].argmax()] - folds[k]
        found[k] = fall.mean() > limit(k, g) * fall.std(ddof=1) / np.sqrt(g)
    return found


def turn_of(course: Course) -> Turn:
    """By the rule in use."""
    return find_turn(course.values, course.replicates, CONFIDENCE, second=course.second)


def sign_changes(course: Course) -> NDArray[np.bool_]:
    """The rule in use."""
    return turn_of(course).significant


def one_estimator(course: Course) -> NDArray[np.bool_]:
    """The same without the second estimator, as all of the following."""
    return find_turn(course.values, course.replicates, CONFIDENCE).significant


def naive(course: Course) -> NDArray[np.bool_]:
    """Each checkpoint against the best so far, as if that had been named beforehand."""
    return against_best(contributions(course), lambda k, g: float(stats.t.ppf(CONFIDENCE, g - 1)))


def bonferroni(course: Course) -> NDArray[np.bool_]:
    """The same, paying for all pairs at every look; looks share the error as in the rule in use."""
    folds = contributions(course)
    return against_best(folds, lambda k, g: float(stats.t.isf(spent(k) / k, g - 1)))


def studentised_range(course: Course) -> NDArray[np.bool_]:
    """The same by the quantile of the range of 20 means (Tukey & Kramer), whose number has to be known."""
    return against_best(contributions(course), lambda k, g: range_limit(g))


@functools.cache
def range_limit(n_folds: int) -> float:
    """Limit of t by the range of 20 means; scipy takes long over it."""
    return float(stats.studentized_range.ppf(CONFIDENCE, N_CHECKPOINTS, n_folds - 1)) / np.sqrt(2)


def half_sample(course: Course) -> NDArray[np.bool_]:
    """The best is chosen on one half of the folds, the fall is tested on the other."""
    folds = contributions(course)
    return against_best(folds[:, 1::2], lambda k, g: float(stats.t.isf(spent(k), g - 1)), folds[:, ::2])


def multiplier_bootstrap(course: Course) -> NDArray[np.bool_]:
    """The greatest of all pairs by Gaussian weights of the folds (Chernozhukov, Chetverikov & Kato 2013)."""
    folds = contributions(course)
    g = folds.shape[1]
    weights = np.random.default_rng(0).standard_normal((4000, g))
    found = np.zeros(len(folds), dtype=bool)
    for k in range(1, len(folds)):
        falls = folds[:k] - folds[k]
        centred = falls - falls.mean(axis=1, keepdims=True)
        size = np.sqrt(np.square(centred).sum(axis=1))
        greatest = (weights @ (centred / size[:, None]).T).max(axis=1)
        t = falls.mean(axis=1) / (size / np.sqrt(g * (g - 1)))
        found[k] = t.max() > np.quantile(greatest, 1 - spent(k))
    return found


RULES: dict[str, Callable[[Course], NDArray[np.bool_]]] = {
    "sign changes": sign_changes,
    "one estimator": one_estimator,
    "naive": naive,
    "Bonferroni": bonferroni,
    "studentised range": studentised_range,
    "half-sample": half_sample,
    "multiplier bootstrap": multiplier_bootstrap,
}


# ---- table ----------------------------------------------------------------------------------------------------------


def run_cell(cell: Cell, repeats: int) -> list[dict[str, object]]:
    """Rows of the table, one a rule."""
    peak = PEAK * cell.checkpoints // N_CHECKPOINTS if cell.course == "turn" else 0
    found = {rule: np.zeros((repeats, cell.checkpoints), dtype=bool) for rule in RULES}
    values = truth(cell)
    fall = values.max() - values[-1]  # of information
    falls, covered = np.zeros(repeats), np.zeros(repeats, dtype=bool)
    for i in range(repeats):
        course = read_course(cell, seed=i)
        for rule, judge in RULES.items():
            found[rule][i] = judge(course)
        turn = turn_of(course)
        falls[i] = turn.fall
        covered[i] = turn.low <= fall <= turn.high
    rows = []
    for rule, significant in found.items():
        late = significant[:, peak + 1 :]
        called = late.any(axis=1)
        row: dict[str, object] = dataclasses.asdict(cell) | {
            "rule": rule,
            "called": round(called.mean(), 4),
            "called_error": round(np.sqrt(called.mean() * (1 - called.mean()) / repeats), 4),
            "early": round(significant[:, : peak + 1].any(axis=1).mean(), 4) if peak else "",
            "delay": round(1 + late[called].argmax(axis=1).mean(), 2) if peak and called.any() else "",
            "repeats": repeats,
        }
        # The fall of ICR is tested on another scale.
        known = rule == "sign changes" and cell.criterion == "information"
        row["fall_true"] = round(fall, 4) if known else ""
        row["fall_mean"] = round(falls.mean(), 4) if known else ""
        row["fall_coverage"] = round(covered.mean(), 4) if known else ""
        rows.append(row)
    return rows


@click.command()
@click.option("--repeats", default=600, show_default=True, help="Of courses that do not fall.")
@click.option("--power-repeats", default=150, show_default=True, help="Of courses that do.")
@click.option("--jobs", default=1, show_default=True)
@click.option(
    "--only", default="", help="Cells of this course (flat, rise, turn) or source (features, merits, network)."
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def main(repeats: int, power_repeats: int, jobs: int, only: str, out: Path) -> None:
    """Run every cell; an hour and a half of one core."""
    cells = [cell for cell in CELLS if not only or only in (cell.course, cell.source)]
    tasks = ((cell, power_repeats if cell.course == "turn" else repeats) for cell in cells)
    click.echo(tables(run_cells(run_cell, tasks, jobs, out)))


def tables(rows: list[dict[str, object]]) -> str:
    """Calls in per cent, a line a cell and a column a rule, as tables for the documentation."""
    lines = []
    for turns in (False, True):
        chosen = [row for row in rows if (row["course"] == "turn") == turns]
        if not chosen:
            continue
        names = ["course", "source", "criterion", "link", "residual", "features", "images_per_feature", "folds"]
        names = ["link", "images_per_feature", "fall_percent"] if turns else [*names, "checkpoints"]
        head = [*names, *RULES, *(["delay"] if turns else [])]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for start in range(0, len(chosen), len(RULES)):
            group = chosen[start : start + len(RULES)]
            cell = [f"{group[0][name]}" for name in names]
            cell += [f"{100 * float(str(row['called'])):.1f}" for row in group]
            lines.append("| " + " | ".join([*cell, *([f"{group[0]['delay']}"] if turns else [])]) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
