"""A module while it is used: in evaluation mode, run eagerly, with hooks and seeded; as it was before, afterwards."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "buffers_kept",
    "check_ready",
    "compiled_forwards",
    "device_of",
    "evaluating",
    "floating_types",
    "hooked",
    "is_offloaded",
]


def _cuda_devices(module: nn.Module, device: torch.device) -> list[int]:
    import torch

    devices = {device, *(parameter.device for parameter in module.parameters())}
    current = torch.cuda.current_device() if any(one.type == "cuda" for one in devices) else 0
    return sorted({current if one.index is None else one.index for one in devices if one.type == "cuda"})


@contextmanager
def _seeded(devices: list[int], seed: int) -> Iterator[None]:
    """The same random numbers inside at every call, and those outside as if there had been none."""
    import torch

    own, theirs = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices):
        try:
            # Not manual_seed(), which seeds devices as well whose state is not kept.
            torch.default_generator.manual_seed(seed)
            for index in devices:
                torch.cuda.default_generators[index].manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
        finally:
            random.setstate(own)
            np.random.set_state(theirs)  # noqa: NPY002


@contextmanager
def _eager() -> Iterator[None]:
    """Without what any torch.compile has put in place, of modules, methods or functions, in whatever nesting."""
    # Without it nothing has been compiled, and importing it takes a second.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _alone(module: nn.Module) -> Iterator[None]:
    """Without the parts that parallel training wraps around parts of the module, which wait for other processes."""
    import torch

    before: list[tuple[nn.Module, str, Any]] = []
    for part in module.modules():
        if isinstance(part, torch.nn.parallel.DistributedDataParallel):
            before.append((part, "require_forward_param_sync", False))
        elif isinstance(part, torch.nn.DataParallel):
            before.append((part, "device_ids", []))
    before = [(part, name, (getattr(part, name), value)) for part, name, value in before]
    try:
        for part, name, (_, value) in before:
            setattr(part, name, value)
        yield
    finally:
        for part, name, (own, _) in before:
            setattr(part, name, own)


@contextmanager
def evaluating(module: nn.Module, device: torch.device, seed: int = 0) -> Iterator[None]:
    """Evaluation mode, eager execution and a random state of its own; given back whatever happens."""
    modes = [(part, part.training) for part in module.modules()]
    with _seeded(_cuda_devices(module, device), seed), _eager(), _alone(module):
        try:
            # Not eval(): some modules act on it (adapters merge their weights), and flags set back would not undo that.
            for part, training in modes:
                if training:
                    part.training = False
            yield
        finally:
            # Of all: a network may set modes of its own while it runs.
            for part, training in modes:
                if part.training != training:
                    part.training = training


@contextmanager
def buffers_kept(module: nn.Module, names: set[str] | None) -> Iterator[set[str]]:
    """Buffers as they were afterwards, whatever the network wrote into them (counts, observed ranges, averages).

    Parameters
    ----------
    module : torch.nn.Module
    names : set of str or None
        Buffers that are written to; None where that is not known.

    Yields
    ------
    set of str
        Filled in the end with the names of those that were written to.
    """
    import torch

    before = []
    for path, part in module.named_modules():
        for name, tensor in part._buffers.items():
            full = f"{path}.{name}".removeprefix(".")
            if tensor is not None and tensor.device.type != "meta" and (names is None or full in names):
                before.append((full, part, name, tensor, tensor.detach().clone()))
    written: set[str] = set()
    try:
        yield written
    finally:
        # What was made in inference mode may be written to only there.
        with torch.inference_mode():
            for full, part, name, tensor, copy in before:
                same = part._buffers.get(name) is tensor and tensor.shape == copy.shape
                if same and torch.equal(tensor, copy):
                    continue
                written.add(full)
                part._buffers[name] = tensor
                tensor.resize_(copy.shape).copy_(copy)


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    """With forward hooks, behind those that are there."""
    handles = []
    try:
        for part, hook in hooks:
            handles.append(part.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_default_stance(forward: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.compiler.set_stance("default"):
            return forward(*args, **kwargs)

    return run


@contextmanager
def compiled_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """With compiled forward methods in place of the modules' own."""
    if not forwards:
        yield
        return
    from torch._dynamo import config

    before: list[tuple[nn.Module, Callable[..., Any] | None]] = []
    # Blocks of one class share their code, and a U-Net has more shapes of them than are compiled by default.
    with config.patch(recompile_limit=config.accumulated_recompile_limit):
        try:
            for part, forward in forwards.items():
                own = vars(part).get("forward")
                part.forward = _in_default_stance(forward)
                before.append((part, own))
            yield
        finally:
            for part, own in before:
                del part.forward
                if own is not None:
                    part.forward = own


# ---- where weights are, and their types -----------------------------------------------------------------------------


def is_offloaded(module: nn.Module) -> bool:
    """Whether accelerate or diffusers bring weights when a part runs, and take them away once it has returned."""
    return any(hasattr(part, "_hf_hook") or hasattr(part, "_diffusers_hook") for part in module.modules())


def device_of(module: nn.Module) -> torch.device:
    """Where a module takes its input: where its hooks compute, or else the device of its first parameter or buffer."""
    import torch

    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            if (device := getattr(one, "execution_device", None)) is not None:
                return torch.device(device)
    tensors = [*module.parameters(), *module.buffers()]
    real = (tensor.device for tensor in tensors if tensor.device.type != "meta")
    return next(real, tensors[0].device if tensors else torch.device("cpu"))


def check_ready(module: nn.Module) -> None:
    """Refuse a module whose weights are not there."""
    import torch

    kind = type(module).__name__
    for name, parameter in module.named_parameters():
        if isinstance(parameter, torch.nn.parameter.UninitializedTensorMixin):
            raise ValueError(
                f"{kind} has parameters without a shape, first {name!r} (a lazy module that has not run): run it once, "
                "and load its weights, before features are taken"
            )
    if is_offloaded(module):
        return
    # In the order of registration: buffers of random projections are weights, too.
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device.type == "meta":
            raise ValueError(
                f"{kind} has tensors without values, first {name!r} on the meta device: load the weights, for example "
                "with load_state_dict(..., assign=True), or leave out device_map"
            )


def floating_types(module: nn.Module) -> list[torch.dtype]:
    """Types that the module computes in, in the order of its parameters, then of its buffers; float32 without any."""
    import torch

    known = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    parameters = [tensor.dtype for tensor in module.parameters() if tensor.dtype in known]
    # Frozen weights may be buffers; more often these are tables, whose type says nothing of the input's.
    buffers = [tensor.dtype for tensor in module.buffers() if tensor.dtype in known]
    return list(dict.fromkeys([*(parameters or [torch.float32]), *buffers]))
