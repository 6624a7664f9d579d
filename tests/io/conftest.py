"""Small stores, written in a moment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from icrkit.io import CubeWriter

SIGMAS = (0.1, 0.3, 1.0)
LAYERS = {"mid": 5, "up.0": 4}


class Store:
    """Features of a small cube, and a writer of them."""

    n_images = 23
    block_size = 5
    n_blocks = 5

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.features: dict[str, NDArray[Any]] = {
            name: rng.normal(size=(self.n_images, 2, len(SIGMAS), d)).astype("f4") for name, d in LAYERS.items()
        }
        self.ids = np.array([f"bild-{i}-ü" for i in range(self.n_images)])
        self.labels = np.arange(self.n_images) % 4

    def open(self, path: Path, **changes: Any) -> CubeWriter:
        options: dict[str, Any] = {
            "layers": LAYERS,
            "sigmas": SIGMAS,
            "n_views": 2,
            "n_images": self.n_images,
            "block_size": self.block_size,
            "attrs": {"seed": 3, "step": 40, "augmentation": {"crop": [0.2, 1.0]}},
        }
        return CubeWriter(path, **(options | changes))

    def append(self, writer: CubeWriter, images: Iterable[int]) -> None:
        rows = np.array(list(images), dtype=int)
        writer.append(self.ids[rows], {k: h[rows] for k, h in self.features.items()}, labels=self.labels[rows])

    def write(self, path: Path, step: int = 4, **changes: Any) -> Path:
        with self.open(path, **changes) as writer:
            for first in range(writer.done_images, self.n_images, step):
                self.append(writer, range(first, min(first + step, self.n_images)))
        return path

    def begin(self, path: Path, n_blocks: int) -> Path:
        """A store whose writer ended after n_blocks."""
        with self.open(path) as writer:
            self.append(writer, range(n_blocks * self.block_size))
        return path


def contents(path: Path) -> dict[str, str]:
    """sha256 of each file by name."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(path.iterdir())}


def flip(path: Path, offset: int) -> None:
    """Flip one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 4
    path.write_bytes(raw)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def files() -> Callable[[Path], dict[str, str]]:
    return contents


@pytest.fixture
def flip_bit() -> Callable[[Path, int], None]:
    return flip
