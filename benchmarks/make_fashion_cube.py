"""Make the cube that ships in icrkit/data: features of the example denoiser on 500 test images.

    python benchmarks/make_fashion_cube.py

extracts the bottleneck at the demo's noise levels from the first 500 test images and packs them, as float16, into
``icrkit/data/fashion_cube.h5``. The draws are those of ``icrkit demo``: the features are part of what it extracts.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np

import icrkit as ik
from icrkit.demo import SIGMAS
from icrkit.io import pack
from icrkit_extractors import OnnxSource, extract, noise, views

N_IMAGES = 500


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=ik.datasets.data_path("fashion_cube.h5"))
def main(out: Path) -> None:
    """Extract, store as float16, pack."""
    data = ik.datasets.load_fashion_images("test")
    source = OnnxSource(ik.datasets.data_path("fashion_denoiser.onnx"), layers=["mid"])
    cube = extract(
        source,
        data.images[:N_IMAGES],
        SIGMAS,
        noise=noise.EDM(),
        views=views.Fashion(),
        labels=data.labels[:N_IMAGES],
        image_ids=[f"test-{i}" for i in range(N_IMAGES)],
    )
    features = cube["mid"].to_numpy().astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "fashion.cube"
        with ik.CubeWriter(
            store,
            layers={"mid": features.shape[3]},
            sigmas=cube.sigmas,
            n_views=cube.n_views,
            n_images=len(cube),
            dtype="float16",
            attrs=cube.attrs,
        ) as writer:
            writer.append(cube.image_ids, {"mid": features}, labels=cube.labels)
        out.unlink(missing_ok=True)
        click.echo(f"{pack(store, out)}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
