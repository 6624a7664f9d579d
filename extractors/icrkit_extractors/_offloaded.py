"""Values of weights that accelerate or diffusers keep away from a network until a part of it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["OffloadedWeights"]


class OffloadedWeights:
    """Where the values of a network's tensors are, by the names of its ``state_dict``.

    Parameters
    ----------
    module : Module
        The network. Nothing is read before it is asked for.
    """

    def __init__(self, module: nn.Module) -> None:
        self._maps = list(_maps_of_accelerate(module))
        self._files = dict(_files_of_diffusers(module))

    def value(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor with its values: itself where it has them, or where they are not to be had (then on "meta").

        Parameters
        ----------
        name : str
            In the network's ``state_dict``.
        tensor : Tensor
            What stands there.

        Returns
        -------
        Tensor
        """
        if name in self._files:
            return self._files[name]()
        if tensor.device.type != "meta":
            return tensor
        for prefix, values in self._maps:
            if name.startswith(prefix):
                try:
                    found: torch.Tensor = values[name.removeprefix(prefix)]
                except KeyError:
                    continue
                if found.device.type != "meta":
                    # As accelerate puts it in place.
                    return found.to(tensor.dtype)
        return tensor


def _maps_of_accelerate(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Prefix of a part, and the mapping from which its hook takes tensors by the names that they have in the part."""
    for path, part in module.named_modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            values = getattr(one, "weights_map", None)
            if values is not None:
                yield f"{path}." if path else "", values


def _files_of_diffusers(module: nn.Module) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Names of tensors that group offloading keeps on disk. What stands in their place is memory without a meaning."""
    names: dict[int, list[str]] = {}
    for tensors in (module.named_parameters, module.named_buffers):
        for name, tensor in tensors(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
    for part in module.modules():
        registry = getattr(part, "_diffusers_hook", None)
        group = getattr(registry and registry.get_hook("group_offloading"), "group", None)
        if getattr(group, "_is_offloaded_to_disk", False):
            for tensor, key in group.tensor_to_key.items():
                for name in names.get(id(tensor), ()):
                    yield name, partial(_read, group.safetensors_file_path, key)


def _read(path: str, key: str) -> torch.Tensor:
    from safetensors import safe_open  # diffusers wrote the file with it

    with safe_open(path, framework="pt", device="cpu") as file:
        tensor: torch.Tensor = file.get_tensor(key)
    return tensor
