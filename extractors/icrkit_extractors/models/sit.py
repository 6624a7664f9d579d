"""SiT and DiT: transformers of Ma et al. 2024 and Peebles and Xie 2023, from their training checkpoints.

The class comes from the user's own checkout of their code (``models.py``), which needs timm. Sizes that a checkpoint
itself shows (input, channels, classes) are read from its tensors, and the path of SiT from the arguments of its
training.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from icrkit_extractors import noise
from icrkit_extractors._checkpoint import (
    load_into,
    read_tensors,
    sha256_of,
    training_args,
    under_prefix,
    without_prefix,
)
from icrkit_extractors.models._checkout import checkout, code_record
from icrkit_extractors.models._network import Network, frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["load_dit", "load_sit"]


class _Family(NamedTuple):
    """The name in the code's own names (``SiT_models``), and where the code is."""

    name: str
    where: str


_SIT = _Family("SiT", "https://github.com/willisma/SiT")
_DIT = _Family("DiT", "https://github.com/facebookresearch/DiT")


# Tensors that every network of these families has, and whose shapes show its sizes.
_SHOWN = ("x_embedder.proj.weight", "pos_embed", "y_embedder.embedding_table.weight", "final_layer.linear.bias")


def _read(path: Path, key: str | None) -> tuple[dict[str, Tensor], str]:
    """Tensors and the key they were under: "ema" of a training checkpoint, unless there is only one network."""
    try:
        tensors, found = read_tensors(path, key), key or ""
    except ValueError:
        if key is not None:
            raise
        tensors, found = read_tensors(path, "ema"), "ema"
    named = under_prefix(tensors, _SHOWN, path)
    return without_prefix(tensors) if named is None else named, found


