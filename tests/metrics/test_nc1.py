"""NC1 against a pseudo-inverse written out, on balanced, unbalanced, narrow and collapsed classes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import icrkit as ik
from icrkit._features import Features
from icrkit.exceptions import DegenerateFeaturesError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._nc1 import class_moments

PROPERTY = settings(max_examples=30, derandomize=True)


def labelled(n: int, d: int, k: int, seed: int = 0, v: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Unbalanced classes, two images in each at least."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), np.arange(k), np.minimum(rng.geometric(0.4, n - 2 * k) - 1, k - 1)])
    y = rng.permutation(y)
    h = 2 * rng.standard_normal((k, 1, d))[y] + rng.standard_normal((n, v, d)) * rng.uniform(0.5, 2, d)
    return h + 3, y


def brute(rows: np.ndarray, y: np.ndarray, variant: str, global_mean: str) -> float:
    classes = np.unique(y)
    means = np.stack([rows[y == c].mean(axis=0) for c in classes])
    centre = means.mean(axis=0) if global_mean == "classes" else rows.mean(axis=0)
    within = sum(np.outer(r - means[classes == c][0], r - means[classes == c][0]) for r, c in zip(rows, y, strict=True))
    within = within / len(rows)
    between = (means - centre).T @ (means - centre) / len(classes)
    if variant == "quotient":
        return np.trace(within) / np.trace(between)
    rank = min(len(classes) - 1, rows.shape[1])
    values, vectors = np.linalg.eigh(between)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    if global_mean == "classes":
        np.testing.assert_allclose((vectors / values) @ vectors.T, np.linalg.pinv(between, rtol=1e-9), atol=1e-6)
    trace = np.trace(vectors / values @ vectors.T @ within)
    return trace if variant == "svd" else trace / len(classes)


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_two_classes_by_hand():
    rows = np.array([[0.0, 1.0], [0.0, -1.0], [4.0, 1.0], [4.0, -1.0], [-1.0, 0.0], [5.0, 0.0]])
    y = np.array([0, 0, 1, 1, 0, 1])
    # Means -1/3 and 13/3 on the first axis, 0 on the second: between 49/9; within (2/3 + 2/3)/6 = 2/9 there.
    between, within = 49 / 9, np.array([2 / 9, 4 / 6])
    assert ik.nc1(rows[:, None], y) == pytest.approx(within[0] / between / 2, rel=1e-14)
    assert ik.nc1(rows[:, None], y, "svd") == pytest.approx(within[0] / between, rel=1e-14)
    assert ik.nc1(rows[:, None], y, "quotient") == pytest.approx(within.sum() / between, rel=1e-14)


# ---- brute force ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    d=st.integers(1, 12),
    k=st.integers(2, 8),
    variant=st.sampled_from(["pinv", "svd", "quotient"]),
    seed=st.integers(0, 99),
)
def test_a_pseudo_inverse_written_out(d, k, variant, seed):
    h, y = labelled(60, d, k, seed)
    assert ik.nc1(h, y, variant) == pytest.approx(brute(h[:, 0], y, variant, "classes"), rel=1e-8)


@PROPERTY
@given(d=st.integers(1, 12), k=st.integers(2, 8), seed=st.integers(0, 99))
def test_the_grand_mean_of_unbalanced_classes(d, k, seed):
    h, y = labelled(60, d, k, seed)
    rows = h[:, 0]
    means = np.stack([rows[y == c].mean(axis=0) for c in range(k)]) - rows.mean(axis=0)
    quotient = np.trace(ik.NC1Scorer().fit(h, y).within_covariance_) / (np.square(means).sum() / k)
    assert ik.nc1(h, y, "quotient", "samples") == pytest.approx(quotient, rel=1e-10)
    if d < k:  # the means fill the space and nothing is cut off
        assert ik.nc1(h, y, "pinv", "samples") == pytest.approx(brute(rows, y, "pinv", "samples"), rel=1e-7)


@pytest.mark.parametrize("global_mean", ["classes", "samples"])
def test_means_about_the_grand_mean_keep_the_directions_between_classes(global_mean):
    h, y = labelled(80, 10, 4)
    est = ik.NC1Scorer(global_mean=global_mean).fit(h, y)
    means = np.stack([h[y == c, 0].mean(axis=0) for c in range(4)])
    centre = means.mean(axis=0) if global_mean == "classes" else h[:, 0].mean(axis=0)
    between = (means - centre).T @ (means - centre) / 4
    np.testing.assert_allclose(est.between_covariance_, between, atol=1e-12)
    np.testing.assert_allclose(est.mean_, centre, atol=1e-12)
    assert est.components_.shape == (3, 10) and est.nc1_ > 0
    np.testing.assert_allclose(est.components_ @ est.components_.T, np.eye(3), atol=1e-12)
    assert est.nc1_ == pytest.approx(brute(h[:, 0], y, "pinv", global_mean), rel=1e-8)


def test_balanced_classes_have_one_mean():
    h, _ = labelled(60, 5, 3)
    y = np.arange(60) % 3
    assert ik.nc1(h, y, global_mean="samples") == pytest.approx(ik.nc1(h, y), rel=1e-9)


@pytest.mark.parametrize("views", ["mean", "all", 0, 2])
def test_which_rows_stand_for_an_image(views):
    h, y = labelled(60, 5, 3, v=3)
    rows = {"mean": h.mean(axis=1), "all": h.reshape(-1, 5), 0: h[:, 0], 2: h[:, 2]}[views]
    of_rows = np.repeat(y, 3) if views == "all" else y
    assert ik.nc1(h, y, views=views) == pytest.approx(brute(rows, of_rows, "pinv", "classes"), rel=1e-9)
    est = ik.NC1Scorer(views=views).fit(h, y)
    assert est.nc1_ == pytest.approx(ik.NC1Scorer().fit(rows, of_rows).nc1_, rel=1e-11)
    assert est.score(h, y) == pytest.approx(-est.nc1_, rel=1e-12)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    seed=st.integers(0, 999),
    scale=st.floats(1e-3, 1e3),
    variant=st.sampled_from(["pinv", "svd", "quotient"]),
    global_mean=st.sampled_from(["classes", "samples"]),
)
def test_rotation_scale_translation_and_order_do_not_matter(seed, scale, variant, global_mean):
    rng = np.random.default_rng(seed)
    h, y = labelled(60, 6, 4, seed)
    q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    order = rng.permutation(60)
    changed = (scale * h @ q + 5 * scale)[order]
    value, want = ik.nc1(changed, y[order], variant, global_mean), ik.nc1(h, y, variant, global_mean)
    assert value == pytest.approx(want, rel=1e-7)
    assert ik.nc1(h, np.array(["d", "a", "c", "b"])[y], variant, global_mean) == pytest.approx(want, rel=1e-7)


@PROPERTY
@given(
    seed=st.integers(0, 999),
    k=st.integers(4, 7),
    variant=st.sampled_from(["pinv", "svd"]),
    global_mean=st.sampled_from(["classes", "samples"]),
)
def test_any_invertible_map_where_classes_outnumber_features(seed, k, variant, global_mean):
    rng = np.random.default_rng(seed)
    h, y = labelled(60, 3, k, seed)
    (q, _), (r, _) = (np.linalg.qr(rng.standard_normal((3, 3))) for _ in range(2))
    mapped = h @ (q * [0.1, 1, 10] @ r) + 10 * rng.standard_normal(3)
    want = ik.nc1(h, y, variant, global_mean)
    assert ik.nc1(mapped, y, variant, global_mean) == pytest.approx(want, rel=1e-7)
    assert abs(ik.nc1(mapped, y, "quotient", global_mean) / ik.nc1(h, y, "quotient", global_mean) - 1) > 1e-3


@pytest.mark.parametrize("variant", ["pinv", "svd", "quotient"])
@pytest.mark.parametrize("d", [4, 6])
def test_other_affine_maps_matter_where_they_do_not(variant, d):
    h, y = labelled(60, d, 4)
    stretched = h * np.geomspace(1, 10, d)
    assert abs(ik.nc1(stretched, y, variant) / ik.nc1(h, y, variant) - 1) > 0.05


def test_means_on_a_line_do_not_span_the_plane():
    # d < K is not enough: the centred means must span the whole space.
    y = np.repeat(np.arange(4), 20)
    rows = np.random.default_rng(0).standard_normal((80, 2)) @ [[1, 0.5], [0, 1]]
    for c in range(4):
        rows[y == c] += np.array([c, 0]) - rows[y == c].mean(axis=0)
    assert abs(ik.nc1(rows @ [[1, 1], [0, 1]], y) / ik.nc1(rows, y) - 1) > 0.05


@pytest.mark.parametrize("views", ["mean", "all"])
def test_order_of_the_views_of_an_image_does_not_matter(views):
    h, y = labelled(60, 5, 3, v=3)
    rng = np.random.default_rng(0)
    mixed = np.stack([one[rng.permutation(3)] for one in h])
    assert ik.nc1(mixed, y, views=views) == pytest.approx(ik.nc1(h, y, views=views), rel=1e-11)


@pytest.mark.parametrize("n_images", [1, 7])
def test_blocks_do_not_matter(monkeypatch, n_images):
    h, y = labelled(41, 5, 3, v=2)
    want = [ik.nc1(h, y, views=views) for views in ("mean", "all", 1)]

    def blocks(self, target_bytes=None):
        for start in range(0, self.shape[0], n_images):
            yield start, self.read(start, start + n_images)

    monkeypatch.setattr(Features, "blocks", blocks)
    assert [ik.nc1(h, y, views=views) for views in ("mean", "all", 1)] == pytest.approx(want, rel=1e-12)


# ---- collapse -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_it_falls_with_the_square_of_the_spread_down_to_collapse(spread, offset):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 25)
    means, deviations = 3 * rng.standard_normal((4, 6)), rng.standard_normal((100, 6))
    for c in range(4):
        deviations[y == c] -= deviations[y == c].mean(axis=0)
    rows = means[y] + spread * deviations + offset
    want = spread**2 * ik.nc1((means[y] + deviations)[:, None], y)
    assert ik.nc1(rows[:, None], y) == pytest.approx(want, rel=1e-6)


def test_exact_collapse_is_zero():
    y = np.repeat(np.arange(3), 8)
    rows = np.random.default_rng(0).standard_normal((3, 5))[y]
    for variant in ("pinv", "svd", "quotient"):
        assert ik.nc1(rows[:, None], y, variant) == pytest.approx(0, abs=1e-28)


def test_collinear_means_keep_one_direction():
    y = np.repeat(np.arange(4), 20)
    rows = np.random.default_rng(0).standard_normal((80, 5))
    for c in range(4):  # class means exactly on a line
        rows[y == c] += np.array([c, 0, 0, 0, 0]) - rows[y == c].mean(axis=0)
    est = ik.NC1Scorer().fit(rows, y)
    assert est.components_.shape == (1, 5)
    np.testing.assert_allclose(np.abs(est.components_[0]), [1, 0, 0, 0, 0], atol=1e-12)
    assert est.nc1_ == pytest.approx(est.within_covariance_[0, 0] / 1.25 / 4, rel=1e-9)


@pytest.mark.parametrize("variant", ["pinv", "svd", "quotient"])
def test_classes_of_one_row_have_no_spread(variant):
    h, _ = labelled(12, 5, 3, v=2)
    y = np.arange(6)
    for call in (lambda: ik.nc1(h[:6], y, variant), lambda: ik.NC1Scorer(variant, views=1).fit(h[:6], y)):
        with pytest.raises(NotEnoughDataError, match=r"each of the 6 classes has n_samples=1 row.* views='all'"):
            call()
    with pytest.raises(NotEnoughDataError, match=r"two images or more$"):
        ik.NC1Scorer(variant).fit(h[:6, 0], y)
    # Views that count as rows spread; so does one class of two.
    assert ik.nc1(h[:6], y, variant, views="all") > 0
    assert ik.nc1(h[:7], np.append(y, 0), variant) > 0


# ---- the estimator --------------------------------------------------------------------------------------------------


def test_labels_of_a_cube_stand_in_for_y():
    h, y = labelled(60, 5, 3, v=2)
    cube = ik.from_arrays(h, labels=y)
    want = ik.NC1Scorer().fit(h, y).nc1_
    for est in (ik.NC1Scorer().fit(cube), ik.NC1Scorer().fit(cube.level()), ik.NC1Scorer().fit(cube, y)):
        assert est.nc1_ == pytest.approx(want, rel=1e-12)
    assert ik.nc1(cube) == pytest.approx(want, rel=1e-12)
    assert ik.NC1Scorer().fit(cube).score(cube[:30]) == pytest.approx(-ik.nc1(h[:30], y[:30]), rel=1e-12)


def test_attributes_transform_clone_and_pickle():
    h, y = labelled(60, 5, 3)
    names = np.array(["cat", "bee", "ant"])[y]
    est = ik.NC1Scorer().fit(h, names)
    assert est.classes_.tolist() == ["ant", "bee", "cat"] and est.n_features_in_ == 5
    rows = h[:, 0]
    want = sum(np.cov(rows[y == c].T, ddof=0) * (y == c).sum() for c in range(3)) / 60
    np.testing.assert_allclose(est.within_covariance_, want, atol=1e-12)
    z = est.transform(h)
    np.testing.assert_allclose(z[:, 0], (rows - est.mean_) @ est.components_.T, atol=1e-12)
    assert list(est.get_feature_names_out()) == ["nc1scorer0", "nc1scorer1"]
    assert clone(est).fit(h, names).nc1_ == est.nc1_ == pickle.loads(pickle.dumps(est)).nc1_


def test_class_moments_count_rows():
    h, y = labelled(60, 5, 3, v=2)
    m = class_moments(Features(h, np.arange(60)), y, "all")
    np.testing.assert_array_equal(m.counts, 2 * np.bincount(y))
    np.testing.assert_allclose(m.origin + m.means[1], h[y == 1].mean(axis=(0, 1)), atol=1e-12)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_it_tends_to_the_ratio_of_the_true_covariances():
    rng = np.random.default_rng(0)
    k, d = 4, 6
    means = rng.standard_normal((k, d))
    y = np.arange(40_000) % k
    rows = means[y] + 0.5 * rng.standard_normal((len(y), d))
    centred = means - means.mean(axis=0)
    truth = 0.25 * np.trace(np.linalg.pinv(centred.T @ centred / k, rtol=1e-9)) / k
    assert ik.nc1(rows[:, None], y) == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_means_that_coincide_but_for_rounding_span_nothing(seed, offset):
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((30, 6))
    rows = np.concatenate([half, -half])  # each class has mean zero, but for rounding
    y = np.tile(np.arange(3), 20)
    with pytest.raises(DegenerateFeaturesError, match="all class means coincide"):
        ik.nc1(np.repeat((rows + offset)[:, None], 2, axis=1), y)
    # On a line: the second direction of three means is rounding, and divides nothing.
    along = np.outer(np.array([0.1, 0.7, 1.3])[y], rng.standard_normal(6))
    shifted = rows + along + offset
    order = rng.permutation(60)
    found, again = (ik.nc1(np.repeat(x[:, None], 2, axis=1), z) for x, z in ((shifted, y), (shifted[order], y[order])))
    assert found == pytest.approx(again, rel=1e-6)
    assert len(ik.NC1Scorer().fit(shifted, y).components_) == 1


@pytest.mark.parametrize("scale", [1e140, 1e-125])
def test_scale_changes_nothing_as_far_as_squares_reach(scale):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    h = rng.standard_normal((3, 1, 4))[y] + rng.standard_normal((60, 2, 4))
    for variant in ("pinv", "svd", "quotient"):
        assert ik.nc1(h * scale, y, variant) == pytest.approx(ik.nc1(h, y, variant), rel=1e-9)
    assert ik.silhouette(h * scale, y) == pytest.approx(ik.silhouette(h, y), rel=1e-9)
    for far in (1e160, 1e300):
        with pytest.raises(NonFiniteError, match="overflow"):
            ik.nc1(h * far, y)
        assert ik.silhouette(h * far, y) == pytest.approx(ik.silhouette(h, y), rel=1e-9)
