"""The driver: images x views x noise levels through a source of features, into a cube.

For each image and view there is one augmentation and one noise draw; all levels see the same two, so that
differences between levels are differences of the network, not of the draws.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from icrkit.cube import Cube, from_arrays
from icrkit.exceptions import CubeFormatError, NonFiniteError
from icrkit.io import CubeWriter, open_cube
from icrkit_extractors._streams import normals
from icrkit_extractors.noise import Level, NoiseLaw
from icrkit_extractors.views import View, as_unit_range

__all__ = ["Source", "extract"]

# A block on disk costs an fsync, which is slow below some MiB; a killed run loses the block in flight.
_BLOCK_BYTES = 16 << 20


class Source(Protocol):
    """What `extract` asks of a source of features."""

    def __call__(self, x: np.ndarray, conditioning: Mapping[str, np.ndarray], /) -> Mapping[str, np.ndarray]:
        """Layer to features (n, d) of a batch: the network's input and its conditioning."""

    def config(self) -> dict[str, Any]:
        """What identifies the features, for the attributes of a cube."""


class Images(Protocol):
    """An array of images, in memory or on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


@dataclass(frozen=True)
class _Job:
    """All that decides the features of images start..stop; knows nothing of where they go."""

    src: Source
    images: Images
    ids: np.ndarray
    noise: NoiseLaw
    levels: list[Level]
    views: View
    n_views: int
    seed: int

    def read(self, rows: slice) -> np.ndarray:
        try:
            return as_unit_range(np.asarray(self.images[rows]))
        except ValueError as error:
            raise ValueError(f"images {rows.start} to {rows.stop - 1}: {error}") from error

    def view(self, images: np.ndarray, ids: Sequence[Any], view: int) -> tuple[np.ndarray, np.ndarray]:
        """One augmented view of each image, and its noise."""
        try:
            clean = as_unit_range(self.views(images, ids, view, self.seed))
        except ValueError as error:
            raise ValueError(f"views: {error}") from error
        if clean.shape != images.shape:
            raise ValueError(f"views gave shape {clean.shape} for images of shape {images.shape}")
        if not any(level.sigma for level in self.levels):
            return clean, np.zeros_like(clean)
        return clean, normals(self.seed, ids, view, clean.shape[1:])

    def forward(self, rows: slice, view: int, k: int, clean: np.ndarray, noise: np.ndarray) -> dict[str, np.ndarray]:
        """Features of one view at level k, checked."""
        sigma = self.levels[k].sigma
        where = f"view {view}, sigma {sigma}, images {self.ids[rows][0].item()!r} to {self.ids[rows][-1].item()!r}"
        try:
            given = self.src(*self.noise(clean, noise, sigma))
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}: {where}") from error
        if not given:
            raise ValueError("the source gave no layer")
        features = {name: np.asarray(h, dtype=np.float32) for name, h in given.items()}
        for name, h in features.items():
            if h.ndim != 2 or len(h) != len(clean):
                raise ValueError(f"the source gave shape {h.shape} for layer {name!r}, wanted ({len(clean)}, features)")
            if not np.isfinite(h).all():
                raise NonFiniteError(f"layer {name!r} holds NaN or infinity: {where}")
        return features

    def batch(self, rows: slice, widths: Mapping[str, int], bar: tqdm) -> dict[str, np.ndarray]:
        """Features (image, view, sigma, feature) of a batch, by layer."""
        images, ids = self.read(rows), self.ids[rows].tolist()
        shape = (len(images), self.n_views, len(self.levels))
        block = {name: np.empty((*shape, width), dtype=np.float32) for name, width in widths.items()}
        for view in range(self.n_views):
            clean, noise = self.view(images, ids, view)
            for k in range(len(self.levels)):
                features = self.forward(rows, view, k, clean, noise)
                found = _widths(features)
                if found != widths:
                    raise ValueError(f"the source gave layers of widths {found}, and {widths} before")
                for name, h in features.items():
                    block[name][:, view, k] = h
                bar.update(len(images))
        return block

    def widths(self, rows: slice) -> dict[str, int]:
        """Layers and their numbers of features, by running one batch once."""
        images, ids = self.read(rows), self.ids[rows].tolist()
        if getattr(self.images, "dtype", None) != np.uint8 and images.min() >= 0:
            warnings.warn(
                "no pixel of the first images is below 0: images in [0, 1] must be passed as 2 * images - 1",
                stacklevel=3,
            )
        return _widths(self.forward(rows, 0, 0, *self.view(images, ids, 0)))


def _widths(features: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: h.shape[1] for name, h in features.items()}


def _checked_ids(image_ids: Iterable[int | str] | None, n: int) -> np.ndarray:
    if image_ids is None:
        return np.arange(n)
    values = list(image_ids)
    ids = np.asarray(values)
    if ids.shape != (n,):
        raise CubeFormatError(f"{len(values)} image ids for {n} images")
    if ids.dtype.kind not in "iuU" or any(isinstance(value, str) != isinstance(values[0], str) for value in values):
        raise CubeFormatError(f"image ids must be all integers or all strings, not {ids.dtype}")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < n:
        twice = unique[counts > 1]
        raise CubeFormatError(f"{len(twice)} image ids appear more than once, such as {twice[0].item()!r}")
    return ids


def _checked_labels(labels: Any, n: int) -> np.ndarray | None:
    if labels is None:
        return None
    values = np.asarray(labels)
    if values.shape != (n,):
        raise CubeFormatError(f"labels of shape {values.shape} for {n} images: wanted ({n},)")
    return values


def _version() -> str:
    try:
        return metadata.version("icrkit")
    except metadata.PackageNotFoundError:
        return "not installed"


def _record(job: _Job, batch_size: int, attrs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Attributes of the cube: what the features depend on, then the user's own."""
    # A function has no parameters to show: its name is what can be recorded.
    describe = getattr(job.views, "config", None)
    name = f"{getattr(job.views, '__module__', '')}.{getattr(job.views, '__qualname__', type(job.views).__qualname__)}"
    record = {
        **job.src.config(),
        "noise": job.noise.config(),
        "views": describe() if describe else {"name": name},
        "n_views": job.n_views,
        "seed": job.seed,
        # A network's last bits may depend on the batch, so resuming keeps it.
        "batch_size": batch_size,
        "icrkit_version": _version(),
        "numpy_version": np.__version__,
    }
    taken = sorted(set(record) & set(attrs or {}))
    if taken:
        raise ValueError(f"attrs {taken} are recorded by extract itself; choose other names")
    return {**record, **(attrs or {})}


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be {least} or more, not {number}")
    return number


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def extract(
    src: Source,
    images: Images,
    sigmas: Iterable[float],
    *,
    noise: NoiseLaw,
    views: View,
    n_views: int = 2,
    labels: Any = None,
    seed: int = 0,
    image_ids: Iterable[int | str] | None = None,
    out: str | Path | None = None,
    batch_size: int = 256,
    resume: bool = True,
    progress: bool = True,
    attrs: Mapping[str, Any] | None = None,
) -> Cube:
    """Features of views of images at noise levels, as a cube.

    Parameters
    ----------
    src : callable
        Source of features, such as `OnnxSource`.
    images : array-like (image, channel, height, width)
        uint8, or floating point in [-1, 1]; anything that has a length and gives slices, read batch by batch.
    sigmas : iterable of float
        Noise levels, in the units of the images.
    noise : noise law
        Such as ``noise.EDM()``; ``noise.Clean()`` for an encoder, with ``sigmas=[0.0]``.
    views : callable (images, image_ids, view, seed) -> images
        Such as ``views.Fashion()``. There is no default: what counts as the same image defines ICR.
    n_views : int
        Views of each image.
    labels : array-like (image,), optional
        Classes, kept in the cube.
    seed : int
        Seeds views and noise.
    image_ids : iterable of int or str, optional
        Identities of the images, each once; row numbers by default. All draws depend on them.
    out : path, optional
        Folder of the store to write; without it the cube is made in memory.
    batch_size : int
        Images in one forward pass.
    resume : bool
        Continue a store that was left unfinished. If False, an existing one is refused.
    progress : bool
        Show a bar on standard error: forward passes, one image at one view and level each.
    attrs : mapping, optional
        Further attributes of the cube, such as ``step``.

    Returns
    -------
    Cube
        In memory, or the opened store.

    Raises
    ------
    ValueError
        If images, levels, or what the source or the views give have the wrong shape, type or range.
    CubeFormatError
        If ids or labels do not fit the images, an id appears twice, or the store to resume was made with
        another configuration.
    NonFiniteError
        If a layer holds NaN or infinity; names view and level, and the block is not written.
    FileExistsError
        If ``out`` exists and ``resume`` is False.

    Notes
    -----
    Views and noise are pure functions of (seed, image id, view), the same at every level. Memory holds one
    block of about 16 MiB, or one batch if that is more; a killed run loses the block in flight at most, and a
    resumed one ends with the same bytes.

    Examples
    --------
    >>> from icrkit_extractors import noise, views
    >>> class Pixels:
    ...     def __call__(self, x, conditioning):
    ...         return {"pixels": x.reshape(len(x), -1)}
    ...     def config(self):
    ...         return {"source": "Pixels"}
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    >>> cube = extract(Pixels(), images, [0.1, 0.3], noise=noise.EDM(), views=views.Digits(), progress=False)
    >>> cube.n_images, cube.n_views, cube.sigmas.tolist()
    (6, 2, [0.1, 0.3])
    """
    n = len(images)
    if n == 0:
        raise ValueError("images is empty")
    batch_size = _whole("batch_size", batch_size, 1)
    job = _Job(
        src=src,
        images=images,
        ids=_checked_ids(image_ids, n),
        noise=noise,
        levels=noise.levels(sigmas),
        views=views,
        n_views=_whole("n_views", n_views, 1),
        seed=_whole("seed", seed, 0),
    )
    known = _checked_labels(labels, n)
    record = _record(job, batch_size, attrs)
    if out is not None and not resume and Path(out).exists():
        raise FileExistsError(f"{out} exists: resume=True continues it, or remove it first")

    widths = job.widths(slice(0, min(batch_size, n)))
    values = [level.sigma for level in job.levels]
    per_image = job.n_views * len(job.levels)

    def bar_from(done: int) -> tqdm:
        return tqdm(total=n * per_image, initial=done * per_image, desc="extract", unit="img", disable=not progress)

    if out is None:
        whole = {name: np.empty((n, job.n_views, len(values), d), dtype=np.float32) for name, d in widths.items()}
        # Made first and filled afterwards: what a cube refuses is refused before the network runs.
        cube = from_arrays(whole, sigmas=values, labels=known, image_ids=job.ids, attrs=record)
        with bar_from(0) as bar:
            for rows in _slices(0, n, batch_size):
                for name, h in job.batch(rows, widths, bar).items():
                    whole[name][rows] = h
        return cube

    # A block holds whole batches, so that a resumed run cuts the same ones.
    bytes_per_batch = 4 * batch_size * per_image * sum(widths.values())
    block_size = batch_size * max(1, _BLOCK_BYTES // bytes_per_batch)
    with (
        CubeWriter(
            out, layers=widths, sigmas=values, n_views=job.n_views, n_images=n, attrs=record, block_size=block_size
        ) as writer,
        bar_from(writer.done_images) as bar,
    ):
        for rows in _slices(writer.done_images, n, batch_size):
            features = job.batch(rows, widths, bar)
            writer.append(job.ids[rows], features, labels=None if known is None else known[rows])
    return open_cube(out)
