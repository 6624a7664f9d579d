"""Tensors of a checkpoint into a module: names without what wrappers add, under the one prefix that fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["load_into", "under_prefix", "without_prefix"]

Value = TypeVar("Value")

# Segments of names that compiling, sharding and checkpointing put anywhere; no author calls a layer so.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# Parallel training and averaging put this one, and it may be a layer's own name as well.
_MODULE = "module"
# Names that hold an average of the weights: whether it or the weights are meant is never decided here.
_AVERAGE = re.compile(r"(^|[._])ema([._]|$)")
# What CompVis' LitEma keeps beside the average.
_LIT_EMA = {"decay", "num_updates"}
# weight_norm of before and after it became a parametrisation.
_NORMS = (
    (re.compile(r"parametrizations\.(\w+)\.original0$"), r"\1_g"),
    (re.compile(r"parametrizations\.(\w+)\.original1$"), r"\1_v"),
)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _without_modules(name: str) -> str:
    return ".".join(part for part in _without_wrappers(name).split(".") if part != _MODULE)


def _before_parametrizations(name: str) -> str:
    name = _without_modules(name)
    for pattern, old in _NORMS:
        name = pattern.sub(old, name)
    return name


def _without_dots(name: str) -> str:
    # CompVis' LitEma cannot have dots in the names of its buffers.
    return _without_modules(name).replace(".", "")


# Ways to read names, the strictest first.
_READINGS: tuple[Callable[[str], str], ...] = (
    str,
    _without_wrappers,
    _without_modules,
    _before_parametrizations,
    _without_dots,
)


def without_prefix(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The tensors without what parallel training, sharding and ``torch.compile`` put into their names.

    Parameters
    ----------
    tensors : mapping
        Name to tensor.

    Returns
    -------
    dict
        The same, without ``_orig_mod`` and its like anywhere, and without ``module`` in front where all names have it.

    Examples
    --------
    >>> list(without_prefix({"module._orig_mod.weight": 1, "module.block._orig_mod.bias": 2}))
    ['weight', 'block.bias']
    """
    names = {_without_wrappers(name): value for name, value in tensors.items()}
    if len(names) < len(tensors):  # two names for one: not what wrappers do
        names = dict(tensors)
    while names and all(name.startswith(f"{_MODULE}.") for name in names):
        names = {name.removeprefix(f"{_MODULE}."): value for name, value in names.items()}
    return names


def _prefixes(held: Iterable[str], wanted: Iterable[str], dotted: bool) -> list[str]:
    """What can stand before all the wanted names in the names held."""
    held, wanted = set(held), sorted(wanted, key=len, reverse=True)
    found = {name[: len(name) - len(wanted[0])] for name in held if name.endswith(wanted[0])} if wanted else set()
    return sorted(
        prefix
        for prefix in found
        if (not dotted or not prefix or prefix.endswith(".")) and all(prefix + name in held for name in wanted)
    )


def under_prefix(tensors: Mapping[str, Value], wanted: Iterable[str], path: str | Path) -> dict[str, Value] | None:
    """The tensors with names without wrappers and without the one prefix under which all the wanted names are there.

    Parameters
    ----------
    tensors : mapping
        Name to tensor.
    wanted : iterable of str
        Names that a network of this kind has, if not all of them.
    path : path
        Where the tensors come from, for messages.

    Returns
    -------
    dict or None
        All tensors under that prefix; None where there is none.

    Raises
    ------
    ValueError
        If the names are there under several prefixes, or under one beside an average of the weights.
    """
    names = without_prefix(tensors)
    prefixes = _prefixes(names, wanted, dotted=True)
    if not prefixes:
        return None
    _check_choice(prefixes, names, path)
    return {name.removeprefix(prefixes[0]): value for name, value in names.items() if name.startswith(prefixes[0])}


