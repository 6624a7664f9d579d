"""Allocations that the machine cannot hold are refused before they are made."""

from __future__ import annotations

import builtins
import io
from typing import Any

import pytest

from icrkit.exceptions import CubeTooLargeError
from icrkit.io import _memory
from icrkit.io._memory import check_memory, free_bytes, words


def test_more_than_is_free_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "free_bytes", lambda: 2 * 10**9)
    check_memory(2 * 10**9, "layer 'mid'")
    with pytest.raises(CubeTooLargeError, match=r"layer 'mid' needs 160 PB and 2 GB are free; .*cube\.select") as error:
        check_memory(160 * 10**15, "layer 'mid'")
    assert isinstance(error.value, MemoryError) and isinstance(error.value, ValueError)


def test_what_is_free_is_what_the_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.open

    def meminfo(path: Any, *args: Any, **options: Any) -> Any:
        if path == "/proc/meminfo":
            return io.StringIO("MemTotal:       16000000 kB\nMemFree: 5 kB\nMemAvailable:    8000000 kB\n")
        return real(path, *args, **options)

    monkeypatch.setattr(builtins, "open", meminfo)
    assert free_bytes() == 8_000_000 * 1024


@pytest.mark.parametrize("text", [None, "", "MemAvailable: much\n"])
def test_without_that_all_memory_counts(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    def elsewhere(path: Any, *args: Any, **options: Any) -> Any:
        if text is None:
            raise FileNotFoundError(path)
        return io.StringIO(text)

    available = free_bytes()
    monkeypatch.setattr(builtins, "open", elsewhere)
    assert free_bytes() >= available > 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 KB"),
        (1_234_567, "1.23 MB"),
        (5 * 10**9, "5 GB"),
        (10**12, "1 TB"),
        (160 * 10**15, "160 PB"),
    ],
)
def test_sizes_for_a_person(size: int, text: str) -> None:
    assert words(size) == text
