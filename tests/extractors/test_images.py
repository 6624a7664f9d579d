"""Images of files, folders and data sets: the same pixels whatever they lie in, and what is damaged is named."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from sklearn.datasets import load_sample_images

from icrkit.datasets import data_path, load_fashion_images
from icrkit.exceptions import CubeCorruptError, CubeTooLargeError, CubeUnsafeError
from icrkit_extractors import extract, noise, views
from icrkit_extractors.images import from_dataset, open_images

N = 12


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    """Crops of two real photographs, (N, 24, 32, 3)."""
    both = load_sample_images().images
    return np.stack([both[k % 2][20 * k : 20 * k + 24, 30 * k : 30 * k + 32] for k in range(N)])


@pytest.fixture(scope="module")
def garments() -> tuple[np.ndarray, np.ndarray]:
    found = load_fashion_images("test")
    return found.images[:N, 0], found.labels[:N]


@pytest.fixture
def folder(tmp_path: Path, photos: np.ndarray) -> Path:
    """The photographs as PNG files of three classes."""
    root = tmp_path / "photos"
    for k, photo in enumerate(photos):
        path = root / f"class{k % 3}" / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path)
    (root / "class0" / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_text("no image either")
    return root


@pytest.fixture
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the other process that parses an HDF5 file first: it takes a third of a second."""
    monkeypatch.setattr("icrkit_extractors.images.probe", lambda path: None)


def by_class(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array[k::3] for k in range(3)])


def write_idx(path: Path, array: np.ndarray, opener=open) -> Path:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(side).to_bytes(4, "big") for side in array.shape)
    with opener(path, "wb") as file:
        file.write(head + array.tobytes())
    return path


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


@settings(max_examples=60, deadline=None)
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


def test_an_npy_file_is_mapped_not_read(tmp_path):
    """A file of a terabyte, nearly all of it a hole."""
    path = tmp_path / "huge.npy"
    shape = (1_000_000, 3, 600, 600)
    head = np.lib.format.header_data_from_array_1_0(np.empty(0, np.uint8)) | {"shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, head)
        file.truncate(file.tell() + int(np.prod(shape, dtype=object)))
    images = open_images(path)
    assert images.shape == shape
    assert images[999_990:999_992].shape == (2, 3, 600, 600)


def test_idx_files_plain_and_compressed_with_labels(tmp_path, garments):
    pictures, labels = garments
    plain = write_idx(tmp_path / "t10k-images-idx3-ubyte", pictures)
    assert open_images(plain).labels is None
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels, gzip.open)
    packed = write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", pictures, gzip.open)
    dotted = write_idx(tmp_path / "train-images.idx3-ubyte", pictures)
    write_idx(tmp_path / "train-labels.idx1-ubyte", labels)
    for path in (plain, packed, dotted):
        images = open_images(path)
        np.testing.assert_array_equal(images[:], pictures[:, None])
        np.testing.assert_array_equal(images.labels, labels)


def test_a_folder_gives_its_files_in_order_with_classes(folder, photos):
    images = open_images(folder)
    assert images.shape == (N, 3, 24, 32) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[:], by_class(nchw(photos)))
    np.testing.assert_array_equal(np.stack(list(images)), images[:])
    np.testing.assert_array_equal(images[-1], images[N - 1 :][0])
    assert images.class_names == ("class0", "class1", "class2")
    np.testing.assert_array_equal(images.labels, np.repeat([0, 1, 2], 4))
    assert images.image_ids[:2].tolist() == ["class0/00.png", "class0/03.png"]
    assert repr(images) == "ImageSet(folder: 12 images, 3 x 24 x 32, uint8)"


def test_classes_are_folders_with_every_image_in_one(folder, photos):
    deep = folder / "class1" / "more"
    deep.mkdir()
    Image.fromarray(photos[0]).save(deep / "x.PNG")
    assert open_images(folder).labels.tolist() == [0] * 4 + [1] * 5 + [2] * 4
    assert open_images(folder / "class0").labels is None  # no folder inside
    assert open_images(folder / "class1").labels is None  # one image in a folder, the others beside it
    shutil.rmtree(folder / "class2")
    shutil.rmtree(folder / "class0")
    assert open_images(folder).labels is None  # one class is none
    assert open_images(folder, labels=[5, 4, 3, 2, 1]).labels.tolist() == [5, 4, 3, 2, 1]


