"""How networks of diffusers are called without a condition: one function for each class.

What a network asks for beside the noisy image (a class, a prompt) is held at its null value, and recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Call = Callable[[Any, Tensor, Mapping[str, Tensor]], object]

__all__ = ["CALLS", "Made", "Null"]


class Null(NamedTuple):
    """What stands for "no condition": as asked for, and what the folder says of it."""

    class_label: int | None
    prompt: Mapping[str, Tensor]
    guidance: float
    pixels: int
    sample_size: int | None


class Made(NamedTuple):
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


def _shape(module: Any, null: Null, channels: int) -> tuple[int, int, int] | None:
    size = getattr(module.config, "sample_size", None) if null.sample_size is None else null.sample_size
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return channels, int(height), int(width)


# ---- classes and prompts --------------------------------------------------------------------------------------------


def _class_row(module: Any, null: Null) -> Tensor | None:
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


def _prompt_rows(null: Null, n_tokens: int, width: int, pooled: int | None = None) -> dict[str, Tensor]:
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


def _said_of_prompt(null: Null, rows: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"prompt": "given" if null.prompt else "zeros", "n_tokens": rows["prompt_embeds"].shape[1]}


# ---- one function a class -------------------------------------------------------------------------------------------


def _unet(module: Any, null: Null) -> Made:
    if module.config.center_input_sample:
        raise ValueError("center_input_sample=True: the network takes images in [0, 1], which no noise law here gives")
    label = _class_row(module, null)
    held = _Held(label=label)

    def call(module: Any, x: Tensor, conditioning: Mapping[str, Tensor]) -> object:
        return module(x, _timestep(conditioning), class_labels=held("label", x), return_dict=False)

    said = {} if label is None else {"class_label": int(label)}
    return Made(call, said, _shape(module, null, module.config.in_channels))


def _text_unet(module: Any, null: Null) -> Made:
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
    return Made(call, said, _shape(module, null, config.in_channels))


def _dit(module: Any, null: Null) -> Made:
    import torch

    # One row more than there are classes: the label that training drops to.
    empty = module.config.num_embeds_ada_norm
    label = empty if null.class_label is None else null.class_label
    if not 0 <= label <= empty:
        raise ValueError(f"class_label={label} is not one of 0 to {empty - 1}, or {empty} for no class")
    held = _Held(label=torch.tensor([label]))

    def call(module: Any, x: Tensor, conditioning: Mapping[str, Tensor]) -> object:
        return module(x, _timestep(conditioning), class_labels=held("label", x), return_dict=False)

    return Made(
        call, {"class_label": label, "is_null": label == empty}, _shape(module, null, module.config.in_channels)
    )


def _pixart(module: Any, null: Null) -> Made:
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
    return Made(call, said, _shape(module, null, config.in_channels))


def _sd3(module: Any, null: Null) -> Made:
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

    return Made(call, _said_of_prompt(null, rows), _shape(module, null, config.in_channels))


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


def _flux(module: Any, null: Null) -> Made:
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
    return Made(call, said, _shape(module, null, config.in_channels // 4))


# By class.
CALLS: dict[str, Callable[[Any, Null], Made]] = {
    "UNet2DModel": _unet,
    "UNet2DConditionModel": _text_unet,
    "DiTTransformer2DModel": _dit,
    "PixArtTransformer2DModel": _pixart,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
}
