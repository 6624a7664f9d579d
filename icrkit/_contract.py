"""What makes an xarray object a cube: named dims, real numbers, unique images, distinct levels."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from icrkit._arrays import missing, to_column
from icrkit._text import strict_json
from icrkit.exceptions import CubeFormatError

AXES = ("image", "view", "sigma")
WANTED = "(image, view, sigma, feature)"
# The relative distance below which two noise levels are the same level.
SIGMA_TOLERANCE = 1e-6


def as_dataset(data: Any) -> xr.Dataset:
    if isinstance(data, xr.Dataset):
        if all(size == size for size in data.sizes.values()):
            return data
        # A dataset remembers the sizes that it was made with.
        arrays = {name: with_known_sizes(array).variable for name, array in data.data_vars.items()}
        return xr.Dataset(arrays, coords=dict(data.coords.variables), attrs=data.attrs)
    if not isinstance(data, xr.DataArray):
        raise CubeFormatError(
            f"Cube takes an xarray.Dataset or DataArray with dims {WANTED}, not {type(data).__name__}; arrays go "
            "through from_arrays or from_rows, files through open_cube"
        )
    data = with_known_sizes(data)
    name = "features" if data.name is None else str(data.name)
    dataset: xr.Dataset = data.rename(name).to_dataset()
    # The extraction's attributes describe the cube as a whole.
    dataset.attrs = dict(data.attrs)
    dataset[name].encoding = dict(data.encoding)
    return dataset


def checked(dataset: xr.Dataset, source: str | None) -> xr.Dataset:
    where = "" if source is None else f" in {source}"
    names = [name for name in dataset.data_vars if any(str(d).startswith("feature") for d in dataset[name].dims)]
    extra = [n for n in dataset.data_vars if n not in names and set(map(str, dataset[n].dims)) <= set(AXES)]
    stray = [name for name in dataset.data_vars if name not in names and name not in extra]
    if stray or not names:
        found = "; ".join(f"{n!r} {tuple(map(str, dataset[n].dims))}" for n in (stray or extra)) or "no variable"
        raise CubeFormatError(f"dims found{where}: {found}; wanted {WANTED}, feature or feature_LAYER last")
    dataset = dataset.set_coords(extra)
    coords = {name: coord for name, coord in dataset.coords.items() if name not in ("image", "view", "sigma")}
    out: dict[Hashable, xr.Variable] = {}
    for name in names:
        variable = dataset[name].variable
        out[str(name)] = _layer_variable(str(name), variable, where)
    sizes = {dim: size for variable in out.values() for dim, size in variable.sizes.items()}
    image = ids_of(dataset)
    check_ids(image, where)
    if "groups" in coords:
        check_groups(coords["groups"], sizes["image"], where)
    # An index of several levels is taken apart: its levels stay as coordinates.
    keep = {
        name: xr.Variable(coord.dims, coord.variable.data, coord.attrs, coord.encoding)
        for name, coord in coords.items()
        if set(coord.dims) <= {"image", "sigma"}
    }
    if "sigma" in dataset.coords:
        sigma = np.atleast_1d(np.asarray(dataset.coords["sigma"].values, dtype=np.float64))
    elif sizes["sigma"] == 1:
        sigma = np.array([np.nan])
    else:
        raise CubeFormatError(f"{sizes['sigma']} levels{where} and no sigma coordinate that says which")
    check_levels(sigma, where)
    all_coords: dict[Hashable, Any] = {**keep, "image": ("image", image), "sigma": ("sigma", sigma)}
    return xr.Dataset(out, coords=all_coords, attrs=decoded_attrs(dataset.attrs))


_JSON = "json:"  # before attributes that a file cannot hold as they are


def encoded_attrs(attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Attributes as files take them: numbers and text as they are, all else as JSON text."""
    plain = (str, int, float, np.integer, np.floating)
    return {
        key: value
        if isinstance(value, plain) and not isinstance(value, bool)
        else _JSON + strict_json(value, indent=None)
        for key, value in attrs.items()
    }


