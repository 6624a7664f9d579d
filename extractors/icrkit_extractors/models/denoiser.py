"""A small EDM denoiser: the network behind the example cubes, the loop that trains it, and its sampler.

Source: Karras et al. 2022, arXiv 2206.00364: preconditioning and loss weight (table 1), noise levels
drawn log-normally (table 1, "Training"), the deterministic sampler (algorithm 1). The U-Net has two
resolutions and about 0.4 million parameters, so that it trains on a laptop's processor in half an hour.

Module names follow the EDM code (``enc``, ``mid``, ``dec`` with the resolution and the block number),
so that a layer of this network is named as a layer of a large one.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SmallUNet", "edm_loss", "held_out_loss", "noise_levels", "one_thread", "sample", "seeded_unet", "train"]

# Images in one forward pass where there is no gradient.
_BATCH = 256


class _NoiseEmbedding(nn.Module):
    """Sinusoids of c_noise = log(sigma)/4, then two linear layers."""

    def __init__(self, width: int, n_frequencies: int = 32) -> None:
        super().__init__()
        # c_noise runs from about -2 to 1: periods from 8 down to 1/4 resolve it.
        frequencies = 2 * math.pi * torch.logspace(-3, 2, n_frequencies, base=2.0)
        self.register_buffer("frequencies", frequencies)
        self.layers = nn.Sequential(nn.Linear(2 * n_frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, c_noise: Tensor) -> Tensor:
        angles = c_noise[:, None] * self.frequencies[None, :]
        return self.layers(torch.cat([angles.cos(), angles.sin()], dim=1))


class _Block(nn.Module):
    """Residual block: two 3 x 3 convolutions, the noise level enters as scale and shift between them."""

    def __init__(self, c_in: int, c_out: int, width: int) -> None:
        super().__init__()
        self.norm0 = nn.GroupNorm(8, c_in)
        self.conv0 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.affine = nn.Linear(width, 2 * c_out)
        self.norm1 = nn.GroupNorm(8, c_out)
        self.conv1 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv1.weight)
        nn.init.zeros_(self.conv1.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        scale, shift = self.affine(F.silu(emb))[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(h) * (1 + scale) + shift))
        return (self.skip(x) + h) * math.sqrt(0.5)


class SmallUNet(nn.Module):
    """U-Net of two resolutions: the raw network F of EDM, inside its preconditioning.

    Parameters
    ----------
    channels : int
        Image channels.
    resolution : int
        Height and width of the images in pixels; even.
    width : int
        Channels at full resolution; twice as many at half resolution. 32 gives 0.4 M parameters.

    Notes
    -----
    ``forward(x, c_noise)`` takes the scaled input c_in * x, shape (n, channels, resolution,
    resolution), and c_noise, shape (n,). Layers worth extracting: ``mid`` (half resolution,
    2 * width features) and ``dec.<resolution>x<resolution>_block0`` (width features).
    """

    def __init__(self, channels: int = 1, resolution: int = 16, width: int = 32) -> None:
        super().__init__()
        emb = 4 * width
        full, half = f"{resolution}x{resolution}", f"{resolution // 2}x{resolution // 2}"
        self.embedding = _NoiseEmbedding(emb)
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.enc = nn.ModuleDict(
            {
                f"{full}_block0": _Block(width, width, emb),
                f"{half}_down": nn.Conv2d(width, width, 3, stride=2, padding=1),
                f"{half}_block0": _Block(width, 2 * width, emb),
            }
        )
        self.mid = _Block(2 * width, 2 * width, emb)
        self.dec = nn.ModuleDict(
            {
                f"{half}_block0": _Block(4 * width, 2 * width, emb),
                f"{full}_up": nn.Conv2d(2 * width, width, 3, padding=1),
                f"{full}_block0": _Block(2 * width, width, emb),
                f"{full}_block1": _Block(2 * width, width, emb),
            }
        )
        self.norm_out = nn.GroupNorm(8, width)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        self._full, self._half = full, half

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        full, half = self._full, self._half
        emb = self.embedding(c_noise)
        x0 = self.conv_in(x)
        x1 = self.enc[f"{full}_block0"](x0, emb)
        x2 = self.enc[f"{half}_block0"](self.enc[f"{half}_down"](x1), emb)
        h = self.mid(x2, emb)
        h = self.dec[f"{half}_block0"](torch.cat([h, x2], dim=1), emb)
        h = self.dec[f"{full}_up"](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.dec[f"{full}_block0"](torch.cat([h, x1], dim=1), emb)
        h = self.dec[f"{full}_block1"](torch.cat([h, x0], dim=1), emb)
        return self.conv_out(F.silu(self.norm_out(h)))


def seeded_unet(*, channels: int = 1, resolution: int = 16, width: int = 32, seed: int = 0) -> SmallUNet:
    """A new network whose weights depend on the seed alone; torch's own random state is left as it was.

    Parameters
    ----------
    channels, resolution, width : int
        As of `SmallUNet`.
    seed : int

    Returns
    -------
    SmallUNet
        In the memory format channels_last, in which convolutions of few channels are fastest.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallUNet(channels, resolution, width).to(memory_format=torch.channels_last)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread inside, and on as many as before afterwards.

    For networks as small as these more threads gain little, lose much where other work shares the processor, and round
    their sums in another order: on one thread a training takes the same course whatever the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def edm_loss(net: nn.Module, x0: Tensor, log_sigma: Tensor, noise: Tensor, sigma_data: float = 0.5) -> Tensor:
    """Weighted denoising error of EDM, one value an image (Karras et al. 2022, eq. 2 and table 1).

    Parameters
    ----------
    net : module
        Raw network F(c_in x, c_noise).
    x0 : Tensor (n, channels, height, width)
        Clean images in [-1, 1].
    log_sigma : Tensor (n,)
        Natural logarithm of the noise level of each image.
    noise : Tensor, shaped like x0
        Standard normal draws.
    sigma_data : float
        Standard deviation of the data.

    Returns
    -------
    Tensor (n,)
        lambda(sigma) ||D(x0 + sigma noise; sigma) - x0||^2 per pixel.
    """
    sigma = log_sigma.exp()[:, None, None, None]
    total = sigma**2 + sigma_data**2
    x = x0 + sigma * noise
    # D = c_skip x + c_out F, and lambda = 1/c_out^2: the error in units of F.
    target = (x0 - sigma_data**2 / total * x) * total.sqrt() / (sigma * sigma_data)
    output = net(x / total.sqrt(), log_sigma / 4)
    return (output.float() - target).square().mean(dim=(1, 2, 3))


