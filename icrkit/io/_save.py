"""A cube into one file: through a store beside it, so that blocks stream and a digest stands at the end."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from icrkit.cube import Cube
from icrkit.io._layout import TARGET_BLOCK_BYTES
from icrkit.io._pack import check_ending, pack
from icrkit.io._writer import CubeWriter

__all__ = ["save_cube"]


def save_cube(cube: Cube, path: str | Path) -> Path:
    """Write a cube to one file: see `Cube.save`."""
    out = Path(os.path.abspath(path))
    check_ending(out)
    kinds = [cube[layer].dtype for layer in cube.layers]
    dtype = np.result_type(*kinds) if all(kind.kind == "f" for kind in kinds) else np.dtype(np.float64)
    image_bytes = cube.n_views * len(cube.sigmas) * sum(cube.n_features.values()) * dtype.itemsize
    step = max(1, TARGET_BLOCK_BYTES // image_bytes)
    with tempfile.TemporaryDirectory(prefix=".icrkit-save-", dir=out.parent) as folder:
        store = Path(folder) / "x.cube"
        with CubeWriter(
            store, cube.n_features, cube.sigmas, cube.n_views, cube.n_images, dtype=str(dtype), attrs=cube.attrs
        ) as writer:
            for start in range(0, cube.n_images, step):
                part = cube[start : start + step]
                features = {layer: part[layer].values for layer in part.layers}
                writer.append(part.image_ids, features, labels=part.labels, groups=part.groups)
        return pack(store, out)
