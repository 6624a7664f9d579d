"""A set of images: parts that keep their names, and what says which images they are."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from icrkit.exceptions import CubeCorruptError
from icrkit_extractors import extract, noise, views
from icrkit_extractors.images import from_dataset, open_images

N = 12


def test_take_keeps_names_and_labels(folder):
    images = open_images(folder)
    few = images.take(images.labels != 1)
    assert few.labels.tolist() == [0] * 4 + [2] * 4 and few.class_names == images.class_names
    np.testing.assert_array_equal(few[:], images[[*range(4), *range(8, 12)]])
    assert few.take([7, 2]).image_ids.tolist() == ["class2/11.png", "class0/06.png"]
    assert len(images.take(5)) == 5 and len(images.take(500)) == N
    assert images.take(slice(None, None, 5)).image_ids.tolist() == images.image_ids[::5].tolist()


def test_take_refuses(folder):
    images = open_images(folder)
    for rows, error, message in (
        ([3, 3], ValueError, "row 3 is named more than once"),
        ([N], IndexError, "out of bounds"),
        ([True] * 5, IndexError, "boolean"),
        ([1.5], TypeError, "integers or a mask"),
        ([], ValueError, "no row is named"),
        (0, ValueError, "no image is left"),
        (-1, ValueError, "cannot take -1"),
        (np.zeros(N, bool), ValueError, "no image is left"),
    ):
        with pytest.raises(error, match=message):
            images.take(rows)
    with pytest.raises(IndexError, match="one axis of rows"):
        images[[[0, 1]]]


def test_config_says_what_the_images_are_not_where(folder, photos, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    first, again = open_images(folder, size=16).config(), open_images(moved, size=16).config()
    assert json.loads(json.dumps(first)) == first == again
    assert str(tmp_path) not in json.dumps(first)
    assert (first["kind"], first["n"], first["shape"], first["dtype"]) == ("folder", N, [3, 16, 16], "uint8")
    assert first["size"] == 16 and "bicubic" in first["resampling"]

    def mark(**options) -> str:
        return open_images(folder, **options).fingerprint()

    marks = {mark(), mark(size=16), mark(channels=1), open_images(folder).take(5).fingerprint()}
    Image.fromarray(photos[0]).save(folder / "class2" / "11.png")
    marks.add(mark())
    (folder / "class1" / "04.png").rename(folder / "class1" / "05.png")
    marks.add(mark())
    assert len(marks) == 6
    np.save(tmp_path / "a.npy", photos)
    part = open_images(tmp_path / "a.npy").take([3, 5, 7]).fingerprint()
    np.save(tmp_path / "a.npy", np.where(np.arange(N)[:, None, None, None] == 3, np.uint8(0), photos))
    assert open_images(tmp_path / "a.npy").take([3, 5, 7]).fingerprint() != part


def test_extract_takes_the_set_with_its_names_and_labels(folder, tmp_path):
    class Pixels:
        def __call__(self, x, conditioning):
            return {"pixels": x.reshape(len(x), -1)}

        def config(self):
            return {"source": "Pixels"}

    given = {"sigmas": [0.1], "noise": noise.EDM(), "views": views.Digits(), "progress": False, "batch_size": 5}
    images = open_images(folder, size=16)
    cube = extract(Pixels(), images, out=tmp_path / "a.cube", **given)
    assert cube.image_ids.tolist() == images.image_ids.tolist()
    np.testing.assert_array_equal(cube.labels, images.labels)
    assert cube.attrs["images"]["fingerprint"] == images.fingerprint()
    # Row numbers of the whole, so that a part of the images has the draws that it had.
    np.save(tmp_path / "a.npy", images[:])
    whole = extract(Pixels(), open_images(tmp_path / "a.npy"), **given)
    part = extract(Pixels(), open_images(tmp_path / "a.npy").take([9, 2]), **given)
    np.testing.assert_array_equal(part["pixels"].values, whole["pixels"].values[[9, 2]])


# ---- in another process ---------------------------------------------------------------------------------------------


def containers(folder: Path, photos: np.ndarray, where: Path) -> dict[str, Any]:
    """The same images in everything that holds images, with labels."""
    labels = np.arange(len(photos)) % 3
    np.save(where / "a.npy", photos)
    np.savez(where / "a.npz", images=photos, labels=labels)
    with h5py.File(where / "a.h5", "w") as file:
        file.create_dataset("g/images", data=photos, chunks=(1, *photos.shape[1:]))
        file["g/labels"] = labels
    group = zarr.open_group(where / "a.zarr", mode="w")
    group.create_array("images", data=photos, chunks=(4, *photos.shape[1:]))
    group.create_array("labels", data=labels)
    zarr.create_array(where / "one.zarr", data=photos)
    grey = photos[..., 0]
    head = bytes([0, 0, 8, 3]) + b"".join(side.to_bytes(4, "big") for side in grey.shape)
    (where / "a-idx3-ubyte").write_bytes(head + grey.tobytes())
    with gzip.open(where / "b-idx3-ubyte.gz", "wb") as packed:
        packed.write(head + grey.tobytes())
    return {
        "npy": open_images(where / "a.npy", labels=labels),
        "npz": open_images(where / "a.npz"),
        "hdf5": open_images(f"{where / 'a.h5'}:g/images"),
        "zarr": open_images(where / "a.zarr"),
        "one zarr": open_images(where / "one.zarr"),
        "idx": open_images(where / "a-idx3-ubyte"),
        "idx.gz": open_images(where / "b-idx3-ubyte.gz"),
        "folder": open_images(folder),
        "dataset": from_dataset([(photo, k) for k, photo in enumerate(photos)]),
    }


READ = """
import pickle, sys
import numpy as np
for name, images in pickle.load(open(sys.argv[1], "rb")).items():
    np.savez(f"{sys.argv[2]}/{name}.npz", a=images[[3, 0, 2]], ids=images.image_ids,
             **({} if images.labels is None else {"labels": images.labels}))
