"""The bad inputs of ``icrkit extract`` and of stores, as a person in a shell meets them.

Second writers, resuming with something else, checkpoints and ONNX files of an enemy. Each gives exit status 1, one line
on standard error in the words of a shell, nothing on standard output, and loses and writes nothing.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

import icrkit as ik
from icrkit.cli import main
from icrkit.datasets import data_path, load_fashion_images

MODEL = data_path("fashion_denoiser.onnx")
CLASS = "icrkit_extractors.models.denoiser:SmallUNet"
WEIGHTS = data_path("fashion_denoiser.npz")
# What Python calls these things.
PYTHON = re.compile(r"attrs\b|allow_partial=|given=\{|\bnoise\.|\bviews\.|\bCube\w*Error|Traceback")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def icrkit(command: str, *words: object) -> Result:
    return CliRunner().invoke(main, [command, *map(str, words)])


def assert_refused(result: Any, *words: str) -> None:
    said = (result.exit_code, result.stdout, result.stderr)
    assert result.exit_code == 1 and result.stdout == "", said
    lines = [line for line in result.stderr.splitlines() if not line.startswith("icrkit: warning: out of memory")]
    assert len(lines) == 1 and lines[0].startswith("icrkit: "), said
    assert not PYTHON.search(lines[0]) and "unexpected" not in lines[0], said
    for word in words:
        assert word in lines[0], said


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    np.savez(tmp_path / "images.npz", images=load_fashion_images("test").images[:24])
    return tmp_path / "images.npz"


def options(images: Path, /, **changed: object) -> list[str]:
    """Words of ``icrkit extract`` for a file that ships with icrkit; ``changed`` options have other values, or None."""
    named: dict[str, object] = {
        "family": "onnx", "model": MODEL, "noise": "edm", "views": "fashion", "images": images, "layers": "mid",
        "sigmas": "0.1,0.4", "batch-size": 8, "out": images.parent / "a.cube",
    }  # fmt: skip
    named |= {name.replace("_", "-"): value for name, value in changed.items()}
    return [word for name, value in named.items() if value is not None for word in (f"--{name}", str(value))]


@pytest.fixture
def store(images: Path) -> Path:
    """A store of three blocks, of which the last is not written yet."""
    path = images.parent / "a.cube"
    whole = images.parent / "whole.cube"
    assert icrkit("extract", *options(images, out=whole)).exit_code == 0
    config = json.loads((whole / "cube.json").read_text())
    with writer_of(config, path, block_size=8) as writer:
        writer.append(np.arange(16), {"mid": ik.open_cube(whole)["mid"].to_numpy()[:16]})
    return path


@contextmanager
def writer_of(config: dict[str, Any], path: Path, block_size: int | None = None) -> Iterator[ik.CubeWriter]:
    """A writer of the store that a cube.json speaks of."""
    layers = {layer["name"]: layer["features"] for layer in config["layers"]}
    given = {name: config[name] for name in ("n_views", "n_images", "attrs", "alphas")}
    size = block_size or config["block_size"]
    with ik.CubeWriter(path, layers, config["sigmas"], block_size=size, **given) as writer:
        yield writer


# ---- stores ---------------------------------------------------------------------------------------------------------


def test_a_second_writer_changes_no_byte(images: Path) -> None:
    path = images.parent / "a.cube"
    assert icrkit("extract", *options(images)).exit_code == 0
    last = sorted(path.glob("part-*.h5"))[-1]
    last.unlink()  # which gives the second writer something to do
    with writer_of(json.loads((path / "cube.json").read_text()), path):
        before = contents(path)
        refused = icrkit("extract", *options(images))
        assert_refused(refused, "a.cube is being written by another process", f"pid {os.getpid()}", "wait for it")
        assert_refused(icrkit("repair", path), "is being written by another process")
        assert contents(path) == before
    # The line says that the lock goes with its process.
    assert icrkit("extract", *options(images)).exit_code == 0
    assert last.exists() and icrkit("verify", path).exit_code == 0


def other_network(folder: Path) -> Path:
    model = onnx.load(MODEL)
    weights = next(tensor for tensor in model.graph.initializer if len(tensor.dims) > 1)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"


def other_images(folder: Path) -> Path:
    np.savez(folder / "others.npz", images=load_fashion_images("test").images[24:48])
    return folder / "others.npz"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 1}, ["begun with --seed = 0, and this run has --seed = 1"]),
        ({"model": other_network}, ["--model or --checkpoint (sha256) = '"]),
        ({"sigmas": "0.1,0.5"}, ["--sigmas = [0.1, 0.4], and this run has --sigmas = [0.1, 0.5]"]),
        ({"noise": "edm:sigma_data=0.4"}, ["begun with --noise sigma_data = 0.5"]),
        ({"views": "digits"}, ["begun with --views flip = True"]),
        ({"n_views": 3}, ["begun with --n-views = 2, and this run has --n-views = 3"]),
        ({"layers": "dec.*"}, ["layers = {'mid': 64}", "dec.16x16_block0"]),
        ({"pool": "none"}, ["layers = {'mid': 64}, and this run has layers = {'mid': 4096}"]),
        ({"images": other_images}, ["begun with --images (sha256) = '"]),
        ({"limit": 20}, ["begun with images = 24, and this run has images = 20"]),
        ({"batch_size": 16}, ["begun with --batch-size = 8, and this run has --batch-size = 16"]),
        ({"shard": "0/2"}, ["begun with --shard I/1, and this run has --shard I/2"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_resuming_with_something_else_writes_nothing(
    images: Path, store: Path, changed: dict[str, Any], words: list[str]
) -> None:
    made = {name: value(images.parent) if callable(value) else value for name, value in changed.items()}
    before = contents(store)
    refused = icrkit("extract", *options(images, **made))
    assert_refused(refused, "a.cube/cube.json was begun with", *words, "nothing was written", "another --out")
    assert contents(store) == before


def test_resuming_with_the_same_goes_on(images: Path, store: Path) -> None:
    """Which the refusals above would hide if the store were nobody's."""
    kept = contents(store)
    assert icrkit("extract", *options(images)).exit_code == 0
    assert len(ik.open_cube(store)) == 24
    after = contents(store)
    assert all(after[name] == kept[name] for name in kept if name.startswith("part-"))


