"""What parsers raise for a damaged or hostile file, as errors that name the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from icrkit import exceptions

__all__ = ["parse_json", "parsing"]

_OURS = tuple(getattr(exceptions, name) for name in exceptions.__all__)
# The operating system's own answers about a path; a parser's OSError says nothing of the kind.
_SYSTEM = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, BlockingIOError, InterruptedError)


@contextmanager
def parsing(
    path: str | os.PathLike[str], what: str = "", damaged: type[Exception] = exceptions.CubeCorruptError
) -> Iterator[None]:
    """Turn whatever a parser raises into one error that names the file.

    Parameters
    ----------
    path : path
        The file that is parsed.
    what : str
        The part of it, for the message: "array 'mid'".
    damaged : class
        Of the error.

    Notes
    -----
    Parsers of other people's formats raise what their code happens to stumble over: KeyError, struct.error, zlib.error,
    RuntimeError, tokenize.TokenError, NotImplementedError and more, with no base class but Exception. icrkit's own
    errors, warnings that were made errors, and what the operating system says of the path pass as they are.
    """
    where = f"{Path(path)}, {what}" if what else f"{Path(path)}"
    try:
        yield
    except (*_OURS, *_SYSTEM, ImportError, Warning):
        raise
    except RecursionError as error:
        raise damaged(f"{where} is nested too deeply to be read") from error
    except (MemoryError, OverflowError) as error:
        raise exceptions.CubeTooLargeError(f"{where} declares more than fits into memory: {_said(error)}") from error
    except OSError as error:
        if error.errno and error.filename is not None:
            raise
        raise damaged(f"{where} cannot be parsed: {_said(error)}") from error
    except Exception as error:
        raise damaged(f"{where} cannot be parsed: {_said(error)}") from error


def parse_json(raw: str | bytes, path: str | os.PathLike[str], what: str = "") -> Any:
    """Parse JSON of a file; nesting without end, digits without end and broken text are one error."""
    with parsing(path, what):
        return json.loads(raw)


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text[:300]}" if text else name
