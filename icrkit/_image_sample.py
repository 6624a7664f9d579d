"""A few of the images themselves, kept beside the moments: those whose ids have the smallest hashes.

Moments cannot say whether a few images outweigh the rest; a sample can. The images of the smallest hashes (a "bottom-k
sketch": Cohen & Kaplan 2007, PODC) are a uniform sample that depends on no order and no block size, and that merges and
subtracts as moments do. It says nothing (an empty dict) where it is not known, as in the moments of one fold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ImageSample",
    "SampleTracker",
    "hash_of_ids",
    "merge_samples",
    "no_images",
    "remove_sample",
    "stack_samples",
]

# keys (*lead, n) of uint64, ascending: hashes of the ids.
# images (*lead, n, V, d): the features of these images, in the type in which they were read.
ImageSample = dict[str, NDArray[Any]]

_MOST = 256  # images: enough to see what a fiftieth of them does
_SEED = -1  # apart from those of folds


def hash_of_ids(ids: NDArray[Any], seed: int) -> NDArray[np.uint64]:
    """A seeded hash of each id, (n,): evenly spread over 64 bits, and the same on every machine.

    Parameters
    ----------
    ids : ndarray (n,)
        Integers or strings.
    seed : int
    """
    if ids.dtype.kind in "iu":
        keys = ids.astype(np.uint64)
    else:
        digests = (hashlib.blake2b(str(i).encode(), digest_size=8).digest() for i in ids)
        keys = np.frombuffer(b"".join(digests), dtype=np.uint64)
    # splitmix64: its finaliser spreads consecutive integers over all 64 bits.
    with np.errstate(over="ignore"):
        keys = keys + np.uint64(0x9E3779B97F4A7C15) * np.uint64(seed % 2**32 + 1)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
        keys ^= keys >> np.uint64(31)
    return keys


def no_images(n_views: int, n_features: int) -> ImageSample:
    """The sample of no images: the identity of `merge_samples`."""
    return {"keys": np.empty(0, dtype=np.uint64), "images": np.empty((0, n_views, n_features), dtype=np.float32)}


class SampleTracker:
    """Collects the sample of images that come in blocks."""

    def __init__(self, image_ids: NDArray[Any], n_views: int, n_features: int, dtype: np.dtype[Any]) -> None:
        keys = hash_of_ids(image_ids, _SEED)
        self._rows = np.argsort(keys, kind="stable")[:_MOST]
        self._keys = keys[self._rows]
        self._images = np.empty((len(self._rows), n_views, n_features), dtype)

    def add(self, start: int, block: NDArray[Any]) -> None:
        """Take what belongs to the sample from a block (n_images, n_views, n_features) that begins at ``start``."""
        here = np.flatnonzero((self._rows >= start) & (self._rows < start + len(block)))
        self._images[here] = block[self._rows[here] - start]

    @property
    def sample(self) -> ImageSample:
        """The sample, once all blocks were added."""
        return {"keys": self._keys, "images": self._images}


def merge_samples(a: ImageSample, b: ImageSample) -> ImageSample:
    """The sample of two sets together."""
    if not (a and b) or a["keys"].shape[:-1] != b["keys"].shape[:-1]:
        return {}
    if a["keys"].ndim > 1:
        return stack_samples([merge_samples(*pair) for pair in zip(_levels(a), _levels(b), strict=True)])
    keys, images = (np.concatenate([a[name], b[name]]) for name in ("keys", "images"))
    order = np.argsort(keys, kind="stable")[:_MOST]
    return {"keys": keys[order], "images": images[order]}


def remove_sample(a: ImageSample, b: ImageSample) -> ImageSample:
    """What is left of the sample of a set when a part of the set is taken away."""
    if not (a and b) or a["keys"].shape[:-1] != b["keys"].shape[:-1]:
        return {}
    if a["keys"].ndim > 1:
        return stack_samples([remove_sample(*pair) for pair in zip(_levels(a), _levels(b), strict=True)])
    # Images of the part that are in the sample of the set are among the smallest of the part, too.
    left = ~np.isin(a["keys"], b["keys"])
    return {name: value[left] for name, value in a.items()}


def stack_samples(parts: Sequence[ImageSample]) -> ImageSample:
    """Samples of the same images at several levels, along a new first axis."""
    if not all(parts) or len({part["keys"].shape for part in parts}) > 1:
        return {}
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _levels(sample: ImageSample) -> list[ImageSample]:
    return [{name: value[k] for name, value in sample.items()} for k in range(len(sample["keys"]))]
