"""What a network holds, as one digest: every value of its state_dict, tensors and others, and its further buffers.

A digest sees what a network holds, not what it does: numbers in plain attributes, code and hooks decide features too.
Those are compared by what they do, see ``_probe.py``.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from icrkit_extractors._offloaded import OffloadedWeights

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["weights_digest"]


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names and values of a network's ``state_dict``, and of parameters and buffers that it leaves out.

    Parameters
    ----------
    module : Module
        The network.

    Returns
    -------
    str
        64 hexadecimal digits. Where values are not to be had, they are followed by "without the values of ...": of
        these tensors only names, types and shapes count.

    Notes
    -----
    Weights that accelerate or diffusers offload are read from where they are, so the digest is that of the network
    without offloading.

    Packed weights of quantised layers, ``_extra_state``, sparse tensors and tensors of subclasses count with all that
    they hold. Tensors that a network keeps as plain attributes do not: many are caches that a forward pass fills.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Linear(2, 1)
    >>> before = weights_digest(net)
    >>> _ = net.weight.data.add_(1)
    >>> weights_digest(net) == before
    False
    """
    import torch

    digest, offloaded, missing = hashlib.sha256(), OffloadedWeights(module), []
    held = module.state_dict()
    # Buffers that are not persistent, and whatever a network's own state_dict leaves out.
    own = (*module.named_parameters(), *module.named_buffers())
    further = {name: value for name, value in own if name not in held}
    for name, value in (*held.items(), *further.items()):
        if isinstance(value, torch.Tensor):
            value = offloaded.value(name, value)
            if value.device.type == "meta":
                missing.append(name)
        for head, body in _pieces(name, value):
            digest.update(head.encode())
            digest.update(body)
    said = f" without the values of {len(missing)} tensor(s), first {missing[0]}" if missing else ""
    return digest.hexdigest() + said


def _pieces(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What identifies a value: a line that says what it is, and its bytes."""
    import torch

    if isinstance(value, torch.Tensor):
        yield from _pieces_of_tensor(name, value)
    elif isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        array = np.ascontiguousarray(value)
        yield f"{name} {array.dtype} {array.shape}\n", array.tobytes()
    elif isinstance(value, Mapping):
        yield f"{name} mapping of {len(value)}\n", b""
        for key, item in value.items():
            yield from _pieces(f"{name}[{key!r}]", item)
    elif isinstance(value, tuple | list):
        yield f"{name} sequence of {len(value)}\n", b""
        for index, item in enumerate(value):
            yield from _pieces(f"{name}[{index}]", item)
    elif isinstance(value, io.BytesIO):
        yield f"{name} bytes\n", value.getvalue()
    elif isinstance(value, bytes | bytearray):
        yield f"{name} bytes\n", bytes(value)
    elif value is None or isinstance(value, bool | int | float | complex | str | torch.dtype | torch.device):
        yield f"{name} {value!r}\n", b""
    elif isinstance(value, torch.ScriptObject):
        # Packed weights of a quantised layer: their state is made of tensors and numbers.
        yield from _pieces(f"{name} {value._type().qualified_name()}", value.__getstate__())
    else:  # any other says only what it is: its repr may hold an address
        yield f"{name} {type(value).__module__}.{type(value).__qualname__}\n", b""


def _pieces_of_tensor(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, Any]]:
    import torch

    tensor = tensor.detach()
    if tensor.device.type == "meta":
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)} meta\n", b""
    elif tensor.is_quantized:
        yield from _pieces(f"{name} {tensor.qscheme()}", tensor.int_repr())
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            yield from _pieces(name, (tensor.q_scale(), tensor.q_zero_point()))
        else:
            scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
            yield from _pieces(name, (scales, zeros, tensor.q_per_channel_axis()))
    elif tensor.layout is not torch.strided:
        yield f"{name} {tensor.layout} {tuple(tensor.shape)}\n", b""
        yield from _pieces(name, tensor.to_dense())
    elif hasattr(tensor, "__tensor_flatten__"):
        # A tensor made of others, such as one quantised by torchao.
        parts, context = tensor.__tensor_flatten__()
        yield f"{name} {type(tensor).__qualname__} {context!r}\n", b""
        for part in parts:
            yield from _pieces(f"{name}.{part}", getattr(tensor, part))
    else:
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n", _bytes_of(tensor)


def _bytes_of(tensor: torch.Tensor) -> Any:
    import torch

    flat = tensor.cpu().contiguous().reshape(-1)
    # Conjugation and negation may be noted and not yet carried out.
    flat = flat.resolve_conj().resolve_neg()
    return flat.view(torch.uint8).numpy().data if math.prod(flat.shape) else b""
