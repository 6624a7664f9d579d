"""The laws of Moments: merged equals whole, in any order and grouping, and what was added can be taken away."""

from __future__ import annotations

import dataclasses
import itertools
import pickle

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit._features import Features
from icrkit.exceptions import CubeFormatError, NonFiniteError, NotEnoughDataError
from icrkit.moments import Moments, fold_of_images, helmert

PROPERTY = settings(max_examples=40, derandomize=True)
FIELDS = ("n_images", "mean", "between", "within")


@st.composite
def spaces(draw):
    return draw(st.integers(1, 4)), draw(st.integers(1, 5)), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def block(rng: np.random.Generator, n: int, v: int, d: int) -> np.ndarray:
    """Features with a common image part, per-view means and scales of their own."""
    image = 3 * rng.standard_normal((n, 1, d))
    return (image + rng.standard_normal((n, v, d)) + rng.standard_normal((1, v, d))) * rng.uniform(0.1, 10, d)


def assert_same(a: Moments, b: Moments, rtol: float = 1e-11, among: Moments | None = None) -> None:
    """Equal up to rounding, which is relative to the spread of all that was combined, ``among``."""
    assert (a.dims, a.n_views, a.n_features) == (b.dims, b.n_views, b.n_features)
    np.testing.assert_array_equal(a.n_images, b.n_images)
    spread = max(float((m.between + m.within_uncentred).max(initial=0)) for m in (b, b if among is None else among))
    for name in FIELDS[1:]:
        mine, theirs = getattr(a, name), getattr(b, name)
        size = max(spread, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=rtol * size, err_msg=name)


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_two_images_by_hand():
    m = Moments.from_block(np.array([[[0.0], [2.0]], [[4.0], [10.0]]]))
    assert int(m.n_images) == 2
    np.testing.assert_array_equal(m.mean, [[2.0], [6.0]])
    np.testing.assert_array_equal(m.between, [[18.0]])  # image means 1 and 7 about 4
    np.testing.assert_array_equal(m.within, [[4.0]])  # +-1 once each view's mean is gone
    np.testing.assert_allclose(m.within_uncentred, [[20.0]], rtol=1e-15)  # 1 + 1 + 9 + 9


@pytest.mark.parametrize("n_views", [1, 2, 3, 8])
def test_helmert_is_orthonormal_and_blind_to_a_constant(n_views):
    h = helmert(n_views)
    assert h.shape == (n_views - 1, n_views)
    np.testing.assert_allclose(h @ h.T, np.eye(n_views - 1), atol=1e-15)
    np.testing.assert_allclose(h.sum(axis=1), 0, atol=1e-15)


# ---- brute force ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(space=spaces(), n=st.integers(1, 12))
def test_sums_equal_loops_over_images_and_views(space, n):
    v, d, rng = space
    h = block(rng, n, v, d)
    between, within, uncentred = (np.zeros((d, d)) for _ in range(3))
    for i in range(n):
        t = h[i].mean(axis=0) - h.mean(axis=(0, 1))
        between += np.outer(t, t)
        for k in range(v):
            e = h[i, k] - h[i].mean(axis=0)
            uncentred += np.outer(e, e)
            e = e - h[:, k].mean(axis=0) + h.mean(axis=(0, 1))
            within += np.outer(e, e)
    want = Moments(np.array(n), h.mean(axis=0), between, within)
    for m in (Moments.from_block(h), *([Moments.from_cube(h, n_folds=0)] if n > 1 and v > 1 else [])):
        assert_same(m, want)
        np.testing.assert_allclose(m.within_uncentred, uncentred, rtol=1e-11, atol=1e-11 * (1 + abs(uncentred).max()))


