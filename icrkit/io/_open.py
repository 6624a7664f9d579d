"""open_cube: one way to open whatever holds a cube."""

from __future__ import annotations

import os
from pathlib import Path

from icrkit.cube import Cube
from icrkit.exceptions import CubeFormatError
from icrkit.io._foreign import open_foreign
from icrkit.io._layout import CONFIG_NAME, check_begun
from icrkit.io._packed import open_packed, packed_part
from icrkit.io._reader import check_mode, open_store
from icrkit.io._tensors import open_numpy, open_safetensors, open_torch
from icrkit.io._zarr import open_zarr

__all__ = ["open_cube"]

_HDF5 = (".h5", ".hdf5", ".nc", ".nc4")
_TENSORS = {
    ".npy": open_numpy, ".npz": open_numpy, ".pt": open_torch, ".pth": open_torch, ".safetensors": open_safetensors,
}  # fmt: skip


def open_cube(path: str | Path, allow_partial: bool = False, verify: str = "digest") -> Cube:
    """Cube in a file or folder, opened lazily.

    Parameters
    ----------
    path : str or Path
        A store written by `CubeWriter`; a packed or other NetCDF4 file (.h5, .nc); .zarr, through xarray; .npy, .npz,
        .safetensors, .pt with arrays (image, view, feature), (image, view, sigma, feature), or (row, feature), each row
        an image of one view.
    allow_partial : bool
        Open a store whose extraction has not ended, with the blocks that are there.
    verify : {"digest", "size"}
        Compare the sha256 of each part before it is parsed, once a process; or trust the disk, and compare sizes only.

    Returns
    -------
    Cube
        Only the layer and level that are used will be read.

    Raises
    ------
    CubeIncompleteError
        When blocks are missing ("n of N blocks").
    CubeCorruptError
        When bytes changed after they were written; for changes inside a part, when it is first read.
    CubeFormatError
        When there is no cube: wrong dims, types or ids.
    CubeUnsafeError
        When the file would have its reader open other files or load plugins.
    CubeTooLargeError
        When the file declares more than it can hold.
    FileNotFoundError
        When there is nothing at the path.

    Examples
    --------
    >>> import tempfile, numpy as np, icrkit as ik
    >>> path = tempfile.mkdtemp() + "/features.npz"
    >>> np.savez(path, mid=np.zeros((100, 2, 8)), up=np.zeros((100, 2, 4)))
    >>> ik.open_cube(path).layers
    ('mid', 'up')

    A store, of which only the level that is asked for is read:

    >>> path = tempfile.mkdtemp() + "/out.cube"
    >>> with ik.CubeWriter(path, {"mid": 8}, [0.1, 0.3], n_views=2, n_images=100) as writer:
    ...     writer.append(range(100), {"mid": np.ones((100, 2, 2, 8))})
    >>> ik.open_cube(path).select(sigma=0.3)["mid"].values.shape
    (100, 2, 1, 8)
    """
    check_mode(verify)
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise FileNotFoundError(2, "no such cube", str(path))
    if (path / CONFIG_NAME).is_file():
        return Cube(open_store(path, allow_partial, verify))
    suffix = path.suffix.lower()
    if suffix == ".zarr":
        return Cube(open_zarr(path))
    if path.is_file() and suffix in _HDF5:
        part = packed_part(path)
        return Cube(open_foreign(path) if part is None else open_packed(path, part, verify))
    if path.is_file() and suffix in _TENSORS:
        return _TENSORS[suffix](path)
    if path.is_dir():
        check_begun(path)
        raise CubeFormatError(f"{path} is a folder without {CONFIG_NAME}; expected a cube store or .zarr")
    raise CubeFormatError(
        f"{path}: expected a cube store (folder), {', '.join(_HDF5)}, .zarr, .npy, .npz, .safetensors or .pt"
    )
