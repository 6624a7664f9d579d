"""Random draws as a pure function of (seed, image id, view, purpose).

A counter-based generator (Philox: Salmon et al. 2011, doi 10.1145/2063384.2063405) is keyed by a hash of
the four, so a draw depends on nothing that came before it: not on the batch, the order, the shard, or
where a resumed run started.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.random import Generator, Philox

__all__ = ["generator", "generators", "normals"]


def _encoded(image_id: object) -> bytes:
    """An image id as bytes; the first one is the kind, so that 3 and "3" are two images."""
    if isinstance(image_id, str):
        # Names of files may hold lone surrogates, which strict UTF-8 refuses.
        return b"s" + image_id.encode("utf-8", "surrogatepass")
    if isinstance(image_id, bool | np.bool_):
        raise TypeError("an image id is an int or a string, not a bool")
    try:
        return b"i%d" % operator.index(image_id)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"an image id is an int or a string, not {type(image_id).__name__} ({image_id!r})") from None


def _keys(seed: int, image_ids: Iterable[object], view: int, purpose: str) -> Iterator[np.ndarray]:
    # JSON closes its own brackets: no two of (seed, view, purpose, id) run together to the same bytes.
    prefix = hashlib.blake2b(json.dumps([operator.index(seed), operator.index(view), purpose]).encode(), digest_size=16)
    for image_id in image_ids:
        digest = prefix.copy()
        digest.update(_encoded(image_id))
        yield np.frombuffer(digest.digest(), dtype="<u8")


def generator(seed: int, image_id: int | str, view: int, purpose: str) -> Generator:
    """Random generator of one image, one view and one purpose.

    Parameters
    ----------
    seed : int
        Seed of the whole extraction.
    image_id : int or str
        Identity of the image; numpy integers equal Python integers, the string "3" differs from 3.
    view : int
        Number of the view.
    purpose : str
        What is drawn, such as "noise": two purposes never share a draw.

    Returns
    -------
    numpy.random.Generator

    Raises
    ------
    TypeError
        If the id is neither an integer nor a string.

    Examples
    --------
    >>> bool(generator(0, 7, 1, "noise").random() == generator(0, np.int64(7), 1, "noise").random())
    True
    """
    (key,) = _keys(seed, [image_id], view, purpose)
    return Generator(Philox(key=key))


def generators(seed: int, image_ids: Iterable[object], view: int, purpose: str) -> Iterator[Generator]:
    """The generator of each image in turn; each is valid until the next one is asked for.

    Parameters
    ----------
    seed, view, purpose : int, int, str
        As for `generator`.
    image_ids : iterable of int or str
        Identities of the images.

    Yields
    ------
    numpy.random.Generator
        One object, set to the start of each image's stream: five times as fast as making it anew.
    """
    bits = Philox(key=0)
    start, one = bits.state, Generator(bits)
    for key in _keys(seed, image_ids, view, purpose):
        start["state"]["key"] = key
        bits.state = start
        yield one


def normals(
    seed: int, image_ids: Iterable[object], view: int, shape: tuple[int, ...], purpose: str = "noise"
) -> np.ndarray:
    """Standard normal draws, one array an image.

    Parameters
    ----------
    seed, view, purpose : int, int, str
        As for `generator`.
    image_ids : iterable of int or str, of length n
        Identities of the images.
    shape : tuple of int
        Shape of one image.

    Returns
    -------
    ndarray (n, \\*shape), float32
    """
    ids = list(image_ids)
    draws = np.empty((len(ids), *shape), dtype=np.float32)
    for row, one in zip(draws, generators(seed, ids, view, purpose), strict=True):
        row[...] = one.standard_normal(shape, dtype=np.float32)
    return draws
