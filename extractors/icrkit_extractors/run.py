"""The driver: images x views x noise levels through a source of features, into a cube.

For each image and view there is one augmentation and one noise draw; all levels see the same two, so that
differences between levels are differences of the network, not of the draws.
"""

from __future__ import annotations

import json
import math
import operator
import shutil
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from icrkit.cube import Cube, from_arrays
from icrkit.exceptions import CubeFormatError, CubeIncompleteError, NonFiniteError
from icrkit.io import CubeWriter, open_cube
from icrkit.moments import Moments
from icrkit_extractors._streams import normals
from icrkit_extractors.noise import Level, NoiseLaw
from icrkit_extractors.views import View, as_unit_range

__all__ = ["Estimate", "Source", "estimate", "extract", "extract_course"]

# A block on disk costs an fsync, which is slow below some MiB; a killed run loses the block in flight.
_BLOCK_BYTES = 16 << 20

# Nor may a block of pooled features be hours of work: forward passes of one image in a block.
_BLOCK_FORWARDS = 20_000

# Features that are kept until their moments are taken: each taking costs a d x d sum for every level and fold.
_MOMENTS_BYTES = 128 << 20

# Batches that are read, augmented and drawn ahead of the network.
_AHEAD = 2


class Source(Protocol):
    """What `extract` asks of a source of features; it may also have ``place``.

    ``place(array) -> array`` turns images and noise into what the noise law and the network compute with, such as
    tensors on a device; without it they stay numpy arrays.
    """

    def __call__(self, x: Any, conditioning: Mapping[str, Any], /) -> Mapping[str, np.ndarray]:
        """Layer to features (n, d) of a batch: the network's input and its conditioning."""

    def config(self) -> dict[str, Any]:
        """What identifies the features, for the attributes of a cube."""


