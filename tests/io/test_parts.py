"""One part: checked before HDF5 sees it, hashed once, read by level and rows, never followed outside."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from icrkit.exceptions import CubeCorruptError, CubeIncompleteError, CubeUnsafeError
from icrkit.io import CubeWriter, _parts
from icrkit.io._layout import Layout, read_layout, read_manifest
from icrkit.io._parts import Part, _runs, file_sha256, plain_dataset, read_part

Flip = Callable[[Path, int], None]


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    yield
    for file in _parts._files.values():
        file.close()
    _parts._files.clear()
    _parts._verified.clear()


@pytest.fixture
def layout(store: Any, tmp_path: Path) -> Layout:
    return read_layout(store.write(tmp_path / "a.cube"))


@pytest.fixture
def part(layout: Layout, tmp_path: Path) -> Part:
    """Block 1: images 5 to 9."""
    folder = tmp_path / "a.cube"
    line = read_manifest(folder, layout, 0)[0][1]
    return Part(str(folder / layout.part_name(0, 1)), 0, 5, line).light()


def read(part: Part, layout: Layout, rows: Any, level: int = 1, verify: str = "digest", **some: Any) -> Any:
    index = {name: None if value is None else np.array(value, dtype=np.intp) for name, value in some.items()}
    views, features = index.get("views"), index.get("features")
    shape = (len(rows), 2 if views is None else len(views), 5 if features is None else len(features))
    out = np.full(shape, np.nan, np.float32)
    read_part(part, layout, "mid", np.array(rows), level, views, features, out, verify)
    return out


class TestValues:
    @pytest.mark.parametrize("rows", [[0], [4], [0, 1, 2, 3, 4], [1, 2, 3], [0, 2, 4], [1, 1, 3]])
    @pytest.mark.parametrize(
        "some",
        [
            *({}, {"views": [1]}, {"features": [4, 0]}, {"views": [1, 0], "features": [2]}, {"features": [1, 2, 3]}),
            *({"features": [1, 3]}, {"features": [2, 2]}, {"features": []}, {"views": [0], "features": [3, 4]}),
        ],
    )
    def test_rows_views_and_features_of_a_level(
        self, store: Any, part: Part, layout: Layout, rows: list[int], some: dict[str, list[int]]
    ) -> None:
        want = store.features["mid"][5:10, :, 2][rows]
        want = want[:, some.get("views", [0, 1])][:, :, some.get("features", range(5))]
        np.testing.assert_array_equal(read(part, layout, rows, level=2, **some), want)

    @settings(max_examples=60, derandomize=True)
    @given(rows=st.sets(st.integers(0, 10**5), min_size=1), size=st.integers(1, 10**6))
    def test_runs_cover_the_rows_in_reads_of_bounded_size(self, rows: set[int], size: int) -> None:
        array = np.array(sorted(rows))
        runs = _runs(array, size)
        assert [begin for begin, _ in runs] == [0, *(end for _, end in runs[:-1])]
        assert runs[-1][1] == len(array)
        for begin, end in runs:
            span = int(array[end - 1] - array[begin] + 1)
            assert span * size <= max(size, _parts._PIECE_BYTES)


class TestReading:
    """How many bytes come from the file, by the kernel's count."""

    D = 4096

    @pytest.fixture
    def wide(self, tmp_path: Path) -> tuple[Part, Layout, NDArray[Any]]:
        h = np.random.default_rng(0).standard_normal((20, 3, 1, self.D)).astype("f4")
        with CubeWriter(tmp_path / "b.cube", {"mid": self.D}, [0.1], n_views=3, n_images=20, block_size=20) as writer:
            writer.append(range(20), {"mid": h})
        layout = read_layout(tmp_path / "b.cube")
        line = read_manifest(tmp_path / "b.cube", layout, 0)[0][0]
        return Part(str(tmp_path / "b.cube" / layout.part_name(0, 0)), 0, 0, line).light(), layout, h[:, :, 0]

    @pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the kernel counts no bytes")
    @pytest.mark.parametrize(
        ("rows", "views", "features"),
        [
            *((range(20), None, range(100, 164)), (range(20), [1], None), (range(20), [0], range(9))),
            *((range(0, 20, 9), None, range(64)), (range(20), None, range(0, 500, 100)), (range(20), [2, 1], [7, 3])),
        ],
    )
    def test_only_the_stretch_that_is_asked_for_is_read(self, wide: Any, rows: Any, views: Any, features: Any) -> None:
        part, layout, h = wide
        chosen = [None if some is None else np.array(some) for some in (views, features)]
        want = h[list(rows)]
        want = want if views is None else want[:, views]
        want = want if features is None else want[:, :, features]
        out = np.empty(want.shape, np.float32)
        arguments = (part, layout, "mid", np.array(rows), 0, *chosen, out, "digest")
        read_part(*arguments)  # hashes the file, and opens it
        np.testing.assert_array_equal(out, want)
        before = self.bytes_read()
        read_part(*arguments)
        stretch = [
            1 if some is None else (np.ptp(some) + 1) / size for some, size in zip(chosen, (3, self.D), strict=True)
        ]
        assert self.bytes_read() - before < 1.05 * h.nbytes * np.prod(stretch) + 4096

    @staticmethod
    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])


