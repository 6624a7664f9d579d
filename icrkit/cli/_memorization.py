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
    help="Cosine similarity above which an image is a copy: 0.6 for SSCD features.",
)
@click.option("--unseen", type=click.Path(), help="Real images that did not train the network: they set the threshold.")
@click.option(
    "--false-alarms",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Share of --unseen images that count as copies.",
)
@click.option("--layer", metavar="NAME", help="Layer of cubes that have several.")
@click.option("--sigma", type=float, help="Noise level of cubes that have several.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def memorization(
    generated: str,
    training: str,
    threshold: float | None,
    unseen: str | None,
    false_alarms: float,
    layer: str | None,
    sigma: float | None,
    as_json: bool,
) -> None:
    """Share of GENERATED images that copy one of TRAINING.

    Both are cubes, or files of features: .npy, .npz, .safetensors, .pt; a two-dimensional array holds one image a row.
    What similarity is that of a copy depends on the encoder: give --threshold where you know it, as for SSCD, a
    copy-detection network, or --unseen. Where both are the same file, no image is compared with itself.
    """
    if (threshold is None) == (unseen is None):
        raise click.UsageError(
            "say what counts as a copy: --threshold, which is 0.6 for SSCD features and means nothing for others, or "
            "--unseen, features of real images that the network was not trained on" + (", and not both" * bool(unseen))
        )
    from icrkit.metrics import MemorizationRatio

    same = os.path.exists(generated) and os.path.exists(training) and os.path.samefile(generated, training)
    reference = MemorizationRatio(threshold, exclude_self=same, false_alarms=false_alarms)
    reference.fit(_feature_set(training, layer, sigma))
    if unseen is not None:
        reference.calibrate(_feature_set(unseen, layer, sigma))
        threshold = reference.threshold_
    assert threshold is not None
    made = _feature_set(generated, layer, sigma)
    share = reference.evaluate(made)
    facts = {
        "memorization_ratio": share,
        "threshold": threshold,
        "false_alarms": None if unseen is None else false_alarms,
        "n_generated": len(reference.similarity_),
        "exclude_self": same,
        "ids": made.image_ids,
        "similarity": reference.similarity_,
        "nearest": reference.nearest_ids_,
    }
    if as_json:
        say_json(facts)
        return
    copies = int((reference.similarity_ > threshold).sum())
    say(f"memorization ratio {share:.4f}: {copies} of {facts['n_generated']} generated images are more similar")
    say(f"to a training image than {threshold:.4g}" + (", itself aside." if same else "."))
    if unseen is not None:
        say(f"Of the unseen images {false_alarms:.4g} are: a ratio near that is no sign of copies.")
    say()
    first = (-reference.similarity_).argsort(kind="stable")[:5]
    rows = [("most similar", "training", "similarity")]
    rows += [(str(made.image_ids[k]), str(reference.nearest_ids_[k]), f"{reference.similarity_[k]:.4f}") for k in first]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("   ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))


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
