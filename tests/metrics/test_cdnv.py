"""CDNV against its pairs written out, and against neural-collapse."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import icrkit as ik
from icrkit.exceptions import DegenerateFeaturesError, NotEnoughDataError

PROPERTY = settings(max_examples=30, derandomize=True)


def labelled(n: int = 60, d: int = 5, k: int = 4, seed: int = 0, v: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Unbalanced classes, two images in each at least."""
    rng = np.random.default_rng(seed)
    more = np.minimum(rng.geometric(0.4, n - 2 * k) - 1, k - 1)
    y = rng.permutation(np.concatenate([np.repeat(np.arange(k), 2), more]))
    return 2 * rng.standard_normal((k, 1, d))[y] + rng.standard_normal((n, v, d)) + 3, y


def brute(rows: np.ndarray, y: np.ndarray) -> float:
    terms = []
    for a, b in itertools.combinations(np.unique(y), 2):
        x, z = rows[y == a], rows[y == b]
        distance = np.square(x.mean(axis=0) - z.mean(axis=0)).sum()
        terms.append((x.var(axis=0).sum() + z.var(axis=0).sum()) / (2 * distance))
    return float(np.mean(terms))


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_three_classes_by_hand():
    rows = np.array([[0.0, 1], [0, -1], [4, 2], [4, -2], [0, 5], [0, 5]])
    y = np.array(["a", "a", "b", "b", "c", "c"])
    # Variances 1, 4 and 0; squared distances of means 16 (ab), 25 (ac) and 41 (bc).
    assert ik.cdnv(rows, y) == pytest.approx((5 / 32 + 1 / 50 + 4 / 82) / 3, rel=1e-14)


# ---- independent code -----------------------------------------------------------------------------------------------


@PROPERTY
@given(d=st.integers(1, 12), k=st.integers(2, 8), seed=st.integers(0, 99))
def test_all_pairs_written_out(d, k, seed):
    h, y = labelled(60, d, k, seed)
    assert ik.cdnv(h, y) == pytest.approx(brute(h[:, 0], y), rel=1e-10)


@pytest.mark.parametrize("name", ["balanced", "unbalanced", "narrow"])
def test_neural_collapse(oracle, name):
    numbers, made = oracle("neural_collapse")
    assert ik.cdnv(made[name], made[f"{name}_y"]) == pytest.approx(numbers[f"cdnv of {name}"], rel=1e-8)


@pytest.mark.parametrize("views", ["mean", "all", 0, 2])
def test_which_rows_stand_for_an_image(views):
    h, y = labelled(v=3)
    rows = {"mean": h.mean(axis=1), "all": h.reshape(-1, 5), 0: h[:, 0], 2: h[:, 2]}[views]
    of_rows = np.repeat(y, 3) if views == "all" else y
    assert ik.cdnv(h, y, views) == pytest.approx(brute(rows, of_rows), rel=1e-10)
    est = ik.CDNV(views=views).fit(h, y)
    assert est.cdnv_ == pytest.approx(ik.CDNV().fit(rows, of_rows).cdnv_, rel=1e-12)
    assert est.score(h, y) == -est.cdnv_


def test_the_mean_is_the_default_and_a_cube_brings_its_labels():
    h, y = labelled(v=2)
    cube, want = ik.from_arrays(h, labels=y), ik.cdnv(h.mean(axis=1), y)
    assert ik.cdnv(cube) == ik.CDNV().fit(cube).cdnv_ == pytest.approx(want, rel=1e-12)
    est = ik.CDNV().fit(cube.level())
    assert est.score(cube[:30]) == pytest.approx(-ik.cdnv(h[:30], y[:30]), rel=1e-12)
    assert clone(est).fit(h, y).cdnv_ == pickle.loads(pickle.dumps(est)).cdnv_ == est.cdnv_


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
def test_rotation_scale_translation_and_order_do_not_matter(seed, scale):
    rng = np.random.default_rng(seed)
    h, y = labelled(seed=seed)
    q, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    order = rng.permutation(60)
    changed = (scale * h @ q + 5 * scale)[order]
    assert ik.cdnv(changed, np.array(["d", "a", "c", "b"])[y][order]) == pytest.approx(ik.cdnv(h, y), rel=1e-9)


def test_other_affine_maps_do():
    h, y = labelled()
    assert abs(ik.cdnv(h * [10, 1, 1, 1, 1], y) / ik.cdnv(h, y) - 1) > 0.1


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_it_falls_with_the_square_of_the_spread_down_to_collapse(spread, offset):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 25)
    means, deviations = 3 * rng.standard_normal((4, 6)), rng.standard_normal((100, 6))
    for c in range(4):
        deviations[y == c] -= deviations[y == c].mean(axis=0)
    want = spread**2 * ik.cdnv(means[y] + deviations, y)
    assert ik.cdnv(means[y] + spread * deviations + offset, y) == pytest.approx(want, rel=1e-6)
    assert ik.cdnv(means[y], y) == pytest.approx(0, abs=1e-28)


# ---- degenerate input -----------------------------------------------------------------------------------------------


def test_classes_with_one_mean_are_named():
    rows = np.array([[0.1], [0.2], [-0.3], [5.0], [5.1], [0.2], [0.4], [-0.6]])
    y = np.array(["x", "x", "x", "y", "y", "z", "z", "z"])
    with pytest.raises(DegenerateFeaturesError, match="classes x and z have the same mean"):
        ik.cdnv(rows, y)
    with pytest.raises(DegenerateFeaturesError, match="classes x and z have the same mean"):
        ik.cdnv(rows, y.astype(object))
    with pytest.raises(DegenerateFeaturesError, match="0 and 1 have the same mean"):
        ik.cdnv(np.full((9, 3), 0.1), np.arange(9) % 3)
    with pytest.raises(NotEnoughDataError, match="1 class"):
        ik.cdnv(rows, np.ones(8))
    with pytest.raises(ValueError, match="views=1"):
        ik.cdnv(rows, y, views=1)


def test_classes_of_one_row_have_no_spread():
    h, _ = labelled(v=2)
    for call in (lambda: ik.cdnv(h[:6], np.arange(6)), lambda: ik.CDNV(views=1).fit(h[:6], np.arange(6))):
        with pytest.raises(NotEnoughDataError, match=r"each of the 6 classes has n_samples=1 row.* views='all'"):
            call()
    with pytest.raises(NotEnoughDataError, match=r"two images or more$"):
        ik.cdnv(h[:6, 0], np.arange(6))
    # Views that count as rows spread; so does one class of two.
    assert ik.cdnv(h[:6], np.arange(6), views="all") > 0
    assert ik.cdnv(h[:6], [0, 0, 1, 2, 3, 4]) > 0


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_it_tends_to_the_truth_and_small_classes_read_low():
    rng = np.random.default_rng(0)
    k, d = 4, 6
    means = rng.standard_normal((k, d))
    pairs = [np.square(means[a] - means[b]).sum() for a, b in itertools.combinations(range(k), 2)]
    truth = np.mean([0.25 * d / p for p in pairs])

    def at(n):
        y = np.arange(n * k) % k
        return ik.cdnv(means[y] + 0.5 * rng.standard_normal((n * k, d)), y)

    assert at(10_000) == pytest.approx(truth, rel=0.02)
    small = np.mean([at(5) for _ in range(200)])
    want = np.mean([0.25 * d * (4 / 5) / (p + 2 * 0.25 * d / 5) for p in pairs])  # to first order
    assert small == pytest.approx(want, rel=0.08) and small < 0.9 * truth
