"""Functions are counted before a runtime puts them in place of their calls."""

from __future__ import annotations

import pytest

onnx = pytest.importorskip("onnx")

from icrkit.exceptions import UnsafeModelError  # noqa: E402
from icrkit_extractors._onnx_functions import check_functions  # noqa: E402

helper = onnx.helper


def call(name, domain="d"):
    return helper.make_node(name, ["a"], ["b"], domain=domain)


def model_of(nodes, functions):
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    for name, body in functions.items():
        model.functions.append(helper.make_function("d", name, ["a"], ["b"], body, opsets))
    return model


def branch(body):
    graph = helper.make_graph(body, "then", [], [])
    return helper.make_node("If", ["a"], ["b"], then_branch=graph, else_branch=graph)


@pytest.mark.parametrize(
    "functions",
    [
        {"F": [call("F")]},
        {"F": [call("G")], "G": [call("H")], "H": [call("F")]},
        {"F": [branch([call("F")])]},
        {"F": [branch([branch([call("G")])])], "G": [call("F")]},
        {"unused": [call("unused")]},
    ],
    ids=["itself", "circle", "in a branch", "in a branch of a branch", "never called"],
)
def test_calls_without_end_are_refused(functions):
    with pytest.raises(UnsafeModelError, match=r"m\.onnx: its functions call each other without end: '"):
        check_functions(model_of([call("F")], functions), "m.onnx")


def test_expansion_is_bounded():
    # 2, 4, 8, ...: each function calls the next one twice.
    def doubling(n):
        body = {f"F{k}": [call(f"F{k + 1}"), call(f"F{k + 1}")] for k in range(n)}
        return model_of([call("F0")], body | {f"F{n}": [call("Relu", "")]})

    check_functions(doubling(20), "m.onnx")
    for n in (24, 5000):
        with pytest.raises(UnsafeModelError, match=r"m\.onnx: .* more than 10,000,000 nodes"):
            check_functions(doubling(n), "m.onnx")


def test_operators_and_functions_of_other_domains_are_not_mixed_up():
    # An operator that has a function's name in another domain is not that function.
    check_functions(model_of([call("F")], {"F": [call("F", "other"), call("Relu", "")]}), "m.onnx")
    check_functions(model_of([call("Relu", "")], {}), "m.onnx")
