"""Files of torch.save: nothing in them is run, and torch's words without its advice."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from icrkit.io._torch_file import load_tensors, reason


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_tensors_come_back(tmp_path: Path) -> None:
    content = {"a": torch.arange(6.0).reshape(2, 3), "n": 3}
    torch.save(content, tmp_path / "a.pt")
    for mmap in (False, True):
        found = load_tensors(tmp_path / "a.pt", mmap=mmap)
        assert torch.equal(found["a"], content["a"]) and found["n"] == 3


def test_the_environment_does_not_allow_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"a": Evil(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_tensors(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_the_reason_is_what_the_file_names(tmp_path: Path) -> None:
    torch.save({"a": Evil(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(pickle.UnpicklingError) as caught:
        load_tensors(tmp_path / "a.pt")
    assert reason(caught.value) == f"it names {os.mkdir.__module__}.mkdir"


def test_a_pickle_that_torch_did_not_write_gives_a_reason_and_no_warning(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    with pytest.raises(pickle.UnpicklingError) as caught:  # warnings are errors here
        load_tensors(tmp_path / "a.pt")
    said = reason(caught.value)
    assert "Unsupported operand" in said and "\n" not in said and "issue" not in said
