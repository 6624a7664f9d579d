"""Networks of diffusers, from a folder on this machine: no code of the folder is run, nothing is downloaded."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from icrkit.exceptions import UnsafeModelError
from icrkit_extractors import noise
from icrkit_extractors._checkpoint import load_into, read_shards, read_tensors, sha256_of
from icrkit_extractors._frameworks import importing
from icrkit_extractors.models._diffusers_calls import CALLS, Null
from icrkit_extractors.models._network import Network, frozen
from icrkit_extractors.models._pretrained import digest, read_config, weight_files

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["load"]

_DTYPES = ("float32", "float16", "bfloat16")
# What DiT and PixArt were called in older folders: diffusers reads it and makes the class of today.
_OLD_NAME = "Transformer2DModel"


def _place(folder: Path, subfolder: str | None) -> Path:
    """The folder of the network itself."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no such folder: {folder}. This family reads a folder on this machine, as save_pretrained writes it "
            "(huggingface_hub.snapshot_download gives the folder of a model of the hub)"
        )
    if subfolder is not None:
        found = [folder / subfolder]
    elif (folder / "config.json").is_file():
        found = [folder]
    else:
        found = [folder / name for name in ("unet", "transformer") if (folder / name).is_dir()]
    if len(found) != 1:
        names = sorted(path.parent.name for path in folder.glob("*/config.json"))
        raise ValueError(
            f"{folder} holds neither config.json nor one folder unet or transformer: name the network's with "
            f"subfolder, one of {names}"
        )
    if not (found[0] / "config.json").is_file():
        raise FileNotFoundError(f"{found[0]} holds no config.json: not a network of diffusers")
    return found[0]


def _import_diffusers() -> Any:
    with importing("diffusers", _NEEDED):
        import diffusers
    return diffusers


_NEEDED = 'networks of diffusers need it: pip install "icrkit[diffusers]"'


