"""Networks by family: from the files a person has to a module with its noise law and its call.

Each family is one file with a function that loads; nothing of it is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from icrkit_extractors.models._network import Network

__all__ = ["FAMILIES", "Family", "Network", "load", "options"]


class Family(NamedTuple):
    """Where a family's function is, and what its ``model`` is."""

    function: str
    description: str


FAMILIES: dict[str, Family] = {
    "edm": Family("icrkit_extractors.models.edm:load", "network-snapshot.pkl of the EDM code"),
    "sit": Family("icrkit_extractors.models.sit:load_sit", "SiT by name, such as SiT-XL/2, with its checkpoint"),
    "dit": Family("icrkit_extractors.models.sit:load_dit", "DiT by name, such as DiT-XL/2, with its checkpoint"),
    "diffusers": Family(
        "icrkit_extractors.models.diffusers:load", "folder of a diffusers pipeline, UNet or transformer"
    ),
    "timm": Family("icrkit_extractors.models.encoders:load_timm", "timm encoder by name, with its checkpoint"),
    "transformers": Family(
        "icrkit_extractors.models.encoders:load_transformers", "folder of an image encoder of transformers"
    ),
    "module": Family(
        "icrkit_extractors.models.module:load", "package.module:function or file.py:function that gives a network"
    ),
}


def _function(family: str) -> Callable[..., Network]:
    if family not in FAMILIES:
        near = difflib.get_close_matches(str(family).lower(), FAMILIES, n=2)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ValueError(f"there is no family {family!r}{hint}. Families: {', '.join(FAMILIES)}")
    module, _, name = FAMILIES[family].function.partition(":")
    found: Callable[..., Network] = getattr(importlib.import_module(module), name)
    return found


def options(family: str) -> dict[str, Any]:
    """Options of a family and their defaults.

    Parameters
    ----------
    family : str
        A name in ``FAMILIES``.

    Returns
    -------
    dict
        Name to default.

    Raises
    ------
    ValueError
        If there is no such family; gives the nearest names.

    Examples
    --------
    >>> sorted(options("module"))
    ['args', 'input_shape', 'key', 'noise']
    """
    parameters = inspect.signature(_function(family)).parameters.values()
    return {
        one.name: one.default
        for one in parameters
        if one.kind is one.KEYWORD_ONLY and one.name not in ("checkpoint", "code")
    }


def load(
    family: str,
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    code: str | Path | None = None,
    **settings: Any,
) -> Network:
    """A frozen network of a family, with its noise law and its call.

    Parameters
    ----------
    family : str
        A name in ``FAMILIES``.
    model : path or str
        What the family takes: a file, a folder, a name, or ``package.module:function``.
    checkpoint : path, optional
        File of weights, where ``model`` does not hold them or holds others.
    code : path, optional
        Folder of the network's own code, for families whose classes no package has.
    **settings
        Options of the family; `options` lists them.

    Returns
    -------
    Network
        Its ``source(layers)`` goes to `extract`, beside its ``noise`` and ``encode``.

    Raises
    ------
    ValueError
        If there is no such family, or it has no such option; gives the nearest names and lists those there are.

    Examples
    --------
    >>> network = load("module", "icrkit_extractors.models.denoiser:SmallUNet", noise="edm", input_shape=(1, 16, 16))
    >>> network.noise.config()["name"]
    'EDM'
    """
    function = _function(family)
    known = options(family)
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; nearest: {near[0]}" if near else ""
            said = ", ".join(f"{key}={value!r}" for key, value in known.items()) or "none"
            raise ValueError(f"family {family} has no option {name!r}{hint}. Options: {said}")
    return function(model, checkpoint=checkpoint, code=code, **settings)
