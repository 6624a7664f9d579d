"""SiT and DiT: from training checkpoints and a checkout of their code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from icrkit.exceptions import MissingDependencyError, UnsafeModelError
from icrkit_extractors import noise
from icrkit_extractors._checkpoint import sha256_of
from icrkit_extractors.models import sit
from icrkit_extractors.models._checkout import checkout

# A stand-in for both codes: its own network, with the interface and the names of theirs.
MODELS = """
import torch
from torch import nn

class Embedder(nn.Module):
    def __init__(self, input_size, patch_size, channels, width):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)
    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)

class Labels(nn.Module):
    def __init__(self, num_classes, width, dropout):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + (dropout > 0), width)
    def forward(self, y):
        return self.embedding_table(y)

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(width, width)
    def forward(self, x, c):
        return x + torch.sin(self.mix(x) + c[:, None])

class Last(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.linear = nn.Linear(width, out)
    def forward(self, x):
        return self.linear(x)

class Net(nn.Module):
    def __init__(self, depth, hidden_size, patch_size, input_size=32, in_channels=4, class_dropout_prob=0.1,
                 num_classes=1000, learn_sigma=True):
        super().__init__()
        self.x_embedder = Embedder(input_size, patch_size, in_channels, hidden_size)
        self.pos_embed = nn.Parameter(torch.randn(1, (input_size // patch_size) ** 2, hidden_size))
        self.t_embedder = nn.Linear(1, hidden_size)
        self.y_embedder = Labels(num_classes, hidden_size, class_dropout_prob)
        self.blocks = nn.ModuleList([Block(hidden_size) for _ in range(depth)])
        self.final_layer = Last(hidden_size, patch_size**2 * in_channels * (2 if learn_sigma else 1))
    def forward(self, x, t, y):
        if y.dtype != torch.int64 or y.shape != t.shape != (len(x),):
            raise RuntimeError("labels")
        x = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t[:, None]) + self.y_embedder(y)
        for block in self.blocks:
            x = block(x, c)
        return self.final_layer(x)

def small(**kwargs):
    return Net(depth=4, hidden_size=8, patch_size=2, **kwargs)

def wide(**kwargs):
    return Net(depth=4, hidden_size=12, patch_size=2, **kwargs)

"""
ARGUMENTS = {"input_size": 6, "in_channels": 3, "num_classes": 5, "learn_sigma": False}
LOADERS = {"SiT": sit.load_sit, "DiT": sit.load_dit}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["SiT", "DiT"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    root.mkdir()
    names = "".join(f'{name}_models = {{"{name}-S/2": small, "{name}-B/2": wide}}\n' for name in LOADERS)
    (root / "models.py").write_text(MODELS + names)
    return root


Trained = Callable[..., tuple[Path, Any]]


@pytest.fixture
def trained(code: Path, tmp_path: Path) -> Trained:
    """Writes the checkpoint of a training as its script does; gives the averaged network too."""

    def trained(args: dict[str, Any] | None = None, bare: bool = False, **changed: Any) -> tuple[Path, Any]:
        state = torch.get_rng_state()
        torch.manual_seed(0)
        with checkout(code, "models", "the test") as models:
            model, ema = (models.small(**{**ARGUMENTS, **changed}).eval().requires_grad_(False) for _ in range(2))
        torch.set_rng_state(state)
        optimizer = torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())
        content = {
            "model": model.state_dict(),
            "ema": ema.state_dict(),
            "opt": optimizer.state_dict(),
            "args": argparse.Namespace(model="S/2", lr=1e-4, **(args or {})),
        }
        torch.save(ema.state_dict() if bare else content, tmp_path / "0000100.pt")
        return tmp_path / "0000100.pt", ema

    return trained


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 3, 6, 6, generator=generator), torch.randn(5, 3, 6, 6, generator=generator)


def by_hand(net: Any, x: torch.Tensor, t: float, label: int, block: int = 2) -> np.ndarray:
    seen = []
    handle = net.blocks[block].register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        net(x, torch.full((len(x),), t), torch.full((len(x),), label))
    handle.remove()
    return seen[0].mean(dim=1).numpy()


@pytest.mark.parametrize("bare", [False, True])
def test_features_are_those_of_a_hook(trained, code, batch, bare):
    path, net = trained(bare=bare)
    network = sit.load_sit("SiT-S/2", checkpoint=path, code=code)
    got = network.source("blocks.2")(*network.noise(*batch, 0.25))
    x0, z = batch
    wanted = by_hand(net, 0.8 * x0 + 0.2 * z, 0.8, 5)  # t is the share of the image
    assert wanted.std(axis=0).min() > 1e-3, "features that do not differ between images test nothing"
    assert list(got) == ["blocks.2"]
    np.testing.assert_allclose(got["blocks.2"], wanted, rtol=1e-5, atol=1e-6)
    x, conditioning = network.noise(*batch, 0.25)
    exact = by_hand(net, x, float(conditioning["t"][0]), 5)
    assert np.array_equal(got["blocks.2"], exact)


def test_a_timestep_for_dit(trained, code, batch):
    path, net = trained()
    network = sit.load_dit("DiT-S/2", checkpoint=path, code=code)
    betas = np.linspace(1e-4, 0.02, 1000)
    share = np.cumprod(1 - betas)[300]
    x, conditioning = network.noise(*batch, float(np.sqrt((1 - share) / share)))
    assert conditioning["t"].tolist() == [300.0] * 5
    x0, z = batch
    torch.testing.assert_close(x, float(np.sqrt(share)) * x0 + float(np.sqrt(1 - share)) * z, rtol=1e-6, atol=1e-6)
    assert np.array_equal(network.source("blocks.2")(x, conditioning)["blocks.2"], by_hand(net, x, 300.0, 5))


def test_blocks_count_from_zero(trained, code, batch):
    path, net = trained()
    network = sit.load_sit("SiT-S/2", checkpoint=path, code=code)
    x, conditioning = network.noise(*batch, 0.25)
    got = network.source("blocks.*")(x, conditioning)
    for block in range(4):
        assert np.array_equal(got[f"blocks.{block}"], by_hand(net, x, float(conditioning["t"][0]), 5, block))


def test_what_the_network_is_told(trained, code, family):
    path, _ = trained()
    network = LOADERS[family](f"{family}-S/2", checkpoint=path, code=code)
    assert network.input_shape == (3, 6, 6) and network.encode is None
    assert network.noise == (noise.SiT() if family == "SiT" else noise.DDPM(name="t"))
    assert not network.module.training and not any(p.requires_grad for p in network.module.parameters())
    record = {
        "family": family.lower(),
        "network": f"{family}-S/2",
        "model_sha256": sha256_of(path),
        "checkpoint_key": "ema",
        "conditioning": {"class_label": 5, "is_null": True},
        "prefix_tokens": 0,
        "code_sha256": sha256_of(code / "models.py"),
    }
    assert network.record == record
    config = network.source("blocks.2").config()
    assert {name: config[name] for name in record} == record


def test_class_label(trained, code, batch, family):
    path, net = trained()
    network = LOADERS[family](f"{family}-S/2", checkpoint=path, code=code, class_label=3)
    x, conditioning = network.noise(*batch, 0.25)
    got = network.source("blocks.2")(x, conditioning)["blocks.2"]
    assert np.array_equal(got, by_hand(net, x, float(conditioning["t"][0]), 3))
    assert not np.array_equal(got, by_hand(net, x, float(conditioning["t"][0]), 5))
    assert network.record["conditioning"] == {"class_label": 3, "is_null": False}
    with pytest.raises(ValueError, match="class_label=6 is not one of 0 to 4, or 5 for no class"):
        LOADERS[family](f"{family}-S/2", checkpoint=path, code=code, class_label=6)


class TestKey:
    def test_ema_unless_asked(self, trained, code):
        path, ema = trained()
        first = sit.load_sit("SiT-S/2", checkpoint=path, code=code).module
        other = sit.load_sit("SiT-S/2", checkpoint=path, code=code, key="model")
        assert torch.equal(first.pos_embed, ema.pos_embed)
        assert not torch.equal(other.module.pos_embed, ema.pos_embed) and other.record["checkpoint_key"] == "model"

    def test_the_only_network(self, trained, code):
        network = sit.load_sit("SiT-S/2", checkpoint=trained(bare=True)[0], code=code)
        assert network.record["checkpoint_key"] == ""

    def test_no_such_key(self, trained, code):
        with pytest.raises(ValueError, match=r"under 'emma' \(nearest: 'ema'\); there are \['model', 'ema'\]"):
            sit.load_sit("SiT-S/2", checkpoint=trained()[0], code=code, key="emma")

    def test_names_with_the_prefix_of_parallel_training(self, trained, code, tmp_path):
        _, ema = trained()
        tensors = {f"module.{name}": value for name, value in ema.state_dict().items()}
        safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
        network = sit.load_sit("SiT-S/2", checkpoint=tmp_path / "a.safetensors", code=code)
        assert torch.equal(network.module.pos_embed, ema.pos_embed)


class TestPath:
    @pytest.mark.parametrize(("said", "wanted"), [("Linear", "linear"), ("GVP", "gvp"), ("VP", "vp")])
    def test_from_the_arguments_of_the_training(self, trained, code, said, wanted):
        path, _ = trained({"path_type": said})
        assert sit.load_sit("SiT-S/2", checkpoint=path, code=code).noise == noise.SiT(wanted)
        assert sit.load_sit("SiT-S/2", checkpoint=path, code=code, path="Linear").noise == noise.SiT()

    def test_of_weights_alone(self, trained, code):
        path, _ = trained(bare=True)
        assert sit.load_sit("SiT-S/2", checkpoint=path, code=code).noise == noise.SiT("linear")

    def test_unknown(self, trained, code):
        with pytest.raises(ValueError, match="'cubic' is none of"):
            sit.load_sit("SiT-S/2", checkpoint=trained()[0], code=code, path="cubic")


@pytest.mark.parametrize(
    "sizes", [{}, {"learn_sigma": True}, {"input_size": 10, "in_channels": 4}, {"num_classes": 1}], ids=str
)
def test_sizes_come_from_the_tensors(trained, code, sizes):
    path, net = trained(bare=True, **sizes)
    network = sit.load_sit("SiT-S/2", checkpoint=path, code=code)
    all_sizes = {**ARGUMENTS, **sizes}
    assert network.input_shape == (all_sizes["in_channels"], all_sizes["input_size"], all_sizes["input_size"])
    assert network.record["conditioning"]["class_label"] == all_sizes["num_classes"]
    assert network.module.final_layer.linear.out_features == net.final_layer.linear.out_features
    given = {name: all_sizes[name] for name in ("input_size", "num_classes", "learn_sigma")}
    assert sit.load_sit("SiT-S/2", checkpoint=path, code=code, **given).input_shape == network.input_shape


@pytest.mark.parametrize("known_by", ["arguments", "option"])
def test_no_null_class(trained, code, known_by):
    args = {"num_classes": 5} if known_by == "arguments" else {}
    path, _ = trained(args, class_dropout_prob=0)
    with pytest.raises(ValueError, match=r"table of 5 classes, and 5 classes with the null class are 6: "):
        sit.load_sit("SiT-S/2", checkpoint=path, code=code, **({"num_classes": 5} if known_by == "option" else {}))


def test_autoencoder(trained, code, monkeypatch):
    monkeypatch.setattr("icrkit_extractors.latents.open_autoencoder", lambda folder: ("latents of", folder))
    network = sit.load_sit("SiT-S/2", checkpoint=trained()[0], code=code, autoencoder="vae")
    assert network.encode == ("latents of", "vae")


def test_the_process_is_as_before(trained, code):
    path, _ = trained()
    state, places = torch.get_rng_state(), list(sys.path)
    sit.load_sit("SiT-S/2", checkpoint=path, code=code)
    assert torch.equal(torch.get_rng_state(), state)
    assert sys.path == places and "models" not in sys.modules and not list(code.rglob("__pycache__"))


def test_errors_say_what_to_do(trained, code, tmp_path):
    path, _ = trained()
    with pytest.raises(ValueError, match="SiT needs checkpoint"):
        sit.load_sit("SiT-S/2", code=code)
    with pytest.raises(ValueError, match=r"give code=, your checkout of https://github\.com/facebookresearch/DiT"):
        sit.load_dit("DiT-S/2", checkpoint=path)
    with pytest.raises(ValueError, match=r"SiT has no model 'SiT-S' \(nearest: SiT-S/2.*; there are SiT-S/2, SiT-B/2"):
        sit.load_sit("SiT-S", checkpoint=path, code=code)
    with pytest.raises(ValueError, match=r"0000100\.pt does not fit Net and its 16 tensors: 15 of another"):
        sit.load_sit("SiT-B/2", checkpoint=path, code=code)
    torch.save({"ema": {"weight": torch.zeros(1)}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt is no checkpoint of SiT or DiT: it has no x_embedder"):
        sit.load_sit("SiT-S/2", checkpoint=tmp_path / "a.pt", code=code)
    (code / "models.py").write_text("DiT_models = {}\n")
    with pytest.raises(ValueError, match=r"models\.py has no SiT_models"):
        sit.load_sit("SiT-S/2", checkpoint=path, code=code)
    (code / "models.py").write_text("import distant_planet\n")
    with pytest.raises(MissingDependencyError, match="needs distant_planet"):
        sit.load_sit("SiT-S/2", checkpoint=path, code=code)


def test_a_checkpoint_that_would_run(code, tmp_path):
    class Evil:
        def __reduce__(self) -> Any:
            return Path.mkdir, (tmp_path / "ran",)

    torch.save({"ema": {"a": torch.zeros(1)}, "args": Evil()}, tmp_path / "a.pt")
    with pytest.raises(UnsafeModelError, match=r"a\.pt holds more than tensors, and nothing of it was run"):
        sit.load_sit("SiT-S/2", checkpoint=tmp_path / "a.pt", code=code)
    assert not (tmp_path / "ran").exists()
