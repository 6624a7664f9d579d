"""The tensor that leaves a module is what a hook on it sees, or the name is refused; the cut keeps what it must."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx.utils import Extractor
from torch import Tensor, nn

from icrkit_extractors._onnx_graph import Graph, cut, without_weights

SCOPES, FX = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.fx_node"


def graph_of(model: onnx.ModelProto) -> Graph:
    return Graph(without_weights(model), "net.onnx")


def made(nodes: list[Any], outputs: list[str], weights: Mapping[str, np.ndarray] = {}, **inputs: list[Any]) -> Any:
    """A small model; inputs are names with shapes."""
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    graph = helper.make_graph(
        nodes,
        "graph",
        [value(name, shape) for name, shape in (inputs or {"x": ["n", 2, 4, 4]}).items()],
        [value(name, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op: str, reads: list[str], gives: list[str], scopes: list[str] | None = None, fx: str = "") -> Any:
    """A node as torch.export's exporter writes it; without scopes, one that says nothing of modules."""
    written = helper.make_node(op, reads, gives, name=f"node_{gives[0]}")
    if scopes is not None:
        written.metadata_props.add(key=SCOPES, value=str(["", *scopes, gives[0]]))
        text = fx or f"%{gives[0]} : [f]({', '.join(f'%{name}' for name in reads)})"
        written.metadata_props.add(key=FX, value=text)
    return written


def run(model: Any, tensors: list[str], **feeds: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(tensors, feeds))


# ---- the cut --------------------------------------------------------------------------------------------------------


def test_the_cut_keeps_what_onnx_itself_keeps(unet_onnx):
    whole = onnx.load(unet_onnx)
    tensors = [name for node in whole.graph.node for name in node.output if node.op_type in ("Conv", "Add", "Gemm")]
    assert len(tensors) > 25
    extractor = Extractor(onnx.shape_inference.infer_shapes(whole))
    names = [value.name for value in whole.graph.input]
    for wanted in ([tensors[5]], tensors[3:20:8], [tensors[-1]]):
        model = onnx.load(unet_onnx)
        cut(model, wanted)
        theirs = extractor.extract_model(names, wanted)
        assert [node.name for node in model.graph.node] == [node.name for node in theirs.graph.node]
        for part in ("initializer", "output"):
            assert {item.name for item in getattr(model.graph, part)} == {
                item.name for item in getattr(theirs.graph, part)
            }


def test_the_cut_gives_the_same_numbers_with_fewer_nodes(unet_onnx):
    whole, part = onnx.load(unet_onnx), onnx.load(unet_onnx)
    cut(part, ["mid"])
    assert 0 < len(part.graph.node) < 0.75 * len(whole.graph.node)
    assert [value.name for value in part.graph.output] == ["mid"]
    feeds = {
        "x": np.random.default_rng(0).standard_normal((3, 1, 16, 16), np.float32),
        "c_noise": np.ones(3, np.float32),
    }
    np.testing.assert_allclose(run(part, ["mid"], **feeds)[0], run(whole, ["mid"], **feeds)[0], rtol=1e-5, atol=1e-6)


def test_the_cut_drops_inputs_that_nothing_needs():
    model = made([node("Relu", ["x"], ["a"]), node("Add", ["a", "t"], ["b"])], ["b"], x=["n", 2], t=["n", 2])
    cut(model, ["a"])
    assert [value.name for value in model.graph.input] == ["x"]
    x = np.array([[-1, 2]], np.float32)
    np.testing.assert_array_equal(run(model, ["a"], x=x)[0], [[0, 2]])


