"""The pass with numpy and BLAS: one symmetric rank-k update over the rows, and little else.

Each image's V views become one sum row and V - 1 contrast rows (Helmert, orthogonal), so that both scatters cost
N * V * d * (d + 1) flops together. Rows of one fold collect in a bin; a full bin is one BLAS call. What a bin holds
depends on the order of the images alone; how the file was cut into blocks enters through the provisional mean only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from icrkit._features import Features
from icrkit._variation import VariationTracker, stack_variations
from icrkit.linalg import add_lower, subtract_outer, symmetric_from_lower
from icrkit.moments import Moments, helmert

__all__ = ["accumulate"]

Matrix = NDArray[np.float64]

_BIN_ROWS = 1024  # rows a bin, over all views: enough for BLAS to run at full speed
# Float32 partial sums move to float64 after so many bins: each addition to them is rounded. Of 16,384 x 2 x 1,152
# float32 features 8 leave a relative 1.4e-7 of the scatters' diagonals, 32 leave 4e-7 and take as long.
_PROMOTE_EVERY = 8
# Rows whose products one call of BLAS adds up: its kernels add them one after another, and where many are equal,
# rounding goes to one side and grows with their number. 512 take 4 % less time, and leave seven times the error.
_SUM_ROWS = 32
_MOST_LOOKED_AT = 255  # images, for the value that a feature has in most
_CHUNK_BYTES = 256 << 10  # rows that are prepared at a time: a chunk and its results stay in the second-level cache


class _Workspace:
    """Buffers of rows, and partial scatters in the products' own precision: one for each bin that is open at a time."""

    def __init__(self, n_views: int, n_features: int, dtype: np.dtype[np.float32] | np.dtype[np.float64]) -> None:
        self.capacity = max(64, _BIN_ROWS // n_views)
        self.sum_rows = np.empty((self.capacity, n_features), dtype)
        self.contrast_rows = np.empty((n_views - 1, self.capacity, n_features), dtype)
        self.partial = [np.zeros((n_features, n_features), dtype, order="F") for _ in range(2)]


class _Bin:
    """Scatter of one fold: rows collect in buffers, BLAS adds them up, float64 keeps the sum."""

    def __init__(self, totals: tuple[Matrix, Matrix], n_views: int, space: _Workspace) -> None:
        self.totals = totals  # between, within: Fortran-ordered zeros at first, the lower triangle is summed
        self.n_images = 0
        self.filled = 0
        self.capacity = space.capacity
        self.sum_rows, self.contrast_rows, self.partial = space.sum_rows, space.contrast_rows, space.partial
        self.dtype = self.sum_rows.dtype
        self.sums = np.zeros((n_views, len(totals[0])))  # of the sum row, then of each contrast
        # Sum rows are V times the image mean; contrast rows are sqrt(2) times orthonormal ones. BLAS takes the factor.
        self.scales = (1.0 / n_views**2, 0.5)
        self.begun = [False, False]  # whether the partial scatters hold anything of this bin
        self.n_flushes = 0
        self.promoted = False
        self.finished = False
        self.tracker = VariationTracker(n_views, len(totals[0]))

    def add(self, block: NDArray[np.floating], index: NDArray[np.int64] | None, writer: _RowWriter) -> None:
        """Take in images of the block: all, or those at ``index``."""
        self.tracker.add(block, index)
        writer.write(block, index, self)

    def room(self) -> int:
        return self.capacity - self.filled

    def flush(self) -> None:
        """Add what the buffers hold to the partial sums."""
        n = self.filled
        if n == 0:
            return
        # Plain reductions: numpy and scipy bring a BLAS each, and calls that alternate between two pools of threads
        # wait for each other.
        self.sums[0] += self.sum_rows[:n].sum(axis=0)
        self._add(0, self.sum_rows[:n])
        for c, contrast in enumerate(self.contrast_rows):
            self.sums[1 + c] += contrast[:n].sum(axis=0)
        if n == self.capacity and len(self.contrast_rows):
            self._add(1, self.contrast_rows.reshape(-1, self.contrast_rows.shape[2]))
        else:
            for contrast in self.contrast_rows:
                self._add(1, contrast[:n])
        self.n_images += n
        self.filled = 0
        self.n_flushes += 1
        if self.dtype == np.float32 and self.n_flushes % _PROMOTE_EVERY == 0:
            self._promote()

    def _add(self, which: int, rows: NDArray[np.floating]) -> None:
        # rows.T is Fortran-ordered: BLAS reads the rows in place. beta = 1 adds to the sum there, 0 replaces it.
        update = blas.ssyrk if self.dtype == np.float32 else blas.dsyrk
        for start in range(0, len(rows), _SUM_ROWS):
            some, beta = rows[start : start + _SUM_ROWS], float(self.begun[which])
            update(self.scales[which], some.T, beta=beta, c=self.partial[which], lower=1, overwrite_c=1)
            self.begun[which] = True

    def _promote(self) -> None:
        for which, total in enumerate(self.totals):
            if self.begun[which]:
                add_lower(total, self.partial[which])
        self.begun = [False, False]
        self.promoted = True

    def finish(self) -> NDArray[np.float64]:
        """Centre both scatters, once, and return the mean row of each kind, (n_views, d); frees the workspace."""
        if self.finished:
            return self.sums / max(self.n_images, 1)
        self.finished = True
        self.flush()
        if self.promoted:
            self._promote()
        mean = self.sums / max(self.n_images, 1)
        for which, rows in enumerate((mean[:1], mean[1:])[: len(mean)]):  # one view has no contrasts
            # What never left the products' own precision is centred there, and widened and mirrored in one go.
            total = self.totals[which]
            lower = self.partial[which] if self.begun[which] else total
            symmetric_from_lower(subtract_outer(lower, rows, self.scales[which] * self.n_images), total)
        return mean


@np.errstate(invalid="ignore", over="ignore")  # NaN and infinity are looked for once, in the sums
def accumulate(features: Features, folds: NDArray[np.int64] | None, n_folds: int, products: str = "float64") -> Moments:
    """One pass over ``features``; see :class:`icrkit.Moments` for what comes out.

    Parameters
    ----------
    features : Features
    folds : ndarray (n_images,) of int, optional
        Fold of each image; None for moments without folds.
    n_folds : int
    products : {"float32", "float64"}

    Raises
    ------
    NonFiniteError
        With image, view and feature of the first NaN or inf, and their count.
    """
    _, n_views, d = features.shape
    dtype = np.dtype(products)
    n_bins = n_folds if folds is not None else 1
    between, within = np.zeros((n_bins, d, d)), np.zeros((n_bins, d, d))
    # Symmetric matrices: the transposed view is the order in which BLAS writes.
    totals = [(between[k].T, within[k].T) for k in range(n_bins)]
    writer = _RowWriter(n_views, d, dtype)
    if folds is not None and features.in_memory:
        # Any image can be had at any time: fold after fold, in one workspace that stays in the cache.
        space = _Workspace(n_views, d, dtype)
        bins = [_Bin(total, n_views, space) for total in totals]
        writer.set_shift(next(features.blocks())[1])
        for k, target in enumerate(bins):
            target.add(features.read(), np.flatnonzero(folds == k), writer)
            target.finish()
        return _collect(features, bins, between, within, writer, folded=True)
    bins = [_Bin(total, n_views, _Workspace(n_views, d, dtype)) for total in totals]
    for start, block in features.blocks():
        if start == 0:
            writer.set_shift(block)
        if folds is None:
            bins[0].add(block, None, writer)
            continue
        block_folds = folds[start : start + len(block)]
        order = np.argsort(block_folds, kind="stable")
        bounds = np.searchsorted(block_folds[order], np.arange(n_folds + 1))
        for k, target in enumerate(bins):
            target.add(block, order[bounds[k] : bounds[k + 1]], writer)
    return _collect(features, bins, between, within, writer, folded=folds is not None)


class _RowWriter:
    """Turns images into sum and contrast rows, shifted by a provisional mean, a cache-sized chunk at a time."""

    def __init__(self, n_views: int, n_features: int, dtype: np.dtype[np.float32] | np.dtype[np.float64]) -> None:
        self.shift = np.zeros((n_views, n_features))
        # That of the first view, and the steps from it to the others, in the features' own type.
        self.origin: NDArray[np.floating] = np.zeros(n_features)
        self.steps: NDArray[np.floating] = np.zeros((n_views, n_features))
        self.dtype = dtype
        self.chunk = max(1, _CHUNK_BYTES // (n_features * dtype.itemsize))
        self._view = np.empty((self.chunk, n_features), dtype)
        self._sum = np.empty((self.chunk, n_features), dtype)

    def set_shift(self, block: NDArray[np.floating]) -> None:
        """Per-view means of the first block, exactly representable in the features' own type.

        Subtracting them first keeps float32 products exact to their own rounding at any offset. A feature that has one
        value in most rows of every view, as rectified ones have 0, is shifted by that: what is equal comes out as exact
        zeros, whose sums have no rounding. A feature that is constant in the block is shifted by its value, so that one
        that stays constant comes out as zeros too.
        """
        mean = block.mean(axis=0, dtype=np.float64)
        some = block[:: -(-len(block) // _MOST_LOOKED_AT)]
        half = (len(some) - 1) // 2
        usual = np.partition(some[:, 0], half, axis=0)[half]
        often = (some == usual).mean(axis=0).min(axis=0) > 0.5
        constant = (block == block[:1]).all(axis=0)
        shift = np.where(constant, block[0], np.where(often, usual, mean)).astype(block.dtype)
        self.origin, self.steps = shift[0], shift - shift[:1]
        self.shift = shift[:1].astype(np.float64) + self.steps

    def write(self, block: NDArray[np.floating], index: NDArray[np.int64] | None, target: _Bin) -> None:
        """Append images of the block (all, or those at ``index``) to the bin, flushing it whenever it is full."""
        done, n = 0, len(block) if index is None else len(index)
        while done < n:
            k = min(n - done, self.chunk, target.room())
            images = slice(done, done + k) if index is None else index[done : done + k]
            self._write_chunk(block, images, k, target)
            target.filled += k
            done += k
            if not target.room():
                target.flush()

    def _write_chunk(
        self, block: NDArray[np.floating], images: slice | NDArray[np.int64], k: int, target: _Bin
    ) -> None:
        here = slice(target.filled, target.filled + k)
        running, view, sums = self._sum[:k], self._view[:k], target.sum_rows[here]
        # Differences are taken in the wider of the two types: in float64 they lose nothing of float32 features.
        exact: dict[str, Any] = {"casting": "same_kind", "dtype": np.result_type(block.dtype, self.dtype)}
        first, n_views = block[images, 0], block.shape[1]
        np.subtract(first, self.origin, out=sums, **exact)
        sums *= n_views
        for c in range(1, n_views):
            # Views as differences from the first, which are as small as the residual: of two deviations from a mean,
            # each rounded, little of a small difference is left.
            np.subtract(block[images, c], first, out=view, **exact)
            view -= self.steps[c]
            contrast = target.contrast_rows[c - 1, here]
            # Unscaled Helmert row: (sum of the views before) - c * view c. The scale enters once, at the end, for
            # two views; for more it is needed here, as each contrast has its own.
            np.multiply(view, -c, out=contrast)
            if c > 1:
                contrast += running
                contrast *= np.sqrt(2.0 / (c * (c + 1.0)))
                running += view
            else:
                running[:] = view
        if n_views > 1:
            sums += running


def _collect(
    features: Features, bins: list[_Bin], between: Matrix, within: Matrix, writer: _RowWriter, *, folded: bool
) -> Moments:
    _, n_views, d = features.shape
    lead = (len(bins),) if folded else ()
    n_images = np.zeros(len(bins), dtype=np.int64)
    mean = np.zeros((len(bins), n_views, d))
    removed = np.zeros((2, d))
    # Views from contrasts: h = 1 sum/V + H^T contrasts, H orthonormal; stored contrasts are sqrt(2) times those.
    to_views = np.concatenate([np.full((n_views, 1), 1.0 / n_views), helmert(n_views).T / np.sqrt(2.0)], axis=1)
    for k, one in enumerate(bins):
        rows = one.finish()
        n_images[k] = one.n_images
        if not np.isfinite(rows).all():
            features.raise_non_finite()
        mean[k] = to_views @ rows + (writer.shift if one.n_images else 0.0)
        # What centring took away, on the diagonals.
        squares = one.n_images * np.square(rows)
        removed += np.stack([one.scales[0] * squares[0], one.scales[1] * squares[1:].sum(axis=0)])
    products = str(bins[0].dtype)
    made = Moments.unchecked(
        n_images=n_images.reshape(lead),
        mean=mean.reshape(*lead, n_views, d),
        between=between.reshape(*lead, d, d),
        within=within.reshape(*lead, d, d),
        dims=("fold",) if folded else (),
        coords={},
        views_ordered=features.views_ordered,
        products=products,
        variation=stack_variations([one.tracker.found for one in bins]) if folded else bins[0].tracker.found,
        sample={},
        grouped=features.groups is not None,
    ).settled()
    # Of what does not vary nothing was kept, and nothing was lost.
    kept = np.stack([matrix.diagonal(axis1=1, axis2=2).sum(axis=0) for matrix in (between, within)])
    # Where a scatter is down to rounding the metrics refuse the feature, or read the other scatter.
    magnified = np.divide(removed, kept, out=np.zeros_like(kept), where=kept > 1e-17 * kept.sum(axis=0))
    return made.replace_unchecked(cancellation=1.0 + float(magnified.max()))
