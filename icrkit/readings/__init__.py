"""What a curve says: decisions from numbers, with their uncertainty."""

from icrkit.readings._window import SemanticWindow

__all__ = ["SemanticWindow"]
