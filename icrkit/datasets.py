"""Cubes to try things on: synthetic ones whose truth is known, and real images with features of a real network."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icrkit.cube import Cube, from_arrays
from icrkit.io import open_cube

__all__ = [
    "ImageSet",
    "data_path",
    "load_digits_course",
    "load_fashion_cube",
    "load_fashion_images",
    "make_cube",
    "make_heavy_cube",
]


def make_cube(
    n_images: int = 1000,
    n_features: int = 16,
    *,
    n_views: int = 2,
    icr: float | ArrayLike = 0.5,
    sigmas: ArrayLike | None = None,
    n_classes: int | None = None,
    residual: str = "gaussian",
    random_state: int = 0,
) -> Cube:
    """Random-effects cube whose invariant contamination ratio is known.

    Parameters
    ----------
    n_images, n_features, n_views : int
    icr : float or array (n_levels,)
        True ICR, of every level or one a level.
    sigmas : array (n_levels,), optional
        Noise levels; one level of 1.0 by default.
    n_classes : int, optional
        Class means make up half of the invariant variance, and the cube carries labels, images sorted by class as
        image folders are.
    residual : {"gaussian", "heavy", "half"}
        Law of the residuals. "heavy": multivariate t with 5 degrees of freedom, times a scale of its own for every
        image, sqrt(gamma(2, 1/2)): elliptical. "half": Gaussian with that scale in half of the features only: not
        elliptical.
    random_state : int

    Returns
    -------
    Cube
        One layer "features"; ``attrs["true_icr"]`` is a list, one a level.

    Notes
    -----
    The same images and the same draws at every level, as in an extraction. The signal-to-noise ratios of the directions
    fall geometrically by a factor of 100 from first to last, and an invertible matrix mixes them.

    Examples
    --------
    >>> import icrkit as ik
    >>> ik.datasets.make_cube(n_images=10, n_features=4, icr=[0.2, 0.4], sigmas=[0.1, 1.0]).shape
    (10, 2, 2, 4)
    """
    rng = np.random.default_rng(random_state)
    levels = np.atleast_1d(np.asarray(1.0 if sigmas is None else sigmas, dtype=np.float64))
    truth = np.broadcast_to(np.asarray(icr, dtype=np.float64), levels.shape)
    if not ((truth > 0) & (truth < 1)).all():
        raise ValueError(f"icr must lie between 0 and 1, not {icr!r}")
    ratios = np.geomspace(1.0, 0.01, n_features)
    ratios /= ratios.mean()
    labels = None
    invariant = rng.standard_normal((n_images, n_features))
    if n_classes is not None:
        labels = np.sort(np.arange(n_images) % n_classes)
        means = rng.standard_normal((n_classes, n_features))
        means = (means - means.mean(axis=0)) / means.std(axis=0)
        invariant = np.sqrt(0.5) * (invariant + means[labels])
    xi = _residuals(rng, (n_images, n_views, n_features), residual)
    mixing = rng.standard_normal((n_features, n_features)) / np.sqrt(n_features) + np.eye(n_features)
    offset = rng.standard_normal(n_features)
    h = np.empty((n_images, n_views, len(levels), n_features))
    for k, ratio in enumerate(1.0 / truth - 1.0):
        h[:, :, k] = (np.sqrt(ratio * ratios) * invariant[:, None] + xi) @ mixing + offset
    attrs = {"true_icr": [float(x) for x in truth], "residual": residual, "seed": random_state}
    return from_arrays({"features": h}, sigmas=levels, labels=labels, attrs=attrs)


def make_heavy_cube(n_images: int = 1000, n_features: int = 16, **options: Any) -> Cube:
    """Cube of known ICR with heavy-tailed residuals whose scale differs from image to image.

    The same as :func:`make_cube` with ``residual="heavy"``.

    Parameters
    ----------
    n_images, n_features : int
    **options
        Further parameters of :func:`make_cube`: n_views, icr, sigmas, n_classes, random_state.

    Returns
    -------
    Cube
        As of :func:`make_cube`.

    Examples
    --------
    >>> import icrkit as ik
    >>> ik.datasets.make_heavy_cube(n_images=10, n_features=4).attrs["residual"]
    'heavy'
    """
    return make_cube(n_images, n_features, residual="heavy", **options)


def _residuals(rng: np.random.Generator, shape: tuple[int, int, int], law: str) -> NDArray[np.float64]:
    """Residuals of unit covariance, (image, view, feature)."""
    xi = rng.standard_normal(shape)
    if law == "gaussian":
        return xi
    scale = np.sqrt(rng.gamma(2.0, 0.5, size=(shape[0], 1, 1)))  # mean square 1
    if law == "heavy":
        chi = np.sqrt(rng.chisquare(5, size=(shape[0], shape[1], 1)) / 5)
        return np.asarray(xi * scale / chi * np.sqrt(3 / 5))  # a t variable with 5 degrees of freedom has variance 5/3
    if law == "half":
        xi[..., : shape[2] // 2] *= scale
        return xi
    raise ValueError(f"residual must be 'gaussian', 'heavy' or 'half', not {law!r}")


class ImageSet(NamedTuple):
    """Images (n, channel, height, width) uint8, labels (n,), and the names of the classes."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    class_names: tuple[str, ...]


FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def data_path(name: str) -> Path:
    """Path of a file or folder that ships with the package.

    Parameters
    ----------
    name : str
        "fashion_images.npz", "fashion_cube.h5", "fashion_denoiser.onnx" (the example network), "fashion_denoiser.npz"
        (its weights for torch), "fashion_ddpm" (a diffusers pipeline), "digits_course" (a cube a checkpoint) or
        "NOTICE".

    Returns
    -------
    Path

    Examples
    --------
    >>> import icrkit as ik, numpy as np
    >>> with np.load(ik.datasets.data_path("fashion_images.npz")) as arrays:
    ...     sorted(arrays)
    ['test_images', 'test_labels', 'train_images', 'train_labels']
    """
    return Path(str(resources.files("icrkit") / "data" / name))


def load_fashion_images(subset: str = "train") -> ImageSet:
    """Fashion-MNIST at 16 x 16: 2,000 training or 1,000 test images.

    Parameters
    ----------
    subset : {"train", "test"}
        The first images of that split; the example denoiser was trained on the whole training split.

    Returns
    -------
    ImageSet
        28 x 28 pixels mean-pooled by 2 x 2 to 14 x 14 and padded with black.

    References
    ----------
    Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747. MIT licence, (c) 2017 Zalando SE.

    Examples
    --------
    >>> import icrkit as ik
    >>> ik.datasets.load_fashion_images("test").images.shape
    (1000, 1, 16, 16)
    """
    if subset not in ("train", "test"):
        raise ValueError(f"subset must be 'train' or 'test', not {subset!r}")
    with np.load(data_path("fashion_images.npz")) as arrays:
        return ImageSet(arrays[f"{subset}_images"], arrays[f"{subset}_labels"], FASHION_CLASSES)


def load_fashion_cube() -> Cube:
    """Features of a real diffusion model: 500 Fashion-MNIST test images, 2 views, 12 noise levels.

    Returns
    -------
    Cube
        Layer "mid" (64 features, float16), the bottleneck of the example denoiser, mean-pooled; labels. Part of what
        ``icrkit demo`` extracts from 3,000 images.

    Examples
    --------
    >>> import icrkit as ik
    >>> ik.datasets.load_fashion_cube().shape
    (500, 2, 12, 64)
    """
    return open_cube(data_path("fashion_cube.h5"))


def load_digits_course() -> list[tuple[int, Cube]]:
    """Features of a network that learns 128 digits and begins to copy them: 256 held-out digits, 8 views, 12 steps.

    Returns
    -------
    list of (step, Cube)
        In the order of training, as :class:`icrkit.TrainingCourse` takes them: layer "dec.8x8_block0" (32 features,
        float16, mean-pooled) at noise level 0.3; labels; the same images and draws at every step. Attributes of each
        cube: ``held_out_loss``, ``training_loss``, ``nearest_ratio``, the share of generated images that are copies,
        and ``near_copies``, the share nearer to a training image than 99 of 100 digits that were never seen.

    Notes
    -----
    Part of what ``icrkit demo --train`` reads on its way, made by ``benchmarks/make_digits_course.py``.

    References
    ----------
    Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, CC BY 4.0; the
    part that comes with scikit-learn.

    Examples
    --------
    >>> import icrkit as ik
    >>> course = ik.datasets.load_digits_course()
    >>> [step for step, cube in course]
    [52, 64, 81, 101, 126, 157, 197, 246, 307, 384, 480, 600]
    >>> course[0][1].shape
    (256, 8, 1, 32)
    """
    cubes = (open_cube(path) for path in sorted(data_path("digits_course").glob("step-*.h5")))
    return [(int(cube.attrs["step"]), cube) for cube in cubes]
