"""The data contract: features of images under repeated views at several noise levels.

A cube is an :class:`xarray.Dataset` with one variable a layer and dims ``(image, view, sigma, feature_LAYER)``. This
file checks that contract, once for everybody, and makes a cube indexable by scikit-learn. Files are read elsewhere
(``icrkit.io``): a lazily opened cube is the same class around lazily indexed variables.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from icrkit._arrays import missing, to_column, to_numpy
from icrkit._contract import (
    AXES,
    SIGMA_TOLERANCE,
    as_dataset,
    checked,
    encoded_attrs,
    feature_dim,
    find_level,
    image_rows,
    listed,
    source_of,
)
from icrkit._rows import common_count, image_of_rows, labels_by_image, layers_and_levels
from icrkit._swapped import warn_if_swapped
from icrkit.exceptions import CubeFormatError

__all__ = ["Cube", "from_arrays", "from_rows"]


class Cube:
    """Features of images under repeated views at several noise levels, by layer.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        A Dataset with one variable a layer, dims ``(image, view, sigma, feature_LAYER)`` in any order, or a DataArray
        ``(image, view, sigma, feature)`` of one layer, whose name is the layer's. Numpy-, dask- or file-backed; nothing
        is read. A variable without a ``sigma`` dim has one level, its scalar coordinate ``sigma`` or NaN (not known).
        Coordinates that are understood: ``image`` (unique ids; row numbers if absent), ``sigma`` (float64 levels), and
        along ``image`` ``labels`` and ``groups``.

    Raises
    ------
    CubeFormatError
        When dims are missing or unnamed, features are not numbers (or, in a file, not floating point), two images
        have one id, or two levels are equal.

    Notes
    -----
    ``len(cube)`` is the number of images and ``cube[rows]`` selects images, so scikit-learn splits a cube as it is.
    ``cube["mid"]`` is a layer. Pickling a cube that was opened from a file carries paths, not features.

    Examples
    --------
    >>> import numpy as np
    >>> from icrkit.cube import from_arrays
    >>> cube = from_arrays({"mid": np.zeros((5, 2, 3, 4))}, sigmas=[0.1, 0.3, 1.0])
    >>> cube
    <icrkit.Cube: 5 images x 2 views x 3 levels>
      layers: mid (4 features, float64)
      sigmas: 0.1, 0.3, 1
    >>> cube["mid"].dims
    ('image', 'view', 'sigma', 'feature')
    >>> cube[[0, 3]].select(sigma=0.3).level().shape
    (2, 2, 4)
    """

    _data: xr.Dataset
    _source: str | None

    def __init__(self, data: xr.Dataset | xr.DataArray) -> None:
        dataset = as_dataset(data)
        self._source = source_of(data)
        self._data = checked(dataset, self._source)

    @classmethod
    def _wrap(cls, data: xr.Dataset, source: str | None) -> Cube:
        # Subsets of a checked cube need no second check, and a bootstrap sample may repeat an image.
        cube = cls.__new__(cls)
        cube._data = data
        cube._source = source
        return cube

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order in which they were given."""
        return tuple(str(name) for name in self._data.data_vars)

    @property
    def sigmas(self) -> NDArray[np.float64]:
        """Noise levels, float64, in stored order; NaN where the level is not known."""
        return np.array(self._data["sigma"].values, dtype=np.float64)

    @property
    def n_images(self) -> int:
        """Number of images."""
        return int(self._data.sizes["image"])

    @property
    def n_views(self) -> int:
        """Number of views of each image."""
        return int(self._data.sizes["view"])

    @property
    def n_features(self) -> dict[str, int]:
        """Number of features of each layer."""
        return {name: int(self._data[name].shape[3]) for name in self.layers}

    @property
    def labels(self) -> NDArray[Any] | None:
        """Label of each image, or None where labels are not known."""
        return np.array(self._data["labels"].values) if "labels" in self._data.coords else None

    @property
    def groups(self) -> NDArray[Any] | None:
        """What each image belongs to, such as a patient, a scene or a video, or None where every image is by itself.

        Images of one group are not independent: they fall into one fold, and intervals are over groups.
        """
        return to_column(self._data["groups"].values, "groups") if "groups" in self._data.coords else None

    @property
    def image_ids(self) -> NDArray[Any]:
        """Id of each image: the row number in the whole cube where none were given."""
        return np.array(self._data["image"].values)

    @property
    def attrs(self) -> dict[str, Any]:
        """What is known about the extraction: model, seeds, augmentation, pooling, training step."""
        return {str(key): value for key, value in self._data.attrs.items()}

    @property
    def step(self) -> int | None:
        """Training step of the checkpoint, from ``attrs["step"]``, or None."""
        step = self._data.attrs.get("step")
        return None if step is None else int(step)

    @property
    def source(self) -> str | None:
        """Path of the file or folder the cube was opened from, or None."""
        return self._source

    @property
    def shape(self) -> tuple[int, ...]:
        """(images, views, levels), and the number of features where there is only one layer."""
        head = (self.n_images, self.n_views, int(self._data.sizes["sigma"]))
        sizes = tuple(self.n_features.values())
        return head + sizes if len(sizes) == 1 else head

    def __len__(self) -> int:
        return self.n_images

    def __iter__(self) -> Iterator[Cube]:
        for row in range(self.n_images):
            yield self[row]

    @overload
    def __getitem__(self, key: str) -> xr.DataArray: ...

    @overload
    def __getitem__(self, key: Any) -> Cube: ...

    def __getitem__(self, key: Any) -> Cube | xr.DataArray:
        if isinstance(key, str):
            return self._layer(key)
        if isinstance(key, tuple):
            rest = key[1:]
            if not key or any(not (part is Ellipsis or _is_full_slice(part)) for part in rest):
                raise IndexError(
                    "a Cube is indexed by image only: cube[rows] or cube[rows, ...]. For a layer use cube['name'], for "
                    "a level cube.select(sigma=...), for views and features cube['name'].isel(view=..., feature=...)."
                )
            key = key[0]
        if key is Ellipsis:
            return self
        rows = image_rows(key, self.n_images)
        return Cube._wrap(self._data.isel(image=rows), self._source)

    def _layer(self, name: str) -> xr.DataArray:
        if name not in self._data.data_vars:
            raise CubeFormatError(f"no layer {name!r}{self._where()}; its layers are {', '.join(self.layers)}")
        # A new DataArray each time: a caller who loads it does not fill this cube's memory.
        array: xr.DataArray = self._data[name].copy(deep=False)
        array = array.rename({feature_dim(name): "feature"})
        array.attrs.update(self._data.attrs)
        array.encoding = dict(self._data[name].encoding)
        if self._source is not None:
            array.encoding["source"] = self._source
        return array

    def select(
        self,
        layer: str | Sequence[str] | None = None,
        sigma: float | Sequence[float] | NDArray[Any] | None = None,
        tolerance: float = SIGMA_TOLERANCE,
    ) -> Cube:
        """Cube with only the layers and noise levels asked for; lazy.

        Parameters
        ----------
        layer : str or sequence of str, optional
            Layers to keep; all by default.
        sigma : float or sequence of float, optional
            Noise levels to keep; all by default.
        tolerance : float
            Largest relative distance between a level asked for and the stored one.

        Returns
        -------
        Cube

        Raises
        ------
        CubeFormatError
            When there is no such layer, or no level within the tolerance; the message lists what there is.
        """
        data = self._data
        if layer is not None:
            names = [layer] if isinstance(layer, str) else list(layer)
            for name in names:
                if name not in data.data_vars:
                    raise CubeFormatError(f"no layer {name!r}{self._where()}; its layers are {', '.join(self.layers)}")
            data = data[names]
        if sigma is not None:
            wanted = np.atleast_1d(to_numpy(sigma, "sigma").astype(np.float64))
            levels = self.sigmas
            data = data.isel(sigma=[find_level(levels, float(s), tolerance, self._where()) for s in wanted])
        return Cube._wrap(data, self._source)

    def level(self) -> xr.DataArray:
        """Features (image, view, feature) of the only layer at the only level; lazy.

        Returns
        -------
        xarray.DataArray

        Raises
        ------
        CubeFormatError
            When there are several layers or levels; the message lists them.
        """
        if len(self.layers) != 1 or self._data.sizes["sigma"] != 1:
            raise CubeFormatError(
                f"one layer and one noise level are needed; the cube{self._where()} has layers "
                f"{', '.join(self.layers)} and levels {listed(self.sigmas)}. Choose with cube.select(layer=..., "
                "sigma=...), or SelectLevel in a pipeline."
            )
        return self._layer(self.layers[0]).isel(sigma=0)

    def to_xarray(self) -> xr.Dataset:
        """Dataset with dims (image, view, sigma, feature_LAYER), one variable per layer; as lazy as the cube.

        Any of xarray's writers can store it: attributes other than numbers and text are JSON text behind "json:", which
        `Cube` and :func:`icrkit.open_cube` turn back.
        """
        data = self._data.copy(deep=False)
        data.attrs = encoded_attrs(data.attrs)
        return data

    def save(self, path: str | Path) -> Path:
        """Write the cube to one file, which :func:`icrkit.open_cube` reads back equal.

        Parameters
        ----------
        path : str or Path
            A packed NetCDF4 file, "out.h5" or "out.nc", with a digest; replaced as a whole at the end.

        Returns
        -------
        Path

        Raises
        ------
        CubeFormatError
            Repeated or missing ids, some labels missing, or attributes that JSON cannot hold.
        NonFiniteError
            NaN or infinity among the features.
        OSError
            When the disk is full; nothing is left behind.

        Notes
        -----
        A block of images is in memory at a time. Beside the file its size is needed once more while it is written.
        Features keep their type; layers of several types get the widest, and integers become float64.
        """
        from icrkit.io._save import save_cube  # io lies above this module: the cube saves itself, and is no file

        return save_cube(self, path)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        # Without this numpy would take a cube for a sequence of cubes.
        values: NDArray[Any] = np.asarray(self.level().values, dtype=dtype)
        return values.copy() if copy else values

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def _where(self) -> str:
        return "" if self._source is None else f" of {self._source}"

    def __repr__(self) -> str:
        words = f"{self.n_images} images x {self.n_views} views x {self._data.sizes['sigma']} levels"
        lines = [f"<icrkit.Cube: {words}{_from(self._source)}>"]
        sizes = self.n_features
        lines.append(
            "  layers: " + ", ".join(f"{name} ({sizes[name]} features, {self._data[name].dtype})" for name in sizes)
        )
        lines.append(f"  sigmas: {listed(self.sigmas)}")
        if "labels" in self._data.coords:
            labels = to_column(self._data["labels"].values, "labels")
            absent = missing(labels)
            without = f", {int(absent.sum())} images without" if absent.any() else ""
            lines.append(f"  labels: {len(set(labels[~absent].tolist()))} different{without}")
        if (groups := self.groups) is not None:
            lines.append(f"  groups: {len(np.unique(groups))} different")
        if self._data.attrs:
            known = ", ".join(f"{key}={_short(value)}" for key, value in list(self._data.attrs.items())[:8])
            lines.append(f"  attrs: {known}{', ...' if len(self._data.attrs) > 8 else ''}")
        return "\n".join(lines)


