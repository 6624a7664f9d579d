"""Whatever happens to a store, in whatever order: committed images stay right, and the end is the same bytes.

Hypothesis writes, kills, resumes, damages, verifies, packs and reads one store; beside it runs a model that knows which
blocks were committed and which were damaged on purpose.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeIncompleteError
from icrkit.io import CubeWriter, open_cube, pack, verify

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a kill needs a process to die, and fork makes one")

N_IMAGES, BLOCK, VIEWS = 11, 3, 2
SIGMAS, LAYERS = (0.1, 0.3), {"mid": 3, "up": 2}
N_BLOCKS = -(-N_IMAGES // BLOCK)
FEATURES = {
    name: np.random.default_rng(k).normal(size=(N_IMAGES, VIEWS, len(SIGMAS), d)).astype("f4")
    for k, (name, d) in enumerate(LAYERS.items())
}
LABELS = np.arange(N_IMAGES) % 3
# Everything by which a writer changes the disk.
CALLS = ("open", "write", "fsync", "replace", "rename", "link", "mkdir", "unlink", "truncate", "ftruncate", "close")
KILLED = 9


def writer_of(path: Path, **changes: Any) -> CubeWriter:
    options = {"layers": LAYERS, "sigmas": SIGMAS, "n_views": VIEWS, "n_images": N_IMAGES, "block_size": BLOCK}
    return CubeWriter(path, **(options | {"attrs": {"seed": 3}} | changes))


def append(path: Path, count: int, step: int) -> None:
    """Continue the store by so many images, some at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an unfinished block that was not kept
        with writer_of(path) as writer:
            todo = [i for run in writer.missing_images for i in run][:count]
            for k in range(0, len(todo), step):
                rows = np.array(todo[k : k + step])
                writer.append(rows, {name: h[rows] for name, h in FEATURES.items()}, labels=LABELS[rows])


