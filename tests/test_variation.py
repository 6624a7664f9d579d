"""Tests of what varies: decided from the features, and carried through everything that moments do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit._features import Features
from icrkit._variation import VariationTracker
from icrkit.exceptions import DegenerateFeaturesError
from icrkit.io._moments import write_moments
from icrkit.metrics._decomposition import constant_features
from icrkit.metrics._gram import gram_matrix
from icrkit.moments import Moments

# Values that have no short binary form: their sums, means and products are rounded.
VALUES = st.sampled_from([0.0, 0.1, -1 / 3, 1e4 / 3, -7e-5, 1e-30, 12345.678, 1e5 + 0.1])
KINDS = ("varies", "constant", "of each view its own", "wakes late", "views alike", "views apart by one")

# Units that are dead in most images make images that are equal, or zero.
pytestmark = pytest.mark.filterwarnings("ignore:.* Every number counts them as images of their own")


@st.composite
def features_with_dead_units(draw):
    """Features (image, view, feature), and which kind each of them is."""
    n, v = draw(st.integers(3, 60)), draw(st.integers(2, 5))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    h = rng.standard_normal((n, v, len(kinds)))
    for j, kind in enumerate(kinds):
        value = draw(VALUES)
        if kind == "constant":
            h[..., j] = value
        elif kind == "of each view its own":
            h[..., j] = value + np.arange(v)
        elif kind == "wakes late":
            h[:-1, :, j] = value
            h[-1, :, j] = value + 1 + np.arange(v)
        elif kind == "views alike":
            h[..., j] = h[:, :1, j]
        elif kind == "views apart by one":
            h[..., j] = rng.integers(-100, 100, (n, 1)) + np.arange(v)
    return h.astype(draw(st.sampled_from([np.float32, np.float64]))), np.array(kinds)


def check(m: Moments, kinds: np.ndarray) -> None:
    """Constant features are those of the data, and have exactly no scatter."""
    dead = np.flatnonzero(kinds == "constant")
    np.testing.assert_array_equal(constant_features(m.total), dead)
    for scatter in (m.between, m.within, m.total.within_uncentred[None]):
        assert not scatter[..., dead, :].any() and not scatter[..., :, dead].any()
    alike = np.isin(kinds, ("constant", *KINDS[2:3], *KINDS[4:]))
    np.testing.assert_array_equal(~m.total.variation["views_vary"], alike)
    assert not m.total.within[alike].any()


@settings(max_examples=80)
@given(given=features_with_dead_units(), n_folds=st.integers(0, 5), cut=st.integers(1, 59), data=st.data())
def test_what_is_constant_is_decided_from_the_data(given, n_folds, cut, data):
    h, kinds = given
    products = data.draw(st.sampled_from(["auto", "float32", "float64"]))
    m = Moments.from_cube(h, n_folds=n_folds, dtype=products)
    check(m, kinds)
    np.testing.assert_array_equal(m.total.mean[:, kinds == "constant"], h[0][:, kinds == "constant"].astype(float))
    parts = [Moments.from_block(part) for part in np.split(h, [min(cut, len(h))])]
    check(parts[0] + parts[1], kinds)
    check(parts[1] + parts[0], kinds)
    check(Moments.stack([*parts, Moments.empty(*h.shape[1:])]).sum(), kinds)
    check(Moments.from_cube(h[np.random.default_rng(0).permutation(len(h))], n_folds=n_folds), kinds)
    order = np.random.default_rng(1).permutation(h.shape[2])
    check(m.select_features(order), kinds[order])
    gram = gram_matrix(h, dtype=products)
    np.testing.assert_array_equal(gram.constant, np.flatnonzero(kinds == "constant"))
    alike = [*KINDS[2:3], *KINDS[4:]]
    np.testing.assert_array_equal(gram.no_residual, np.flatnonzero(np.isin(kinds, alike)))


@pytest.mark.parametrize("sizes", [(1,), (3, 1, 20), (17, 1, 2000, 5)])
def test_blocks_of_any_size_find_the_same(sizes):
    rng = np.random.default_rng(0)
    h = np.full((sum(sizes), 2, 5), 0.1)
    h[..., 0] = rng.standard_normal(h.shape[:2])
    h[-1, 1, 1] = 0.2
    h[..., 2] = rng.standard_normal((len(h), 1))
    tracker, start = VariationTracker(2, 5), 0
    for size in sizes:
        tracker.add(h[start : start + size])
        start += size
    many = len(h) > 1
    np.testing.assert_array_equal(tracker.found["varies"], [many, many, many, False, False])
    np.testing.assert_array_equal(tracker.found["views_vary"], [many, many, False, False, False])


def test_a_file_read_in_blocks_finds_the_same(monkeypatch):
    def blocks(self, target_bytes=None):
        for start in range(0, self.shape[0], 7):
            yield start, self.read(start, start + 7)

    h = np.random.default_rng(0).standard_normal((100, 2, 4)).astype(np.float32)
    h[..., 1], h[:90, :, 3] = 0.1, 1 / 3
    monkeypatch.setattr(Features, "blocks", blocks)
    for n_folds in (0, 3):
        m = Moments.from_cube(ik.from_arrays(h), n_folds=n_folds)
        np.testing.assert_array_equal(constant_features(m.total), [1])


def test_a_feature_that_woke_up_in_what_was_taken_away_counts_as_constant():
    # Rounding is what a subtraction leaves of it: neither a number nor a reason to fail on some machines.
    h = np.random.default_rng(0).standard_normal((60, 3, 4))
    h[:, :, 2] = 1e4 / 3
    awake = h[:20] + 0
    awake[:, :, 2] += np.random.default_rng(1).standard_normal((20, 3))
    rest = (Moments.from_block(awake) + Moments.from_block(h[20:])) - Moments.from_block(awake)
    np.testing.assert_array_equal(constant_features(rest), [2])
    assert not rest.between[2].any() and not rest.within[:, 2].any()
    np.testing.assert_allclose(rest.mean, h[20:].mean(axis=0), rtol=1e-12, atol=1e-12)
    with pytest.raises(DegenerateFeaturesError, match=r"1 of 4 features .* constant: \[2\]"):
        ik.icr(rest)


def test_a_subtraction_counts_what_it_magnifies():
    rng = np.random.default_rng(0)
    wide, narrow = 1e5 * rng.standard_normal((50, 2, 3)), rng.standard_normal((50, 2, 3))
    rest = (Moments.from_block(wide) + Moments.from_block(narrow)) - Moments.from_block(wide)
    exact = Moments.from_block(narrow)
    assert 1e9 < rest.cancellation < 1e12
    error = np.abs(rest.within - exact.within).max() / exact.within.max()
    assert error <= 2.0**-53 * rest.cancellation * rest.condition_number


def test_moments_of_an_older_file_say_that_they_do_not_know(tmp_path):
    h = np.random.default_rng(0).standard_normal((200, 2, 3))
    h[..., 1] = 0.1
    old = dataclasses.replace(Moments.from_cube(h, n_folds=4), variation={})
    old.save(tmp_path / "m.h5")
    again = Moments.load(tmp_path / "m.h5")
    # A file written before there was such a field.
    names = [field.name for field in dataclasses.fields(Moments) if field.name != "variation"]
    older = dataclasses.make_dataclass("Older", names)(**{name: getattr(old, name) for name in names})
    write_moments(older, tmp_path / "older.h5")
    assert Moments.load(tmp_path / "older.h5").variation == {}
    assert again.variation == {} and (again + Moments.from_cube(h, n_folds=4)).variation == {}
    np.testing.assert_array_equal(constant_features(again.total), [1])  # from the scatter, with room for its rounding
    noisy = old.total.between + 0
    noisy[1, 1] = 200 * (2.0**-53 * 0.1) ** 2
    np.testing.assert_array_equal(constant_features(dataclasses.replace(old.total, between=noisy)), [1])


def test_identical_views_of_five_have_no_residual_in_float32_products():
    # 3 x and x added are not 4 x in float32: the contrasts of equal views are rounding, not zero.
    h = np.repeat(np.random.default_rng(0).standard_normal((300, 1, 4)), 5, axis=1).astype(np.float32)
    for dtype in ("float32", "auto"):
        with pytest.raises(DegenerateFeaturesError, match=r"no residual in 4 of 4 features"):
            ik.ICREstimator(dtype=dtype).fit(h)


def test_dead_units_left_out_give_the_same_number_whatever_their_value():
    # More features than rows, and fewer: 0.1 and 1e4/3 have no exact sums.
    rng = np.random.default_rng(0)
    for n, d in ((20, 60), (200, 6)):
        h = rng.standard_normal((n, 1, d)) + 0.7 * rng.standard_normal((n, 2, d))
        want = ik.ICREstimator("crossfit", regularization=0.1).fit(h).icr_
        for dtype in (np.float32, np.float64):
            for value in (0.0, 0.1, 1e4 / 3, -7e-5):
                padded = np.concatenate([h[..., :3], np.full((n, 2, 40), value), h[..., 3:]], axis=2).astype(dtype)
                est = ik.ICREstimator("crossfit", regularization=0.1, drop_constant=True).fit(padded)
                np.testing.assert_array_equal(est.dropped_features_, np.arange(3, 43))
                assert est.icr_ == pytest.approx(want, rel=1e-5 if dtype == np.float32 else 1e-10)
