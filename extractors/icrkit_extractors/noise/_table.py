"""Tables of timesteps: DDPM and its kin."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from icrkit_extractors.noise._law import Law, Level
from icrkit_extractors.noise._preserving import MOST_TIMESTEPS, preserving, whole_timesteps

__all__ = ["BETAS", "DDPM"]

BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}
_SCHEDULES = (*BETAS, "cosine", "sigmoid")
# Number of timesteps that the ends of "linear" are meant for.
_USUAL_TIMESTEPS = 1000


def _as_table(values: Any) -> tuple[float, ...]:
    table = np.asarray(values)
    if table.size > MOST_TIMESTEPS:
        raise ValueError(f"a table has at most {MOST_TIMESTEPS:,} timesteps, not {table.size:,}")
    return tuple(table.astype(np.float64).reshape(-1).tolist())


def _cosine_betas(n: int) -> np.ndarray:
    bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: np.ndarray = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    return betas


def _sigmoid_betas(n: int) -> np.ndarray:
    """Betas of an abar that falls as a logistic function between -3 and 3."""
    falling = 1 / (1 + np.exp(6 * np.arange(n + 1) / n - 3))
    bar = (falling - falling[-1]) / (falling[0] - falling[-1])
    betas: np.ndarray = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    return betas


def _zero_terminal(bar: np.ndarray) -> np.ndarray:
    """The same schedule, sqrt(abar) shifted and stretched so that it ends at exactly 0."""
    root = np.sqrt(bar)
    stretch = root[0] / (root[0] - root[-1])
    rescaled: np.ndarray = np.square(stretch * (root - root[-1]))
    return rescaled


@dataclass(frozen=True)
class DDPM(Law):
    """Noise of DDPM and its kin (DDIM, ADM, DiT, Stable Diffusion): a table of timesteps.

    Parameters
    ----------
    schedule : {"linear", "scaled_linear", "cosine", "sigmoid"}, optional
        "linear": beta linear in t (default; DDPM, ADM, DiT). "scaled_linear": its root linear in t (latent diffusion).
        "cosine": squared cosine of iDDPM (``squaredcos_cap_v2`` of diffusers). "sigmoid": abar logistic in t, from -3
        to 3 (denoising-diffusion-pytorch; diffusers' "sigmoid" is another).
    n_timesteps : int, optional
        Number of timesteps of the schedule; default 1000.
    beta_start, beta_end : float, optional
        Of "linear" (default 1e-4 and 0.02, times 1000 / n_timesteps, as iDDPM, ADM and denoising-diffusion-pytorch have
        it) and "scaled_linear" (default 0.00085 and 0.012). What is given is taken as it is.
    betas, alphas_cumprod : array-like (timestep,), optional
        The table itself, in place of a schedule: one of the two. `read_table` takes it from a checkpoint.
    zero_terminal_snr : bool
        Whether the schedule was rescaled to end in noise alone.
    scale, offset : float
        The network is given ``scale * t + offset``, t counted from 0: scale 1000 / n_timesteps for ADM's
        ``rescale_timesteps``, 1 / n_timesteps for times in [0, 1), offset 1 for steps counted from 1.
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
    scale: float = 1.0
    offset: float = 0.0

    _unusual: ClassVar[tuple[str, ...]] = ("scale", "offset")

    def __post_init__(self) -> None:
        self._set_positive("scale")
        self._set("offset", float(self.offset))
        if not math.isfinite(self.offset):
            raise ValueError(f"offset must be finite, not {self.offset}")
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
        self._set("n_timesteps", whole_timesteps(1000 if self.n_timesteps is None else self.n_timesteps))
        for field, usual in zip(("beta_start", "beta_end"), BETAS.get(self.schedule, (None, None)), strict=True):
            value = getattr(self, field)
            if usual is None and value is not None:
                raise ValueError(f"{field} belongs to the schedules {tuple(BETAS)}, not to {self.schedule!r}")
            if usual is not None:
                if self.schedule == "linear":
                    usual *= _USUAL_TIMESTEPS / (self.n_timesteps or _USUAL_TIMESTEPS)
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
        elif self.schedule == "sigmoid":
            betas = _sigmoid_betas(self.n_timesteps or 0)
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
        return self.offset, self.scale * (len(self._ratios) - 1.0) + self.offset

    def _level(self, ratio: float) -> Level:
        return preserving(ratio)

    def _time(self, ratio: float) -> float:
        return self.scale * float(np.interp(math.log(ratio), self._logs, self._steps)) + self.offset

    def _ratio(self, time: float) -> float:
        step = (time - self.offset) / self.scale
        # A whole timestep meets the table exactly, whatever scaling did to its last bits.
        if abs(step - round(step)) < 1e-9 * max(1.0, abs(step)):
            return float(self._ratios[min(max(round(step), 0), len(self._ratios) - 1)])
        return math.exp(np.interp(step, self._steps, self._logs))
