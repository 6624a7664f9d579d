"""A source of features: a torch module, run up to the deepest of the layers asked for.

Hooks sit in the module for the length of one call. When the last layer has given its output the forward pass is left
by an exception, so that nothing behind that layer runs, in whatever order the modules come.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from icrkit.exceptions import MissingDependencyError, NonFiniteError
from icrkit_extractors._identity import weights_digest
from icrkit_extractors._pool import Pool

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TorchSource"]


class _AllFired(BaseException):
    """Every layer has fired: leaves the forward pass. No Exception, so that no network's own handler stops it."""


# ---- names ----------------------------------------------------------------------------------------------------------


def _resolved(module: nn.Module, layers: str | Sequence[str]) -> dict[str, bool]:
    """Names of modules from names and globs, each once, and whether it was named itself."""
    import torch

    names = [name for name, _ in module.named_modules() if name]
    # A module that is registered twice has two names, and either will do.
    known = {name for name, _ in module.named_modules(remove_duplicate=False) if name}
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if not wanted:
        raise ValueError("layers is empty")
    chosen: dict[str, bool] = {}
    for name in wanted:
        if name in known:
            if wanted.count(name) > 1:
                raise ValueError(f"layer {name!r} is named twice")
            chosen[name] = True
            continue
        # The two containers are never called themselves, so a glob cannot mean them.
        matches = [
            match
            for match in names
            if fnmatch.fnmatchcase(match, str(name))
            and not isinstance(module.get_submodule(match), torch.nn.ModuleList | torch.nn.ModuleDict)
        ]
        if not matches:
            near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
            hint = f"nearest: {', '.join(map(repr, near))}; " if near else ""
            raise ValueError(
                f"{type(module).__name__} has no module {name!r} ({hint}available_layers() lists all {len(names)})"
            )
        for match in matches:
            chosen.setdefault(match, False)
    return chosen


def _by_layer(option: str, given: Any, layers: Sequence[str], default: Any) -> dict[str, Any]:
    """An option's value for each layer, from one for all or from a mapping of names and globs; later ones win."""
    if not isinstance(given, Mapping):
        return dict.fromkeys(layers, given)
    values = dict.fromkeys(layers, default)
    for pattern, value in given.items():
        matches = [name for name in layers if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            raise ValueError(f"{option} names {pattern!r}, which is none of the layers {list(layers)}")
        values.update(dict.fromkeys(matches, value))
    return values


# ---- what a layer gives ---------------------------------------------------------------------------------------------


def _items(output: object) -> dict[Any, Any] | None:
    """Items of an output that may have several; None for any other."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple | list):
        return dict(enumerate(output))
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return None


def _shape(output: Any) -> Any:
    """Shape of an output; of several items a tuple of their shapes, or a dict where they have names."""
    items = _items(output)
    if items is not None:
        if isinstance(output, tuple | list):
            return tuple(map(_shape, output))
        return {name: _shape(item) for name, item in items.items()}
    if output is None:
        return None
    return tuple(output.shape) if hasattr(output, "shape") else type(output).__name__


def _last_tensor(items: Mapping[Any, Any]) -> Any:
    import torch

    return next((key for key, item in reversed(items.items()) if isinstance(item, torch.Tensor)), 0)


def _tensor(name: str, output: Any, index: int | str | None) -> torch.Tensor:
    """The one tensor of a layer's output that is meant."""
    import torch

    items = _items(output)
    if items is None:
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"layer {name!r} gives a {type(output).__name__}, which is no tensor")
        if index is not None:
            raise ValueError(
                f"layer {name!r} gives one tensor {tuple(output.shape)}, not items to take {index!r} from: "
                "name the layers that need an index, output_index={layer: index}"
            )
        return output
    shapes = ", ".join(f"{key!r}: {_shape(item)}" for key, item in items.items())
    if index is None:
        there = [item for item in items.values() if item is not None]
        if len(there) != 1 or not isinstance(there[0], torch.Tensor):
            raise ValueError(
                f"layer {name!r} gives several items, {{{shapes}}}: say which is meant, "
                f"such as output_index={{{name!r}: {_last_tensor(items)!r}}}"
            )
        return there[0]
    if index in items:
        item = items[index]
    elif isinstance(index, int) and -len(items) <= index < len(items):
        item = list(items.values())[index]
    else:
        raise ValueError(f"layer {name!r} has no item {index!r}; it gives {{{shapes}}}")
    if not isinstance(item, torch.Tensor):
        raise ValueError(f"item {index!r} of layer {name!r} is no tensor; it gives {{{shapes}}}")
    return item


