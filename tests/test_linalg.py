"""Factors, traces and eigenvalues of symmetric positive definite matrices, against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from icrkit.linalg import (
    SpdFactor,
    add_lower,
    eigenvalues,
    eigenvalues_with_outer,
    generalized_eigh,
    increasing_root,
    subtract_outer,
    symmetric_from_lower,
)

PROPERTY = settings(max_examples=40, derandomize=True)
SIZES = st.sampled_from([1, 2, 3, 17, 127, 128, 129, 200])


def spd(d: int, seed: int = 0, cond: float = 100.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((d, d)))
    matrix = (q * np.geomspace(1.0, cond, d)) @ q.T
    return (matrix + matrix.T) / 2


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_factor_of_a_known_matrix():
    factor = SpdFactor(np.array([[4.0, 2.0], [2.0, 5.0]]))
    np.testing.assert_allclose(factor.lower, [[2.0, 0.0], [1.0, 2.0]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(factor.whiten(np.array([[2.0, 5.0]])), [[1.0, 2.0]], atol=1e-15)
    # A^-1 = [[5, -2], [-2, 4]] / 16
    np.testing.assert_allclose(factor.inverse_lower(), np.array([[5.0, 0.0], [-2.0, 4.0]]) / 16, atol=1e-16)
    assert factor.traces(np.eye(2), np.array([[1.0, 3.0], [3.0, -2.0]])) == pytest.approx([9 / 16, -15 / 16], rel=1e-14)


def test_condition_number_of_a_known_matrix():
    matrix = np.array([[1.0, 0.5], [0.5, 1.0]])  # 1-norm 1.5, of the inverse 2
    assert SpdFactor(matrix).correlation_condition(matrix) == pytest.approx(3.0, rel=1e-12)
    assert SpdFactor(np.diag([1e-9, 1e9])).correlation_condition(np.diag([1e-9, 1e9])) == pytest.approx(1.0, rel=1e-12)


def test_generalized_eigenvalues_of_a_known_pair():
    values, vectors = generalized_eigh(np.diag([2.0, 9.0, -1.0]), np.diag([4.0, 1.0, 1.0]))
    np.testing.assert_allclose(values, [9.0, 0.5, -1.0], rtol=1e-14)
    np.testing.assert_allclose(vectors, [[0.0, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], atol=1e-14)


# ---- against numpy and scipy ----------------------------------------------------------------------------------------


@PROPERTY
@given(d=SIZES, seed=st.integers(0, 99))
def test_factor_equals_numpy(d, seed):
    matrix = spd(d, seed)
    rows = np.random.default_rng(seed).standard_normal((5, d))
    other = spd(d, seed + 1) - spd(d, seed + 2)
    factor = SpdFactor(matrix)
    lower = np.linalg.cholesky(matrix)
    np.testing.assert_allclose(factor.lower, lower, atol=1e-11)
    np.testing.assert_allclose(factor.whiten(rows), np.linalg.solve(lower, rows.T).T, atol=1e-10)
    for given_order in (other, np.asfortranarray(other)):
        np.testing.assert_allclose(
            factor.traces(given_order, matrix), [np.trace(np.linalg.inv(matrix) @ other), d], rtol=1e-9, atol=1e-9
        )
        product = np.linalg.solve(matrix, other)
        want = [np.trace(product), np.trace(product @ product)]
        single = SpdFactor(matrix.astype(np.float32))
        for one, rtol in ((factor, 1e-9), (single, 1e-4)):
            np.testing.assert_allclose(one.trace_powers(given_order), want, rtol=rtol, atol=rtol * d)
        congruent = factor.congruent(given_order)
        whole = np.tril(congruent) + np.tril(congruent, -1).T
        again = factor.congruent(given_order.copy(order="K"), overwrite=True)
        np.testing.assert_array_equal(np.tril(again), np.tril(congruent))
        np.testing.assert_array_equal(given_order, other)  # left as it was
        np.testing.assert_allclose(whole, np.linalg.solve(lower, np.linalg.solve(lower, other).T), atol=1e-9)


@PROPERTY
@given(d=SIZES, seed=st.integers(0, 99), deficient=st.booleans(), log_length=st.floats(-6, 6))
def test_both_sets_of_eigenvalues_equal_numpys(d, seed, deficient, log_length):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((max(d // 2, 1) if deficient else 2 * d, d))
    matrix, vector = rows.T @ rows, 10**log_length * rng.standard_normal(d)
    lower = np.tril(matrix) + np.triu(np.full((d, d), np.nan), 1)
    for v in (vector, np.eye(d)[0], -np.eye(d)[-1], np.zeros(d)):
        for order in "CF":
            given_order = np.array(lower, order=order)
            found, found_with = eigenvalues_with_outer(given_order, v)
            for values, want in (
                (found, np.linalg.eigvalsh(matrix)),
                (eigenvalues(given_order), np.linalg.eigvalsh(matrix)),
                (found_with, np.linalg.eigvalsh(matrix + np.outer(v, v))),
            ):
                np.testing.assert_allclose(values, want, rtol=0, atol=1e-14 * max(d, 8) * want[-1])
            np.testing.assert_array_equal(given_order, lower)


@PROPERTY
@given(d=st.integers(2, 40), seed=st.integers(0, 99), log_cond=st.floats(0, 8), spread=st.floats(0, 6))
def test_condition_number_is_near_the_exact_one_and_blind_to_units(d, seed, log_cond, spread):
    matrix = spd(d, seed, 10**log_cond)
    unit = 1 / np.sqrt(matrix.diagonal())
    exact = np.linalg.cond(matrix * unit[:, None] * unit, 1)
    found = SpdFactor(matrix).correlation_condition(matrix)
    # LAPACK's estimate is a lower bound, hardly ever off by more than 3.
    assert exact / 3 <= found <= exact * (1 + 1e-6)
    scale = np.geomspace(10**-spread, 10**spread, d)
    scaled = matrix * scale[:, None] * scale
    assert SpdFactor(scaled).correlation_condition(scaled) == pytest.approx(found, rel=1e-5)


@PROPERTY
@given(d=SIZES, seed=st.integers(0, 99), keep=st.integers(1, 200))
def test_generalized_eigh_equals_scipy(d, seed, keep):
    a, m = spd(d, seed) - 10 * np.eye(d), spd(d, seed + 1)
    values, vectors = generalized_eigh(a, m)
    np.testing.assert_allclose(values, scipy.linalg.eigh(a, m, eigvals_only=True)[::-1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(vectors.T @ m @ vectors, np.eye(d), atol=1e-9)
    np.testing.assert_allclose(a @ vectors, m @ vectors * values, atol=1e-8)
    largest = np.abs(vectors).argmax(axis=0)
    assert (vectors[largest, np.arange(d)] > 0).all()
    few, few_vectors = generalized_eigh(a, m, keep)
    assert few.shape == (min(keep, d),) and few_vectors.shape == (d, min(keep, d))
    np.testing.assert_allclose(few, values[:keep], rtol=1e-9, atol=1e-9)


# ---- triangles ------------------------------------------------------------------------------------------------------


@PROPERTY
@given(d=st.integers(1, 300), seed=st.integers(0, 99), order=st.sampled_from("CF"), wide=st.booleans())
def test_symmetric_from_lower(d, seed, order, wide):
    dtype = np.float32 if wide else np.float64
    lower = np.asarray(np.random.default_rng(seed).standard_normal((d, d)), dtype=dtype, order=order)
    want = (np.tril(lower) + np.tril(lower, -1).T).astype(np.float64)
    out = np.empty((d, d)) if wide else lower  # widened into another array, or in place
    assert symmetric_from_lower(lower, out) is out
    np.testing.assert_array_equal(out, want)


@PROPERTY
@given(d=st.integers(1, 300), seed=st.integers(0, 99), dtype=st.sampled_from(["float32", "float64"]))
def test_add_lower_adds_the_lower_triangle_in_float64(d, seed, dtype):
    rng = np.random.default_rng(seed)
    total, part = rng.standard_normal((d, d)), rng.standard_normal((d, d)).astype(dtype)
    want = np.tril(total + part.astype(np.float64))
    add_lower(total, part)
    np.testing.assert_array_equal(np.tril(total), want)


@PROPERTY
@given(d=st.integers(1, 150), k=st.integers(1, 4), seed=st.integers(0, 99), weight=st.floats(-10, 10))
def test_subtract_outer_works_in_place_on_the_lower_triangle(d, k, seed, weight):
    rng = np.random.default_rng(seed)
    matrix, vectors = np.asfortranarray(spd(d, seed)), rng.standard_normal((k, d))
    upper = np.triu(matrix, 1).copy()
    want = np.tril(matrix - weight * vectors.T @ vectors)
    result = subtract_outer(matrix, vectors, weight)
    assert np.shares_memory(result, matrix)
    np.testing.assert_allclose(np.tril(result), want, atol=1e-10)
    np.testing.assert_array_equal(np.triu(result, 1), upper)


# ---- invariance -----------------------------------------------------------------------------------------------------


def test_only_the_lower_triangle_is_read():
    matrix = spd(6)
    spoiled = np.tril(matrix) + np.triu(np.full((6, 6), np.nan), 1)
    np.testing.assert_array_equal(SpdFactor(spoiled).lower, SpdFactor(matrix).lower)


def test_the_matrix_is_left_as_it_was_unless_overwritten():
    for order in "CF":
        matrix = np.asarray(spd(20), order=order)
        kept = matrix.copy()
        factor = SpdFactor(matrix)
        factor.traces(kept, consume=True)
        np.testing.assert_array_equal(matrix, kept)
    matrix = np.asfortranarray(spd(20))
    lower = SpdFactor(matrix, overwrite=True).lower
    assert np.shares_memory(lower, matrix)
    np.testing.assert_allclose(lower, np.linalg.cholesky(spd(20)), atol=1e-12)


def test_a_float32_factor_is_right_to_its_own_precision():
    matrix, other = spd(50, cond=10.0), spd(50, 1)
    factor = SpdFactor(matrix.astype(np.float32))
    assert factor.lower.dtype == np.float32
    (found,) = factor.traces(other)
    assert found == pytest.approx(np.trace(np.linalg.solve(matrix, other)), rel=6e-8 * 10 * 10)


# ---- degenerate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("diagonal", "order"), [([1.0, 1.0, -1.0, 1.0], 3), ([0.0, 1.0], 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_not_positive_definite_names_the_leading_minor(diagonal, order, dtype):
    with pytest.raises(np.linalg.LinAlgError, match=f"order {order} is not positive definite"):
        SpdFactor(np.diag(diagonal).astype(dtype))


def test_a_consumed_factor_says_so():
    factor = SpdFactor(spd(4))
    inverse = factor.inverse_lower(consume=True)
    np.testing.assert_allclose(inverse, np.tril(np.linalg.inv(spd(4))), atol=1e-13)
    with pytest.raises(RuntimeError, match="consumed"):
        _ = factor.lower
    assert factor.traces(spd(4)) == pytest.approx([4.0], rel=1e-12)


@settings(max_examples=50)
@given(root=st.floats(-1, 2), noise=st.sampled_from([0.0, 1e-16, -1e-16]))
def test_an_increasing_root_is_found_or_the_nearest_bound(root, noise):
    found = increasing_root(lambda x: x**3 - root**3 + noise, 0.0, 1.0)
    assert found == pytest.approx(min(max(root, 0.0), 1.0), abs=1e-5)


def test_a_root_at_a_bound_does_not_hang_on_rounding():
    calls = iter([-1e-17, 1.0])
    # Another sign at the second evaluation of the same point, as another path of the same sum may give.
    assert increasing_root(lambda x: next(calls, 1e-17 if x == 0 else x), 0.0, 1.0) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("rounding", [-1e-15, 0.0, 1e-15])
def test_the_sign_of_a_vector_does_not_hang_on_a_tie(rounding):
    matrix = np.array([[2.0, -1.0 + rounding], [-1.0 + rounding, 2.0 + rounding]])
    _, vectors = generalized_eigh(matrix, np.eye(2))
    np.testing.assert_allclose(vectors[:, 0], np.array([1, -1]) / np.sqrt(2), atol=1e-10)
