"""Networks of diffusers: real classes of a tiny size, saved and loaded again, against a forward pass by hand."""

from __future__ import annotations

import hashlib
import itertools
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icrkit.datasets import data_path, load_fashion_images
from icrkit.exceptions import UnsafeModelError
from icrkit_extractors import noise
from icrkit_extractors.models import load as load_family
from icrkit_extractors.models._network import Network
from icrkit_extractors.models.diffusers import load
from icrkit_extractors.views import as_unit_range

diffusers = pytest.importorskip("diffusers", reason="the family reads what this package writes")

BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
PLAIN = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 12,
}
TOKENS = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "UNet2DModel": {"sample_size": 16, "in_channels": 3, "out_channels": 3, **BLOCKS, **PLAIN},
    "UNet2DConditionModel": {"sample_size": 8, "in_channels": 4, "out_channels": 4, **BLOCKS, **CROSS},
    "DiTTransformer2DModel": {"sample_size": 8, "num_embeds_ada_norm": 10, "norm_num_groups": 4, **TOKENS},
    "PixArtTransformer2DModel": {"sample_size": 8, "cross_attention_dim": 16, "caption_channels": 12, **TOKENS},
    "SD3Transformer2DModel": {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "joint_attention_dim": 12,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 10,
        "pos_embed_max_size": 8,
        **TOKENS,
    },
    "FluxTransformer2DModel": {
        "in_channels": 16,
        "num_single_layers": 1,
        "joint_attention_dim": 12,
        "pooled_projection_dim": 10,
        "guidance_embeds": True,
        "axes_dims_rope": (2, 2, 4),
        **TOKENS,
    },
}
LAYERS = {
    "UNet2DModel": ("mid_block", "up_blocks.0"),
    "UNet2DConditionModel": ("mid_block", "up_blocks.0"),
    "DiTTransformer2DModel": ("transformer_blocks.0", "transformer_blocks.1"),
    "PixArtTransformer2DModel": ("transformer_blocks.0", "transformer_blocks.1"),
    "SD3Transformer2DModel": ("transformer_blocks.0", "transformer_blocks.1"),
    "FluxTransformer2DModel": ("transformer_blocks.1", "single_transformer_blocks.0"),
}
KINDS = tuple(CONFIGS)
PROMPTED = KINDS[1:2] + KINDS[3:]
JOINT = KINDS[4:]


def make(kind: str, **changes: Any) -> Any:
    """A network whose weights are all drawn, those that start at zero too."""
    generator = torch.Generator().manual_seed(5)
    module = getattr(diffusers, kind)(**{**CONFIGS[kind], **changes}).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def save(folder: Path, module: Any, **pipeline: Any) -> Path:
    """A pipeline's folder."""
    module.save_pretrained(folder / ("unet" if "UNet" in type(module).__name__ else "transformer"))
    flow = type(module).__name__ in JOINT
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0) if flow else diffusers.DDPMScheduler()
    scheduler.save_pretrained(folder / "scheduler")
    if pipeline:
        (folder / "model_index.json").write_text(json.dumps(pipeline))
    return folder


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Folder and module of each class."""
    root = tmp_path_factory.mktemp("diffusers")
    made = {kind: make(kind) for kind in KINDS}
    return {kind: (save(root / kind, module), module) for kind, module in made.items()}


def quiet(model: str | Path, **given: Any) -> Network:
    """`load` where zeros for the prompt are meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*zeros stand for the prompt")
        return load(model, **given)


@pytest.fixture(scope="module")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompt") / "empty.npz"
    rng = np.random.default_rng(1)
    np.savez(
        path,
        prompt_embeds=rng.standard_normal((5, 12), dtype=np.float32),
        pooled_prompt_embeds=rng.standard_normal(10, dtype=np.float32),
    )
    return path


def noised(network: Network, shape: tuple[int, int, int], n: int = 3) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(2)
    x0, draw = (torch.randn(n, *shape, generator=generator) for _ in range(2))
    return network.noise(x0, draw, 0.5)


