"""What a shell sees: messages in the words of its options, and results alone on standard output.

Messages are written once, for Python, and name a parameter as it is typed there: ``n_views=4``. A command says what
each parameter is called in a shell, and `shell_words` rewrites the message where it is shown.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

__all__ = ["option_names", "results_alone", "shell_words", "worded"]

_VALUE = (
    r"'[^']*'|\"[^\"]*\"|\.\.\.|lambda [^:]*: [\w.]+\([^()]*\)"
    r"|\[[^\[\]]*\]|\([^()]*\)|\{[^{}]*\}|[-+]?\w+(?:[.:/+-]+\w+)*"
)
# What was rewritten already, by a part of a command that knows other names.
_SHELL = r"--[a-z][\w-]*(?: \"[^\"]*\"|[ =]\S+)?"


def option_names(command: Any) -> dict[str, str]:
    """Parameters of a click command and their options, flags in click's own notation ``--resume/--no-resume``."""
    names = {}
    for parameter in command.params:
        flags = [flag for flag in parameter.opts if flag.startswith("--")]
        if flags:
            off = next((flag for flag in parameter.secondary_opts if flag.startswith("--")), "")
            names[parameter.name] = f"{flags[0]}/{off}" if parameter.is_flag else flags[0]
    return names


def shell_words(message: str, options: Mapping[str, str]) -> str:
    """A message of the Python interface, as a person in a shell needs it.

    Parameters
    ----------
    message : str
    options : mapping
        Parameter to option: ``--pool`` becomes ``--pool VALUE``, ``--set class_label=`` becomes
        ``--set class_label=VALUE``, ``--resume/--no-resume`` one of the two. A name that is no option stands for a
        phrase; and so does a key that is no identifier, such as ``available_layers()``. A key that ends with an
        opening bracket is a call, whose arguments follow a colon: ``noise.Flow(name='t')`` becomes
        ``--noise flow:name=t``.

    Returns
    -------
    str

    Examples
    --------
    >>> shell_words("pass output_index={'a': 1}, or pool='none'", {"output_index": "--output-index", "pool": "--pool"})
    'pass --output-index "{\\'a\\': 1}", or --pool none'
    >>> shell_words("n_views must be 1 or more; resume=True continues it", {"n_views": "--n-views",
    ...             "resume": "--resume/--no-resume"})
    '--n-views must be 1 or more; --resume continues it'
    """
    if not options:
        return message
    for phrase in sorted((name for name in options if not name.isidentifier()), key=len, reverse=True):
        if phrase.endswith("("):
            call = rf"(?<![\w.]){re.escape(phrase)}([^()]*)\)"
            message = re.sub(call, functools.partial(_called, options[phrase]), message)
        else:
            message = message.replace(phrase, options[phrase])
    names = "|".join(sorted((name for name in options if name.isidentifier()), key=len, reverse=True))
    if not names:
        return message
    given = rf"(?P<name>{names})=(?!=)(?P<value>{_VALUE})?"
    # A call is dropped where all that it is given are options: open_images(..., size=256) is --size 256.
    alone = rf"(?:{names})=(?:{_VALUE})"
    message = re.sub(rf"(?<![\w.])[A-Za-z_][\w.]*\((?:\.\.\., )?({alone}(?:, {alone})*)\)", r"\1", message)

    def replace(match: re.Match[str]) -> str:
        name = match["name"] or match["bare"] or match["first"]
        if name is None:
            return match[0]
        return _option(options[name], match["value"] if match["name"] else None)

    # A word with an underscore is a parameter wherever it stands; another one where it begins what is said.
    bare = "|".join(name for name in names.split("|") if "_" in name) or r"(?!)"
    pattern = (
        rf"{_SHELL}|(?<![\w./'\"-]){given}|(?<![\w./'\"\[-])(?P<bare>{bare})(?![\w='\"/.]|\()"
        rf"|(?:\A|(?<=: ))(?P<first>{names})(?= (?:must|is|holds) )"
    )
    return re.sub(pattern, replace, message)


def _called(option: str, match: re.Match[str]) -> str:
    arguments = re.sub(r"['\"]", "", match[1]).replace(", ", ",")
    return f"{option}:{arguments}" if arguments else option


def _option(option: str, value: str | None) -> str:
    if not option.startswith("--"):
        return option
    if "/" in option:
        on, off = option.split("/")
        return (off or f"no {on}") if value == "False" else on
    if value is None:
        return option
    entry = re.fullmatch(r"\{['\"](\w+)['\"]: ([^{},]+)\}", value)
    if entry and option.endswith("="):  # one entry of a dict
        option, value = f"{option[:-1]}.{entry[1]}=", entry[2]
    if value[:1] in "'\"" and value[0] == value[-1]:
        value = value[1:-1]
    *flag, last = option.split(" ") if option.endswith("=") else (option, "")
    token = last + value
    if re.search(r"[\s'(){}\[\]*?$;&|<>]", token):
        token = f'"{token}"'
    return " ".join((*flag, token))


@contextmanager
def worded(options: Mapping[str, str]) -> Iterator[None]:
    """Errors raised inside speak of these options; their class and what they are chained to stay."""
    try:
        yield
    except Exception as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (shell_words(error.args[0], options),)
        raise


# ---- standard output ------------------------------------------------------------------------------------------------


def _flush_c() -> None:
    """Empty the buffers of C's own streams, which know nothing of Python's."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)


def _to_stderr() -> None:
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    _flush_c()
    with suppress(OSError):
        os.dup2(2, 1)


@contextmanager
def results_alone() -> Iterator[None]:
    """What is printed inside, by Python, C or a child process, goes to standard error; results are printed afterwards.

    A network's own code prints when it is imported, when it runs, and when the process ends: that goes there as well.
    """
    try:
        real = sys.stdout.fileno() == 1
        os.fstat(2)
    except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
        real = False  # a test or a notebook has streams of its own
    if not real:
        with redirect_stdout(sys.stderr):
            yield
        return
    kept = os.dup(1)
    stdout = sys.stdout
    _to_stderr()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        with suppress(OSError, ValueError):
            stdout.flush()  # what went past the redirection, by sys.__stdout__
        _flush_c()
        os.dup2(kept, 1)
        os.close(kept)
        # Registered last, so it runs before whatever that code registered.
        atexit.register(_to_stderr)
