"""The ``icrkit`` command: parse, call the public interface, print or write."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from typing import Any

import click

from icrkit import __version__
from icrkit import io as cube_io
from icrkit.exceptions import CubeIncompleteError

__all__ = ["main"]


class _BadData(click.ClickException):
    """One line on standard error, exit status 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(f"icrkit: {self.message}", err=True)


class _Icrkit(click.Group):
    """Turns what can go wrong into one line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "extract"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "extract":
            # The extractors bring their own command: this package knows of none of what it takes.
            from icrkit_extractors.cli import main as extract

            command: click.Command = extract
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="replace")  # a terminal without sigma still gets its table
            try:
                result = super().invoke(ctx)
                sys.stdout.flush()
            except BrokenPipeError:
                # The reader has seen enough (`| head`). What is still buffered must not be flushed at exit.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                raise SystemExit(141) from None
            except KeyboardInterrupt:
                resumable = ctx.invoked_subcommand in ("demo", "extract")
                resumes = "; the same command goes on from here" if resumable else ""
                click.echo(f"\nicrkit: interrupted{resumes}", err=True)
                raise SystemExit(130) from None
            except (ValueError, OSError, ImportError) as error:
                if ctx.params["debug"]:
                    raise
                raise _BadData(_one_line(error)) from error
            return result


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    click.echo(f"icrkit: warning: {' '.join(str(message).split())}", err=True)


@click.group(cls=_Icrkit, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="icrkit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Which noise level and layer of a diffusion model give the cleanest features, without labels."""


@main.command()
@click.option(
    "--out", default="icrkit-demo", show_default=True, type=click.Path(file_okay=False), help="Folder to write."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def demo(out: str, quiet: bool, as_json: bool) -> None:
    """The whole way on 3,000 real images, in about a minute.

    Runs a small diffusion model that comes along at 12 noise levels, finds the level with the cleanest features
    without labels, checks it against the accuracy of a probe with few, and writes a figure and a page. Run again into
    the same folder, it goes on from the features that are there.
    """
    from icrkit.demo import run_demo

    result = run_demo(out, progress=not quiet)
    if as_json:
        click.echo(result.sweep.to_json())
        return
    _print_sweep(result.sweep)
    click.echo()
    for name, path in result.files.items():
        click.echo(f"{name:8}{path}")


@main.command()
@click.argument("path", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(path: str, as_json: bool) -> None:
    """What the cube at PATH holds."""
    state = "complete"
    try:
        cube = cube_io.open_cube(path, verify="size")
    except CubeIncompleteError as error:
        state = str(error)
        cube = cube_io.open_cube(path, allow_partial=True, verify="size")
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
        "attrs": cube.attrs,
    }
    if as_json:
        click.echo(_json(facts))
        return
    levels = facts["sigmas"]
    click.echo(f"{path}: {cube.n_images} images x {cube.n_views} views x {len(levels)} levels, {facts['dtype']}")
    lines = {
        "state": " ".join(state.split()),
        "layers": ", ".join(f"{name} ({d} features)" for name, d in cube.n_features.items()),
        "sigmas": ", ".join(f"{sigma:g}" for sigma in levels),
        "labels": "yes" if facts["labels"] else "no",
        **{name: value for name, value in cube.attrs.items() if name not in ("layers", "n_views")},
    }
    for name, value in lines.items():
        click.echo(f"  {name}: {value if isinstance(value, str) else _json(value, indent=None)}")


@main.command()
@click.argument("path", type=click.Path())
def verify(path: str) -> None:
    """Hash every byte of the cube at PATH again."""
    blocks = cube_io.verify(path)
    click.echo(f"{path}: {blocks} {'block' if blocks == 1 else 'blocks'}, all as they were written")


@main.command()
@click.argument("path", type=click.Path())
@click.argument("out", type=click.Path())
def pack(path: str, out: str) -> None:
    """Put the store at PATH into one file OUT (.h5)."""
    click.echo(cube_io.pack(path, out))


@main.command()
@click.argument("path", type=click.Path())
@click.option("--layer", help="Sweep this layer only.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Write the curve: .png, .svg or .pdf.")
@click.option("--report", type=click.Path(dir_okay=False), help="Write a page: .html.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def sweep(path: str, layer: str | None, plot: str | None, report: str | None, as_json: bool) -> None:
    """ICR at every noise level of the cube at PATH, and the semantic window.

    Levels outside the noise that the network was trained on, where the cube records it, are shown and not chosen.
    """
    from icrkit.report import Sweep, write_report

    result = Sweep.of(cube_io.open_cube(path), layer)
    if plot is not None:
        result.save_figure(plot)
    if report is not None:
        write_report(result, report)
    if as_json:
        click.echo(result.to_json())
        return
    _print_sweep(result)


def _print_sweep(result: Any) -> None:
    click.echo(result.to_text())
    click.echo(f"\n{result.headline}.")
    for sentence in result.sentences:
        click.echo(sentence)


def _json(value: Any, indent: int | None = 1) -> str:
    return json.dumps(
        value, indent=indent, default=lambda item: item.tolist() if hasattr(item, "tolist") else str(item)
    )
