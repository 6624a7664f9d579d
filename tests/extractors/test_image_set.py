"""A set of images: parts that keep their names, and what says which images they are."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from icrkit_extractors import extract, noise, views
from icrkit_extractors.images import open_images

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
