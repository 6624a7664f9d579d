"""Metrics of cubes, one or many side by side: score, compare."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from icrkit import exceptions
from icrkit._text import at_sigma, cell_text
from icrkit.cli._echo import FIGURES, check_targets, say, say_json, signs_of, spatial_sign_option, warn
from icrkit.cli._table import records, say_ranks, say_table, say_tests
from icrkit.exceptions import CubeFormatError, NotComputedWarning

__all__ = ["COMMANDS"]


def _metric_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which numbers of which levels."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print as JSON."),
        click.option("--quiet", is_flag=True, help="No progress bar."),
        click.option(
            "--metrics", multiple=True, metavar="NAMES", default=("all",), show_default="all",
            help="Names with commas between them, or 'moments': those that cost little.",
        ),
        click.option("--drop-constant", is_flag=True, help="Leave out dead units: constant, or nearly so."),
        spatial_sign_option,
        click.option("--sigma", type=float, multiple=True, help="This noise level only; may be repeated."),
        click.option("--layer", metavar="NAME", multiple=True, help="This layer only; may be repeated."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(short_help="Metrics of one cube, with intervals.")
@click.argument("path", type=click.Path())
@_metric_options
def score(path: str, as_json: bool, metrics: tuple[str, ...], spatial_sign: bool, **options: Any) -> None:
    """Metrics of the cube at PATH, with intervals where there are any.

    The ICR is the cross-fitted one. Metrics that need labels are left out where the cube has none.
    """
    cubes = _named_cubes([path], spatial_sign)
    table = _table(cubes, _metric_names(metrics, cubes), **options)
    if as_json:
        say_json(_table_facts(table))
        return
    say_table(table)


@click.command(short_help="Metrics of several cubes side by side.")
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
    spatial_sign: bool,
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

    check_targets({csv: (".csv",), plot: FIGURES, curves: FIGURES})
    cubes = _named_cubes(paths, spatial_sign)
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
        from icrkit.io import write_file

        write_file(csv, _as_cells(table).to_csv(index=False).encode(errors="surrogateescape"))
    _draw(table, plot, curves)
    if as_json:
        facts = _table_facts(table)
        if outside.names:
            facts["joined"] = outside.names
        if ranks is not None:
            greater = table.attrs["greater_is_better"][rank_by] if up is None else up
            facts["rank_correlation"] = {
                "column": rank_by, "greater_is_better": greater, "metrics": records(ranks.reset_index()),
            }  # fmt: skip
        say_json(facts)
        _check_ranks(ranks, rank_by, table)
        return
    say_table(table, {name: up if name == rank_by else None for name in outside.names})
    say_tests(table)
    if ranks is not None and ranks["rho"].notna().any():
        say_ranks(ranks, f"{rank_by}, lower is better" if up is False else rank_by)
        widths = sorted(set(table["n_features"]))
        if len(widths) > 1 and "icr" in table:
            numbers = " and ".join(map(str, widths))
            say(f"Rows of {numbers} features are ranked together: ICR does not compare between them.")
    _check_ranks(ranks, rank_by, table)


# Columns of the table that are no metrics, and that metrics may be ranked by.
_RANKABLE = ("sigma", "step", "n_images", "n_views", "n_features")


def _named_cubes(paths: Iterable[str], spatial_sign: bool) -> dict[str, Any]:
    """Cubes under the names that they have in the table."""
    from icrkit.io import open_cube
    from icrkit.readings._compare import named_cubes

    cubes = named_cubes([open_cube(path) for path in paths])
    return {name: signs_of(cube, spatial_sign) for name, cube in cubes.items()}


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

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotComputedWarning)  # said below, each reason once
        table = readings.compare(
            cubes,
            names,
            layers=layer or None,
            sigmas=sigma or None,
            drop_constant=drop_constant,
            progress=not quiet,
        )
    missing = table.attrs["not_computed"]
    numbers = table[list(table.attrs["greater_is_better"])].to_numpy(dtype=float, na_value=math.nan)
    if not any(map(math.isfinite, numbers.ravel())):
        reasons: dict[str, list[str]] = {}
        for one in missing:
            reasons.setdefault(_reason(one), []).extend(one["metrics"])
        said = [f"{', '.join(dict.fromkeys(metrics))}: {reason}" for reason, metrics in reasons.items()]
        more = f"; and {len(said) - _MOST_REASONS} more reasons" if len(said) > _MOST_REASONS else ""
        raise ValueError(f"nothing could be computed. {'; '.join(said[:_MOST_REASONS])}{more}")
    places: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in missing:
        places.setdefault((", ".join(one["metrics"]), _reason(one)), []).append(one)
    for (metrics, reason), at in places.items():
        more = f" and {len(at) - 1} more" if len(at) > 1 else ""
        first = f"cube {at[0]['cube']}, layer {at[0]['layer']}{at_sigma(at[0]['sigma'])}"
        warn(f"{metrics} of {first}{more}: NaN, since {reason}")
    return table


def _reason(missing: Mapping[str, Any]) -> str:
    """Why a number is missing; the class of an error of ours says nothing to a person that its message does not."""
    reason = str(missing["reason"])
    kind, _, said = reason.partition(": ")
    return said if kind in exceptions.__all__ else reason


_MOST_REASONS = 4  # of a line on which nothing else stands


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


def _check_ranks(ranks: Any, column: str | None, table: Any) -> None:
    """Refuse to have been asked for a rank correlation and to have none; what else there is has been said."""
    if ranks is None or ranks["rho"].notna().any():
        return
    rows = table[table["trained"].fillna(True).astype(bool)]
    if ranks["n"].max() < _LEAST_ROWS:
        beyond = "" if len(rows) == len(table) else " inside the noise that the network was trained on"
        most = int(ranks["n"].max())
        reason = f"{_LEAST_ROWS} rows are needed that have both numbers{beyond}, and there are {most} at most"
    elif rows[column].nunique() == 1:
        reason = f"all rows have the same {column}"
    else:
        reason = "every metric has one number in all rows"
    raise ValueError(f"no rank correlation with {column}: {reason}")


_LEAST_ROWS = 3  # those of a rank correlation


def _draw(table: Any, plot: str | None, curves: str | None) -> None:
    if plot is None and curves is None:
        return
    from icrkit.plot import ComparisonCurveDisplay, ComparisonMapDisplay
    from icrkit.plot._style import pyplot, save_figure

    displays: dict[str, Any] = {}
    if plot is not None:
        displays[plot] = ComparisonMapDisplay.from_table(table)
    if curves is not None:
        displays[curves] = ComparisonCurveDisplay.from_table(table)
    for path, display in displays.items():
        save_figure(display.figure_, path)
        pyplot().close(display.figure_)


def _as_cells(table: Any) -> Any:
    """The table with its texts as a spreadsheet may see them; numbers stay."""
    texts = {name: table[name].map(cell_text, na_action="ignore") for name in table if table[name].dtype.kind == "O"}
    return table.assign(**texts).rename(columns=cell_text)


def _table_facts(table: Any) -> dict[str, Any]:
    return {
        "rows": records(table),
        "greater_is_better": table.attrs["greater_is_better"],
        "paired_tests": table.attrs["paired_tests"],
        "not_computed": table.attrs["not_computed"],
        "too_few_images": table.attrs["too_few_images"],
    }


COMMANDS = (score, compare)
