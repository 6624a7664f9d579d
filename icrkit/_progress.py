"""Progress bars: for a person who watches, not for a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

__all__ = ["progress_bar"]


def progress_bar(progress: bool, total: int | None, desc: str, unit: str, initial: int = 0) -> Any:
    """A bar on standard error, where that is a terminal or a notebook; elsewhere it shows nothing.

    A log would get a line for every update, hundreds in a run.

    Parameters
    ----------
    progress : bool
        False shows nothing anywhere.
    total : int or None
        Number of units, where it is known.
    initial : int
        Units that are done.
    desc, unit : str

    Returns
    -------
    tqdm
    """
    # A notebook's stream is not a terminal.
    watched = "ipykernel" in sys.modules or bool(getattr(sys.stderr, "isatty", lambda: False)())
    return tqdm(total=total, initial=initial, desc=desc, unit=unit, disable=not (progress and watched))
