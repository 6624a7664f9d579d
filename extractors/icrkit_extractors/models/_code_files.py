"""The files of a user's code that a network is made by: the named one, and all that it imports from its own folder.

They are found in the text of the files, not among the modules of the process, so that the answer is the same whatever
else was imported before.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from icrkit_extractors._checkpoint import sha256_of

__all__ = ["imported_files"]

# A folder with more is not the code of one network.
_MOST_FILES = 2000
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")


def imported_files(main: Path, roots: Sequence[Path]) -> dict[str, str]:
    """Digests of the files that a file imports from some folders, those that they import among them.

    Parameters
    ----------
    main : Path
        A file of Python.
    roots : sequence of Path
        Folders that are imported from; what lies elsewhere is a package, which has a version.

    Returns
    -------
    dict
        Path inside its folder to the sha256 of the file, sorted; without the file itself.
    """
    roots = [root.resolve() for root in roots]
    main = main.resolve()
    seen: dict[Path, str] = {main: ""}
    waiting = [main]
    while waiting and len(seen) < _MOST_FILES:
        path = waiting.pop()
        for found, name in _imports(path, roots):
            if found not in seen:
                seen[found] = name
                waiting.append(found)
    del seen[main]
    return {name: sha256_of(path) for path, name in sorted(seen.items(), key=lambda item: item[1])}


def _imports(path: Path, roots: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Files that one file imports, and their paths inside the folder."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # the import itself has said so
    for node in ast.walk(tree):
        if (name := _text_of_import(node)) is not None:
            for root in roots:
                yield from _files(root, root, name.split("."))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                for root in roots:
                    yield from _files(root, root, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            for root in roots:
                if node.level:
                    if not path.is_relative_to(root):
                        continue
                    base = path.parents[min(node.level, len(path.parents)) - 1]
                else:
                    base = root
                # What is imported from a package may be a module of it.
                for alias in node.names:
                    yield from _files(root, base, [*parts, alias.name])


def _text_of_import(node: ast.AST) -> str | None:
    """A dotted name in a string, as configurations have it, or the string that an import is called with."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and _DOTTED.fullmatch(node.value):
        return node.value
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        text = node.args[0].value
        if called in ("import_module", "__import__") and isinstance(text, str) and text.isidentifier():
            return text
    return None


def _files(root: Path, base: Path, parts: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """The packages on the way to a module, and the module, as far as they are files."""
    for n in range(len(parts) + 1):
        place = base.joinpath(*parts[:n])
        for path in (
            (place / "__init__.py",) if n == 0 else (place / "__init__.py", place.with_name(f"{place.name}.py"))
        ):
            if path.is_file() and path.resolve().is_relative_to(root):
                yield path.resolve(), path.relative_to(root).as_posix()