"""


def test_every_container_goes_to_another_process(folder, photos, tmp_path, monkeypatch):
    # Named from here, and read in a process with another working folder.
    monkeypatch.chdir(tmp_path)
    made = containers(Path("..") / folder.relative_to(tmp_path.parent), photos, Path())
    sets = made | {f"part of {name}": images.take([5, 1, 3, 0]) for name, images in made.items()}
    (tmp_path / "sets").write_bytes(pickle.dumps(sets))
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "sets"), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120, cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, images in sets.items():
        with np.load(tmp_path / "out" / f"{name}.npz") as there:
            np.testing.assert_array_equal(there["a"], images[[3, 0, 2]])
            np.testing.assert_array_equal(there["ids"], images.image_ids)
            assert ("labels" in there) == (images.labels is not None), name
            if images.labels is not None:
                np.testing.assert_array_equal(there["labels"], images.labels)


def test_pixels_do_not_travel(photos, tmp_path):
    many = np.zeros((5000, 16, 16), np.uint8)
    np.save(tmp_path / "a.npy", many)
    np.savez(tmp_path / "a.npz", images=many)
    for name in ("a.npy", "a.npz"):
        images = open_images(tmp_path / name)
        assert len(pickle.dumps(images)) < many.nbytes / 10
        assert pickle.loads(pickle.dumps(images)).fingerprint() == images.fingerprint()


@pytest.mark.parametrize("use", [lambda images: images[1:3], lambda images: images.take([2, 1])])
def test_files_that_changed_on_the_way_are_found_out(photos, tmp_path, use):
    np.save(tmp_path / "a.npy", photos)
    sent = pickle.dumps(open_images(tmp_path / "a.npy"))
    np.save(tmp_path / "a.npy", photos[::-1])
    with pytest.raises(CubeCorruptError, match="image 0 is not the one that it was where this set was opened"):
        use(pickle.loads(sent))


def test_a_fork_opens_its_own_file(photos, tmp_path):
    """Two processes that share one HDF5 handle read what the other one asked for."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", data=photos, chunks=(1, *photos.shape[1:]), compression="gzip")
    images = open_images(tmp_path / "a.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map(images.__getitem__, [[k] for k in range(len(photos))] * 4)
    np.testing.assert_array_equal(np.concatenate(found), np.tile(np.moveaxis(photos, -1, 1), (4, 1, 1, 1)))


def test_a_loader_of_torch_reads_them(folder):
    images = open_images(folder)
    data = torch.utils.data.DataLoader(images, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    np.testing.assert_array_equal(torch.cat(list(data)).numpy(), images[:])