@pytest.mark.parametrize("command", ["sweep", "score", "compare", "course", "pack", "verify", "memorization"])
@pytest.mark.parametrize("missing", ["half", "part"])
def test_a_store_that_lacks_blocks_is_not_read_as_zeros(
    images: Path, store: Path, command: str, missing: str, tmp_path: Path
) -> None:
    if missing == "part":
        assert icrkit("extract", *options(images)).exit_code == 0
        sorted(store.glob("part-*.h5"))[1].unlink()
    further = {
        "pack": [tmp_path / "out.h5"], "memorization": [store, "--threshold", "0.6"], "compare": [store],
        "course": [store, store],
    }  # fmt: skip
    refused = icrkit(command, store, *further.get(command, []))
    words = {"half": ["2 of 3 blocks"], "part": ["part-00001.h5"]}[missing]
    assert_refused(refused, *words)
    assert not (tmp_path / "out.h5").exists()


def test_info_says_what_a_store_lacks(store: Path) -> None:
    result = icrkit("info", store)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "16 images" in result.stdout and "2 of 3 blocks are there (16 of 24 images)" in result.stdout
    assert not PYTHON.search(result.stdout.split("attrs")[0].splitlines()[1])


# ---- checkpoints ----------------------------------------------------------------------------------------------------


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists(), "code of the file was run"


def torch_file(path: Path, mark: Path) -> Path:
    torch.save({"mid.weight": Evil(mark), "step": 3}, path)
    return path


def bare_pickle(path: Path, mark: Path) -> Path:
    path.write_bytes(pickle.dumps({"ema": Evil(mark)}))
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("make", [torch_file, bare_pickle], ids=lambda make: make.__name__)
def test_code_in_a_checkpoint_is_not_run(images: Path, mark: Path, make: Any, suffix: str) -> None:
    path = make(images.parent / f"net{suffix}", mark)
    words = ["holds more than tensors, and nothing of it was run", "save its tensors alone"]
    given = options(images, family="module", model=CLASS, checkpoint=path)
    assert_refused(icrkit("extract", *given), *words)
    assert_refused(icrkit("extract", *given, "--list-layers"), *words)
    assert not (images.parent / "a.cube").exists()


@pytest.mark.parametrize(
    ("make", "words"), [(torch_file, "or not a pickled network"), (bare_pickle, "and nothing of it was run")]
)
def test_code_in_a_pickled_network_is_not_run(images: Path, mark: Path, make: Any, words: str) -> None:
    path = make(images.parent / "net.pkl", mark)
    assert_refused(icrkit("extract", *options(images, family="edm", model=path)), "net.pkl ", words)
    as_module = icrkit("extract", *options(images, family="module", model=CLASS, checkpoint=path))
    assert_refused(as_module, "a checkpoint ends in .npz", "is read by --family edm")


def test_code_in_weights_of_diffusers_is_not_run(images: Path, mark: Path) -> None:
    pytest.importorskip("diffusers")
    folder = images.parent / "net"
    shutil.copytree(data_path("fashion_ddpm"), folder)
    for weights in (folder / "unet").glob("*.safetensors"):
        weights.unlink()
    torch_file(folder / "unet" / "diffusion_pytorch_model.bin", mark)
    given = options(images, family="diffusers", model=folder, noise=None, layers="mid_block")
    assert_refused(icrkit("extract", *given), "holds more than tensors, and nothing of it was run")


def test_a_hostile_checkpoint_in_a_course_keeps_the_cubes_before_it(images: Path, mark: Path) -> None:
    bad = torch_file(images.parent / "net.pt", mark)
    out = images.parent / "course"
    given = options(images, family="module", model=CLASS, checkpoint=WEIGHTS, out=out)
    refused = icrkit("extract", *given, "--step", 1, "--checkpoint", bad, "--step", 2)
    assert_refused(refused, "net.pt holds more than tensors")
    if (out / "step-00000001.cube").exists():
        assert icrkit("verify", out / "step-00000001.cube").exit_code == 0
    assert not (out / "step-00000002.cube").exists()