@PROPERTY
@given(space=spaces(), n=st.integers(2, 60), n_folds=st.integers(0, 12), dtype=st.sampled_from(["float32", "float64"]))
def test_from_cube_equals_from_block(space, n, n_folds, dtype):
    v, d, rng = space
    h = block(rng, n, max(v, 2), d)
    if dtype == "float32":
        h = h.astype(np.float32)
    m = Moments.from_cube(h, n_folds=n_folds, dtype=dtype)
    assert m.products == dtype and m.n_folds == n_folds
    assert_same(m.total, Moments.from_block(h), 2e-6 if dtype == "float32" else 1e-11)
    for k in range(n_folds):
        mine = h[fold_of_images(np.arange(n), n_folds) == k]
        want = Moments.from_block(mine) if len(mine) else Moments.empty(max(v, 2), d)
        assert_same(m.select(fold=k), want, 2e-6 if dtype == "float32" else 1e-11, among=m.total)


# ---- laws -----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(space=spaces(), sizes=st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_addition_is_commutative_and_associative_and_has_an_identity(space, sizes):
    v, d, rng = space
    blocks = [block(rng, n, v, d) for n in sizes]
    a, b, c = (Moments.from_block(x) if len(x) else Moments.empty(v, d) for x in blocks)
    assert_same(a + b, b + a)
    assert_same((a + b) + c, a + (b + c))
    assert_same(a + Moments.empty(v, d), a, 0)
    assert_same(Moments.empty(v, d) + a, a, 1e-15)
    if sum(sizes):
        assert_same(a + b + c, Moments.from_block(np.concatenate(blocks)))


@PROPERTY
@given(space=spaces(), n=st.integers(0, 9), more=st.integers(0, 9))
def test_subtraction_undoes_addition(space, n, more):
    v, d, rng = space
    a, b = (Moments.from_block(block(rng, k, v, d)) if k else Moments.empty(v, d) for k in (n, more))
    assert_same((a + b) - b, a, 1e-12 if n else 0, among=a + b)
    nothing = a - a
    for name in FIELDS:
        assert not getattr(nothing, name).any(), name


@PROPERTY
@given(space=spaces(), n=st.integers(4, 60), cuts=st.lists(st.integers(2, 58), max_size=4), n_folds=st.integers(0, 6))
def test_pieces_of_a_cube_add_up_to_the_whole(space, n, cuts, n_folds):
    v, d, rng = space
    cube = ik.from_arrays(block(rng, n, max(v, 2), d))
    edges = [0]
    for cut in sorted(cuts):
        if cut >= edges[-1] + 2 and cut <= n - 2:  # a piece of a cube has two images at least
            edges.append(cut)
    edges.append(n)
    pieces = [Moments.from_cube(cube[a:b], n_folds=n_folds) for a, b in itertools.pairwise(edges)]
    merged = pieces[0]
    for piece in pieces[1:]:
        merged = merged + piece
    assert_same(merged, Moments.from_cube(cube, n_folds=n_folds), 1e-10)


@PROPERTY
@given(space=spaces(), n=st.integers(2, 40), n_folds=st.integers(1, 8))
def test_summing_folds_equals_adding_them_one_by_one(space, n, n_folds):
    v, d, rng = space
    h = block(rng, n, max(v, 2), d)
    m = Moments.from_cube(h, n_folds=n_folds)
    one_by_one = Moments.empty(max(v, 2), d)
    for k in range(n_folds):
        one_by_one = one_by_one + m.select(fold=k)
    assert_same(m.sum("fold"), one_by_one)
    assert_same(m.total, Moments.from_block(h))
    for k in range(n_folds):
        others = h[fold_of_images(np.arange(n), n_folds) != k]
        if len(others):
            assert_same(m.total - m.select(fold=k), Moments.from_block(others), 1e-12, among=m.total)


@PROPERTY
@given(space=spaces(), n=st.integers(2, 20), order=st.permutations(range(5)))
def test_selecting_features_commutes_with_making_moments(space, n, order):
    v, _, rng = space
    h = block(rng, n, max(v, 2), 5)
    m = Moments.from_cube(h, n_folds=3)
    keep = np.array(order[:3])
    assert_same(m.select_features(keep), Moments.from_cube(h[:, :, keep], n_folds=3))
    mask = np.isin(np.arange(5), keep)
    assert_same(m.select_features(mask), Moments.from_cube(h[:, :, mask], n_folds=3))


