"""What every noise law does, and laws beside each other."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from icrkit_extractors import noise
from icrkit_extractors._arguments import law_of


def test_level_lists_are_lists():
    with pytest.raises(ValueError, match="appears twice"):
        noise.EDM().levels([0.1, 0.2, 0.1])
    with pytest.raises(ValueError, match="empty"):
        noise.EDM().levels([])
    for bad in (0.1, "0.1", [None]):
        with pytest.raises(TypeError, match="list of numbers"):
            noise.EDM().levels(bad)


def test_configs_are_json():
    law = noise.EDM(sigma_data=1, trained_range=(0.01, np.float64(2)))
    assert json.loads(json.dumps(law.config())) == {"name": "EDM", "sigma_data": 1.0, "trained_range": [0.01, 2.0]}
    assert noise.Clean().config() == {"name": "Clean"}


LAWS = {
    "EDM": noise.EDM(),
    "EDM 1": noise.EDM(sigma_data=1, trained_range=None, name="timestep"),
    "VP": noise.VP(),
    "VP 50": noise.VP(beta_d=10, beta_min=0.2, n_timesteps=50, name="labels"),
    "VE": noise.VE(),
    "Additive": noise.Additive(),
    "DDPM": noise.DDPM(),
    "DDPM scaled": noise.DDPM("scaled_linear", name="t"),
    "DDPM cosine": noise.DDPM("cosine", 200),
    "DDPM zero": noise.DDPM("scaled_linear", zero_terminal_snr=True),
    "DDPM betas": noise.DDPM(betas=np.linspace(0.01, 0.3, 12)),
    "DDPM abar": noise.DDPM(alphas_cumprod=[0.9, 0.5, 0.1, 0.0]),
    "Flow": noise.Flow(),
    "Flow gvp": noise.Flow("gvp", data_at=1),
    "Flow 1000": noise.Flow(scale=1000, name="timestep", trained_range=(0.01, 99)),
    "SiT": noise.SiT(),
    "SiT gvp": noise.SiT("GVP"),
    "SiT vp": noise.SiT("VP"),
}


every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def inner_ratios(law: Any, n: int = 5) -> list[float]:
    """Ratios over what the law has, from its lowest to its highest where it has those."""
    low, high = law._span()
    return np.geomspace(max(low, 0.003), min(high, 300.0), n).tolist()


@st.composite
def law_and_ratio(draw: st.DrawFn) -> tuple[Any, float]:
    law = draw(st.sampled_from(list(LAWS.values())))
    low, high = law._span()
    low, high = max(low, 1e-4), min(high, 1e4)
    return law, math.exp(draw(st.floats(math.log(low), math.log(high))))


@given(law_and_ratio())
def test_ratio_to_time_and_back(drawn):
    law, ratio = drawn
    assert law.levels([ratio])[0].ratio == pytest.approx(ratio, rel=1e-14)
    assert law.sigmas_at([law._time(ratio)]) == pytest.approx([ratio], rel=1e-9)


@given(law_and_ratio(), law_and_ratio())
def test_laws_agree_on_the_noisy_image(first, second):
    # One axis for all: at one ratio the images of two laws differ by a factor only.
    (law, ratio), (other, _) = first, second
    low, high = other._span()
    assume(low <= ratio <= high)
    x0, z = np.full((1, 1, 1, 1), 0.7, np.float32), np.full((1, 1, 1, 1), -1.3, np.float32)
    shares = []
    for each in (law, other):
        scale = each.levels([ratio])[0].alpha * each._input_scale(ratio)
        shares.append(each(x0, z, ratio)[0].item() / scale)
    assert shares == pytest.approx([0.7 - 1.3 * ratio] * 2, rel=1e-5, abs=3e-6 * (1 + ratio))


@every_law
def test_tensors_and_arrays_give_the_same_bits(law, draws):
    x0, z = draws
    for ratio in inner_ratios(law):
        x, conditioning = law(x0, z, ratio)
        tensor, other = law(torch.from_numpy(x0), torch.from_numpy(z), ratio)
        assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32 and x.dtype == np.float32
        np.testing.assert_array_equal(tensor.numpy(), x)
        assert list(other) == list(conditioning) == [law.name]
        [c], [t] = conditioning.values(), other.values()
        assert c.shape == (5,) and c.dtype == np.float32 and t.dtype == torch.float32 and len(set(c.tolist())) == 1
        np.testing.assert_array_equal(t.numpy(), c)


@every_law
def test_a_level_is_as_good_as_its_ratio(law, draws):
    for level in law.levels(inner_ratios(law)):
        # A foreign level of the same ratio, too: what counts is the ratio.
        for same in (level, noise.Level(3 * level.alpha, 3 * level.sigma)):
            np.testing.assert_allclose(law(*draws, same)[0], law(*draws, level.ratio)[0], rtol=1e-6, atol=1e-6)
            assert law(*draws, same)[1][law.name][0] == pytest.approx(law(*draws, level.ratio)[1][law.name][0])


@every_law
def test_config_rebuilds_the_law(law):
    config = json.loads(json.dumps(law.config()))
    kind = config.pop("name")
    if "conditioning" in config:
        config["name"] = config.pop("conditioning")
    again = getattr(noise, kind)(**config)
    assert again == law and again.config() == law.config() and again.levels([0.5]) == law.levels([0.5])


def test_unknown_trained_ranges_are_left_out():
    for law in (noise.Additive(), noise.Flow()):
        assert law.trained_range is None and "trained_range" not in law.config()
    # Where there is a default, unknown is not the same as left out.
    for law in (noise.EDM(trained_range=None), noise.VE(trained_range=None)):
        assert law.config()["trained_range"] is None
    assert noise.Additive(trained_range=noise.VP().trained_range).config()["trained_range"][0] == pytest.approx(
        0.0447, abs=1e-4
    )


@every_law
def test_trained_range_lies_on_the_law(law):
    if law.trained_range is not None:
        law.levels(law.trained_range)


def test_trained_ranges_are_quantiles():
    quantiles = [0.01, 0.99]
    ve = stats.loguniform(0.02, 100).ppf(quantiles)
    np.testing.assert_allclose(noise.VE().trained_range, ve, rtol=1e-12)
    s = stats.uniform(0, 1).ppf(quantiles)
    np.testing.assert_allclose(noise.SiT().trained_range, s / (1 - s), rtol=1e-12)
    np.testing.assert_allclose(noise.SiT("gvp").trained_range, np.tan(np.pi * s / 2), rtol=1e-12)
    vp = np.sqrt(np.exp(9.95 * s**2 + 0.1 * s) - 1)
    np.testing.assert_allclose(noise.SiT("vp").trained_range, vp, rtol=1e-12)
    np.testing.assert_allclose(noise.VP().trained_range, vp, rtol=1e-12)


def test_level_ratio():
    assert noise.Level(0.8, 0.6).ratio == pytest.approx(0.75)
    assert noise.Level(0.0, 1.0).ratio == math.inf
    assert noise.Level(1.0, 0.0).ratio == 0


@every_law
def test_levels_are_checked(law, draws):
    with pytest.raises(ValueError, match=r"positive and finite: sigmas\[1\]"):
        law.levels([0.5, 0.0])
    with pytest.raises(ValueError, match="positive and finite"):
        law(*draws, noise.Level(0.0, 1.0))
    with pytest.raises(ValueError, match="appears twice"):
        law.levels([0.5, 0.6, 0.5 * (1 + 1e-8)])
    with pytest.raises(ValueError, match="times is empty"):
        law.sigmas_at([])


def test_arrays_and_tensors_do_not_mix(draws):
    x0, z = draws
    with pytest.raises(TypeError, match="x0 is ndarray and noise is Tensor"):
        noise.Flow()(x0, torch.from_numpy(z), 0.5)
    with pytest.raises(ValueError, match="noise of shape"):
        noise.Flow()(torch.from_numpy(x0), torch.from_numpy(z[:1]), 0.5)


@pytest.mark.parametrize("kind", [noise.EDM, noise.VP, noise.VE, noise.Additive, noise.DDPM, noise.Flow, noise.SiT])
def test_every_trained_range_is_checked(kind):
    with pytest.raises(ValueError, match="trained_range must be"):
        kind(trained_range=(2.0, 1.0))


# What the network inside took for x0 = 0.7 and noise = -1.3 (sigma, input, c_noise), from running
# training/networks.py of NVlabs/edm at 008a4e5316c8e3bfe61a62f874bddba254295afb with a network that records. It runs in
# float32; c_noise of VP, which loses five digits there, is from its sigma_inv at float64.
INSIDE_EDM = {
    "EDMPrecond": [
        (0.05, 1.2636971473693848, -0.7489330768585205),
        (0.5, 0.0707106962800026, -0.1732867956161499),
        (3.0, -1.052153468132019, 0.2746530771255493),
        (40.0, -1.2823998928070068, 0.9222198724746704),
    ],
    "VPPrecond": [
        (0.05, 0.6342077255249023, 11.582384493937639),
        (0.5, 0.044721368700265884, 144.66910562027934),
        (3.0, -1.0119287967681885, 475.58180220465937),
        (40.0, -1.2820994853973389, 855.2641272735491),
    ],
    "VEPrecond": [
        (0.05, 0.6349999904632568, -3.6888794898986816),
        (0.5, 0.050000011920928955, -1.3862943649291992),
        (3.0, -3.1999998092651367, 0.40546512603759766),
        (40.0, -51.29999923706055, 2.995732307434082),
    ],
    # At levels of its own table, as it rounds to those.
    "iDDPMPrecond": [
        (0.025131072849035263, 0.6671189665794373, 9.0),
        (0.16943570971488953, 0.4729921817779541, 99.0),
        (1.0123894214630127, -0.432962566614151, 499.0),
        (6.364593029022217, -1.175594449043274, 899.0),
    ],
}


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("EDMPrecond", noise.EDM()),
        ("VPPrecond", noise.VP()),
        ("VEPrecond", noise.VE()),
        ("iDDPMPrecond", noise.DDPM("cosine", name="c_noise")),
    ],
)
def test_laws_are_what_edm_gives_its_networks(name, law):
    x0, z = np.full((1, 1, 1, 1), 0.7, np.float32), np.full((1, 1, 1, 1), -1.3, np.float32)
    for sigma, inside, c_noise in INSIDE_EDM[name]:
        x, conditioning = law(x0, z, sigma)
        assert x.item() == pytest.approx(inside, rel=1e-6, abs=2e-7)
        # The table summed up in float32 is off by a thousandth of a step.
        assert conditioning["c_noise"].item() == pytest.approx(c_noise, rel=1e-6, abs=2e-3 if "iDDPM" in name else 0)


def test_laws_that_add_and_laws_that_keep_the_variance():
    for law in (noise.EDM(), noise.VE(), noise.Additive()):
        assert law.levels([0.3]) == [(1.0, 0.3)]
    for law in (noise.VP(), noise.DDPM(), noise.SiT("gvp"), noise.SiT("vp")):
        for ratio in (0.02, 1.0, 50.0):
            [level] = law.levels([ratio])
            assert level.alpha**2 + level.sigma**2 == pytest.approx(1, rel=1e-14)
    assert noise.Flow().levels([4.0]) == [(0.2, 0.8)]


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


def test_one_axis_for_diffusion_and_flow():
    # sigma = sqrt((1 - abar) / abar) = t / (1 - t)
    image = np.zeros((1, 1, 1, 1), np.float32)
    for t, bar in list(enumerate(abar_by_hand("linear", 1000)))[10::137]:
        sigma = math.sqrt((1 - bar) / bar)
        flow = noise.Flow()(image, image, sigma)[1]["t"].item()
        assert flow / (1 - flow) == pytest.approx(sigma, rel=1e-4)
        assert noise.DDPM()(image, image, sigma)[1]["timestep"].item() == pytest.approx(t, abs=1e-4)
        assert noise.EDM().levels([sigma])[0].sigma == sigma
        assert noise.SiT()(image, image, sigma)[1]["t"].item() == pytest.approx(1 - flow, rel=1e-5)
        # The table is the continuous schedule in a thousand steps, up to the second order of beta.
        assert noise.VP()(image, image, sigma)[1]["c_noise"].item() == pytest.approx(t, abs=4)


def vp_ratio(t):
    """Of the VP equation with beta from 0.1 to 20: alpha is exp(-integral of beta / 2)."""
    alpha = math.exp(-0.25 * t**2 * 19.9 - 0.5 * t * 0.1)
    return math.sqrt(1 - alpha**2) / alpha


@pytest.mark.parametrize(
    ("text", "ratio", "told"),
    [
        ("flow:data_at=1", 0.2 / 0.8, 0.8),  # torchcfm, flow_matching: x = t x1 + (1 - t) noise
        ("flow", 0.2 / 0.8, 0.2),  # Flux, REPA: x = (1 - t) x0 + t noise
        ("flow:scale=1000", 0.2 / 0.8, 200.0),  # SD3
        ("flow:gvp", math.tan(0.1 * math.pi), 0.2),  # v-diffusion
        ("flow:gvp,data_at=1", math.tan(0.1 * math.pi), 0.8),
        ("vp:n_timesteps=2", vp_ratio(0.3), 0.3),
        ("vp", vp_ratio(0.3), 299.7),  # score_sde: times 999
        ("flow:vp,data_at=1", vp_ratio(0.3), 0.7),  # flow_matching
        ("additive", 0.3, 0.3),
    ],
)
def test_times_of_public_code_can_be_said(text, ratio, told):
    """As docs/extract.md has them."""
    law, image = law_of(text), np.ones((1, 1, 1, 1), np.float32)
    [value] = law(image, image, ratio)[1].values()
    np.testing.assert_allclose(value, [told], rtol=1e-6)
    assert law.sigmas_at([told]) == pytest.approx([ratio], rel=1e-9)


@pytest.mark.parametrize(
    ("options", "told"), [("", 7.0), (",offset=1", 8.0), (",scale=0.02", 0.14), (",scale=20", 140.0)]
)
def test_steps_may_be_counted_and_scaled(options, told):
    law, image = law_of(f"ddpm:cosine,n_timesteps=50{options}"), np.ones((1, 1, 1, 1), np.float32)
    [ratio] = noise.DDPM("cosine", n_timesteps=50).sigmas_at([7])
    np.testing.assert_allclose(law(image, image, ratio)[1]["timestep"], [told], rtol=1e-6)