def shape_of(network: Network) -> tuple[int, int, int]:
    return network.input_shape or (4, 8, 6)


def pooled_by_hand(module: Any, layers: tuple[str, ...], forward: Callable[[], object]) -> dict[str, np.ndarray]:
    """Means of the layers' outputs, over space or tokens of the image stream."""
    seen: dict[str, Any] = {}
    handles = [
        module.get_submodule(name).register_forward_hook(lambda part, args, out, name=name: seen.update({name: out}))
        for name in layers
    ]
    with torch.inference_mode():
        forward()
    for handle in handles:
        handle.remove()
    images = {name: out[1] if isinstance(out, tuple) else out for name, out in seen.items()}
    return {name: h.mean(dim=(2, 3) if h.ndim == 4 else 1).numpy() for name, h in images.items()}


def by_hand(kind: str, module: Any, x: torch.Tensor, t: torch.Tensor, given: dict[str, torch.Tensor]) -> None:
    """One forward pass as a script that samples with the class would write it."""
    n = len(x)
    embeds = torch.zeros(n, {"PixArtTransformer2DModel": 120, "SD3Transformer2DModel": 333}.get(kind, 77), 12)
    embeds = embeds if kind != "FluxTransformer2DModel" else torch.zeros(n, 512, 12)
    pooled = torch.zeros(n, 10)
    if given:
        embeds = given["prompt_embeds"].repeat(n, 1, 1)
        pooled = given["pooled_prompt_embeds"].repeat(n, 1)
    if kind == "UNet2DModel":
        module(x, t)
    elif kind == "UNet2DConditionModel":
        module(x, t, encoder_hidden_states=embeds)
    elif kind == "DiTTransformer2DModel":
        module(x, timestep=t, class_labels=torch.full((n,), 10))
    elif kind == "PixArtTransformer2DModel":
        added = {"resolution": None, "aspect_ratio": None}
        module(x, encoder_hidden_states=embeds, timestep=t, added_cond_kwargs=added)
    elif kind == "SD3Transformer2DModel":
        module(x, encoder_hidden_states=embeds, pooled_projections=pooled, timestep=t)
    else:
        pipe = diffusers.FluxPipeline
        height, width = x.shape[-2:]
        module(
            pipe._pack_latents(x, n, 4, height, width),
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            timestep=t,
            guidance=torch.full((n,), 1.0),
            img_ids=pipe._prepare_latent_image_ids(n, height // 2, width // 2, "cpu", torch.float32),
            txt_ids=torch.zeros(embeds.shape[1], 3),
        )


# ---- features are those of the class --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "prompted"), [*((kind, False) for kind in KINDS), *((kind, True) for kind in PROMPTED)]
)
def test_features_are_bitwise_those_of_a_forward_pass_by_hand(networks, prompt, kind, prompted):
    folder, module = networks[kind]
    given = {}
    if prompted:
        arrays = np.load(prompt)
        given = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    network = quiet(folder, empty_prompt=prompt if prompted else None)
    x, conditioning = noised(network, shape_of(network))
    source = network.source(LAYERS[kind], output_index=1 if kind in JOINT else None)
    features = source(x, conditioning)
    t = conditioning["timestep"]
    wanted = pooled_by_hand(module, LAYERS[kind], lambda: by_hand(kind, module, x, t, given))
    assert list(features) == list(LAYERS[kind])
    for name, h in wanted.items():
        np.testing.assert_array_equal(features[name], h)
        assert h.std(axis=0).max() > 1e-3
    config = source.config()
    assert config["family"] == "diffusers" and config["network"] == kind
    json.dumps(config)


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_is_that_of_the_folders_scheduler(networks, kind):
    folder, _ = networks[kind]
    network = quiet(folder)
    generator = torch.Generator().manual_seed(2)
    x0, draw = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    # A timestep as the network is told it, and the scheduler's own noising there.
    if kind in JOINT:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        told = 0.3 if kind == "FluxTransformer2DModel" else 300.0
        wanted = scheduler.scale_noise(x0, scheduler.timesteps[700:701].repeat(2), draw)
        assert float(scheduler.timesteps[700]) == 300.0
    else:
        told = 300.0
        wanted = diffusers.DDPMScheduler().add_noise(x0, draw, torch.tensor([300, 300]))
    [sigma] = network.noise.sigmas_at([told])
    x, conditioning = network.noise(x0, draw, sigma)
    assert list(conditioning) == ["timestep"]
    torch.testing.assert_close(conditioning["timestep"], torch.full((2,), told), rtol=1e-5, atol=0)
    torch.testing.assert_close(x, wanted, rtol=1e-5, atol=1e-6)


