"""Laws of a table of timesteps, against products written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import optimize

from icrkit_extractors import noise


def test_iddpm_preconditioning_is_the_cosine_table():
    # iDDPMPrecond's levels u[990], u[900], u[500], u[100], made at float64, same commit.
    levels = [0.025133252207646357, 0.16943564199497227, 1.0123895639480036, 6.364591868537906]
    assert noise.DDPM("cosine", name="c_noise").sigmas_at([9, 99, 499, 899]) == pytest.approx(levels, rel=1e-9)


def abar_by_hand(schedule: str, n: int) -> list[float]:
    """The product of 1 - beta, term by term."""
    bars, bar = [], 1.0
    for t in range(n):
        if schedule == "linear":
            beta = 1e-4 + (0.02 - 1e-4) * t / (n - 1)
        elif schedule == "scaled_linear":
            beta = (math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * t / (n - 1)) ** 2
        else:
            f = [math.cos((s / n + 0.008) / 1.008 * math.pi / 2) ** 2 for s in (t, t + 1)]
            beta = min(1 - f[1] / f[0], 0.999)
        bar *= 1 - beta
        bars.append(bar)
    return bars


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("n", [1000, 50])
def test_ddpm_is_its_table(schedule, n, draws):
    ends = (1e-4, 0.02) if schedule == "linear" else ()  # else they go with 1000 / n
    law = noise.DDPM(schedule, n, *ends)
    bars = abar_by_hand(schedule, n)
    np.testing.assert_allclose(law.sigmas_at(range(n)), [math.sqrt((1 - b) / b) for b in bars], rtol=1e-9)
    x0, z = draws
    for t in (0, 1, n // 3, n - 1):
        [sigma] = law.sigmas_at([t])
        x, conditioning = law(x0, z, sigma)
        np.testing.assert_allclose(x, math.sqrt(bars[t]) * x0 + math.sqrt(1 - bars[t]) * z, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(conditioning["timestep"], np.full(5, t, np.float32))
    assert law.trained_range == (law.sigmas_at([0])[0], law.sigmas_at([n - 1])[0])


def test_linear_betas_of_other_lengths_are_those_of_adm():
    """guided_diffusion.gaussian_diffusion of openai/guided-diffusion: beta times 1000 / n."""
    assert noise.DDPM(n_timesteps=4000).sigmas_at([400, 2000]) == pytest.approx([0.340697522960, 3.42037733194])
    given = noise.DDPM(n_timesteps=4000, beta_start=1e-4, beta_end=0.02)
    assert given.sigmas_at([400]) == pytest.approx([0.742922862806])  # as diffusers takes them
    betas = np.linspace(0.25e-4, 0.005, 4000)
    assert noise.DDPM(n_timesteps=4000).sigmas_at([7]) == pytest.approx(noise.DDPM(betas=betas).sigmas_at([7]))


def test_the_sigmoid_schedule_of_denoising_diffusion_pytorch():
    """sigmoid_beta_schedule(1000) of lucidrains/denoising-diffusion-pytorch, whose ends are rounded to float32."""
    wanted = [0.017331168226, 0.204122878583, 1.00331986715, 57.6987663527]
    assert noise.DDPM("sigmoid").sigmas_at([0, 100, 500, 998]) == pytest.approx(wanted, rel=3e-5)


def test_times_are_scaled_and_shifted():
    image = np.zeros((1, 1, 1, 1), np.float32)
    usual = noise.DDPM(n_timesteps=4000)
    law = noise.DDPM(n_timesteps=4000, scale=0.25, offset=1)
    for t in (0, 3, 1234, 3999):
        [sigma] = usual.sigmas_at([t])
        assert law.sigmas_at([t / 4 + 1]) == [sigma]
        assert law(image, image, sigma)[1]["timestep"].item() == pytest.approx(t / 4 + 1, rel=1e-6)
    third = noise.DDPM(scale=1 / 3, offset=0.1)
    assert third.sigmas_at([t / 3 + 0.1 for t in range(1000)]) == noise.DDPM().sigmas_at(range(1000))
    assert law.levels([0.5]) == usual.levels([0.5])
    assert law.config() == {**usual.config(), "scale": 0.25, "offset": 1.0}
    with pytest.raises(ValueError, match=r"goes from 1 to 1000\.75"):
        law.sigmas_at([0])
    for wrong in ({"scale": 0}, {"scale": math.nan}, {"offset": math.inf}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            noise.DDPM(**wrong)


def test_numbers_beyond_reason_are_refused_before_they_are_held():
    for make in (
        lambda: noise.DDPM(n_timesteps=10**12),
        lambda: noise.from_scheduler({"_class_name": "DDPMScheduler", "num_train_timesteps": 10**12}),
        lambda: noise.VP(n_timesteps=10**12),
    ):
        with pytest.raises(ValueError, match="at most 1,000,000"):
            make()
    with pytest.raises(ValueError, match="more than 10,000"):
        noise.EDM().levels(itertools.count(1))


def test_whole_timesteps_come_back_whole():
    for law in (noise.DDPM(), noise.DDPM("scaled_linear"), noise.DDPM("cosine")):
        assert [law._time(sigma) for sigma in law.sigmas_at(range(1000))] == list(range(1000))


def test_fractional_timesteps_are_linear_in_log_sigma():
    law = noise.DDPM()
    low, middle, high = law.sigmas_at([300, 300.25, 301])
    assert math.log(middle) == pytest.approx(0.75 * math.log(low) + 0.25 * math.log(high), rel=1e-12)
    found = optimize.brentq(lambda t: law.sigmas_at([t])[0] - 0.7, 0, 999, xtol=1e-12)
    assert law._time(0.7) == pytest.approx(found, rel=1e-10) and found != round(found)


def test_ddpm_ends_where_its_table_does():
    law = noise.DDPM()
    low, high = law.trained_range
    assert law.levels([low * (1 - 1e-9), high * (1 + 1e-9)])[1].ratio == pytest.approx(high)
    for outside in (low * 0.99, high * 1.01, 1e6):
        with pytest.raises(
            ValueError, match=r"this DDPM has noise-to-signal ratios from 0.0100005 to 157.407; sigmas_at"
        ):
            law.levels([0.5, outside])
    for outside in (-1, 999.5, 1000):
        with pytest.raises(ValueError, match=r"timestep goes from 0 to 999, and times\[1\] is"):
            law.sigmas_at([5, outside])


def test_zero_terminal_snr_has_no_last_level():
    law, plain = noise.DDPM("scaled_linear", zero_terminal_snr=True), noise.DDPM("scaled_linear")
    assert law.sigmas_at([0]) == pytest.approx(plain.sigmas_at([0]))
    assert law.sigmas_at([998])[0] > 50 > plain.sigmas_at([999])[0]
    with pytest.raises(ValueError, match="timestep goes from 0 to 998"):
        law.sigmas_at([999])
    # sqrt(abar) shifted to end at 0 and stretched to start where it did.
    root = np.sqrt(abar_by_hand("scaled_linear", 1000))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose([level.alpha for level in law.levels(law.sigmas_at(range(999)))], root[:-1], rtol=1e-9)


def test_ddpm_from_tables():
    betas = np.linspace(1e-4, 0.02, 1000)
    plain = noise.DDPM().sigmas_at(range(1000))
    assert noise.DDPM(betas=torch.from_numpy(betas)).sigmas_at(range(1000)) == pytest.approx(plain, rel=1e-12)
    abar = np.cumprod(1 - betas)
    assert noise.DDPM(alphas_cumprod=abar).sigmas_at(range(1000)) == pytest.approx(plain, rel=1e-12)
    assert noise.DDPM(alphas_cumprod=[0.9, 0.5, 0.1, 0.0])._times() == (0, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "scaled-linear"}, "nearest: 'scaled_linear'"),
        ({"schedule": "linear", "betas": [0.1, 0.2]}, "given as schedule and as betas: one of them"),
        ({"betas": [0.1, 0.2], "n_timesteps": 2}, "n_timesteps belongs to a named schedule"),
        ({"schedule": "cosine", "beta_end": 0.02}, "beta_end belongs to the schedules"),
        ({"beta_start": -0.1}, "beta_start must be positive"),
        ({"betas": [0.1, -0.2]}, "must fall"),
        ({"betas": [0.1, 1.5]}, "must fall"),
        ({"betas": []}, "must fall"),
        ({"alphas_cumprod": [1.0, 0.5]}, "must fall from below 1"),
        ({"alphas_cumprod": [0.5, math.nan]}, "must fall"),
        ({"alphas_cumprod": [0.5, 0.0]}, "two timesteps or more"),
        ({"n_timesteps": 1}, "2 or more"),
        ({"name": ""}, "name is what the network calls"),
    ],
)
def test_ddpm_options(options, message):
    with pytest.raises(ValueError, match=message):
        noise.DDPM(**options)
