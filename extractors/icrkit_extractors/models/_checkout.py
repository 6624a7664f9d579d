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
from typing import Any, NamedTuple

from icrkit.exceptions import MissingDependencyError
from icrkit_extractors._checkpoint import sha256_of
from icrkit_extractors.models._code_files import imported_files

__all__ = ["checkout", "code_of", "code_record", "importable"]

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


class _Left(NamedTuple):
    """A module that a network of the user's own code left in sys.modules, and the digest of its file."""

    module: ModuleType
    sha256: str


# Such a network may import more of its code when it runs.
_left: dict[str, _Left] = {}


def _home(module: ModuleType) -> Path | None:
    """Where a module lies; None for one that is no file."""
    place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return Path(place).resolve() if isinstance(place, str) else None


def _sha256(module: ModuleType) -> str:
    home = _home(module)
    return sha256_of(home) if home is not None and home.is_file() else ""


def _forget_changed(root: Path) -> None:
    """Take a folder's modules out of sys.modules where one of their files is no longer what was imported."""
    own = {name: left for name, left in _left.items() if (home := _home(left.module)) and home.is_relative_to(root)}
    if any(_sha256(left.module) != left.sha256 for left in own.values()):
        for name, left in own.items():
            del _left[name]
            if sys.modules.get(name) is left.module:
                del sys.modules[name]


def _in_the_way(root: Path) -> dict[str, ModuleType]:
    """Modules of other folders that stand for the names of this one's; packages that are installed stay."""
    own = {child.stem for child in root.iterdir() if child.suffix == ".py" or (child / "__init__.py").is_file()}
    own |= {top for name in _left if (root / (top := name.partition(".")[0])).is_dir()}
    found = {}
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        home = _home(module) if top in own and top not in sys.stdlib_module_names else None
        installed = home is not None and {"site-packages", "dist-packages"} & set(home.parts)
        if home is not None and not installed and not home.is_relative_to(root):
            found[name] = module
    return found


@contextmanager
def importable(folder: Path | None, first: bool = True) -> Iterator[None]:
    """A folder on the import path, whose modules come before others of their names that were imported earlier.

    Parameters
    ----------
    folder : path or None
        None does nothing.
    first : bool
        Whether it comes before all others, or after them.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    if folder is None:
        yield
        return
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    root = folder.resolve()
    _forget_changed(root)
    hidden = _in_the_way(root)
    strangers = {name for name, module in hidden.items() if name not in _left or _left[name].module is not module}
    for name in hidden:
        del sys.modules[name]
    before, path, silent = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    # Bytecode would hide a change within the second in which it was written.
    sys.dont_write_bytecode = True
    sys.path.insert(0 if first else len(path), str(root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, silent
        for name, module in hidden.items():
            sys.modules.pop(name, None)
            _left.pop(name, None)
            # Of two folders with modules of one name neither stays: a network that imports them late must not get the
            # other's.
            if name in strangers:
                sys.modules[name] = module
        for name, module in list(sys.modules.items()):
            home = _home(module) if name not in before and name not in hidden else None
            if home is not None and home.is_relative_to(root):
                _left[name] = _Left(module, _sha256(module))


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
