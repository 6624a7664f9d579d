"""Networks by the name of a function: of a package, of a file, with weights and without."""

from __future__ import annotations

import hashlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from icrkit.datasets import data_path
from icrkit.exceptions import UnsafeModelError
from icrkit_extractors import noise
from icrkit_extractors.models import load as load_family
from icrkit_extractors.models.module import load

DEMO = "icrkit_extractors.models.denoiser:SmallUNet"
WEIGHTS = Path(data_path("fashion_denoiser.npz"))

SOURCE = """
from dataclasses import dataclass
import torch
from torch import nn
from icrkit_extractors import noise
from icrkit_extractors.models._network import Network

@dataclass
class Size:
    width: int = 3

class Net(nn.Module):
    def __init__(self, width=Size().width):
        super().__init__()
        self.body = nn.Conv2d(1, width, 1)
    def forward(self, x, sigma):
        return self.body(x) * sigma[:, None, None, None]

def ready(width=2):
    net = Net(width).train()
    return Network(net, noise.Additive(), input_shape=(1, 4, 4), record={"model": "ours"})

made = Net(5)
number = 7

def wrong():
    return [1]

def fails(width):
    return Net(width)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(SOURCE)
    return path


def test_the_demos_network_and_its_weights(module_outputs):
    network = load(DEMO, checkpoint=WEIGHTS, noise=noise.EDM(), input_shape=(1, 16, 16))
    generator = torch.Generator().manual_seed(0)
    x0, draw = (torch.randn(3, 1, 16, 16, generator=generator) for _ in range(2))
    x, conditioning = network.noise(x0, draw, 0.3)
    with torch.inference_mode():
        [wanted] = module_outputs(network.module, ("mid",), x, conditioning["c_noise"])
    features = network.source("mid")(x, conditioning)["mid"]
    np.testing.assert_array_equal(features, wanted.mean(dim=(2, 3)).numpy())
    weights = np.load(WEIGHTS)
    for name, value in network.module.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[name])
    config = network.source("mid").config()
    assert config["model_sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert config["model"] == DEMO and config["family"] == "module" and "weights_sha256" not in config
    json.dumps(config)


def test_through_the_dispatcher_with_the_name_of_a_law():
    network = load_family("module", DEMO, checkpoint=WEIGHTS, noise="EDM", args={"width": 32})
    assert network.noise == noise.EDM() and network.record["args"] == {"width": 32}
    assert not network.module.training and not any(p.requires_grad for p in network.module.parameters())
    with pytest.raises(ValueError, match="no noise law 'edn' \\(nearest: edm\\); laws: edm, vp, ve"):
        load(DEMO, noise="edn")


def test_a_class_in_a_file(file):
    network = load(f"{file}:Net", args={"width": 4})
    assert network.module.body.out_channels == 4 and network.noise is None
    # The folder is another one on another machine; the name is not.
    assert network.record["model"] == "nets.py:Net"
    assert "weights_sha256" in network.source("body").config()
    assert "nets" not in sys.modules


def test_a_network_made_ready_keeps_what_it_says(file):
    network = load(f"{file}:ready", args={"width": 3})
    assert network.noise == noise.Additive() and network.input_shape == (1, 4, 4)
    code = hashlib.sha256(file.read_bytes()).hexdigest()
    assert network.record == {"family": "module", "model": "ours", "args": {"width": 3}, "code_sha256": code}
    assert not network.module.training
    x = np.ones((2, 1, 4, 4), np.float32)
    features = network.source("body")(x, {"sigma": np.ones(2, np.float32)})["body"]
    body = network.module.body
    np.testing.assert_allclose(features, np.tile(body.weight[:, 0, 0, 0] + body.bias, (2, 1)), rtol=1e-6)
    assert load(f"{file}:ready", noise="ve", input_shape=(1, 8, 8)).noise == noise.VE()


def test_a_network_that_is_there_already(file):
    assert load(f"{file}:made").module.body.out_channels == 5
    with pytest.raises(ValueError, match=r"is a network already, which takes no args \['width'\]"):
        load(f"{file}:made", args={"width": 4})


def test_two_files_of_one_name_are_two(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nets.py").write_text(SOURCE.replace("Net(5)", f"Net({len(name) + (name == 'two')})"))
    widths = [load(f"{tmp_path / name / 'nets.py'}:made").module.body.out_channels for name in ("one", "two", "one")]
    assert widths == [3, 4, 3]


def test_code_is_a_folder_to_import_from(tmp_path):
    (tmp_path / "our_nets_of_a_test.py").write_text(SOURCE)
    (tmp_path / "our_more_of_a_test.py").write_text(
        "def late():\n    from our_nets_of_a_test import Net\n    return Net()\n"
    )
    path = list(sys.path)
    assert load("our_more_of_a_test:late", code=tmp_path).module.body.out_channels == 3
    assert sys.path == path
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load("our_more_of_a_test:late", code=tmp_path / "nowhere")


def written(folder: Path, scale: float) -> Path:
    """A network, by its file or by the package, whose numbers come from a module beside it."""
    (folder / "our_pack").mkdir(parents=True, exist_ok=True)
    (folder / "our_scale.py").write_text(f"SCALE = {scale}\n")
    text = (
        "from torch import nn\nfrom our_scale import SCALE\nclass Net(nn.Identity):\n"
        f"    def forward(self, x):\n        return super().forward(x) * SCALE * {scale}\n"
        "def make():\n    return nn.Sequential(Net())\n"
    )
    for name in ("net.py", "our_pack/net.py"):
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("model", ["{}/net.py:make", "our_pack.net:make"])
def test_two_folders_with_modules_of_one_name(model, tmp_path):
    path, before = list(sys.path), set(sys.modules)
    folders = [written(tmp_path / name, scale) for name, scale in (("a", 2.0), ("b", 3.0), ("c", 5.0))]
    x = np.ones((2, 1, 4, 4), np.float32)
    networks = [load(model.format(one), code=one) for one in folders]
    for network, scale in zip([*networks, load(model.format(folders[0]), code=folders[0])], (2, 3, 5, 2), strict=True):
        assert (network.source("0")(x)["0"] == scale**2).all()
    # What has changed in the meantime is imported again; what has not is the same.
    again = load(model.format(folders[0]), code=folders[0])
    assert (again.source("0")(x)["0"] == 4).all()
    written(tmp_path / "a", 7.0)
    new = load(model.format(folders[0]), code=folders[0])
    assert (new.source("0")(x)["0"] == 49).all() and new.record["code_files"] != again.record["code_files"]
    assert sys.path == path
    for name in set(sys.modules) - before:
        if name.startswith("our_"):
            del sys.modules[name]


def test_modules_of_the_process_stay_its_own(tmp_path):
    mine = types.ModuleType("our_scale")
    mine.__file__ = str(tmp_path / "elsewhere" / "our_scale.py")
    sys.modules["our_scale"] = mine
    try:
        network = load(f"{written(tmp_path / 'a', 2.0)}/net.py:make")
        assert (network.source("0")(np.ones((2, 1, 4, 4), np.float32))["0"] == 4).all()
        assert sys.modules["our_scale"] is mine
    finally:
        del sys.modules["our_scale"]


def test_a_file_imports_what_lies_beside_it(tmp_path):
    network = load(f"{written(tmp_path / 'a', 2.0)}/net.py:make")
    assert (network.source("0")(np.ones((2, 1, 4, 4), np.float32))["0"] == 4).all()
    assert list(network.record["code_files"]) == ["our_scale.py"]
    sys.modules.pop("our_scale", None)


def test_weights_from_a_training_checkpoint(file, tmp_path):
    tensors = {"body.weight": torch.full((3, 1, 1, 1), 2.0), "body.bias": torch.zeros(3)}
    torch.save({"ema": {f"module.{k}": v for k, v in tensors.items()}, "step": 3, "model": tensors}, tmp_path / "c.pt")
    network = load(f"{file}:Net", checkpoint=tmp_path / "c.pt", key="ema")
    assert torch.equal(network.module.body.weight, tensors["body.weight"])
    with pytest.raises(ValueError, match="does not fit Net"):
        load(f"{file}:Net", checkpoint=tmp_path / "c.pt", key="ema", args={"width": 4})

    class Hostile:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "ran",))

    torch.save(Hostile(), tmp_path / "bad.pt")
    with pytest.raises(UnsafeModelError):
        load(f"{file}:Net", checkpoint=tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("icrkit_extractors.models.denoiser", "neither package.module:function nor path/to/file.py:function"),
        ("icrkit_extractors.models.denoiser:SmalUNet", r"has no 'SmalUNet' \(nearest: SmallUNet"),
        ("icrkit_extractors.nothing:Net", r"there is no module 'icrkit_extractors.nothing' here; code=FOLDER"),
        ("{file}:Size", r"nets\.py:Size gives a Size; wanted"),
        ("{file}:fails", r"nets\.py:fails called with \{\} failed: TypeError: fails\(\) missing 1 required"),
        ("{file}:number", "is a int, neither function nor class nor network"),
        ("{file}:wrong", "gives a list; wanted a torch.nn.Module or a Network"),
    ],
)
def test_names_that_are_no_network(file, model, match):
    with pytest.raises(ValueError, match=match):
        load(model.format(file=file))


def test_a_file_that_is_not_there_and_one_that_fails(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nets\.py"):
        load(f"{tmp_path / 'nets.py'}:Net")
    (tmp_path / "bad.py").write_text("import a_package_that_is_not_there\n")
    before = set(sys.modules)
    # The user's own fault, as it is.
    with pytest.raises(ModuleNotFoundError, match=r"bad\.py:Net imports 'a_package_that_is_not_there', .*code=FOLDER"):
        load(f"{tmp_path / 'bad.py'}:Net")
    assert not {name for name in set(sys.modules) - before if "bad" in name}
