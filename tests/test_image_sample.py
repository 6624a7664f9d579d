"""The sample of images: a set, whatever the order and the blocks, that merges and is taken away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icrkit import _image_sample
from icrkit._image_sample import SampleTracker, hash_of_ids, merge_samples, no_images, remove_sample, stack_samples

PROPERTY = settings(max_examples=100, derandomize=True, deadline=None)


def sample_of(ids: np.ndarray, block: int = 1000) -> dict[str, np.ndarray]:
    """Of images whose features are their ids."""
    h = np.repeat(ids.astype(float), 2).reshape(len(ids), 2, 1)
    tracker = SampleTracker(ids, 2, 1, np.dtype(np.float64))
    for start in range(0, len(ids), block):
        tracker.add(start, h[start : start + block])
    return tracker.sample


def ids_in(sample: dict[str, np.ndarray]) -> list[float]:
    return sample["images"][:, 0, 0].tolist()


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(_image_sample, "_MOST", 8)


def test_it_holds_the_images_of_the_smallest_hashes():
    ids = np.arange(100)
    keys = hash_of_ids(ids, -1)
    assert ids_in(sample_of(ids)) == ids[np.argsort(keys)[:8]].tolist()
    assert len(ids_in(sample_of(ids[:5]))) == 5


@PROPERTY
@given(order=st.permutations(range(40)), block=st.integers(1, 45), cut=st.integers(0, 40))
def test_order_blocks_and_parts_do_not_matter(order, block, cut):
    ids = np.array(order)
    want = sample_of(np.arange(40))
    assert ids_in(sample_of(ids, block)) == ids_in(want)
    a, b = sample_of(ids[:cut]), sample_of(ids[cut:])
    assert ids_in(merge_samples(a, b)) == ids_in(merge_samples(b, a)) == ids_in(want)
    assert ids_in(merge_samples(want, no_images(2, 1))) == ids_in(want)
    # What is left of the sample is a part of the sample of what is left.
    left = ids_in(remove_sample(want, b))
    assert left == [image for image in ids_in(want) if image in ids[:cut]]
    assert set(left) <= set(ids_in(a))


def test_a_sample_is_uniform():
    counts = np.zeros(400)
    for first in range(0, 400 * 200, 400):
        ids = np.arange(first, first + 400)
        counts[(np.array(ids_in(sample_of(ids))) - first).astype(int)] += 1
    # 200 draws of 8 of 400: 4 of each, and a variance of 3.92.
    assert counts.sum() == 1600 and 3.0 < counts.var() < 5.0


def test_of_an_unknown_set_nothing_is_known():
    known = sample_of(np.arange(5))
    assert merge_samples({}, known) == merge_samples(known, {}) == remove_sample(known, {}) == {}
    both = stack_samples([known, known])
    assert both["images"].shape == (2, 5, 2, 1) and stack_samples([known, {}]) == {}
    assert stack_samples([known, sample_of(np.arange(3))]) == {} == merge_samples(both, known)
    assert ids_in({k: v[1] for k, v in merge_samples(both, both).items()}) == ids_in(merge_samples(known, known))
