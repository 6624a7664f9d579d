"""The small denoiser: its sampler against the flow of Gaussian data in closed form, its losses, its seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from icrkit_extractors.models.denoiser import (  # noqa: E402
    SmallUNet,
    edm_loss,
    held_out_loss,
    noise_levels,
    one_thread,
    sample,
    seeded_unet,
    train,
)

SHAPE = (2, 3, 4)
MEAN = np.linspace(-0.6, 0.6, 24).reshape(SHAPE)
SCALE = np.geomspace(0.05, 1.5, 24).reshape(SHAPE)


class Gaussian(torch.nn.Module):
    """The raw network F around which the preconditioning gives the exact denoiser of N(MEAN, SCALE^2)."""

    def __init__(self, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_data, self.calls = sigma_data, 0

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        sigma = torch.exp(4 * c_noise.double())[:, None, None, None]
        total = sigma**2 + self.sigma_data**2
        noisy = x.double() * total.sqrt()
        mean, variance = torch.from_numpy(MEAN), torch.from_numpy(SCALE) ** 2
        clean = mean + variance / (variance + sigma**2) * (noisy - mean)
        return (clean - self.sigma_data**2 / total * noisy) * total.sqrt() / (sigma * self.sigma_data)


def exact(n: int, sigma_max: float, seed: int) -> np.ndarray:
    """Where the flow of N(MEAN, SCALE^2) carries the sampler's start: x - MEAN grows as sqrt(SCALE^2 + sigma^2)."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((n, *SHAPE), generator=generator, dtype=torch.float64).numpy() * sigma_max
    return MEAN + (start - MEAN) * SCALE / np.hypot(SCALE, sigma_max)


# ---- sampler --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_samples_follow_the_flow_of_gaussian_data(sigma_data):
    found = sample(Gaussian(sigma_data), 50, shape=SHAPE, n_steps=200, sigma_data=sigma_data, seed=3)
    assert found.shape == (50, *SHAPE) and found.dtype == np.float32
    np.testing.assert_allclose(found, exact(50, 80.0, 3), atol=2e-3)


def test_samples_have_the_law_of_the_data():
    found = sample(Gaussian(), 4000, shape=SHAPE, n_steps=60)
    np.testing.assert_allclose(found.mean(axis=0), MEAN, atol=4 * SCALE.max() / math.sqrt(4000))
    np.testing.assert_allclose(found.std(axis=0) / SCALE, 1, atol=0.06)


def test_the_error_falls_with_the_square_of_the_steps():
    # The last step is Euler's; from so low a level it adds nothing to be seen.
    errors = []
    for n_steps in (20, 40, 80):
        found = sample(Gaussian(), 20, shape=SHAPE, n_steps=n_steps, sigma_min=1e-3, sigma_max=10.0)
        errors.append(np.abs(found - exact(20, 10.0, 0)).max())
    assert 3.3 < errors[0] / errors[1] < 4.7 and 3.0 < errors[1] / errors[2] < 4.7


def test_calls_of_the_network():
    net = Gaussian()
    sample(net, 3, shape=SHAPE, n_steps=18)
    assert net.calls == 2 * 18 - 1


def test_levels_are_those_of_the_paper():
    levels = noise_levels()
    # i-th of N: (80^(1/7) + i/(N-1) (0.002^(1/7) - 80^(1/7)))^7.
    assert len(levels) == 19 and levels[-1] == 0
    np.testing.assert_allclose(levels[[0, 17]], [80.0, 0.002])
    np.testing.assert_allclose(levels[1], (80 ** (1 / 7) * 16 / 17 + 0.002 ** (1 / 7) / 17) ** 7)
    assert (np.diff(levels) < 0).all()
    np.testing.assert_allclose(noise_levels(3, 1.0, 3.0, rho=1.0), [3, 2, 1, 0])


