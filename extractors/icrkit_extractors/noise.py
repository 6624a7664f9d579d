"""Noise laws: from a clean image, a standard normal draw and a level to what the network takes.

A level is the pair (alpha, sigma) in alpha * x0 + sigma * noise, never a model's own time. A law is any
object with the three methods of `NoiseLaw`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

__all__ = ["EDM", "Clean", "Level", "NoiseLaw"]

# Quantiles of 1 % and 99 % of log sigma ~ N(-1.2, 1.2^2), the levels EDM trains on (its table 1).
_EDM_TRAINED = (math.exp(-1.2 - 2.3263478740408408 * 1.2), math.exp(-1.2 + 2.3263478740408408 * 1.2))


class Level(NamedTuple):
    """A noise level: the noisy image is alpha * x0 + sigma * noise."""

    alpha: float
    sigma: float


class NoiseLaw(Protocol):
    """What `extract` asks of a noise law."""

    def levels(self, sigmas: Iterable[float]) -> list[Level]:
        """The levels of these values of sigma, checked."""

    def __call__(self, x0: np.ndarray, noise: np.ndarray, sigma: float) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """The network's input and its conditioning, arrays of n rows."""

    def config(self) -> dict[str, Any]:
        """The law and its parameters, for the attributes of a cube."""


def _as_floats(sigmas: Iterable[float]) -> list[float]:
    if isinstance(sigmas, str | bytes):
        raise TypeError(f"sigmas is a list of numbers, not the string {sigmas!r}")
    try:
        values = [float(sigma) for sigma in sigmas]
    except TypeError as error:
        raise TypeError(f"sigmas is a list of numbers, such as [0.1, 0.3]: {error}") from error
    if not values:
        raise ValueError("sigmas is empty: at least one noise level is needed")
    return values


@dataclass(frozen=True)
class EDM:
    """Noise of EDM: x0 + sigma * noise, scaled to unit variance for the network.

    Parameters
    ----------
    sigma_data : float
        Standard deviation of the data the network was trained with.
    trained_range : (float, float)
        Lowest and highest noise level the network saw often in training; recorded, not enforced. Default:
        the 1 % and 99 % quantiles of EDM's log-normal law (P_mean -1.2, P_std 1.2), 0.018 to 4.9.

    Raises
    ------
    ValueError
        If sigma_data or the range is not positive and finite.

    Notes
    -----
    Network input c_in * (x0 + sigma * noise) with c_in = 1/sqrt(sigma^2 + sigma_data^2); conditioning
    ``c_noise`` = log(sigma)/4.

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
    trained_range: tuple[float, float] = _EDM_TRAINED

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma_data) and self.sigma_data > 0):
            raise ValueError(f"sigma_data must be positive and finite, not {self.sigma_data}")
        low, high = (float(sigma) for sigma in self.trained_range)
        if not 0 < low < high < math.inf:
            raise ValueError(f"trained_range must be (low, high) with 0 < low < high, not {self.trained_range}")
        object.__setattr__(self, "trained_range", (low, high))

    def levels(self, sigmas: Iterable[float]) -> list[Level]:
        """The levels (1, sigma) of these values of sigma.

        Parameters
        ----------
        sigmas : iterable of float
            Standard deviations of the noise, in the units of images in [-1, 1].

        Returns
        -------
        list of Level

        Raises
        ------
        ValueError
            If a level is not positive and finite, or appears twice.
        """
        values = _as_floats(sigmas)
        for index, sigma in enumerate(values):
            if not (math.isfinite(sigma) and sigma > 0):
                raise ValueError(
                    f"noise levels must be positive and finite: sigmas[{index}] is {sigma} "
                    "(for features of clean images from an encoder use noise.Clean)"
                )
            # A cube finds its levels within a relative 1e-6, so closer ones would be the same level.
            if any(math.isclose(sigma, other, rel_tol=1e-6) for other in values[:index]):
                raise ValueError(f"noise level {sigma} appears twice (sigmas[{index}])")
        return [Level(1.0, sigma) for sigma in values]

    def __call__(self, x0: np.ndarray, noise: np.ndarray, sigma: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The network's input at one level, and ``c_noise``.

        Parameters
        ----------
        x0 : ndarray (n, channel, height, width), float32
            Clean images in [-1, 1].
        noise : ndarray, shaped like x0, float32
            Standard normal draws.
        sigma : float
            Noise level.

        Returns
        -------
        x : ndarray, shaped like x0, float32
        conditioning : dict
            ``c_noise``, ndarray (n,), float32.
        """
        [(alpha, sigma)] = self.levels([sigma])
        if noise.shape != x0.shape:
            raise ValueError(f"noise of shape {noise.shape} for images of shape {x0.shape}")
        c_in = np.float32(1 / math.hypot(sigma, self.sigma_data))
        x = c_in * (np.float32(alpha) * x0 + np.float32(sigma) * noise)
        return x, {"c_noise": np.full(len(x0), math.log(sigma) / 4, dtype=np.float32)}

    def config(self) -> dict[str, Any]:
        """The law and its parameters, for the attributes of a cube."""
        return {"name": "EDM", "sigma_data": float(self.sigma_data), "trained_range": list(self.trained_range)}


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
        values = _as_floats(sigmas)
        if values != [0.0]:
            raise ValueError(f"clean images have the one noise level 0: sigmas=[0.0], not {values}")
        return [Level(1.0, 0.0)]

    def __call__(self, x0: np.ndarray, noise: np.ndarray, sigma: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The images as they are, and no conditioning."""
        self.levels([sigma])
        return x0, {}

    def config(self) -> dict[str, Any]:
        """The law, for the attributes of a cube."""
        return {"name": "Clean"}
