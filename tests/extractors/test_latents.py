"""Latents: the posterior as diffusers has it, draws that belong to the view, scale and shift, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_images

from icrkit.exceptions import NonFiniteError, UnsafeModelError
from icrkit_extractors import extract, noise, views
from icrkit_extractors._streams import normals
from icrkit_extractors.latents import Latents, open_autoencoder

diffusers = pytest.importorskip("diffusers")

TINY = {
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
    "latent_channels": 4,
}


def autoencoder(**config) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.AutoencoderKL(**{**TINY, **config}).eval()


@pytest.fixture(scope="module")
def vae() -> Iterator[torch.nn.Module]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield autoencoder(scaling_factor=0.7, shift_factor=0.1)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    """Crops of a real photograph, float32 (6, 3, 24, 32) in [-1, 1]."""
    photo = load_sample_images().images[1]
    crops = np.stack([photo[40 * k : 40 * k + 24, 60 * k : 60 * k + 32] for k in range(6)])
    return np.ascontiguousarray(np.moveaxis(crops, -1, 1), dtype=np.float32) / 127.5 - 1


IDS = [f"{k}.png" for k in range(6)]


class Halves:
    """Every second pixel, with a constant spread; no module, no configuration."""

    def __init__(self, std: float = 0.25) -> None:
        self.std = std

    def encode(self, x: torch.Tensor) -> SimpleNamespace:
        mean = x[:, :, ::2, ::2]
        return SimpleNamespace(mean=mean, std=torch.full_like(mean, self.std))


# ---- what the latents are -------------------------------------------------------------------------------------------


def test_the_mean_scaled_and_shifted(photos):
    found = Latents(Halves(), scale=2.0, shift=0.5)(photos, IDS, 0, 0)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, (photos[:, :, ::2, ::2] - np.float32(0.5)) * np.float32(2))
    each = Latents(Halves(), scale=[1, 2, 4], shift=[0, 0.5, 1])(photos, IDS, 0, 0)
    np.testing.assert_array_equal(each[:, 1], found[:, 1])
    np.testing.assert_array_equal(each[:, 2], (photos[:, 2, ::2, ::2] - 1) * 4)


def test_the_draw_is_the_views_own(photos):
    encode = Latents(Halves(), "sample", scale=1.0)
    for view, seed in ((0, 0), (1, 0), (0, 5)):
        eps = normals(seed, IDS, view, (3, 12, 16), purpose="latent")
        wanted = photos[:, :, ::2, ::2] + np.float32(0.25) * eps
        np.testing.assert_array_equal(encode(photos, IDS, view, seed), wanted)
        assert not np.array_equal(eps, normals(seed, IDS, view, (3, 12, 16)))  # the noise has another


def test_the_draws_have_the_posteriors_moments(photos):
    encode = Latents(Halves(), "sample", scale=1.0)
    draws = np.stack([encode(photos[:1], IDS[:1], view, 0)[0] for view in range(400)]) - photos[0, :, ::2, ::2]
    # 400 x 576 draws of standard deviation 0.25.
    assert abs(draws.mean()) < 0.25 / 480 * 4
    assert abs(draws.std() / 0.25 - 1) < 4 / 480 / 2**0.5
    assert np.abs(np.corrcoef(draws[:6].reshape(6, -1)) - np.eye(6)).max() < 0.2


def test_diffusers_own_posterior(vae, photos):
    with torch.no_grad():
        posterior = vae.encode(torch.from_numpy(photos)).latent_dist
    mean, std = posterior.mean.numpy(), posterior.std.numpy()
    found = Latents(vae)(photos, IDS, 0, 0)
    assert found.shape == (6, 4, 6, 8)
    np.testing.assert_array_equal(found, (mean - np.float32(0.1)) * np.float32(0.7))
    eps = normals(3, IDS, 1, (4, 6, 8), purpose="latent")
    drawn = Latents(vae, draw="sample")(photos, IDS, 1, 3)
    np.testing.assert_array_equal(drawn, (mean + std * eps - np.float32(0.1)) * np.float32(0.7))
    assert np.abs(drawn - found).max() > 0.1


def test_bytes_are_the_images_they_stand_for(vae):
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    np.testing.assert_array_equal(Latents(vae)(x, [0, 1], 0, 0), Latents(vae)(views.as_unit_range(x), [0, 1], 0, 0))


@pytest.mark.parametrize(
    ("config", "given", "scale", "shift"),
    [
        ({}, {}, [0.18215], [0.0]),
        ({"scaling_factor": 1.5305, "shift_factor": 0.0609}, {}, [1.5305], [0.0609]),
        ({"scaling_factor": 1.5305, "shift_factor": 0.0609}, {"scale": 2}, [2.0], [0.0609]),
        ({"shift_factor": 0.0609}, {"shift": 0}, [0.18215], [0.0]),
        (
            {"scaling_factor": 0.5, "latents_mean": (0.0, 1.0, 2.0, 3.0), "latents_std": (1.0, 2.0, 4.0, 5.0)},
            {},
            [0.5, 0.25, 0.125, 0.1],
            [0.0, 1.0, 2.0, 3.0],
        ),
    ],
)
def test_scale_and_shift_are_the_configurations(config, given, scale, shift):
    record = Latents(autoencoder(**config), **given).config()
    np.testing.assert_allclose(record["scale"], scale, rtol=1e-7)
    np.testing.assert_allclose(record["shift"], shift, rtol=1e-7)


def test_a_posterior_comes_in_several_wrappings(photos):
    class Tuple(Halves):
        def encode(self, x):
            return (super().encode(x),)

    class Output(Halves):
        def encode(self, x):
            return SimpleNamespace(latent_dist=super().encode(x))

    wanted = Latents(Halves(), scale=1.0)(photos, IDS, 0, 0)
    for kind in (Tuple, Output):
        np.testing.assert_array_equal(Latents(kind(), scale=1.0)(photos, IDS, 0, 0), wanted)


# ---- what they do not depend on -------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(batch_size=st.integers(1, 7), order=st.permutations(range(6)), n=st.integers(1, 6))
def test_batches_and_order(vae, photos, batch_size, order, n):
    whole = Latents(vae, draw="sample")(photos, IDS, 2, 1)
    rows = list(order)[:n]
    found = Latents(vae, draw="sample", batch_size=batch_size)(photos[rows], [IDS[k] for k in rows], 2, 1)
    np.testing.assert_allclose(found, whole[rows], atol=1e-5)
    exact = Latents(Halves(), "sample", scale=1.0, batch_size=batch_size)(photos[rows], [IDS[k] for k in rows], 2, 1)
    np.testing.assert_array_equal(exact, Latents(Halves(), "sample", scale=1.0)(photos, IDS, 2, 1)[rows])


def test_the_autoencoder_is_left_as_it_was(photos):
    vae = autoencoder()
    vae.train()
    vae.encoder.conv_in.eval()
    modes = [part.training for part in vae.modules()]
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Latents(vae, draw="sample")(photos, IDS, 0, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert [part.training for part in vae.modules()] == modes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in vae.parameters())
    # Neither its own mode nor the caller's autocast changes what it gives.
    np.testing.assert_array_equal(found, Latents(vae.eval(), draw="sample")(photos, IDS, 0, 0))
    x = torch.from_numpy(photos).requires_grad_()
    vae.encode(x).latent_dist.mean.sum().backward()  # it can still be trained
    assert x.grad is not None


def test_it_encodes_in_evaluation():
    class Dropping(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = torch.nn.Dropout(0.5)

        def encode(self, x):
            return SimpleNamespace(mean=self.drop(x), std=torch.zeros_like(x))

    vae = Dropping().train()
    np.testing.assert_array_equal(Latents(vae, scale=1.0)(np.ones((2, 3, 8, 8), np.float32), [0, 1], 0, 0), 1)
    assert vae.drop.training


def test_its_own_type_is_kept(vae, photos):
    half = autoencoder(scaling_factor=0.7, shift_factor=0.1).to(torch.bfloat16)
    found = Latents(half)(photos, IDS, 0, 0)
    assert found.dtype == np.float32 and Latents(half).config()["dtype"] == "bfloat16"
    assert half.dtype == torch.bfloat16
    error = np.abs(found - Latents(vae)(photos, IDS, 0, 0)).max()
    assert 1e-5 < error < 0.05


def test_device_moves_it(photos):
    moved = []
    vae = autoencoder()
    vae.to = lambda device: moved.append(device)
    Latents(vae, device="cpu")
    assert moved == [torch.device("cpu")]
    Latents(vae)
    assert len(moved) == 1


# ---- the record -----------------------------------------------------------------------------------------------------


def test_the_record_tells_autoencoders_apart(vae):
    record = Latents(vae, draw="sample", batch_size=3).config()
    assert json.loads(json.dumps(record)) == record
    assert record["autoencoder"] == "AutoencoderKL" and record["draw"] == "sample" and record["batch_size"] == 3
    other = autoencoder(scaling_factor=0.7, shift_factor=0.1)
    assert Latents(other).config()["weights_sha256"] == record["weights_sha256"]
    with torch.no_grad():
        other.encoder.conv_in.bias[0] += 1e-6
    assert Latents(other).config()["weights_sha256"] != record["weights_sha256"]


def test_extract_encodes_after_the_view_and_before_the_noise(vae, photos):
    seen = []

    class Flat:
        def __call__(self, x, conditioning):
            seen.append(x)
            return {"flat": x.reshape(len(x), -1)}

        def config(self):
            return {"source": "Flat"}

    encode = Latents(vae, draw="sample")
    turned = lambda images, ids, view, seed: images[..., ::-1] if view else images  # noqa: E731
    cube = extract(
        Flat(), photos, [0.5], noise=noise.Additive(), views=turned, encode=encode, image_ids=IDS, progress=False
    )
    assert cube.attrs["encode"] == encode.config()
    for view, images in enumerate((photos, photos[..., ::-1])):
        wanted = encode(images, IDS, view, 0) + 0.5 * normals(0, IDS, view, (4, 6, 8))
        np.testing.assert_allclose(cube["flat"].values[:, view, 0], wanted.reshape(6, -1), atol=1e-6)


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"draw": "mode"}, "draw must be 'mean' or 'sample'"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"scale": float("nan")}, "scale must be a finite number"),
        ({"shift": [[0.0]]}, "shift must be a finite number, or one for each channel"),
    ],
)
def test_bad_parameters(vae, given, message):
    with pytest.raises(ValueError, match=message):
        Latents(vae, **given)


def test_a_scale_is_needed():
    with pytest.raises(ValueError, match="Halves has no scaling_factor in its configuration: give scale="):
        Latents(Halves())


@pytest.mark.parametrize(
    ("shape", "ids", "message"),
    [
        ((2, 3, 10, 8), 2, r"images of 10 x 8: .*multiples of 4, such as open_images\(..., size=8\) gives"),
        ((2, 3, 8, 9), 2, "images of 8 x 9"),
        ((2, 3, 1, 1), 2, r"size=4\)"),
        ((2, 1, 8, 8), 2, r"takes 3 channels, and the images have 1: open_images\(..., channels=3\) converts"),
        ((2, 3, 8, 8), 3, "3 image ids for 2 images"),
        ((0, 3, 8, 8), 0, "no image to encode"),
        ((3, 8, 8), 3, "images must be"),
    ],
)
def test_images_that_do_not_fit(vae, shape, ids, message):
    with pytest.raises(ValueError, match=message):
        Latents(vae)(np.zeros(shape, np.float32), range(ids), 0, 0)


def test_channels_of_scale_must_be_those_of_the_latents(photos):
    with pytest.raises(ValueError, match="not for the 4 channels that the latents have"):
        Latents(autoencoder(), scale=[1.0, 2.0])(photos, IDS, 0, 0)


def test_nan_is_refused_with_its_place(photos):
    class Broken(Halves):
        def encode(self, x):
            found = super().encode(x)
            found.mean = torch.where(x[:, :1, :1, :1] == float(photos[4, 0, 0, 0]), torch.nan, found.mean)
            return found

    for batch_size in (None, 2):
        with pytest.raises(NonFiniteError, match=r"NaN or infinity: view 1, image '4\.png'$"):
            Latents(Broken(), scale=1.0, batch_size=batch_size)(photos, IDS, 1, 0)


def test_an_overflow_of_float16_is_called_by_its_name(photos):
    vae = autoencoder().to(torch.float16)
    with torch.no_grad():
        vae.quant_conv.bias.fill_(6e4)
        vae.quant_conv.weight.fill_(6e4)
    with pytest.raises(NonFiniteError, match=r"image '\d\.png'; in float16 many autoencoders overflow"):
        Latents(vae)(photos, IDS, 0, 0)


def test_no_posterior(photos):
    for output in (torch.zeros(6, 4, 6, 8), SimpleNamespace(latents=torch.zeros(6, 4, 6, 8))):
        model = SimpleNamespace(encode=lambda x, output=output: output)
        with pytest.raises(TypeError, match=rf"encode gave a {type(output).__name__}, without the mean and std"):
            Latents(model, scale=1.0)(photos, IDS, 0, 0)


# ---- from a folder --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(vae, tmp_path: Path) -> Path:
    vae.save_pretrained(tmp_path / "net")
    return tmp_path / "net"


def test_a_folder_gives_the_autoencoder_that_was_saved(folder, vae, photos, tmp_path):
    found = open_autoencoder(folder, draw="sample", batch_size=4)
    assert found.config() == Latents(vae, draw="sample", batch_size=4).config()
    np.testing.assert_array_equal(found(photos, IDS, 0, 0), Latents(vae, "sample", batch_size=4)(photos, IDS, 0, 0))
    (tmp_path / "pipeline").mkdir()
    folder.rename(tmp_path / "pipeline" / "vae")
    assert open_autoencoder(tmp_path / "pipeline").config() == Latents(vae).config()


def test_nothing_is_looked_for_on_a_hub(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a local folder with config\.json is needed"):
        open_autoencoder("stabilityai/sd-vae-ft-mse")
    with pytest.raises(FileNotFoundError):
        open_autoencoder(tmp_path)


def test_another_class_is_refused(folder):
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"_class_name": "VQModel"}))
    with pytest.raises(ValueError, match=r"config\.json is of 'VQModel', and only AutoencoderKL is read"):
        open_autoencoder(folder)
    for text in ("{", "[]"):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json is not the configuration of a model"):
            open_autoencoder(folder)


def test_pickled_weights_are_not_read(folder, vae, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"weight": Trap()}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UnsafeModelError, match=r"holds no \.safetensors"):
        open_autoencoder(folder)
    # A variant beside it does not let it in.
    torch.save(vae.state_dict(), folder / "diffusion_pytorch_model.bin")
    (folder / "diffusion_pytorch_model.fp16.safetensors").touch()
    with pytest.raises(OSError, match=r"diffusion_pytorch_model\.safetensors"):
        open_autoencoder(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_function_is_not_an_autoencoder():
    with pytest.raises(TypeError, match=r"vae must be .* with encode\(images\), not function; a function goes"):
        Latents(lambda images: images, scale=1.0)
