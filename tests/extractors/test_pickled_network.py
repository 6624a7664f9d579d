"""A pickled network is read bit for bit, and nothing of it is run."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from icrkit.exceptions import UnsafeModelError
from icrkit_extractors._pickled_network import read_pickled_network


def persistent(class_name: str, state: dict[str, Any]) -> Any:
    """An object that pickles as a persistent class of the EDM code does."""

    class Pickled:
        def __reduce__(self) -> Any:
            meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": class_name}
            return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, ({**meta, "state": state},)

    return Pickled()


def state_of(module: nn.Module, **attributes: Any) -> dict[str, Any]:
    return {**vars(module), **attributes}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Pickles an object to a file, where the names that the EDM code uses exist."""
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def reconstruct(meta: Any) -> Any:
        raise AssertionError("a pickle was run")

    reconstruct.__module__, reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = reconstruct  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_utils", package)
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)

    def write(content: Any, protocol: int | None = None) -> Path:
        path = tmp_path / "network-snapshot.pkl"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        return path

    return write


@pytest.fixture
def inner() -> nn.Module:
    """Parameters, buffers that are kept and not kept, a shared tensor, views, an absent parameter."""
    generator = torch.Generator().manual_seed(3)
    net = nn.Module()
    net.weight = nn.Parameter(torch.randn(4, 3, generator=generator))
    net.short = nn.Parameter(torch.randn(5, generator=generator).half(), requires_grad=False)
    net.tied = net.weight
    net.register_parameter("absent", None)
    net.register_buffer("part", torch.arange(12.0).reshape(3, 4).T[1:])
    net.register_buffer("empty", torch.zeros(0, 3))
    net.register_buffer("scalar", torch.tensor(3))
    net.register_buffer("passing", torch.ones(2), persistent=False)
    net.blocks = nn.ModuleDict({"8x8_conv": nn.Conv2d(2, 3, 1)})
    return net


def network(inner: nn.Module, **attributes: Any) -> Any:
    given = {"_init_args": (8,), "_init_kwargs": {"img_channels": 3, "channel_mult": [1, 2], "eps": np.float64(0.5)}}
    child = persistent("UNet", state_of(inner, eps=1e-5, gain=np.sqrt(0.5), kind="standard"))
    outer = nn.Module()
    outer._modules["model"] = child
    return persistent("EDMPrecond", state_of(outer, sigma_min=0, sigma_max=float("inf"), **{**given, **attributes}))


class TestPickledNetwork:
    @pytest.mark.parametrize("protocol", [3, 4, 5])
    def test_tensors_and_arguments(self, write, inner, protocol, same_tensors):
        others = {"loss_fn": persistent("EDMLoss", {"P_mean": -1.2}), "dataset_kwargs": {"a": 1}}
        got = read_pickled_network(write({"ema": network(inner), **others}, protocol))
        wanted = {f"model.{name}": value for name, value in inner.state_dict().items()}
        assert set(got.tensors) == set(wanted) and "model.passing" not in wanted
        assert same_tensors({name: got.tensors[name] for name in wanted}, wanted)
        assert got.class_name == "EDMPrecond" and got.module_source == "raise SystemExit"
        assert got.init_args == (8,)
        assert got.init_kwargs == {"img_channels": 3, "channel_mult": [1, 2], "eps": 0.5}
        assert got.attributes[""] == {"sigma_min": 0, "sigma_max": float("inf")}
        assert got.attributes["model"] == {"eps": 1e-5, "kind": "standard"}

    def test_network_alone(self, write, inner):
        assert read_pickled_network(write(network(inner))).class_name == "EDMPrecond"

    def test_no_such_entry(self, write, inner):
        with pytest.raises(ValueError, match=r"no entry 'ema'; there are \['G', 'net'\]"):
            read_pickled_network(write({"net": network(inner), "G": None}))
        assert read_pickled_network(write({"net": network(inner)}), "net").class_name == "EDMPrecond"

    def test_entry_of_another_kind(self, write):
        with pytest.raises(UnsafeModelError, match="'ema' is a dict, not a persistent network"):
            read_pickled_network(write({"ema": {"a": 1}}))


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self.reduced


