"""A network watched while it trains: the same images, views and noise at every look, and adapters for two trainers.

In a loop of one's own it takes one line, ``state = monitor.update(step, probe(net))``. `lightning_callback` and
`huggingface_callback` do that every so many steps, log the values, may end the training, and keep the monitor in the
checkpoints. Neither framework is imported before its adapter is asked for.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import operator
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, MissingDependencyError, NonFiniteError
from icrkit_extractors._job import Encode, Images
from icrkit_extractors._pool import Pool
from icrkit_extractors._torch import TorchSource
from icrkit_extractors.noise import NoiseLaw
from icrkit_extractors.run import extract
from icrkit_extractors.views import View

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["ProbeSet", "huggingface_callback", "lightning_callback"]

# What a network goes through in training, and comes out of: no reason to end a training of days.
_PASSING = (DegenerateFeaturesError, IllConditionedError, NonFiniteError)


class ProbeSet:
    """Images, views and noise that stay the same while a network trains; called with the network, it gives a cube.

    Parameters
    ----------
    images : array-like (image, channel, height, width)
        uint8, or floating point in [-1, 1]; anything that `extract` takes. Best held out from training.
    sigmas : iterable of float
        Noise levels: the ratio of noise to signal.
    layers : str or sequence of str
        Names of modules, or globs, of the network that will be given.
    noise : noise law
        The one that the network is trained with, such as ``noise.EDM()``.
    views : callable (images, image_ids, view, seed) -> images
        Such as ``views.Paper()``: what counts as the same image.
    n_views : int
        Views of each image.
    pool : str, Pool, or mapping of layers or globs to these
        What becomes of a layer's output, as for `TorchSource`.
    output_index : int or str, or mapping of layers or globs to these, optional
        Which item of an output that has several.
    autocast : {"bfloat16", "float16"} or torch.dtype, optional
        Type for automatic mixed precision, best the one of the training.
    call : callable (module, x, conditioning), optional
        Runs a forward pass. Default: ``module(x, **conditioning)``.
    encode : callable (images, image_ids, view, seed) -> latents, optional
        Autoencoder of a latent diffusion model, such as `icrkit_extractors.latents.Latents`.
    seed : int
        Seeds views and noise.
    image_ids : iterable of int or str, optional
        Identities of the images. All draws, and the folds of images, depend on them.
    batch_size : int
        Images in one forward pass.
    moments_only : bool
        Give moments, which take 16 levels x folds x d^2 bytes a layer, in place of features, which take
        4 images x views x levels x d.
    n_folds : int
        Folds of these moments.

    Notes
    -----
    A call costs images x views x levels forward passes as deep as the deepest layer, without gradient, and two whole
    ones to find the layers. It leaves the network as `TorchSource` does: mode, hooks, random state, types, gradients
    and buffers are as they were, so that the training goes on bit by bit as without it. Nothing of the network is kept.

    A network whose parameters are split over processes (FSDP, DeepSpeed ZeRO-3, tensor parallel) is refused: one
    process alone cannot run it. Give the moving average, if that is whole.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from icrkit_extractors import noise, views
    >>> from icrkit_extractors.models.denoiser import seeded_unet
    >>> images = np.random.default_rng(0).uniform(-1, 1, (6, 1, 8, 8)).astype(np.float32)
    >>> probe = ProbeSet(images, [0.1, 0.3], layers="mid", noise=noise.EDM(), views=views.Digits())
    >>> net = seeded_unet(resolution=8, width=8)
    >>> probe(net).shape, net.training
    ((6, 8, 2, 16), True)
    """

    def __init__(
        self,
        images: Images,
        sigmas: Iterable[float],
        layers: str | Sequence[str],
        *,
        noise: NoiseLaw,
        views: View,
        n_views: int = 8,
        pool: str | Pool | Mapping[str, str | Pool] = "mean",
        output_index: int | str | Mapping[str, int | str] | None = None,
        autocast: str | torch.dtype | None = None,
        call: Callable[[Any, Any, Mapping[str, Any]], object] | None = None,
        encode: Encode | None = None,
        seed: int = 0,
        image_ids: Iterable[int | str] | None = None,
        batch_size: int = 256,
        moments_only: bool = False,
        n_folds: int = 20,
    ) -> None:
        self.images = images
        self.sigmas = list(sigmas)
        self.layers = layers
        self._read: dict[str, Any] = {
            "pool": pool, "output_index": output_index, "autocast": autocast, "call": call,
            # Another at every step, and reading them all takes longer than many a forward pass.
            "record": {"model_sha256": None},
        }  # fmt: skip
        self._drawn: dict[str, Any] = {
            "noise": noise, "views": views, "n_views": n_views, "encode": encode, "seed": seed,
            "image_ids": None if image_ids is None else list(image_ids), "batch_size": batch_size,
            "moments_only": moments_only, "n_folds": n_folds,
        }  # fmt: skip

    def __call__(self, module: nn.Module) -> Any:
        """Features of a network as it is now.

        Parameters
        ----------
        module : torch.nn.Module
            In training or not. Of `DistributedDataParallel` and ``torch.compile`` the module inside is taken.

        Returns
        -------
        Cube, or dict of str to Moments
            With ``moments_only`` layer to moments, with leading axes "sigma" and "fold".

        Raises
        ------
        ValueError
            If the network's parameters are split over processes, and for all that `TorchSource` and `extract` refuse.
        NonFiniteError
            If a layer holds NaN or infinity.
        """
        source = TorchSource(module, self.layers, **self._read)
        return extract(source, self.images, self.sigmas, progress=False, **self._drawn)


# ---- what both adapters do ------------------------------------------------------------------------------------------


class Monitor(Protocol):
    """What the adapters ask of a monitor, such as `icrkit.ICRMonitor`."""

    def update(self, step: int, X: Any, /) -> Any:
        """State after a look at the features X of this step."""

    def state_dict(self) -> dict[str, Any]:
        """All that it knows, in numbers, strings, lists and dicts."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Continue from there."""


