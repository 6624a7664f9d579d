"""Networks as the EDM family pickles them, read without running any of it.

These pickles carry source code that runs when they are unpickled. Here their opcodes are read one by one into plain
containers and inert records, and nothing that a pickle names is imported or called.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icrkit.exceptions import UnsafeModelError
from icrkit.io._torch_file import load_tensors, reason
from icrkit_extractors._checkpoint import existing, import_torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PickledNetwork", "read_pickled_network"]


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
        loaded = load_tensors(io.BytesIO(data))
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
    path = existing(path)
    torch = import_torch(path)
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
        raise UnsafeModelError(f"{path} is truncated, or not a pickled network: {reason(error)}") from error
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
