"""Train a small DDPM on Fashion-MNIST with the classes of diffusers and write the folder that ships in icrkit/data.

    python benchmarks/train_fashion_ddpm.py --out runs/fashion_ddpm

writes ``curve.csv`` (training and held-out loss of the averaged weights over steps) and, at every row of it, a
pipeline folder ``step-NNNNNN``: ``unet/``, ``scheduler/`` and ``model_index.json``, as ``DDPMPipeline`` saves them.
The learning rate is constant after its warm-up, so a run stopped after n steps is the run of n steps.

The images are those of ``train_fashion.py``: idx files of Debian's package ``dataset-fashion-mnist``, 28 x 28 pixels
reduced to 16 x 16. Needs the ``diffusers`` extra.
"""

from __future__ import annotations

import copy
import csv
import time
from pathlib import Path

import click
import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor
from train_fashion import read_fashion, shrink, to_unit

N_FIXED = 2000


def make_network() -> UNet2DModel:
    """Two resolutions, a residual block in each and attention at half resolution: 0.35 million parameters."""
    return UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 40),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
    )


def noise_loss(net: UNet2DModel, scheduler: DDPMScheduler, x0: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the predicted noise (Ho et al. 2020, arXiv 2006.11239, eq. 14), one value an image."""
    output = net(scheduler.add_noise(x0, noise, timestep), timestep).sample
    return (output - noise).square().mean(dim=(1, 2, 3))


@torch.inference_mode()
def fixed_loss(net: UNet2DModel, scheduler: DDPMScheduler, x0: Tensor, seed: int = 1) -> float:
    """Mean loss with the same draws at every call, so that two steps differ by the network alone."""
    generator = torch.Generator().manual_seed(seed)
    timestep = torch.randint(scheduler.config.num_train_timesteps, (len(x0),), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    batches = zip(x0.split(250), timestep.split(250), noise.split(250), strict=True)
    return float(torch.cat([noise_loss(net, scheduler, *batch) for batch in batches]).mean())


@click.command()
@click.option("--data", default="/usr/share/datasets/fashion-mnist", help="Folder of the idx files, or 'openml'.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--steps", default=20000, show_default=True)
@click.option("--minutes", default=float("inf"), help="Stop after this wall time, at the end of a row of the curve.")
@click.option("--every", default=500, show_default=True, help="Steps between two rows of the curve.")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--ema-decay", default=0.999, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(
    data: str,
    out: Path,
    steps: int,
    minutes: float,
    every: int,
    batch_size: int,
    learning_rate: float,
    ema_decay: float,
    threads: int,
) -> None:
    """Train with Adam; the average of the weights is what is measured and saved."""
    begun = time.monotonic()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    images = {name: torch.from_numpy(to_unit(shrink(x))) for name, (x, _) in read_fashion(data).items()}
    net, scheduler = make_network(), DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    ema = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate, betas=(0.9, 0.99))
    rows, losses = [], []
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, step / 200)
        x0 = images["train"][torch.randint(len(images["train"]), (batch_size,), generator=generator)]
        timestep = torch.randint(scheduler.config.num_train_timesteps, (batch_size,), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        loss = noise_loss(net, scheduler, x0, timestep, noise).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        # The average is shorter early, while the weights still move far from where they began.
        decay = min(ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for averaged, current in zip(ema.parameters(), net.parameters(), strict=True):
                averaged.lerp_(current, 1 - decay)
        losses.append(float(loss.detach()))
        if step % every and step != steps:
            continue
        row = {
            "step": step,
            "seconds": round(time.monotonic() - begun),
            "loss_running": round(float(np.mean(losses)), 5),
            "loss_train": round(fixed_loss(ema, scheduler, images["train"][:N_FIXED]), 5),
            "loss_heldout": round(fixed_loss(ema, scheduler, images["test"][:N_FIXED]), 5),
        }
        rows.append(row)
        losses = []
        click.echo(row)
        # Saved under another name first: a folder step-* is always whole.
        partial = out / "partial"
        DDPMPipeline(unet=ema, scheduler=scheduler).save_pretrained(partial)
        partial.rename(out / f"step-{step:06d}")
        with (out / "curve.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows(rows)
        if time.monotonic() - begun > 60 * minutes:
            break


if __name__ == "__main__":
    main()
