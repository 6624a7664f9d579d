"""A source of features: a torch module, run up to the deepest of the layers asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from icrkit.exceptions import MissingDependencyError, NonFiniteError
from icrkit_extractors._identity import weights_digest
from icrkit_extractors._pool import Pool
from icrkit_extractors._torch_errors import misfit
from icrkit_extractors._torch_examine import examine, survey
from icrkit_extractors._torch_modules import between, by_layer, find_layers, modules_by_name, unwrap
from icrkit_extractors._torch_pass import ForwardPass

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TorchSource"]


def _check_finite(name: str, features: np.ndarray, in_half: bool) -> np.ndarray:
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        hint = "; float16 overflows beyond 65504, where bfloat16 and float32 do not" if in_half else ""
        raise NonFiniteError(
            f"layer {name!r} holds NaN or infinity in {bad.sum()} of {len(bad)} rows, first in row "
            f"{int(bad.argmax())}{hint}"
        )
    return features


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
        Which item of an output that is a tuple, a list, a mapping or a dataclass; "1.0" is item 0 of item 1. Only where
        one tensor is there (beside None) may it be left out.
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
    by what moves it), and to see whether it draws random numbers, from torch, numpy or Python. Once more up to the last
    layer with another random state, and with the first image in other places of the batch (of the same conditioning)
    beside other images: where its output then differs, by more than 1e-4 of its norm (2e-2 where parts compute in half
    precision, 1e-8 in float64), the layer is refused, or warned of where it is the batch and not chance. Where the
    network draws, three passes more show whether the draws reach the layer.

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
        self._pass = ForwardPass(self.module, call, self.autocast, channels_last)
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
        return self._pass.device

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
        return self._pass.place(array)

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
        shapes = survey(self._pass, self._index, x, conditioning).shapes
        return {name: shapes[part][0] for name, part in modules.items() if len(shapes.get(part, ())) == 1}

    def _settings(self) -> dict[str, Any]:
        import torch

        pools = {name: self._pools[name].config() for name in self.layers}
        first = next(iter(pools.values()), {})
        same = all(pool == first for pool in pools.values())
        index = {self._index[name] for name in self.layers}
        dtype, narrow = str(self._pass.casting[0]).removeprefix("torch."), self._pass.casting[1]
        return {
            "source": "TorchSource",
            "layers": list(self.layers),
            **(first if same else {"pool": pools}),
            "output_index": next(iter(index), None)
            if len(index) < 2
            else {name: self._index[name] for name in self.layers},
            "dtype": dtype,
            **({"conditioning_dtype": dtype} if narrow else {}),
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
            self._pools = examine(self._pass, self._named, self._pools, self._index, x, conditioning)
            self._index = {name: self._index[name] for name in self._pools}
            self.layers = tuple(self._pools)
            self._examined = True
        n, in_half = len(x), set()

        def keep(name: str, tensor: torch.Tensor) -> torch.Tensor:
            if tensor.dtype == torch.float16:
                in_half.add(name)
            features: torch.Tensor = self._pools[name](name, tensor, n)
            # What passes through unpooled is still the network's own memory.
            shared = features.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
            return features.clone() if shared else features

        pooled = self._pass.outputs(self._index, x, conditioning, keep, forwards=self._compiled_parts())
        # One transfer for all layers, which may be on several devices.
        device = pooled[self.layers[0]].device
        whole = torch.cat([pooled[name].reshape(-1).to(device) for name in self.layers]).cpu().numpy()
        features, start = {}, 0
        for name in self.layers:
            stop = start + pooled[name].numel()
            features[name] = _check_finite(name, whole[start:stop].reshape(pooled[name].shape), name in in_half)
            start = stop
        return features
