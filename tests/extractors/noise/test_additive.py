"""Laws that add noise to an image as it is: EDM, VE, the plain sum."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from icrkit_extractors import noise
from icrkit_extractors.models.denoiser import edm_loss


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
@pytest.mark.parametrize("sigma", [0.002, 0.057, 0.5, 3.0, 80.0])
def test_edm_is_the_formula(draws, sigma, sigma_data):
    x0, z = draws
    x, conditioning = noise.EDM(sigma_data=sigma_data)(x0, z, sigma)
    wanted = (x0.astype(np.float64) + sigma * z.astype(np.float64)) / math.sqrt(sigma**2 + sigma_data**2)
    np.testing.assert_allclose(x, wanted, rtol=2e-6, atol=2e-7)
    assert x.dtype == np.float32
    assert list(conditioning) == ["c_noise"]
    assert conditioning["c_noise"].shape == (5,) and conditioning["c_noise"].dtype == np.float32
    np.testing.assert_allclose(conditioning["c_noise"], math.log(sigma) / 4, rtol=1e-6)


def test_edm_input_is_what_training_saw(draws):
    seen = []

    def net(x, c_noise):
        seen.append((x.numpy(), c_noise.numpy()))
        return torch.zeros_like(x)

    x0, z = draws
    edm_loss(net, torch.from_numpy(x0), torch.full((5,), math.log(0.3)), torch.from_numpy(z))
    x, conditioning = noise.EDM()(x0, z, 0.3)
    np.testing.assert_allclose(x, seen[0][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(conditioning["c_noise"], seen[0][1], rtol=1e-6)


def test_edm_unit_variance():
    rng = np.random.default_rng(1)
    x0 = (0.5 * rng.standard_normal((200, 1, 16, 16))).astype(np.float32)
    z = rng.standard_normal(x0.shape).astype(np.float32)
    for sigma in (0.05, 0.5, 5.0):
        assert noise.EDM()(x0, z, sigma)[0].std() == pytest.approx(1, abs=0.02)


def test_edm_images_do_not_depend_on_the_batch(draws):
    x0, z = draws
    whole = noise.EDM()(x0, z, 0.3)[0]
    for k in range(5):
        np.testing.assert_array_equal(noise.EDM()(x0[k : k + 1], z[k : k + 1], 0.3)[0][0], whole[k])


def test_edm_levels():
    assert noise.EDM().levels(np.array([0.1, 2])) == [(1.0, 0.1), (1.0, 2.0)]
    assert noise.EDM().levels([0.1])[0].sigma == 0.1


@pytest.mark.parametrize("bad", [0.0, -0.1, math.nan, math.inf])
def test_edm_levels_are_positive_and_finite(bad, draws):
    with pytest.raises(ValueError, match=r"positive and finite: sigmas\[1\]"):
        noise.EDM().levels([0.1, bad])
    with pytest.raises(ValueError, match="positive and finite"):
        noise.EDM()(*draws, bad)


def test_edm_shapes_must_agree(draws):
    x0, z = draws
    with pytest.raises(ValueError, match="noise of shape"):
        noise.EDM()(x0, z[:, :1], 0.1)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_edm_sigma_data(bad):
    with pytest.raises(ValueError, match="sigma_data"):
        noise.EDM(sigma_data=bad)


@pytest.mark.parametrize("bad", [(1, 0.5), (0, 1), (0.1, math.inf), (math.nan, 1)])
def test_edm_trained_range(bad):
    with pytest.raises(ValueError, match="trained_range"):
        noise.EDM(trained_range=bad)


def test_edm_trained_range_default_is_the_quantiles():
    wanted = stats.lognorm(s=1.2, scale=math.exp(-1.2)).ppf([0.01, 0.99])
    np.testing.assert_allclose(noise.EDM().trained_range, wanted, rtol=1e-12)


def test_edm_config_is_as_it_was():
    # Stores are resumed against this text.
    text = '{"name": "EDM", "sigma_data": 0.5, "trained_range": [0.018469815964395845, 4.911686909295089]}'
    assert json.dumps(noise.EDM().config()) == text
    assert json.dumps(noise.EDM(sigma_data=1).config()).startswith('{"name": "EDM", "sigma_data": 1.0, "trained')


@pytest.mark.parametrize("sigma", [0.002, 0.057, 0.3, 80.0])
def test_edm_bits_are_as_they_were(draws, sigma):
    x0, z = draws
    c_in = np.float32(1 / math.hypot(sigma, 0.5))
    np.testing.assert_array_equal(noise.EDM()(x0, z, sigma)[0], c_in * (x0 + np.float32(sigma) * z))
