"""Alignment and uniformity against the authors' formulas, row by row, and against their code."""

from __future__ import annotations

import functools
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist
from sklearn.base import clone

import icrkit as ik
from icrkit._features import Features
from icrkit.moments import Moments

PROPERTY = settings(max_examples=30, derandomize=True)


def features(n: int = 40, v: int = 2, d: int = 6, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, 1, d)) + 0.5 * rng.standard_normal((n, v, d))).astype(dtype)


def unit(h: np.ndarray) -> np.ndarray:
    return h / np.linalg.norm(h, axis=-1, keepdims=True)


def align_loss(x: np.ndarray, y: np.ndarray, alpha: float = 2) -> float:
    """The authors': (x - y).norm(p=2, dim=1).pow(alpha).mean()."""
    return float((np.linalg.norm(x - y, axis=1) ** alpha).mean())


def uniform_loss(x: np.ndarray, t: float = 2) -> float:
    """The authors': torch.pdist(x, p=2).pow(2).mul(-t).exp().mean().log()."""
    return float(np.log(np.exp(-t * pdist(x) ** 2).mean()))


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_orthogonal_and_opposite_views_by_hand():
    x, y = np.eye(4)[:2], np.eye(4)[2:]
    h = np.stack([x, y], axis=1)  # views of each image are orthogonal unit vectors
    assert ik.alignment(h) == pytest.approx(2.0, rel=1e-15)
    assert ik.alignment(h, alpha=1) == pytest.approx(np.sqrt(2), rel=1e-15)
    assert ik.alignment(np.stack([x, -x], axis=1), alpha=3) == pytest.approx(8.0, rel=1e-15)
    assert ik.alignment(np.stack([x, x], axis=1)) == 0.0
    for over_views in ("mean", "pooled"):
        assert ik.uniformity(h, over_views=over_views) == pytest.approx(-4.0, rel=1e-14)
        assert ik.uniformity(np.ones((5, 2, 3)), over_views=over_views) == pytest.approx(0.0, abs=1e-14)


# ---- brute force ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(4, 40),  # no fewer images than views, which would look swapped
    v=st.integers(2, 4),
    alpha=st.sampled_from([0.5, 1.0, 2.0, 3.0]),
    t=st.sampled_from([0.5, 2.0, 7.0]),
    normalize=st.sampled_from(["l2", None]),
    seed=st.integers(0, 99),
)
def test_the_authors_formulas(n, v, alpha, t, normalize, seed):
    h = features(n, v, 5, seed)
    x = unit(h) if normalize else h
    align = np.mean([align_loss(x[:, a], x[:, b], alpha) for a, b in itertools.combinations(range(v), 2)])
    uniform = np.mean([uniform_loss(x[:, a], t) for a in range(v)])
    assert ik.alignment(h, alpha, normalize) == pytest.approx(align, rel=1e-11)
    assert ik.uniformity(h, t, normalize) == pytest.approx(uniform, rel=1e-10)
    est = ik.AlignUniform(alpha, t, normalize=normalize).fit(h)
    assert (est.alignment_, est.uniformity_) == pytest.approx((align, uniform), rel=1e-10)
    assert est.score(h) == pytest.approx(-(align + uniform), rel=1e-9, abs=1e-10)


@pytest.mark.parametrize(("alpha", "t"), [(2, 2), (1, 0.5)])
def test_the_authors_code(oracle, alpha, t):
    numbers, made = oracle("align_uniform")
    align = np.mean(numbers[f"align_loss of pairs of views, alpha={alpha}"])
    uniform = np.mean(numbers[f"uniform_loss of views, t={t}"])
    assert ik.alignment(made["h"], alpha) == pytest.approx(align, rel=1e-8)
    assert ik.uniformity(made["h"], t) == pytest.approx(uniform, rel=1e-8)
    est = ik.AlignUniform(alpha, t, normalize=None).fit(made["unit"])
    assert (est.alignment_, est.uniformity_) == pytest.approx((align, uniform), rel=1e-8)


@PROPERTY
@given(n=st.integers(2, 30), v=st.integers(1, 4), t=st.sampled_from([0.5, 2.0]), seed=st.integers(0, 99))
def test_pooled_uniformity_pairs_different_images_only(n, v, t, seed):
    h = features(n, v, 5, seed)
    x = unit(h).reshape(n * v, -1)
    other = np.repeat(np.arange(n), v)[:, None] != np.repeat(np.arange(n), v)
    want = np.log(np.exp(-t * cdist(x, x) ** 2)[other].mean())
    assert ik.uniformity(h, t, over_views="pooled") == pytest.approx(want, rel=1e-10)
    if v == 1:
        assert ik.uniformity(h, t) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("v", [2, 3, 5])
