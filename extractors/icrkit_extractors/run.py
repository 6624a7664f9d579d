"""Extraction: images x views x noise levels through a source of features, into a cube; what it costs, and courses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icrkit_extractors._destinations import to_memory, to_store
from icrkit_extractors._job import Encode, Images, Source, slices, widths_of
from icrkit_extractors._settings import checked_job, shard_rows, whole
from icrkit_extractors._to_moments import to_moments
from icrkit_extractors.noise import NoiseLaw
from icrkit_extractors.views import View

__all__ = ["Estimate", "Source", "estimate", "extract", "extract_course"]


def extract(
    src: Source,
    images: Images,
    sigmas: Iterable[float],
    *,
    noise: NoiseLaw,
    views: View,
    n_views: int = 2,
    labels: Any = None,
    groups: Any = None,
    seed: int = 0,
    image_ids: Iterable[int | str] | None = None,
    encode: Encode | None = None,
    fresh_noise: bool = False,
    out: str | Path | None = None,
    batch_size: int = 256,
    shard: tuple[int, int] | None = None,
    resume: bool = True,
    progress: bool = True,
    moments_only: bool = False,
    n_folds: int = 10,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Features of views of images at noise levels, as a cube.

    Parameters
    ----------
    src : callable
        Source of features, such as `OnnxSource` or `TorchSource`.
    images : array-like (image, channel, height, width)
        uint8, or floating point in [-1, 1]; anything that has a length and gives slices, read batch by batch, such as
        what `icrkit_extractors.images.open_images` gives.
    sigmas : iterable of float
        Noise levels: the ratio of noise to signal, sigma / alpha, in the units of the images.
    noise : noise law
        Such as ``noise.EDM()``; ``noise.Clean()`` for an encoder, with ``sigmas=[0.0]``.
    views : callable (images, image_ids, view, seed) -> images
        Such as ``views.Paper()``. There is no default: what counts as the same image defines ICR.
    n_views : int
        Views of each image.
    labels : array-like (image,), optional
        Classes, kept in the cube; by default those that `images` brings along. False keeps none.
    groups : array-like (image,), optional
        What each image belongs to, where images are not independent: its video, scene or patient. Kept in the cube.
    seed : int
        Seeds views and noise.
    image_ids : iterable of int or str, optional
        Identities of the images, each once; by default those that `images` brings along, or row numbers. All draws
        depend on them.
    encode : callable (images, image_ids, view, seed) -> latents, optional
        Autoencoder of a latent diffusion model, such as `icrkit_extractors.latents.Latents`: after the view, before
        the noise.
    fresh_noise : bool
        Draw the noise anew at each level. By default levels share their draws, and differences between them are known
        better than their values.
    out : path, optional
        Folder of the store to write; without it the cube is made in memory.
    batch_size : int
        Images in one forward pass.
    shard : (int, int), optional
        (i, n): only part i of n of the images, so that n processes or machines may write one store.
    resume : bool
        Continue a store that was left unfinished. If False, an existing one is refused.
    progress : bool
        Show a bar on standard error: forward passes, one image at one view and level each.
    moments_only : bool
        Keep no features, only their `Moments`: for layers that are wide, images that are many, or a training loop.
    n_folds : int
        Folds of these moments, for cross-fitting.
    attrs : mapping, optional
        Further attributes of the cube, such as ``step``.

    Returns
    -------
    Cube, or dict of str to Moments
        In memory, or the opened store; of a shard whose store is not complete yet, the images that are there.
        With ``moments_only`` layer to moments, with leading axes "sigma" and "fold".

    Raises
    ------
    ValueError
        If images, levels, or what the source, the views or the autoencoder give have the wrong shape, type or range.
    CubeFormatError
        If ids or labels do not fit the images, an id appears twice, or the store to resume was made with
        another configuration.
    NonFiniteError
        If a layer holds NaN or infinity; names view and level, and the block is not written.
    FileExistsError
        If ``out`` exists and ``resume`` is False; with ``moments_only`` also if it holds anything but moments of the
        same configuration.

    Notes
    -----
    Views and noise are pure functions of (seed, image id, view), the same at every level. A block is about 16 MiB,
    20,000 forward passes or three minutes, whichever is least; memory holds some four times that, and three batches
    of views. A killed run loses the block in flight at most, and a resumed one ends with the same bytes. Blocks hold
    whole batches; where one batch takes longer than three minutes, batches are cut to the size of a block. A store
    keeps the block size it began with. Where the device runs out of memory, the batch is given to the network in
    halves, with a warning.

    A store is continued by the network it has. Its weights and files are compared by digest, and ``attrs["probe"]``
    holds a few numbers of each layer on the first two images, compared within rounding: what decides features beside
    the weights (numbers in attributes, code, packages) shows there.

    Moments are taken in float64 from about 128 MiB of features at a time, and hold 16 levels x folds x d^2 bytes a
    layer. Moments of shards add up (``+``) to those of all images. With `out` they are saved into that folder,
    a file a layer, beside ``moments.json``, which says which is which and how they were made. Finished ones are read
    from there and not taken again; an interrupted run starts again from its first image.

    Examples
    --------
    >>> import numpy as np
    >>> from icrkit_extractors import noise, views
    >>> class Pixels:
    ...     def __call__(self, x, conditioning):
    ...         return {"pixels": x.reshape(len(x), -1)}
    ...     def config(self):
    ...         return {"source": "Pixels"}
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    >>> given = dict(noise=noise.EDM(), views=views.Digits(), progress=False)
    >>> cube = extract(Pixels(), images, [0.1, 0.3], **given)
    >>> cube.n_images, cube.n_views, cube.sigmas.tolist()
    (6, 2, [0.1, 0.3])
    >>> extract(Pixels(), images, [0.1, 0.3], moments_only=True, n_folds=2, **given)
    {'pixels': Moments(6 images, 2 views, 64 features, sigma: 2, fold: 2, float64 products)}
    """
    job = checked_job(
        src, images, sigmas, noise=noise, views=views, n_views=n_views, labels=labels, groups=groups, seed=seed,
        image_ids=image_ids, encode=encode, fresh_noise=fresh_noise, batch_size=batch_size, attrs=attrs,
    )  # fmt: skip
    rows = shard_rows(shard, len(job.ids))
    if out is not None and Path(out).exists() and not resume:
        raise FileExistsError(f"{out} exists: resume=True continues it, or remove it first")
    start = time.perf_counter()
    first = job.first_features()
    # With what a first pass does once, so more than later ones take.
    pass_seconds = (time.perf_counter() - start) / min(2, len(job.ids))
    job.record.update(job.src.config())  # a source may know more of its layers once it has run
    if moments_only:
        folder = None if out is None else Path(out)
        return to_moments(job, first, rows, whole("n_folds", n_folds, 0), folder, progress)
    if out is None:
        return to_memory(job, first, rows, progress)
    return to_store(job, first, out, shard, progress, pass_seconds)