def from_arrays(
    layers: Mapping[str, ArrayLike] | ArrayLike,
    sigmas: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    image_ids: ArrayLike | None = None,
    attrs: Mapping[str, Any] | None = None,
    groups: ArrayLike | None = None,
) -> Cube:
    """Cube from arrays in memory.

    Parameters
    ----------
    layers : dict of str to array, or array
        Features ``(image, view, sigma, feature)``, or ``(image, view, feature)`` for one level; anything that
        ``numpy.asarray`` takes. A bare array is a layer called "features". Not copied.
    sigmas : array of shape (levels,), optional
        Noise levels; may be left out where there is one level.
    labels : array of shape (images,), optional
        Label of each image.
    image_ids : array of shape (images,), optional
        Unique ids; row numbers by default.
    attrs : dict, optional
        What is known about the extraction; ``attrs["step"]`` is the training step.
    groups : array of shape (images,), optional
        What each image belongs to, where images are not independent: its patient, scene, video or burst. Integers or
        text. Whole groups fall into one fold, and intervals and tests are over groups.

    Returns
    -------
    Cube

    Raises
    ------
    CubeFormatError
        When shapes do not agree, ids repeat, groups are missing for some images, or features are not numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from icrkit.cube import from_arrays
    >>> from_arrays(np.zeros((4, 2, 8)), sigmas=0.3).shape
    (4, 2, 1, 8)
    """
    arrays, levels = layers_and_levels(layers, sigmas)
    for name, array in arrays.items():
        warn_if_swapped(array[:, :, 0], f"layer {name!r}")
    return _of_arrays(arrays, levels, labels, image_ids, attrs, groups)


