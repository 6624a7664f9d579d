"""Images of arrays in files: axes and labels are found or asked for, and what is damaged or hostile is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest

from icrkit.datasets import data_path, load_fashion_images
from icrkit.exceptions import CubeCorruptError, CubeTooLargeError
from icrkit_extractors.images import open_images

N = 12


@pytest.fixture(scope="module")
def garments() -> tuple[np.ndarray, np.ndarray]:
    found = load_fashion_images("test")
    return found.images[:N, 0], found.labels[:N]


@pytest.fixture
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the other process that parses an HDF5 file first: it takes a third of a second."""
    monkeypatch.setattr("icrkit.io._hdf5.probe", lambda *_, **__: None)


def write_idx(path: Path, array: np.ndarray, opener=open) -> Path:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(side).to_bytes(4, "big") for side in array.shape)
    with opener(path, "wb") as file:
        file.write(head + array.tobytes())
    return path


def nchw(images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, -1, 1)


# ---- files ----------------------------------------------------------------------------------------------------------


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


def test_what_does_not_fit_as_labels_is_refused(tmp_path, garments):
    pictures, classes = garments
    np.savez(tmp_path / "a.npz", images=pictures, labels=classes[1:], y=np.zeros((N, 10)))
    with pytest.raises(ValueError, match=r"holds 'labels' \(\(11,\)\), 'y' \(\(12, 10\)\), which are not"):
        open_images(tmp_path / "a.npz")
    assert open_images(tmp_path / "a.npz", labels=False).labels is None
    for labels, message in {
        "labels": r"array 'labels': labels of shape \(11,\)",
        "y": r"array 'y': labels of shape \(12, 10\)",
        tuple(classes[1:]): r"array 'images': labels of shape \(11,\)",
        (1.5,) * N: r"array 'images': the label of image 0 is 1\.5, which is no class",
    }.items():
        with pytest.raises(ValueError, match=rf"a\.npz, {message}"):
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


def test_labels_of_another_number_beside_an_idx_file(tmp_path, garments):
    path = write_idx(tmp_path / "images-idx3-ubyte", garments[0])
    write_idx(tmp_path / "labels-idx1-ubyte", garments[1][1:])
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte holds labels of shape \(11,\), and .* 12 images"):
        open_images(path)


# ---- what is damaged or hostile -------------------------------------------------------------------------------------


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
        with pytest.raises(ValueError, match=rf"{name}.*(damaged|cannot be parsed)"):
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
        with pytest.raises(ValueError, match=r"a\.npz, array 'images' cannot be parsed: "):
            open_images(tmp_path / "a.npz")
    path = write_idx(tmp_path / "b.gz", garments[0], gzip.open)
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"b\.gz is damaged, or is not an idx file: .*CRC"):
        open_images(path)
    for name, content, message in (
        ("c", b"hello world", "does not begin as an idx file"),
        ("d", b"", "does not begin"),
        ("e", b"\0\0\x0d\x03" + b"\0\0\0\x01" * 3 + b"\0" * 4, "type 0x0d"),
        ("f", b"\0\0\x08\x03" + b"\0\0\0\x01" * 3 + b"\0" * 2, "declares 1 bytes of shape .1, 1, 1. and holds 2"),
        ("g", gzip.compress(b"\0\0\x08\x03" + b"\0\0\0\x01" * 3 + b"\0" * 2), "holds another number"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged, or is not an idx file: .*{message}"):
            open_images(tmp_path / name)


def test_a_small_idx_file_that_declares_much(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\x7f\xff\xff\xff" * 3))
    with pytest.raises(CubeTooLargeError, match=r"a\.gz declares"):
        open_images(tmp_path / "a.gz")
