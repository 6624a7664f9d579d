"""Text of errors and warnings is one printable line, whatever the names in it."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

import icrkit as ik
from icrkit import exceptions

EVIL = "a\x1b[2J\nb\u202ec"


@pytest.mark.parametrize("name", exceptions.__all__)
def test_text_is_one_printable_line(name: str) -> None:
    error = getattr(exceptions, name)(f"{EVIL} and ü")
    assert str(error) == r"a\x1b[2J\nb\u202ec and ü"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and again.args == error.args == (f"{EVIL} and ü",)


def test_a_system_error_keeps_its_file() -> None:
    error = exceptions.CubeCorruptError(5, "Input/output error", "a\nb")
    assert (error.errno, error.filename) == (5, "a\nb") and str(error).isprintable()


def test_names_in_files_of_every_kind(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{EVIL: np.zeros((2, 2, 2), int)})
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file[EVIL] = np.zeros((2, 2, 2))
    with h5py.File(tmp_path / "b.nc", "w") as file:
        file[EVIL] = h5py.SoftLink("/" + EVIL)
    header = f'{{"{EVIL}": {{"dtype": "{EVIL}", "shape": [1], "data_offsets": [0, 4]}}}}'.encode("unicode_escape")
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    for name in ("a.npz", "a.nc", "b.nc", "a.safetensors"):
        with pytest.raises((ValueError, OSError)) as caught:
            ik.open_cube(tmp_path / name)
        assert str(caught.value).isprintable(), name
    cube = ik.from_arrays({EVIL: np.zeros((3, 2, 2)), "up": np.zeros((3, 2, 2))})
    with pytest.raises(ValueError, match="no layer") as caught:
        cube.select(layer="none")
    assert str(caught.value).isprintable()
