"""Training courses of small diffusion models: do the readings turn where the network begins to memorise?

    python benchmarks/courses.py train --out runs/courses        # two hours of one core; --only digits-128 for a part
    python benchmarks/courses.py measure --out runs/courses      # features, losses and samples of every checkpoint
    python benchmarks/courses.py read --out runs/courses         # what the readings say; writes results/courses.csv

Each course is one network, trained from scratch by :func:`icrkit_extractors.models.denoiser.train` on some images of
one data set; its averaged weights are kept at 20 steps a factor 1.25 apart. Digits are scikit-learn's, Fashion-MNIST
is Debian's package ``dataset-fashion-mnist`` (``--data`` names its folder). The images that train the network, and
those held out, are drawn by the course's seed. Features are of 500 held-out images in 4 views. ``courses.csv`` has a
row for each course, layer and noise level: the step at which the held-out loss of that level was lowest, information
highest and ICR lowest, how many checkpoints these lie apart (negative: before the loss), where each turned, and where
more than 5 % of 256 generated images were copies; ``courses_curves.csv`` has the curves. Needs the ``torch`` extra.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
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
MANY_COPIES = 0.05
RESULTS = Path(__file__).parent / "results"


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


@main.command("read")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--only", default="", help="Courses whose name begins so.")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def read_courses(out: Path, only: str, results: Path) -> None:
    """Tables of every course that is measured."""
    rows: list[dict[str, object]] = []
    curves: list[dict[str, object]] = []
    for course in COURSES:
        folder = out / course.name
        if not course.name.startswith(only) or not (folder / "curve.csv").exists():
            continue
        with (folder / "curve.csv").open() as file:
            measured = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        cubes = [ik.open_cube(folder / f"step-{step:08d}.cube") for step in course.steps]
        found = ik.TrainingCourse().fit(cubes)
        rows += rows_of(course, found, measured)
        curves += curves_of(course, found, measured)
    write_rows(results / "courses.csv", rows)
    write_rows(results / "courses_curves.csv", curves)
    click.echo(summary(rows))


def identity(course: Course) -> dict[str, object]:
    """The columns that say which course it is."""
    return {"data": course.data, "images": course.n_images, "width": course.width, "steps": course.n_steps,
            "seed": course.seed}  # fmt: skip


def rows_of(
    course: Course, found: ik.TrainingCourse, measured: Sequence[Mapping[str, float]]
) -> Iterator[dict[str, object]]:
    """A row for each layer and level."""
    steps = list(course.steps)
    copied = [step for step, row in zip(steps, measured, strict=True) if row["copies"] > MANY_COPIES]
    fits = {criterion: found.with_criterion(criterion) for criterion in ("information", "icr")}
    for layer, sigma in itertools.product(found.curve_["layer"].to_numpy(), SIGMAS):
        losses_here = [row[f"loss_heldout_{sigma:g}"] for row in measured]
        row: dict[str, object] = identity(course) | {"layer": layer, "sigma": sigma}
        row["loss_best"] = steps[int(np.argmin(losses_here))]
        row["loss_rise"] = losses_here[-1] / min(losses_here) - 1
        for criterion, fit in fits.items():
            judged = fit.by_level_.sel(layer=layer, sigma=sigma)
            best, turned_at = int(judged["best_step"]), float(judged["turned_at"])
            value = fit.curve_[criterion].sel(layer=layer, sigma=sigma, step=best)
            row[f"{criterion}_best"] = best
            row[f"{criterion}_apart"] = steps.index(best) - steps.index(int(str(row["loss_best"])))
            row[f"{criterion}_turned_at"] = "" if np.isnan(turned_at) else int(turned_at)
            row[f"{criterion}_fall"] = float(judged["fall"] / value)
            row[f"{criterion}_fall_low"], row[f"{criterion}_fall_high"] = (
                float(judged[end] / value) for end in ("fall_low", "fall_high")
            )
        row["copies_from"] = copied[0] if copied else ""
        yield row


def curves_of(
    course: Course, found: ik.TrainingCourse, measured: Sequence[Mapping[str, float]]
) -> Iterator[dict[str, object]]:
    """A row for each layer, level and step."""
    names = ("information", "information_low", "information_high", "icr", "icr_low", "icr_high")
    for layer, sigma in itertools.product(found.curve_["layer"].to_numpy(), SIGMAS):
        for row in measured:
            at = found.curve_.sel(layer=layer, sigma=sigma, step=int(row["step"]))
            yield identity(course) | {
                "layer": layer,
                "sigma": sigma,
                "step": int(row["step"]),
                "loss_heldout": row[f"loss_heldout_{sigma:g}"],
                "copies": row["copies"],
                **{name: float(at[name]) for name in names},
            }


def summary(rows: Sequence[Mapping[str, object]]) -> str:
    """A line for each kind of course, layer and level; of seeds the least, the greatest and (the median)."""
    head = ["course", "seeds", "layer", "σ", "loss lowest", "information highest", "apart", "turned", "ICR lowest",
            "apart", "turned", "copies above 5 %"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    by_kind: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for row in rows:
        kind = tuple(row[name] for name in ("data", "images", "width", "steps", "layer", "sigma"))
        by_kind.setdefault(kind, []).append(row)
    for (data, images, width, steps, layer, sigma), group in by_kind.items():
        cells = [f"{data} {images}, width {width}, {steps} steps", len(group), layer, sigma, spread(group, "loss_best")]
        for criterion in ("information", "icr"):
            turned = sum(row[f"{criterion}_turned_at"] != "" for row in group)
            cells += [spread(group, f"{criterion}_best"), spread(group, f"{criterion}_apart", "+d"), turned]
        copied = sum(row["copies_from"] != "" for row in group)
        lines.append("| " + " | ".join(map(str, [*cells, copied])) + " |")
    return "\n".join(lines)


def spread(group: Sequence[Mapping[str, object]], name: str, how: str = "d") -> str:
    """Least to greatest, and the median between them."""
    values = sorted(int(str(row[name])) for row in group)
    middle = values[(len(values) - 1) // 2]
    ends = sorted({values[0], values[-1]})
    told = " to ".join(f"{value:{how}}" for value in ends)
    return told if len(ends) == 1 else f"{told} ({middle:{how}})"


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
