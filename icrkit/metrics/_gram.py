"""Gram matrix of the rows of a cube: ICR where there are more features than rows, at tau > 0.

With d features and N images of V views, d > N V (feature maps flattened, say), the d x d scatters of `Moments` are the
large way round. All that ICR, the traces and the eigenvalues need is in the inner products of the N V rows: the inverse
of the regularised residual covariance follows from them by Woodbury's identity.
Source: Woodbury 1950, "Inverting modified matrices"; the quantities are those of :func:`icrkit.icr`.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, eigh, lapack

from icrkit._arrays import to_numpy
from icrkit._features import Features, as_features
from icrkit._repeats import RepeatTracker
from icrkit._variation import variation_of
from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NonFiniteError, NotEnoughDataError
from icrkit.linalg import SpdFactor, symmetric_from_lower
from icrkit.metrics._crossfit import Crossfit, FoldTraces
from icrkit.metrics._decomposition import (
    Matrix,
    Traces,
    check_regularization,
    held_out_folds,
    refuse_no_residual,
    resolve_centering,
    too_few,
)
from icrkit.moments import MAX_ERROR, UNIT_ROUNDOFF, Moments, fold_of_images, helmert

__all__ = ["Gram", "GramResidual", "fisher_eigenvalues", "gram_crossfit", "gram_matrix", "held_out_gram_snr"]

Images = NDArray[np.int64]
_Degenerate = tuple[NDArray[np.bool_], NDArray[np.bool_]]

_CHUNK_BYTES = 32 << 20  # of rows prepared at a time...
_CHUNK_LEAST = 1024  # ... and as many features as keep BLAS, rather than the adding up, at work
_CHUNKS_A_READ = 8  # of a file, which may read whole rows whatever is asked of them: the fewer reads the better
_PRODUCT_ERROR = 4.0  # units of roundoff in a product of two rows, relative to their lengths
_PANEL = 512  # rows of the Gram matrix that are added to at a time


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Gram:
    """Inner products of the rows of N images under V views: what `Moments` are, where features outnumber rows.

    Parameters
    ----------
    matrix : ndarray (N V + V - 1, N V + V - 1)
        Of the N image means, then the N rows of each of V - 1 orthonormal contrasts across views (Helmert), all with
        the mean over images removed; and last, the contrasts of the views' own means that were removed.
    n_images : ndarray of int, shape ()
        N.
    n_views, n_features : int
        V, and d: constant features count.
    folds : ndarray (N,) of int, optional
        Fold of each image, for cross-fitting.
    n_folds : int
        0 where there are none.
    views_ordered : bool
        Whether view v of one image has to do with view v of another.
    products : {"float64", "float32"}
        Precision in which the products were formed; the sums are float64 in any case.
    constant : ndarray of int
        Features that never vary.
    no_residual : ndarray of int
        Features that vary, but not between the views of an image.
    grouped : bool
        Whether images belong to groups, of which each fold has whole ones.

    Notes
    -----
    Memory is 8 (N V)^2 bytes. A Gram matrix does not add and subtract, as moments do: new images have products with
    all others.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=50, n_features=400, random_state=0)
    >>> ik.gram_matrix(cube)
    Gram(50 images, 2 views, 400 features, float64 products)
    """

    matrix: Matrix
    n_images: NDArray[np.int64]
    n_views: int
    n_features: int
    folds: Images | None
    n_folds: int
    views_ordered: bool
    products: str
    constant: Images
    no_residual: Images
    grouped: bool = False

    def __repr__(self) -> str:
        return (
            f"Gram({int(self.n_images)} images, {self.n_views} views, {self.n_features} features, "
            f"{self.products} products)"
        )

    def drop_constant(self) -> Gram:
        """The same without the features that never vary: they have no part in the products, and count in d alone."""
        return dataclasses.replace(self, n_features=self.n_features - len(self.constant), constant=self.constant[:0])

    @functools.cached_property
    def between(self) -> Matrix:
        """Inner products of the centred image means (N, N): trace and non-zero eigenvalues of the between scatter."""
        n = int(self.n_images)
        means: Matrix = self.matrix[:n, :n] - self.matrix[:n, :n].mean(axis=0)
        means -= means.mean(axis=1, keepdims=True)
        return means

    def traces(self, residual_centering: str = "view") -> Traces:
        """Tr Sigma_s, Tr Sigma_xi and Tr Sigma_h: see :func:`icrkit.traces`."""
        n, v = int(self.n_images), self.n_views
        blocks = _Blocks.of(self, residual_centering)
        residual = blocks.square("contrasts", np.arange(n)) / blocks.dof(n)
        invariant = float(np.trace(self.between)) / (n - 1) - residual / v
        return Traces(invariant, residual, invariant + residual)

    def usable_folds(self) -> list[Images]:
        """Images of each fold, joined where they are too few: as :meth:`icrkit.Moments.usable_folds` joins them.

        Raises
        ------
        NotEnoughDataError
            There are no folds, or fewer than two of two images.
        """
        if self.folds is None:
            raise NotEnoughDataError("cross-fitting needs folds: gram_matrix(X, n_folds=10)")
        # Moments of the indicators of the folds: those of a joined fold are not zero where it has a part.
        counts, f = np.bincount(self.folds, minlength=self.n_folds), self.n_folds
        zeros = np.zeros((f, f, f))
        indicators = Moments(counts, np.eye(f)[:, None], zeros, zeros, dims=("fold",))
        joined = held_out_folds(indicators, regularization=1.0)  # there is always some
        return [np.flatnonzero(indicator[self.folds] > 0) for indicator in joined.mean[:, 0]]


def gram_matrix(
    X: Any,
    *,
    n_folds: int = 10,
    dtype: str = "auto",
    random_state: int = 0,
    n_views: int | None = None,
    groups: Any = None,
    normalize: str | None = None,
    chunk: int | None = None,
) -> Gram:
    """Inner products of all rows of X, in one pass over its features.

    Parameters
    ----------
    X : Cube, DataArray, array or tensor (image, view, feature), or rows (row, feature)
        One layer at one level.
    n_folds : int
        Folds over images, for cross-fitting; 0 for none. The same as those of :meth:`icrkit.Moments.from_cube`.
    dtype : {"auto", "float32", "float64"}
        Precision of the products; "auto" is that of the features.
    random_state : int
        Seed of the fold hash.
    n_views, groups : int, array
        How rows belong to images, for 2-D input.
    normalize : {None, "l2"}
        Scale every feature vector to unit length first; takes a pass more.
    chunk : int, optional
        Features read at a time; as many as make 32 MB by default. The result does not depend on it.

    Returns
    -------
    Gram
        For :func:`icrkit.icr`, :func:`icrkit.traces` and :func:`icrkit.fisher_eigenvalues`.

    Raises
    ------
    NotEnoughDataError
        Fewer than two images or views.
    NonFiniteError
        NaN or infinity among the features, or squares that overflow.
    DegenerateFeaturesError
        Squares that underflow.

    Notes
    -----
    Cost: (N V)^2 d flops. Memory: 8 (N V)^2 bytes and a few chunks, whatever d is. In each chunk image means and
    contrasts across views are formed first, about the means over images, so that float32 products lose nothing to
    offsets, nor the residual to the signal.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=50, n_features=400, random_state=0)
    >>> gram = ik.gram_matrix(cube)
    >>> 0 < ik.icr(gram, "crossfit", regularization=0.1) < 1
    True
    """
    if dtype not in ("auto", "float32", "float64"):
        raise ValueError(f"dtype must be 'auto', 'float32' or 'float64', not {dtype!r}")
    features = as_features(X, n_views=n_views, groups=groups, normalize=normalize)
    products = str(features.dtype) if dtype == "auto" else dtype
    n, v, d = features.shape
    total = np.zeros((n * v + v - 1,) * 2)
    constant, no_residual = np.zeros(d, dtype=bool), np.zeros(d, dtype=bool)
    chunk = _chunk(features, products) if chunk is None else chunk
    repeats = RepeatTracker(n, d)
    for start, rows, scale, degenerate in _row_chunks(features, products, chunk, watch=repeats.add_features):
        here = slice(start, start + rows.shape[1])
        constant[here], no_residual[here] = degenerate
        _add_product(total, rows, rows, scale * scale, lower=True)
    _refuse_overflow(total.diagonal(), features)
    if total.diagonal().max() < 1e-290 and not constant.all():
        raise DegenerateFeaturesError(f"{features.name}: squares of the features underflow; scale them up")
    repeats.warn(features.image_ids, features.groups)
    return Gram(
        symmetric_from_lower(total, total),
        np.array(n),
        v,
        d,
        fold_of_images(features.units, n_folds, random_state) if n_folds else None,
        n_folds,
        features.views_ordered,
        products,
        np.flatnonzero(constant),
        np.flatnonzero(no_residual),
        features.groups is not None,
    )


# ---- rows, a chunk of features at a time ----------------------------------------------------------------------------


def _chunk(features: Features, products: str) -> int:
    n, v, _ = features.shape
    return max(_CHUNK_LEAST, _CHUNK_BYTES // (n * v * np.dtype(products).itemsize))


def _row_chunks(
    features: Features,
    products: str,
    chunk: int,
    dropped: Images | None = None,
    watch: Callable[[int, NDArray[np.floating]], None] | None = None,
) -> Iterator[tuple[int, NDArray[np.floating], float, _Degenerate]]:
    """(first feature, rows, scale, degenerate) over all features: `Gram` has the products of rows times scale.

    The columns of ``dropped`` features are zero. ``watch`` is shown each chunk as it was read.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")
    lengths = _lengths(features, chunk) if features.normalize == "l2" else None
    for start, block in _columns(features, chunk):
        if watch is not None:
            watch(start, block)
        rows, exponent, degenerate = _image_rows(block, lengths, products, features.views_ordered)
        _refuse_overflow(rows, features)
        if dropped is not None:
            rows[:, dropped[(dropped >= start) & (dropped < start + rows.shape[1])] - start] = 0.0
        yield start, rows, 2.0**exponent, degenerate


