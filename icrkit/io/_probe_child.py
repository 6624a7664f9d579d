"""Run as a script by `_probe`: parses HDF5 files, one after another, so that their reader need not be the first.

Each line of standard input is a JSON object {"path", "group", "names"}, and each is answered by a line. It imports
nothing of icrkit. A step that takes too long ends the process, from outside Python: the HDF5 library holds the
interpreter's lock while it spins.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import h5py
import numpy as np

# Of processor time for one step of a parse, and on the clock; steps of sound files take milliseconds.
_PROCESSOR_SECONDS = 3.0
_SECONDS = 30.0
_REARM_SECONDS = 5.0
_STEP = 1 << 16
_MOST_READ = 256 << 20
_MOST_DEFLATED = 1032
_armed = -math.inf
# h5netcdf looks at the root; labels of anndata lie a group further down.
_DEPTH = 1


def start_clock() -> None:
    """Allow another step its time."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, _PROCESSOR_SECONDS)
    global _armed
    now = time.monotonic()
    if now > _armed + _REARM_SECONDS:  # it starts a thread, which takes as long as all else in a step
        faulthandler.dump_traceback_later(_SECONDS + _REARM_SECONDS, exit=True, file=_nowhere)
        _armed = now


def stop_clock() -> None:
    """Nothing is parsed now."""
    global _armed
    _armed = -math.inf
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, 0)
    faulthandler.cancel_dump_traceback_later()


def each_item(group: Any, names: Iterable[str]) -> Iterator[Any]:
    """Datasets, groups and types of these names that lie in a group itself."""
    for name in names:
        start_clock()
        with suppress(Exception):
            if isinstance(group.get(name, getlink=True), h5py.HardLink):
                yield group[name]


def look_at_attributes(item: Any) -> None:
    start_clock()
    for name in item.attrs:
        with suppress(Exception):
            for reference in references(item.attrs[name]):
                start_clock()
                with suppress(Exception):  # to something that was deleted since
                    _ = item.file[reference].name


def references(value: Any) -> list[Any]:
    """Object references in the value of an attribute."""
    if isinstance(value, h5py.Reference):
        return [value]
    if not isinstance(value, np.ndarray):
        return []
    if value.dtype.names:
        fields = [row[name] for row in value.ravel() for name in value.dtype.names]
        return [field for field in fields if isinstance(field, h5py.Reference)]
    return [inner for one in value.ravel() for inner in references(one)] if value.dtype == object else []


def look_at_dataset(dataset: Any, size: int) -> None:
    start_clock()
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    with suppress(Exception):
        _ = dataset.chunks, dataset.maxshape, dataset.fillvalue, dataset.is_scale, dataset.id.get_storage_size()
    if dataset.shape is None or dataset.is_virtual or dataset.external:
        return
    if dataset.chunks is not None and dataset.id.get_num_chunks():
        start_clock()
        dataset.id.chunk_iter(lambda chunk: None)
    # What HDF5's heaps hold, and what is small; strange filters and declared sizes are for the reader to refuse.
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    if any(code > 255 and code != 32000 for code in filters) or declared > size * _MOST_DEFLATED or not declared:
        return
    if not dataset.dtype.hasobject and (len(dataset.shape) > 1 or declared > _MOST_READ):
        return
    if dataset.shape == ():
        _ = dataset[()]
        return
    rows = max(1, _STEP // max(1, math.prod(dataset.shape[1:])))
    for first in range(0, dataset.shape[0], rows):
        start_clock()
        _ = dataset[first : first + rows]


def look_at_dimensions(dataset: Any) -> None:
    for dim in dataset.dims:
        start_clock()
        _ = dim.label, [scale.name for scale in dim.values()]


def look_at_group(group: Any, size: int, depth: int = _DEPTH) -> None:
    with suppress(Exception):
        look_at_attributes(group)
    for item in each_item(group, group):
        with suppress(Exception):
            if isinstance(item, h5py.Dataset):
                with suppress(Exception):
                    look_at_attributes(item)
                with suppress(Exception):
                    look_at_dimensions(item)
                look_at_dataset(item, size)
            elif isinstance(item, h5py.Group) and depth:
                look_at_group(item, size, depth - 1)
            elif isinstance(item, h5py.Datatype):
                _ = item.dtype


def look_at(path: str, group: str, names: list[str] | None) -> None:
    """Parse everything that a reader of this group will: of these datasets, or of all and of attributes.

    What raises is left to that reader: it may not need it, and says more.
    """
    start_clock()
    with open(path, "rb", buffering=0) as raw, h5py.File(raw, "r") as file:
        place = file
        if names is None:
            with suppress(Exception):
                look_at_attributes(place)
        for name in group.split("/") if group else ():
            start_clock()
            if not isinstance(place.get(name, getlink=True), h5py.HardLink):
                return
            place = place[name]
            if not isinstance(place, h5py.Group):
                return
        size = os.fstat(raw.fileno()).st_size
        if names is None:
            look_at_group(place, size)
            return
        for item in each_item(place, names):
            with suppress(Exception):
                if isinstance(item, h5py.Dataset):
                    look_at_dataset(item, size)


def main() -> None:
    for line in sys.stdin:
        question = json.loads(line)
        with suppress(Exception):
            look_at(question["path"], question["group"], question["names"])
        stop_clock()
        print("parsed", flush=True)


if __name__ == "__main__":
    with open(os.devnull, "w", encoding="utf-8") as _nowhere:
        main()
