"""What all noise laws have in common: levels, the network's own time, and the record of both."""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["Array", "Law", "Level", "NoiseLaw", "as_floats"]

Array = TypeVar("Array", np.ndarray, "torch.Tensor")

# More are a slip of the keyboard: each is a forward pass of every view of every image.
_MOST_LEVELS = 10_000

# A cube finds its levels within this, so closer ones would be the same level.
_SAME_LEVEL = 1e-6


class Level(NamedTuple):
    """A noise level: the noisy image is alpha * x0 + sigma * noise."""

    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """Noise to signal, sigma / alpha: the axis of a cube. Infinite where there is no image."""
        return self.sigma / self.alpha if self.alpha else math.inf


class NoiseLaw(Protocol):
    """What `extract` asks of a noise law."""

    def levels(self, sigmas: Iterable[float]) -> list[Level]:
        """The levels of these noise-to-signal ratios, checked."""

    def __call__(self, x0: Array, noise: Array, sigma: float | Level) -> tuple[Array, Mapping[str, Array]]:
        """The network's input and its conditioning, n rows each."""

    def config(self) -> dict[str, Any]:
        """The law and its parameters, for the attributes of a cube."""


def as_floats(name: str, values: Iterable[float]) -> list[float]:
    """Numbers as a list of floats, not empty."""
    if isinstance(values, str | bytes):
        raise TypeError(f"{name} is a list of numbers, not the string {values!r}")
    try:
        floats = [float(value) for value in itertools.islice(values, _MOST_LEVELS + 1)]
    except TypeError as error:
        raise TypeError(f"{name} is a list of numbers, such as [0.1, 0.3]: {error}") from error
    if len(floats) > _MOST_LEVELS:
        raise ValueError(f"{name} has more than {_MOST_LEVELS:,} numbers: each is a forward pass of every view")
    if not floats:
        raise ValueError(f"{name} is empty: at least one noise level is needed")
    return floats


def _filled(like: Any, value: float) -> Any:
    """(n,) float32 of one value, of the framework and on the device of ``like``."""
    if hasattr(like, "new_full"):
        return like.new_full((len(like),), value).float()
    return np.full(len(like), value, dtype=np.float32)


