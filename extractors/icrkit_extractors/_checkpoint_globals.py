"""What training scripts keep in a checkpoint beside its tensors, read as plain values.

``torch.load(weights_only=True)`` refuses every name that is not on its list. Here the names of harmless things stand
for functions and classes of this file, so that nothing of the packages that wrote them is called.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import numpy as np

__all__ = ["HARMLESS", "Unread"]

_NUMBERS = "biufc"


class Unread:
    """Stands for what is not read: arrays of numpy's (states of random generators, curves) and times."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _NumpyType:
    """Stands for numpy.dtype."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name, self.order = str(name), "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">") else "="


def _scalar(kind: _NumpyType, data: bytes = b"") -> Any:
    """A number of numpy's as one of Python's; text and the like are not read."""
    if kind.name[:1] not in _NUMBERS or not kind.name[1:].isdecimal():
        return Unread()
    return np.frombuffer(data, np.dtype(kind.order + kind.name), count=1)[0].item()


def _dict(*_: Any) -> dict[Any, Any]:
    """A defaultdict without its factory."""
    return {}


# As `torch.serialization.safe_globals` takes them: a thing, or what stands for a name.
HARMLESS: list[Any] = [
    argparse.Namespace,
    *((function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")
      for name, function in (("scalar", _scalar), ("_reconstruct", Unread))),
    (Unread, "numpy.ndarray"),
    (_NumpyType, "numpy.dtype"),
    *((Unread, f"datetime.{name}") for name in ("date", "datetime", "timedelta", "timezone")),
    (_dict, "collections.defaultdict"),
    *((kind, f"builtins.{kind.__name__}") for kind in (list, dict, int, float)),
    *((pathlib.PurePosixPath, f"pathlib{local}.{name}") for local in ("", "._local")
      for name in ("PosixPath", "PurePosixPath")),
    *((pathlib.PureWindowsPath, f"pathlib{local}.{name}") for local in ("", "._local")
      for name in ("WindowsPath", "PureWindowsPath")),
]  # fmt: skip
