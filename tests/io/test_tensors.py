"""Arrays saved by numpy, torch and safetensors."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from icrkit.exceptions import CubeCorruptError, CubeFormatError, UnsafeModelError
from icrkit.io import open_cube


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 2, 4)).astype("f4")


def safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> Path:
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header | {"__metadata__": {"by": "test"}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


class TestRows:
    """Two axes are one image a row, in any of the formats."""

    def check(self, path: Path, values: np.ndarray, labels: bool = False) -> None:
        cube = open_cube(path)
        assert (cube.n_images, cube.n_views) == (6, 1)
        assert_array_equal(cube.level().values[:, 0], values[:, 0])
        assert (cube.labels is not None) == labels

    def test_numpy(self, tmp_path: Path, values: np.ndarray) -> None:
        np.save(tmp_path / "a.npy", values[:, 0])
        self.check(tmp_path / "a.npy", values)
        np.savez(tmp_path / "a.npz", mid=values[:, 0], labels=range(6))
        self.check(tmp_path / "a.npz", values, labels=True)

    def test_safetensors(self, tmp_path: Path, values: np.ndarray) -> None:
        tensors = {"mid": ("F32", (6, 4), values[:, 0].tobytes()), "labels": ("I64", (6,), np.arange(6).tobytes())}
        self.check(safetensors(tmp_path / "a.safetensors", tensors), values, labels=True)

    def test_torch(self, tmp_path: Path, values: np.ndarray) -> None:
        torch = pytest.importorskip("torch")
        torch.save(torch.from_numpy(values[:, 0].copy()), tmp_path / "a.pt")
        self.check(tmp_path / "a.pt", values)

    def test_a_single_image(self, tmp_path: Path, values: np.ndarray) -> None:
        np.save(tmp_path / "a.npy", values[:1, 0])
        assert open_cube(tmp_path / "a.npy").n_images == 1


class TestSafetensors:
    def test_dtypes(self, tmp_path: Path, values: np.ndarray) -> None:
        half = values.astype("f2")
        upper = (values.view("u4") >> 16).astype("u2")
        path = safetensors(
            tmp_path / "a.safetensors",
            {
                "mid": ("F32", values.shape, values.tobytes()),
                "half": ("F16", half.shape, half.tobytes()),
                "brain": ("BF16", upper.shape, upper.tobytes()),
                "labels": ("I64", (6,), np.arange(6).tobytes()),
            },
        )
        cube = open_cube(path)
        assert_array_equal(cube["mid"].values[:, :, 0], values)
        assert_array_equal(cube["half"].values[:, :, 0], half)
        assert_array_equal(cube["brain"].values[:, :, 0].view("u4") >> 16, upper)
        assert_array_equal(cube.labels, range(6))

    def test_damaged(self, tmp_path: Path, values: np.ndarray) -> None:
        good = safetensors(tmp_path / "a.safetensors", {"mid": ("F32", values.shape, values.tobytes())}).read_bytes()
        for raw in (good[:-4], good[:30], b"\xff" * 64, good.replace(b"[6, 2, 4]", b"[6, 2, 9]")):
            (tmp_path / "b.safetensors").write_bytes(raw)
            with pytest.raises(CubeCorruptError):
                open_cube(tmp_path / "b.safetensors")
        path = safetensors(tmp_path / "c.safetensors", {"mid": ("U8", (6,), b"abcdef")})
        with pytest.raises(CubeFormatError, match="U8"):
            open_cube(path)


class Payload:
    """A pickle that would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