def test_flux_takes_even_latents(networks):
    network = quiet(networks["FluxTransformer2DModel"][0])
    with pytest.raises(ValueError, match="even height and width, not \\(7, 8\\)"):
        network.source("single_transformer_blocks.0", output_index=1)(*noised(network, (4, 7, 8)))


@pytest.mark.parametrize("kind", JOINT)
def test_which_stream_is_not_guessed(networks, kind):
    network = quiet(networks[kind][0])
    with pytest.raises(ValueError, match="say which is meant"):
        network.source("transformer_blocks.0")(*noised(network, shape_of(network)))


def test_the_last_block_of_sd3_has_the_image_stream_only(networks):
    network = quiet(networks["SD3Transformer2DModel"][0])
    x, conditioning = noised(network, shape_of(network))
    alone = network.source("transformer_blocks.1")(x, conditioning)
    named = network.source("transformer_blocks.1", output_index=1)(x, conditioning)
    np.testing.assert_array_equal(alone["transformer_blocks.1"], named["transformer_blocks.1"])


def test_half_precision_is_near(networks):
    folder, _ = networks["UNet2DModel"]
    features = {}
    for dtype in ("float32", "bfloat16"):
        network = load(folder, dtype=dtype)
        source = network.source("mid_block")
        assert source.config()["dtype"] == dtype
        features[dtype] = source(*noised(network, (3, 16, 16)))["mid_block"]
    scale = np.abs(features["float32"]).max()
    assert 0 < np.abs(features["float32"] - features["bfloat16"]).max() < 0.05 * scale


# ---- classes --------------------------------------------------------------------------------------------------------


def test_the_null_class_of_dit_is_the_row_that_training_drops_to(networks):
    folder, module = networks["DiTTransformer2DModel"]
    network = load(folder)
    assert network.record["conditioning"] == {"class_label": 10, "is_null": True}
    seen: list[torch.Tensor] = []
    embedder = network.module.transformer_blocks[0].norm1.emb.class_embedder
    handle = embedder.register_forward_hook(lambda part, args, out: seen.append(out))
    network.source("transformer_blocks.0")(*noised(network, (4, 8, 8)))
    handle.remove()
    dropped = module.transformer_blocks[0].norm1.emb.class_embedder.token_drop(torch.arange(3), np.ones(3))
    assert torch.equal(seen[0], module.transformer_blocks[0].norm1.emb.class_embedder(dropped))
    assert load(folder, class_label=3).record["conditioning"] == {"class_label": 3, "is_null": False}
    with pytest.raises(ValueError, match="class_label=11 is not one of 0 to 9, or 10 for no class"):
        load(folder, class_label=11)


def test_a_class_conditional_unet_asks_for_its_class(networks, tmp_path):
    module = make("UNet2DModel", num_class_embeds=4)
    folder = save(tmp_path, module)
    with pytest.raises(ValueError, match=r"no null class of its own: pass class_label, one of its 4 classes .*: 3\)"):
        load(folder)
    with pytest.raises(ValueError, match="class_label=4 is not one of the 4 classes, 0 to 3"):
        load(folder, class_label=4)
    with pytest.raises(ValueError, match="this UNet2DModel takes no class"):
        load(networks["UNet2DModel"][0], class_label=0)
    network = load(folder, class_label=2)
    assert network.record["conditioning"] == {"class_label": 2}
    x, conditioning = noised(network, (3, 16, 16))
    labels = torch.tensor([2, 2, 2])
    wanted = pooled_by_hand(module, ("mid_block",), lambda: module(x, conditioning["timestep"], class_labels=labels))
    np.testing.assert_array_equal(network.source("mid_block")(x, conditioning)["mid_block"], wanted["mid_block"])


