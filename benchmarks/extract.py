"""Speed of extraction, as a ratio to a bare loop over a network that was cut by hand.

    python benchmarks/extract.py

Two networks, the demo's denoiser (16 x 16) and a diffusers UNet2DModel of about 10 million parameters (32 x 32), each
up to its bottleneck: the bare loop calls the modules up to there itself, `TorchSource` runs the module and leaves it
early, and full forwards with a hook are what one would write without either. Then the whole of `extract`, with views
and noise, against the bare loop over inputs from the same views and draws, made beforehand. Everything runs in turn,
several rounds in one process, and each ratio is taken within its round, so that a noisy machine moves both sides.
Writes ``benchmarks/results/extract.csv``.
"""

from __future__ import annotations

import csv
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn

import icrkit as ik
from icrkit_extractors import noise, views
from icrkit_extractors._torch import TorchSource
from icrkit_extractors.models.denoiser import SmallUNet

RESULTS = Path(__file__).parent / "results" / "extract.csv"
SIGMAS = (0.02, 0.035, 0.06, 0.1, 0.2, 0.35, 0.6, 1.0)
N_VIEWS = 2


@dataclass(frozen=True)
class Case:
    """A network, its bottleneck, and the same up to there by hand."""

    name: str
    module: nn.Module
    layer: str
    shape: tuple[int, int, int]
    images: int
    cut: Callable[[Any, Tensor, Tensor], Tensor]
    call: Callable[[Any, Tensor, Mapping[str, Tensor]], object]


def cut_demo(net: Any, x: Tensor, c_noise: Tensor) -> Tensor:
    """The demo's denoiser up to ``mid``."""
    emb = net.embedding(c_noise)
    h = net.enc["16x16_block0"](net.conv_in(x), emb)
    return net.mid(net.enc["8x8_block0"](net.enc["8x8_down"](h), emb), emb)


def cut_diffusers(net: Any, x: Tensor, c_noise: Tensor) -> Tensor:
    """A UNet2DModel up to ``mid_block``."""
    emb = net.time_embedding(net.time_proj(c_noise))
    h = net.conv_in(x)
    for block in net.down_blocks:
        h, _ = block(hidden_states=h, temb=emb)
    return net.mid_block(h, emb)


def demo() -> Case:
    """The demo's denoiser with its trained weights."""
    net = SmallUNet().eval()
    with np.load(ik.datasets.data_path("fashion_denoiser.npz")) as arrays:
        net.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    return Case("demo U-Net", net, "mid", (1, 16, 16), 512, cut_demo, lambda net, x, given: net(x, given["c_noise"]))


def diffusers() -> Case:
    """A UNet2DModel from its configuration, weights at random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import UNet2DModel

        torch.manual_seed(0)
        net = UNet2DModel(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            layers_per_block=2,
            block_out_channels=(64, 128, 192),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        ).eval()
    call = lambda net, x, given: net(x, given["c_noise"])  # noqa: E731
    return Case("diffusers UNet2DModel", net, "mid_block", (3, 32, 32), 32, cut_diffusers, call)


CASES = {"demo": demo, "diffusers": diffusers}


def bare(case: Case, x: Tensor, c_noise: Tensor) -> np.ndarray:
    """Features of one batch by the network cut by hand."""
    with torch.inference_mode():
        return case.cut(case.module, x, c_noise).mean(dim=(2, 3)).numpy()


def full(case: Case, x: Tensor, c_noise: Tensor) -> np.ndarray:
    """Features of one batch by a whole forward pass and a hook."""
    seen: list[np.ndarray] = []
    handle = case.module.get_submodule(case.layer).register_forward_hook(
        lambda module, args, output: seen.append(output.mean(dim=(2, 3)).numpy())
    )
    with torch.inference_mode():
        case.call(case.module, x, {"c_noise": c_noise})
    handle.remove()
    return seen[0]


def source_of(case: Case) -> TorchSource:
    """The source that is measured."""
    return TorchSource(case.module, [case.layer], call=case.call)


def inputs(case: Case, batch: int) -> tuple[Tensor, Tensor]:
    """One batch of noise, and its conditioning."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((batch, *case.shape), generator=generator), torch.linspace(-0.7, 0, batch)


