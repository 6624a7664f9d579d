"""The demos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import icrkit as ik

Run = Callable[..., Result]
Check = Callable[..., None]


def test_demo_hands_over(icrkit: Run, monkeypatch: pytest.MonkeyPatch, store: Path, tmp_path: Path) -> None:
    from icrkit.demo import DemoResult
    from icrkit.report import Sweep

    seen: dict[str, Any] = {}

    def run_demo(out: str, **options: Any) -> DemoResult:
        seen.update(out=out, **options)
        return DemoResult(Sweep.of(ik.open_cube(store)), {"report": Path(out) / "report.html"})

    monkeypatch.setattr("icrkit.demo.run_demo", run_demo)
    result = icrkit("demo", "--out", tmp_path, "--quiet")
    assert result.exit_code == 0 and str(tmp_path / "report.html") in result.stdout
    assert seen == {"out": str(tmp_path), "progress": False}
    assert json.loads(icrkit("demo", "--json").stdout)["best_sigma"] == 0.1
    assert seen == {"out": "icrkit-demo", "progress": True}
