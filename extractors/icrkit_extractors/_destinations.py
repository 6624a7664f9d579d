"""Where features go: a cube in memory, the blocks of a store, or moments, which keep no features."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icrkit._progress import progress_bar
from icrkit.cube import Cube, from_arrays
from icrkit.exceptions import CubeIncompleteError
from icrkit.io import CubeWriter, open_cube, write_file
from icrkit.moments import Moments
from icrkit_extractors._job import Job, slices

__all__ = ["check_moments", "save_moments", "to_memory", "to_moments", "to_store"]

# A block on disk costs an fsync, which is slow below some MiB; a killed run loses the block in flight.
_BLOCK_BYTES = 16 << 20

# Nor may a block of pooled features be hours of work: forward passes of one image in a block.
_BLOCK_FORWARDS = 20_000

# Features that are kept until their moments are taken: each taking costs a d x d sum for every level and fold.
_MOMENTS_BYTES = 128 << 20


def _bar(job: Job, n: int, done: int, progress: bool) -> Any:
    return progress_bar(progress, n * job.per_image, "extract", "img", initial=done * job.per_image)


def _alphas(job: Job) -> list[float] | None:
    """Signal scales, where one of them is not 1."""
    alphas = [level.alpha for level in job.levels]
    return None if set(alphas) == {1.0} else alphas


def to_memory(job: Job, widths: Mapping[str, int], rows: range, progress: bool) -> Cube:
    shape = (len(rows), job.n_views, len(job.sigmas))
    whole = {name: np.empty((*shape, d), dtype=np.float32) for name, d in widths.items()}
    # Made first and filled afterwards: what a cube refuses is refused before the network runs.
    cube = _cube(job, whole, slice(rows.start, rows.stop))
    with _bar(job, len(rows), 0, progress) as bar:
        for batch, block in job.blocks(slices(rows.start, rows.stop, job.batch_size), widths, bar):
            for name, h in block.items():
                whole[name][batch.start - rows.start : batch.stop - rows.start] = h
    return cube


def _cube(job: Job, features: Mapping[str, np.ndarray], rows: slice) -> Cube:
    labels = None if job.labels is None else job.labels[rows]
    cube = from_arrays(features, sigmas=job.sigmas, labels=labels, image_ids=job.ids[rows], attrs=job.record)
    alphas = _alphas(job)
    return cube if alphas is None else Cube(cube.to_xarray().assign_coords(alpha=("sigma", alphas)))


def to_store(
    job: Job, widths: Mapping[str, int], out: str | Path, shard: tuple[int, int] | None, progress: bool
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
            batches = slices(mine.start + writer.done_images, mine.stop, job.batch_size)
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


def to_moments(job: Job, widths: Mapping[str, int], rows: range, n_folds: int, progress: bool) -> dict[str, Moments]:
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
        for batch, block in job.blocks(slices(rows.start, rows.stop, job.batch_size), widths, bar):
            kept.append(block)
            # One image alone has no moments: a last one goes with those before it.
            if batch.stop == rows.stop or ((batch.stop - rows.start) % at_once == 0 and rows.stop - batch.stop > 1):
                take(batch.stop)
    return totals


def check_moments(job: Job, rows: range, out: Path | None) -> None:
    """Refuse before the network runs what could not be kept after it."""
    if job.n_views < 2 or len(rows) < 2:
        raise ValueError(
            f"moments need two images and two views at least, not {len(rows)} images and n_views={job.n_views}"
        )
    if out is not None:
        out.mkdir(parents=True)


def save_moments(totals: Mapping[str, Moments], job: Job, rows: range, out: Path) -> None:
    files = {name: f"layer-{k:02d}.h5" for k, name in enumerate(totals)}
    for name, file in files.items():
        totals[name].save(out / file)
    about = {"layers": files, "images": [rows.start, rows.stop], "n_images": len(job.ids), "attrs": job.record}
    # Last: where it is, all is.
    write_file(out / "moments.json", json.dumps(about, indent=1, default=_plain).encode() + b"\n")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
