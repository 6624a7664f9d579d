"""Inputs of ONNX files from a shell and from Python: constants, bytes, channels last, half precision, any batch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from icrkit import open_cube
from icrkit.cli import main
from icrkit_extractors import OnnxSource
from icrkit_extractors._onnx_inputs import Constant, cast, layouts_of

FLOAT, HALF, BYTE, LONG, BOOL = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.INT64,
                                 TensorProto.BOOL)  # fmt: skip
KERNEL = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)


def write(path: Path, nodes: list[Any], inputs: dict[str, tuple[int, list[Any]]], kind: int = FLOAT) -> Path:
    """A graph whose last tensor `y` has 4 channels."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", kind, ["n", 4, 8, 8])],
        [numpy_helper.from_array(KERNEL, "w"), numpy_helper.from_array(KERNEL.astype(np.float16), "half"),
         numpy_helper.from_array(np.array([-1, 4, 1, 1]), "column")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def conv(source: str = "x", target: str = "y", weight: str = "w"):
    return helper.make_node("Conv", [source, weight], [target])


def images(n: int = 5) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)


def features(x: np.ndarray) -> np.ndarray:
    return np.einsum("nchw,dc->nd", x, KERNEL[..., 0, 0]) / 64


def unit(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) / 127.5 - 1


def icrkit(path: Path, out: Path, *given: str, pixels: np.ndarray) -> Result:
    np.save(out.with_suffix(".npy"), pixels)
    command = ["extract", "--family", "onnx", "--model", str(path), "--images", str(out.with_suffix(".npy")), "--noise",
               "clean", "--views", "unchanged", "--n-views", "1", "--out", str(out), *given]  # fmt: skip
    return CliRunner().invoke(main, command)


# ---- layout and type of the images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [["n", 8, 8, 3], ["n", None, None, 3], ["n", "h", "w", "c"]])
def test_channels_last_images(tmp_path, sizes):
    """As tf2onnx writes them: the first operator puts the channels first."""
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), conv("t")]
    path = write(tmp_path / "a.onnx", nodes, {"x": (FLOAT, sizes)})
    x = unit(images())
    np.testing.assert_allclose(OnnxSource(path, threads=1)(x)["y"], features(x), rtol=1e-4, atol=1e-5)
    result = icrkit(path, tmp_path / "a.cube", pixels=images())
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(open_cube(tmp_path / "a.cube")["y"].values[:, 0, 0], features(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "sizes", [["n", 3, 8, 8], ["n", "c", "h", "w"], ["n", 3, None, None], [2, 3, 8, 8], [1, 3, 8, 8]]
)
def test_channels_first_images_in_any_batch(tmp_path, sizes):
    path = write(tmp_path / "a.onnx", [conv()], {"x": (FLOAT, sizes)})
    x = unit(images())
    np.testing.assert_allclose(OnnxSource(path, threads=1)(x)["y"], features(x), rtol=1e-4, atol=1e-5)


def test_a_layout_that_fits_twice_is_asked_for(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", FLOAT, ["n", 3, 3, 3])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 4, 3, 3])],
        [numpy_helper.from_array(KERNEL, "w"), numpy_helper.from_array(np.array([0, 3, 3, 3]), "s")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    # A reshape between them that keeps no axis in place is what nothing is told of.
    model.graph.node[0].op_type = "Reshape"
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array([-1, 3, 9, 1]), "s"))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    x = np.random.default_rng(0).random((2, 3, 3, 3), np.float32)
    with pytest.raises(ValueError, match="channels first and with the channels last: image_layout='nchw' or"):
        OnnxSource(tmp_path / "a.onnx", threads=1, feature_axis=1)(x)
    first, last = (
        OnnxSource(tmp_path / "a.onnx", threads=1, feature_axis=1, image_layout=layout)(x)["y"]
        for layout in ("nchw", "nhwc")
    )
    moved = np.moveaxis(x, 1, -1).reshape(2, 3, 9)
    np.testing.assert_allclose(first, np.einsum("ncp,dc->nd", x.reshape(2, 3, 9), KERNEL[..., 0, 0]) / 9, rtol=1e-4)
    np.testing.assert_allclose(last, np.einsum("ncp,dc->nd", moved, KERNEL[..., 0, 0]) / 9, rtol=1e-4)


def test_images_that_fit_in_no_layout_name_the_way_out(tmp_path):
    path = write(tmp_path / "a.onnx", [conv()], {"x": (FLOAT, ["n", 3, 8, 8])})
    result = icrkit(path, tmp_path / "a.cube", pixels=images()[:, :, :6, :6])
    assert result.exit_code == 1 and "(n, 3, 8, 8), and the images are (3, 6, 6)" in result.stderr
    assert "--size 8 makes them so" in result.stderr
    grey = icrkit(path, tmp_path / "a.cube", pixels=images()[:, :1, :6, :6])
    assert "--size 8, --channels 3 makes them so" in grey.stderr


def test_bytes(tmp_path):
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=FLOAT), conv("f")]
    path = write(tmp_path / "a.onnx", nodes, {"x": (BYTE, ["n", 3, 8, 8])})
    pixels = images()
    for x in (pixels, unit(pixels)):
        got = OnnxSource(path, threads=1)(x)["y"]
        np.testing.assert_allclose(got, features(pixels.astype(np.float32)), rtol=1e-4)
    assert icrkit(path, tmp_path / "a.cube", pixels=pixels).exit_code == 0
    got = open_cube(tmp_path / "a.cube")["y"].values[:, 0, 0]
    np.testing.assert_allclose(got, features(pixels.astype(np.float32)), rtol=1e-4)
    noisy = icrkit(path, tmp_path / "b.cube", "--noise", "additive:name=none", "--sigmas", "3", pixels=pixels)
    assert noisy.exit_code == 1
    with pytest.raises(ValueError, match=r"takes bytes.*noise cannot be kept in bytes; take noise\.Clean\(\)"):
        OnnxSource(path, threads=1)(3 * unit(pixels))


