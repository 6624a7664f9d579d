"""Training courses of small diffusion models: do the readings turn where the network begins to memorise?

    python benchmarks/courses.py train --out runs/courses        # two hours of one core; --only digits-128 for a part
    python benchmarks/courses.py measure --out runs/courses      # features, losses and samples of every checkpoint

Each course is one network, trained from scratch by :func:`icrkit_extractors.models.denoiser.train` on some images of
one data set; its averaged weights are kept at 20 steps a factor 1.25 apart. Digits are scikit-learn's, Fashion-MNIST
is Debian's package ``dataset-fashion-mnist`` (``--data`` names its folder). The images that train the network, and
those held out, are drawn by the course's seed. Features are of 500 held-out images in 4 views. Needs the ``torch``
extra.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from train_fashion import read_fashion, shrink, to_unit

import icrkit as ik
from icrkit_extractors import TorchSource, extract, noise, views
from icrkit_extractors.models.denoiser import SmallUNet, edm_loss, train

N_CHECKPOINTS, FACTOR = 20, 1.25
N_HELD_OUT = 500
SIGMAS = (0.1, 0.3, 0.6)
N_LOSS_DRAWS = 4
N_SAMPLES = 256
N_VIEWS = 4


@dataclasses.dataclass(frozen=True)
class Course:
    """What makes one training course."""

    data: str
    n_images: int
    n_steps: int
    width: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.data}-{self.n_images}-w{self.width}-t{self.n_steps}-s{self.seed}"

    @property
    def steps(self) -> tuple[int, ...]:
        """Where weights are kept."""
        return tuple(sorted({round(self.n_steps / FACTOR**k) for k in range(N_CHECKPOINTS)}))


COURSES = (
    *(Course("digits", 128, 600, 32, seed) for seed in range(5)),
    *(Course("digits", 128, 1500, 32, seed) for seed in range(5)),
    *(Course("digits", 256, 2000, 32, seed) for seed in range(5)),
    *(Course("fashion", 512, 3000, 32, seed) for seed in range(5)),
    *(Course("digits", 128, 1500, width, seed) for width in (16, 48) for seed in range(2)),
    *(Course("fashion", 512, 3000, 16, seed) for seed in range(2)),
    *(Course("fashion", 60000, 3000, 32, seed) for seed in range(2)),
    Course("digits", 1297, 2000, 32, 0),
)


def images_of(course: Course, data: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images in [-1, 1], (n, 1, height, width): those that train the network, and those held out."""
    if course.data == "digits":
        from sklearn.datasets import load_digits

        pixels = (load_digits().images[:, None] / 8.0 - 1.0).astype(np.float32)
        order = np.random.default_rng(course.seed).permutation(len(pixels))
        return pixels[order[N_HELD_OUT : N_HELD_OUT + course.n_images]], pixels[order[:N_HELD_OUT]]
    splits = read_fashion(data)
    order = np.random.default_rng(course.seed).permutation(len(splits["train"][0]))[: course.n_images]
    return to_unit(shrink(splits["train"][0][order])), to_unit(shrink(splits["test"][0][:N_HELD_OUT]))


@torch.inference_mode()
def losses(net: SmallUNet, images: NDArray[np.float32], sigmas: Sequence[float] = (), seed: int = 1) -> list[float]:
    """Mean loss over the levels of training, then at each of these; the same draws for every network."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.from_numpy(images).repeat(N_LOSS_DRAWS, 1, 1, 1)
    drawn = -1.2 + 1.2 * torch.randn(len(x0), generator=generator)
    draws = torch.randn(x0.shape, generator=generator)
    found = []
    for log_sigma in (drawn, *(torch.full_like(drawn, math.log(sigma)) for sigma in sigmas)):
        parts = zip(x0.split(250), log_sigma.split(250), draws.split(250), strict=True)
        found.append(float(torch.cat([edm_loss(net, *part) for part in parts]).mean()))
    return found


def network(course: Course, step: int, folder: Path) -> SmallUNet:
    """The averaged network at a step."""
    net = SmallUNet(resolution=8 if course.data == "digits" else 16, width=course.width)
    net.load_state_dict(torch.load(folder / f"step-{step:06d}.pt", weights_only=True))
    return net.eval()


@click.group()
def main() -> None:
    """Train the courses, then measure them."""


@main.command("train")
@click.option("--data", default="/usr/share/datasets/fashion-mnist", help="Folder of the idx files, or 'openml'.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--only", default="", help="Courses whose name begins so.")
@click.option("--threads", default=1, show_default=True)
def train_courses(data: str, out: Path, only: str, threads: int) -> None:
    """Train every course that is not there yet."""
    torch.set_num_threads(threads)
    for course in COURSES:
        folder = out / course.name
        if not course.name.startswith(only) or folder.exists():
            continue
        folder.mkdir(parents=True)
        begun = time.perf_counter()
        torch.manual_seed(course.seed)
        images, _ = images_of(course, data)
        net = SmallUNet(resolution=images.shape[-1], width=course.width).to(memory_format=torch.channels_last)

        def keep(step: int, ema: SmallUNet, loss: float, folder: Path = folder) -> None:
            torch.save(ema.state_dict(), folder / f"step-{step:06d}.pt")

        train(net, images, n_steps=course.n_steps, seed=course.seed, report=keep, report_steps=course.steps)
        (folder / "done").touch()
        click.echo(f"{course.name}: {time.perf_counter() - begun:.0f} s")


@main.command("measure")
@click.option("--data", default="/usr/share/datasets/fashion-mnist", help="Folder of the idx files, or 'openml'.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--only", default="", help="Courses whose name begins so.")
@click.option("--threads", default=1, show_default=True)
def measure_courses(data: str, out: Path, only: str, threads: int) -> None:
    """Cubes, held-out losses and the share of copies among samples, of every course that is trained."""
    from icrkit_extractors.models.denoiser import sample

    torch.set_num_threads(threads)
    for course in COURSES:
        folder = out / course.name
        if not course.name.startswith(only) or not (folder / "done").exists() or (folder / "curve.csv").exists():
            continue
        begun = time.perf_counter()
        training, held_out = images_of(course, data)
        view = views.Digits() if course.data == "digits" else views.Fashion()
        full = "8x8" if course.data == "digits" else "16x16"
        rows = []
        for step in course.steps:
            net = network(course, step, folder)
            source = TorchSource(net, layers=["mid", f"dec.{full}_block0"])
            extract(
                source, held_out, SIGMAS, noise=noise.EDM(), views=view, n_views=N_VIEWS, attrs={"step": step},
                out=folder / f"step-{step:08d}.cube", progress=False,
            )  # fmt: skip
            held_out_loss, *by_sigma = losses(net, held_out, SIGMAS)
            generated = sample(net, N_SAMPLES, shape=training.shape[1:])
            rows.append(
                {
                    "step": step,
                    "loss_train": losses(net, training[: len(held_out)])[0],
                    "loss_heldout": held_out_loss,
                    **{f"loss_heldout_{sigma:g}": loss for sigma, loss in zip(SIGMAS, by_sigma, strict=True)},
                    "copies": ik.nearest_ratio(_flat(generated), _flat(training)),
                }
            )
        write_rows(folder / "curve.csv", rows)
        click.echo(f"{course.name}: {time.perf_counter() - begun:.0f} s")


def _flat(images: NDArray[np.floating]) -> NDArray[np.floating]:
    return images.reshape(len(images), -1)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A CSV file with five digits a number."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
