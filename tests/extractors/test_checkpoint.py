"""Tensors come out of checkpoints bit for bit, and nothing in a file is run."""

from __future__ import annotations

import builtins
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from icrkit.exceptions import MissingDependencyError, UnsafeModelError
from icrkit_extractors._checkpoint import (
    load_into,
    read_shards,
    read_tensors,
    sha256_of,
    training_args,
    without_prefix,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "in.weight": torch.randn(5, 3, generator=generator),
        "in.bias": torch.randn(5, generator=generator).half(),
        "steps": torch.arange(7),
    }


# ---- files of tensors -----------------------------------------------------------------------------------------------


class TestReadTensors:
    @pytest.mark.parametrize("suffix", ["npz", "safetensors", "pt", "pth", "ckpt", "bin", "PT"])
    def test_every_kind_gives_the_same_bits(self, tmp_path, weights, suffix, same_tensors):
        path = tmp_path / f"a.{suffix}"
        if suffix == "npz":
            np.savez(path, **{name: value.numpy() for name, value in weights.items()})
        elif suffix == "safetensors":
            safetensors.torch.save_file(weights, path)
        else:
            torch.save(weights, path)
        got = read_tensors(path)
        assert same_tensors({name: got[name] for name in weights}, weights)
        assert len(got) == len(weights)

    def test_old_kind_of_torch_file(self, tmp_path, weights, same_tensors):
        torch.save(weights, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
        assert same_tensors(read_tensors(tmp_path / "a.pt"), weights)

    def test_bfloat16_and_parameters(self, tmp_path):
        tensors = {"a": nn.Parameter(torch.randn(3).bfloat16())}
        torch.save(tensors, tmp_path / "a.pt")
        got = read_tensors(tmp_path / "a.pt")["a"]
        assert torch.equal(got, tensors["a"].detach()) and got.dtype == torch.bfloat16 and not got.requires_grad

    def test_no_arguments_inside(self, tmp_path, weights):
        torch.save(weights, tmp_path / "a.pt")
        np.savez(tmp_path / "a.npz", a=np.zeros(2))
        assert training_args(tmp_path / "a.pt") == {} == training_args(tmp_path / "a.npz")

    def test_wrong_paths(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no such file: .*none\.pt"):
            read_tensors(tmp_path / "none.pt")
        with pytest.raises(UnsafeModelError, match="not a file"):
            read_tensors(tmp_path)
        (tmp_path / "a.pkl").write_bytes(b"")
        with pytest.raises(ValueError, match="family edm"):
            read_tensors(tmp_path / "a.pkl")

    @pytest.mark.parametrize("suffix", ["npz", "safetensors", "pt"])
    def test_without_the_package(self, tmp_path, weights, monkeypatch, suffix):
        (tmp_path / f"a.{suffix}").write_bytes(b"1234567890")
        real = builtins.__import__

        def without(name: str, *args: Any) -> Any:
            if name.split(".")[0] in ("torch", "safetensors"):
                raise ImportError(name)
            return real(name, *args)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(MissingDependencyError, match="pip install"):
            read_tensors(tmp_path / f"a.{suffix}")


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


class TestHostileFiles:
    @pytest.mark.parametrize("old", [False, True])
    def test_pickle_that_would_run(self, tmp_path, weights, old, Evil):
        content = {"a": weights, "b": Evil(tmp_path / "ran")}
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
        with pytest.raises(UnsafeModelError, match=r"it names (posix|nt)\.mkdir; save its tensors alone.*state_dict"):
            read_tensors(tmp_path / "a.pt", "a")
        assert not (tmp_path / "ran").exists()

    def test_whole_module(self, tmp_path):
        torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
        with pytest.raises(UnsafeModelError, match=r"Linear; save its tensors alone"):
            read_tensors(tmp_path / "a.pt")

    def test_an_environment_that_asks_for_unsafe_loading_is_not_obeyed(self, tmp_path, Evil):
        torch.save({"a": torch.zeros(1), "b": Evil(tmp_path / "ran")}, tmp_path / "a.pt")
        code = (
            "from icrkit_extractors._checkpoint import read_tensors\n"
            "from icrkit.exceptions import UnsafeModelError\n"
            f"try:\n    read_tensors({str(tmp_path / 'a.pt')!r})\n"
            "except UnsafeModelError as error:\n    print('refused', error)\n"
        )
        path = os.pathsep.join([str(ROOT), str(ROOT / "extractors")])
        environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment
        )
        assert done.stdout.startswith("refused"), done.stderr
        assert not (tmp_path / "ran").exists()

    def test_declared_size(self, tmp_path):
        huge = torch.zeros(1).expand(100_000, 1_000_000)
        torch.save({"a": huge}, tmp_path / "a.pt")
        with pytest.raises(UnsafeModelError, match=r"'a' declares the shape .*, 400000000000 bytes, and holds 4 "):
            read_tensors(tmp_path / "a.pt")

    @pytest.mark.parametrize("kind", ["meta", "sparse"])
    def test_tensors_without_plain_values(self, tmp_path, kind):
        tensor = torch.zeros(10, device="meta") if kind == "meta" else torch.eye(3).to_sparse()
        torch.save({"a": tensor}, tmp_path / "a.pt")
        with pytest.raises(UnsafeModelError, match="'a' is no plain tensor"):
            read_tensors(tmp_path / "a.pt")

    @pytest.mark.parametrize("old", [False, True])
    def test_a_tensor_larger_than_its_storage(self, tmp_path, old):
        class Larger:
            def __reduce__(self) -> Any:
                storage = torch.zeros(2).storage()._untyped_storage
                typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
                return torch._utils._rebuild_tensor_v2, (typed, 0, (50, 50), (50, 1), False, OrderedDict())

        with pytest.MonkeyPatch.context() as patch:
            # A bare storage is deprecated, and here only a way to write the file.
            patch.setattr(torch.storage, "_warn_typed_storage_removal", lambda *args, **kwargs: None)
            torch.save({"a": Larger()}, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
        with pytest.raises(UnsafeModelError):
            read_tensors(tmp_path / "a.pt")

    @pytest.mark.parametrize("suffix", ["npz", "safetensors", "pt", "old.pt"])
    def test_truncated(self, tmp_path, weights, suffix):
        path = tmp_path / f"a.{suffix}"
        if suffix == "npz":
            np.savez(path, **{name: value.numpy() for name, value in weights.items()})
        elif suffix == "safetensors":
            safetensors.torch.save_file(weights, path)
        else:
            torch.save(weights, path, _use_new_zipfile_serialization=suffix == "pt")
        data = path.read_bytes()
        for part in (0, 1, 10, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:part])
            with pytest.raises(UnsafeModelError, match=str(path)):
                read_tensors(path)

    def test_zip_bombs(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10_000_000, np.int8))
        with pytest.raises(UnsafeModelError, match="declares 10000128"):
            read_tensors(tmp_path / "a.npz")
        torch.save({"a": torch.zeros(100_000)}, tmp_path / "a.pt")
        with zipfile.ZipFile(tmp_path / "a.pt") as old:
            parts = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new:
            for name, part in parts.items():
                new.writestr(name, part)
        with pytest.raises(UnsafeModelError, match=r"b\.pt has \d+ bytes and declares 40"):
            read_tensors(tmp_path / "b.pt")

    def test_array_header_that_declares_more(self, tmp_path):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**11,)})
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("a.npy", stream.getvalue())
        with pytest.raises(UnsafeModelError, match="truncated"):
            read_tensors(tmp_path / "a.npz")

    def test_damage_inside_npz(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", a=np.random.default_rng(0).standard_normal(4000))
        data = bytearray((tmp_path / "a.npz").read_bytes())
        for place in range(100, len(data) - 200, len(data) // 20):
            damaged = data[:place] + bytes(b ^ 0xFF for b in data[place : place + 20]) + data[place + 20 :]
            (tmp_path / "b.npz").write_bytes(damaged)
            with pytest.raises(UnsafeModelError, match=r"b\.npz"):
                read_tensors(tmp_path / "b.npz")

    def test_objects_in_npz(self, tmp_path, Evil):
        np.savez(tmp_path / "a.npz", a=np.array([Evil(tmp_path / "ran")]), allow_pickle=True)
        with pytest.raises(UnsafeModelError, match="more than arrays of numbers"):
            read_tensors(tmp_path / "a.npz")
        assert not (tmp_path / "ran").exists()


# ---- into a module --------------------------------------------------------------------------------------------------


class TestLoadInto:
    @pytest.fixture
    def net(self) -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3))

    @pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
    def test_prefixes(self, net, prefix, same_tensors):
        wanted = {name: torch.full_like(value, 2) for name, value in net.state_dict().items()}
        load_into(net, {f"{prefix}{name}": value for name, value in wanted.items()}, "a.pt")
        assert same_tensors(dict(net.state_dict()), wanted)

    def test_a_prefix_that_not_all_have_stays(self):
        names = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
        assert list(without_prefix(names)) == list(names)

    def test_keeps_the_modules_types(self, net):
        load_into(net, {name: value.double() for name, value in net.state_dict().items()}, "a.pt")
        assert net[0].weight.dtype == torch.float32

    def test_all_or_nothing(self, net, same_tensors):
        wanted = {name: torch.full_like(value, 2) for name, value in net.state_dict().items()}
        before = {name: value.clone() for name, value in net.state_dict().items()}
        wanted["2.weight"] = torch.zeros(4, 4)
        for name in ("1.weight", "1.bias", "0.weight", "0.bias"):
            del wanted[name]
        wanted["extra"] = torch.zeros(1)
        with pytest.raises(ValueError) as caught:
            load_into(net, wanted, "a.pt")
        text = str(caught.value)
        assert text.startswith("a.pt does not fit Sequential and its 9 tensors: 4 missing (0.weight, 0.bias, ")
        assert "and 1 more); 1 too many (extra); 1 of another shape (2.weight (4, 4) for (3, 2)). Is this" in text
        assert same_tensors(dict(net.state_dict()), before)


def test_shards_are_read_as_one_network(tmp_path):
    """A shard alone need not look like a network."""
    safetensors.torch.save_file({"weight": torch.ones(2, 2), "scale": torch.zeros(2)}, tmp_path / "a.safetensors")
    safetensors.torch.save_file({"scale": torch.tensor(3.0)}, tmp_path / "b.safetensors")
    found = read_shards([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    assert torch.equal(found["weight"], torch.ones(2, 2)) and found["scale"] == 3
    torch.save({"scale": torch.tensor(4.0)}, tmp_path / "c.bin")
    assert read_shards([tmp_path / "a.safetensors", tmp_path / "c.bin"])["scale"] == 4
    torch.save({"scale": {"inner": torch.tensor(4.0)}}, tmp_path / "d.bin")
    with pytest.raises(UnsafeModelError, match=r"d\.bin is not a dict of tensors"):
        read_shards([tmp_path / "a.safetensors", tmp_path / "d.bin"])
    torch.save({"weight": torch.zeros(1).expand(1000)}, tmp_path / "e.bin")
    with pytest.raises(UnsafeModelError, match=r"e\.bin: 'weight' declares the shape"):
        read_shards([tmp_path / "a.safetensors", tmp_path / "e.bin"])
