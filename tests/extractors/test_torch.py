"""A source of torch features gives what a hand-written hook gives, and leaves the module as it found it."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from icrkit.datasets import data_path, load_fashion_images
from icrkit.exceptions import MissingDependencyError, NonFiniteError
from icrkit_extractors import noise
from icrkit_extractors._pool import Pool
from icrkit_extractors._torch import TorchSource
from icrkit_extractors.models.denoiser import SmallUNet


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def hooked(net: nn.Module, names: list[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What a user would write: outputs of the named modules in one whole forward pass."""
    seen: dict[str, Any] = {}
    modules = dict(net.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda module, args, out, name=name: seen.__setitem__(name, out))
        for name in names
    ]
    with torch.no_grad():
        net(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return seen


class Count(nn.Module):
    """Passes its input on and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


class Branches(nn.Module):
    """Runs its modules in another order than it names them; ``act`` runs twice and ``spare`` never."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(4, 3, 1)
        self.after = Count()
        self.spare = nn.Conv2d(4, 4, 1)
        self.act = nn.ReLU()
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)])
        self.first = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x):
        x = self.act(self.first(x))
        for block in reversed(self.blocks):
            x = x + block(x)
        return self.after(self.last(self.act(x)))


class Live(nn.Module):
    """What a training touches: batch statistics, dropout, a random draw, a tensor cached at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.BatchNorm2d(4).eval()
        self.drop = nn.Dropout(0.5)
        self.out = nn.Conv2d(4, 2, 3)
        self.cache: torch.Tensor | None = None

    def forward(self, x, c_noise):
        if self.cache is None:
            self.cache = torch.linspace(1, 2, 4)[:, None, None]
        x = self.drop(self.norm(self.conv(x))) * self.cache + 0 * torch.randn(())
        return self.out(self.frozen(x) + c_noise[:, None, None, None])


class Failing(nn.Module):
    """Raises what it is told to."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


def condition(module: nn.Module) -> list[Any]:
    """Everything about a module that a call must not change."""
    found: list[Any] = [torch.get_rng_state().tolist()]
    for name, part in module.named_modules():
        hooks = {key: list(value) for key, value in vars(part).items() if "hooks" in key and value is not None}
        found.append((name, part.training, sorted(vars(part)), hooks, part._compiled_call_impl))
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        grad = None if tensor.grad is None else tensor.grad.tolist()
        found.append((name, id(tensor), tensor.dtype, tensor.device, tensor.requires_grad, tensor.tolist(), grad))
        found.append(tensor._version)
    return found


@pytest.fixture(scope="module")
def denoiser() -> SmallUNet:
    """The example denoiser with its trained weights."""
    with np.load(data_path("fashion_denoiser.npz")) as arrays:
        weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    net = SmallUNet().eval()
    net.load_state_dict(weights)
    return net


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    images = load_fashion_images("test").images[:12].astype(np.float32) / 127.5 - 1
    z = np.random.default_rng(5).standard_normal(images.shape).astype(np.float32)
    return noise.EDM()(images, z, 0.1)


@pytest.fixture(scope="module")
def diffusers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("diffusers")
        for name in ("UNet2DModel", "DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel"):
            getattr(module, name)
    return module


def drawn(net: nn.Module) -> nn.Module:
    """The net with every matrix drawn at random, also those that start at zero."""
    generator = torch.Generator().manual_seed(3)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
    return net.eval()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


# ---- the features ---------------------------------------------------------------------------------------------------

DEMO_LAYERS = ["enc.16x16_block0", "mid", "dec.16x16_block0.affine", "dec.16x16_block0"]


def test_the_denoisers_features_are_the_hooks_bits(denoiser, batch):
    x, conditioning = batch
    source = TorchSource(denoiser, DEMO_LAYERS)
    outputs = hooked(denoiser, DEMO_LAYERS, torch.from_numpy(x), torch.from_numpy(conditioning["c_noise"]))
    for _ in range(2):  # the first call is preceded by a survey
        got = source(x, conditioning)
        assert list(got) == DEMO_LAYERS == list(source.layers)
        for name, output in outputs.items():
            wanted = (output.mean(dim=(2, 3)) if output.ndim == 4 else output).numpy()
            assert got[name].dtype == np.float32 and got[name].flags.c_contiguous
            np.testing.assert_array_equal(got[name], wanted)
            assert name.endswith("affine") or wanted.std(axis=0).min() > 1e-4
    placed = source(source.place(x), {"c_noise": source.place(conditioning["c_noise"])})
    for name in DEMO_LAYERS:
        np.testing.assert_array_equal(placed[name], got[name])


