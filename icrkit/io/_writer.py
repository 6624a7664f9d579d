"""CubeWriter: append features, lose at most the block in flight, resume to the same bytes."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icrkit._text import strict_json
from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeLockedError
from icrkit.io._block import encode_block
from icrkit.io._durable import PART_SUFFIX, append_line, make_folder, write_file
from icrkit.io._incoming import checked_features, dtype_name, levels_of, scalars
from icrkit.io._layout import CONFIG_NAME, Layout, Line, jsonable, read_layout, read_manifest, software_versions
from icrkit.io._lock import WriterLock

__all__ = ["CubeWriter"]

_TAGS = ("labels", "groups")


class CubeWriter:
    """Writer of a cube store that may be killed at any moment and started again.

    Parameters
    ----------
    path : str or Path
        Folder of the store, "out.cube"; made if absent. A store of the same configuration is continued.
    layers : dict of str to int
        Layers and their numbers of features.
    sigmas : array of shape (levels,)
        Noise levels.
    n_views : int
        Views of each image.
    n_images : int
        Images of the whole cube, over all shards.
    dtype : {"float32", "float16", "float64"}
        How features are stored.
    attrs : dict, optional
        What is known about the extraction (numbers, text, lists, dicts). Part of the configuration.
    block_size : int, optional
        Images in a block, the unit that is written and lost as a whole; by default as many as fill 32 MiB.
    shard : (int, int), optional
        (i, n): this writer writes shard i of n, the images in `image_range`; all n shards share `path`.
    alphas : array of shape (levels,), optional
        Signal scale of each level, where it is not 1.

    Raises
    ------
    CubeFormatError
        When the store at `path` has another configuration; names the field and both values, and writes nothing.
    CubeLockedError
        When another process writes this shard; names its pid and host.
    CubeCorruptError
        When the manifest is damaged before its last line; :func:`icrkit.io.repair` mends it.

    Notes
    -----
    Blocks are cut at fixed places whatever the sizes of the appended pieces, so that a resumed run ends with the bytes
    of an undisturbed one. A block counts from the moment its line is in the manifest. Features of an unfinished block
    live in memory only: on resume the caller appends from `done_images` on.

    A committed part that went missing or changed its size is written again: `done_images` then points at its first
    image, and images of good blocks behind it may be appended again (known by their ids, they are skipped) or left out.
    Its bytes must be those that were lost, whose digest is recorded; :func:`icrkit.io.repair` gives that up.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from icrkit.io import CubeWriter, open_cube
    >>> path = tempfile.mkdtemp() + "/out.cube"
    >>> with CubeWriter(path, layers={"mid": 3}, sigmas=[0.1, 0.3], n_views=2, n_images=4) as writer:
    ...     writer.append([10, 11, 12, 13], {"mid": np.ones((4, 2, 2, 3))}, labels=[0, 1, 0, 1])
    >>> open_cube(path).shape
    (4, 2, 2, 3)
    """

    def __init__(
        self,
        path: str | Path,
        layers: Mapping[str, int],
        sigmas: ArrayLike,
        n_views: int,
        n_images: int,
        dtype: str = "float32",
        attrs: Mapping[str, Any] | None = None,
        block_size: int | None = None,
        shard: tuple[int, int] | None = None,
        alphas: ArrayLike | None = None,
    ) -> None:
        self.path = Path(path)
        self._shard, n_shards = (0, 1) if shard is None else (int(shard[0]), int(shard[1]))
        if not 0 <= self._shard < n_shards:
            raise CubeFormatError(f"shard is {shard}; wanted (i, n) with 0 <= i < n")
        self._layout = Layout(
            layers={str(name): int(d) for name, d in layers.items()},
            sigmas=levels_of(sigmas),
            n_views=int(n_views),
            n_images=int(n_images),
            dtype=dtype_name(dtype),
            block_size=0 if block_size is None else int(block_size),
            n_shards=n_shards,
            alphas=None if alphas is None else levels_of(alphas),
            attrs=jsonable(dict(attrs or {})),
            software=software_versions(),
        )
        self._n = len(self._layout.shard_range(self._shard))
        self._buffers: dict[str, NDArray[Any]] = {}
        self._with: dict[str, bool] | None = None  # whether images come with labels and groups, once that is known
        self._check_place()
        make_folder(self.path)
        self._lock: WriterLock | None = WriterLock(self.path / self._layout.lock_name(self._shard))
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    # ---- what is there ------------------------------------------------------------------------------------------

    @property
    def done_images(self) -> int:
        """Number of images (of this shard) committed in an unbroken run from the first: append from here on."""
        block = self._next_open(0)
        return self._n if block is None else self._layout.block_range(self._shard, block).start

    @property
    def missing_images(self) -> list[range]:
        """Images (of this shard) of blocks that are not committed, as runs: those to append, in this order."""
        runs: list[range] = []
        for block in range(self._layout.n_blocks(self._shard)):
            if self._is_open(block):
                images = self._layout.block_range(self._shard, block)
                joined = bool(runs) and runs[-1].stop == images.start
                runs[-1:] = [range(runs[-1].start, images.stop)] if joined else [*runs[-1:], images]
        return runs

    @property
    def image_range(self) -> range:
        """Rows of the whole cube that this writer writes; all of them without shards."""
        return self._layout.shard_range(self._shard)

    @property
    def finished(self) -> bool:
        """Whether every block of this shard is committed."""
        return self._next_open(0) is None

    @property
    def block_size(self) -> int:
        """Images in a block."""
        return self._layout.block_size

    # ---- writing ------------------------------------------------------------------------------------------------

    def append(
        self,
        image_ids: ArrayLike,
        features: Mapping[str, ArrayLike],
        labels: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> None:
        """Add images, any number at a time; blocks are committed as they fill up.

        Parameters
        ----------
        image_ids : array of shape (n,)
            Ids, integers or text, unique in the cube.
        features : dict of str to array of shape (n, views, levels, features)
            One array a layer; (n, views, features) will do where there is one level.
        labels : array of shape (n,), optional
            Labels, numbers or text; for all images of the cube or for none.
        groups : array of shape (n,), optional
            What each image belongs to, integers or text, where images are not independent; for all or for none.

        Raises
        ------
        NonFiniteError
            When there is NaN or infinity; nothing of this call is kept.
        CubeFormatError
            When shapes, layers, ids, labels or groups do not fit; nothing of this call is kept.
        CubeCorruptError
            When a lost part would be written again with other bytes. The writer is closed.
        CubeLockedError
            When another process came to write to this shard, because a lock file was removed. The writer is closed.
        OSError
            When a block cannot be written (disk full). Committed blocks are intact; the writer is closed, and a new
            one resumes from `done_images`.
        """
        if self._lock is None:
            raise CubeFormatError(f"the writer of {self.path} is closed; open a new one, it resumes")
        ids = scalars(image_ids, "image_ids")
        given = {"labels": labels, "groups": groups}
        tags = {name: scalars(values, name, n=len(ids)) for name, values in given.items() if values is not None}
        arrays = checked_features(self._layout, features, ids)
        plan, position = self._plan(ids, tags)
        for block, offset, take in plan:
            stop = offset + take.stop - take.start
            for name, array in arrays.items():
                # Values were seen to be finite in the store's dtype, so the cast raises nothing.
                self._buffer(name)[:, offset:stop] = np.moveaxis(array[take], 2, 0)
            self._ids += ids[take]
            for name, values in tags.items():
                self._tags[name] += values[take]
            self._known.update(ids[take])
            self._block = block
            if stop == len(self._layout.block_range(self._shard, block)):
                self._commit()
        self._position = position
        if ids:
            self._with = {name: name in tags for name in _TAGS}

    def close(self) -> None:
        """Give up the right to write. Images of an unfinished block are not kept."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._buffers = {}

    def __enter__(self) -> CubeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = len(self._ids) if self._lock is not None else 0
        self.close()
        if kind is None and left:
            warnings.warn(
                f"{self.path}: {left} images of the unfinished block {self._block} were not kept; "
                f"to go on, append again from image {self.done_images} of {self._n} on",
                stacklevel=2,
            )

    # ---- steps --------------------------------------------------------------------------------------------------

    def _check_place(self) -> None:
        # Before anything is made: a refused configuration leaves no trace.
        if (self.path / CONFIG_NAME).exists():
            self._layout.check_same(read_layout(self.path), self.path / CONFIG_NAME)
        elif self.path.is_dir():
            strange = [p.name for p in self.path.iterdir() if p.suffix not in (".lock", PART_SUFFIX)]
            if (self.path / CONFIG_NAME).exists():
                self._check_place()  # another process has just begun this store
            elif strange:
                raise CubeFormatError(f"{self.path} is a folder with other files ({strange[0]}) and no {CONFIG_NAME}")
        elif self.path.exists():
            raise CubeFormatError(f"{self.path} is a file; a store is a folder")

    def _begin(self) -> None:
        self._settle_config()
        self._remove_unfinished(self._layout.part_prefix(self._shard), self._layout.manifest_name(self._shard))
        self._lines, self._manifest_length = read_manifest(self.path, self._layout, self._shard)
        manifest = self.path / self._layout.manifest_name(self._shard)
        if manifest.exists() and manifest.stat().st_size > self._manifest_length:
            os.truncate(manifest, self._manifest_length)
        self._manifest_mark = _mark(manifest)
        self._lost = {line.block for line in self._lines if not self._is_whole(line)}
        self._known: set[Any] = {i for line in self._lines if line.block not in self._lost for i in line.ids or ()}
        first = self._lines[0] if self._lines else None
        self._with = None if first is None else {name: getattr(first, name) is not None for name in _TAGS}
        self._new_block()
        self._position = self.done_images

    def _settle_config(self) -> None:
        # Shards start together: the first to arrive decides, and the others compare. The lock is taken also where
        # there is nothing to decide, because giving it back removes what a killed writer left.
        config = self.path / CONFIG_NAME
        lock = None
        while lock is None:
            try:
                lock = WriterLock(self.path / "config.lock")
            except BlockingIOError:
                time.sleep(0.01)
        try:
            self._remove_unfinished(CONFIG_NAME)
            if not config.exists():
                content = strict_json(self._layout.to_dict()).encode() + b"\n"
                write_file(config, content, follow_link=False)
        finally:
            lock.release()
        there = read_layout(self.path)
        self._layout.check_same(there, config)
        # The same plan, with the digest that it was begun with: it stands in every part.
        self._layout = there

    def _remove_unfinished(self, *prefixes: str) -> None:
        # What a killed writer left of files that nobody but the holder of the lock may write.
        for stale in self.path.iterdir():
            if stale.name.startswith(prefixes) and stale.name.endswith(PART_SUFFIX):
                stale.unlink()

    def _is_whole(self, line: Line) -> bool:
        if line.is_open:
            return False
        try:
            return (self.path / self._layout.part_name(self._shard, line.block)).stat().st_size == line.n_bytes
        except FileNotFoundError:
            return False

    def _is_open(self, block: int) -> bool:
        return block >= len(self._lines) or block in self._lost

    def _next_open(self, block: int) -> int | None:
        blocks = range(block, self._layout.n_blocks(self._shard))
        return next((b for b in blocks if self._is_open(b)), None)

    def _stored_ids(self, block: int) -> list[Any]:
        return (self._lines[block].ids or []) if block < len(self._lines) else []

    def _new_block(self) -> None:
        self._block = -1
        self._ids: list[Any] = []
        self._tags: dict[str, list[Any]] = {name: [] for name in _TAGS}

    def _buffer(self, name: str) -> NDArray[Any]:
        if name not in self._buffers:
            layout = self._layout
            shape = (len(layout.sigmas), min(self._n, layout.block_size), layout.n_views, layout.layers[name])
            self._buffers[name] = np.empty(shape, dtype=layout.dtype)
        return self._buffers[name]

    def _plan(self, ids: list[Any], tags: Mapping[str, list[Any]]) -> tuple[list[tuple[int, int, slice]], int]:
        """Where each piece goes, (block, offset in it, images of this call), and the row expected after them.

        Refuses before anything is kept.
        """
        self._check_kinds(ids, tags)
        plan, fresh = [], []
        at, position = 0, self._position
        while at < len(ids):
            if position >= self._n:
                raise CubeFormatError(
                    f"{position + len(ids) - at} images for {self._n} (n_images, or this shard's part of it)"
                )
            block = position // self._layout.block_size
            target = self._layout.block_range(self._shard, block)
            take = slice(at, at + min(target.stop - position, len(ids) - at))
            moved = position + take.stop - take.start
            stored = self._stored_ids(block)[position - target.start :][: take.stop - take.start]
            same = not stored or stored == ids[take]
            if self._is_open(block) and same:
                plan.append((block, position - target.start, take))
                fresh += ids[take]
            elif not same:
                after = self._next_open(block)
                jumps = position == target.start and ids[at] not in self._known and after not in (None, block)
                if not jumps or after is None:
                    raise CubeFormatError(
                        f"image {ids[at]!r} is not image {position} of {self.path}, which is {stored[0]!r}: append in "
                        "the same order as before"
                    )
                moved, take = self._layout.block_range(self._shard, after).start, slice(at, at)
            at, position = take.stop, moved
        repeated = [i for i in fresh if i in self._known] if len(set(fresh)) == len(fresh) else _repeats(fresh)
        if repeated:
            raise CubeFormatError(f"image id {repeated[0]!r} repeats; {len(repeated)} ids in this call are not new")
        return plan, position

    def _check_kinds(self, ids: list[Any], tags: Mapping[str, list[Any]]) -> None:
        for name in _TAGS:
            if self._with is not None and ids and self._with[name] != (name in tags):
                there, here = ("with", "without") if self._with[name] else ("without", "with")
                raise CubeFormatError(f"earlier images of {self.path} came {there} {name}, these come {here}")
        first = self._lines[0] if self._lines else None
        for what, new, old in (
            ("image_ids", ids, self._ids or (first.ids if first else None)),
            *((name, tags.get(name), self._tags[name] or (getattr(first, name) if first else None)) for name in _TAGS),
        ):
            if new and old and type(new[0]) is not type(old[0]):
                raise CubeFormatError(f"{what} were {type(old[0]).__name__}, and now are {type(new[0]).__name__}")

    def _commit(self) -> None:
        layout, shard, block = self._layout, self._shard, self._block
        size = len(layout.block_range(shard, block))
        tags = {name: values or None for name, values in self._tags.items()}
        features = {name: self._buffer(name)[:, :size] for name in layout.layers}
        data = encode_block(layout, shard, block, self._ids, tags["labels"], features, tags["groups"])
        line = Line(block, size, len(data), hashlib.sha256(data).hexdigest(), self._ids, **tags)
        try:
            self._check_alone()
            self._check_same(line)
            write_file(self.path / layout.part_name(shard, block), data, follow_link=False)
            self._note(line)
        except BaseException:
            self.close()
            raise
        self._new_block()

    def _check_alone(self) -> None:
        """Before a byte is written: whoever removed the lock may have let another writer in."""
        if self._lock is not None:
            self._lock.ensure()
        manifest = self.path / self._layout.manifest_name(self._shard)
        if _mark(manifest) != self._manifest_mark:
            raise CubeLockedError(
                f"{manifest} changed while this process wrote to the store, so another did too: a lock file was "
                "removed. Nothing of this block was written; start again, which resumes"
            )

    def _check_same(self, line: Line) -> None:
        """Refuse other bytes in the place of a lost part: some of the cube would be of another run than the rest."""
        if line.block >= len(self._lines):
            return
        recorded = self._lines[line.block]
        if recorded.is_open or line == recorded:
            return
        raise CubeCorruptError(
            f"{self.path / self._layout.part_name(self._shard, line.block)} was lost, and what was to be written in "
            f"its place is not what was there (block {line.block}, sha256 {line.sha256[:12]}, recorded "
            f"{recorded.sha256[:12]}): another network, images, labels or seed, or other software (written with "
            f"{_versions(self._layout.software)}; now {_versions(software_versions())}); on some accelerators features "
            f"differ from run to run. Nothing was written. Run it as it was first run; or accept the new features: "
            f"`icrkit repair {self.path}`, then the extraction again"
        )

    def _note(self, line: Line) -> None:
        manifest = self.path / self._layout.manifest_name(self._shard)
        if line.block == len(self._lines):
            append_line(manifest, line.encode(), self._manifest_length)
            self._lines.append(line)
        else:  # a lost part written again; the same features give the same line
            if line != self._lines[line.block]:
                lines = [*self._lines[: line.block], line, *self._lines[line.block + 1 :]]
                write_file(manifest, b"".join(old.encode() for old in lines), follow_link=False)
                self._lines = lines
            self._lost.discard(line.block)
        self._manifest_length = manifest.stat().st_size
        self._manifest_mark = _mark(manifest)


def _mark(path: Path) -> tuple[int, int] | None:
    """What changes when another process writes to a file that only grows, or is replaced."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size


def _versions(software: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in software.items())


def _repeats(values: list[Any]) -> list[Any]:
    seen: set[Any] = set()
    return [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]
