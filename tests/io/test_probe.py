"""Files on which the HDF5 library spins are met by another process first, whatever their digest says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from icrkit.exceptions import CubeCorruptError, CubeFormatError
from icrkit.io import _probe, open_cube
from icrkit.io._hdf5 import open_hdf5

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def spinning(path: Path) -> Path:
    """A file whose heap of strings HDF5 reads without end: 8 zero bytes in the free space of the heap."""
    with h5py.File(path, "w") as file:
        file.attrs["icrkit"] = "x"
        file.create_dataset("image", data=[f"image {i}" for i in range(40)], dtype=h5py.string_dtype())
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    # Each object of a collection: index, references, 4 bytes, size, data padded to 8.
    place = heap + 16
    place += 16 + -(-int.from_bytes(raw[place + 8 : place + 16], "little") // 8) * 8
    raw[place : place + 16] = bytes(16)
    path.write_bytes(raw)
    return path


def test_a_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1.0, 2.0]
    _probe.probe(tmp_path / "a.h5")
    monkeypatch.setattr(_probe, "_prober", None)  # a second question would fail
    _probe.probe(tmp_path / "a.h5")
    with open_hdf5(tmp_path / "a.h5") as file:
        assert file["x"][:].tolist() == [1.0, 2.0]


def test_what_is_no_file_is_not_opened_by_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for a pipe's writer until its clock ends it, and call the pipe damaged."""
    monkeypatch.setattr(_probe, "_prober", None)  # a question would fail
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(CubeFormatError, match=r"a\.h5 is not a regular file"):
        open_hdf5(tmp_path / "a.h5")
    with pytest.raises(IsADirectoryError):
        open_hdf5(tmp_path)


@linux
def test_a_parser_that_spins_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1.0]
    child = tmp_path / "spins.py"
    text = _probe._SCRIPT.read_text(encoding="utf-8")
    child.write_text(text.replace("_PROCESSOR_SECONDS = 3.0", "_PROCESSOR_SECONDS = 0.1").replace(
        '    with open(path, "rb"', '    while True:\n        pass\n    with open(path, "rb"'
    ), encoding="utf-8")  # fmt: skip
    monkeypatch.setattr(_probe, "_SCRIPT", child)
    monkeypatch.setattr(_probe, "_running", None)
    with pytest.raises(CubeCorruptError, match="does not end, or dies"):
        _probe.probe(tmp_path / "a.h5")
    assert _probe._running is None
    with pytest.raises(CubeCorruptError, match="does not end, or dies"):  # remembered
        open_hdf5(tmp_path / "a.h5")


@pytest.mark.skipif(os.name != "posix", reason="ends by a signal")
def test_a_parser_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.h5", "b.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = [1.0]
    child = tmp_path / "dies.py"
    text = _probe._SCRIPT.read_text(encoding="utf-8")
    child.write_text(
        text.replace(
            '    with open(path, "rb"', '    if "a.h5" in path: os.kill(os.getpid(), 11)\n    with open(path, "rb"'
        ),
        encoding="utf-8",
    )
    monkeypatch.setattr(_probe, "_SCRIPT", child)
    monkeypatch.setattr(_probe, "_running", None)
    for _ in range(2):  # by the signal, and as it is remembered
        with pytest.raises(CubeCorruptError, match=r"a\.h5 cannot be parsed: the HDF5 library does not end, or dies"):
            open_hdf5(tmp_path / "a.h5")
    with open_hdf5(tmp_path / "b.h5") as file:
        assert file["x"][:].tolist() == [1.0]
    assert _probe._running is not None
    _probe._running.end()


@linux
def test_only_what_will_be_read_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spinning(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["x"] = [1.0]
    monkeypatch.setattr(_probe, "_parsed", {})
    with open_hdf5(path, names=("x", "none")) as file:
        assert file["x"][:].tolist() == [1.0]
    with pytest.raises(CubeCorruptError, match="does not end, or dies"):
        open_hdf5(path, names=("x", "image"))
    with pytest.raises(CubeCorruptError, match="does not end, or dies"):
        open_hdf5(path)
    with pytest.raises(CubeCorruptError, match="does not end, or dies"):  # all of it says enough of its pieces
        open_hdf5(path, names=("x", "none"))


@linux
def test_strings_without_end(tmp_path: Path) -> None:
    path = spinning(tmp_path / "a.h5")
    begin = time.perf_counter()
    with pytest.raises(CubeCorruptError):
        open_cube(path)
    assert time.perf_counter() - begin < 120


@linux
def test_the_other_process_ends_with_its_parent(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1.0]
    code = (
        "import sys, time; from icrkit.io import _probe; _probe.probe(sys.argv[1]); "
        "print(_probe._running.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.h5")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    for _ in range(600):
        if not os.path.exists(f"/proc/{child}") or "Z" in Path(f"/proc/{child}/stat").read_text().split(")")[1][:3]:
            return
        time.sleep(0.05)
    pytest.fail("the parser outlived its parent")
