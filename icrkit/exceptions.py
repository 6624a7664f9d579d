"""What can go wrong, by name.

Each error is also a built-in one (``ValueError``, ``OSError`` or ``ImportError``), so that code written for
scikit-learn or numpy catches it. A message names the file, the variable and the index, and the way out.
"""

from __future__ import annotations

__all__ = [
    "CubeCorruptError",
    "CubeFormatError",
    "CubeIncompleteError",
    "CubeLockedError",
    "CubeTooLargeError",
    "CubeUnsafeError",
    "DegenerateFeaturesError",
    "IllConditionedError",
    "MissingDependencyError",
    "NonFiniteError",
    "NotComputedWarning",
    "NotEnoughDataError",
    "UnsafeModelError",
]


class CubeFormatError(ValueError):
    """Wrong dims, dtype, ids or configuration: the data do not have the shape of a cube."""


class CubeCorruptError(OSError):
    """Bytes on disk differ from those that were written."""


class CubeUnsafeError(ValueError):
    """A file asks the reader to look outside itself, or to load code."""


class CubeIncompleteError(ValueError):
    """Blocks are missing: extraction has not ended, or a part was removed."""


class CubeLockedError(BlockingIOError):
    """Another process is writing to the cube."""


class CubeTooLargeError(ValueError, MemoryError):
    """More memory would be needed than there is."""


class NotEnoughDataError(ValueError):
    """Too few images or views for the number asked for."""


class NonFiniteError(ValueError):
    """NaN or infinity among the features."""


class DegenerateFeaturesError(ValueError):
    """Constant features, or no residual at all."""


class IllConditionedError(ValueError):
    """The residual covariance is too close to singular for a result to mean anything."""


class NotComputedWarning(UserWarning):
    """A metric of a comparison is NaN; the message says why."""


class UnsafeModelError(ValueError):
    """A checkpoint or a model file would run code, or read outside its folder."""


class MissingDependencyError(ImportError):
    """An optional package is needed; the message gives the command that installs it."""
