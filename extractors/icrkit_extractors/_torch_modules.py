"""Modules of a network by the names that their author knows, whatever has been wrapped around them since.

Compilation, parallel training, checkpointing of activations and moving averages put modules around modules, in any
order and at any depth. Each adds a step to the names; here those steps are walked through.
"""

from __future__ import annotations

import difflib
import fnmatch
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["between", "by_layer", "check_whole", "find_layers", "modules_by_name", "unwrap", "visible"]

# Children by which nothing but a wrapper calls what it wraps.
_STEPS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def _wrapped(module: nn.Module) -> str | None:
    """Name of the child that a wrapper stands for; None where the module is not a wrapper."""
    import torch
    from torch.optim.swa_utils import AveragedModel

    # A script has neither wrappers nor a class to look into.
    if isinstance(module, torch.jit.ScriptModule):
        return None
    for step in _STEPS:
        if step in module._modules:
            return step
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel, AveragedModel)
    # Moving averages of other packages: a module that cannot be called, with the copy inside.
    uncallable = type(module).forward is torch.nn.Module.forward and "forward" not in vars(module)
    sole = list(module._modules) == ["module"] and uncallable
    return "module" if isinstance(module, wrappers) or sole else None


def _inside(module: nn.Module) -> nn.Module:
    """The module inside all wrappers."""
    while (step := _wrapped(module)) is not None:
        inner = module._modules[step]
        assert inner is not None
        module = inner
    return module


def unwrap(module: nn.Module) -> nn.Module:
    """The network itself, to be run in place of its wrappers.

    Compiled code does not look for hooks that came later, and wrappers of parallel training wait in every call for
    processes that may not be extracting.
    """
    peft = getattr(sys.modules.get("peft"), "PeftModel", ())
    while True:
        inner = _inside(module)
        if isinstance(inner, peft):
            inner = inner.get_base_model()  # type: ignore[attr-defined]
        if inner is module:
            return module
        module = inner


def check_whole(module: nn.Module) -> None:
    """Refuse a network of which every process holds a part: the others would not answer, and this one wait forever."""
    tensor, fsdp = (sys.modules.get(f"torch.distributed.{name}") for name in ("tensor", "fsdp"))
    wrapper, shard = getattr(fsdp, "FullyShardedDataParallel", ()), getattr(tensor, "DTensor", ())
    wrapped = any(isinstance(part, wrapper) for part in module.modules())
    # DeepSpeed marks the parameters that it has partitioned.
    if wrapped or any(isinstance(p, shard) or hasattr(p, "ds_id") for p in module.parameters()):
        raise ValueError(
            f"the parameters of {type(_inside(module)).__name__} are split over processes, and one alone cannot run "
            "it: probe a moving average that is whole, or extract from checkpoints afterwards"
        )


def modules_by_name(module: nn.Module, *, duplicates: bool = False) -> dict[str, nn.Module]:
    """Modules inside another by name, wrappers left out of names and values.

    Parameters
    ----------
    module : torch.nn.Module
    duplicates : bool
        Whether a module that is registered twice has all of its names, or the first one only.

    Returns
    -------
    dict
        In the order of ``named_modules()``.
    """
    found: dict[str, nn.Module] = {}
    seen: set[nn.Module] = set()

    def walk(part: nn.Module, prefix: str) -> None:
        for name, child in part._modules.items():
            if child is None:
                continue
            child = _inside(child)
            if child in seen and not duplicates:
                continue
            seen.add(child)
            found[prefix + name] = child
            walk(child, f"{prefix}{name}.")

    walk(_inside(module), "")
    return found


def visible(parts: Iterable[nn.Module]) -> list[nn.Module]:
    """Modules that take hooks, each once: those of TorchScript do not."""
    import torch

    return [part for part in dict.fromkeys(parts) if not isinstance(part, torch.jit.ScriptModule)]


def _without_wrappers(name: str) -> list[str]:
    """What a name may be once the steps of wrappers are taken off."""
    steps = name.split(".")
    hidden = [step for step in steps if step not in _STEPS]
    # A module of the network's own may have this name, so one at a time is left out, the first of them first.
    spelled = [".".join(hidden)]
    while "module" in hidden:
        hidden.remove("module")
        spelled.append(".".join(hidden))
    if spelled[-1].startswith("base_model.model."):
        spelled.append(spelled[-1].removeprefix("base_model.model."))
    return [one for one in spelled if one != name]


def find_layers(module: nn.Module, layers: str | Sequence[str]) -> dict[str, bool]:
    """Names of modules from names and globs, each once, and whether it was named itself."""
    import torch

    parts = modules_by_name(module)
    names = list(parts)
    # A module that is registered twice has two names, and either will do.
    known = modules_by_name(module, duplicates=True)
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if not wanted:
        raise ValueError("layers is empty")
    chosen: dict[str, bool] = {}
    for name in wanted:
        spelled = [str(name), *_without_wrappers(str(name))]
        if (exact := next((one for one in spelled if one in known), None)) is not None:
            if chosen.get(exact):
                raise ValueError(f"layer {exact!r} is named twice")
            chosen[exact] = True
            continue
        # The two containers are never called themselves, so a glob cannot mean them.
        callable_names = [one for one in names if not isinstance(parts[one], torch.nn.ModuleList | torch.nn.ModuleDict)]
        matches = next(filter(None, (fnmatch.filter(callable_names, one) for one in spelled)), [])
        if not matches:
            near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
            hint = f"nearest: {', '.join(map(repr, near))}; " if near else ""
            raise ValueError(
                f"{type(module).__name__} has no module {name!r} ({hint}available_layers() lists all {len(names)})"
            )
        for match in matches:
            chosen.setdefault(match, False)
    return chosen


def by_layer(option: str, given: Any, layers: Sequence[str], default: Any) -> dict[str, Any]:
    """An option's value for each layer, from one for all or from a mapping of names and globs; later ones win."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(layers, given)
    values = dict.fromkeys(layers, default)
    for pattern, value in given.items():
        spelled = [str(pattern), *_without_wrappers(str(pattern))]
        matches = [name for name in layers if any(name == one or fnmatch.fnmatchcase(name, one) for one in spelled)]
        if not matches:
            raise ValueError(f"{option} names {pattern!r}, which is none of the layers {list(layers)}")
        values.update(dict.fromkeys(matches, value))
    return values


def between(module: nn.Module, layers: Sequence[str]) -> list[nn.Module]:
    """The largest parts of a module that hold no layer inside; single operations left out."""
    import torch

    parts = modules_by_name(module, duplicates=True)
    around = {name[:k] for name in layers for k, letter in enumerate(name) if letter == "."}
    kept_open = {parts[name] for name in around}

    def below(part: nn.Module) -> Iterator[nn.Module]:
        for child in map(_inside, part.children()):
            # The two containers are never called themselves.
            if child in kept_open or isinstance(child, torch.nn.ModuleList | torch.nn.ModuleDict):
                yield from below(child)
            # A single convolution has nothing to fuse with.
            elif next(child.children(), None) is not None:
                yield child

    return list(dict.fromkeys(below(module)))