def _check_choice(prefixes: list[str], held: Iterable[str], path: str | Path) -> None:
    keys = [prefix.rstrip(".") for prefix in prefixes]
    if len(prefixes) > 1:
        raise ValueError(
            f"{path} holds the network {len(keys)} times, under the prefixes {keys}: say which is meant, such as "
            f"key={keys[-1] or keys[0]!r}"
        )
    outside = [name for name in held if not name.startswith(prefixes[0])]
    averages = sorted({name.partition(".")[0] for name in outside if _AVERAGE.search(name)})
    if averages:
        raise ValueError(
            f"{path} holds the network under the prefix {keys[0]!r}, and an average of its weights under {averages}: "
            f"say which is meant, such as key={keys[0]!r} or key={averages[0]!r}"
        )


def _by_position(tensors: Mapping[str, Tensor], module: nn.Module, path: str | Path) -> dict[str, Tensor] | None:
    """Tensors of a list, such as an average's ``shadow_params``, by the names of the parameters; else None."""
    if not tensors or list(tensors) != [str(index) for index in range(len(tensors))]:
        return None
    parameters = dict(module.named_parameters())
    trained = {name: value for name, value in parameters.items() if value.requires_grad}
    names = next((list(known) for known in (parameters, trained) if len(known) == len(tensors)), None)
    if names is None:
        raise ValueError(
            f"{path} holds a list of {len(tensors)} tensors without names, and {type(module).__name__} has "
            f"{len(parameters)} parameters ({len(trained)} with a gradient)"
        )
    others = [name for name in module.state_dict() if name not in names]
    if others:
        raise ValueError(
            f"{path} holds a list of parameters without names, and {type(module).__name__} has further tensors, "
            f"{_brief(others)}, which are not in it: copy it into the network and save its state_dict"
        )
    return dict(zip(names, tensors.values(), strict=True))


def _named_as(own: Iterable[str], tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The tensors by the module's own names, where they are all there under one prefix; else without wrappers."""
    own = list(own)
    for read in _READINGS:
        wanted = {read(name): name for name in own}
        held = {read(name): value for name, value in tensors.items()}
        if len(wanted) < len(own) or len(held) < len(tensors):
            continue
        if read is _without_dots:
            held = {name: value for name, value in held.items() if name in wanted or name not in _LIT_EMA}
        if held.keys() == wanted.keys():
            return {wanted[name]: value for name, value in held.items()}
        prefixes = [
            prefix
            for prefix in _prefixes(held, wanted, dotted=read is not _without_dots)
            # Further names under the prefix, which the module does not have, make it another network.
            if prefix and sum(name.startswith(prefix) for name in held) == len(wanted)
        ]
        if prefixes:
            _check_choice(prefixes, held, path)
            return {name: held[prefixes[0] + short] for short, name in wanted.items()}
    return without_prefix(tensors)


def _brief(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy a checkpoint's tensors into a module, every one of them or none.

    Parameters
    ----------
    module : Module
        Its parameters and buffers are overwritten; they keep their dtype and device.
    tensors : mapping
        Name to tensor, as `read_tensors` gives them. What wrappers add to names does not matter, and the names may
        all stand under one prefix (``net.``), with other tensors beside it. A list of parameters has its positions as
        names.
    path : path
        Where they come from, for messages.

    Raises
    ------
    ValueError
        If names or shapes differ, several prefixes fit, or the module has state that is not made of tensors; nothing
        is copied then.
    """
    import torch

    state = module.state_dict()
    own = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    further = [name for name, value in state.items() if name not in own and value is not None]
    if further:
        raise ValueError(
            f"{type(module).__name__} has state that is no tensor ({_brief(further)}), which is not read from files: "
            "load it in the function that makes the network, and leave the checkpoint out"
        )
    placed = None if own.keys() == tensors.keys() else _by_position(tensors, module, path)
    tensors = _named_as(own, tensors, path) if placed is None else placed
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
    module.load_state_dict(tensors, strict=False)  # what is no tensor, and None, is not there
