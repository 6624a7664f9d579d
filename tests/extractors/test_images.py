"""Images of files, folders and data sets: the same pixels, and parts of them, whatever they lie in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from icrkit_extractors.images import from_dataset, open_images

N = 12


def nchw(images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, -1, 1)


# ---- the same pixels, wherever they lie -----------------------------------------------------------------------------


def stored(kind: str, where: Path, photos: np.ndarray) -> Path | str:
    """The photographs in a file of some kind."""
    if kind == "npy":
        np.save(where / "a.npy", photos)
        return where / "a.npy"
    if kind == "npz":
        np.savez_compressed(where / "a.npz", pictures=photos, weights=np.ones(5))
        return where / "a.npz"
    if kind == "fortran":
        np.save(where / "f.npy", np.asfortranarray(nchw(photos)))
        return where / "f.npy"
    if kind == "hdf5":
        with h5py.File(where / "a.h5", "w") as file:
            file.create_dataset("group/pictures", data=photos, chunks=(5, 24, 32, 3), compression="gzip")
        return f"{where / 'a.h5'}:group/pictures"
    if kind == "zarr":
        zarr.create_array(where / "a.zarr", data=photos, chunks=(5, 24, 32, 3))
        return where / "a.zarr"
    assert kind == "zarr group"
    group = zarr.create_group(where / "g.zarr")
    group.create_array("train/pictures", data=nchw(photos), chunks=(4, 3, 24, 32))
    return f"{where / 'g.zarr'}:train/pictures"


KINDS = ["npy", "npz", "fortran", "hdf5", "zarr", "zarr group"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_file_gives_the_array(kind, tmp_path, photos):
    images = open_images(stored(kind, tmp_path, photos))
    assert images.shape == (N, 3, 24, 32) and images.dtype == np.uint8 and len(images) == N
    assert images.labels is None and images.class_names is None
    np.testing.assert_array_equal(images.image_ids, np.arange(N))
    np.testing.assert_array_equal(images[:], nchw(photos))
    np.testing.assert_array_equal(images[[7, 0, 7]], nchw(photos)[[7, 0, 7]])
    assert images[3:3].shape == (0, 3, 24, 32)


@pytest.fixture(scope="module")
def opened(tmp_path_factory, photos):
    """One set of each kind, and what its whole is."""
    sets = [open_images(stored(kind, tmp_path_factory.mktemp("kinds"), photos)) for kind in KINDS]
    root = tmp_path_factory.mktemp("files")
    for k, photo in enumerate(photos):
        Image.fromarray(photo).save(root / f"{k:02}.png")
    sets += [open_images(root), from_dataset(list(photos)), open_images(root, size=16, channels=1)]
    return [(images, images[:]) for images in sets]


@settings(max_examples=60)
@given(data=st.data(), which=st.integers(0, len(KINDS) + 2))
def test_parts_are_parts_of_the_whole(opened, data, which):
    images, whole = opened[which]
    rows = data.draw(
        st.one_of(
            st.builds(slice, *[st.none() | st.integers(-N - 2, N + 2)] * 2, st.sampled_from([None, 1, 2, -1, -3])),
            st.lists(st.integers(-N, N - 1), min_size=1, max_size=2 * N).map(np.array),
            st.lists(st.booleans(), min_size=N, max_size=N).map(np.array),
        )
    )
    np.testing.assert_array_equal(images[rows], whole[rows])
    taken = np.arange(N)[rows]
    if len(taken) and len(set(taken.tolist())) == len(taken):
        some = images.take(rows)
        np.testing.assert_array_equal(some[::-1], whole[rows][::-1])
        np.testing.assert_array_equal(some.image_ids, images.image_ids[taken])


# ---- what is not opened ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"size": 0}, "size must be 1 or more"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"background": 256}, "background must be"),
        ({"value_range": (1, 0)}, "value_range must be"),
        ({"layout": "nchw"}, "layout is for arrays"),
        ({"key": "x"}, "no named arrays"),
    ],
)
def test_parameters_out_of_range(folder, bad, message):
    with pytest.raises(ValueError, match=message):
        open_images(folder, **bad)


def test_nothing_to_open(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no image file.*it is empty"):
        open_images(tmp_path / "empty")
    (tmp_path / "empty" / "a.heic").write_text("")
    with pytest.raises(ValueError, match=r"it holds \.heic"):
        open_images(tmp_path / "empty")
    with pytest.raises(ValueError, match="is one image: give the folder"):
        open_images(folder / "class0" / "00.png")


# ---- what is imported -----------------------------------------------------------------------------------------------


def test_nothing_heavy_is_loaded_without_need():
    code = (
        "import sys, numpy as np, tempfile, icrkit_extractors.images as images\n"
        "path = tempfile.mkdtemp() + '/a.npy'; np.save(path, np.zeros((4, 8, 8), np.uint8))\n"
        "images.open_images(path)[:]\n"
        "print([name for name in ('PIL', 'torch', 'zarr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
