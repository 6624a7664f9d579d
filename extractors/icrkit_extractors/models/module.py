"""Any network: a function or class of the user's, named as ``package.module:function`` or ``path/to/file.py:function``.

Naming it here runs it: it is the user's own code.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icrkit.exceptions import MissingDependencyError
from icrkit_extractors import noise as laws
from icrkit_extractors._checkpoint import load_into, read_tensors, sha256_of
from icrkit_extractors._torch_errors import explained_call
from icrkit_extractors.models._checkout import code_of, importable
from icrkit_extractors.models._network import Network, frozen

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load"]


def _near(name: str, names: Any) -> str:
    near = difflib.get_close_matches(name, list(names), n=2)
    return f" (nearest: {', '.join(near)})" if near else ""


def _of_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    # The name is the file's own: two files of one name in two folders are two modules.
    name = f"_icrkit_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a file of Python")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look for their module there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named(model: str) -> tuple[Any, str | None]:
    """The function, class or network that ``model`` names, and the file where it was found."""
    place, _, name = model.rpartition(":")
    if not place or not name:
        raise ValueError(f"{model!r} is neither package.module:function nor path/to/file.py:function")
    if place.endswith(".py"):
        module = _of_file(Path(place))
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            # A package that the user's module itself lacks is another matter.
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise
            raise ValueError(
                f"{model!r}: there is no module {error.name!r} here; code=FOLDER says where it is, or name the file, "
                "path/to/file.py:function"
            ) from error
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{place} has no {part!r}{_near(part, vars(found))}")
        found = getattr(found, part)
    return found, getattr(module, "__file__", None)


def _roots(code: str | Path | None, place: str, file: Path) -> list[Path]:
    """Folders of the user's own code; none where the module is one of an installed package, which has a version."""
    roots = [] if code is None else [Path(code)]
    installed = {"site-packages", "dist-packages", "icrkit_extractors"} & set(file.resolve().parts)
    if place.endswith(".py"):
        return [*roots, file.resolve().parent]
    if code is None and not installed and file.suffix == ".py":
        # The folder in which the package lies.
        depth = place.count(".") + (file.name == "__init__.py")
        return [file.resolve().parents[min(depth, len(file.resolve().parents) - 1)]]
    return roots


def _law(noise: laws.NoiseLaw | str | None) -> laws.NoiseLaw | None:
    if not isinstance(noise, str):
        return noise
    if noise.lower() not in laws.LAWS:
        raise ValueError(
            f"there is no noise law {noise!r}{_near(noise.lower(), laws.LAWS)}; laws: {', '.join(laws.LAWS)}"
        )
    law: laws.NoiseLaw = laws.LAWS[noise.lower()]()
    return law


def _folder(model: str) -> Path | None:
    """The folder of the file that ``model`` names; None where it names a module."""
    place = model.rpartition(":")[0]
    return Path(place).resolve().parent if place.endswith(".py") and Path(place).is_file() else None


def _made(found: Any, model: str, args: dict[str, Any]) -> Any:
    """What a function or class gives, or the network that it is already."""
    import torch

    if isinstance(found, torch.nn.Module | Network):
        if args:
            raise ValueError(f"{model} is a network already, which takes no args {list(args)}")
        return found
    if not callable(found):
        raise ValueError(f"{model} is a {type(found).__name__}, neither function nor class nor network")
    with explained_call(f"{model} called with {args}"):
        return found(**args)


def _module(made: Any, model: str) -> nn.Module:
    import torch

    module = made.module if isinstance(made, Network) else made
    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"{model} gives a {type(module).__name__}; wanted a torch.nn.Module or a Network")
    return module


def load(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    code: str | Path | None = None,
    key: str | None = None,
    noise: laws.NoiseLaw | str | None = None,
    input_shape: tuple[int, int, int] | None = None,
    args: Mapping[str, Any] | None = None,
) -> Network:
    """The network that a function or class of the user's gives.

    Parameters
    ----------
    model : str
        ``package.module:function`` or ``path/to/file.py:function``: a function or class that gives a
        ``torch.nn.Module`` or a `Network` (with its own noise law and call), or such an object itself.
    checkpoint : path, optional
        Weights for it: .npz, .safetensors, or a file of ``torch.save``. By default those it comes with.
    code : path, optional
        Folder to import from, before all others.
    key : str, optional
        Entry of ``checkpoint`` that holds the weights, such as "ema".
    noise : noise law or str, optional
        The law it was trained with: an object of ``icrkit_extractors.noise``, or the name of one with its defaults,
        such as "edm".
    input_shape : (channel, height, width), optional
        Shape of one input.
    args : mapping, optional
        What the function is called with.

    Returns
    -------
    Network
        In evaluation mode, its parameters without gradient. What the function itself returned of noise, call, shape
        and record stays where nothing else is given.

    Raises
    ------
    ValueError
        If there is no such module or name (the message gives the nearest); if it gives no network; if the weights do
        not fit; if ``noise`` is not the name of a law.
    FileNotFoundError
        If the file, folder or checkpoint is not there.
    UnsafeModelError
        If the checkpoint would run code.

    Examples
    --------
    >>> network = load("icrkit_extractors.models.denoiser:SmallUNet", noise="edm", args={"width": 8})
    >>> source = network.source("mid")
    >>> source.config()["model"]
    'icrkit_extractors.models.denoiser:SmallUNet'
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError('a torch module needs torch: pip install "icrkit[torch]"') from error
    model = str(model)
    # The call too: functions import when they are called. A file imports what lies beside it, as a script does.
    with importable(_folder(model), first=False), importable(None if code is None else Path(code)):
        try:
            found, file = _named(model)
            made = _made(found, model, dict(args or {}))
        except ModuleNotFoundError as error:
            if error.name is None or "code=" in str(error):
                raise
            raise ModuleNotFoundError(
                f"{model} imports {error.name!r}, which is not here: code=FOLDER says where it lies, or it is to be "
                "installed",
                name=error.name,
            ) from error
    module = _module(made, model)
    own = made if isinstance(made, Network) else Network(module, None)
    # The name of a file's folder differs between machines.
    place, _, name = model.rpartition(":")
    record: dict[str, Any] = {
        "family": "module",
        "model": f"{Path(place).name if place.endswith('.py') else place}:{name}",
        "args": dict(args or {}),
        **({} if file is None else code_of(_roots(code, place, Path(file)), Path(file))),
        **own.record,
    }
    if checkpoint is not None:
        load_into(module, read_tensors(checkpoint, key), checkpoint)
        record["model_sha256"] = sha256_of(checkpoint)
    frozen(module)
    return dataclasses.replace(
        own,
        noise=own.noise if noise is None else _law(noise),
        input_shape=own.input_shape if input_shape is None else input_shape,
        record=record,
    )
