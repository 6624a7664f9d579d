"""Noise laws: from a clean image, a standard normal draw and a level to what the network takes.

A level is the pair (alpha, sigma) in alpha * x0 + sigma * noise, never a model's own time. Levels of all laws are asked
for on one axis, the noise-to-signal ratio sigma / alpha: sqrt((1 - abar) / abar) of a DDPM timestep, t / (1 - t) of a
straight flow, sigma itself of EDM. A law is any object with the three methods of `NoiseLaw`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["DDPM", "EDM", "VE", "VP", "Additive", "Clean", "Flow", "Level", "NoiseLaw", "SiT", "from_scheduler"]

Array = TypeVar("Array", np.ndarray, "torch.Tensor")

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


def _as_floats(name: str, values: Iterable[float]) -> list[float]:
    if isinstance(values, str | bytes):
        raise TypeError(f"{name} is a list of numbers, not the string {values!r}")
    try:
        floats = [float(value) for value in values]
    except TypeError as error:
        raise TypeError(f"{name} is a list of numbers, such as [0.1, 0.3]: {error}") from error
    if not floats:
        raise ValueError(f"{name} is empty: at least one noise level is needed")
    return floats


def _filled(like: Any, value: float) -> Any:
    """(n,) float32 of one value, of the framework and on the device of ``like``."""
    if hasattr(like, "new_full"):
        return like.new_full((len(like),), value).float()
    return np.full(len(like), value, dtype=np.float32)


class _Law(ABC):
    """What the laws have in common. A law gives its levels and its own time, both as functions of the ratio."""

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
        values = _as_floats("sigmas", sigmas)
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
        values = _as_floats("times", times)
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
            elif field.init and (value is not None or field.default is not None):
                record[field.name] = list(value) if isinstance(value, tuple) else value
        return record


# ---- noise added to the image ----------------------------------------------------------------------------------------

# Quantiles of 1 % and 99 % of log sigma ~ N(-1.2, 1.2^2), the levels EDM trains on (its table 1).
_EDM_TRAINED = (math.exp(-1.2 - 2.3263478740408408 * 1.2), math.exp(-1.2 + 2.3263478740408408 * 1.2))
# The same of log sigma uniform between log 0.02 and log 100, the levels VE trains on.
_VE_TRAINED = (0.02 * 5000**0.01, 0.02 * 5000**0.99)


class _AdditiveLaw(_Law):
    """x0 + sigma * noise: the ratio is sigma itself."""

    def _level(self, ratio: float) -> Level:
        return Level(1.0, ratio)


@dataclass(frozen=True)
class EDM(_AdditiveLaw):
    """Noise of EDM: x0 + sigma * noise, scaled to unit variance for the network.

    Parameters
    ----------
    sigma_data : float
        Standard deviation of the data the network was trained with.
    trained_range : (float, float), optional
        Lowest and highest noise level the network saw often in training; recorded, not enforced. Default:
        the 1 % and 99 % quantiles of EDM's log-normal law (P_mean -1.2, P_std 1.2), 0.018 to 4.9. None where unknown.
    name : str
        What the network calls its conditioning.

    Raises
    ------
    ValueError
        If sigma_data or the range is not positive and finite.

    Notes
    -----
    Network input c_in * (x0 + sigma * noise) with c_in = 1/sqrt(sigma^2 + sigma_data^2); conditioning
    ``c_noise`` = log(sigma)/4. It is for the network inside the preconditioning; a module that preconditions itself
    (``EDMPrecond``) takes `Additive`.

    References
    ----------
    Karras et al. 2022, arXiv 2206.00364, eq. 7 and table 1.

    Examples
    --------
    >>> x, conditioning = EDM()(np.ones((2, 1, 4, 4), np.float32), np.zeros((2, 1, 4, 4), np.float32), 0.5)
    >>> x[:, 0, 0, 0], conditioning["c_noise"]
    (array([1.4142135, 1.4142135], dtype=float32), array([-0.1732868, -0.1732868], dtype=float32))
    """

    sigma_data: float = 0.5
    trained_range: tuple[float, float] | None = _EDM_TRAINED
    name: str = "c_noise"

    def __post_init__(self) -> None:
        self._set_positive("sigma_data")
        super().__post_init__()

    def _input_scale(self, ratio: float) -> float:
        return 1 / math.hypot(ratio, self.sigma_data)

    def _time(self, ratio: float) -> float:
        return math.log(ratio) / 4

    def _ratio(self, time: float) -> float:
        return math.exp(4 * time)


@dataclass(frozen=True)
class VE(_AdditiveLaw):
    """Noise of variance exploding models under EDM's preconditioning: x0 + sigma * noise.

    Parameters
    ----------
    trained_range : (float, float), optional
        As for `EDM`. Default: the 1 % and 99 % quantiles of sigma log-uniform between 0.02 and 100.
    name : str
        What the network calls its conditioning.

    Raises
    ------
    ValueError
        If the range is not positive and finite.

    Notes
    -----
    c_in = 1, ``c_noise`` = log(sigma / 2).

    References
    ----------
    Karras et al. 2022, arXiv 2206.00364, table 1. Song et al. 2021, arXiv 2011.13456, appendix C.

    Examples
    --------
    >>> x, conditioning = VE()(np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32), 2.0)
    >>> x.item(), conditioning["c_noise"].item()
    (3.0, 0.0)
    """

    trained_range: tuple[float, float] | None = _VE_TRAINED
    name: str = "c_noise"

    def _time(self, ratio: float) -> float:
        return math.log(ratio / 2)

    def _ratio(self, time: float) -> float:
        return 2 * math.exp(time)


@dataclass(frozen=True)
class Additive(_AdditiveLaw):
    """Noise for networks that precondition themselves: x0 + sigma * noise and sigma, as they are.

    Parameters
    ----------
    trained_range : (float, float), optional
        As for `EDM`. The law cannot know it: that of the preconditioning inside is ``EDM().trained_range``,
        ``VP().trained_range`` or ``VE().trained_range``.
    name : str
        What the network calls sigma.

    Raises
    ------
    ValueError
        If the range is not positive and finite.

    Notes
    -----
    For ``EDMPrecond``, ``VPPrecond`` and ``VEPrecond`` of EDM's code.

    References
    ----------
    Karras et al. 2022, arXiv 2206.00364, eq. 7.

    Examples
    --------
    >>> x, conditioning = Additive()(np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32), 0.5)
    >>> x.item(), conditioning["sigma"].item()
    (1.5, 0.5)
    """

    trained_range: tuple[float, float] | None = None
    name: str = "sigma"

    def _time(self, ratio: float) -> float:
        return ratio

    def _ratio(self, time: float) -> float:
        return time

    def _times(self) -> tuple[float, float]:
        return 0.0, math.inf


# ---- noise that keeps the variance -----------------------------------------------------------------------------------


def _preserving(ratio: float) -> Level:
    """The level with alpha^2 + sigma^2 = 1."""
    norm = math.hypot(1, ratio)
    return Level(1 / norm, ratio / norm)


def _vp_time(ratio: float, beta_d: float = 19.9, beta_min: float = 0.1) -> float:
    """Time of a ratio under the continuous linear schedule of beta, from 0 (image) to 1 (noise)."""
    twice_log = math.log1p(ratio * ratio)
    # The root of beta_d/2 t^2 + beta_min t = twice_log in the form that does not cancel at small ratios.
    return 2 * twice_log / (beta_min + math.sqrt(beta_min**2 + 2 * beta_d * twice_log))


def _vp_ratio(time: float, beta_d: float = 19.9, beta_min: float = 0.1) -> float:
    return math.sqrt(math.expm1(time * (beta_d * time / 2 + beta_min)))


@dataclass(frozen=True)
class VP(_Law):
    """Noise of variance preserving models under EDM's preconditioning: alpha^2 + sigma^2 = 1.

    Parameters
    ----------
    beta_d, beta_min : float
        Slope and start of the schedule beta(t) = beta_min + beta_d t, t from 0 to 1.
    n_timesteps : int
        Number M of timesteps of the discrete model that the network's time is counted in.
    trained_range : (float, float), optional
        As for `EDM`. Default: the ratios at t = 0.01 and 0.99, the 1 % and 99 % quantiles of uniform t.
    name : str
        What the network calls its conditioning.

    Raises
    ------
    ValueError
        If a parameter or the range is not positive and finite, or there are fewer than two timesteps.

    Notes
    -----
    With r = sigma / alpha = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1), the network's input is c_in * (x0 + r * noise)
    with c_in = 1/sqrt(r^2 + 1), which is alpha * x0 + sigma * noise; conditioning ``c_noise`` = (M - 1) t. The iDDPM
    preconditioning of the same table is ``DDPM("cosine", name="c_noise")``.

    References
    ----------
    Karras et al. 2022, arXiv 2206.00364, table 1. Song et al. 2021, arXiv 2011.13456, appendix C.

    Examples
    --------
    >>> law = VP()
    >>> [round(sigma, 4) for sigma in law.sigmas_at([99.9, 499.5])]
    [0.3402, 3.4129]
    """

    beta_d: float = 19.9
    beta_min: float = 0.1
    n_timesteps: int = 1000
    trained_range: tuple[float, float] | None = None
    name: str = "c_noise"

    def __post_init__(self) -> None:
        self._set_positive("beta_d", "beta_min")
        self._set("n_timesteps", _n_timesteps(self.n_timesteps))
        super().__post_init__()

    def _usual_range(self) -> tuple[float, float]:
        return _vp_ratio(0.01, self.beta_d, self.beta_min), _vp_ratio(0.99, self.beta_d, self.beta_min)

    def _level(self, ratio: float) -> Level:
        return _preserving(ratio)

    def _time(self, ratio: float) -> float:
        return (self.n_timesteps - 1) * _vp_time(ratio, self.beta_d, self.beta_min)

    def _ratio(self, time: float) -> float:
        return _vp_ratio(time / (self.n_timesteps - 1), self.beta_d, self.beta_min)

    def _times(self) -> tuple[float, float]:
        return 0.0, math.inf


# ---- tables of timesteps ---------------------------------------------------------------------------------------------

_BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}
_SCHEDULES = (*_BETAS, "cosine")


def _n_timesteps(value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"n_timesteps must be a whole number, not {value!r}") from None
    if number < 2:
        raise ValueError(f"n_timesteps must be 2 or more, not {number}")
    return number


def _as_table(values: Any) -> tuple[float, ...]:
    return tuple(np.asarray(values, dtype=np.float64).reshape(-1).tolist())


def _cosine_betas(n: int) -> np.ndarray:
    bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: np.ndarray = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    return betas


def _zero_terminal(bar: np.ndarray) -> np.ndarray:
    """The same schedule, sqrt(abar) shifted and stretched so that it ends at exactly 0."""
    root = np.sqrt(bar)
    stretch = root[0] / (root[0] - root[-1])
    rescaled: np.ndarray = np.square(stretch * (root - root[-1]))
    return rescaled


@dataclass(frozen=True)
class DDPM(_Law):
    """Noise of DDPM and its kin (DDIM, ADM, DiT, Stable Diffusion): a table of timesteps.

    Parameters
    ----------
    schedule : {"linear", "scaled_linear", "cosine"}, optional
        "linear": beta linear in t (default; DDPM, ADM, DiT). "scaled_linear": its root linear in t (latent diffusion).
        "cosine": squared cosine of iDDPM (``squaredcos_cap_v2`` of diffusers).
    n_timesteps : int, optional
        Number of timesteps of the schedule; default 1000.
    beta_start, beta_end : float, optional
        Of "linear" (default 1e-4 and 0.02) and "scaled_linear" (default 0.00085 and 0.012).
    betas, alphas_cumprod : array-like (timestep,), optional
        The table itself, in place of a schedule: one of the two.
    zero_terminal_snr : bool
        Whether the schedule was rescaled to end in noise alone.
    trained_range : (float, float), optional
        As for `EDM`. Default: the whole table, as every timestep is drawn equally often.
    name : str
        What the network calls its conditioning: ``timestep`` in diffusers, ``t`` in DiT's code.

    Raises
    ------
    ValueError
        If there is more than one of schedule, betas and alphas_cumprod, the schedule is unknown, or the table does not
        fall from below 1 to 0 or above.

    Notes
    -----
    alpha = sqrt(abar_t), sigma = sqrt(1 - abar_t), abar_t = prod (1 - beta) up to t; timesteps count from 0. Between
    timesteps log(sigma / alpha) is linear in t, so that any ratio inside the table has a timestep, fractional or not;
    at whole timesteps the table is met exactly. Ratios outside it are an error. Rescaled to zero terminal SNR, the last
    timestep holds no image and no ratio: the axis ends at the one before.

    References
    ----------
    Ho et al. 2020, arXiv 2006.11239, eq. 4. Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17. Lin et al. 2024, arXiv
    2305.08891, algorithm 1.

    Examples
    --------
    >>> law = DDPM("scaled_linear")
    >>> [round(sigma, 4) for sigma in law.sigmas_at([100, 500])]
    [0.3439, 1.6183]
    >>> image = np.zeros((1, 1, 1, 1), np.float32)
    >>> law(image, image, law.sigmas_at([100])[0])[1]["timestep"]
    array([100.], dtype=float32)
    """

    schedule: str | None = None
    n_timesteps: int | None = None
    beta_start: float | None = None
    beta_end: float | None = None
    betas: tuple[float, ...] | None = dataclasses.field(default=None, repr=False)
    alphas_cumprod: tuple[float, ...] | None = dataclasses.field(default=None, repr=False)
    zero_terminal_snr: bool = False
    trained_range: tuple[float, float] | None = None
    name: str = "timestep"

    def __post_init__(self) -> None:
        given = [field for field in ("schedule", "betas", "alphas_cumprod") if getattr(self, field) is not None] or [
            "schedule"
        ]
        if len(given) > 1:
            raise ValueError(f"the schedule is given as {' and as '.join(given)}: one of them")
        self._set("zero_terminal_snr", bool(self.zero_terminal_snr))
        if given == ["schedule"]:
            self._fill_schedule()
        else:
            self._set(given[0], _as_table(getattr(self, given[0])))
            for field in ("n_timesteps", "beta_start", "beta_end"):
                if getattr(self, field) is not None:
                    raise ValueError(f"{field} belongs to a named schedule, and {given[0]} is the table itself")
        if len(self._ratios) < 2:
            raise ValueError("a schedule needs two timesteps or more that are not noise alone")
        super().__post_init__()

    def _fill_schedule(self) -> None:
        self._set("schedule", "linear" if self.schedule is None else self.schedule)
        if self.schedule not in _SCHEDULES:
            near = difflib.get_close_matches(str(self.schedule), _SCHEDULES, n=1)
            hint = f" (nearest: {near[0]!r})" if near else ""
            raise ValueError(f"schedule {self.schedule!r} is none of {_SCHEDULES}{hint}; betas takes any table")
        self._set("n_timesteps", _n_timesteps(1000 if self.n_timesteps is None else self.n_timesteps))
        for field, usual in zip(("beta_start", "beta_end"), _BETAS.get(self.schedule, (None, None)), strict=True):
            value = getattr(self, field)
            if usual is None and value is not None:
                raise ValueError(f"{field} belongs to the schedules {tuple(_BETAS)}, not to {self.schedule!r}")
            if usual is not None:
                self._set(field, usual if value is None else value)
                self._set_positive(field)

    def _bar(self) -> np.ndarray:
        """abar at the whole timesteps."""
        if self.alphas_cumprod is not None:
            return np.array(self.alphas_cumprod)
        if self.betas is not None:
            betas = np.array(self.betas)
        elif self.schedule == "cosine":
            betas = _cosine_betas(self.n_timesteps or 0)
        else:
            power = 1 if self.schedule == "linear" else 2
            ends = ((self.beta_start or 0.0) ** (1 / power), (self.beta_end or 0.0) ** (1 / power))
            betas = np.linspace(*ends, self.n_timesteps or 0) ** power
        return np.cumprod(1 - betas)

    @cached_property
    def _ratios(self) -> np.ndarray:
        """Ratios at the whole timesteps, without a last one that is noise alone."""
        bar = self._bar()
        if not (len(bar) and np.isfinite(bar).all() and bar[0] < 1 and bar[-1] >= 0 and (np.diff(bar) < 0).all()):
            raise ValueError("the share of the image, the product of 1 - beta, must fall from below 1 to 0 or above")
        if self.zero_terminal_snr:
            bar = _zero_terminal(bar)
        held = bar[bar > 0]
        ratios: np.ndarray = np.sqrt((1 - held) / held)
        return ratios

    @cached_property
    def _logs(self) -> np.ndarray:
        # math.log like `_time`, not numpy's, whose last bit may differ: whole timesteps come back whole.
        return np.array([math.log(ratio) for ratio in self._ratios.tolist()])

    @cached_property
    def _steps(self) -> np.ndarray:
        return np.arange(len(self._logs), dtype=np.float64)

    def _usual_range(self) -> tuple[float, float]:
        return self._span()

    def _span(self) -> tuple[float, float]:
        return float(self._ratios[0]), float(self._ratios[-1])

    def _times(self) -> tuple[float, float]:
        return 0.0, len(self._ratios) - 1.0

    def _level(self, ratio: float) -> Level:
        return _preserving(ratio)

    def _time(self, ratio: float) -> float:
        return float(np.interp(math.log(ratio), self._logs, self._steps))

    def _ratio(self, time: float) -> float:
        if time.is_integer():
            return float(self._ratios[int(time)])
        return math.exp(np.interp(time, self._steps, self._logs))


# ---- flows -----------------------------------------------------------------------------------------------------------


class _Path(NamedTuple):
    """A way from the image (s = 0) to noise (s = 1)."""

    level: Callable[[float], Level]
    position: Callable[[float], float]  # s of a ratio
    ratio: Callable[[float], float]  # ratio at s < 1


_PATHS = {
    "linear": _Path(
        lambda ratio: Level(1 / (1 + ratio), ratio / (1 + ratio)),
        lambda ratio: ratio / (1 + ratio),
        lambda s: s / (1 - s),
    ),
    "gvp": _Path(_preserving, lambda ratio: 2 / math.pi * math.atan(ratio), lambda s: math.tan(math.pi / 2 * s)),
    "vp": _Path(_preserving, _vp_time, _vp_ratio),
}


class _Interpolant(_Law):
    """A path run by t in one direction or the other."""

    path: str
    data_at: int
    scale: float

    def __post_init__(self) -> None:
        path = str(self.path).lower()
        if path not in _PATHS:
            raise ValueError(f"path {self.path!r} is none of {tuple(_PATHS)}")
        self._set("path", path)
        super().__post_init__()

    def _span(self) -> tuple[float, float]:
        return 0.0, _vp_ratio(1.0) if self.path == "vp" else math.inf

    def _times(self) -> tuple[float, float]:
        return 0.0, self.scale

    def _level(self, ratio: float) -> Level:
        return _PATHS[self.path].level(ratio)

    def _time(self, ratio: float) -> float:
        s = _PATHS[self.path].position(ratio)
        return self.scale * (1 - s if self.data_at else s)

    def _ratio(self, time: float) -> float:
        s = 1 - time / self.scale if self.data_at else time / self.scale
        return math.inf if s == 1 and self.path != "vp" else _PATHS[self.path].ratio(s)


@dataclass(frozen=True)
class Flow(_Interpolant):
    """Noise of flow matching and stochastic interpolants, in either direction of t.

    Parameters
    ----------
    path : {"linear", "gvp", "vp"}
        "linear": (1 - s) x0 + s noise. "gvp": cos and sin of pi s / 2 (REPA calls it cosine). "vp": the path of `VP`. s
        is 0 at the image.
    data_at : {0, 1}
        t at the image: 0 for SD3, Flux and REPA (t = s), 1 for SiT's code (t = 1 - s).
    scale : float
        What t is multiplied by for the network: 1000 for SD3; 1 for diffusers' Flux, which multiplies itself.
    name : str
        What the network calls its conditioning, such as ``timestep``.
    trained_range : (float, float), optional
        As for `EDM`. Unknown by default: models draw t in many ways. `SiT` knows it for uniform t.

    Raises
    ------
    ValueError
        If path or data_at is none of those, or scale or the range is not positive and finite.

    Notes
    -----
    sigma / alpha = s / (1 - s) of "linear", tan(pi s / 2) of "gvp". A shift of the sampler's schedule moves which
    levels it visits, not what t means, and does not appear here.

    References
    ----------
    Lipman et al. 2023, arXiv 2210.02747, eq. 20. Ma et al. 2024, arXiv 2401.08740, section 2. Esser et al. 2024, arXiv
    2403.03206, section 3.

    Examples
    --------
    >>> sd3 = Flow(scale=1000, name="timestep")
    >>> image = np.zeros((1, 1, 1, 1), np.float32)
    >>> sd3(image, image, 0.25)[1]["timestep"]
    array([200.], dtype=float32)
    >>> sd3.levels([0.25])
    [Level(alpha=0.8, sigma=0.2)]
    """

    path: str = "linear"
    data_at: Literal[0, 1] = 0
    scale: float = 1.0
    name: str = "t"
    trained_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.data_at not in (0, 1):
            raise ValueError(f"data_at must be 0 or 1, the t of the image, not {self.data_at!r}")
        self._set("data_at", int(self.data_at))
        self._set_positive("scale")
        super().__post_init__()


@dataclass(frozen=True)
class SiT(_Interpolant):
    """Noise of SiT's code, where t = 1 is the image (REPA and the papers run t the other way: `Flow`).

    Parameters
    ----------
    path : {"linear", "gvp", "vp"}
        As SiT's ``--path-type``, in any case.
    trained_range : (float, float), optional
        As for `EDM`. Default: the ratios at t = 0.99 and 0.01, the 1 % and 99 % quantiles of uniform t.

    Raises
    ------
    ValueError
        If the path is none of those, or the range is not positive and finite.

    Notes
    -----
    With s = 1 - t the same levels as ``Flow(path, data_at=1)``; conditioning ``t``.

    References
    ----------
    Ma et al. 2024, arXiv 2401.08740, sections 2 and 3.

    Examples
    --------
    >>> image = np.zeros((1, 1, 1, 1), np.float32)
    >>> SiT()(image, image, 0.25)[1]["t"]
    array([0.8], dtype=float32)
    """

    path: str = "linear"
    trained_range: tuple[float, float] | None = None

    data_at: int = dataclasses.field(default=1, init=False, repr=False)
    scale: float = dataclasses.field(default=1.0, init=False, repr=False)
    name: str = dataclasses.field(default="t", init=False, repr=False)

    def _usual_range(self) -> tuple[float, float]:
        return _PATHS[self.path].ratio(0.01), _PATHS[self.path].ratio(0.99)


# ---- what others wrote down ------------------------------------------------------------------------------------------

# Betas a class falls back to where its configuration names none.
_DISCRETE = {
    **dict.fromkeys(
        (
            "DDIMInverseScheduler",
            "DDIMParallelScheduler",
            "DDIMScheduler",
            "DDPMParallelScheduler",
            "DDPMScheduler",
            "DEISMultistepScheduler",
            "DPMSolverMultistepInverseScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "SASolverScheduler",
            "UniPCMultistepScheduler",
        ),
        ("linear", 0.0001, 0.02),
    ),
    **dict.fromkeys(
        ("HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler"),
        ("linear", 0.00085, 0.012),
    ),
    **dict.fromkeys(("LCMScheduler", "TCDScheduler"), ("scaled_linear", 0.00085, 0.012)),
}
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
_EDM = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")


def _from_betas(kind: str, config: Mapping[str, Any]) -> DDPM:
    schedule, start, end = _DISCRETE[kind]
    rescaled = bool(config.get("rescale_betas_zero_snr"))
    if config.get("trained_betas") is not None:
        return DDPM(betas=config["trained_betas"], zero_terminal_snr=rescaled)
    n = config.get("num_train_timesteps", 1000)
    schedule = config.get("beta_schedule", schedule)
    if schedule == "squaredcos_cap_v2":
        return DDPM("cosine", n, zero_terminal_snr=rescaled)
    if schedule not in _BETAS:
        raise ValueError(
            f"beta_schedule {schedule!r} of {kind} is none of {(*_BETAS, 'squaredcos_cap_v2')}: "
            "noise.DDPM(betas=scheduler.betas) takes any table"
        )
    start, end = config.get("beta_start", start), config.get("beta_end", end)
    return DDPM(schedule, n, start, end, zero_terminal_snr=rescaled)


def from_scheduler(scheduler: Any) -> DDPM | EDM | Flow:
    """The noise law of a diffusers scheduler.

    Parameters
    ----------
    scheduler : scheduler, or mapping
        A diffusers scheduler, or its configuration (``scheduler_config.json``) with its ``_class_name``.

    Returns
    -------
    DDPM, EDM or Flow
        Conditioning ``timestep``, as diffusers' networks call it.

    Raises
    ------
    ValueError
        If the class of the scheduler, or what its configuration asks for, is not known.
    TypeError
        If it is neither a scheduler nor a mapping.

    Notes
    -----
    Only what the network was trained with is taken; spacing, shift and order of the sampler do not matter here. The
    solvers (Euler, DPM, UniPC ...) have the law their network was trained with: that of their betas, or a flow with
    ``use_flow_sigmas``. Flow transformers take t * num_train_timesteps, but Flux's multiplies itself:
    ``dataclasses.replace(law, scale=1.0)``. Of EDM's and flow schedulers the trained range is not known.

    References
    ----------
    von Platen et al., diffusers, ``diffusers.schedulers``.

    Examples
    --------
    >>> law = from_scheduler({"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear",
    ...                       "beta_start": 0.00085, "beta_end": 0.012})
    >>> law == DDPM("scaled_linear")
    True
    """
    if isinstance(scheduler, Mapping):
        config, kind = scheduler, str(scheduler.get("_class_name", "without _class_name"))
    elif isinstance(getattr(scheduler, "config", None), Mapping):
        config, kind = scheduler.config, type(scheduler).__name__
    else:
        raise TypeError(f"wanted a diffusers scheduler or its configuration, not {type(scheduler).__name__}")
    if config.get("invert_sigmas"):
        raise ValueError(f"{kind} with invert_sigmas=True is not known: say how t runs with noise.Flow(data_at=...)")
    if kind in _FLOW or (kind in _DISCRETE and config.get("use_flow_sigmas")):
        return Flow(scale=config.get("num_train_timesteps", 1000), name="timestep")
    if kind in _EDM:
        return EDM(config.get("sigma_data", 0.5), trained_range=None, name="timestep")
    continuous = config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"
    if kind == "EulerDiscreteScheduler" and continuous:
        # As for Stable Video Diffusion: the network's time is log(sigma)/4, and its data have unit variance.
        return EDM(1.0, trained_range=None, name="timestep")
    if kind in _DISCRETE:
        return _from_betas(kind, config)
    known = sorted((*_DISCRETE, *_FLOW, *_EDM))
    near = difflib.get_close_matches(kind, known, n=1)
    hint = f" (nearest: {near[0]})" if near else ""
    raise ValueError(f"scheduler {kind} is not known{hint}; known are {', '.join(known)}")


@dataclass(frozen=True)
class Clean:
    """No noise and no conditioning: for encoders, at the one level 0.

    Examples
    --------
    >>> Clean().levels([0.0])
    [Level(alpha=1.0, sigma=0.0)]
    """

    def levels(self, sigmas: Iterable[float]) -> list[Level]:
        """The level (1, 0); any other is a ValueError."""
        values = _as_floats("sigmas", sigmas)
        if values != [0.0]:
            raise ValueError(f"clean images have the one noise level 0: sigmas=[0.0], not {values}")
        return [Level(1.0, 0.0)]

    def __call__(self, x0: Array, noise: Array, sigma: float | Level) -> tuple[Array, dict[str, Array]]:
        """The images as they are, and no conditioning."""
        self.levels([sigma.ratio if isinstance(sigma, Level) else sigma])
        return x0, {}

    def config(self) -> dict[str, Any]:
        """The law, for the attributes of a cube."""
        return {"name": "Clean"}


# Laws by the names that options and command lines give them.
LAWS: dict[str, Callable[..., NoiseLaw]] = {
    law.__name__.lower(): law for law in (EDM, VP, VE, Additive, DDPM, Flow, SiT, Clean)
}
