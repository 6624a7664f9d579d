"""The whole way on real images: network, views, noise, features, ICR, the chosen level, a figure and a page.

Each step is a function of the public interface only; together they are what ``icrkit demo`` runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from icrkit._progress import progress_bar
from icrkit.cube import Cube
from icrkit.datasets import data_path, load_fashion_images
from icrkit.exceptions import CubeFormatError, MissingDependencyError
from icrkit.io import write_file
from icrkit.metrics import few_label_probe
from icrkit.report import Examples, Sweep, write_report

__all__ = [
    "LAYERS",
    "SIGMAS",
    "DemoImages",
    "DemoResult",
    "demo_examples",
    "demo_images",
    "extract_fashion",
    "few_label_accuracy",
    "run_demo",
]

LAYERS = ("mid", "dec.16x16_block0")
# Dense where the window is, three levels below the noise of training, one where hardly anything is left to see.
SIGMAS = (0.002, 0.006, 0.012, 0.02, 0.035, 0.057, 0.09, 0.15, 0.3, 0.7, 1.6, 4.0)


class DemoImages(NamedTuple):
    """Images (n, 1, 16, 16) uint8, labels (n,), ids like "train-17", and the names of the classes."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    ids: list[str]
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demo found, and the files it wrote by what they are: cube, figure, report, result."""

    sweep: Sweep
    files: dict[str, Path]


def demo_images(n_train: int = 2000, n_test: int = 1000) -> DemoImages:
    """The first images of Fashion-MNIST's training split, then those of its test split.

    Examples
    --------
    >>> demo_images(2, 1).ids
    ['train-0', 'train-1', 'test-0']
    """
    train, test = load_fashion_images("train"), load_fashion_images("test")
    for name, asked, there in (("n_train", n_train, len(train.images)), ("n_test", n_test, len(test.images))):
        if not 1 <= asked <= there:
            raise ValueError(f"{name} must be between 1 and {there}, not {asked}")
    return DemoImages(
        np.concatenate([train.images[:n_train], test.images[:n_test]]),
        np.concatenate([train.labels[:n_train], test.labels[:n_test]]),
        [f"train-{i}" for i in range(n_train)] + [f"test-{i}" for i in range(n_test)],
        train.class_names,
    )


def extract_fashion(
    data: DemoImages,
    out: str | Path | None,
    *,
    model: str | Path | None = None,
    sigmas: Sequence[float] = SIGMAS,
    seed: int = 0,
    progress: bool = True,
) -> Cube:
    """Features of both layers in two views at all levels; a store that has the same configuration is used again.

    Parameters
    ----------
    data : DemoImages
    out : path or None
        Folder of the store; in memory if None.
    model : path, optional
        ONNX file with the outputs in `LAYERS`; the one that ships by default.
    sigmas : sequence of float
    seed : int
        Of views and noise.
    progress : bool
        Show a bar.

    Returns
    -------
    Cube

    Raises
    ------
    CubeFormatError
        If the store at `out` has another configuration.
    MissingDependencyError
        If onnxruntime is not installed.
    """
    ex = _extractors()
    source = ex.OnnxSource(data_path("fashion_denoiser.onnx") if model is None else model, layers=LAYERS)
    try:
        cube: Cube = ex.extract(
            source, data.images, sigmas, noise=ex.noise.EDM(), views=ex.views.Fashion(), labels=data.labels,
            image_ids=data.ids, seed=seed, out=out, progress=progress,
        )  # fmt: skip
    except CubeFormatError as error:
        raise CubeFormatError(f"{error}. Remove {out}, or write to another folder") from error
    return cube


def few_label_accuracy(
    cube: Cube, *, n_labels: int = 10, n_draws: int = 10, seed: int = 0, progress: bool = True
) -> xr.Dataset:
    """Accuracy of a linear probe that sees a few labels a class, at every layer and level.

    Parameters
    ----------
    cube : Cube
        With labels; images whose id begins with "train-" are learnt from, those with "test-" are judged.
    n_labels : int
        Labels a class.
    n_draws : int
        Seeded draws of the labelled images, the same at every layer and level.
    seed : int
    progress : bool
        Show a bar.

    Returns
    -------
    xarray.Dataset
        ``accuracy``, from 0 to 1, the mean over draws, and ``accuracy_error``, its standard error; dims (layer, sigma).

    Raises
    ------
    NotEnoughDataError
        If a class has fewer training images than `n_labels`, or there are fewer than two draws.

    Notes
    -----
    Features are means over views, standardised on the labelled images; logistic regression on top.
    """
    labels = np.asarray(cube.labels)
    ids = cube.image_ids.astype(str)
    train, test = (np.flatnonzero(np.char.startswith(ids, split)) for split in ("train-", "test-"))
    shape = (len(cube.layers), len(cube.sigmas))
    mean, error = np.empty(shape), np.empty(shape)
    with progress_bar(progress, mean.size, "probe", "level") as bar:
        for place in np.ndindex(shape):
            level = cube.select(layer=cube.layers[place[0]], sigma=cube.sigmas[place[1]])
            mean[place], error[place] = few_label_probe(
                level[train], labels[train], level[test], labels[test],
                n_labels=n_labels, n_draws=n_draws, random_state=seed,
            )  # fmt: skip
            bar.update()
    dims = ("layer", "sigma")
    return xr.Dataset(
        {"accuracy": (dims, mean), "accuracy_error": (dims, error)},
        coords={"layer": list(cube.layers), "sigma": cube.sigmas},
    )


def demo_examples(data: DemoImages, sigmas: Sequence[float] = SIGMAS, *, n_images: int = 6, seed: int = 0) -> Examples:
    """Test images of different classes as the network saw them: clean, in two views, and noised.

    Notes
    -----
    The noised images come out of the extraction itself, run on a source whose features are its input. They are shown at
    the network's scale, so that an image fades while the noise rises.
    """
    ex = _extractors()
    test = [i for i, name in enumerate(data.ids) if name.startswith("test-")]
    first: dict[int, int] = {}
    for i in test:
        first.setdefault(int(data.labels[i]), i)
    rows = sorted(first.values())[:n_images]
    images, ids = data.images[rows], [data.ids[i] for i in rows]
    law, views = ex.noise.EDM(), ex.views.Fashion()
    seen = ex.extract(
        _Pixels(), images, sigmas, noise=law, views=views, image_ids=ids, seed=seed, progress=False
    )["pixels"].to_numpy()  # fmt: skip
    n, n_views, n_levels, _ = seen.shape
    clean_views = np.stack([views(images, ids, view, seed) for view in range(n_views)], axis=1)
    return Examples(
        names=[data.class_names[int(data.labels[i])] for i in rows],
        clean=images,
        views=_as_bytes(clean_views),
        noisy=_as_bytes(seen.reshape(n, n_views, n_levels, *images.shape[1:]) * law.sigma_data),
        sigmas=np.asarray(sigmas, dtype=np.float64),
    )


def run_demo(
    out: str | Path = "icrkit-demo",
    *,
    model: str | Path | None = None,
    n_train: int = 2000,
    n_test: int = 1000,
    sigmas: Sequence[float] = SIGMAS,
    n_labels: int = 10,
    n_draws: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> DemoResult:
    """From 3,000 images and a small diffusion model to the noise level with the cleanest features.

    Parameters
    ----------
    out : path
        Folder for ``fashion.cube``, ``window.png``, ``report.html`` and ``result.json``. A cube that is there is used
        again, or continued, if it has the same configuration.
    model : path, optional
        ONNX file; the one that ships by default. Every number is computed from it.
    n_train, n_test : int
        Images of the two splits, up to 2,000 and 1,000.
    sigmas : sequence of float
        Noise levels.
    n_labels, n_draws : int
        Labels a class and seeded draws of the few-label probe.
    seed : int
        Of views, noise and draws.
    progress : bool
        Show bars on standard error.

    Returns
    -------
    DemoResult

    Raises
    ------
    CubeFormatError
        If `out` holds a cube of another configuration.
    MissingDependencyError
        If the packages of the ``demo`` extra are not installed.
    """
    _check_dependencies()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        name: folder / file
        for name, file in {
            "cube": "fashion.cube", "figure": "window.png", "report": "report.html", "result": "result.json",
        }.items()
    }  # fmt: skip
    data = demo_images(n_train, n_test)
    cube = extract_fashion(data, files["cube"], model=model, sigmas=sigmas, seed=seed, progress=progress)
    accuracy = few_label_accuracy(cube, n_labels=n_labels, n_draws=n_draws, seed=seed, progress=progress)
    probe = f"a linear probe with {n_labels} labels a class, mean of {n_draws} draws, judged on {n_test} test images"
    sweep = Sweep.of(cube).with_accuracy(accuracy, probe)
    sweep.save_figure(files["figure"])
    write_report(sweep, files["report"], demo_examples(data, sigmas, seed=seed))
    write_file(files["result"], sweep.to_json().encode() + b"\n")
    return DemoResult(sweep, files)


class _Pixels:
    """A source whose features are the network's input."""

    def __call__(self, x: NDArray[Any], conditioning: Mapping[str, Any], /) -> dict[str, NDArray[Any]]:
        return {"pixels": x.reshape(len(x), -1)}

    def config(self) -> dict[str, Any]:
        return {"source": "pixels"}


def _as_bytes(x: NDArray[Any]) -> NDArray[np.uint8]:
    return np.rint(np.clip(127.5 * (x + 1), 0, 255)).astype(np.uint8)


def _extractors() -> Any:
    # The package knows features only; networks are the other one's.
    import icrkit_extractors

    return icrkit_extractors


def _check_dependencies() -> None:
    """Refuse before the work begins, not after it."""
    for name in ("onnx", "onnxruntime", "matplotlib", "jinja2"):
        if find_spec(name) is None:
            raise MissingDependencyError(f'the demo needs {name}: pip install "icrkit[demo]"')
