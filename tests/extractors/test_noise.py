"""Noise laws against formulas written by hand, and against the code of those who trained the networks."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import optimize, stats

from icrkit_extractors import noise
from icrkit_extractors.models.denoiser import edm_loss
from icrkit_extractors.noise import _scheduler


@pytest.fixture
def draws() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (5, 3, 4, 6)
    return rng.uniform(-1, 1, shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)


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


def test_level_lists_are_lists():
    with pytest.raises(ValueError, match="appears twice"):
        noise.EDM().levels([0.1, 0.2, 0.1])
    with pytest.raises(ValueError, match="empty"):
        noise.EDM().levels([])
    for bad in (0.1, "0.1", [None]):
        with pytest.raises(TypeError, match="list of numbers"):
            noise.EDM().levels(bad)


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


def test_configs_are_json():
    law = noise.EDM(sigma_data=1, trained_range=(0.01, np.float64(2)))
    assert json.loads(json.dumps(law.config())) == {"name": "EDM", "sigma_data": 1.0, "trained_range": [0.01, 2.0]}
    assert noise.Clean().config() == {"name": "Clean"}


def test_clean(draws):
    x0, z = draws
    x, conditioning = noise.Clean()(x0, z, 0.0)
    np.testing.assert_array_equal(x, x0)
    assert conditioning == {}
    assert noise.Clean().levels([0]) == [(1.0, 0.0)]
    for bad in ([0.1], [0.0, 0.0], [0.0, 1.0]):
        with pytest.raises(ValueError, match="one noise level 0"):
            noise.Clean().levels(bad)
    with pytest.raises(ValueError, match="one noise level 0"):
        noise.Clean()(x0, z, 0.5)


# ---- what every law does ---------------------------------------------------------------------------------------------

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


# ---- EDM's preconditionings ------------------------------------------------------------------------------------------

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


def test_iddpm_preconditioning_is_the_cosine_table():
    # iDDPMPrecond's levels u[990], u[900], u[500], u[100], made at float64, same commit.
    levels = [0.025133252207646357, 0.16943564199497227, 1.0123895639480036, 6.364591868537906]
    assert noise.DDPM("cosine", name="c_noise").sigmas_at([9, 99, 499, 899]) == pytest.approx(levels, rel=1e-9)


def test_edm_table_1_preconditionings():
    image = np.ones((1, 1, 1, 1), np.float32)
    for sigma in (0.01, 0.4, 20.0):
        x, c = noise.VP()(image, 0 * image, sigma)
        assert x.item() == pytest.approx(1 / math.sqrt(sigma**2 + 1), rel=1e-6)
        # c_noise = (M - 1) t, sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1): solved, not inverted by hand.
        at = lambda t, sigma: math.sqrt(math.expm1(9.95 * t**2 + 0.1 * t)) - sigma  # noqa: E731
        t = optimize.brentq(at, 0, 2, args=(sigma,), xtol=1e-15)
        assert noise.VP()._time(sigma) == pytest.approx(999 * t, rel=1e-12)
        assert c["c_noise"].item() == pytest.approx(999 * t, rel=1e-6)
        x, c = noise.VE()(image, 0 * image, sigma)
        assert x.item() == 1 and c["c_noise"].item() == pytest.approx(math.log(0.5 * sigma), rel=1e-6)
        x, c = noise.Additive(name="t")(image, image, sigma)
        assert x.item() == pytest.approx(1 + sigma) and c["t"].item() == pytest.approx(sigma, rel=1e-6)


def test_laws_that_add_and_laws_that_keep_the_variance():
    for law in (noise.EDM(), noise.VE(), noise.Additive()):
        assert law.levels([0.3]) == [(1.0, 0.3)]
    for law in (noise.VP(), noise.DDPM(), noise.SiT("gvp"), noise.SiT("vp")):
        for ratio in (0.02, 1.0, 50.0):
            [level] = law.levels([ratio])
            assert level.alpha**2 + level.sigma**2 == pytest.approx(1, rel=1e-14)
    assert noise.Flow().levels([4.0]) == [(0.2, 0.8)]


@pytest.mark.parametrize("field", ["beta_d", "beta_min"])
def test_vp_parameters(field):
    with pytest.raises(ValueError, match=f"{field} must be positive"):
        noise.VP(**{field: 0})
    with pytest.raises(ValueError, match="n_timesteps must be 2 or more"):
        noise.VP(n_timesteps=1)
    with pytest.raises(TypeError, match="whole number"):
        noise.VP(n_timesteps=10.5)


# ---- tables ----------------------------------------------------------------------------------------------------------


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


def test_tables_are_read_from_files(tmp_path):
    law = noise.DDPM("cosine", 20)
    betas = np.linspace(0.01, 0.2, 20)
    bar = np.cumprod(1 - betas)
    np.save(tmp_path / "a.npy", bar)
    np.savez(tmp_path / "a.npz", betas=betas, posterior=bar)
    torch.save({"state_dict": {"model.w": torch.ones(2, 2), "alphas_cumprod": torch.tensor(bar)}}, tmp_path / "a.pt")
    torch.save(
        {"model": {"betas": torch.tensor(betas), "w": torch.ones(2)}, "ema": {"w": torch.ones(2)}}, tmp_path / "b.pt"
    )
    wanted = noise.DDPM(betas=betas).sigmas_at(range(20))
    for text in ("a.npy", "a.npz", "a.npz:betas", "a.pt", "a.pt:state_dict.alphas_cumprod", "b.pt:model.betas"):
        assert noise.LAWS["ddpm"](table=f"{tmp_path}/{text}", scale=50).sigmas_at(
            [50 * t for t in range(20)]
        ) == pytest.approx(wanted, rel=1e-6)
    assert noise.LAWS["ddpm"]("cosine", 20) == law
    for text, said in (
        ("a.npz:alphas", r"0 tables called 'alphas'.*betas, posterior"),
        ("b.pt", "several networks"),
        ("a.pt:state_dict.model.w", "must be numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            noise.LAWS["ddpm"](table=f"{tmp_path}/{text}")
    with pytest.raises(ValueError, match="schedule and as alphas_cumprod"):
        noise.LAWS["ddpm"]("cosine", table=tmp_path / "a.npy")


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


# ---- flows -----------------------------------------------------------------------------------------------------------

# (t, alpha, sigma) of transport/path.py of willisma/SiT at 947f95bd3a510e9af441d38c1e9f72e0eee873c5, alpha in front of
# the image; and of loss.py of sihyun-yu/REPA at 67f714503e3892f993844aab088ffc5791c92613, which runs the other way.
SIT_PATHS = {
    "Linear": [(0.1, 0.1, 0.9), (0.5, 0.5, 0.5), (0.8, 0.8, 0.2), (0.99, 0.99, 0.01)],
    "GVP": [
        (0.1, 0.15643446504023087, 0.9876883405951378),
        (0.5, 0.7071067811865475, 0.7071067811865476),
        (0.8, 0.9510565162951535, 0.30901699437494745),
        (0.99, 0.9998766324816606, 0.015707317311820648),
    ],
    "VP": [
        (0.1, 0.016996463261689278, 0.9998555496853503),
        (0.5, 0.2811828807967524, 0.9596542020680363),
        (0.8, 0.8113952356434115, 0.584497879872265),
        (0.99, 0.9990029973377464, 0.04464315524465736),
    ],
}
REPA_PATHS = {
    "linear": [(0.1, 0.9, 0.1), (0.5, 0.5, 0.5), (0.8, 0.2, 0.8), (0.99, 0.01, 0.99)],
    "gvp": [
        (0.1, 0.9876883405951378, 0.15643446504023087),
        (0.5, 0.7071067811865476, 0.7071067811865475),
        (0.8, 0.30901699437494745, 0.9510565162951535),
        (0.99, 0.015707317311820648, 0.9998766324816606),
    ],
}


@pytest.mark.parametrize(
    ("law", "rows"),
    [
        *((noise.SiT(path), rows) for path, rows in SIT_PATHS.items()),
        *((noise.Flow(path.lower(), data_at=1), rows) for path, rows in SIT_PATHS.items()),
        *((noise.Flow(path), rows) for path, rows in REPA_PATHS.items()),
    ],
)
def test_paths_are_those_of_the_code(law, rows, draws):
    for t, alpha, sigma in rows:
        [ratio] = law.sigmas_at([t])
        assert ratio == pytest.approx(sigma / alpha, rel=1e-11)
        assert law.levels([ratio])[0] == pytest.approx((alpha, sigma), rel=1e-11)
        x, conditioning = law(*draws, ratio)
        np.testing.assert_allclose(x, alpha * draws[0] + sigma * draws[1], rtol=1e-5, atol=1e-6)
        assert list(conditioning) == ["t"] and conditioning["t"][0] == pytest.approx(t, rel=1e-6)


def test_flow_time_by_root_finding():
    for ratio in (0.05, 0.8, 30.0):
        amplitudes = {
            "linear": lambda s: (1 - s, s),
            "gvp": lambda s: (math.cos(s * math.pi / 2), math.sin(s * math.pi / 2)),
        }
        for path, at in amplitudes.items():
            s = optimize.brentq(lambda s, at, ratio: at(s)[1] - ratio * at(s)[0], 0, 1, args=(at, ratio), xtol=1e-15)
            assert noise.Flow(path)._time(ratio) == pytest.approx(s, rel=1e-12)
            assert noise.Flow(path, data_at=1, scale=1000)._time(ratio) == pytest.approx(1000 * (1 - s), rel=1e-12)


def test_flow_ends():
    for law, image in ((noise.Flow(scale=1000), 0), (noise.SiT(), 1), (noise.SiT("gvp"), 1)):
        with pytest.raises(ValueError, match="the image alone"):
            law.sigmas_at([image])
        with pytest.raises(ValueError, match="noise alone"):
            law.sigmas_at([law.scale - image])
        with pytest.raises(ValueError, match=r"t goes from 0 to 1.*, and times\[0\]"):
            law.sigmas_at([law.scale * 1.01])
    # SiT's VP path ends before noise alone.
    assert noise.SiT("vp").sigmas_at([0]) == pytest.approx([math.sqrt(math.expm1(10.05))])
    with pytest.raises(ValueError, match="ratios from 0 to 152"):
        noise.SiT("vp").levels([153.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "cosine"}, "path 'cosine' is none of"),
        ({"data_at": 2}, "data_at must be 0 or 1"),
        ({"scale": 0}, "scale must be positive"),
    ],
)
def test_flow_options(options, message):
    with pytest.raises(ValueError, match=message):
        noise.Flow(**options)


def test_times_too_large_for_a_number_are_noise_alone():
    for law in (noise.EDM(), noise.VE(), noise.VP()):
        with pytest.raises(ValueError, match="noise alone"):
            law.sigmas_at([1e6])


# ---- diffusers -------------------------------------------------------------------------------------------------------


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


def test_clean_takes_tensors_and_levels(draws):
    x0, z = as_tensors(draws)
    assert noise.Clean()(x0, z, noise.Level(1.0, 0.0)) == (x0, {})
