"""Who imports whom: the syntax trees of both packages, the modules that are loaded, and the tests that mirror them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KIT, EXTRACTORS = ROOT / "icrkit", ROOT / "extractors" / "icrkit_extractors"

# What each part of icrkit may import of icrkit when it is imported. A new file or folder finds its place here.
BELOW: dict[str, set[str]] = {"exceptions": {"_text"}, "linalg": set(), "_progress": set(), "_surface": set()}
BELOW |= {"_signals": set(), "_text": set()}
BELOW["_arrays"] = {"exceptions"}
BELOW |= {"_image_sample": set(), "_repeats": set(), "_swapped": set(), "_variation": set()}
BELOW["_contract"] = {"exceptions", "_arrays", "_text"}
BELOW["_rows"] = {"exceptions", "_arrays", "_contract"}
BELOW["cube"] = {"exceptions", "linalg", "_arrays", "_rows", "_contract", "_swapped"}
BELOW["io"] = BELOW["cube"] | {"cube", "_text"}
BELOW["moments"] = {"exceptions", "linalg", "_image_sample", "_variation", "_features"}
BELOW["_shuffled"] = {"linalg"}
BELOW["_features"] = {"exceptions", "cube", "_arrays", "_contract", "_rows", "_shuffled", "_swapped"}
BELOW["select"] = {"exceptions", "cube", "_arrays", "_features"}
BELOW["datasets"] = {"exceptions", "cube", "io"}
BELOW["backends"] = BELOW["_features"] | {"linalg", "_features", "_image_sample", "_repeats", "_variation", "moments"}
BELOW["metrics"] = BELOW["backends"] | {"backends"}
BELOW["readings"] = BELOW["metrics"] | {"metrics", "io", "_progress", "_text"}  # a monitor saves itself
BELOW["plot"] = BELOW["readings"] | {"readings"}
BELOW["report"] = BELOW["plot"] | {"plot", "_text"}
BELOW["demo"] = BELOW["report"] | {"report", "io", "datasets", "select"}
BELOW["demo_training"] = BELOW["demo"]
BELOW["cli"] = BELOW["demo"] | {"demo", "demo_training", "__init__", "_surface", "_signals", "_text"}
BELOW["__main__"] = {"cli", "_signals"}
BELOW["__init__"] = set(BELOW) - {"cli", "demo", "demo_training", "__main__"}

# What may be imported against that direction, inside a function, when it is called: the value that saves itself and
# asks for a pass.
LATE: dict[str, set[str]] = {"moments": {"backends", "io"}, "cube": {"io"}}

HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "timm",
    "accelerate",
    "lightning",
    "pytorch_lightning",
    "onnxruntime",
    "onnx",
    "dask",
    "distributed",
    "matplotlib",
    "jinja2",
    "pandas",
    "icrkit_extractors",
}
# These parts are about a heavy package, and nothing that icrkit itself imports may import them unless they are lazy:
# the subprocess test holds that.
MAY_BE_HEAVY = {"cli", "demo", "demo_training", "plot", "report"}


def imports(path: Path, package: str) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it is imported when the module is) of every import statement of a file."""
    tree = ast.parse(path.read_text(), str(path))
    parts = (package, *path.relative_to(KIT if package == "icrkit" else EXTRACTORS).with_suffix("").parts)
    late = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _type_checking(node)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in late
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join((*parts[: len(parts) - node.level], *([base] if base else [])))
            for alias in node.names:
                yield f"{base}.{alias.name}", node not in late


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def unit_of(path: Path) -> str:
    """The file or folder of icrkit that a file belongs to."""
    first = path.relative_to(KIT).parts[0]
    return first.removesuffix(".py")


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize("path", modules(KIT), ids=lambda p: str(p.relative_to(ROOT)))
def test_icrkit_imports_downwards(path):
    unit = unit_of(path)
    assert unit in BELOW, f"{unit} has no place in the layers: say in this test what it may import"
    wrong = []
    for name, now in imports(path, "icrkit"):
        top, *rest = name.split(".")
        if top != "icrkit" or (name == "icrkit.__version__" and not now):
            continue
        target = rest[0] if rest and rest[0] in BELOW else "__init__"
        allowed = BELOW[unit] | {unit} if now else BELOW[unit] | {unit} | LATE.get(unit, set())
        if target not in allowed:
            wrong.append(f"{name} ({'on import' if now else 'in a function'})")
    assert not wrong, f"{unit} must not import {wrong}"


@pytest.mark.parametrize("path", modules(KIT), ids=lambda p: str(p.relative_to(ROOT)))
def test_icrkit_loads_no_heavy_package(path):
    unit = unit_of(path)
    for name, now in imports(path, "icrkit"):
        top = name.split(".")[0]
        if top == "icrkit_extractors":
            assert not now and unit in {"cli", "demo", "demo_training"}, f"{unit} imports {name}"
        elif top in HEAVY and now:
            assert unit in MAY_BE_HEAVY, f"{unit} imports {name} when it is imported"
        elif top == "torch":
            # A tensor exists only where torch was imported by somebody else: sys.modules has it. A file of tensors does
            # not come with it.
            readers = (KIT / "io" / "_tensors.py", KIT / "io" / "_torch_file.py")
            assert path in readers, f"{unit} imports {name}: look in sys.modules instead"