def test_the_cut_keeps_what_branches_take_from_outside():
    branch = lambda gives, op: helper.make_graph(  # noqa: E731
        [helper.make_node(op, ["a", "w"], [gives])],
        "branch",
        [],
        [helper.make_tensor_value_info(gives, TensorProto.FLOAT, None)],
    )
    nodes = [
        node("Relu", ["x"], ["a"]),
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["b"], then_branch=branch("then", "Mul"), else_branch=branch("else", "Add")),
        node("Neg", ["b"], ["c"]),
    ]
    model = made(nodes, ["c"], {"w": np.full((1, 2), 3, np.float32), "unused": np.ones(2, np.float32)}, x=["n", 2])
    cut(model, ["b"])
    assert [node.op_type for node in model.graph.node] == ["Relu", "Constant", "If"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    np.testing.assert_array_equal(run(model, ["b"], x=np.array([[-1, 2]], np.float32))[0], [[0, 6]])


# ---- modules: small graphs ------------------------------------------------------------------------------------------


def test_a_module_gives_what_is_used_outside_of_it():
    # block = inner then Relu; its result goes on, and inner's does too once `also` reads it.
    nodes = [
        node("Neg", ["x"], ["a"], ["block", "block.inner"]),
        node("Relu", ["a"], ["b"], ["block"]),
        node("Exp", ["b"], ["c"], ["head"]),
    ]
    graph = graph_of(made(nodes, ["c"]))
    assert list(graph.modules) == ["block", "block.inner", "head"]
    assert [graph.leaving(name) for name in graph.modules] == ["b", "a", "c"]
    graph = graph_of(made([*nodes, node("Add", ["a", "c"], ["d"], [])], ["d"]))
    with pytest.raises(
        ValueError, match=r"'block' of net\.onnx gives several tensors: 'a' \('n', 2, 4, 4\), 'b' \('n'"
    ):
        graph.leaving("block")
    assert graph.leaving("block.inner") == "a"


def test_an_output_of_the_network_leaves_its_module():
    nodes = [node("Neg", ["x"], ["a"], ["block"]), node("Relu", ["a"], ["b"], ["block"])]
    assert graph_of(made(nodes, ["b"])).leaving("block") == "b"
    with pytest.raises(ValueError, match=r"several tensors: 'a' .*, 'b'"):
        graph_of(made(nodes, ["a", "b"])).leaving("block")


def test_what_only_conditioning_or_the_shape_of_the_images_decides_is_no_layer():
    # torch's exporters compute silu(embedding) once, in the first block, for all of them.
    nodes = [
        node("Shape", ["x"], ["size"], ["first"]),
        node("Relu", ["t"], ["shared"], ["first"]),
        node("Add", ["x", "shared"], ["a"], ["first"]),
        node("Mul", ["a", "shared"], ["b"], ["second"]),
        node("Expand", ["shared", "size"], ["c"], ["time"]),
        node("Add", ["b", "c"], ["d"], []),
    ]
    graph = graph_of(made(nodes, ["d"], x=["n", 1, 4, 4], t=["n", 1, 1]))
    assert graph.images == ("x",)
    assert (graph.leaving("first"), graph.leaving("second")) == ("a", "b")
    with pytest.raises(ValueError, match=r"nothing that leaves module 'time' of net\.onnx depends on the images"):
        graph.leaving("time")


def test_a_border_that_was_optimised_away_is_not_guessed():
    # block ended with a permutation that cancelled with one in head: the next node had read %permute_1, not %a.
    lost = [node("Neg", ["x"], ["a"], ["block"]), node("Relu", ["a"], ["b"], ["head"], fx="%b : [relu](%permute_1)")]
    with pytest.raises(ValueError, match=r"'block' of .* was merged with what follows it, .* lack a step: 'a'"):
        graph_of(made(lost, ["b"])).leaving("block")
    # A dropout or a division by one changes nothing, wherever it was.
    for gone in ("%clone_2", "%div", "%p_weight, %div_7"):
        kept = [node("Neg", ["x"], ["a"], ["block"]), node("Relu", ["a"], ["b"], ["head"], fx=f"%b : [relu]({gone})")]
        assert graph_of(made(kept, ["b"])).leaving("block") == "a"


def test_a_node_that_an_optimiser_put_in_belongs_where_it_is_used():
    split = helper.make_node("Split", ["a"], ["p", "q"], axis=1, name="put_in")
    nodes = [node("Neg", ["x"], ["a"], ["block"]), split, node("Mul", ["p", "q"], ["b"], ["block"])]
    graph = graph_of(made([*nodes, node("Exp", ["b"], ["c"], [])], ["c"]))
    assert graph.leaving("block") == "b"
    # Between two modules it is no proof of where the first one ended.
    nodes = [node("Neg", ["x"], ["a"], ["block"]), split, node("Mul", ["p", "q"], ["b"], ["head"])]
    with pytest.raises(ValueError, match="may lack a step: 'a'"):
        graph_of(made(nodes, ["b"])).leaving("block")


# ---- modules: real exports ------------------------------------------------------------------------------------------


class ChannelNorm(nn.Module):
    """LayerNorm over channels of a map: two in a row lose a pair of permutations."""

    def __init__(self) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), x * 2.5


