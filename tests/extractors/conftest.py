"""A real network as an ONNX file and the module it was exported from; a source that counts; photographs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import load_sample_images

from icrkit_extractors import OnnxSource, extract, noise, views
from icrkit_extractors.models.denoiser import SmallUNet

LAYERS = ("mid", "dec.16x16_block0")
SIGMAS = [0.1, 0.4, 1.5]

N = 12  # photographs


def layer_outputs(net: torch.nn.Module, names: tuple[str, ...], x: torch.Tensor, c: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the named modules in one forward pass."""
    seen: dict[str, torch.Tensor] = {}
    modules = dict(net.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda module, args, out, name=name: seen.__setitem__(name, out))
        for name in names
    ]
    net(x, c)
    for handle in handles:
        handle.remove()
    return [seen[name] for name in names]


class _Cut(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(layer_outputs(self.net, LAYERS, x, c_noise))


@pytest.fixture(scope="session")
def module_outputs() -> Callable[..., list[torch.Tensor]]:
    """Outputs of named modules: (net, names, x, c_noise) to a list of tensors."""
    return layer_outputs


@pytest.fixture(scope="session")
def unet() -> Iterator[SmallUNet]:
    """A narrow U-Net with weights drawn at random: those that start at zero too, or blocks would do nothing."""
    generator = torch.Generator().manual_seed(7)
    net = SmallUNet(width=8).eval().requires_grad_(False)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield net
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def unet_onnx(unet: SmallUNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as a file, its two layers as outputs."""
    path = tmp_path_factory.mktemp("onnx") / "unet.onnx"
    with warnings.catch_warnings():
        # torch's legacy exporter announces its own removal, and traces the shape checks of group norm.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.onnx.export(
            _Cut(unet),
            (torch.zeros(2, 1, 16, 16), torch.zeros(2)),
            str(path),
            input_names=["x", "c_noise"],
            output_names=list(LAYERS),
            dynamic_axes={name: {0: "n"} for name in ("x", "c_noise", *LAYERS)},
            opset_version=17,
            dynamo=False,
        )
    return path


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Smooth random images, uint8 (40, 1, 16, 16), no two alike."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:16, :16] / 15
    phases = rng.uniform(0, 2 * np.pi, (40, 2, 1, 1))
    frequencies = rng.uniform(1, 6, (40, 2, 1, 1))
    waves = np.sin(frequencies[:, :1] * y + phases[:, :1]) * np.sin(frequencies[:, 1:] * x + phases[:, 1:])
    return np.rint(127.5 * (1 + waves)).astype(np.uint8)


# ---- small ONNX files ----------------------------------------------------------------------------------------------


def _save_onnx(
    path: Path, nodes: list[Any], outputs: dict[str, list[Any]], initializers: list[Any] = (), **inputs: Any
) -> Path:
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    graph = helper.make_graph(
        nodes,
        "graph",
        [value(name, shape) for name, shape in (inputs or {"x": ["n", 2, 4, 6]}).items()],
        [value(name, shape) for name, shape in outputs.items()],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def save_onnx() -> Callable[..., Path]:
    """Saves a small graph: (path, nodes, outputs, initializers, **inputs); inputs and outputs are names with shapes."""
    return _save_onnx


def _external(location: str = "weights.bin", **entries: Any) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 4, 6], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.fixture(scope="session")
def external() -> Callable[..., TensorProto]:
    """Makes a tensor `w` whose values are in another file: (location, **entries)."""
    return _external


def _plus_w(path: Path, tensor: TensorProto, nested: bool = False) -> Path:
    add = helper.make_node("Add", ["x", "w"], ["y"])
    if not nested:
        return _save_onnx(path, [add], {"y": ["n", 2, 4, 6]}, [tensor])
    constant = helper.make_graph(
        [helper.make_node("Constant", [], ["out"], value=tensor)],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, 4, 6])],
    )
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["w"], then_branch=constant, else_branch=constant),
    ]
    return _save_onnx(path, [*nodes, add], {"y": ["n", 2, 4, 6]})


@pytest.fixture(scope="session")
def plus_w() -> Callable[..., Path]:
    """Saves y = x + w, with w among the initialisers or inside a branch: (path, tensor, nested)."""
    return _plus_w


# ---- extractions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def src(unet_onnx: Path) -> OnnxSource:
    return OnnxSource(unet_onnx, threads=1)


class _Pixels:
    """The network's input as features; counts its calls, and fails or goes bad at one of them."""

    def __init__(self, fail_at: int | None = None, nan_at: int | None = None) -> None:
        self.calls, self.fail_at, self.nan_at = 0, fail_at, nan_at

    def __call__(self, x: np.ndarray, conditioning: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("killed")
        h = x.reshape(len(x), -1)[:, ::4]
        if self.calls == self.nan_at:
            h = np.where(np.arange(len(x))[:, None] == 2, np.nan, h)
        return {"pixels": h, "level": np.column_stack([conditioning["c_noise"], x[:, 0, 0, 0]])}

    def config(self) -> dict[str, Any]:
        return {"source": "Pixels"}


@pytest.fixture(scope="session", name="Pixels")
def pixels() -> type[_Pixels]:
    """A source that needs no network."""
    return _Pixels


def _go(src: Any, images: Any, sigmas: Any = SIGMAS, **given: Any) -> Any:
    settings = {"noise": noise.EDM(), "views": views.Fashion(), "batch_size": 16, "progress": False}
    return extract(src, images, sigmas, **{**settings, **given})


@pytest.fixture(scope="session")
def go() -> Callable[..., Any]:
    """Extraction with the settings most tests share: (src, images, sigmas, **given) to a cube or moments."""
    return _go


def _same(a: Any, b: Any) -> None:
    assert a.layers == b.layers
    for name in a.layers:
        np.testing.assert_array_equal(a[name].values, b[name].values)
    np.testing.assert_array_equal(a.sigmas, b.sigmas)
    np.testing.assert_array_equal(a.image_ids, b.image_ids)
    np.testing.assert_array_equal(a.labels, b.labels)


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], None]:
    """Asserts that two cubes hold the same."""
    return _same


# ---- photographs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def photos() -> np.ndarray:
    """Crops of two real photographs, (N, 24, 32, 3)."""
    both = load_sample_images().images
    return np.stack([both[k % 2][20 * k : 20 * k + 24, 30 * k : 30 * k + 32] for k in range(N)])


@pytest.fixture
def folder(tmp_path: Path, photos: np.ndarray) -> Path:
    """The photographs as PNG files of three classes."""
    root = tmp_path / "photos"
    for k, photo in enumerate(photos):
        path = root / f"class{k % 3}" / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path)
    (root / "class0" / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_text("no image either")
    return root


def _same_tensors(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return list(got) == list(wanted) and all(
        got[name].dtype == value.dtype and torch.equal(got[name], value) for name, value in wanted.items()
    )


@pytest.fixture(scope="session")
def same_tensors() -> Callable[..., bool]:
    """Whether tensors have the same names, in order, types and values."""
    return _same_tensors


class _Evil:
    """A pickle that would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="session", name="Evil")
def evil() -> type[_Evil]:
    return _Evil
