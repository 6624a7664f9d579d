"""Displays: they hold numbers and draw them; matplotlib is imported when one draws."""

from icrkit.plot._compare import ComparisonCurveDisplay, ComparisonMapDisplay
from icrkit.plot._copies import CopiesDisplay
from icrkit.plot._course import CourseDisplay, ExpansionDisplay
from icrkit.plot._neighbors import NeighborsDisplay
from icrkit.plot._sample_size import SampleSizeDisplay
from icrkit.plot._sigma_curve import SigmaCurveDisplay
from icrkit.plot._spectrum import SpectrumDisplay

__all__ = [
    "ComparisonCurveDisplay",
    "ComparisonMapDisplay",
    "CopiesDisplay",
    "CourseDisplay",
    "ExpansionDisplay",
    "NeighborsDisplay",
    "SampleSizeDisplay",
    "SigmaCurveDisplay",
    "SpectrumDisplay",
]
