"""What curves say: sweep, course."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from icrkit.cli._echo import FIGURES, PAGES, check_targets, say_json, say_result, signs_of, spatial_sign_option
from icrkit.exceptions import CubeFormatError

__all__ = ["COMMANDS"]


@click.command(short_help="Which noise level and layer are cleanest.")
@click.argument("path", type=click.Path())
@click.option("--layer", metavar="NAME", help="Sweep this layer only.")
@click.option(
    "--criterion",
    type=click.Choice(["icr", "information"]),
    default="icr",
    show_default=True,
    help="What levels are ranked by.",
)
@click.option("--drop-constant", is_flag=True, help="Leave out dead units: constant, or nearly so.")
@spatial_sign_option
@click.option("--plot", type=click.Path(dir_okay=False), help="Write the curve: .png, .svg or .pdf.")
@click.option("--report", type=click.Path(dir_okay=False), help="Write a page: .html.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def sweep(
    path: str, layer: str | None, criterion: str, drop_constant: bool, spatial_sign: bool, plot: str | None,
    report: str | None, as_json: bool,
) -> None:  # fmt: skip
    """ICR and invariant information at every noise level of the cube at PATH, and the semantic window.

    Layers are compared by information. Levels outside the noise that the network was trained on, where the cube records
    it, are shown and not chosen.
    """
    from icrkit.io import open_cube
    from icrkit.report import Sweep, write_report

    check_targets({plot: FIGURES, report: PAGES})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "layer .* is left out", UserWarning)  # said with the result
        cube = signs_of(open_cube(path), spatial_sign)
        result = Sweep.of(cube, layer, criterion, drop_constant=drop_constant)
    if plot is not None:
        result.save_figure(plot)
    if report is not None:
        write_report(result, report)
    if as_json:
        say_json(result.to_dict())
        return
    say_result(result)


@click.command(short_help="Whether features turned while a network trained.")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option(
    "--criterion",
    type=click.Choice(["information", "icr"]),
    default="information",
    show_default=True,
    help="What the turn is called on.",
)
@click.option(
    "--layer", metavar="NAME", help="Layer that it is called on; by default the one with the most information."
)
@click.option("--sigma", type=float, help="Noise level that it is called on; by default the middle of training's.")
@click.option(
    "--warm-up", type=int, default=0, metavar="STEP", help="Checkpoints before this step take no part in the call."
)
@click.option("--drop-constant", is_flag=True, help="Leave out dead units: constant, or nearly so.")
@spatial_sign_option
@click.option("--plot", type=click.Path(dir_okay=False), help="Write the course: .png, .svg or .pdf.")
@click.option("--expansion", type=click.Path(dir_okay=False), help="Write both traces over the steps: .png, ...")
@click.option("--report", type=click.Path(dir_okay=False), help="Write a page: .html.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def course(
    paths: tuple[str, ...],
    plot: str | None,
    expansion: str | None,
    report: str | None,
    spatial_sign: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Information and ICR over the checkpoints at PATHS, and whether they have turned.

    PATHS are cubes of one training, of the same images under the same draws, or folders of them, as `icrkit extract`
    writes for several checkpoints. They are sorted by the step that each records. All layers and levels are read; one
    reading is not the network, and ICR alone may turn while a network still improves.
    """
    from icrkit.report import Course, write_report

    check_targets({plot: FIGURES, expansion: FIGURES, report: PAGES})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "layer .* is left out", UserWarning)  # said with the result
        cubes = (signs_of(cube, spatial_sign) for cube in _checkpoints(paths))
        result = Course.of(cubes, progress=not quiet, **options)
    if plot is not None:
        result.save_figure(plot)
    if expansion is not None:
        result.save_figure(expansion, expansion=True)
    if report is not None:
        write_report(result, report)
    if as_json:
        say_json(result.to_dict())
        return
    say_result(result)


def _checkpoints(paths: Iterable[str]) -> list[Any]:
    """Cubes by their step."""
    from icrkit.io import open_cube

    found: dict[int, tuple[Path, Any]] = {}
    for path in map(Path, paths):
        # A store is a folder too.
        inside = [] if (path / "cube.json").exists() else sorted(path.glob("step-*"))
        inside = [one for one in inside if one.suffix in (".cube", ".h5", ".hdf5", ".nc", ".nc4", ".zarr")]
        if path.is_dir() and not inside and path.suffix != ".zarr" and not (path / "cube.json").exists():
            raise CubeFormatError(f"{path} holds no checkpoints: expected cubes step-*.cube or step-*.h5, or one cube")
        for one in inside or [path]:
            cube = open_cube(one)
            if cube.step is None:
                raise CubeFormatError(f"{one} does not record its training step: extract with --step")
            if cube.step in found:
                raise CubeFormatError(
                    f"step {cube.step} occurs twice, in {found[cube.step][0]} and in {one}: leave one of them out"
                )
            found[cube.step] = one, cube
    return [found[step][1] for step in sorted(found)]


COMMANDS = (sweep, course)
