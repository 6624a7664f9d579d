"""Moments in place of features: taken while the network runs, and kept in a folder, a file per layer."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icrkit._text import strict_json
from icrkit.io import write_file
from icrkit.moments import Moments
from icrkit_extractors._destinations import bar_of, cube_of
from icrkit_extractors._job import Job, slices, widths_of
from icrkit_extractors._probe import probe_difference, probe_numbers

__all__ = ["to_moments"]

# Features that are kept until their moments are taken: each taking costs a d x d sum for every level and fold.
_MOMENTS_BYTES = 128 << 20

_ABOUT = "moments.json"
# What a killed run may leave of itself.
_LEFT = re.compile(r"layer-\d+\.h5|.*\.part")


def _check(job: Job, rows: range) -> None:
    """Refuse before the network runs what could not be kept after it."""
    if job.n_views < 2 or len(rows) < 2:
        raise ValueError(
            f"moments need two images and two views at least, not {len(rows)} images and n_views={job.n_views}"
        )


def to_moments(
    job: Job,
    first: Mapping[str, np.ndarray],
    rows: range,
    n_folds: int,
    folder: Path | None,
    progress: bool,
) -> dict[str, Moments]:
    """Moments by layer; with a folder they are saved there, or read from it where they are finished."""
    _check(job, rows)
    widths = widths_of(first)
    if folder is None:
        return _taken(job, first, rows, n_folds, progress)
    about = {
        "layers": {name: f"layer-{k:02d}.h5" for k, name in enumerate(widths)},
        "images": [rows.start, rows.stop],
        "n_images": len(job.ids),
        "sigmas": job.sigmas,
        "n_folds": n_folds,
        "attrs": job.record,
        "probe": probe_numbers(first),
    }
    finished = _finished(folder, json.loads(_text(about)))
    if finished is not None:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    try:
        totals = _taken(job, first, rows, n_folds, progress)
        for name, file in about["layers"].items():
            totals[name].save(folder / file)
        # Last: where it is, all is.
        write_file(folder / _ABOUT, _text(about).encode())
    except BaseException:
        # Without moments.json they would only be in the way.
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if _LEFT.fullmatch(path.name):
                    path.unlink()
            folder.rmdir()
        raise
    return totals


def _finished(folder: Path, about: dict[str, Any]) -> dict[str, Moments] | None:
    """The moments of a finished run of the same configuration; None where there is nothing finished."""
    if not folder.exists():
        return None
    path = folder / _ABOUT
    try:
        known = json.loads(path.read_bytes())
    except NotADirectoryError:
        raise FileExistsError(f"{folder} is a file: moments are kept in a folder") from None
    except FileNotFoundError:
        others = sorted(one.name for one in folder.iterdir() if not _LEFT.fullmatch(one.name))
        if others:
            raise FileExistsError(
                f"{folder} exists: moments are not resumed from a folder with other files ({others[0]}): choose "
                "another path"
            ) from None
        return None
    except (ValueError, RecursionError) as error:
        raise FileExistsError(f"{folder} exists: {path} is damaged ({error}): remove the folder first") from error
    different = _difference(known, about)
    if different is not None:
        raise FileExistsError(
            f"{folder} exists: moments are not resumed under another configuration ({different}): remove it first, or "
            "choose another path"
        )
    return {name: Moments.load(folder / file) for name, file in about["layers"].items()}


def _difference(known: object, about: Mapping[str, Any]) -> str | None:
    if not isinstance(known, Mapping):
        return f"{_ABOUT} holds no object"
    attrs = known.get("attrs")
    before = {**known, **(attrs if isinstance(attrs, Mapping) else {})}
    now = {**about, **about["attrs"]}
    for name in sorted(before.keys() | now.keys() - {"attrs", "probe"}):
        if name not in ("attrs", "probe") and before.get(name) != now.get(name):
            return f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
    return probe_difference(known.get("probe"), about["probe"], about["attrs"])


def _text(about: Mapping[str, Any]) -> str:
    return strict_json(about) + "\n"


def _taken(job: Job, first: Mapping[str, np.ndarray], rows: range, n_folds: int, progress: bool) -> dict[str, Moments]:
    widths = widths_of(first)
    at_once = job.batch_size * max(1, _MOMENTS_BYTES // (job.batch_size * job.bytes_per_image(widths)))
    totals: dict[str, Moments] = {}
    kept: list[dict[str, np.ndarray]] = []

    def take(stop: int) -> None:
        features = {name: np.concatenate([block[name] for block in kept]) for name in widths}
        cube = cube_of(job, features, slice(stop - len(next(iter(features.values()))), stop))
        for name in widths:
            part = Moments.from_cube(cube.select(layer=name), n_folds=n_folds, dtype="float64")
            if len(job.sigmas) == 1:
                part = Moments.stack([part], "sigma", cube.sigmas)
            totals[name] = totals[name] + part if name in totals else part
        kept.clear()

    with bar_of(job, len(rows), 0, progress) as bar:
        for batch, block in job.blocks(slices(rows.start, rows.stop, job.batch_size), first, bar):
            kept.append(block)
            # One image alone has no moments: a last one goes with those before it.
            if batch.stop == rows.stop or ((batch.stop - rows.start) % at_once == 0 and rows.stop - batch.stop > 1):
                take(batch.stop)
    return totals