class TestTorch:
    def test_tensors(self, tmp_path: Path, values: np.ndarray) -> None:
        torch = pytest.importorskip("torch")
        torch.save({"mid": torch.from_numpy(values)}, tmp_path / "a.pt")
        assert_array_equal(open_cube(tmp_path / "a.pt").level().values, values)
        torch.save(torch.from_numpy(values), tmp_path / "b.pt")
        assert open_cube(tmp_path / "b.pt").layers == ("features",)
        torch.save({"mid": [1, 2]}, tmp_path / "c.pt")
        with pytest.raises(CubeFormatError, match="expected tensors"):
            open_cube(tmp_path / "c.pt")

    def test_no_code_is_run(self, tmp_path: Path, monkeypatch: Any) -> None:
        torch = pytest.importorskip("torch")
        torch.save({"mid": Payload(tmp_path / "run")}, tmp_path / "a.pt")
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        with pytest.raises(UnsafeModelError, match="nothing of it was run"):
            open_cube(tmp_path / "a.pt")
        assert not (tmp_path / "run").exists()

    def test_stride_zero(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        torch.save({"mid": torch.zeros(1).expand(10**6, 10**3, 100)}, tmp_path / "a.pt")
        with pytest.raises(UnsafeModelError, match="declares more"):
            open_cube(tmp_path / "a.pt")

    def test_damaged(self, tmp_path: Path, values: np.ndarray) -> None:
        torch = pytest.importorskip("torch")
        torch.save(torch.from_numpy(values), tmp_path / "a.pt")
        (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:200])
        with pytest.raises(CubeCorruptError):
            open_cube(tmp_path / "a.pt")


class TestOtherTensors:
    """What torch saves beside plain tensors, and in other wrappings."""

    def test_older_format(self, tmp_path: Path, values: np.ndarray) -> None:
        torch = pytest.importorskip("torch")
        torch.save({"mid": torch.from_numpy(values)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
        assert_array_equal(open_cube(tmp_path / "a.pt").level().values, values)

    def test_compressed(self, tmp_path: Path, values: np.ndarray) -> None:
        import zipfile

        torch = pytest.importorskip("torch")
        torch.save({"mid": torch.from_numpy(values)}, tmp_path / "a.pt")
        with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w", 8) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        with pytest.raises(CubeFormatError, match="is compressed"):
            open_cube(tmp_path / "b.pt")

    @pytest.mark.filterwarnings("ignore::UserWarning")  # of torch: nested and quantised tensors may change
    @pytest.mark.parametrize("kind", ["sparse", "meta", "nested", "jagged", "quantised"])
    def test_no_plain_values(self, tmp_path: Path, kind: str) -> None:
        torch = pytest.importorskip("torch")
        make = {
            "sparse": lambda: torch.zeros(4, 3).to_sparse(),
            "meta": lambda: torch.zeros(4, 3, device="meta"),
            "nested": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
            "jagged": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged),
            "quantised": lambda: torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8),
        }
        torch.save({"mid": make[kind]()}, tmp_path / "a.pt")
        with pytest.raises((CubeFormatError, UnsafeModelError), match=r"a\.pt"):
            open_cube(tmp_path / "a.pt")

    @pytest.mark.parametrize("place", [4, 6, 8, 10, 12, 16])
    def test_damaged_directory(self, tmp_path: Path, values: np.ndarray, place: int) -> None:
        """Fields of the record at the end of an archive, which zipfile looks at when it is asked whether it is one."""
        torch = pytest.importorskip("torch")
        torch.save({"mid": torch.from_numpy(values)}, tmp_path / "a.pt")
        raw = bytearray((tmp_path / "a.pt").read_bytes())
        for mark, at in ((b"PK\x05\x06", place), (b"PK\x06\x07", place), (b"PK\x06\x06", place)):
            damaged = raw.copy()
            begin = damaged.rfind(mark) + at
            damaged[begin : begin + 2] = b"\xff\x7f"
            (tmp_path / "a.pt").write_bytes(damaged)
            try:
                found = open_cube(tmp_path / "a.pt").level().values
            except (CubeCorruptError, CubeFormatError, UnsafeModelError) as error:
                assert "a.pt" in str(error)
            else:
                assert_array_equal(found, values)
