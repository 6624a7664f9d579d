"""Noise that keeps the variance, under a continuous schedule."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

from icrkit_extractors.noise._law import Law, Level

__all__ = ["VP", "preserving", "vp_ratio", "vp_time", "whole_timesteps"]

# Longer tables are a slip of the keyboard: the longest in use have 4000.
MOST_TIMESTEPS = 1_000_000


def whole_timesteps(value: Any) -> int:
    """A number of timesteps, checked."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"n_timesteps must be a whole number, not {value!r}") from None
    if number < 2:
        raise ValueError(f"n_timesteps must be 2 or more, not {number}")
    if number > MOST_TIMESTEPS:
        raise ValueError(f"n_timesteps must be at most {MOST_TIMESTEPS:,}, not {number:,}")
    return number


def preserving(ratio: float) -> Level:
    """The level with alpha^2 + sigma^2 = 1."""
    norm = math.hypot(1, ratio)
    return Level(1 / norm, ratio / norm)


def vp_time(ratio: float, beta_d: float = 19.9, beta_min: float = 0.1) -> float:
    """Time of a ratio under the continuous linear schedule of beta, from 0 (image) to 1 (noise)."""
    twice_log = math.log1p(ratio * ratio)
    # The root of beta_d/2 t^2 + beta_min t = twice_log in the form that does not cancel at small ratios.
    return 2 * twice_log / (beta_min + math.sqrt(beta_min**2 + 2 * beta_d * twice_log))


def vp_ratio(time: float, beta_d: float = 19.9, beta_min: float = 0.1) -> float:
    return math.sqrt(math.expm1(time * (beta_d * time / 2 + beta_min)))


@dataclass(frozen=True)
class VP(Law):
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
        self._set("n_timesteps", whole_timesteps(self.n_timesteps))
        super().__post_init__()

    def _usual_range(self) -> tuple[float, float]:
        return vp_ratio(0.01, self.beta_d, self.beta_min), vp_ratio(0.99, self.beta_d, self.beta_min)

    def _level(self, ratio: float) -> Level:
        return preserving(ratio)

    def _time(self, ratio: float) -> float:
        return (self.n_timesteps - 1) * vp_time(ratio, self.beta_d, self.beta_min)

    def _ratio(self, time: float) -> float:
        return vp_ratio(time / (self.n_timesteps - 1), self.beta_d, self.beta_min)

    def _times(self) -> tuple[float, float]:
        return 0.0, math.inf
