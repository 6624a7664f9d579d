"""What is on disk: info, verify, pack, repair."""

from __future__ import annotations

import math
import warnings
from typing import Any

import click

from icrkit._text import count, strict_json
from icrkit.cli._echo import say, say_json
from icrkit.exceptions import CubeIncompleteError

__all__ = ["COMMANDS"]


# A part that is damaged inside goes unseen by these.
_READ = "names, shapes and sizes, no features"


@click.command(short_help="What a cube holds.")
@click.argument("path", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(path: str, as_json: bool) -> None:
    """What the cube at PATH holds, without reading its features."""
    from icrkit import io

    state = "complete"
    try:
        cube = io.open_cube(path, verify="size")
    except CubeIncompleteError:
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            cube = io.open_cube(path, allow_partial=True, verify="size")
        state = "; ".join(str(one.message) for one in given)
    facts: dict[str, Any] = {
        "path": path,
        "state": state,
        "n_images": cube.n_images,
        "n_views": cube.n_views,
        "sigmas": cube.sigmas.tolist(),
        "layers": cube.n_features,
        "dtype": str(cube[cube.layers[0]].dtype),
        "labels": cube.labels is not None,
        "step": cube.step,
        "read": _READ,
        "attrs": cube.attrs,
    }
    if as_json:
        say_json(facts)
        return
    levels = facts["sigmas"]
    sizes = " x ".join((count(cube.n_images, "image"), count(cube.n_views, "view"), count(len(levels), "level")))
    say(f"{path}: {sizes}, {facts['dtype']}")
    lines = {
        "state": " ".join(state.split()),
        "layers": ", ".join(f"{name} ({d} features)" for name, d in cube.n_features.items()),
        "sigmas": ", ".join("not recorded" if math.isnan(sigma) else f"{sigma:g}" for sigma in levels),
        "labels": "yes" if facts["labels"] else "no",
        "read": f"{_READ}; icrkit verify reads every byte of a store or a packed file",
        **{name: value for name, value in cube.attrs.items() if name not in ("layers", "n_views")},
    }
    for name, value in lines.items():
        say(f"  {name}: {value if isinstance(value, str) else strict_json(value, indent=None)}")


@click.command()
@click.argument("path", type=click.Path())
def verify(path: str) -> None:
    """Hash every byte of the cube at PATH again."""
    from icrkit import io

    blocks = io.verify(path)
    say(f"{path}: {blocks} {'block' if blocks == 1 else 'blocks'}, all as they were written")


@click.command()
@click.argument("path", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace OUT also where it was not made by pack.")
def pack(path: str, out: str, overwrite: bool) -> None:
    """Put the store at PATH into one file OUT (.h5)."""
    from icrkit import io

    say(io.pack(path, out, overwrite=overwrite))


@click.command(short_help="Mend the manifest of a damaged store.")
@click.argument("path", type=click.Path())
def repair(path: str) -> None:
    """Mend the manifest of the store at PATH, and give up blocks that were lost or changed.

    The next extraction writes these blocks again, with whatever features come.
    """
    from icrkit import io

    found = io.repair(path)
    left = found.n_blocks - found.n_whole
    say(f"{path}: {found.n_whole} of {found.n_blocks} blocks are whole; {found.n_dropped} manifest lines left out")
    if left:
        say(f"{left} blocks are to be written: run the extraction again.")


COMMANDS = (info, verify, pack, repair)
