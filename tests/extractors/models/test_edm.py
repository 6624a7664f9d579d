"""EDM networks: from a pickle of which nothing is run, and from a checkout of their code."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from icrkit.exceptions import UnsafeModelError
from icrkit_extractors import noise
from icrkit_extractors._checkpoint import sha256_of
from icrkit_extractors._pickled_network import read_pickled_network
from icrkit_extractors.models import edm
from icrkit_extractors.models._checkout import checkout

# A stand-in for the code: its own networks, with the interface and the pickles of the real one.
PERSISTENCE = """
import copy, inspect, sys

def _reconstruct_persistent_obj(meta):
    raise SystemExit("a pickle was run")

def persistent_class(cls):
    source = inspect.getsource(sys.modules[cls.__module__])
    class Persistent(cls):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._init_args, self._init_kwargs = copy.deepcopy(args), copy.deepcopy(kwargs)
        def __reduce__(self):
            meta = dict(type="class", version=6, module_src=source, class_name=cls.__name__, state=dict(vars(self)))
            return _reconstruct_persistent_obj, (meta,)
    Persistent.__name__, Persistent.__module__ = cls.__name__, cls.__module__
    return Persistent
"""
NETWORKS = """
import torch
from torch_utils import persistence

@persistence.persistent_class
class Block(torch.nn.Module):
    def __init__(self, c_in, c_out, emb):
        super().__init__()
        self.conv = torch.nn.Conv2d(c_in, c_out, 3, padding=1)
        self.affine = torch.nn.Linear(emb, c_out)
        self.register_buffer("resample_filter", torch.ones(1, 1, 2, 2) / 4)
        self.gain = 1.0

    def forward(self, x, emb):
        return torch.sin(self.conv(x) + self.gain * self.affine(emb)[:, :, None, None])

@persistence.persistent_class
class UNet(torch.nn.Module):
    def __init__(self, img_resolution, in_channels, out_channels, label_dim=0, augment_dim=0, model_channels=8):
        super().__init__()
        c, res = model_channels, img_resolution
        self.map_label = torch.nn.Linear(label_dim, c, bias=False) if label_dim else None
        self.map_augment = torch.nn.Linear(augment_dim, c) if augment_dim else None
        self.register_buffer("freqs", torch.arange(1, c + 1) / c)
        self.enc = torch.nn.ModuleDict({f"{res}x{res}_conv": torch.nn.Conv2d(in_channels, c, 3, padding=1)})
        self.dec = torch.nn.ModuleDict({f"{res}x{res}_block{i}": Block(c, c, c) for i in range(2)})
        self.out = torch.nn.Conv2d(c, out_channels, 1)

    def forward(self, x, noise_labels, class_labels, augment_labels=None):
        emb = torch.cos(noise_labels[:, None] * self.freqs)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        if self.map_label is not None:
            emb = emb + self.map_label(class_labels)
        for block in self.enc.values():
            x = block(x)
        for block in self.dec.values():
            x = block(x, emb)
        return self.out(x)

@persistence.persistent_class
class EDMPrecond(torch.nn.Module):
    def __init__(self, img_resolution, img_channels, label_dim=0, use_fp16=False, sigma_data=0.5, **kwargs):
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.use_fp16, self.sigma_data = use_fp16, sigma_data
        self.sigma_min, self.sigma_max = 0, float("inf")
        self.model = UNet(img_resolution, img_channels, img_channels, label_dim, **kwargs)

    def forward(self, x, sigma, class_labels=None):
        sigma = sigma.reshape(-1, 1, 1, 1)
        if self.label_dim and class_labels is None:
            raise RuntimeError("no labels")
        scale = (self.sigma_data**2 + sigma**2).sqrt()
        return self.model(x / scale, sigma.flatten().log() / 4, class_labels)

@persistence.persistent_class
class VEPrecond(EDMPrecond):
    pass

@persistence.persistent_class
class VPPrecond(EDMPrecond):
    def __init__(self, *args, beta_d=19.9, beta_min=0.1, M=1000, **kwargs):
        super().__init__(*args, **kwargs)
        self.beta_d, self.beta_min, self.M = beta_d, beta_min, M