def test_images_do_not_depend_on_the_batch(denoiser, batch):
    x, conditioning = batch
    source = TorchSource(denoiser, ["mid", "dec.16x16_block0"])
    whole = source(x, conditioning)
    for rows in (slice(0, 1), slice(1, 6), slice(6, 12)):
        for name, h in source(x[rows], {"c_noise": conditioning["c_noise"][rows]}).items():
            np.testing.assert_allclose(h, whole[name][rows], rtol=1e-5, atol=1e-5 * np.abs(whole[name]).max())


def test_pools_by_layer(denoiser, batch):
    x, conditioning = batch
    layers = ["mid", "enc.*_block0", "dec.16x16_block0"]
    source = TorchSource(denoiser, layers, pool={"enc.*": "grid:2", "mid": Pool("none"), "enc.8x8_block0": "none"})
    got = source(x, conditioning)
    assert source.layers == ("mid", "enc.16x16_block0", "enc.8x8_block0", "dec.16x16_block0")
    outputs = hooked(denoiser, list(got), torch.from_numpy(x), torch.from_numpy(conditioning["c_noise"]))
    np.testing.assert_array_equal(got["mid"], outputs["mid"].reshape(12, -1).numpy())
    np.testing.assert_array_equal(got["enc.8x8_block0"], outputs["enc.8x8_block0"].reshape(12, -1).numpy())
    cells = nn.functional.adaptive_avg_pool2d(outputs["enc.16x16_block0"], 2).reshape(12, -1)
    np.testing.assert_array_equal(got["enc.16x16_block0"], cells.numpy())
    np.testing.assert_array_equal(got["dec.16x16_block0"], outputs["dec.16x16_block0"].mean(dim=(2, 3)).numpy())


def test_a_diffusers_unet(diffusers):
    net = drawn(
        diffusers.UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    )
    names = ["mid_block", "up_blocks.0", "down_blocks.1.resnets.0"]
    x, t = normal(5, 1, 8, 8), torch.full((5,), 17.5)
    got = TorchSource(net, names)(x, {"timestep": t})
    for name, output in hooked(net, names, x, t).items():
        np.testing.assert_array_equal(got[name], output.mean(dim=(2, 3)).numpy())
        assert got[name].std(axis=0).min() > 1e-3
    with pytest.raises(ValueError, match=r"'down_blocks\.0' gives several items, \{0: \(5, 8, 4, 4\), 1: \(\("):
        TorchSource(net, ["down_blocks.0"])(x, {"timestep": t})
    got = TorchSource(net, ["down_blocks.0"], output_index=0)(x, {"timestep": t})
    wanted = hooked(net, ["down_blocks.0"], x, t)["down_blocks.0"][0].mean(dim=(2, 3))
    np.testing.assert_array_equal(got["down_blocks.0"], wanted.numpy())


