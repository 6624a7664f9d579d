"""One page from a sweep: everything inside the file, nothing asked from outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icrkit.exceptions import MissingDependencyError
from icrkit.plot import SpectrumDisplay
from icrkit.report._figure import inline_svg, png_uri
from icrkit.report._sweep import PANELS, Sweep

__all__ = ["Examples", "write_report"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Some images as the network saw them.

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


def write_report(sweep: Sweep, path: str | Path, examples: Examples | None = None) -> Path:
    """Write a self-contained HTML page about a sweep.

    Parameters
    ----------
    sweep : Sweep
    path : path
        File to write.
    examples : Examples, optional
        Images to show.

    Returns
    -------
    Path

    Raises
    ------
    MissingDependencyError
        If jinja2 or matplotlib is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import icrkit as ik
    >>> from icrkit.report import Sweep, write_report
    >>> cube = ik.datasets.make_cube(n_images=200, n_features=4, icr=[0.3, 0.6], sigmas=[0.1, 1.0])
    >>> write_report(Sweep.of(cube), tempfile.mkdtemp() + "/report.html").name
    'report.html'
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError('a report needs jinja2: pip install "icrkit[report]"') from error
    here = resources.files("icrkit.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((here / "page.html.j2").read_text("utf-8"))
    page = template.render(
        sweep=sweep,
        css=(here / "page.css").read_text("utf-8"),
        confidence=f"{sweep.window.confidence:.0%}",
        outside=not bool(sweep.curve["trained"].all()),
        best_snr={layer: next(r["total_snr"] for r in sweep.rows(layer) if r["best"]) for layer in sweep.layers},
        provenance=_provenance(sweep),
        version=_version("icrkit"),
        **_figures(sweep),
        **_tiles(sweep, examples),
    )
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def _figures(sweep: Sweep) -> dict[str, str]:
    two = "accuracy" in sweep.curve
    panels = PANELS if two else ()
    title = (
        f"signal-to-noise ratio λ of each direction of {sweep.window.best_layer_} at σ = {sweep.window.best_sigma_:g}"
    )

    def spectrum(ax: Any, title: str | None = None) -> None:
        SpectrumDisplay.from_estimator(sweep.spectrum, title=title, ax=ax)

    # A page-wide figure squeezed onto a phone cannot be read, so there is one drawn for it.
    return {
        "curve_wide": inline_svg(sweep.draw, (7.0, 5.2 if two else 3.8), "curve-wide", panels),
        "curve_narrow": inline_svg(sweep.draw, (4.0, 5.2 if two else 3.6), "curve-narrow", panels),
        "spectrum_wide": inline_svg(lambda ax: spectrum(ax, title), (7.0, 2.6), "spectrum-wide"),
        "spectrum_narrow": inline_svg(spectrum, (4.0, 2.8), "spectrum-narrow"),
    }


def _tiles(sweep: Sweep, examples: Examples | None) -> dict[str, Any]:
    if examples is None:
        return {"tiles": [], "columns": []}
    trained = {float(s): bool(t) for s, t in zip(sweep.curve["sigma"], sweep.curve["trained"], strict=True)}
    columns = [
        {
            "sigma": float(sigma),
            "kind": "best"
            if sigma == sweep.window.best_sigma_
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


def _provenance(sweep: Sweep) -> list[tuple[str, str]]:
    rows = [
        ("images", f"{sweep.n_images}, each in {sweep.n_views} views"),
        ("layers", ", ".join(f"{layer} ({sweep.n_features[layer]} features)" for layer in sweep.layers)),
    ]
    rows += [
        (name.replace("_", " "), _words(value))
        for name, value in sweep.attrs.items()
        if name not in ("layers", "n_views") and not name.endswith("_version")
    ]
    recorded = {
        name.removesuffix("_version"): value for name, value in sweep.attrs.items() if name.endswith("_version")
    }
    if recorded:
        rows.append(("extracted with", ", ".join(f"{name} {value}" for name, value in recorded.items())))
    read_with = ("icrkit", "numpy", "scipy", "scikit-learn", "matplotlib")
    rows.append(("read with", ", ".join(f"{name} {_version(name)}" for name in read_with)))
    return rows


def _words(value: Any) -> str:
    if isinstance(value, dict):
        rest = ", ".join(f"{key.replace('_', ' ')} {_words(item)}" for key, item in value.items() if key != "name")
        return f"{value['name']}: {rest}" if "name" in value and rest else str(value.get("name", rest))
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        from icrkit import __version__  # running from a checkout

        return __version__ if name == "icrkit" else "unknown"
