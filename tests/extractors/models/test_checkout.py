"""Code from a checkout is imported by itself, and the process is as before."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path

import pytest

from icrkit.exceptions import MissingDependencyError
from icrkit_extractors.models._checkout import checkout, code_record

WHERE = "https://example.org/code"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout whose modules import each other by the names they have at its top."""
    root = tmp_path / "code"
    (root / "training").mkdir(parents=True)
    (root / "training" / "__init__.py").touch()
    (root / "training" / "networks.py").write_text(
        "from lonely_tools import double\nimport training.parts\n"
        "class Net:\n"
        "    def __init__(self):\n        import lonely_tools as late\n        self.late = late.double(2)\n"
        "    def forward(self):\n        return double(training.parts.number)\n"
    )
    (root / "training" / "parts.py").write_text("number = 21\n")
    (root / "lonely_tools.py").write_text("def double(x):\n    return 2 * x\n")
    return root


def test_imports_what_lies_beside_it(folder):
    with checkout(folder, "training.networks", WHERE) as module:
        net = module.Net()
    assert net.late == 4
    assert net.forward() == 42


def test_the_process_is_as_before(folder, monkeypatch):
    mine = types.ModuleType("training")
    monkeypatch.setitem(sys.modules, "training", mine)
    path, silent = list(sys.path), sys.dont_write_bytecode
    for _ in range(2):
        with checkout(folder, "training.networks", WHERE):
            assert sys.modules["training"] is not mine
        assert sys.modules["training"] is mine
        assert not {"training.networks", "training.parts", "lonely_tools"} & set(sys.modules)
        assert sys.path == path and sys.dont_write_bytecode == silent
    assert not list(folder.rglob("__pycache__"))


def test_the_process_is_as_before_after_an_error(folder):
    (folder / "training" / "parts.py").write_text("raise RuntimeError('broken')\n")
    path = list(sys.path)
    with pytest.raises(RuntimeError, match="broken"), checkout(folder, "training.networks", WHERE):
        pass
    assert sys.path == path and "training" not in sys.modules


def test_two_checkouts_do_not_mix(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "lonely_tools.py").write_text("def double(x):\n    return 0\n")
    with checkout(other, "lonely_tools", WHERE) as module:
        zero = module.double
    with checkout(folder, "lonely_tools", WHERE) as module:
        assert module.double(3) == 6 and zero(3) == 0


def test_errors_say_what_to_do(folder, tmp_path):
    with pytest.raises(ValueError, match=r"give code=, your checkout of https://example\.org/code"):
        checkout(None, "models", WHERE).__enter__()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*models\.py \(code is a checkout of https://ex"):
        checkout(folder, "models", WHERE).__enter__()
    (folder / "training" / "parts.py").write_text("import distant_planet.moon\n")
    with pytest.raises(MissingDependencyError, match=r"networks\.py needs distant_planet: pip install distant_planet"):
        checkout(folder, "training.networks", WHERE).__enter__()


class TestCodeRecord:
    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def record(self, folder: Path) -> dict[str, str]:
        with checkout(folder, "lonely_tools", WHERE) as module:
            return code_record(folder, module)

    def test_no_repository(self, folder):
        digest = hashlib.sha256((folder / "lonely_tools.py").read_bytes()).hexdigest()
        assert self.record(folder) == {"code_sha256": digest}

    @pytest.mark.parametrize("how", ["detached", "loose", "packed"])
    def test_commit(self, folder, how):
        git = folder / ".git"
        (git / "refs" / "heads").mkdir(parents=True)
        (git / "HEAD").write_text(f"{self.COMMIT}\n" if how == "detached" else "ref: refs/heads/main\n")
        if how == "loose":
            (git / "refs" / "heads" / "main").write_text(f"{self.COMMIT}\n")
        if how == "packed":
            text = f"# pack-refs with: peeled\n{'f' * 40} refs/heads/not-main\n{self.COMMIT} refs/heads/main\n"
            (git / "packed-refs").write_text(text)
        assert self.record(folder)["code_commit"] == self.COMMIT

    @pytest.mark.parametrize("head", ["", "ref: refs/heads/none", "ref: ../../secret", "not a commit", "\xff"])
    def test_what_is_no_commit_is_left_out(self, folder, head):
        (folder / ".git").mkdir()
        (folder / "secret").write_text("secret")
        (folder / ".git" / "HEAD").write_text(head, encoding="latin-1")
        assert "code_commit" not in self.record(folder)