def test_a_diffusers_dit(diffusers):
    net = drawn(
        diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            num_layers=3,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        )
    )
    x, t, null = normal(4, 4, 8, 8), torch.tensor([30.0] * 4), torch.full((4,), 10)
    source = TorchSource(
        net,
        ["transformer_blocks.[01]"],
        call=lambda module, x, given: module(x, given["timestep"], null, return_dict=False),
    )
    got = source(x, {"timestep": t})
    assert source.layers == ("transformer_blocks.0", "transformer_blocks.1")
    for name, output in hooked(net, list(got), x, t, null).items():
        assert output.shape == (4, 16, 16)
        np.testing.assert_array_equal(got[name], output.mean(dim=1).numpy())
        assert got[name].std(axis=0).min() > 1e-3
    grid = TorchSource(net, "transformer_blocks.1", "grid:2", n_prefix=0, call=source._call)(x, {"timestep": t})
    wanted = output.reshape(4, 2, 2, 2, 2, 16).mean(dim=(2, 4)).permute(0, 3, 1, 2).reshape(4, -1)
    np.testing.assert_allclose(grid["transformer_blocks.1"], wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_joint_blocks_of_sd3_and_flux_need_an_index(diffusers):
    sd3 = drawn(
        diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=16,
            pooled_projection_dim=16,
            out_channels=4,
            pos_embed_max_size=8,
        )
    )
    text, vector, t = normal(3, 7, 16), normal(3, 16), torch.full((3,), 100.0)
    given = {"timestep": t, "encoder_hidden_states": text, "pooled_projections": vector}
    x, name = normal(3, 4, 8, 8), "transformer_blocks.0"
    with pytest.raises(ValueError, match=r"\{0: \(3, 7, 16\), 1: \(3, 16, 16\)\}.*output_index=\{'transf.*\.0': 1\}"):
        TorchSource(sd3, [name])(x, given)
    got = TorchSource(sd3, [name], output_index={name: 1})(x, given)
    np.testing.assert_array_equal(got[name], hooked(sd3, [name], x, **given)[name][1].mean(dim=1).numpy())
    # The last block gives its text stream up: one tensor beside a None is no guess.
    got = TorchSource(sd3, ["transformer_blocks.1"])(x, given)
    output = hooked(sd3, ["transformer_blocks.1"], x, **given)["transformer_blocks.1"]
    assert output[0] is None
    np.testing.assert_array_equal(got["transformer_blocks.1"], output[1].mean(dim=1).numpy())

    flux = drawn(
        diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=2,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 6, 6),
        )
    )
    given |= {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(7, 3)}
    x, names = normal(3, 16, 4), ["transformer_blocks.1", "single_transformer_blocks.0", "x_embedder"]
    with pytest.raises(ValueError, match=r"'single_transformer_blocks\.0' gives several items"):
        TorchSource(flux, names, output_index={"transformer_blocks.1": 1})(x, given)
    with pytest.raises(ValueError, match=r"'x_embedder' gives one tensor \(3, 16, 32\), not items to take 1 from"):
        TorchSource(flux, names, output_index=1)(x, given)
    got = TorchSource(flux, names, output_index={"*transformer_blocks.*": 1})(x, given)
    outputs = hooked(flux, names, x, **given)
    assert outputs["transformer_blocks.1"][1].shape == (3, 16, 32)
    for name, output in outputs.items():
        wanted = output if name == "x_embedder" else output[1]
        np.testing.assert_array_equal(got[name], wanted.mean(dim=1).numpy())


@dataclasses.dataclass
class Streams:
    image: Any
    text: Any


class Pair(NamedTuple):
    first: Any
    second: Any


@pytest.mark.parametrize(
    ("give", "index", "wanted"),
    [
        (lambda x: (x, 2 * x), 1, 2),
        (lambda x: (x, 2 * x), -1, 2),
        (lambda x: [x, 2 * x], 0, 1),
        (lambda x: {"text": x, "image": 2 * x}, "image", 2),
        (lambda x: {"text": x, "image": 2 * x}, 1, 2),
        (lambda x: Streams(3 * x, x), "image", 3),
        (lambda x: (3 * x,), None, 3),
        (lambda x: Streams(3 * x, None), None, 3),
        (lambda x: {"h": (x,), "g": 2 * x}, "g", 2),
        (lambda x: Pair(x, 2 * x), "second", 2),
        (lambda x: Pair(x, 2 * x), 0, 1),
        (lambda x: ((3 * x,), None), None, 3),
        (lambda x: (x, (x, {"h": 2 * x})), "1.1.h", 2),
        (lambda x: (x, (x, 2 * x)), "1.-1", 2),
        (lambda x: {"a": {"b": 3 * x}, "a.b": x}, "a.b", 1),
    ],
)
def test_items_of_an_output(give, index, wanted):
    class Giving(nn.Module):
        def forward(self, x):
            return give(x)

    x = normal(3, 5)
    got = TorchSource(nn.Sequential(Giving()), ["0"], output_index=index)(x)["0"]
    np.testing.assert_array_equal(got, wanted * x.numpy())


