"""Displays: they hold numbers and draw them; matplotlib is imported when one draws."""

from icrkit.plot._sigma_curve import SigmaCurveDisplay
from icrkit.plot._spectrum import SpectrumDisplay

__all__ = ["SigmaCurveDisplay", "SpectrumDisplay"]