@PROPERTY
@given(space=spaces(), n=st.integers(2, 20), offset=st.floats(-1e4, 1e4))
def test_scatter_does_not_depend_on_the_origin(space, n, offset):
    v, d, rng = space
    h = rng.standard_normal((n, max(v, 2), d))
    here, there = Moments.from_cube(h, n_folds=0), Moments.from_cube(h + offset, n_folds=0)
    np.testing.assert_allclose(there.mean - offset, here.mean, atol=1e-11)
    np.testing.assert_allclose(there.between, here.between, atol=1e-9)
    np.testing.assert_allclose(there.within, here.within, atol=1e-9)


def test_far_apart_blocks_merge_and_part_without_losing_digits():
    rng = np.random.default_rng(0)
    near, far = rng.standard_normal((50, 2, 3)), rng.standard_normal((50, 2, 3)) + 1e4
    a, b = Moments.from_block(near), Moments.from_block(far)
    assert_same(a + b, Moments.from_block(np.concatenate([near, far])), 1e-13)
    back = (a + b) - b
    np.testing.assert_allclose(back.within, a.within, rtol=0, atol=1e-10)  # views do not differ: nothing cancels
    np.testing.assert_allclose(back.between, a.between, rtol=0, atol=1e-5)  # 25 * 1e8 * 1e-16 * some


# ---- selection, stacking, files -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def levels() -> Moments:
    cube = ik.datasets.make_cube(60, 3, n_views=3, icr=[0.2, 0.4, 0.6], sigmas=[0.1, 0.3, 1.0], random_state=1)
    return Moments.from_cube(cube, n_folds=4)


def test_levels_and_folds_are_leading_axes(levels):
    assert levels.dims == ("sigma", "fold") and levels.n_images.shape == (3, 4)
    np.testing.assert_array_equal(levels.coords["sigma"], [0.1, 0.3, 1.0])
    assert levels.n_folds == 4 and levels.total.dims == ("sigma",)
    assert repr(levels) == "Moments(60 images, 3 views, 3 features, sigma: 3, fold: 4, float64 products)"


def test_each_level_is_what_a_pass_over_it_alone_gives(levels):
    cube = ik.datasets.make_cube(60, 3, n_views=3, icr=[0.2, 0.4, 0.6], sigmas=[0.1, 0.3, 1.0], random_state=1)
    for k, sigma in enumerate(cube.sigmas):
        alone = Moments.from_cube(cube.select(sigma=sigma), n_folds=4)
        assert_same(levels.select(sigma=k), alone, 0)
        assert_same(levels.total.select(sigma=k), alone.total, 1e-13)


def test_select_by_number_drops_the_axis_and_by_list_keeps_it(levels):
    one = levels.select(sigma=1)
    assert one.dims == ("fold",) and one.coords == {}
    two = levels.select(sigma=[2, 0])
    assert two.dims == ("sigma", "fold")
    np.testing.assert_array_equal(two.coords["sigma"], [1.0, 0.1])
    assert_same(two.select(sigma=0), levels.select(sigma=2), 0)
    assert_same(levels.select(sigma=1, fold=3), one.select(fold=3), 0)
    assert levels.select(sigma=1, fold=3).dims == ()
    with pytest.raises(CubeFormatError, match="no axis 'layer'"):
        levels.select(layer=0)


def test_stack_is_undone_by_select(levels):
    parts = [levels.select(sigma=k) for k in range(3)]
    assert_same(Moments.stack(parts, "sigma", np.array([0.1, 0.3, 1.0])), levels, 0)
    with pytest.raises(CubeFormatError, match="n_features"):
        Moments.stack([Moments.empty(2, 3), Moments.empty(2, 4)])


def test_save_and_load(levels, tmp_path):
    path = tmp_path / "m.h5"
    levels.save(path)
    again = Moments.load(path)
    for field in dataclasses.fields(Moments):
        mine, theirs = getattr(levels, field.name), getattr(again, field.name)
        if isinstance(mine, dict):
            assert mine.keys() == theirs.keys()
            for key in mine:
                np.testing.assert_array_equal(mine[key], theirs[key])
        elif isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype
        else:
            assert mine == theirs
            assert type(mine) is type(theirs)
    assert ik.icr(again.select(sigma=0), "crossfit") == ik.icr(levels.select(sigma=0), "crossfit")
    with h5py.File(path) as file:  # plain HDF5, for whoever has no icrkit
        np.testing.assert_array_equal(file["within"][...], levels.within)


