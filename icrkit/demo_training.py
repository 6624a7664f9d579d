"""A training watched while it runs: a small network learns 128 digits, then begins to copy them, and is told to stop.

At a dozen checkpoints the features of held-out images are read, without labels and without samples. Beside them stands
what they are to foretell: the loss on held-out images, and how many generated images come close to a training image.
This is what ``icrkit demo --train`` runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icrkit._progress import progress_bar
from icrkit.cube import Cube
from icrkit.exceptions import MissingDependencyError
from icrkit.io import write_file
from icrkit.metrics import NearestRatio
from icrkit.plot._copies import CopiesDisplay
from icrkit.plot._style import save_figure
from icrkit.readings._monitor import ICRMonitor
from icrkit.report import Course, Samples, Series, write_report

__all__ = [
    "Checkpoint",
    "DigitsSplit",
    "TrainingDemoResult",
    "checkpoint_steps",
    "digits_split",
    "run_training_demo",
    "train_digits",
]

LAYERS = ("mid", "dec.8x8_block0")
SIGMAS = (0.1, 0.3, 0.6)
N_VIEWS = 8
# The call is made on one layer at one level, named before the training begins.
CALLED_LAYER, CALLED_SIGMA = "dec.8x8_block0", 0.3
# Of digits that do not train the network this share is as near to a training image as what counts as a near copy.
NEAR = 0.01
# The share of copies whose passing is worth a word.
MANY = 0.05
_WIDTH = 32
_SHOWN = 8


class DigitsSplit(NamedTuple):
    """Digits (n, 1, 8, 8) float32 in [-1, 1]: those that train, those held out with id and class, and all unseen.

    Unseen are all that do not train; the images held out are the first of them.
    """

    train: NDArray[np.float32]
    held_out: NDArray[np.float32]
    ids: list[str]
    labels: NDArray[np.int64]
    unseen: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A network in training at one step.

    Attributes
    ----------
    step : int
    cube : Cube
        Features of the held-out images under its averaged weights; its attributes hold the numbers below.
    training_loss : float
        Mean since the checkpoint before.
    held_out_loss : float
        Of held-out images, under the same draws at every checkpoint.
    nearest_ratio : float
        Share of generated images that are copies: :func:`icrkit.nearest_ratio` in pixels.
    near_copies : float
        Share of generated images nearer to a training image than 99 of 100 unseen images are.
    generated : ndarray (n, 1, 8, 8), float32
        From the same noise at every checkpoint.
    nearest : ndarray (n,)
        Number of the training image nearest to each.
    ratio : ndarray (n,)
        Distance to it over distance to the second nearest.
    near : ndarray (n,), bool
        Which of them `near_copies` counts.
    """

    step: int
    cube: Cube
    training_loss: float
    held_out_loss: float
    nearest_ratio: float
    near_copies: float
    generated: NDArray[np.float32]
    nearest: NDArray[np.int64]
    ratio: NDArray[np.float64]
    near: NDArray[np.bool_]