class Images(Protocol):
    """An array of images, in memory or on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


class Encode(Protocol):
    """Views to latents, for networks that work in the space of an autoencoder; see `icrkit_extractors.latents`."""

    def __call__(self, images: np.ndarray, image_ids: Sequence[Any], view: int, seed: int, /) -> np.ndarray:
        """Latents (n, channel, height, width), float32."""

    def config(self) -> dict[str, Any]:
        """The autoencoder, for the attributes of a cube."""


class _Item(NamedTuple):
    """One view of a batch, ready for the network."""

    rows: slice
    view: int
    clean: np.ndarray
    noise: np.ndarray | None


class _Forward:
    """A source that is given less at a time once its device has run out of memory."""

    def __init__(self, src: Source, law: NoiseLaw) -> None:
        self._src, self._law = src, law
        self._most: dict[str, int] = {}

    def __call__(self, clean: Any, noise: Any, level: Level) -> Mapping[str, np.ndarray]:
        """Features of a batch at one level."""
        parts = self._in_pieces(
            "forward pass", len(clean), lambda piece: self._src(*self._law(clean[piece], noise[piece], level))
        )
        return parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def encoded(self, encode: Encode, images: np.ndarray, ids: Sequence[Any], view: int, seed: int) -> np.ndarray:
        """Latents of a batch."""
        parts = self._in_pieces(
            "encoding", len(images), lambda piece: np.asarray(encode(images[piece], ids[piece], view, seed))
        )
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _in_pieces(self, what: str, n: int, run: Callable[[slice], Any]) -> list[Any]:
        """Results of the pieces of a batch: one, or more once the device has run out of memory."""
        while True:
            size = min(n, self._most.get(what, n))
            try:
                parts = [run(piece) for piece in _slices(0, n, size)]
            except Exception as error:
                if not _out_of_memory(error) or size == 1:
                    raise
                said = " ".join(str(error).split())[:200]
            else:
                return parts
            # Outside the handler: the error's traceback would keep the tensors that have to go.
            self._most[what] = size // 2
            torch = sys.modules.get("torch")
            if torch is not None and torch.cuda.is_available():
                torch.cuda.empty_cache()
            warnings.warn(
                f"out of memory with {size} images in one {what}; going on with {self._most[what]} ({said})",
                stacklevel=2,
            )


def _out_of_memory(error: Exception) -> bool:
    # torch's CPU allocator and onnxruntime have no class of their own for it.
    words = ("out of memory", "failed to allocate memory", "can't allocate memory", "not enough memory")
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words))
        or (type(error).__module__.startswith("onnxruntime") and any(word in str(error).lower() for word in words))
    )


@dataclass(frozen=True)
class _Job:
    """All that decides the features of images start..stop; knows nothing of where they go."""

    src: Source
    forward: _Forward
    images: Images
    ids: np.ndarray
    labels: np.ndarray | None
    noise: NoiseLaw
    levels: list[Level]
    sigmas: list[float]
    views: View
    encode: Encode | None
    n_views: int
    seed: int
    fresh_noise: bool
    batch_size: int
    record: dict[str, Any]

    # ---- images, views, noise -----------------------------------------------------------------------------------

    def read(self, rows: slice) -> np.ndarray:
        try:
            return as_unit_range(np.asarray(self.images[rows]))
        except ValueError as error:
            raise ValueError(f"images {rows.start} to {rows.stop - 1}: {error}") from error

    def view(self, images: np.ndarray, rows: slice, view: int) -> _Item:
        """One augmented view of each image, in the network's space, and its noise."""
        ids = self.ids[rows].tolist()
        try:
            clean = as_unit_range(self.views(images, ids, view, self.seed))
        except ValueError as error:
            raise ValueError(f"views: {error}") from error
        if clean.shape != images.shape:
            raise ValueError(f"views gave shape {clean.shape} for images of shape {images.shape}")
        if self.encode is not None:
            clean = self._encoded(clean, rows, view)
        shared = None if self.fresh_noise else self._noise(ids, view, clean.shape[1:], "noise")
        return _Item(rows, view, clean, shared)

    def _encoded(self, clean: np.ndarray, rows: slice, view: int) -> np.ndarray:
        assert self.encode is not None
        given = self.forward.encoded(self.encode, clean, self.ids[rows].tolist(), view, self.seed)
        latents = np.ascontiguousarray(given, dtype=np.float32)
        if latents.ndim != 4 or len(latents) != len(clean):
            raise ValueError(f"encode gave shape {latents.shape} for {len(clean)} images")
        if not np.isfinite(latents).all():
            raise NonFiniteError(f"encode gave NaN or infinity: view {view}, {self._named(rows)}")
        return latents

    def _noise(self, ids: Sequence[Any], view: int, shape: tuple[int, ...], purpose: str) -> np.ndarray:
        if not any(level.sigma for level in self.levels):
            return np.zeros((len(ids), *shape), dtype=np.float32)
        return normals(self.seed, ids, view, shape, purpose)

    def _named(self, rows: slice) -> str:
        return f"images {self.ids[rows][0].item()!r} to {self.ids[rows][-1].item()!r}"

    def items(self, batches: Iterable[slice]) -> Iterator[_Item]:
        """Every view of every batch, prepared while the network is busy where that cannot change a draw."""
        kept: tuple[slice, np.ndarray] | None = None

        def prepare(rows: slice, view: int) -> _Item:
            nonlocal kept
            if kept is None or kept[0] != rows:
                kept = rows, self.read(rows)
            return self.view(kept[1], rows, view)

        wanted = ((rows, view) for rows in batches for view in range(self.n_views))
        # Views that draw from a global generator would do so while the network's own use of it is being put back.
        # Nor are data sets of others read in another thread than the one that made them.
        beside = getattr(self.images, "own_streams", isinstance(self.images, np.ndarray))
        ahead = _AHEAD if beside and getattr(self.views, "own_streams", False) and self.encode is None else 0
        return _ahead(prepare, wanted, ahead)

    # ---- features -----------------------------------------------------------------------------------------------

    def features(self, item: _Item) -> Iterator[dict[str, np.ndarray]]:
        """Features of one view, level by level, checked."""
        place = getattr(self.src, "place", np.asarray)
        clean, noise = place(item.clean), None if item.noise is None else place(item.noise)
        for level, sigma in zip(self.levels, self.sigmas, strict=True):
            if item.noise is None:
                ids = self.ids[item.rows].tolist()
                # By the level's value, not its place in the list: other levels beside it change no draw.
                noise = place(self._noise(ids, item.view, item.clean.shape[1:], f"noise at {sigma!r}"))
            where = f"view {item.view}, sigma {sigma}, {self._named(item.rows)}"
            try:
                given = self.forward(clean, noise, level)
            except NonFiniteError as error:
                raise NonFiniteError(f"{error}: {where}") from error
            yield self._checked(given, len(item.clean), where)

    @staticmethod
    def _checked(given: Mapping[str, np.ndarray], n: int, where: str) -> dict[str, np.ndarray]:
        if not given:
            raise ValueError("the source gave no layer")
        features = {name: np.asarray(h, dtype=np.float32) for name, h in given.items()}
        for name, h in features.items():
            if h.ndim != 2 or len(h) != n:
                raise ValueError(f"the source gave shape {h.shape} for layer {name!r}, wanted ({n}, features)")
            if not np.isfinite(h).all():
                raise NonFiniteError(f"layer {name!r} holds NaN or infinity: {where}")
        return features

    def blocks(
        self, batches: Iterable[slice], widths: Mapping[str, int], bar: tqdm
    ) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Rows and features (image, view, sigma, feature) of each batch, by layer."""
        block: dict[str, np.ndarray] = {}
        for item in self.items(batches):
            n = len(item.clean)
            if item.view == 0:
                shape = (n, self.n_views, len(self.levels))
                block = {name: np.empty((*shape, width), dtype=np.float32) for name, width in widths.items()}
            for k, features in enumerate(self.features(item)):
                found = _widths(features)
                if found != widths:
                    raise ValueError(f"the source gave layers of widths {found}, and {dict(widths)} before")
                for name, h in features.items():
                    block[name][:, item.view, k] = h
                bar.update(n)
            if item.view == self.n_views - 1:
                yield item.rows, block

    def widths(self) -> dict[str, int]:
        """Layers and their numbers of features, by running two images once."""
        rows = slice(0, min(self.batch_size, len(self.ids)))
        images = self.read(rows)
        if getattr(self.images, "dtype", None) != np.uint8 and images.min() >= 0:
            warnings.warn(
                "no pixel of the first images is below 0: images in [0, 1] must be passed as 2 * images - 1",
                stacklevel=4,
            )
        few = slice(0, min(2, rows.stop))
        return _widths(next(self.features(self.view(images[few], few, 0))))

    @property
    def per_image(self) -> int:
        """Forward passes of one image."""
        return self.n_views * len(self.levels)

    def bytes_per_image(self, widths: Mapping[str, int]) -> int:
        return 4 * self.per_image * sum(widths.values())


def _ahead(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], depth: int) -> Iterator[Any]:
    """Results in order, ``depth`` of them computed ahead in one thread of its own (0: none, in this one)."""
    if depth == 0:
        for given in arguments:
            yield function(*given)
        return
    pending: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="icrkit-views")
    try:
        for given in arguments:
            pending.append(pool.submit(function, *given))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _widths(features: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {name: h.shape[1] for name, h in features.items()}


# ---- what the user gives, checked -----------------------------------------------------------------------------------


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


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be {least} or more, not {number}")
    return number


def _version() -> str:
    try:
        return metadata.version("icrkit")
    except metadata.PackageNotFoundError:
        return "not installed"


def _described(views: View) -> dict[str, Any]:
    """What is known of the views."""
    # A function has no parameters to show: its name is what can be recorded.
    describe = getattr(views, "config", None)
    name = f"{getattr(views, '__module__', '')}.{getattr(views, '__qualname__', type(views).__qualname__)}"
    return dict(describe()) if describe else {"name": name}


def _job(
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
    encode: Encode | None = None,
    fresh_noise: bool = False,
    batch_size: int = 256,
    attrs: Mapping[str, Any] | None = None,
) -> _Job:
    n = len(images)
    if n == 0:
        raise ValueError("images is empty")
    asked = [*sigmas] if not isinstance(sigmas, str | bytes) else sigmas
    levels = noise.levels(asked)
    axis = [
        float(sigma) if math.isclose(sigma, level.ratio, rel_tol=1e-9) else level.ratio
        for sigma, level in zip(asked, levels, strict=True)
    ]
    job = _Job(
        src=src,
        forward=_Forward(src, noise),
        images=images,
        ids=_checked_ids(getattr(images, "image_ids", None) if image_ids is None else image_ids, n),
        labels=_checked_labels(getattr(images, "labels", None) if labels is None else labels, n),
        noise=noise,
        levels=levels,
        sigmas=axis,
        views=views,
        encode=encode,
        n_views=_whole("n_views", n_views, 1),
        seed=_whole("seed", seed, 0),
        fresh_noise=bool(fresh_noise),
        batch_size=_whole("batch_size", batch_size, 1),
        record={},
    )
    describe = getattr(images, "config", None)
    job.record.update(
        {
            **src.config(),
            "noise": noise.config(),
            "noise_draws": "fresh" if job.fresh_noise else "shared",
            "views": _described(views),
            **({} if encode is None else {"encode": encode.config()}),
            **({"images": describe()} if describe else {}),
            "n_views": job.n_views,
            "seed": job.seed,
            # A network's last bits may depend on the batch, so resuming keeps it.
            "batch_size": job.batch_size,
            "icrkit_version": _version(),
            "numpy_version": np.__version__,
        }
    )
    taken = sorted(set(job.record) & set(attrs or {}))
    if taken:
        raise ValueError(f"attrs {taken} are recorded by extract itself; choose other names")
    job.record.update(attrs or {})
    return job


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def _shard_rows(shard: tuple[int, int] | None, n: int) -> range:
    """Rows of a shard: contiguous, so that shards in order are the images in order."""
    if shard is None:
        return range(n)
    i, count = (_whole(f"shard[{k}]", value, 0) for k, value in enumerate(shard))
    if not i < count <= n:
        raise ValueError(f"shard must be (i, n) with 0 <= i < n and n at most the {n} images, not {tuple(shard)}")
    return range(i * n // count, (i + 1) * n // count)


# ---- where features go ----------------------------------------------------------------------------------------------


def _bar(job: _Job, n: int, done: int, progress: bool) -> tqdm:
    return tqdm(total=n * job.per_image, initial=done * job.per_image, desc="extract", unit="img", disable=not progress)


def _alphas(job: _Job) -> list[float] | None:
    """Signal scales, where one of them is not 1."""
    alphas = [level.alpha for level in job.levels]
    return None if set(alphas) == {1.0} else alphas


def _to_memory(job: _Job, widths: Mapping[str, int], rows: range, progress: bool) -> Cube:
    shape = (len(rows), job.n_views, len(job.sigmas))
    whole = {name: np.empty((*shape, d), dtype=np.float32) for name, d in widths.items()}
    # Made first and filled afterwards: what a cube refuses is refused before the network runs.
    cube = _cube(job, whole, slice(rows.start, rows.stop))
    with _bar(job, len(rows), 0, progress) as bar:
        for batch, block in job.blocks(_slices(rows.start, rows.stop, job.batch_size), widths, bar):
            for name, h in block.items():
                whole[name][batch.start - rows.start : batch.stop - rows.start] = h
    return cube


def _cube(job: _Job, features: Mapping[str, np.ndarray], rows: slice) -> Cube:
    labels = None if job.labels is None else job.labels[rows]
    cube = from_arrays(features, sigmas=job.sigmas, labels=labels, image_ids=job.ids[rows], attrs=job.record)
    alphas = _alphas(job)
    return cube if alphas is None else Cube(cube.to_xarray().assign_coords(alpha=("sigma", alphas)))


def _to_store(
    job: _Job, widths: Mapping[str, int], out: str | Path, shard: tuple[int, int] | None, progress: bool
) -> Cube:
    # A block holds whole batches, so that a resumed run cuts the same ones.
    most = min(_BLOCK_BYTES // job.bytes_per_image(widths), _BLOCK_FORWARDS // job.per_image)
    block_size = job.batch_size * max(1, most // job.batch_size)
    n = len(job.ids)
    with CubeWriter(
        out, layers=widths, sigmas=job.sigmas, n_views=job.n_views, n_images=n, attrs=job.record,
        block_size=block_size, shard=shard, alphas=_alphas(job),
    ) as writer:  # fmt: skip
        mine = writer.image_range
        with _bar(job, len(mine), writer.done_images, progress) as bar:
            batches = _slices(mine.start + writer.done_images, mine.stop, job.batch_size)
            for rows, features in job.blocks(batches, widths, bar):
                labels = None if job.labels is None else job.labels[rows]
                writer.append(job.ids[rows], features, labels=labels)
    try:
        return open_cube(out)
    except CubeIncompleteError:
        if shard is None:
            raise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the other shards may still be running
            return open_cube(out, allow_partial=True)


def _to_moments(job: _Job, widths: Mapping[str, int], rows: range, n_folds: int, progress: bool) -> dict[str, Moments]:
    at_once = job.batch_size * max(1, _MOMENTS_BYTES // (job.batch_size * job.bytes_per_image(widths)))
    totals: dict[str, Moments] = {}
    kept: list[dict[str, np.ndarray]] = []

    def take(stop: int) -> None:
        features = {name: np.concatenate([block[name] for block in kept]) for name in widths}
        cube = _cube(job, features, slice(stop - len(next(iter(features.values()))), stop))
        for name in widths:
            part = Moments.from_cube(cube.select(layer=name), n_folds=n_folds, dtype="float64")
            if len(job.sigmas) == 1:
                part = Moments.stack([part], "sigma", cube.sigmas)
            totals[name] = totals[name] + part if name in totals else part
        kept.clear()

    with _bar(job, len(rows), 0, progress) as bar:
        for batch, block in job.blocks(_slices(rows.start, rows.stop, job.batch_size), widths, bar):
            kept.append(block)
            # One image alone has no moments: a last one goes with those before it.
            if batch.stop == rows.stop or ((batch.stop - rows.start) % at_once == 0 and rows.stop - batch.stop > 1):
                take(batch.stop)
    return totals


def _check_moments(job: _Job, rows: range, out: Path | None) -> None:
    """Refuse before the network runs what could not be kept after it."""
    if job.n_views < 2 or len(rows) < 2:
        raise ValueError(
            f"moments need two images and two views at least, not {len(rows)} images and n_views={job.n_views}"
        )
    if out is not None:
        out.mkdir(parents=True)


def _save_moments(totals: Mapping[str, Moments], job: _Job, rows: range, out: Path) -> None:
    files = {name: f"layer-{k:02d}.h5" for k, name in enumerate(totals)}
    for name, file in files.items():
        totals[name].save(out / file)
    about = {"layers": files, "images": [rows.start, rows.stop], "n_images": len(job.ids), "attrs": job.record}
    # Last: where it is, all is.
    (out / "moments.json").write_text(json.dumps(about, indent=1, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


# ---- what the user calls --------------------------------------------------------------------------------------------


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
        Classes, kept in the cube; by default those that `images` brings along.
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
        If ``out`` exists and ``resume`` is False, or with ``moments_only``, which is not resumed.

    Notes
    -----
    Views and noise are pure functions of (seed, image id, view), the same at every level. A block is about 16 MiB or
    20,000 forward passes, whichever is less, and a batch at least; memory holds some four times that, and three batches
    of views. A killed run loses the block in flight at most, and a resumed one ends with the same bytes. Where the
    device runs out of memory, the batch is given to the network in halves, with a warning.

    Moments are taken in float64 from about 128 MiB of features at a time, and hold 16 levels x folds x d^2 bytes a
    layer. Moments of shards add up (``+``) to those of all images. With `out` they are saved into that folder,
    a file a layer, beside ``moments.json``, which says which is which and how they were made.

    Examples
    --------
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
    job = _job(
        src, images, sigmas, noise=noise, views=views, n_views=n_views, labels=labels, seed=seed, image_ids=image_ids,
        encode=encode, fresh_noise=fresh_noise, batch_size=batch_size, attrs=attrs,
    )  # fmt: skip
    rows = _shard_rows(shard, len(job.ids))
    if out is not None and Path(out).exists() and (moments_only or not resume):
        way_out = (
            "moments are not resumed: remove it first"
            if moments_only
            else "resume=True continues it, or remove it first"
        )
        raise FileExistsError(f"{out} exists: {way_out}")
    widths = job.widths()
    job.record.update(job.src.config())  # a source may know more of its layers once it has run
    if moments_only:
        folder = None if out is None else Path(out)
        _check_moments(job, rows, folder)
        try:
            totals = _to_moments(job, widths, rows, _whole("n_folds", n_folds, 0), progress)
            if folder is not None:
                _save_moments(totals, job, rows, folder)
        except BaseException:
            if folder is not None:  # without moments.json it would only be in the way
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return totals
    if out is None:
        return _to_memory(job, widths, rows, progress)
    return _to_store(job, widths, out, shard, progress)


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
        Those of `extract` that say what is computed: n_views, seed, labels, image_ids, encode, fresh_noise,
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
    job = _job(src, images, sigmas, noise=noise, views=views, **settings)
    rows = _shard_rows(shard, len(job.ids))
    widths = job.widths()
    batch = next(_slices(rows.start, rows.stop, job.batch_size))
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
    """Cubes of several checkpoints of one training, with the same images and draws.

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
        step = _whole("step", step, 0)
        if step in steps:
            raise ValueError(f"step {step} appears twice: each checkpoint needs its own")
        steps.add(step)
        # A source has config(); what has none makes one.
        src = source if hasattr(source, "config") else source()  # type: ignore[call-arg]
        where = None if out is None else Path(out) / f"step-{step:08d}.cube"
        course.append(
            (step, extract(src, images, levels, out=where, attrs={**(attrs or {}), "step": step}, **settings))
        )
    return course
