"""The silhouette against scikit-learn's, by classes and by clusters, in any blocks."""

from __future__ import annotations

import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

import icrkit as ik
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError, NotEnoughDataError

PROPERTY = settings(max_examples=30, derandomize=True)
METRICS = ["euclidean", "cosine"]


def labelled(n: int = 60, d: int = 5, k: int = 4, seed: int = 0, v: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.concatenate([[0], np.arange(k), np.minimum(rng.geometric(0.4, n - k - 1) - 1, k - 1)]))
    return 2 * rng.standard_normal((k, 1, d))[y] + rng.standard_normal((n, v, d)) + 3, y


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_a_line_by_hand():
    # 0 and 1 against 4, 5 and 6; a and b of each in turn. The last class has one row: 0.
    rows = np.array([0.0, 1, 4, 5, 6, 100])[:, None]
    terms = [(5 - 1) / 5, (4 - 1) / 4, (3.5 - 1.5) / 3.5, (4.5 - 1) / 4.5, (5.5 - 1.5) / 5.5, 0]
    assert ik.silhouette(rows, [7, 7, 8, 8, 8, 9]) == pytest.approx(np.mean(terms), rel=1e-14)


def test_directions_by_hand():
    rows = np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [0, 0, 1]])
    # Class 0 at a right angle: a = b = 1. Class 1 points one way: a = 0, b = 1.
    assert ik.silhouette(rows, [0, 0, 1, 1], metric="cosine") == pytest.approx(0.5, rel=1e-14)


# ---- independent code -----------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(12, 60),
    d=st.integers(2, 12),
    k=st.integers(2, 8),
    metric=st.sampled_from(METRICS),
    block_size=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_scikit_learn_in_any_blocks(n, d, k, metric, block_size, seed):
    h, y = labelled(n, d, k, seed)
    found = ik.silhouette(h, y, metric=metric, block_size=block_size)
    assert found == pytest.approx(silhouette_score(h[:, 0], y, metric=metric), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_clusters_of_scikit_learn(metric):
    rows = labelled(200, 6, 5)[0][:, 0]
    of = rows - rows.mean(axis=0) if metric == "euclidean" else rows / np.linalg.norm(rows, axis=1, keepdims=True)
    clusters = KMeans(7, n_init=10, random_state=3).fit_predict(of)
    found = ik.silhouette(rows, labels="kmeans", n_clusters=7, metric=metric, random_state=3)
    assert found == pytest.approx(silhouette_score(rows, clusters, metric=metric), abs=1e-12)
    est = ik.Silhouette("kmeans", 7, metric=metric, random_state=3).fit(rows)
    assert est.silhouette_ == est.score(rows) == found


@pytest.mark.parametrize("views", ["mean", "all", 0, 2])
def test_which_rows_stand_for_an_image(views):
    h, y = labelled(v=3)
    rows = {"mean": h.mean(axis=1), "all": h.reshape(-1, 5), 0: h[:, 0], 2: h[:, 2]}[views]
    of_rows = np.repeat(y, 3) if views == "all" else y
    est = ik.Silhouette(views=views).fit(h, y)
    assert est.silhouette_ == est.score(h, y) == pytest.approx(silhouette_score(rows, of_rows), abs=1e-12)
    assert ik.silhouette(h, y, views=views) == est.silhouette_
    by_cluster = ik.silhouette(h, labels="kmeans", n_clusters=3, views=views)
    assert by_cluster == pytest.approx(ik.silhouette(rows, labels="kmeans", n_clusters=3), abs=1e-12)


def test_the_mean_is_the_default_and_a_cube_brings_its_labels():
    h, y = labelled(v=2)
    cube, want = ik.from_arrays(h, labels=y), silhouette_score(h.mean(axis=1), y)
    est = ik.Silhouette().fit(cube)
    assert ik.silhouette(cube) == est.silhouette_ == pytest.approx(want, abs=1e-12)
    assert est.score(cube[:30]) == pytest.approx(ik.silhouette(h[:30], y[:30]), abs=1e-12)
    assert clone(est).fit(h, y).silhouette_ == pickle.loads(pickle.dumps(est)).silhouette_ == est.silhouette_


def test_float32_is_right_to_its_precision_whatever_the_offset_and_the_range():
    h, y = labelled(300, 16)
    want = ik.silhouette(h, y)
    assert ik.silhouette(h.astype(np.float32), y, views=0) == pytest.approx(want, abs=1e-5)
    assert ik.silhouette((h + 1000).astype(np.float32), y, views=0) == pytest.approx(want, abs=1e-4)
    assert ik.silhouette((1e25 * h).astype(np.float32), y, views=0) == pytest.approx(want, abs=1e-5)
    assert ik.silhouette(h + 1e4, y) == pytest.approx(want, abs=1e-9)


def test_labels_are_needed_by_classes_only():
    h, y = labelled(v=2)
    assert ik.Silhouette().needs_labels and not ik.Silhouette("kmeans").needs_labels
    for X in (h, ik.from_arrays(h)):
        with pytest.raises(CubeFormatError, match="requires y"):
            ik.silhouette(X)
        assert ik.silhouette(X, labels="kmeans", n_clusters=3) > 0
    # Labels that are there are not read.
    assert ik.silhouette(h, y, "kmeans", 3) == ik.silhouette(h, labels="kmeans", n_clusters=3)


def test_no_more_than_a_block_of_pairs_is_held():
    h, y = labelled(3000, 4)
    tracemalloc.start()
    ik.silhouette(h, y, block_size=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000**2 * 8 / 50


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3), metric=st.sampled_from(METRICS))
def test_rotation_scale_and_order_do_not_matter(seed, scale, metric):
    rng = np.random.default_rng(seed)
    h, y = labelled(seed=seed)
    q, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    order = rng.permutation(60)
    changed = (scale * h @ q)[order]
    changed = changed + 5 * scale if metric == "euclidean" else changed * np.exp(rng.standard_normal((60, 1, 1)))
    names = np.array(["d", "a", "c", "b"])[y][order]
    assert ik.silhouette(changed, names, metric=metric) == pytest.approx(ik.silhouette(h, y, metric=metric), abs=1e-9)


