"""Numbers from elsewhere, in a CSV file, that belong to rows of a comparison: accuracies, Frechet distances, ..."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from icrkit.metrics._registry import find_metric

__all__ = ["Outside", "read_outside"]

_KEYS = ("cube", "layer", "sigma", "step")
_FACTS = ("trained", "n_images", "n_views", "n_features")


class Outside(NamedTuple):
    """Columns of a file, and their numbers by the place that they belong to: a value for each key."""

    keys: tuple[str, ...]
    names: list[str]
    numbers: dict[tuple[Any, ...], list[float]]

    def join(self, table: Any) -> None:
        """Put the columns beside the others; NaN where the file has no row for a place."""
        import pandas as pd

        cells = [[None if pd.isna(cell) else cell for cell in table[key]] for key in self.keys]
        places = list(zip(*cells, strict=True))
        nothing = [float("nan")] * len(self.names)
        for k, name in enumerate(self.names):
            table[name] = [self.numbers.get(place, nothing)[k] for place in places]


def read_outside(path: str, cubes: Mapping[str, Any], layers: Sequence[str], sigmas: Sequence[float]) -> Outside:
    """Read a table of numbers that belong to layers and levels of these cubes, or to whole cubes."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV table in UTF-8: {error}") from error
    header = lines[0][1] if lines else []
    keys, names = _checked_header(path, header)
    numbers: dict[tuple[Any, ...], list[float]] = {}
    first: dict[tuple[Any, ...], int] = {}
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {line}: {len(cells)} values for {len(header)} columns")
        row = dict(zip(header, cells, strict=True))
        try:
            place = _place({key: row[key] for key in keys}, cubes)
            values = [_number(row[name], name) for name in names]
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
        if place in numbers:
            raise ValueError(
                f"{path}, line {line}: {', '.join(f'{key} {row[key]}' for key in keys)} is in line {first[place]} "
                f"already; the keys are {', '.join(keys)}"
            )
        numbers[place], first[place] = values, line
    compared = _places(cubes, layers, sigmas)
    if not any(tuple(place[key] for key in keys) in numbers for place in compared):
        raise ValueError(f"{path} has no row for any cube, layer and level that is compared")
    return Outside(keys, names, numbers)


def _checked_header(path: str, header: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Keys and other columns."""
    if "cube" not in header:
        raise ValueError(f"{path}: there is no column 'cube'; its first line is {', '.join(header) or 'empty'}")
    for k, name in enumerate(header):
        if not name:
            raise ValueError(f"{path}: column {k + 1} has no name")
        if name in header[:k]:
            raise ValueError(f"{path}: two columns are called {name!r}")
        if name in _FACTS:
            raise ValueError(f"{path}: the table has a column {name!r} of its own; rename or remove it")
        for end in ("", "_low", "_high", "_error"):
            try:
                metric = find_metric(name.removesuffix(end)).name + end
            except ValueError:
                continue
            if metric == name:
                raise ValueError(f"{path}: column {name!r} has the name of a metric; rename or remove it")
    names = [name for name in header if name not in _KEYS]
    if not names:
        raise ValueError(f"{path}: there is no column beside {', '.join(header)}: nothing to join")
    return tuple(key for key in _KEYS if key in header), names


def _place(cells: Mapping[str, str], cubes: Mapping[str, Any]) -> tuple[Any, ...]:
    """The place that a line of the file is about, as the table has it; an empty cell is a level or step not known."""
    for key in ("cube", "layer"):
        if key in cells and not cells[key]:
            raise ValueError(f"the {key} is empty")
    if cells["cube"] not in cubes:
        raise ValueError(f"no cube is called {cells['cube']!r}; there are {', '.join(cubes)}")
    cube = cubes[cells["cube"]]
    sigma = _number(cells["sigma"], "sigma") if "sigma" in cells else None
    found: dict[str, Any] = {"cube": cells["cube"], "layer": cells.get("layer"), "sigma": None, "step": None}
    # Levels are those of the cube, and the other layers of it may have lines too.
    level = cube.select(layer=found["layer"], sigma=sigma)
    if sigma is not None and sigma == sigma:
        found["sigma"] = float(level.sigmas[0])
    if cells.get("step"):
        found["step"] = _number(cells["step"], "step")
    if "step" in cells and found["step"] != cube.step:
        raise ValueError(f"step {cells['step'] or 'is empty'}, and that of cube {cells['cube']} is {cube.step}")
    return tuple(found[key] for key in cells if key in _KEYS)


def _number(cell: str, name: str) -> float:
    """A finite number; NaN where the cell is empty or says so."""
    try:
        number = float(cell or "nan")
    except ValueError:
        number = float("inf")
    if abs(number) == float("inf"):
        shown = cell if len(cell) <= 40 else f"{cell[:40]}..."
        raise ValueError(f"the {name} is {shown!r}, which is not a finite number")
    return number


def _places(cubes: Mapping[str, Any], layers: Sequence[str], sigmas: Sequence[float]) -> Iterator[dict[str, Any]]:
    """What rows of the table will be about."""
    for name, cube in cubes.items():
        chosen = cube.select(layer=layers or None, sigma=sigmas or None)
        for layer in chosen.layers:
            for sigma in chosen.sigmas.tolist():
                level = None if sigma != sigma else sigma
                yield {"cube": name, "layer": layer, "sigma": level, "step": cube.step}
