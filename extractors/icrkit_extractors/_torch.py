"""A source of features: a torch module, run up to the deepest of the layers asked for.

Hooks sit in the module for the length of one call. When the last layer has given its output the forward pass is left
by an exception, so that nothing behind that layer runs, in whatever order the modules come.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from icrkit.exceptions import MissingDependencyError, NonFiniteError
from icrkit_extractors._identity import weights_digest
from icrkit_extractors._pool import Pool
from icrkit_extractors._torch_errors import explained, misfit, why_silent
from icrkit_extractors._torch_modules import (
    between,
    by_layer,
    check_whole,
    find_layers,
    modules_by_name,
    unwrap,
    visible,
)
from icrkit_extractors._torch_outputs import shape_of, tensor_of
from icrkit_extractors._torch_repeat import differs, first_difference, neighbours
from icrkit_extractors._torch_state import (
    check_ready,
    compiled_forwards,
    device_of,
    evaluating,
    floating_types,
    hooked,
    is_offloaded,
)  # fmt: skip
from icrkit_extractors._torch_trace import Axes, infer_axis, watching

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TorchSource"]


class _AllFired(BaseException):
    """Every layer has fired: leaves the forward pass. No Exception, so that no network's own handler stops it."""


class _Seen(NamedTuple):
    """What a layer gave in the first pass: shape, axes of its features, and the first image's part."""

    shape: tuple[int, ...]
    axes: Axes
    row: torch.Tensor


def _check_finite(name: str, features: np.ndarray, in_half: bool) -> np.ndarray:
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        hint = "; float16 overflows beyond 65504, where bfloat16 and float32 do not" if in_half else ""
        raise NonFiniteError(
            f"layer {name!r} holds NaN or infinity in {bad.sum()} of {len(bad)} rows, first in row "
            f"{int(bad.argmax())}{hint}"
        )
    return features


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