@contextmanager
def calls_counted(left: int, act: Callable[[], None]) -> Iterator[None]:
    """With `act` in place of the system call that comes after so many."""
    before = {name: getattr(os, name) for name in CALLS}
    counter = [left]

    def counted(plain: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            counter[0] -= 1
            if counter[0] == -1:
                # A descriptor is gone also where close reports an error.
                if plain is before["close"]:
                    plain(*args)
                act()
            return plain(*args, **options)

        return call

    try:
        for name, plain in before.items():
            setattr(os, name, counted(plain))
        yield
    finally:
        for name, plain in before.items():
            setattr(os, name, plain)


def in_child(work: Callable[[], None]) -> int:
    """Exit status of a child that does this work; a child that is killed cleans nothing up."""
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks beside threads; this child starts none
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def snapshot(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(path.iterdir())} if path.exists() else {}


class StoreMachine(RuleBasedStateMachine):
    """One store, and what is known of its blocks."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "out.cube"
        self.undisturbed = self.folder / "undisturbed.cube"
        append(self.undisturbed, N_IMAGES, N_IMAGES)
        self.committed = 0  # lines of the manifest: never fewer
        self.lost: set[int] = set()  # parts that a writer sees to be missing or cut short
        self.changed: set[int] = set()  # parts whose bytes changed, their length kept

    def teardown(self) -> None:
        if not hasattr(self, "path"):
            return
        for block in self.changed:
            self.part(block).unlink()
        append(self.path, N_IMAGES, 4)
        assert snapshot(self.path) == snapshot(self.undisturbed)
        assert verify(self.path) == N_BLOCKS
        shutil.rmtree(self.folder)

    # ---- what is known ------------------------------------------------------------------------------------------

    def part(self, block: int) -> Path:
        return self.path / f"part-{block:05d}.h5"

    def manifest(self) -> list[bytes]:
        path = self.path / "manifest.jsonl"
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    @property
    def begun(self) -> bool:
        return (self.path / "cube.json").exists()

    def settle(self) -> None:
        """What a writer that came to its end, or to a kill, has left."""
        assert len(self.manifest()) >= self.committed
        self.committed = len(self.manifest())
        self.lost = {block for block in self.lost if self.is_lost(block)}

    def is_lost(self, block: int) -> bool:
        part, whole = self.part(block), self.undisturbed / self.part(block).name
        return not part.exists() or part.stat().st_size != whole.stat().st_size

    # ---- what may happen ----------------------------------------------------------------------------------------

    @rule(count=st.integers(0, N_IMAGES), step=st.integers(1, 5))
    def appends(self, count: int, step: int) -> None:
        append(self.path, count, step)
        self.settle()

    @rule(count=st.integers(1, N_IMAGES), step=st.integers(1, 5), calls=st.integers(0, 60))
    def is_killed(self, count: int, step: int, calls: int) -> None:
        def work() -> None:
            with calls_counted(calls, lambda: os._exit(KILLED)):
                append(self.path, count, step)

        assert in_child(work) in (0, KILLED)
        self.settle()

    @rule(
        count=st.integers(1, N_IMAGES),
        calls=st.integers(0, 60),
        number=st.sampled_from([errno.ENOSPC, errno.EIO, errno.EDQUOT]),
    )
    def fails(self, count: int, calls: int, number: int) -> None:
        def fail() -> None:
            raise OSError(number, os.strerror(number))

        with calls_counted(calls, fail):
            try:
                append(self.path, count, 2)
            except OSError as error:
                assert error.errno == number
        self.settle()

    @precondition(lambda self: self.committed)
    @rule(data=st.data(), cut=st.integers(0, 200))
    def loses_a_part(self, data: st.DataObject, cut: int) -> None:
        block = data.draw(st.integers(0, self.committed - 1))
        part = self.part(block)
        if cut and part.exists():
            os.truncate(part, min(cut, part.stat().st_size - 1))
        else:
            part.unlink(missing_ok=True)
        self.changed.discard(block)
        self.lost.add(block)

    @precondition(lambda self: self.committed - len(self.lost) > 0)
    @rule(data=st.data())
    def has_a_bit_flipped(self, data: st.DataObject) -> None:
        block = data.draw(
            st.sampled_from([b for b in range(self.committed) if b not in self.lost | self.changed] or [-1])
        )
        if block < 0:
            return
        raw = bytearray(self.part(block).read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        self.part(block).write_bytes(raw)
        self.changed.add(block)

    @precondition(lambda self: self.changed)
    @rule()
    def is_repaired(self) -> None:
        for block in self.changed:
            self.part(block).unlink()
        self.lost |= self.changed
        self.changed = set()

    @precondition(lambda self: self.begun)
    @rule(torn=st.binary(min_size=1, max_size=30).filter(lambda raw: b"\n" not in raw))
    def has_a_torn_line(self, torn: bytes) -> None:
        with open(self.path / "manifest.jsonl", "ab") as file:
            file.write(torn)

    @precondition(lambda self: self.begun)
    @rule(
        changes=st.sampled_from(
            [
                {"attrs": {"seed": 4}},
                {"sigmas": (0.1, 0.4)},
                {"dtype": "float16"},
                {"n_views": 3},
                {"block_size": 4},
                {"n_images": 12},
                {"layers": {"mid": 3}},
            ]
        )
    )
    def refuses_another_configuration(self, changes: dict[str, Any]) -> None:
        before = snapshot(self.path)
        with pytest.raises(CubeFormatError):
            writer_of(self.path, **changes)
        assert snapshot(self.path) == before

    @precondition(lambda self: self.begun)
    @rule()
    def is_verified(self) -> None:
        with warnings.catch_warnings():
            # Of a block that was written, and whose line was not.
            warnings.filterwarnings("ignore", message=".* holds files that no manifest names")
            self.verify()

    def verify(self) -> None:
        if self.lost or self.changed:
            with pytest.raises((CubeCorruptError, CubeIncompleteError)) as caught:
                verify(self.path)
            for block in self.lost | self.changed:
                assert self.part(block).name in str(caught.value)
        elif self.committed < N_BLOCKS:
            with pytest.raises(CubeIncompleteError):
                verify(self.path)
        else:
            assert verify(self.path) == N_BLOCKS

    @precondition(lambda self: self.begun)
    @rule()
    def is_packed(self) -> None:
        out = self.folder / "out.h5"
        if self.committed < N_BLOCKS or self.lost or self.changed:
            with pytest.raises((CubeCorruptError, CubeIncompleteError)):
                pack(self.path, out)
            assert not out.exists()
        else:
            pack(self.path, out)
            cube = open_cube(out)
            for name, h in FEATURES.items():
                np.testing.assert_array_equal(cube[name].values, h)
            assert verify(out) == 1
            out.unlink()
        assert {p.name for p in self.folder.iterdir()} <= {"out.cube", "undisturbed.cube"}

    @precondition(lambda self: self.begun and self.committed)
    @rule()
    def is_read(self) -> None:
        if self.lost:
            with pytest.raises((CubeCorruptError, CubeIncompleteError)):
                self.read(allow_partial=False)
        elif self.changed:
            with pytest.raises((CubeCorruptError, CubeIncompleteError)):
                self.read(allow_partial=True)
        elif self.committed < N_BLOCKS:
            with pytest.raises(CubeIncompleteError):
                self.read(allow_partial=False)
            self.read(allow_partial=True)
        else:
            self.read(allow_partial=False)

    def read(self, allow_partial: bool) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*the others are left out")
            cube = open_cube(self.path, allow_partial=allow_partial)
        n = min(self.committed * BLOCK, N_IMAGES)
        assert cube.image_ids.tolist() == list(range(n))
        assert cube.labels is not None
        assert cube.labels.tolist() == LABELS[:n].tolist()
        for name, h in FEATURES.items():
            np.testing.assert_array_equal(cube[name].values, h[:n])

    # ---- what always holds --------------------------------------------------------------------------------------

    @invariant()
    def committed_blocks_are_as_written(self) -> None:
        if not hasattr(self, "path"):
            return
        assert len(self.manifest()) >= self.committed
        for block in range(self.committed):
            if block not in self.lost | self.changed:
                assert self.part(block).read_bytes() == (self.undisturbed / self.part(block).name).read_bytes()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=15, stateful_step_count=20, suppress_health_check=list(HealthCheck))


class TestLongRuns(StoreMachine.TestCase):
    """The same with many more steps."""

    pytestmark = pytest.mark.slow
    settings = settings(max_examples=400, stateful_step_count=50, suppress_health_check=list(HealthCheck))
