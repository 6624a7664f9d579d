"""The graph of an ONNX model: the tensor that a layer's name stands for, and the part of the graph that it needs.

A module is a part of the torch network that was exported, by its name in ``named_modules()``. Both of torch's
exporters leave traces of modules (`_onnx_scopes`). Knows nothing of files or of onnxruntime.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from icrkit_extractors._onnx_axes import feature_axes
from icrkit_extractors._onnx_scopes import NAME_SCOPES, common_scope, metadata, traced_scopes, written_scope

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

__all__ = ["Graph", "Shape", "cut", "needed", "without_weights"]

Shape = tuple[int | str | None, ...]

_FX_NODE = "pkg.torch.onnx.fx_node"

# Operations that an exporter removes only where they change nothing, such as dropout or a division by 1.
_MAY_VANISH = {"_to_copy", "add", "alias", "clone", "contiguous", "detach", "div", "dropout", "mul", "sub", "to"}

# onnx.TensorProto.DataType: float, float16, double, bfloat16; 0 where inference found nothing.
_FLOATING = {0, 1, 10, 11, 16}

# Values that decide shapes (axes, sizes) are shorter; longer ones are weights.
_SMALL = 4096


# ---- models ---------------------------------------------------------------------------------------------------------


def without_weights(model: ModelProto) -> ModelProto:
    """The same graph, its large initialisers without their values.

    Parameters
    ----------
    model : ModelProto

    Returns
    -------
    ModelProto
        Small enough to keep, and all that shape inference asks for.
    """
    import onnx

    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = light.graph
    for name in ("node", "input", "output", "value_info"):
        getattr(graph, name).extend(getattr(model.graph, name))
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL:
            graph.initializer.add().CopyFrom(tensor)
        else:
            graph.initializer.add(
                name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, data_location=onnx.TensorProto.EXTERNAL
            )
    return light


def _reads(node: NodeProto) -> Iterator[str]:
    """Tensors that a node takes, those that its branches and loops take from outside among them."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
            yield from (output.name for output in graph.output)


def needed(graph: GraphProto, tensors: Sequence[str]) -> tuple[set[int], set[str]]:
    """Numbers of the nodes that tensors depend on, and names of all tensors on the way.

    Parameters
    ----------
    graph : GraphProto
    tensors : sequence of str
        Names of tensors of the graph.

    Returns
    -------
    set of int
    set of str
    """
    producer = {name: k for k, node in enumerate(graph.node) for name in node.output}
    nodes: set[int] = set()
    names: set[str] = set()
    waiting = list(tensors)
    while waiting:
        name = waiting.pop()
        if name in names:
            continue
        names.add(name)
        k = producer.get(name)
        if k is not None and k not in nodes:
            nodes.add(k)
            waiting.extend(_reads(graph.node[k]))
    return nodes, names


def cut(model: ModelProto, tensors: Sequence[str]) -> None:
    """Leave in ``model`` only what ``tensors`` need, and make them its outputs.

    Parameters
    ----------
    model : ModelProto
        Changed in place, so that no weight is copied.
    tensors : sequence of str
        Names of tensors of the graph.

    Notes
    -----
    Keeps the nodes that ``onnx.utils.Extractor`` keeps, and beyond those what branches and loops take from the graph
    around them.
    """
    graph = model.graph
    nodes, names = needed(graph, tensors)

    def keep(messages: Any, wanted: Callable[[int, Any], bool]) -> None:
        for k in reversed(range(len(messages))):
            if not wanted(k, messages[k]):
                del messages[k]

    keep(graph.node, lambda k, node: k in nodes)
    for messages in (graph.input, graph.initializer, graph.value_info):
        keep(messages, lambda k, message: message.name in names)
    keep(graph.sparse_initializer, lambda k, tensor: tensor.values.name in names)
    keep(graph.quantization_annotation, lambda k, note: note.tensor_name in names)
    typed = {value.name: value for value in (*graph.value_info, *graph.output)}
    outputs = [typed.get(name) for name in tensors]
    del graph.output[:]
    for name, value in zip(tensors, outputs, strict=True):
        # onnxruntime finds out the type of an output that states none.
        graph.output.add(name=name) if value is None else graph.output.add().CopyFrom(value)
    # What is an output may not be listed as an inner value too.
    keep(graph.value_info, lambda k, value: value.name not in tensors)


