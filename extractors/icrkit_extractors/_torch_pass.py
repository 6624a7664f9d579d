"""Forward passes of a torch module with hooks, after each of which the module is as it was.

Hooks sit in the module for the length of one call. When the last layer has given its output the forward pass is left
by an exception, so that nothing behind that layer runs, in whatever order the modules come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from icrkit_extractors._torch_errors import explained, misfit
from icrkit_extractors._torch_modules import modules_by_name
from icrkit_extractors._torch_outputs import tensor_of
from icrkit_extractors._torch_state import (
    buffers_kept,
    compiled_forwards,
    device_of,
    evaluating,
    floating_types,
    hooked,
    is_offloaded,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["ForwardPass"]


class _AllFired(BaseException):
    """Every layer has fired: leaves the forward pass. No Exception, so that no network's own handler stops it."""


def _torch_type(value: Any) -> torch.dtype:
    import torch

    kind: torch.dtype = (
        value.dtype if isinstance(value, torch.Tensor) else torch.from_numpy(np.empty(0, value.dtype)).dtype
    )
    return kind


def _cast(kind: torch.dtype, dtype: torch.dtype, narrow: bool) -> torch.dtype:
    """Type that conditioning of a type is given in."""
    import torch

    if not kind.is_floating_point:
        return kind
    # Not down to half precision where that can be helped: a timestep of 999 is 1000 there, and most networks embed it
    # in float32 first.
    return dtype if narrow else torch.promote_types(kind, dtype)


class ForwardPass:
    """How a module is run: its call, and the types of its input.

    Parameters
    ----------
    module : torch.nn.Module
    call : callable (module, x, conditioning), optional
        Default: ``module(x, **conditioning)``.
    autocast : torch.dtype, optional
        Type for automatic mixed precision.
    channels_last : bool
        Whether 4-D inputs have the memory format channels_last.

    Attributes
    ----------
    casting : (torch.dtype, bool)
        Type that the input is given in, and whether conditioning is given in it too.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Callable[[Any, Any, Mapping[str, Any]], object] | None = None,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
    ) -> None:
        self.module = module
        self.call = call
        self.autocast = autocast
        self.channels_last = channels_last
        self.casting: tuple[torch.dtype, bool] = (floating_types(module)[0], False)
        # Buffers that the network writes to; not known before a pass has come to its end.
        self._written: set[str] | None = None

    @property
    def device(self) -> torch.device:
        """Where the module takes its input: where its first parameter or buffer is, or is brought to by accelerate."""
        return device_of(self.module)

    def place(self, array: np.ndarray) -> torch.Tensor:
        """An array as a tensor on the module's device.

        Parameters
        ----------
        array : ndarray

        Returns
        -------
        Tensor
            On the CPU it shares the array's memory where that may be written to.
        """
        import torch

        array = np.ascontiguousarray(array)
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        device = self.device
        if device.type != "cuda":
            return tensor.to(device)
        return tensor.pin_memory().to(device, non_blocking=True)

    def _inputs(self, x: Any, conditioning: Mapping[str, Any] | None) -> tuple[torch.Tensor, dict[str, Any]]:
        """Input and conditioning on the device, in the module's type; copies, for a module may write into them."""
        import torch

        device, (dtype, narrow) = self.device, self.casting
        x = self.place(x) if isinstance(x, np.ndarray) else x
        last = self.channels_last and x.ndim == 4
        x = x.to(
            device=device,
            dtype=dtype if x.is_floating_point() else x.dtype,
            memory_format=torch.channels_last if last else torch.preserve_format,
            copy=True,
        )
        given = {}
        for name, value in (conditioning or {}).items():
            value = self.place(value) if isinstance(value, np.ndarray) else value
            if isinstance(value, torch.Tensor):
                value = value.to(device=device, dtype=_cast(value.dtype, dtype, narrow), copy=True)
            given[name] = value
        return x, given

    def __call__(
        self,
        x: Any,
        conditioning: Mapping[str, Any] | None,
        hooks: Iterable[tuple[nn.Module, Callable[..., None]]],
        *,
        forwards: Mapping[nn.Module, Callable[..., Any]] | None = None,
        seed: int = 0,
        inside: AbstractContextManager[Any] | None = None,
        change: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Run the module once, with hooks.

        Parameters
        ----------
        x, conditioning
            As for `TorchSource`.
        hooks : iterable of (module, callable)
            Forward hooks.
        forwards : mapping of module to callable, optional
            Compiled forward methods.
        seed : int
            Of the random state inside.
        inside : context manager, optional
            Around the pass.
        change : callable (x) -> x, optional
            Applied to the input that the network is given.
        """
        import torch

        x, conditioning = self._inputs(x, conditioning)
        x = x if change is None else change(x)
        if self.call is None and (reason := misfit(self.module, conditioning)):
            raise ValueError(f"{reason}; pass call=lambda module, x, conditioning: module(...)")
        # What a module caches in inference mode could never be trained with; and composite operations are seen whole
        # there, not in the parts that show where features stand.
        frozen = inside is None and not any(parameter.requires_grad for parameter in self.module.parameters())
        device = self.device
        with (
            evaluating(self.module, device, seed),
            torch.inference_mode() if frozen else torch.no_grad(),
            # No cache: before torch 2.10 a caller's autocast went on with the casts made here, which have no gradient.
            torch.autocast(device.type, self.autocast, enabled=self.autocast is not None, cache_enabled=False),
            compiled_forwards(forwards or {}),
            buffers_kept(self.module, self._written) as written,
            hooked(hooks),
            explained(self.module, x, conditioning, self.call is not None),
            inside or nullcontext(),
        ):
            try:
                if self.call is None:
                    self.module(x, **conditioning)
                else:
                    self.call(self.module, x, conditioning)
            except _AllFired:
                pass
        if self._written is None:
            self._written = written

    def outputs(
        self,
        layers: Mapping[str, int | str | None],
        x: Any,
        conditioning: Mapping[str, Any] | None,
        keep: Callable[[str, torch.Tensor], Any],
        **options: Any,
    ) -> dict[str, Any]:
        """What is kept of each layer's output, of a pass that ends with the last layer.

        Parameters
        ----------
        layers : mapping of str to int, str or None
            Layers, and which item of an output that has several.
        x, conditioning
            As for `TorchSource`.
        keep : callable (layer, output) -> object
        **options
            Of the call.

        Returns
        -------
        dict of str to object
        """
        kept: dict[str, Any] = {}
        # What brings weights when a part runs takes them away when that part returns, and not where it is left.
        whole = is_offloaded(self.module)

        def hook_of(name: str) -> Callable[..., None]:
            def hook(part: nn.Module, args: object, output: object) -> None:
                kept[name] = keep(name, tensor_of(name, output, layers[name]))
                if len(kept) == len(layers) and not whole:
                    raise _AllFired

            return hook

        parts = modules_by_name(self.module, duplicates=True)
        self(x, conditioning, [(parts[name], hook_of(name)) for name in layers], **options)
        missing = [name for name in layers if name not in kept]
        if missing:
            raise ValueError(f"layer {missing[0]!r} did not fire in this call, and did in the first")
        return kept

    def castings(self, conditioning: Mapping[str, Any] | None) -> Iterator[tuple[torch.dtype, bool]]:
        """Values to try for `casting`."""
        kinds = {_torch_type(value) for value in (conditioning or {}).values() if hasattr(value, "dtype")}
        for dtype in floating_types(self.module):
            yield dtype, False
            if any(_cast(kind, dtype, False) != _cast(kind, dtype, True) for kind in kinds):
                yield dtype, True