class Law(ABC):
    """What the laws have in common. A law gives its levels and its own time, both as functions of the ratio."""

    # Fields that are recorded only where they are not as usual.
    _unusual: ClassVar[tuple[str, ...]] = ()

    name: str  # what the network calls its conditioning
    trained_range: tuple[float, float] | None

    def __post_init__(self) -> None:
        limits = self._usual_range() if self.trained_range is None else self.trained_range
        if limits is not None:
            low, high = (float(sigma) for sigma in limits)
            if not 0 < low < high < math.inf:
                raise ValueError(f"trained_range must be (low, high) with 0 < low < high, not {self.trained_range}")
            self._set("trained_range", (low, high))
        if not self.name:
            raise ValueError("name is what the network calls its conditioning, not empty")

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def _set_positive(self, *fields: str) -> None:
        for field in fields:
            value = float(getattr(self, field))
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field} must be positive and finite, not {value}")
            self._set(field, value)

    def _usual_range(self) -> tuple[float, float] | None:
        return None

    def _span(self) -> tuple[float, float]:
        """Lowest and highest ratio the law has."""
        return 0.0, math.inf

    def _times(self) -> tuple[float, float]:
        """Lowest and highest value of the network's own time."""
        return -math.inf, math.inf

    @abstractmethod
    def _level(self, ratio: float) -> Level: ...

    @abstractmethod
    def _time(self, ratio: float) -> float: ...

    @abstractmethod
    def _ratio(self, time: float) -> float: ...

    def _input_scale(self, ratio: float) -> float:
        return 1.0

    def levels(self, sigmas: Iterable[float]) -> list[Level]:
        """The levels (alpha, sigma) of these noise-to-signal ratios.

        Parameters
        ----------
        sigmas : iterable of float
            Noise-to-signal ratios sigma / alpha: the standard deviation of the noise, in the units of the images (or
            latents) in front of it.

        Returns
        -------
        list of Level

        Raises
        ------
        ValueError
            If a ratio is not positive and finite, appears twice, or is not on the law's schedule.
        """
        values = as_floats("sigmas", sigmas)
        low, high = self._span()
        for index, sigma in enumerate(values):
            if not (math.isfinite(sigma) and sigma > 0):
                raise ValueError(
                    f"noise levels must be positive and finite: sigmas[{index}] is {sigma} "
                    "(for features of clean images from an encoder use noise.Clean)"
                )
            if not low * (1 - _SAME_LEVEL) <= sigma <= high * (1 + _SAME_LEVEL):
                raise ValueError(
                    f"sigmas[{index}] is {sigma:g}: this {type(self).__name__} has noise-to-signal ratios from "
                    f"{low:.6g} to {high:.6g}; sigmas_at gives the ratios of the network's own times"
                )
            if any(math.isclose(sigma, other, rel_tol=_SAME_LEVEL) for other in values[:index]):
                raise ValueError(f"noise level {sigma} appears twice (sigmas[{index}])")
        return [self._level(sigma) for sigma in values]

    def sigmas_at(self, times: Iterable[float]) -> list[float]:
        """Noise-to-signal ratios at these values of the network's own time, as `levels` takes them.

        Parameters
        ----------
        times : iterable of float
            Values of the conditioning: timesteps of a DDPM, t of a flow (times its scale), c_noise of EDM.

        Returns
        -------
        list of float

        Raises
        ------
        ValueError
            If a time is outside the network's, or is noise alone or the image alone.
        """
        values = as_floats("times", times)
        low, high = self._times()
        ratios = []
        for index, time in enumerate(values):
            if not low <= time <= high:
                raise ValueError(f"{self.name} goes from {low:g} to {high:g}, and times[{index}] is {time:g}")
            try:
                ratio = self._ratio(time)
            except OverflowError:
                ratio = math.inf
            if not 0 < ratio < math.inf:
                alone = "noise alone" if ratio else "the image alone"
                raise ValueError(f"{self.name} {time:g} (times[{index}]) is {alone}: choose a level between")
            ratios.append(ratio)
        return ratios

    def __call__(self, x0: Array, noise: Array, sigma: float | Level) -> tuple[Array, dict[str, Array]]:
        """The network's input at one level, and its conditioning.

        Parameters
        ----------
        x0 : ndarray or Tensor (n, channel, height, width), float32
            Clean images in [-1, 1], or latents.
        noise : like x0
            Standard normal draws.
        sigma : float or Level
            Noise-to-signal ratio, or any law's level of that ratio.

        Returns
        -------
        x : like x0
        conditioning : dict
            Under the name the network knows, an array or tensor (n,), float32.

        Raises
        ------
        ValueError
            If the level is none of the law's, or the shapes differ.
        TypeError
            If one of x0 and noise is a tensor and the other is not.
        """
        ratio = float(sigma.ratio if isinstance(sigma, Level) else sigma)
        [level] = self.levels([ratio])
        if hasattr(x0, "new_full") != hasattr(noise, "new_full"):
            kinds = f"x0 is {type(x0).__name__} and noise is {type(noise).__name__}"
            raise TypeError(f"{kinds}: both arrays or both tensors")
        if noise.shape != x0.shape:
            raise ValueError(f"noise of shape {tuple(noise.shape)} for images of shape {tuple(x0.shape)}")
        x = level.alpha * x0 + level.sigma * noise
        scale = self._input_scale(ratio)
        if scale != 1:
            x = scale * x
        return x, {self.name: _filled(x0, self._time(ratio))}

    def config(self) -> dict[str, Any]:
        """The law and its parameters, for the attributes of a cube."""
        record: dict[str, Any] = {"name": type(self).__name__}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every law is a dataclass
            value = getattr(self, field.name)
            if field.name == "name":
                # "name" is the law's own, and EDM's record is as old as the first cubes: only what is unusual is added.
                if value != field.default:
                    record["conditioning"] = value
            elif field.name in self._unusual and value == field.default:
                continue  # these fields are younger than the first cubes
            elif field.init and (value is not None or field.default is not None):
                record[field.name] = list(value) if isinstance(value, tuple) else value
        return record