@dataclass(frozen=True)
class Estimate:
    """What an extraction will take.

    Attributes
    ----------
    n_images, n_views, n_levels : int
        Images (of the shard), views and noise levels.
    layers : dict of str to int
        Layers and their numbers of features.
    forwards : int
        Forward passes, one image at one view and level each.
    bytes : int
        Of features, float32.
    seconds : float
        Estimated from one batch of one view at all levels, after one forward pass to warm up.
    """

    n_images: int
    n_views: int
    n_levels: int
    layers: dict[str, int]
    forwards: int
    bytes: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Forward passes of one image a second."""
        return self.forwards / self.seconds if self.seconds else math.inf

    @property
    def layer_bytes(self) -> dict[str, int]:
        """Bytes of each layer's features."""
        every = max(1, sum(self.layers.values()))
        return {name: self.bytes * d // every for name, d in self.layers.items()}

    @property
    def layer_moments(self) -> dict[str, int]:
        """Bytes of each layer's moments with ten folds, in memory until the end."""
        return {name: 16 * self.n_levels * 10 * d**2 for name, d in self.layers.items()}

    def least_images(self, layer: str) -> int:
        """Images below which nothing is to be said of a layer's ICR.

        Parameters
        ----------
        layer : str
            One of ``layers``.

        Returns
        -------
        int
            For two views or more. Four images for each feature are sound.
        """
        return least_images(self.layers[layer], self.n_views)


def least_images(n_features: int, n_views: int) -> int:
    """Images that leave 1.5 residual degrees of freedom for each feature outside a tenth of them, as headlines need."""
    return max(2, math.ceil((1.5 * n_features / max(1, n_views - 1) + 1) / 0.9 - 1e-9))


def estimate(
    src: Source,
    images: Images,
    sigmas: Iterable[float],
    *,
    noise: NoiseLaw,
    views: View,
    shard: tuple[int, int] | None = None,
    **settings: Any,
) -> Estimate:
    """Forward passes, bytes and time of an extraction, from one batch; nothing is written.

    Parameters
    ----------
    src, images, sigmas, noise, views, shard
        As for `extract`.
    **settings
        Those of `extract` that say what is computed: n_views, seed, labels, groups, image_ids, encode, fresh_noise,
        batch_size, attrs.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        For all that `extract` would refuse before its first block.

    Examples
    --------
    >>> import numpy as np
    >>> from icrkit_extractors import noise, views
    >>> class Pixels:
    ...     def __call__(self, x, conditioning):
    ...         return {"pixels": x.reshape(len(x), -1)}
    ...     def config(self):
    ...         return {"source": "Pixels"}
    >>> images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    >>> cost = estimate(Pixels(), images, [0.1, 0.3], noise=noise.EDM(), views=views.Digits(), batch_size=8)
    >>> cost.forwards, cost.bytes
    (240, 61440)
    """
    job = checked_job(src, images, sigmas, noise=noise, views=views, **settings)
    rows = shard_rows(shard, len(job.ids))
    widths = widths_of(job.first_features())
    batch = next(slices(rows.start, rows.stop, job.batch_size))
    next(job.features(job.view(job.read(batch), batch, 0)))  # a device takes longer at its first batch of a shape
    start = time.perf_counter()
    for _ in job.features(job.view(job.read(batch), batch, 0)):
        pass
    seconds = time.perf_counter() - start
    n = len(rows)
    return Estimate(
        n_images=n,
        n_views=job.n_views,
        n_levels=len(job.levels),
        layers=widths,
        forwards=n * job.per_image,
        bytes=n * job.bytes_per_image(widths),
        seconds=seconds / (batch.stop - batch.start) * n * job.n_views,
    )


def extract_course(
    sources: Iterable[tuple[int, Source | Callable[[], Source]]],
    images: Images,
    sigmas: Iterable[float],
    *,
    out: str | Path | None = None,
    attrs: Mapping[str, Any] | None = None,
    **settings: Any,
) -> list[tuple[int, Any]]:
    """Steps and cubes of several checkpoints of one training, with the same images and draws.

    Parameters
    ----------
    sources : iterable of (int, source)
        Training step and source of features; a function without arguments is called for its source when its turn
        comes, so that only one network is in memory.
    images, sigmas
        As for `extract`.
    out : path, optional
        Folder; checkpoint 1138 goes to ``out/step-00001138.cube``. Finished ones are not run again.
    attrs : mapping, optional
        Further attributes of all cubes; ``step`` is added.
    **settings
        As for `extract`.

    Returns
    -------
    list of (int, Cube)
        Step and cube, in the order given; with ``moments_only`` step and a dict of moments.

    Raises
    ------
    ValueError
        If a step appears twice, and for what `extract` refuses.

    Examples
    --------
    >>> import numpy as np
    >>> from icrkit_extractors import noise, views
    >>> class Pixels:
    ...     def __init__(self, power):
    ...         self.power = power
    ...     def __call__(self, x, conditioning):
    ...         return {"pixels": x.reshape(len(x), -1) ** self.power}
    ...     def config(self):
    ...         return {"source": "Pixels"}
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    >>> course = extract_course([(100, Pixels(1)), (200, lambda: Pixels(3))], images, [0.1], noise=noise.EDM(),
    ...                         views=views.Digits(), progress=False)
    >>> [(step, cube.step) for step, cube in course]
    [(100, 100), (200, 200)]
    """
    steps: set[int] = set()
    course = []
    levels = list(sigmas)
    for step, source in sources:
        step = whole("step", step, 0)
        if step in steps:
            raise ValueError(f"step {step} appears twice: each checkpoint needs its own")
        steps.add(step)
        # A source has config(); what has none makes one. A module makes none: extract says what to do with it.
        made = callable(getattr(source, "config", None)) or hasattr(source, "state_dict")
        src = source if made else source()  # type: ignore[call-arg]
        where = None if out is None else Path(out) / f"step-{step:08d}.cube"
        course.append(
            (step, extract(src, images, levels, out=where, attrs={**(attrs or {}), "step": step}, **settings))
        )
    return course
