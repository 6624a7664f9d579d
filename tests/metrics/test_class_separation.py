"""Class separation against all pairs of cosine distances, and against naturalcogsci."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.base import clone

import icrkit as ik
from icrkit.exceptions import DegenerateFeaturesError, NotEnoughDataError

PROPERTY = settings(max_examples=30, derandomize=True)


def labelled(n: int = 60, d: int = 5, k: int = 4, seed: int = 0, v: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Unbalanced classes, two images in each at least."""
    rng = np.random.default_rng(seed)
    more = np.minimum(rng.geometric(0.4, n - 2 * k) - 1, k - 1)
    y = rng.permutation(np.concatenate([np.repeat(np.arange(k), 2), more]))
    return 2 * rng.standard_normal((k, 1, d))[y] + rng.standard_normal((n, v, d)) + 1, y


def brute(rows: np.ndarray, y: np.ndarray) -> float:
    distances, classes = cdist(rows, rows, "cosine"), np.unique(y)
    mean = np.array([[distances[np.ix_(y == a, y == b)].mean() for b in classes] for a in classes])
    return float(1 - np.diag(mean).mean() / mean.mean())


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_two_fans_by_hand():
    rows = np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [0, 0, 1]])
    # Class 0 spans a right angle: half of its pairs at distance 1. Class 1 points one way; between them all at 1.
    assert ik.class_separation(rows, [0, 0, 1, 1]) == pytest.approx(1 - (0.5 / 2) / ((0.5 + 1 + 1) / 4), rel=1e-14)
    assert ik.class_separation(np.vstack([rows, rows]), np.arange(8) // 4) == pytest.approx(0, abs=1e-15)


# ---- independent code -----------------------------------------------------------------------------------------------


@PROPERTY
@given(d=st.integers(2, 12), k=st.integers(2, 8), seed=st.integers(0, 99))
def test_all_pairs(d, k, seed):
    h, y = labelled(60, d, k, seed)
    assert ik.class_separation(h, y) == pytest.approx(brute(h[:, 0], y), rel=1e-10)


@pytest.mark.parametrize("name", ["balanced", "unbalanced"])
def test_naturalcogsci_which_counts_pairs_within_a_class_once(oracle, name):
    numbers, made = oracle("naturalcogsci")
    found = ik.class_separation(made[name], made[f"{name}_y"])
    assert 1 - (1 - found) / 2 == pytest.approx(numbers[name], rel=1e-8)


@pytest.mark.parametrize("views", ["mean", "all", 0, 2])
def test_which_rows_stand_for_an_image(views):
    h, y = labelled(v=3)
    rows = {"mean": h.mean(axis=1), "all": h.reshape(-1, 5), 0: h[:, 0], 2: h[:, 2]}[views]
    of_rows = np.repeat(y, 3) if views == "all" else y
    assert ik.class_separation(h, y, views) == pytest.approx(brute(rows, of_rows), rel=1e-10)
    est = ik.ClassSeparation(views=views).fit(h, y)
    want = ik.ClassSeparation().fit(rows, of_rows).class_separation_
    assert est.class_separation_ == est.score(h, y) == pytest.approx(want, rel=1e-12)


def test_the_mean_is_the_default_and_a_cube_brings_its_labels():
    h, y = labelled(v=2)
    cube, want = ik.from_arrays(h, labels=y), ik.class_separation(h.mean(axis=1), y)
    est = ik.ClassSeparation().fit(cube)
    assert ik.class_separation(cube) == est.class_separation_ == pytest.approx(want, rel=1e-12)
    assert est.score(cube[:30]) == pytest.approx(ik.class_separation(h[:30], y[:30]), rel=1e-12)
    copies = clone(est).fit(h, y), pickle.loads(pickle.dumps(est))
    assert all(copy.class_separation_ == est.class_separation_ for copy in copies)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 999))
def test_rotation_order_and_the_length_of_each_row_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    h, y = labelled(seed=seed)
    q, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    order = rng.permutation(60)
    changed = (np.exp(3 * rng.standard_normal((60, 1, 1))) * h @ q)[order]
    names = np.array(["d", "a", "c", "b"])[y][order]
    assert ik.class_separation(changed, names) == pytest.approx(ik.class_separation(h, y), rel=1e-9)


def test_translation_and_other_affine_maps_do():
    h, y = labelled()
    for changed in (h + 10, h * [10, 1, 1, 1, 1]):
        assert abs(ik.class_separation(changed, y) - ik.class_separation(h, y)) > 0.02


def test_rows_that_point_almost_the_same_way_lose_no_digits():
    h, y = labelled(v=1)
    far = 1e6 * np.eye(5)[0] + h * [0, 1, 1, 1, 1]
    # Far out, directions are the plane at right angles: the share of variance between classes, each weighing the same.
    rows = h[:, 0, 1:]
    means = np.stack([rows[y == c].mean(axis=0) for c in range(4)])
    within = np.mean([rows[y == c].var(axis=0).sum() for c in range(4)])
    want = means.var(axis=0).sum() / (means.var(axis=0).sum() + within)
    assert ik.class_separation(far, y) == pytest.approx(want, rel=1e-5)
    for c in range(4):  # collapsed classes, apart by 1e-6
        far[y == c] = 1e6 * np.eye(5)[0] + c * np.eye(5)[1]
    assert ik.class_separation(far, y) == 1


# ---- degenerate input -----------------------------------------------------------------------------------------------


def test_one_direction_one_class_and_zero_rows():
    y = np.arange(9) % 3
    for rows in (np.outer(np.arange(1, 10), [0.1, 0.7]), np.full((9, 3), 0.1), np.arange(1.0, 10)[:, None]):
        with pytest.raises(DegenerateFeaturesError, match="point the same way"):
            ik.class_separation(rows, y)
    with pytest.raises(NotEnoughDataError, match="1 class"):
        ik.class_separation(np.eye(4), np.zeros(4))
    with pytest.raises(ValueError, match="views=-1"):
        ik.class_separation(np.eye(4), [0, 0, 1, 1], views=-1)
    with pytest.warns(UserWarning, match="all zero"):
        assert 0 < ik.class_separation(np.vstack([np.zeros(3), np.eye(3)]), [0, 0, 1, 1]) < 1


def test_classes_of_one_row_have_no_spread():
    h, _ = labelled(v=2)
    for call in (
        lambda: ik.class_separation(h[:6], np.arange(6)),
        lambda: ik.ClassSeparation(views=1).fit(h[:6], np.arange(6)),
    ):
        with pytest.raises(NotEnoughDataError, match=r"each of the 6 classes has n_samples=1 row.* views='all'"):
            call()
    with pytest.raises(NotEnoughDataError, match=r"two images or more$"):
        ik.class_separation(h[:6, 0], np.arange(6))
    # Views that count as rows spread; so does one class of two.
    assert ik.class_separation(h[:6], np.arange(6), views="all") < 1
    assert ik.class_separation(h[:6], [0, 0, 1, 2, 3, 4]) < 1


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_small_classes_read_high_by_the_pairs_of_rows_with_themselves():
    rng = np.random.default_rng(0)
    k, d = 10, 6
    means = rng.standard_normal((k, d))

    def at(n):
        y = np.arange(n * k) % k
        return ik.class_separation(means[y] + rng.standard_normal((n * k, d)), y)

    truth = at(5000)
    small = np.mean([at(8) for _ in range(100)])
    assert small - truth == pytest.approx((1 - truth) / 8, rel=0.15)
