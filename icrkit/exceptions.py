"""What can go wrong, by name.

Each error is also a built-in one (``ValueError``, ``OSError`` or ``ImportError``), so that code written for
scikit-learn or numpy catches it. A message names the file, the variable and the index, and the way out.
"""

from __future__ import annotations

from icrkit._text import printable

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


class _OneLine:
    """An error or warning whose text is safe in a terminal and in a log: names in it come out of anyone's files."""

    def __str__(self) -> str:
        return printable(super().__str__())


class CubeFormatError(_OneLine, ValueError):
    """Wrong dims, dtype, ids or configuration: the data do not have the shape of a cube."""


class CubeCorruptError(_OneLine, OSError):
    """Bytes on disk differ from those that were written."""


class CubeUnsafeError(_OneLine, ValueError):
    """A file asks the reader to look outside itself, or to load code."""


class CubeIncompleteError(_OneLine, ValueError):
    """Blocks are missing: extraction has not ended, or a part was removed."""


class CubeLockedError(_OneLine, BlockingIOError):
    """Another process is writing to the cube."""


class CubeTooLargeError(_OneLine, ValueError, MemoryError):
    """More memory would be needed than there is."""


class NotEnoughDataError(_OneLine, ValueError):
    """Too few images or views for the number asked for."""


class NonFiniteError(_OneLine, ValueError):
    """NaN or infinity among the features."""


class DegenerateFeaturesError(_OneLine, ValueError):
    """Constant features, or no residual at all."""


class IllConditionedError(_OneLine, ValueError):
    """The residual covariance is too close to singular for a result to mean anything."""


class NotComputedWarning(_OneLine, UserWarning):
    """A metric of a comparison is NaN; the message says why."""


class UnsafeModelError(_OneLine, ValueError):
    """A checkpoint or a model file would run code, or read outside its folder."""


class MissingDependencyError(_OneLine, ImportError):
    """An optional package is needed; the message gives the command that installs it."""