def test_alignment_of_squares_is_twice_the_uncentred_residual_trace(v):
    h = features(50, v)
    m = Moments.from_cube(h, normalize="l2", n_folds=0)
    assert ik.alignment(h) == pytest.approx(2 * ik.traces(m, "none").residual, rel=1e-11)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(n=st.integers(2, 60), block_size=st.integers(1, 70), over_views=st.sampled_from(["mean", "pooled"]))
def test_block_size_does_not_matter(n, block_size, over_views):
    h = features(n, 2)
    want = ik.uniformity(h, over_views=over_views)
    assert ik.uniformity(h, over_views=over_views, block_size=block_size) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("n_images", [1, 7])
def test_blocks_of_a_file_do_not_matter(monkeypatch, n_images):
    h = features(41, 3)
    want = ik.alignment(h)

    def blocks(self, target_bytes=None):
        for start in range(0, self.shape[0], n_images):
            yield start, self.read(start, start + n_images)

    monkeypatch.setattr(Features, "blocks", blocks)
    assert ik.alignment(h) == pytest.approx(want, rel=1e-13)


@PROPERTY
@given(order=st.permutations(range(20)), views=st.permutations(range(3)), scale=st.floats(1e-3, 1e3))
def test_order_rotation_and_length_do_not_matter(order, views, scale):
    h = features(20, 3, 4)
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))
    changed = scale * (h @ q)[np.array(order)][:, np.array(views)]
    for over_views in ("mean", "pooled"):
        a, b = (ik.AlignUniform(over_views=over_views).fit(x) for x in (h, changed))
        assert (a.alignment_, a.uniformity_) == pytest.approx((b.alignment_, b.uniformity_), rel=1e-10)


@PROPERTY
@given(seed=st.integers(0, 999))
def test_a_positive_scale_for_each_vector_does_not_matter_on_the_sphere(seed):
    h = features(20, 3, 4)
    changed = h * np.exp(2 * np.random.default_rng(seed).standard_normal((20, 3, 1)))
    assert ik.alignment(changed, 1.5) == pytest.approx(ik.alignment(h, 1.5), rel=1e-10)
    for over_views in ("mean", "pooled"):
        want = ik.uniformity(h, over_views=over_views)
        assert ik.uniformity(changed, over_views=over_views) == pytest.approx(want, rel=1e-10)


@PROPERTY
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 10), over_views=st.sampled_from(["mean", "pooled"]))
def test_off_the_sphere_rotation_translation_and_order_do_not_matter_and_scale_does(seed, scale, over_views):
    rng = np.random.default_rng(seed)
    h = features(20, 3, 4)
    q, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    changed = (h @ q + 5 * rng.standard_normal(4))[rng.permutation(20)][:, rng.permutation(3)]
    align, uniform = ik.alignment(h, 1.5, None), ik.uniformity(h, 0.3, None, over_views)
    assert ik.alignment(changed, 1.5, None) == pytest.approx(align, rel=1e-9)
    assert ik.uniformity(changed, 0.3, None, over_views) == pytest.approx(uniform, rel=1e-9)
    each = h + 5 * rng.standard_normal((20, 1, 4))  # another translation for every image
    assert ik.alignment(each, 1.5, None) == pytest.approx(align, rel=1e-9)
    assert ik.alignment(scale * h, 1.5, None) == pytest.approx(scale**1.5 * align, rel=1e-9)
    want = ik.uniformity(h, scale**2 * 0.3, None, over_views)
    assert ik.uniformity(scale * h, 0.3, None, over_views) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("normalize", ["l2", None])
def test_an_order_of_views_of_its_own_in_each_image(normalize):
    h, rng = features(20, 3, 4), np.random.default_rng(0)
    h[:, 1] *= 2  # views that differ
    mixed = np.stack([one[rng.permutation(3)] for one in h])
    assert ik.alignment(mixed, 1.5, normalize) == pytest.approx(ik.alignment(h, 1.5, normalize), rel=1e-12)
    pooled = [ik.uniformity(x, 0.3, normalize, "pooled") for x in (mixed, h)]
    assert pooled[0] == pytest.approx(pooled[1], rel=1e-12)
    assert ik.uniformity(mixed, 0.3, normalize) != pytest.approx(ik.uniformity(h, 0.3, normalize), rel=1e-3)


