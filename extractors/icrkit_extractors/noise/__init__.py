"""Noise laws: from a clean image, a standard normal draw and a level to what the network takes.

A level is the pair (alpha, sigma) in alpha * x0 + sigma * noise, never a model's own time. Levels of all laws are asked
for on one axis, the noise-to-signal ratio sigma / alpha: sqrt((1 - abar) / abar) of a DDPM timestep, t / (1 - t) of a
straight flow, sigma itself of EDM. A law is any object with the three methods of `NoiseLaw`.
"""

from __future__ import annotations

from collections.abc import Callable

from icrkit_extractors.noise._additive import EDM, VE, Additive
from icrkit_extractors.noise._clean import Clean
from icrkit_extractors.noise._flow import Flow, SiT
from icrkit_extractors.noise._law import Level, NoiseLaw
from icrkit_extractors.noise._preserving import VP
from icrkit_extractors.noise._scheduler import from_scheduler
from icrkit_extractors.noise._table import DDPM
from icrkit_extractors.noise._table_file import ddpm, read_table

__all__ = [
    "DDPM",
    "EDM",
    "VE",
    "VP",
    "Additive",
    "Clean",
    "Flow",
    "Level",
    "NoiseLaw",
    "SiT",
    "from_scheduler",
    "read_table",
]

# Laws by the names that options and command lines give them.
LAWS: dict[str, Callable[..., NoiseLaw]] = {
    law.__name__.lower(): law for law in (EDM, VP, VE, Additive, ddpm, Flow, SiT, Clean)
}
