"""Run as a script by `_probe`: parses HDF5 files, one after another, so that their reader need not be the first.

Each line of standard input is a JSON object {"path", "group"}, and each is answered by a line. It imports
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
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import h5py
import numpy as np

# Of processor time for one step of a parse, and on the clock; steps of sound files take milliseconds.
_PROCESSOR_SECONDS = 3.0
_SECONDS = 30.0
_STEP = 1 << 16
_MOST_READ = 256 << 20
_MOST_DEFLATED = 1032
# h5netcdf looks at the root; labels of anndata lie a group further down.
_DEPTH = 1


def start_clock() -> None:
    """Allow another step its time."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, _PROCESSOR_SECONDS)
    faulthandler.dump_traceback_later(_SECONDS, exit=True, file=_nowhere)


def stop_clock() -> None:
    """Nothing is parsed now."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, 0)
    faulthandler.cancel_dump_traceback_later()


def each_item(group: Any) -> Iterator[Any]:
    """Datasets, groups and types that lie in a group itself."""
    for name in group:
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
    with suppress(Exception):
        look_at_attributes(dataset)
    start_clock()
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    with suppress(Exception):
        _ = dataset.chunks, dataset.maxshape, dataset.fillvalue, dataset.is_scale, dataset.id.get_storage_size()
    if dataset.shape is None or dataset.is_virtual or dataset.external:
        return
    with suppress(Exception):
        for dim in dataset.dims:
            start_clock()
            _ = dim.label, [scale.name for scale in dim.values()]
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


def look_at_group(group: Any, size: int, depth: int = _DEPTH) -> None:
    with suppress(Exception):
        look_at_attributes(group)
    for item in each_item(group):
        with suppress(Exception):
            if isinstance(item, h5py.Dataset):
                look_at_dataset(item, size)
            elif isinstance(item, h5py.Group) and depth:
                look_at_group(item, size, depth - 1)
            elif isinstance(item, h5py.Datatype):
                _ = item.dtype


def look_at(path: str, group: str) -> None:
    """Parse everything that a reader of this group will.

    What raises is left to that reader: it may not need it, and says more.
    """
    start_clock()
    with open(path, "rb", buffering=0) as raw, h5py.File(raw, "r") as file:
        place = file
        with suppress(Exception):
            look_at_attributes(place)
        for name in group.split("/") if group else ():
            start_clock()
            if not isinstance(place.get(name, getlink=True), h5py.HardLink):
                return
            place = place[name]
            if not isinstance(place, h5py.Group):
                return
        look_at_group(place, os.fstat(raw.fileno()).st_size)


def main() -> None:
    for line in sys.stdin:
        question = json.loads(line)
        with suppress(Exception):
            look_at(question["path"], question["group"])
        stop_clock()
        print("parsed", flush=True)


if __name__ == "__main__":
    with open(os.devnull, "w", encoding="utf-8") as _nowhere:
        main()
