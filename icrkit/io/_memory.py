"""Refuse an allocation that the machine cannot hold, before it is made."""

from __future__ import annotations

import os

from icrkit.exceptions import CubeCorruptError, CubeTooLargeError


def check_memory(n_bytes: int, what: str) -> None:
    """Raise CubeTooLargeError where n_bytes are more than the memory that is free."""
    free = free_bytes()
    if n_bytes > free:
        raise CubeTooLargeError(
            f"{what} needs {words(n_bytes)} and {words(free)} are free; take a slice of images, a level or a layer: "
            "cube.select(layer=..., sigma=...)[:1000]"
        )


def check_declared(declared: int, held: int, what: str) -> None:
    """Refuse what declares more bytes than it holds."""
    if declared > held:
        # Many times as much is an attack or a broken header, a little more is a copy that was cut short.
        error = CubeTooLargeError if declared > 4 * max(held, 1 << 20) else CubeCorruptError
        raise error(f"{what} declares {words(declared)} and holds {words(held)}")


def free_bytes() -> int:
    """Memory that can be had without swapping."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def words(n_bytes: int) -> str:
    """A size for a person."""
    size = float(n_bytes)
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"
