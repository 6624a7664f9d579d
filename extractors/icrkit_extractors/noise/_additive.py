"""Noise added to the image: EDM, VE, and networks that precondition themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from icrkit_extractors.noise._law import Law, Level

__all__ = ["EDM", "VE", "Additive"]

# Quantiles of 1 % and 99 % of log sigma ~ N(-1.2, 1.2^2), the levels EDM trains on (its table 1).
_EDM_TRAINED = (math.exp(-1.2 - 2.3263478740408408 * 1.2), math.exp(-1.2 + 2.3263478740408408 * 1.2))
# The same of log sigma uniform between log 0.02 and log 100, the levels VE trains on.
_VE_TRAINED = (0.02 * 5000**0.01, 0.02 * 5000**0.99)


class _AdditiveLaw(Law):
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
    >>> import numpy as np
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
    >>> import numpy as np
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
    >>> import numpy as np
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
