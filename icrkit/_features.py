"""What every estimator accepts as X, turned into one thing: blocks of (image, view, feature).

The one place where input is checked. Nothing is read here beyond shapes, types and ids; values are checked by the
pass that reads them.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from icrkit._arrays import n_axes, to_column, to_numpy
from icrkit._contract import check_groups, decoded, ids_of, is_stored, with_known_sizes
from icrkit._shuffled import warn_if_shuffled
from icrkit._swapped import warn_if_swapped
from icrkit.cube import Cube, from_rows
from icrkit.exceptions import CubeFormatError, NonFiniteError, NotEnoughDataError

__all__ = [
    "Features",
    "NotForTables",
    "as_features",
    "check_dtype",
    "check_views",
    "labelled_like",
    "n_levels",
    "split_levels",
    "unit_rows",
]

DIMS = ("image", "view", "feature")


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of one layer at one noise level, in memory or still on disk.

    Parameters
    ----------
    array : ndarray or DataArray (n_images, n_views, n_features)
        Sliced along its first axis to be read.
    image_ids : ndarray (n_images,)
        Row numbers where there are no ids.
    views_ordered : bool
        False where views have no common order (rows with groups).
    name : str
        For messages: layer, level and file.
    normalize : {None, "l2"}
        Scale every feature vector to unit length as it is read.
    watch : callable, optional
        Shown (first image, block) of every block that `blocks` gives.
    groups : ndarray (n_images,), optional
        What each image belongs to, where images are not independent.
    """

    array: Any
    image_ids: NDArray[Any]
    views_ordered: bool = True
    name: str = "X"
    normalize: str | None = None
    watch: Callable[[int, NDArray[Any]], None] | None = None
    groups: NDArray[Any] | None = None

    @property
    def units(self) -> NDArray[Any]:
        """What is independent, (n_images,): the group of each image, or the image itself where there are no groups."""
        return self.image_ids if self.groups is None else self.groups

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_images, n_views, n_features)."""
        n, v, d = self.array.shape
        return int(n), int(v), int(d)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64: the type in which blocks are read.

        Unit vectors are float64: far from the origin they differ in their last digits only.
        """
        return np.dtype(np.float32 if self.single and self.normalize is None else np.float64)

    @property
    def single(self) -> bool:
        """Whether the features themselves hold no more than float32's digits."""
        return self.array.dtype in (np.float16, np.float32)

    @property
    def in_memory(self) -> bool:
        """Whether reading any image again costs nothing: an array that is used as it is."""
        return isinstance(self.array, np.ndarray) and self.array.dtype == self.dtype and self.normalize is None

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Images [start, stop) as an ndarray (n, n_views, n_features) of `dtype`."""
        block = to_numpy(self.array[start:stop], self.name).astype(self.dtype, copy=False)
        if self.normalize == "l2":
            block = unit_rows(block, self.name)
        return block

    def blocks(self, target_bytes: int = 8 << 20) -> Iterator[tuple[int, NDArray[Any]]]:
        """(first image, block) over all images, in blocks of about ``target_bytes``."""
        n, v, d = self.shape
        step = max(1, target_bytes // (v * d * self.dtype.itemsize))
        for start in range(0, n, step):
            block = self.read(start, min(start + step, n))
            if self.watch is not None:
                self.watch(start, block)
            yield start, block

    def watched(self, watch: Callable[[int, NDArray[Any]], None]) -> Features:
        """The features, whose blocks somebody else is shown; those in memory, which passes may read anyhow, at once."""
        if not self.in_memory:
            before = self.watch

            def watch_both(start: int, block: NDArray[Any]) -> None:
                watch(start, block)
                if before is not None:
                    before(start, block)

            return dataclasses.replace(self, watch=watch_both)
        for start, block in self.blocks():
            watch(start, block)
        return self

    def view(self, number: int) -> Features:
        """One view of each image, as features with one view."""
        return dataclasses.replace(self, array=self.array[:, number : number + 1])

    def rows(self, views: str | int, target_bytes: int = 8 << 20) -> Iterator[tuple[int, NDArray[Any]]]:
        """(first image, rows) over all images: what metrics of single rows see of them.

        Parameters
        ----------
        views : {"mean", "all"} or int
            "mean": one row an image, the mean over its views, in float64. "all": every view, image after image. A
            number: that view.
        target_bytes : int
            Features read at a time.
        """
        check_views(views, self.shape[1])
        chosen = self if isinstance(views, str) else self.view(int(views))
        for start, block in chosen.blocks(target_bytes):
            yield start, block.mean(axis=1, dtype=np.float64) if views == "mean" else block.reshape(-1, block.shape[2])

    def raise_non_finite(self) -> None:
        """Find every NaN and infinity, and raise with the first one's place; return where there is none."""
        count, first = 0, None
        # As they are stored: unit length would spread one NaN over its whole vector.
        for start, block in dataclasses.replace(self, normalize=None).blocks():
            bad = ~np.isfinite(block)
            if bad.any():
                count += int(bad.sum())
                if first is None:
                    i, v, f = (int(k) for k in np.argwhere(bad)[0])
                    first = (self.image_ids[start + i], v, f, block[i, v, f])
        if first is not None:
            image, view, feature, value = first
            raise NonFiniteError(
                f"{self.name}: {count} of {int(np.prod(self.shape))} features are missing, NaN or inf; the first is "
                f"{value} at image {image}, view {view}, feature {feature}. Drop those images or repair the extraction."
            )

    def check_finite(self, block: NDArray[Any]) -> None:
        """Raise with the place of the first NaN or infinity where a block or result of these features holds any."""
        if not np.isfinite(block).all():
            self.raise_non_finite()