@pytest.mark.parametrize(
    ("give", "index", "message"),
    [
        (lambda x: (x, x[:, :2]), None, r"layer '0' gives several items, \{0: \(3, 5\), 1: \(3, 2\)\}"),
        (lambda x: (x, x), 2, r"no item 2; it gives \{0: \(3, 5\), 1: \(3, 5\)\}"),
        (lambda x: {"a": x, "b": None}, "c", r"no item 'c'; it gives \{'a': \(3, 5\), 'b': None\}"),
        (lambda x: (x, (x, x)), 1, r"item 1 of layer '0' is not .* 1: \(\(3, 5\), \(3, 5\)\)\}: .* such as '1\.1'"),
        (lambda x: ((x, x), None), None, r"gives several items, .* such as output_index=\{'0': '0\.1'\}"),
        (lambda x: (x, (x, x)), "1.2", r"no item '1\.2'; it gives"),
        (lambda x: (x, "text"), None, r"gives several items"),
        (lambda x: x[:, :0], None, r"layer '0' gives shape \(3, 0\), which holds no number"),
        (lambda x: "text", None, "gives a str, expected a tensor"),
        (lambda x: x.sum(dim=0), None, r"gives shape \(5,\) for 3 images"),
    ],
)
def test_outputs_that_leave_a_question(give, index, message):
    class Giving(nn.Module):
        def forward(self, x):
            return give(x)

    net = nn.Sequential(Giving(), Count())
    before = condition(net)
    with pytest.raises(ValueError, match=message):
        TorchSource(net, ["0"], output_index=index)(normal(3, 5))
    assert condition(net) == before


def test_later_operations_in_place_do_not_reach_the_features():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    x = normal(6, 5)
    got = TorchSource(net, ["0", "2"])(x)["0"]
    np.testing.assert_array_equal(got, net[0](x).detach().numpy())
    assert got.min() < 0


# ---- which layers, and when they run --------------------------------------------------------------------------------


def test_nothing_behind_the_deepest_layer_runs():
    net, x = Branches(), normal(2, 1, 6, 6)
    source = TorchSource(net, ["last", "blocks.0"])
    source(x)
    assert net.after.calls == 1, "the survey of the first call"
    for _ in range(3):
        source(x)
    assert net.after.calls == 1
    TorchSource(net, ["after"])(x)
    assert net.after.calls == 4, "survey, repetition and call"


def test_modules_may_run_in_any_order():
    net, x = Branches(), normal(2, 1, 6, 6)
    names = ["last", "blocks.0", "first", "blocks.1"]
    outputs = hooked(net, names, x)
    for chosen in (names, names[::-1], ["blocks.1"], ["first", "blocks.0"]):
        source = TorchSource(net, chosen)
        for _ in range(2):
            got = source(x)
            assert list(got) == chosen
            for name in chosen:
                np.testing.assert_array_equal(got[name], outputs[name].mean(dim=(2, 3)).numpy())


def test_a_parent_and_its_children(denoiser, batch):
    source = TorchSource(denoiser, ["mid*"], pool="none")
    assert source.layers == ("mid", "mid.norm0", "mid.conv0", "mid.affine", "mid.norm1", "mid.conv1", "mid.skip")
    got = source(*batch)
    np.testing.assert_allclose(got["mid"], (got["mid.skip"] + got["mid.conv1"]) * math.sqrt(0.5), rtol=1e-6)


def test_layers_that_run_never_or_several_times():
    net, x = Branches(), normal(2, 1, 6, 6)
    with pytest.raises(ValueError, match="layer 'act' fires 2 times in one forward pass"):
        TorchSource(net, ["first", "act"])(x)
    with pytest.raises(ValueError, match=r"layer 'spare' never fires: the network does not call it as a module"):
        TorchSource(net, ["spare"])(x)
    with pytest.raises(ValueError, match=r"layer 'blocks' never fires.*choose a module inside it, such as 'blocks\.0'"):
        TorchSource(net, ["blocks"])(x)