def _module(
    place: Path, config: dict[str, Any], checkpoint: Path | None, key: str | None, variant: str | None, dtype: str
) -> tuple[nn.Module, str]:
    """The network with its weights, and their digest."""
    name = config.get("_class_name")
    if name not in (*CALLS, _OLD_NAME):
        raise ValueError(f"{place / 'config.json'} names the class {name!r}; known are {', '.join(CALLS)}")
    if config.get("quantization_config") is not None:
        raise ValueError(f"{place} holds a quantised network, which is not read: take the weights in float16 or more")
    diffusers = _import_diffusers()
    import torch

    with importing("diffusers", _NEEDED):
        made = getattr(diffusers, name)
    files = [checkpoint] if checkpoint is not None else weight_files(place, "diffusers", variant)
    if not files:
        there = sorted(path.name for path in place.iterdir())
        raise FileNotFoundError(
            f"{place} holds no diffusion_pytorch_model.safetensors, and no checkpoint is given: {there}"
        )
    if checkpoint is not None or files[0].suffix == ".bin":
        module = made.from_config(config).to(getattr(torch, dtype))
        load_into(module, read_shards(files) if checkpoint is None else read_tensors(checkpoint, key), files[0])
        return frozen(module), digest(files)
    module, found = made.from_pretrained(
        str(place),
        variant=variant,
        local_files_only=True,
        use_safetensors=True,
        torch_dtype=getattr(torch, dtype),
        # Only with this package can it be had; asking without it is a warning.
        low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None,
        output_loading_info=True,
    )
    # diffusers draws at random what the file lacks.
    wrong = {kind: found[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched") if found[f"{kind}_keys"]}
    if wrong:
        said = "; ".join(f"{len(names)} {kind}, first {sorted(map(str, names))[0]}" for kind, names in wrong.items())
        raise ValueError(f"the weights in {place} are not those of its config.json: tensors {said}")
    return frozen(module), digest(files)


def _law(folder: Path, scheduler: str | Path | None, module: Any) -> noise.NoiseLaw | None:
    path = folder / "scheduler" if scheduler is None else Path(scheduler)
    path = path / "scheduler_config.json" if path.is_dir() else path
    if scheduler is None and not path.is_file():
        return None
    law = noise.from_scheduler(read_config(path))
    # Flux multiplies its time by 1000 itself.
    if type(module).__name__ == "FluxTransformer2DModel" and isinstance(law, noise.Flow):
        return dataclasses.replace(law, scale=1.0)
    return law


# Axes of one prompt's arrays, as diffusers' encode_prompt names them.
_PROMPT_AXES = {"prompt_embeds": 2, "pooled_prompt_embeds": 1, "prompt_attention_mask": 1}


def _prompt(path: Path | None) -> dict[str, Tensor]:
    """Embedding of the empty prompt from a file: float32, rows of one."""
    if path is None:
        return {}
    if path.suffix.lower() == ".npy":
        import torch

        try:
            found = {"prompt_embeds": torch.from_numpy(np.load(path, allow_pickle=False))}
        except (ValueError, TypeError, EOFError) as error:
            raise UnsafeModelError(f"{path} is not an array of numbers: {error}") from error
    else:
        found = read_tensors(path)
    rows = {}
    for name, value in found.items():
        if name not in _PROMPT_AXES:
            raise ValueError(f"{path} holds {name!r}; an embedding of a prompt has {', '.join(_PROMPT_AXES)}")
        row = value[None] if value.ndim == _PROMPT_AXES[name] else value
        if row.ndim != 1 + _PROMPT_AXES[name] or len(row) != 1:
            raise ValueError(f"{path}: {name!r} has shape {tuple(value.shape)}, which is not that of one prompt")
        rows[name] = row.float()
    return rows


def _pixels(folder: Path) -> int:
    """Pixels along one latent: 2 for each halving of the autoencoder, 8 where there is none beside the network."""
    path = folder / "vae" / "config.json"
    if not path.is_file():
        return 8
    return int(2 ** (len(read_config(path).get("block_out_channels", [0] * 4)) - 1))


def load(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    code: str | Path | None = None,
    key: str | None = None,
    subfolder: str | None = None,
    variant: str | None = None,
    dtype: str = "float32",
    scheduler: str | Path | None = None,
    autoencoder: str | Path | Literal[False] | None = None,
    class_label: int | None = None,
    empty_prompt: str | Path | None = None,
    guidance: float = 1.0,
    sample_size: int | None = None,
) -> Network:
    """A U-Net or transformer of diffusers from a folder, with the noise of its scheduler.

    Parameters
    ----------
    model : path
        Folder of a pipeline (``unet/`` or ``transformer/``, ``scheduler/``, perhaps ``vae/``) or of a network alone.
        Classes: UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel, PixArtTransformer2DModel,
        SD3Transformer2DModel, FluxTransformer2DModel.
    checkpoint : path, optional
        Other weights for the network that the folder's configuration describes.
    code : None
        Not used: the classes are those of the package.
    key : str, optional
        Entry of ``checkpoint`` that holds the weights, such as "ema".
    subfolder : str, optional
        Folder of the network inside the pipeline's, such as ``unet_ema``.
    variant : str, optional
        Such as "fp16", in ``diffusion_pytorch_model.fp16.safetensors``.
    dtype : {"float32", "float16", "bfloat16"}
        Of weights and arithmetic; features are float32.
    scheduler : path, optional
        Folder or file of a scheduler's configuration; by default the pipeline's. Without any, ``noise`` is None.
    autoencoder : path or False, optional
        Folder of an AutoencoderKL; by default the pipeline's ``vae``. False: none; `extract` is then given
        another as ``encode``.
    class_label : int, optional
        Class of a class-conditional network. Default of DiT: its null class. A U-Net has none, and asks for it.
    empty_prompt : path, optional
        Embedding of the empty prompt: .npy (token, feature), or .safetensors, .npz or .pt with ``prompt_embeds`` and,
        as the network needs them, ``pooled_prompt_embeds`` (feature,) and ``prompt_attention_mask`` (token,).
        Default: zeros, with a warning.
    guidance : float
        What a Flux with embedded guidance is told; 1 is none.
    sample_size : int, optional
        Height and width of the input, where the configuration does not say or the network takes others.

    Returns
    -------
    Network

    Raises
    ------
    MissingDependencyError
        If diffusers is not installed.
    FileNotFoundError
        If the folder, its config.json or its weights are not there.
    ValueError
        If the class is not one of those above; if weights do not fit the configuration; if the scheduler is not known;
        if a class label or the prompt's embedding is missing or does not fit.
    UnsafeModelError
        If a file would run code, or points out of the folder.

    Warns
    -----
    UserWarning
        If a prompt's embedding is replaced by zeros that the pipeline itself does not use; if the pipeline's
        autoencoder is of a kind that is not read.

    Notes
    -----
    Zeros are not the embedding of the empty prompt, which is what networks learn with. SDXL's pipeline is the exception
    (``force_zeros_for_empty_prompt``). The embedding is written once, by the pipeline itself::

        pipe = StableDiffusionPipeline.from_pretrained(folder)
        embeds, _ = pipe.encode_prompt("", "cpu", 1, do_classifier_free_guidance=False)
        safetensors.torch.save_file({"prompt_embeds": embeds}, "empty.safetensors")

    Joint blocks (``transformer_blocks.*`` of SD3 and Flux, ``single_transformer_blocks.*`` of Flux) return the text
    stream as item 0 and the image stream as item 1: ``network.source(layers, output_index=1)``. The last joint block of
    SD3 has no text left: its item 0 is None.

    The digest recorded is that of the weights: of several files, of their bytes one after the other in the order of
    their names (``cat *.safetensors | sha256sum``). Where a folder has a whole file and an index of shards, the shards
    are read and hashed, as diffusers does.

    References
    ----------
    von Platen et al., diffusers, https://github.com/huggingface/diffusers.
    """
    if code is not None:
        raise ValueError("networks of diffusers take no code: their classes are those of the package")
    if key is not None and checkpoint is None:
        raise ValueError(f"key={key!r} names an entry of checkpoint, and no checkpoint is given")
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    folder = Path(model)
    place = _place(folder, subfolder)
    module, sha256 = _module(
        place, read_config(place / "config.json"), None if checkpoint is None else Path(checkpoint), key, variant, dtype
    )
    index = folder / "model_index.json"
    pipeline = read_config(index) if index.is_file() else {}
    prompt = None if empty_prompt is None else Path(empty_prompt)
    null = Null(class_label, _prompt(prompt), float(guidance), _pixels(folder), sample_size)
    made = CALLS[type(module).__name__](module, null)
    if prompt is not None and "prompt" not in made.conditioning:
        raise ValueError(f"empty_prompt: a {type(module).__name__} takes no prompt")
    if prompt is not None:
        made.conditioning["prompt_sha256"] = sha256_of(prompt)
    elif "prompt" in made.conditioning and not pipeline.get("force_zeros_for_empty_prompt"):
        warnings.warn(
            f"{place}: zeros stand for the prompt, and they are not the embedding of the empty prompt that the network "
            "learned with; give that one with empty_prompt",
            stacklevel=2,
        )
    if autoencoder is None:
        autoencoder = folder / "vae" if (folder / "vae").is_dir() else False
        if "vqvae" in pipeline:
            warnings.warn(
                f"{folder}: its autoencoder (vqvae) is not read, so the images must be its latents", stacklevel=2
            )
    encode = None
    if autoencoder:
        from icrkit_extractors.latents import open_autoencoder

        encode = open_autoencoder(autoencoder)
    record = {
        "family": "diffusers",
        "network": type(module).__name__,
        "model_sha256": sha256,
        "conditioning": made.conditioning,
        # Tokens of these transformers are patches, all of them.
        "prefix_tokens": 0,
        "diffusers_version": _import_diffusers().__version__,
    }
    return Network(module, _law(folder, scheduler, module), made.call, made.input_shape, record, encode)
