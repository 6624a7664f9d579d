"""The ``icrkit`` command: parse, call the public interface, print or write."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from icrkit import __version__
from icrkit import io as cube_io
from icrkit._surface import option_names, results_alone, shell_words
from icrkit.exceptions import CubeFormatError, CubeIncompleteError

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

            def show_warning(message: Any, *_: Any, **__: Any) -> None:
                words = shell_words(" ".join(str(message).split()), self._names(ctx))
                click.echo(f"icrkit: warning: {words}", err=True)

            warnings.showwarning = show_warning
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
                raise _BadData(shell_words(_one_line(error), self._names(ctx))) from error
            return result

    def _names(self, ctx: click.Context) -> dict[str, str]:
        """What the parameters in messages are called in the command that is run."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        if command is None:
            return {}
        return option_names(command) | getattr(command, "python_names", {})


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@click.group(cls=_Icrkit, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="icrkit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Which noise level and layer of a diffusion model give the cleanest features, without labels."""


@main.command()
@click.option("--train", is_flag=True, help="Train a network, and watch its features turn.")
@click.option(
    "--out", show_default="icrkit-demo, or icrkit-demo-train", type=click.Path(file_okay=False), help="Folder to write."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def demo(train: bool, out: str | None, quiet: bool, as_json: bool) -> None:
    """The whole way on real images, in about a minute.

    Runs a small diffusion model that comes along at 12 noise levels on 3,000 images, finds the level with the cleanest
    features without labels, checks it against the accuracy of a probe with few, and writes a figure and a page. Run
    again into the same folder, it goes on from the features that are there.

    With --train it trains another on 128 digits until it copies them, reads features of held-out digits on the way,
    without labels and without samples, and says when to stop; copies and held-out loss are shown beside that. It needs
    torch.
    """
    if train:
        _training_demo(out, quiet, as_json)
        return
    from icrkit.demo import run_demo

    with results_alone():
        result = run_demo(out or "icrkit-demo", progress=not quiet)
    if as_json:
        click.echo(result.sweep.to_json())
        return
    _print_result(result.sweep)
    _print_files(result.files)


def _training_demo(out: str | None, quiet: bool, as_json: bool) -> None:
    from icrkit.demo_training import run_training_demo

    try:
        with results_alone():
            result = run_training_demo(out or "icrkit-demo-train", progress=not quiet)
    except KeyboardInterrupt:
        # Unlike the other demo it begins anew.
        click.echo("\nicrkit: interrupted", err=True)
        raise SystemExit(130) from None
    if as_json:
        click.echo(result.course.to_json())
        return
    _print_result(result.course)
    for note in result.notes:
        click.echo(note)
    _print_files(result.files)


def _print_files(files: Mapping[str, Path]) -> None:
    click.echo()
    for name, path in files.items():
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
@click.option(
    "--criterion",
    type=click.Choice(["icr", "information"]),
    default="icr",
    show_default=True,
    help="What levels are ranked by.",
)
@click.option("--plot", type=click.Path(dir_okay=False), help="Write the curve: .png, .svg or .pdf.")
@click.option("--report", type=click.Path(dir_okay=False), help="Write a page: .html.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def sweep(
    path: str, layer: str | None, criterion: str, plot: str | None, report: str | None, as_json: bool
) -> None:  # fmt: skip
    """ICR and invariant information at every noise level of the cube at PATH, and the semantic window.

    Layers are compared by information. Levels outside the noise that the network was trained on, where the cube records
    it, are shown and not chosen.
    """
    from icrkit.report import Sweep, write_report

    _check_targets({plot: _FIGURES, report: _PAGES})
    result = Sweep.of(cube_io.open_cube(path), layer, criterion)
    if plot is not None:
        result.save_figure(plot)
    if report is not None:
        write_report(result, report)
    if as_json:
        click.echo(result.to_json())
        return
    _print_result(result)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option(
    "--criterion",
    type=click.Choice(["information", "icr"]),
    default="information",
    show_default=True,
    help="What the turn is called on.",
)
@click.option("--layer", help="Layer that it is called on; by default the one with the most information.")
@click.option("--sigma", type=float, help="Noise level that it is called on; by default the middle of training's.")
@click.option("--warm-up", type=int, default=0, metavar="STEP", help="Checkpoints before this step have no say.")
@click.option("--drop-constant", is_flag=True, help="Leave out features that are constant, such as dead units.")
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

    _check_targets({plot: _FIGURES, expansion: _FIGURES, report: _PAGES})
    result = Course.of(_checkpoints(paths), progress=not quiet, **options)
    if plot is not None:
        result.save_figure(plot)
    if expansion is not None:
        result.save_figure(expansion, expansion=True)
    if report is not None:
        write_report(result, report)
    if as_json:
        click.echo(result.to_json())
        return
    _print_result(result)


def _checkpoints(paths: Iterable[str]) -> list[Any]:
    """Cubes by their step."""
    found: dict[int, tuple[Path, Any]] = {}
    for path in map(Path, paths):
        # A store is a folder too.
        inside = [] if (path / "cube.json").exists() else sorted(path.glob("step-*"))
        inside = [one for one in inside if one.suffix in (".cube", ".h5", ".nc", ".zarr")]
        for one in inside or [path]:
            cube = cube_io.open_cube(one)
            if cube.step is None:
                raise CubeFormatError(f"{one} does not record its training step, attrs['step']: extract with --step")
            if cube.step in found:
                raise CubeFormatError(
                    f"step {cube.step} occurs twice, in {found[cube.step][0]} and in {one}: leave one of them out"
                )
            found[cube.step] = one, cube
    return [found[step][1] for step in sorted(found)]


def _print_result(result: Any) -> None:
    """Table, headline and sentences of a sweep or a course."""
    click.echo(result.to_text())
    click.echo(f"\n{result.headline}.")
    for sentence in result.sentences:
        click.echo(sentence)


# ---- metrics --------------------------------------------------------------------------------------------------------


def _metric_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which numbers of which levels."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print as JSON."),
        click.option("--quiet", is_flag=True, help="No progress bar."),
        click.option(
            "--metrics", multiple=True, default=("all",), show_default="all",
            help="Names with commas between them, or 'moments': those that cost little.",
        ),
        click.option("--drop-constant", is_flag=True, help="Leave out features that are constant, such as dead units."),
        click.option("--sigma", type=float, multiple=True, help="This noise level only; may be repeated."),
        click.option("--layer", multiple=True, help="This layer only; may be repeated."),
    ):  # fmt: skip
        command = option(command)
    return command