def test_other_affine_maps_matter_and_translation_does_to_the_cosine():
    h, y = labelled()
    for metric in METRICS:
        assert abs(ik.silhouette(h * [10, 1, 1, 1, 1], y, metric=metric) - ik.silhouette(h, y, metric=metric)) > 0.02
    assert abs(ik.silhouette(h - 3, y, metric="cosine") - ik.silhouette(h, y, metric="cosine")) > 0.02


@PROPERTY
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), metric=st.sampled_from(METRICS))
def test_of_clusters_rotation_and_scale_do_not_matter(seed, scale, metric):
    rng = np.random.default_rng(seed)
    h, _ = labelled(seed=seed)
    q, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    changed = scale * h @ q
    changed = changed + 5 * scale if metric == "euclidean" else changed * np.exp(rng.standard_normal((60, 1, 1)))
    found, want = (ik.silhouette(x, labels="kmeans", n_clusters=4, metric=metric) for x in (changed, h))
    assert found == pytest.approx(want, abs=1e-9)


def test_the_order_of_rows_decides_where_k_means_starts():
    noise = np.random.default_rng(0).standard_normal((100, 6))  # no clusters: many local optima
    for metric in METRICS:
        orders = noise, noise[::-1], np.roll(noise, 50, axis=0)
        found = {round(ik.silhouette(x, labels="kmeans", metric=metric), 9) for x in orders}
        assert len(found) == 3


# ---- degenerate input -----------------------------------------------------------------------------------------------


def test_collapsed_classes_read_one_and_equal_classes_nothing():
    y = np.repeat(np.arange(3), 8)
    rows = np.random.default_rng(0).standard_normal((3, 5))[y]
    for metric in METRICS:
        assert ik.silhouette(rows, y, metric=metric) == pytest.approx(1, abs=1e-7)
    ones = np.array([[0.0], [0], [0], [0], [8]])
    assert ik.silhouette(ones, [0, 0, 1, 1, 2]) == 0  # max(a, b) is 0, and the last is alone


@pytest.mark.parametrize("labels", ["classes", "kmeans"])
def test_equal_rows_and_rows_that_point_the_same_way(labels):
    y = np.arange(12) % 3
    with pytest.raises(DegenerateFeaturesError, match="all rows are equal"):
        ik.silhouette(np.full((12, 3), 0.1), y, labels)
    with pytest.raises(DegenerateFeaturesError, match="point the same way"):
        ik.silhouette(np.outer(np.arange(1, 13), [0.1, 0.7]), y, labels, metric="cosine")


def test_zero_rows_have_no_direction():
    rows = np.vstack([np.zeros(3), np.eye(3), 2 * np.eye(3)])
    y = [0, 0, 1, 2, 0, 1, 2]
    with pytest.warns(UserWarning, match="1 feature vectors are all zero"):
        found = ik.silhouette(rows, y, metric="cosine")
    assert found == pytest.approx(silhouette_score(rows, y, metric="cosine"), abs=1e-12)


def test_what_cannot_be_told_apart_is_named():
    h, y = labelled()
    with pytest.raises(NotEnoughDataError, match="1 class"):
        ik.silhouette(h, np.zeros(60))
    with warnings.catch_warnings(), pytest.raises(NotEnoughDataError, match="each of the 60 classes"):
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")  # scikit-learn >= 1.7
        ik.silhouette(h, np.arange(60))
    for n_clusters in (1, 60):
        with pytest.raises(NotEnoughDataError, match=f"n_clusters={n_clusters}: wanted 2 to n_samples - 1 = 59"):
            ik.silhouette(h, labels="kmeans", n_clusters=n_clusters)
    with pytest.raises(DegenerateFeaturesError, match="fewer distinct rows than n_clusters=5"):
        ik.silhouette(np.repeat(np.eye(4), 3, axis=0), labels="kmeans", n_clusters=5)
    for option in ({"labels": "k-means"}, {"metric": "manhattan"}, {"views": 1}, {"block_size": 0}):
        with pytest.raises(ValueError, match=next(iter(option))):
            ik.silhouette(h, y, **option)
    h[3, 0, 2] = np.nan
    with pytest.raises(NonFiniteError, match="image 3, view 0, feature 2"):
        ik.silhouette(h, y)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_clusters_that_are_there_are_found_and_none_reads_lower():
    rng = np.random.default_rng(0)
    means = 10 * rng.standard_normal((4, 6))
    y = np.arange(400) % 4
    apart, noise = means[y] + rng.standard_normal((400, 6)), rng.standard_normal((400, 6))
    assert ik.silhouette(apart, labels="kmeans", n_clusters=4) == pytest.approx(ik.silhouette(apart, y), abs=1e-12)
    assert ik.silhouette(noise, labels="kmeans", n_clusters=4) < 0.3 < ik.silhouette(apart, y)
    assert -0.05 < ik.silhouette(noise, y) < 0  # b is the least of several