@dataclass
class _Watch:
    """When a monitor looks, at what, and what becomes of it; knows no framework."""

    probe: Callable[[Any], Any]
    monitor: Monitor
    every: int | Collection[int]
    module: str | Callable[[Any], Any] | None
    stop: bool
    name: str

    def __post_init__(self) -> None:
        if isinstance(self.every, Collection):
            steps = [operator.index(step) for step in self.every]
            if not steps or min(steps) < 0:
                raise ValueError(f"every holds steps, 0 or more, or is a number of steps, not {self.every!r}")
            self.every = frozenset(steps)
        else:
            self.every = operator.index(self.every)
            if self.every < 1:
                raise ValueError(f"every must be 1 or more steps, not {self.every}")
        if not self.name:
            raise ValueError("name is what logged values begin with, not empty")
        self._last = 0
        self._looked = 0
        self._told = False

    def begin(self, step: int) -> None:
        """Training begins after this step, with a monitor that has been read from its checkpoint, if it has one."""
        self._last, self._told = step, False
        seen = max([self._looked, *getattr(self.monitor, "steps_", ())])
        if seen > step:
            warnings.warn(
                f"{self.name}: a training begins at step {step}, and the monitor has seen another one up to step "
                f"{seen}: it starts anew. Give each training a monitor of its own to keep both",
                stacklevel=2,
            )
            self.monitor.load_state_dict(_state_anew(self.monitor))
            self._looked = 0
        if step == 0 and self.stop and getattr(self.monitor, "warm_up", 1) == 0:
            warnings.warn(
                f"{self.name}: stop=True with a monitor that has no warm_up: features of a random start may get worse "
                "before they get better, and the training might end there, or never. ICRMonitor(warm_up=...), a tenth "
                "of the steps, leaves that out; warm_up=1 if the network is trained already",
                stacklevel=2,
            )

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the monitor of a checkpoint."""
        self.monitor.load_state_dict(state)
        self._looked = 0

    def resume(self, step: int, state: dict[str, Any] | None) -> None:
        """Training begins after this step, with the monitor of its checkpoint, if it has one."""
        if state is not None:
            self.restore(state)
        self.begin(step)

    def due(self, step: int) -> bool:
        """Whether to look now. Every process must ask at every step, and finds the same."""
        before, self._last = self._last, step
        if isinstance(self.every, int):
            # A trainer with several optimisers may step over the exact multiple.
            return step // self.every > before // self.every
        return any(before < wanted <= step for wanted in self.every)

    def chosen(self, root: Any) -> Any:
        """The module to probe."""
        if self.module is None:
            return root
        if callable(self.module):
            return self.module(root)
        try:
            return operator.attrgetter(self.module)(root)
        except AttributeError as error:
            raise ValueError(f"module={self.module!r}: {error}") from error

    def look(self, step: int, root: Any) -> tuple[dict[str, float], bool]:
        """Values to log, by name, and whether to stop."""
        try:
            state = self.monitor.update(step, self.probe(self.chosen(root)))
        except _PASSING as error:
            warnings.warn(f"{self.name}: no reading at step {step}: {error}", stacklevel=2)
            return {}, False
        self._looked = step
        values = _values(state, self.name)
        for sigma, level in state.by_level.items():
            values |= _values(level, f"{self.name}/{sigma:g}")
        if state.should_stop and not self._told:
            self._told = True
            low, high = state.fall_interval
            end = "the training ends here" if self.stop else "stop=True would end the training here"
            warnings.warn(
                f"{self.name}: best at step {state.best_step}, significantly worse at step {step}, by {state.fall:.3g} "
                f"(interval {low:.3g} to {high:.3g}); {end}",
                stacklevel=2,
            )
        return values, self.stop and bool(state.should_stop)


def _state_anew(monitor: Monitor) -> dict[str, Any]:
    """State of a monitor with the same parameters that has seen nothing."""
    kind = type(monitor)
    try:
        parameters = {name: getattr(monitor, name) for name in inspect.signature(kind).parameters}
        return kind(**parameters).state_dict()
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"a {kind.__name__} that has seen one training cannot start anew, for its parameters are not its "
            "attributes: give each training a callback and a monitor of its own"
        ) from error


def _values(state: Any, name: str) -> dict[str, float]:
    low, high = state.interval
    values = {
        "icr": state.icr, "information": state.information, "low": low, "high": high, "best_step": state.best_step,
        "turned": state.turned, "fall": state.fall,
    }  # fmt: skip
    return {f"{name}/{key}": float(value) for key, value in values.items()}


def _missing(what: str, package: str) -> MissingDependencyError:
    return MissingDependencyError(f"{what} needs {package}: pip install {package}")


# ---- Lightning ------------------------------------------------------------------------------------------------------


def lightning_callback(
    probe: Callable[[Any], Any],
    monitor: Monitor,
    every: int | Collection[int],
    *,
    module: str | Callable[[Any], Any] | None = None,
    stop: bool = False,
    name: str = "icrkit",
) -> Any:
    """A Lightning callback that probes the network and updates a monitor every so many steps.

    Parameters
    ----------
    probe : callable (module) -> features
        Such as a `ProbeSet`.
    monitor : ICRMonitor
        From `icrkit`, or anything with its ``update``, ``state_dict`` and ``load_state_dict``.
    every : int or collection of int
        Optimiser steps between two looks, or the steps to look at, such as a geometric sequence.
    module : str or callable (LightningModule) -> module, optional
        What is probed: an attribute of the LightningModule (dots allowed), such as "net" or better the moving average,
        or a function of it. Default: the LightningModule itself.
    stop : bool
        Whether to end the training once the monitor says so; give the monitor a ``warm_up`` then, for features of a
        random start may get worse before they get better. By default a warning tells it, and training goes on.
    name : str
        Values are logged as ``name/icr``, ``name/information``, ``name/low`` and ``name/high`` (interval of the
        criterion), ``name/best_step``, ``name/turned``, ``name/fall``; of several levels each as ``name/0.3/icr`` and
        so on as well. The monitor is kept under this name in checkpoints: two callbacks in one training need two.

    Returns
    -------
    lightning.pytorch.Callback
        Of `pytorch_lightning`, if that is what has been imported.

    Raises
    ------
    MissingDependencyError
        If neither is installed.
    ValueError
        If ``every`` is less than 1.

    Notes
    -----
    Only the first process probes; the others wait for it where they next meet. Values and the decision to stop go to
    all, so that ``ModelCheckpoint(monitor="icrkit/information", mode="max")`` works in all of them. They are logged by
    every logger of the trainer at the step of the look, whatever ``log_every_n_steps`` is.

    A network that cannot be read for the moment (a dead unit, NaN) gives a warning, not an error.
    """
    return _lightning_of(_Watch(probe, monitor, every, module, stop, name))


def _lightning_of(watch: _Watch) -> Any:
    return _lightning_class(_lightning_package())(watch)


def _lightning_package() -> str:
    """The one of the two names of Lightning whose Trainer is in use, or could be."""
    names = ("lightning.pytorch", "pytorch_lightning")
    for name in names:
        if name in sys.modules:
            return name
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        return name
    raise _missing("lightning_callback", "lightning")


@functools.cache
def _lightning_class(package: str) -> Any:
    base: Any = sys.modules[package].Callback

    class ICRCallback(base):  # type: ignore[misc]
        def __init__(self, watch: _Watch) -> None:
            self.watch = watch

        def __reduce__(self) -> tuple[Any, ...]:
            # A class made in a function has no name to be found by.
            return _lightning_of, (self.watch,)

        @property
        def state_key(self) -> str:
            return f"ICRCallback:{self.watch.name}"

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.watch.begin(trainer.global_step)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: object) -> None:
            step = trainer.global_step
            if not self.watch.due(step):
                return
            found = self.watch.look(step, pl_module) if trainer.is_global_zero else None
            values, stops = trainer.strategy.broadcast(found)
            # For other callbacks; loggers have it at once, whatever their own interval.
            pl_module.log_dict(values, logger=False, on_step=True, on_epoch=False, batch_size=1)
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)
            if stops:
                trainer.should_stop = True

        def state_dict(self) -> dict[str, Any]:
            return {"monitor": self.watch.monitor.state_dict()}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.watch.restore(state_dict["monitor"])

    return ICRCallback


# ---- Hugging Face ---------------------------------------------------------------------------------------------------


def huggingface_callback(
    probe: Callable[[Any], Any],
    monitor: Monitor,
    every: int | Collection[int],
    *,
    module: str | Callable[[Any], Any] | None = None,
    stop: bool = False,
    name: str = "icrkit",
    log: Callable[[dict[str, float]], object] | None = None,
) -> Any:
    """A Hugging Face TrainerCallback that probes the network and updates a monitor every so many steps.

    Parameters
    ----------
    probe : callable (module) -> features
        Such as a `ProbeSet`.
    monitor : ICRMonitor
        From `icrkit`, or anything with its ``update``, ``state_dict`` and ``load_state_dict``.
    every : int or collection of int
        Optimiser steps between two looks, or the steps to look at, such as a geometric sequence.
    module : str or callable (model) -> module, optional
        What is probed: an attribute of the model (dots allowed), such as "net" or better the moving average, or a
        function of it. Default: the model itself.
    stop : bool
        Whether to end the training once the monitor says so; give the monitor a ``warm_up`` then, for features of a
        random start may get worse before they get better. By default a warning tells it, and training goes on.
    name : str
        Values are logged as ``name/icr``, ``name/information``, ``name/low`` and ``name/high`` (interval of the
        criterion), ``name/best_step``, ``name/turned``, ``name/fall``; of several levels each as ``name/0.3/icr`` and
        so on as well. The monitor is kept under this name in checkpoints: two callbacks in one training need two.
    log : callable (values), optional
        Where values go, such as ``trainer.log``, which tells all of ``report_to``: set ``callback.log = trainer.log``
        once there is a trainer. Default: into ``trainer.state.log_history`` alone.

    Returns
    -------
    transformers.TrainerCallback

    Raises
    ------
    MissingDependencyError
        If transformers is not installed.
    ValueError
        If ``every`` is less than 1.

    Notes
    -----
    Only the first process probes. With ``stop`` its decision goes to all. The monitor is kept in
    ``trainer_state.json`` of every checkpoint, and ``trainer.train(resume_from_checkpoint=...)`` continues it.

    A network that cannot be read for the moment (a dead unit, NaN) gives a warning, not an error.
    """
    try:
        importlib.import_module("transformers")
    except ImportError as error:
        raise _missing("huggingface_callback", "transformers") from error
    return _huggingface_class()(_Watch(probe, monitor, every, module, stop, name), log)


@functools.cache
def _huggingface_class() -> Any:
    base: Any = sys.modules["transformers"].TrainerCallback

    class ICRCallback(base):  # type: ignore[misc]
        def __init__(self, watch: _Watch, log: Callable[[dict[str, float]], object] | None) -> None:
            self.watch = watch
            self.log = log

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # Whatever the folder, the trainer has read this part of a checkpoint by now.
            kept = state.stateful_callbacks.get(self.watch.name)
            self.watch.resume(state.global_step, None if kept is None else kept["attributes"]["monitor"])

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step = state.global_step
            if not self.watch.due(step):
                return
            stops = False
            if state.is_world_process_zero:
                values, stops = self.watch.look(step, kwargs["model"])
                kept = {"args": {}, "attributes": {"monitor": self.watch.monitor.state_dict()}}
                state.stateful_callbacks[self.watch.name] = kept
                self._write(values, step, state, control)
            if self.watch.stop:
                # The trainer itself does not run without it.
                [stops] = importlib.import_module("accelerate.utils").broadcast_object_list([stops])
                control.should_training_stop |= stops

        def _write(self, values: dict[str, float], step: int, state: Any, control: Any) -> None:
            if self.log is None:
                state.log_history.append({**values, "step": step, "epoch": state.epoch})
                return
            # The trainer takes a log for the one that this step is due, and would leave out the loss.
            due = control.should_log
            self.log(values)
            control.should_log = due

    return ICRCallback
