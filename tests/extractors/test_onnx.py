"""An exported network gives the features of the module it came from; hostile files give errors by name."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from icrkit.datasets import data_path
from icrkit.exceptions import MissingDependencyError, NonFiniteError, UnsafeModelError
from icrkit_extractors import OnnxSource, extract, noise, views
from icrkit_extractors._onnx_file import _check_tensors
from icrkit_extractors._pool import Pool
from icrkit_extractors.models.denoiser import SmallUNet

LAYERS = ("mid", "dec.16x16_block0")


@pytest.fixture
def batch(images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    x0 = images.astype(np.float32) / 127.5 - 1
    z = np.random.default_rng(5).standard_normal(x0.shape).astype(np.float32)
    return noise.EDM()(x0, z, 0.3)


@pytest.fixture
def shapes(tmp_path: Path, save_onnx) -> Path:
    """Outputs of two to five axes, all of the same numbers."""
    shape = lambda name, *sizes: helper.make_tensor(name, TensorProto.INT64, [len(sizes)], sizes)  # noqa: E731
    return save_onnx(
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


# ---- real networks, through both exporters of torch -----------------------------------------------------------------


def denoiser() -> torch.nn.Module:
    """The demo's network with its trained weights."""
    net = SmallUNet()
    with np.load(data_path("fashion_denoiser.npz")) as arrays:
        net.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    return net.eval().requires_grad_(False)


def diffusers_unet() -> torch.nn.Module:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    return net.eval().requires_grad_(False)


NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[str, str], tuple[str, ...]]] = {
    "denoiser": (denoiser, ("x", "c_noise"), ("mid", "dec.16x16_block0", "enc.8x8_block0")),
    "diffusers": (diffusers_unet, ("sample", "timestep"), ("mid_block", "up_blocks.0", "down_blocks.1.resnets.0")),
}


def export(net: torch.nn.Module, path: Path, names: tuple[str, str], *, dynamo: bool, batch: int | None = None) -> Path:
    """A network of images and times as a file, for batches of any size or of one."""
    n = torch.export.Dim("n") if dynamo else "n"
    free = {name: {0: n} for name in names} if batch is None else None
    options: dict[str, Any] = {"dynamic_shapes": free, "verbose": False} if dynamo else {"dynamic_axes": free}
    example = (torch.zeros(batch or 2, 1, 16, 16), torch.zeros(batch or 2))
    with warnings.catch_warnings():
        # Both exporters announce changes of torch.
        warnings.simplefilter("ignore")
        torch.onnx.export(net, example, str(path), input_names=list(names), dynamo=dynamo, **options)
    return path


@pytest.fixture(scope="module", params=["denoiser", "diffusers"])
def network(request: pytest.FixtureRequest) -> tuple[str, torch.nn.Module]:
    return request.param, NETWORKS[request.param][0]()


