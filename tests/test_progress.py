"""Bars: seen on a terminal and in a notebook, silent in a log."""

from __future__ import annotations

import sys

import pytest

from icrkit._progress import progress_bar


@pytest.mark.parametrize(
    ("progress", "terminal", "notebook", "seen"),
    [
        (True, True, False, True),
        (True, False, True, True),
        (True, False, False, False),
        (False, True, False, False),
        (False, False, True, False),
    ],
)
def test_a_bar_is_for_somebody_who_watches(monkeypatch, capsys, progress, terminal, notebook, seen):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with progress_bar(progress, 4, "extract", "img", initial=1) as bar:
        for _ in range(3):
            bar.update()
    out, err = capsys.readouterr()
    assert out == ""
    assert ("4/4" in err and "extract" in err) if seen else err == ""


def test_a_process_without_standard_error_runs(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with progress_bar(True, None, "course", "checkpoint") as bar:
        bar.update()