# ---- the graph ------------------------------------------------------------------------------------------------------


def _shape(value: ValueInfoProto) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None

    def size(axis: Any) -> int | str | None:
        if axis.HasField("dim_value"):
            return int(axis.dim_value)
        # unk__3 is shape inference's own word for an axis that it does not know.
        return None if axis.dim_param.startswith("unk__") else axis.dim_param or None

    return tuple(map(size, tensor.shape.dim))


class Graph:
    """Tensors and modules of a model, by name.

    Parameters
    ----------
    model : ModelProto
        As `without_weights` gives it; kept.
    where : str
        The model's file, for messages.

    Attributes
    ----------
    inputs : dict of str to Shape or None
        What the network takes.
    outputs : tuple of str
    modules : dict of str to set of int
        Modules in the order in which they run, and the numbers of their nodes; empty where the file holds no traces
        of modules.
    """

    def __init__(self, model: ModelProto, where: str) -> None:
        self._model = model
        self._where = where
        graph = model.graph
        self._nodes: list[NodeProto] = list(graph.node)
        weights = {tensor.name for tensor in graph.initializer}
        self.inputs = {value.name: _shape(value) for value in graph.input if value.name not in weights}
        self.outputs = tuple(value.name for value in graph.output)
        self._producer = {name: k for k, node in enumerate(self._nodes) for name in node.output if name}
        self._users: dict[str, list[int]] = {}
        for k, node in enumerate(self._nodes):
            for name in dict.fromkeys(_reads(node)):
                self._users.setdefault(name, []).append(k)
        self._written = any(metadata(node, NAME_SCOPES) for node in self._nodes)
        self.modules: dict[str, set[int]] = {}
        for k, scope in enumerate(self._scopes(weights)):
            for name in scope:
                self.modules.setdefault(name, set()).add(k)

    def _scopes(self, weights: set[str]) -> list[tuple[str, ...]]:
        if not self._written:
            # Parameters that are equal are stored once, under one name; the others are copies of it.
            copied = [node for node in self._nodes if node.op_type == "Identity" and not weights.isdisjoint(node.input)]
            parameters = weights.union(*(node.output for node in copied))
            return [scope or () for scope in traced_scopes(self._nodes, parameters)]
        scopes = [written_scope(node) for node in self._nodes]
        # Nodes that an optimiser put in, last first: they belong where all that they feed belongs.
        for k in reversed(range(len(scopes))):
            if scopes[k] is None and not set(self._nodes[k].output) & set(self.outputs):
                users = [user for name in self._nodes[k].output for user in self._users.get(name, [])]
                scopes[k] = common_scope(scopes[user] or () for user in users if user > k)
        return [scope or () for scope in scopes]

    @cached_property
    def _values(self) -> dict[str, tuple[int, Shape | None]]:
        """Element type and shape of every tensor that shape inference comes to know."""
        import onnx

        try:
            inferred = onnx.shape_inference.infer_shapes(self._model, data_prop=True)
        except Exception:  # its errors have no class of their own; onnxruntime, which runs the model, judges it
            inferred = self._model
        values = (*inferred.graph.value_info, *inferred.graph.output)
        return {value.name: (value.type.tensor_type.elem_type, _shape(value)) for value in values}

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Inputs that hold the images: those with the most axes."""
        axes = {name: 99 if shape is None else len(shape) for name, shape in self.inputs.items()}
        return tuple(name for name, n in axes.items() if n == max(axes.values()))

    @cached_property
    def _from_images(self) -> dict[str, None]:
        """Floating-point tensors whose values, not only shapes, depend on the images; in order of execution."""
        known = set(self.images)
        for node in self._nodes:
            # torch's own way to make a vector of times takes its length from the images.
            if node.op_type not in ("Shape", "Size") and not known.isdisjoint(_reads(node)):
                known.update(node.output)
        ordered = (name for node in self._nodes for name in node.output if name in known)
        return {name: None for name in ordered if name and self._values.get(name, (0, None))[0] in _FLOATING}

    # Names of the values that torch.export had: of each node's own result, and of all that still are in the graph.

    @cached_property
    def _own(self) -> list[str]:
        return [metadata(node, _FX_NODE).partition(" : ")[0].removeprefix("%") for node in self._nodes]

    @cached_property
    def _present(self) -> set[str]:
        graph = self._model.graph
        placeholders = (*graph.input, *graph.value_info)
        renamed = {metadata(value, "pkg.torch.onnx.original_node_name") for value in placeholders}
        return {*self._own, *self._producer, *self.inputs, *renamed}

    def _is_taken(self, tensor: str, k: int) -> bool:
        """Whether node ``k`` took this very value before optimisation, and not one computed from it."""
        text = metadata(self._nodes[k], _FX_NODE)
        if not self._written:
            return True
        names = set(re.findall(r"%(\w+)", text.partition(" : ")[2]))
        own = self._own[self._producer[tensor]]
        if tensor in names or (tensor in self.outputs and own in names):
            return True
        lost = {name for name in names - self._present if not name.startswith(("p_", "b_", "c_", "sym_"))}
        return bool(lost) and all(re.sub(r"_\d+$", "", name) in _MAY_VANISH for name in lost)

    def _doubt(self, tensor: str) -> str:
        """Why a tensor may not be what its module returned, where only names of nodes tell of modules."""
        maker = self._nodes[self._producer[tensor]]
        if self._written:
            return ""
        if maker.op_type in ("Conv", "ConvTranspose") and "::" in "".join(maker.input[1:2]):
            return "ends with a convolution whose weights were merged with what follows it"
        # What this exporter drops without a trace is a permutation before its own inverse: these are where modules
        # permute, between maps and tokens or around a norm over channels.
        if (maker.op_type, len(self.shape(tensor) or ())) in (("Reshape", 3), ("LayerNormalization", 4)):
            return "ends where a permutation may have been dropped"
        return ""

    def leaving(self, module: str) -> str:
        """The tensor that leaves a module: made inside, and used outside or given out by the network.

        Parameters
        ----------
        module : str
            One of `modules`.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If several tensors leave the module or none that depends on the images does, or if the file does not show
            that the one that leaves is what the module returned; lists the candidates with their shapes.
        """
        inside = self.modules[module]
        sure: list[str] = []
        doubtful: list[str] = []
        for name in (name for k in sorted(inside) for name in self._nodes[k].output if name in self._from_images):
            users = [k for k in self._users.get(name, []) if k not in inside]
            outside = [k for k in users if self._nodes[k].op_type not in ("Shape", "Size")]
            if name in self.outputs or any(self._is_taken(name, k) for k in outside):
                sure.append(name)
            elif outside:
                doubtful.append(name)
        if len(sure) == 1 and not doubtful:
            why = self._doubt(sure[0])
            if not why:
                return sure[0]
        elif not sure and not doubtful:
            raise ValueError(f"nothing that leaves module {module!r} of {self._where} depends on the images")
        elif doubtful:
            why = "was merged with what follows it, so that what leaves it may lack a step"
        else:
            why = "gives several tensors"
        candidates = ", ".join(f"{name!r} {self.shape(name)}" for name in (*sure, *doubtful))
        raise ValueError(
            f"module {module!r} of {self._where} {why}: {candidates}. Name the tensor to take as the layer"
        )

    def feature_axes(self, inputs: Mapping[str, int] | None = None) -> dict[str, int]:
        """Tensors and the axes of their features, as far as operators tell; see `_onnx_axes.feature_axes`.

        Parameters
        ----------
        inputs : mapping, optional
            Axes of inputs, where they are known.

        Returns
        -------
        dict of str to int
        """
        shapes = {**self.inputs, **{name: shape for name, (_, shape) in self._values.items()}}
        return feature_axes(self._nodes, shapes, self._constants, inputs)

    @cached_property
    def _constants(self) -> dict[str, Sequence[int]]:
        """Sizes of weights, and of what is computed from weights alone."""
        found: dict[str, Sequence[int]] = {tensor.name: tuple(tensor.dims) for tensor in self._model.graph.initializer}
        for node in self._nodes:
            if all(name in found for name in _reads(node)):
                found.update({name: shape for name in node.output if (shape := self._sizes(name)) is not None})
        return found

    def _sizes(self, tensor: str) -> Sequence[int] | None:
        shape = self.shape(tensor)
        return None if shape is None else [size for size in shape if isinstance(size, int)]

    def shape(self, tensor: str) -> Shape | None:
        """Shape of a tensor; None where shape inference does not find it.

        Parameters
        ----------
        tensor : str

        Returns
        -------
        tuple or None
            A free axis is a name, or None.
        """
        return self._values.get(tensor, (0, None))[1]

    def names(self, modules: bool = True, tensors: bool | None = None) -> dict[str, str]:
        """What can be asked for, and the tensor that each name stands for.

        Parameters
        ----------
        modules : bool
            Modules that one tensor leaves come first.
        tensors : bool, optional
            All tensors that depend on the images come last; by default only where the file has no modules.

        Returns
        -------
        dict of str to str
        """
        found = {}
        for name in self.modules if modules else ():
            try:
                found[name] = self.find(name)
            except ValueError:
                continue
        found.update({name: name for name in self.outputs})
        if tensors or (tensors is None and not self.modules):
            found.update({name: name for name in self._from_images if name not in {*found, *self.modules}})
        return found

    def find(self, name: str) -> str:
        """The tensor that one name stands for: an output, a tensor, a node or a module.

        Parameters
        ----------
        name : str

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If there is no such name (the message has the nearest), or it stands for several tensors (it lists them).
        """
        found: list[str] = []
        if name in self._producer or name in self.outputs:
            found.append(name)
        else:
            found += [output for node in self._nodes if name and node.name == name for output in node.output if output]
        if name in self.modules:
            try:
                found.append(self.leaving(name))
            except ValueError:
                # An output that its exporter called like the module is what he meant.
                if name not in self.outputs:
                    raise
        if len(set(found)) > 1:
            candidates = ", ".join(
                f"{tensor!r} {self.shape(tensor)} of node {self._nodes[self._producer[tensor]].name!r}"
                for tensor in dict.fromkeys(found)
                if tensor in self._producer
            )
            raise ValueError(
                f"{name!r} stands for several tensors of {self._where}: {candidates}. Name the tensor or the node meant"
            )
        if not found:
            raise ValueError(self._unknown(name))
        return found[0]

    def _unknown(self, name: str) -> str:
        near: list[str] = []
        for names in ((*self.modules, *self.outputs), self._producer):
            near = near or difflib.get_close_matches(name, dict.fromkeys(names), n=3, cutoff=0.4)
        hint = f" (nearest: {', '.join(map(repr, near))})" if near else ""
        if not self.modules:
            reason = "its nodes do not say which modules they came from, so only outputs, tensors and nodes have names"
        else:
            reason = "a module that does nothing, or was merged into another, leaves no trace in the file"
        return (
            f"{self._where} has no layer {name!r}{hint}; its outputs are {', '.join(self.outputs)}, and "
            f"available_layers() lists what else there is; {reason}"
        )

    def resolve(self, layers: str | Sequence[str] | None) -> dict[str, str]:
        """Layers by name or glob, and the tensor that each stands for.

        Parameters
        ----------
        layers : str or sequence of str, optional
            The outputs by default. A glob (``*`` matches dots as well) is held against modules and outputs, and
            against all other tensors where none of those fits; what stands for no single tensor is left out.

        Returns
        -------
        dict of str to str

        Raises
        ------
        ValueError
            If there are no layers, a layer is not in the model or stands for several tensors, or is named twice.
        """
        if layers is None:
            return {name: name for name in self.outputs}
        wanted = (layers,) if isinstance(layers, str) else tuple(map(str, layers))
        if not wanted:
            raise ValueError(f"layers is empty; {self._where} has the outputs {list(self.outputs)}")
        chosen: dict[str, str] = {}
        for name in wanted:
            if wanted.count(name) > 1:
                raise ValueError(f"layer {name!r} is named twice")
            try:
                chosen[name] = self.find(name)
            except ValueError:
                matches = self._matches(name)
                if not matches:
                    raise
                found = {match: tensor for match in matches if (tensor := self._found(match)) is not None}
                if not found:
                    self.find(matches[0])  # says why
                chosen.update(found)
        return chosen

    def _found(self, name: str) -> str | None:
        """The tensor of a layer; None where it stands for none or several."""
        try:
            return self.find(name)
        except ValueError:
            return None

    def _matches(self, pattern: str) -> list[str]:
        if pattern in self.modules or not re.search(r"[*?[]", pattern):
            return []
        return fnmatch.filter(dict.fromkeys((*self.modules, *self.outputs)), pattern) or fnmatch.filter(
            self._from_images, pattern
        )
