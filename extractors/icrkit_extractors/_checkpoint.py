"""Tensors of checkpoints, read so that nothing in a file is ever run.

Every file is taken as hostile. What torch saved goes through ``torch.load(weights_only=True)``, whatever the
environment says. The pickles of the EDM family carry source code that runs when they are unpickled; here their
opcodes are read one by one into plain containers and inert records, and nothing that a pickle names is imported or
called.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import io
import mmap
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icrkit.exceptions import MissingDependencyError, UnsafeModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "PickledNetwork",
    "load_into",
    "read_pickled_network",
    "read_tensors",
    "sha256_of",
    "training_args",
    "without_prefix",
]

_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
# Weights hardly compress; the rest is room for tensors of zeros.
_MOST_COMPRESSION = 100
_WAY_OUT = (
    "save its tensors alone, where the class is at hand: torch.save(model.state_dict(), 'tensors.pt') "
    "or safetensors.torch.save_file(model.state_dict(), 'tensors.safetensors')"
)


def _import_torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(f'{path} needs torch: pip install "icrkit[torch]"') from error
    return torch


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise UnsafeModelError(f"{path} is not a file")
    return path


def sha256_of(path: str | Path) -> str:
    """Digest of a file, 64 hexadecimal digits.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnsafeModelError
        If the path is not a file.
    """
    with open(_existing(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- files of tensors -----------------------------------------------------------------------------------------------


def _read_npz(path: Path) -> dict[str, Tensor]:
    torch = _import_torch(path)
    try:
        with zipfile.ZipFile(path) as archive:
            declared, size = sum(item.file_size for item in archive.infolist()), path.stat().st_size
        if declared > _MOST_COMPRESSION * size:
            raise UnsafeModelError(f"{path} has {size} bytes and declares {declared}: more than weights compress")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except UnsafeModelError:
        raise
    except Exception as error:  # zlib, zipfile and numpy share no base class for damage
        raise UnsafeModelError(f"{path} is truncated, or holds more than arrays of numbers: {error}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _import_torch(path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingDependencyError(f"{path} needs safetensors: pip install safetensors") from error
    try:
        return dict(load_file(path))
    except (SafetensorError, ValueError, KeyError, MemoryError) as error:
        raise UnsafeModelError(f"{path} is truncated, or no safetensors file: {error}") from error


def _reason(error: Exception) -> str:
    """What torch found, without its advice to load the file all the same."""
    text = str(error)
    named = re.search(r"GLOBAL ([\w.]+)", text)
    if named:
        return f"it names {named[1]}"
    return text.rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0]


def _read_torch(path: Path) -> Any:
    """What torch.save wrote: tensors, containers of them, and the Namespace of a training script's arguments."""
    torch = _import_torch(path)
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                declared, size = sum(item.file_size for item in archive.infolist()), path.stat().st_size
            # torch compresses nothing, so what unfolds was not written by it.
            if declared > size:
                raise UnsafeModelError(f"{path} has {size} bytes and declares {declared}")
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UnsafeModelError:
        raise
    except pickle.UnpicklingError as error:
        raise UnsafeModelError(
            f"{path} holds more than tensors, and nothing of it was run: {_reason(error)}; {_WAY_OUT}"
        ) from None
    except Exception as error:  # what a damaged pickle raises depends on the opcode that the damage hit
        raise UnsafeModelError(f"{path} is truncated, or not a file of torch.save: {_reason(error)}") from error


