"""Packages of networks: one that is missing, and one that is there and does not fit another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from icrkit.exceptions import MissingDependencyError

__all__ = ["importing"]


@contextmanager
def importing(package: str, message: str) -> Iterator[None]:
    """Errors of what is imported inside say what to install.

    Parameters
    ----------
    package : str
        What is imported. Some packages import their parts when these are asked for by name.
    message : str
        What needs it, and how it is installed.

    Raises
    ------
    MissingDependencyError
        If the package is missing, with ``message``; or if it is there and fails, with the first of the errors that its
        own are about: builds of torch and torchvision that do not fit are the usual case, and raise anything.
    """
    try:
        yield
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (package, "torch"):
            raise MissingDependencyError(message) from error
        first: BaseException = error
        while (before := first.__cause__ or first.__context__) is not None:
            first = before
        raise MissingDependencyError(
            f"{package} is installed, and cannot be imported here: {type(first).__name__}: {first}. Packages that were "
            "built for another version of torch fail like that: install all of them anew, in one command"
        ) from error