@np.errstate(invalid="ignore", over="ignore")  # NaN and infinity are looked for in what comes out
def _image_rows(
    block: NDArray[np.floating], lengths: NDArray[np.floating] | None, products: str, views_ordered: bool
) -> tuple[NDArray[np.floating], int, _Degenerate]:
    """Rows (N V + V - 1, d), scaled by a power of two so that float32 products stay in range, and its exponent."""
    n, v, d = block.shape
    if lengths is not None:
        block = block / lengths
    shift = block.mean(axis=0, dtype=np.float64).astype(block.dtype)
    shifted = np.subtract(block, shift, dtype=np.result_type(block.dtype, products))
    rows = np.empty((n * v + v - 1, d), shifted.dtype)
    np.einsum("nvd->nd", shifted, out=rows[:n])
    rows[:n] /= v
    contrasts = helmert(v)
    for c, contrast in enumerate(contrasts.astype(shifted.dtype), start=1):
        np.einsum("v,nvd->nd", contrast, shifted, out=rows[c * n : (c + 1) * n])
    rows[n * v :] = contrasts @ (shift - shift[0])
    degenerate = _degenerate(block, rows, views_ordered)
    peak = max(float(rows.max()), -float(rows.min()))
    exponent = int(np.frexp(peak)[1])
    np.ldexp(rows, -exponent, out=rows)
    return rows.astype(products, copy=False), exponent, degenerate


