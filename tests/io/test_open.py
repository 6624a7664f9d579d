"""open_cube finds the right reader, and says so where there is none."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from icrkit.cube import from_arrays
from icrkit.exceptions import CubeFormatError, CubeIncompleteError
from icrkit.io import CubeWriter, open_cube, pack, verify


def test_text_paths_and_relative_ones(store: Any, tmp_path: Path, monkeypatch: Any) -> None:
    store.write(tmp_path / "a.cube")
    monkeypatch.chdir(tmp_path)
    cube = open_cube("a.cube")
    monkeypatch.chdir("/")
    assert_array_equal(cube["mid"].values, store.features["mid"])


def test_zarr(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    values = np.random.default_rng(0).normal(size=(6, 2, 3, 4))
    data = from_arrays({"mid": values}, [0.1, 0.3, 1.0], labels=range(6), attrs={"step": 2}).to_xarray()
    data.to_zarr(tmp_path / "a.zarr", zarr_format=2)
    cube = open_cube(tmp_path / "a.zarr")
    assert cube.step == 2
    assert_array_equal(cube.labels, range(6))
    assert_array_equal(cube[[4, 1]].select(sigma=0.3).level().values, values[[4, 1]][:, :, 1])
    data.astype(int).to_zarr(tmp_path / "b.zarr", zarr_format=2)
    with pytest.raises(CubeFormatError, match="int64"):
        open_cube(tmp_path / "b.zarr")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.pkl"])
def test_unknown_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CubeFormatError, match=r"expected a cube store \(folder\), \.h5"):
        open_cube(tmp_path / name)


def test_folders_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(CubeFormatError, match=r"folder without cube\.json"):
        open_cube(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such cube"):
        open_cube(tmp_path / "none.cube")
    with pytest.raises(ValueError, match="'digest' or 'size'"):
        open_cube(tmp_path, verify="crc")


@pytest.mark.parametrize("names", [["writer.lock"], ["config.lock", "writer.lock"], ["cube.json.0a.part"]])
def test_a_store_that_is_being_started(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    for read in (open_cube, verify, lambda path: pack(path, tmp_path.parent / "out.h5")):
        with pytest.raises(CubeIncompleteError, match=r"no cube\.json yet.*[Oo]pen it again"):
            read(tmp_path)


def test_a_reader_at_the_moment_at_which_a_store_is_started(tmp_path: Path) -> None:
    # Whenever it looks: nothing there, a folder without a plan, a plan without blocks, or a cube.
    found: list[BaseException] = []
    whole: list[int] = []
    over = threading.Event()

    def read(folder: Path) -> None:
        try:
            whole.append(open_cube(folder).n_images)
            whole.append(verify(folder))
        except (CubeFormatError, CubeIncompleteError) as error:
            if "cube.json" not in str(error) and "0 of 1 blocks" not in str(error):
                found.append(error)
        except FileNotFoundError as error:
            if error.filename != str(folder) or error.strerror != "no such cube":
                found.append(error)
        except BaseException as error:
            found.append(error)

    folders = [tmp_path / f"{i}.cube" for i in range(15)]

    def keep_reading() -> None:
        for folder in folders:
            while not (folder / "manifest.jsonl").exists() and not over.is_set():
                read(folder)
            read(folder)

    readers = [threading.Thread(target=keep_reading) for _ in range(2)]
    for reader in readers:
        reader.start()
    for folder in folders:
        with CubeWriter(folder, {"mid": 1}, [1.0], 2, 3) as writer:
            writer.append(range(3), {"mid": np.ones((3, 2, 1, 1))})
    over.set()
    for reader in readers:
        reader.join(60)
    assert not found
    assert whole