def digits_split(n_images: int = 128, n_held_out: int = 500, seed: int = 0) -> DigitsSplit:
    """Digits in an order drawn by the seed: the first are held out, the next train.

    Parameters
    ----------
    n_images, n_held_out : int
        1,797 in all.
    seed : int

    Returns
    -------
    DigitsSplit

    Raises
    ------
    ValueError
        If so many digits there are not.

    References
    ----------
    Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository; the part that
    comes with scikit-learn.

    Examples
    --------
    >>> digits_split(3, 2).ids
    ['digit-360', 'digit-1773']
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    total = len(digits.images)
    if n_images < 2 or n_held_out < 2 or n_images + n_held_out > total:
        raise ValueError(
            f"n_images and n_held_out must be 2 or more, together at most {total}, not {n_images} and {n_held_out}"
        )
    pixels = (digits.images[:, None] / 8.0 - 1.0).astype(np.float32)
    order = np.random.default_rng(seed).permutation(total)
    out, train, rest = np.split(order, [n_held_out, n_held_out + n_images])
    return DigitsSplit(
        pixels[train],
        pixels[out],
        [f"digit-{i}" for i in out],
        digits.target[out].astype(np.int64),
        pixels[np.concatenate([out, rest])],
    )


def checkpoint_steps(n_steps: int = 600, n_checkpoints: int = 12, factor: float = 1.25) -> tuple[int, ...]:
    """Steps that end with the last, each a factor apart from the next.

    Examples
    --------
    >>> checkpoint_steps()
    (52, 64, 81, 101, 126, 157, 197, 246, 307, 384, 480, 600)
    """
    return tuple(sorted({max(1, round(n_steps / factor**k)) for k in range(n_checkpoints)}))


def train_digits(
    split: DigitsSplit,
    steps: Sequence[int],
    *,
    sigmas: Sequence[float] = SIGMAS,
    layers: Sequence[str] = LAYERS,
    n_views: int = N_VIEWS,
    n_generated: int = 256,
    seed: int = 0,
    report: Callable[[Checkpoint], str] | None = None,
    progress: bool = True,
) -> list[Checkpoint]:
    """Train a denoiser on digits and look at it at some steps.

    Parameters
    ----------
    split : DigitsSplit
    steps : sequence of int
        Where to look, ascending; training ends at the last.
    sigmas, layers, n_views
        Of the features of the held-out images.
    n_generated : int
        Images generated at each checkpoint.
    seed : int
        Of weights, batches, noise, views and generated images.
    report : callable (Checkpoint) -> str, optional
        Called at each; what it returns is shown beside the bar.
    progress : bool
        Show a bar.

    Returns
    -------
    list of Checkpoint

    Notes
    -----
    The network is `icrkit_extractors.models.denoiser.SmallUNet`, 32 features wide, 0.4 M parameters; batches of 128,
    Adam at 1e-3 along a cosine, and everything is read from its moving average. Views are `views.Digits`, with the same
    draws at every checkpoint. All of it runs on one thread: the course does not depend on the number of cores.
    """
    from icrkit_extractors import TorchSource, extract, noise, views
    from icrkit_extractors.models.denoiser import held_out_loss, one_thread, sample, seeded_unet, train

    copies = NearestRatio().fit(_rows(split.train))
    copies.evaluate(_rows(split.unseen))
    near = float(np.quantile(copies.distance_, NEAR))
    found: list[Checkpoint] = []
    since: list[float] = []
    shape = split.train.shape[1:]

    def look(step: int, net: Any) -> Checkpoint:
        generated = sample(net, n_generated, shape=shape, seed=seed)
        share = copies.evaluate(_rows(generated))
        is_near = copies.distance_ < near
        numbers = {
            "training_loss": float(np.mean(since)),
            "held_out_loss": held_out_loss(net, split.held_out),
            "nearest_ratio": share,
            "near_copies": float(is_near.mean()),
        }
        cube = extract(
            TorchSource(net, layers), split.held_out, sigmas, noise=noise.EDM(), views=views.Digits(), n_views=n_views,
            labels=split.labels, image_ids=split.ids, seed=seed, progress=False,
            attrs={"step": step, "n_training_images": len(split.train), **numbers},
        )  # fmt: skip
        return Checkpoint(
            step, cube, **numbers, generated=generated, nearest=copies.nearest_, ratio=copies.ratio_, near=is_near
        )

    net = seeded_unet(resolution=shape[-1], width=_WIDTH, seed=seed)
    with one_thread(), progress_bar(progress, steps[-1], "train", "step") as bar:

        def after(step: int, ema: Any, loss: float) -> None:
            since.append(loss)
            bar.update()
            if step in steps:
                found.append(look(step, ema))
                since.clear()
                said = "" if report is None else f", {report(found[-1])}"
                bar.set_postfix_str(f"loss {found[-1].training_loss:.3f}{said}")

        train(net, split.train, n_steps=steps[-1], seed=seed, report=after, report_steps=range(1, steps[-1] + 1))
    return found


def _rows(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1)


# ---- what is written ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrainingDemoResult:
    """What the demo found, and the files it wrote by what they are: figure, samples, report, result."""

    course: Course
    checkpoints: list[Checkpoint]
    files: dict[str, Path]

    @property
    def notes(self) -> list[str]:
        """What the numbers beside the readings are."""
        return [
            "Copies: generated images less than a third as far from one training image as from any other.",
            "Near copies: nearer to a training image than 99 of 100 digits that the network never saw.",
        ]


def run_training_demo(
    out: str | Path = "icrkit-demo-train",
    *,
    n_images: int = 128,
    n_steps: int = 600,
    n_checkpoints: int = 12,
    n_held_out: int = 500,
    n_generated: int = 256,
    n_views: int = N_VIEWS,
    seed: int = 0,
    progress: bool = True,
) -> TrainingDemoResult:
    """Train a small diffusion model on few digits, watch its features, and say when to stop.

    Parameters
    ----------
    out : path
        Folder for ``course.png``, ``samples.png``, ``report.html`` and ``result.json``.
    n_images : int
        Digits that train.
    n_steps, n_checkpoints : int
        Steps of 128 images, and how many times the network is looked at, the last at the end, each 1.25 times as many
        steps in as the one before.
    n_held_out, n_views : int
        Digits whose features are read, and views of each.
    n_generated : int
        Images generated at each checkpoint.
    seed : int
        Of the split, the weights, the training, views, noise and generated images.
    progress : bool
        Show bars on standard error, and beside the training what is found on the way.

    Returns
    -------
    TrainingDemoResult

    Raises
    ------
    MissingDependencyError
        If the packages of the ``demo`` and ``torch`` extras are not installed.
    ValueError
        If there are not so many digits, or steps for three checkpoints.

    Notes
    -----
    The turn is called on invariant information of layer ``dec.8x8_block0`` at noise level 0.3. What is shown while the
    training runs comes from :class:`icrkit.ICRMonitor`, which sees no later checkpoint; the training goes on to show
    what the call has spared.
    """
    for name in ("torch", "matplotlib", "jinja2"):
        if find_spec(name) is None:
            raise MissingDependencyError(f'the training demo needs {name}: pip install "icrkit[demo,torch]"')
    split, steps = digits_split(n_images, n_held_out, seed), checkpoint_steps(n_steps, n_checkpoints)
    if len(steps) < 3:
        raise ValueError(
            f"a course needs three checkpoints: {n_steps} steps looked at {n_checkpoints} times have fewer; give more "
            "n_steps or n_checkpoints"
        )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "figure": folder / "course.png",
        "samples": folder / "samples.png",
        "report": folder / "report.html",
        "result": folder / "result.json",
    }
    monitor = ICRMonitor()

    def watch(checkpoint: Checkpoint) -> str:
        level = checkpoint.cube.select(layer=CALLED_LAYER, sigma=CALLED_SIGMA)
        state = monitor.update(checkpoint.step, level)
        stop = f", past its best at step {state.best_step}: stop" if state.should_stop else ""
        return f"information {state.information:.2f}{stop}"

    checkpoints = train_digits(
        split, steps, n_views=n_views, n_generated=n_generated, seed=seed, report=watch, progress=progress
    )
    course = Course.of(
        [checkpoint.cube for checkpoint in checkpoints], layer=CALLED_LAYER, sigma=CALLED_SIGMA
    ).with_series(
        Series("held-out loss", steps, [c.held_out_loss for c in checkpoints], best="lowest"),
        Series("near copies", steps, [c.near_copies for c in checkpoints], threshold=MANY, percent=True),
        Series("copies", steps, [c.nearest_ratio for c in checkpoints], threshold=MANY, percent=True),
    )
    result = TrainingDemoResult(course, checkpoints, files)
    samples = _samples(split, checkpoints, course)
    course.save_figure(files["figure"])
    _save_samples(samples, files["samples"])
    write_report(course, files["report"], samples)
    write_file(files["result"], course.to_json().encode() + b"\n")
    return result


def _samples(split: DigitsSplit, checkpoints: Sequence[Checkpoint], course: Course) -> Samples:
    """Images that end nearest to the training images, at the best checkpoint, at the call, and at the end."""
    by_step = {checkpoint.step: checkpoint for checkpoint in checkpoints}
    steps = list(by_step)
    wanted = (course.course.best_step_, steps[-1], course.course.turned_at_, steps[len(steps) // 2], steps[0])
    chosen = sorted(list(dict.fromkeys(step for step in wanted if step is not None))[:3])
    images = np.argsort(checkpoints[-1].ratio, kind="stable")[:_SHOWN]
    shown = [by_step[step] for step in chosen]
    return Samples(
        steps=chosen,
        generated=_as_bytes(np.stack([c.generated[images] for c in shown])),
        nearest=_as_bytes(np.stack([split.train[c.nearest[images]] for c in shown])),
        copied=np.stack([c.near[images] for c in shown]),
        rule="nearer to it than 99 of 100 digits that the network never saw",
        selection=f"Chosen, not drawn: of {len(checkpoints[-1].ratio)} images those most like copies at the last step.",
    )


def _save_samples(samples: Samples, path: Path) -> None:
    from matplotlib.figure import Figure  # one that pyplot does not know

    save_figure(CopiesDisplay(**dataclasses.asdict(samples)).plot(Figure()).figure_, path)


def _as_bytes(x: NDArray[Any]) -> NDArray[np.uint8]:
    return np.rint(np.clip(127.5 * (x + 1), 0, 255)).astype(np.uint8)
