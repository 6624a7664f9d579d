"""Networks of diffusers, from a folder on this machine: no code of the folder is run, nothing is downloaded.

What a network asks for beside the noisy image (a class, a prompt) is held at its null value, and recorded.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from icrkit.exceptions import MissingDependencyError, UnsafeModelError
from icrkit_extractors import noise
from icrkit_extractors._checkpoint import load_into, read_shards, read_tensors, sha256_of
from icrkit_extractors.models._network import Network, frozen
from icrkit_extractors.models._pretrained import digest, read_config, weight_files

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Call = Callable[[Any, Tensor, Mapping[str, Tensor]], object]

__all__ = ["load"]

_DTYPES = ("float32", "float16", "bfloat16")


class _Null(NamedTuple):
    """What stands for "no condition": as asked for, and what the folder says of it."""

    class_label: int | None
    prompt: Mapping[str, Tensor]
    guidance: float
    pixels: int
    sample_size: int | None


class _Made(NamedTuple):
    """How a network is called, what is recorded of that, and the shape of its input."""

    call: Call
    conditioning: dict[str, Any]
    input_shape: tuple[int, int, int] | None


class _Held:
    """Rows that every call needs, one copy for each device and dtype on which they are asked for."""

    def __init__(self, **rows: Tensor | None) -> None:
        self._rows = {name: row for name, row in rows.items() if row is not None}
        self._copies: dict[Any, Tensor] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor | None:
        """The row, once for each image of x; None where there is none."""
        if name not in self._rows:
            return None
        key = (name, x.device, x.dtype)
        if key not in self._copies:
            row = self._rows[name]
            self._copies[key] = row.to(x.device, x.dtype if row.is_floating_point() else row.dtype)
        row = self._copies[key]
        return row.expand(len(x), *row.shape[1:])


def _timestep(conditioning: Mapping[str, Tensor]) -> Tensor:
    if list(conditioning) != ["timestep"]:
        raise ValueError(
            f"networks of diffusers take the conditioning 'timestep', and the noise law gives {list(conditioning)}: "
            "noise.from_scheduler, noise.DDPM, or noise.Flow(name='timestep', scale=...) give it"
        )
    return conditioning["timestep"]


def _shape(module: Any, null: _Null, channels: int) -> tuple[int, int, int] | None:
    size = getattr(module.config, "sample_size", None) if null.sample_size is None else null.sample_size
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return channels, int(height), int(width)


# ---- classes and prompts --------------------------------------------------------------------------------------------


def _class_row(module: Any, null: _Null) -> Tensor | None:
    """Class label of a U-Net, a row of one; None where it takes none."""
    import torch

    kind, count, label = module.config.class_embed_type, module.config.num_class_embeds, null.class_label
    if module.class_embedding is None:
        if label is not None:
            raise ValueError(f"class_label={label}: this {type(module).__name__} takes no class")
        return None
    if kind not in (None, "timestep"):
        raise ValueError(
            f"class_embed_type={kind!r} takes an embedding, which is not known here: load the network by family module"
        )
    if label is None:
        said = f"its {count} classes" if kind is None else "its class conditioning"
        last = "" if kind is not None else f" (where training dropped labels to a last, empty class: {count - 1})"
        raise ValueError(
            f"a class-conditional {type(module).__name__} of diffusers has no null class of its own: pass "
            f"class_label, one of {said}{last}"
        )
    if kind is None and not 0 <= label < count:
        raise ValueError(f"class_label={label} is not one of the {count} classes, 0 to {count - 1}")
    return torch.tensor([label])


def _prompt_rows(null: _Null, n_tokens: int, width: int, pooled: int | None = None) -> dict[str, Tensor]:
    """Embedding of the prompt, rows of one: as given, or zeros."""
    import torch

    if not null.prompt:
        rows = {"prompt_embeds": torch.zeros(1, n_tokens, width)}
        return rows if pooled is None else {**rows, "pooled_prompt_embeds": torch.zeros(1, pooled)}
    rows = dict(null.prompt)
    wanted = {"prompt_embeds": width} if pooled is None else {"prompt_embeds": width, "pooled_prompt_embeds": pooled}
    for name, size in wanted.items():
        if name not in rows:
            raise ValueError(f"empty_prompt lacks {name!r}, of {size} features; it holds {list(rows)}")
        if rows[name].shape[-1] != size:
            raise ValueError(
                f"empty_prompt: {name!r} has {rows[name].shape[-1]} features, and the network takes {size}"
            )
    return rows


def _said_of_prompt(null: _Null, rows: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"prompt": "given" if null.prompt else "zeros", "n_tokens": rows["prompt_embeds"].shape[1]}


# ---- one function a class -------------------------------------------------------------------------------------------


def _unet(module: Any, null: _Null) -> _Made:
    if module.config.center_input_sample:
        raise ValueError("center_input_sample=True: the network takes images in [0, 1], which no noise law here gives")
    label = _class_row(module, null)
    held = _Held(label=label)

    def call(module: Any, x: Tensor, conditioning: Mapping[str, Tensor]) -> object:
        return module(x, _timestep(conditioning), class_labels=held("label", x), return_dict=False)

    said = {} if label is None else {"class_label": int(label)}
    return _Made(call, said, _shape(module, null, module.config.in_channels))


def _text_unet(module: Any, null: _Null) -> _Made:
    import torch

    config = module.config
    if config.encoder_hid_dim_type not in (None, "text_proj") or config.addition_embed_type not in (
        None,
        "text",
        "text_time",
    ):
        raise ValueError(
            f"a UNet2DConditionModel with encoder_hid_dim_type={config.encoder_hid_dim_type!r} and "
            f"addition_embed_type={config.addition_embed_type!r} takes images as conditions, which is not known here: "
            "load it by family module"
        )
    width = config.cross_attention_dim if config.encoder_hid_dim is None else config.encoder_hid_dim
    width = width if isinstance(width, int) else width[0]
    pooled = None
    if config.addition_embed_type == "text_time":
        # SDXL: six numbers (size, crop, target size), each embedded, stand beside the pooled prompt.
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    rows = _prompt_rows(null, 77, width, pooled)
    label = _class_row(module, null)
    held = _Held(**rows, label=label)

    def call(module: Any, x: Tensor, conditioning: Mapping[str, Tensor]) -> object:
        added = None
        if pooled is not None:
            height, width = (null.pixels * side for side in x.shape[-2:])
            sizes = torch.tensor([height, width, 0, 0, height, width], device=x.device, dtype=x.dtype)
            added = {"text_embeds": held("pooled_prompt_embeds", x), "time_ids": sizes.expand(len(x), -1)}
        return module(
            x,
            _timestep(conditioning),
            encoder_hidden_states=held("prompt_embeds", x),
            class_labels=held("label", x),
            added_cond_kwargs=added,
            encoder_attention_mask=held("prompt_attention_mask", x),
            return_dict=False,
        )

    said = _said_of_prompt(null, rows) | ({} if label is None else {"class_label": int(label)})
    if pooled is not None:
        said["pixels_per_latent"] = null.pixels
    return _Made(call, said, _shape(module, null, config.in_channels))


def _dit(module: Any, null: _Null) -> _Made:
    import torch

    # One row more than there are classes: the label that training drops to.
    empty = module.config.num_embeds_ada_norm
    label = empty if null.class_label is None else null.class_label
    if not 0 <= label <= empty:
        raise ValueError(f"class_label={label} is not one of 0 to {empty - 1}, or {empty} for no class")
    held = _Held(label=torch.tensor([label]))

    def call(module: Any, x: Tensor, conditioning: Mapping[str, Tensor]) -> object:
        return module(x, _timestep(conditioning), class_labels=held("label", x), return_dict=False)

    return _Made(
        call, {"class_label": label, "is_null": label == empty}, _shape(module, null, module.config.in_channels)
    )


def _pixart(module: Any, null: _Null) -> _Made:
    import torch

    config = module.config
    width = config.cross_attention_dim if config.caption_channels is None else config.caption_channels
    rows = _prompt_rows(null, 120, width)
    held = _Held(**rows)

    def call(module: Any, x: Tensor, conditioning: Mapping[str, Tensor]) -> object:
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if module.use_additional_conditions:
            height, width = (null.pixels * side for side in x.shape[-2:])
            told = torch.tensor([height, width, height / width], device=x.device, dtype=x.dtype).expand(len(x), -1)
            sizes = {"resolution": told[:, :2], "aspect_ratio": told[:, 2:]}
        return module(
            x,
            encoder_hidden_states=held("prompt_embeds", x),
            timestep=_timestep(conditioning),
            added_cond_kwargs=sizes,
            encoder_attention_mask=held("prompt_attention_mask", x),
            return_dict=False,
        )

    said = _said_of_prompt(null, rows)
    if module.use_additional_conditions:
        said["pixels_per_latent"] = null.pixels
    return _Made(call, said, _shape(module, null, config.in_channels))


def _sd3(module: Any, null: _Null) -> _Made:
    config = module.config
    # 77 tokens of CLIP and 256 of T5.
    rows = _prompt_rows(null, 333, config.joint_attention_dim, config.pooled_projection_dim)
    held = _Held(**rows)

    def call(module: Any, x: Tensor, conditioning: Mapping[str, Tensor]) -> object:
        return module(
            x,
            encoder_hidden_states=held("prompt_embeds", x),
            pooled_projections=held("pooled_prompt_embeds", x),
            timestep=_timestep(conditioning),
            return_dict=False,
        )

    return _Made(call, _said_of_prompt(null, rows), _shape(module, null, config.in_channels))


def _packed(x: Tensor) -> Tensor:
    """Latents (n, c, h, w) as tokens (n, h/2 * w/2, 4 c): each the 2 x 2 values of every channel, channel first."""
    n, channels, height, width = x.shape
    patches = x.reshape(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, height // 2 * (width // 2), 4 * channels)


def _positions(height: int, width: int, device: torch.device) -> Tensor:
    """Places (h * w, 3) of image tokens: 0, row, column."""
    import torch

    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).to(device, torch.float32)


def _flux(module: Any, null: _Null) -> _Made:
    import torch

    config = module.config
    rows = _prompt_rows(null, 512, config.joint_attention_dim, config.pooled_projection_dim)
    n_tokens = rows["prompt_embeds"].shape[1]
    held = _Held(**rows)

    def call(module: Any, x: Tensor, conditioning: Mapping[str, Tensor]) -> object:
        if x.shape[-2] % 2 or x.shape[-1] % 2:
            raise ValueError(f"Flux takes latents of even height and width, not {tuple(x.shape[-2:])}")
        guidance = torch.full((len(x),), null.guidance, device=x.device) if config.guidance_embeds else None
        return module(
            _packed(x),
            encoder_hidden_states=held("prompt_embeds", x),
            pooled_projections=held("pooled_prompt_embeds", x),
            timestep=_timestep(conditioning),
            img_ids=_positions(x.shape[-2] // 2, x.shape[-1] // 2, x.device),
            txt_ids=torch.zeros(n_tokens, 3, device=x.device),
            guidance=guidance,
            return_dict=False,
        )

    said = _said_of_prompt(null, rows) | ({"guidance": null.guidance} if config.guidance_embeds else {})
    return _Made(call, said, _shape(module, null, config.in_channels // 4))


_KNOWN: dict[str, Callable[[Any, _Null], _Made]] = {
    "UNet2DModel": _unet,
    "UNet2DConditionModel": _text_unet,
    "DiTTransformer2DModel": _dit,
    "PixArtTransformer2DModel": _pixart,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
}
# What DiT and PixArt were called in older folders: diffusers reads it and makes the class of today.
_OLD_NAME = "Transformer2DModel"


# ---- the folder -----------------------------------------------------------------------------------------------------


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
    try:
        import diffusers
    except ImportError as error:
        raise MissingDependencyError('networks of diffusers need it: pip install "icrkit[diffusers]"') from error
    return diffusers


def _module(
    place: Path, config: dict[str, Any], checkpoint: Path | None, key: str | None, variant: str | None, dtype: str
) -> tuple[nn.Module, str]:
    """The network with its weights, and their digest."""
    name = config.get("_class_name")
    if name not in (*_KNOWN, _OLD_NAME):
        raise ValueError(f"{place / 'config.json'} names the class {name!r}; known are {', '.join(_KNOWN)}")
    if config.get("quantization_config") is not None:
        raise ValueError(f"{place} holds a quantised network, which is not read: take the weights in float16 or more")
    diffusers = _import_diffusers()
    import torch

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
    null = _Null(class_label, _prompt(prompt), float(guidance), _pixels(folder), sample_size)
    made = _KNOWN[type(module).__name__](module, null)
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
