"""Size, channels and range of images: Pillow's and torchvision's own, of files as of arrays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from icrkit_extractors import views
from icrkit_extractors.images import open_images

N = 12


def by_class(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array[k::3] for k in range(3)])


def nchw(images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, -1, 1)


# ---- size -----------------------------------------------------------------------------------------------------------


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


# ---- channels and range ---------------------------------------------------------------------------------------------


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