@main.command()
@click.argument("path", type=click.Path())
@_metric_options
def score(path: str, as_json: bool, metrics: tuple[str, ...], **options: Any) -> None:
    """Metrics of the cube at PATH, with intervals where there are any.

    The ICR is the cross-fitted one. Metrics that need labels are left out where the cube has none.
    """
    cubes = _named_cubes([path])
    table = _table(cubes, _metric_names(metrics, cubes), **options)
    if as_json:
        click.echo(_json(_table_facts(table)))
        return
    _print_table(table)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@_metric_options
@click.option(
    "--join",
    type=click.Path(dir_okay=False),
    metavar="FILE.csv",
    help="Numbers from elsewhere, such as accuracies: columns cube, where they matter layer, sigma, step, and yours.",
)
@click.option(
    "--rank-by", metavar="COLUMN", help="Rank correlation of every metric with this one, or with a column of --join."
)
@click.option("--lower-is-better", is_flag=True, help="Of the column of --join to rank by, such as an FID.")
@click.option("--csv", type=click.Path(dir_okay=False), help="Write the table: .csv.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Write a map of all metrics: .png, .svg or .pdf.")
@click.option("--curves", type=click.Path(dir_okay=False), help="Write a curve for each metric: .png, .svg or .pdf.")
def compare(
    paths: tuple[str, ...],
    as_json: bool,
    metrics: tuple[str, ...],
    join: str | None,
    rank_by: str | None,
    lower_is_better: bool,
    csv: str | None,
    plot: str | None,
    curves: str | None,
    **options: Any,
) -> None:
    """Metrics of the cubes at PATHS side by side: models, layers, noise levels, checkpoints.

    Differences in ICR are tested where cubes hold the same images; levels outside the noise that a network was trained
    on, where its cube records it, are shown in brackets and take no part in the rank correlation.
    """
    from icrkit.readings._outside import Outside, read_outside

    _check_targets({csv: (".csv",), plot: _FIGURES, curves: _FIGURES})
    cubes = _named_cubes(paths)
    outside = Outside((), [], {}) if join is None else read_outside(join, cubes, options["layer"], options["sigma"])
    names = _metric_names(metrics, cubes)
    up: bool | None = None  # whether greater is better, of a column to rank by that is no metric
    if rank_by is None or rank_by in (*outside.names, *_RANKABLE):
        up = None if rank_by is None else not lower_is_better
    else:
        names = _with_metric(names, rank_by, outside.names, cubes)
    if lower_is_better and up is None:
        raise click.UsageError("--lower-is-better is said of a column that --rank-by takes from --join")
    table = _table(cubes, names, **options)
    outside.join(table)
    ranks = None if rank_by is None else _ranks(table, rank_by, up)
    if csv is not None:
        table.to_csv(csv, index=False)
    _draw(table, plot, curves)
    if as_json:
        facts = _table_facts(table)
        if outside.names:
            facts["joined"] = outside.names
        if ranks is not None:
            greater = table.attrs["greater_is_better"][rank_by] if up is None else up
            facts["rank_correlation"] = {
                "column": rank_by, "greater_is_better": greater, "metrics": _records(ranks.reset_index()),
            }  # fmt: skip
        click.echo(_json(facts))
        return
    _print_table(table, {name: up if name == rank_by else None for name in outside.names})
    _print_tests(table)
    if ranks is not None:
        _print_ranks(ranks, f"{rank_by}, lower is better" if up is False else rank_by)
        widths = sorted(set(table["n_features"]))
        if len(widths) > 1 and "icr" in table:
            numbers = " and ".join(map(str, widths))
            click.echo(f"Rows of {numbers} features are ranked together: ICR does not compare between them.")