@pytest.mark.parametrize("command", ["sweep", "score", "compare", "info", "memorization"])
@pytest.mark.parametrize("make", [torch_file, bare_pickle], ids=lambda make: make.__name__)
def test_code_in_features_is_not_run(mark: Path, make: Any, command: str, tmp_path: Path) -> None:
    path = make(tmp_path / "features.pt", mark)
    further = [path, "--threshold", "0.6"] if command == "memorization" else []
    refused = icrkit(command, path, *further)
    assert_refused(refused, "features.pt holds more than tensors, and nothing of it was run")
    assert "weights_only" not in refused.stderr and "trusted" not in refused.stderr


def test_code_in_images_is_not_run(images: Path, mark: Path) -> None:
    np.save(images.parent / "images.npy", np.array([Evil(mark)], dtype=object), allow_pickle=True)
    refused = icrkit("extract", *options(images, images=images.parent / "images.npy"))
    assert_refused(refused, "images.npy holds Python objects, which are not read")


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def model_of(path: Path, nodes: list[Any], values: list[TensorProto]) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializer=values,
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return path


def kept_in(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 1, 16, 16])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def sizes(*dims: int) -> TensorProto:
    return numpy_helper.from_array(np.array(dims, dtype=np.int64), "w")


ADD = [helper.make_node("Add", ["x", "w"], ["y"])]
FILL = [helper.make_node("ConstantOfShape", ["w"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a model, with a file of values outside and names of it inside."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(np.ones(256, dtype=np.float32).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    os.link(tmp_path / "secret.bin", folder / "hard.bin")
    os.mkfifo(folder / "pipe.bin")
    return folder


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("../secret.bin", "which is not a file in the model's own folder"),
        ("{outside}", "which is not a file in the model's own folder"),
        ("link.bin", "a link leads out of it (copy the file itself there)"),
        ("pipe.bin", "which is no regular file"),
        ("gone.bin", "which is not there: it belongs into the folder"),
    ],
)
def test_no_file_outside_a_models_folder_is_read(images: Path, folder: Path, location: str, words: str) -> None:
    tensor = kept_in(location.format(outside=folder.parent / "secret.bin"))
    path = model_of(folder / "net.onnx", ADD, [tensor])
    given = options(images, model=path, noise="clean", sigmas=None, layers="y")
    assert_refused(icrkit("extract", *given), "net.onnx: tensor 'w' ", words)
    assert not (images.parent / "a.cube").exists()


@pytest.mark.parametrize(
    ("nodes", "values", "words"),
    [
        (ADD, TensorProto(name="w", data_type=1, dims=[10**6, 10**6], raw_data=bytes(16)), "declares the shape"),
        (FILL, sizes(1, 10**12, 16, 16), "allocate"),
        (FILL, sizes(2**40, 2**40, 1, 1), "Integer overflow"),
        ([helper.make_node("Expand", ["x", "w"], ["y"])], sizes(1, 10**12, 16, 16), "allocate"),
        ([helper.make_node("Tile", ["x", "w"], ["y"])], sizes(1, 10**6, 10**6, 1), "exceeds the supported maximum"),
        ([helper.make_node("RunThis", ["x"], ["y"], domain="elsewhere")], sizes(1), "does not load this model"),
    ],
    ids=["declared", "filled", "overflowing", "expanded", "tiled", "unknown"],
)
def test_a_network_of_absurd_sizes_is_one_line(images: Path, nodes: list[Any], values: TensorProto, words: str) -> None:
    """Through a process, since onnxruntime has a way of its own to standard error."""
    path = model_of(images.parent / "net.onnx", nodes, [values])
    given = options(images, model=path, noise="clean", sigmas=None, layers="y", batch_size=1)
    command = [sys.executable, "-m", "icrkit", "extract", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    done.exit_code = done.returncode  # type: ignore[attr-defined]
    assert_refused(done, words)
    assert not (images.parent / "a.cube").exists()


def test_a_cut_model_is_one_line(images: Path) -> None:
    path = images.parent / "net.onnx"
    path.write_bytes(Path(MODEL).read_bytes()[:5000])
    assert_refused(icrkit("extract", *options(images, model=path)), "net.onnx is truncated or not an ONNX model")


def test_a_hard_link_is_a_file_of_its_folder(images: Path, folder: Path) -> None:
    """Whoever made it could read the file; backups and caches of packages are full of them (SECURITY.md)."""
    path = model_of(folder / "net.onnx", ADD, [kept_in("hard.bin")])
    given = options(images, model=path, noise="clean", sigmas=None, layers="y")
    assert icrkit("extract", *given).exit_code == 0
    assert ik.open_cube(images.parent / "a.cube").n_images == 24


def test_an_input_that_nothing_fills_is_said_in_options(images: Path) -> None:
    refused = icrkit("extract", *options(images, noise="flow"))
    assert_refused(refused, "nothing gives 'c_noise'", ":name=c_noise", "--set given.c_noise=VALUE")
