"""What decides the features of some images: a source, views, noise levels and draws; not where the features go.

For each image and view there is one augmentation and one noise draw; all levels see the same two, so that
differences between levels are differences of the network, not of the draws.
"""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from icrkit.exceptions import NonFiniteError
from icrkit_extractors._probe import probe_difference, probe_numbers
from icrkit_extractors._streams import normals
from icrkit_extractors.noise import Level, NoiseLaw
from icrkit_extractors.views import View, as_unit_range

__all__ = ["Encode", "Forward", "Images", "Job", "Source", "real_array", "slices", "widths_of"]

# Of the norm of latents: rounding, also of half precision on a device.
_ENCODED_AGAIN = 2e-2
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


class Forward:
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
            "encoding", len(images), lambda piece: real_array(encode(images[piece], ids[piece], view, seed), "encode")
        )
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _in_pieces(self, what: str, n: int, run: Callable[[slice], Any]) -> list[Any]:
        """Results of the pieces of a batch: one, or more once the device has run out of memory."""
        while True:
            size = min(n, self._most.get(what, n))
            try:
                parts = [run(piece) for piece in slices(0, n, size)]
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


def real_array(value: Any, what: str) -> np.ndarray:
    """What code of the user's gives, an array or a tensor, as an array of real numbers.

    Raises
    ------
    ValueError
        If it is not that, such as complex numbers, text, masked values or a dict; ``what`` says where it comes from.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value  # numpy has no such type
    if np.ma.is_masked(value):
        raise ValueError(f"{what} has masked values: fill them, or leave these images out")
    array = np.asarray(value)
    if array.dtype.kind == "c":
        raise ValueError(f"{what} is complex: give real and imaginary parts one after the other")
    if array.dtype.kind not in "biuf":
        kind = array.dtype if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise ValueError(f"{what} is {kind}, expected an array of real numbers")
    return array


def _out_of_memory(error: Exception) -> bool:
    # torch's CPU allocator and onnxruntime have no class of their own for it.
    words = ("out of memory", "failed to allocate memory", "can't allocate memory", "not enough memory")
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words))
        or (type(error).__module__.startswith("onnxruntime") and any(word in str(error).lower() for word in words))
    )


@dataclass(frozen=True)
class Job:
    """All that decides the features of images start..stop; knows nothing of where they go."""

    src: Source
    forward: Forward
    images: Images
    ids: np.ndarray
    labels: np.ndarray | None
    groups: np.ndarray | None
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
            return as_unit_range(real_array(self.images[rows], "the array"))
        except ValueError as error:
            raise ValueError(f"images {rows.start} to {rows.stop - 1}: {error}") from error

    def view(self, images: np.ndarray, rows: slice, view: int) -> _Item:
        """One augmented view of each image, in the network's space, and its noise."""
        ids = self.ids[rows].tolist()
        clean = self._viewed(images, rows, view)
        if self.encode is not None:
            clean = self._encoded(clean, rows, view)
        shared = None if self.fresh_noise else self._noise(ids, view, clean.shape[1:], "noise")
        return _Item(rows, view, clean, shared)

    def _viewed(self, images: np.ndarray, rows: slice, view: int) -> np.ndarray:
        try:
            given = real_array(self.views(images, self.ids[rows].tolist(), view, self.seed), "what it gave")
            clean = as_unit_range(given)
        except ValueError as error:
            raise ValueError(f"views: {error}") from error
        if clean.shape != images.shape:
            raise ValueError(f"views gave shape {clean.shape} for images of shape {images.shape}")
        return clean

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
        if not isinstance(given, Mapping):
            raise ValueError(f"the source gave a {type(given).__name__}, expected a dict of layers to features")
        if not given or not all(isinstance(name, str) for name in given):
            raise ValueError(f"the source gave no layer, or one without a name: {list(given)}")
        features = {
            name: np.asarray(real_array(h, f"layer {name!r} of the source"), dtype=np.float32)
            for name, h in given.items()
        }
        for name, h in features.items():
            if h.ndim != 2 or len(h) != n or not h.shape[1]:
                raise ValueError(f"the source gave shape {h.shape} for layer {name!r}, wanted ({n}, features)")
            if not np.isfinite(h).all():
                raise NonFiniteError(f"layer {name!r} holds NaN or infinity: {where}")
        return features

    def blocks(
        self, batches: Iterable[slice], first: Mapping[str, np.ndarray], bar: Any
    ) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Rows and features (image, view, sigma, feature) of each batch, by layer; ``first`` from `first_features`."""
        block: dict[str, np.ndarray] = {}
        widths = widths_of(first)
        for item in self.items(batches):
            n = len(item.clean)
            if item.view == 0:
                shape = (n, self.n_views, len(self.levels))
                block = {name: np.empty((*shape, width), dtype=np.float32) for name, width in widths.items()}
            for k, features in enumerate(self.features(item)):
                found = widths_of(features)
                if found != widths:
                    raise ValueError(f"the source gave layers of widths {found}, and {widths} before")
                if item.rows.start == item.view == k == 0:
                    self._compare_first(first, features)
                for name, h in features.items():
                    block[name][:, item.view, k] = h
                bar.update(n)
            if item.view == self.n_views - 1:
                yield item.rows, block

    def first_features(self) -> dict[str, np.ndarray]:
        """Layers of the first two images (one where there is only one), view 0 at the first level."""
        rows = slice(0, min(self.batch_size, len(self.ids)))
        images = self.read(rows)
        if getattr(self.images, "dtype", None) != np.uint8 and images.min() >= 0:
            warnings.warn(
                "no pixel of the first images is below 0: images in [0, 1] must be passed as 2 * images - 1",
                stacklevel=4,
            )
        few = slice(0, min(2, rows.stop))
        return next(self.features(self.view(images[few], few, 0)))

    def _compare_first(self, first: Mapping[str, np.ndarray], features: Mapping[str, np.ndarray]) -> None:
        """Say where the first images have other features than by themselves, be it by chance or by the batch."""
        one, n = (len(next(iter(given.values()))) for given in (first, features))
        # Of the images that are in both: a block of one image has not the second.
        by_themselves = {name: h[:n] for name, h in first.items()}
        difference = probe_difference(probe_numbers(by_themselves), probe_numbers(features), self.record)
        if difference is None:
            return
        self._refuse_random(slice(0, one), first)
        warnings.warn(
            f"features depend on the batch: on the first images {difference} between a batch of {one} and one of {n}. "
            "Another batch_size, or another order of the images, gives other features. Give norms running statistics, "
            "choose a layer before what looks at the batch, or run one image at a time, batch_size=1",
            stacklevel=5,
        )

    def _refuse_random(self, rows: slice, first: Mapping[str, np.ndarray]) -> None:
        """Refuse views, an autoencoder or a source that give the same images something else at each call."""
        images, way_out = self.read(rows), "of one image, view and seed it must always give the same"
        one, other = (self._viewed(images, rows, 0) for _ in range(2))
        if not np.array_equal(one, other):
            raise ValueError(
                f"views are random: {way_out} (draw from np.random.default_rng((seed, view)), for example)"
            )
        if self.encode is not None:
            one, other = (self._encoded(one, rows, 0) for _ in range(2))
            if np.linalg.norm(one - other) > _ENCODED_AGAIN * np.linalg.norm(one):
                raise ValueError(f"encode is random: {way_out} (the mode of an autoencoder, or draws that are seeded)")
        again = next(self.features(self.view(images, rows, 0)))
        difference = probe_difference(probe_numbers(first), probe_numbers(again), self.record)
        if difference is not None:
            raise ValueError(f"the source is random: on the same images {difference} between two calls")

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


def widths_of(features: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Layers and their numbers of features."""
    return {name: h.shape[1] for name, h in features.items()}


def slices(start: int, stop: int, size: int) -> Iterator[slice]:
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))