def test_one_module_under_two_names():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(3, 2)
            self.alias = self.encoder

        def forward(self, x):
            return self.encoder(x)

    net, x = Tied(), normal(4, 3)
    got = TorchSource(net, ["alias", "encoder"])(x)
    np.testing.assert_array_equal(got["alias"], net.encoder(x).detach().numpy())
    np.testing.assert_array_equal(got["alias"], got["encoder"])
    assert TorchSource(net, "*").layers == ("encoder",)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["midd"], r"SmallUNet has no module 'midd' \(nearest: 'mid', .*available_layers\(\) lists all"),
        (["dec.16x16_block2"], r"nearest: .*'dec\.16x16_block[01]'"),
        (["up_blocks.*"], r"no module 'up_blocks\.\*'"),
        ([""], "no module ''"),
        ([], "layers is empty"),
        (["mid", "mid"], "'mid' is named twice"),
    ],
)
def test_bad_layers(denoiser, layers, message):
    with pytest.raises(ValueError, match=message):
        TorchSource(denoiser, layers)


def test_available_layers(denoiser, batch):
    net = Branches()
    assert TorchSource(net).available_layers() == dict.fromkeys(
        ["last", "after", "spare", "act", "blocks", "blocks.0", "blocks.1", "first"]
    )
    wanted = {"last": (1, 3, 6, 5), "after": (1, 3, 6, 5)}
    wanted |= dict.fromkeys(["blocks.0", "blocks.1", "first"], (1, 4, 6, 5))
    assert TorchSource(net, input_shape=(1, 6, 5)).available_layers() == wanted
    # The denoiser asks for its noise level, which no input shape gives.
    unknown = TorchSource(denoiser, input_shape=(1, 16, 16)).available_layers()
    assert set(unknown.values()) == {None} and list(unknown)[:2] == ["embedding", "embedding.layers"]
    known = TorchSource(denoiser).available_layers(*batch)
    assert known["mid"] == (12, 64, 8, 8) and known["dec.16x16_block0.affine"] == (12, 64)
    assert "dec" not in known and [name for name in unknown if name in known] == list(known)
    assert TorchSource(denoiser, input_shape=(1, 16, 16)).available_layers(None, {"c_noise": torch.zeros(1)})["mid"]


def test_available_layers_show_items():
    class Giving(nn.Module):
        def forward(self, x):
            return x, [x[:, :2], None], {"h": x, "name": "text"}

    net = nn.Sequential(Giving())
    shapes = {"0": ((3, 5), ((3, 2), None), {"h": (3, 5), "name": "str"})}
    assert TorchSource(net).available_layers(normal(3, 5)) == shapes


# ---- a module in training -------------------------------------------------------------------------------------------


@pytest.fixture
def live() -> Live:
    """A module in the middle of a training step: gradients there, modes mixed, a foreign hook in place."""
    torch.manual_seed(0)
    net = Live().train()
    net.frozen.eval()
    net.conv.bias.requires_grad_(False)
    net.norm.register_forward_hook(lambda *_: None)
    net(normal(4, 1, 8, 8), torch.zeros(4)).square().mean().backward()
    return net


@pytest.mark.parametrize("layers", [["norm"], ["drop", "conv"], ["out"]])
def test_a_live_module_is_left_as_it_was(live, layers):
    before = condition(live)
    source = TorchSource(live, layers)
    x, conditioning = normal(4, 1, 8, 8), {"c_noise": torch.zeros(4)}
    first, second = source(x, conditioning), source(x, conditioning)
    source.available_layers(x, conditioning)
    source.config()
    assert condition(live) == before
    for name, h in first.items():
        np.testing.assert_array_equal(h, second[name])
    live.eval()
    outputs = hooked(live, layers, x, torch.zeros(4))
    for name, output in outputs.items():
        np.testing.assert_array_equal(first[name], output.mean(dim=(2, 3)).numpy())


