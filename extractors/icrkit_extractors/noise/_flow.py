"""Flows: paths from the image to noise, run by t in one direction or the other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from icrkit_extractors.noise._law import Law, Level
from icrkit_extractors.noise._preserving import preserving, vp_ratio, vp_time

__all__ = ["Flow", "SiT"]


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
    "gvp": _Path(preserving, lambda ratio: 2 / math.pi * math.atan(ratio), lambda s: math.tan(math.pi / 2 * s)),
    "vp": _Path(preserving, vp_time, vp_ratio),
}


class _Interpolant(Law):
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
        return 0.0, vp_ratio(1.0) if self.path == "vp" else math.inf

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
    >>> import numpy as np
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
    >>> import numpy as np
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
