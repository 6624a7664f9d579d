"""A real network as an ONNX file, and the module it was exported from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from icrkit_extractors.models.denoiser import SmallUNet

LAYERS = ("mid", "dec.16x16_block0")


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