class Gallery(nn.Module):
    """One of each thing that exporters rewrite."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.idle = nn.SiLU(), nn.Identity()
        self.first, self.second = ChannelNorm(), ChannelNorm()
        self.shared = nn.Conv2d(4, 4, 1)
        self.pair = Pair()
        self.steps = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Dropout(0.5))
        self.parts = nn.ModuleDict({"a": nn.Conv2d(4, 4, 1), "list": nn.ModuleList([nn.Conv2d(4, 4, 1)])})
        self.tokens = Tokens()
        self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        x = self.idle(self.second(self.first(x)))
        x = self.shared(self.act(self.shared(x)))
        x, y = self.pair(x)
        x = self.steps(x) + y * t[:, None, None, None]
        x = self.parts["list"][0](self.parts["a"](x) / 1.0)
        tokens = self.tokens(x).transpose(1, 2).reshape(x.shape).flatten(2).transpose(1, 2)
        return self.head(self.act(self.linear(tokens)).mean(1))


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    generator = torch.Generator().manual_seed(0)
    net = Gallery().eval().requires_grad_(False)
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net


@pytest.fixture(scope="module", params=["torch.export", "TorchScript"])
def exported(request: pytest.FixtureRequest, gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gallery") / f"{request.param}.onnx"
    example = (torch.zeros(2, 4, 8, 8), torch.zeros(2))
    free: dict[str, Any] = {"dynamic_axes": {"x": {0: "n"}, "t": {0: "n"}}, "opset_version": 17}
    if request.param == "torch.export":
        n = torch.export.Dim("n")
        free = {"dynamic_shapes": {"x": {0: n}, "t": {0: n}}, "external_data": False, "verbose": False}
    with warnings.catch_warnings():
        # Both exporters announce changes of torch.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            gallery, example, str(path), input_names=["x", "t"], dynamo=request.param == "torch.export", **free
        )
    return path


def test_every_module_that_resolves_gives_what_a_hook_sees(gallery, exported):
    model = onnx.load(exported)
    graph = graph_of(model)
    found = {name: tensor for name, tensor in graph.names().items() if name in graph.modules}
    assert set(found) >= {"second", "pair.conv", "steps", "steps.0", "steps.1", "tokens.proj", "linear", "head"}
    assert set(found) >= {"parts.a", "parts.list.0"}
    modules, seen = dict(gallery.named_modules()), {}
    handles = [
        modules[name].register_forward_hook(lambda module, args, out, name=name: seen.update({name: out}))
        for name in found
    ]
    x, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.full((3,), 0.5)
    gallery(x, t)
    for handle in handles:
        handle.remove()
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in {*found.values(), *graph.outputs})
    del model.graph.output[0]
    tensors = list(found.values())
    outputs = dict(zip(tensors, run(model, tensors, x=x.numpy(), t=t.numpy()), strict=True))
    for name, tensor in found.items():
        given, wanted = outputs[tensor], seen[name].numpy()
        assert given.shape == wanted.shape, name
        assert np.linalg.norm(given - wanted) < 1e-5 * np.linalg.norm(wanted), name


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("act", "'act' of .* gives several tensors"),
        ("shared", "'shared' of .* gives several tensors"),
        ("pair", r"'pair' of .* gives several tensors: .*\('n', 4, 8, 8\), .*\('n', 4, 8, 8\)"),
        ("first", r"merged with what follows it.*\('n', 8, 8, 4\)|permutation may have been dropped"),
        ("tokens", r"merged with what follows it|permutation may have been dropped"),
        ("conv", r"no layer 'conv' \(nearest: .*leaves no trace|weights were merged with what follows"),
        ("idle", r"no layer 'idle'.*does nothing.*leaves no trace"),
        ("steps.2", r"no layer 'steps\.2' \(nearest: 'steps\.1'"),
    ],
)
def test_a_module_that_stands_for_no_one_tensor_is_refused(exported, module, message):
    with pytest.raises(ValueError, match=message):
        graph_of(onnx.load(exported)).find(module)


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_blocks() -> Graph:
    nodes = [
        node("Neg", ["x"], ["a"], ["up.0", "up.0.conv"]),
        node("Relu", ["a"], ["b"], ["up.0"]),
        node("Exp", ["b"], ["linear"], ["up.1"]),
        node("Abs", ["linear"], ["d"], ["linear"]),
    ]
    return graph_of(made(nodes, ["d"]))


def test_names_of_every_kind(two_blocks):
    assert two_blocks.resolve(None) == {"d": "d"}
    assert two_blocks.resolve("up.0") == {"up.0": "b"}
    assert two_blocks.resolve(["d", "a", "node_b", "up.1"]) == {"d": "d", "a": "a", "node_b": "b", "up.1": "linear"}
    assert two_blocks.resolve(["up.?", "d"]) == {"up.0": "b", "up.1": "linear", "d": "d"}
    assert two_blocks.resolve("up.*") == {"up.0": "b", "up.0.conv": "a", "up.1": "linear"}
    # No module and no output begins so.
    assert two_blocks.resolve("[ab]") == {"a": "a", "b": "b"}


def test_a_name_of_two_things_is_refused(two_blocks):
    message = r"'linear' stands for several tensors .*'linear' .* of node 'node_linear', 'd' .* of node 'node_d'"
    with pytest.raises(ValueError, match=message):
        two_blocks.find("linear")
    assert two_blocks.find("node_linear") == "linear"
    split = graph_of(made([helper.make_node("Split", ["x"], ["p", "q"], axis=1, name="halves")], ["p", "q"]))
    with pytest.raises(ValueError, match="'halves' stands for several tensors"):
        split.find("halves")


def test_wrong_names(two_blocks):
    with pytest.raises(ValueError, match=r"no layer 'up\.2' \(nearest: 'up\.\d', 'up\.\d'.*outputs are d,"):
        two_blocks.resolve("up.2")
    with pytest.raises(ValueError, match=r"no layer 'down\.\*'"):
        two_blocks.resolve("down.*")
    with pytest.raises(ValueError, match=r"'up\.0' is named twice"):
        two_blocks.resolve(["up.0", "up.0"])
    with pytest.raises(ValueError, match=r"layers is empty; net\.onnx has the outputs \['d'\]"):
        two_blocks.resolve([])
    plain = graph_of(made([helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"])], ["b"]))
    with pytest.raises(ValueError, match="do not say which modules they came from"):
        plain.resolve("mid")


def test_what_is_listed_can_be_asked_for(two_blocks, exported):
    assert list(two_blocks.names()) == ["up.0", "up.0.conv", "up.1", "d"]  # "linear" is two things
    assert list(two_blocks.names(modules=False)) == ["d"]
    assert list(two_blocks.names(modules=False, tensors=True)) == ["d", "a", "b"]
    plain = graph_of(made([helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"])], ["b"]))
    assert list(plain.names()) == ["b", "a"] and list(plain.names(tensors=False)) == ["b"]
    graph = graph_of(onnx.load(exported))
    listed = graph.names(tensors=True)
    assert len(listed) > 30 and all(graph.find(name) == tensor for name, tensor in listed.items())


def test_shapes(two_blocks):
    assert two_blocks.shape("b") == ("n", 2, 4, 4)
    # An operator that nobody knows, and one whose output is as long as the values make it.
    nodes = [node("RunThis", ["x"], ["a"]), node("NonZero", ["x"], ["b"]), node("Shape", ["b"], ["c"])]
    nodes[0].domain = "elsewhere"
    model = made([*nodes, node("Neg", ["x"], ["d"])], ["d"])
    model.opset_import.add(domain="elsewhere", version=1)
    graph = graph_of(model)
    assert graph.shape("a") is None and graph.shape("b") == (4, None)


def test_weights_are_left_out(unet_onnx):
    model = onnx.load(unet_onnx)
    light = without_weights(model)
    assert light.ByteSize() < 0.6 * model.ByteSize()
    names = [name for node in model.graph.node for name in node.output]
    shapes = graph_of(model)
    whole = Graph(model, "whole.onnx")
    assert [shapes.shape(name) for name in names] == [whole.shape(name) for name in names]


def test_names_without_end_take_no_time():
    long = "/" + "a/" * 200_000 + "Relu"
    scopes = [f"m{k}" for k in range(20_000)]
    nodes = [helper.make_node("Relu", ["x"], ["a"], name=long), node("Neg", ["a"], ["b"], scopes)]
    assert len(graph_of(made(nodes, ["b"])).modules) == 20_000
    assert graph_of(made(nodes[:1], ["a"])).modules == {}
