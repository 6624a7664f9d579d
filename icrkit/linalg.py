"""Symmetric positive definite matrices: factor once, then whiten, trace, or ask how singular; roots of functions.

Nothing here knows about images or views. LAPACK is called by name where that saves a copy or half the work;
the lower triangle is the one that counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, eigh, lapack
from scipy.optimize import brentq

__all__ = [
    "SpdFactor",
    "add_lower",
    "eigenvalues",
    "eigenvalues_with_outer",
    "generalized_eigh",
    "increasing_root",
    "oriented",
    "subtract_outer",
    "symmetric_from_lower",
]

Matrix = NDArray[np.float64]

_PANEL = 128


class SpdFactor:
    """Cholesky factor of a symmetric positive definite matrix A = L L^T.

    Parameters
    ----------
    matrix : ndarray (d, d), float64 or float32
        Only its lower triangle is read. The factor has its precision; traces are summed in float64 in any case.
    overwrite : bool
        Let LAPACK work in ``matrix`` itself (Fortran order, or it is copied all the same).

    Raises
    ------
    numpy.linalg.LinAlgError
        The matrix is not positive definite; the message gives the order of the leading minor that fails.
    """

    def __init__(self, matrix: NDArray[np.floating], *, overwrite: bool = False) -> None:
        potrf = lapack.spotrf if matrix.dtype == np.float32 else lapack.dpotrf
        lower, info = potrf(matrix, lower=1, clean=1, overwrite_a=int(overwrite))
        if info != 0:
            raise np.linalg.LinAlgError(f"the leading minor of order {info} is not positive definite")
        self._lower: Matrix | None = lower
        self._inverse: NDArray[np.floating] | None = None

    @property
    def lower(self) -> Matrix:
        """L, lower triangular (d, d)."""
        if self._lower is None:
            raise RuntimeError("the factor was consumed by inverse_lower(consume=True)")
        return self._lower

    def whiten(self, rows: NDArray[np.floating]) -> Matrix:
        """L^-1 applied to each row: rows with covariance A come out with covariance I. Shape (n, d)."""
        return np.asarray(blas.dtrsm(1.0, self.lower, np.asarray(rows, dtype=np.float64).T, lower=1)).T

    def inverse_lower(self, *, consume: bool = False) -> NDArray[np.floating]:
        """Lower triangle of A^-1, zeros above; ``consume`` gives up L for it and saves a copy."""
        if self._inverse is None:
            potri = lapack.spotri if self.lower.dtype == np.float32 else lapack.dpotri
            self._inverse, _ = potri(self.lower, lower=1, overwrite_c=int(consume))
            if consume:
                self._lower = None
        return self._inverse

    def traces(self, *others: Matrix, consume: bool = False) -> list[float]:
        """Tr(A^-1 B) for each symmetric B.

        Notes
        -----
        A^-1 costs d^3 flops once (potrf and potri), each trace d^2. Two triangular solves an argument would cost
        2 d^3 each.
        """
        inverse = self.inverse_lower(consume=consume)
        # The transpose of a symmetric matrix in C order is the same matrix in the order of the inverse.
        aligned = [other if other.flags.f_contiguous else other.T for other in others]
        results = np.zeros(len(others))
        for start in range(0, len(inverse), _PANEL):
            # Below the diagonal only, in panels that stay in cache; float32 inverses are widened there.
            panel = (slice(start, None), slice(start, start + _PANEL))
            part = inverse[panel].T.astype(np.float64, order="C", copy=False)
            results += [np.einsum("ij,ij->", part, other[panel].T) for other in aligned]
        # The inverse is zero above the diagonal, so each pair was counted once: double it, less the diagonal.
        diagonal = inverse.diagonal().astype(np.float64)
        return [2.0 * float(r) - float(diagonal @ other.diagonal()) for r, other in zip(results, others, strict=True)]

    def quadratic(self, rows: Matrix) -> float:
        """sum_j r_j^T A^-1 r_j over the rows (n, d), from the inverse: 2 n d^2 flops."""
        inverse = self.inverse_lower()
        symv = blas.ssymv if inverse.dtype == np.float32 else blas.dsymv
        return float(sum(row @ symv(1.0, inverse, row, lower=1).astype(np.float64) for row in rows))

    def congruent(self, matrix: NDArray[np.floating], *, overwrite: bool = False) -> NDArray[np.floating]:
        """Lower triangle of L^-1 B L^-T, which has the eigenvalues of A^-1 B, for a symmetric B (d^3 flops).

        In the precision of the factor; Fortran-ordered. What lies above the diagonal means nothing. ``overwrite`` lets
        LAPACK work in ``matrix`` itself where it has that precision.
        """
        sygst = lapack.ssygst if self.lower.dtype == np.float32 else lapack.dsygst
        # The transpose of a symmetric matrix in C order is the same matrix in LAPACK's: a copy, but no transposition.
        aligned = matrix if matrix.flags.f_contiguous else matrix.T
        take = np.asarray if overwrite else np.array
        work = take(aligned, dtype=self.lower.dtype, order="F")
        found, _ = sygst(work, self.lower, lower=1, overwrite_a=1)
        return np.asarray(found)

    def trace_powers(self, other: Matrix, *, overwrite: bool = False) -> tuple[float, float]:
        """Tr(A^-1 B) and Tr(A^-1 B A^-1 B) for a symmetric B (d^3 flops), in the precision of the factor."""
        lower = self.congruent(other, overwrite=overwrite)
        diagonal = lower.diagonal().astype(np.float64)
        squares = 0.0
        for start in range(0, len(lower), _PANEL):
            stop = start + _PANEL
            below, corner = lower[stop:, start:stop], np.tril(lower[start:stop, start:stop], -1)
            squares += float(np.einsum("ij,ij->", below, below, dtype=np.float64)) + float(np.square(corner).sum())
        return float(diagonal.sum()), 2.0 * squares + float(diagonal @ diagonal)

    def correlation_condition(self, matrix: Matrix) -> float:
        """Condition number (1-norm, estimated by LAPACK) of the factored ``matrix`` scaled to unit diagonal.

        Scaling makes the number blind to the units of the features, as ICR is.
        """
        return self.condition(matrix, 1.0 / np.sqrt(matrix.diagonal()))

    def condition(self, matrix: Matrix, scale: NDArray[np.float64]) -> float:
        """Condition number (1-norm, estimated by LAPACK) of D A D for the factored ``matrix`` A, D the diagonal (d,).

        The factor of D A D is D L: no second factorisation.
        """
        sums = np.concatenate([np.abs(matrix[k : k + _PANEL]) @ scale for k in range(0, len(matrix), _PANEL)])
        norm = float((scale * sums).max())
        lower = np.multiply(self.lower, scale[:, None], order="F")
        reciprocal, _ = lapack.dpocon(lower, norm, uplo="L")
        return float("inf") if reciprocal == 0 else 1.0 / float(reciprocal)


def generalized_eigh(
    matrix: Matrix, metric: Matrix, n_components: int | None = None
) -> tuple[NDArray[np.float64], Matrix]:
    """Solve A v = lambda M v, lambda descending, v orthonormal under M.

    Returns
    -------
    eigenvalues : ndarray (k,)
    vectors : ndarray (d, k)
        One a column; the sign is such that the entry of greatest magnitude is positive.
    """
    d = len(matrix)
    keep = None if n_components is None or n_components >= d else (d - n_components, d - 1)
    values, vectors = eigh(matrix, metric, subset_by_index=keep, check_finite=False)
    values, vectors = values[::-1].copy(), np.ascontiguousarray(vectors[:, ::-1])
    return values, oriented(vectors)


def oriented(vectors: Matrix) -> Matrix:
    """Columns with a sign such that the entry of greatest magnitude is positive.

    The first of the entries that are as large but for rounding: two that tie must not decide by it.
    """
    sizes = np.abs(vectors)
    largest = (sizes >= (1 - 1e-6) * sizes.max(axis=0)).argmax(axis=0)
    return np.asarray(vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0))


def eigenvalues(matrix: NDArray[np.floating], *, overwrite: bool = False) -> NDArray[np.float64]:
    """Eigenvalues of a symmetric matrix, of which only the lower triangle is read, ascending.

    Parameters
    ----------
    matrix : ndarray (d, d)
    overwrite : bool
        Let LAPACK work in ``matrix`` itself (Fortran order, or it is copied all the same).

    Returns
    -------
    ndarray (d,)
    """
    return _of_tridiagonal(*_tridiagonal(matrix, overwrite))


def eigenvalues_with_outer(
    matrix: Matrix, vector: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues of a symmetric matrix A and those of A + v v^T, both ascending, from one reduction.

    Parameters
    ----------
    matrix : ndarray (d, d)
        Only its lower triangle is read.
    vector : ndarray (d,)
        v.

    Returns
    -------
    ndarray (d,), ndarray (d,)
        The second is infinite where |v|^2 overflows.

    Notes
    -----
    A reflection turns v into |v| e_1. Householder's reduction to tridiagonal form leaves e_1 where it is, so that the
    tridiagonal matrices of A and A + v v^T differ by |v|^2 in their first entry and in nothing else. 4/3 d^3 flops, and
    d^2 for either set of eigenvalues.

    References
    ----------
    Golub & Van Loan 2013, Matrix Computations, 4th ed., sections 5.1.3 and 8.3.1.
    """
    length = float(blas.dnrm2(vector))
    if not np.isfinite(length):
        return eigenvalues(matrix), np.full(len(matrix), np.inf)
    work = np.array(matrix, dtype=np.float64, order="F")
    if length > 0:
        mirror = vector / length
        mirror[0] += 1.0 if mirror[0] >= 0 else -1.0
        mirror /= blas.dnrm2(mirror)
        # (I - 2 u u^T) A (I - 2 u u^T) = A - u q^T - q u^T.
        turned = blas.dsymv(2.0, work, mirror, lower=1)
        turned -= float(mirror @ turned) * mirror
        work = blas.dsyr2(-1.0, mirror, turned, a=work, lower=1, overwrite_a=1)
    diagonal, beside = _tridiagonal(work, overwrite=True)
    shifted = diagonal.copy()
    shifted[0] += length * length
    found = _of_tridiagonal(diagonal, beside)
    return found, _of_tridiagonal(shifted, beside) if np.isfinite(shifted[0]) else np.full_like(found, np.inf)


