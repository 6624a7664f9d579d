"""Settings of an extraction: what is recorded, and what is refused before any file."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from icrkit.exceptions import CubeFormatError
from icrkit_extractors import extract_course, noise, views

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


def halved(images, image_ids, view, seed):
    return images[:, :, ::2, ::2]


def scaled(images, image_ids, view, seed, by):
    return images * by


class Module(torch.nn.Module):
    def forward(self, images, image_ids, view, seed):
        return images


@pytest.mark.parametrize(
    ("encode", "name"),
    [
        (halved, f"{__name__}.halved"),
        (lambda images, image_ids, view, seed: images, f"{__name__}.<lambda>"),
        (functools.partial(scaled, by=0.5), f"{__name__}.scaled"),
        (Module(), f"{__name__}.Module"),
    ],
)
def test_any_callable_encodes(images, go, Pixels, encode, name):
    assert go(Pixels(), images, encode=encode).attrs["encode"] == {"name": name}


class Autoencoder(torch.nn.Module):
    def encode(self, images):
        return images


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"encode": Autoencoder()},
            r"encode must be .*, not the autoencoder Autoencoder itself: Latents\(vae\)",
        ),
        ({"encode": "vae"}, r"encode must be callable .*, not str, which lacks __call__\(\)"),
        ({"views": views.Fashion}, r"views must be .*, and Fashion takes \(\)"),
        ({"views": views.Paper}, r"views must be .*(not the class Paper: make one of it|Paper takes)"),
        ({"encode": lambda images: images}, r"encode must be .*, and <lambda> takes \(images\)"),
        ({"views": "paper"}, "views must be callable .*, not str"),
        ({"noise": noise.EDM}, "noise must be a noise law, .* not the class EDM: make one of it"),
        ({"noise": "edm"}, r"noise must be a noise law, such as noise.EDM\(\), not str, which lacks levels\(\)"),
        ({"noise": lambda x: x}, "noise must be a noise law"),
    ],
)
def test_what_is_not_the_object_that_is_expected(images, go, Pixels, given, message):
    with pytest.raises(TypeError, match=message):
        go(Pixels(), images, **given)


def test_a_network_is_not_a_source_and_a_generator_no_images(images, go, Pixels):
    for net in (Module(), images.sum):
        with pytest.raises(TypeError, match=r"src must be a source of features, such as TorchSource\(module, layers\)"):
            go(net, images)
    with pytest.raises(TypeError, match=r"src must be a source of features"):
        extract_course([(1, Module())], images, [0.1], noise=noise.EDM(), views=views.Fashion())
    with pytest.raises(TypeError, match=r"images must be an array of images, .* not generator"):
        go(Pixels(), (image for image in images))


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
        ({"labels": [*range(39), None]}, CubeFormatError, "image 39 has no label"),
        ({"labels": np.ma.MaskedArray(range(40), [*[False] * 39, True])}, CubeFormatError, "image 39 has no label"),
        ({"labels": [*range(39), "a"]}, CubeFormatError, "labels are numbers and text"),
        ({"labels": np.linspace(0, 1, 40)}, CubeFormatError, r"label of image 1 is .*which is no class"),
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


def test_numbers_of_views_beyond_reason_are_refused(images, go, Pixels):
    with pytest.raises(ValueError, match="n_views must be 100,000 or less, not 1,000,000,000"):
        go(Pixels(), images, n_views=10**9)