@main.command()
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
        click.echo(_json(facts))
        return
    copies = int((reference.similarity_ > threshold).sum())
    click.echo(f"memorization ratio {share:.4f}: {copies} of {facts['n_generated']} generated images are more similar")
    click.echo(f"to a training image than {threshold:g}" + (", itself aside." if same else "."))
    click.echo("\nmost similar   training   similarity")
    for k in (-reference.similarity_).argsort(kind="stable")[:5]:
        click.echo(f"{k:>12}   {reference.nearest_ids_[k]!s:>8}   {reference.similarity_[k]:>10.4f}")


def _feature_set(path: str, layer: str | None, sigma: float | None) -> Any:
    """One layer of a cube at one level; a file of plain features has neither, and stands beside a cube as it is."""
    cube = cube_io.open_cube(path)
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


# Columns of the table that are no metrics, and that metrics may be ranked by.
_RANKABLE = ("sigma", "step", "n_images", "n_views", "n_features")


def _named_cubes(paths: Iterable[str]) -> dict[str, Any]:
    """Cubes under the names that they have in the table."""
    from icrkit.readings._compare import named_cubes

    return named_cubes([cube_io.open_cube(path) for path in paths])


def _table(
    cubes: Mapping[str, Any],
    names: str | list[str],
    *,
    layer: tuple[str, ...],
    sigma: tuple[float, ...],
    drop_constant: bool,
    quiet: bool,
) -> Any:
    from icrkit import readings

    return readings.compare(
        cubes,
        names,
        layers=layer or None,
        sigmas=sigma or None,
        drop_constant=drop_constant,
        progress=not quiet,
    )


def _metric_names(words: Iterable[str], cubes: Mapping[str, Any]) -> str | list[str]:
    """What was asked for, each once; names that are wrong are refused before the work."""
    names = list(dict.fromkeys(name.strip() for part in words for name in part.split(",") if name.strip()))
    if not names:
        raise click.BadParameter("no metric is named", param_hint="'--metrics'")
    if names in (["all"], ["moments"]):
        return names[0]
    for name in names:
        _check_metric(name, "'--metrics'", cubes)
    return names


