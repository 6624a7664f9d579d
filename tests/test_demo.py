"""The demo in small: every number comes from the network's file at run time."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import icrkit as ik
from icrkit.demo import DemoResult, demo_examples, demo_images, extract_fashion, few_label_accuracy, run_demo
from icrkit.exceptions import CubeFormatError, MissingDependencyError, NotEnoughDataError
from icrkit_extractors import extract, noise, views

SIGMAS = (0.005, 0.057, 0.3, 2.0)
SMALL: dict[str, Any] = {
    "n_train": 160, "n_test": 60, "sigmas": SIGMAS, "n_labels": 3, "n_draws": 3, "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(tmp_path_factory.mktemp("demo"), **SMALL)


@pytest.fixture(scope="module")
def changed_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with one weight of its first convolution changed."""
    model = onnx.load(ik.datasets.data_path("fashion_denoiser.onnx"))
    first = next(tensor for tensor in model.graph.initializer if list(tensor.dims[1:]) == [1, 3, 3])
    weight = numpy_helper.to_array(first).copy()
    weight[0, 0, 1, 1] += 1.0
    first.CopyFrom(numpy_helper.from_array(weight, first.name))
    path = tmp_path_factory.mktemp("model") / "changed.onnx"
    onnx.save(model, path)
    return path


def test_files_and_numbers_agree(result: DemoResult) -> None:
    assert all(path.exists() for path in result.files.values())
    read = json.loads(result.files["result"].read_text("utf-8"))
    assert read["best_sigma"] == result.sweep.window.best_sigma_
    assert read["attrs"]["model_sha256"] and read["attrs"]["seed"] == 0
    cube = ik.open_cube(result.files["cube"])
    assert cube.layers == ("mid", "dec.16x16_block0") and cube.shape == (220, 2, 4)
    assert cube.image_ids[[0, -1]].tolist() == ["train-0", "test-59"]
    for layer in cube.layers:
        for level in read["layers"][layer]["levels"]:
            estimator = ik.ICREstimator(correction="crossfit").fit(cube.select(layer=layer, sigma=level["sigma"]))
            assert level["icr"] == pytest.approx(estimator.icr_crossfit_, rel=1e-9)
            assert level["plugin"] == pytest.approx(estimator.icr_plugin_, rel=1e-9)
            assert 0 < level["accuracy"] < 1 and level["accuracy_error"] > 0
    assert len(read["spectrum"]["eigenvalues"]) == read["layers"][read["best_layer"]]["n_features"]
    assert result.files["figure"].read_bytes()[:4] == b"\x89PNG"
    assert result.sweep.headline in result.files["report"].read_text("utf-8")


def test_level_below_the_trained_noise_is_told(result: DemoResult) -> None:
    read = json.loads(result.files["result"].read_text("utf-8"))
    assert [level["trained"] for level in read["layers"]["mid"]["levels"]] == [False, True, True, True]
    assert read["best_sigma"] != 0.005
    assert any("0.005 lies below the noise this network was trained on" in sentence for sentence in read["says"])


def test_numbers_follow_the_weights(result: DemoResult, changed_model: Path, tmp_path: Path) -> None:
    changed = run_demo(tmp_path, model=changed_model, **SMALL).sweep
    for name in ("icr", "plugin", "accuracy", "total_snr"):
        for layer in changed.layers:
            before, after = (sweep.curve[name].sel(layer=layer) for sweep in (result.sweep, changed))
            assert not np.allclose(before, after, rtol=1e-3)
    assert changed.attrs["model_sha256"] != result.sweep.attrs["model_sha256"]


def test_a_second_run_uses_the_cube(
    result: DemoResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    folder = result.files["cube"].parent
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    parts = {path: path.stat().st_mtime_ns for path in result.files["cube"].glob("part-*")}
    run_demo(folder, **SMALL | {"progress": True})
    assert "100%" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in result.files["cube"].glob("part-*")} == parts
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_cube_of_another_network_is_refused(result: DemoResult, changed_model: Path) -> None:
    with pytest.raises(CubeFormatError, match=r"model_sha256.*Remove .*fashion\.cube"):
        run_demo(result.files["cube"].parent, model=changed_model, **SMALL)


def test_examples_are_what_the_network_saw() -> None:
    data = demo_images(2, 30)
    shown = demo_examples(data, SIGMAS, n_images=4, seed=3)
    assert len(set(shown.names)) == 4

    class Recorder:
        def __call__(self, x: np.ndarray, conditioning: Mapping[str, Any], /) -> dict[str, np.ndarray]:
            return {"x": x.reshape(len(x), -1)}

        def config(self) -> dict[str, Any]:
            return {}

    seen = extract(
        Recorder(), data.images, SIGMAS, noise=noise.EDM(), views=views.Fashion(), image_ids=data.ids, seed=3,
        progress=False,
    )  # fmt: skip
    rows = [int(np.flatnonzero((data.images == image).all(axis=(1, 2, 3)))[0]) for image in shown.clean]
    expected = np.clip(127.5 * (1 + 0.5 * seen["x"].to_numpy()[rows]), 0, 255)
    assert shown.noisy.shape == (4, 2, 4, 1, 16, 16)
    np.testing.assert_allclose(shown.noisy.reshape(expected.shape), expected, atol=0.51)
    # Hardly any noise at the first level: it is the view.
    np.testing.assert_allclose(shown.noisy[:, :, 0], shown.views, atol=5)


def test_probe_learns_from_training_images_only() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(4), 30)
    ids = [f"train-{i}" for i in range(60)] + [f"test-{i}" for i in range(60)]
    features = 6.0 * np.eye(4)[labels][:, None, None, :] + rng.standard_normal((120, 2, 2, 4))
    features[60:, :, 1] = rng.standard_normal((60, 2, 4))  # at the second level test images carry nothing
    cube = ik.from_arrays({"x": features}, sigmas=[0.1, 1.0], labels=labels, image_ids=ids)
    found = few_label_accuracy(cube, n_labels=5, n_draws=4, progress=False)
    assert found["accuracy"].sel(layer="x", sigma=0.1) > 0.95
    assert abs(found["accuracy"].sel(layer="x", sigma=1.0) - 0.25) < 0.15
    assert found.equals(few_label_accuracy(cube, n_labels=5, n_draws=4, progress=False))
    assert not found.equals(few_label_accuracy(cube, n_labels=5, n_draws=4, seed=1, progress=False))
    with pytest.raises(NotEnoughDataError, match="has 15 images"):
        few_label_accuracy(cube, n_labels=16, progress=False)
    with pytest.raises(NotEnoughDataError, match="two draws"):
        few_label_accuracy(cube, n_draws=1, progress=False)


def test_images_are_the_first_of_each_split() -> None:
    data = demo_images(3, 2)
    np.testing.assert_array_equal(data.images[:3], ik.datasets.load_fashion_images("train").images[:3])
    np.testing.assert_array_equal(data.labels[3:], ik.datasets.load_fashion_images("test").labels[:2])
    with pytest.raises(ValueError, match="n_train must be between 1 and 2000"):
        demo_images(2001, 1)


def test_extraction_in_memory() -> None:
    cube = extract_fashion(demo_images(3, 1), None, sigmas=[0.1], progress=False)
    assert cube.source is None and cube.n_features == {"mid": 64, "dec.16x16_block0": 32}


def test_missing_packages_are_named_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("icrkit.demo.find_spec", lambda name: None if name == "jinja2" else True)
    with pytest.raises(MissingDependencyError, match=r'needs jinja2: pip install "icrkit\[demo\]"'):
        run_demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()
