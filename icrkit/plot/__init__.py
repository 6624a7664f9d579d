"""Displays: they hold numbers and draw them; matplotlib is imported when one draws."""

from icrkit.plot._compare import ComparisonCurveDisplay, ComparisonMapDisplay
from icrkit.plot._neighbors import NeighborsDisplay
from icrkit.plot._sigma_curve import SigmaCurveDisplay
from icrkit.plot._spectrum import SpectrumDisplay

__all__ = [
    "ComparisonCurveDisplay",
    "ComparisonMapDisplay",
    "NeighborsDisplay",
    "SigmaCurveDisplay",
    "SpectrumDisplay",
]
