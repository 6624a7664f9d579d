"""Whether an ONNX model gives the same features at every call: operators that draw, and what a second run shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from icrkit_extractors._onnx_graph import needed

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["drawing_node", "runs_differ"]

_DRAWS = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
# Relative to the norm, as for torch: what is left between two runs is the order of sums on some devices.
_TOLERANCE, _TOLERANCE_HALF = 1e-4, 2e-2


def drawing_node(model: ModelProto, tensors: Sequence[str]) -> str | None:
    """The first node on the way to some tensors that draws at random, in words; None where there is none.

    Parameters
    ----------
    model : ModelProto
    tensors : sequence of str
        Names of tensors of the graph.
    """
    functions = {(function.domain, function.name): list(function.node) for function in model.functions}
    flags = _flags(model.graph)
    nodes = [model.graph.node[k] for k in sorted(needed(model.graph, tensors)[0])]
    for node in _all_nodes(nodes, functions):
        if node.domain not in ("", "ai.onnx"):
            continue
        training = node.op_type == "Dropout" and len(node.input) > 2 and flags.get(node.input[2], False)
        if node.op_type in _DRAWS or training:
            named = f" {node.name!r}" if node.name else ""
            return f"node{named} ({node.op_type}{' in training mode' if training else ''})"
    return None


def _all_nodes(nodes: list[NodeProto], functions: dict[tuple[str, str], list[NodeProto]]) -> Iterator[NodeProto]:
    """Nodes, those of branches and loops, and those of the functions that are called, each function once."""
    waiting, met = nodes[::-1], set()
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)
        called = node.domain, node.op_type
        if called in functions and called not in met:
            met.add(called)
            waiting.extend(functions[called])


def _flags(graph: GraphProto) -> dict[str, bool]:
    """Values of single booleans that the model holds."""
    import onnx

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    return {
        name: bool(onnx.numpy_helper.to_array(tensor).any())
        for name, tensor in tensors.items()
        if tensor.data_type == onnx.TensorProto.BOOL and not tensor.external_data
    }


def runs_differ(one: Any, other: Any) -> bool:
    """Whether a tensor is another one in a second run on the same input; False where it is not of numbers."""
    a, b = np.asarray(one), np.asarray(other)
    if a.dtype.kind != "f":
        return False
    if a.shape != b.shape:
        return True
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    tolerance = _TOLERANCE_HALF if a.dtype.itemsize < 4 else _TOLERANCE
    a, b = a.astype(np.float64), b.astype(np.float64)
    return bool(np.linalg.norm(a - b) > tolerance * max(np.linalg.norm(a), np.linalg.norm(b)))
