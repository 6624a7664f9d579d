"""The 25 bad inputs of the store, as a person in a shell meets them.

Each gives exit status 1, or 2 for wrong usage, one line on standard error, no traceback, and nothing on standard output
that reads like a result.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import icrkit as ik

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
SIGMAS = [0.1, 0.2, 0.4]
Make = Callable[[Path], Path]


def features(n: int = 60, views: int = 2, d: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    image, rest = rng.standard_normal((n, 1, 1, d)), rng.standard_normal((n, views, 3, d))
    return (image * np.array([2.0, 1.0, 0.5])[:, None] + rest).astype(np.float32)


def store(folder: Path, n_written: int = 60) -> Path:
    path = folder / "a.cube"
    with ik.CubeWriter(path, {"mid": 4}, SIGMAS, n_views=2, n_images=60, block_size=20) as writer:
        writer.append(np.arange(n_written), {"mid": features()[:n_written]})
    return path


def part_of(folder: Path) -> Path:
    return sorted(store(folder).glob("part-*.h5"))[1]


def arrays(folder: Path, h: np.ndarray, **others: Any) -> Path:
    np.savez(folder / "a.npz", mid=h, sigmas=SIGMAS, **others)
    return folder / "a.npz"


# ---- one situation each: what is made, and words of the line --------------------------------------------------------


def truncated_part(folder: Path) -> Path:
    part = part_of(folder)
    part.write_bytes(part.read_bytes()[:-100])
    return folder / "a.cube"


def flipped_bit(folder: Path) -> Path:
    part = part_of(folder)
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    return folder / "a.cube"


def torn_line_in_the_middle(folder: Path) -> Path:
    manifest = store(folder) / "manifest.jsonl"
    first, *rest = manifest.read_text().splitlines(keepends=True)
    manifest.write_text(first[: len(first) // 2] + "\n" + "".join(rest))
    return folder / "a.cube"


def half_written(folder: Path) -> Path:
    return store(folder, n_written=20)


def missing_part(folder: Path) -> Path:
    part_of(folder).unlink()
    return folder / "a.cube"


def two_dimensional(folder: Path) -> Path:
    return arrays(folder, features()[:, 0, 0])


def objects(folder: Path) -> Path:
    np.save(folder / "a.npy", np.array([{}, None]), allow_pickle=True)
    return folder / "a.npy"


def strings(folder: Path) -> Path:
    return arrays(folder, features().astype("U5"))


def complex_numbers(folder: Path) -> Path:
    return arrays(folder, features() * 1j)


def not_finite(folder: Path) -> Path:
    h = features()
    h[7, 1, :, 3] = np.nan
    return arrays(folder, h)


def constant_feature(folder: Path) -> Path:
    h = features()
    h[..., 2] = 3.0
    return arrays(folder, h)


def one_view(folder: Path) -> Path:
    return arrays(folder, features(views=1))


def one_image(folder: Path) -> Path:
    return arrays(folder, features(n=1))


def same_views(folder: Path) -> Path:
    h = features()
    h[:, 1] = h[:, 0]
    return arrays(folder, h)


def same_ids(folder: Path) -> Path:
    return arrays(folder, features(), image=["a"] * 60)


def too_wide(folder: Path) -> Path:
    return arrays(folder, features(n=20, d=40))


def same_feature_twice(folder: Path) -> Path:
    h = features()
    h[..., 3] = h[..., 0]
    return arrays(folder, h)


def huge_shape(folder: Path) -> Path:
    """A small .npy that declares 160 PB."""
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000, 2, 200000000), }"
    header += " " * (117 - len(header)) + "\n"
    (folder / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 64)
    return folder / "a.npy"


def deep_json(folder: Path) -> Path:
    text = b'{"a":' * 5000 + b"1" + b"}" * 5000
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return folder / "a.safetensors"


def archive_of_no_arrays(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("mid.npy", b"no array at all")
    return folder / "a.npz"


def archive_of_nothing(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.npz", "w"):
        return folder / "a.npz"


def encrypted_archive(folder: Path) -> Path:
    return in_directory(arrays(folder, features()), 8, b"\x01\x00")


def archive_by_an_unknown_method(folder: Path) -> Path:
    return in_directory(arrays(folder, features()), 10, b"\xff\xff")


def archive_of_a_later_version(folder: Path) -> Path:
    return in_directory(arrays(folder, features()), 6, b"\xff\x00")


def in_directory(path: Path, at: int, new: bytes) -> Path:
    """Bytes of the first entry of an archive's directory."""
    raw = bytearray(path.read_bytes())
    place = raw.index(b"PK\x01\x02") + at
    raw[place : place + len(new)] = new
    path.write_bytes(raw)
    return path


