"""Schedulers of diffusers, against what diffusers does."""

from __future__ import annotations

import warnings
from types import ModuleType

import numpy as np
import pytest
import torch

from icrkit_extractors import noise
from icrkit_extractors.noise import _scheduler

# Said by diffusers to numpy 2 whenever it makes an array of a tensor.
diffusers_arrays = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@pytest.fixture(scope="module")
def diffusers() -> ModuleType:
    with warnings.catch_warnings():
        # What it, and what it imports, have to say about their own future.
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers")


@diffusers_arrays
def test_from_scheduler_knows_its_defaults(diffusers):
    for name in _scheduler._DISCRETE:
        scheduler = getattr(diffusers, name)()
        law = noise.from_scheduler(scheduler)
        assert (
            law
            == noise.from_scheduler({"_class_name": name})
            == noise.from_scheduler(dict(scheduler.config) | {"_class_name": name})
        )
        # float32 products there.
        alphas = [level.alpha for level in law.levels(law.sigmas_at(range(1000)))]
        np.testing.assert_allclose(np.square(alphas), scheduler.alphas_cumprod.numpy(), rtol=3e-5, atol=1e-7)


@diffusers_arrays
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_from_scheduler_zero_terminal_snr(diffusers, beta_schedule):
    # The solvers keep a last level of 2^-24 in place of 0, so as not to divide by it: none was trained there.
    for name in ("DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"):
        scheduler = getattr(diffusers, name)(beta_schedule=beta_schedule, rescale_betas_zero_snr=True)
        law = noise.from_scheduler(scheduler)
        alphas = [level.alpha for level in law.levels(law.sigmas_at(range(999)))]
        np.testing.assert_allclose(np.square(alphas), scheduler.alphas_cumprod[:-1].numpy(), rtol=5e-5, atol=1e-6)
        with pytest.raises(ValueError, match="from 0 to 998"):
            law.sigmas_at([999])


