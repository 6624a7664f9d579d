"""Settings of an extraction: what is recorded, and what is refused before any file."""

from __future__ import annotations

import numpy as np
import pytest

from icrkit.exceptions import CubeFormatError
from icrkit_extractors import noise, views

LAYERS = ("mid", "dec.16x16_block0")


def test_attributes_say_what_was_done(src, images, go):
    attrs = go(src, images, seed=5, attrs={"data": "waves"}).attrs
    assert attrs["model_sha256"] == src.sha256 and attrs["source"] == "OnnxSource"
    assert list(attrs["layers"]) == list(LAYERS) and attrs["pool"] == "mean"
    assert attrs["noise"] == noise.EDM().config() and attrs["views"] == views.Fashion().config()
    assert attrs["seed"] == 5 and attrs["n_views"] == 2 and attrs["batch_size"] == 16 and attrs["data"] == "waves"
    assert attrs["numpy_version"] == np.__version__ and attrs["onnxruntime_version"] and attrs["icrkit_version"]


def test_any_callable_is_a_view(images, go, Pixels):
    def darker(images, image_ids, view, seed):
        return images * (1 - 0.1 * view) - 0.1 * view

    cube = go(Pixels(), images, views=darker)
    assert "darker" in cube.attrs["views"]["name"]


def test_what_images_bring_along_is_kept(images, go, Pixels):
    class Set:
        labels = np.arange(40) % 7
        image_ids = np.array([f"photo {k}" for k in range(40)])

        def __len__(self):
            return 40

        def __getitem__(self, rows):
            return images[rows]

        def config(self):
            return {"kind": "a set"}

    cube = go(Pixels(), Set())
    np.testing.assert_array_equal(cube.labels, Set.labels)
    np.testing.assert_array_equal(cube.image_ids, Set.image_ids)
    assert cube.attrs["images"] == {"kind": "a set"}
    np.testing.assert_array_equal(
        go(Pixels(), Set(), labels=np.zeros(40, int), image_ids=range(40)).labels, np.zeros(40)
    )


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"image_ids": [*range(39), 3]}, CubeFormatError, "1 image ids appear more than once, such as 3"),
        ({"image_ids": range(39)}, CubeFormatError, "39 image ids for 40 images"),
        ({"image_ids": np.linspace(0, 1, 40)}, CubeFormatError, "integers or all strings"),
        ({"image_ids": [*range(39), "a"]}, CubeFormatError, "integers or all strings"),
        ({"labels": range(39)}, CubeFormatError, r"labels of shape \(39,\) for 40 images"),
        ({"labels": np.zeros((40, 2))}, CubeFormatError, "labels"),
        ({"batch_size": 0}, ValueError, "batch_size must be 1 or more"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number"),
        ({"n_views": 0}, ValueError, "n_views must be 1 or more"),
        ({"seed": -1}, ValueError, "seed must be 0 or more"),
        ({"sigmas": [0.1, -0.1]}, ValueError, "positive and finite"),
        ({"sigmas": []}, ValueError, "sigmas is empty"),
        ({"attrs": {"seed": 3}}, ValueError, "recorded by extract itself"),
        ({"views": lambda images, *_: images[:, :, ::2]}, ValueError, "views gave shape"),
        ({"views": lambda images, *_: images * 3}, ValueError, r"views: .*\[-1, 1\]"),
    ],
)
def test_bad_arguments_before_any_file(images, tmp_path, bad, error, message, go, Pixels):
    with pytest.raises(error, match=message):
        go(Pixels(), images, out=tmp_path / "a.cube", **bad)
    assert not (tmp_path / "a.cube").exists()


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 41), (0, 0)])
def test_bad_shards(images, tmp_path, shard, go, Pixels):
    with pytest.raises(ValueError, match="shard"):
        go(Pixels(), images, shard=shard, out=tmp_path / "a.cube")
    assert not (tmp_path / "a.cube").exists()
