"""Which dict of tensors of a checkpoint is meant: keys into nested dicts, and prefixes of names."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icrkit_extractors._checkpoint_globals import Unread
from icrkit_extractors._state_dict import without_prefix

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["network_under"]

# Entries are looked for so deep: callbacks.EMA.state_dict, and some room.
_DEPTH = 5
# What an optimiser keeps of one parameter.
_OF_OPTIMISERS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum"}
_MOST_SHOWN = 12


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _holds_tensors(value: Any, seen: set[int]) -> bool:
    if _is_tensor(value):
        return True
    # What is met a second time has been looked at: content may hold itself.
    if id(value) in seen or not isinstance(value, Mapping | tuple | list):
        return False
    seen.add(id(value))
    items = value.values() if isinstance(value, Mapping) else value
    return any(_holds_tensors(item, seen) for item in items)


def _is_network(value: Any) -> bool:
    """Whether it is a dict of named tensors, or a list of them; values beside them that hold none do not matter."""
    if isinstance(value, tuple | list):
        return len(value) > 1 and all(map(_is_tensor, value)) and any(map(_is_weight, value))
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return False
    weights = {name for name, item in value.items() if _is_weight(item)}
    others = [item for item in value.values() if not _is_tensor(item)]
    seen: set[int] = set()
    return bool(weights) and not weights <= _OF_OPTIMISERS and not any(_holds_tensors(item, seen) for item in others)


def _is_weight(value: Any) -> bool:
    # States of random generators are whole numbers; steps and rates are numbers alone.
    return _is_tensor(value) and value.ndim > 0 and (value.is_floating_point() or value.is_complex())


def _tensors(value: Any) -> dict[str, Tensor]:
    items = value.items() if isinstance(value, Mapping) else ((str(index), item) for index, item in enumerate(value))
    return {name: item for name, item in items if _is_tensor(item)}


def _networks(value: Any, depth: int = _DEPTH, seen: set[int] | None = None) -> Iterator[str]:
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
    elif isinstance(value, tuple | list) and depth:
        for index, child in enumerate(value):
            # Lists of parameter groups and of states hold no dicts of tensors with names.
            yield from (f"{index}.{below}".removesuffix(".") for below in _networks(child, depth - 1, seen))


def _under(value: Any, key: str) -> Any:
    """What stands under a dotted key: an entry, then perhaps a prefix of the names in it; None where nothing does."""
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
        # An entry's name may have dots of its own: the longest that is there.
        parts = key.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            first = ".".join(parts[:cut])
            if first in value and not _is_tensor(value[first]):
                return _under(value[first], ".".join(parts[cut:]))
    elif isinstance(value, tuple | list):
        index, _, rest = key.partition(".")
        if index.isdecimal() and int(index[:9]) < len(value):
            return _under(value[int(index[:9])], rest) if rest else value[int(index[:9])]
    if not _is_network(value):
        return None
    for names in (_tensors(value), without_prefix(_tensors(value))):
        found = {name.removeprefix(f"{key}."): item for name, item in names.items() if name.startswith(f"{key}.")}
        if found:
            return found
    return None


def _arrays(content: Any) -> str:
    """A hint where the weights may be arrays, at the top or one step below."""
    values = list(content.values()) if isinstance(content, Mapping) else []
    inside = [item for value in values if isinstance(value, Mapping) for item in value.values()]
    if any(isinstance(value, Unread) for value in (*values, *inside)):
        return "; arrays of numpy are not read from a file of torch.save: save them by numpy.savez, as .npz"
    return ""


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f" (nearest: {', '.join(map(repr, near))})" if near else ""


def _shown(names: list[str]) -> str:
    return f"{names[:_MOST_SHOWN]}" + (f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else "")


def _tops(tensors: Mapping[str, Any]) -> list[str]:
    return sorted({name.partition(".")[0] for name in tensors})


def network_under(content: Any, key: str | None, path: Path) -> dict[str, Tensor]:
    """The dict of tensors that a key singles out; without a key the only one there is.

    Parameters
    ----------
    content : object
        What the file holds.
    key : str or None
        Dotted: entries of dicts, positions in lists, then perhaps a prefix of names.
    path : Path
        The file, for messages.

    Returns
    -------
    dict
        Name to tensor.

    Raises
    ------
    ValueError
        If the key leads nowhere, or there are several networks and no key; lists those there are.
    """
    found = list(_networks(content))
    if key is not None:
        chosen = _under(content, key)
        if _is_network(chosen):
            return _tensors(chosen)
        if found == [""]:
            tops = _tops(_tensors(content))
            raise ValueError(
                f"{path} holds one network and nothing under {key!r}{_near(key, tops)}: leave the key out "
                f"(its names begin with {', '.join(tops[:_MOST_SHOWN])})"
            )
        entry = next((name for name in sorted(found, key=len, reverse=True) if key.startswith(f"{name}.")), None)
        if entry is not None:
            tops = _tops(_tensors(_under(content, entry)))
            rest = key.removeprefix(f"{entry}.")
            raise ValueError(
                f"{path} has nothing under {rest!r}{_near(rest, tops)} in {entry!r}, whose names begin with "
                f"{', '.join(tops[:_MOST_SHOWN])}"
            )
        arrays = "" if found else _arrays(content)
        raise ValueError(
            f"{path} has no dict of tensors under {key!r}{_near(key, found)}; there are {_shown(found)}{arrays}"
        )
    if len(found) == 1:
        return _tensors(_under(content, found[0]) if found[0] else content)
    if found:
        raise ValueError(f"{path} holds several networks: {_shown(found)}; choose one, such as key={found[-1]!r}")
    keys = _shown(sorted(map(str, content))) if isinstance(content, Mapping) else type(content).__name__
    raise ValueError(f"{path} holds no dict of named tensors; it holds {keys}{_arrays(content)}")
