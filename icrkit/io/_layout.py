"""The store's plan: cube.json and its digest, blocks, shards, names of files, manifest lines."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from icrkit._contract import AXES, check_levels, feature_dim, listed
from icrkit._text import strict_json
from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeIncompleteError
from icrkit.io._durable import PART_SUFFIX
from icrkit.io._parsing import parsing

CONFIG_NAME = "cube.json"
FORMAT = "icrkit-cube"
VERSION = 1
MOST_SHARDS = 1000
# Of images, views or features: what Python's ranges can count.
MOST = 1 << 60
DTYPES = ("float16", "float32", "float64")
# fsync costs 43 MB/s at 0.5 MiB a block and 257 at 16 (measured); beyond 64 MiB a kill would lose too much.
TARGET_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class Layout:
    """What a cube store holds and how its images are cut into shards and blocks; the content of cube.json."""

    layers: dict[str, int]
    sigmas: tuple[float, ...]
    n_views: int
    n_images: int
    dtype: str = "float32"
    block_size: int = 0
    n_shards: int = 1
    alphas: tuple[float, ...] | None = None
    attrs: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_names(self.layers)
        if self.dtype not in DTYPES:
            raise CubeFormatError(f"dtype {self.dtype!r}; a store holds one of {', '.join(DTYPES)}")
        counts = {"n_views": self.n_views, "n_images": self.n_images, "n_shards": self.n_shards}
        counts |= {f"features of layer {name!r}": d for name, d in self.layers.items()}
        for name, count in counts.items():
            if type(count) is not int or not 1 <= count <= MOST:
                raise CubeFormatError(f"{name} is {count!r}; expected a whole number from 1 to {MOST}")
        if not self.sigmas:
            raise CubeFormatError("sigmas is empty; a cube has at least one noise level")
        check_levels(np.array(self.sigmas, dtype=np.float64), "")
        if self.alphas is not None and len(self.alphas) != len(self.sigmas):
            raise CubeFormatError(f"{len(self.alphas)} alphas for {len(self.sigmas)} sigmas")
        if np.isinf(self.alphas or ()).any():
            raise CubeFormatError(f"alphas must be finite numbers; found {listed(np.array(self.alphas))}")
        for name, value in {"attrs": self.attrs, "software": self.software}.items():
            if not isinstance(value, dict):
                raise CubeFormatError(f"{name} is a {type(value).__name__}; expected an object of names and values")
        if self.n_shards > min(self.n_images, MOST_SHARDS):
            raise CubeFormatError(f"{self.n_shards} shards for {self.n_images} images; at most {MOST_SHARDS}")
        if self.block_size == 0:
            object.__setattr__(self, "block_size", max(1, min(self.n_images, TARGET_BLOCK_BYTES // self.image_bytes)))
        if type(self.block_size) is not int or not 1 <= self.block_size <= MOST:
            raise CubeFormatError(f"block_size is {self.block_size!r}; wanted images per block, at least 1")

    @property
    def image_bytes(self) -> int:
        """Bytes of the features of one image."""
        return self.n_views * len(self.sigmas) * sum(self.layers.values()) * np.dtype(self.dtype).itemsize

    def shard_range(self, shard: int) -> range:
        """Rows of the images that belong to a shard: contiguous, so that shards in order are the images in order."""
        return range(shard * self.n_images // self.n_shards, (shard + 1) * self.n_images // self.n_shards)

    def n_blocks(self, shard: int) -> int:
        """Number of blocks of a shard."""
        return -(-len(self.shard_range(shard)) // self.block_size)

    def block_range(self, shard: int, block: int) -> range:
        """Rows, counted inside the shard, of the images of a block."""
        return range(block * self.block_size, min((block + 1) * self.block_size, len(self.shard_range(shard))))

    def part_name(self, shard: int, block: int) -> str:
        """File name of a block."""
        return f"{self.part_prefix(shard)}{block:05d}.h5"

    def part_prefix(self, shard: int) -> str:
        """What the names of a shard's parts begin with."""
        return "part-" if self.n_shards == 1 else f"part-s{shard:03d}-"

    def manifest_name(self, shard: int) -> str:
        """File name of a shard's manifest."""
        return "manifest.jsonl" if self.n_shards == 1 else f"manifest-{shard:03d}.jsonl"

    def lock_name(self, shard: int) -> str:
        """File name of a shard's lock; it exists only while a writer runs, or after one was killed."""
        return "writer.lock" if self.n_shards == 1 else f"writer-{shard:03d}.lock"

    def to_dict(self) -> dict[str, Any]:
        """Content of cube.json, with the digest of all the rest; an unknown level is NaN, which JSON writes as null."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "dims": [*AXES, "feature_LAYER"],
            "dtype": self.dtype,
            "layers": [{"name": name, "features": d} for name, d in self.layers.items()],
            "sigmas": list(self.sigmas),
            "alphas": None if self.alphas is None else list(self.alphas),
            "n_views": self.n_views,
            "n_images": self.n_images,
            "block_size": self.block_size,
            "n_shards": self.n_shards,
            "attrs": self.attrs,
            "software": self.software,
        }
        return {**content, "digest": _digest(content)}

    @property
    def digest(self) -> str:
        """sha256 of the content of cube.json."""
        return str(self.to_dict()["digest"])

    def check_same(self, other: Layout, path: Path) -> None:
        """Refuse to continue a store under another configuration; names the first field that differs."""
        mine, theirs = self.to_dict(), other.to_dict()
        for key in mine:
            if key in ("software", "digest"):
                continue  # a newer library may finish what an older one began
            found = _difference(key, theirs[key], mine[key])
            if found:
                name, there, here = found
                raise CubeFormatError(
                    f"{path} was begun with {name} = {there}, and this writer has {name} = {here}; nothing was "
                    "written. Continue with the same configuration, or choose another path."
                )

    @classmethod
    def from_dict(cls, content: dict[str, Any], path: Path) -> Layout:
        """Layout of a parsed cube.json, checked against its digest."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise CubeFormatError(f"{path} is no icrkit cube: its format is not {FORMAT!r}")
        if content.get("version") != VERSION:
            raise CubeFormatError(f"{path} has version {content.get('version')!r}; this icrkit reads {VERSION}")
        # Before it was null, an unknown level stood there as NaN, and as that it goes into the digest.
        rest = {key: _with_nan(value) if key in _LEVELS else value for key, value in content.items() if key != "digest"}
        if _digest(rest) != content.get("digest"):
            raise CubeCorruptError(f"{path} does not match its own digest: it was changed after it was written")
        try:
            return cls(
                layers={layer["name"]: layer["features"] for layer in content["layers"]},
                sigmas=tuple(map(float, rest["sigmas"])),
                alphas=None if rest["alphas"] is None else tuple(map(float, rest["alphas"])),
                **{key: content[key] for key in ("n_views", "n_images", "dtype", "block_size", "n_shards")},
                attrs=content["attrs"],
                software=content["software"],
            )
        except CubeFormatError as error:
            raise CubeFormatError(f"{path}: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise CubeFormatError(f"{path} lacks or misstates {error}") from error


# Stands for the sha256 of a part in the line of a block whose loss was accepted.
OPEN_DIGEST = "0" * 64


@dataclass(frozen=True)
class Line:
    """One line of a manifest: a committed block."""

    block: int
    images: int
    n_bytes: int
    sha256: str
    ids: list[Any] | None
    labels: list[Any] | None
    groups: list[Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the block is to be written again, with whatever features come."""
        return self.sha256 == OPEN_DIGEST

    def encode(self) -> bytes:
        """The line as written, newline included."""
        if any(value in (math.inf, -math.inf) for value in self.labels or ()):
            raise CubeFormatError(f"labels of block {self.block} are infinite, which JSON does not know")
        content = {"block": self.block, "images": self.images, "bytes": self.n_bytes, "sha256": self.sha256}
        # Ids, labels and groups stand here as well as in the part, so that opening a cube needs to open no part.
        more = {"labels": self.labels, "groups": self.groups}
        extra = {"ids": self.ids} | {name: values for name, values in more.items() if values is not None}
        return strict_json(content | extra, compact=True).encode() + b"\n"

    @classmethod
    def decode(cls, raw: bytes) -> Line:
        """Parse a line; ValueError when it is torn or something else."""
        try:
            content = json.loads(raw)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(content, dict):
            raise ValueError("not an object")
        block, images, n_bytes, sha = (content.get(key) for key in ("block", "images", "bytes", "sha256"))
        ids, labels, groups = content.get("ids"), content.get("labels"), content.get("groups")
        whole = all(isinstance(count, int) and count >= 0 for count in (block, images, n_bytes))
        if not (whole and isinstance(sha, str) and re.fullmatch("[0-9a-f]{64}", sha)):
            raise ValueError("not a manifest line")
        for values in (ids, labels, groups):
            if values is not None and (not isinstance(values, list) or len(values) != images):
                raise ValueError("expected as many ids, labels and groups as images")
            if values and (len({*map(type, values)}) > 1 or type(values[0]) not in (int, float, str)):
                raise ValueError("expected ids, labels and groups that are all integers, all floats or all text")
        return cls(int(block or 0), int(images or 0), int(n_bytes or 0), sha, ids, labels, groups)


def read_layout(folder: Path) -> Layout:
    """Layout of the store in a folder."""
    path = folder / CONFIG_NAME
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        check_begun(folder)
        raise CubeFormatError(f"{folder} is not a cube store: it has no {CONFIG_NAME}") from None
    with parsing(path):
        return Layout.from_dict(json.loads(raw), path)


def check_begun(folder: Path) -> None:
    """Refuse a folder in which a writer has made its lock, or its temporary file, and not yet the plan."""
    try:
        names = [item.name for item in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return
    # It may have come since it was looked for.
    if CONFIG_NAME in names or (names and all(name.endswith((".lock", PART_SUFFIX)) for name in names)):
        raise CubeIncompleteError(
            f"{folder} has no {CONFIG_NAME} yet: a writer begins it at this moment, or was killed while it did. Open "
            "it again once the first block is written, or run the extraction again"
        )


def read_manifest(folder: Path, layout: Layout, shard: int) -> tuple[list[Line], int]:
    """Committed blocks of a shard in order, and the length in bytes of the lines that count.

    A torn last line is left out: its block was not committed. A torn line before others is damage.
    """
    path = folder / layout.manifest_name(shard)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    lines: list[Line] = []
    length = 0
    pieces = raw.split(b"\n")
    complete, rest = pieces[:-1], pieces[-1]
    for number, piece in enumerate(complete):
        try:
            line = Line.decode(piece)
        except ValueError as error:
            if number == len(complete) - 1 and not rest:
                break
            raise CubeCorruptError(
                f"{path}: line {number + 1} of {len(complete)} is damaged ({error}); `icrkit repair {folder}` mends it"
            ) from error
        expected = len(layout.block_range(shard, number))
        if line.block != number or line.images != expected or expected == 0:
            raise CubeCorruptError(
                f"{path}: line {number + 1} is block {line.block} of {line.images} images, wanted block {number} of "
                f"{expected}; `icrkit repair {folder}` mends it"
            )
        lines.append(line)
        length += len(piece) + 1
    return lines, length


def software_versions() -> dict[str, str]:
    """Versions of the libraries that shape the bytes of a part."""
    try:
        own = metadata.version("icrkit")
    except metadata.PackageNotFoundError:
        own = "source"
    return {"icrkit": own, "numpy": np.__version__, "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version}


def jsonable(value: Any, name: str = "attrs") -> Any:
    """A value as JSON gives it back: arrays and tuples as lists, numpy scalars as Python's, what is not finite as None.

    So what a digest is taken of is what the file says.
    """
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, np.generic):
        return jsonable(value.item(), name)
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist(), name)
    if isinstance(value, list | tuple):
        return [jsonable(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(key): jsonable(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    raise CubeFormatError(f"{name} is of type {type(value).__name__}, which a cube cannot store; use numbers and text")


def _check_names(layers: dict[str, int]) -> None:
    if not layers:
        raise CubeFormatError("layers is empty; wanted {name: number of features}")
    taken = {*AXES, "labels", "groups", "alpha", *(feature_dim(name) for name in layers)}
    for name in layers:
        if not isinstance(name, str) or not name or name in taken or re.search(r"[/\0]", name) or name[0] == ".":
            raise CubeFormatError(
                f"layer name {name!r} cannot be stored: it is empty, a reserved name ({', '.join(sorted(taken))}), "
                "begins with '.', or contains '/'. Use dots: 'up_blocks.0'."
            )


_LEVELS = ("sigmas", "alphas")


def _with_nan(levels: Any) -> Any:
    """Levels of which those not known are NaN again; what is no list is for the layout to refuse."""
    return [math.nan if level is None else level for level in levels] if isinstance(levels, list) else levels


def _canonical(content: Any) -> str:
    # What is hashed, and not written: here alone NaN is spelled out, as in the digests of older stores.
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _difference(name: str, there: Any, here: Any) -> tuple[str, str, str] | None:
    # Older stores spell attributes out that are not finite.
    if _canonical(jsonable(there)) == _canonical(jsonable(here)):
        return None
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            found = _difference(f"{name}.{key}", there.get(key, "nothing"), here.get(key, "nothing"))
            if found:
                return found
    if name == "sigmas":
        return name, f"[{listed(np.array(there))}]", f"[{listed(np.array(here))}]"
    if name == "layers":
        there, here = ({layer["name"]: layer["features"] for layer in layers} for layers in (there, here))
    return name, repr(there), repr(here)
