"""Means and spread of classes against numpy, class by class, in any blocks and far from the origin."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit._features import Features
from icrkit.exceptions import NonFiniteError, NotEnoughDataError
from icrkit.metrics._classes import (
    add_by_label,
    checked_labels,
    class_codes,
    class_spread,
    labelled_rows,
    read_rows,
)

PROPERTY = settings(max_examples=30, derandomize=True)


def features(n: int = 20, v: int = 2, d: int = 4, seed: int = 0, dtype: str = "float64") -> Features:
    return Features(np.random.default_rng(seed).standard_normal((n, v, d)).astype(dtype), np.arange(n))


def rows_of(found: Features, views: str | int) -> np.ndarray:
    h = found.array
    return {"mean": h.mean(axis=1), "all": h.reshape(-1, h.shape[2]), 1: h[:, 1]}[views]


@PROPERTY
@given(
    n=st.integers(4, 30),
    k=st.integers(2, 5),
    views=st.sampled_from(["mean", "all", 1]),
    normalize=st.sampled_from([None, "l2"]),
    n_images=st.integers(1, 31),
    seed=st.integers(0, 99),
)
def test_means_and_variances_class_by_class(n, k, views, normalize, n_images, seed):
    found = features(n, 3, 4, seed)
    y = np.random.default_rng(seed).integers(0, k, n)
    y[:2] = 0, 1
    rows, labels = rows_of(found, views), np.repeat(y, 3) if views == "all" else y
    if normalize:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Features, "blocks", in_blocks_of(n_images))
        spread = class_spread(found, y, views, normalize)
    for c, count, mean, variance in zip(*spread, strict=True):
        mine = rows[labels == c]
        assert count == len(mine)
        np.testing.assert_allclose(mean, mine.mean(axis=0) - rows[0], atol=1e-13)
        assert variance == pytest.approx(np.trace(np.atleast_2d(np.cov(mine.T, ddof=0))), abs=1e-13)


def in_blocks_of(n_images):
    def blocks(self, target_bytes=None):
        for start in range(0, self.shape[0], n_images):
            yield start, self.read(start, start + n_images)

    return blocks


def test_equal_rows_have_exact_zeros():
    h = np.full((30, 1, 3), 0.1)
    spread = class_spread(Features(h, np.arange(30)), np.arange(30) % 7, "mean", "l2")
    assert not spread.means.any() and not spread.variances.any()


def test_far_from_the_origin_and_close_together():
    h = np.random.default_rng(0).standard_normal((40, 1, 5))
    y = np.arange(40) % 3
    near, far = (class_spread(Features(x, np.arange(40)), y) for x in (h, 2.0**-20 * h + 1))
    np.testing.assert_allclose(far.variances * 2.0**40, near.variances, rtol=1e-8)


def test_rows_of_labels_and_rows_in_memory():
    found, y = features(6, 3, dtype="float32"), np.array([2, 0, 1, 1, 0, 2])
    for views in ("mean", "all", 1):
        rows, labels = next(labelled_rows(found, y, views))
        assert rows.dtype == np.float64
        np.testing.assert_allclose(rows, rows_of(found, views), rtol=1e-6)
        np.testing.assert_array_equal(labels, np.repeat(y, 3) if views == "all" else y)
        held = read_rows(found, views)
        assert held.shape == (6, 3 if views == "all" else 1, 4)
        np.testing.assert_array_equal(held.reshape(-1, 4), rows)
    held[:] = 0  # a copy: what the caller changes is not the features
    assert found.array.all()


def test_sums_add_up_where_labels_repeat_and_classes_are_missing():
    sums = np.ones((4, 2))
    add_by_label(sums, np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([3, 1, 3]))
    np.testing.assert_array_equal(sums, [[1, 1], [4, 5], [1, 1], [7, 9]])


def test_codes_are_numbers_of_sorted_classes():
    classes, codes = class_codes(np.array(["b", "a", "b", "c"]))
    assert classes.tolist() == ["a", "b", "c"] and codes.tolist() == [1, 0, 1, 2]
    for one, shown in ((np.zeros(5, int), "0"), (np.full(5, "cat"), "cat"), (np.full(5, "cat", object), "cat")):
        with pytest.raises(NotEnoughDataError, match=f"^y holds 1 class, {shown}; at least two are needed"):
            class_codes(one)


LETTERS = np.array(list("abc") * 4)
LABELLED = {
    "nc1": ik.nc1,
    "cdnv": ik.cdnv,
    "class_separation": ik.class_separation,
    "silhouette": ik.silhouette,
    "linear_probe": ik.linear_probe,
    "knn_probe": ik.knn_probe,
    "few_label_probe": lambda X, y: ik.few_label_probe(X, y, n_labels=2, n_draws=2),
    "few_label_probe, test": lambda X, y: ik.few_label_probe(X, LETTERS, X, y, n_labels=2, n_draws=2),
    "score": lambda X, y: ik.LinearProbe(cv=2).fit(X, LETTERS).score(X, y),
    **{
        type(est).__name__: lambda X, y, est=est: est.fit(X, y)
        for est in (
            *(ik.NC1Scorer(), ik.CDNV(), ik.ClassSeparation(), ik.Silhouette()),
            *(ik.LinearProbe(cv=2), ik.KNNProbe(cv=2), ik.FewLabelProbe(n_labels=2, n_draws=2)),
        )
    },
}
BAD_LABELS = {
    "Input y contains NaN, None or infinity: 1 of 12 labels, the first is nan at number 5": np.where(
        np.arange(12) == 5, np.nan, np.arange(12) % 3
    ),
    "1 of 12 labels, the first is inf at number 5": np.where(np.arange(12) == 5, np.inf, np.arange(12) % 3),
    "1 of 12 labels, the first is None at number 5": np.where(np.arange(12) == 5, None, LETTERS),
    "1 of 12 labels, the first is NaT": np.where(np.arange(12) == 5, np.datetime64("NaT"), np.datetime64("2020", "D")),
    "Unknown label type: continuous": np.arange(12) / 7,
    "Unknown label type: unknown": np.where(np.arange(12) % 2, "a", np.arange(12).astype(object)),
    r"inconsistent numbers of samples: \[12, 11\]": LETTERS[:11],
    r"1d array, got an array of shape \(12, 2\)": np.stack([LETTERS, LETTERS], axis=1),
}


@pytest.mark.parametrize("match", BAD_LABELS)
@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("rows", [False, True])
def test_functions_and_estimators_check_labels_alike(name, match, rows):
    h = features(12).array
    with pytest.raises(ValueError, match=match):
        LABELLED[name](h[:, 0] if rows else h, BAD_LABELS[match])


@pytest.mark.parametrize(
    "y",
    [
        *(["b", "a", "b"], [True, False, True], np.array(["b", "a", "b"], dtype=object), np.array([3, 1, 3], np.uint8)),
        *(np.array([3.0, 1.0, 3.0]), np.array(["2021", "2020", "2021"], dtype="M8[D]"), pd.Series(["b", "a", "b"])),
    ],
    ids=["list", "bools", "objects", "uint8", "floats", "dates", "series"],
)
def test_labels_of_any_kind_that_tells_classes_apart(y):
    assert class_codes(checked_labels(y, 3))[1].tolist() == [1, 0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_named(bad):
    found = features()
    found.array[7, 1, 2] = bad
    y = np.arange(20) % 2
    for call in (lambda: class_spread(found, y), lambda: class_spread(found, y, 1, "l2"), lambda: read_rows(found, 1)):
        with pytest.raises(NonFiniteError, match="image 7, view 1, feature 2"):
            call()
    assert class_spread(found, y, 0).variances.all()
