"""Labels of every kind, from every container of images: read, or refused with the image named; never dropped."""

from __future__ import annotations

import enum
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from PIL import Image

from icrkit_extractors._image_labels import as_label, class_labels
from icrkit_extractors.images import from_dataset, open_images

PICTURES = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)
NAMES = ["cat", "dog", "cat", "eel"]
CODES = [0, 1, 0, 2]


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icrkit.io._hdf5.probe", lambda *_, **__: None)


class Animal(enum.Enum):
    cat = 0
    dog = 1
    eel = 2


class Code(enum.IntEnum):
    cat = 0
    dog = 1
    eel = 2


READ: dict[str, tuple[Any, list[Any]]] = {
    "list of text": (NAMES, NAMES),
    "list of bytes": ([name.encode() for name in NAMES], NAMES),
    "letters beyond ASCII": (["Käfer".encode(), "魚".encode(), b"", b"x"], ["Käfer", "魚", "", "x"]),
    "fixed bytes": (np.array(NAMES, "S"), NAMES),
    "fixed text": (np.array(NAMES), NAMES),
    "objects": (np.array(NAMES, object), NAMES),
    "text of numpy 2": (np.array(NAMES, np.dtypes.StringDType()), NAMES),
    "integers": (np.array(CODES, np.uint8), CODES),
    "objects of integers": (np.array(CODES, object), CODES),
    "a column": (np.array(CODES)[:, None], CODES),
    "booleans": (np.array([True, False, True, True]), [1, 0, 1, 1]),
    "list of booleans": ([True, False, True, True], [1, 0, 1, 1]),
    "whole floats": (np.array([0.0, 1.0, 0.0, 2.0]), CODES),
    "float objects": ([0.0, 1, 0, np.float32(2)], CODES),
    "enumeration": ([Animal[name] for name in NAMES], NAMES),
    "enumeration of integers": ([Code[name] for name in NAMES], CODES),
    "pandas text": (pd.Series(NAMES), NAMES),
    "pandas categories": (pd.Series(pd.Categorical(NAMES)), NAMES),
    "pandas integers": (pd.array(CODES, dtype="Int64"), CODES),
    "tensor": (torch.tensor(CODES), CODES),
    "list of tensors": (list(torch.tensor(CODES)), CODES),
    "an unmasked array": (np.ma.MaskedArray(CODES, [False] * 4), CODES),
    "a map": (map(str, NAMES), NAMES),
    "large": ([2**63 - 1, 0, -(2**63), 1], [2**63 - 1, 0, -(2**63), 1]),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "None": ([*NAMES[:3], None], "image 3 has no label"),
    "nan": ([0, 1, float("nan"), 2], "image 2 has no label"),
    "nan of numpy": (np.array([0, 1, np.nan, 2]), "image 2 has no label"),
    "NA": (["a", pd.NA, "b", "c"], "image 1 has no label"),
    "NaT": ([pd.NaT, "a", "b", "c"], "image 0 has no label"),
    "missing of pandas": (pd.array([0, None, 1, 2], dtype="Int64"), "image 1 has no label"),
    "no category": (pd.Series(pd.Categorical([*NAMES[:3], None])), "image 3 has no label"),
    "masked": (np.ma.MaskedArray(CODES, [False, True, False, False]), "image 1 has no label"),
    "masked booleans": (np.ma.MaskedArray([True] * 4, [False, True, False, False]), "image 1 has no label"),
    "masked text": (np.ma.MaskedArray(NAMES, [False, False, False, True]), "image 3 has no label"),
    "fractions": ([0.5, 1, 2, 3], r"label of image 0 is 0\.5, which is no class"),
    "infinity": ([1, np.inf, 2, 3], "label of image 1 is inf"),
    "complex": (np.arange(4) * 1j, "label of image 0 is 0j"),
    "times": (np.array(["2020"] * 4, "M8[ns]"), "label of image 0 is .*2020.*, a time"),
    "missing times": (np.array(["NaT"] * 4, "M8[ns]"), "image 0 has no label"),
    "records": (np.zeros(4, [("a", int), ("b", int)]), "label of image 0 is .*which is no class"),
    "not UTF-8": ([b"a", b"\xff", b"b", b"c"], "label of image 1 is the bytes .*not UTF-8"),
    "numbers and text": ([0, "1", 2, 3], "labels are numbers and text: 0, and '1' of image 1"),
    "dicts": ([{"boxes": []}] * 4, "label of image 0 is {'boxes': "),
    "beyond 64 bits": ([2**70, 0, 0, 0], "beyond 64 bits"),
    "a matrix": (np.zeros((4, 10), int), r"labels of shape \(4, 10\)"),
    "lists of lists": ([[0, 1]] * 4, r"labels of shape \(4, 2\)"),
    "ragged": ([[0], [0, 1], [2], [3]], "label of image 0 is"),
    "too few": (NAMES[:3], r"labels of shape \(3,\).*4 images"),
    "one number": (5, r"labels of shape \(\)"),
}