def header_of_no_python(folder: Path) -> Path:
    np.save(folder / "a.npy", features())
    raw = (folder / "a.npy").read_bytes()
    (folder / "a.npy").write_bytes(raw.replace(b"), }", b"),  ", 1))
    return folder / "a.npy"


def pickle_that_ends_early(folder: Path) -> Path:
    torch = pytest.importorskip("torch")
    torch.save({"mid": torch.from_numpy(features())}, folder / "b.pt")
    with zipfile.ZipFile(folder / "b.pt") as old, zipfile.ZipFile(folder / "a.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b"X\x03\x00\x00\x00mid", b"h\x2e\x00\x00\x00mid"))
    return folder / "a.pt"


def broken_metadata(folder: Path) -> Path:
    """Links of the root that lead nowhere, which h5py meets with a KeyError or RuntimeError."""
    with h5py.File(folder / "a.nc", "w", libver="latest") as file:
        file["mid"] = features()
        file["up"] = features()
    raw = bytearray((folder / "a.nc").read_bytes())
    places = [i for i in range(len(raw)) if raw.startswith(b"OHDR", i)]
    raw[places[-1] + 8] ^= 1
    (folder / "a.nc").write_bytes(raw)
    return folder / "a.nc"


def strings_without_end(folder: Path) -> Path:
    """The heap of strings on which HDF5 spins: 8 zero bytes in its free space."""
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("image", data=[f"image {i}" for i in range(40)], dtype=h5py.string_dtype())
    raw = bytearray((folder / "a.h5").read_bytes())
    heap = raw.index(b"GCOL")
    place = heap + 32 + -(-int.from_bytes(raw[heap + 24 : heap + 32], "little") // 8) * 8
    raw[place : place + 16] = bytes(16)
    (folder / "a.h5").write_bytes(raw)
    return folder / "a.h5"


def lost_chunk(folder: Path) -> Path:
    pytest.importorskip("zarr")
    ik.from_arrays({"mid": features()}, SIGMAS).to_xarray().to_zarr(folder / "a.zarr", zarr_format=2)
    next(path for path in (folder / "a.zarr" / "mid").iterdir() if path.name[0] == "0").unlink()
    return folder / "a.zarr"


def external_link(folder: Path) -> Path:
    (folder / "secret.txt").write_text("secret")
    with h5py.File(folder / "a.nc", "w") as file:
        file["mid"] = h5py.ExternalLink(str(folder / "secret.txt"), "/x")
    return folder / "a.nc"


def nested_groups(folder: Path) -> Path:
    with h5py.File(folder / "a.nc", "w") as file:
        group: Any = file
        for _ in range(3000):
            group = group.create_group("g")
    return folder / "a.nc"


def gzip_bomb(folder: Path) -> Path:
    """A thousand times its size in zeros: streamed, and then no features."""
    shape = (500, 2, 1, 4096)
    with h5py.File(folder / "a.h5", "w") as file:
        made = file.create_dataset("mid", shape, "f4", chunks=(100, 2, 1, 4096), compression="gzip", compression_opts=9)
        made[:] = 0
        for axis, dim in enumerate(("image", "view", "sigma", "feature_mid")):
            made.dims[axis].label = dim
    assert (folder / "a.h5").stat().st_size < 4 * np.prod(shape) / 300
    return folder / "a.h5"


def bomb_in_one_chunk(folder: Path) -> Path:
    chunk = (2**12, 2, 1, 2**15)
    with h5py.File(folder / "a.h5", "w") as file:
        made = file.create_dataset("mid", chunk, "f4", chunks=chunk, compression="gzip")
        for axis, dim in enumerate(("image", "view", "sigma", "feature_mid")):
            made.dims[axis].label = dim
        made.id.write_direct_chunk((0, 0, 0, 0), os.urandom(2_000_000))
    return folder / "a.h5"


def no_file_of_ours(folder: Path) -> Path:
    (folder / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * 500)
    return folder / "a.h5"


def empty_file(folder: Path) -> Path:
    (folder / "a.npz").touch()
    return folder / "a.npz"


def wrong_type_in_the_configuration(folder: Path) -> Path:
    config = store(folder) / "cube.json"
    contents = json.loads(config.read_text())
    config.write_text(json.dumps(dict.fromkeys(contents, 7)))
    return folder / "a.cube"


def empty_folder(folder: Path) -> Path:
    (folder / "a.cube").mkdir()
    return folder / "a.cube"


READ = [
    truncated_part, flipped_bit, torn_line_in_the_middle, half_written, missing_part, two_dimensional, objects, strings,
    complex_numbers, not_finite, constant_feature, one_view, one_image, same_views, same_ids, too_wide,
    same_feature_twice, huge_shape, deep_json, external_link, nested_groups, no_file_of_ours, empty_file,
    wrong_type_in_the_configuration, empty_folder, archive_of_no_arrays, archive_of_nothing, encrypted_archive,
    archive_by_an_unknown_method, archive_of_a_later_version, header_of_no_python, pickle_that_ends_early,
    broken_metadata, strings_without_end, lost_chunk, gzip_bomb, bomb_in_one_chunk,
]  # fmt: skip


def assert_refused(result: Any, path: Path) -> None:
    said = (result.exit_code, result.stdout, result.stderr)
    assert result.exit_code == 1, said
    assert result.stdout == "", said
    lines = [line for line in result.stderr.splitlines() if not line.startswith("icrkit: warning: ")]
    assert len(lines) == 1 and lines[0].startswith("icrkit: ") and len(lines[0]) > 30, said
    assert "Traceback" not in result.stderr and "unexpected" not in lines[0], said


@pytest.mark.filterwarnings("always::UserWarning")
@pytest.mark.parametrize("make", READ, ids=lambda make: make.__name__)
@pytest.mark.parametrize("words", [["sweep"], ["score", "--metrics", "icr,information"], ["sweep", "--json"]], ids=str)
def test_a_bad_input_is_one_line(make: Make, words: list[str], tmp_path: Path) -> None:
    from click.testing import CliRunner

    from icrkit.cli import main

    path = make(tmp_path)
    assert_refused(CliRunner().invoke(main, [words[0], str(path), *words[1:]]), path)


@pytest.mark.parametrize("command", ["info", "verify", "pack", "course", "compare", "memorization"])
@pytest.mark.parametrize("make", [wrong_type_in_the_configuration, deep_json, huge_shape, empty_folder, empty_file])
def test_every_command_refuses_what_it_cannot_read(make: Make, command: str, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from icrkit.cli import main

    path = make(tmp_path)
    further = {"pack": [str(tmp_path / "out.h5")], "memorization": [str(path), "--threshold", "0.6"]}
    assert_refused(CliRunner().invoke(main, [command, str(path), *further.get(command, [])]), path)
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), TypeError("a\nb"), MemoryError(), RecursionError("depth"), OverflowError("int"), RuntimeError(""),
     AttributeError("x"), IndexError("x"), struct.error("x"), ZeroDivisionError("x"), AssertionError(), EOFError(),
     SystemExit(3), StopIteration(), NotImplementedError(), BufferError("x")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_is_raised_is_one_line(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from icrkit.cli import main

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("icrkit.io.verify", fail)
    result = CliRunner().invoke(main, ["verify", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (1, "") and result.stderr.count("\n") == 1
    assert result.stderr.startswith("icrkit: ") and "Traceback" not in result.stderr
    shown = CliRunner().invoke(main, ["--debug", "verify", str(tmp_path)])
    # click itself ends the process at the end of input.
    assert isinstance(error, EOFError) or type(shown.exception) is type(error)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """Of the process, not of the runner of tests: what is left in buffers at exit is said once too."""
    path = store(tmp_path)
    with open("/dev/full", "w") as full:
        for words in (["info", str(path)], ["sweep", str(path), "--json"]):
            command = [sys.executable, "-m", "icrkit", *words]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, env=ENVIRONMENT)
            assert done.returncode == 1 and done.stderr.count("\n") == 1, done
            assert "No space left on device" in done.stderr