def test_links_are_followed_once(folder, photos, tmp_path):
    (folder / "class3").symlink_to(folder / "class0", target_is_directory=True)
    (folder / "class1" / "round").symlink_to(folder, target_is_directory=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.fromarray(photos[0]).save(outside / "o.png")
    (folder / "class4").symlink_to(outside, target_is_directory=True)
    names = open_images(folder).image_ids.tolist()
    assert len(names) == N + 1 and names[-1] == "class4/o.png" and not any("class3" in name for name in names)


def test_a_folder_that_cannot_be_read_is_not_left_out(folder, monkeypatch):
    scandir = os.scandir

    def forbidding(path):
        if str(path).endswith("class1"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    with pytest.raises(PermissionError, match="class1"):
        open_images(folder)


# ---- axes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layout", "wanted"),
    [
        ((5, 3, 8, 9), None, (5, 3, 8, 9)),
        ((5, 8, 9, 3), None, (5, 3, 8, 9)),
        ((5, 1, 8, 9), None, (5, 1, 8, 9)),
        ((5, 8, 9, 4), None, (5, 4, 8, 9)),
        ((5, 8, 9), None, (5, 1, 8, 9)),
        ((3, 8, 9), None, (3, 1, 8, 9)),
        ((5, 3, 8, 3), "nchw", (5, 3, 8, 3)),
        ((5, 3, 8, 3), "nhwc", (5, 3, 3, 8)),
        ((5, 2, 8, 9), "nchw", (5, 2, 8, 9)),
        ((5, 8, 3), "nhw", (5, 1, 8, 3)),
    ],
)
def test_the_channel_axis(shape, layout, wanted, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    images = open_images(tmp_path / "a.npy", layout=layout)
    assert images.shape == wanted
    as_it_is = array[:, None] if array.ndim == 3 else array if wanted == shape else nchw(array)
    np.testing.assert_array_equal(images[:], as_it_is)


@pytest.mark.parametrize(
    ("shape", "layout", "message"),
    [
        ((5, 3, 8, 3), None, r"two axes that may be channels: say layout='nchw' or"),
        ((5, 7, 8, 9), None, r"no channel axis of 1, 3 or 4: say layout"),
        ((8, 9, 3), None, r"may be one image"),
        ((8, 9), None, r"\(8, 9\) is not that of images"),
        ((5, 3, 8, 9), "nhw", "has not the axes of layout"),
        ((5, 3, 8, 9), "hwc", "layout must be"),
        ((0, 3, 8, 9), None, "holds no image"),
    ],
)
def test_axes_are_not_guessed(shape, layout, message, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=message) as caught:
        open_images(tmp_path / "a.npy", layout=layout)
    assert "a.npy" in str(caught.value)


# ---- size, channels, range ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "box"), [(16, (2, 0)), (12, (2, 0)), (24, (4, 0)), (33, (6, 0)), (1, (0, 0))])
def test_size_is_the_short_side_and_the_centre(folder, photos, size, box):
    """Pillow's own resize and crop; 24 x 32 becomes size x int(32 size / 24)."""
    wide = int(size * 32 / 24)
    left = round((wide - size) / 2)
    assert left == box[0]
    fine = [Image.fromarray(p).resize((wide, size), Image.Resampling.BICUBIC) for p in photos]
    wanted = np.stack([np.asarray(f.crop((left, 0, left + size, size))) for f in fine])
    np.testing.assert_array_equal(open_images(folder, size=size)[:], by_class(nchw(wanted)))


def test_size_is_torchvisions_resize_and_centre_crop(tmp_path):
    """Numbers of torchvision 0.29.1 with Pillow 13.0.0: Resize(17, BICUBIC), CenterCrop(17)."""
    y, x = np.mgrid[:45, :64]
    image = np.stack([(7 * y + 13 * x + y * x) % 256, (y * y + 3 * x) % 256, (5 * y + x * x // 7) % 256], axis=-1)
    np.save(tmp_path / "a.npy", image[None].astype(np.uint8))
    found = np.moveaxis(open_images(tmp_path / "a.npy", size=17)[0], 0, -1)
    assert found.sum((0, 1), dtype=int).tolist() == [36808, 36928, 37887]
    assert found[0, :4].tolist() == [[167, 36, 23], [213, 43, 33], [172, 52, 44], [57, 60, 58]]
    assert found[16, 16].tolist() == [143, 133, 123] and found[8, 3:7, 0].tolist() == [77, 165, 104, 84]


def test_an_array_is_resized_as_a_file_is(folder, photos, tmp_path):
    np.save(tmp_path / "a.npy", photos)
    np.save(tmp_path / "tall.npy", photos.transpose(0, 3, 2, 1))
    files = open_images(folder, size=16, channels=1)[:]
    np.testing.assert_array_equal(by_class(open_images(tmp_path / "a.npy", size=16, channels=1)[:]), files)
    # Pillow rounds to bytes between rows and columns, so that a transposed image may differ by one.
    tall = by_class(open_images(tmp_path / "tall.npy", size=16, channels=1)[:].transpose(0, 1, 3, 2))
    assert np.abs(tall.astype(int) - files).max() == 1


def test_floating_point_is_resized_within_its_range(tmp_path, photos):
    unit = nchw(photos).astype(np.float64) / 127.5 - 1
    np.save(tmp_path / "a.npy", unit)
    np.save(tmp_path / "bytes.npy", photos)
    fine = open_images(tmp_path / "a.npy", size=17)
    assert fine.dtype == np.float32
    # A byte is 2 / 255 wide; clipping to the image's range and rounding to bytes is all that differs.
    assert np.abs(fine[:] - (open_images(tmp_path / "bytes.npy", size=17)[:] / 127.5 - 1)).max() < 0.1
    step = np.where(np.arange(32) < 15, -0.25, 0.75)[None, None, None].repeat(32, 2)
    np.save(tmp_path / "step.npy", step)
    plain = np.asarray(Image.fromarray(step[0, 0].astype(np.float32)).resize((20, 20), Image.Resampling.BICUBIC))
    assert plain.min() < -0.25 and plain.max() > 0.75
    edge = open_images(tmp_path / "step.npy", size=20)[:]
    assert edge.min() == -0.25 and edge.max() == 0.75 and len(np.unique(edge)) > 2
    np.save(tmp_path / "flat.npy", np.full((1, 3, 40, 50), 0.3, np.float32))
    np.testing.assert_array_equal(open_images(tmp_path / "flat.npy", size=9)[:], np.full((1, 3, 9, 9), 0.3, np.float32))


def test_grey_is_pillows_and_colour_repeats_it(folder, photos, tmp_path):
    wanted = np.stack([np.asarray(Image.fromarray(p).convert("L")) for p in photos])[:, None]
    np.save(tmp_path / "a.npy", photos)
    np.testing.assert_array_equal(open_images(tmp_path / "a.npy", channels=1)[:], wanted)
    np.testing.assert_array_equal(open_images(folder, channels=1)[:], by_class(wanted))
    np.save(tmp_path / "grey.npy", wanted)
    np.testing.assert_array_equal(open_images(tmp_path / "grey.npy", channels=3)[:], wanted.repeat(3, 1))
    unit = nchw(photos).astype(np.float32) / 255
    np.save(tmp_path / "unit.npy", unit)
    np.testing.assert_allclose(open_images(tmp_path / "unit.npy", channels=1)[:] * 255, wanted, atol=0.51)


def test_value_range_becomes_minus_one_to_one(tmp_path, photos):
    unit = nchw(photos).astype(np.float32) / 255
    np.save(tmp_path / "a.npy", unit)
    np.testing.assert_array_equal(open_images(tmp_path / "a.npy")[:], unit)
    np.testing.assert_array_equal(open_images(tmp_path / "a.npy", value_range=(0, 1))[:], 2 * unit - 1)
    np.save(tmp_path / "b.npy", nchw(photos).astype(np.float16))
    found = open_images(tmp_path / "b.npy", value_range=(0, 255))[:]
    np.testing.assert_allclose(found, 2 * unit - 1, atol=1e-6)
    assert found.min() >= -1 and found.max() <= 1
    # (1.7 - 0) 2 / 1.7 - 1 is more than 1 in float32.
    np.save(tmp_path / "c.npy", 1.7 * unit / unit.max())
    views.as_unit_range(open_images(tmp_path / "c.npy", value_range=(0, 1.7))[:])
    for low, high in ((0, 0.5), (0.5, 1)):
        with pytest.raises(ValueError, match=r"a.npy.*outside value_range"):
            open_images(tmp_path / "a.npy", value_range=(low, high))[:]
    unit[3, 0, 0, 0] = np.nan
    np.save(tmp_path / "a.npy", unit)
    with pytest.raises(ValueError, match="image 3: holds pixels from nan"):
        open_images(tmp_path / "a.npy", value_range=(0, 1))[3]


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


# ---- kinds of image files -------------------------------------------------------------------------------------------


def saved(tmp_path: Path, image: Image.Image, name: str = "a.png", **options) -> Path:
    root = tmp_path / "one"
    root.mkdir(exist_ok=True, parents=True)
    image.save(root / name, **options)
    return root


@pytest.mark.parametrize(("suffix", "exact"), [("bmp", 1), ("gif", 0), ("tif", 1), ("ppm", 1), ("webp", 0), ("jpg", 0)])
def test_formats(tmp_path, photos, suffix, exact):
    root = saved(tmp_path, Image.fromarray(photos[0]), f"a.{suffix}")
    found = open_images(root)[0]
    with Image.open(root / f"a.{suffix}") as image:
        np.testing.assert_array_equal(found, np.moveaxis(np.asarray(image.convert("RGB")), -1, 0))
    assert not exact or np.array_equal(np.moveaxis(found, 0, -1), photos[0])


def test_modes_that_have_eight_bits(tmp_path, photos):
    rgb = Image.fromarray(photos[0])
    for mode in ("1", "L", "LA"):
        image = rgb.convert(mode)
        found = open_images(saved(tmp_path, image))[0]
        np.testing.assert_array_equal(found, np.asarray(image.convert("L"))[None])
    for mode in ("RGB", "RGBA", "P"):
        image = rgb.convert(mode)
        found = open_images(saved(tmp_path, image))[0]
        np.testing.assert_array_equal(found, np.moveaxis(np.asarray(image.convert("RGB")), -1, 0))
    found = open_images(saved(tmp_path / "cmyk", rgb.convert("CMYK"), "b.tif"))[0]
    np.testing.assert_allclose(found.astype(int), np.moveaxis(photos[0], -1, 0), atol=1)
    first = open_images(saved(tmp_path / "two", rgb, "b.gif", save_all=True, append_images=[rgb.rotate(180)]))[0]
    with Image.open(tmp_path / "two" / "one" / "b.gif") as image:
        np.testing.assert_array_equal(first, np.moveaxis(np.asarray(image.convert("RGB")), -1, 0))
    phone = saved(tmp_path / "mpo", rgb, "a.mpo", save_all=True, append_images=[rgb.rotate(180)], quality=100)
    (phone / "a.mpo").rename(phone / "a.jpg")
    np.testing.assert_allclose(open_images(phone)[0][1].astype(int), photos[0][..., 1], atol=40)


def test_transparent_pixels_need_a_background(tmp_path, photos):
    alpha = np.linspace(0, 255, 24 * 32).round().astype(np.uint8).reshape(24, 32)
    rgba = np.dstack([photos[0], alpha])
    root = saved(tmp_path, Image.fromarray(rgba))
    with pytest.raises(ValueError, match=r"a\.png: has transparent pixels: say with background="):
        open_images(root)
    share = alpha[..., None] / 255
    for level in (0, 255):
        wanted = photos[0] * share + level * (1 - share)
        found = open_images(root, background=level)[0]
        np.testing.assert_allclose(np.moveaxis(found, 0, -1), wanted, atol=0.51)
    assert open_images(root, background=0).config()["background"] == 0
    # An array of four channels stays one, until three are asked for.
    np.save(tmp_path / "a.npy", rgba[None])
    assert open_images(tmp_path / "a.npy").shape == (1, 4, 24, 32)
    np.testing.assert_array_equal(open_images(tmp_path / "a.npy", channels=3, background=255)[0], found)
    with pytest.raises(ValueError, match=r"a\.npy, image 0: has transparent"):
        open_images(tmp_path / "a.npy", channels=3)
    # One colour of a palette, and one grey level, are transparent.
    palette = Image.fromarray(photos[0]).quantize(8)
    with pytest.raises(ValueError, match="transparent"):
        open_images(saved(tmp_path, palette, transparency=palette.getpixel((0, 0))))
    with pytest.raises(ValueError, match="transparent"):
        open_images(saved(tmp_path, Image.fromarray(photos[0, :, :, 0]), transparency=int(photos[0, 0, 0, 0])))


def test_more_than_eight_bits_of_grey_are_refused(tmp_path):
    deep = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80
    with pytest.raises(ValueError, match=r"a\.png: holds grey values of more than 8 bits \(mode I;16\)"):
        open_images(saved(tmp_path, Image.fromarray(deep)))
    with pytest.raises(ValueError, match=r"a\.tif: holds grey values of more than 8 bits"):
        open_images(saved(tmp_path / "2", Image.fromarray(deep.astype(np.float32)), "a.tif"), size=8, channels=3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, photos, suffix, orientation):
    """A photograph stored so that the tag says how to turn it back: against the definition, not against Pillow."""
    # Where row 0 and column 0 of the stored image are in the picture (Exif 2.32, tag 274).
    stores = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[:, ::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    root = saved(
        tmp_path,
        Image.fromarray(np.ascontiguousarray(stores[orientation](photos[1]))),
        f"a.{suffix}",
        exif=exif,
        **quality,
    )
    saved(tmp_path, Image.fromarray(photos[1]), "b.png")
    found = open_images(root)[:].astype(int)
    assert np.abs(found[0] - found[1]).max() <= (8 if suffix == "jpg" else 0)


# ---- what is damaged or mixed ---------------------------------------------------------------------------------------


def test_mixed_sizes_name_two_files(folder, photos):
    Image.fromarray(photos[0][:20]).save(folder / "class1" / "zz.png")
    with pytest.raises(ValueError, match=r"class0/00\.png is 24 x 32, .*class1/zz\.png is 20 x 32.*size=N"):
        open_images(folder)
    with pytest.raises(ValueError, match="different sizes"):
        open_images(folder, channels=3)
    assert open_images(folder, size=16)[:].shape == (N + 1, 3, 16, 16)


def test_mixed_channels_name_two_files(folder, photos):
    deep = Image.fromarray(photos[0, :, :, 0].astype(np.uint16))
    deep.save(folder / "class1" / "zz.png")
    with pytest.raises(ValueError, match=r"class1/zz\.png: holds grey values of more than 8 bits"):
        open_images(folder)
    Image.fromarray(photos[0]).convert("L").save(folder / "class1" / "zz.png")
    with pytest.raises(ValueError, match=r"class0/00\.png has 3 channels, .*class1/zz\.png has 1; channels=1 or 3"):
        open_images(folder)
    assert open_images(folder, channels=3).shape == (N + 1, 3, 24, 32)
    # The heads agree, and the pixels do not: a file that changed since.
    images = open_images(folder, channels=3)
    Image.fromarray(photos[0][:20]).save(folder / "class1" / "04.png")
    with pytest.raises(ValueError, match=r"class0/00\.png is 24 x 32, .*class1/04\.png is 20 x 32"):
        images[:]


def test_a_truncated_file_is_named_wherever_it_is_cut(folder):
    images = open_images(folder)
    before, path = images[5:6], folder / "class1" / "04.png"
    whole = path.read_bytes()
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 30, len(whole) - 14):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"class1/04\.png: cannot be read as an image"):
            images[:]
    # What is lost beyond here is no pixel.
    path.write_bytes(whole[:-1])
    np.testing.assert_array_equal(images[5:6], before)
    images[:4]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"class1/04\.png"):
        images[5:6]


def test_a_truncated_jpeg_is_named(tmp_path, photos):
    root = saved(tmp_path, Image.fromarray(photos[0]), "a.jpg")
    whole = (root / "a.jpg").read_bytes()
    for cut in range(2, len(whole), 61):
        (root / "a.jpg").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"a\.jpg: cannot be read as an image"):
            open_images(root)


def test_a_flipped_bit_of_a_png_never_passes_for_pixels(tmp_path, photos):
    root = saved(tmp_path, Image.fromarray(photos[0]))
    whole = (root / "a.png").read_bytes()
    rng = np.random.default_rng(0)
    caught = 0
    for place in rng.integers(0, len(whole), 150):
        bad = bytearray(whole)
        bad[place] ^= 1 << rng.integers(8)
        (root / "a.png").write_bytes(bad)
        try:
            found = open_images(root, size=16, channels=3)[0]
        except ValueError as error:
            assert "a.png" in str(error)
            caught += 1
        else:
            np.testing.assert_array_equal(found, open_images(saved(tmp_path, Image.fromarray(photos[0])), size=16)[0])
    assert caught > 140


def test_what_only_looks_like_an_image_is_not_opened_by_others(tmp_path, photos):
    """PostScript under the name of a picture: Pillow would hand it to Ghostscript."""
    root = saved(tmp_path, Image.fromarray(photos[0]), "b.png")
    Image.fromarray(photos[0]).save(root / "a.eps")
    (root / "a.eps").rename(root / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: cannot be read as an image: cannot identify"):
        open_images(root)


def test_a_decompression_bomb_is_an_error(tmp_path, photos, monkeypatch):
    root = saved(tmp_path, Image.fromarray(photos[0]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 32 // 2 - 1)
    for options in ({}, {"size": 8, "channels": 3}):
        with pytest.raises(ValueError, match=r"a\.png: .*decompression bomb"):
            open_images(root, **options)


def test_truncated_images_are_not_let_through(folder, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match="LOAD_TRUNCATED_IMAGES"):
        open_images(folder)


def test_a_name_that_cannot_be_an_id(folder):
    (folder / "class0" / "00.png").rename(folder / "class0" / "\udcff.png")
    with pytest.raises(ValueError, match=r"the name 'class0/.udcff\.png' is not UTF-8"):
        open_images(folder)


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


# ---- arrays by name, labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels"),
    [("x_train", "y_train"), ("train_images", "train_labels"), ("X", "y"), ("arr_0", "arr_1"), ("pixels", "labels")],
)
def test_labels_have_the_name_that_fits(images, labels, tmp_path, garments, unprobed):
    pictures, classes = garments
    others = {"y_test": np.zeros(N, int), "test_labels": np.zeros(N, int), "embedding": np.zeros((N, 5))}
    others.pop(labels, None)
    np.savez(tmp_path / "a.npz", **{images: pictures, labels: classes[:, None], **others})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[images], file[labels] = pictures, classes
    for name in ("a.npz", "a.h5"):
        np.testing.assert_array_equal(open_images(tmp_path / name).labels, classes)
    assert open_images(tmp_path / "a.npz", labels="y_test").labels.tolist() == [0] * N
    assert open_images(tmp_path / "a.npz", labels=["a"] * N).labels.tolist() == ["a"] * N


def test_what_does_not_fit_as_labels_is_left_or_refused(tmp_path, garments):
    pictures, classes = garments
    np.savez(tmp_path / "a.npz", images=pictures, labels=classes[1:], y=np.zeros((N, 10)))
    assert open_images(tmp_path / "a.npz").labels is None
    for labels in ("labels", "y", classes[1:], [1.5] * N):
        with pytest.raises(ValueError, match=r"a\.npz, array 'images': labels of shape"):
            open_images(tmp_path / "a.npz", labels=labels)
    with pytest.raises(ValueError, match="no array 'classes' of labels; it holds images, labels, y"):
        open_images(tmp_path / "a.npz", labels="classes")


def test_an_array_is_named_where_there_are_several():
    path = data_path("fashion_images.npz")
    with pytest.raises(
        ValueError, match=r"2 arrays that may be images: name one with key=; it holds train_images \(2000"
    ):
        open_images(path)
    with pytest.raises(ValueError, match=r"no array 'test_image' .did you mean 'test_images'\?.; it holds"):
        open_images(path, key="test_image")
    found = load_fashion_images("test")
    for images in (open_images(path, key="test_images"), open_images(f"{path}:test_images")):
        np.testing.assert_array_equal(images[:], found.images)
        np.testing.assert_array_equal(images.labels, found.labels)
    with pytest.raises(ValueError, match="names an array, and key="):
        open_images(f"{path}:test_images", key="train_images")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((N, 8, 8), np.int64), "holds int64: images are uint8"),
        (np.zeros((N, 8, 8), bool), "holds bool"),
        (np.array([["a"]]), "holds <U1"),
        (np.array([[[None]]]), "Python objects"),
    ],
)
def test_arrays_that_are_no_images(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", a=array)
    for path in (tmp_path / "a.npy", f"{tmp_path / 'a.npz'}:a"):
        with pytest.raises(ValueError, match=rf"a\.np.*{message}"):
            open_images(path)
    with pytest.raises(ValueError, match=r"no array that looks like images: name one with key=; it holds a \("):
        open_images(tmp_path / "a.npz")


def test_a_pickle_is_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    array = np.empty((2, 4, 4), dtype=object)
    array[:] = Trap()
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", images=array)
    for path in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=r"Python objects|no array that looks like images"):
            open_images(tmp_path / path)
    with pytest.raises(ValueError, match="Python objects"):
        open_images(tmp_path / "a.npz", key="images")
    assert not (tmp_path / "sprung").exists()


def cut(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def test_truncated_arrays(tmp_path, photos, garments):
    np.save(tmp_path / "a.npy", photos)
    np.savez(tmp_path / "a.npz", images=photos)
    write_idx(tmp_path / "images-idx3-ubyte", garments[0])
    write_idx(tmp_path / "images-idx3-ubyte.gz", garments[0], gzip.open)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = photos
    for name in ("a.npy", "a.npz", "images-idx3-ubyte", "images-idx3-ubyte.gz"):
        cut(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}.*damaged"):
            open_images(tmp_path / name)
    cut(tmp_path / "a.h5")
    with pytest.raises(CubeCorruptError, match=r"a\.h5"):
        open_images(tmp_path / "a.h5")


def test_damaged_npz_and_idx(tmp_path, photos, garments):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", images=photos)
        raw = bytearray((tmp_path / "a.npz").read_bytes())
        raw[len(raw) // 2] ^= 1
        (tmp_path / "a.npz").write_bytes(raw)
        with pytest.raises(ValueError, match=r"a\.npz, array 'images' is damaged: "):
            open_images(tmp_path / "a.npz")
    path = write_idx(tmp_path / "b.gz", garments[0], gzip.open)
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"b\.gz: is damaged or no idx file: .*CRC"):
        open_images(path)
    for name, content, message in (
        ("c", b"hello world", "does not begin as an idx file"),
        ("d", b"", "does not begin"),
        ("e", b"\0\0\x0d\x03" + b"\0\0\0\x01" * 3 + b"\0" * 4, "type 0x0d"),
        ("f", b"\0\0\x08\x03" + b"\0\0\0\x01" * 3 + b"\0" * 2, "declares 1 bytes of shape .1, 1, 1. and holds 2"),
        ("g", gzip.compress(b"\0\0\x08\x03" + b"\0\0\0\x01" * 3 + b"\0" * 2), "holds another number"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: is damaged or no idx file: .*{message}"):
            open_images(tmp_path / name)


def test_labels_of_another_number_beside_an_idx_file(tmp_path, garments):
    path = write_idx(tmp_path / "images-idx3-ubyte", garments[0])
    write_idx(tmp_path / "labels-idx1-ubyte", garments[1][1:])
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte holds labels of shape \(11,\), and .* 12 images"):
        open_images(path)


def test_small_files_that_declare_much(tmp_path, monkeypatch):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\x7f\xff\xff\xff" * 3))
    with pytest.raises(CubeTooLargeError, match=r"a\.gz declares"):
        open_images(tmp_path / "a.gz")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", shape=(1 << 40, 3, 8, 8), chunks=(16, 3, 8, 8), dtype="u1", compression="gzip")
        file.create_dataset("chunk", shape=(1 << 12, 3, 512, 512), chunks=(1 << 10, 3, 512, 512), dtype="u1")
    with pytest.raises(CubeTooLargeError, match=r"a\.h5, array 'images' declares"):
        open_images(tmp_path / "a.h5", key="images")
    zarr.create_array(tmp_path / "a.zarr", shape=(1 << 30, 3, 8, 8), chunks=(1 << 22, 3, 8, 8), dtype="u1")
    with pytest.raises(CubeTooLargeError, match="one chunk has more than"):
        open_images(tmp_path / "a.zarr")
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((100, 3, 8, 8), np.uint8))
    monkeypatch.setattr("icrkit_extractors.images.free_bytes", lambda: 10_000)
    with pytest.raises(CubeTooLargeError, match=r"array 'images' needs 19.3 KB and 10 KB are free; np.save it as .npy"):
        open_images(tmp_path / "a.npz")


def test_hdf5_that_leads_elsewhere_is_not_followed(tmp_path, photos, unprobed):
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file["group/images"] = photos
        file["images"] = photos
    (tmp_path / "raw").write_bytes(photos.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["external"] = h5py.ExternalLink("outside.h5", "/images")
        file["elsewhere"] = h5py.ExternalLink("outside.h5", "/group")
        file["soft"] = h5py.SoftLink("/external")
        layout = h5py.VirtualLayout(shape=photos.shape, dtype="u1")
        layout[:] = h5py.VirtualSource(tmp_path / "outside.h5", "images", shape=photos.shape)
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", photos.shape, "u1", external=[(str(tmp_path / "raw"), 0, photos.size)])
        file["own"] = photos
    for key in ("external", "soft", "virtual", "raw", "elsewhere/images"):
        with pytest.raises(CubeUnsafeError, match=r"a\.h5"):
            open_images(tmp_path / "a.h5", key=key)
    np.testing.assert_array_equal(open_images(tmp_path / "a.h5", key="own")[:], nchw(photos))
    with pytest.raises(ValueError, match="no group 'nowhere' on the way to 'nowhere/images'"):
        open_images(tmp_path / "a.h5", key="nowhere/images")
    with pytest.raises(ValueError, match=r"has no array 'group'; it holds images \(12, 24, 32, 3\) uint8"):
        open_images(tmp_path / "outside.h5", key="group")


def test_zarr_that_runs_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "a.zarr"
    path.mkdir()
    about = {
        "zarr_format": 2, "shape": [4, 8, 8], "chunks": [4, 8, 8], "dtype": "|u1", "order": "C", "fill_value": 0,
        "compressor": None, "filters": None,
    }  # fmt: skip
    (path / "0.0.0").write_bytes(pickle.dumps(Trap()))
    for hostile in ({"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}}, {"dtype": "|O"}):
        (path / ".zarray").write_text(json.dumps(about | hostile))
        with pytest.raises(ValueError, match=r"a\.zarr cannot be opened as zarr"):
            open_images(path)[:]
    assert not (tmp_path / "sprung").exists()
    (path / ".zarray").write_text(json.dumps(about))
    (path / "0.0.0").write_bytes(bytes(range(256)))
    np.testing.assert_array_equal(open_images(path)[:].ravel(), np.arange(256))
    (path / "0.0.0").write_bytes(bytes(100))
    with pytest.raises(CubeCorruptError, match=r"a\.zarr, array 'a', image 0 cannot be read"):
        open_images(path)


# ---- subsets, identity ----------------------------------------------------------------------------------------------


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


# ---- data sets ------------------------------------------------------------------------------------------------------


class Listed(torch.utils.data.Dataset):
    """What torchvision's data sets look like."""

    def __init__(self, images, targets, transform=lambda x: x):
        self.images, self.targets, self.transform = images, targets, transform
        self.classes = [f"kind {k}" for k in range(10)]
        self.read = 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        self.read += 1
        return self.transform(self.images[row]), int(self.targets[row])


def to_tensor(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo.copy()).permute(2, 0, 1).float() / 255


def test_items_of_every_kind_give_the_same_pixels(photos):
    targets = np.arange(N) % 4
    for transform in (Image.fromarray, np.asarray, lambda p: torch.from_numpy(p.copy()).permute(2, 0, 1)):
        dataset = Listed(photos, targets.tolist(), transform)
        images = from_dataset(dataset)
        assert dataset.read < 6  # labels and classes were listed
        np.testing.assert_array_equal(images[:], nchw(photos))
        np.testing.assert_array_equal(images.labels, targets)
        assert images.class_names[3] == "kind 3"
    fine = from_dataset(Listed(photos, targets, to_tensor), value_range=(0, 1))
    assert fine.dtype == np.float32
    np.testing.assert_allclose(fine[:], nchw(photos) / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(views.as_unit_range(fine[:]), views.as_unit_range(nchw(photos)), atol=1e-6)
    centred = from_dataset(Listed(photos, targets, lambda p: 2 * to_tensor(p) - 1), value_range=(-1, 1))
    np.testing.assert_allclose(centred[:], fine[:], atol=1e-6)


def test_size_and_channels_of_items_are_those_of_files(folder, photos):
    mixed = [photo[: 20 + k] for k, photo in enumerate(photos)]
    with pytest.raises(ValueError, match=r"item 0 is 20 x 32, item 1 is 21 x 32 .*size=N"):
        from_dataset(mixed)[:]
    greys = [Image.fromarray(photo if k else photo[..., 0]) for k, photo in enumerate(photos)]
    with pytest.raises(ValueError, match="item 0 has 1 channels, item 2 has 3; channels=1 or 3"):
        from_dataset(greys)[[0, 2]]
    found = from_dataset(Listed(photos, [0] * N, Image.fromarray), size=16, channels=1)[:]
    np.testing.assert_array_equal(by_class(found), open_images(folder, size=16, channels=1)[:])


def test_labels_come_from_items_where_nothing_lists_them(photos):
    dataset = Listed(photos, np.arange(N), np.asarray)
    subset = torch.utils.data.Subset(dataset, [7, 3, 5])
    images = from_dataset(subset)
    assert images.labels.tolist() == [7, 3, 5] and images.take([2, 0]).labels.tolist() == [5, 7]
    dataset.read = 0
    assert from_dataset(subset, labels=False).labels is None and dataset.read == 3
    assert from_dataset(subset, labels=["a", "b", "c"]).labels.tolist() == ["a", "b", "c"]
    # A transform of the target changes the items, not the list.
    changed = Listed(photos, np.arange(N), np.asarray)
    changed.targets, items = np.arange(N)[::-1], changed.targets
    assert from_dataset([(photos[k], items[k]) for k in range(N)]).labels.tolist() == list(range(N))
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(nchw(photos).copy()), torch.arange(N))
    assert from_dataset(tensors).labels.tolist() == list(range(N))
    boxes = [(photo, {"boxes": []}) for photo in photos]
    assert from_dataset(boxes).labels is None
    gaps = [(photo, k or None) for k, photo in enumerate(photos)][::-1]
    with pytest.raises(ValueError, match="item 11 has no label"):
        _ = from_dataset(gaps).labels


def test_the_list_is_left_where_the_items_say_otherwise(photos):
    dataset = Listed(photos, list(range(N)), np.asarray)
    plain = dataset.__class__.__getitem__
    halved = type(
        "Halved", (Listed,), {"__getitem__": lambda self, row: (self.images[row], plain(self, row)[1] // 2 + 5)}
    )
    assert from_dataset(halved(photos, list(range(N)))).labels.tolist() == [k // 2 + 5 for k in range(N)]


def test_items_with_fields(photos):
    class Table(list):
        column_names = ("image", "label", "fine")
        features = {"label": SimpleNamespace(names=["cat", "dog"]), "image": None}

        def __getitem__(self, row):
            return [item[row] for item in self] if isinstance(row, str) else super().__getitem__(row)

    rows = Table({"image": Image.fromarray(p), "label": k % 2, "fine": k} for k, p in enumerate(photos))
    images = from_dataset(rows)
    np.testing.assert_array_equal(images[:], nchw(photos))
    assert images.labels.tolist() == [0, 1] * 6 and images.class_names == ("cat", "dog")
    fine = from_dataset(rows, labels="fine")
    assert fine.labels.tolist() == list(range(N)) and fine.class_names is None
    with pytest.raises(ValueError, match="no class in the field 'species'"):
        from_dataset(rows, labels="species")
    other = [{"picture": photo} for photo in photos]
    np.testing.assert_array_equal(from_dataset(other, key="picture")[:], nchw(photos))
    with pytest.raises(ValueError, match="item 0 has the fields picture: name that of the image with key="):
        from_dataset(other)


def test_floating_point_items_are_not_guessed(photos):
    with pytest.raises(
        ValueError, match=r"item 0 is floating point, from 0\.\d+ to .*value_range=\(0, 1\) after torch"
    ):
        from_dataset([to_tensor(photo) for photo in photos])
    normalised = [(to_tensor(photo) - 0.45) / 0.22 for photo in photos]
    with pytest.raises(ValueError, match=r"item 0: holds pixels from .*outside value_range 0 to 1 \(is there a Norm"):
        from_dataset(normalised, value_range=(0, 1))


def test_attributes_of_other_meaning_are_left(photos):
    dataset = Listed(photos, np.zeros((N, 2)), np.asarray)
    dataset.classes, dataset.features, dataset.labels = np.arange(3), np.ones((N, 4)), {"a": 1}
    dataset.targets = torch.arange(N)
    images = from_dataset(dataset)
    assert images.labels.tolist() == list(range(N)) and images.class_names is None


def test_a_random_transform_is_found_out(photos):
    rng = np.random.default_rng(0)
    dataset = Listed(photos, [0] * N, lambda p: np.roll(p, rng.integers(1, 9)))
    with pytest.raises(ValueError, match="item 0 is another image each time"):
        from_dataset(dataset)


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        ([], ValueError, "empty"),
        (iter([1]), TypeError, "has no length"),
        (["a.png"], TypeError, "item 0 is a str"),
        ([np.zeros((8, 8), np.int64)], ValueError, "item 0 holds int64"),
        ([np.zeros((3, 8, 8), np.uint8)], ValueError, r"item 0 has shape \(3, 8, 8\): .*layout='chw'"),
        ([torch.zeros((8, 8, 3), dtype=torch.uint8)], ValueError, r"item 0 has shape \(8, 8, 3\)"),
        ([np.zeros(8, np.uint8)], ValueError, r"item 0 has shape \(8,\)"),
        ([Image.new("RGBA", (8, 8))], ValueError, "item 0: has transparent"),
        ([Image.new("I;16", (8, 8))], ValueError, "item 0: holds grey values"),
    ],
)
def test_bad_data_sets(dataset, error, message):
    with pytest.raises(error, match=message):
        from_dataset(dataset)


def test_an_error_inside_the_data_set_keeps_its_kind():
    class Broken(list):
        def __getitem__(self, row):
            if row == 2:
                raise KeyError("no file")
            return super().__getitem__(row)

    images = from_dataset(Broken([np.zeros((8, 8), np.uint8)] * 4))
    with pytest.raises(KeyError) as caught:
        images[:]
    assert caught.value.__notes__ == ["while reading item 2 of the data set"]
    planes = [np.zeros((3, 8, 8), np.uint8)] * 2
    assert from_dataset(planes, layout="chw").shape == (2, 3, 8, 8)


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