def _columns(features: Features, chunk: int) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """(first feature, block (n_images, n_views, chunk)) over all features, as they are stored."""
    step = chunk if isinstance(features.array, np.ndarray) else chunk * _CHUNKS_A_READ
    for start in range(0, features.shape[2], step):
        read = to_numpy(features.array[:, :, start : start + step], features.name).astype(features.dtype, copy=False)
        for first in range(0, read.shape[2], chunk):
            yield start + first, read[:, :, first : first + chunk]


def _lengths(features: Features, chunk: int) -> NDArray[np.floating]:
    """Length of each feature vector (n_images, n_views, 1); 1 for a zero vector, which stays zero."""
    squares = np.zeros(features.shape[:2])
    for _, block in _columns(features, chunk):
        squares += np.square(block, dtype=np.float64).sum(axis=2)
    zero = squares == 0
    if zero.any():
        warnings.warn(f"{features.name}: {int(zero.sum())} feature vectors are all zero and stay zero", stacklevel=2)
        squares[zero] = 1.0
    return np.asarray(np.sqrt(squares)[:, :, None].astype(features.dtype))


def _degenerate(block: NDArray[np.floating], rows: NDArray[np.floating], views_ordered: bool) -> _Degenerate:
    """Features (d,) of a chunk that never vary, and that vary without any residual: by the rule for moments.

    Decided from the features; of such ones the rows become exact zeros.
    """
    n, v, _ = block.shape
    found = variation_of(block)
    agree = (found["example"] == found["example"][:1]).all(axis=0)
    means, contrasts, offsets = np.split(rows, [n, n * v])
    means[:, ~found["varies"]] = 0.0
    contrasts[:, ~found["views_vary"]] = 0.0
    constant = ~found["varies"] & agree
    offsets[:, ~found["views_vary"] & agree] = 0.0
    between, within, offset = (
        np.einsum("nd,nd->d", part, part, dtype=np.float64) for part in (means, contrasts, offsets)
    )
    residual = within if views_ordered else within + n * offset
    return constant, ~constant & (residual <= 1e-17 * (between + residual))


