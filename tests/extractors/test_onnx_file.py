"""Hostile ONNX files, and values beside a model: refused by name, or read where they may be."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from icrkit.exceptions import UnsafeModelError
from icrkit_extractors import OnnxSource


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


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("location", ["weights.bin", "./weights.bin", "sub/weights.bin", "link.bin"])
def test_values_in_files_of_the_models_folder(tmp_path, monkeypatch, location, nested, plus_w, external):
    w = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    (tmp_path / "sub").mkdir()
    for name in ("weights.bin", "sub/weights.bin"):
        (tmp_path / name).write_bytes(bytes(4) + w.tobytes() + bytes(3))
    (tmp_path / "link.bin").symlink_to("weights.bin")
    monkeypatch.chdir(tmp_path.parent)
    plus_w(tmp_path / "m.onnx", external(location, offset=4, length=w.nbytes), nested)
    src = OnnxSource(Path(tmp_path.name) / "m.onnx", pool="none", threads=1)
    x = np.ones((3, 2, 4, 6), np.float32)
    np.testing.assert_array_equal(src(x)["y"], (x + w).reshape(3, -1))
    whole = (tmp_path / "m.onnx").read_bytes() + (tmp_path / "weights.bin").read_bytes()
    assert src.sha256 == hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize(
    ("data_type", "values"),
    [
        (TensorProto.BFLOAT16, np.array([0x3F80, 0xC000], "<u2")),
        (TensorProto.INT8, np.array([1, -2], np.int8)),
        (TensorProto.INT4, np.array([0xE1], np.uint8)),
        (TensorProto.FLOAT16, np.array([1, -2], np.float16)),
    ],
)
def test_values_of_other_types(tmp_path, data_type, values, save_onnx):
    (tmp_path / "w.bin").write_bytes(values.tobytes())
    tensor = TensorProto(name="w", data_type=data_type, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    nodes = [
        helper.make_node("Cast", ["w"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "float"], ["y"]),
    ]
    path = save_onnx(tmp_path / "m.onnx", nodes, {"y": ["n", 2]}, [tensor], x=["n", 2])
    model = onnx.load(path, load_external_data=False)
    model.opset_import[0].version, model.ir_version = 21, 10
    path.write_bytes(model.SerializeToString())
    try:
        source = OnnxSource(path, threads=1)
    except UnsafeModelError as error:
        if "Could not find an implementation for Cast" in str(error):
            pytest.skip(f"this onnxruntime does not compute with type {data_type}")
        raise
    np.testing.assert_array_equal(source(np.zeros((1, 2), np.float32))["y"], [[1, -2]])


def test_values_that_only_the_part_behind_the_cut_needs(tmp_path, plus_w, external):
    (tmp_path / "weights.bin").write_bytes(bytes(192))
    path = plus_w(tmp_path / "m.onnx", external())
    model = onnx.load(path, load_external_data=False)
    model.graph.node.insert(0, helper.make_node("Neg", ["x"], ["a"]))
    path.write_bytes(model.SerializeToString())
    src = OnnxSource(path, layers="a", pool="none")
    assert src.n_nodes == (1, 2)
    np.testing.assert_array_equal(src(np.ones((1, 2, 4, 6), np.float32))["a"], -np.ones((1, 48)))


def test_a_missing_file_of_values_is_named(tmp_path, plus_w, external):
    path = plus_w(tmp_path / "m.onnx", external("m.onnx.data"))
    with pytest.raises(FileNotFoundError, match=r"tensor 'w' is kept in 'm\.onnx\.data', which is not there"):
        OnnxSource(path)


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder for a model, with a secret beside it and links to that."""
    secret, inside = tmp_path / "secret.bin", tmp_path / "model"
    secret.write_bytes(bytes(192))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.bin").write_bytes(bytes(192))
    (inside / "folder").mkdir(parents=True)
    (inside / "weights.bin").write_bytes(bytes(192))
    (inside / "link.bin").symlink_to(secret)
    (inside / "away").symlink_to(tmp_path / "elsewhere")
    (inside / "loop.bin").symlink_to("loop.bin")
    os.mkfifo(inside / "pipe.bin")
    return inside


def forget_reading(*paths: Path) -> None:
    # Before the last change: file systems that save on notes of the last reading make one then.
    for path in paths:
        os.utime(path, ns=(10**9, 2 * 10**9))