def test_other_maps_matter():
    h = features()
    for changed, normalize in ((h + 1, "l2"), (h * [5, 1, 1, 1, 1, 1], "l2"), (h * [5, 1, 1, 1, 1, 1], None)):
        for measure in (ik.alignment, ik.uniformity):
            assert abs(measure(changed, normalize=normalize) / measure(h, normalize=normalize) - 1) > 0.05


def test_far_offsets_cost_no_digits_without_normalisation():
    h = features(30, 2)
    want = ik.uniformity(h, normalize=None)
    assert ik.uniformity(h + 1e4, normalize=None) == pytest.approx(want, rel=1e-9)
    assert ik.uniformity((h + 64).astype(np.float32), normalize=None) == pytest.approx(want, rel=1e-4)


def test_float32_is_right_to_its_precision():
    h = features(200, 2, 32)
    a, b = (ik.AlignUniform().fit(x) for x in (h.astype(np.float32), h))
    assert (a.alignment_, a.uniformity_) == pytest.approx((b.alignment_, b.uniformity_), rel=1e-6)


def test_far_apart_rows_do_not_underflow():
    h = 100 * features(30, 2)
    squared = np.concatenate([pdist(h[:, a]) ** 2 for a in range(2)]).reshape(2, -1)
    smallest = squared.min(axis=1, keepdims=True)
    logs = -2 * smallest[:, 0] + np.log(np.exp(-2 * (squared - smallest)).mean(axis=1))
    assert ik.uniformity(h, normalize=None) == pytest.approx(logs.mean(), rel=1e-9)
    assert np.exp(-2 * squared).sum() == 0  # what the plain formula is left with
    for block_size in (1, 4):
        assert ik.uniformity(h, normalize=None, block_size=block_size) == pytest.approx(logs.mean(), rel=1e-9)


# ---- the estimator --------------------------------------------------------------------------------------------------


def test_rows_groups_cubes_clone_and_pickle():
    h = features(30, 2)
    want = ik.AlignUniform().fit(h)
    pair = (want.alignment_, want.uniformity_)
    rows, groups = h.reshape(-1, 6), np.repeat(np.arange(30), 2)
    for est in (
        ik.AlignUniform().fit(rows),
        ik.AlignUniform().fit(rows, groups=groups),
        ik.AlignUniform().fit(ik.from_arrays(h)),
        clone(want).fit(h),
        pickle.loads(pickle.dumps(want)),
    ):
        assert (est.alignment_, est.uniformity_) == pytest.approx(pair, rel=1e-12)
    assert want.score(rows) == want.score(h)


def test_transform_gives_unit_vectors():
    h = features(30, 2)
    np.testing.assert_allclose(ik.AlignUniform().fit(h).transform(h), unit(h), rtol=1e-14)
    np.testing.assert_array_equal(ik.AlignUniform(normalize=None).fit(h).transform(h), h)


# ---- degenerate input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_powers_and_widths_are_positive_and_finite(value):
    h = features()
    for name, function in (("alpha", ik.alignment), ("t", ik.uniformity)):
        for measure in (functools.partial(function, **{name: value}), ik.AlignUniform(**{name: value}).fit):
            with pytest.raises(ValueError, match=f"^{name} must be positive and finite, not {value}"):
                measure(h)


@pytest.mark.parametrize("block_size", [0, -5])
def test_blocks_have_a_row_at_least(block_size):
    for call in (lambda h: ik.uniformity(h, block_size=block_size), ik.AlignUniform(block_size=block_size).fit):
        with pytest.raises(ValueError, match=f"block_size must be at least 1, not {block_size}"):
            call(features())


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_random_directions_have_the_known_uniformity():
    # On the circle the mean of exp(-t ||x - y||^2) is exp(-2t) I0(2t).
    rng = np.random.default_rng(0)
    h = rng.standard_normal((3000, 2, 2))
    assert ik.uniformity(h, t=2.0) == pytest.approx(np.log(np.exp(-4.0) * np.i0(4.0)), abs=0.01)
    assert ik.alignment(h) == pytest.approx(2.0, abs=0.08)
