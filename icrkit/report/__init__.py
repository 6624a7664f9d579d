"""One HTML page from a result: of a sweep over noise levels, or of a training course.

Examples
--------
>>> from icrkit.report import Course, Sweep, write_report
"""

from icrkit.report._course import Course, Series
from icrkit.report._page import Examples, Samples, write_report
from icrkit.report._sweep import Sweep

__all__ = ["Course", "Examples", "Samples", "Series", "Sweep", "write_report"]
