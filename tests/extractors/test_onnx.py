"""An exported network gives the features of the module it came from; hostile files give errors by name."""

from __future__ import annotations

import builtins
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from icrkit.exceptions import MissingDependencyError, NonFiniteError, UnsafeModelError
from icrkit_extractors import OnnxSource, noise

LAYERS = ("mid", "dec.16x16_block0")


@pytest.fixture
def batch(images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    x0 = images.astype(np.float32) / 127.5 - 1
    z = np.random.default_rng(5).standard_normal(x0.shape).astype(np.float32)
    return noise.EDM()(x0, z, 0.3)


def save(
    path: Path, nodes: list[Any], outputs: dict[str, list[Any]], initializers: list[Any] = (), **inputs: Any
) -> Path:
    """A small graph as a file; inputs and outputs are names with shapes."""
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    graph = helper.make_graph(
        nodes,
        "graph",
        [value(name, shape) for name, shape in (inputs or {"x": ["n", 2, 4, 6]}).items()],
        [value(name, shape) for name, shape in outputs.items()],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Outputs of two to five axes, all of the same numbers."""
    shape = lambda name, *sizes: helper.make_tensor(name, TensorProto.INT64, [len(sizes)], sizes)  # noqa: E731
    return save(
        tmp_path / "shapes.onnx",
        [
            helper.make_node("Identity", ["x"], ["map"]),
            helper.make_node("Reshape", ["x", "three"], ["tokens"]),
            helper.make_node("Reshape", ["x", "two"], ["flat"]),
            helper.make_node("Reshape", ["x", "five"], ["video"]),
            helper.make_node("ReduceMean", ["x"], ["total"], axes=[0]),
        ],
        {
            "map": ["n", 2, 4, 6],
            "tokens": ["n", 8, 6],
            "flat": ["n", 48],
            "video": ["n", 2, 2, 2, 6],
            "total": [1, 2, 4, 6],
        },
        [shape("three", 0, 8, 6), shape("two", 0, 48), shape("five", 0, 2, 2, 2, 6)],
    )


def test_features_equal_the_module(unet, unet_onnx, module_outputs, batch):
    x, conditioning = batch
    got = OnnxSource(unet_onnx, threads=1)(x, conditioning)
    assert tuple(got) == LAYERS
    outputs = module_outputs(unet, LAYERS, torch.from_numpy(x), torch.from_numpy(conditioning["c_noise"]))
    for name, output in zip(LAYERS, outputs, strict=True):
        wanted = output.mean(dim=(2, 3)).numpy()
        assert wanted.std(axis=0).min() > 1e-3, "features that do not differ between images test nothing"
        assert got[name].dtype == np.float32 and got[name].shape == wanted.shape
        assert np.linalg.norm(got[name] - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_conditioning_reaches_the_network(unet_onnx, batch):
    x, conditioning = batch
    src = OnnxSource(unet_onnx, threads=1)
    other = src(x, {"c_noise": conditioning["c_noise"] + 1})
    assert not np.allclose(src(x, conditioning)["mid"], other["mid"], rtol=1e-3)
    by_name = src({"x": x, "c_noise": conditioning["c_noise"]})
    np.testing.assert_array_equal(by_name["mid"], src(x, conditioning)["mid"])


def test_inputs_are_cast_to_the_models_types(unet_onnx, batch):
    x, conditioning = batch
    src = OnnxSource(unet_onnx, threads=1)
    double = src(x.astype(np.float64), {"c_noise": conditioning["c_noise"].tolist()})
    np.testing.assert_array_equal(double["mid"], src(x, conditioning)["mid"])


def test_available_layers_and_choice(unet_onnx, batch):
    src = OnnxSource(unet_onnx, layers=["dec.16x16_block0"], threads=1)
    assert src.available_layers() == {"mid": ("n", 16, 8, 8), "dec.16x16_block0": ("n", 8, 16, 16)}
    assert src.layers == ("dec.16x16_block0",)
    assert list(src(*batch)) == ["dec.16x16_block0"]
    assert OnnxSource(unet_onnx, layers=LAYERS[::-1], threads=1).layers == LAYERS[::-1]
    assert OnnxSource(unet_onnx, layers="mid", threads=1).layers == ("mid",)


def test_config_identifies_the_model(unet_onnx):
    config = OnnxSource(unet_onnx, layers=["mid"], pool="none").config()
    assert config["model_sha256"] == hashlib.sha256(unet_onnx.read_bytes()).hexdigest()
    assert config["source"] == "OnnxSource" and config["layers"] == ["mid"] and config["pool"] == "none"
    assert config["providers"] and config["onnxruntime_version"]


def test_pools(shapes):
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 6)).astype(np.float32)
    mean = OnnxSource(shapes, layers=["map", "tokens", "flat"], threads=1)(x)
    np.testing.assert_allclose(mean["map"], x.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean["tokens"], x.reshape(3, 8, 6).mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(mean["flat"], x.reshape(3, 48))
    whole = OnnxSource(shapes, layers=["map", "tokens", "flat", "video"], pool="none", threads=1)(x)
    for h in whole.values():
        np.testing.assert_array_equal(h, x.reshape(3, 48))


def test_outputs_that_are_no_features(shapes):
    x = np.zeros((3, 2, 4, 6), np.float32)
    with pytest.raises(ValueError, match=r"'video' gives shape \(3, 2, 2, 2, 6\).*use 'none'"):
        OnnxSource(shapes, layers=["video"])(x)
    with pytest.raises(ValueError, match=r"'total' gives shape .* first axis must be the image"):
        OnnxSource(shapes, layers=["total"])(x)


def test_wrong_layer_lists_what_there_is(unet_onnx):
    with pytest.raises(
        ValueError, match=r"no output 'dec.16x16_block1' \(nearest: 'dec.16x16_block0'\).*\['mid', 'dec"
    ):
        OnnxSource(unet_onnx, layers=["dec.16x16_block1"])
    with pytest.raises(ValueError, match="no output 'zzz'; it has"):
        OnnxSource(unet_onnx, layers=["zzz"])
    with pytest.raises(ValueError, match="named twice"):
        OnnxSource(unet_onnx, layers=["mid", "mid"])
    with pytest.raises(ValueError, match="layers is empty"):
        OnnxSource(unet_onnx, layers=[])


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"pool": "max"}, "pool"), ({"threads": 0}, "threads"), ({"providers": ["Abacus"]}, "no provider 'Abacus'")],
)
def test_wrong_options(unet_onnx, bad, message):
    with pytest.raises(ValueError, match=message):
        OnnxSource(unet_onnx, **bad)


def test_wrong_inputs(unet_onnx, batch):
    x, conditioning = batch
    src = OnnxSource(unet_onnx, threads=1)
    with pytest.raises(ValueError, match="exactly one input must be left for the images"):
        src(x)
    with pytest.raises(ValueError, match=r"inputs \['x', 'c_noise'\] and is given \['x'\]"):
        src({"x": x})
    with pytest.raises(ValueError, match=r"and is given \['x', 't', 'c_noise'\]"):
        src({"x": x, "t": x}, conditioning)
    with pytest.raises(ValueError, match=r"input 'x' .* has the shape \['n', 1, 16, 16\] and is given \(40, 1, 8, 8\)"):
        src(x[..., :8, :8], conditioning)
    with pytest.raises(ValueError, match="input 'c_noise'"):
        src(x, {"c_noise": conditioning["c_noise"][:, None]})


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx"):
        OnnxSource(tmp_path / "nothing.onnx")
    with pytest.raises(UnsafeModelError, match="not a file"):
        OnnxSource(tmp_path)


def test_files_that_are_no_models(tmp_path, unet_onnx):
    path = tmp_path / "bad.onnx"
    whole = unet_onnx.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(UnsafeModelError, match=r"bad\.onnx is empty"):
        OnnxSource(path)
    for text in (b"hello, this is no model\n", b"\x89PNG\r\n\x1a\n", b"\x00" * 100, b"\x08"):
        path.write_bytes(text)
        with pytest.raises(UnsafeModelError, match="truncated or not an ONNX model"):
            OnnxSource(path)
    rng = np.random.default_rng(0)
    for length in [*range(len(whole) - 40, len(whole)), *rng.integers(1, len(whole), 40), *range(1, 40)]:
        path.write_bytes(whole[:length])
        with pytest.raises(UnsafeModelError):
            OnnxSource(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "weights.bin"])
@pytest.mark.parametrize("nested", [False, True])
def test_tensors_in_other_files_are_refused(tmp_path, location, nested, monkeypatch):
    (tmp_path / "weights.bin").write_bytes(bytes(192))
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 4, 6], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    if nested:
        constant = helper.make_graph(
            [helper.make_node("Constant", [], ["out"], value=tensor)],
            "branch",
            [],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, 4, 6])],
        )
        nodes = [
            helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
            helper.make_node("If", ["yes"], ["w"], then_branch=constant, else_branch=constant),
        ]
        path = save(tmp_path / "m.onnx", [*nodes, helper.make_node("Add", ["x", "w"], ["y"])], {"y": ["n", 2, 4, 6]})
    else:
        path = save(tmp_path / "m.onnx", [helper.make_node("Add", ["x", "w"], ["y"])], {"y": ["n", 2, 4, 6]}, [tensor])
    opened = []
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *args, **given: (opened.append(args[0]), real(*args, **given))[1])
    with pytest.raises(UnsafeModelError, match="tensor 'w' points to another file"):
        OnnxSource(path)
    assert not [name for name in opened if Path(str(name)).name == Path(location).name]


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10**6, 10**6], raw_data=bytes(16))
    path = save(tmp_path / "m.onnx", [helper.make_node("Add", ["x", "w"], ["y"])], {"y": ["n", 2, 4, 6]}, [tensor])
    with pytest.raises(UnsafeModelError, match=r"'w' declares the shape \(1000000, 1000000\)"):
        OnnxSource(path)


def test_unknown_operators_are_refused(tmp_path):
    node = helper.make_node("RunThis", ["x"], ["y"], domain="elsewhere")
    with pytest.raises(UnsafeModelError, match=r"m\.onnx: onnxruntime does not load this model"):
        OnnxSource(save(tmp_path / "m.onnx", [node], {"y": ["n", 2, 4, 6]}))


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_nan_names_the_layer_and_row(tmp_path, pool):
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["fine"]), helper.make_node("Log", ["x"], ["log"])],
        {"fine": ["n", 2, 4, 6], "log": ["n", 2, 4, 6]},
    )
    x = np.ones((5, 2, 4, 6), np.float32)
    x[3, 1, 2, 2] = -1
    with pytest.raises(NonFiniteError, match=r"layer 'log' .* in 1 of 5 rows, first in row 3"):
        OnnxSource(path, pool=pool)(x)
    x[3, 1, 2, 2] = 0
    with pytest.raises(NonFiniteError, match="layer 'log'"):
        OnnxSource(path, pool=pool)(x)


def test_half_precision_models(tmp_path):
    path = save(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], {"y": ["n", 2, 4, 6]})
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    path.write_bytes(model.SerializeToString())
    x = np.full((3, 2, 4, 6), 1.5, np.float32)
    got = OnnxSource(path)(x)["y"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.full((3, 2), 1.5))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_package_gives_the_command(monkeypatch, unet_onnx, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "icrkit\[onnx\]"'):
        OnnxSource(unet_onnx)


def test_importing_the_package_loads_no_framework():
    code = "import sys, icrkit_extractors; print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
