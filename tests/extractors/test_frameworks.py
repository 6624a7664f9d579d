"""Packages that are missing, and packages that do not fit one another."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from icrkit.exceptions import MissingDependencyError
from icrkit_extractors._frameworks import importing


def test_a_missing_package_is_named_with_its_command() -> None:
    with pytest.raises(MissingDependencyError, match=r"^networks need it: pip install x$"):  # noqa: SIM117
        with importing("no_such_package", "networks need it: pip install x"):
            import no_such_package  # noqa: F401


def test_a_package_that_does_not_fit_another_says_which_error_came_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers does where torchvision is that of another torch: an error, about one, about one."""
    (tmp_path / "vision_x.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / "encoders_x.py").write_text(
        "def __getattr__(name):\n"
        "    try:\n"
        "        import vision_x\n"
        "    except RuntimeError as error:\n"
        "        raise ModuleNotFoundError(f'Could not import module {name!r}.') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = r"^encoders_x is installed, and cannot be imported here: RuntimeError: operator torchvision::nms does not"
    with pytest.raises(MissingDependencyError, match=words):  # noqa: SIM117
        with importing("encoders_x", "pip install x"):
            from encoders_x import Encoder  # noqa: F401
    sys.modules.pop("encoders_x")


def test_what_goes_well_goes_on() -> None:
    with importing("json", "pip install json"):
        import json
    assert json.dumps(1) == "1"