def test_a_class_that_is_an_embedding_is_refused(tmp_path):
    folder = save(tmp_path, make("UNet2DModel", class_embed_type="identity"))
    with pytest.raises(ValueError, match="class_embed_type='identity' takes an embedding"):
        load(folder, class_label=0)


# ---- prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PROMPTED)
def test_zeros_for_the_prompt_are_said(networks, prompt, kind):
    folder, _ = networks[kind]
    with pytest.warns(UserWarning, match="zeros stand for the prompt, and they are not the embedding"):
        network = load(folder)
    assert network.record["conditioning"]["prompt"] == "zeros"
    said = load(folder, empty_prompt=prompt).record["conditioning"]
    assert said["prompt"] == "given" and said["n_tokens"] == 5
    assert said["prompt_sha256"] == hashlib.sha256(prompt.read_bytes()).hexdigest()


def test_a_pipeline_that_uses_zeros_itself_gets_no_warning(tmp_path):
    load(save(tmp_path, make("UNet2DConditionModel"), force_zeros_for_empty_prompt=True))


def test_an_npy_file_holds_the_embedding_alone(networks, prompt, tmp_path):
    folder, _ = networks["UNet2DConditionModel"]
    np.save(tmp_path / "empty.npy", np.load(prompt)["prompt_embeds"][None])
    x, conditioning = noised(quiet(folder), (4, 8, 8))
    one, two = (
        load(folder, empty_prompt=path).source("mid_block")(x, conditioning)["mid_block"]
        for path in (prompt, tmp_path / "empty.npy")
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"prompt_embeds": np.zeros((5, 11))}, "'prompt_embeds' has 11 features, and the network takes 12"),
        ({"prompt_embeds": np.zeros((2, 5, 12))}, r"has shape \(2, 5, 12\), which is not that of one prompt"),
        ({"prompt_embeds": np.zeros((5, 12))}, "lacks 'pooled_prompt_embeds', of 10 features"),
        ({"embeds": np.zeros((5, 12))}, "holds 'embeds'; an embedding of a prompt has prompt_embeds"),
    ],
)
def test_an_embedding_that_does_not_fit_is_refused(networks, tmp_path, arrays, match):
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(ValueError, match=match):
        load(networks["SD3Transformer2DModel"][0], empty_prompt=tmp_path / "p.npz")


def test_a_prompt_for_a_network_without_is_refused(networks, prompt):
    with pytest.raises(ValueError, match="a UNet2DModel takes no prompt"):
        load(networks["UNet2DModel"][0], empty_prompt=prompt)


def test_objects_in_a_prompt_file_are_refused(networks, tmp_path):
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UnsafeModelError, match="not an array of numbers"):
        load(networks["UNet2DConditionModel"][0], empty_prompt=tmp_path / "p.npy")


def test_sdxl_is_told_the_size_of_the_image(prompt, tmp_path):
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    module = make("UNet2DConditionModel", projection_class_embeddings_input_dim=6 * 4 + 10, **more)
    network = load(save(tmp_path, module), empty_prompt=prompt)
    assert network.record["conditioning"]["pixels_per_latent"] == 8
    x, conditioning = noised(network, (4, 8, 4))
    arrays = np.load(prompt)
    embeds = torch.from_numpy(arrays["prompt_embeds"]).repeat(3, 1, 1)
    added = {
        "text_embeds": torch.from_numpy(arrays["pooled_prompt_embeds"]).repeat(3, 1),
        "time_ids": torch.tensor([[64.0, 32, 0, 0, 64, 32]]).repeat(3, 1),
    }

    def forward() -> None:
        module(x, conditioning["timestep"], encoder_hidden_states=embeds, added_cond_kwargs=added)

    wanted = pooled_by_hand(module, ("mid_block",), forward)
    np.testing.assert_array_equal(network.source("mid_block")(x, conditioning)["mid_block"], wanted["mid_block"])


