"""Encoders of clean images, from timm and transformers: one noise level, 0, and the encoder's own normalisation.

Images come in [-1, 1]; an encoder is called with them as it was trained: as (pixel - mean) / deviation of [0, 1].
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icrkit.exceptions import UnsafeModelError
from icrkit_extractors._checkpoint import load_into, read_shards, read_tensors, sha256_of, without_prefix
from icrkit_extractors._frameworks import importing
from icrkit_extractors.models._network import Network, frozen
from icrkit_extractors.models._pretrained import digest, read_config, weight_files
from icrkit_extractors.noise import Clean

if TYPE_CHECKING:
    from torch import Tensor, nn

    Floats = float | Sequence[float]

__all__ = ["load_timm", "load_transformers"]

_DTYPES = ("float32", "float16", "bfloat16")
# Tokens before the patches, by the names that their parameters have.
_PREFIX = ("cls_token", "class_embedding", "distillation_token", "dist_token", "register_tokens", "reg_token")


def _floats(name: str, value: Floats) -> list[float]:
    values = [float(one) for one in (value if isinstance(value, Sequence) else [value])]
    if not all(math.isfinite(one) and (one > 0 or name == "mean") for one in values):
        raise ValueError(f"{name} must be {'finite' if name == 'mean' else 'positive and finite'}, not {value}")
    return values


def _normalised(
    mean: list[float], std: list[float], n_masked: int = 0
) -> Callable[[Any, Tensor, Mapping[str, Tensor]], object]:
    """A call that turns images in [-1, 1] into what the encoder was trained with.

    ``n_masked`` is the number of patches of a masked autoencoder, which are given an order: its own.
    """

    def call(module: Any, x: Tensor, conditioning: Mapping[str, Tensor]) -> object:
        import torch

        if conditioning:
            raise ValueError(f"an encoder of clean images takes no conditioning, and is given {list(conditioning)}")
        channels = max(len(mean), len(std))
        if channels not in (1, x.shape[1]):
            raise ValueError(f"the encoder's mean and std are of {channels} channels, and the images have {x.shape[1]}")
        shift, scale = (torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None] for values in (mean, std))
        pixels = ((x + 1) / 2 - shift) / scale
        if not n_masked:
            return module(pixels)
        order = torch.arange(n_masked, device=x.device, dtype=torch.float32).expand(len(x), -1)
        return module(pixels, noise=order)

    return call


def _unmasked(module: nn.Module) -> int:
    """Let a masked autoencoder see whole images, as it does when it is used; its number of patches, 0 for others.

    In training it hides three quarters of the patches, and draws them and their order in evaluation mode as well.
    """
    config: Any = module.config
    if not getattr(config, "mask_ratio", 0) or "noise" not in inspect.signature(module.forward).parameters:
        return 0
    config.mask_ratio = 0.0
    embeddings: Any = getattr(module, "embeddings", None)
    return int(getattr(getattr(embeddings, "patch_embeddings", None), "num_patches", 0))


def _n_prefix(module: nn.Module) -> int:
    """How many tokens (class, distillation, registers) stand before the patches."""
    tokens = {name: p for name, p in module.named_parameters() if name.rpartition(".")[2] in _PREFIX}
    return sum(p.shape[1] if p.ndim == 3 else 1 for p in tokens.values())


def _check(code: object, dtype: str) -> str:
    if code is not None:
        raise ValueError("encoders take no code: their classes are those of the package")
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    return dtype


# ---- timm -----------------------------------------------------------------------------------------------------------


def load_timm(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    code: str | Path | None = None,
    key: str | None = None,
    mean: Floats | None = None,
    std: Floats | None = None,
    dtype: str = "float32",
    args: Mapping[str, Any] | None = None,
) -> Network:
    """An encoder of timm by name, with weights from a file.

    Parameters
    ----------
    model : str
        As ``timm.create_model`` takes it, such as ``vit_small_patch14_reg4_dinov2.lvd142m``; nothing is downloaded.
    checkpoint : path
        Weights, with the names of timm: .safetensors, .npz, or a file of ``torch.save``.
    code : None
        Not used.
    key : str, optional
        Entry of ``checkpoint`` that holds the weights, such as "state_dict_ema".
    mean, std : float or sequence of float, optional
        By which images in [0, 1] are shifted and scaled, one number a channel. Default: those timm has for the name.
    dtype : {"float32", "float16", "bfloat16"}
        Of weights and arithmetic; features are float32.
    args : mapping, optional
        Further arguments of ``timm.create_model``, such as ``{"img_size": 224, "num_classes": 0}``.

    Returns
    -------
    Network
        Its ``record`` has ``prefix_tokens``, the number of class and register tokens before the patches: the
        ``n_prefix`` of pools "patches" and "grid:K". Layers of a ViT: ``blocks.0`` to ``blocks.<depth - 1>``, ``norm``.

    Raises
    ------
    MissingDependencyError
        If timm is not installed.
    ValueError
        If timm has no such encoder (the message gives the nearest), no checkpoint is given, or it does not fit.
    UnsafeModelError
        If the checkpoint would run code.

    References
    ----------
    Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models.
    """
    dtype, name, given = _check(code, dtype), str(model), dict(args or {})
    with importing("timm", 'encoders of timm need it: pip install "icrkit[timm]"'):
        import timm
        import timm.data
        import torch
    if ":" in name:
        raise ValueError(f"{name!r} asks for a download: give the name alone, and the file as checkpoint")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
        raise ValueError(f"timm has no encoder {name!r}" + (f"; nearest: {', '.join(near)}" if near else ""))
    if checkpoint is None:
        raise ValueError(
            f"{name}: give its weights as checkpoint. (An untrained one: family module, timm:create_model, "
            "args={'model_name': ...}.)"
        )
    module = timm.create_model(name, **{**given, "pretrained": False}).to(getattr(torch, dtype))
    load_into(module, read_tensors(checkpoint, key), checkpoint)
    known = timm.data.resolve_data_config({}, model=module)
    mean = _floats("mean", known["mean"] if mean is None else mean)
    std = _floats("std", known["std"] if std is None else std)
    size = given.get("img_size", known["input_size"][1:])
    height, width = (size, size) if isinstance(size, int) else size
    record = {
        "family": "timm",
        "network": name,
        "args": given,
        "model_sha256": sha256_of(checkpoint),
        "mean": mean,
        "std": std,
        "prefix_tokens": int(getattr(module, "num_prefix_tokens", 0)),
        "timm_version": timm.__version__,
    }
    shape = (int(given.get("in_chans", known["input_size"][0])), int(height), int(width))
    return Network(frozen(module), Clean(), _normalised(mean, std), shape, record)


# ---- transformers ---------------------------------------------------------------------------------------------------


def _mean_and_std(folder: Path, mean: Floats | None, std: Floats | None) -> tuple[list[float], list[float]]:
    """As given, or as the folder's image processor has them."""
    if mean is None or std is None:
        paths = [folder / name for name in ("preprocessor_config.json", "processor_config.json")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise ValueError(
                f"{folder} holds no preprocessor_config.json, so how images are normalised is not known: pass mean and "
                "std, of images in [0, 1]"
            )
        known = read_config(path)
        known = known.get("image_processor", known)
        if not known.get("do_rescale", True) or not math.isclose(known.get("rescale_factor", 1 / 255), 1 / 255):
            raise ValueError(f"{path} does not scale images to [0, 1]: pass mean and std, of images in [0, 1]")
        if not known.get("do_normalize", True):
            known = {"image_mean": 0.0, "image_std": 1.0}
        for name in ("image_mean", "image_std"):
            if known.get(name) is None:
                raise ValueError(f"{path} has no {name}: pass mean and std, of images in [0, 1]")
        mean = known["image_mean"] if mean is None else mean
        std = known["image_std"] if std is None else std
    return _floats("mean", mean), _floats("std", std)


def _asks_for_code(value: Any) -> str | None:
    """What a configuration would fetch from the hub to compute attention with; None where it is nothing."""
    if isinstance(value, list):
        return next(filter(None, map(_asks_for_code, value)), None)
    if not isinstance(value, dict):
        return None
    for name, one in value.items():
        if "attn_implementation" in name and isinstance(one, str) and "/" in one:
            return one
    return _asks_for_code(list(value.values()))


def load_transformers(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    code: str | Path | None = None,
    key: str | None = None,
    mean: Floats | None = None,
    std: Floats | None = None,
    dtype: str = "float32",
) -> Network:
    """An image encoder of transformers from a folder (ViT, DINOv2, CLIP, SigLIP, ConvNeXt ...).

    Parameters
    ----------
    model : path
        Folder as ``save_pretrained`` writes it. Of a model of images and text, the image part.
    checkpoint : path, optional
        Other weights for the network that the folder's configuration describes.
    code : None
        Not used: code in the folder is not run.
    key : str, optional
        Entry of ``checkpoint`` that holds the weights.
    mean, std : float or sequence of float, optional
        By which images in [0, 1] are shifted and scaled, one number a channel. Default: those of
        ``preprocessor_config.json``.
    dtype : {"float32", "float16", "bfloat16"}
        Of weights and arithmetic; features are float32.

    Returns
    -------
    Network
        Its ``record`` has ``prefix_tokens``, the number of class and register tokens before the patches: the
        ``n_prefix`` of pools "patches" and "grid:K". Names of layers differ between classes and versions of
        transformers: ``network.source().available_layers(x, {})`` lists them.

    Raises
    ------
    MissingDependencyError
        If transformers is not installed.
    FileNotFoundError
        If the folder, its config.json or its weights are not there.
    ValueError
        If transformers has no class for it, the weights lack tensors, or the normalisation is not known.
    UnsafeModelError
        If weights would run code or lie outside the folder, or the configuration asks for code.

    Notes
    -----
    A masked autoencoder (MAE) sees whole images, with its patches in their order: ``mask_ratio`` 0.

    Heads in the file that the encoder has no place for are left out. Where the file lacks the pooler, which is common,
    the encoder has none either, rather than one drawn at random.

    The digest recorded is that of the weights: of several files, of their bytes one after the other in the order of
    their names. Where a folder has a whole file and an index of shards, the whole file is read and hashed, as
    transformers does.

    References
    ----------
    Wolf et al. 2020, arXiv 1910.03771.
    """
    dtype, folder = _check(code, dtype), Path(model)
    if key is not None and checkpoint is None:
        raise ValueError(f"key={key!r} names an entry of checkpoint, and no checkpoint is given")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: wanted a folder as save_pretrained writes it")
    config = read_config(folder / "config.json")
    with importing("transformers", 'encoders of transformers need it: pip install "icrkit[transformers]"'):
        import torch
        import transformers
        from transformers import CONFIG_MAPPING, PreTrainedModel  # noqa: F401  (which brings all that a network needs)
    if config.get("model_type") not in CONFIG_MAPPING:
        hint = "; code in the folder is not run" if "auto_map" in config else ""
        raise ValueError(f"{folder}: transformers has no class for model_type {config.get('model_type')!r}{hint}")
    if (fetched := _asks_for_code(config)) is not None:
        raise UnsafeModelError(f"{folder / 'config.json'} asks for code from elsewhere: {fetched!r}")
    if config.get("quantization_config") is not None:
        raise ValueError(f"{folder} holds a quantised network, which is not read: take the weights in float16 or more")
    mean, std = _mean_and_std(folder, mean, std)
    if checkpoint is not None:
        files, tensors = [Path(checkpoint)], read_tensors(checkpoint, key)
    else:
        if (folder / "adapter_config.json").is_file():
            raise ValueError(
                f"{folder} holds an adapter beside the weights: save the network with it merged "
                "(model.merge_and_unload().save_pretrained(...)) and give that folder"
            )
        files = weight_files(folder, "transformers", name=config.get("transformers_weights"))
        if not files:
            raise FileNotFoundError(f"{folder} holds no model.safetensors, and no checkpoint is given")
        tensors = read_shards(files)
    own = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    # Its class turns names of tensors in files into those of its own modules, which differ between versions.
    with torch.device("meta"):
        made: Any = transformers.AutoModel
        kind = type(made.from_config(own, trust_remote_code=False))
    # From these tensors, not from the folder: what is loaded is then what is hashed.
    whole, found = kind.from_pretrained(
        None,
        config=own,
        state_dict=without_prefix(tensors),
        dtype=getattr(torch, dtype),
        output_loading_info=True,
    )
    missing = sorted(found["missing_keys"])
    if missing and all(name.startswith("pooler.") for name in missing):
        whole.pooler = None
    elif missing:
        raise ValueError(f"{files[0]} lacks {len(missing)} tensors of the network, first {missing[0]}")
    module = getattr(whole, "vision_model", whole)
    n_masked = _unmasked(module)
    size = getattr(module.config, "image_size", None)
    shape = None
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        shape = (int(getattr(module.config, "num_channels", 3)), int(height), int(width))
    record = {
        "family": "transformers",
        "network": type(module).__name__,
        "model_sha256": digest(files),
        "mean": mean,
        "std": std,
        "prefix_tokens": _n_prefix(module),
        **({"mask_ratio": 0.0} if n_masked else {}),
        "transformers_version": transformers.__version__,
    }
    return Network(frozen(module), Clean(), _normalised(mean, std, n_masked), shape, record)
