"""Modules of the torch network, from the traces that both of torch's exporters leave in a graph."""

from __future__ import annotations

from onnx import helper

from icrkit_extractors._onnx_scopes import NAME_SCOPES, common_scope, traced_scopes, written_scope


def named(*paths: str) -> dict[str, list[int]]:
    """Modules, and their nodes, of a chain of nodes with these names; after a blank the parameter that a node takes."""
    nodes, parameters, last = [], set(), "x"
    for k, path in enumerate(paths):
        name, _, parameter = path.partition(" ")
        nodes.append(helper.make_node("Add", [last, parameter or last], [f"v{k}"], name=name))
        parameters |= {parameter} - {""}
        last = f"v{k}"
    found: dict[str, list[int]] = {}
    for k, scope in enumerate(traced_scopes(nodes, parameters)):
        for name in scope or ():
            found.setdefault(name, []).append(k)
    return found


def test_modules_from_the_names_that_torchscript_gives():
    # Children of a Sequential repeat its name; containers that are never called leave none.
    assert named("/net/layers/layers.0/Add", "/net/layers/layers.1/Add", "/net/Add", "/Add") == {
        "net": [0, 1, 2],
        "net.layers": [0, 1],
        "net.layers.0": [0],
        "net.layers.1": [1],
    }
    # Whole names come from the parameters, and the second call of /b/conv, in another b, is /b/conv_1.
    assert named(
        "/b/conv/Add enc.b.conv.weight", "/b/Add", "/mid/Add", "/b/conv_1/Add dec.b.conv.weight", "/b_1/Add"
    ) == {"enc.b": [0, 1], "enc.b.conv": [0], "mid": [2], "dec.b": [3, 4], "dec.b.conv": [3]}
    # linear_1 is a name here, and a second call there.
    assert list(named("/t/linear_1/Add t.linear_1.weight", "/t/linear_2/Add t.linear_2.weight")) == [
        "t",
        "t.linear_1",
        "t.linear_2",
    ]
    assert named("/act/Add", "/conv/Add conv.weight", "/act_1/Add") == {"act": [0, 2], "conv": [1]}
    assert named("Add_0", "model/conv/Add") == {}


def test_modules_that_the_exporter_wrote():
    node = helper.make_node("Relu", ["x"], ["a"])
    assert written_scope(node) is None
    node.metadata_props.add(key=NAME_SCOPES, value=str(["", "mid", "mid.conv0", "conv2d_5"]))
    assert written_scope(node) == ("mid", "mid.conv0")
    foreign = helper.make_node("Relu", ["x"], ["a"])
    foreign.metadata_props.add(key=NAME_SCOPES, value=str(["elsewhere", "mid", "relu"]))
    assert written_scope(foreign) is None


def test_what_several_nodes_have_around_them():
    assert common_scope([("a", "a.b", "a.b.c"), ("a", "a.b"), ("a", "a.b", "a.b.d")]) == ("a", "a.b")
    assert common_scope([("a",), ("b",)]) == common_scope([]) == ()
