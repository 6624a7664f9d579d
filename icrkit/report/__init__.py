"""One HTML page from the result of a sweep.

Examples
--------
>>> from icrkit.report import Sweep, write_report
"""

from icrkit.report._page import Examples, write_report
from icrkit.report._sweep import Sweep

__all__ = ["Examples", "Sweep", "write_report"]
