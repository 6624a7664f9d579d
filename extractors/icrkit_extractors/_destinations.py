"""Where features go: a cube in memory, or the blocks of a store. Moments, which keep none: ``_to_moments.py``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from icrkit._progress import progress_bar
from icrkit.cube import Cube
from icrkit.exceptions import CubeFormatError, CubeIncompleteError
from icrkit.io import CubeWriter, open_cube
from icrkit_extractors._block_size import images_per_block
from icrkit_extractors._job import Job, slices, widths_of
from icrkit_extractors._probe import probe_difference, probe_numbers

__all__ = ["bar_of", "cube_of", "to_memory", "to_store"]


def bar_of(job: Job, n: int, done: int, progress: bool) -> Any:
    return progress_bar(progress, n * job.per_image, "extract", "img", initial=done * job.per_image)


def _alphas(job: Job) -> list[float] | None:
    """Signal scales, where one of them is not 1."""
    alphas = [level.alpha for level in job.levels]
    return None if set(alphas) == {1.0} else alphas


def to_memory(job: Job, first: Mapping[str, np.ndarray], rows: range, progress: bool) -> Cube:
    """A cube in memory; ``first`` are the features of the first images, as `Job.first_features` gives them."""
    shape = (len(rows), job.n_views, len(job.sigmas))
    whole = {name: np.empty((*shape, d), dtype=np.float32) for name, d in widths_of(first).items()}
    # Made first and filled afterwards: what a cube refuses is refused before the network runs.
    cube = cube_of(job, whole, slice(rows.start, rows.stop))
    with bar_of(job, len(rows), 0, progress) as bar:
        for batch, block in job.blocks(slices(rows.start, rows.stop, job.batch_size), first, bar):
            for name, h in block.items():
                whole[name][batch.start - rows.start : batch.stop - rows.start] = h
    return cube


def cube_of(job: Job, features: Mapping[str, np.ndarray], rows: slice) -> Cube:
    """Cube of arrays (image, view, sigma, feature).

    By the names of their axes: a few images of many views are what they are, and the arrays may not be filled yet, so
    nothing is guessed from shapes or values.
    """
    coords: dict[str, Any] = {"sigma": job.sigmas, "image": job.ids[rows]}
    for name, values in (("labels", job.labels), ("groups", job.groups)):
        if values is not None:
            coords[name] = ("image", values[rows])
    alphas = _alphas(job)
    if alphas is not None:
        coords["alpha"] = ("sigma", alphas)
    variables = {name: (("image", "view", "sigma", f"feature_{name}"), h) for name, h in features.items()}
    return Cube(xr.Dataset(variables, coords=coords, attrs=job.record))


def to_store(
    job: Job,
    first: Mapping[str, np.ndarray],
    out: str | Path,
    shard: tuple[int, int] | None,
    progress: bool,
    pass_seconds: float,
) -> Cube:
    """A store, begun or continued; ``first`` are the features of its first images, as `Job.first_features` gives them.

    ``pass_seconds`` is what one forward pass took, at most.
    """
    with _writer(job, first, out, shard, pass_seconds) as writer:
        mine = writer.image_range
        # A resumed run cuts the same batches: a block holds whole ones, or is one.
        size = min(job.batch_size, writer.block_size)
        with bar_of(job, len(mine), writer.done_images, progress) as bar:
            batches = slices(mine.start + writer.done_images, mine.stop, size)
            for rows, features in job.blocks(batches, first, bar):
                labels, groups = (None if of is None else of[rows] for of in (job.labels, job.groups))
                writer.append(job.ids[rows], features, labels=labels, groups=groups)
    try:
        return open_cube(out)
    except CubeIncompleteError:
        if shard is None:
            raise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the other shards may still be running
            return open_cube(out, allow_partial=True)


def _recorded(out: str | Path) -> tuple[int | None, object] | None:
    """Block size and probe of the store that is there; None without one. Damage is for the writer to name."""
    try:
        content = json.loads((Path(out) / "cube.json").read_bytes())
        size = content["block_size"]
        return (size if isinstance(size, int) and size > 0 else None), content["attrs"].get("probe")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None, None


def _writer(
    job: Job,
    first: Mapping[str, np.ndarray],
    out: str | Path,
    shard: tuple[int, int] | None,
    pass_seconds: float,
) -> CubeWriter:
    """The writer of a store; one that is there keeps its block size, and is continued by the network it has."""
    widths, probe, n = widths_of(first), probe_numbers(first), len(job.ids)
    for attempt in range(2):
        begun = _recorded(out)
        if begun is None:
            mine = n if shard is None else -(-n // shard[1])
            block_size: int | None = images_per_block(job, widths, mine, pass_seconds)
            known: object = probe
        else:
            block_size, known = begun
        try:
            writer = CubeWriter(
                out, layers=widths, sigmas=job.sigmas, n_views=job.n_views, n_images=n, block_size=block_size,
                attrs=job.record | ({} if known is None else {"probe": known}), shard=shard, alphas=_alphas(job),
            )  # fmt: skip
        except CubeFormatError:
            # Where shards start together, another may have begun the store since: with its own times and last digits.
            if begun is not None or attempt or _recorded(out) is None:
                raise
            continue
        difference = probe_difference(known, probe, job.record)
        if difference is not None:
            writer.close()
            raise CubeFormatError(
                f"{out} was begun with another network or other images: on the first two images {difference}, though "
                "names and digests agree. Was code, an attribute of the network or a package changed in between? "
                "Nothing was written. Continue with the same ones, or choose another path."
            )
        return writer
    raise AssertionError("the loop returns or raises")
