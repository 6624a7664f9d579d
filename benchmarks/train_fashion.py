"""Train the example denoiser on Fashion-MNIST and write the files that ship in icrkit/data.

    python benchmarks/train_fashion.py --out runs/fashion

writes ``curve.csv`` (training and held-out loss over steps), a checkpoint at every row of it, and at the
end ``fashion_denoiser.onnx`` (two layers as outputs), ``fashion_denoiser.npz`` (all weights) and
``fashion_images.npz`` (2,000 training and 1,000 test images).

The images are idx files: Debian's package ``dataset-fashion-mnist`` installs them, and ``--data`` names
their folder; ``--data openml`` asks OpenML instead. Needs the ``torch`` and ``onnx`` extras.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import click
import numpy as np
import torch

from icrkit_extractors.models.denoiser import SmallUNet, edm_loss, train

LAYERS = ("mid", "dec.16x16_block0")
N_SHIPPED = {"train": 2000, "test": 1000}


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes."""
    raw = gzip.decompress(path.read_bytes())
    n_dims = raw[3]
    shape = np.frombuffer(raw, ">u4", count=n_dims, offset=4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * n_dims).reshape(shape)


def read_fashion(data: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (n, 28, 28) uint8 and labels of the two splits."""
    if data == "openml":
        from sklearn.datasets import fetch_openml

        x, y = fetch_openml("Fashion-MNIST", version=1, return_X_y=True, as_frame=False)
        x, y = x.reshape(-1, 28, 28).astype(np.uint8), y.astype(np.uint8)
        return {"train": (x[:60000], y[:60000]), "test": (x[60000:], y[60000:])}
    names = {"train": "train", "test": "t10k"}
    return {
        split: (
            read_idx(Path(data) / f"{name}-images-idx3-ubyte.gz"),
            read_idx(Path(data) / f"{name}-labels-idx1-ubyte.gz"),
        )
        for split, name in names.items()
    }


def shrink(images: np.ndarray) -> np.ndarray:
    """2 x 2 mean-pooled to 14 x 14, padded with black to 16 x 16, uint8, with a channel axis."""
    pooled = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
    return np.pad(np.rint(pooled).astype(np.uint8), ((0, 0), (1, 1), (1, 1)))[:, None]


def to_unit(images: np.ndarray) -> np.ndarray:
    """From uint8 to float32 in [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0


@torch.inference_mode()
def fixed_loss(net: SmallUNet, images: np.ndarray, seed: int = 1) -> float:
    """Mean loss with the same draws at every call, so that two steps differ by the network alone."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.from_numpy(to_unit(images))
    log_sigma = -1.2 + 1.2 * torch.randn(len(x0), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    parts = [edm_loss(net, *batch) for batch in zip(x0.split(250), log_sigma.split(250), noise.split(250), strict=True)]
    return float(torch.cat(parts).mean())


def export_onnx(net: SmallUNet, path: Path) -> None:
    """Write the network up to the last of LAYERS, each layer an output of its own name."""
    modules = dict(net.named_modules())

    class Cut(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
            seen: dict[str, torch.Tensor] = {}

            def keeper(name: str):
                return lambda module, args, output: seen.__setitem__(name, output)

            handles = [modules[name].register_forward_hook(keeper(name)) for name in LAYERS]
            self.net(x, c_noise)
            for handle in handles:
                handle.remove()
            return tuple(seen[name] for name in LAYERS)

    example = (torch.zeros(2, 1, 16, 16), torch.zeros(2))
    torch.onnx.export(
        Cut().eval(),
        example,
        str(path),
        input_names=["x", "c_noise"],
        output_names=list(LAYERS),
        dynamic_axes={name: {0: "n"} for name in ("x", "c_noise", *LAYERS)},
        opset_version=17,
        dynamo=False,
    )


@click.command()
@click.option("--data", default="/usr/share/datasets/fashion-mnist", help="Folder of the idx files, or 'openml'.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--steps", default=12000, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(data: str, out: Path, steps: int, threads: int) -> None:
    """Train, with a row of the curve and a checkpoint at 24 steps a factor 1.4 apart."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    splits = {name: (shrink(x), y) for name, (x, y) in read_fashion(data).items()}
    rows = []

    def report(step: int, ema: SmallUNet, loss: float) -> None:
        row = {
            "step": step,
            "loss_running": round(loss, 5),
            "loss_train": round(fixed_loss(ema, splits["train"][0][:4000]), 5),
            "loss_heldout": round(fixed_loss(ema, splits["test"][0][:4000]), 5),
        }
        rows.append(row)
        click.echo(row)
        with (out / "curve.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows(rows)
        torch.save(ema.state_dict(), out / f"step-{step:06d}.pt")

    stops = tuple(sorted({round(steps / 1.4**k) for k in range(20)}))
    net = SmallUNet().to(memory_format=torch.channels_last)
    ema = train(net, to_unit(splits["train"][0]), n_steps=steps, report=report, report_steps=stops)

    export_onnx(ema, out / "fashion_denoiser.onnx")
    weights = {name: value.contiguous().numpy() for name, value in ema.state_dict().items()}
    np.savez_compressed(out / "fashion_denoiser.npz", **weights)
    arrays = {}
    for name, n in N_SHIPPED.items():
        arrays[f"{name}_images"], arrays[f"{name}_labels"] = splits[name][0][:n], splits[name][1][:n]
    np.savez_compressed(out / "fashion_images.npz", **arrays)


if __name__ == "__main__":
    main()
