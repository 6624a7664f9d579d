"""Memorization: which generated images copy a training image."""

from __future__ import annotations

import os
from typing import Any

import click

from icrkit.cli._echo import say, say_json
from icrkit.exceptions import CubeFormatError

__all__ = ["COMMANDS"]


@click.command()
@click.argument("generated", type=click.Path())
@click.argument("training", type=click.Path())
@click.option(
    "--threshold",
    type=click.FloatRange(-1, 1, max_open=True),
    default=0.6,
    show_default=True,
    help="Cosine similarity above which an image is a copy.",
)
@click.option("--layer", help="Layer of cubes that have several.")
@click.option("--sigma", type=float, help="Noise level of cubes that have several.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def memorization(
    generated: str, training: str, threshold: float, layer: str | None, sigma: float | None, as_json: bool
) -> None:
    """Share of GENERATED images that copy one of TRAINING.

    Both are cubes, or files of features: .npy, .npz, .safetensors, .pt; a two-dimensional array holds one image a row.
    Use an encoder made for the purpose: the threshold is that of SSCD, a copy-detection network, and means nothing with
    other features. Where both are the same file, no image is compared with itself.
    """
    from icrkit.metrics import MemorizationRatio

    same = os.path.exists(generated) and os.path.exists(training) and os.path.samefile(generated, training)
    reference = MemorizationRatio(threshold, exclude_self=same).fit(_feature_set(training, layer, sigma))
    share = reference.evaluate(_feature_set(generated, layer, sigma))
    facts = {
        "memorization_ratio": share,
        "threshold": threshold,
        "n_generated": len(reference.similarity_),
        "exclude_self": same,
        "similarity": reference.similarity_,
        "nearest": reference.nearest_ids_,
    }
    if as_json:
        say_json(facts)
        return
    copies = int((reference.similarity_ > threshold).sum())
    say(f"memorization ratio {share:.4f}: {copies} of {facts['n_generated']} generated images are more similar")
    say(f"to a training image than {threshold:g}" + (", itself aside." if same else "."))
    say()
    say("most similar   training   similarity")
    for k in (-reference.similarity_).argsort(kind="stable")[:5]:
        say(f"{k:>12}   {reference.nearest_ids_[k]!s:>8}   {reference.similarity_[k]:>10.4f}")


def _feature_set(path: str, layer: str | None, sigma: float | None) -> Any:
    """One layer of a cube at one level; a file of plain features has neither, and stands beside a cube as it is."""
    from icrkit.io import open_cube

    cube = open_cube(path)
    plain = len(cube.layers) == 1 and len(cube.sigmas) == 1 and cube.sigmas[0] != cube.sigmas[0]
    chosen = cube if plain else cube.select(layer=layer, sigma=sigma)
    several = {}
    if len(chosen.layers) > 1:
        several["--layer"] = f"layers {', '.join(chosen.layers)}"
    if len(chosen.sigmas) > 1:
        several["--sigma"] = f"noise levels {', '.join(f'{level:g}' for level in chosen.sigmas)}"
    if several:
        raise CubeFormatError(f"{path} has {' and '.join(several.values())}: choose one with {' and '.join(several)}")
    return chosen


COMMANDS = (memorization,)