def check_views(views: str | int, n_views: int) -> None:
    """Refuse what is neither a word nor the number of a view; True would be view 1, and -1 the last, by accident."""
    if isinstance(views, str) and views in ("mean", "all"):
        return
    if isinstance(views, bool | np.bool_) or not isinstance(views, int | np.integer):
        raise ValueError(f"views must be 'mean', 'all' or the number of a view, not {views!r}")
    if not 0 <= views < n_views:
        raise ValueError(f"views={views}: the features have {n_views} view(s), numbered from 0")


def unit_rows(block: NDArray[Any], name: str = "X") -> NDArray[Any]:
    """Each feature vector divided by its length; a zero vector has no direction and stays zero, with a warning."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        squares = np.einsum("...d,...d->...", block, block)
        tiny = np.finfo(block.dtype).tiny / np.finfo(block.dtype).eps ** 2
        if not ((squares > tiny) & (squares < np.inf)).all():
            # About the largest entry, whose square may leave the range of the type.
            largest = np.abs(block).max(axis=-1, keepdims=True)
            block = np.where(largest > 0, block / largest, block)
            squares = np.einsum("...d,...d->...", block, block)
    norms = np.sqrt(squares)[..., None]
    zero = norms == 0
    if zero.any():
        warnings.warn(f"{name}: {int(zero.sum())} feature vectors are all zero and stay zero", stacklevel=2)
        norms[zero] = 1.0
    with np.errstate(invalid="ignore"):  # infinities become NaN, which the caller looks for
        return np.asarray(block / norms)


class NotForTables:
    """scikit-learn's tags of an estimator of arrays (image, view, feature) or whole cubes: a 2-D table is refused.

    Attributes
    ----------
    takes_arrays : bool
        Whether a bare array (image, view, feature) is accepted; one that reads noise levels needs a cube.
    """

    takes_arrays: ClassVar[bool] = False

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = self.takes_arrays
        return tags


def as_features(
    X: Any,
    *,
    n_views: int | None = None,
    groups: Any = None,
    normalize: str | None = None,
    min_views: int = 2,
    min_images: int = 2,
) -> Features:
    """Features from anything an estimator accepts.

    Parameters
    ----------
    X : Cube, DataArray, array or tensor
        One layer at one level. DataArrays by dim name, in any order; arrays as (image, view, feature), or rows
        (row, feature) with ``groups`` or ``n_views`` consecutive rows to an image.
    n_views : int, optional
        For rows without groups.
    groups : array (n_rows,), optional
        Image of each row.
    normalize : {None, "l2"}
    min_views, min_images : int
        What the caller needs. `Features` may hold fewer images: who read them said how many it takes.

    Raises
    ------
    CubeFormatError
        Wrong dims or dtype.
    NotEnoughDataError
        Fewer than two images or ``min_views`` views, or no features.
    """
    if normalize not in (None, "l2"):
        raise ValueError(f"normalize must be None or 'l2', not {normalize!r}")
    if type(X).__name__ == "Moments":  # by name: moments.py lies above this module
        raise TypeError("the features themselves are needed: moments do not suffice")
    unnamed: Any = None
    if isinstance(X, Features):
        found = X
    elif isinstance(X, Cube | xr.Dataset):
        found = _from_dataarray((X if isinstance(X, Cube) else Cube(X)).level())
    elif isinstance(X, xr.DataArray):
        found = _from_dataarray(X)
    elif type(X).__module__.startswith("dask.") and X.ndim == 3:
        found = _from_dataarray(xr.DataArray(X, dims=DIMS, name="X"))  # which stays lazy
        unnamed = X
    else:
        found = _from_array(to_numpy(X), n_views, groups)
        unnamed = found.array if n_axes(X) == 3 else None
    if unnamed is not None and min_images > 1 and min_views > 1:
        warn_if_swapped(unnamed)
    n, v, d = found.shape
    if d < 1:
        raise NotEnoughDataError(
            f"{found.name} has 0 feature(s) (shape={found.shape}) while a minimum of 1 is required."
        )
    if n < min_images and not isinstance(X, Features):
        raise NotEnoughDataError(f"{found.name} has n_samples={n} image(s); at least {min_images} images are needed")
    if v < min_views:
        raise NotEnoughDataError(
            f"{found.name} has {v} view(s) an image; at least {min_views} are needed, because the residual is what "
            "differs between views of one image. Extract with n_views=2 or more."
        )
    return dataclasses.replace(found, normalize=normalize or found.normalize)


def single_rows(rows: NDArray[Any]) -> Features:
    """Rows that stand for themselves: each an image of one view."""
    return Features(rows[:, None], np.arange(len(rows)))


def n_levels(X: Any) -> NDArray[np.float64] | None:
    """Noise levels of X where it has an axis of them longer than one, else None."""
    if isinstance(X, Cube):
        return X.sigmas if len(X.sigmas) > 1 else None
    if isinstance(X, xr.DataArray) and "sigma" in X.dims and X.sizes["sigma"] > 1:
        return np.asarray(X["sigma"], dtype=np.float64)
    return None


def split_levels(X: Any) -> list[Any]:
    """One X a level, for the X of which `n_levels` are given."""
    array = X[X.layers[0]] if isinstance(X, Cube) else X
    if isinstance(X, Cube) and len(X.layers) != 1:
        raise CubeFormatError(f"the cube has layers {list(X.layers)}: choose one with cube.select(layer=...)")
    return [array.isel(sigma=k) for k in range(array.sizes["sigma"])]


def labelled_like(X: Any, result: NDArray[Any]) -> Any:
    """The result with the image and view coordinates of X where X had them."""
    if not isinstance(X, Cube | xr.DataArray):
        return result
    source = X.level() if isinstance(X, Cube) else X
    if "sigma" in source.dims:
        source = source.isel(sigma=0)
    of_features = [name for name, value in source.coords.items() if "feature" in value.dims]
    coords = source.coords.to_dataset().drop_vars(of_features).coords
    return xr.DataArray(result, dims=DIMS, coords=coords, name=source.name, attrs=dict(source.attrs))


def _from_dataarray(array: xr.DataArray) -> Features:
    array = with_known_sizes(array)
    if "sigma" in array.dims and array.sizes["sigma"] == 1:
        array = array.isel(sigma=0)
    if set(array.dims) != set(DIMS):
        raise CubeFormatError(
            f"dims {tuple(map(str, array.dims))} found, {DIMS} wanted"
            + (": choose one level with .isel(sigma=...) or SelectLevel" if "sigma" in array.dims else "")
        )
    name = str(array.name or "X")
    variable = decoded(name, array.variable).transpose(*DIMS)
    check_dtype(variable.dtype, name, in_memory=not is_stored(variable))
    # A variable that is already in memory is read as an ndarray: slicing a DataArray costs more than the arithmetic.
    data: Any = to_numpy(variable, name) if variable._in_memory else variable
    if data.dtype == object:
        raise CubeFormatError(f"{name} has dtype object, which is not numbers throughout; pass a float array")
    if "sigma" in array.coords and not np.isnan(float(array["sigma"])):
        name += f" at sigma {float(array['sigma']):.4g}"
    if array.encoding.get("source"):
        name += f" in {array.encoding['source']}"
    groups = None
    if "groups" in array.coords:
        check_groups(array.coords["groups"], array.sizes["image"], f" of {name}")
        groups = to_column(array.coords["groups"].values, "groups")
    return Features(data, ids_of(array), bool(array.attrs.get("views_ordered", True)), name, groups=groups)


def _from_array(array: NDArray[Any], n_views: int | None, groups: Any) -> Features:
    check_dtype(array.dtype)
    if array.dtype == object:
        raise CubeFormatError("X has dtype object, which is not numbers throughout; pass a float array")
    if array.ndim == 3:
        if groups is not None:
            raise CubeFormatError("groups go with 2-D rows; this X is already (image, view, feature)")
        return Features(array, np.arange(len(array)))
    if array.ndim != 2:
        raise CubeFormatError(
            f"X has {array.ndim} axes; wanted (image, view, feature), or rows (row, feature) with groups or n_views"
        )
    if groups is not None:
        return _from_dataarray(from_rows(array, groups=groups).level())
    views = 2 if n_views is None else n_views
    if views < 1:
        raise ValueError(f"n_views must be at least 1, not {views}")
    n_rows, n_features = array.shape
    if n_rows % views:
        raise NotEnoughDataError(
            f"X has n_samples={n_rows} rows, which is not a multiple of n_views={views}. Rows without groups are read "
            "as n_views consecutive rows to an image; pass groups= (the image of each row) otherwise."
        )
    shaped = array.reshape(n_rows // views, views, n_features)
    warn_if_shuffled(shaped)
    return Features(shaped, np.arange(len(shaped)))


def check_dtype(dtype: np.dtype[Any], name: str = "X", *, in_memory: bool = True) -> None:
    """Refuse what is not real numbers; integers too, in a file; objects are for the caller to look at."""
    if dtype.kind == "c":
        raise CubeFormatError(f"{name}: Complex data not supported; features are real numbers")
    if dtype.kind == "f" or (in_memory and dtype.kind in "iubO"):
        return
    raise CubeFormatError(f"{name} has dtype {dtype}; features must be float16, float32 or float64")
