"""The script that trained the shipped network: its data, and that the network is the trained one."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

import icrkit as ik


def test_the_training_script_reads_idx_files_and_shrinks_images_to_what_ships(benchmark, tmp_path):
    rng = np.random.default_rng(0)
    for split, n in (("train", 2100), ("t10k", 1100)):
        for kind, array in (("images-idx3", rng.integers(0, 256, (n, 28, 28))), ("labels-idx1", np.arange(n) % 10)):
            _write_idx(tmp_path / f"{split}-{kind}-ubyte.gz", array.astype(np.uint8))
    splits = benchmark.read_fashion(str(tmp_path))
    assert splits["train"][1].tolist() == (np.arange(2100) % 10).tolist()
    small = benchmark.shrink(splits["train"][0][:5])
    assert small.shape == (5, 1, 16, 16) and small.dtype == np.uint8
    assert small[2, 0, 1, 1] == np.rint(splits["train"][0][2, :2, :2].mean())
    with np.load(ik.datasets.data_path("fashion_images.npz")) as shipped:
        assert shipped["train_images"].shape == (2000, 1, 16, 16) and shipped["test_images"].dtype == np.uint8
        assert (shipped["train_images"][:, :, 0] == 0).all()  # padded with black


def _write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.tobytes()))


def test_the_shipped_network_is_the_trained_one():
    # The ONNX file's features are those of the weights beside it, run by torch.
    torch = pytest.importorskip("torch")
    from icrkit_extractors import OnnxSource, noise
    from icrkit_extractors.models.denoiser import SmallUNet

    with np.load(ik.datasets.data_path("fashion_denoiser.npz")) as arrays:
        weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    net = SmallUNet().eval()
    net.load_state_dict(weights)
    images = ik.datasets.load_fashion_images("test").images[:8].astype(np.float32) / 127.5 - 1
    x, conditioning = noise.EDM()(images, np.zeros_like(images), 0.1)
    seen = {}
    for name in ("mid", "dec.16x16_block0"):
        net.get_submodule(name).register_forward_hook(lambda module, args, out, name=name: seen.update({name: out}))
    with torch.inference_mode():
        net(torch.from_numpy(x), torch.from_numpy(conditioning["c_noise"]))
    given = OnnxSource(ik.datasets.data_path("fashion_denoiser.onnx"))(x, conditioning)
    for name, features in seen.items():
        np.testing.assert_allclose(given[name], features.mean(dim=(2, 3)).numpy(), rtol=1e-4, atol=1e-5)