def storage_of(data: bytes) -> Any:
    return Call(torch.storage._load_from_bytes, data)


def tensor_of(storage: Any, offset: Any, size: Any, stride: Any) -> Any:
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def two_floats() -> Any:
    _, (storage, *_) = torch.zeros(2).__reduce_ex__(4)
    return storage


def with_buffer(value: Any) -> Any:
    return persistent("Net", {"_buffers": {"a": value}})


def hostile(evil: Any, folder: Path) -> dict[str, Any]:
    command = f"__import__('os').mkdir({str(folder / 'ran')!r})"
    floats = two_floats()
    return {
        "top": evil,
        "entry": {"ema": evil},
        "other entry": {"ema": with_buffer(torch.zeros(1)), "loss_fn": evil},
        "eval": with_buffer(Call(eval, command)),
        "exec in a submodule": persistent("Net", {"_modules": {"a": persistent("Part", {"x": Call(exec, command)})}}),
        "init argument": persistent("Net", {"_init_kwargs": {"a": [{"b": evil}]}}),
        "getattr": Call(getattr, "abc", "upper"),
        "import": Call(__import__, "os"),
        "function of torch": with_buffer(Call(torch.load, "a.pt")),
        "class of torch in place of a tensor": with_buffer(Call(nn.Linear, 2, 2)),
        "class of torch in place of a module": persistent("Net", {"_modules": {"a": Call(nn.Linear, 2, 2)}}),
        "state of a tensor": with_buffer(Call(torch.Tensor, state=(1, 2, 3, 4))),
        "evil inside a storage": with_buffer(tensor_of(storage_of(saved(evil)), 0, (1,), (1,))),
        "module inside a storage": with_buffer(tensor_of(storage_of(saved(nn.Linear(1, 1))), 0, (1,), (1,))),
        "tensor in place of a storage": with_buffer(tensor_of(storage_of(saved(torch.zeros(1))), 0, (1,), (1,))),
        "bytes in place of a storage": with_buffer(tensor_of(b"abc", 0, (1,), (1,))),
        "no bytes in a storage": with_buffer(tensor_of(storage_of("abc"), 0, (1,), (1,))),
        "400 GB, dense": with_buffer(tensor_of(floats, 0, (100_000_000_000,), (1,))),
        "400 GB, stride 0": with_buffer(tensor_of(floats, 0, (100_000, 1_000_000), (0, 0))),
        "beyond the end": with_buffer(tensor_of(floats, 1, (2,), (1,))),
        "before the start": with_buffer(tensor_of(floats, -1, (1,), (1,))),
        "negative stride": with_buffer(tensor_of(floats, 1, (2,), (-1,))),
        "float as a size": with_buffer(tensor_of(floats, 0, (1.0,), (1,))),
        "list as a size": with_buffer(tensor_of(floats, 0, [1], [1])),
        "sizes without strides": with_buffer(tensor_of(floats, 0, (1, 1), (1,))),
        "key that is a tuple": {"ema": {(1, 2): 3}},
        "parameters that are a list": persistent("Net", {"_parameters": [1]}),
        "state that is a list": persistent("Net", [1]),
        "array as an argument": persistent("Net", {"_init_args": (np.zeros(3),)}),
        "arguments that are a dict": persistent("Net", {"_init_args": {"a": 1}}),
    }  # fmt: skip


@pytest.mark.parametrize("what", list(hostile(None, Path("x"))))
def test_hostile_pickles_are_refused(write, tmp_path, Evil, what):
    path = write(hostile(Evil(tmp_path / "ran"), tmp_path)[what], protocol=4)
    with pytest.raises(UnsafeModelError, match=str(path)):
        read_pickled_network(path)
    assert not (tmp_path / "ran").exists()


def test_the_refusal_names_what_was_named(write, tmp_path, Evil):
    with pytest.raises(UnsafeModelError, match=r"and nothing of it was run: it names \w+\.mkdir"):
        read_pickled_network(write(Evil(tmp_path / "ran")))