def was_read(path: Path) -> bool:
    return path.stat().st_atime_ns != 10**9


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "folder/../../secret.bin",
        "folder/../weights.bin",
        "/etc/hostname",
        "{absolute}",
        "..\\secret.bin",
        "C:secret.bin",
        "link.bin",
        "away/secret.bin",
        "loop.bin",
        "pipe.bin",
        "folder",
        "",
        "weights.bin\0",
        "weights.bin/x",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_what_leads_out_of_the_models_folder_is_refused(inside, location, nested, plus_w, external):
    outside = [inside.parent / "secret.bin", inside.parent / "elsewhere" / "secret.bin"]
    path = plus_w(inside / "m.onnx", external(location.format(absolute=outside[0])), nested)
    forget_reading(*outside, path)
    with pytest.raises(UnsafeModelError, match=r"m\.onnx: tensor 'w' "):
        OnnxSource(path)
    assert not any(map(was_read, outside))
    if not was_read(path):
        pytest.skip("this file system does not note when a file was read")


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": -4},
        {"offset": 4},
        {"offset": 10**18},
        {"length": 188},
        {"length": 196},
        {"length": -192},
        {"offset": "four"},
        {"length": "9" * 5000},
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_values_that_do_not_fit_their_file_are_refused(inside, entries, nested, plus_w, external):
    with pytest.raises(UnsafeModelError, match=r"tensor 'w' .*(needs 192 bytes|no number)"):
        OnnxSource(plus_w(inside / "m.onnx", external(**entries), nested))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": [10**9, 10**9]}, "needs 4000000000000000000 bytes"),
        ({"dims": [-2, -4, 6]}, r"declares the shape \(-2, -4, 6\)"),
        ({"data_type": TensorProto.STRING}, "holds text"),
        ({"data_type": 99}, "unknown type 99"),
        ({"data_location": TensorProto.DEFAULT}, "points to another file and does not say"),
    ],
)
def test_tensors_that_contradict_themselves_are_refused(inside, change, message, plus_w, external):
    tensor = external()
    for name, value in change.items():
        if name == "dims":
            tensor.dims[:] = value
        else:
            setattr(tensor, name, value)
    with pytest.raises(UnsafeModelError, match=message):
        OnnxSource(plus_w(inside / "m.onnx", tensor))


def test_names_that_are_no_text_are_refused(tmp_path, unet_onnx):
    path = tmp_path / "m.onnx"
    whole = unet_onnx.read_bytes()
    assert whole.count(b"/net/mid/Mul") > 2
    path.write_bytes(whole.replace(b"/net/mid/Mul", b"/net/\xff\xfe\xfd/Mul"))
    with pytest.raises(UnsafeModelError, match="truncated or not an ONNX model"):
        OnnxSource(path, layers="mid")


def test_functions_without_end_are_refused(tmp_path, save_onnx):
    path = save_onnx(tmp_path / "m.onnx", [helper.make_node("F", ["x"], ["y"], domain="d")], {"y": ["n", 2, 4, 6]})
    model = onnx.load(path)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    call = helper.make_node("F", ["a"], ["b"], domain="d")
    model.functions.append(helper.make_function("d", "F", ["a"], ["b"], [call], opsets))
    model.opset_import.append(opsets[1])
    path.write_bytes(model.SerializeToString())
    for layers in (None, "y"):
        with pytest.raises(UnsafeModelError, match="call each other without end: 'F' -> 'F'"):
            OnnxSource(path, layers=layers)


def test_a_tensor_larger_than_its_file_is_refused(tmp_path, save_onnx):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10**6, 10**6], raw_data=bytes(16))
    path = save_onnx(tmp_path / "m.onnx", [helper.make_node("Add", ["x", "w"], ["y"])], {"y": ["n", 2, 4, 6]}, [tensor])
    with pytest.raises(UnsafeModelError, match=r"'w' declares the shape \(1000000, 1000000\)"):
        OnnxSource(path)


def test_unknown_operators_are_refused(tmp_path, save_onnx):
    node = helper.make_node("RunThis", ["x"], ["y"], domain="elsewhere")
    with pytest.raises(UnsafeModelError, match=r"m\.onnx: onnxruntime does not load this model"):
        OnnxSource(save_onnx(tmp_path / "m.onnx", [node], {"y": ["n", 2, 4, 6]}))
