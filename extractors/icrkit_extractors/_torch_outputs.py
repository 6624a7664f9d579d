"""What a layer gives: the one tensor that is meant, among whatever a module may return."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["shape_of", "tensor_of"]


def _items(output: object) -> dict[Any, Any] | None:
    """Items of an output that may have several; None for any other."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple | list):
        names = getattr(output, "_fields", None)
        return dict(enumerate(output)) if names is None else dict(zip(names, output, strict=True))
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return None


def shape_of(output: Any) -> Any:
    """Shape of an output; of several items a tuple of their shapes, or a dict where they have names."""
    items = _items(output)
    if items is not None:
        if isinstance(output, tuple | list):
            return tuple(map(shape_of, output))
        return {name: shape_of(item) for name, item in items.items()}
    if output is None:
        return None
    # A tensor of tensors that differ in length has no shape.
    if getattr(output, "is_nested", False) or not hasattr(output, "shape"):
        return type(output).__name__
    return tuple(output.shape)


def _tensors(output: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], torch.Tensor]:
    """All tensors of an output by the way to them."""
    import torch

    if isinstance(output, torch.Tensor):
        return {path: output}
    items = _items(output) or {}
    return {way: found for key, item in items.items() for way, found in _tensors(item, (*path, key)).items()}


def _index(path: tuple[Any, ...]) -> Any:
    """A way to an item, as ``output_index`` says it."""
    return path[0] if len(path) == 1 else ".".join(map(str, path))


def _item(output: Any, index: int | str) -> Any:
    """One item of an output, or of items inside it, whose names or positions have dots between them.

    Raises
    ------
    LookupError
        If there is no such item.
    """
    items = _items(output) or {}
    if index in items:
        return items[index]
    if isinstance(index, str) and "." in index:
        first, _, rest = index.partition(".")
        return _item(_item(output, first), rest)
    if isinstance(index, str) and index.removeprefix("-").isdecimal():
        index = int(index)
    if isinstance(index, int):
        return list(items.values())[index]
    raise KeyError(index)


def _selected(name: str, output: Any, index: int | str | None) -> torch.Tensor:
    """The tensor of a layer's output that is meant."""
    import torch

    items = _items(output)
    if items is None:
        if not isinstance(output, torch.Tensor):
            fields = [key for key, item in getattr(output, "__dict__", {}).items() if isinstance(item, torch.Tensor)]
            hint = f" (it has the tensors {fields})" if fields else ""
            raise ValueError(
                f"layer {name!r} gives a {type(output).__name__}, expected a tensor, or a tuple, list, mapping or "
                f"dataclass of tensors{hint}: choose a module inside it or before it"
            )
        if index is not None:
            raise ValueError(
                f"layer {name!r} gives one tensor {shape_of(output)}, not items to take {index!r} from: "
                "name the layers that need an index, output_index={layer: index}"
            )
        return output
    shapes = ", ".join(f"{key!r}: {shape_of(item)}" for key, item in items.items())
    if index is None:
        ways = _tensors(output)
        others = [item for item in items.values() if item is not None and not _tensors(item)]
        if len(ways) == 1 and not others:
            return next(iter(ways.values()))
        last = _index(list(ways)[-1]) if ways else 0
        raise ValueError(
            f"layer {name!r} gives several items, {{{shapes}}}: say which is meant, such as "
            f"output_index={{{name!r}: {last!r}}}"
        )
    try:
        item = _item(output, index)
    except LookupError:
        raise ValueError(f"layer {name!r} has no item {index!r}; it gives {{{shapes}}}") from None
    if not isinstance(item, torch.Tensor):
        inside = [_index((index, *way)) for way in _tensors(item)]
        hint = f": say which is meant, such as {inside[-1]!r}" if inside else ""
        raise ValueError(f"item {index!r} of layer {name!r} is not a tensor; it gives {{{shapes}}}{hint}")
    return item


def tensor_of(name: str, output: Any, index: int | str | None) -> torch.Tensor:
    """The tensor of a layer's output that is meant, dense, of real or complex numbers.

    Parameters
    ----------
    name : str
        The layer, for messages.
    output : object
        What the layer gave.
    index : int or str, optional
        Which item, where there are several; "1.0" or "a.b" is an item of an item.

    Returns
    -------
    Tensor
        Sparse ones are made dense, and quantised ones real numbers.

    Raises
    ------
    ValueError
        If there is no such item, or it is not a tensor of features.
    """
    import torch

    tensor = _selected(name, output, index)
    if tensor.is_nested:
        raise ValueError(
            f"layer {name!r} gives a nested tensor, whose images have different lengths: choose a layer with one shape "
            "for all images"
        )
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if not (tensor.is_floating_point() or tensor.is_complex()):
        raise ValueError(
            f"layer {name!r} gives {str(tensor.dtype).removeprefix('torch.')}, expected floating-point or complex "
            "features: choose the layer before the rounding, index or comparison"
        )
    return tensor
