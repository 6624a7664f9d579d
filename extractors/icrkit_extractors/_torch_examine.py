"""What the first call finds out about a network: what fires, where features stand, and whether chance decides them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from icrkit_extractors._pool import Pool
from icrkit_extractors._torch_errors import why_silent
from icrkit_extractors._torch_modules import check_whole, modules_by_name, visible
from icrkit_extractors._torch_outputs import shape_of, tensor_of
from icrkit_extractors._torch_pass import ForwardPass
from icrkit_extractors._torch_repeat import differs, first_difference, neighbours, places_like_first
from icrkit_extractors._torch_state import check_ready, floating_types
from icrkit_extractors._torch_trace import Axes, infer_axis, watching

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Survey", "examine", "survey"]


class _Seen(NamedTuple):
    """What a layer gave in the first pass: shape, axes of its features, and the first image's part."""

    shape: tuple[int, ...]
    axes: Axes
    row: torch.Tensor


class Survey(NamedTuple):
    """What one whole forward pass shows."""

    shapes: dict[nn.Module, list[Any]]  # of all outputs of every module
    layers: dict[str, _Seen]
    draws: list[str]  # operations that draw at random


def survey(
    run: ForwardPass, layers: Mapping[str, int | str | None], x: Any, conditioning: Mapping[str, Any] | None
) -> Survey:
    """One whole forward pass; sets ``run.casting`` to the types that the network takes.

    Parameters
    ----------
    run : ForwardPass
    layers : mapping of str to int, str or None
        Layers, and which item of an output that has several.
    x, conditioning
        As for `TorchSource`.

    Returns
    -------
    Survey
    """
    check_ready(run.module)
    check_whole(run.module)
    parts = modules_by_name(run.module, duplicates=True)
    chosen: dict[nn.Module, list[str]] = {}
    for name in layers:
        chosen.setdefault(parts[name], []).append(name)
    first: ValueError | None = None
    for casting in run.castings(conditioning):
        run.casting = casting
        seen: dict[nn.Module, list[Any]] = {}
        outputs: dict[str, _Seen] = {}
        watch, watched = watching()

        def note(part: nn.Module, args: object, output: object, *into: Any) -> None:
            seen, outputs, watch = into
            seen.setdefault(part, []).append(shape_of(output))
            for name in chosen.get(part, ()):
                # What is no layer's output is refused where it is used: a glob may still drop this one.
                with suppress(ValueError):
                    tensor = tensor_of(name, output, layers[name])
                    row = tensor[:1].clone() if tensor.ndim else tensor
                    outputs[name] = _Seen(tuple(tensor.shape), watch.axes(tensor), row)

        def hook(part: nn.Module, args: object, output: object, into: Any = (seen, outputs, watch)) -> None:
            note(part, args, output, *into)

        try:
            hooks = [(part, hook) for part in visible(parts.values())]
            run(x, conditioning, hooks, inside=watched(), change=watch.enter)
        except ValueError as error:
            # Another type may do where the network's own code stumbled over this one.
            if not isinstance(error.__cause__, RuntimeError | TypeError):
                raise
            first = first or error
        else:
            return Survey(seen, outputs, watch.draws)
    run.casting = (floating_types(run.module)[0], False)
    assert first is not None
    raise first


def _firing(module: nn.Module, named: Mapping[str, bool], seen: Mapping[nn.Module, list[Any]]) -> list[str]:
    """Layers that fire once; others are refused where they are named, and left out where a glob brought them."""
    parts = modules_by_name(module, duplicates=True)
    fired = {name: len(seen.get(parts[name], ())) for name in named}
    once = [name for name in named if fired[name] == 1 or named[name]]
    # Where a glob has brought nothing that can be a layer, its first match says why.
    layers = once or list(named)[:1]
    for name in layers:
        times = fired[name]
        if times > 1:
            raise ValueError(
                f"layer {name!r} fires {times} times in one forward pass, so its name does not say which output "
                "is meant: choose a module that runs once"
            )
        if times == 0:
            inside = [one for one, part in parts.items() if one.startswith(f"{name}.") and part in seen]
            raise ValueError(f"layer {name!r} never fires: {why_silent(module, name, inside)}")
    return layers