def test_half_precision_inputs(tmp_path):
    path = write(tmp_path / "a.onnx", [conv(weight="half")], {"x": (HALF, ["n", 3, 8, 8])}, HALF)
    x = unit(images())
    got = OnnxSource(path, threads=1)(x)["y"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, features(x), rtol=2e-2, atol=2e-2)
    with pytest.raises(ValueError, match=r"input 'x' .*tensor\(float16\), in which 100000 is infinite"):
        OnnxSource(path, threads=1)(np.full((1, 3, 8, 8), 1e5, np.float32))


def test_types_of_values():
    assert cast("a", "tensor(bool)", [True, False]).dtype == bool
    assert cast("a", "tensor(int32)", [3.0]).tolist() == [3]
    for kind, value in {
        "tensor(int8)": [200],
        "tensor(uint8)": [-1],
        "tensor(bool)": [2],
        "tensor(int64)": [0.5],
    }.items():
        with pytest.raises(ValueError, match=r"^a takes whole numbers"):
            cast("a", kind, value)
    with pytest.raises(ValueError, match=r"takes numbers .* and is given <U1"):
        cast("a", "tensor(float)", ["x"])
    with pytest.raises(ValueError, match="known are tensor"):
        cast("a", "tensor(string)", 1)
    assert layouts_of(["n", 3, 8, 8], (3, 8, 8)) == ["nchw"] and layouts_of(["n", 8, 8, 3], (3, 8, 8)) == ["nhwc"]
    assert layouts_of([None] * 4, (3, 8, 8)) == ["nchw", "nhwc"] and layouts_of(["n", 1, 8, 8], (3, 8, 8)) == []


# ---- what is the same for every image -------------------------------------------------------------------------------


@pytest.fixture
def guided(tmp_path: Path) -> Path:
    """y = conv(x) + class + prompt: an input for each image, and one for all."""
    nodes = [
        conv("x", "c"),
        helper.make_node("Cast", ["label"], ["f"], to=FLOAT),
        helper.make_node("Unsqueeze", ["f", "axes"], ["wide"]),
        helper.make_node("Add", ["c", "wide"], ["d"]),
        helper.make_node("ReduceSum", ["prompt"], ["total"], keepdims=0),
        helper.make_node("Add", ["d", "total"], ["y"]),
    ]
    path = write(tmp_path / "guided.onnx", nodes, {
        "x": (FLOAT, ["n", 3, 8, 8]), "label": (LONG, ["n"]), "prompt": (FLOAT, ["words", 2]),
    })  # fmt: skip
    model = __import__("onnx").load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), "axes"))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("label", [3, [3], np.array([3]), np.int64(3), 3.0])
def test_constants_in_python(guided, label):
    x = unit(images())
    prompt = np.full((7, 2), 0.5, np.float32)
    source = OnnxSource(guided, threads=1, given={"label": label, "prompt": prompt})
    np.testing.assert_allclose(source(x)["y"], features(x) + 3 + 7, rtol=1e-4, atol=1e-4)
    record = source.config()["given"]
    assert record["label"] == 3 and record["prompt"] == prompt.tolist()
    assert json.loads(json.dumps(record)) == record