@pytest.mark.parametrize(
    "error", [ValueError("bad"), KeyboardInterrupt(), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_also_after_an_exception(live, error):
    live.after = Failing(error)
    live.out = nn.Sequential(live.out, live.after)
    before = condition(live)
    x, conditioning = normal(4, 1, 8, 8), {"c_noise": torch.zeros(4)}
    # In the survey, and, where the failing part lies before the layer, in a later call.
    source = TorchSource(live, ["norm"])
    with pytest.raises(type(error)) as raised:
        source(x, conditioning)
    assert raised.value is error
    assert condition(live) == before
    live.out[1] = live.after = Count()
    source = TorchSource(live, ["conv", "after"])
    source(x, conditioning)
    live.out[0].register_forward_hook(lambda *_: (_ for _ in ()).throw(error))
    before = condition(live)
    with pytest.raises(type(error)):
        source(x, conditioning)
    assert condition(live) == before


def test_a_source_goes_on_after_an_exception(live):
    # As a driver does that halves the batch.
    source = TorchSource(live, ["norm"])
    live.out.register_forward_pre_hook(
        lambda module, args: (_ for _ in ()).throw(torch.OutOfMemoryError("full")) if len(args[0]) > 2 else None
    )
    x, c_noise = normal(4, 1, 8, 8), torch.zeros(4)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        source(x, {"c_noise": c_noise})
    assert source(x[:2], {"c_noise": c_noise[:2]})["norm"].shape == (2, 4)


def test_training_goes_on_as_if_nothing_had_been(live):
    def train(interrupted: bool) -> list[float]:
        torch.manual_seed(1)
        net = Live()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        losses = []
        for step in range(3):
            if interrupted:  # before the first step as well: what the module caches then must be trainable
                TorchSource(net, ["drop"], autocast="bfloat16")(normal(4, 1, 8, 8), {"c_noise": torch.zeros(4)})
            loss = net(normal(4, 1, 8, 8), torch.full((4,), float(step))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    assert train(interrupted=True) == train(interrupted=False)


def test_adapters_that_act_on_eval_are_not_asked_to():
    class Merging(nn.Linear):
        def train(self, mode: bool = True):
            if self.training and not mode:
                self.weight.data += 1
            return super().train(mode)

    net = nn.Sequential(Merging(3, 2)).train()
    before = condition(net)
    TorchSource(net, ["0"])(normal(4, 3))
    assert condition(net) == before


# ---- types, formats, compilation ------------------------------------------------------------------------------------


def test_autocast_is_torchs(denoiser, batch):
    x, conditioning = batch
    got = TorchSource(denoiser, ["mid"], autocast="bfloat16")(x, conditioning)["mid"]
    with torch.autocast("cpu", torch.bfloat16):
        output = hooked(denoiser, ["mid"], torch.from_numpy(x), torch.from_numpy(conditioning["c_noise"]))["mid"]
    np.testing.assert_array_equal(got, output.float().mean(dim=(2, 3)).numpy())
    full = TorchSource(denoiser, ["mid"])(x, conditioning)["mid"]
    assert 0 < np.abs(got - full).max() < 0.05 * np.abs(full).max()
    for bad in ("float32", "nn", torch.float64):
        with pytest.raises(ValueError, match="autocast must be 'bfloat16' or 'float16'"):
            TorchSource(denoiser, ["mid"], autocast=bad)


def test_channels_last():
    class Formats(Branches):
        def forward(self, x):
            self.found = x.is_contiguous(memory_format=torch.channels_last), x.is_contiguous()
            return super().forward(x)

    torch.manual_seed(0)
    net, x = Formats(), normal(3, 1, 6, 6).expand(3, 1, 6, 6)
    net.first = nn.Conv2d(2, 4, 3, padding=1)
    x = normal(3, 2, 6, 6)
    usual = TorchSource(net, ["last"])(x)["last"]
    assert net.found == (False, True)
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    got = TorchSource(net, ["last"], channels_last=True)(x)["last"]
    assert net.found == (True, False)
    assert net.first.weight.is_contiguous(memory_format=torch.channels_last) and not net.first.weight.is_contiguous()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, weights[name])
    np.testing.assert_allclose(got, usual, rtol=1e-5, atol=1e-6)
    assert TorchSource(net, ["last"], channels_last=True).config()["channels_last"] is True


def counting(compiled: list[Any]) -> Callable[..., Any]:
    """A backend that runs the graph as it is, and notes each run."""

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            compiled.append(graph)
            return graph.forward(*args)

        return run

    return backend


def test_compile_keeps_features_and_early_exit(denoiser, batch):
    compiled: list[Any] = []
    names = ["dec.8x8_block0", "enc.8x8_block0", "mid.conv0"]
    plain = TorchSource(denoiser, names)(*batch)
    before = condition(denoiser)
    source = TorchSource(denoiser, names, compile={"backend": counting(compiled)})
    for _ in range(2):
        for name, h in source(*batch).items():
            np.testing.assert_array_equal(h, plain[name])
    # The embedding, two blocks of enc and one of dec, in either call; mid stays open, and what lies behind never runs.
    assert len(compiled) == 8
    assert condition(denoiser) == before
    # Another source on the same module sees its own layers.
    assert list(TorchSource(denoiser, ["mid"], compile={"backend": counting(compiled)})(*batch)) == ["mid"]
    assert len(compiled) == 12
    assert source.config()["compile"].keys() == {"backend"}
    assert TorchSource(denoiser, ["mid"], compile=True).config()["compile"] is True


def test_every_shape_of_a_block_is_compiled():
    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.linear = nn.Linear(width, width + 1)

        def forward(self, x):
            return self.linear(x).relu()

    compiled: list[Any] = []
    net = nn.Module()
    net.blocks = nn.ModuleList([Block(width) for width in range(2, 14)])
    net.forward = lambda x: [x := block(x) for block in net.blocks]
    got = TorchSource(net, ["blocks.11"], compile={"backend": counting(compiled)})(normal(3, 2))
    assert len(compiled) == 12 and got["blocks.11"].shape == (3, 14)


def test_a_failure_in_compiled_code_leaves_the_module_as_it_was(live):
    live.drop = nn.Sequential(live.drop, Count())
    source = TorchSource(live, ["frozen"], compile={"backend": "eager"})
    x, conditioning = normal(4, 1, 8, 8), {"c_noise": torch.zeros(4)}
    source(x, conditioning)
    live.drop[1] = nn.Conv2d(99, 1, 1)  # older compilers fail on a Python exception that a module holds
    before = condition(live)
    with pytest.raises(ValueError, match=r"Live failed .*99"):
        source(x, conditioning)
    assert condition(live) == before


def test_modules_that_are_compiled_already(denoiser, batch):
    plain = TorchSource(denoiser, ["mid"])(*batch)["mid"]
    compiled = torch.compile(denoiser, backend="eager")
    source = TorchSource(compiled, ["mid"])
    for _ in range(2):
        np.testing.assert_array_equal(source(*batch)["mid"], plain)
    net = copy.deepcopy(denoiser).requires_grad_(False)
    net.mid.compile(backend="eager")
    net.compile(backend="eager")
    # Run in all the modes of a later call, so that its code would be used again, without hooks.
    x, c_noise = torch.from_numpy(batch[0]), torch.from_numpy(batch[1]["c_noise"])
    with torch.inference_mode(), torch.autocast("cpu", enabled=False, cache_enabled=False):
        net(x, c_noise)
    before = condition(net)
    source = TorchSource(net, ["mid"])
    for _ in range(2):
        np.testing.assert_array_equal(source(*batch)["mid"], plain)
    assert condition(net) == before


# ---- calls, configuration, bad input --------------------------------------------------------------------------------


def test_a_call_that_does_not_fit_says_what_forward_takes(denoiser, batch):
    x, conditioning = batch
    source = TorchSource(denoiser, ["mid"])
    for given, reason in (
        ({}, "missing a required"),
        ({"t": x[:, 0, 0, 0]}, ""),
        ({**conditioning, "x": x}, "multiple"),
    ):
        with pytest.raises(ValueError, match=rf"SmallUNet\.forward takes \(x.*c_noise.* and is given \(x.*{reason}"):
            source(x, given)
    source = TorchSource(denoiser, ["mid"], call=lambda module, x, given: module(x, given["t"] / 4))
    got = source(x, {"t": conditioning["c_noise"] * 4})
    np.testing.assert_array_equal(got["mid"], TorchSource(denoiser, ["mid"])(x, conditioning)["mid"])


def test_any_keyword_is_taken_where_forward_takes_any():
    class Open(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Count()

        def forward(self, x, **given):
            return self.inner(x * given["t"][:, None])

    got = TorchSource(Open(), ["inner"])(np.ones((2, 3), np.float32), {"t": np.array([2, 3], np.float32)})
    assert got["inner"].tolist() == [[2, 2, 2], [3, 3, 3]]


def test_nan_names_layer_and_row(denoiser, batch):
    x, conditioning = batch[0].copy(), batch[1]
    x[7, 0, 3, 3] = np.nan
    with pytest.raises(NonFiniteError, match="layer 'mid' holds NaN or infinity in 1 of 12 rows, first in row 7"):
        TorchSource(denoiser, ["mid"])(x, conditioning)
    net = nn.Sequential(nn.Identity(), nn.Linear(3, 2))
    nn.init.constant_(net[1].weight, torch.inf)
    with pytest.raises(NonFiniteError, match=r"layer '1' .* 4 of 4 rows"):
        TorchSource(net, ["0", "1"])(normal(4, 3))


def test_arrays_are_placed_without_a_copy_or_a_warning():
    source = TorchSource(nn.Identity())
    array = np.ones((2, 3), np.float32)
    source.place(array)[0, 0] = 5
    assert array[0, 0] == 5
    array.flags.writeable = False
    source.place(array)[0, 0] = 7
    assert array[0, 0] == 5
    assert source.place(np.ones((3, 4))[:, ::2]).is_contiguous()


def test_device_is_where_the_module_is():
    net = nn.Linear(3, 2)
    assert TorchSource(net).device.type == "cpu" and TorchSource(nn.Identity()).device.type == "cpu"
    source = TorchSource(net, device="meta")
    assert source.device.type == "meta" and net.weight.device.type == "meta" and source.config


def test_config_identifies_the_features(denoiser):
    source = TorchSource(denoiser, ["mid"], autocast="bfloat16", record={"family": "edm"})
    config = source.config()
    assert json.loads(json.dumps(config)) == config
    digest = config.pop("weights_sha256")
    assert config == {
        "source": "TorchSource",
        "layers": ["mid"],
        "pool": "mean",
        "feature_axis": "1 of 4, last of 3",
        "output_index": None,
        "dtype": "float32",
        "autocast": "bfloat16",
        "device": "cpu",
        "channels_last": False,
        "compile": False,
        "torch_version": torch.__version__,
        "family": "edm",
    }
    assert TorchSource(denoiser, ["dec.*x16_block0"]).config()["weights_sha256"] == digest
    several = TorchSource(denoiser, ["mid", "conv_in"], {"mid": "none"}, {"mid": 1}).config()
    assert several["pool"] == {"mid": {"pool": "none"}, "conv_in": Pool().config()}
    assert several["output_index"] == {"mid": 1, "conv_in": None}


def test_the_digest_follows_the_weights_unless_a_checkpoint_has_one():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).bfloat16()
    source = TorchSource(net, ["0"])
    before = source.config()["weights_sha256"]
    assert source.config()["weights_sha256"] == before
    with torch.no_grad():
        net[0].weight[0, 0] += 1
    changed = source.config()["weights_sha256"]
    net[1].running_mean[0] = 5
    assert len({before, changed, source.config()["weights_sha256"]}) == 3
    named = TorchSource(net, ["0"], record={"model_sha256": "abc"}).config()
    assert named["model_sha256"] == "abc" and "weights_sha256" not in named
    for key in ("layers", "weights_sha256"):
        with pytest.raises(ValueError, match=rf"record holds \['{key}'\]"):
            TorchSource(net, ["0"], record={key: 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "max"}, "pool must be"),
        ({"pool": {"dec*": "mean"}}, r"pool names 'dec\*', which is none of the layers \['mid'\]"),
        ({"output_index": {"middle": 1}}, "output_index names 'middle'"),
        ({"feature_axis": 0}, "axis of the images"),
    ],
)
def test_bad_options(denoiser, options, message):
    with pytest.raises(ValueError, match=message):
        TorchSource(denoiser, ["mid"], **options)


def test_what_is_no_module_and_what_has_no_layers():
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, not function"):
        TorchSource(lambda x: x, ["mid"])
    with pytest.raises(ValueError, match=r"no layers were chosen.*available_layers\(\) lists them"):
        TorchSource(nn.Identity())(normal(2, 3))


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "icrkit\[torch\]"'):
        TorchSource(None, ["mid"])


def test_wrappers_of_parallel_training_are_looked_into():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3))
    source = TorchSource(torch.nn.DataParallel(net), "0")
    assert source.module is net
