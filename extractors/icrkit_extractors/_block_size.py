"""How many images a block of a store holds: as much work as may be lost when a run is killed."""

from __future__ import annotations

import time
from collections.abc import Mapping

from icrkit_extractors._job import Job

__all__ = ["images_per_block"]

# A block on disk costs an fsync, which is slow below some MiB; a killed run loses the block in flight.
_BLOCK_BYTES = 16 << 20

# Nor may a block of pooled features be hours of work: forward passes of one image in a block, and time.
_BLOCK_FORWARDS = 20_000
_BLOCK_SECONDS = 180.0

# Nor may a batch of wide features be more than memory takes: four such blocks are held at a time.
_BATCH_BYTES = 256 << 20


def images_per_block(job: Job, widths: Mapping[str, int], n: int, pass_seconds: float) -> int:
    """Images in a block of a new store.

    Parameters
    ----------
    job : Job
    widths : mapping
        Layers and their numbers of features.
    n : int
        Images that this process runs.
    pass_seconds : float
        What one forward pass of one image took, at most. Where that is little for a whole block, nothing is measured.

    Returns
    -------
    int
        Whole batches, so that a resumed run cuts the same ones. Where a batch alone is too large or takes too long, a
        part of one: batches are then as small as blocks. Times are not repeatable, so a store keeps the number it began
        with.
    """
    bytes_per_image = max(1, job.bytes_per_image(widths))
    most = min(_BLOCK_BYTES // bytes_per_image, _BLOCK_FORWARDS // job.per_image)
    size = job.batch_size * max(1, most // job.batch_size)
    if size * bytes_per_image > _BATCH_BYTES:
        size = min(size, _power_of_two(max(1, _BATCH_BYTES // bytes_per_image)))
    if pass_seconds * job.per_image * min(size, n) <= _BLOCK_SECONDS:
        return size
    images = int(_BLOCK_SECONDS / max(_seconds_per_image(job, n), 1e-9))
    if images >= size:
        return size
    # Powers of two: two runs at about the same speed cut the same blocks.
    if images >= job.batch_size:
        return job.batch_size * _power_of_two(images // job.batch_size)
    return _power_of_two(max(1, images))


def _power_of_two(number: int) -> int:
    return 1 << (number.bit_length() - 1)


def _seconds_per_image(job: Job, n: int) -> float:
    """Time of one image at all views and levels, in batches that grow while those of a block's length are allowed."""
    size, most = min(2, n), min(job.batch_size, n)
    while True:
        rows = slice(0, size)
        start = time.perf_counter()
        item = job.view(job.read(rows), rows, 0)
        ready = time.perf_counter()
        next(job.features(item))
        done = time.perf_counter()
        whole = job.n_views * ((ready - start) + len(job.levels) * (done - ready))
        if size == most or whole > _BLOCK_SECONDS:
            return whole / size
        size = min(4 * size, most)
