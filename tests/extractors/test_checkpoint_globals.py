"""Values that training scripts keep beside the weights are read or passed over; nothing that they name is called."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch

from icrkit.exceptions import UnsafeModelError
from icrkit_extractors._checkpoint import read_tensors, stored_step, training_args
from icrkit_extractors._checkpoint_globals import Unread, _NumpyType, _scalar

BESIDE: dict[str, Any] = {
    "loss": np.float64(0.25),
    "best": np.float32(0.5),
    "names": collections.defaultdict(list, {"a": [1]}),
    "times": (datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC), datetime.timedelta(3)),
    "generators": {"numpy": np.random.get_state(), "python": random.getstate()},  # noqa: NPY002
    "curve": np.linspace(0, 1, 5),
    "words": np.array(["a", "b"]),
    "objects": np.array([None, "a"], dtype=object),
    "text": np.str_("a"),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("old", [False, True])
def test_what_training_scripts_keep_beside_the_weights(name, old, tmp_path):
    weights = {"a": torch.ones(2, 3), "b": torch.zeros(3)}
    path = tmp_path / "a.pt"
    torch.save({"model": weights, name: BESIDE[name]}, path, _use_new_zipfile_serialization=not old)
    got = read_tensors(path, "model")
    assert all(torch.equal(got[key], value) for key, value in weights.items())


def test_numbers_of_numpy_are_numbers(tmp_path):
    args = argparse.Namespace(
        lr=np.float64(1e-4), seed=np.int32(-3), half=np.float16(0.5), on=np.bool_(True), wide=np.uint64(2**63),
        z=np.complex64(1 + 2j), big=np.dtype(">f8").type(0.1), out=pathlib.PurePosixPath("runs/1"),
    )  # fmt: skip
    torch.save({"model": {"w": torch.ones(2)}, "step": np.int64(500), "args": args}, tmp_path / "a.pt")
    assert stored_step(tmp_path / "a.pt") == 500
    got = training_args(tmp_path / "a.pt")
    assert got == vars(args) and type(got["lr"]) is float and type(got["seed"]) is int and got["on"] is True


def test_byte_order_counts():
    kind = _NumpyType("f8", False, True)
    kind.__setstate__((3, ">", None, None, None, -1, -1, 0))
    assert _scalar(kind, np.array(0.3, ">f8").tobytes()) == 0.3


@pytest.mark.parametrize("kind", ["O8", "V8", "U1", "M8", "f8,f8", "f"])
def test_what_is_no_number_is_not_read(kind):
    assert isinstance(_scalar(_NumpyType(kind), b"\0" * 16), Unread)


def test_a_number_without_its_bytes_is_damage(tmp_path):
    class Cut:
        def __reduce__(self):
            return np._core.multiarray.scalar, (np.dtype("f8"), b"\0")

    torch.save({"model": {"w": torch.ones(2)}, "x": Cut()}, tmp_path / "a.pt", pickle_module=pickle)
    with pytest.raises(UnsafeModelError, match="truncated"):
        read_tensors(tmp_path / "a.pt")


def test_an_array_that_declares_much_takes_nothing(tmp_path):
    class Huge:
        def __reduce__(self):
            return np._core.multiarray._reconstruct, (np.ndarray, (1 << 50,), b"b")

    torch.save({"model": {"w": torch.ones(2)}, "x": Huge()}, tmp_path / "a.pt", pickle_module=pickle)
    assert list(read_tensors(tmp_path / "a.pt")) == ["w"]
    assert vars(Unread(np.ndarray, (1 << 50,), b"b")) == {}


def test_weights_that_are_arrays_have_a_file_of_their_own(tmp_path):
    torch.save({"params": {"w": np.ones((2, 3), np.float32)}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"no dict of named tensors; it holds \['params'\]; arrays of numpy .* \.npz"):
        read_tensors(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"no dict of tensors under 'params'; there are \[\]; arrays of numpy"):
        read_tensors(tmp_path / "a.pt", "params")
