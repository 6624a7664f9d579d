"""Encoders of clean images: tiny ones of real classes, saved and loaded again, against a forward pass by hand."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icrkit.exceptions import MissingDependencyError, UnsafeModelError
from icrkit_extractors import TorchSource, extract, noise
from icrkit_extractors.models import load as load_family
from icrkit_extractors.models.encoders import load_timm, load_transformers
from icrkit_extractors.views import Paper, as_unit_range

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)


def draw(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(3)
    for parameter in module.eval().requires_grad_(False).parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def normalised(pixels: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(as_unit_range(pixels))
    return ((x + 1) / 2 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


# ---- transformers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="the family reads what this package writes")


@pytest.fixture(scope="module")
def saved(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders and modules of three encoders, with their image processor's configuration."""
    root = tmp_path_factory.mktemp("transformers")
    vision = {name: value for name, value in SIZES.items() if name != "num_labels"}
    text = {
        **{k: SIZES[k] for k in ("hidden_size", "num_attention_heads", "intermediate_size")},
        "num_hidden_layers": 1,
    }
    made = {
        "vit": transformers.ViTModel(transformers.ViTConfig(**SIZES)),
        "dinov2": transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**SIZES, num_register_tokens=4)
        ),
        "clip": transformers.CLIPModel(
            transformers.CLIPConfig(vision_config=vision, text_config={**text, "vocab_size": 50}, projection_dim=8)
        ),
    }
    for name, module in made.items():
        draw(module).save_pretrained(root / name)
        (root / name / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return {name: (root / name, module) for name, module in made.items()}


@pytest.mark.parametrize(("name", "n_prefix"), [("vit", 1), ("dinov2", 5), ("clip", 1)])
def test_features_are_bitwise_those_of_a_forward_pass_by_hand(saved, pixels, name, n_prefix):
    folder, module = saved[name]
    network = load_transformers(folder)
    module = module.vision_model if name == "clip" else module
    x = as_unit_range(pixels)
    available = network.source().available_layers(x, {})
    blocks = [layer for layer, shape in available.items() if shape == (4, 16 + n_prefix, 16)][-3:]
    seen: dict[str, torch.Tensor] = {}
    handles = [
        module.get_submodule(layer).register_forward_hook(
            lambda part, args, out, layer=layer: seen.update({layer: out})
        )
        for layer in blocks
    ]
    with torch.inference_mode():
        module(normalised(pixels))
    for handle in handles:
        handle.remove()
    patches = network.source(blocks, pool="patches", n_prefix=network.record["prefix_tokens"])
    features = patches(*network.noise(x, np.zeros_like(x), 0.0))
    for layer in blocks:
        np.testing.assert_array_equal(features[layer], seen[layer][:, n_prefix:].mean(dim=1).numpy())
        assert features[layer].std(axis=0).max() > 1e-3
    assert network.noise == noise.Clean() and network.input_shape == (3, 16, 16)
    assert network.record["prefix_tokens"] == n_prefix
    assert (network.record["mean"], network.record["std"]) == (MEAN, STD)
    weights = (folder / "model.safetensors").read_bytes()
    assert network.record["model_sha256"] == hashlib.sha256(weights).hexdigest()


def test_a_masked_autoencoder_sees_whole_images(transformers, tmp_path, pixels):
    config = transformers.ViTMAEConfig(**SIZES, mask_ratio=0.75)
    masked = draw(transformers.ViTMAEModel(config))
    masked.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    network = load_transformers(tmp_path)
    assert network.record["mask_ratio"] == 0 and network.record["prefix_tokens"] == 1
    source = network.source("layernorm", pool="none")
    features = source(as_unit_range(pixels), {})["layernorm"]
    # By hand: all patches through the embeddings that mask nothing.
    masked.config.mask_ratio = 0.0
    with torch.inference_mode():
        wanted = masked(normalised(pixels), noise=torch.linspace(0, 1, 16).repeat(4, 1)).last_hidden_state
    np.testing.assert_array_equal(features, wanted.reshape(4, -1).numpy())
    assert features.shape == (4, 17 * 16)
    np.testing.assert_allclose(source(as_unit_range(pixels)[:1], {})["layernorm"], features[:1], rtol=1e-4, atol=1e-4)
    # As it comes it is refused.
    masked.config.mask_ratio = 0.75
    with pytest.raises(ValueError, match=r"'layernorm' is random in evaluation mode.*mask ratio"):
        TorchSource(masked, "layernorm")(normalised(pixels))


def test_images_reach_the_encoder_as_its_own_processor_makes_them(transformers, saved, pixels, tmp_path):
    # transformers 5 has the name without "Pil" for another one, of torchvision.
    name = "ViTImageProcessorPil" if int(transformers.__version__[0]) >= 5 else "ViTImageProcessor"
    processor = getattr(transformers, name)(size={"height": 16, "width": 16}, image_mean=MEAN, image_std=STD)
    _, module = saved["vit"]
    module.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["image_mean"] == MEAN
    network = load_family("transformers", tmp_path)
    seen: list[torch.Tensor] = []
    network.module.register_forward_pre_hook(lambda part, args: seen.append(args[0]))
    network.source("layernorm")(as_unit_range(pixels), {})
    wanted = np.stack(processor(list(pixels.transpose(0, 2, 3, 1)), do_resize=False)["pixel_values"])
    np.testing.assert_allclose(seen[0].numpy(), wanted, atol=2e-6)


def test_a_cube_of_an_encoder_has_the_one_level_0(saved, pixels):
    network = load_transformers(saved["vit"][0])
    cube = extract(
        network.source("layernorm"), pixels, [0.0], noise=network.noise, views=Paper(level=2), progress=False
    )
    assert cube.sigmas.tolist() == [0.0] and cube["layernorm"].shape == (4, 2, 1, 16)
    with pytest.raises(ValueError, match="takes no conditioning"):
        network.source("layernorm")(as_unit_range(pixels), {"timestep": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match="mean and std are of 3 channels, and the images have 1"):
        network.source("layernorm")(np.zeros((2, 1, 16, 16), np.float32), {})


def test_normalisation_is_known_or_asked_for(transformers, tmp_path):
    draw(transformers.ViTModel(transformers.ViTConfig(**SIZES))).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json, so how images are normalised is not known"):
        load_transformers(tmp_path)
    assert load_transformers(tmp_path, mean=0.5, std=[0.5, 0.25, 0.5]).record["std"] == [0.5, 0.25, 0.5]
    for known, message in (
        ({"image_mean": MEAN}, "has no image_std"),
        ({"rescale_factor": 1.0}, r"does not scale images to \[0, 1\]"),
        ({"image_mean": MEAN, "image_std": [0.0, 1, 1]}, "std must be positive"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(known))
        with pytest.raises(ValueError, match=message):
            load_transformers(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    assert load_transformers(tmp_path).record["mean"] == [0.0]
    (tmp_path / "preprocessor_config.json").unlink()
    nested = {"image_processor": {"image_mean": MEAN, "image_std": STD}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert load_transformers(tmp_path).record["mean"] == MEAN


def test_a_classifiers_folder_gives_the_encoder_without_a_pooler_drawn_at_random(transformers, tmp_path, pixels):
    whole = draw(transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES)))
    whole.save_pretrained(tmp_path)
    network = load_transformers(tmp_path, mean=MEAN, std=STD)
    assert network.module.pooler is None
    with torch.inference_mode():
        wanted = whole.vit(normalised(pixels)).last_hidden_state[:, 0].numpy()
    source = network.source("layernorm", pool="class")
    np.testing.assert_array_equal(source(as_unit_range(pixels), {})["layernorm"], wanted)


def test_weights_that_do_not_fit_are_refused_not_drawn_at_random(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, _ = saved["vit"]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = {name: value.clone() for name, value in load_file(tmp_path / "model.safetensors").items()}  # not mapped
    kept = {name: value for name, value in tensors.items() if name != "embeddings.cls_token"}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"model\.safetensors lacks 1 tensors of the network, first embeddings\.cls_token"
    ):
        load_transformers(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
        load_transformers(tmp_path)
    torch.save({"ema": tensors}, tmp_path / "weights.pt")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="key='ema' names an entry of checkpoint, and no checkpoint is given"):
        load_transformers(tmp_path, key="ema")
    wanted = load_transformers(folder).module.state_dict()
    for network in (
        load_transformers(tmp_path),
        load_transformers(tmp_path, checkpoint=tmp_path / "weights.pt", key="ema"),
    ):
        for name, value in network.module.state_dict().items():
            assert torch.equal(value, wanted[name])


@pytest.mark.parametrize("n_forms", [1, 2, 3, 4])
def test_weights_and_their_digest_belong_together(transformers, saved, tmp_path, n_forms):
    """A folder may hold four forms of other weights; the package's own choice is loaded, and hashed."""
    from safetensors.torch import save_file

    _, module = saved["vit"]
    tensors = {name: value.clone() for name, value in module.state_dict().items()}
    halves = [sorted(tensors)[::2], sorted(tensors)[1::2]]
    forms = {
        "whole": {"model.safetensors": sorted(tensors)},
        "shards": {f"model-0000{n + 1}-of-00002.safetensors": half for n, half in enumerate(halves)},
        "pickle": {"pytorch_model.bin": sorted(tensors)},
        "pickled shards": {f"pytorch_model-0000{n + 1}-of-00002.bin": half for n, half in enumerate(halves)},
    }
    indices = {"shards": "model.safetensors.index.json", "pickled shards": "pytorch_model.bin.index.json"}
    for present in itertools.combinations(forms, n_forms):
        folder = tmp_path / "+".join(present)
        folder.mkdir()
        module.config.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
        for form in present:
            # Each form has a bias of its own.
            held = {**tensors, "layernorm.bias": tensors["layernorm.bias"] + list(forms).index(form)}
            for name, chosen in forms[form].items():
                part = {tensor: held[tensor] for tensor in chosen}
                if name.endswith(".bin"):
                    torch.save(part, folder / name)
                else:
                    save_file(part, folder / name, metadata={"format": "pt"})
            if form in indices:
                places = {tensor: name for name, chosen in forms[form].items() for tensor in chosen}
                (folder / indices[form]).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
        network = load_transformers(folder)
        loaded = network.module.layernorm.bias
        form = next(form for n, form in enumerate(forms) if torch.equal(loaded, tensors["layernorm.bias"] + n))
        weights = b"".join((folder / name).read_bytes() for name in forms[form])
        assert network.record["model_sha256"] == hashlib.sha256(weights).hexdigest(), (present, form)
        own = transformers.AutoModel.from_pretrained(folder)
        assert torch.equal(own.layernorm.bias, loaded), (present, form)


def test_an_adapter_beside_the_weights_is_refused(saved, tmp_path):
    """The package would add it, or take the weights of the network that it names."""
    folder, _ = saved["vit"]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/other"}))
    with pytest.raises(ValueError, match=r"holds an adapter beside the weights.*merge_and_unload"):
        load_transformers(tmp_path)
    assert load_transformers(tmp_path, checkpoint=tmp_path / "model.safetensors").record["network"] == "ViTModel"


def test_weights_that_the_configuration_names_are_loaded_and_hashed(saved, tmp_path):
    from safetensors.torch import save_file

    folder, module = saved["vit"]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = {name: value + 1 for name, value in module.state_dict().items()}
    save_file(other, tmp_path / "other.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "transformers_weights": "other.safetensors"}))
    network = load_transformers(tmp_path)
    assert torch.equal(network.module.layernorm.bias, other["layernorm.bias"])
    weights = (tmp_path / "other.safetensors").read_bytes()
    assert network.record["model_sha256"] == hashlib.sha256(weights).hexdigest()


def test_no_code_of_a_folder_is_run(saved, tmp_path):
    folder, _ = saved["vit"]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    remote = {"auto_map": {"AutoModel": "code.Net", "AutoConfig": "code.Config"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **remote, "model_type": "new"}))
    with pytest.raises(ValueError, match="no class for model_type 'new'; code in the folder is not run"):
        load_transformers(tmp_path)
    # A class that the package has is taken from the package.
    (tmp_path / "config.json").write_text(json.dumps({**config, **remote}))
    assert type(load_transformers(tmp_path).module).__module__.startswith("transformers.")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "config.json").write_text(json.dumps({**config, "attn_implementation": "someone/kernels"}))
    with pytest.raises(UnsafeModelError, match="asks for code from elsewhere: 'someone/kernels'"):
        load_transformers(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "x"}}))
    with pytest.raises(ValueError, match="quantised"):
        load_transformers(tmp_path)


