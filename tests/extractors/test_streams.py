"""Draws depend on (seed, image id, view, purpose) alone."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from icrkit_extractors._streams import generator, generators, normals

IDS = st.one_of(st.integers(-(2**70), 2**70), st.text(alphabet=st.characters(), max_size=20))


@given(seed=st.integers(0, 2**80), image_id=IDS, view=st.integers(0, 100), purpose=st.text(max_size=8))
def test_same_four_same_draws(seed, image_id, view, purpose):
    first = generator(seed, image_id, view, purpose).random(5)
    np.testing.assert_array_equal(first, generator(seed, image_id, view, purpose).random(5))
    # A generator among others starts where the lone one starts, whatever was drawn before it.
    several = []
    for one in generators(seed, ["other", image_id, 4], view, purpose):
        several.append(one.random(5))
        one.standard_normal(3, dtype=np.float32)
    np.testing.assert_array_equal(several[1], first)


@given(
    a=st.tuples(st.integers(0, 30), IDS, st.integers(0, 30)), b=st.tuples(st.integers(0, 30), IDS, st.integers(0, 30))
)
def test_any_difference_other_draws(a, b):
    same = np.array_equal(generator(*a, "noise").random(2), generator(*b, "noise").random(2))
    assert same == (a == b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 1, 1, "noise"), (1, 1, 1, "augment")),
        ((11, 1, 1, "noise"), (1, 11, 1, "noise")),
        ((1, 1, 11, "noise"), (1, 11, 1, "noise")),
        ((1, "1", 1, "noise"), (1, 1, 1, "noise")),
        ((1, "i1", 1, "noise"), (1, 1, 1, "noise")),
        ((1, 1, 1, 'noise"]'), (1, 1, 1, "noise")),
    ],
)
def test_nearby_keys_differ(a, b):
    assert not np.array_equal(generator(*a).random(4), generator(*b).random(4))


def test_numpy_types_equal_python_types():
    one = generator(np.int32(5), np.uint8(7), np.int64(1), "noise").random(4)
    np.testing.assert_array_equal(one, generator(5, 7, 1, "noise").random(4))
    text = generator(5, np.str_("a/b.png"), 1, "noise").random(4)
    np.testing.assert_array_equal(text, generator(5, "a/b.png", 1, "noise").random(4))


@pytest.mark.parametrize("bad", [1.0, None, True, np.True_, b"a", (1, 2)])
def test_other_ids_are_refused(bad):
    with pytest.raises(TypeError, match="image id is an int or a string"):
        generator(0, bad, 0, "noise")


def test_a_seed_is_an_integer():
    with pytest.raises(TypeError):
        generator(0.5, 1, 0, "noise")


def test_normals_by_image():
    ids = ["a", 3, "b", 12]
    draws = normals(0, ids, 1, (2, 5, 3))
    assert draws.shape == (4, 2, 5, 3) and draws.dtype == np.float32
    order = [2, 0, 3, 1]
    np.testing.assert_array_equal(normals(0, [ids[k] for k in order], 1, (2, 5, 3)), draws[order])
    np.testing.assert_array_equal(normals(0, iter(ids[1:2]), 1, (2, 5, 3)), draws[1:2])


def test_normals_are_standard_and_independent():
    draws = normals(0, range(2000), 0, (64,))
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-3
    # Between images, between views, between seeds: correlation within 5 standard errors of 0.
    for other in (draws[::-1], normals(0, range(2000), 1, (64,)), normals(1, range(2000), 0, (64,))):
        assert abs(np.corrcoef(draws.ravel(), other.ravel())[0, 1]) < 5 / draws.size**0.5


def test_streams_cost_under_15_microseconds_an_image():
    def seconds() -> float:
        start = time.process_time()
        for _ in generators(0, range(10000), 0, "noise"):
            pass
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) / 10000 < 15e-6