def _check_metric(name: str, option: str, cubes: Mapping[str, Any], columns: Iterable[str] = ()) -> Any:
    """The metric of this name, which these cubes can be given."""
    from icrkit.metrics import find_metric

    try:
        metric = find_metric(name)
    except ValueError as error:
        if error.__cause__ is not None:  # the name is right, and the package that brings it is broken
            raise
        others = f"; columns that are no metrics: {', '.join(columns)}" if columns else ""
        raise click.BadParameter(f"{error}{others}", param_hint=option) from error
    if metric.two_sets:
        raise click.BadParameter(f"{name} is a number of two sets, not of each cube", param_hint=option)
    without = [cube for cube, found in cubes.items() if found.labels is None]
    if metric.needs_labels and without:
        raise CubeFormatError(f"{name} needs labels, and {', '.join(without)} carries none: extract with labels")
    return metric


def _with_metric(
    names: str | list[str], rank_by: str, columns: Iterable[str], cubes: Mapping[str, Any]
) -> str | list[str]:
    """Metrics to compute: those asked for, and the one to rank by."""
    from icrkit.metrics import known_metrics

    # Of all metrics those with labels are there where any cube has some.
    labelled = {name: cube for name, cube in cubes.items() if cube.labels is not None}
    of = labelled if names == "all" and labelled else cubes
    metric = _check_metric(rank_by, "'--rank-by'", of, [*columns, *_RANKABLE])
    if names == "all":
        return names
    if names == "moments":
        known = known_metrics().values()
        names = [one.name for one in known if one.takes_moments and not one.two_sets and not one.needs_labels]
    found = [*names, *([] if rank_by in names else [metric.name])]
    if len(found) == 1:
        raise click.UsageError(f"--metrics names only {rank_by}: there is no other metric to rank")
    return found


def _ranks(table: Any, column: str, up: bool | None) -> Any:
    """Rank correlation over the levels that could be chosen, and over all as ``rho_all`` where that differs."""
    from icrkit.readings import rank_correlation

    inside = table["trained"].fillna(True).astype(bool)
    ranks = rank_correlation(table[inside], column, greater_is_better=up)
    if not inside.all():
        ranks["rho_all"] = rank_correlation(table, column, greater_is_better=up)["rho"]
    return ranks


_FIGURES = (".png", ".svg", ".pdf")
_PAGES = (".html", ".htm")


def _check_targets(targets: Mapping[str | None, Sequence[str]]) -> None:
    """Refuse files that cannot be written, by folder or ending, before the work and not after it."""
    for path, endings in targets.items():
        if path is None:
            continue
        folder = Path(path).resolve().parent
        if not folder.is_dir():
            raise FileNotFoundError(2, "there is no such folder", str(folder))
        if Path(path).suffix.lower() not in endings:
            raise click.UsageError(f"{path}: wanted a name that ends in {', '.join(endings)}")


def _draw(table: Any, plot: str | None, curves: str | None) -> None:
    if plot is None and curves is None:
        return
    from icrkit.plot import ComparisonCurveDisplay, ComparisonMapDisplay
    from icrkit.plot._style import pyplot

    displays: dict[str, Any] = {}
    if plot is not None:
        displays[plot] = ComparisonMapDisplay.from_table(table)
    if curves is not None:
        displays[curves] = ComparisonCurveDisplay.from_table(table)
    for path, display in displays.items():
        display.figure_.savefig(path, dpi=200)
        pyplot().close(display.figure_)


# ---- a table in a terminal ------------------------------------------------------------------------------------------

_MOST_COLUMNS = 12


