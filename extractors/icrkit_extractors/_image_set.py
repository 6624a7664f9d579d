"""Images that are read when they are asked for, many at once or one by one."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from icrkit.exceptions import CubeCorruptError
from icrkit_extractors._image_form import Form

__all__ = ["ImageSet", "Items", "OneByOne", "Rows", "mixed_channels", "mixed_sizes"]

Rows = np.ndarray


class ImageSet:
    """Images that are read when they are asked for; made by `open_images` and `from_dataset`.

    Attributes
    ----------
    shape : tuple of int
        (n, channel, height, width).
    dtype : numpy.dtype
        uint8 or float32.
    class_names : tuple of str or None
        Names of the classes that integer labels count.

    Examples
    --------
    >>> import tempfile
    >>> from icrkit_extractors.images import open_images
    >>> path = tempfile.mkdtemp() + "/images.npy"
    >>> np.save(path, np.zeros((20, 8, 8, 3), dtype=np.uint8))
    >>> images = open_images(path)
    >>> images
    ImageSet(npy: 20 images, 3 x 8 x 8, uint8)
    >>> images[5:7].shape
    (2, 3, 8, 8)
    >>> images.take([3, 17]).image_ids
    array([ 3, 17])
    """

    def __init__(
        self,
        read: Callable[[Rows], np.ndarray],
        n: int,
        record: Mapping[str, Any],
        *,
        image_ids: np.ndarray | None = None,
        labels: np.ndarray | Callable[[Rows], np.ndarray] | None = None,
        class_names: tuple[str, ...] | None = None,
        _rows: Rows | None = None,
        _first: np.ndarray | None = None,
    ) -> None:
        self._read, self._record = read, dict(record)
        self._ids, self._labels, self.class_names = image_ids, labels, class_names
        self._rows = np.arange(n) if _rows is None else _rows
        if not len(self._rows):
            raise ValueError("no image is left")
        # One image tells the shape of all; what cannot be read is found now.
        first = read(self._rows[:1]) if _first is None else _first
        self.shape: tuple[int, ...] = (len(self._rows), *first.shape[1:])
        self.dtype: np.dtype[Any] = first.dtype
        self._first = first
        self._elsewhere = False

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which reads the same files: pixels do not travel, except those held in memory."""
        return {**vars(self), "_elsewhere": True}

    def _check_files(self) -> None:
        """In another process, at the first use: whether the files there are those of this set."""
        if self._elsewhere:
            here = self._read(self._rows[:1])
            if here.dtype != self.dtype or not np.array_equal(here, self._first, equal_nan=here.dtype.kind == "f"):
                raise CubeCorruptError(
                    f"image {self.image_ids[0].item()!r} is not the one that it was where this set was opened: "
                    "the files have changed, or are others here"
                )
            self._elsewhere = False

    def _images(self, rows: Rows) -> np.ndarray:
        self._check_files()
        return self._read(rows)

    @property
    def own_streams(self) -> bool:
        """Whether any thread may read them: not where they are somebody else's data set."""
        return bool(self._record["kind"] != "dataset")

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        n, *shape = self.shape
        return f"ImageSet({self._record['kind']}: {n} images, {' x '.join(map(str, shape))}, {self.dtype})"

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Images (n, channel, height, width) of a slice or of an array of rows; (channel, height, width) of one row."""
        wanted = self._rows[rows]
        if np.ndim(wanted) == 0:
            image: np.ndarray = self._images(wanted[None])[0]
            return image
        if wanted.ndim != 1:
            raise IndexError(f"images are taken by a slice or by one axis of rows, not by {wanted.ndim}")
        return self._images(wanted) if len(wanted) else np.empty((0, *self.shape[1:]), self.dtype)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), 64):
            yield from self[start : start + 64]

    @property
    def image_ids(self) -> np.ndarray:
        """Identities: paths within the folder, or row numbers (those of the whole set, after `take`)."""
        return self._rows if self._ids is None else self._ids[self._rows]

    @property
    def labels(self) -> np.ndarray | None:
        """Classes (n,), or None; of a data set that does not list them, this reads every item once."""
        if callable(self._labels):
            self._labels = _by_row(self._labels(self._rows), self._rows)
        return None if self._labels is None else self._labels[self._rows]

    def take(self, rows: Any) -> ImageSet:
        """Some of the images, which keep their ids.

        Parameters
        ----------
        rows : int, slice, or array-like of int or bool
            The first `rows` images; or these rows; or those where a mask (n,) is True.

        Returns
        -------
        ImageSet

        Raises
        ------
        IndexError
            If there is no such row, or the mask has another length.
        ValueError
            If a row is named twice, or none at all.
        """
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            if rows.ndim == 0:
                count = operator.index(rows.item())
                if count < 0:
                    raise ValueError(f"cannot take {count} images")
                rows = slice(count)
            elif rows.size and rows.dtype.kind not in "iub":
                raise TypeError(f"rows must be integers or a mask, not {rows.dtype}")
            elif not rows.size:
                raise ValueError("no row is named")
        chosen = self._rows[rows]
        unique, counts = np.unique(chosen, return_counts=True)
        if len(unique) < len(chosen):
            raise ValueError(f"row {unique[counts > 1][0]} is named more than once")
        same_first = len(chosen) > 0 and chosen[0] == self._rows[0]
        self._check_files()
        return ImageSet(
            self._read, len(chosen), self._record, image_ids=self._ids, labels=self._labels,
            class_names=self.class_names, _rows=chosen, _first=self._first if same_first else None,
        )  # fmt: skip

    def fingerprint(self) -> str:
        """sha256 over the shape, the ids, and the pixels of the first and the last image.

        Two sets that differ elsewhere only have the same one: reading every image would cost as much as using it.
        """
        digest = hashlib.sha256(f"{self.shape} {self.dtype.str}".encode())
        for image_id in self.image_ids.tolist():
            digest.update(f"\0{image_id}".encode())
        for image in (self._first[0], self[-1]):
            digest.update(image.tobytes())
        return digest.hexdigest()

    def config(self) -> dict[str, Any]:
        """What the images are, for the attributes of a cube; not where they lie."""
        n, *shape = self.shape
        return {
            **self._record, "n": n, "shape": list(shape), "dtype": str(self.dtype), "fingerprint": self.fingerprint(),
            **({} if self.class_names is None else {"class_names": list(self.class_names)}),
        }  # fmt: skip


def _by_row(values: np.ndarray, rows: Rows) -> np.ndarray:
    """Values of some rows, at their places among all."""
    placed = np.zeros(int(rows.max()) + 1, dtype=values.dtype)
    placed[rows] = values
    return placed


# ---- images one by one ----------------------------------------------------------------------------------------------


def mixed_sizes(name: str, size: tuple[int, ...], other: str, other_size: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"images of different sizes: {name} is {size[0]} x {size[1]}, {other} is {other_size[0]} x {other_size[1]} "
        "(height x width); size=N makes all of them N x N"
    )


def mixed_channels(name: str, channels: int, other: str, others: int) -> ValueError:
    return ValueError(f"{name} has {channels} channels, {other} has {others}; channels=1 or 3 makes them the same")


class Items(Protocol):
    """Images that lie one by one."""

    def pixels(self, row: int) -> np.ndarray:
        """Pixels (height, width, channel)."""

    def name(self, row: int) -> str:
        """The image, for messages."""


class OneByOne:
    """Reads images one by one, which all must come out as the first does."""

    def __init__(self, items: Items, form: Form, threads: int) -> None:
        self._items, self._form, self._threads = items, form, threads
        self._name = items.name
        self._like: tuple[str, tuple[int, ...], np.dtype[Any]] | None = None

    def _one(self, row: int) -> np.ndarray:
        pixels = self._items.pixels(row)
        try:
            image: np.ndarray = self._form(pixels[None])[0]
        except ValueError as error:
            raise ValueError(f"{self._name(row)}: {error}") from error
        first, shape, dtype = self._like = self._like or (self._name(row), image.shape, image.dtype)
        if image.shape[1:] != shape[1:]:
            raise mixed_sizes(first, shape[1:], self._name(row), image.shape[1:])
        if image.shape != shape:
            raise mixed_channels(first, shape[0], self._name(row), image.shape[0])
        if image.dtype != dtype:
            raise ValueError(f"{first} is {dtype}, {self._name(row)} is {image.dtype}")
        return image

    def __call__(self, rows: Rows) -> np.ndarray:
        wanted = rows.tolist()
        if len(wanted) == 1 or self._threads == 1:
            return np.stack([self._one(row) for row in wanted])
        with ThreadPoolExecutor(self._threads, thread_name_prefix="icrkit-images") as pool:
            return np.stack(list(pool.map(self._one, wanted)))
