"""Ctrl-C promises to go on only where the same command does."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from icrkit.cli import main


@pytest.mark.parametrize("options", [[], ["--moments-only"]])
def test_what_an_interrupt_says(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("icrkit_extractors.cli._pairs", interrupted)
    place = str(tmp_path / "out")
    arguments = ["--family", "onnx", "--model", "x.onnx", "--images", place, "--sigmas", "1", "--out", place, *options]
    result = CliRunner().invoke(main, ["extract", *arguments])
    assert result.exit_code == 130, result.output
    assert ("the same command goes on" in result.output) is (not options)
