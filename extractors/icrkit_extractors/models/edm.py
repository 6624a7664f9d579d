"""EDM: networks of Karras et al. 2022, from their pickles and the user's own checkout of their code.

The class comes from the checkout (``training/networks*.py``); tensors and init arguments come from the released
pickle, of which nothing is run, or from a file of tensors with the init arguments as JSON. The networks hold their
preconditioning: they take the noisy image and sigma as they are.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icrkit_extractors import noise
from icrkit_extractors._checkpoint import load_into, read_tensors, sha256_of
from icrkit_extractors._pickled_network import PickledNetwork, read_pickled_network
from icrkit_extractors.models._checkout import checkout, code_record
from icrkit_extractors.models._network import Network, frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

    from icrkit_extractors._torch import TorchSource

__all__ = ["load"]

_WHERE = "https://github.com/NVlabs/edm"
_DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class _Preconditioned(Network):
    """A network inside its preconditioning, whose layers may be named as if it stood alone, as the papers do."""

    def source(self, layers: Any = None, **options: Any) -> TorchSource:
        if layers is not None:
            layers = [self._full(layer) for layer in ([layers] if isinstance(layers, str) else layers)]
        # Options may name layers too: a pool or an index for each.
        options = {
            option: {self._full(layer): what for layer, what in value.items()}
            if option in ("pool", "output_index") and isinstance(value, Mapping)
            else value
            for option, value in options.items()
        }
        return super().source(layers, **options)

    def _full(self, layer: str) -> str:
        names = [name for name, _ in self.module.named_modules()]
        inner = [f"{child}.{layer}" for child, _ in self.module.named_children()]
        return next((pattern for pattern in (layer, *inner) if any(fnmatchcase(n, pattern) for n in names)), layer)


def _described(path: Path, class_name: str | None) -> PickledNetwork:
    """A network without its tensors, from a JSON file of init arguments."""
    try:
        arguments = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ValueError(f"{path} must be an object: init arguments by name, and class_name")
    named = arguments.pop("class_name", class_name)
    if not isinstance(named, str):
        raise ValueError(f'{path} has no class_name, such as "EDMPrecond"; the option class_name gives it too')
    return PickledNetwork(named.rpartition(".")[2], "", (), arguments, {}, {})


def _read(
    model: Path, checkpoint: str | Path | None, class_name: str | None, key: str | None
) -> tuple[PickledNetwork, dict[str, Tensor], Path]:
    """What the network is, its tensors, and the file they came from."""
    if model.suffix == ".json":
        pickled = _described(model, class_name)
        if checkpoint is None:
            raise ValueError(f"{model} holds init arguments only: give the tensors' file as checkpoint")
    else:
        pickled = read_pickled_network(model, key or "ema")
    if checkpoint is None:
        return pickled, pickled.tensors, model
    if Path(checkpoint).suffix == ".pkl":
        other = read_pickled_network(checkpoint, key or "ema")
        return other, other.tensors, Path(checkpoint)
    return pickled, read_tensors(checkpoint, key), Path(checkpoint)


def _module_of(code: str | Path | None, name: str) -> str:
    """Dotted name of the module of the checkout that defines a class."""
    files = [] if code is None else sorted(Path(code).glob("training/networks*.py"))
    defined = {
        found: file.stem
        for file in files
        for found in re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    if files and name not in defined:
        near = difflib.get_close_matches(name, defined, n=3, cutoff=0.4)
        hint = f" (nearest: {', '.join(near)})" if near else ""
        raise ValueError(f"{code} defines no class {name!r}{hint} in {', '.join(file.name for file in files)}")
    return f"training.{defined.get(name, 'networks')}"


def _built(code: str | Path | None, pickled: PickledNetwork) -> tuple[Any, Any]:
    """The module of the checkout, and a network of the class with weights still drawn at random."""
    import torch

    name = pickled.class_name
    # The weights are overwritten: the caller's random numbers stay what they were.
    with checkout(code, _module_of(code, name), _WHERE) as source, torch.random.fork_rng(devices=[]):
        try:
            return source, getattr(source, name)(*pickled.init_args, **pickled.init_kwargs)
        except TypeError as error:
            raise ValueError(
                f"{name} of {code} does not take the arguments {pickled.init_kwargs}: {error}. "
                "Is the checkout of the version that trained the network?"
            ) from error


def _set_attributes(module: nn.Module, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Numbers and strings as the pickle has them, where they were changed after the network was made."""
    plain = (bool, int, float, str, type(None))
    for name, part in module.named_modules():
        for attribute, value in attributes.get(name, {}).items():
            if attribute in vars(part) and isinstance(vars(part)[attribute], plain):
                setattr(part, attribute, value)


