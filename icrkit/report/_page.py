"""One page from a result: everything inside the file, nothing asked from outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icrkit.exceptions import MissingDependencyError
from icrkit.io import write_file
from icrkit.plot import SpectrumDisplay
from icrkit.report._course import Course
from icrkit.report._figure import inline_svg, png_uri
from icrkit.report._sweep import Sweep
from icrkit.report._words import TERMS, capital, level_words, number, share

__all__ = ["Examples", "Samples", "write_report"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Some images as the network saw them, for the page of a sweep.

    Attributes
    ----------
    names : sequence of str, of length n
    clean : ndarray (n, channel, height, width), uint8
    views : ndarray (n, n_views, channel, height, width), uint8
    noisy : ndarray (n, n_views, n_levels, channel, height, width), uint8
    sigmas : array (n_levels,)
    """

    names: Sequence[str]
    clean: NDArray[np.uint8]
    views: NDArray[np.uint8]
    noisy: NDArray[np.uint8]
    sigmas: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Generated images of some checkpoints, each beside the training image nearest to it, for the page of a course.

    Attributes
    ----------
    steps : array (n_steps,)
    generated : ndarray (n_steps, n, channel, height, width), uint8
    nearest : ndarray (n_steps, n, channel, height, width), uint8
    copied : ndarray (n_steps, n), bool
        Which of them count as copies.
    rule : str
        What counts as a copy, in words.
    selection : str
        Which images these are, where they are not all: a sentence.
    """

    steps: ArrayLike
    generated: NDArray[np.uint8]
    nearest: NDArray[np.uint8]
    copied: NDArray[np.bool_]
    rule: str
    selection: str = ""


def write_report(result: Sweep | Course, path: str | Path, examples: Examples | Samples | None = None) -> Path:
    """Write a self-contained HTML page about a sweep or a training course.

    Parameters
    ----------
    result : Sweep or Course
    path : path
        File to write.
    examples : Examples or Samples, optional
        Images to show: `Examples` with a sweep, `Samples` with a course.

    Returns
    -------
    Path

    Raises
    ------
    MissingDependencyError
        If jinja2 or matplotlib is not installed.
    TypeError
        If the result is of another kind, or the images do not belong to it.

    Examples
    --------
    >>> import tempfile
    >>> import icrkit as ik
    >>> from icrkit.report import Sweep, write_report
    >>> cube = ik.datasets.make_cube(200, 4, icr=[0.3, 0.6, 0.8], sigmas=[0.1, 1.0, 2.0])
    >>> write_report(Sweep.of(cube), tempfile.mkdtemp() + "/report.html").name
    'report.html'
    """
    made = next((page for page in _PAGES if isinstance(result, page.of)), None)
    if made is None:
        raise TypeError(f"a page is made of a Sweep or a Course, not of {type(result).__name__}")
    if not isinstance(examples, made.examples | None):
        raise TypeError(
            f"a {made.of.__name__} is shown with {made.examples.__name__}, not with {type(examples).__name__}"
        )
    page = (
        _environment()
        .get_template(made.template)
        .render(
            result=result,
            confidence=f"{result.confidence:.0%}",
            provenance=_provenance(result),
            version=_version("icrkit"),
            **made.parts(result, examples),
        )
    )
    path = Path(path)
    write_file(path, page.encode())
    return path


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError('a report needs jinja2: pip install "icrkit[report]"') from error
    here = resources.files("icrkit.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (here / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"told": number, "capital": capital}
    return environment


def _drawing(
    draw: Callable[[Any], Any], wide: tuple[float, float], narrow: tuple[float, float], name: str,
    panels: tuple[float, ...] = (),
) -> dict[str, str]:  # fmt: skip
    """A figure twice: a page-wide one squeezed onto a phone cannot be read, so there is one drawn for it."""
    return {
        "wide": inline_svg(draw, wide, f"{name}-wide", panels),
        "narrow": inline_svg(draw, narrow, f"{name}-narrow", panels),
    }


# ---- a sweep --------------------------------------------------------------------------------------------------------


def _sweep_parts(sweep: Sweep, examples: Examples | None) -> dict[str, Any]:
    height = sum(sweep.panels)
    chosen = f"{sweep.window.best_layer_} at σ = {level_words(sweep.window.best_sigma_)}"
    return {
        "outside": not bool(sweep.curve["trained"].all()),
        "curve": _drawing(
            sweep.draw, (7.0, 0.7 + 1.8 * height), (3.7, 0.7 + 1.7 * height), "curve", sweep.panels
        ),
        "spectrum": _drawing(
            lambda ax: SpectrumDisplay.from_estimator(sweep.spectrum, title="signal-to-noise ratio λ", ax=ax),
            (7.0, 2.6), (3.7, 2.6), "spectrum",
        ),
        "chosen": chosen,
        "terms": TERMS[sweep.criterion],
        **_tiles(sweep, examples),
    }  # fmt: skip


def _tiles(sweep: Sweep, examples: Examples | None) -> dict[str, Any]:
    if examples is None:
        return {"tiles": [], "columns": []}
    trained = {float(s): bool(t) for s, t in zip(sweep.curve["sigma"], sweep.curve["trained"], strict=True)}
    columns = [
        {
            "sigma": float(sigma),
            "kind": "best"
            if sweep.window.has_evidence_ and sigma == sweep.window.best_sigma_
            else ""
            if trained.get(float(sigma), True)
            else "outside",
        }
        for sigma in examples.sigmas
    ]
    tiles = [
        {
            "name": name,
            "clean": png_uri(clean),
            "views": [
                {"image": png_uri(view), "noisy": [png_uri(image) for image in levels]}
                for view, levels in zip(views, noisy, strict=True)
            ],
        }
        for name, clean, views, noisy in zip(
            examples.names, examples.clean, examples.views, examples.noisy, strict=True
        )
    ]
    return {"tiles": tiles, "columns": columns}


# ---- a course -------------------------------------------------------------------------------------------------------


def _course_parts(course: Course, samples: Samples | None) -> dict[str, Any]:
    height = sum(course.panels)
    levels = [_level(course, level) for level in course.levels()]
    expansion = _drawing(course.draw_expansion, (7.0, 3.0), (3.7, 2.8), "expansion") if course.has_traces else None
    return {
        "terms": TERMS[course.criterion],
        "other": TERMS[TERMS[course.criterion].other],
        "chance": share(1 - course.confidence),
        "called": course.course.turned_,
        "curve": _drawing(course.draw, (7.0, 0.7 + 1.5 * height), (3.7, 0.7 + 1.4 * height), "curve", course.panels),
        "expansion": expansion,
        "levels": levels,
        "pictures": _pictures(samples),
        "rule": "" if samples is None else samples.rule,
        "selection": "" if samples is None else samples.selection,
    }


def _level(course: Course, level: dict[str, Any]) -> dict[str, Any]:
    """A layer and level in words, its checkpoints, and its course as a line of a small picture."""
    rows = course.rows(level["layer"], level["sigma"])
    values = np.array([row[course.criterion] for row in rows])
    up = -values if course.criterion == "icr" else values
    along = np.log(np.maximum(1, [row["step"] for row in rows]))
    x, y = ((part - part.min()) / (np.ptp(part) or 1.0) for part in (along, up))
    points = [f"{4 + 112 * a:.1f},{23 - 20 * b:.1f}" for a, b in zip(x, y, strict=True)]
    return {
        **level,
        "headline": (level["layer"], level["sigma"]) == (course.course.layer_, course.course.sigma_)
        or (level["layer"] == course.course.layer_ and len(course.sigmas) == 1),
        "sigma_words": "" if np.isnan(level["sigma"]) else level_words(level["sigma"]),
        "points": " ".join(points),
        "dot": points[next(k for k, row in enumerate(rows) if row["best"])].split(","),
        "fall_words": "–" if level["best_step"] == course.steps[-1] else share(level["relative_fall"]),
        "rows": rows,
    }


def _pictures(samples: Samples | None) -> list[dict[str, Any]]:
    if samples is None:
        return []
    return [
        {
            "step": int(step),
            "pairs": [
                {"generated": png_uri(made), "nearest": png_uri(near), "copied": bool(copied)}
                for made, near, copied in zip(*parts, strict=True)
            ],
        }
        for step, *parts in zip(
            np.asarray(samples.steps), samples.generated, samples.nearest, samples.copied, strict=True
        )
    ]


class _Page(NamedTuple):
    """What a page is made of."""

    of: Any
    examples: Any
    template: str
    parts: Callable[..., dict[str, Any]]


_PAGES = (
    _Page(Sweep, Examples, "sweep.html.j2", _sweep_parts),
    _Page(Course, Samples, "course.html.j2", _course_parts),
)


# ---- where it comes from --------------------------------------------------------------------------------------------


def _provenance(result: Sweep | Course) -> list[tuple[str, str]]:
    rows = [
        ("images", f"{result.n_images}, each in {result.n_views} views"),
        ("layers", ", ".join(f"{layer} ({result.n_features[layer]} features)" for layer in result.layers)),
    ]
    # What was not set says nothing; features of the first images are for a resumed run to compare.
    rows += [
        (name.replace("_", " "), _words(value, result.layers))
        for name, value in result.attrs.items()
        if name not in ("layers", "n_views", "probe") and not name.endswith("_version") and _is_set(value)
    ]
    recorded = {
        name.removesuffix("_version"): value for name, value in result.attrs.items() if name.endswith("_version")
    }
    if recorded:
        rows.append(("extracted with", ", ".join(f"{name} {value}" for name, value in recorded.items())))
    read_with = ("icrkit", "numpy", "scipy", "scikit-learn", "matplotlib")
    rows.append(("read with", ", ".join(f"{name} {_version(name)}" for name in read_with)))
    return rows


def _is_set(value: Any) -> bool:
    return value is not None and (bool(value) or not isinstance(value, dict | list | tuple))


def _words(value: Any, layers: Collection[str]) -> str:
    if isinstance(value, dict):
        rest = ", ".join(
            # A layer's name is shown as it is everywhere, and once where the file has the same for it.
            str(key) if item == key else f"{key if key in layers else key.replace('_', ' ')} {_words(item, layers)}"
            for key, item in value.items()
            if key != "name" and item is not None
        )
        return f"{value['name']}: {rest}" if "name" in value and rest else str(value.get("name", rest))
    if isinstance(value, list | tuple):
        return ", ".join(_words(item, layers) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        from icrkit import __version__  # running from a checkout

        return __version__ if name == "icrkit" else "unknown"