def test_pixart_is_told_the_size_of_the_image(tmp_path):
    module = make(
        "PixArtTransformer2DModel", use_additional_conditions=True, attention_head_dim=12, cross_attention_dim=24
    )
    network = quiet(save(tmp_path, module))
    x, conditioning = noised(network, (4, 8, 4))
    added = {"resolution": torch.tensor([[64.0, 32.0]]).repeat(3, 1), "aspect_ratio": torch.full((3, 1), 2.0)}
    embeds = torch.zeros(3, 120, 12)

    def forward() -> None:
        module(x, encoder_hidden_states=embeds, timestep=conditioning["timestep"], added_cond_kwargs=added)

    name = "transformer_blocks.1"
    wanted = pooled_by_hand(module, (name,), forward)
    np.testing.assert_array_equal(network.source(name)(x, conditioning)[name], wanted[name])


def test_a_mask_over_the_prompt_reaches_the_network(networks, prompt, tmp_path):
    folder, module = networks["PixArtTransformer2DModel"]
    embeds, mask = torch.from_numpy(np.load(prompt)["prompt_embeds"]), torch.tensor([1.0, 1, 0, 0, 0])
    torch.save({"prompt_embeds": embeds, "prompt_attention_mask": mask}, tmp_path / "p.pt")
    network = load(folder, empty_prompt=tmp_path / "p.pt")
    x, conditioning = noised(network, (4, 8, 8))
    added, t = {"resolution": None, "aspect_ratio": None}, conditioning["timestep"]
    given = {"encoder_hidden_states": embeds.repeat(3, 1, 1), "encoder_attention_mask": mask.repeat(3, 1)}
    name = "transformer_blocks.1"
    wanted = pooled_by_hand(module, (name,), lambda: module(x, timestep=t, added_cond_kwargs=added, **given))
    np.testing.assert_array_equal(network.source(name)(x, conditioning)[name], wanted[name])