def test_save_and_load_keep_what_is_not_a_number(tmp_path):
    m = dataclasses.replace(Moments.empty(2, 3), views_ordered=False, products="float32")
    m.save(tmp_path / "m.h5")
    again = Moments.load(tmp_path / "m.h5")
    assert (again.views_ordered, again.products, again.dims, again.n_images.shape) == (False, "float32", (), ())


def test_load_refuses_another_file(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(CubeFormatError, match=r"other\.h5 is not a moments file"):
        Moments.load(path)
    path.write_bytes(b"not HDF5")
    with pytest.raises((OSError, CubeFormatError), match=r"other\.h5"):
        Moments.load(path)


def test_pickle_carries_the_sums_and_not_what_is_derived(levels):
    _ = levels.total
    again = pickle.loads(pickle.dumps(levels))
    assert_same(again, levels, 0)
    assert "total" not in vars(again)
    assert_same(again.total, levels.total, 0)
    size = sum(getattr(levels, n).nbytes for n in FIELDS) + sum(
        a.nbytes for a in [*levels.variation.values(), *levels.sample.values()]
    )
    assert len(pickle.dumps(levels)) < 2 * size + 2000


# ---- what does not combine ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [Moments.empty(3, 4), Moments.empty(2, 5), Moments.empty(2, 4, n_folds=2)])
def test_other_spaces_do_not_combine(other):
    with pytest.raises(CubeFormatError, match="do not combine"):
        Moments.empty(2, 4) + other
    with pytest.raises(CubeFormatError, match="do not combine"):
        Moments.empty(2, 4) - other


def test_other_levels_do_not_combine(levels):
    with pytest.raises(CubeFormatError, match="'sigma' differ"):
        levels + dataclasses.replace(levels, coords={"sigma": np.array([0.1, 0.3, 2.0])})
    with pytest.raises(CubeFormatError, match="do not combine"):
        levels + levels.select(sigma=[0, 1])


def test_more_cannot_be_taken_away_than_there_is():
    a = Moments.from_block(np.zeros((3, 2, 1)))
    with pytest.raises(NotEnoughDataError, match="more images"):
        a - Moments.from_block(np.zeros((4, 2, 1)))


def test_numbers_do_not_combine_with_moments():
    with pytest.raises(TypeError):
        Moments.empty(2, 4) + 1
    with pytest.raises(TypeError):
        Moments.empty(2, 4) - 1


def test_a_merge_is_as_coarse_as_its_coarser_part():
    fine = Moments.from_block(np.random.default_rng(0).standard_normal((5, 2, 2)))
    coarse = dataclasses.replace(fine, products="float32", views_ordered=False)
    assert (fine + fine).products == "float64" and (fine + fine).views_ordered
    for merged in (fine + coarse, coarse + fine, Moments.stack([fine, coarse])):
        assert merged.products == "float32" and not merged.views_ordered


# ---- folds ----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    ids=st.one_of(
        st.lists(st.integers(0, 2**62), min_size=1, max_size=40),
        st.lists(st.text(max_size=12), min_size=1, max_size=40),
    ),
    n_folds=st.integers(1, 20),
    seed=st.integers(0, 2**31),
)
def test_a_fold_depends_on_the_id_and_the_seed_alone(ids, n_folds, seed):
    folds = fold_of_images(np.array(ids), n_folds, seed)
    assert ((folds >= 0) & (folds < n_folds)).all()
    np.testing.assert_array_equal(fold_of_images(np.array(ids)[::-1], n_folds, seed)[::-1], folds)
    for i, fold in zip(ids[:3], folds, strict=False):
        assert fold_of_images(np.array([i]), n_folds, seed)[0] == fold


