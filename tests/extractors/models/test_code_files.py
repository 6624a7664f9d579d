"""All files of the user's own that a network imports decide whether a store is continued."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from icrkit.exceptions import CubeFormatError
from icrkit_extractors import extract, noise, views
from icrkit_extractors.models import load
from icrkit_extractors.models._code_files import imported_files

FILES = {
    "net.py": "import torch\nfrom parts import layers\nfrom parts.widths import WIDTH\n"
    "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.flat, self.last = torch.nn.Flatten(), layers.Scale(WIDTH)\n"
    "    def forward(self, x):\n        return self.last(self.flat(x))\n",
    "parts/__init__.py": "",
    "parts/layers.py": "import torch\nfrom .deep import SCALE\nclass Scale(torch.nn.Module):\n"
    "    def __init__(self, width):\n        super().__init__()\n"
    "    def forward(self, x):\n        return x * SCALE\n",
    "parts/deep.py": "SCALE = 1.0\n",
    "parts/widths.py": "WIDTH = 4\n",
    "unused.py": "x = 1\n",
    "broken.py": "def (",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_files_that_are_imported_from_the_folder(folder):
    found = imported_files(folder / "net.py", [folder])
    assert list(found) == ["parts/__init__.py", "parts/deep.py", "parts/layers.py", "parts/widths.py"]
    assert found["parts/deep.py"] == hashlib.sha256(FILES["parts/deep.py"].encode()).hexdigest()
    assert imported_files(folder / "unused.py", [folder]) == imported_files(folder / "broken.py", [folder]) == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import importlib\nx = importlib.import_module('unused').x\n", ["unused.py"]),
        ("x = __import__('unused').x\n", ["unused.py"]),
        # As configurations name classes.
        ("target = {'target': 'parts.deep.SCALE'}\n", ["parts/__init__.py", "parts/deep.py"]),
        ("text = 'unused', 'a sentence. And parts.deep.', 'parts/deep.py'\n", []),
    ],
)
def test_files_that_are_imported_by_a_string(folder, text, found):
    (folder / "main.py").write_text(text)
    assert list(imported_files(folder / "main.py", [folder])) == found


def test_circles_end(folder):
    (folder / "a.py").write_text("import b\n")
    (folder / "b.py").write_text("import a, b, unused, json, no_such_module\n")
    assert list(imported_files(folder / "a.py", [folder])) == ["b.py", "unused.py"]


def test_a_changed_import_is_refused_by_name(folder, tmp_path_factory):
    images = np.random.default_rng(0).uniform(-1, 1, (8, 1, 4, 4)).astype(np.float32)
    out = tmp_path_factory.mktemp("out") / "a.cube"
    settings = {"noise": noise.Clean(), "views": views.Unchanged(), "n_views": 1, "progress": False, "out": out}

    def record():
        return load("module", "net:Net", code=folder).record

    assert "parts/deep.py" in record()["code_files"] and record()["code_sha256"]
    extract(load("module", "net:Net", code=folder).source("last"), images, [0.0], **settings)
    (folder / "parts" / "deep.py").write_text("SCALE = 1.0  # the same, and who knows\n")
    with pytest.raises(CubeFormatError, match=r"parts/deep\.py"):
        extract(load("module", "net:Net", code=folder).source("last"), images, [0.0], **settings)
