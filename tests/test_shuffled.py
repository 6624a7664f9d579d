"""Rows that look shuffled, or of which some were left out: what is noticed, and what is not accused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.model_selection import KFold

import icrkit as ik
from icrkit._shuffled import agreement_across


def called_shuffled(rows: np.ndarray, n_views: int = 2) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ik.Moments.from_cube(rows, n_views=n_views, n_folds=0)
    return any("were they shuffled?" in str(w.message) for w in caught)


@pytest.mark.parametrize(("n", "d", "v"), [(200, 4, 2), (200, 16, 2), (200, 64, 2), (200, 4, 4), (1000, 4, 2)])
@pytest.mark.parametrize("residual", ["gaussian", "heavy"])
def test_shuffled_rows_are_noticed_and_ordered_ones_are_not_accused(n, d, v, residual):
    shuffled, weak = 0, 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        clear, faint = (
            ik.datasets.make_cube(n, d, n_views=v, icr=icr, residual=residual, random_state=seed).level().values
            for icr in (0.5, 0.8)
        )
        assert not called_shuffled(clear.reshape(-1, d), v)
        weak += called_shuffled(faint.reshape(-1, d), v)
        shuffled += called_shuffled(rng.permutation(clear.reshape(-1, d)), v)
    assert shuffled >= 85  # 93 on average, and under 85 once in 500
    assert weak <= 2  # 0.8 at most on average


def test_few_rows_are_never_called_shuffled():
    for seed in range(50):
        assert not called_shuffled(np.random.default_rng(seed).standard_normal((100, 4)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows * np.geomspace(1e-8, 1e8, 8) + 1e4,
        lambda rows: rows @ np.diag([1e3, 1, 1, 1, 1, 1, 1, 1]),  # one loud direction
        lambda rows: rows[:, [0, 0, 1, 2, 3, 4, 5, 6]],  # linearly dependent
        lambda rows: np.where(np.arange(8) == 3, 0.1, rows),  # a dead unit
        lambda rows: rows.astype(np.float32),
    ],
    ids=["scales", "loud", "dependent", "constant", "float32"],
)
def test_what_a_shuffle_looks_like_does_not_depend_on_the_features_themselves(spoil):
    noticed = 0
    for seed in range(30):
        rows = ik.datasets.make_cube(300, 8, icr=0.6, random_state=seed).level().values.reshape(-1, 8)
        assert not called_shuffled(spoil(rows))
        noticed += called_shuffled(np.random.default_rng(seed).permutation(spoil(rows)))
    assert noticed >= 24


def test_images_sorted_by_class_are_in_order():
    cube = ik.datasets.make_cube(600, 8, icr=0.5, n_classes=3, random_state=0)
    rows = cube.level().values.reshape(-1, 8)
    assert not called_shuffled(rows)
    assert called_shuffled(np.random.default_rng(0).permutation(rows))


def out_of_step(rows: np.ndarray, n_views: int = 2) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ik.Moments.from_cube(rows, n_views=n_views, n_folds=0)
    return any("Split images, not rows: pass X as (image, view, feature)" in str(w.message) for w in caught)


def left_of(rows: np.ndarray, seed: int, n_views: int = 2) -> np.ndarray:
    """Rows that KFold trains on, up to a multiple of the views."""
    train, _ = next(KFold(5, shuffle=True, random_state=seed).split(rows))
    return rows[train][: len(train) // n_views * n_views]


@pytest.mark.parametrize(("n", "d", "v"), [(400, 8, 2), (400, 64, 2), (1000, 4, 2), (200, 16, 4)])
@pytest.mark.parametrize("residual", ["gaussian", "heavy"])
def test_rows_of_which_some_are_left_out_are_noticed(n, d, v, residual):
    """Of pairs, four in ten are still right: too many to look shuffled."""
    noticed = 0
    for seed in range(40):
        cube = ik.datasets.make_cube(n, d, n_views=v, icr=0.5, residual=residual, random_state=seed)
        rows = cube.level().values.reshape(-1, d)
        assert not out_of_step(rows, v)
        noticed += out_of_step(left_of(rows, seed, v), v)
    assert noticed >= 30


@pytest.mark.parametrize("common", ["class", "time", "draws", "strength"])
def test_what_neighbouring_images_have_in_common_does_not_put_rows_out_of_step(common):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        signal, residual = rng.standard_normal((400, 1, 8)), rng.standard_normal((400, 2, 8))
        if common == "class":
            signal += 5 * rng.standard_normal((4, 1, 8))[np.arange(400) // 100]
        elif common == "time":
            signal = signal[0] + signal.cumsum(axis=0) / 5
        elif common == "draws":  # neighbours share the noise of equal views
            residual = np.repeat(residual[::2], 2, axis=0)
        else:  # the first view holds little of an image
            signal = signal.cumsum(axis=0) * np.array([0.2, 1.0])[:, None]
        assert not out_of_step((signal + residual).reshape(-1, 8))


@pytest.mark.parametrize("v", [2, 3])
def test_agreement_across_images_is_what_it_says(v):
    h = np.random.default_rng(0).standard_normal((20, v, 2)) + np.arange(v)[:, None]
    first, last = h[:, 0] - h[:, 0].mean(axis=0), h[:, -1] - h[:, -1].mean(axis=0)
    inverse = np.linalg.inv(first.T @ first + last.T @ last)
    excess = [
        last[i] @ inverse @ first[i + 1] - (first[i] @ inverse @ first[i + 1] + last[i] @ inverse @ last[i + 1]) / 2
        for i in range(19)
    ]
    assert agreement_across(h) == pytest.approx(sum(excess) / np.linalg.norm(excess), rel=1e-9)
    assert agreement_across(h @ np.array([[2.0, 1.0], [0.0, 3.0]]) + 7) == pytest.approx(agreement_across(h), rel=1e-6)
