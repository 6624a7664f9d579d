"""Files of torch.save, read so that nothing in them is run, and torch's words about what it does not read."""

from __future__ import annotations

import re
import warnings
from typing import Any

__all__ = ["load_tensors", "reason"]


def load_tensors(source: Any, mmap: bool = False) -> Any:
    """What torch saved: tensors and plain containers of them; ``torch.load(weights_only=True)`` refuses all else."""
    import torch

    with warnings.catch_warnings():
        # Of a pickle that torch did not write, it says to report to its authors that they do not read it.
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)


def reason(error: Exception) -> str:
    """What torch found, without its advice to load the file all the same."""
    text = str(error)
    named = re.search(r"GLOBAL ([\w.]+)", text)
    if named:
        return f"it names {named[1]}"
    return text.rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0]
