"""Folders of pictures: which files they are, their classes, and the pixels that each one holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from icrkit_extractors._image_form import Form, colours, from_pillow, pillow
from icrkit_extractors._image_labels import class_labels
from icrkit_extractors._image_set import ImageSet, OneByOne, mixed_channels, mixed_sizes

__all__ = ["SUFFIXES", "open_folder"]

_T = TypeVar("_T")

# By content as well as by name: some of Pillow's readers run other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
# Pillow lets other threads run while it decodes and resizes.
_THREADS = min(8, os.cpu_count() or 1)


def _pictured(path: Path, use: Callable[[Any], _T]) -> _T:
    """What `use` makes of an image file that Pillow has opened, or an error that names the file."""
    module = pillow()
    try:
        with module.open(path, formats=_FORMATS) as image:
            return use(image)
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # each of Pillow's readers raises its own kinds
        said = str(error) if isinstance(error, ValueError) else f"cannot be read as an image: {error}"
        raise ValueError(f"{path}: {said}") from error


def _decoded(path: Path, background: int | None) -> np.ndarray:
    from PIL import ImageOps

    def pixels(image: Any) -> np.ndarray:
        image.load()
        return from_pillow(ImageOps.exif_transpose(image), background)

    # Checksums, where the format has them: decoding a PNG does not look at them. After it an image must be reopened.
    _pictured(path, lambda image: image.verify())
    return _pictured(path, pixels)


def _head(path: Path) -> tuple[tuple[int, int], int]:
    """Height and width, and channels, of an image file, without decoding it."""
    from PIL import ImageOps

    def look(image: Any) -> tuple[tuple[int, int], int]:
        channels = colours(image)
        # A PNG's would be looked for behind its pixels, by decoding them.
        turned = (image.format != "PNG" or "exif" in image.info) and image.getexif().get(0x0112, 1) >= 5
        if turned and image.format == "TIFF":
            # Versions of Pillow differ in whether its size is turned already.
            image, turned = ImageOps.exif_transpose(image), False
        width, height = image.size
        return ((width, height) if turned else (height, width)), channels

    return _pictured(path, look)


def _files(folder: Path) -> list[str]:
    """Paths of the image files within a folder, sorted folder by folder; links are followed, hidden names are not."""

    def refuse(error: OSError) -> None:
        raise error  # a folder that cannot be read would be left out in silence

    found, others, entered = [], set(), set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        about = os.stat(parent)
        if (about.st_dev, about.st_ino) in entered:
            folders.clear()
            continue
        entered.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(parent, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() in SUFFIXES and path.is_file():  # a pipe of that name would never end
                found.append(path.relative_to(folder).parts)
            else:
                others.add(path.suffix or name)
    if not found:
        held = f"it holds {', '.join(sorted(others)[:8])}" if others else "it is empty"
        raise ValueError(f"{folder} holds no image file ({', '.join(SUFFIXES)}); {held}")
    names = ["/".join(parts) for parts in sorted(found)]
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        bad = next(name for name in names if "\\udc" in ascii(name))
        raise ValueError(f"{folder}: the name {bad!r} is not UTF-8, as an image id must be: rename the file") from error
    return names


def _classes(names: list[str]) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Labels and class names, where every image lies in one of two or more folders."""
    parts = [name.split("/", 1) for name in names]
    if min(map(len, parts)) < 2:
        return None
    class_names, labels = np.unique([first for first, _ in parts], return_inverse=True)
    return (labels, tuple(class_names.tolist())) if len(class_names) > 1 else None


@dataclass(frozen=True)
class _Pictures:
    """Image files of a folder, by number."""

    folder: Path
    names: list[str]
    background: int | None

    def __getstate__(self) -> dict[str, Any]:
        # Another process may have another working folder.
        return {**vars(self), "folder": self.folder.absolute()}

    def pixels(self, row: int) -> np.ndarray:
        return _decoded(self.folder / self.names[row], self.background)

    def name(self, row: int) -> str:
        return str(self.folder / self.names[row])


def open_folder(folder: Path, form: Form, labels: Any) -> ImageSet:
    pillow()
    from PIL import ImageFile

    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ValueError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, with which half an image passes for a whole one: unset it"
        )
    names = _files(folder)
    if form.size is None or form.channels is None:
        # Found now rather than after hours.
        size, channels = _head(folder / names[0])
        for name in names[1:]:
            other, others = _head(folder / name)
            if form.size is None and other != size:
                raise mixed_sizes(str(folder / names[0]), size, str(folder / name), other)
            if form.channels is None and others != channels:
                raise mixed_channels(str(folder / names[0]), channels, str(folder / name), others)
    known: dict[str, Any] = {}
    if labels is not None and labels is not False:
        known["labels"] = class_labels(labels, len(names), str(folder))
    elif labels is None and (classes := _classes(names)) is not None:
        known["labels"], known["class_names"] = classes
    read = OneByOne(_Pictures(folder, names, form.background), form, _THREADS)
    return ImageSet(read, len(names), {"kind": "folder", **form.config()}, image_ids=np.array(names), **known)
