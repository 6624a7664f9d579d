"""Classes from a user's own checkout of research code, which no package has.

The code runs: it is the user's. What is kept from it is the process around it: its modules have names such as
``models`` or ``training``, which would hide others.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from icrkit.exceptions import MissingDependencyError
from icrkit_extractors._checkpoint import sha256_of
from icrkit_extractors.models._code_files import imported_files

__all__ = ["checkout", "code_of", "code_record"]

# Packages whose import name is not the one to install.
_INSTALLED_AS = {"distutils": "setuptools", "cv2": "opencv-python", "PIL": "pillow", "yaml": "pyyaml"}


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """The folder first on the path, its modules in place of others of their names, and all as it was afterwards."""
    tops = {child.stem for child in root.iterdir() if child.is_dir() or child.suffix == ".py"}

    def taken() -> dict[str, ModuleType]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in tops}

    before, path, silent = taken(), list(sys.path), sys.dont_write_bytecode
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True  # a checkout is not ours to write into
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for name in taken():
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:] = path
        sys.dont_write_bytecode = silent


@contextmanager
def checkout(code: str | Path | None, name: str, where: str) -> Iterator[Any]:
    """A module of a checkout, with the others it imports; at the end all of them leave ``sys.modules`` and the path.

    Parameters
    ----------
    code : path
        Folder of the checkout.
    name : str
        Dotted name of the module inside it.
    where : str
        Where the code is to be had, for messages.

    Yields
    ------
    module
        Its classes go on working afterwards; what makes objects of them belongs inside, as the code may then import.

    Raises
    ------
    ValueError
        If ``code`` is None.
    FileNotFoundError
        If there is no such folder or no such module in it.
    MissingDependencyError
        If the code imports a package that is not installed.
    """
    if code is None:
        raise ValueError(f"the class of this network is in its authors' code: give code=, your checkout of {where}")
    root = Path(code).resolve()
    file = root.joinpath(*name.split(".")).with_suffix(".py")
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file} (code is a checkout of {where})")
    with _alone(root):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            raise MissingDependencyError(
                f"{file} needs {missing}: pip install {_INSTALLED_AS.get(missing, missing)}"
            ) from error
        yield module


def _commit(root: Path) -> str | None:
    """The commit that is checked out, read from plain files: git itself may run what a repository tells it to."""
    try:
        head = (root / ".git" / "HEAD").read_text().strip()
        if (named := re.fullmatch(r"ref: (refs/[\w./-]+)", head)) is not None:
            loose, packed = root / ".git" / named[1], root / ".git" / "packed-refs"
            lines = [loose.read_text()] if loose.is_file() else packed.read_text().splitlines()
            head = next((line.split()[0] for line in lines if loose.is_file() or line.endswith(f" {named[1]}")), "")
    except (OSError, UnicodeDecodeError, IndexError):
        return None
    return head if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", head) else None


def code_record(code: str | Path, module: ModuleType) -> dict[str, Any]:
    """What identifies a module of a checkout, for the attributes of a cube.

    Parameters
    ----------
    code : path
        Folder of the checkout.
    module : module
        As `checkout` gives it.

    Returns
    -------
    dict
        ``code_sha256``, the digest of the module's file; ``code_files``, those of the files that it imports from the
        folder, where there are any; and ``code_commit`` where the folder is a git repository.
    """
    return code_of([Path(code)], Path(str(module.__file__)))


def code_of(roots: Sequence[Path], file: Path) -> dict[str, Any]:
    """As `code_record`, of a file and the folders that it imports from; the commit is that of the first."""
    files = imported_files(file, roots)
    commit = next(filter(None, map(_commit, roots)), None)
    return {
        "code_sha256": sha256_of(file),
        **({"code_files": files} if files else {}),
        **({"code_commit": commit} if commit else {}),
    }