def test_folds_of_the_same_ids_in_other_types_are_the_same():
    ids = np.arange(50)
    for dtype in (np.int32, np.uint8, np.uint64):
        np.testing.assert_array_equal(fold_of_images(ids.astype(dtype), 10), fold_of_images(ids, 10))
    text = np.array([f"class_a/{i}.png" for i in range(50)])
    np.testing.assert_array_equal(fold_of_images(text.astype(object), 10), fold_of_images(text, 10))


@pytest.mark.parametrize("text", [False, True])
def test_folds_are_even_and_never_contiguous(text):
    ids = np.array([f"a/{i:05d}.png" for i in range(5000)]) if text else np.arange(5000)
    folds = fold_of_images(ids, 10)
    counts = np.bincount(folds, minlength=10)
    assert np.square(counts - 500).sum() / 500 < 27.9  # chi-square, 9 degrees of freedom, 0.1 %
    assert abs((folds[1:] == folds[:-1]).mean() - 0.1) < 0.02
    for block_of_a_class in folds.reshape(10, 500):
        assert np.bincount(block_of_a_class, minlength=10).min() > 20
    assert (fold_of_images(ids, 10, 1) == folds).mean() < 0.15


@PROPERTY
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_usable_folds_lose_no_image_and_hold_two_or_more(counts, seed):
    rng = np.random.default_rng(seed)
    parts = [Moments.from_block(block(rng, n, 2, 2)) if n else Moments.empty(2, 2) for n in counts]
    m = Moments.stack(parts)
    usable = m.usable_folds()
    n = sum(counts)
    assert_same(usable.total, m.total)
    assert usable.n_folds <= max(1, n // 2)
    if n >= 2:
        assert (usable.n_images >= 2).all()
    if min(counts) >= 2:
        assert usable is m


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5, 1, 4, 3], [5, 5, 3]),  # a fold of one joins the next
        ([5, 4, 3, 1], [5, 4, 4]),  # and the last one the one before
        ([5, 0, 0, 2, 2, 2], [7, 2, 2]),  # five at most, so the last joins the first; then the empty ones
        ([4, 0], [4]),
        ([1, 1, 1, 1, 1, 1], [2, 2, 2]),  # three folds at most: fold k joins fold k modulo 3
    ],
)
def test_which_folds_join(counts, expected):
    rng = np.random.default_rng(0)
    m = Moments.stack([Moments.from_block(block(rng, n, 2, 2)) if n else Moments.empty(2, 2) for n in counts])
    assert m.usable_folds().n_images.tolist() == expected


def test_usable_folds_need_folds(levels):
    for m in (levels, levels.select(sigma=0, fold=0)):
        with pytest.raises(CubeFormatError, match="only leading axis"):
            m.usable_folds()


# ---- derived --------------------------------------------------------------------------------------------------------


def test_condition_number_of_within():
    m = Moments.from_block(np.random.default_rng(0).standard_normal((40, 3, 4)))
    unit = 1 / np.sqrt(m.within.diagonal())
    assert m.condition_number == pytest.approx(np.linalg.cond(m.within * unit[:, None] * unit, 1), rel=1e-9)
    singular = dataclasses.replace(m, within=np.ones((4, 4)))
    assert singular.condition_number == np.inf
    assert Moments.empty(2, 3).condition_number == np.inf


def test_a_first_block_unlike_the_rest_costs_a_second_pass(monkeypatch):
    # The provisional mean is that of the first block. Where all later images lie far from it, centring at the end
    # magnifies the rounding of float32 products; the pass says by how much.
    rng = np.random.default_rng(0)
    h = (rng.standard_normal((20000, 1, 4)) + rng.standard_normal((20000, 2, 4))).astype(np.float32)
    blocks = Features.blocks
    monkeypatch.setattr(Features, "blocks", lambda self, target_bytes=0: blocks(self, 10 * 2 * 4 * 4))
    alike = Moments.from_cube(h, n_folds=0)
    assert alike.products == "float32" and 1 <= alike.cancellation < 3
    h[10:] += 3000.0
    single = Moments.from_cube(h, n_folds=0, dtype="float32")
    assert single.cancellation == pytest.approx(2000, rel=0.01)  # images in all, over images in the first block
    both = Moments.from_cube(h, n_folds=0)
    assert both.products == "float64"
    assert ik.icr(both) == pytest.approx(ik.icr(Moments.from_block(h)), rel=1e-9)