def _check_held(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that declare more than the file holds, and kinds that stand for something else."""
    import torch

    storages = {}
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UnsafeModelError(f"{path}: {name!r} is no plain tensor; save tensor.to_dense() or dequantize()")
        held, declared = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
        if held < declared:
            raise UnsafeModelError(
                f"{path}: {name!r} declares the shape {tuple(tensor.shape)}, {declared} bytes, and holds {held} "
                "(an honest expanded tensor: save tensor.contiguous())"
            )
        storages[tensor.untyped_storage().data_ptr()] = held
    if sum(storages.values()) > path.stat().st_size:
        raise UnsafeModelError(f"{path} has {path.stat().st_size} bytes and declares {sum(storages.values())}")


def _is_network(value: Any) -> bool:
    import torch

    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _networks(value: Any, depth: int = 3, seen: set[int] | None = None) -> Iterator[str]:
    """Dotted keys of the dicts of tensors in a training checkpoint ("" for the whole)."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if _is_network(value):
        yield ""
    elif isinstance(value, Mapping) and depth:
        for name, child in value.items():
            # The state of an optimiser counts its parameters: no names, so no network.
            if isinstance(name, str):
                yield from (f"{name}.{below}".removesuffix(".") for below in _networks(child, depth - 1, seen))


def _entry(content: Any, key: str) -> Any:
    """The value under a dotted key; a name that has dots of its own is tried whole first."""
    if not isinstance(content, Mapping):
        return None
    if key in content:
        return content[key]
    parts = key.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        first = ".".join(parts[:cut])
        if first in content:
            return _entry(content[first], ".".join(parts[cut:]))
    return None


def _choose(content: Any, key: str | None, path: Path) -> dict[str, Tensor]:
    if key is not None and _is_network(content):
        # A flat file names its parts by prefix.
        under = {name.removeprefix(f"{key}."): value for name, value in content.items() if name.startswith(f"{key}.")}
        if not under:
            tops = sorted({name.partition(".")[0] for name in content})
            raise ValueError(
                f"{path} holds one network and nothing under {key!r}{_near(key, tops)}: leave the key out "
                f"(its names begin with {', '.join(tops[:12])})"
            )
        return under
    found = list(_networks(content))
    if key is not None:
        chosen = _entry(content, key)
        if not _is_network(chosen):
            raise ValueError(f"{path} has no dict of tensors under {key!r}{_near(key, found)}; there are {found}")
        return dict(chosen)
    if len(found) == 1:
        return dict(_entry(content, found[0]) if found[0] else content)
    if found:
        raise ValueError(f"{path} holds several networks: {found}; choose one, such as key={found[-1]!r}")
    keys = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise ValueError(f"{path} holds no dict of named tensors; it holds {keys}")


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f" (nearest: {', '.join(map(repr, near))})" if near else ""


def read_tensors(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Named tensors of a checkpoint; no code in the file is run.

    Parameters
    ----------
    path : path
        .npz, .safetensors, or .pt, .pth, .ckpt, .bin of ``torch.save``.
    key : str, optional
        Which network of a training checkpoint: "ema", "model", "state_dict", or dotted. May be left out where
        there is only one. In .npz and .safetensors: the prefix of the names.

    Returns
    -------
    dict
        Name to tensor, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnsafeModelError
        If the file holds more than tensors, containers, numbers, strings and an ``argparse.Namespace``; if it is
        truncated; if it, or a tensor, declares more than it holds.
    ValueError
        If the kind of file is not known, or ``key`` does not single out a dict of tensors; lists the keys there are.
    MissingDependencyError
        If torch, or safetensors for such a file, is not installed.
    """
    path = _existing(path)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _choose(_read_npz(path), key, path)
    if suffix == ".safetensors":
        return _choose(_read_safetensors(path), key, path)
    if suffix in _TORCH_SUFFIXES:
        tensors = _choose(_read_torch(path), key, path)
        _check_held(tensors, path)
        return {name: tensor.detach() for name, tensor in tensors.items()}
    hint = " (a pickled network of the EDM code is read by the family edm)" if suffix == ".pkl" else ""
    raise ValueError(f"{path}: a checkpoint ends in .npz, .safetensors or {', '.join(_TORCH_SUFFIXES)}{hint}")


def training_args(path: str | Path) -> dict[str, Any]:
    """Arguments of the training script, as its checkpoint keeps them under "args"; empty where there are none.

    Parameters
    ----------
    path : path
        A training checkpoint of ``torch.save``; other kinds keep no arguments.

    Returns
    -------
    dict
        Name to value.

    Raises
    ------
    FileNotFoundError, UnsafeModelError
        As `read_tensors`.
    """
    path = _existing(path)
    if path.suffix.lower() not in _TORCH_SUFFIXES:
        return {}
    content = _read_torch(path)
    args = content.get("args") if isinstance(content, Mapping) else None
    if isinstance(args, argparse.Namespace):
        args = vars(args)
    return {str(name): value for name, value in args.items()} if isinstance(args, Mapping) else {}


# ---- into a module --------------------------------------------------------------------------------------------------


def _brief(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what parallel training and ``torch.compile`` put before every name.

    Parameters
    ----------
    tensors : mapping
        Name to tensor.

    Returns
    -------
    dict
        The same, without "module." and "_orig_mod." in front where all names have them.

    Examples
    --------
    >>> list(without_prefix({"module._orig_mod.weight": 1, "module._orig_mod.bias": 2}))
    ['weight', 'bias']
    """
    tensors = dict(tensors)
    for prefix in ("module.", "_orig_mod.", "module."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy a checkpoint's tensors into a module, every one of them or none.

    Parameters
    ----------
    module : Module
        Its parameters and buffers are overwritten; they keep their dtype and device.
    tensors : mapping
        Name to tensor, as `read_tensors` gives them; prefixes as in `without_prefix` are taken off.
    path : path
        Where they come from, for messages.

    Raises
    ------
    ValueError
        If names or shapes differ; nothing is copied then.
    """
    tensors = without_prefix(tensors)
    own = module.state_dict()
    shapes = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    wrong = {
        "missing": [name for name in own if name not in tensors],
        "too many": [name for name in tensors if name not in own],
        "of another shape": shapes,
    }
    if any(wrong.values()):
        said = "; ".join(f"{len(names)} {what} ({_brief(names)})" for what, names in wrong.items() if names)
        raise ValueError(
            f"{path} does not fit {type(module).__name__} and its {len(own)} tensors: {said}. "
            "Is this the network, of this size, that the checkpoint was trained as?"
        )
    module.load_state_dict(tensors)


# ---- pickled networks of the EDM family ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PickledNetwork:
    """A network as its pickle describes it.

    Attributes
    ----------
    class_name : str
        Its class, in the module whose source is ``module_source``.
    module_source : str
        Source code that the pickle carries; never run here.
    init_args, init_kwargs : tuple, dict
        What the class was called with; plain values.
    tensors : dict
        Name to tensor, as in its ``state_dict``.
    attributes : dict
        Name of a submodule ("" for the network) to its attributes that are numbers, strings or None.
    """

    class_name: str
    module_source: str
    init_args: tuple[Any, ...]
    init_kwargs: dict[str, Any]
    tensors: dict[str, Tensor]
    attributes: dict[str, dict[str, Any]]


@dataclass(eq=False, slots=True)
class _Name:
    """A class or function that a pickle names: the words, not the thing."""

    name: str


@dataclass(eq=False, slots=True)
class _Made:
    """What a pickle wants made by calling a name with arguments, and the state it wants set."""

    name: str
    args: tuple[Any, ...]
    state: Any = None


_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_STORAGE = "torch.storage._load_from_bytes"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_DICTS = {"collections.OrderedDict", "dnnlib.util.EasyDict"}
_SETS = {"builtins.set", "__builtin__.set"}
_SCALARS = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
_INERT = {
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "torch.Size",
    "torch.device",
}
_NAMES = {_PERSISTENT, _STORAGE, _TENSOR, *_PARAMETERS, *_DICTS, *_SETS, *_SCALARS, *_INERT}
_NAME_PATTERN = re.compile(r"torch\.nn\.modules(\.\w+)+|torch\.(b?float|u?int|complex|bool)\d*")

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# The largest network released so takes under a hundred thousand.
_MOST_OPCODES = 5_000_000
_MOST_NODES = 200_000


class _Refused(Exception):
    """What in a pickle is not allowed."""


def _named(module: Any, name: Any) -> _Name:
    full = f"{module}.{name}"
    if not (isinstance(module, str) and isinstance(name, str)):
        raise _Refused("it names something by other than strings")
    if full not in _NAMES and not _NAME_PATTERN.fullmatch(full):
        raise _Refused(f"it names {full[:200]}")
    return _Name(full)


def _key(value: Any) -> Any:
    # Hashing a tuple recurses in C without a guard: one nested deep enough ends the process.
    if not isinstance(value, str | int | float | bytes | None):
        raise _Refused(f"a key is a {type(value).__name__}")
    return value


def _make(callee: Any, args: Any) -> Any:
    if not isinstance(callee, _Name) or not isinstance(args, tuple):
        raise _Refused("it calls something that it does not name")
    if callee.name in _DICTS and not args:
        return {}
    if callee.name in _SETS and len(args) == 1 and isinstance(args[0], list):
        return {_key(item) for item in args[0]}
    return _Made(callee.name, args)


class _Reader:
    """The stack machine of pickle, for the opcodes that a pickled network needs, with records in place of objects."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise _Refused("it sets items of something that is not a dict")
        for at in range(0, len(items), 2):
            target[_key(items[at])] = items[at + 1]

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _Refused("it appends to something that is not a list")
        self.stack[-1].extend(items)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Made):
            target.state = state
        elif type(target) is not dict:  # attributes of an OrderedDict say nothing about a network
            raise _Refused("it sets the state of something that has none")

    def step(self, name: str, arg: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(arg)
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if arg is None else arg] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[arg])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            n = _TUPLES[name]
            if len(stack) < n:
                raise IndexError("the stack is empty")
            items = stack[len(stack) - n :]
            del stack[len(stack) - n :]
            stack.append(tuple(items))
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name == "TUPLE":
            items = self.marked()
            self.stack.append(tuple(items))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_SET":
            stack.append(set())
        elif name == "SETITEMS":
            self.set_items(self.marked())
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self.set_items([key, value])
        elif name == "APPENDS":
            self.extend(self.marked())
        elif name == "APPEND":
            self.extend([stack.pop()])
        elif name == "ADDITEMS":
            items = self.marked()
            if type(self.stack[-1]) is not set:
                raise _Refused("it adds to something that is not a set")
            self.stack[-1].update(map(_key, items))
        elif name == "GLOBAL":
            stack.append(_named(*arg.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_named(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            args, callee = stack.pop(), stack.pop()
            stack.append(_make(callee, args))
        elif name == "BUILD":
            self.build()
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _Refused(f"it uses the opcode {name}")

    def read(self, file: Any) -> Any:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(file)):
            if count > _MOST_OPCODES:
                raise _Refused(f"it has more than {_MOST_OPCODES} opcodes")
            self.step(opcode.name, arg)
        return self.stack[-1]


class _Network:
    """From inert records to tensors and plain values, with a bound on the work: records may share and hold cycles."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.left = _MOST_NODES
        self.storages: dict[int, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.attributes: dict[str, dict[str, Any]] = {}

    def spend(self, depth: int) -> None:
        self.left -= 1
        if self.left < 0 or depth > 50:
            raise _Refused("its parts are nested too deep, or without end")

    def state_of(self, record: Any) -> dict[str, Any]:
        state = None
        if isinstance(record, _Made):
            state = _meta(record).get("state") if record.name == _PERSISTENT else record.state
        if not isinstance(state, dict):
            raise _Refused(f"a submodule is {_words(record)}")
        return state

    def storage(self, record: Any) -> Any:
        """A typed storage; its bytes are let go."""
        if id(record) in self.storages:
            return self.storages[id(record)]
        if not (isinstance(record, _Made) and record.name == _STORAGE and len(record.args) == 1):
            raise _Refused(f"the values of a tensor are {_words(record)}")
        [data] = record.args
        if not isinstance(data, bytes):
            raise _Refused(f"the values of a tensor are {_words(data)}")
        # Each storage is a small file of torch.save's old kind.
        loaded = self.torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(loaded, self.torch.storage.TypedStorage):
            raise _Refused(f"the values of a tensor are a {type(loaded).__name__}")
        self.storages[id(record)] = loaded
        record.args = ()
        return loaded

    def tensor(self, record: Any) -> Tensor:
        if isinstance(record, _Made) and record.name in _PARAMETERS and record.args:
            record = record.args[0]
        if not (isinstance(record, _Made) and record.name == _TENSOR and len(record.args) >= 4):
            raise _Refused(f"a tensor is {_words(record)}")
        storage, offset, size, stride = record.args[:4]
        typed = self.storage(storage)
        numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (-1,)
        if not all(type(n) is int and 0 <= n < 2**62 for n in numbers) or len(size) != len(stride):
            raise _Refused("a tensor has no proper shape")
        count, last = 1, offset
        for length, step in zip(size, stride, strict=True):
            count *= length
            last += (length - 1) * step
        held = typed._untyped_storage.nbytes() // typed._element_size()
        if count and (count > held or last >= held):
            raise _Refused(f"a tensor of shape {size} declares more values than the {held} it holds")
        flat = self.torch.empty(0, dtype=typed.dtype)
        return flat.set_(typed._untyped_storage, offset, size, stride)  # type: ignore[no-any-return]

    def plain(self, value: Any, depth: int = 0) -> Any:
        """An init argument: numbers, strings and containers of them."""
        self.spend(depth)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            return type(value)(self.plain(item, depth + 1) for item in value)
        if isinstance(value, dict):
            return {name: self.plain(item, depth + 1) for name, item in value.items()}
        if isinstance(value, _Made) and value.name in _SCALARS and len(value.args) == 2:
            dtype, data = value.args
            code = dtype.args[0] if isinstance(dtype, _Made) and dtype.name == "numpy.dtype" and dtype.args else None
            if code in ("f4", "f8", "i4", "i8", "b1") and isinstance(data, bytes) and len(data) == int(code[1]):
                return np.frombuffer(data, dtype=f"<{code}").item()
        raise _Refused(f"an init argument is {_words(value)}")

    def read(self, record: Any, prefix: str = "", depth: int = 0) -> None:
        self.spend(depth)
        state = self.state_of(record)
        parts = {kind: state.get(kind) or {} for kind in ("_parameters", "_buffers", "_modules")}
        if not all(isinstance(part, dict) for part in parts.values()):
            raise _Refused("a submodule's tensors have no names")
        passing = state.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            for name, value in parts[kind].items():
                self.spend(depth)
                if value is not None and not (kind == "_buffers" and name in passing):
                    self.tensors[f"{prefix}{name}"] = self.tensor(value)
        self.attributes[prefix.removesuffix(".")] = {
            name: value
            for name, value in state.items()
            if isinstance(name, str) and not name.startswith("_") and name != "training"
            if value is None or isinstance(value, bool | int | float | str)
        }
        for name, value in parts["_modules"].items():
            if value is not None:
                self.read(value, f"{prefix}{name}.", depth + 1)


def _meta(record: _Made) -> dict[str, Any]:
    meta = record.args[0] if len(record.args) == 1 else None
    if not (isinstance(meta, dict) and isinstance(meta.get("class_name"), str) and meta.get("type") == "class"):
        raise _Refused("a persistent object has no class and state")
    return meta


def _words(value: Any) -> str:
    return f"a {value.name}" if isinstance(value, _Made | _Name) else f"a {type(value).__name__}"


def read_pickled_network(path: str | Path, key: str = "ema") -> PickledNetwork:
    """The network in a pickle of the EDM code, read without running any of it.

    Parameters
    ----------
    path : path
        A network pickle (``network-snapshot-*.pkl``): a dict whose entries are modules pickled together with
        their source code.
    key : str
        Which entry.

    Returns
    -------
    PickledNetwork

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnsafeModelError
        If the pickle names anything but tensors, modules of torch and persistent classes, is truncated, or
        declares more than it holds.
    ValueError
        If there is no such entry; lists the entries there are.
    MissingDependencyError
        If torch is not installed.

    Notes
    -----
    The format: each module reduces to ``torch_utils.persistence._reconstruct_persistent_obj(meta)``, with the class
    name, the source of its Python module and the module's ``__dict__`` in meta.
    """
    path = _existing(path)
    torch = _import_torch(path)
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            content = _Reader().read(data)
        entries = content if isinstance(content, dict) else {key: content}
        if key in entries:
            network = _Network(torch)
            record = entries[key]
            if not (isinstance(record, _Made) and record.name == _PERSISTENT):
                raise _Refused(f"its entry {key!r} is {_words(record)}, not a persistent network")
            meta, state = _meta(record), network.state_of(record)
            network.read(record)
            args = network.plain(state.get("_init_args") or ())
            kwargs = network.plain(state.get("_init_kwargs") or {})
            if not (isinstance(args, tuple) and isinstance(kwargs, dict)):
                raise _Refused("its init arguments are no arguments")
    except _Refused as refused:
        raise UnsafeModelError(f"{path} holds more than a network, and nothing of it was run: {refused}") from None
    except Exception as error:  # what a damaged pickle raises depends on the opcode that the damage hit
        raise UnsafeModelError(f"{path} is truncated, or not a pickled network: {_reason(error)}") from error
    if key not in entries:
        raise ValueError(f"{path} has no entry {key!r}; there are {sorted(map(str, entries))}")
    return PickledNetwork(
        class_name=meta["class_name"],
        module_source=str(meta.get("module_src", "")),
        init_args=args,
        init_kwargs=kwargs,
        tensors=network.tensors,
        attributes=network.attributes,
    )