def test_batches_do_not_matter_and_seeds_do(monkeypatch):
    net = seeded_unet(resolution=8, width=8).eval()
    torch.nn.init.normal_(net.conv_out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    whole = sample(net, 7, shape=(1, 8, 8), n_steps=4, seed=1)
    monkeypatch.setattr("icrkit_extractors.models.denoiser._BATCH", 3)
    np.testing.assert_allclose(sample(net, 7, shape=(1, 8, 8), n_steps=4, seed=1), whole, atol=1e-5)
    assert np.abs(sample(net, 7, shape=(1, 8, 8), n_steps=4, seed=2) - whole).max() > 0.1


def test_the_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    sample(Gaussian(), 2, shape=SHAPE, n_steps=2)
    held_out_loss(Gaussian(), np.zeros((3, *SHAPE), np.float32))
    seeded_unet(resolution=8, width=8, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_steps": 1}, "n_steps must be 2 or more, not 1"),
        ({"sigma_min": 0.0}, "0 < sigma_min < sigma_max"),
        ({"sigma_max": 0.001}, "0 < sigma_min < sigma_max"),
        ({"sigma_max": math.inf}, "0 < sigma_min < sigma_max"),
    ],
)
def test_bad_levels(given, words):
    with pytest.raises(ValueError, match=words):
        sample(Gaussian(), 2, shape=SHAPE, **given)


# ---- loss -----------------------------------------------------------------------------------------------------------


def test_loss_of_the_exact_denoiser():
    rng = np.random.default_rng(0)
    images = (MEAN + SCALE * rng.standard_normal((4000, *SHAPE))).astype(np.float32)
    # E ||D - x||^2 = sum s^2 sigma^2/(s^2 + sigma^2), weighted by (sigma^2 + sd^2)/(sigma sd)^2; one level: std 0.
    sigma = 0.4
    error = np.mean(SCALE**2 * sigma**2 / (SCALE**2 + sigma**2))
    want = error * (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    found = held_out_loss(Gaussian(), images, log_sigma_mean=math.log(sigma), log_sigma_std=0.0)
    assert found == pytest.approx(want, rel=0.01)


def test_loss_is_the_mean_of_edm_loss_under_its_own_draws(monkeypatch):
    net = seeded_unet(resolution=8, width=8)
    images = np.random.default_rng(0).uniform(-1, 1, (10, 1, 8, 8)).astype(np.float32)
    generator = torch.Generator().manual_seed(7)
    parts = []
    for _ in range(3):
        log_sigma = -1.2 + 1.2 * torch.randn(10, generator=generator)
        noise = torch.randn((10, 1, 8, 8), generator=generator)
        with torch.no_grad():
            parts.append(edm_loss(net, torch.from_numpy(images), log_sigma, noise).mean())
    want = float(torch.stack(parts).mean())
    assert held_out_loss(net, images, n_draws=3, seed=7) == pytest.approx(want, rel=1e-6)
    monkeypatch.setattr("icrkit_extractors.models.denoiser._BATCH", 4)
    assert held_out_loss(net, images, n_draws=3, seed=7) == pytest.approx(want, rel=1e-6)
    assert held_out_loss(net, images, n_draws=3, seed=8) != pytest.approx(want, rel=1e-6)


# ---- network and training -------------------------------------------------------------------------------------------


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(4)
    want = SmallUNet(1, 8, 8).state_dict()
    for name, value in seeded_unet(resolution=8, width=8, seed=4).state_dict().items():
        assert torch.equal(value, want[name])
    other = seeded_unet(resolution=8, width=8, seed=5).state_dict()
    assert not torch.equal(other["conv_in.weight"], want["conv_in.weight"])


def test_threads_are_given_back_whatever_happens():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_training_lowers_the_loss_and_what_it_generates_nears_the_data():
    images = np.repeat(np.array([-0.5, 0.5], np.float32), 8)[:, None, None, None] * np.ones((1, 1, 8, 8), np.float32)
    steps = []
    net = seeded_unet(resolution=8, width=8)
    before = held_out_loss(net, images)
    ema = train(
        net, images, n_steps=60, batch_size=32, learning_rate=0.02, report_steps=(1, 30, 60),
        report=lambda step, ema, loss: steps.append((step, loss)),
    )  # fmt: skip
    assert [step for step, _ in steps] == [1, 30, 60] and steps[-1][1] < steps[0][1]
    assert held_out_loss(ema, images) < 0.5 * before
    generated = sample(ema, 32, shape=(1, 8, 8), n_steps=8)
    # Flat images, light and dark ones: they vary less within themselves than from one to another.
    assert generated.std(axis=(1, 2, 3)).mean() < 0.8 * generated.mean(axis=(1, 2, 3)).std()