def train(
    net: SmallUNet,
    images: np.ndarray,
    *,
    n_steps: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    ema_decay: float = 0.999,
    log_sigma_mean: float = -1.2,
    log_sigma_std: float = 1.2,
    seed: int = 0,
    report: Callable[[int, SmallUNet, float], None] | None = None,
    report_steps: Collection[int] = (),
) -> SmallUNet:
    """Train ``net`` as EDM does and return its exponential moving average.

    Parameters
    ----------
    net : SmallUNet
        Trained in place.
    images : ndarray (n, channels, height, width), float32
        Clean images in [-1, 1].
    n_steps, batch_size, learning_rate : int, int, float
        Adam; the rate warms up over 100 steps and falls along a cosine to a tenth.
    ema_decay : float
        Decay of the moving average, per step; shortened early, where ``(1+t)/(10+t)`` is smaller.
    log_sigma_mean, log_sigma_std : float
        Noise levels are log-normal with these parameters (natural logarithm).
    seed : int
        Seeds batches, levels and noise.
    report : callable (step, ema, mean training loss since the last report), optional
        Called after each step in ``report_steps``.

    Returns
    -------
    SmallUNet
        The averaged network, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    data = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    stops, losses = set(report_steps), []
    net.train()
    for step in range(1, n_steps + 1):
        rate = learning_rate * min(1.0, step / 100) * (0.55 + 0.45 * math.cos(math.pi * step / n_steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x0 = data[torch.randint(len(data), (batch_size,), generator=generator)]
        log_sigma = log_sigma_mean + log_sigma_std * torch.randn(batch_size, generator=generator)
        loss = edm_loss(net, x0, log_sigma, torch.randn(x0.shape, generator=generator)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        decay = min(ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for averaged, current in zip(ema.parameters(), net.parameters(), strict=True):
                averaged.lerp_(current, 1 - decay)
        losses.append(float(loss.detach()))
        if report is not None and step in stops:
            report(step, ema, float(np.mean(losses)))
            losses = []
    return ema


@torch.inference_mode()
def held_out_loss(
    net: nn.Module,
    images: np.ndarray,
    *,
    n_draws: int = 4,
    log_sigma_mean: float = -1.2,
    log_sigma_std: float = 1.2,
    sigma_data: float = 0.5,
    seed: int = 1,
) -> float:
    """Mean training loss on images that do not train the network, under the same draws at every call.

    Parameters
    ----------
    net : module
        Raw network F(c_in x, c_noise).
    images : ndarray (n, channels, height, width), float32
        Clean images in [-1, 1].
    n_draws : int
        Levels and noise drawn for each image.
    log_sigma_mean, log_sigma_std : float
        Of the log-normal noise levels, as in `train`.
    sigma_data : float
        Standard deviation of the data, as the preconditioning has it.
    seed : int
        Of levels and noise. With one seed two networks differ by themselves alone.

    Returns
    -------
    float
        Mean of `edm_loss` over images and draws.
    """
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    total = 0.0
    for _ in range(n_draws):
        log_sigma = log_sigma_mean + log_sigma_std * torch.randn(len(x0), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        for batch in zip(x0.split(_BATCH), log_sigma.split(_BATCH), noise.split(_BATCH), strict=True):
            total += float(edm_loss(net, *batch, sigma_data).double().sum())
    return total / (n_draws * len(x0))


def noise_levels(n_steps: int = 18, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> np.ndarray:
    """Noise levels of a sampler's steps, falling, with a zero at the end (Karras et al. 2022, eq. 5).

    Parameters
    ----------
    n_steps : int
        Two or more.
    sigma_min, sigma_max : float
        Last level above zero, and the first.
    rho : float
        How much shorter steps are near ``sigma_min``; 1 is uniform.

    Returns
    -------
    ndarray (n_steps + 1,), float64

    Raises
    ------
    ValueError
        If there are fewer than two steps, or the levels do not fall.
    """
    if n_steps < 2:
        raise ValueError(f"n_steps must be 2 or more, not {n_steps}")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"levels must have 0 < sigma_min < sigma_max, not {sigma_min} and {sigma_max}")
    share = np.arange(n_steps) / (n_steps - 1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.append((high + share * (low - high)) ** rho, 0.0)


@torch.inference_mode()
def sample(
    net: nn.Module,
    n: int,
    *,
    shape: tuple[int, int, int],
    n_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    sigma_data: float = 0.5,
    seed: int = 0,
) -> np.ndarray:
    """Images that the network generates: the deterministic second-order sampler of EDM.

    Parameters
    ----------
    net : module
        Raw network F(c_in x, c_noise).
    n : int
        Images.
    shape : (channels, height, width)
        Of one image.
    n_steps : int
        Steps; the network is called ``2 n_steps - 1`` times.
    sigma_min, sigma_max : float
        Levels of the last step that is not to zero, and of the start.
    sigma_data : float
        Standard deviation of the data, as the preconditioning has it.
    seed : int
        Of the noise that images begin as.

    Returns
    -------
    ndarray (n, channels, height, width), float32
        About in [-1, 1]; not clipped.

    Raises
    ------
    ValueError
        If there are fewer than two steps, or the levels do not fall.

    Notes
    -----
    Heun's method on dx/dsigma = (x - D(x; sigma))/sigma, D = c_skip x + c_out F(c_in x; log(sigma)/4), with an Euler
    step at the end (Karras et al. 2022, algorithm 1, at the levels of eq. 5). The state is float64, the network has its
    own precision. The error falls with the square of the number of steps.
    """
    sigmas = noise_levels(n_steps, sigma_min, sigma_max)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((n, *shape), generator=generator, dtype=torch.float64) * sigmas[0]
    parts = []
    for x in start.split(_BATCH):
        for now, after in itertools.pairwise(sigmas):
            slope = (x - _denoised(net, x, now, sigma_data)) / now
            ahead = x + (after - now) * slope
            if after > 0:
                slope = (slope + (ahead - _denoised(net, ahead, after, sigma_data)) / after) / 2
                ahead = x + (after - now) * slope
            x = ahead
        parts.append(x)
    return torch.cat(parts).float().numpy()


def _denoised(net: nn.Module, x: Tensor, sigma: float, sigma_data: float) -> Tensor:
    """D(x; sigma), float64: the preconditioning of table 1 around the network."""
    total = sigma**2 + sigma_data**2
    level = torch.full((len(x),), math.log(sigma) / 4, dtype=torch.float32)
    output = net((x / math.sqrt(total)).float(), level)
    return (sigma_data**2 / total) * x + (sigma * sigma_data / math.sqrt(total)) * output.double()