class TorchSource:
    """Features from layers of a torch module.

    Parameters
    ----------
    module : torch.nn.Module
        The network. It may be in training: every call leaves its mode, hooks, random state, types, gradients and
        buffers as they were. Of wrappers (``torch.compile``, parallel training, moving averages, adapters of peft), in
        whatever order, the network inside is run.
    layers : str or sequence of str, optional
        Names of modules as ``named_modules()`` gives them, with or without the steps of wrappers (``module.``,
        ``_orig_mod.``), or globs (``*`` matches dots as well). Without them there is only `available_layers`.
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
        Given to `Pool`, for a ``pool`` that is a string: the axis of the features (by default as the first pass shows
        it, see below), and how many class and register tokens come before the patches.
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
    The first call runs the network twice more than needed. Once as a whole, to count how often each layer fires, to
    follow the axis of the features through its operations (1 after a convolution, the last after a linear layer, moved
    by what moves it), and to see whether it draws random numbers. Once more up to the last layer with other images
    beside the first one and another random state: where the first image's output then differs, by more than 1e-4 of its
    norm (2e-2 where parts compute in half precision, 1e-8 in float64), the layer is refused. Where the network draws,
    three passes more show whether the draws reach the layer.

    Later calls end with the last layer; the modules around it do not return, so forward hooks that others put on those
    do not run. Only networks whose weights accelerate or diffusers bring from elsewhere run to their end. Every call
    has the same random state, of torch, numpy and Python. Whatever was compiled runs eagerly.

    Features are pooled inside the hook, in float32, before any later operation can overwrite the output in place. The
    input is cast to the type of the module's first floating-point parameter; conditioning only where that loses
    nothing. Where the network's code fails on that, its other types are tried, and the type of the input for
    conditioning as well; `config` then has ``conditioning_dtype``. Modules with trainable parameters run under
    ``torch.no_grad``, others under ``torch.inference_mode``, whose tensors, where a module caches them, could not be
    trained with.

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
        self.module: nn.Module = unwrap(module)
        if isinstance(self.module, torch.jit.ScriptModule):
            raise ValueError(
                f"module is TorchScript ({type(self.module).__name__}), inside which no hook can see a layer: pass the "
                "network as it was before torch.jit.trace or torch.jit.script"
            )
        self._named = {} if layers is None else find_layers(self.module, layers)
        self.layers = tuple(self._named)
        self.autocast = getattr(torch, autocast, None) if isinstance(autocast, str) else autocast
        if autocast is not None and self.autocast not in (torch.bfloat16, torch.float16):
            raise ValueError(f"autocast must be 'bfloat16' or 'float16', not {autocast!r}")
        self._pools: dict[str, Pool] = {}
        self._index: dict[str, int | str | None] = {}
        if self.layers:
            for name, how in by_layer("pool", pool, self.layers, "mean").items():
                self._pools[name] = how if isinstance(how, Pool) else Pool(how, feature_axis, n_prefix)
            self._index = by_layer("output_index", output_index, self.layers, None)
        self._call = call
        self._input_shape = input_shape
        self._compile = dict(compile) if isinstance(compile, Mapping) else {} if compile else None
        self._parts: dict[nn.Module, Callable[..., Any]] | None = None
        self._examined = False
        self._casting: tuple[torch.dtype, bool] = (floating_types(self.module)[0], False)
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

    # ---- one forward pass -------------------------------------------------------------------------------------------

    def _inputs(self, x: Any, conditioning: Mapping[str, Any] | None) -> tuple[torch.Tensor, dict[str, Any]]:
        """Input and conditioning on the device, in the module's type; copies, for a module may write into them."""
        import torch

        device, (dtype, narrow) = self.device, self._casting
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

    def _forward(
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
        """One forward pass with hooks, of a module that is as before afterwards."""
        import torch

        x, conditioning = self._inputs(x, conditioning)
        x = x if change is None else change(x)
        if self._call is None and (reason := misfit(self.module, conditioning)):
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
            hooked(hooks),
            explained(self.module, x, conditioning, self._call is not None),
            inside or nullcontext(),
        ):
            try:
                if self._call is None:
                    self.module(x, **conditioning)
                else:
                    self._call(self.module, x, conditioning)
            except _AllFired:
                pass

    def _outputs(
        self, x: Any, conditioning: Mapping[str, Any] | None, keep: Callable[[str, torch.Tensor], Any], **options: Any
    ) -> dict[str, Any]:
        """What is kept of each layer's output, of a pass that ends with the last layer."""
        kept: dict[str, Any] = {}
        # What brings weights when a part runs takes them away when that part returns, and not where it is left.
        whole = is_offloaded(self.module)

        def hook_of(name: str) -> Callable[..., None]:
            def hook(part: nn.Module, args: object, output: object) -> None:
                kept[name] = keep(name, tensor_of(name, output, self._index[name]))
                if len(kept) == len(self.layers) and not whole:
                    raise _AllFired

            return hook

        parts = modules_by_name(self.module, duplicates=True)
        self._forward(x, conditioning, [(parts[name], hook_of(name)) for name in self.layers], **options)
        missing = [name for name in self.layers if name not in kept]
        if missing:
            raise ValueError(f"layer {missing[0]!r} did not fire in this call, and did in the first")
        return kept

    # ---- what the first call finds out ------------------------------------------------------------------------------

    def _castings(self, conditioning: Mapping[str, Any] | None) -> Iterator[tuple[torch.dtype, bool]]:
        """Types to try: that of the input, and whether conditioning is given in it too."""
        kinds = {_torch_type(value) for value in (conditioning or {}).values() if hasattr(value, "dtype")}
        for dtype in floating_types(self.module):
            yield dtype, False
            if any(_cast(kind, dtype, False) != _cast(kind, dtype, True) for kind in kinds):
                yield dtype, True

    def _survey(
        self, x: Any, conditioning: Mapping[str, Any] | None
    ) -> tuple[dict[nn.Module, list[Any]], dict[str, _Seen], list[str]]:
        """One whole forward pass: shapes of all that modules give, what layers give, and operations that draw."""
        check_ready(self.module)
        check_whole(self.module)
        parts = modules_by_name(self.module, duplicates=True)
        chosen: dict[nn.Module, list[str]] = {}
        for name in self.layers:
            chosen.setdefault(parts[name], []).append(name)
        first: ValueError | None = None
        for casting in self._castings(conditioning):
            self._casting = casting
            seen: dict[nn.Module, list[Any]] = {}
            outputs: dict[str, _Seen] = {}
            watch, watched = watching()

            def note(part: nn.Module, args: object, output: object, *into: Any) -> None:
                seen, outputs, watch = into
                seen.setdefault(part, []).append(shape_of(output))
                for name in chosen.get(part, ()):
                    # What is no layer's output is refused where it is used: a glob may still drop this one.
                    with suppress(ValueError):
                        tensor = tensor_of(name, output, self._index[name])
                        row = tensor[:1].clone() if tensor.ndim else tensor
                        outputs[name] = _Seen(tuple(tensor.shape), watch.axes(tensor), row)

            def hook(part: nn.Module, args: object, output: object, into: Any = (seen, outputs, watch)) -> None:
                note(part, args, output, *into)

            try:
                hooks = [(part, hook) for part in visible(parts.values())]
                self._forward(x, conditioning, hooks, inside=watched(), change=watch.enter)
            except ValueError as error:
                # Another type may do where the network's own code stumbled over this one.
                if not isinstance(error.__cause__, RuntimeError | TypeError):
                    raise
                first = first or error
            else:
                return seen, outputs, watch.draws
        self._casting = (floating_types(self.module)[0], False)
        assert first is not None
        raise first

    def _check_firing(self, seen: Mapping[nn.Module, list[Any]]) -> None:
        """Refuse layers that do not fire once; those that a glob brought along are left out."""
        parts = modules_by_name(self.module, duplicates=True)
        fired = {name: len(seen.get(parts[name], ())) for name in self.layers}
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
                inside = [one for one, part in parts.items() if one.startswith(f"{name}.") and part in seen]
                raise ValueError(f"layer {name!r} never fires: {why_silent(self.module, name, inside)}")

    def _examine(self, x: Any, conditioning: Mapping[str, Any] | None) -> None:
        """Refuse what would not give an image its features; set the axes of the features."""
        seen, outputs, draws = self._survey(x, conditioning)
        self._check_firing(seen)
        size = tuple(x.shape[-2:]) if x.ndim == 4 else None
        for name in self.layers:
            pool = self._pools[name]
            if name in outputs and pool.feature_axis is None and pool.how != "none":
                shape = outputs[name].shape
                axis = infer_axis(f"layer {name!r} gives shape {shape}", shape, outputs[name].axes, size)
                if axis is not None and axis != {4: 1, 3: 2}.get(len(shape)):
                    self._pools[name] = dataclasses.replace(pool, feature_axis=axis)
        reference = {name: outputs[name].row for name in self.layers if name in outputs}
        self._check_repeatable(x, conditioning, reference, draws)

    def _check_repeatable(
        self,
        x: Any,
        conditioning: Mapping[str, Any] | None,
        reference: Mapping[str, torch.Tensor],
        draws: Sequence[str],
    ) -> None:
        """Refuse layers in which an image's features depend on chance; warn where on the images beside it."""
        half = self.autocast is not None or any(kind.itemsize < 4 for kind in floating_types(self.module))

        def keep(name: str, output: torch.Tensor) -> torch.Tensor:
            self._pools[name](name, output, len(x))  # refuses what has not the images on its first axis
            return output[:1].clone()

        def other(options: Mapping[str, Any]) -> str | None:
            after = self._outputs(x, conditioning, keep, **resolve(options))
            return next((name for name in reference if differs(reference[name], after[name], half)), None)

        def resolve(options: Mapping[str, Any]) -> dict[str, Any]:
            if "fill" not in options:
                return dict(options)
            watch, watched = watching()
            watch.fill = options["fill"]
            return {"inside": watched()}

        beside: dict[str, Any] = {"seed": 1, "change": neighbours}
        found = other(beside)
        if found is not None and other({"seed": 1}) is None:
            place = self._first_difference(x, conditioning, {"change": neighbours}, half)
            # Not refused: weights quantised dynamically do this too, a little, and people mean to use them.
            warnings.warn(
                f"features of layer {found!r} depend on the other images of the batch{place}: another batch_size, or "
                "another order of the images, gives other features. Give such a norm running statistics, choose a "
                "layer before it, or run one image at a time, batch_size=1",
                stacklevel=4,
            )
            found = None
        # Where a draw decides rarely, as of a condition that is dropped, another seed may not show it: extremes do.
        chances: list[dict[str, Any]] = [{"seed": 1}, {"fill": 0.0}, {"fill": 1.0}] if draws or found else []
        for options in chances:
            if (found := other(options)) is not None:
                place = self._first_difference(x, conditioning, resolve(options), half)
                drawn = f" (the network draws {', '.join(dict.fromkeys(draws))})" if draws else ""
                raise ValueError(
                    f"layer {found!r} is random in evaluation mode: the same image has other features at each "
                    f"call{place}{drawn}. Turn that off, for example with a mask ratio or drop probability of 0, or "
                    "pass call=lambda module, x, conditioning: module(...), which gives the network its draws"
                )

    def _first_difference(
        self, x: Any, conditioning: Mapping[str, Any] | None, options: Mapping[str, Any], half: bool
    ) -> str:
        """Where two passes begin to differ, in words."""
        names = {part: name for name, part in reversed(modules_by_name(self.module).items())}

        def run(which: int, note: Callable[[nn.Module, Any], None]) -> None:
            hooks = [(part, lambda part, args, output: note(part, output)) for part in visible(names)]
            self._forward(x, conditioning, hooks, **(options if which else {}))

        return first_difference(run, names, half)

    def _compiled_parts(self) -> Mapping[nn.Module, Callable[..., Any]]:
        """Compiled forward methods by module."""
        import torch

        if self._parts is None:
            options = self._compile
            parts = [] if options is None else between(self.module, self.layers)
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
        modules = modules_by_name(self.module)
        if x is None:
            runs = conditioning is not None or (self._call is None and misfit(self.module, ()) is None)
            if self._input_shape is None or not runs:
                return dict.fromkeys(modules)
            x = np.zeros((1, *self._input_shape), dtype=np.float32)
        seen, _, _ = self._survey(x, conditioning)
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
            "dtype": str(self._casting[0]).removeprefix("torch."),
            **({"conditioning_dtype": str(self._casting[0]).removeprefix("torch.")} if self._casting[1] else {}),
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
            If no layers were chosen, forward does not take the conditioning by these names, the network's own code
            fails (the message has its place, and the original error is the cause), a layer fires never or several
            times, an output has several items and ``output_index`` does not say which, is not of real or complex
            numbers, or its first axis is not the image. In the first call also if weights are not there or split over
            processes, if the axis of the features cannot be told, or if an image's features depend on chance or on the
            images beside it.
        NonFiniteError
            If a layer holds NaN or infinity; names the layer and the first row.
        """
        import torch

        if not self.layers:
            raise ValueError("no layers were chosen: TorchSource(module, layers=[...]); available_layers() lists them")
        if not self._examined:
            self._examine(x, conditioning)
            self._examined = True
        n, in_half = len(x), set()

        def keep(name: str, tensor: torch.Tensor) -> torch.Tensor:
            if tensor.dtype == torch.float16:
                in_half.add(name)
            features: torch.Tensor = self._pools[name](name, tensor, n)
            # What passes through unpooled is still the network's own memory.
            shared = features.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
            return features.clone() if shared else features

        pooled = self._outputs(x, conditioning, keep, forwards=self._compiled_parts())
        # One transfer for all layers, which may be on several devices.
        device = pooled[self.layers[0]].device
        whole = torch.cat([pooled[name].reshape(-1).to(device) for name in self.layers]).cpu().numpy()
        features, start = {}, 0
        for name in self.layers:
            stop = start + pooled[name].numel()
            features[name] = _check_finite(name, whole[start:stop].reshape(pooled[name].shape), name in in_half)
            start = stop
        return features
