"""What a curve says: decisions from numbers, with their uncertainty."""

from icrkit.readings._compare import compare, paired_tests, rank_correlation
from icrkit.readings._window import SemanticWindow

__all__ = ["SemanticWindow", "compare", "paired_tests", "rank_correlation"]