def test_constants_from_a_shell(guided, tmp_path):
    np.save(tmp_path / "prompt.npy", np.full((70, 2), 0.5, np.float32))
    x = unit(images())
    for k, given in enumerate(
        (
            ("--set", "given.label=3", "--set", f"given.prompt={tmp_path / 'prompt.npy'}"),
            ("--set", f"given={{'label': 3, 'prompt': {str(tmp_path / 'prompt.npy')!r}}}"),
        )
    ):
        result = icrkit(guided, tmp_path / f"{k}.cube", *given, pixels=images())
        assert result.exit_code == 0, result.output
        cube = open_cube(tmp_path / f"{k}.cube")
        np.testing.assert_allclose(cube["y"].values[:, 0, 0], features(x) + 3 + 70, rtol=1e-4, atol=1e-4)
        record = cube.attrs["given"]
        assert record["label"] == 3 and record["prompt"]["shape"] == [70, 2] and len(record["prompt"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), ("nothing gives 'label'", "--set given.label=VALUE")),
        (("--set", "given.label=3"), ("nothing gives 'prompt'",)),
        (("--set", "given.label=3", "--set", "given.promt=1"), ("no input 'promt'", "x, label, prompt")),
        (("--set", "given.label=3", "--set", "given.prompt=1"), ("give an array", "words")),
        (("--set", "given.label=0.5", "--set", "given.prompt=[[1, 2]]"), ("takes whole numbers", "0.5")),
        (("--set", "given.label=[1, 2]", "--set", "given.prompt=[[1, 2]]"), ("one row for all images", "(2,)")),
        (("--set", "given.label=3", "--set", "given.prompt=[1, 2, 3]"), ("(words, 2)", "(3,)")),
        (("--set", "given.label=cat", "--set", "given.prompt=[[1, 2]]"), ("takes numbers, or a file .npy", "'cat'")),
        (("--set", "given.label=absent.npy"), ("absent.npy", "No such file")),
        (("--set", "given=3"), ("given", "must map names of inputs to values")),
        (("--set", "image_layout=chw"), ("--set image_layout= must be 'nchw' or 'nhwc'",)),
        (("--set", "threads=many"), ("threads", "'many'")),
        (("--set", "widths=3"), ("no 'widths'", "given")),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_the_words_of_a_shell(guided, tmp_path, given, words):
    result = icrkit(guided, tmp_path / "a.cube", *given, pixels=images())
    assert result.exit_code in (1, 2) and "Traceback" not in result.output
    for word in words:
        assert word in result.stderr, result.stderr
    assert not re.search(r"noise\.[A-Z]", result.stderr)


def test_constants_that_count_images():
    def constant(sizes: list[Any], value: Any, images_axis: Any = "n", kind: str = "tensor(float)") -> np.ndarray:
        return Constant("a", sizes, kind, value, images_axis)(3)

    assert constant([], 2).shape == () and constant(["n"], 2).tolist() == [2, 2, 2]
    assert constant(["n", 2], 5).tolist() == [[5, 5]] * 3 and constant(["n", 2], [[1, 2]]).tolist() == [[1, 2]] * 3
    assert constant(["n", 2], [1, 2]).tolist() == [[1, 2]] * 3
    assert constant([1, 77], np.zeros((1, 77))).shape == (1, 77)  # shared by the batch
    assert constant([4, 2], [1, 2], images_axis=4).shape == (3, 2)
    assert constant([None, 2], [1, 2], images_axis="n").shape == (3, 2)
    assert constant(["t", 2], np.zeros((9, 2))).shape == (9, 2)
    for sizes, value in ((["n", 2], np.zeros((4, 2))), (["n", 2], [1, 2, 3]), (["t", 2], [1, 2]), ([3], [1, 2])):
        with pytest.raises(ValueError, match="has the shape"):
            constant(sizes, value)


def test_a_constant_is_not_given_twice(guided):
    source = OnnxSource(guided, threads=1, given={"label": 1, "prompt": [[1, 1]]})
    with pytest.raises(ValueError, match=r"input 'label' .* filled by the noise law and by given="):
        source(unit(images()), {"label": np.zeros(5)})


def test_a_constant_behind_the_cut_is_not_needed(guided):
    x = unit(images())
    source = OnnxSource(guided, layers="c", threads=1, given={"label": 1, "prompt": [[1, 1]]})
    np.testing.assert_allclose(source(x)["c"], features(x), rtol=1e-4, atol=1e-5)