def string(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


# Opcodes written by hand, as no pickler writes them.
_DICT, _STOP = b"\x80\x04}", b"."
_ORDERED = string("collections") + string("OrderedDict") + b"\x93"
RAW = {
    "empty": b"",
    "no stop": b"\x80\x04N",
    "pop of nothing": b"\x80\x04\x85.",
    "mark of nothing": b"\x80\x04u.",
    "get of nothing": b"\x80\x04h\x07.",
    "unknown opcode": b"\x80\x04\xff.",
    "dotted name": b"\x80\x04" + string("torch") + string("serialization.os.mkdir") + b"\x93.",
    "dotted name under an allowed one": b"\x80\x04ctorch.nn.modules\n..os.mkdir\n.",
    "name from a number": b"\x80\x04K\x01K\x02\x93.",
    "old global": b"cos\nmkdir\n(S'x'\ntR.",
    "instance": b"(S'x'\nios\nmkdir\n.",
    "object": b"(cos\nmkdir\nS'x'\no.",
    "persistent id": b"Pabc\n.",
    "binary persistent id": b"\x80\x04NQ.",
    "extension": b"\x80\x04\x82\x01.",
    "call of a string": b"\x80\x04" + string("x") + b")R.",
    "call with a list": b"\x80\x04" + _ORDERED + b"]R.",
    "keywords": b"\x80\x04" + _ORDERED + b")}\x92.",
    "state of a class": b"\x80\x04" + _ORDERED + b"}b.",
    "state of a list": b"\x80\x04]}b.",
    "items of a set": b"\x80\x04\x8f(NNu.",
    "items of a record": b"\x80\x04" + string("torch") + string("Size") + b"\x93)R(NNu.",
    "odd items": _DICT + b"(Nu.",
    "append to a dict": _DICT + b"Na.",
    "add to a list": b"\x80\x04](N\x90.",
    "bytes without end": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 42) + b"abc.",
    "string without end": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"abc.",
    "number without end": b"\x80\x04\x8b" + struct.pack("<i", (1 << 31) - 1) + b"abc.",
    "memo far out": b"\x80\x04Nr" + struct.pack("<I", (1 << 31) - 1) + _STOP,
    # Its hash would recurse in C until the process ends.
    "key nested deep": _DICT + b")" + b"\x85" * 200_000 + b"Ns.",
    "set of what cannot be hashed": b"\x80\x04\x8f(]\x90.",
}  # fmt: skip


@pytest.mark.parametrize("what", list(RAW))
def test_hostile_opcodes_are_refused(write, what):
    with pytest.raises(UnsafeModelError):
        read_pickled_network(write(RAW[what]))


def test_endless_structures_are_refused(write):
    modules: dict[str, Any] = {}
    modules["again"] = persistent("Part", {"_modules": modules})
    with pytest.raises(UnsafeModelError, match="nested too deep, or without end"):
        read_pickled_network(write(persistent("Net", {"_modules": modules})))
    argument: list[Any] = []
    argument.append(argument)
    with pytest.raises(UnsafeModelError, match="nested too deep, or without end"):
        read_pickled_network(write(persistent("Net", {"_init_args": (argument,)})))
    laughs: Any = [1]
    for _ in range(40):
        laughs = [laughs, laughs]
    with pytest.raises(UnsafeModelError, match="nested too deep, or without end"):
        read_pickled_network(write(persistent("Net", {"_init_args": (laughs,)})))
    part: Any = persistent("Part", {})
    for _ in range(40):
        part = persistent("Part", {"_modules": {"a": part, "b": part}})
    with pytest.raises(UnsafeModelError, match="nested too deep, or without end"):
        read_pickled_network(write(part))


def test_truncated_anywhere(write, inner):
    data = write({"ema": network(inner)}).read_bytes()
    for part in np.linspace(0, len(data) - 1, 40).astype(int):
        with pytest.raises(UnsafeModelError):
            read_pickled_network(write(data[:part]))


def test_damage_anywhere_is_an_error_by_name_or_other_numbers(write, inner):
    data = write({"ema": network(inner)}).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place, value in zip(rng.integers(0, len(data), 400), rng.integers(0, 256, 400), strict=True):
        damaged = bytearray(data)
        damaged[place] = value
        try:
            read_pickled_network(write(bytes(damaged)))
        except (UnsafeModelError, ValueError):
            refused += 1
    assert 100 < refused < 400