def _trained_range(module: nn.Module) -> tuple[float, float] | None:
    kind = type(module).__name__
    if kind == "EDMPrecond":
        return noise.EDM().trained_range
    if kind == "VEPrecond":
        return noise.VE().trained_range
    if kind == "VPPrecond":
        return noise.VP(beta_d=module.beta_d, beta_min=module.beta_min, n_timesteps=module.M).trained_range
    low, high = getattr(module, "sigma_min", 0), getattr(module, "sigma_max", math.inf)
    return (float(low), float(high)) if 0 < low < high < math.inf else None


def _call_with(n_classes: int, label: int | None) -> Any:
    """How the network is called; label None is the null class, a vector of zeros."""

    def call(module: Any, x: Tensor, conditioning: Mapping[str, Tensor]) -> object:
        labels = None
        if n_classes:
            labels = x.new_zeros(len(x), n_classes)
            if label is not None:
                labels[:, label] = 1
        return module(x, conditioning["sigma"], labels)

    return call


def load(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    code: str | Path | None = None,
    class_name: str | None = None,
    key: str | None = None,
    class_label: int | None = None,
    dtype: str | None = None,
) -> Network:
    """A network of the EDM code inside its preconditioning.

    Parameters
    ----------
    model : path
        ``network-snapshot-*.pkl`` or a released pickle; or a JSON file of the init arguments, with ``class_name``
        among them, beside a ``checkpoint``.
    checkpoint : path, optional
        Tensors in place of the pickle's own: another snapshot of the training (.pkl), or .safetensors, .pt, .npz.
    code : path
        Your checkout of the code that trained the network: the folder that holds ``training``.
    class_name : str, optional
        Class of a JSON file that does not name it, such as "EDMPrecond".
    key : str, optional
        Which network of the file. Default: "ema" of a pickle, the only one of other files.
    class_label : int, optional
        Class given to every image. Default: the null class, a vector of zeros.
    dtype : {"float16", "float32"}, optional
        Precision of the network inside on a GPU. Default: as in the checkpoint. On a CPU it is float32.

    Returns
    -------
    Network
        Layers as in the module tree (``model.dec.16x16_block1``) or, as in the papers, without what stands before
        (``dec.16x16_block1``).

    Raises
    ------
    ValueError
        If ``code`` is missing, does not define the class or does not take its arguments; if the tensors do not fit;
        if there is no such class label or dtype.
    FileNotFoundError
        If there is no such file or checkout.
    UnsafeModelError
        If a file holds more than a network, or is truncated; nothing of it is run.
    MissingDependencyError
        If torch, or what the checkout imports, is not installed.

    Notes
    -----
    The noise law is `noise.Additive`: the network scales its own input. The released conditional networks were trained
    with a class on every image and never saw the null class. Augmentation labels are left out, as the authors do
    outside training.

    References
    ----------
    Karras et al. 2022, arXiv 2206.00364, eq. 7 and table 1.
    """
    if dtype not in (None, *_DTYPES):
        raise ValueError(f"dtype must be one of {_DTYPES}, or None for the checkpoint's own, not {dtype!r}")
    pickled, tensors, path = _read(Path(model), checkpoint, class_name, key)
    source, module = _built(code, pickled)
    load_into(module, tensors, path)
    _set_attributes(module, pickled.attributes)
    if dtype is not None:
        module.use_fp16 = dtype == "float16"
    n_classes = int(getattr(module, "label_dim", 0))
    if class_label is not None and not 0 <= class_label < n_classes:
        raise ValueError(f"class_label={class_label} is not one of the {n_classes} classes of {path}")
    record = {
        "family": "edm",
        "network": pickled.class_name,
        "model_sha256": sha256_of(path),
        "conditioning": {"class_label": class_label, "is_null": class_label is None} if n_classes else {},
        "use_fp16": bool(getattr(module, "use_fp16", False)),
        **code_record(str(code), source),
    }
    if pickled.module_source:
        record["code_as_in_checkpoint"] = Path(source.__file__).read_text(encoding="utf-8") == pickled.module_source
    return _Preconditioned(
        module=frozen(module),
        noise=noise.Additive(trained_range=_trained_range(module)),
        call=_call_with(n_classes, class_label),
        input_shape=(module.img_channels, module.img_resolution, module.img_resolution),
        record=record,
    )