def examine(
    run: ForwardPass,
    named: Mapping[str, bool],
    pools: Mapping[str, Pool],
    index: Mapping[str, int | str | None],
    x: Any,
    conditioning: Mapping[str, Any] | None,
) -> dict[str, Pool]:
    """Refuse what would not give an image its features; find the axes of the features.

    Parameters
    ----------
    run : ForwardPass
    named : mapping of str to bool
        Layers, and whether each was named itself, not by a glob.
    pools : mapping of str to Pool
    index : mapping of str to int, str or None
        Which item of an output that has several.
    x, conditioning
        As for `TorchSource`.

    Returns
    -------
    dict of str to Pool
        The layers that are left, with the pools that know the axes.
    """
    seen = survey(run, index, x, conditioning)
    found = {name: pools[name] for name in _firing(run.module, named, seen.shapes)}
    size = tuple(x.shape[-2:]) if x.ndim == 4 else None
    for name, pool in found.items():
        if name in seen.layers and pool.feature_axis is None and pool.how != "none":
            shape = seen.layers[name].shape
            axis = infer_axis(f"layer {name!r} gives shape {shape}", shape, seen.layers[name].axes, size)
            if axis is not None and axis != {4: 1, 3: 2}.get(len(shape)):
                found[name] = dataclasses.replace(pool, feature_axis=axis)
    reference = {name: seen.layers[name].row for name in found if name in seen.layers}
    _check_repeatable(run, found, {name: index[name] for name in found}, x, conditioning, reference, seen.draws)
    return found


def _check_repeatable(
    run: ForwardPass,
    pools: Mapping[str, Pool],
    index: Mapping[str, int | str | None],
    x: Any,
    conditioning: Mapping[str, Any] | None,
    reference: Mapping[str, torch.Tensor],
    draws: Sequence[str],
) -> None:
    """Refuse layers in which an image's features depend on chance; warn where on the images beside it."""
    half = run.autocast is not None or any(kind.itemsize < 4 for kind in floating_types(run.module))
    places = places_like_first(len(x), conditioning or {})

    def other(options: Mapping[str, Any], places: Sequence[int] = (0,)) -> str | None:
        def keep(name: str, output: torch.Tensor) -> torch.Tensor:
            pools[name](name, output, len(x))  # refuses what has not the images on its first axis
            return output[list(places)].clone()

        after = run.outputs(index, x, conditioning, keep, **resolve(options))
        return next(
            (name for name in reference for row in after[name] if differs(reference[name], row[None], half)), None
        )

    def resolve(options: Mapping[str, Any]) -> dict[str, Any]:
        if "fill" not in options:
            return dict(options)
        return {"inside": watching(options["fill"])[1]()}

    def moved(x: torch.Tensor) -> torch.Tensor:
        return neighbours(x, places)

    found = other({"seed": 1, "change": moved}, places) if places else other({"seed": 1, "change": neighbours})
    # Where a draw decides rarely, as of a condition that is dropped, another seed may not show it: extremes do.
    chances: list[dict[str, Any]] = [{"seed": 1}] if draws or found else []
    chances += [{"fill": 0.0}, {"fill": 1.0}] if draws else []
    for options in chances:
        if (random := other(options)) is not None:
            place = _first_difference(run, x, conditioning, resolve(options), half)
            drawn = f" (the network draws {', '.join(dict.fromkeys(draws))})" if draws else ""
            raise ValueError(
                f"layer {random!r} is random in evaluation mode: the same image has other features with other random "
                f"numbers, or at another call{place}{drawn}. Turn that off, for example with a mask ratio or drop "
                "probability of 0, or pass call=lambda module, x, conditioning: module(...), which gives the network "
                "its draws"
            )
    if found is not None:
        place = _first_difference(run, x, conditioning, {"change": neighbours}, half)
        # Not refused: weights quantised dynamically do this too, a little, and people mean to use them.
        warnings.warn(
            f"features of layer {found!r} depend on the other images of the batch, or on the place among them{place}: "
            "another batch_size, or another order of the images, gives other features. Give such a norm running "
            "statistics, choose a layer before it, or run one image at a time, batch_size=1",
            stacklevel=4,
        )


def _first_difference(
    run: ForwardPass, x: Any, conditioning: Mapping[str, Any] | None, options: Mapping[str, Any], half: bool
) -> str:
    """Where two passes begin to differ, in words."""
    names = {part: name for name, part in reversed(modules_by_name(run.module).items())}

    def again(which: int, note: Callable[[nn.Module, Any], None]) -> None:
        hooks = [(part, lambda part, args, output: note(part, output)) for part in visible(names)]
        run(x, conditioning, hooks, **(options if which else {}))

    return first_difference(again, names, half)
