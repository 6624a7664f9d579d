"""Errors raised inside somebody else's network: one message with the place, in front of the original."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icrkit_extractors._job import _out_of_memory

if TYPE_CHECKING:
    from torch import nn

__all__ = ["explained", "explained_call", "misfit", "why_silent"]

_HERE = str(Path(__file__).parent)


def _of_package(file: str) -> bool:
    """Whether a file is this package's, and not one of its networks, which are networks like others."""
    return file.startswith(_HERE) and ("models" not in file or Path(file).stem in ("module", "_checkout"))


def _is_ours(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return _of_package(frames[-1].filename)


def _place(error: BaseException) -> str:
    """The innermost line of the network's own code, not of torch, in words; empty where only this package is met."""
    import torch

    foreign = (str(Path(torch.__file__).parent), "<frozen", "<string")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _of_package(frame.filename)]
    own = [frame for frame in frames if not frame.filename.startswith(foreign)]
    if not own:
        return " inside torch" if frames else ""
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}, in {own[-1].name}"


def _given(x: Any, conditioning: Mapping[str, Any]) -> str:
    said = [
        f"{name} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        if hasattr(value, "dtype")
        else f"{name} ({type(value).__name__})"
        for name, value in {"x": x, **conditioning}.items()
    ]
    return ", ".join(said)


@contextmanager
def explained_call(what: str, way_out: str = "") -> Iterator[None]:
    """Errors of somebody else's code as one `ValueError`; its ValueErrors, and those of the machine, as they are."""
    import torch

    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{what} failed{_place(error)}: {error}. What is imported only when the network is called must be "
            "installed or on PYTHONPATH, or be imported at the head of its file",
            name=error.name,
        ) from error
    except (ValueError, OSError, MemoryError, ImportError, Warning, torch.OutOfMemoryError) as error:
        # What this package says in a hook has its place; what the network's code says may not.
        if not _is_ours(error):
            error.add_note(f"{what} failed{_place(error)}")
        raise
    except Exception as error:
        if _out_of_memory(error):
            raise
        said = f": {said[:500]}" if (said := " ".join(str(error).split())) else ""
        raise ValueError(f"{what} failed{_place(error)}: {type(error).__name__}{said}{way_out}") from error


def explained(
    module: nn.Module, x: Any, conditioning: Mapping[str, Any], own_call: bool
) -> AbstractContextManager[None]:
    """Errors of a network's own code as one `ValueError`, with what it was given and what to do."""
    way_out = (
        "see what call=lambda ... passes on"
        if own_call
        else "a network that takes more, or takes it otherwise, needs call=lambda module, x, conditioning: "
        "module(...), which says with what"
    )
    return explained_call(type(module).__name__, f". It was given {_given(x, conditioning)}; {way_out}")


def misfit(module: nn.Module, names: Any) -> str | None:
    """Why the default call does not fit the module's forward; None where it does."""
    try:
        signature = inspect.signature(module.forward)
    except ValueError:  # scripted modules have none
        return None
    try:
        signature.bind(None, **dict.fromkeys(names))
    except TypeError as error:
        kind, given = type(module).__name__, ", ".join(("x", *names))
        return f"{kind}.forward takes {signature} and is given ({given}): {error}"
    return None


def why_silent(module: nn.Module, name: str, inside: list[str]) -> str:
    """Why no hook has seen a layer."""
    import torch

    path = [module]
    for step in name.split("."):
        path.append(getattr(path[-1], step, path[-1]))
    if any(isinstance(part, torch.fx.GraphModule) for part in path):
        return (
            "the network is a graph (of torch.export or torch.fx), whose operations call no modules that a hook could "
            "see: pass the network as it was before it was exported"
        )
    if any(isinstance(part, torch.jit.ScriptModule) for part in path):
        return (
            "it runs inside TorchScript, where no hook can see it: pass the network as it was before torch.jit.trace "
            "or torch.jit.script, or choose a module around it"
        )
    hint = f": choose a module inside it, such as {inside[0]!r}" if inside else ""
    return f"the network does not call it as a module (its weights or its forward() may be used without){hint}"