def layer_contenders(case: Case, batch: int) -> dict[str, Callable[[], object]]:
    """One batch through the layer, three ways."""
    x, c_noise = inputs(case, batch)
    source = source_of(case)
    return {
        "bare loop, cut by hand": lambda: bare(case, x, c_noise),
        "TorchSource": lambda: source(x, {"c_noise": c_noise}),
        "full forwards with a hook": lambda: full(case, x, c_noise),
    }


def whole_contenders(case: Case, n_images: int, batch: int) -> dict[str, Callable[[], object]]:
    """A cube of all images, views and levels in memory: by hand from views made beforehand, and by extract."""
    from icrkit_extractors import extract

    images = np.random.default_rng(0).integers(0, 256, (n_images, *case.shape), dtype=np.uint8)
    law, augment, source = noise.EDM(), views.Paper(level=3), source_of(case)
    clean = [torch.from_numpy(augment(images, range(n_images), view, 0)) for view in range(N_VIEWS)]
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(clean[0].shape, generator=generator) for _ in range(N_VIEWS)]
    width = bare(case, *inputs(case, 1)).shape[1]

    def by_hand() -> np.ndarray:
        cube = np.empty((n_images, N_VIEWS, len(SIGMAS), width), np.float32)
        for start in range(0, n_images, batch):
            rows = slice(start, min(start + batch, n_images))
            for view in range(N_VIEWS):
                for k, sigma in enumerate(SIGMAS):
                    x = (clean[view][rows] + sigma * draws[view][rows]) / (sigma**2 + 0.25) ** 0.5
                    cube[rows, view, k] = bare(case, x, torch.full((len(x),), float(np.log(sigma) / 4)))
        return cube

    def by_extract() -> ik.Cube:
        return extract(
            source,
            images,
            SIGMAS,
            noise=law,
            views=augment,
            n_views=N_VIEWS,
            seed=0,
            batch_size=batch,
            progress=False,
        )

    return {"bare loop over all views and levels": by_hand, "extract, in memory": by_extract}


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(contenders: Mapping[str, Callable[[], object]], n_inputs: int, rounds: int) -> list[dict[str, object]]:
    """Median throughput of each contender, and its ratio to the first one's."""
    for work in contenders.values():
        work()
    times = np.array([[seconds(work) for work in contenders.values()] for _ in range(rounds)])
    rows: list[dict[str, object]] = [
        {"what": name, "inputs_per_second": round(n_inputs / s, 1), "relative_speed": round(ratio, 3)}
        for name, s, ratio in zip(
            contenders, np.median(times, axis=0), np.median(times[:, :1] / times, axis=0), strict=True
        )
    ]
    if times.shape[1] == 3:
        gain = float(np.median(times[:, 2] / times[:, 1]))
        rows.append({"what": "TorchSource to full forwards", "inputs_per_second": "", "relative_speed": round(gain, 3)})
    return rows


@click.command()
@click.option("--network", "networks", type=click.Choice(list(CASES)), multiple=True, default=tuple(CASES))
@click.option("--images", type=int, help="Images of the whole extraction; 512 of the demo's, 32 of the large network.")
@click.option("--batch", default=32, show_default=True)
@click.option("--rounds", default=15, show_default=True, help="Of single batches; whole extractions run a third of it.")
@click.option("--threads", default=(1, 2), multiple=True, show_default=True, help="Torch threads; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(
    networks: tuple[str, ...], images: int | None, batch: int, rounds: int, threads: tuple[int, ...], out: Path
) -> None:
    """Measure, print and write the table."""
    cases = [CASES[name]() for name in networks]
    before, rows = torch.get_num_threads(), []
    for n in threads:
        torch.set_num_threads(n)
        for case in cases:
            single = measure(layer_contenders(case, batch), batch, rounds)
            n_images = images or case.images
            n_inputs = n_images * N_VIEWS * len(SIGMAS)
            whole = measure(whole_contenders(case, n_images, batch), n_inputs, max(1, rounds // 3))
            size = sum(parameter.numel() for parameter in case.module.parameters())
            for row in single + whole:
                row = {"network": case.name, "parameters": size, "threads": n, "batch": batch, **row}
                rows.append(row)
                click.echo("  ".join(f"{key}={value}" for key, value in row.items()))
    torch.set_num_threads(before)
    click.echo(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