@persistence.persistent_class
class iDDPMPrecond(EDMPrecond):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sigma_min, self.sigma_max = 0.0064, 20291.0

@persistence.persistent_class
class Precond(EDMPrecond):
    pass
"""
ARGUMENTS = {"img_resolution": 8, "img_channels": 3, "label_dim": 4, "augment_dim": 9, "model_channels": 8}
BLOCK = "model.dec.8x8_block1"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    for name, text in {"torch_utils/persistence.py": PERSISTENCE, "training/networks.py": NETWORKS}.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).parent.joinpath("__init__.py").touch()
        (root / name).write_text(text)
    return root


Snapshot = Callable[..., tuple[Path, Any]]


@pytest.fixture
def snapshot(code: Path, tmp_path: Path) -> Snapshot:
    """Makes a network of the code, and its pickle as the training loop writes it."""

    def snapshot(name: str = "a.pkl", cls: str = "EDMPrecond", seed: int = 0, **changed: Any) -> tuple[Path, Any]:
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        with checkout(code, "training.networks", "the test") as networks:
            net = getattr(networks, cls)(**{**ARGUMENTS, **changed}).eval().requires_grad_(False)
            content = {"ema": net, "augment_pipe": None, "dataset_kwargs": {"path": "a.zip"}}
            (tmp_path / name).write_bytes(pickle.dumps(content))
        torch.set_rng_state(state)
        return tmp_path / name, net

    return snapshot


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 3, 8, 8, generator=generator), torch.randn(5, 3, 8, 8, generator=generator)


def by_hand(net: Any, x: torch.Tensor, sigma: float, labels: torch.Tensor | None, layer: str = BLOCK) -> np.ndarray:
    seen = []
    handle = net.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        net(x, torch.full((len(x),), sigma), labels)
    handle.remove()
    return seen[0].mean(dim=(2, 3)).numpy()


@pytest.mark.parametrize("label_dim", [0, 4])
def test_features_are_those_of_a_hook(snapshot, code, batch, label_dim):
    path, net = snapshot(label_dim=label_dim)
    network = edm.load(path, code=code)
    x0, z = batch
    got = network.source(BLOCK)(*network.noise(x0, z, 0.3))
    wanted = by_hand(net, x0 + 0.3 * z, 0.3, torch.zeros(5, 4) if label_dim else None)
    assert wanted.std(axis=0).min() > 1e-3, "features that do not differ between images test nothing"
    assert list(got) == [BLOCK] and np.array_equal(got[BLOCK], wanted)
    assert network.record["conditioning"] == ({"class_label": None, "is_null": True} if label_dim else {})


def test_what_the_network_is_told(snapshot, code):
    path, _ = snapshot()
    network = edm.load(path, code=code)
    assert network.input_shape == (3, 8, 8)
    assert network.noise == noise.Additive(trained_range=noise.EDM().trained_range)
    assert not network.module.training and not any(p.requires_grad for p in network.module.parameters())
    record = dict(network.record)
    assert record.pop("model_sha256") == sha256_of(path)
    assert record.pop("code_sha256") == sha256_of(code / "training" / "networks.py")
    imported = record.pop("code_files")
    assert "torch_utils/persistence.py" in imported
    assert imported == {name: sha256_of(code / name) for name in imported}
    assert record == {
        "family": "edm",
        "network": "EDMPrecond",
        "conditioning": {"class_label": None, "is_null": True},
        "use_fp16": False,
        "code_as_in_checkpoint": True,
    }
    config = network.source(BLOCK).config()
    assert {name: config[name] for name in network.record} == network.record


@pytest.mark.parametrize(
    ("cls", "wanted"),
    [
        ("VEPrecond", noise.VE().trained_range),
        ("VPPrecond", noise.VP().trained_range),
        ("iDDPMPrecond", (0.0064, 20291.0)),
        ("Precond", None),
    ],
)
def test_the_levels_each_preconditioning_was_trained_on(snapshot, code, cls, wanted):
    network = edm.load(snapshot(cls=cls)[0], code=code)
    assert network.noise.trained_range == wanted and network.record["network"] == cls


def test_layers_named_as_in_the_papers(snapshot, code, batch):
    path, _ = snapshot()
    network = edm.load(path, code=code)
    x, conditioning = network.noise(*batch, 0.3)
    long = network.source([BLOCK])(x, conditioning)[BLOCK]
    assert np.array_equal(network.source("dec.8x8_block1")(x, conditioning)[BLOCK], long)
    both = network.source(["dec.8x8_block?", "model.enc.8x8_conv"], pool={"dec.8x8_block1": "none"})
    assert both.layers == ("model.dec.8x8_block0", BLOCK, "model.enc.8x8_conv")
    assert [h.shape[1] for h in both(x, conditioning).values()] == [8, 8 * 64, 8]
    with pytest.raises(ValueError, match=r"no module 'dec.8x8_block9' \(nearest: 'model\.dec\.8x8_block"):
        network.source("dec.8x8_block9")
    assert network.source().layers == ()


def test_class_label(snapshot, code, batch):
    path, net = snapshot()
    x0, z = batch
    network = edm.load(path, code=code, class_label=2)
    got = network.source(BLOCK)(*network.noise(x0, z, 0.3))[BLOCK]
    wanted = by_hand(net, x0 + 0.3 * z, 0.3, torch.eye(4)[[2] * 5])
    assert np.array_equal(got, wanted)
    assert not np.array_equal(got, by_hand(net, x0 + 0.3 * z, 0.3, torch.zeros(5, 4)))
    assert network.record["conditioning"] == {"class_label": 2, "is_null": False}
    with pytest.raises(ValueError, match="class_label=4 is not one of the 4 classes"):
        edm.load(path, code=code, class_label=4)
    with pytest.raises(ValueError, match="class_label=0 is not one of the 0 classes"):
        edm.load(snapshot(label_dim=0)[0], code=code, class_label=0)


def test_attributes_changed_after_the_network_was_made(snapshot, code, batch, tmp_path):
    _, net = snapshot()
    net.model.dec["8x8_block1"].gain = 3.0
    net.use_fp16 = True
    with checkout(code, "torch_utils.persistence", "the test") as persistence:
        # The class found the function that it pickles in a module that has left since.
        sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = net.__reduce__()[0]
        (tmp_path / "b.pkl").write_bytes(pickle.dumps({"ema": net}))
        assert persistence is sys.modules["torch_utils.persistence"]
    network = edm.load(tmp_path / "b.pkl", code=code)
    x0, z = batch
    got = network.source(BLOCK)(*network.noise(x0, z, 0.3))[BLOCK]
    assert np.array_equal(got, by_hand(net, x0 + 0.3 * z, 0.3, torch.zeros(5, 4)))
    assert network.record["use_fp16"] and network.module.use_fp16 is True
    assert edm.load(tmp_path / "b.pkl", code=code, dtype="float32").module.use_fp16 is False
    with pytest.raises(ValueError, match=r"dtype must be one of .*not 'bfloat16'"):
        edm.load(tmp_path / "b.pkl", code=code, dtype="bfloat16")


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pkl"])
def test_another_checkpoint(snapshot, code, batch, tmp_path, suffix):
    first, _ = snapshot()
    path, net = snapshot("b.pkl", seed=1)
    if suffix != "pkl":
        tensors = read_pickled_network(path).tensors
        path = tmp_path / f"b.{suffix}"
        save = safetensors.torch.save_file if suffix == "safetensors" else torch.save
        save({name: value.contiguous() for name, value in tensors.items()}, path)
    network = edm.load(first, checkpoint=path, code=code)
    x0, z = batch
    got = network.source(BLOCK)(*network.noise(x0, z, 0.3))[BLOCK]
    assert np.array_equal(got, by_hand(net, x0 + 0.3 * z, 0.3, torch.zeros(5, 4)))
    assert network.record["model_sha256"] == sha256_of(path)


def test_init_arguments_as_json(snapshot, code, batch, tmp_path):
    path, net = snapshot()
    safetensors.torch.save_file(read_pickled_network(path).tensors, tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text(json.dumps({"class_name": "training.networks.EDMPrecond", **ARGUMENTS}))
    (tmp_path / "b.json").write_text(json.dumps(ARGUMENTS))
    x0, z = batch
    wanted = by_hand(net, x0 + 0.3 * z, 0.3, torch.zeros(5, 4))
    for name, given in (("a.json", {}), ("b.json", {"class_name": "EDMPrecond"})):
        network = edm.load(tmp_path / name, checkpoint=tmp_path / "a.safetensors", code=code, **given)
        assert np.array_equal(network.source(BLOCK)(*network.noise(x0, z, 0.3))[BLOCK], wanted)
        assert "code_as_in_checkpoint" not in network.record
    with pytest.raises(ValueError, match="init arguments only: give the tensors' file as checkpoint"):
        edm.load(tmp_path / "a.json", code=code)
    with pytest.raises(ValueError, match=r"b\.json has no class_name"):
        edm.load(tmp_path / "b.json", checkpoint=tmp_path / "a.safetensors", code=code)
    for text in ("[1", "[" * 100_000):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(ValueError, match=r"c\.json is not JSON"):
            edm.load(tmp_path / "c.json", checkpoint=tmp_path / "a.safetensors", code=code)


def test_code_of_another_version_is_recorded(snapshot, code):
    path, _ = snapshot()
    file = code / "training" / "networks.py"
    file.write_text(f"{NETWORKS}\n# changed\n")
    assert edm.load(path, code=code).record["code_as_in_checkpoint"] is False


def test_class_in_another_file_of_the_folder(snapshot, code):
    path, _ = snapshot()
    file = code / "training" / "networks.py"
    file.rename(code / "training" / "networks_next.py")
    file.write_text("class Other:\n    pass\n")
    assert edm.load(path, code=code).record["network"] == "EDMPrecond"


def test_the_process_is_as_before(snapshot, code):
    path, _ = snapshot()
    state, modules, places = torch.get_rng_state(), set(sys.modules), list(sys.path)
    edm.load(path, code=code)
    assert torch.equal(torch.get_rng_state(), state)
    assert not {"training", "torch_utils", "training.networks"} & (set(sys.modules) - modules)
    assert sys.path == places and not list(code.rglob("__pycache__"))


def test_errors_say_what_to_do(snapshot, code, tmp_path):
    path, _ = snapshot()
    with pytest.raises(ValueError, match=r"give code=, your checkout of https://github\.com/NVlabs/edm"):
        edm.load(path)
    with pytest.raises(FileNotFoundError, match=r"networks\.py \(code is a checkout"):
        edm.load(path, code=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.pkl"):
        edm.load(tmp_path / "none.pkl", code=code)
    with pytest.raises(ValueError, match=r"no entry 'net'; there are"):
        edm.load(path, code=code, key="net")
    file = code / "training" / "networks.py"
    file.write_text(NETWORKS.replace("class EDMPrecond", "class EDMPrecond2"))
    with pytest.raises(ValueError, match=r"no class 'EDMPrecond' \(nearest: .*EDMPrecond2.* in networks\.py"):
        edm.load(path, code=code)
    file.write_text(NETWORKS.replace("augment_dim=0, ", ""))
    with pytest.raises(ValueError, match=r"does not take the arguments .*'augment_dim'.* of the version that trained"):
        edm.load(path, code=code)
    file.write_text(NETWORKS.replace("model_channels=8", "model_channels=8, more=1").replace("(2)}", "(3)}"))
    with pytest.raises(ValueError, match=r"a\.pkl does not fit EDMPrecond and its 23 tensors: 5 missing"):
        edm.load(path, code=code)


def test_a_pickle_that_would_run(code, tmp_path):
    class Evil:
        def __reduce__(self) -> Any:
            return Path.mkdir, (tmp_path / "ran",)

    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"ema": Evil()}))
    with pytest.raises(UnsafeModelError, match=r"a\.pkl"):
        edm.load(tmp_path / "a.pkl", code=code)
    assert not (tmp_path / "ran").exists()