def _of_arrays(
    arrays: Mapping[str, NDArray[Any]],
    levels: NDArray[np.float64],
    labels: Any,
    image_ids: Any,
    attrs: Any,
    groups: Any = None,
) -> Cube:
    n_images = next(iter(arrays.values())).shape[0]
    coords: dict[Hashable, Any] = {"sigma": levels}
    for key, given_coord in (("image", image_ids), ("labels", labels), ("groups", groups)):
        if given_coord is not None:
            what = "image_ids" if key == "image" else key
            values = to_column(given_coord, what)
            if values.shape != (n_images,):
                raise CubeFormatError(f"{what} has shape {values.shape}; wanted ({n_images},), one for each image")
            coords[key] = ("image", values)
    variables = {name: ((*AXES, feature_dim(name)), array) for name, array in arrays.items()}
    return Cube(xr.Dataset(variables, coords=coords, attrs=dict(attrs or {})))


def from_rows(
    X: ArrayLike,
    groups: ArrayLike | None = None,
    n_views: int | None = None,
    sigma: float | None = None,
    labels: ArrayLike | None = None,
) -> Cube:
    """Cube from a flat dump of features, one row a view of an image.

    Parameters
    ----------
    X : array of shape (rows, features)
        Features.
    groups : array of shape (rows,), optional
        Image of each row. Rows are sorted stably by image: images come in ascending order, and the views of an image
        in the order of its rows. Such views have no common order (view 0 of one image need not correspond to view 0
        of another), and the cube says so: ``attrs["views_ordered"]`` is False.
    n_views : int, optional
        Without ``groups``: this many consecutive rows belong to an image. With ``groups``: checked.
    sigma : float, optional
        Noise level of all rows.
    labels : array of shape (rows,) or (images,), optional
        Label of each row (equal within an image), or of each image in ascending order of ``groups``.

    Returns
    -------
    Cube

    Raises
    ------
    CubeFormatError
        When X is not 2-D, images differ in their number of views, or neither groups nor n_views are given.

    Examples
    --------
    >>> import numpy as np
    >>> from icrkit.cube import from_rows
    >>> cube = from_rows(np.arange(8.0).reshape(4, 2), groups=["b", "a", "b", "a"], sigma=0.3)
    >>> cube.image_ids.tolist(), cube.level().values[0].tolist()
    (['a', 'b'], [[2.0, 3.0], [6.0, 7.0]])
    """
    rows = to_numpy(X)
    if rows.ndim != 2:
        raise CubeFormatError(f"X has shape {rows.shape}; wanted (row, feature); arrays by view: from_arrays")
    n_rows, width = rows.shape
    given_labels = None if labels is None else to_column(labels, "labels")
    if groups is None:
        if n_views is None:
            raise CubeFormatError("which rows are views of one image? Give groups= (image of each row) or n_views=")
        if n_views < 1 or n_rows % n_views:
            raise CubeFormatError(f"{n_rows} rows are not a whole number of images of {n_views} views; give groups=")
        order, ids, attrs = np.arange(n_rows), np.arange(n_rows // n_views), {}
    else:
        images = image_of_rows(groups, n_rows)
        ids, inverse, counts = np.unique(images, return_inverse=True, return_counts=True)
        n_views = common_count(ids, counts, n_views)
        order, attrs = np.argsort(inverse, kind="stable"), {"views_ordered": False}
    if given_labels is not None:
        given_labels = labels_by_image(given_labels, order, ids, n_views)
    ordered = rows if groups is None else rows[order]
    arrays, levels = layers_and_levels(ordered.reshape(len(ids), n_views, width), sigma)
    return _of_arrays(arrays, levels, given_labels, ids, attrs)


def _from(source: str | None) -> str:
    return "" if source is None else f", from {source}"


def _is_full_slice(part: Any) -> bool:
    return isinstance(part, slice) and part == slice(None)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 32 else text[:29] + "..."