def as_tensors(draws: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(draws[0]), torch.from_numpy(draws[1])


@diffusers_arrays
@pytest.mark.parametrize(
    "name",
    ["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"],
)
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ddpm_adds_the_noise_that_diffusers_adds(diffusers, name, beta_schedule, draws):
    x0, z = as_tensors(draws)
    scheduler = getattr(diffusers, name)(beta_schedule=beta_schedule)
    law = noise.from_scheduler(scheduler)
    scheduler.set_timesteps(20)
    for t in scheduler.timesteps[[1, 9, 16]]:
        x, conditioning = law(x0, z, law.sigmas_at([t])[0])
        torch.testing.assert_close(x, scheduler.add_noise(x0, z, t.expand(5)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(conditioning["timestep"], t.expand(5).float())


@diffusers_arrays
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"])
def test_ddpm_is_the_scaled_input_of_euler(diffusers, name, draws):
    x0, z = as_tensors(draws)
    scheduler = getattr(diffusers, name)(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    law = noise.from_scheduler(scheduler)
    assert law == noise.DDPM("scaled_linear")
    for index in (0, 3, 8):
        scheduler.set_timesteps(12)
        t = scheduler.timesteps[index]
        sigma = scheduler.sigmas[index].item()
        noisy = scheduler.scale_model_input(x0 + sigma * z, t)
        torch.testing.assert_close(law(x0, z, sigma)[0], noisy, rtol=1e-4, atol=1e-5)


@diffusers_arrays
def test_fractional_timesteps_are_those_of_diffusers(diffusers, draws):
    # Karras' levels lie between the timesteps of the table.
    scheduler = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(15)
    law = noise.from_scheduler(scheduler)
    found = [law(*draws, sigma)[1]["timestep"][0] for sigma in scheduler.sigmas[1:-2].tolist()]
    np.testing.assert_allclose(found, scheduler.timesteps[1:-1].numpy(), rtol=1e-4)
    assert not np.allclose(found, np.round(found), atol=0.01)


def test_from_scheduler_takes_trained_betas(diffusers):
    betas = np.linspace(0.001, 0.05, 30)
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=30, trained_betas=betas)
    assert noise.from_scheduler(scheduler) == noise.DDPM(betas=betas)
    assert noise.from_scheduler(diffusers.DDPMScheduler(num_train_timesteps=30)) == noise.DDPM(None, 30, 1e-4, 0.02)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_adds_the_noise_that_diffusers_adds(diffusers, shift, draws):
    x0, z = as_tensors(draws)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    law = noise.from_scheduler(scheduler)
    for t in scheduler.timesteps[[50, 400, 970]]:
        x, conditioning = law(x0, z, law.sigmas_at([t])[0])
        torch.testing.assert_close(x, scheduler.scale_noise(x0, t.expand(5), z), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(conditioning["timestep"], t.expand(5))


@pytest.mark.parametrize("name", _scheduler._FLOW)
def test_flow_schedulers_are_one_law(diffusers, name):
    law = noise.from_scheduler(getattr(diffusers, name)())
    assert law == noise.Flow(scale=1000, name="timestep") and law.trained_range is None


@diffusers_arrays
def test_from_scheduler_sees_flows_among_the_solvers(diffusers, draws):
    x0, z = as_tensors(draws)
    scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    law = noise.from_scheduler(scheduler)
    assert law == noise.Flow(scale=1000, name="timestep")
    scheduler.set_timesteps(10)
    for index in (2, 5, 8):
        sigma = scheduler.sigmas[index].item()
        t = scheduler.timesteps[index]
        x, conditioning = law(x0, z, sigma / (1 - sigma))
        torch.testing.assert_close(x, scheduler.add_noise(x0, z, t.expand(5)), rtol=1e-5, atol=1e-6)
        # Whole timesteps there.
        assert conditioning["timestep"][0].item() == pytest.approx(t.item(), abs=1)


@diffusers_arrays
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_is_the_scaled_input_of_diffusers(diffusers, name, sigma_data, draws):
    x0, z = as_tensors(draws)
    scheduler = getattr(diffusers, name)(sigma_data=sigma_data)
    law = noise.from_scheduler(scheduler)
    assert law == noise.EDM(sigma_data, trained_range=None, name="timestep")
    for index in (1, 5, 8):
        scheduler.set_timesteps(10)
        t, sigma = scheduler.timesteps[index], scheduler.sigmas[index].item()
        x, conditioning = law(x0, z, sigma)
        torch.testing.assert_close(x, scheduler.scale_model_input(x0 + sigma * z, t), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(conditioning["timestep"], t.expand(5), rtol=1e-5, atol=1e-6)


@diffusers_arrays
def test_continuous_euler_is_edm(diffusers, draws):
    x0, z = as_tensors(draws)
    scheduler = diffusers.EulerDiscreteScheduler(
        timestep_type="continuous",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700,
    )
    law = noise.from_scheduler(scheduler)
    assert law == noise.EDM(1.0, trained_range=None, name="timestep")
    for index in (1, 5, 8):
        scheduler.set_timesteps(10)
        t, sigma = scheduler.timesteps[index], scheduler.sigmas[index].item()
        x, conditioning = law(x0, z, sigma)
        torch.testing.assert_close(x, scheduler.scale_model_input(x0 + sigma * z, t), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(conditioning["timestep"], t.expand(5), rtol=1e-5, atol=1e-6)


def test_from_scheduler_refuses_what_it_does_not_know(diffusers):
    with pytest.raises(ValueError, match=r"scheduler ScoreSdeVeScheduler is not known.*; known are DDIMInverseSch"):
        noise.from_scheduler(diffusers.ScoreSdeVeScheduler())
    with pytest.raises(
        ValueError, match=r"beta_schedule 'sigmoid' of DDPMScheduler is none of.*DDPM\(betas=scheduler.be"
    ):
        noise.from_scheduler(diffusers.DDPMScheduler(beta_schedule="sigmoid"))
    with pytest.raises(ValueError, match="invert_sigmas=True is not known"):
        noise.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True))


def test_from_scheduler_of_other_things():
    with pytest.raises(ValueError, match=r"scheduler DDIMSheduler is not known \(nearest: DDIMScheduler\)"):
        noise.from_scheduler({"_class_name": "DDIMSheduler"})
    with pytest.raises(ValueError, match="scheduler without _class_name"):
        noise.from_scheduler({"beta_start": 0.1})
    with pytest.raises(TypeError, match="wanted a diffusers scheduler or its configuration, not str"):
        noise.from_scheduler("DDIMScheduler")