def test_a_number_of_folds_makes_sense():
    h = np.random.default_rng(0).standard_normal((20, 2, 3))
    with pytest.raises(ValueError, match=r"n_folds must be 0 \(no folds\) or more, not -1"):
        Moments.from_cube(h, n_folds=-1)
    with pytest.raises(ValueError, match=r"n_folds must be 0 \(no folds\) or more, not -1"):
        ik.paired_difference(h, h + 1, n_folds=-1)
    with pytest.raises(TypeError):
        Moments.from_cube(h, n_folds=2.5)


# ---- what is not finite ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_is_refused_with_its_place(bad, dtype):
    h = block(np.random.default_rng(0), 5, 3, 4).astype(dtype)
    h[2, 1, 3] = h[4, 0, 0] = bad
    for make in (Moments.from_block, Moments.from_cube, ik.ICREstimator().partial_fit):
        with pytest.raises(
            NonFiniteError, match=r"2 of 60 features are missing, NaN or inf.* image 2, view 1, feature 3"
        ):
            make(h)


def test_squares_that_overflow_are_refused():
    with pytest.raises(NonFiniteError, match=r"squares of 1 of 2 features overflow .*feature 1\)"):
        Moments.from_block(np.array([[[1.0, 1e200]], [[2.0, -1e200]]]))


@pytest.mark.parametrize("name", ["mean", "between", "within"])
def test_moments_that_are_not_finite_do_not_combine(name):
    good = Moments.from_block(block(np.random.default_rng(0), 5, 2, 3))
    more = good + good
    bad = more.replace_unchecked(**{name: np.full_like(getattr(good, name), np.nan)})
    for combine in (lambda: good + bad, lambda: bad - good):
        with pytest.raises(NonFiniteError, match=r"NaN or inf|overflow"):
            combine()


def test_a_block_of_no_images_is_the_identity():
    assert Moments.from_block(np.empty((0, 2, 3))).n_images == 0


@pytest.mark.parametrize("name", ["mean", "between", "within"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_way_of_joining_or_reading_lets_nan_through(name, value, tmp_path):
    good = Moments.from_cube(np.random.default_rng(0).standard_normal((40, 2, 3)), n_folds=4)
    spoiled = getattr(good, name).copy()
    spoiled[1, 0, 0] = value
    bad = good.replace_unchecked(**{name: spoiled})
    bad.save(tmp_path / "bad.h5")
    fields = bad.__getstate__()
    ways = {
        "constructor": lambda: Moments(**fields),
        "replace": lambda: dataclasses.replace(good, **{name: spoiled}),
        "sum": bad.sum,
        "add": lambda: good + bad,
        "stack": lambda: Moments.stack([good, bad], "sigma"),
        "load": lambda: Moments.load(tmp_path / "bad.h5"),
    }
    for way in ways.values():
        with pytest.raises(NonFiniteError, match=r"are NaN or inf|overflow"):
            way()


@pytest.mark.parametrize("name", ["between", "within"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_beside_the_diagonal_is_refused_where_it_comes_in(name, value, tmp_path):
    good = Moments.from_cube(np.random.default_rng(0).standard_normal((40, 2, 5)), n_folds=4)
    spoiled = getattr(good, name).copy()
    spoiled[1, 3, 0] = spoiled[2, 0, 3] = value
    words = rf"2 of 100 entries of `{name}` .* the first is that of features 3 and 0"
    with pytest.raises(NonFiniteError, match=words):
        dataclasses.replace(good, **{name: spoiled})
    good.replace_unchecked(**{name: spoiled}).save(tmp_path / "bad.h5")
    with pytest.raises(NonFiniteError, match=rf"bad\.h5: {words}"):
        Moments.load(tmp_path / "bad.h5")


def test_features_whose_sums_overflow_and_which_do_not_vary_have_moments():
    h = np.random.default_rng(0).standard_normal((6, 2, 3))
    h[..., 1] = 1.7e308
    assert Moments.from_block(h).mean[0, 1] == 1.7e308