@pytest.mark.parametrize("kind", READ)
def test_labels_that_are_read(kind, tmp_path):
    given, wanted = READ[kind]
    given = list(given) if kind == "a map" else given
    np.save(tmp_path / "a.npy", PICTURES)
    for found in (
        class_labels(given, 4, "here"),
        open_images(tmp_path / "a.npy", labels=given).labels,
        from_dataset(list(PICTURES), labels=given).labels,
    ):
        assert found.tolist() == wanted and found.dtype.kind in "iuU"
    if kind not in ("a column",):
        items = list(zip(PICTURES, given, strict=True))
        assert from_dataset(items).labels.tolist() == wanted


@pytest.mark.parametrize("kind", REFUSED)
def test_labels_that_are_refused(kind, tmp_path):
    given, message = REFUSED[kind]
    np.save(tmp_path / "a.npy", PICTURES)
    with pytest.raises(ValueError, match=message):
        open_images(tmp_path / "a.npy", labels=given)
    with pytest.raises(ValueError, match="label"):
        from_dataset(list(PICTURES), labels=given)
    assert open_images(tmp_path / "a.npy", labels=False).labels is None


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT, np.ma.masked, np.datetime64("NaT")])
def test_what_is_missing(missing):
    assert as_label(missing) is None
    with pytest.raises(ValueError, match="item 0 has no label"):
        from_dataset([(picture, missing) for picture in PICTURES])
    with pytest.raises(ValueError, match="item 2 has no label"):
        _ = from_dataset([(p, missing if k == 2 else k) for k, p in enumerate(PICTURES)]).labels
    assert from_dataset(list(PICTURES)).labels is None  # nothing stands beside the image


def test_labels_that_a_data_set_lists():
    class Listed(list):
        targets: Any

    for given, wanted in (READ["list of bytes"], READ["pandas categories"], READ["whole floats"]):
        images = Listed(PICTURES)
        images.targets = given
        assert from_dataset(images).labels.tolist() == wanted
    images.targets = [0.5, 1, 2, 3]
    with pytest.raises(ValueError, match=r"labels that the data set lists: the label of image 0 is 0\.5"):
        from_dataset(images)


# ---- in files -------------------------------------------------------------------------------------------------------


def write_anndata(group: Any, create: str) -> None:
    make = getattr(group, create)
    make("codes", data=np.array(CODES, np.int8))
    names = np.array(["cat", "dog", "eel"])
    if create == "create_dataset":
        make("categories", data=names.astype(object), dtype=h5py.string_dtype())
    else:
        make("categories", data=names)


def hdf5_labels(file: h5py.File, kind: str) -> None:
    if kind == "vlen":
        file.create_dataset("labels", data=NAMES, dtype=h5py.string_dtype())
    elif kind == "vlen ascii":
        file.create_dataset("labels", data=NAMES, dtype=h5py.string_dtype("ascii"))
    elif kind == "fixed":
        file["labels"] = np.array(NAMES, "S")
    elif kind == "fixed utf-8":
        file.create_dataset("labels", data=np.array(NAMES, h5py.string_dtype("utf-8", 3)))
    elif kind == "column":
        file.create_dataset("labels", data=[[name] for name in NAMES], dtype=h5py.string_dtype())
    elif kind == "enumeration":
        file.create_dataset("labels", data=CODES, dtype=h5py.enum_dtype({"cat": 0, "dog": 1, "eel": 2}, "u1"))
    elif kind == "categories":
        write_anndata(file.create_group("labels"), "create_dataset")
    else:
        raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["vlen", "vlen ascii", "fixed", "fixed utf-8", "column", "enumeration", "categories"])
