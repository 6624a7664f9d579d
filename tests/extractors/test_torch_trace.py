"""The axis of the features, read off a forward pass: cubic shapes, in which no size tells, and all kinds of ways."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from icrkit_extractors import TorchSource
from icrkit_extractors._torch_trace import _of_view, infer_axis, watching


class Ends(nn.Module):
    """A convolution, something else, and the layer; 8 channels on a map of 8 x 8."""

    def __init__(self, way, *parts: nn.Module) -> None:
        super().__init__()
        self.a, self.parts, self.out = nn.Conv2d(3, 8, 1), nn.ModuleList(parts), nn.Identity()
        self.way = way

    def forward(self, x):
        return self.out(self.way(self, self.a(x)))


def attention(net, h):
    n, c, *_ = h.shape
    tokens = h.flatten(2).transpose(1, 2)
    q, k, v = net.parts[0](tokens).view(n, -1, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, c)


def old_attention(net, h):
    n, c, height, width = h.shape
    q, k, v = net.parts[0](h.view(n, c, -1)).chunk(3, dim=1)
    weights = torch.einsum("nct,ncs->nts", q, k).softmax(dim=-1)
    return h + net.parts[1](torch.einsum("nts,ncs->nct", weights, v)).view(n, c, height, width)


def scores(h):
    return (h.mT @ h).softmax(dim=-1)


def heads(net, h):
    q = h.flatten(2).mT.unflatten(-1, (2, 4)).transpose(1, 2)
    return ((q @ q.mT).softmax(dim=-1) @ q).transpose(1, 2).flatten(2)


def windows(net, h):
    h = net.parts[0](h.permute(0, 2, 3, 1))
    n, height, width, c = h.shape
    h = torch.roll(h, shifts=(1, 1), dims=(1, 2)).view(n, height // 2, 2, width // 2, 2, c)
    h = h.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
    h = net.parts[1](h).view(n, height // 2, width // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5)
    return h.reshape(n, height, width, c)


def convnext(net, h):
    return h + net.parts[1](net.parts[0](h.permute(0, 2, 3, 1))).mul(0.1).permute(0, 3, 1, 2)


FIRST, LAST = 1, -1
WAYS = {
    "conv": (lambda net, h: h, [], FIRST),
    "residual": (lambda net, h: h + net.parts[0](h) * torch.ones(1, 8, 1, 1), [nn.Conv2d(8, 8, 1)], FIRST),
    "group norm": (lambda net, h: F.silu(net.parts[0](h)), [nn.GroupNorm(2, 8)], FIRST),
    "batch norm": (lambda net, h: net.parts[0](h), [nn.BatchNorm2d(8)], FIRST),
    "instance norm": (lambda net, h: net.parts[0](h) + h, [nn.InstanceNorm2d(8)], FIRST),
    "up and down": (lambda net, h: F.interpolate(F.avg_pool2d(h, 2), scale_factor=2.0), [], FIRST),
    "halves": (lambda net, h: torch.cat([h.chunk(2, dim=1)[0]] * 2, dim=1), [], FIRST),
    "scale and shift": (lambda net, h: h * (1 + net.parts[0](h.mean(dim=(2, 3)))[:, :, None, None]),
                        [nn.Linear(8, 8)], FIRST),
    "moved": (lambda net, h: h.movedim(1, -1), [], LAST),
    "moved and linear": (lambda net, h: net.parts[0](h.movedim(1, -1)), [nn.Linear(8, 8)], LAST),
    "moved, copied, normed": (lambda net, h: net.parts[0](h.permute(0, 2, 3, 1).contiguous()), [nn.LayerNorm(8)], LAST),
    "windows": (windows, [nn.LayerNorm(8), nn.Linear(8, 8)], LAST),
    "ConvNeXt": (convnext, [nn.LayerNorm(8), nn.Linear(8, 8)], FIRST),
    "attention of tokens": (attention, [nn.Linear(8, 24)], LAST),
    "attention of maps": (old_attention, [nn.Conv1d(8, 24, 1), nn.Conv1d(8, 8, 1)], FIRST),
    "conv1d": (lambda net, h: net.parts[0](h.flatten(2)), [nn.Conv1d(8, 8, 1)], FIRST),
    "flattened": (lambda net, h: h.flatten(2), [], FIRST),
    "tokens": (lambda net, h: h.flatten(2).mT + torch.ones(1, 64, 8), [], LAST),
    "transformer": (lambda net, h: net.parts[0](h.flatten(2).mT),
                    [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)], LAST),
    "class token": (lambda net, h: torch.cat([torch.ones(len(h), 1, 8), h.flatten(2).mT], dim=1), [], LAST),
    "stacked rows": (lambda net, h: torch.stack(list(h.unbind(2)), dim=2), [], FIRST),
    "in place": (lambda net, h: torch.empty_like(h).copy_(h).relu_(), [], FIRST),
    "3-D": (lambda net, h: net.parts[0](h[:, :, None]), [nn.Conv3d(8, 8, 1)], FIRST),
    "gates": (lambda net, h: net.parts[0](h.mean(dim=(2, 3))).view(-1, 2, 8).chunk(2, dim=1)[0] * h.flatten(2).mT,
              [nn.Linear(8, 16)], LAST),
    # Products written out: of a weight from either side, of tokens among themselves with channels on either side.
    "weight from the left": (lambda net, h: net.parts[0].weight @ h.flatten(2), [nn.Linear(8, 8)], FIRST),
    "weight from the right": (lambda net, h: h.flatten(2).mT @ net.parts[0].weight, [nn.Linear(8, 8)], LAST),
    "weight by einsum": (lambda net, h: torch.einsum("dc,nct->ndt", net.parts[0].weight, h.flatten(2)),
                         [nn.Linear(8, 8)], FIRST),
    "weight by einsum, tokens": (lambda net, h: torch.einsum("dc,nct->ntd", net.parts[0].weight, h.flatten(2)),
                                 [nn.Linear(8, 8)], LAST),
    "mixed tokens": (lambda net, h: torch.einsum("st,nct->nsc", net.parts[0].weight, h.flatten(2)),
                     [nn.Linear(64, 64)], LAST),
    "attention, channels first": (lambda net, h: h.flatten(2) @ scores(h.flatten(2)).mT, [], FIRST),
    "attention of heads": (heads, [], LAST),
    "pooled to one": (lambda net, h: F.adaptive_avg_pool1d(h.flatten(2), 1), [], FIRST),
    "attention, channels last": (lambda net, h: scores(h.flatten(2)) @ h.flatten(2).mT, [], LAST),
}  # fmt: skip


def net_of(way: str, size: int = 8) -> tuple[nn.Module, torch.Tensor, int]:
    torch.manual_seed(0)
    forward, parts, axis = WAYS[way]
    return Ends(forward, *parts).eval(), torch.randn(2, 3, size, size), axis


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_axis_is_read_off(way, frozen):
    net, x, axis = net_of(way)
    net.requires_grad_(not frozen)
    source = TorchSource(net, "out")
    got = source(x)["out"]
    with torch.no_grad():
        h = net(x)
    wanted = h.mean(dim=[k for k in range(1, h.ndim) if k != axis % h.ndim])
    assert got.shape == (2, 8)
    np.testing.assert_array_equal(got, wanted.numpy())
    usual = {4: 1, 3: 2}.get(h.ndim) == axis % h.ndim
    assert source.config()["feature_axis"] == ("1 of 4, last of 3" if usual else axis % h.ndim)


def test_what_is_said_is_not_inferred():
    net, x, _ = net_of("moved")
    got = TorchSource(net, "out", feature_axis=1)(x)["out"]
    np.testing.assert_array_equal(got, net(x).detach().mean(dim=(2, 3)).numpy())
    assert TorchSource(net, "out", "none")(x)["out"].shape == (2, 512)


def test_layers_of_one_source_have_each_their_axis():
    net, x, _ = net_of("moved")
    source = TorchSource(net, ["a", "out"])
    got = source(x)
    np.testing.assert_array_equal(got["a"], got["out"])
    assert source.config()["pool"] == {
        "a": {"pool": "mean", "feature_axis": "1 of 4, last of 3"},
        "out": {"pool": "mean", "feature_axis": 3},
    }


class Foreign(torch.autograd.Function):
    """What a package's own kernel is to a network: operations that are not torch's."""

    @staticmethod
    def forward(ctx, h):
        return torch.from_numpy(h.detach().numpy().copy())


def test_operations_of_which_nothing_is_known():
    def way(net, h):
        return Foreign.apply(h)

    net = Ends(way).eval()
    with pytest.raises(ValueError, match=r"'out' gives shape \(2, 8, 8, 8\), .*two readings fit: feature_axis=1 .*=-1"):
        TorchSource(net, "out")(torch.zeros(2, 3, 8, 8))
    assert TorchSource(net, "out", feature_axis=1)(torch.zeros(2, 3, 8, 8))["out"].shape == (2, 8)
    # The map has the form of the input, the features have not.
    assert TorchSource(net, "out")(torch.zeros(2, 3, 6, 6))["out"].shape == (2, 8)
    moved = Ends(lambda net, h: Foreign.apply(h.movedim(1, -1))).eval()
    assert TorchSource(moved, "out")(torch.zeros(2, 3, 6, 12))["out"].shape == (2, 8)


def test_tokens_of_which_nothing_is_known():
    net = Ends(lambda net, h: Foreign.apply(h.flatten(2))).eval()
    with pytest.raises(
        ValueError, match=r"'out' gives shape \(2, 8, 36\), .* 36 may be .*feature_axis=-1 .*axis=1 for"
    ):
        TorchSource(net, "out")(torch.zeros(2, 3, 6, 6))
    assert TorchSource(net, "out", feature_axis=1)(torch.zeros(2, 3, 6, 6))["out"].shape == (2, 8)
    tokens = Ends(lambda net, h: Foreign.apply(h.flatten(2).mT)).eval()
    assert TorchSource(tokens, "out")(torch.zeros(2, 3, 6, 6))["out"].shape == (2, 8)


@pytest.mark.parametrize(
    ("before", "after", "axes", "wanted"),
    [
        ((2, 8, 4, 4), (2, 8, 16), {1}, {1}),
        ((2, 16, 8), (32, 8), {2}, {1}),
        ((32, 8), (2, 16, 8), {1}, {2}),
        ((2, 16, 8), (2, 16, 2, 4), {2}, {2, 3}),
        ((2, 16, 2, 4), (2, 16, 8), {2, 3}, {2}),
        ((2, 8, 4, 4), (2, 128), {1}, set()),
        ((2, 8), (2, 8, 1, 1), {1}, {1}),
        ((2, 1, 8), (2, 8), {2}, {1}),
        ((2, 8, 1, 1), (2, 8), {1}, {1}),
        ((1, 16, 8), (16, 8, 1), {2}, {1}),
        # Heads beside the images and back; features first, beside images.
        ((2, 3, 16, 8), (6, 16, 8), {1, 3}, {0, 2}),
        ((6, 16, 8), (2, 3, 16, 8), {0, 2}, {1, 3}),
        ((8, 2, 4), (16, 4), {0}, set()),
    ],
)
def test_views(before, after, axes, wanted):
    assert _of_view(before, after, frozenset(axes)) == wanted


def test_shapes_that_need_no_axis():
    for shape in ((2, 8), (2,), (2, 1, 1, 1), (2, 5, 5)):
        assert infer_axis("", shape, frozenset(), (8, 8)) is None
    # One axis alone is long: it has the features.
    assert infer_axis("", (2, 16, 1), frozenset(), (8, 8)) == 1 == infer_axis("", (2, 16, 1, 1), frozenset(), (8, 8))
    assert infer_axis("", (2, 1, 16), frozenset(), (8, 8)) == 2


def test_networks_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, block_out_channels=(16, 16), layers_per_block=1,
        norm_num_groups=4, attention_head_dim=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    x, given = torch.randn(2, 1, 16, 16), {"timestep": torch.full((2,), 3.0)}
    shapes = TorchSource(net).available_layers(x, given)
    maps = [name for name, shape in shapes.items() if isinstance(shape, tuple) and len(shape) == 4
            and all(isinstance(k, int) for k in shape)]  # fmt: skip
    source = TorchSource(net, maps)
    assert len(maps) > 20 and {h.shape[1] for h in source(x, given).values()} <= {1, 16, 32}
    assert source.config()["feature_axis"] == "1 of 4, last of 3"


def test_networks_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    swin = transformers.SwinModel(transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4))  # fmt: skip
    convnext = transformers.ConvNextModel(transformers.ConvNextConfig(
        hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32))  # fmt: skip
    for net, names, widths in (
        (swin, ["encoder.layers.0.blocks.0.layernorm_before", "layernorm"], [8, 16]),
        (convnext, ["encoder.stages.0", "encoder.stages.1"], [8, 16]),
    ):
        got = TorchSource(net, names, output_index=None)(torch.randn(2, 3, 32, 32))
        assert [h.shape[1] for h in got.values()] == widths


@pytest.mark.parametrize(("fill", "bounds"), [(0.0, (0, 1e-6)), (1.0, (1 - 1e-6, 1))])
def test_generators_of_python_and_numpy_begin_with_an_extreme(fill, bounds):
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    watch, watched = watching(fill)
    with watched():
        first = [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002
        later = [random.random() for _ in range(20)]
        # It draws until two of its numbers are neither both 0 nor both near 1.
        assert np.isfinite(np.random.standard_normal(3)).all()  # noqa: NPY002
    assert all(bounds[0] <= value <= bounds[1] for value in first) and len(set(later)) > 10
    assert watch.draws == ["rand", "random", "numpy.random"]
    watch, watched = watching()
    with watched():
        pass
    assert watch.draws == []


def test_other_draws_come_in_the_opposite_order():
    generator = torch.Generator()
    wanted = torch.randn(6, generator=generator.manual_seed(0)), torch.randperm(6, generator=generator.manual_seed(1))
    _, watched = watching(0.0)
    with watched():
        got = torch.randn(6, generator=generator.manual_seed(0)), torch.randperm(6, generator=generator.manual_seed(1))
        h = torch.arange(6.0)
        # Activations come with the draws of dropout: they are left in their order.
        kept = F.dropout(h, 0.5, training=True)
    assert all(torch.equal(one, other.flip(0)) for one, other in zip(got, wanted, strict=True))
    assert ((kept == 0) | (kept == 2 * h)).all()