@pytest.fixture(scope="module", params=["torch.export", "TorchScript"])
def exported(
    request: pytest.FixtureRequest, network: tuple[str, torch.nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, torch.nn.Module, Path]:
    kind, net = network
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    return kind, net, export(net, path, NETWORKS[kind][1], dynamo=request.param == "torch.export")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(denoiser(), tmp_path_factory.mktemp("traced") / "net.onnx", ("x", "c_noise"), dynamo=False)


def test_modules_of_an_export_equal_the_modules(exported, module_outputs, batch):
    kind, net, path = exported
    _, names, layers = NETWORKS[kind]
    x, conditioning = batch
    times = conditioning["c_noise"] if kind == "denoiser" else np.full(len(x), 12.5, np.float32)
    source = OnnxSource(path, layers=layers, threads=1)
    assert source.layers == layers
    got = source(x, {names[1]: times})
    outputs = module_outputs(net, layers, torch.from_numpy(x), torch.from_numpy(times))
    for name, output in zip(layers, outputs, strict=True):
        wanted = output.mean(dim=(2, 3)).numpy()
        assert wanted.std(axis=0).min() > 1e-5, "features that do not differ between images test nothing"
        assert got[name].shape == wanted.shape
        assert np.linalg.norm(got[name] - wanted) < 1e-5 * np.linalg.norm(wanted), name
    listed = source.available_layers()
    for name, output in zip(layers, outputs, strict=True):
        assert listed[name][1:] == output.shape[1:]
    # Nothing behind the middle is run for the middle.
    kept, whole = OnnxSource(path, layers=layers[0], threads=1).n_nodes
    assert kept < 0.7 * whole == 0.7 * source.n_nodes[1]


def test_the_exporter_of_torch_export_keeps_weights_beside_the_model(exported):
    _, _, path = exported
    model = onnx.load(path, load_external_data=False)
    beside = path.with_name("net.onnx.data")
    assert beside.exists() == any(node.metadata_props for node in model.graph.node)
    whole = path.read_bytes() + (beside.read_bytes() if beside.exists() else b"")
    assert OnnxSource(path).sha256 == hashlib.sha256(whole).hexdigest()
    _check_tensors(onnx, model, path)
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert (len(outside) > 20) == beside.exists(), "weights were copied into the model"


def test_tensors_nodes_and_globs_of_an_export(traced, batch):
    x, conditioning = batch
    names = ["/mid/conv0/Conv_output_0", "/mid/conv0/Conv", "mid.conv0"]
    source = OnnxSource(traced, layers=names, threads=1)
    assert source.layers == ("mid.conv0.Conv_output_0", "mid.conv0.Conv", "mid.conv0")
    assert set(source.config()["tensors"].values()) == {names[0]}
    got = source(x, conditioning)
    np.testing.assert_array_equal(got["mid.conv0"], got["mid.conv0.Conv"])
    assert OnnxSource(traced, layers="dec.*_block0").layers == ("dec.8x8_block0", "dec.16x16_block0")


def test_a_layer_named_by_a_path_can_be_stored(traced, images, tmp_path):
    source = OnnxSource(traced, layers="/mid/conv0/Conv", threads=1)
    cube = extract(
        source, images[:4], [0.3], noise=noise.EDM(), views=views.Digits(), out=tmp_path / "a.cube", progress=False
    )
    assert cube.layers == ("mid.conv0.Conv",) and cube.attrs["tensors"] == {
        "mid.conv0.Conv": "/mid/conv0/Conv_output_0"
    }


def test_two_layers_that_would_be_stored_alike_are_refused(tmp_path, save_onnx):
    nodes = [helper.make_node("Neg", ["x"], ["a/b"]), helper.make_node("Neg", ["a/b"], ["a.b"])]
    path = save_onnx(tmp_path / "m.onnx", nodes, {"a.b": ["n", 2, 4, 6]})
    with pytest.raises(ValueError, match=r"layer 'a/b' would be stored as 'a\.b', the name of another layer"):
        OnnxSource(path, layers=["a.b", "a/b"])


def test_conditioning_that_the_cut_does_not_need_is_ignored(traced, batch):
    x, conditioning = batch
    source = OnnxSource(traced, layers="conv_in", threads=1)
    np.testing.assert_array_equal(source(x, conditioning)["conv_in"], source(x)["conv_in"])
    np.testing.assert_array_equal(source({"x": x, **conditioning})["conv_in"], source(x)["conv_in"])
    with pytest.raises(ValueError, match=r"takes the inputs x \(n, 1, 16, 16\) float and is given x, sigma"):
        source(x, {"sigma": conditioning["c_noise"]})


def test_a_layer_that_does_not_see_the_images(traced, batch):
    source = OnnxSource(traced, layers="/embedding/layers/layers.2/Gemm", threads=1)
    with pytest.raises(ValueError, match=r"inputs c_noise \(n\) .*exactly one input must be left for the images"):
        source(*batch)
    with pytest.raises(ValueError, match=r"layers \['16x16_block0\.Constant'\] of .* depend on no input"):
        OnnxSource(traced, layers="/16x16_block0/Constant")


@pytest.mark.parametrize("size", [1, 4, 40, 64])
def test_a_model_of_fixed_batch_runs_in_pieces(unet, unet_onnx, tmp_path, batch, size):
    x, conditioning = batch
    path = export(unet, tmp_path / "fixed.onnx", ("x", "c_noise"), dynamo=False, batch=size)
    got = OnnxSource(path, layers=["mid", "dec.16x16_block0"], threads=1)(
        x[:37], {"c_noise": conditioning["c_noise"][:37]}
    )
    wanted = OnnxSource(unet_onnx, threads=1)(x[:37], {"c_noise": conditioning["c_noise"][:37]})
    for name, h in wanted.items():
        assert got[name].shape == h.shape
        np.testing.assert_allclose(got[name], h, rtol=1e-4, atol=1e-6)


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
    assert src.available_layers(modules=False) == {"mid": ("n", 16, 8, 8), "dec.16x16_block0": ("n", 8, 16, 16)}
    listed = src.available_layers()
    assert next(iter(listed)) == "net.conv_in" and listed["net.mid"][1:] == (16, 8, 8)
    assert len(src.available_layers(tensors=True)) > len(listed) + 50
    assert src.layers == ("dec.16x16_block0",)
    assert list(src(*batch)) == ["dec.16x16_block0"]
    assert OnnxSource(unet_onnx, layers=LAYERS[::-1], threads=1).layers == LAYERS[::-1]
    assert OnnxSource(unet_onnx, layers="mid", threads=1).layers == ("mid",)


def test_config_identifies_the_model(unet_onnx):
    config = OnnxSource(unet_onnx, layers=["net.mid"], pool="none").config()
    assert config["model_sha256"] == hashlib.sha256(unet_onnx.read_bytes()).hexdigest()
    assert config["source"] == "OnnxSource" and config["layers"] == ["net.mid"] and config["pool"] == "none"
    assert config["tensors"] == {"net.mid": "mid"} and config["providers"] and config["onnxruntime_version"]
    config = OnnxSource(unet_onnx, pool=Pool("grid:2", feature_axis=1)).config()
    assert config["pool"] == "grid:2" and config["feature_axis"] == 1


def test_pools(shapes):
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 6)).astype(np.float32)
    mean = OnnxSource(shapes, layers=["map", "flat"], threads=1)(x)
    np.testing.assert_allclose(mean["map"], x.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    tokens = OnnxSource(shapes, layers="tokens", feature_axis=-1, threads=1)(x)
    np.testing.assert_allclose(tokens["tokens"], x.reshape(3, 8, 6).mean(axis=1), rtol=1e-5, atol=1e-6)
    # Channels that were cut in pieces: are there 8 tokens of 6 features, or 6 of 8?
    with pytest.raises(ValueError, match=r"'tokens' gives shape \(3, 8, 6\).* does not show.*feature_axis=-1"):
        OnnxSource(shapes, layers="tokens", threads=1)(x)
    np.testing.assert_array_equal(mean["flat"], x.reshape(3, 48))
    whole = OnnxSource(shapes, layers=["map", "tokens", "flat", "video"], pool="none", threads=1)(x)
    for h in whole.values():
        np.testing.assert_array_equal(h, x.reshape(3, 48))
    last = OnnxSource(shapes, layers=["map", "video"], feature_axis=-1, threads=1)(x)
    np.testing.assert_allclose(last["map"], x.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last["video"], x.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    patches = OnnxSource(shapes, layers="tokens", pool="patches", n_prefix=2, threads=1)(x)
    np.testing.assert_allclose(patches["tokens"], x.reshape(3, 8, 6)[:, 2:].mean(axis=1), rtol=1e-5, atol=1e-6)


def test_outputs_that_are_no_features(shapes):
    x = np.zeros((3, 2, 4, 6), np.float32)
    with pytest.raises(ValueError, match=r"'video' gives shape \(3, 2, 2, 2, 6\).*pool='none'"):
        OnnxSource(shapes, layers=["video"])(x)
    with pytest.raises(ValueError, match=r"'total' gives shape .* first axis must be the image"):
        OnnxSource(shapes, layers=["total"])(x)


def test_wrong_layer_lists_what_there_is(unet_onnx):
    message = r"unet\.onnx has no layer 'dec.16x16_block1' \(nearest: 'dec.16x16_block0'.*outputs are mid, dec"
    with pytest.raises(ValueError, match=message):
        OnnxSource(unet_onnx, layers=["dec.16x16_block1"])
    with pytest.raises(ValueError, match="no layer 'zzz'; its outputs are"):
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
    for images in (x, {"x": x}):
        with pytest.raises(ValueError, match=r"inputs x \(.*\) float, c_noise .*, and nothing gives 'c_noise' beside"):
            src(images)
    with pytest.raises(ValueError, match=r"and is given x, t, c_noise"):
        src({"x": x, "t": x}, conditioning)
    with pytest.raises(ValueError, match=r"'x' .* has the shape \(n, 1, 16, 16\), and the images are \(1, 8, 8\)"):
        src(x[..., :8, :8], conditioning)
    with pytest.raises(ValueError, match="input 'c_noise'"):
        src(x, {"c_noise": conditioning["c_noise"][:, None]})
    with pytest.raises(ValueError, match=r"input 'c_noise' of .* is given 39 rows for 40 images"):
        src(x, {"c_noise": conditioning["c_noise"][:-1]})


@pytest.fixture
def with_time(tmp_path: Path, save_onnx: Callable[..., Path]) -> Callable[..., OnnxSource]:
    """Makes a source y = x + t, with a time of that type and shape."""

    def make(kind: int, shape: list[Any]) -> OnnxSource:
        nodes = [
            helper.make_node("Cast", ["t"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["float", "rank"], ["column"]),
            helper.make_node("Add", ["x", "column"], ["y"]),
        ]
        rank = helper.make_tensor("rank", TensorProto.INT64, [2], [-1, 1])
        path = save_onnx(tmp_path / "m.onnx", nodes, {"y": ["n", 3]}, [rank], x=["n", 3], t=shape)
        model = onnx.load(path)
        model.graph.input[1].type.tensor_type.elem_type = kind
        path.write_bytes(model.SerializeToString())
        return OnnxSource(path, threads=1)

    return make


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_whole_times(with_time, kind):
    src = with_time(kind, ["n"])
    x = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(src(x, {"t": np.array([7, 999], np.float32)})["y"][:, 0], [7, 999])
    for bad in (12.5, np.nan, np.inf):
        with pytest.raises(
            ValueError, match=rf"'t' of .* takes whole numbers .* is given {bad}.*export the network with"
        ):
            src(x, {"t": np.array([7, bad], np.float32)})


def test_times_in_a_column(with_time):
    src = with_time(TensorProto.INT64, ["n", 1])
    x, times = np.zeros((2, 3), np.float32), np.array([7, 999], np.float32)
    np.testing.assert_array_equal(src(x, {"t": times})["y"][:, 0], [7, 999])
    np.testing.assert_array_equal(src(x, {"t": times[:, None]})["y"][:, 0], [7, 999])


@pytest.mark.parametrize("shape", [[], [1]])
def test_one_time_for_the_whole_batch(with_time, shape):
    src = with_time(TensorProto.FLOAT, shape)
    x = np.zeros((3, 3), np.float32)
    np.testing.assert_array_equal(src(x, {"t": np.full(3, 0.5, np.float32)})["y"], np.full((3, 3), 0.5))
    np.testing.assert_array_equal(src(x[:1], {"t": np.full(1, 0.5, np.float32)})["y"], np.full((1, 3), 0.5))
    np.testing.assert_array_equal(src(x, {"t": np.full(shape, 0.5, np.float32)})["y"], np.full((3, 3), 0.5))
    with pytest.raises(ValueError, match=r"'t' of .* is one number for a batch and is given several"):
        src(x, {"t": np.array([0, 0, 1], np.float32)})


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_nan_names_the_layer_and_row(tmp_path, pool, save_onnx):
    path = save_onnx(
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


def test_half_precision_models(tmp_path, save_onnx):
    path = save_onnx(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], {"y": ["n", 2, 4, 6]})
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


def test_a_source_goes_to_another_process(unet_onnx, batch, tmp_path, monkeypatch):
    copy = tmp_path / "net.onnx"
    copy.write_bytes(unet_onnx.read_bytes())
    monkeypatch.chdir(tmp_path)
    source = OnnxSource("net.onnx", layers="mid", pool="grid:2", threads=1)
    sent = pickle.dumps(source)
    monkeypatch.chdir(tmp_path.parent)
    there = pickle.loads(sent)
    assert there.config() == source.config()
    np.testing.assert_array_equal(there(*batch)["mid"], source(*batch)["mid"])
    copy.write_bytes(data_path("fashion_denoiser.onnx").read_bytes())
    with pytest.raises(UnsafeModelError, match="not the model that was sent here"):
        pickle.loads(sent)