def test_conditions_that_are_images_are_refused(tmp_path):
    more = {"encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 8}
    folder = save(tmp_path, make("UNet2DConditionModel", **more))
    with pytest.raises(ValueError, match="encoder_hid_dim_type='image_proj'"):
        load(folder)


# ---- folders and weights --------------------------------------------------------------------------------------------


def test_a_network_alone_is_a_folder_too(networks):
    folder, module = networks["UNet2DModel"]
    network = load_family("diffusers", folder / "unet")
    assert network.noise is None and network.input_shape == (3, 16, 16)
    assert load(folder / "unet", scheduler=folder / "scheduler").noise == load(folder).noise
    weights = (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert network.record["model_sha256"] == hashlib.sha256(weights).hexdigest()
    for name, value in module.state_dict().items():
        assert torch.equal(network.module.state_dict()[name], value)
    assert not network.module.training and not any(p.requires_grad for p in network.module.parameters())


def test_sample_size_may_be_another(networks):
    assert load(networks["UNet2DModel"][0], sample_size=32).input_shape == (3, 32, 32)
    assert quiet(networks["FluxTransformer2DModel"][0]).input_shape is None
    assert quiet(networks["FluxTransformer2DModel"][0], sample_size=16).input_shape == (4, 16, 16)


@pytest.mark.parametrize(
    ("kind", "norm"), [("DiTTransformer2DModel", "ada_norm_zero"), ("PixArtTransformer2DModel", "ada_norm_single")]
)
def test_folders_that_name_the_older_class_are_read(networks, tmp_path, kind, norm):
    _, module = networks[kind]
    folder = save(tmp_path, module)
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    assert config["norm_type"] == norm
    path.write_text(json.dumps({**config, "_class_name": "Transformer2DModel"}))
    network = quiet(folder)
    assert type(network.module).__name__ == kind == network.record["network"]
    for name, value in module.state_dict().items():
        assert torch.equal(network.module.state_dict()[name], value)


def test_shards_and_variants_give_the_same_network(networks, tmp_path):
    _, module = networks["UNet2DModel"]
    module.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    module.save_pretrained(tmp_path / "variant", variant="ema")
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 1
    network = load(tmp_path / "shards")
    assert network.record["model_sha256"] == hashlib.sha256(b"".join(p.read_bytes() for p in shards)).hexdigest()
    for other in (network, load(tmp_path / "variant", variant="ema")):
        for name, value in module.state_dict().items():
            assert torch.equal(other.module.state_dict()[name], value)
    with pytest.raises(FileNotFoundError, match=r"holds no diffusion_pytorch_model.safetensors.*ema.safetensors"):
        load(tmp_path / "variant")


FORMS = ("whole", "shards", "pickle", "pickled shards")


@pytest.mark.parametrize("variant", [None, "ema"])
def test_weights_and_their_digest_belong_together(networks, tmp_path, variant):
    """A folder may hold four forms of other weights; the package's own choice is loaded, and hashed."""
    files: dict[str, list[Path]] = {}
    for offset, form in enumerate(FORMS):
        module = make("UNet2DModel")
        module.conv_in.bias += offset
        size = "20KB" if "shards" in form else "1GB"
        safe = "pickle" not in form
        module.save_pretrained(tmp_path / form, safe_serialization=safe, max_shard_size=size, variant=variant)
        files[form] = sorted(path for path in (tmp_path / form).iterdir() if path.name != "config.json")
    bias = make("UNet2DModel").conv_in.bias
    for n in range(1, len(FORMS) + 1):
        for present in itertools.combinations(FORMS, n):
            folder = tmp_path / "+".join(present)
            folder.mkdir(exist_ok=True)
            for path in (tmp_path / present[0] / "config.json", *(path for form in present for path in files[form])):
                if path.parent != folder:
                    (folder / path.name).write_bytes(path.read_bytes())
            network = load(folder, variant=variant)
            loaded = network.module.conv_in.bias
            form = next(form for offset, form in enumerate(FORMS) if torch.equal(loaded, bias + offset))
            weights = b"".join(path.read_bytes() for path in files[form] if path.suffix != ".json")
            assert network.record["model_sha256"] == hashlib.sha256(weights).hexdigest(), (present, form)
            safe = any("pickle" not in name for name in present)
            own = diffusers.UNet2DModel.from_pretrained(folder, variant=variant, use_safetensors=safe)
            assert torch.equal(own.conv_in.bias, loaded), (present, form)


def test_a_checkpoint_replaces_the_weights(networks, tmp_path):
    folder, module = networks["UNet2DModel"]
    changed = {name: value + 1 for name, value in module.state_dict().items()}
    torch.save({"ema": {f"module.{k}": v for k, v in changed.items()}, "model": module.state_dict()}, tmp_path / "c.pt")
    network = load(folder, checkpoint=tmp_path / "c.pt", key="ema")
    assert torch.equal(network.module.state_dict()["conv_in.bias"], changed["conv_in.bias"])
    assert network.record["model_sha256"] == hashlib.sha256((tmp_path / "c.pt").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="ema"):
        load(folder, checkpoint=tmp_path / "c.pt")
    with pytest.raises(ValueError, match="key='ema' names an entry of checkpoint, and no checkpoint is given"):
        load(folder, key="ema")


def test_pickled_weights_are_read_and_run_nothing(networks, tmp_path):
    folder, module = networks["UNet2DModel"]
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text((folder / "unet" / "config.json").read_text())
    torch.save(module.state_dict(), tmp_path / "good" / "diffusion_pytorch_model.bin")
    network = load(tmp_path / "good")
    assert torch.equal(network.module.state_dict()["conv_in.weight"], module.state_dict()["conv_in.weight"])

    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Hostile()}, tmp_path / "bad" / "diffusion_pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(UnsafeModelError):
        load(tmp_path / "bad")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_refused_not_drawn_at_random(networks, tmp_path):
    from safetensors.torch import load_file, save_file

    _, module = networks["UNet2DModel"]
    module.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if k != "conv_in.bias"}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing, first conv_in\.bias"):
        load(tmp_path)
    save_file({**tensors, "more": torch.zeros(1)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 unexpected, first more"):
        load(tmp_path)


def test_only_known_classes_are_made(networks, tmp_path):
    for name in ("UNet3DConditionModel", "DiffusionPipeline", None):
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
        with pytest.raises(ValueError, match=f"names the class {name!r}; known are UNet2DModel"):
            load(tmp_path)
    config = json.loads((networks["UNet2DModel"][0] / "unet" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "x"}}))
    with pytest.raises(ValueError, match="quantised"):
        load(tmp_path)