def _tridiagonal(matrix: NDArray[np.floating], overwrite: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Diagonal (d,) and the one beside it (d - 1,) of an orthogonally similar matrix, e_1 kept."""
    work, _ = lapack.dsytrd_lwork(len(matrix), lower=1)
    _, diagonal, beside, _, _ = lapack.dsytrd(matrix, lower=1, lwork=int(work), overwrite_a=int(overwrite))
    return diagonal, beside


def _of_tridiagonal(diagonal: NDArray[np.float64], beside: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(diagonal) == 1:  # scipy's wrapper takes none without a neighbour
        return diagonal
    values, info = lapack.dsterf(diagonal, beside)
    if info != 0:
        raise np.linalg.LinAlgError(f"{info} eigenvalues did not converge")
    return np.asarray(values)


def symmetric_from_lower(lower: NDArray[np.floating], out: Matrix) -> Matrix:
    """Write the symmetric matrix that has this lower triangle into ``out``, which may be ``lower`` itself.

    In panels, so that what is read from memory once is written twice from the cache.
    """
    d = len(lower)
    for start in range(0, d, _PANEL):
        stop = min(start + _PANEL, d)
        below = lower[stop:, start:stop]
        if out is not lower:
            out[stop:, start:stop] = below
        out[start:stop, stop:] = below.T
        corner = np.tril(lower[start:stop, start:stop])
        out[start:stop, start:stop] = corner + np.tril(corner, -1).T
    return out


def add_lower(total: Matrix, part: NDArray[np.floating]) -> None:
    """total += part on the lower triangle (and a little above it), in panels."""
    for start in range(0, len(total), _PANEL):
        panel = (slice(start, None), slice(start, start + _PANEL))
        total[panel] += part[panel]


def subtract_outer(matrix: NDArray[np.floating], vectors: NDArray[np.float64], weight: float) -> NDArray[np.floating]:
    """matrix - weight * sum_j v_j v_j^T, on the lower triangle of a Fortran-ordered matrix, in place."""
    update = blas.ssyrk if matrix.dtype == np.float32 else blas.dsyrk
    return np.asarray(update(-weight, np.atleast_2d(vectors).T, beta=1.0, c=matrix, lower=1, overwrite_c=1))


def increasing_root(function: Callable[[float], float], low: float, high: float, *, tolerance: float = 2e-12) -> float:
    """Root of an increasing function between two bounds; the bound that is nearest to it where it lies beyond.

    Whether a root that lies at a bound is bracketed hangs on rounding, and is of no importance.
    """
    ends = {low: function(low), high: function(high)}
    if ends[low] >= 0:
        return low
    if ends[high] <= 0:
        return high
    # The signs seen above hold: another evaluation may round otherwise.
    return float(brentq(lambda x: ends[x] if x in ends else function(x), low, high, xtol=tolerance))
