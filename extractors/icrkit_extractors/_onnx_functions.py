"""Functions of an ONNX model, which a runtime puts in place of their calls: how much that comes to.

Every onnxruntime from 1.21 to 1.25 that was tried dies of a stack overflow where functions call each other in a circle,
and takes the process along; functions that call the next one twice double what has to be held at each step.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from icrkit.exceptions import UnsafeModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import FunctionProto, ModelProto, NodeProto

__all__ = ["check_functions"]

# Of the largest models that torch exports, layers are some ten thousand nodes.
_MOST_NODES = 10_000_000

Name = tuple[str, str, str]  # domain, name, overload


def check_functions(model: ModelProto, path: object) -> None:
    """Refuse functions whose calls have no end, or that come to more nodes than any network has.

    Parameters
    ----------
    model : ModelProto
    path : path
        Where the model was read, for messages.

    Raises
    ------
    UnsafeModelError
    """
    functions = {_name(function): function for function in model.functions}
    calls = {name: Counter(_called(function.node)) for name, function in functions.items()}
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        circle = " -> ".join(repr(name) for _, name, _ in error.args[1])
        raise UnsafeModelError(f"{path}: its functions call each other without end: {circle}") from None
    sizes: dict[Name, int] = {}
    for name in order:  # callees first; what is not a function is an operator, one node
        sizes[name] = sum(sizes[one] * times for one, times in calls[name].items()) if name in calls else 1
    total = sum(sizes.get(name, 1) for name in _called(model.graph.node))
    if total > _MOST_NODES:
        raise UnsafeModelError(
            f"{path}: its functions, put in place of their calls, come to more than {_MOST_NODES:,} nodes"
        )


def _name(function: FunctionProto) -> Name:
    return function.domain, function.name, function.overload


def _called(nodes: Iterable[NodeProto]) -> Iterator[Name]:
    """What nodes call, those of branches and loops too: functions, and operators by the same kind of name."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node.domain, node.op_type, node.overload
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)