def _checked(name: str, features: np.ndarray) -> np.ndarray:
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise NonFiniteError(
            f"layer {name!r} holds NaN or infinity in {bad.sum()} of {len(bad)} rows, first in row {int(bad.argmax())}"
        )
    return features


# ---- a module while it is used --------------------------------------------------------------------------------------


@contextmanager
def _evaluating(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode and a borrowed random state, given back whatever happens."""
    import torch

    training = [part for part in module.modules() if part.training]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            # Not eval(): some modules act on it (adapters merge their weights), and flags set back would not undo that.
            for part in training:
                part.training = False
            yield
        finally:
            for part in training:
                part.training = True


@contextmanager
def _hooked(hooks: Iterable[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    handles = []
    try:
        for part, hook in hooks:
            handles.append(part.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _uncompiled(module: nn.Module) -> Iterator[None]:
    """Without what ``Module.compile`` has put in place: compiled code does not look for hooks that came later."""
    compiled = {part: part._compiled_call_impl for part in module.modules() if part._compiled_call_impl is not None}
    try:
        for part in compiled:
            part._compiled_call_impl = None
        yield
    finally:
        for part, implementation in compiled.items():
            part._compiled_call_impl = implementation


@contextmanager
def _compiled(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
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
                part.forward = forward
                before.append((part, own))
            yield
        finally:
            for part, own in before:
                del part.forward
                if own is not None:
                    part.forward = own


def _between(module: nn.Module, layers: Sequence[str]) -> list[nn.Module]:
    """The largest parts of a module that hold no layer inside; single operations left out."""
    import torch

    around = {name[:k] for name in layers for k, letter in enumerate(name) if letter == "."}
    kept_open = {module.get_submodule(name) for name in around}

    def below(part: nn.Module) -> Iterator[nn.Module]:
        for child in part.children():
            # The two containers are never called themselves.
            if child in kept_open or isinstance(child, torch.nn.ModuleList | torch.nn.ModuleDict):
                yield from below(child)
            # A single convolution has nothing to fuse with.
            elif next(child.children(), None) is not None:
                yield child

    return list(dict.fromkeys(below(module)))


def _dtype(module: nn.Module) -> torch.dtype:
    import torch

    floating = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    return next(floating, torch.float32)


class TorchSource:
    """Features from layers of a torch module.

    Parameters
    ----------
    module : torch.nn.Module
        The network. It may be in training: every call leaves its mode, hooks, random state, types, gradients and
        buffers as they were.
    layers : str or sequence of str, optional
        Names of modules as ``named_modules()`` gives them, or globs (``*`` matches dots as well). Without them there
        is only `available_layers`.
    pool : str, Pool, or mapping of layers or globs to these
        What becomes of an output (n, channel, height, width) or (n, token, channel): "mean" over space or tokens,
        "none" flattens, "class" the first token, "patches" the mean of the others, "grid:K" a K x K grid of means.
        A layer that a mapping does not name has "mean".
    output_index : int or str, or mapping of layers or globs to these, optional
        Which item of an output that is a tuple, a list, a mapping or a dataclass. Only where one item is there (the
        others None) may it be left out.
    device : device, optional
        Where to run; the module is moved there, and stays. Default: where its first parameter is.
    autocast : {"bfloat16", "float16"} or torch.dtype, optional
        Type for automatic mixed precision. Default: none, also inside an autocast of the caller's.
    feature_axis, n_prefix : int
        Given to `Pool`, for a ``pool`` that is a string: the axis of the features (default 1 of four, the last of
        three), and how many class and register tokens come before the patches.
    call : callable (module, x, conditioning), optional
        Runs a forward pass; what it returns is not used. Default: ``module(x, **conditioning)``.
    input_shape : (channel, height, width), optional
        Shape of one input, for `available_layers` without one.
    channels_last : bool
        Whether 4-D inputs and, from now on, the module's weights have the memory format channels_last.
    compile : bool or mapping
        Whether to compile with ``torch.compile``, with these options where it is a mapping. Compiled are the largest
        parts of the module that hold no layer inside (single operations are left out), each on its own, so that
        layers stay visible and the early exit works. The module has the compiled code only during a call.
    record : mapping, optional
        Further entries of `config`: what identifies the network.

    Attributes
    ----------
    layers : tuple of str
        Names of the layers, globs resolved. After the first call without those of a glob that do not run exactly once.

    Raises
    ------
    MissingDependencyError
        If torch is not installed.
    ValueError
        If a layer is not in the module or a glob matches nothing (the message names the nearest), a mapping names no
        layer, or pool, autocast or record is not as described.

    Notes
    -----
    The first call runs the whole network once more than needed, to count how often each layer fires. Later ones end
    with the last layer; the modules around it do not return, so forward hooks that others put on those do not run.
    Features are pooled inside the hook, in float32, before any later operation can overwrite the output in place. The
    input is cast to the type of the module's first floating-point parameter; conditioning only where that loses
    nothing. Modules with trainable parameters run under ``torch.no_grad``, others under ``torch.inference_mode``,
    whose tensors, where a module caches them, could not be trained with. Random numbers of Python and numpy are not
    held.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
    >>> source = TorchSource(net, layers=["0", "1"], input_shape=(1, 8, 8))
    >>> source.available_layers()
    {'0': (1, 4, 6, 6), '1': (1, 4, 6, 6), '2': (1, 2, 4, 4)}
    >>> {name: h.shape for name, h in source(np.ones((5, 1, 8, 8), np.float32)).items()}
    {'0': (5, 4), '1': (5, 4)}
    """

    def __init__(
        self,
        module: nn.Module,
        layers: str | Sequence[str] | None = None,
        pool: str | Pool | Mapping[str, str | Pool] = "mean",
        output_index: int | str | Mapping[str, int | str] | None = None,
        device: str | torch.device | None = None,
        autocast: str | torch.dtype | None = None,
        *,
        feature_axis: int | None = None,
        n_prefix: int = 1,
        call: Callable[[Any, Any, Mapping[str, Any]], object] | None = None,
        input_shape: tuple[int, int, int] | None = None,
        channels_last: bool = False,
        compile: bool | Mapping[str, Any] = False,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError('TorchSource needs torch: pip install "icrkit[torch]"') from error
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}")
        # The module inside is the one to run: compiled code does not look for hooks that came later, and wrappers of
        # parallel training wait in every call for processes that may not be extracting.
        if isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
            module = module.module
        self.module: nn.Module = getattr(module, "_orig_mod", module)
        self._named = {} if layers is None else _resolved(self.module, layers)
        self.layers = tuple(self._named)
        self.autocast = getattr(torch, autocast, None) if isinstance(autocast, str) else autocast
        if autocast is not None and self.autocast not in (torch.bfloat16, torch.float16):
            raise ValueError(f"autocast must be 'bfloat16' or 'float16', not {autocast!r}")
        self._pools: dict[str, Pool] = {}
        self._index: dict[str, int | str | None] = {}
        if self.layers:
            for name, how in _by_layer("pool", pool, self.layers, "mean").items():
                self._pools[name] = how if isinstance(how, Pool) else Pool(how, feature_axis, n_prefix)
            self._index = _by_layer("output_index", output_index, self.layers, None)
        self._call = call
        self._input_shape = input_shape
        self._compile = dict(compile) if isinstance(compile, Mapping) else {} if compile else None
        self._parts: dict[nn.Module, Callable[..., Any]] | None = None
        self._surveyed = False
        self.channels_last = channels_last
        if device is not None:
            self.module.to(torch.device(device))
        if channels_last:
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._record = dict(record or {})
        taken = sorted(set(self._record) & {*self._settings(), "weights_sha256"})
        if taken:
            raise ValueError(f"record holds {taken}, which the source records itself; choose other names")

    @property
    def device(self) -> torch.device:
        """Where the module is now: the device of its first parameter or buffer."""
        import torch

        tensor = next(itertools.chain(self.module.parameters(), self.module.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

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

        device, dtype = self.device, _dtype(self.module)
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
                # Not down to half precision, in which a timestep of 999 is 1000: networks embed it in float32 first.
                wide = torch.promote_types(value.dtype, dtype) if value.is_floating_point() else value.dtype
                value = value.to(device=device, dtype=wide, copy=True)
            given[name] = value
        return x, given

    def _misfit(self, names: Iterable[str]) -> str | None:
        """Why the default call does not fit the module's forward; None where it does."""
        try:
            signature = inspect.signature(self.module.forward)
        except ValueError:  # scripted modules have none
            return None
        try:
            signature.bind(None, **dict.fromkeys(names))
        except TypeError as error:
            kind, given = type(self.module).__name__, ", ".join(("x", *names))
            return f"{kind}.forward takes {signature} and is given ({given}): {error}"
        return None

    def _forward(
        self,
        x: torch.Tensor,
        conditioning: Mapping[str, Any],
        hooks: Iterable[tuple[nn.Module, Callable[..., None]]],
        forwards: Mapping[nn.Module, Callable[..., Any]],
    ) -> None:
        """One forward pass with hooks, of a module that is as before afterwards."""
        import torch

        if self._call is None and (misfit := self._misfit(conditioning)):
            raise ValueError(f"{misfit}; pass call=lambda module, x, conditioning: module(...)")
        # What a module caches in inference mode could never be trained with.
        trainable = any(parameter.requires_grad for parameter in self.module.parameters())
        device = self.device
        with (
            _evaluating(self.module, device),
            torch.no_grad() if trainable else torch.inference_mode(),
            # No cache: before torch 2.10 a caller's autocast went on with the casts made here, which have no gradient.
            torch.autocast(device.type, self.autocast, enabled=self.autocast is not None, cache_enabled=False),
            _uncompiled(self.module),
            _compiled(forwards),
            _hooked(hooks),
        ):
            try:
                if self._call is None:
                    self.module(x, **conditioning)
                else:
                    self._call(self.module, x, conditioning)
            except _AllFired:
                pass

    def _survey(self, x: torch.Tensor, conditioning: Mapping[str, Any]) -> dict[nn.Module, list[Any]]:
        """Shapes of all that every module gives in one whole forward pass."""
        seen: dict[nn.Module, list[Any]] = {}

        def note(part: nn.Module, args: object, output: object) -> None:
            seen.setdefault(part, []).append(_shape(output))

        parts = [part for name, part in self.module.named_modules() if name]
        self._forward(x, conditioning, [(part, note) for part in parts], {})
        return seen

    def _check_firing(self, seen: Mapping[nn.Module, list[Any]]) -> None:
        """Refuse layers that do not fire once; those that a glob brought along are left out."""
        fired = {name: len(seen.get(self.module.get_submodule(name), ())) for name in self.layers}
        once = tuple(name for name in self.layers if fired[name] == 1 or self._named[name])
        # Where a glob has brought nothing that can be a layer, its first match says why.
        self.layers = once or self.layers[:1]
        for name in self.layers:
            times = fired[name]
            if times > 1:
                raise ValueError(
                    f"layer {name!r} fires {times} times in one forward pass, so its name does not say which output "
                    "is meant: choose a module that runs once"
                )
            if times == 0:
                inside = [n for n, part in self.module.named_modules() if n.startswith(f"{name}.") and part in seen]
                hint = f": choose a module inside it, such as {inside[0]!r}" if inside else ""
                raise ValueError(f"layer {name!r} never fires: the network does not call it{hint}")

    def _compiled_parts(self) -> Mapping[nn.Module, Callable[..., Any]]:
        """Compiled forward methods by module."""
        import torch

        if self._parts is None:
            options = self._compile
            parts = [] if options is None else _between(self.module, self.layers)
            self._parts = {part: torch.compile(part.forward, **(options or {})) for part in parts}
        return self._parts

    def available_layers(self, x: Any = None, conditioning: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Modules that can be layers, and the shapes of their outputs before pooling.

        Parameters
        ----------
        x : ndarray or Tensor (n, channel, height, width), optional
            An input. Default: zeros of ``input_shape``, where that is known.
        conditioning : mapping, optional
            Further arguments of the network, as for a call.

        Returns
        -------
        dict
            Name to shape, in the order of ``named_modules()``; an output with several items has a tuple or a dict of
            shapes. Only modules that run exactly once are there. Without an input, or where the network asks for
            conditioning and none is given: all modules, each with None.
        """
        modules = {name: part for name, part in self.module.named_modules() if name}
        if x is None:
            runs = conditioning is not None or (self._call is None and self._misfit(()) is None)
            if self._input_shape is None or not runs:
                return dict.fromkeys(modules)
            x = np.zeros((1, *self._input_shape), dtype=np.float32)
        seen = self._survey(*self._inputs(x, conditioning))
        return {name: seen[part][0] for name, part in modules.items() if len(seen.get(part, ())) == 1}

    def _settings(self) -> dict[str, Any]:
        import torch

        pools = {name: self._pools[name].config() for name in self.layers}
        first = next(iter(pools.values()), {})
        same = all(pool == first for pool in pools.values())
        index = {self._index[name] for name in self.layers}
        return {
            "source": "TorchSource",
            "layers": list(self.layers),
            **(first if same else {"pool": pools}),
            "output_index": next(iter(index), None)
            if len(index) < 2
            else {name: self._index[name] for name in self.layers},
            "dtype": str(_dtype(self.module)).removeprefix("torch."),
            "autocast": None if self.autocast is None else str(self.autocast).removeprefix("torch."),
            "device": self.device.type,
            "channels_last": self.channels_last,
            "compile": False if self._compile is None else {k: str(v) for k, v in self._compile.items()} or True,
            "torch_version": str(torch.__version__),
        }

    def config(self) -> dict[str, Any]:
        """What identifies the features, for the attributes of a cube.

        Returns
        -------
        dict
            With ``record``; where that has no ``model_sha256``, also ``weights_sha256``, a digest of the weights as
            they are now.
        """
        digest = {} if "model_sha256" in self._record else {"weights_sha256": weights_digest(self.module)}
        return {**self._settings(), **digest, **self._record}

    def __call__(self, x: Any, conditioning: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Features of a batch.

        Parameters
        ----------
        x : ndarray or Tensor (n, channel, height, width)
            The network's input.
        conditioning : mapping, optional
            Further arguments by name, such as ``c_noise`` (n,).

        Returns
        -------
        dict
            Layer to features, ndarray (n, d), float32.

        Raises
        ------
        ValueError
            If no layers were chosen, forward does not take the conditioning by these names, a layer fires never or
            several times, an output has several items and ``output_index`` does not say which, or its first axis is
            not the image.
        NonFiniteError
            If a layer holds NaN or infinity; names the layer and the first row.
        """
        import torch

        if not self.layers:
            raise ValueError("no layers were chosen: TorchSource(module, layers=[...]); available_layers() lists them")
        if not self._surveyed:
            self._check_firing(self._survey(*self._inputs(x, conditioning)))
            self._surveyed = True
        x, conditioning = self._inputs(x, conditioning)
        n = len(x)
        pooled: dict[str, torch.Tensor] = {}

        def hook_of(name: str) -> Callable[..., None]:
            def keep(part: nn.Module, args: object, output: object) -> None:
                tensor = _tensor(name, output, self._index[name])
                features = self._pools[name](name, tensor, n)
                # What passes through unpooled is still the network's own memory.
                shared = features.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
                pooled[name] = features.clone() if shared else features
                if len(pooled) == len(self.layers):
                    raise _AllFired

            return keep

        hooks = [(self.module.get_submodule(name), hook_of(name)) for name in self.layers]
        self._forward(x, conditioning, hooks, self._compiled_parts())
        missing = [name for name in self.layers if name not in pooled]
        if missing:
            raise ValueError(f"layer {missing[0]!r} did not fire in this call, and did in the first")
        # One transfer for all layers.
        whole = torch.cat([pooled[name].reshape(-1) for name in self.layers]).cpu().numpy()
        features, start = {}, 0
        for name in self.layers:
            stop = start + pooled[name].numel()
            features[name] = _checked(name, whole[start:stop].reshape(pooled[name].shape))
            start = stop
        return features
