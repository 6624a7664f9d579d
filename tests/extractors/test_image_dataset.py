"""Images of data sets: items of every kind give the same pixels, and nothing about them is guessed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from icrkit_extractors import views
from icrkit_extractors.images import from_dataset, open_images

N = 12


def by_class(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array[k::3] for k in range(3)])


def nchw(images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, -1, 1)


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
    with pytest.raises(ValueError, match=r"label of item 0 is \{'boxes': \[\]\}, which is no class; labels=False"):
        from_dataset(boxes)
    assert from_dataset(boxes, labels=False).labels is None
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