def _add_product(
    total: Matrix, a: NDArray[np.floating], b: NDArray[np.floating], weight: float, *, lower: bool = False
) -> None:
    """total += weight a b^T (on the lower triangle and a little above it), summed in float64, in panels of rows."""
    for start in range(0, len(a), _PANEL):
        stop = min(start + _PANEL, len(a))
        width = stop if lower else len(b)
        product = (a[start:stop] @ b[:width].T).astype(np.float64, copy=False)
        product *= weight
        total[start:stop, :width] += product


def _refuse_overflow(values: NDArray[np.floating], features: Features) -> None:
    if not np.isfinite(values).all():
        features.raise_non_finite()
        raise NonFiniteError(f"{features.name}: all features are finite, but their squares overflow; scale them down")


# ---- products of some of the images ---------------------------------------------------------------------------------


class _Side(NamedTuple):
    """What the rows, or the columns, of a matrix of products stand for."""

    n_images: int
    n_views: int
    centred: bool  # whether views' own means are removed from the contrasts

    @classmethod
    def of(cls, source: Gram | Features, residual_centering: str) -> _Side:
        centred = resolve_centering(source, residual_centering) == "view"
        if isinstance(source, Gram):
            return cls(int(source.n_images), source.n_views, centred)
        return cls(*source.shape[:2], centred)


