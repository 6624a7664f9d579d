"""Damaged files end in one clear error, or in the right values."""

from __future__ import annotations

import pytest

from .mutate import FAULTS, KINDS, run

pytest.importorskip("torch")


def _check(kind: str, count: int) -> None:
    said: list[tuple[object, ...]] = []
    counts = run(kind, count, report=lambda *words: said.append(words))
    assert counts.total() == count
    assert not {fault: counts[fault] for fault in FAULTS if counts[fault]}, said


@pytest.mark.parametrize("kind", KINDS)
def test_some_mutants(kind: str) -> None:
    _check(kind, 15)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutants(kind: str) -> None:
    _check(kind, 480)