class TestDamage:
    def test_truncation_is_noticed_before_it_is_parsed(
        self, part: Part, layout: Layout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(h5py, "File", lambda *args, **options: pytest.fail("parsed"))
        size = os.stat(part.path).st_size
        for length in (size - 1, size // 2, 0):
            os.truncate(part.path, length)
            for verify in ("digest", "size"):
                match = rf"part-00001\.h5 has {length} bytes, and {size} were written \(block 1\)"
                with pytest.raises(CubeCorruptError, match=match):
                    read(part, layout, [0], verify=verify)

    def test_a_longer_file_too(self, part: Part) -> None:
        with open(part.path, "ab") as file:
            file.write(b"\0")
        with pytest.raises(CubeCorruptError, match="run the extraction again"):
            part.check_size()
        replace(part, tail=1).check_size()  # a packed file keeps its digest there

    def test_a_flipped_bit_is_noticed_before_it_is_parsed(
        self, part: Part, layout: Layout, flip_bit: Flip, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(h5py, "File", lambda *args, **options: pytest.fail("parsed"))
        size = os.stat(part.path).st_size
        for offset in (0, 9, size // 2, size - 1):
            flip_bit(Path(part.path), offset)
            with pytest.raises(CubeCorruptError, match=r"\(block 1\): its bytes changed after they were written"):
                read(part, layout, [0])
            flip_bit(Path(part.path), offset)
        part.check_digest()

    def test_missing(self, part: Part, layout: Layout) -> None:
        os.unlink(part.path)
        for verify in ("digest", "size"):
            with pytest.raises(CubeIncompleteError, match=r"part-00001\.h5 is missing"):
                read(part, layout, [0], verify=verify)

    def test_another_shape_or_type_than_the_plan_says(self, part: Part, layout: Layout) -> None:
        for wrong in (replace(layout, layers={"mid": 4, "up.0": 4}), replace(layout, dtype="float64")):
            with pytest.raises(CubeCorruptError, match=r"layer 'mid' is float32 .*, and cube\.json says"):
                read(part, wrong, [0])

    def test_ids_of_another_block(self, part: Part, layout: Layout) -> None:
        line = replace(part.line, ids=list("abcde"), labels=None)
        with pytest.raises(CubeCorruptError, match="not those of the manifest"):
            read(replace(part, line=line).light(), layout, [0])


class TestOnce:
    def test_a_file_is_hashed_once_and_again_when_it_changed(
        self, part: Part, flip_bit: Flip, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hashed = []
        real = _parts.file_sha256
        monkeypatch.setattr(_parts, "file_sha256", lambda *args: hashed.append(args[0]) or real(*args))
        for _ in range(3):
            part.check_digest()
        assert hashed == [part.path]
        flip_bit(Path(part.path), 1000)
        stat = os.stat(part.path)
        os.utime(part.path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # clocks of file systems are coarse
        with pytest.raises(CubeCorruptError):
            part.check_digest()
        assert len(hashed) == 2

    def test_few_files_stay_open(
        self, store: Any, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_parts, "_OPEN_FILES", 4)
        folder = tmp_path / "a.cube"
        lines = read_manifest(folder, layout, 0)[0]
        parts = [Part(str(folder / layout.part_name(0, k)), 0, 5 * k, line).light() for k, line in enumerate(lines)]
        for k in (0, 1, 2, 3, 4, 0, 4):
            np.testing.assert_array_equal(
                read(parts[k], layout, [0, 1]), store.features["mid"][5 * k : 5 * k + 2, :, 1]
            )
            assert len(_parts._files) <= 4

    def test_of_the_first_bytes_only(self, tmp_path: Path) -> None:
        raw = np.random.default_rng(0).bytes((2 << 20) * 2 + 17)  # several pieces
        (tmp_path / "a").write_bytes(raw)
        for n in (0, 1, 2 << 20, (2 << 20) + 1, len(raw)):
            assert file_sha256(tmp_path / "a", n) == hashlib.sha256(raw[:n]).hexdigest()
        assert file_sha256(str(tmp_path / "a")) == hashlib.sha256(raw).hexdigest()


def test_light_parts_carry_no_ids_and_know_them_all_the_same(part: Part) -> None:
    assert part.line.ids is None and part.line.labels is None and len(part.names) == 64
    assert (part.start, part.stop) == (5, 10)


def test_what_lies_in_other_files_is_not_opened(tmp_path: Path) -> None:
    outside = tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["secret"] = np.arange(3.0)
    virtual = h5py.VirtualLayout((3,), "f8")
    virtual[:] = h5py.VirtualSource(str(outside), "secret", (3,))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["plain"] = np.arange(3.0)
        file["external"] = h5py.ExternalLink(str(outside), "secret")
        file["soft"] = h5py.SoftLink("/plain")
        file.create_virtual_dataset("virtual", virtual)
        file.create_dataset("raw", (3,), "f8", external=[(str(tmp_path / "raw.bin"), 0, 24)])
        file.create_group("group")
    outside.unlink()
    with h5py.File(tmp_path / "a.h5") as file:
        assert plain_dataset(file, "plain", "a.h5")[:].tolist() == [0, 1, 2]
        for name in ("external", "soft", "virtual", "raw"):
            with pytest.raises(CubeUnsafeError, match=rf"{name}.*(not followed|not opened)"):
                plain_dataset(file, name, "a.h5")
        for name in ("group", "nothing"):
            with pytest.raises(CubeCorruptError, match=name):
                plain_dataset(file, name, "a.h5")
