"""Which axis of a tensor in an ONNX graph holds the features: told by the operators around it, never by sizes.

A convolution has its channels on axis 1, a matrix product with weights, a LayerNorm and a bias of one axis have the
features last; transpositions carry the axis along. What none of them tells stays unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import NodeProto

    from icrkit_extractors._onnx_graph import Shape

__all__ = ["feature_axes"]

_CHANNELS_FIRST = {
    "AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool",
    "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "MaxPool", "QLinearConv", "SpaceToDepth",
}  # fmt: skip
# What joins tensors of one shape.
_ELEMENTWISE = {"Add", "Concat", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum", "Where"}
# What may change sizes and never the order of the axes.
_IN_PLACE = {"Cast", "CastLike", "Expand", "Identity", "Pad", "Resize", "Slice", "Split", "Tile", "Upsample"}


def _attribute(node: NodeProto, name: str) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), None)


class _Axes:
    """Axes found so far, by tensor."""

    def __init__(self, shapes: Mapping[str, Shape | None], weights: Mapping[str, Sequence[int]]) -> None:
        self.known: dict[str, int] = {}
        self._shapes, self._weights = shapes, weights

    def rank(self, tensor: str) -> int | None:
        shape = self._shapes.get(tensor)
        return None if shape is None else len(shape)

    def learn(self, tensor: str, axis: int | None) -> None:
        if axis is not None and tensor and tensor not in self._weights:
            self.known.setdefault(tensor, axis)

    def last(self, tensor: str) -> int | None:
        rank = self.rank(tensor)
        return None if rank is None else rank - 1

    def forward(self, node: NodeProto) -> None:
        """What the inputs of a node, or its kind, tell of its outputs."""
        for output in node.output:
            self.learn(output, self._leaving(node, output))

    def _leaving(self, node: NodeProto, output: str) -> int | None:
        kind, first = node.op_type, node.input[0] if node.input else ""
        axis, before, after = self.known.get(first), self._shapes.get(first), self._shapes.get(output)
        if kind in _CHANNELS_FIRST:
            return 1
        if self._ends_with_features(node):
            return self.last(output)
        if kind == "Transpose":
            order = _attribute(node, "perm")
            return None if axis is None or not order else list(order).index(axis)
        if kind in _ELEMENTWISE:
            return self._agreed(node, output)
        if axis is None or before is None or after is None:
            return axis if kind in _IN_PLACE else None
        if kind == "Reshape":
            return _reshaped(axis, before, after)
        if kind in _IN_PLACE or before == after:
            return axis
        return None

    def _ends_with_features(self, node: NodeProto) -> bool:
        if node.op_type in ("MatMul", "Gemm"):
            return len(node.input) > 1 and len(self._weights.get(node.input[1], ())) == 2
        if node.op_type in ("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"):
            return len(self._weights.get(node.input[1], ())) == 1 if len(node.input) > 1 else False
        return False

    def _agreed(self, node: NodeProto, output: str) -> int | None:
        """The axis that tensors of the output's rank share, or the one along which a weight varies."""
        rank = self.rank(output)
        found = {self.known[name] for name in node.input if name in self.known and self.rank(name) in (rank, None)}
        if found or rank is None:
            return found.pop() if len(found) == 1 else None
        if node.op_type == "Concat":
            return None
        for name in node.input:
            sizes = self._weights.get(name, ())
            wide = [k - len(sizes) for k, size in enumerate(sizes) if size > 1]
            if len(wide) == 1 and -wide[0] < rank:  # not along the images
                return rank + wide[0]
        return None

    def backward(self, node: NodeProto) -> None:
        """What the kind of a node, or its outputs, tell of its inputs."""
        if not node.input or not node.output:
            return
        first, output = node.input[0], node.output[0]
        kind, axis = node.op_type, self.known.get(output)
        if kind in _CHANNELS_FIRST:
            self.learn(first, 1)
        elif self._ends_with_features(node):
            self.learn(first, self.last(first))
        elif axis is None:
            return
        elif kind == "Transpose":
            order = _attribute(node, "perm")
            self.learn(first, order[axis] if order else None)
        elif kind in _ELEMENTWISE:
            for name in node.input:
                if self.rank(name) == self.rank(output):
                    self.learn(name, axis)
        elif kind in _IN_PLACE or (self._shapes.get(first) == self._shapes.get(output) is not None):
            self.learn(first, axis)


def _reshaped(axis: int, before: Shape, after: Shape) -> int | None:
    """The axis after a change of shape: the last one, or one that has only unchanged axes in front of it."""
    from_front = axis < len(after) and before[1 : axis + 1] == after[1 : axis + 1] and _known(after[axis])
    from_back = axis == len(before) - 1 and _known(after[-1]) and before[-1] == after[-1]
    places = ([axis] if from_front else []) + ([len(after) - 1] if from_back else [])
    return places[0] if len(set(places)) == 1 else None


def _known(size: int | str | None) -> bool:
    return isinstance(size, int)


def feature_axes(
    nodes: Sequence[NodeProto],
    shapes: Mapping[str, Shape | None],
    weights: Mapping[str, Sequence[int]],
    inputs: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Tensors and the axes of their features, as far as the graph tells.

    Parameters
    ----------
    nodes : sequence of NodeProto
        In the order in which they run.
    shapes : mapping
        Of tensors, where they are known.
    weights : mapping
        Of constants to their sizes.
    inputs : mapping, optional
        Axes of inputs, where they are known.

    Returns
    -------
    dict of str to int
        From the front, 1 or more. A tensor that the graph does not tell about is missing.
    """
    axes = _Axes(shapes, weights)
    for name, axis in (inputs or {}).items():
        axes.learn(name, axis)
    # What is told of an output may say what an input is, and the other way round.
    for _ in range(2):
        for node in nodes:
            axes.forward(node)
        for node in reversed(nodes):
            axes.backward(node)
    return axes.known
