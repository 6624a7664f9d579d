"""The axis of the features is the one that the operators tell, on exports of torch and on graphs by hand."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from icrkit_extractors import OnnxSource
from icrkit_extractors._onnx_axes import feature_axes


class Block(nn.Module):
    """A block of Swin's kind: channels last, a residual, a norm and an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.down(nn.functional.gelu(self.up(self.norm(h))))


class Mixed(nn.Module):
    """Maps with the channels first, maps with the channels last, tokens, and tokens with the channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 4, stride=4)
        self.last, self.tokens, self.mid = Block(8), Block(8), nn.Conv2d(8, 5, 1)
        self.line = nn.Conv1d(5, 6, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = self.a(x)
        last = self.last(first.permute(0, 2, 3, 1))
        tokens = self.tokens(last.flatten(1, 2))
        back = self.mid(last.permute(0, 3, 1, 2))
        line = self.line(back.flatten(2))
        return first, last, tokens, back, line


def export(net: nn.Module, example: tuple[torch.Tensor, ...], path: Path, names: list[str], new: bool = False) -> Path:
    n = torch.export.Dim("n", min=2)
    options = (
        {"dynamo": True, "dynamic_shapes": {name: {0: n} for name in names}, "verbose": False}
        if new
        else {"dynamo": False, "dynamic_axes": {name: {0: "n"} for name in names}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), example, path, input_names=names, **options)
    return path


@pytest.mark.parametrize("new", [False, True])
def test_exports_of_torch_are_pooled_over_the_right_axes(tmp_path, new, capfd):
    torch.manual_seed(0)
    net = Mixed()
    path = export(net, (torch.zeros(2, 3, 32, 32),), tmp_path / "net.onnx", ["x"], new)
    x = torch.randn(3, 3, 32, 32)
    first, last, tokens, back, line = (one.detach().numpy() for one in net(x))
    source = OnnxSource(path, threads=1)
    got = dict(zip(("first", "last", "tokens", "back", "line"), source(x.numpy()).values(), strict=True))
    wanted = {
        "first": first.mean((2, 3)), "last": last.mean((1, 2)), "tokens": tokens.mean(1), "back": back.mean((2, 3)),
        "line": line.mean(2),
    }  # fmt: skip
    for name, features in wanted.items():
        np.testing.assert_allclose(got[name], features, rtol=1e-4, atol=1e-5, err_msg=name)
    modules = OnnxSource(path, layers=["last", "tokens", "line"], threads=1)(x.numpy())
    for name, features in modules.items():
        np.testing.assert_allclose(features, wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_norm_that_is_no_operator(tmp_path):
    """Before opset 17 a LayerNorm is a dozen operators; its scale and shift are along the last axis."""
    torch.manual_seed(0)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
            nn.init.normal_(self.norm.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x).permute(0, 2, 3, 1))

    last = Last().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            last, (torch.zeros(2, 3, 32, 32),), tmp_path / "a.onnx", input_names=["x"], opset_version=13, dynamo=False,
            dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
    x = torch.randn(3, 3, 32, 32)
    (got,) = OnnxSource(tmp_path / "a.onnx", threads=1)(x.numpy()).values()
    np.testing.assert_allclose(got, last(x).detach().numpy().mean((1, 2)), rtol=1e-4, atol=1e-5)


# ---- operator by operator -------------------------------------------------------------------------------------------

SHAPES = {
    "x": ("n", 8, 4, 4), "y": ("n", 8, 4, 4), "t": ("n", 16, 8), "u": ("n", 8, 16), "l": ("n", 4, 4, 8),
    "h": ("n", 16, 2, 4),
}  # fmt: skip
WEIGHTS = {
    "w": (8, 8), "bias": (8,), "first": (8, 1, 1), "mean": (1, 8, 1, 1), "one": (1,), "position": (1, 16, 8),
    "scalar": (), "kernel": (8, 8, 3, 3),
}  # fmt: skip


def node(kind: str, inputs: str, output: str, **attributes: object):
    return helper.make_node(kind, inputs.split(), [output], **attributes)


@pytest.mark.parametrize(
    ("nodes", "tensor", "axis"),
    [
        ([node("Conv", "x kernel", "y")], "y", 1),
        ([node("Conv", "x kernel", "y")], "x", 1),
        ([node("Conv", "z kernel", "x"), node("Relu", "x", "y")], "y", 1),
        ([node("Conv", "z kernel", "x"), node("Transpose", "x", "l", perm=[0, 2, 3, 1])], "l", 3),
        ([node("Transpose", "l", "x", perm=[0, 3, 1, 2]), node("Conv", "x kernel", "y")], "l", 3),
        ([node("Transpose", "l", "x"), node("Conv", "x kernel", "y")], "l", None),
        ([node("MatMul", "t w", "t")], "t", 2),
        ([node("MatMul", "t u", "h")], "t", None),  # attention: no weight
        ([node("LayerNormalization", "l bias", "l")], "l", 3),
        ([node("Add", "t bias", "t2"), node("Relu", "t2", "t")], "t", None),  # t2 has no shape
        ([node("Add", "bias l", "l")], "l", 3),
        ([node("Mul", "x first", "y")], "y", 1),
        ([node("Sub", "x mean", "y")], "y", 1),
        ([node("Mul", "x scalar", "y")], "y", None),
        ([node("Mul", "x one", "y")], "y", None),
        ([node("Add", "t position", "t")], "t", None),  # along both
        ([node("Conv", "z kernel", "x"), node("Add", "x y", "y2"), node("Relu", "y", "y3")], "y", None),
        ([node("Conv", "z kernel", "x"), node("Reshape", "x s", "u")], "u", 1),
        ([node("Conv", "z kernel", "x"), node("Reshape", "x s", "t")], "t", None),
        ([node("LayerNormalization", "l bias", "l2"), node("Reshape", "l s", "t")], "t", 2),
        ([node("MatMul", "t w", "t"), node("Reshape", "t s", "h")], "h", None),  # cut into heads
        ([node("Softmax", "x", "y")], "y", None),
        ([node("Conv", "z kernel", "x"), node("Softmax", "x", "y")], "y", 1),
        ([node("Concat", "x bias", "y", axis=1)], "y", None),
    ],
)
def test_what_an_operator_tells(nodes, tensor, axis):
    assert feature_axes(nodes, SHAPES, WEIGHTS).get(tensor) == axis


def test_signs_that_contradict_each_other_tell_nothing():
    nodes = [node("Conv", "z kernel", "x"), node("MatMul", "q w", "y"), node("Add", "x y", "s")]
    shapes = {**SHAPES, "s": ("n", 8, 4, 4)}
    assert "s" not in feature_axes(nodes, shapes, WEIGHTS)


def test_a_map_that_nothing_tells_about_is_refused(tmp_path):
    graph = helper.make_graph(
        [node("Relu", "x", "r"), node("Reshape", "r s", "y")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 12, 4])],
        [numpy_helper.from_array(np.array([0, 4, 12, 4]), "s")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    x = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    with pytest.raises(ValueError, match=r"'y' gives shape \(2, 4, 12, 4\).* does not show.*feature_axis=1 or"):
        OnnxSource(tmp_path / "a.onnx", threads=1)(x)
    y = x.reshape(2, 4, 12, 4)
    for axis in (1, 2, 3, -1):
        got = OnnxSource(tmp_path / "a.onnx", feature_axis=axis, threads=1)(x)["y"]
        others = tuple({1, 2, 3} - {axis % 4})
        np.testing.assert_allclose(got, y.mean(others), rtol=1e-5)
    # An activation of the images themselves has the axes of the images.
    np.testing.assert_allclose(OnnxSource(tmp_path / "a.onnx", "r", threads=1)(x)["r"], x.mean((2, 3)), rtol=1e-5)