def test_a_folder_that_is_none_says_so(networks, tmp_path):
    folder, _ = networks["UNet2DModel"]
    with pytest.raises(FileNotFoundError, match="no such folder: google/ddpm"):
        load("google/ddpm-cifar10-32")
    with pytest.raises(ValueError, match=r"neither config.json nor one folder unet or transformer.*\['unet_ema'\]"):
        (tmp_path / "unet_ema").mkdir()
        (tmp_path / "unet_ema" / "config.json").write_text("{}")
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"vae holds no config\.json"):
        load(folder, subfolder="vae")
    with pytest.raises(ValueError, match="take no code"):
        load(folder, code=tmp_path)
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16, not 'half'"):
        load(folder, dtype="half")


def test_a_law_that_gives_another_time_is_refused(networks):
    network = load(networks["UNet2DModel"][0])
    x, conditioning = noise.EDM()(torch.zeros(2, 3, 16, 16), torch.ones(2, 3, 16, 16), 0.5)
    with pytest.raises(ValueError, match=r"take the conditioning 'timestep', and the noise law gives \['c_noise'\]"):
        network.source("mid_block")(x, conditioning)


# ---- autoencoders ---------------------------------------------------------------------------------------------------


def test_the_pipelines_autoencoder_comes_along(networks, tmp_path):
    folder = save(tmp_path, networks["DiTTransformer2DModel"][1])
    blocks = {"block_out_channels": (4, 8), "norm_num_groups": 2, "sample_size": 16}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    diffusers.AutoencoderKL(**blocks, **kinds, latent_channels=4).save_pretrained(folder / "vae")
    network = load(folder)
    latents = network.encode(np.zeros((2, 3, 16, 16), np.float32), [0, 1], 0, 0)
    assert latents.shape == (2, 4, 8, 8) == (2, *network.input_shape)
    assert load(folder, autoencoder=False).encode is None
    assert load(folder / "transformer").encode is None
    assert load(folder / "transformer", autoencoder=folder / "vae").encode.config() == network.encode.config()


def test_an_autoencoder_of_another_kind_is_said(networks, tmp_path):
    folder = save(tmp_path, networks["UNet2DModel"][1], vqvae=["diffusers", "VQModel"])
    with pytest.warns(UserWarning, match="its autoencoder .vqvae. is not read, so the images must be its latents"):
        load(folder)


# ---- the network that ships -----------------------------------------------------------------------------------------


def test_the_network_that_ships_denoises_and_names_no_machine():
    folder = Path(data_path("fashion_ddpm"))
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert set(files) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert sum(path.stat().st_size for path in files.values()) < 1.5e6
    for path in files.values():
        assert path.suffix != ".json" or not any(text in path.read_text() for text in ("_name_or_path", "/", "\\"))
    network = load(folder)
    assert network.noise == noise.DDPM("linear") and network.input_shape == (1, 16, 16)
    x0 = torch.from_numpy(as_unit_range(load_fashion_images("test").images[:100]))
    draw = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    # Mean squared error of the noise it finds, of 1 for a network that finds none.
    for timestep, bound in ((20, 0.3), (100, 0.12), (300, 0.036), (500, 0.014)):
        x, conditioning = network.noise(x0, draw, network.noise.sigmas_at([timestep])[0])
        with torch.inference_mode():
            found = network.module(x, conditioning["timestep"]).sample
        assert 0 < float((found - draw).square().mean()) < bound
