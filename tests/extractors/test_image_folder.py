"""Images of folders: every kind of picture, in order and upright, and a damaged file is named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from icrkit_extractors.images import open_images

N = 12


def by_class(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array[k::3] for k in range(3)])


def nchw(images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, -1, 1)


# ---- files and classes ----------------------------------------------------------------------------------------------


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


def test_a_name_that_cannot_be_an_id(folder):
    (folder / "class0" / "00.png").rename(folder / "class0" / "\udcff.png")
    with pytest.raises(ValueError, match=r"the name 'class0/.udcff\.png' is not UTF-8"):
        open_images(folder)


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