class _Blocks:
    """Inner products of image means and contrasts of any images with those of any others, each about its own mean."""

    def __init__(self, products: Matrix, rows: _Side, columns: _Side, precision: str) -> None:
        self.sides, self.precision = (rows, columns), precision
        for axis, side in enumerate(self.sides):
            products = _of_images(products, axis, side)
        self.products = products

    @classmethod
    def of(cls, gram: Gram, residual_centering: str) -> _Blocks:
        side = _Side.of(gram, residual_centering)
        return cls(gram.matrix, side, side, gram.products)

    def __call__(
        self, kind: str, images: Images, other_kind: str, other_images: Images, own_mean: bool = True
    ) -> Matrix:
        chosen = ((kind, images), (other_kind, other_images))
        index = []
        for side, (which, of_images) in zip(self.sides, chosen, strict=True):
            index.append((_first_rows(which, side)[:, None] + of_images).ravel())
        found: Matrix = self.products[np.ix_(*index)]
        split = found.reshape(-1, len(images), len(index[1]) // len(other_images), len(other_images))
        for axis, side, (which, _) in zip((1, 3), self.sides, chosen, strict=True):
            if (which == "means" or side.centred) and (axis == 3 or own_mean):
                split -= split.mean(axis=axis, keepdims=True)
        return found

    def square(self, kind: str, images: Images, own_mean: bool = True) -> float:
        """Sum of the squared lengths of the rows, about their own mean or that of all images."""
        side, total = self.sides[0], 0.0
        for first in _first_rows(kind, side):
            part = self.products[np.ix_(first + images, first + images)]
            size = float(np.trace(part))
            centred = own_mean and (kind == "means" or side.centred)
            left = size - (float(part.sum()) / len(images) if centred else 0.0)
            # Images that all have one contrast, or one mean, leave what rounding made of their products.
            total += left if left > _PRODUCT_ERROR * UNIT_ROUNDOFF[self.precision] * size else 0.0
        return total

    def dof(self, n_images: int) -> int:
        """Degrees of freedom m of the residual covariance of so many images."""
        return (n_images - self.sides[0].centred) * (self.sides[0].n_views - 1)


def _first_rows(kind: str, side: _Side) -> Images:
    """Where the rows of the means begin, or those of each contrast."""
    kinds = np.arange(1) if kind == "means" else np.arange(1, side.n_views)
    return kinds * side.n_images


def _of_images(products: Matrix, axis: int, side: _Side) -> Matrix:
    """Products of the N V rows of images alone; the views' own means are put back into contrasts that keep them."""
    n, v = side.n_images, side.n_views
    rows = np.moveaxis(products, axis, 0)
    kept = rows[: n * v]
    if not side.centred:
        kept = kept.copy()
        kept.reshape(v, n, -1)[1:] += rows[n * v :, None]
    return np.moveaxis(kept, 0, axis)


class GramResidual:
    """Regularised residual covariance of images, factored in the space of their contrasts.

    Parameters
    ----------
    gram : Gram
    regularization : float
        tau = regularization * Tr(Sigma_xi)/d is added to the diagonal; positive.
    residual_centering : {"view", "none"}
    images : ndarray of int, optional
        Some of the images; all by default.
    blocks : _Blocks, optional
        Of this Gram matrix and centring, where they have been made.

    Attributes
    ----------
    regularization, centering : float, str
        As given.
    dof : int
        m.
    tau : float
    condition_number : float
        Upper bound of that of Sigma_xi + tau I: its 1-norm in the space of the contrasts, over tau.
    error_bound : float
        Of the relative rounding error of the traces taken so far.

    Raises
    ------
    NotEnoughDataError
        No regularization.
    DegenerateFeaturesError
        No residual.
    IllConditionedError
        Not positive definite to working precision, or, of a trace, a bound on its error beyond what the precision of
        the products may cost (`MAX_ERROR`).

    Notes
    -----
    With E the contrasts, Sigma_xi = E^T E/m and P = (Sigma_xi + tau I)^-1, Woodbury's identity is
    tau P = I - E^T (E E^T + m tau I)^-1 E. So tau Y P Y^T = Y Y^T - Z Z^T for rows Y of any images, with
    Z = Y E^T L^-T and L the Cholesky factor of E E^T + m tau I, and tau Tr P = d - k + m tau Tr (E E^T + m tau I)^-1
    for k contrasts.

    What is left of |Y|^2 may be little. With Q = L^-T Z^T, it depends on the products to first order through
    |Y|^2 - 2 Tr(Q^T E Y^T) + Tr(Q^T E E^T Q), and a product is right to a few units of roundoff times the lengths of
    its two rows: hence the bound, which measured errors stay below (tested).
    """

    def __init__(
        self,
        gram: Gram,
        regularization: float,
        residual_centering: str = "view",
        images: Images | None = None,
        blocks: _Blocks | None = None,
    ) -> None:
        self.regularization, self.centering = regularization, residual_centering
        self.n_features, self.n_views, self.products = gram.n_features, gram.n_views, gram.products
        self.images = np.arange(int(gram.n_images)) if images is None else images
        self._blocks = _Blocks.of(gram, residual_centering) if blocks is None else blocks
        self.dof = self._blocks.dof(len(self.images))
        self.tau = _tau(gram, regularization, self._blocks, self.images)
        dual = self._blocks("contrasts", self.images, "contrasts", self.images)
        self._longest = float(dual.diagonal().max())
        dual[np.diag_indices_from(dual)] += self.tau * self.dof
        self.error_bound = 0.0
        self.condition_number = float(np.abs(dual).sum(axis=0).max()) / (self.tau * self.dof)
        try:
            self._factor = SpdFactor(dual.T, overwrite=True)
        except np.linalg.LinAlgError:
            raise IllConditionedError(self._too_little()) from None

    def trace(self, kind: str, images: Images, own_mean: bool = True) -> float:
        """Tr(P Y^T Y), Y the means or contrasts of any images, about their own mean or that of all images."""
        cross = self._blocks(kind, images, "contrasts", self.images, own_mean)
        return self.trace_of(self._blocks.square(kind, images, own_mean), cross)

    def trace_of(self, square: float, cross: Matrix) -> float:
        """Tr(P Y^T Y) of rows Y, given their summed squares and their products with the contrasts."""
        return self._left(square, self._factor.whiten(cross)) / self.tau

    def _left(self, square: float, white: Matrix) -> float:
        """tau Tr(P Y^T Y): what the contrasts do not explain of the squared lengths."""
        if square <= 0:
            return 0.0
        left = square - float(np.square(white).sum())
        fitted = blas.dtrsm(1.0, self._factor.lower, white.T, lower=1, trans_a=1)
        lengths = np.sqrt(square) + np.sqrt(self._longest) * float(np.linalg.norm(fitted))
        bound = _PRODUCT_ERROR * UNIT_ROUNDOFF[self.products] * float(lengths) ** 2 / left if left > 0 else np.inf
        if not bound <= MAX_ERROR[self.products]:
            raise IllConditionedError(self._too_little())
        self.error_bound = max(self.error_bound, bound)
        return left

    @functools.cached_property
    def damped(self) -> float:
        """tau Tr P: so many of the d directions are not the residual's, but tau's."""
        inverse = self._factor.inverse_lower()
        return self.n_features - len(inverse) + self.tau * self.dof * float(np.trace(inverse))

    def trace_powers(self, between: Matrix) -> tuple[float, float]:
        """Tr(P B) and Tr(P B P B), from the products of the image means over N - 1."""
        product = (between - self._white_means @ self._white_means.T / (len(between) - 1)) / self.tau
        return float(np.trace(product)), float(np.square(product).sum())

    @functools.cached_property
    def _white_means(self) -> Matrix:
        return self._factor.whiten(self._blocks("means", self.images, "contrasts", self.images))

    def mean_snr(self) -> float:
        """R of the images themselves, the plug-in: Tr(P Sigma_s)/d."""
        left = self._left(self._blocks.square("means", self.images), self._white_means)
        signal = left / self.tau / (len(self.images) - 1)
        return (signal - (self.n_features - self.damped) / self.n_views) / self.n_features

    def _too_little(self) -> str:
        return (
            f"regularization={self.regularization:g} is too little for {self.products} products: m = {self.dof} "
            f"residual degrees of freedom, d = {self.n_features} features. Take more"
            + (", or dtype='float64'." if self.products == "float32" else ".")
        )


def _tau(gram: Gram, regularization: float, blocks: _Blocks, images: Images) -> float:
    """regularization * Tr(Sigma_xi)/d, having refused what leaves no inverse."""
    m, d = blocks.dof(len(images)), gram.n_features
    check_regularization(regularization)
    if regularization == 0:
        if m <= d:
            raise NotEnoughDataError(too_few(m, d, gram.n_views))
        raise NotEnoughDataError(
            f"a Gram matrix needs regularization > 0. Without any, take Moments.from_cube(X): m = {m} residual degrees "
            f"of freedom are enough for d = {d} features."
        )
    if gram.no_residual.size:
        refuse_no_residual(gram.no_residual, d)
    square = blocks.square("contrasts", images)
    if not square > 0:
        refuse_no_residual(np.arange(d), d)
    return regularization * square / m / d


# ---- the quantities -------------------------------------------------------------------------------------------------


def gram_crossfit(gram: Gram, regularization: float, residual_centering: str = "view") -> Crossfit:
    """Mean SNR with the inverse residual covariance from the other folds: :func:`crossfit` from a Gram matrix.

    Notes
    -----
    Cost: about (1 + V) (N (V - 1))^3 flops a fold.
    """
    folds = gram.usable_folds()
    everyone, v, d = np.arange(int(gram.n_images)), gram.n_views, gram.n_features
    blocks = _Blocks.of(gram, residual_centering)
    _tau(gram, regularization, blocks, everyone)  # refuses what no fold can mend
    found = []
    for fold in folds:
        others = np.setdiff1d(everyone, fold)
        model = GramResidual(gram, regularization, residual_centering, others, blocks)
        # Of groups a fold has few: as `crossfit` takes them.
        size = len(fold) * (1 - 1 / len(everyone)) if gram.grouped else len(fold) - 1
        dof = size * (v - 1) if gram.grouped and blocks.dof(1) == 0 else blocks.dof(len(fold))
        found.append(
            FoldTraces(
                n_images=len(fold),
                between=model.trace("means", fold, not gram.grouped) / size,
                residual=model.trace("contrasts", fold, not gram.grouped) / dof,
                damped=model.damped,
                between_others=model.trace("means", others) / (len(others) - 1),
            )
        )
    whole = GramResidual(gram, regularization, residual_centering, blocks=blocks)
    powers = whole.trace_powers(gram.between / (len(everyone) - 1))
    return Crossfit.of(
        found, n_views=v, n_features=d, dof=whole.dof, damped=whole.damped, powers=powers, products=gram.products
    )


def held_out_gram_snr(
    model: GramResidual, fitted: Features, held_out: Features, products: str, dropped: Images | None = None
) -> float:
    """Mean SNR of other images under a fitted residual covariance: Tr(P Sigma_s)/Tr(P (Sigma_xi + tau I)).

    One pass over both sets of features, for the products between them.

    Parameters
    ----------
    model : GramResidual
        Of all images of ``fitted``.
    fitted, held_out : Features
    products : {"float32", "float64"}
    dropped : ndarray of int, optional
        Features left out.
    """
    rows, columns = _Side.of(held_out, model.centering), _Side.of(fitted, model.centering)
    n_rows, n_columns = (side.n_images * side.n_views + side.n_views - 1 for side in (rows, columns))
    own, cross = np.zeros((n_rows, n_rows)), np.zeros((n_rows, n_columns))
    chunk = min(_chunk(held_out, products), _chunk(fitted, products))
    chunks = (_row_chunks(features, products, chunk, dropped) for features in (held_out, fitted))
    for (_, a, scale, _), (_, b, other_scale, _) in zip(*chunks, strict=True):
        _add_product(own, a, a, scale * scale)
        _add_product(cross, a, b, scale * other_scale)
    for total, features in ((own, held_out), (cross, fitted)):
        _refuse_overflow(total, features)
    images, n, v = np.arange(rows.n_images), rows.n_images, rows.n_views
    own_blocks, cross_blocks = _Blocks(own, rows, rows, products), _Blocks(cross, rows, columns, products)
    if not own_blocks.square("contrasts", images) > 0:
        refuse_no_residual(np.arange(model.n_features), model.n_features, "the held-out images")
    between, residual = (
        model.trace_of(own_blocks.square(kind, images), cross_blocks(kind, images, "contrasts", model.images))
        for kind in ("means", "contrasts")
    )
    residual /= own_blocks.dof(n)
    return (between / (n - 1) - residual / v) / (residual + model.damped)


def fisher_eigenvalues(gram: Gram, regularization: float, residual_centering: str = "view") -> NDArray[np.float64]:
    """Invariant signal-to-noise ratios lambda of all d directions, descending, from a Gram matrix.

    Parameters
    ----------
    gram : Gram
        Of :func:`icrkit.gram_matrix`.
    regularization : float
        tau as a share of Tr(Sigma_xi)/d; positive.
    residual_centering : {"view", "none"}

    Returns
    -------
    ndarray (d,)
        Zero for the directions outside the span of the rows, of which there are d - N V + 1 at least.

    Raises
    ------
    NotEnoughDataError, DegenerateFeaturesError
        As for :func:`icrkit.icr`.

    Notes
    -----
    Sigma_s v = lambda (Sigma_xi + tau I) v in coordinates of the span, of which a pivoted Cholesky factor of the Gram
    matrix is one set. They are the eigenvalues of :func:`icrkit.fisher_spectrum`, without directions. Cost: about
    6 (N V)^3 flops. Rotation, translation and scaling of the features change nothing.

    Examples
    --------
    >>> import icrkit as ik
    >>> gram = ik.gram_matrix(ik.datasets.make_cube(n_images=20, n_features=300, random_state=0))
    >>> values = ik.fisher_eigenvalues(gram, regularization=0.1)
    >>> values.shape, int((values > 0).sum()), int((values < 0).sum())
    ((300,), 19, 19)
    """
    blocks, everyone = _Blocks.of(gram, residual_centering), np.arange(int(gram.n_images))
    n, v, d = len(everyone), gram.n_views, gram.n_features
    tau = _tau(gram, regularization, blocks, everyone)
    cross = blocks("contrasts", everyone, "means", everyone)
    contrasts = blocks("contrasts", everyone, "contrasts", everyone)
    factor, pivots, rank, _ = lapack.dpstrf(np.block([[gram.between, cross.T], [cross, contrasts]]), lower=1)
    coordinates = np.empty((n * v, rank))
    coordinates[pivots - 1] = np.tril(factor)[:, :rank]
    between = coordinates[:n].T @ coordinates[:n] / (n - 1)
    residual = coordinates[n:].T @ coordinates[n:] / blocks.dof(n)
    invariant = between - residual / v
    residual[np.diag_indices_from(residual)] += tau
    values = eigh(invariant, residual, eigvals_only=True, check_finite=False)
    # Rounding may find a few directions more than there are features.
    values = values[np.argsort(-np.abs(values))[:d]]
    return np.sort(np.append(values, np.zeros(d - len(values))))[::-1]
