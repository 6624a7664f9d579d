"""CubeWriter: the same bytes however the images arrive, and nothing lost or half kept when something fails."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from icrkit.exceptions import CubeCorruptError, CubeFormatError, CubeLockedError, CubeUnsafeError, NonFiniteError
from icrkit.io import CubeWriter, open_cube, repair, verify

Files = Callable[[Path], dict[str, str]]


class TestBytes:
    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cuts=st.sets(st.integers(1, 22)), stops=st.sets(st.integers(1, 22), max_size=3))
    def test_any_partition_and_any_stops_give_the_same_bytes(
        self, store: Any, files: Files, tmp_path_factory: pytest.TempPathFactory, cuts: set[int], stops: set[int]
    ) -> None:
        folder = tmp_path_factory.mktemp("cubes")
        whole = files(store.write(folder / "whole.cube", step=store.n_images))
        path = folder / "cut.cube"
        for stop in [*sorted(stops), store.n_images]:
            writer = store.open(path)
            edges = [writer.done_images, *sorted(c for c in cuts if writer.done_images < c < stop), stop]
            for first, last in itertools.pairwise(edges):
                store.append(writer, range(first, last))
            writer.close()
        assert files(path) == whole

    def test_the_clock_leaves_no_trace(self, store: Any, files: Files, tmp_path: Path, monkeypatch: Any) -> None:
        first = files(store.write(tmp_path / "a.cube"))
        monkeypatch.setattr("time.time", lambda: 1e9)
        assert files(store.write(tmp_path / "b.cube")) == first

    def test_files_of_a_finished_store(self, store: Any, tmp_path: Path) -> None:
        path = store.write(tmp_path / "a.cube")
        parts = [f"part-{i:05d}.h5" for i in range(5)]
        assert sorted(p.name for p in path.iterdir()) == ["cube.json", "manifest.jsonl", *parts]
        lines = [json.loads(line) for line in (path / "manifest.jsonl").read_text().splitlines()]
        assert [line["block"] for line in lines] == [0, 1, 2, 3, 4]
        assert [line["images"] for line in lines] == [5, 5, 5, 5, 3]
        assert [line["bytes"] for line in lines] == [(path / part).stat().st_size for part in parts]

    def test_a_block_is_some_tens_of_megabytes(self, tmp_path: Path) -> None:
        with CubeWriter(tmp_path / "a.cube", {"mid": 512}, np.geomspace(0.1, 1, 10), 2, 10**6) as writer:
            assert 8 << 20 <= writer.block_size * 512 * 10 * 2 * 4 <= 64 << 20

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_dtypes(self, tmp_path: Path, dtype: str) -> None:
        values = np.random.default_rng(0).normal(size=(4, 2, 1, 3))
        with CubeWriter(tmp_path / "a.cube", {"mid": 3}, [0.1], 2, 4, dtype=dtype) as writer:
            writer.append(range(4), {"mid": values[:, :, 0]})
        read = open_cube(tmp_path / "a.cube")["mid"]
        assert read.dtype == dtype
        assert_array_equal(read.values, values.astype(dtype))


class TestResume:
    def test_done_images_counts_committed_blocks(self, store: Any, tmp_path: Path) -> None:
        with store.open(tmp_path / "a.cube") as writer:
            assert (writer.done_images, writer.finished, writer.image_range) == (0, False, range(23))
            store.append(writer, range(10))
            assert writer.done_images == 10
            assert writer.missing_images == [range(10, 23)]
            store.append(writer, range(10, 15))
        with store.open(tmp_path / "a.cube") as writer:
            assert writer.done_images == 15
            store.append(writer, range(15, 23))
            assert (writer.done_images, writer.finished, writer.missing_images) == (23, True, [])

    def test_an_unfinished_block_is_said_to_be_lost(self, store: Any, tmp_path: Path) -> None:
        with (
            pytest.warns(UserWarning, match="2 images of the unfinished block 1.*from image 5"),
            store.open(tmp_path / "a.cube") as writer,
        ):
            store.append(writer, range(7))

    @pytest.mark.parametrize(
        ("changes", "field", "there", "here"),
        [
            ({"attrs": {"seed": 4, "step": 40, "augmentation": {"crop": [0.2, 1.0]}}}, "attrs.seed", "3", "4"),
            ({"attrs": {"seed": 3, "step": 40, "augmentation": {"crop": [0.3, 1.0]}}}, "tion.crop", "0.2", "0.3"),
            ({"attrs": {"seed": 3, "step": 40}}, "attrs.augmentation", "crop", "nothing"),
            ({"dtype": "float16"}, "dtype", "float32", "float16"),
            ({"sigmas": (0.1, 0.3, 2.0)}, "sigmas", "0.1, 0.3, 1", "0.1, 0.3, 2"),
            ({"layers": {"mid": 5, "up.0": 8}}, "layers", "4", "8"),
            ({"n_views": 3}, "n_views", "2", "3"),
            ({"n_images": 24}, "n_images", "23", "24"),
            ({"block_size": 6}, "block_size", "5", "6"),
            ({"shard": (0, 2)}, "n_shards", "1", "2"),
        ],
    )
    def test_another_configuration(
        self, store: Any, files: Files, tmp_path: Path, changes: Any, field: str, there: str, here: str
    ) -> None:
        path = store.begin(tmp_path / "a.cube", 2)
        before = files(path)
        with pytest.raises(CubeFormatError) as caught:
            store.open(path, **changes)
        for words in (field, there, here):
            assert words in str(caught.value)
        assert files(path) == before

    def test_newer_libraries_may_finish(self, store: Any, tmp_path: Path, monkeypatch: Any) -> None:
        path = store.begin(tmp_path / "a.cube", 2)
        monkeypatch.setattr("icrkit.io._writer.software_versions", lambda: {"numpy": "99"})
        store.write(path)
        assert verify(path) == store.n_blocks

    def test_torn_last_line_and_stale_files(self, store: Any, files: Files, tmp_path: Path) -> None:
        whole = files(store.write(tmp_path / "whole.cube"))
        for torn in (b'{"block":2,"ima', b'{"block"\n', b"\0\0\0"):
            path = store.begin(tmp_path / f"torn-{len(torn)}.cube", 2)
            with open(path / "manifest.jsonl", "ab") as file:
                file.write(torn)
            (path / "part-00002.h5.part").write_bytes(b"half")
            (path / "writer.lock").write_bytes(b"pid 1 on another\n")
            with store.open(path) as writer:
                assert writer.done_images == 10
            store.write(path)
            assert files(path) == whole

    def test_torn_line_in_the_middle(self, store: Any, tmp_path: Path) -> None:
        path = store.begin(tmp_path / "a.cube", 3)
        lines = (path / "manifest.jsonl").read_bytes().split(b"\n")
        (path / "manifest.jsonl").write_bytes(b"\n".join([lines[0], lines[1][:20], *lines[2:]]))
        with pytest.raises(CubeCorruptError, match="line 2 of 3"):
            store.open(path)
        assert not (path / "writer.lock").exists()

    @pytest.mark.parametrize("again", ["all", "missing only"])
    @pytest.mark.parametrize("damage", ["truncated", "missing"])
    def test_only_a_lost_block_is_written_again(
        self, store: Any, files: Files, tmp_path: Path, damage: str, again: str
    ) -> None:
        path = store.write(tmp_path / "a.cube")
        whole = files(path)
        for name in ("part-00001.h5", "part-00003.h5"):
            if damage == "truncated":
                os.truncate(path / name, 100)
            else:
                (path / name).unlink()
        stamps = {p.name: p.stat().st_mtime_ns for p in path.iterdir()}
        with store.open(path) as writer:
            assert writer.done_images == 5
            assert writer.missing_images == [range(5, 10), range(15, 20)]
            for images in [range(5, 23)] if again == "all" else writer.missing_images:
                store.append(writer, images)
            assert writer.finished
        assert files(path) == whole
        rewritten = {p.name for p in path.iterdir() if p.stat().st_mtime_ns != stamps.get(p.name)}
        assert rewritten == {"part-00001.h5", "part-00003.h5"}

    def test_a_lost_block_comes_back_as_it_was_or_on_request(self, store: Any, files: Files, tmp_path: Path) -> None:
        path = store.write(tmp_path / "a.cube")
        whole = files(path)
        part = path / "part-00002.h5"
        part.unlink()
        features = store.features["mid"]
        store.features["mid"] = features + 1
        for _ in range(2):
            with pytest.raises(CubeCorruptError, match=r"part-00002.h5 was lost.*network.*seed.*icrkit repair"):
                store.write(path)
            assert not part.exists()
            assert files(path) == {name: sha for name, sha in whole.items() if name != part.name}
        store.features["mid"] = features
        store.write(path)
        assert files(path) == whole
        part.unlink()
        assert repair(path).n_open == 1
        store.features["mid"] = features + 1
        store.write(path)
        assert verify(path) == store.n_blocks
        assert_array_equal(open_cube(path)[10:15]["mid"].values, store.features["mid"][10:15])

    def test_images_in_another_order_are_noticed(self, store: Any, tmp_path: Path) -> None:
        path = store.write(tmp_path / "a.cube")
        (path / "part-00000.h5").unlink()
        with store.open(path) as writer, pytest.raises(CubeFormatError, match="same order"):
            store.append(writer, [4, 3, 2, 1, 0])
        with store.open(path) as writer, pytest.raises(CubeFormatError, match="same order"):
            store.append(writer, [0, 1, 2, 3, 4, 6, 5])

    def test_a_part_that_came_without_its_line_is_mended_by_resuming(
        self, store: Any, files: Files, tmp_path: Path, monkeypatch: Any
    ) -> None:
        # Ended between the new part and the manifest, of a block whose loss was accepted.
        path = store.write(tmp_path / "a.cube")
        (path / "part-00002.h5").unlink()
        repair(path)
        store.features["mid"] = store.features["mid"] + 1
        monkeypatch.setattr(CubeWriter, "_note", lambda self, line: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.write(path)
        assert (path / "part-00002.h5").exists()
        monkeypatch.undo()
        store.write(path)
        assert verify(path) == store.n_blocks
        assert_array_equal(open_cube(path)[10:15]["mid"].values, store.features["mid"][10:15])


class TestTwoWriters:
    """Where a lock file was removed by hand, nothing is mixed."""

    def test_the_first_stops_where_a_second_is_at_work(self, store: Any, files: Files, tmp_path: Path) -> None:
        whole = files(store.write(tmp_path / "whole.cube"))
        path = tmp_path / "a.cube"
        first = store.open(path)
        store.append(first, range(5))
        (path / "writer.lock").unlink()
        second = store.open(path)
        assert second.done_images == 5
        with pytest.raises(CubeLockedError, match=f"pid {os.getpid()}"):
            store.append(first, range(5, 10))
        store.append(second, range(5, 23))
        second.close()
        assert files(path) == whole

    def test_and_where_a_second_came_and_went(self, store: Any, files: Files, tmp_path: Path) -> None:
        path = tmp_path / "a.cube"
        first = store.open(path)
        store.append(first, range(5))
        (path / "writer.lock").unlink()
        with store.open(path) as second:
            store.append(second, range(5, 10))
        before = {name: sha for name, sha in files(path).items() if not name.endswith(".lock")}
        with pytest.raises(CubeLockedError, match="changed while this process wrote"):
            store.append(first, range(5, 10))
        assert files(path) == before
        store.write(path)
        assert verify(path) == store.n_blocks

    def test_a_single_writer_goes_on(self, store: Any, files: Files, tmp_path: Path) -> None:
        whole = files(store.write(tmp_path / "whole.cube"))
        with store.open(tmp_path / "a.cube") as writer:
            for first in range(0, 23, 4):
                (tmp_path / "a.cube" / "writer.lock").unlink(missing_ok=True)
                store.append(writer, range(first, min(first + 4, 23)))
        assert files(tmp_path / "a.cube") == whole

    def test_planted_links_are_not_written_through(self, store: Any, files: Files, tmp_path: Path) -> None:
        whole = files(store.write(tmp_path / "whole.cube"))
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        path = store.begin(tmp_path / "a.cube", 2)
        for name in ("part-00002.h5", "part-00003.h5.part", "cube.json.part"):
            (path / name).symlink_to(victim)
        store.write(path)
        assert victim.read_bytes() == b"precious"
        assert files(path) == whole
        path = store.begin(tmp_path / "b.cube", 2)
        (path / "writer.lock").symlink_to(victim)
        with pytest.raises(CubeUnsafeError, match="plain file"):
            store.write(path)
        assert victim.read_bytes() == b"precious"

    def test_a_start_is_seen_whole_or_not_at_all(self, store: Any, tmp_path: Path, monkeypatch: Any) -> None:
        # Another process begins the store between our look for cube.json and our look at the folder.
        path = tmp_path / "a.cube"
        path.mkdir()
        plain = Path.iterdir

        def listing(folder: Path) -> Any:
            if folder == path:
                monkeypatch.setattr(Path, "iterdir", plain)
                store.begin(path, 1)
            return plain(folder)

        monkeypatch.setattr(Path, "iterdir", listing)
        store.write(path)
        assert verify(path) == store.n_blocks

    def test_shards_that_start_at_once(self, tmp_path: Path) -> None:
        code = (
            "import sys, numpy as np\nfrom icrkit.io import CubeWriter\nsys.stdin.readline()\n"
            "for k in range(10):\n"
            "    with CubeWriter(f'{sys.argv[1]}/{k}.cube', {'a': 1}, [1], 1, 3, shard=(int(sys.argv[2]), 3)) as w:\n"
            "        w.append(w.image_range, {'a': np.ones((1, 1, 1, 1))})\n"
        )
        pipe = subprocess.PIPE
        writers = [
            subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(k)], stdin=pipe, stderr=pipe, text=True)
            for k in range(3)
        ]
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.communicate()[1] for writer in writers] == ["", "", ""]
        for k in range(10):
            assert verify(tmp_path / f"{k}.cube") == 3
            assert len(list((tmp_path / f"{k}.cube").iterdir())) == 7


class TestFailure:
    def test_disk_full_at_every_write(self, store: Any, files: Files, tmp_path: Path, monkeypatch: Any) -> None:
        whole = files(store.write(tmp_path / "whole.cube"))
        write, calls = os.write, [0]

        def limited(fd: int, data: Any) -> int:
            calls[0] += 1
            if calls[0] == allowed:
                return write(fd, bytes(data)[: len(data) // 2])  # as a disk does that is nearly full
            if calls[0] > allowed:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(fd, data)

        allowed, failures = 0, 0
        while True:
            allowed += 1
            calls[0] = 0
            path = tmp_path / f"full-{allowed}.cube"
            monkeypatch.setattr(os, "write", limited)
            try:
                store.write(path)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                failures += 1
            else:
                break
            finally:
                monkeypatch.setattr(os, "write", write)
            names = {p.name for p in path.iterdir()}
            assert not any(name.endswith((".part", ".lock")) for name in names)
            lines = (path / "manifest.jsonl").read_bytes() if "manifest.jsonl" in names else b""
            assert lines == b"" or lines.endswith(b"\n")
            store.write(path)
            assert files(path) == whole
        assert failures == 3 + 2 * store.n_blocks

    def test_file_size_limit(self, store: Any, files: Files, tmp_path: Path) -> None:
        whole = files(store.write(tmp_path / "whole.cube"))
        path = store.begin(tmp_path / "a.cube", 1)
        before = files(path)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            with pytest.raises(OSError) as caught:
                store.write(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.errno == errno.EFBIG
        assert files(path) == before
        assert files(store.write(path)) == whole

    def test_a_failed_writer_says_so(self, store: Any, tmp_path: Path, monkeypatch: Any) -> None:
        writer = store.open(tmp_path / "a.cube")

        def full(*_: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(OSError, match="No space left"):
                store.append(writer, range(5))
        with pytest.raises(CubeFormatError, match="closed; open a new one"):
            store.append(writer, range(5))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_non_finite(self, store: Any, files: Files, tmp_path: Path, bad: float) -> None:
        path = store.begin(tmp_path / "a.cube", 1)
        before = files(path)
        store.features["up.0"][8, 1, 2, 3] = bad
        store.features["up.0"][9, 0, 0, 0] = bad
        with store.open(path) as writer, pytest.raises(NonFiniteError) as caught:
            store.append(writer, range(5, 12))
        for words in ("'up.0'", "2 NaN or infinite", "'bild-8-ü'", "view 1", "sigma=1,", "feature 3"):
            assert words in str(caught.value)
        assert files(path) == before

    def test_overflow_of_a_narrower_dtype(self, tmp_path: Path) -> None:
        with (
            CubeWriter(tmp_path / "a.cube", {"mid": 1}, [0.1], 1, 2, dtype="float16") as writer,
            pytest.raises(NonFiniteError, match="1 values beyond the range of float16"),
        ):
            writer.append([0, 1], {"mid": np.array([1.0, 1e6]).reshape(2, 1, 1)})


class TestLock:
    def test_second_writer(self, store: Any, files: Files, tmp_path: Path) -> None:
        path = tmp_path / "a.cube"
        with store.open(path) as writer:
            store.append(writer, range(10))
            before = files(path)
            with pytest.raises(CubeLockedError) as caught:
                store.open(path)
            assert f"pid {os.getpid()}" in str(caught.value)
            assert socket.gethostname() in str(caught.value)
            assert files(path) == before
            store.append(writer, range(10, 23))
        assert not (path / "writer.lock").exists()
        store.open(path).close()

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_child_does_not_keep_the_lock(self, store: Any, tmp_path: Path) -> None:
        path = tmp_path / "a.cube"
        writer = store.open(path)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:  # outlives the writer's right to write
            os.read(read, 1)
            writer.close()
            os._exit(0)
        writer.close()
        with store.open(path):
            os.write(write, b"x")
            os.waitpid(child, 0)
            assert (path / "writer.lock").exists()
        os.close(read)
        os.close(write)


class TestShards:
    def test_shards_in_order_are_the_images_in_order(self, store: Any, tmp_path: Path) -> None:
        path = tmp_path / "a.cube"
        writers = [store.open(path, shard=(i, 3)) for i in range(3)]
        assert [list(w.image_range) for w in writers] == [list(range(7)), list(range(7, 15)), list(range(15, 23))]
        for writer in reversed(writers):  # all at once
            store.append(writer, list(writer.image_range)[:6])
        for writer in writers:
            store.append(writer, list(writer.image_range)[6:])
            assert writer.finished
            writer.close()
        assert {p.name for p in path.iterdir() if p.suffix != ".h5"} == {
            "cube.json",
            "manifest-000.jsonl",
            "manifest-001.jsonl",
            "manifest-002.jsonl",
        }
        cube = open_cube(path)
        assert_array_equal(cube.image_ids, store.ids)
        assert_array_equal(cube.labels, store.labels)
        assert_array_equal(cube["mid"].values, store.features["mid"])
        assert_array_equal(cube[[20, 3, 9]]["up.0"].values, store.features["up.0"][[20, 3, 9]])
        assert verify(path) == 6

    def test_each_shard_has_its_own_lock_and_resumes(self, store: Any, tmp_path: Path) -> None:
        path = tmp_path / "a.cube"
        with store.open(path, shard=(1, 2)) as writer:
            store.append(writer, list(writer.image_range)[:5])
            with pytest.raises(CubeLockedError):
                store.open(path, shard=(1, 2))
        with store.open(path, shard=(1, 2)) as writer:
            assert writer.done_images == 5

    def test_repeats_across_shards_are_seen_when_read(self, store: Any, tmp_path: Path) -> None:
        path = tmp_path / "a.cube"
        for shard in range(2):
            with store.open(path, shard=(shard, 2)) as writer:
                store.append(writer, range(len(writer.image_range)))
        with pytest.raises(CubeFormatError, match="ids repeat"):
            open_cube(path)

    @pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 24)])
    def test_no_such_shard(self, store: Any, tmp_path: Path, shard: tuple[int, int]) -> None:
        with pytest.raises(CubeFormatError, match="shard"):
            store.open(tmp_path / "a.cube", shard=shard)
        assert not (tmp_path / "a.cube").exists()


class TestInput:
    def test_ids_must_be_new(self, store: Any, tmp_path: Path) -> None:
        with store.open(tmp_path / "a.cube") as writer:
            store.append(writer, range(5))
            with pytest.raises(CubeFormatError, match="'bild-4-ü' repeats"):
                store.append(writer, [5, 6, 4])
            with pytest.raises(CubeFormatError, match="'bild-6-ü' repeats"):
                store.append(writer, [5, 6, 6])
            with pytest.raises(CubeFormatError, match="24 images for 23"):
                store.append(writer, [*range(5, 23), 0])
            store.append(writer, range(5, 10))
        assert len(open_cube_partial(tmp_path / "a.cube")) == 10

    def test_kinds_stay_the_same(self, store: Any, tmp_path: Path) -> None:
        block = {name: h[5:10] for name, h in store.features.items()}
        with store.open(tmp_path / "a.cube") as writer:
            store.append(writer, range(5))
            with pytest.raises(CubeFormatError, match="came with labels, these come without"):
                writer.append(store.ids[5:10], block)
            with pytest.raises(CubeFormatError, match="labels were int, and now are str"):
                writer.append(store.ids[5:10], block, labels=list("abcde"))
            with pytest.raises(CubeFormatError, match="image_ids were str, and now are int"):
                writer.append(range(5), block, labels=range(5))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"mid": np.zeros((5, 2, 3, 5))}, r"layers given: \['mid'\]"),
            ({"mid": np.zeros((5, 2, 3, 6)), "up.0": np.zeros((5, 2, 3, 4))}, r"'mid'.*\(5, 2, 3, 5\)"),
            ({"mid": np.zeros((5, 2, 3, 5), complex), "up.0": np.zeros((5, 2, 3, 4))}, "'mid': complex128"),
            ({"mid": np.zeros((4, 2, 3, 5)), "up.0": np.zeros((5, 2, 3, 4))}, r"\(4, 2, 3, 5\)"),
        ],
    )
    def test_blocks_must_fit(self, store: Any, tmp_path: Path, change: Any, words: str) -> None:
        with store.open(tmp_path / "a.cube") as writer, pytest.raises(CubeFormatError, match=words):
            writer.append(range(5), change)

    @pytest.mark.parametrize(
        ("ids", "words"),
        [
            ([[1, 2]], "image_ids has shape"),
            ([1.5, 2.5], "integers or text"),
            (["a\0b", "c"], "NUL"),
            (np.array([2**63, 1], dtype=np.uint64), "int64"),
        ],
    )
    def test_ids_are_integers_or_text(self, store: Any, tmp_path: Path, ids: Any, words: str) -> None:
        block = {name: h[:2] for name, h in store.features.items()}
        with store.open(tmp_path / "a.cube") as writer, pytest.raises(CubeFormatError, match=words):
            writer.append(ids, block)

    @pytest.mark.parametrize("labels", [[0.5, 1.5], ["cat", "dog"], [True, False], [3, 4]])
    def test_kinds_of_labels(self, tmp_path: Path, labels: list[Any]) -> None:
        with CubeWriter(tmp_path / "a.cube", {"mid": 1}, [0.1], 2, 2, alphas=[0.9]) as writer:
            writer.append([7, 8], {"mid": np.zeros((2, 2, 1))}, labels=labels)
        cube = open_cube(tmp_path / "a.cube")
        assert_array_equal(cube.labels, labels)
        assert cube.to_xarray()["alpha"].values.tolist() == [0.9]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"dtype": "int32"}, "float16, float32, float64"),
            ({"dtype": "bfloat16"}, "float16, float32, float64"),
            ({"n_views": 0}, "n_views"),
            ({"n_images": 0}, "n_images"),
            ({"sigmas": []}, "sigmas is empty"),
            ({"sigmas": [0.1, 0.1, 1.0]}, "levels"),
            ({"layers": {}}, "layers is empty"),
            ({"layers": {"a/b": 3}}, "'a/b'.*dots"),
            ({"layers": {"view": 3}}, "reserved"),
            ({"layers": {"a": 3, "feature_a": 3}}, "reserved"),
            ({"block_size": -1}, "block_size"),
            ({"alphas": [1.0]}, "1 alphas for 3 sigmas"),
            ({"attrs": {"model": object()}}, "attrs.model is of type object"),
        ],
    )
    def test_configuration(self, store: Any, tmp_path: Path, changes: Any, words: str) -> None:
        with pytest.raises(CubeFormatError, match=words):
            store.open(tmp_path / "a.cube", **changes)
        assert not (tmp_path / "a.cube").exists()

    def test_attrs_come_back_as_plain_values(self, tmp_path: Path) -> None:
        attrs = {"a": np.float32(0.5), "b": np.arange(2), "c": (1, None), "d": {"e": Path("x")}, "f": True}
        with CubeWriter(tmp_path / "a.cube", {"mid": 1}, [0.1], 2, 1, attrs=attrs) as writer:
            writer.append([0], {"mid": np.zeros((1, 2, 1))})
        plain = {"a": 0.5, "b": [0, 1], "c": [1, None], "d": {"e": "x"}, "f": True}
        assert open_cube(tmp_path / "a.cube").attrs == plain

    def test_somebody_elses_folder(self, store: Any, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("x")
        with pytest.raises(CubeFormatError, match=r"thesis\.tex"):
            store.open(tmp_path)
        with pytest.raises(CubeFormatError, match="is a file"):
            store.open(tmp_path / "thesis.tex")
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def open_cube_partial(path: Path) -> Any:
    with pytest.warns(UserWarning, match="are left out"):
        return open_cube(path, allow_partial=True)