def test_a_folder_that_is_none_says_so(transformers, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        load_transformers("facebook/dinov2-small")
    with pytest.raises(ValueError, match="take no code"):
        load_transformers(tmp_path, code=tmp_path)
    with pytest.raises(ValueError, match="dtype must be one of"):
        load_transformers(tmp_path, dtype="half")


# ---- timm -----------------------------------------------------------------------------------------------------------

NAME = "vit_small_patch14_reg4_dinov2.lvd142m"
ARGS = {"depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": 28}


@pytest.fixture(scope="module")
def timm() -> Any:
    # It needs torchvision, which is not made for every build of torch.
    return pytest.importorskip("timm", exc_type=ImportError, reason="needs timm and torchvision")


def test_timm_features_are_bitwise_those_of_a_forward_pass_by_hand(timm, tmp_path):
    module = draw(timm.create_model(NAME, pretrained=False, **ARGS))
    torch.save({"state_dict_ema": module.state_dict(), "state_dict": {}}, tmp_path / "c.pth")
    network = load_family("timm", NAME, checkpoint=tmp_path / "c.pth", key="state_dict_ema", args=ARGS)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 28, 28), dtype=np.uint8)
    with torch.inference_mode():
        wanted = module.forward_features(normalised(pixels))[:, 5:].mean(dim=1).numpy()
    source = network.source(["blocks.0", "norm"], pool="patches", n_prefix=network.record["prefix_tokens"])
    np.testing.assert_array_equal(source(as_unit_range(pixels), {})["norm"], wanted)
    assert network.record["prefix_tokens"] == 5 and network.input_shape == (3, 28, 28)
    assert network.record["mean"] == MEAN and network.noise == noise.Clean()
    json.dumps(source.config())


def test_timm_names_and_checkpoints_are_checked(timm, tmp_path):
    with pytest.raises(ValueError, match="no encoder 'vit_smal_patch14_dinov2'; nearest: vit_small_patch14_dinov2"):
        load_timm("vit_smal_patch14_dinov2")
    with pytest.raises(ValueError, match="asks for a download"):
        load_timm("hf-hub:timm/resnet18")
    with pytest.raises(ValueError, match="give its weights as checkpoint"):
        load_timm(NAME)
    torch.save({"x": torch.zeros(1)}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="does not fit"):
        load_timm(NAME, checkpoint=tmp_path / "c.pth", args=ARGS)


def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    for package, call in (
        ("timm", lambda: load_timm(NAME)),
        ("transformers", lambda: load_transformers(Path(tmp_path))),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependencyError, match=rf'pip install "icrkit\[{package}\]"'):
            call()