def _print_table(table: Any, joined: Mapping[str, bool | None] | None = None) -> None:
    """Metrics down, levels across, a block for each layer of each cube; columns of a file, with their direction, below.

    A column that nobody ranks by has no direction.
    """
    directions = table.attrs["greater_is_better"] | (joined or {})
    width = max(20, *map(len, directions))
    for (name, layer), rows in table.groupby(["cube", "layer"], sort=False):
        first = rows.iloc[0]
        step = "" if rows["step"].isna().all() else f", step {first['step']}"
        size = f"{first['n_features']} features), {first['n_images']} images x {first['n_views']} views"
        click.echo(f"{name}{step}, layer {layer} ({size}")
        outside = ~rows["trained"].fillna(True).to_numpy(dtype=bool)
        for start in range(0, len(rows), _MOST_COLUMNS):
            part = rows.iloc[start : start + _MOST_COLUMNS]
            levels = [
                f"({s:.3g})" if out else f"{s:.3g}" for s, out in zip(part["sigma"], outside[start:], strict=False)
            ]
            click.echo(f"  {'sigma':<{width + 1}}" + "".join(f"{level:>8}" for level in levels))
            for metric, greater in directions.items():
                cells = "".join(f"{_cell(value):>8}" for value in part[metric])
                spread = _spread(part.iloc[0], metric) if len(rows) == 1 else ""
                arrow = " " if greater is None else "↑" if greater else "↓"
                click.echo(f"  {metric:<{width}}{arrow}{cells}{spread}")
        click.echo()
    words = "↑ greater is better   ↓ lower is better"
    if not table["trained"].fillna(True).all():
        words += "   ( ) outside the noise that the network was trained on"
    click.echo(words)


def _cell(value: float) -> str:
    if value != value:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:#.4g}" if abs(value) < 1000 else f"{value:.3g}"


def _spread(row: Any, metric: str) -> str:
    """Interval or standard error, in words."""
    low, high, error = (row.get(f"{metric}_{end}") for end in ("low", "high", "error"))
    if low is not None and low == low:
        return f"   {_cell(low)} - {_cell(high)}"
    return f"   +- {_cell(error)}" if error is not None and error == error else ""


def _print_tests(table: Any) -> None:
    """Differences in ICR between cubes at one layer and level."""
    tests = table.attrs["paired_tests"]
    shown = [test for test in tests if test["varies"] == "cube"]
    if not shown:
        return
    click.echo(f"\nICR of the second cube less that of the first, same images (p by Holm over {len(tests)} tests)")
    for test in shown[:_MOST_TESTS]:
        a, b = table.iloc[test["a"]], table.iloc[test["b"]]
        click.echo(
            f"  {a['cube']} -> {b['cube']}, {a['layer']}, sigma {a['sigma']:g}: {test['difference']:+.4f}   "
            f"p = {test['p_adjusted']:.2g}"
        )
    if len(shown) > _MOST_TESTS:
        click.echo(f"  and {len(shown) - _MOST_TESTS} more, with --json")


_MOST_TESTS = 24


def _print_ranks(ranks: Any, column: str | None) -> None:
    everywhere = "rho_all" in ranks
    click.echo(f"\nrank correlation with {column} (1: orders the levels as it does)")
    click.echo(f"  {'':<21}     rho       p    n" + "   all levels" * everywhere)
    for metric, row in ranks.iterrows():
        interval = "" if row["low"] != row["low"] else f"   {row['low']:.2f} - {row['high']:.2f}"
        line = f"  {metric:<21}{_cell(row['rho']):>8}{row['p']:>8.2g}{int(row['n']):>5}"
        click.echo(line + (f"{_cell(row['rho_all']):>13}" if everywhere else "") + interval)


def _table_facts(table: Any) -> dict[str, Any]:
    import pandas as pd

    return {
        "rows": _records(table),
        "greater_is_better": table.attrs["greater_is_better"],
        "paired_tests": _records(pd.DataFrame(table.attrs["paired_tests"])),
    }


def _records(frame: Any) -> Any:
    """A dict a row, with null for what JSON has no number for."""
    return json.loads(frame.to_json(orient="records", double_precision=15))


def _json(value: Any, indent: int | None = 1) -> str:
    return json.dumps(
        value, indent=indent, default=lambda item: item.tolist() if hasattr(item, "tolist") else str(item)
    )