def test_labels_of_hdf5(kind, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["images"] = PICTURES
        hdf5_labels(file, kind)
    assert open_images(path).labels.tolist() == NAMES
    assert open_images(path, labels="labels").labels.tolist() == NAMES
    assert open_images(path, labels=False).labels is None


def test_booleans_and_missing_values_of_hdf5(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["images"], file["labels"] = PICTURES, np.array([True, False, True, True])
        file["y/values"], file["y/mask"] = np.array(CODES), np.zeros(4, bool)
        file["targets/values"], file["targets/mask"] = np.array(CODES), np.array([False, True, False, False])
        write_anndata(file.create_group("label"), "create_dataset")
        file["label/codes"][1] = -1
    assert open_images(path).labels.tolist() == [1, 0, 1, 1]
    assert open_images(path, labels="y").labels.tolist() == CODES
    for name in ("targets", "label"):
        with pytest.raises(ValueError, match=f"array '{name}': image 1 has no label"):
            open_images(path, labels=name)


def test_hdf5_labels_that_cannot_be_read(tmp_path):
    for name, write in {
        "link": lambda file: file.__setitem__("labels", h5py.SoftLink("/images")),
        "group": lambda file: file.create_group("labels"),
        "empty": lambda file: file.__setitem__("labels", h5py.Empty("f")),
        "record": lambda file: file.__setitem__("labels", np.zeros(4, [("a", int)])),
        "reference": lambda file: file.create_dataset("labels", data=[file["images"].ref] * 4, dtype=h5py.ref_dtype),
        "outside the enumeration": lambda file: file.create_dataset(
            "labels", data=[0, 1, 0, 7], dtype=h5py.enum_dtype({"cat": 0, "dog": 1}, "u1")
        ),
    }.items():
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            file["images"] = PICTURES
            write(file)
        for given in (None, "labels"):
            with pytest.raises(ValueError, match="labels"):
                open_images(path, labels=given)
        assert open_images(path, labels=False).labels is None


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kind", ["text", "bytes", "booleans", "categories"])
def test_labels_of_zarr(kind, version, tmp_path):
    path = tmp_path / "a.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fixed text has no specification in version 3
        group = zarr.open_group(path, mode="w", zarr_format=version)
        group.create_array("images", data=PICTURES)
        if kind == "categories":
            write_anndata(group.create_group("labels"), "create_array")
        else:
            given = {"text": np.array(NAMES), "bytes": np.array(NAMES, "S"), "booleans": np.array(CODES, bool)}[kind]
            group.create_array("labels", data=given)
        wanted = [0, 1, 0, 1] if kind == "booleans" else NAMES
        assert open_images(path).labels.tolist() == wanted
        assert open_images(path, labels="labels").labels.tolist() == wanted
        group.create_group("y")
        with pytest.raises(ValueError, match="'y' is a group"):
            open_images(path, labels="y")


@pytest.mark.parametrize(
    "given", [np.array(NAMES, "S"), np.array(NAMES), np.array(CODES, bool), np.array(CODES, float)]
)
def test_labels_of_npz(given, tmp_path):
    np.savez(tmp_path / "a.npz", images=PICTURES, labels=given)
    wanted = class_labels(given, 4, "").tolist()
    assert open_images(tmp_path / "a.npz").labels.tolist() == wanted


def test_objects_in_npz_are_refused_as_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=PICTURES, labels=np.array(NAMES, object))
    with pytest.raises(ValueError, match=r"array 'labels' holds Python objects.*np\.array\(values, dtype=str\)"):
        open_images(tmp_path / "a.npz")
    assert open_images(tmp_path / "a.npz", labels=False).labels is None


def test_labels_of_a_folder_and_of_files_without_names(tmp_path):
    for k, picture in enumerate(PICTURES):
        Path(tmp_path / "f" / NAMES[k]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "f" / NAMES[k] / f"{k}.png")
    assert open_images(tmp_path / "f", labels=np.array(NAMES, "S")).labels.tolist() == NAMES
    assert open_images(tmp_path / "f", labels=False).labels is None
    assert open_images(tmp_path / "f").labels.tolist() == [0, 0, 1, 2]
    np.save(tmp_path / "a.npy", PICTURES)
    for path in (tmp_path / "f", tmp_path / "a.npy"):
        with pytest.raises(ValueError, match="no named arrays, so labels='y' means nothing"):
            open_images(path, labels="y")