def decoded_attrs(attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Attributes as they were before `encoded_attrs`; text that is no JSON stays what it is."""
    found = dict(attrs)
    for key, value in attrs.items():
        if isinstance(value, str) and value.startswith(_JSON):
            try:
                found[key] = json.loads(value[len(_JSON) :])
            except (ValueError, RecursionError):
                continue
    return found


def _layer_variable(name: str, variable: xr.Variable, where: str) -> xr.Variable:
    found = tuple(str(dim) for dim in variable.dims)
    features = [dim for dim in found if dim.startswith("feature")]
    absent = [dim for dim in ("image", "view") if dim not in found]
    if absent or len(features) != 1 or set(found) - {*AXES, *features}:
        raise CubeFormatError(
            f"layer {name!r}{where} has dims {found}; wanted {WANTED}"
            + (f"; {', '.join(absent)} missing: rename with .rename(old='{absent[0]}')" if absent else "")
        )
    stored = is_stored(variable)
    variable = decoded(name, variable)
    check_dtype(variable.dtype, name, where, stored)
    order = [dim for dim in (*AXES, features[0]) if dim in found]
    if list(found) != order:
        if stored:
            raise CubeFormatError(f"layer {name!r}{where} has dims {found}; wanted {WANTED}, in this order in a file")
        variable = variable.transpose(*order)
    data: Any = variable._data
    if "sigma" not in found:
        data = indexing.LazilyIndexedArray(_OneLevel(variable)) if stored else variable.data[:, :, np.newaxis]
    return xr.Variable((*AXES, feature_dim(name)), data, variable.attrs, variable.encoding, fastpath=True)


def with_known_sizes(array: Any) -> Any:
    """The array, with its length found out where dask does not know it: after a selection by a mask of its own."""
    if any(size != size for size in array.shape):
        array.data.compute_chunk_sizes()  # in place; it computes the selection, and keeps nothing of it
    return array


def check_groups(groups: xr.DataArray, n_images: int, where: str = "") -> None:
    """Refuse groups that are not one for each image, integers or text, with none missing."""
    if groups.dims != ("image",):
        raise CubeFormatError(f"groups{where} have dims {groups.dims}; expected ('image',), one group for each image")
    values = to_column(groups.values, "groups")
    absent = missing(values)
    if absent.any():
        raise CubeFormatError(
            f"groups{where} are missing for {int(absent.sum())} of {n_images} images; the first is image number "
            f"{int(np.flatnonzero(absent)[0])}. Give an image that belongs to no other a group of its own."
        )
    if values.dtype.kind not in "iubUSTO" or (values.dtype == object and not all(isinstance(v, str) for v in values)):
        raise CubeFormatError(
            f"groups{where} have dtype {values.dtype}; expected integers or text. A coordinate of this name that says "
            "something else goes by .rename(groups=...)"
        )


def ids_of(data: xr.Dataset | xr.DataArray) -> NDArray[Any]:
    """Id of each image: row numbers where there are none, and for an index of several levels these joined by "/"."""
    if "image" not in data.coords:
        return np.arange(data.sizes["image"])
    ids = to_column(data.coords["image"].values, "image ids")
    if ids.dtype == object and all(isinstance(one, tuple) for one in ids):
        return np.array(["/".join(map(str, one)) for one in ids])
    return ids


def decoded(name: str, variable: xr.Variable) -> xr.Variable:
    """The variable, with the fill value that its attributes name as NaN, as xarray's own readers have it by default."""
    if not {"_FillValue", "missing_value", "scale_factor", "add_offset"} & set(variable.attrs):
        return variable
    dataset: xr.Dataset = xr.decode_cf(xr.Dataset({name: variable}), decode_times=False, decode_coords=False)
    return dataset[name].variable


def is_stored(variable: xr.Variable) -> bool:
    """Whether the values of a variable are still in a file."""
    return "source" in variable.encoding or not (variable._in_memory or variable.chunks is not None)


class _OneLevel(BackendArray):
    """A stored (image, view, feature) variable, seen as (image, view, sigma, feature) without reading it."""

    def __init__(self, variable: xr.Variable) -> None:
        n_images, n_views, n_features = variable.shape
        self.variable = variable
        self.shape = (n_images, n_views, 1, n_features)
        self.dtype = variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        image, view, sigma, feature = key
        values: NDArray[Any] = np.asarray(self.variable[image, view, feature].values)
        if isinstance(sigma, int | np.integer):
            return values
        axis = sum(not isinstance(k, int | np.integer) for k in (image, view))
        expanded: NDArray[Any] = np.take(np.expand_dims(values, axis), np.arange(1)[sigma], axis=axis)
        return expanded


def check_dtype(dtype: np.dtype[Any], name: str, where: str, stored: bool) -> None:
    """Refuse features that are not real numbers, and in a file also those that are not floating point."""
    if dtype.kind == "f" or (dtype.kind in "iub" and not stored):
        return
    kind = {"O": "objects", "U": "text", "S": "text", "T": "text", "c": "complex numbers"}.get(dtype.kind, str(dtype))
    raise CubeFormatError(
        f"layer {name!r}{where} holds {kind} (dtype {dtype}); wanted float32, float64 or float16. "
        "Convert before storing: array.astype('float32')."
    )


def check_ids(ids: NDArray[Any], where: str) -> None:
    absent = np.flatnonzero(missing(ids))
    if absent.size:
        raise CubeFormatError(
            f"image ids are missing{where}: {absent.size} of {ids.size}, the first at row {absent[0]}; every image "
            "needs an id"
        )
    comparable = ids.astype(str) if ids.dtype == object else ids
    values, counts = np.unique(comparable, return_counts=True)
    repeated = values[counts > 1]
    if repeated.size:
        raise CubeFormatError(
            f"image ids repeat{where}: {repeated.size} of them, the first {repeated[0].item()!r} at rows "
            f"{np.flatnonzero(comparable == repeated[0])[:5].tolist()}; every image needs its own id"
        )


def check_levels(levels: NDArray[np.float64], where: str) -> None:
    known = np.sort(levels[~np.isnan(levels)])
    close = np.flatnonzero(np.diff(known) <= SIGMA_TOLERANCE * np.abs(known[1:]))
    if close.size or np.isinf(levels).any() or (np.isnan(levels).any() and levels.size > 1):
        raise CubeFormatError(f"noise levels{where} must differ and be finite numbers; found {listed(levels)}")
    if known.size and known[0] < 0:
        raise CubeFormatError(
            f"noise levels{where} are ratios of noise to signal, 0 or more; found {listed(levels)}. A log "
            "signal-to-noise ratio s is the level exp(-s/2)."
        )


def source_of(data: xr.Dataset | xr.DataArray) -> str | None:
    source = data.encoding.get("source")
    return None if source is None else str(source)


def listed(levels: NDArray[np.float64]) -> str:
    shown = [f"{level:g}" for level in levels]
    return ", ".join(shown if len(shown) <= 24 else [*shown[:12], "...", *shown[-4:]])


def feature_dim(layer: str) -> str:
    return f"feature_{layer}"


def find_level(levels: NDArray[np.float64], sigma: float, tolerance: float, where: str) -> int:
    """Index of the level nearest to sigma within a relative tolerance."""
    if np.isnan(sigma) and np.isnan(levels).all():
        return 0
    distance = np.abs(levels - sigma)
    near = np.flatnonzero(distance <= tolerance * np.abs(levels))
    if not near.size:
        raise CubeFormatError(
            f"no level sigma={sigma:g}{where} (within a relative {tolerance:g}); levels: {listed(levels)}"
        )
    return int(near[np.argmin(distance[near])])


def image_rows(key: Any, n_images: int) -> slice | NDArray[np.intp]:
    """Images that an index means: a slice, or row numbers from 0 on."""
    if isinstance(key, slice):
        return key
    rows = np.asarray(key)
    if rows.dtype == bool:
        if rows.shape != (n_images,):
            raise IndexError(f"a mask of {rows.size} for {n_images} images")
        return np.flatnonzero(rows)
    if rows.size == 0:
        return np.empty(0, dtype=np.intp)
    if rows.dtype.kind not in "iu" or rows.ndim > 1:
        raise IndexError(f"images are selected by integers, a slice or a mask, not {type(key).__name__} {rows.dtype}")
    rows = np.atleast_1d(rows).astype(np.intp)
    if rows.min() < -n_images or rows.max() >= n_images:
        raise IndexError(f"image {int(rows.max() if rows.max() >= n_images else rows.min())} of {n_images} images")
    return np.where(rows < 0, rows + n_images, rows)