def _sizes(tensors: Mapping[str, Tensor], path: Path, args: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the model's function: as given, or as the shapes of the tensors show."""
    missing = [name for name in _SHOWN if name not in tensors]
    if missing:
        raise ValueError(f"{path} is no checkpoint of SiT or DiT: it has no {', '.join(missing)}")
    proj, positions, table, last = (tensors[name].shape for name in _SHOWN)
    channels, patch = proj[1], proj[2]
    sizes = {
        "input_size": patch * math.isqrt(positions[1]),
        "in_channels": channels,
        "num_classes": args.get("num_classes", table[0] - 1),
        "learn_sigma": last[0] == 2 * channels * patch**2,
        **{name: value for name, value in given.items() if value is not None},
    }
    if table[0] != sizes["num_classes"] + 1:
        raise ValueError(
            f"{path} has a table of {table[0]} classes, and {sizes['num_classes']} classes with the null class are "
            f"{sizes['num_classes'] + 1}: state num_classes (a network that was trained without label dropout has no "
            "null class, and is loaded by the family module)"
        )
    return sizes


def _built(family: _Family, code: str | Path | None, model: str, sizes: Mapping[str, Any]) -> tuple[Any, nn.Module]:
    """The module of the checkout, and a network with weights still drawn at random."""
    import torch

    # The weights are overwritten: the caller's random numbers stay what they were.
    with checkout(code, "models", family.where) as source, torch.random.fork_rng(devices=[]):
        known = getattr(source, f"{family.name}_models", None)
        if not isinstance(known, Mapping):
            raise ValueError(f"{source.__file__} has no {family.name}_models: code is a checkout of {family.where}")
        if model not in known:
            near = difflib.get_close_matches(str(model), known, n=3, cutoff=0.4)
            hint = f" (nearest: {', '.join(near)})" if near else ""
            raise ValueError(f"{family.name} has no model {model!r}{hint}; there are {', '.join(known)}")
        return source, known[model](**sizes)


def _load(
    family: _Family,
    model: str | Path,
    checkpoint: str | Path | None,
    code: str | Path | None,
    law: noise.NoiseLaw | None,
    key: str | None,
    class_label: int | None,
    autoencoder: str | Path | None,
    given: dict[str, Any],
) -> Network:
    import torch

    if checkpoint is None:
        raise ValueError(f"{family.name} needs checkpoint=FILE, its weights")
    path = Path(checkpoint)
    args = training_args(path)
    tensors, found = _read(path, key)
    sizes = _sizes(tensors, path, args, given)
    source, module = _built(family, code, str(model), sizes)
    load_into(module, tensors, path)

    null = sizes["num_classes"]
    label = null if class_label is None else class_label
    if not 0 <= label <= null:
        raise ValueError(f"class_label={label} is not one of 0 to {null - 1}, or {null} for no class")

    def call(module: Any, x: Tensor, conditioning: Mapping[str, Tensor]) -> object:
        return module(x, conditioning["t"], torch.full((len(x),), label, device=x.device))

    if law is None:
        law = noise.SiT(str(args.get("path_type", "linear")).lower())
    encode = None
    if autoencoder is not None:
        from icrkit_extractors.latents import open_autoencoder

        encode = open_autoencoder(autoencoder)
    record = {
        "family": family.name.lower(),
        "network": str(model),
        "model_sha256": sha256_of(path),
        "checkpoint_key": found,
        "conditioning": {"class_label": label, "is_null": label == null},
        "prefix_tokens": 0,
        **code_record(str(code), source),
    }
    size = sizes["input_size"]
    shape = (sizes["in_channels"], size, size)
    return Network(frozen(module), law, call, shape, record, encode)


def load_sit(
    model: str,
    *,
    checkpoint: str | Path | None = None,
    code: str | Path | None = None,
    key: str | None = None,
    path: str | None = None,
    class_label: int | None = None,
    autoencoder: str | Path | None = None,
    input_size: int | None = None,
    num_classes: int | None = None,
    learn_sigma: bool | None = None,
) -> Network:
    """A SiT with the noise of its path.

    Parameters
    ----------
    model : str
        Name in the code's ``SiT_models``, such as "SiT-XL/2".
    checkpoint : path
        Checkpoint of its ``train.py``, or the released file of weights; also .safetensors and .npz.
    code : path
        Your checkout of the code: the folder that holds ``models.py``. It imports timm.
    key : str, optional
        Which network of the checkpoint. Default: "ema", or the only one there is.
    path : {"linear", "gvp", "vp"}, optional
        Interpolant. Default: as the checkpoint keeps it among the arguments of its training, else "linear", that of
        the released weights.
    class_label : int, optional
        Class given to every image. Default: the null class, which is ``num_classes``.
    autoencoder : path, optional
        Folder of the AutoencoderKL (``sd-vae-ft-ema`` or ``-mse``) that makes latents of images. Without it
        `extract` has to be given one as ``encode``.
    input_size, num_classes, learn_sigma : int, int, bool, optional
        Height and width of a latent, classes without the null class, and whether the network was made for twice the
        channels. Default: as the shapes of the tensors show.

    Returns
    -------
    Network
        Layers as in the module tree. ``blocks.14`` counts from 0: it is the fifteenth block. In a paper that counts
        from 1, block 14 is ``blocks.13``.

    Raises
    ------
    ValueError
        If checkpoint or code is missing, the model is not in the code, the tensors do not fit it, there is no null
        class, or the path is unknown.
    FileNotFoundError
        If there is no such file or checkout.
    UnsafeModelError
        If the checkpoint holds more than tensors and plain arguments, or is truncated; nothing of it is run.
    MissingDependencyError
        If torch, or what the checkout imports, is not installed.

    Notes
    -----
    The network takes t with the image at t = 1 (`noise.SiT`).

    References
    ----------
    Ma et al. 2024, arXiv 2401.08740.
    """
    given = {"input_size": input_size, "num_classes": num_classes, "learn_sigma": learn_sigma}
    law = None if path is None else noise.SiT(path.lower())
    return _load(_SIT, model, checkpoint, code, law, key, class_label, autoencoder, given)


def load_dit(
    model: str,
    *,
    checkpoint: str | Path | None = None,
    code: str | Path | None = None,
    key: str | None = None,
    class_label: int | None = None,
    autoencoder: str | Path | None = None,
    input_size: int | None = None,
    num_classes: int | None = None,
    learn_sigma: bool | None = None,
) -> Network:
    """A DiT with the noise of its training: 1000 steps, beta linear from 1e-4 to 0.02.

    Parameters
    ----------
    model : str
        Name in the code's ``DiT_models``, such as "DiT-XL/2".
    checkpoint : path
        Checkpoint of its ``train.py``, or the released file of weights; also .safetensors and .npz.
    code : path
        Your checkout of the code: the folder that holds ``models.py``. It imports timm.
    key, class_label, autoencoder, input_size, num_classes, learn_sigma
        As for `load_sit`.

    Returns
    -------
    Network
        Layers as for `load_sit`: ``blocks.14`` counts from 0.

    Raises
    ------
    ValueError, FileNotFoundError, UnsafeModelError, MissingDependencyError
        As `load_sit`.

    References
    ----------
    Peebles and Xie 2023, arXiv 2212.09748.
    """
    given = {"input_size": input_size, "num_classes": num_classes, "learn_sigma": learn_sigma}
    return _load(_DIT, model, checkpoint, code, noise.DDPM(name="t"), key, class_label, autoencoder, given)
