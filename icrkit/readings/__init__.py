"""What a curve says: decisions from numbers, with their uncertainty."""

from icrkit.readings._compare import compare, paired_tests, rank_correlation
from icrkit.readings._course import TrainingCourse, find_turn
from icrkit.readings._difference import Difference, paired_difference
from icrkit.readings._monitor import ICRMonitor, MonitorState
from icrkit.readings._sample_size import SampleSize, sample_size, sample_size_curve
from icrkit.readings._window import SemanticWindow

__all__ = [
    "Difference",
    "ICRMonitor",
    "MonitorState",
    "SampleSize",
    "SemanticWindow",
    "TrainingCourse",
    "compare",
    "find_turn",
    "paired_difference",
    "paired_tests",
    "rank_correlation",
    "sample_size",
    "sample_size_curve",
]
