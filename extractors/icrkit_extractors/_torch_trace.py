"""What one forward pass shows of a network: which axis of every tensor holds the features, and what draws at random.

Convolutions and the norms of images have their channels on axis 1, linear layers and LayerNorm on the last. What lies
between them and a layer's output moves that axis about (permute, view, unbind) or leaves it where it is. It is followed
operation by operation, so that the axis of a layer is read off, not guessed from its shape.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["Axes", "infer_axis", "watching"]

Axes = frozenset[int]
"""Axes that hold the features together: several once heads have been split off."""

# Features stand on axis 1 of what these give, by definition.
_FIRST = ("convolution", "native_group_norm", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm",
          "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_batch_norm_with_update",
          "batch_norm_with_update", "pixel_shuffle", "conv_depthwise3d", "_conv_depthwise2d")  # fmt: skip
_LAST = ("embedding", "addmv", "linear", "mkldnn_linear")
# Matrix products, and what their axes are where nothing is known of the operands.
_PRODUCTS = {
    **dict.fromkeys(("mm", "addmm", "_addmm_activation", "_int_mm", "_scaled_mm"), frozenset({1})),
    **dict.fromkeys(("bmm", "baddbmm"), frozenset()),
}
_UNKNOWN = ("unfold", "im2col", "col2im")
_EXTREMES = ("rand", "rand_like", "uniform", "uniform_", "bernoulli", "bernoulli_")
# Others that give draws alone; what is left (dropout) gives activations.
_DRAWS = ("randn", "randn_like", "normal", "normal_", "randint", "randint_like", "random_", "randperm", "multinomial",
          "exponential_", "log_normal_", "cauchy_", "geometric_", "poisson", "binomial")  # fmt: skip
# Words of the Mersenne twister, of Python and of numpy, that come out as all zeros and as all ones.
_LOWEST_WORD, _HIGHEST_WORD = 0, 0x12DD9BB3
_EXTREME_WORDS = 16  # the first eight draws: numpy draws again and again while it gets nothing but zeros


def _of_view(before: Sequence[int], after: Sequence[int], axes: Axes) -> Axes:
    """Axes after a view: those of blocks of equal size that held nothing else.

    The first axis may join any: heads that were put beside the images come back from there.
    """
    found: set[int] = set()
    i = j = 0
    while i < len(before) and j < len(after):
        left, right, first, second = before[i], after[j], i, j
        while left != right:
            if left < right:
                i += 1
                left *= before[i]
            else:
                j += 1
                right *= after[j]
        i, j = i + 1, j + 1
        # Axes of length 1 say nothing.
        held = [k in axes for k in range(first, i) if i - first == 1 or (before[k] != 1 and (k or 0 in axes))]
        if any(held):
            if not all(held):
                return frozenset()
            found.update(k for k in range(second, j) if j - second == 1 or (after[k] != 1 and k))
    return frozenset(found)


def _without(axes: Axes, gone: int) -> Axes:
    return frozenset(k - (k > gone) for k in axes if k != gone)


def _moved(name: str, given: Mapping[str, Any], source: torch.Tensor, result: torch.Tensor, axes: Axes) -> Axes | None:
    """Axes after an operation that moves them; None for one that does not."""
    n = source.ndim
    if name == "as_strided":  # as pooling to one value has it, of the same numbers in another format
        return axes if source.shape == result.shape else frozenset()
    if name == "permute":
        order = [k % n for k in given["dims"]]
        return frozenset(order.index(k) for k in axes)
    if name in ("transpose", "transpose_", "swapaxes"):
        a, b = given["dim0"] % n, given["dim1"] % n
        return frozenset({a: b, b: a}.get(k, k) for k in axes)
    if name in ("t", "t_", "numpy_T"):
        return frozenset(n - 1 - k for k in axes)
    if name in ("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy"):
        return _of_view(source.shape, result.shape, axes) if source.numel() else frozenset()
    if name in ("unsqueeze", "stack"):
        at = given["dim"] % (n + 1)
        return frozenset(k + (k >= at) for k in axes)
    if name == "squeeze":
        gone = given.get("dim", [k for k in range(n) if source.shape[k] == 1])
        gone = [gone] if isinstance(gone, int) else gone
        for k in sorted((k % n for k in gone), reverse=True):
            axes = _without(axes, k) if source.shape[k] == 1 else axes
        return axes
    if name in ("select", "unbind"):
        return _without(axes, given.get("dim", 0) % n)
    if name in ("expand", "expand_copy"):
        return frozenset(k + result.ndim - n for k in axes)
    return None


def _tensors(values: Any) -> list[torch.Tensor]:
    import torch

    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _key(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """What tells a tensor from others in memory. A view is another tensor to Python each time it is met."""
    import torch

    # Subclasses (quantised, distributed) may have no memory of their own.
    if tensor.layout is not torch.strided or tensor.is_nested:
        return None
    try:
        return tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
    except RuntimeError:
        return None


class _Watch:
    """Axes of tensors and random operations, as a forward pass meets them."""

    def __init__(self, fill: float | None = None) -> None:
        # Of what comes from the images. What is not here, such as a weight, is the same for all of them.
        self._axes: dict[Any, Axes] = {}
        self.draws: list[str] = []
        # What is drawn in place of random numbers between 0 and 1; None to leave them.
        self.fill = fill

    def axes(self, tensor: torch.Tensor) -> Axes:
        """Axes of the features; empty where they are not known."""
        return self._axes.get(_key(tensor), frozenset())

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """The network's input, whose channels stand on axis 1."""
        self.put(x, frozenset({1} if x.ndim == 4 else ()))
        return x

    def put(self, tensor: torch.Tensor, axes: Axes) -> None:
        if (key := _key(tensor)) is not None:
            # An axis of length 1 holds no features where another does: of (n, 6, c), split in six, c is left.
            self._axes[key] = frozenset(k for k in axes if tensor.shape[k] != 1) or axes

    def _is_fixed(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is the same for all images."""
        key = _key(tensor)
        return key is not None and key not in self._axes

    def _product(self, a: torch.Tensor, b: torch.Tensor) -> Axes:
        """Axes of a @ b: a free one that held the features, or that of a weight which sums over them."""
        left, right = a.ndim - 2, a.ndim - 1
        kept = {left} & self.axes(a) | {right} & self.axes(b)
        if len(kept) == 1:
            return frozenset(kept | {k for k in self.axes(a) | self.axes(b) if k < left})
        if self._is_fixed(a) and left in self.axes(b) and not kept:
            return frozenset({left})
        if self._is_fixed(b) and right in self.axes(a) and not kept:
            return frozenset({right})
        return frozenset()

    def _result(self, name: str, given: Mapping[str, Any], inputs: list[torch.Tensor], result: torch.Tensor) -> Axes:
        if name in _FIRST:
            return frozenset({1}) if result.ndim > 1 else frozenset()
        if name in _LAST:
            return frozenset({result.ndim - 1})
        if name in ("native_layer_norm", "_fused_rms_norm") and len(given.get("normalized_shape", ())) == 1:
            return frozenset({result.ndim - 1})
        if name in _PRODUCTS:
            # A bias may come first.
            a, b = inputs[-2:] if "add" in name else inputs[:2]
            return self._product(a, b) or _PRODUCTS[name]
        if name in _UNKNOWN:
            return frozenset()
        for tensor in inputs:
            if axes := self.axes(tensor):
                moved = _moved(name, given, tensor, result, axes)
                if moved is not None:
                    return moved
                if tensor.ndim == result.ndim:
                    return axes
        return frozenset()

    def note(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Axes of what an operation gave."""
        # Operations of other packages: nothing is known of them.
        known = getattr(func, "namespace", "") in ("aten", "prims")
        name = func._schema.name.partition("::")[2] if known else ""
        given = _arguments(func, args, kwargs) if known else {}
        # The input that is written to comes last: it has the axes that it is given.
        inputs = _tensors([*args, *kwargs.values()])
        if name in ("copy_", "copy"):
            inputs = inputs[1:]
        # What is made of nothing may be filled with images later.
        fixed = bool(inputs) and all(map(self._is_fixed, inputs)) and name not in (*_FIRST, *_LAST)
        for tensor in _tensors(result):
            if fixed:
                self._axes.pop(_key(tensor), None)
            else:
                self.put(tensor, self._result(name, given, inputs, tensor) if known else frozenset())

    def drawn(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Note an operation that draws, and put an extreme in place of what it drew."""
        import torch

        if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
            return
        given = _arguments(func, args, kwargs)
        # Attention and dropout have one operation with and without.
        if given.get("dropout_p", 1.0) == 0.0 or given.get("p", 1.0) == 0.0 or given.get("train") is False:
            return
        name = func._schema.name.partition("::")[2]
        self.draws.append(name)
        if self.fill is not None and name in _EXTREMES:
            low, high = given.get("from", 0.0), given.get("to", 1.0)
            edge = 1.0 if name.startswith("bernoulli") else 1 - torch.finfo(torch.float32).eps
            for tensor in _tensors(result):
                tensor.fill_(low + (high - low) * edge * self.fill)
        elif self.fill is not None and name in _DRAWS:
            # What another image would have had: a generator may be seeded inside the network.
            for tensor in _tensors(result):
                tensor.copy_(tensor.flatten().flip(0).view_as(tensor))

    @contextmanager
    def drawn_elsewhere(self) -> Iterator[None]:
        """Note draws from the generators of Python and numpy, and let them begin with an extreme."""
        if self.fill is not None:
            word = _HIGHEST_WORD if self.fill else _LOWEST_WORD
            version, words, gauss = random.getstate()
            random.setstate((version, (word,) * _EXTREME_WORDS + words[_EXTREME_WORDS:-1] + (0,), gauss))
            kind, keys, _, has_gauss, cached = np.random.get_state()  # noqa: NPY002
            keys = np.concatenate([np.full(_EXTREME_WORDS, word, dtype=keys.dtype), keys[_EXTREME_WORDS:]])
            np.random.set_state((kind, keys, 0, has_gauss, cached))  # noqa: NPY002
        before = _state_elsewhere()
        try:
            yield
        finally:
            after = _state_elsewhere()
            self.draws += [name for name in before if before[name] != after[name]]


def _state_elsewhere() -> dict[str, Any]:
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {"random": random.getstate(), "numpy.random": (keys.tobytes(), *rest)}


def _arguments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an operation by name, defaults included."""
    names = func._schema.arguments
    defaults = {one.name: one.default_value for one in names if one.default_value is not None}
    return {**defaults, **{one.name: value for one, value in zip(names, args, strict=False)}, **kwargs}


def watching(fill: float | None = None) -> tuple[_Watch, Callable[[], AbstractContextManager[None]]]:
    """A record of forward passes, and the context to run them in.

    Parameters
    ----------
    fill : float, optional
        0 or 1: what draws come to, in place of random numbers between 0 and 1.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    watch = _Watch(fill)

    class Mode(TorchDispatchMode):
        # Such as flex_attention.
        supports_higher_order_operators = True

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            result = func(*args, **kwargs)
            watch.drawn(func, args, kwargs, result)
            watch.note(func, args, kwargs, result)
            return result

    @contextmanager
    def watched() -> Iterator[None]:
        with watch.drawn_elsewhere(), Mode():
            yield

    return watch, watched


def _may_be_tokens(count: int, height: int, width: int) -> bool:
    """Whether patches of one size, or pixels, come to this number."""
    sides = range(1, min(height, width) + 1)
    return any((height // side) * (width // side) == count for side in sides if not (height % side or width % side))


def infer_axis(where: str, shape: tuple[int, ...], axes: Axes, size: Sequence[int] | None) -> int | None:
    """Axis of the features of a layer's output.

    Parameters
    ----------
    where : str
        For messages, such as "layer 'mid' gives shape (2, 8, 8, 8)".
    shape : tuple of int
        Of the output.
    axes : frozenset of int
        What the pass has shown.
    size : sequence of int, optional
        Height and width of the network's input.

    Returns
    -------
    int or None
        None where nothing contradicts the usual one: 1 of four, the last of three.

    Raises
    ------
    ValueError
        If two readings of the shape fit.
    """
    if len(shape) not in (3, 4, 5) or math.prod(shape[1:]) == 1:
        return None
    axes = axes - {0}
    if len(axes) == 1:
        return next(iter(axes))
    long = [k for k, length in enumerate(shape) if k and length > 1]
    if len(long) == 1:
        return long[0]
    height, width = size or (1, 1)
    if len(shape) == 3 and size is not None and _may_be_tokens(shape[2], height, width):
        raise ValueError(
            f"{where}, from operations that do not show where its features stand, and {shape[2]} may be their number "
            "or that of the tokens: feature_axis=-1 for (n, token, channel), feature_axis=1 for (n, channel, token)"
        )
    if len(shape) != 4:
        return None
    # Nothing is known of how it came about: height and width are in the ratio of the input's, the features are not.
    first, last = (math.isclose(a * width, b * height, rel_tol=0.05) for a, b in (shape[2:], shape[1:3]))
    if first != last:
        return 1 if first else 3
    raise ValueError(
        f"{where}, from operations that do not show where its features stand, and two readings fit: feature_axis=1 for "
        "(n, channel, height, width), feature_axis=-1 for (n, height, width, channel)"
    )
