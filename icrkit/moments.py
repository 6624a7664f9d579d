"""Moments: all that a metric needs to know of a set of features, in a value that adds and subtracts.

The value and its algebra live here; the pass over the data lives in :mod:`icrkit.backends`.
Centred sums, never covariances: ddof, shrinkage and bias correction belong to the metric that reads them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from icrkit._features import as_features
from icrkit._image_sample import (
    ImageSample,
    hash_of_ids,
    merge_samples,
    no_images,
    remove_sample,
    stack_samples,
)
from icrkit._variation import Variation, merge, nothing_varies, reduce, stack_variations, variation_of
from icrkit.exceptions import CubeFormatError, NonFiniteError, NotEnoughDataError
from icrkit.linalg import SpdFactor

__all__ = ["Moments", "fold_of_images", "helmert"]

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}

# How large an error (unit roundoff times the condition number of the scaled residual covariance) the precision of the
# products may cost. Beyond the first, dtype="auto" reads the features again in float64; beyond the second, no digit of
# a result can be trusted.
MAX_ERROR = {"float32": 1e-4, "float64": 1e-3}

# Units of roundoff that sums of products cost: by themselves, and times the condition number, which is what errors of
# single entries of a scatter cost its inverse. The worst are features whose products are often equal (two-valued ones,
# coarse steps of float32 far from the origin): rounding goes to one side. A pass adds 32 products one after another;
# each addition is off by half a unit in the last place of the sum so far, which grows evenly: 32/2 units at most, if
# every sum had the worst last digits. Of 11,600 sets of such features, of condition 1 to 5,000, none needed more than
# .82 of this; features of many values need a tenth.
_OF_SUMS, _OF_CONDITION = 128.0, 5.0
_LOST = 1e3  # units of roundoff of the whole below which nothing is left of it by a subtraction


def helmert(n_views: int) -> NDArray[np.float64]:
    """Orthonormal contrasts across views, (n_views - 1, n_views): each row sums to zero.

    Row c compares view c + 1 with the mean of those before it.
    """
    rows = np.zeros((n_views - 1, n_views))
    for c in range(1, n_views):
        rows[c - 1, :c] = 1.0
        rows[c - 1, c] = -c
        rows[c - 1] /= np.sqrt(c * (c + 1.0))
    return rows


def fold_of_images(image_ids: NDArray[Any], n_folds: int, random_state: int = 0) -> NDArray[np.int64]:
    """Fold of each image: a seeded hash of its id, so that it depends on nothing else.

    Neither order nor block size nor the other images matter, and folder order (images sorted by class) does no harm.

    Parameters
    ----------
    image_ids : ndarray (n_images,)
        Integers or strings.
    n_folds : int
    random_state : int
        Seed of the hash.

    Returns
    -------
    ndarray (n_images,) of int64 in [0, n_folds)
    """
    keys = hash_of_ids(image_ids, random_state)
    return (keys % np.uint64(max(n_folds, 1))).astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Moments:
    """Count, per-view means and centred scatter of the features of N images under V views.

    Parameters
    ----------
    n_images : ndarray of int, shape (*lead,)
        N.
    mean : ndarray (*lead, n_views, n_features)
        Mean over images of each view.
    between : ndarray (*lead, n_features, n_features)
        sum_i (hbar_i - hbar)(hbar_i - hbar)^T, hbar_i the mean over the views of image i.
    within : ndarray (*lead, n_features, n_features)
        sum_iv (h_iv - hbar_i - mean_v + hbar)(...)^T: each view's own mean over images removed. What removing them took
        away is N sum_v (mean_v - hbar)(mean_v - hbar)^T, so that both centrings can be had (`within_uncentred`).
    dims : tuple of str
        Names of the leading axes: "sigma", "fold".
    coords : dict of str to ndarray
        Labels along leading axes, e.g. the noise levels.
    views_ordered : bool
        Whether view v of one image has to do with view v of another. Where not, only `within_uncentred` means
        anything.
    products : {"float64", "float32"}
        Precision in which the products were formed; the sums are float64 in any case.
    cancellation : float
        How much centring magnified the rounding of the products: sums about the provisional mean over sums about the
        mean, the largest over features; 1 where the provisional mean was right. Subtraction magnifies it in the same
        way.
    variation : dict of str to ndarray
        Which features vary, found by comparing the features and not from a scatter: "example" (*lead, n_views,
        n_features), one of the images; "varies" (*lead, n_features), whether another image differs from it; and
        "views_vary" (*lead, n_features), whether its differences between views do. What does not vary has exactly no
        scatter. Empty where it is not known, as in files of older versions.
    sample : dict of str to ndarray
        Up to 256 of the images, those of the smallest hashes of their ids: "keys" (n,), the hashes, and "images" (n,
        n_views, n_features), their features; with the axis "sigma" first where there is one. For checks that moments
        cannot make. Empty where it is not known, as for one fold.
    grouped : bool
        Whether images belong to groups, of which each fold has whole ones: few are independent, and the mean of a fold
        says little of that of all.

    Notes
    -----
    Laws (tested): ``a + b == b + a``; ``(a + b) + c == a + (b + c)``; ``a + empty == a``; ``(a + b) - b == a``, up to
    rounding. `+` and `-` act on each element of the leading axes. What a subtraction leaves of a feature within the
    rounding of what it was taken from is zero, and the feature counts as constant.

    References
    ----------
    Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1 (in matrix form).

    Examples
    --------
    Blocks of images add up to the whole, and a part can be taken away again:

    >>> import numpy as np, icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=400, n_features=8, random_state=0)
    >>> first, rest = (ik.Moments.from_cube(part, n_folds=0) for part in (cube[:100], cube[100:]))
    >>> whole = ik.Moments.from_cube(cube, n_folds=0)
    >>> first + rest
    Moments(400 images, 2 views, 8 features, float64 products)
    >>> np.allclose((first + rest).within, whole.within), np.allclose((whole - first).between, rest.between)
    (True, True)

    Metrics read them, without the features:

    >>> bool(np.isclose(ik.icr(first + rest), ik.ICREstimator().fit(cube).icr_))
    True
    """

    n_images: NDArray[np.int64]
    mean: NDArray[np.float64]
    between: NDArray[np.float64]
    within: NDArray[np.float64]
    dims: tuple[str, ...] = ()
    coords: dict[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    views_ordered: bool = True
    products: str = "float64"
    cancellation: float = 1.0
    variation: Variation = dataclasses.field(default_factory=dict)
    sample: ImageSample = dataclasses.field(default_factory=dict)
    grouped: bool = False

    def __post_init__(self) -> None:
        # The door for what others made, `dataclasses.replace` included: metrics then never meet NaN in moments.
        self.refused_if_not_finite()
        for name in ("between", "within"):
            bad = ~np.isfinite(getattr(self, name))
            if bad.any():  # which no sum of squares has beside a finite diagonal
                row, column = np.argwhere(bad)[0][-2:].tolist()
                raise NonFiniteError(
                    f"{int(bad.sum())} of {bad.size} entries of `{name}` in these Moments are NaN or inf; the first is "
                    f"that of features {row} and {column}. Make the Moments again, from features without them."
                )

    # ---- construction -------------------------------------------------------------------------------------------

    @classmethod
    def empty(cls, n_views: int, n_features: int, *, n_folds: int = 0, views_ordered: bool = True) -> Self:
        """Moments of no images at all: the identity of ``+``."""
        lead = (n_folds,) if n_folds else ()
        square = (*lead, n_features, n_features)
        return cls(
            np.zeros(lead, dtype=np.int64),
            np.zeros((*lead, n_views, n_features)),
            np.zeros(square),
            np.zeros(square),
            dims=("fold",) if n_folds else (),
            views_ordered=views_ordered,
            variation=nothing_varies(lead, n_views, n_features),
            sample=no_images(n_views, n_features),
        )

    @classmethod
    def unchecked(cls, **fields: Any) -> Self:
        """Moments of all these fields, whose values are for the caller to judge: sums may have overflowed."""
        made = object.__new__(cls)
        made.__dict__.update(fields)
        return made

    def replace_unchecked(self, **fields: Any) -> Self:
        """These moments with other fields, not looked at: as in `unchecked`, or because they come from these."""
        return self.unchecked(**(self.__getstate__() | fields))

    @classmethod
    def from_block(cls, block: NDArray[Any], *, views_ordered: bool = True) -> Self:
        """Moments of features held in memory, (n_images, n_views, n_features), by two float64 passes.

        The plain definition, for small blocks and as the reference; :meth:`from_cube` is the fast way.

        Raises
        ------
        NonFiniteError
            With image, view and feature of the first NaN or infinity, and their count; or squares that overflow.
        """
        features = as_features(block, min_views=1, min_images=0)
        h = features.read().astype(np.float64)
        if not np.isfinite(h).all():
            features.raise_non_finite()
        if not len(h):
            return cls.empty(*h.shape[1:], views_ordered=views_ordered)
        with np.errstate(over="ignore", invalid="ignore"):  # looked for in the result
            mean = h.mean(axis=0)
            h -= mean
            rest = h.mean(axis=0)  # far from the origin the mean itself is rounded
            h -= rest
            t = h.mean(axis=1)
            e = (h - t[:, None]).reshape(-1, h.shape[2])
            found = variation_of(features.read())
            # Settled first: what does not vary may be so great that its sums overflow.
            made = cls.empty(*h.shape[1:], views_ordered=views_ordered).replace_unchecked(
                n_images=np.array(len(h)), mean=mean + rest, between=t.T @ t, within=e.T @ e, variation=found,
                sample={},
            )  # fmt: skip
        return made.settled().refused_if_not_finite()

    @classmethod
    def from_cube(
        cls,
        X: Any,
        *,
        n_folds: int = 10,
        dtype: str = "auto",
        random_state: int = 0,
        n_views: int | None = None,
        groups: Any = None,
        normalize: str | None = None,
    ) -> Moments:
        """Moments of one layer at one level, or at all its levels, in one streaming pass.

        Parameters
        ----------
        X : Cube, DataArray, array or tensor (image, view, feature), or rows (row, feature)
            With several levels the result has a leading axis "sigma".
        n_folds : int
            Folds over images (leading axis "fold"), for cross-fitting; 0 for none.
        dtype : {"auto", "float32", "float64"}
            Precision of the products. "auto" takes float64 for float64 features; else float32, and reads the
            features a second time in float64 where the conditioning asks for it.
        random_state : int
            Seed of the fold hash.
        n_views, groups : int, array
            How rows belong to images, for 2-D input.
        normalize : {None, "l2"}
            Scale every feature vector to unit length first.

        Returns
        -------
        Moments
        """
        from icrkit.backends import moments_of

        return moments_of(
            X,
            n_folds=n_folds,
            dtype=dtype,
            random_state=random_state,
            n_views=n_views,
            groups=groups,
            normalize=normalize,
        )

    # ---- shape --------------------------------------------------------------------------------------------------

    @property
    def n_views(self) -> int:
        """V."""
        return int(self.mean.shape[-2])

    @property
    def n_features(self) -> int:
        """d."""
        return int(self.mean.shape[-1])

    @property
    def n_folds(self) -> int:
        """Length of the axis "fold"; 0 where there is none."""
        return int(self.n_images.shape[self.dims.index("fold")]) if "fold" in self.dims else 0

    def __repr__(self) -> str:
        lead = ", ".join(f"{name}: {size}" for name, size in zip(self.dims, self.n_images.shape, strict=True))
        total = int(self.n_images.sum()) if "sigma" not in self.dims else int(self.n_images[0].sum())
        return (
            f"Moments({total} images, {self.n_views} views, {self.n_features} features"
            f"{', ' + lead if lead else ''}, {self.products} products)"
        )

    # ---- algebra ------------------------------------------------------------------------------------------------

    def __add__(self, other: object) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        return self._combine(other, +1)

    def __sub__(self, other: object) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        return self._combine(other, -1)

    @np.errstate(invalid="ignore", over="ignore")  # looked for in the result
    def _combine(self, other: Moments, sign: int) -> Moments:
        self._check_same_space(other)
        n_a, n_b = self.n_images, sign * other.n_images
        n = n_a + n_b
        if (n < 0).any():
            raise NotEnoughDataError("these moments cannot be subtracted: they hold more images than the total does")
        share = np.divide(n_b, n, out=np.zeros(n.shape), where=n > 0)
        delta = other.mean - self.mean
        weight = (n_a * share)[..., None, None]
        grand, contrasts = self._split(delta)
        merged = self.replace_unchecked(
            n_images=n,
            mean=self.mean + share[..., None, None] * delta,
            between=self.between + sign * other.between + weight * _outer(grand),
            within=self.within + sign * other.within + weight * _outer(contrasts),
            views_ordered=self.views_ordered and other.views_ordered,
            products=min(self.products, other.products),  # "float32" < "float64": the coarser one
            cancellation=max(self.cancellation, other.cancellation),
            variation=merge(self.variation, self.n_images, other.variation, other.n_images),
            sample=(merge_samples if sign > 0 else remove_sample)(self.sample, other.sample),
            grouped=self.grouped or other.grouped,
        )
        rounding = merged._rounding_of_means(np.abs(weight) * np.abs(part) for part in (grand, contrasts))
        merged = merged._magnified(rounding) if sign > 0 else merged._remainder_of(self, rounding)
        return merged.settled()._cleared(n == 0).refused_if_not_finite()

    def _rounding_of_means(self, moved: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
        """What rounding the means costs both scatters, (2, *lead, d), in units of the products' roundoff.

        Means are moved together in a merge, and far from the origin a mean is right to its own last digit only: a
        difference of means is that much off. ``moved`` are the differences, weighted as they enter the scatters.
        """
        size = np.abs(self.mean).max(axis=-2) * (2 * UNIT_ROUNDOFF["float64"] / UNIT_ROUNDOFF[self.products])
        return np.stack([part.sum(axis=-2) * size for part in moved])

    def _magnified(self, rounding: NDArray[np.float64]) -> Moments:
        """These moments, with so much more rounding in the diagonals of their scatters."""
        kept = np.stack([_diagonal(self.between), _diagonal(self.within)])
        # A scatter that is down to rounding is for the metrics to refuse, where they need it.
        there = kept > 1e-17 * kept.sum(axis=0)
        more = np.divide(rounding, kept, out=np.zeros_like(kept), where=there).max(initial=0.0)
        return self.replace_unchecked(cancellation=self.cancellation + float(more))

    def _remainder_of(self, whole: Moments, rounding: NDArray[np.float64]) -> Moments:
        """These moments, left of ``whole`` by a subtraction, without what is within its rounding."""
        left, before = (np.stack([_diagonal(m.between), _diagonal(m.within)]) for m in (self, whole))
        before = before + rounding
        nothing = left <= _LOST * UNIT_ROUNDOFF[self.products] * before
        held = self.n_images[..., None] > 0
        ratio = np.divide(before, left, out=np.ones_like(before), where=~nothing & held)
        variation = whole.variation
        if variation:
            gone, first = np.asarray(nothing.all(axis=0)), self.mean[..., :1, :]
            same = np.abs(self.mean - first) <= _LOST * UNIT_ROUNDOFF[self.products] * np.abs(first)
            variation = {
                "example": np.where(gone[..., None, :], np.where(same, first, self.mean), variation["example"]),
                "varies": variation["varies"] & ~gone,
                "views_vary": variation["views_vary"] & ~nothing[1],
            }
        return self.replace_unchecked(
            cancellation=self.cancellation * float(ratio.max(initial=1.0)), variation=variation
        )

    def settled(self) -> Self:
        """These moments, with the exact value for mean and exact zeros for the scatter of what does not vary."""
        if self.variation:
            lead = self.n_images.shape
            never, alike = (~self.variation[name] for name in ("varies", "views_vary"))
            np.copyto(self.mean, self.variation["example"], where=never[..., None, :])
            for scatter, without in ((self.between, never), (self.within, alike)):
                for k in np.ndindex(lead):
                    if (index := np.flatnonzero(without[k])).size:
                        scatter[k][index] = scatter[k][:, index] = 0.0
        return self

    def refused_if_not_finite(self) -> Self:
        """These moments, having refused NaN and infinity."""
        bad = ~np.isfinite(self.mean)
        if bad.any():
            *_, view, feature = np.argwhere(bad)[0].tolist()
            raise NonFiniteError(
                f"{int(bad.sum())} of {bad.size} means in these Moments are NaN or inf; the first is that of view "
                f"{view}, feature {feature}. Make the Moments again, from features without them."
            )
        bad = ~(np.isfinite(_diagonal(self.between)) & np.isfinite(_diagonal(self.within)))
        if bad.any():
            raise NonFiniteError(
                f"the squares of {int(bad.any(axis=tuple(range(bad.ndim - 1))).sum())} of {self.n_features} features "
                f"overflow (the first is feature {int(np.argwhere(bad)[0][-1])}); scale the features down"
            )
        return self

    def _cleared(self, where: NDArray[np.bool_]) -> Moments:
        """Exact zeros where no image is left: rounding would stay behind."""
        if where.any():
            for array in (self.mean, self.between, self.within):
                array[where] = 0.0
        return self

    def _check_same_space(self, other: Moments) -> None:
        for name in ("dims", "n_views", "n_features"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise CubeFormatError(f"moments of different spaces do not combine: {name} {mine} and {theirs}")
        if self.n_images.shape != other.n_images.shape:
            raise CubeFormatError(
                f"moments with leading shapes {self.n_images.shape} and {other.n_images.shape} do not combine"
            )
        for name in self.coords.keys() | other.coords.keys():
            mine, theirs = self.coords.get(name), other.coords.get(name)
            if mine is None or theirs is None or not np.array_equal(mine, theirs):
                raise CubeFormatError(f"moments at different levels do not combine: their {name!r} differ")

    def _split(self, mean: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean over views (*lead, 1, d) and Helmert contrasts (*lead, V - 1, d) of per-view means."""
        # From the first view: where views agree to the last bit, contrasts are exact zeros.
        first = mean[..., :1, :]
        return first + (mean - first).mean(axis=-2, keepdims=True), helmert(self.n_views) @ (mean - first)

    def sum(self, dim: str = "fold") -> Moments:
        """Merge along a leading axis (the same as adding its elements one by one)."""
        return self._summed(dim).refused_if_not_finite()

    @np.errstate(invalid="ignore", over="ignore")  # looked for in the result
    def _summed(self, dim: str) -> Moments:
        axis = self._axis(dim)
        n = self.n_images.sum(axis=axis)
        weight = np.expand_dims(self.n_images, (-1, -2)).astype(np.float64)
        total = np.maximum(n, 1)[..., None, None]
        # About the mean of one element that holds images: where all agree to the last bit, so does the result, and a
        # constant feature keeps its exact zeros.
        fullest = np.expand_dims(self.n_images.argmax(axis=axis), (axis, -1, -2))
        origin = np.take_along_axis(self.mean, fullest, axis=axis)
        shifted = np.where(weight > 0, self.mean - origin, 0.0)
        mean = np.squeeze(origin, axis) + (weight * shifted).sum(axis=axis) / total
        grand, contrasts = self._split(self.mean - np.expand_dims(mean, axis))
        merged = self.replace_unchecked(
            n_images=n,
            mean=mean,
            between=self.between.sum(axis=axis) + _outer(grand * np.sqrt(weight), axis),
            within=self.within.sum(axis=axis) + _outer(contrasts * np.sqrt(weight), axis),
            dims=tuple(name for name in self.dims if name != dim),
            coords={name: value for name, value in self.coords.items() if name != dim},
            variation=reduce(self.variation, self.n_images, axis),
            sample=self.sample if dim == "fold" else {},
        ).settled()
        moved = ((np.abs(part) * weight).sum(axis=axis) for part in (grand, contrasts))
        return merged._magnified(merged._rounding_of_means(moved))

    def select(self, **indices: int | list[int] | NDArray[Any]) -> Moments:
        """Elements along leading axes, by position: ``m.select(fold=3)``; a list or array keeps the axis."""
        result = self
        for name, index in indices.items():
            axis, dims, coords = result._axis(name), result.dims, dict(result.coords)
            if np.ndim(index) == 0:
                dims = tuple(other for other in dims if other != name)
                coords.pop(name, None)
            elif name in coords:
                coords[name] = coords[name][np.asarray(index)]
            at = (slice(None),) * axis + (index if np.ndim(index) == 0 else np.asarray(index),)
            result = result.replace_unchecked(
                n_images=np.asarray(result.n_images[at]),
                mean=result.mean[at],
                between=result.between[at],
                within=result.within[at],
                dims=dims,
                coords=coords,
                variation={key: np.array(value[at]) for key, value in result.variation.items()},
                # Folds come last: those before them are the sample's axes as well.
                sample={} if name == "fold" else {key: value[at] for key, value in result.sample.items()},
            )
        return result

    def select_features(self, keep: NDArray[Any]) -> Moments:
        """Moments of some of the features: indices or a boolean mask (d,)."""
        index = np.flatnonzero(keep) if np.asarray(keep).dtype == bool else np.asarray(keep)
        return self.replace_unchecked(
            mean=self.mean[..., index],
            between=self.between[..., index[:, None], index],
            within=self.within[..., index[:, None], index],
            variation={key: value[..., index] for key, value in self.variation.items()},
            sample=self.sample and self.sample | {"images": self.sample["images"][..., index]},
        )

    def usable_folds(self, min_images: int = 2) -> Moments:
        """Folds for cross-fitting: at most one for every two images, and none of fewer than ``min_images``.

        Where there are few images, fold k joins fold k modulo the greatest number allowed; a fold that is still too
        small joins the next one. Both depend on the hashes of the image ids alone.
        """
        if self.dims != ("fold",):
            raise CubeFormatError(f"folds are needed as the only leading axis, not {self.dims}")
        most = max(1, min(self.n_folds, int(self.n_images.sum()) // 2))
        groups = np.arange(self.n_folds) % most
        counts = np.bincount(groups, weights=self.n_images, minlength=most)
        current, held, joined = 0, 0, np.empty(most, dtype=np.int64)
        for k, count in enumerate(counts):
            joined[k] = current
            held += int(count)
            if held >= min_images:
                current, held = current + 1, 0
        if current:  # what is left over at the end joins the last full fold
            joined[joined == current] = current - 1
        groups = joined[groups]
        if len(np.unique(groups)) == self.n_folds:
            return self
        joined_folds = [self.select(fold=np.flatnonzero(groups == k)).sum("fold") for k in np.unique(groups)]
        return Moments.stack(joined_folds).replace_unchecked(sample=self.sample)

    @staticmethod
    def stack(parts: Sequence[Moments], dim: str = "fold", coord: NDArray[Any] | None = None) -> Moments:
        """Moments of the same space along a new first axis ``dim``, with its labels where given; none of them NaN."""
        first = parts[0]
        for part in parts[1:]:
            first._check_same_space(part)
        return dataclasses.replace(
            first,
            n_images=np.stack([p.n_images for p in parts]),
            mean=np.stack([p.mean for p in parts]),
            between=np.stack([p.between for p in parts]),
            within=np.stack([p.within for p in parts]),
            dims=(dim, *first.dims),
            coords=first.coords if coord is None else {dim: np.asarray(coord), **first.coords},
            views_ordered=all(p.views_ordered for p in parts),
            products=min(p.products for p in parts),
            cancellation=max(p.cancellation for p in parts),
            variation=stack_variations([p.variation for p in parts]),
            sample=stack_samples([p.sample for p in parts]) if dim != "fold" else {},
            grouped=any(p.grouped for p in parts),
        )

    def _axis(self, dim: str) -> int:
        if dim not in self.dims:
            raise CubeFormatError(f"these moments have no axis {dim!r}; their leading axes are {self.dims}")
        return self.dims.index(dim)

    # ---- the two centrings --------------------------------------------------------------------------------------

    @property
    def within_uncentred(self) -> NDArray[np.float64]:
        """sum_iv (h_iv - hbar_i)(h_iv - hbar_i)^T: the MANOVA within scatter, blind to the order of views."""
        _, contrasts = self._split(self.mean)
        scatter = _outer(contrasts)
        scatter *= self.n_images[..., None, None]
        scatter += self.within
        return scatter

    @property
    def within_uncentred_diagonal(self) -> NDArray[np.float64]:
        """Diagonal of `within_uncentred`, (*lead, d), without forming the matrix."""
        deviations = self.mean - self.mean.mean(axis=-2, keepdims=True)
        added = self.n_images[..., None] * np.square(deviations).sum(axis=-2)
        return np.asarray(np.diagonal(self.within, axis1=-2, axis2=-1) + added)

    # ---- derived once, kept --------------------------------------------------------------------------------------

    @functools.cached_property
    def total(self) -> Moments:
        """All folds merged; these moments themselves where there are none."""
        # Not refused where squares overflow: a pass looks here whether its precision suffices.
        return self._summed("fold") if "fold" in self.dims else self

    @functools.cached_property
    def within_factor(self) -> SpdFactor:
        """Cholesky factor of `within`: the pass needs it to judge its own precision, the metrics to whiten.

        It has the precision of the products: its error is of the same order, u * cond, and float32 costs half.
        """
        return SpdFactor(self.within.astype(self.products, order="F"), overwrite=True)

    @functools.cached_property
    def condition_number(self) -> float:
        """Condition number (1-norm) of `within` scaled to unit diagonal; inf where it is singular."""
        if not (self.within.diagonal() > 0).all():
            return float("inf")
        try:
            return self.within_factor.correlation_condition(self.within)
        except np.linalg.LinAlgError:
            return float("inf")

    def error_bound(self, condition: float, residual: NDArray[np.float64] | None = None) -> float:
        """Bound on the relative rounding error of traces under an inverse of this condition number.

        Parameters
        ----------
        condition : float
        residual : ndarray (d,), optional
            Diagonal of the scatter that was inverted, where it is one of differences between views. These are
            differences of rounded features: of a residual that is small beside the signal little may be left.

        Returns
        -------
        float
            u c (128 + 5 condition) of the unit roundoff u of the products and what centring magnified it, c.
        """
        unit, magnified = UNIT_ROUNDOFF[self.products], self.cancellation
        if residual is not None:
            signal = _diagonal(self.between)
            magnified += unit * float(np.divide(signal, residual, out=np.zeros_like(signal), where=residual > 0).max())
        return unit * magnified * (_OF_SUMS + _OF_CONDITION * condition)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    # ---- file ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write to an HDF5 file (readable with h5py; float64)."""
        from icrkit.io._moments import write_moments

        write_moments(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Read what :meth:`save` wrote."""
        from icrkit.io._moments import read_moments

        try:
            moments: Self = read_moments(cls, path)
        except NonFiniteError as error:
            raise NonFiniteError(f"{path}: {error}") from None
        return moments


def _diagonal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.diagonal(matrix, axis1=-2, axis2=-1))


def _outer(rows: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """sum_j r_j r_j^T over the last-but-one axis, (*lead, k, d) to (*lead, d, d), and over ``axis`` where given."""
    if axis is not None:
        rows = np.moveaxis(rows, axis, -3)
        rows = rows.reshape(*rows.shape[:-3], -1, rows.shape[-1])
    return np.swapaxes(rows, -1, -2) @ rows