@pytest.mark.parametrize("path", modules(EXTRACTORS), ids=lambda p: str(p.relative_to(ROOT)))
def test_extractors_know_of_icrkit_only_the_cube_and_its_file(path):
    # Moments are handed over where features are not kept.
    more = {"_destinations.py": {"_progress"}, "_to_moments.py": {"moments", "_text"}, "cli.py": {"_surface", "_text"}}
    # Files of images and of weights are as strange as files of features, and pass the same guards.
    files = {
        "_checkpoint.py": {"_torch_file"},
        "_image_arrays.py": {"_memory", "_numpy"},
        "_pickled_network.py": {"_torch_file"},
        "_image_containers.py": {"_hdf5", "_memory", "_parsing", "_zarr"},
    }
    guards = files.get(path.name, set())
    allowed = {"cube", "io", "exceptions"} | more.get(path.name, set())
    for name, _ in imports(path, "icrkit_extractors"):
        top, *rest = name.split(".")
        if top == "icrkit":
            assert rest and rest[0] in allowed, f"{path.name} imports {name}"
            assert {part for part in rest[1:] if part.startswith("_")} <= guards, f"{path.name} imports {name}"


def test_the_walk_sees_imports_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "KIT", tmp_path)
    (tmp_path / "metrics").mkdir()
    path = tmp_path / "metrics" / "_x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nimport a.b, c\nfrom . import d\nfrom ..cube import e\n"
        "if TYPE_CHECKING:\n    import f\ntry:\n    import g\nexcept ImportError:\n    g = None\n"
        "class H:\n    import i\n    def j(self):\n        from k import l\n"
    )
    assert set(imports(path, "icrkit")) == {
        ("typing.TYPE_CHECKING", True),
        ("a.b", True),
        ("c", True),
        ("icrkit.metrics.d", True),
        ("icrkit.cube.e", True),
        ("f", False),
        ("g", True),
        ("i", True),
        ("k.l", False),
    }


# ---- what is loaded -------------------------------------------------------------------------------------------------


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_icrkit_loads_nothing_heavy():
    # xarray and scikit-learn load pandas themselves; the rest must wait until it is asked for.
    assert not loaded_after("import icrkit") & (HEAVY - {"pandas"})


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["sweep", "--help"]])
def test_what_needs_no_data_loads_no_scientific_package(arguments):
    """`icrkit --version` took two seconds, all of them imports."""
    statement = f"import icrkit.cli\ntry:\n    icrkit.cli.main({arguments})\nexcept SystemExit:\n    pass"
    scientific = {"numpy", "scipy", "sklearn", "pandas", "xarray", "h5py", "h5netcdf", "tqdm"}
    assert not loaded_after(statement) & (HEAVY | scientific)


def test_every_public_name_is_where_it_is_looked_for():
    import icrkit

    assert [name for name in icrkit.__all__ if not hasattr(icrkit, name)] == []
    assert set(icrkit.__all__) <= set(dir(icrkit))
    with pytest.raises(AttributeError, match="no attribute 'utils'"):
        _ = icrkit.utils
    with pytest.raises(ImportError):
        exec("from icrkit import utils")


def test_a_fit_from_an_array_loads_nothing_heavy():
    statement = (
        "import numpy as np, warnings, icrkit\nwarnings.simplefilter('ignore')\n"
        "icrkit.ICREstimator().fit(np.random.default_rng(0).standard_normal((60, 2, 3)))"
    )
    assert not loaded_after(statement) & (HEAVY - {"pandas"})


# ---- names and mirrors ----------------------------------------------------------------------------------------------

# Files whose behaviour is held by the tests of what they serve.
HELD_ELSEWHERE = {
    "icrkit/__main__.py",
    "icrkit/_contract.py",  # cube.py
    "icrkit/_rows.py",  # cube.py
    "icrkit/io/_probe_child.py",  # a script that _probe.py runs
    "icrkit/metrics/_base.py",  # test_common.py, and every metric
}


def test_every_source_file_has_a_test_file_of_the_same_name():
    missing = []
    for package, where in ((KIT, ROOT / "tests"), (EXTRACTORS, ROOT / "tests" / "extractors")):
        for path in modules(package):
            if path.name == "__init__.py" or str(path.relative_to(ROOT)) in HELD_ELSEWHERE:
                continue
            folder = where / path.relative_to(package).parent
            test = folder / f"test_{path.stem.lstrip('_')}.py"
            if not test.exists():
                missing.append(f"{path.relative_to(ROOT)} -> {test.relative_to(ROOT)}")
    assert not missing, "no test file for:\n" + "\n".join(missing)


def test_what_is_held_elsewhere_exists_and_has_no_test_file():
    for name in HELD_ELSEWHERE - {"icrkit/__main__.py"}:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", ["utils", "helpers", "common", "misc", "core"])
def test_no_file_is_called_after_nothing(name):
    found = [p for folder in (KIT, EXTRACTORS) for p in modules(folder) if p.stem.strip("_") == name]
    assert not found
