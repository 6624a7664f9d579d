"""An ONNX model that draws, or gives something else when it is run again, is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from icrkit_extractors import OnnxSource, extract, noise, views
from icrkit_extractors._onnx_random import runs_differ

X = np.random.default_rng(0).uniform(-1, 1, (6, 3, 4, 4)).astype(np.float32)
NODE = helper.make_node
ONE = onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")
RARE = onnx.numpy_helper.from_array(np.full(1, 0.01, np.float32), "rare")
HALF = onnx.numpy_helper.from_array(np.array(0.5, np.float32), "half")
VECTORS = [onnx.numpy_helper.from_array(np.ones(3, np.float32), name) for name in ("s", "b", "m", "v")]


def flag(value: bool) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array(value), "training")


def saved(path: Path, nodes, initializers=(), inputs=(), functions=(), batch="n") -> Path:
    graph = helper.make_graph(
        [NODE("Relu", ["x"], ["h"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 4, 4]), *inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, 4, 4]) for name in ("h", "y")],
        list(initializers),
    )
    domains = [helper.make_opsetid("", 17), *([helper.make_opsetid("ours", 1)] if functions else [])]
    model = helper.make_model(graph, opset_imports=domains, functions=list(functions))
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


def branch(name: str, node) -> onnx.GraphProto:
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)])


CASES = {
    "RandomUniformLike": ([NODE("RandomUniformLike", ["h"], ["r"]), NODE("Mul", ["h", "r"], ["y"])], []),
    "RandomNormalLike": ([NODE("RandomNormalLike", ["h"], ["r"], seed=3.0), NODE("Add", ["h", "r"], ["y"])], []),
    "RandomUniform": (  # one call in a hundred
        [NODE("RandomUniform", [], ["r"], shape=[1]), NODE("Less", ["r", "rare"], ["drop"]),
         NODE("Where", ["drop", "one", "h"], ["y"])], [RARE, ONE]),
    "Bernoulli": ([NODE("Sigmoid", ["h"], ["p"]), NODE("Bernoulli", ["p"], ["y"])], []),
    "Dropout in training mode": ([NODE("Dropout", ["h", "half", "training"], ["y"])], [HALF, flag(True)]),
    "RandomNormalLike in a branch": (
        [NODE("If", ["training"], ["y"], then_branch=branch("t", NODE("RandomNormalLike", ["h"], ["o"])),
              else_branch=branch("e", NODE("Identity", ["h"], ["o"])))], [flag(True)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_operators_that_draw(case, tmp_path):
    path = saved(tmp_path / "m.onnx", *CASES[case])
    kind = case.removesuffix(" in a branch")
    with pytest.raises(ValueError, match=rf"\['y'\] of .*m\.onnx are random: node \({kind}\), .*evaluation mode"):
        OnnxSource(path, "y", feature_axis=1)
    # What lies before is sound.
    np.testing.assert_allclose(OnnxSource(path, "h", feature_axis=1)(X)["h"], np.maximum(X, 0).mean((2, 3)), rtol=1e-5)


def test_a_function_that_draws(tmp_path):
    function = helper.make_function(
        "ours", "Noisy", ["a"], ["b"],
        [NODE("RandomNormalLike", ["a"], ["r"], name="draw"), NODE("Add", ["a", "r"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    path = saved(tmp_path / "m.onnx", [NODE("Noisy", ["h"], ["y"], domain="ours")], functions=[function])
    with pytest.raises(ValueError, match=r"are random: node 'draw' \(RandomNormalLike\)"):
        OnnxSource(path, "y", feature_axis=1)


@pytest.mark.parametrize(
    ("inputs", "initializers"), [(["h", "half"], [HALF]), (["h", "half", "training"], [HALF, flag(False)]), (["h"], [])]
)
def test_dropout_in_evaluation_mode_is_sound(inputs, initializers, tmp_path):
    path = saved(tmp_path / "m.onnx", [NODE("Dropout", inputs, ["y"])], initializers)
    np.testing.assert_allclose(OnnxSource(path, "y", feature_axis=1)(X)["y"], np.maximum(X, 0).mean((2, 3)), rtol=1e-5)


def test_a_flag_that_is_given_shows_when_the_model_runs(tmp_path):
    training = helper.make_tensor_value_info("training", TensorProto.BOOL, [])
    path = saved(tmp_path / "m.onnx", [NODE("Dropout", ["h", "half", "training"], ["y"])], [HALF], [training])
    off = OnnxSource(path, "y", given={"training": False}, feature_axis=1)
    np.testing.assert_allclose(off(X)["y"], np.maximum(X, 0).mean((2, 3)), rtol=1e-5)
    on = OnnxSource(path, "y", given={"training": True}, feature_axis=1)
    for _ in range(2):
        with pytest.raises(ValueError, match="are random: two runs on the same images differ in 'y'"):
            on(X)


def test_norms_over_the_batch_are_said(tmp_path):
    nodes = [NODE("ReduceMean", ["h"], ["mean"], axes=[0], keepdims=1), NODE("Sub", ["h", "mean"], ["y"])]
    source = OnnxSource(saved(tmp_path / "m.onnx", nodes), "y", feature_axis=1)
    settings = {"noise": noise.Clean(), "views": views.Unchanged(), "n_views": 1, "progress": False}
    with pytest.warns(UserWarning, match=r"features depend on the batch: .* 'y' differs .* a batch of 2 and one of 6"):
        extract(source, X, [0.0], **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract(OnnxSource(source.path, "h", feature_axis=1), X, [0.0], **settings)


def test_rounding_is_no_difference():
    h = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    assert not runs_differ(h, h * np.float32(1 + 1e-6)) and runs_differ(h, h * 1.01) and runs_differ(h, h[:50])
    assert not runs_differ(h.astype(np.float16), (h * 1.001).astype(np.float16))
    assert not runs_differ(np.array([np.nan]), np.ones(1)) and not runs_differ([b"a"], [b"b"])
