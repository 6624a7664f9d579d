"""Kernel distance against the definition in exact integers, and against three peers given the same draws."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import icrkit as ik
from icrkit.exceptions import CubeFormatError, NonFiniteError
from icrkit.metrics import _kernel_distance
from icrkit.metrics._kernel_distance import KernelDistance, kernel_distance

PROPERTY = settings(max_examples=30, derandomize=True)


def rows(n: int = 40, d: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * np.linspace(0.5, 1.5, d) + 0.3


def brute(x: np.ndarray, y: np.ndarray) -> float:
    """The definition in exact arithmetic, for integers."""
    n, d = x.shape

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a.astype(object) @ b.astype(object).T + d) ** 3  # times d^3

    within = sum(kernel(a, a).sum() - kernel(a, a).trace() for a in (x, y))
    return float((Fraction(int(within), n * (n - 1)) - Fraction(2 * int(kernel(x, y).sum()), n * n)) / d**3)


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_two_rows_by_hand():
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    within, across = (0 + 1) ** 3 + (6 + 1) ** 3, [1, 1, (2 + 1) ** 3, (3 + 1) ** 3]
    assert kernel_distance(x, y) == pytest.approx(within - 2 * np.mean(across), rel=1e-14)


# ---- independent code -----------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(2, 30),
    d=st.integers(1, 8),
    offset=st.sampled_from([0, 3, 10**4, -(10**6)]),
    seed=st.integers(0, 99),
)
def test_the_definition_at_any_offset(n, d, offset, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(-4, 5, (n, d)) + offset, rng.integers(-6, 7, (n, d)) + offset
    want = brute(x, y)
    # In units of the kernel's own variation, which is what the difference is taken of.
    unit = max(abs(want), (1.0 + offset**2) ** 2)
    assert kernel_distance(x, y) == pytest.approx(want, rel=1e-8, abs=1e-10 * unit)


def test_far_offsets_cost_few_digits():
    rng = np.random.default_rng(0)
    x, y = rng.integers(-4, 5, (50, 4)), rng.integers(-6, 9, (50, 4))
    for offset in (0, 100, 10**4):
        assert kernel_distance(x + offset, y + offset) == pytest.approx(brute(x + offset, y + offset), rel=1e-9)
        single = [(a + offset).astype(np.float32) for a in (x, y)]
        assert kernel_distance(*single) == pytest.approx(brute(x + offset, y + offset), rel=1e-5)


def test_torchmetrics(oracle):
    numbers, made = oracle("torchmetrics_fid")
    assert kernel_distance(made["x"], made["y"]) == pytest.approx(numbers["kid of the whole sets"], rel=1e-8)


def test_dgm_eval(oracle):
    numbers, made = oracle("dgm_eval_distances")
    est = KernelDistance(subset_size=100).fit(made["reference"])
    assert est.evaluate(made["x"]) == pytest.approx(numbers["KID of 100 subsets of 100"], rel=1e-8)
    deviation = numbers["its standard deviation over subsets"]
    assert est.standard_error_ == pytest.approx(deviation / 10, rel=1e-8)


def test_clean_fid(oracle):
    numbers, made = oracle("clean_fid_kid")
    value = kernel_distance(made["x"], made["reference"], subset_size=60)
    assert value == pytest.approx(numbers["KID of 100 subsets of 60"], rel=1e-8)


# ---- which rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [0, 2, "mean"])
def test_which_rows_stand_for_an_image(views):
    h, g = (np.random.default_rng(k).standard_normal((30, 3, 4)) + k / 4 for k in (0, 1))
    x, y = ({0: a[:, 0], 2: a[:, 2], "mean": a.mean(axis=1)}[views] for a in (h, g))
    want = kernel_distance(x, y)
    assert kernel_distance(h, g, views) == pytest.approx(want, rel=1e-12)
    assert KernelDistance(views=views).fit(g).evaluate(ik.from_arrays(h)) == pytest.approx(want, rel=1e-12)


def test_all_views_are_drawn_but_never_two_of_one_image():
    g = 10 * np.random.default_rng(1).standard_normal((20, 1, 4))
    one, many = np.repeat(g, 1, axis=1), np.repeat(g, 5, axis=1)
    other = rows(20, 4)
    # Copies of a view change nothing; pairs of them would.
    assert kernel_distance(many, other, "all", n_subsets=3) == pytest.approx(kernel_distance(one, other), rel=1e-12)
    different = g + np.arange(5)[:, None] * np.ones(4)
    values = [kernel_distance(different, other, "all", n_subsets=1, random_state=k) for k in range(3)]
    assert len(set(values)) == 3


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(order=st.permutations(range(30)), seed=st.integers(0, 99))
def test_rotation_and_order_do_not_matter_and_origin_and_scale_do(order, seed):
    x, y = rows(30), rows(30, seed=1) + 0.5
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((5, 5)))
    want = kernel_distance(x, y)
    assert kernel_distance(x[np.array(order)] @ q, y @ q, random_state=seed) == pytest.approx(want, rel=1e-10)
    assert kernel_distance(y, x) == pytest.approx(want, rel=1e-10)
    for changed in ((x + 1, y + 1), (2 * x, 2 * y), (x * [1, 1, 1, 1, 3], y * [1, 1, 1, 1, 3])):
        assert abs(kernel_distance(*changed) / want - 1) > 0.1


def test_another_order_draws_other_subsets():
    x, y = rows(60), rows(60, seed=1)
    values = [kernel_distance(a, b, subset_size=20) for a, b in ((x, y), (x[::-1], y), (x, y[::-1]))]
    assert len(set(values)) == 3
    est = KernelDistance(subset_size=20).fit(y)
    est.evaluate(x)
    assert values == pytest.approx([values[0]] * 3, abs=6 * est.standard_error_)
    # Where the draws are the same, a rotation of both sets is not seen.
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))
    assert kernel_distance(x @ q, y @ q, subset_size=20) == pytest.approx(values[0], rel=1e-9)


@pytest.mark.parametrize("n_entries", [1, 100, 1000])
def test_blocks_do_not_matter(monkeypatch, n_entries):
    x, y = rows(41), rows(47, seed=1)
    want = kernel_distance(x, y, n_subsets=4)
    monkeypatch.setattr(_kernel_distance, "_BLOCK_ENTRIES", n_entries)
    assert kernel_distance(x, y, n_subsets=4) == pytest.approx(want, rel=1e-11)


# ---- degenerate input -----------------------------------------------------------------------------------------------


def test_coincident_rows_are_at_no_distance():
    x = np.tile(rows(1), (10, 1))
    assert kernel_distance(x, x) == pytest.approx(0, abs=1e-20)


def test_errors_name_what_is_wrong():
    x, y = rows(30), rows(30, seed=1)
    with pytest.raises(CubeFormatError, match="sets of 5 and of 4 features"):
        kernel_distance(x, y[:, :4])
    with pytest.raises(ValueError, match="n_subsets must be at least 1, not 0"):
        kernel_distance(x, y, n_subsets=0)
    with pytest.raises(ValueError, match="subset_size must be at least 2, not 1"):
        kernel_distance(x, y, subset_size=1)
    with pytest.raises(ValueError, match="views=1"):
        kernel_distance(x, y, views=1)
    with pytest.raises(NonFiniteError, match="third powers overflow"):
        kernel_distance(1e120 * x, y)
    bad = x.copy()
    bad[3, 2] = np.nan
    with pytest.raises(NonFiniteError, match="image 3"):
        kernel_distance(y, bad)


# ---- the estimator --------------------------------------------------------------------------------------------------


def test_the_estimator_gives_the_functions_number():
    x, y = rows(60), rows(80, seed=1)
    est = KernelDistance(n_subsets=5, subset_size=20, random_state=3).fit(y)
    assert est.evaluate(x) == est.kernel_distance_ == kernel_distance(x, y, 0, 5, 20, 3) == -est.score(x)
    for other in (clone(est).fit(y), pickle.loads(pickle.dumps(est))):
        assert other.evaluate(x) == est.kernel_distance_ and other.standard_error_ == est.standard_error_
    whole = KernelDistance().fit(y[:60])
    whole.evaluate(x)
    assert whole.standard_error_ == 0


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_it_is_unbiased_and_its_error_that_of_the_draws():
    # E k(x, y) for Gaussians is a polynomial in the means: with N(0, 1) and N(a, 1) in one dimension,
    # E(xx' + 1)^3 = 4, E(yy' + 1)^3 = E[y^3]^2 + 3 E[y^2]^2 + 3 E[y]^2 + 1, and across 3 E[y^2] + 1.
    a = 0.5
    moments = a, a**2 + 1, a**3 + 3 * a
    truth = 4 + moments[2] ** 2 + 3 * moments[1] ** 2 + 3 * moments[0] ** 2 + 1 - 2 * (3 * moments[1] + 1)
    rng = np.random.default_rng(0)
    values = [
        kernel_distance(rng.standard_normal((50, 1)), rng.standard_normal((50, 1)) + a, random_state=k)
        for k in range(2000)
    ]
    assert np.mean(values) == pytest.approx(truth, abs=3 * np.std(values) / np.sqrt(2000))
    x, y = rows(200), rows(200, seed=1)
    ests = [KernelDistance(n_subsets=50, subset_size=20, random_state=k).fit(y) for k in range(40)]
    spread = np.std([est.evaluate(x) for est in ests], ddof=1)
    assert np.mean([est.standard_error_ for est in ests]) == pytest.approx(spread, rel=0.3)
