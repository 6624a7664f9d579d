"""Which modules of the torch network a node of an ONNX graph came from, by the traces that torch's exporters leave.

The exporter built on ``torch.export`` writes them into the metadata of nodes, the older one built on TorchScript into
their names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["NAME_SCOPES", "Scope", "common_scope", "metadata", "traced_scopes", "written_scope"]

# Modules around a node, outermost first; None where the file does not say.
Scope = tuple[str, ...] | None

NAME_SCOPES = "pkg.torch.onnx.name_scopes"

# Names that torch wrote are shorter; work on a name grows with its square.
_LONGEST = 1000


def metadata(message: Any, key: str) -> str:
    """What an exporter noted of a node or value under this key; empty where it noted nothing."""
    return next((entry.value for entry in message.metadata_props if entry.key == key), "")


def written_scope(node: NodeProto) -> Scope:
    """Modules around a node as the exporter wrote them: ['', 'mid', 'mid.conv0', 'conv2d_5']."""
    names = re.findall(r"'([^']*)'", metadata(node, NAME_SCOPES))
    # The first is the network itself, the last the operation; nodes that belong to no module have another first name.
    return tuple(names[1:-1]) if names and names[0] == "" else None


def _short(name: str) -> str:
    """The part of a module's name that TorchScript's exporter keeps: from its last atom that is no number."""
    atoms = name.split(".")
    first = next((k for k in reversed(range(len(atoms))) if not atoms[k].isnumeric()), 0)
    return ".".join(atoms[first:])


@dataclass(eq=False)
class _Call:
    """One call of a module while TorchScript traced the network."""

    component: str
    parent: _Call | None
    scope: str = ""
    owners: list[str] = field(default_factory=list)
    name: str = ""

    def path(self) -> list[_Call]:
        calls = [self]
        while calls[-1].parent:
            calls.append(calls[-1].parent)
        return calls[::-1]

    def named(self) -> str:
        """The module's name, where the parameters used inside agree on one, or the likeliest."""
        outer = self.parent.name if self.parent else ""
        prefix = f"{outer}." if outer else ""
        found: set[str] | None = None
        for owner in self.owners:
            atoms = owner.split(".")
            names = {".".join(atoms[: k + 1]) for k in range(len(atoms))}
            fitting = {name for name in names if name.startswith(prefix) and _short(name) == self.component}
            found = fitting if found is None else found & fitting
        if found:
            return min(found, key=len)
        if self.parent and self.component.startswith(f"{self.parent.component}."):
            # Children of a Sequential "layers" are called layers.0, layers.1.
            return outer[: len(outer) - len(self.parent.component)] + self.component
        return prefix + self.component


def traced_scopes(nodes: Sequence[NodeProto], parameters: Collection[str]) -> list[Scope]:
    """Modules around each node of an export through TorchScript, from node names such as /mid/norm0_1/Reshape.

    A component of the name is the `_short` name of a module that was called; ModuleList and ModuleDict, which never
    are, leave nothing. The n-th call with the same components has _n after its last one. Whole names come from the
    parameters, which keep theirs; the nodes of a call follow one another, which tells apart enc.block and dec.block.
    """
    calls: dict[str, _Call] = {}
    made: list[_Call] = []
    where: list[_Call | None] = []
    known: list[bool] = []
    stack: list[_Call] = []
    for node in nodes:
        known.append(node.name.startswith("/") and len(node.name) < _LONGEST)
        scope = node.name.rpartition("/")[0]
        if not known[-1] or not scope:
            where.append(None)
            continue
        owners = [name.rpartition(".")[0] for name in node.input if name in parameters and "." in name[:_LONGEST]]
        if scope in calls:
            stack = calls[scope].path()
        else:
            head, _, last = scope.rpartition("/")
            repeat = re.fullmatch(r"(.+)_\d+", last)
            shorts = set(map(_short, owners))
            # linear_1 may be a module's own name, or the second call of linear.
            if repeat and last not in shorts and (repeat[1] in shorts or f"{head}/{repeat[1]}" in calls):
                last = repeat[1]
            components = [*head.split("/")[1:], last]
            depth = 0
            while depth < min(len(stack), len(components)) and stack[depth].component == components[depth]:
                depth += 1
            if depth == len(components) and stack[depth - 1].scope:
                depth -= 1
            del stack[depth:]
            for component in components[depth:]:
                stack.append(_Call(component, stack[-1] if stack else None))
                made.append(stack[-1])
            stack[-1].scope = scope
            calls[scope] = stack[-1]
        for call in stack:
            call.owners.extend(owners)
        where.append(stack[-1])
    for call in made:
        call.name = call.named()
    return [
        tuple(outer.name for outer in call.path()) if call else () if traced else None
        for call, traced in zip(where, known, strict=True)
    ]


def common_scope(scopes: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The modules that are around all of them."""
    shared: tuple[str, ...] | None = None
    for scope in scopes:
        if shared is None:
            shared = scope
        shared = shared[: next((k for k, (a, b) in enumerate(zip(shared, scope, strict=False)) if a != b), len(scope))]
    return shared or ()
