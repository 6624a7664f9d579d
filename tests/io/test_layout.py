"""The store's plan: a digest of every field, blocks that cover the images once, and manifests with a torn end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icrkit.exceptions import CubeCorruptError, CubeFormatError
from icrkit.io._layout import CONFIG_NAME, Layout, Line, jsonable, read_layout, read_manifest

PLAN = Layout(
    layers={"mid": 5, "up": 3},
    sigmas=(0.1, 0.3),
    n_views=2,
    n_images=23,
    block_size=5,
    alphas=(0.9, 0.7),
    attrs={"seed": 3, "augmentation": {"crop": [0.2, 1.0]}},
    software={"icrkit": "1"},
)

CHANGES: list[dict[str, Any]] = [
    {"layers": {"mid": 5, "up": 4}},
    {"layers": {"up": 3, "mid": 5}},
    {"sigmas": (0.1, 0.30000000000000004)},
    {"sigmas": (0.3, 0.1)},
    {"n_views": 3},
    {"n_images": 24},
    {"dtype": "float16"},
    {"block_size": 6},
    {"n_shards": 2},
    {"alphas": None},
    {"alphas": (0.9, 0.8)},
    {"attrs": {"seed": 4, "augmentation": {"crop": [0.2, 1.0]}}},
    {"attrs": {"seed": 3, "augmentation": {"crop": [0.2, 0.9]}}},
    {"software": {"icrkit": "2"}},
]


class TestDigest:
    @pytest.mark.parametrize("change", CHANGES, ids=str)
    def test_every_field_changes_it(self, change: dict[str, Any]) -> None:
        assert replace(PLAN, **change).digest != PLAN.digest

    def test_every_field_is_tried(self) -> None:
        assert {name for change in CHANGES for name in change} == set(PLAN.__dataclass_fields__)

    def test_the_order_of_attrs_does_not(self) -> None:
        turned = {name: PLAN.attrs[name] for name in reversed(PLAN.attrs)}
        assert replace(PLAN, attrs=turned).digest == PLAN.digest

    def test_comes_back_from_the_file_as_it_was(self, tmp_path: Path) -> None:
        (tmp_path / CONFIG_NAME).write_text(json.dumps(PLAN.to_dict()))
        assert read_layout(tmp_path) == PLAN
        assert read_layout(tmp_path).digest == PLAN.digest

    @pytest.mark.parametrize(
        "edit",
        [
            {"layers": [{"name": "mid", "features": 6}, {"name": "up", "features": 3}]},
            {"sigmas": [0.1, 0.4]},
            {"n_views": 3},
            {"n_images": 24},
            {"dtype": "float16"},
            {"attrs": {}},
            {"digest": "0" * 64},
            {"added": 1},
        ],
        ids=str,
    )
    def test_an_edited_file_is_noticed(self, tmp_path: Path, edit: dict[str, Any]) -> None:
        (tmp_path / CONFIG_NAME).write_text(json.dumps(PLAN.to_dict() | edit))
        with pytest.raises(CubeCorruptError, match="does not match its own digest"):
            read_layout(tmp_path)

    @pytest.mark.parametrize(
        ("raw", "error", "match"),
        [
            ("{", CubeCorruptError, r"cube\.json cannot be parsed: JSONDecodeError"),
            ("[]", CubeFormatError, "no icrkit cube"),
            ('{"format": "other"}', CubeFormatError, "no icrkit cube"),
            ('{"format": "icrkit-cube", "version": 2}', CubeFormatError, "version 2; this icrkit reads 1"),
        ],
    )
    def test_other_files_of_that_name(self, tmp_path: Path, raw: str, error: type[Exception], match: str) -> None:
        (tmp_path / CONFIG_NAME).write_text(raw)
        with pytest.raises(error, match=match):
            read_layout(tmp_path)


class TestSameness:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"n_images": 24}, "n_images = 24, and this writer has n_images = 23"),
            ({"attrs": {"seed": 4, "augmentation": {"crop": [0.2, 1.0]}}}, "attrs.seed = 4, .* attrs.seed = 3"),
            ({"attrs": {"augmentation": {"crop": [0.2, 1.0]}}}, "attrs.seed = 'nothing'"),
            ({"sigmas": (0.1, 0.31)}, r"sigmas = \[0\.1, 0\.31\]"),
            ({"layers": {"mid": 5, "up": 4}}, r"layers = \{'mid': 5, 'up': 4\}"),
        ],
    )
    def test_the_first_difference_is_named(self, change: dict[str, Any], words: str) -> None:
        with pytest.raises(CubeFormatError, match=words):
            PLAN.check_same(replace(PLAN, **change), Path("x.cube"))

    def test_newer_software_is_the_same_plan(self) -> None:
        PLAN.check_same(replace(PLAN, software={"icrkit": "2"}), Path("x.cube"))


class TestBlocks:
    @settings(max_examples=60, derandomize=True)
    @given(n=st.integers(1, 200), size=st.integers(1, 40), shards=st.integers(1, 12))
    def test_cover_every_image_once_in_order(self, n: int, size: int, shards: int) -> None:
        shards = min(n, shards)
        plan = replace(PLAN, n_images=n, block_size=size, n_shards=shards)
        rows, names = [], []
        for shard in range(shards):
            own = plan.shard_range(shard)
            for block in range(plan.n_blocks(shard)):
                here = [own[i] for i in plan.block_range(shard, block)]
                assert 1 <= len(here) <= size
                rows += here
                names.append(plan.part_name(shard, block))
        assert rows == list(range(n))
        assert len(set(names)) == len(names)
        assert max(len(plan.shard_range(s)) for s in range(shards)) - min(
            len(plan.shard_range(s)) for s in range(shards)
        ) in (0, 1)

    def test_names_of_one_shard_are_never_those_of_another(self) -> None:
        plan = replace(PLAN, n_shards=3)
        for make in (plan.manifest_name, plan.lock_name, plan.part_prefix):
            assert len({make(shard) for shard in range(3)}) == 3
        assert (PLAN.manifest_name(0), PLAN.part_name(0, 17)) == ("manifest.jsonl", "part-00017.h5")

    def test_a_block_is_some_tens_of_megabytes_unless_told(self) -> None:
        plan = replace(PLAN, n_images=10**7, block_size=0)
        assert 16 << 20 < plan.block_size * plan.image_bytes <= 32 << 20
        assert replace(PLAN, layers={"map": 10**8}, block_size=0).block_size == 1

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"n_images": 0}, "n_images is 0"),
            ({"n_views": 2.0}, "n_views is 2.0"),
            ({"sigmas": (), "alphas": None}, "sigmas is empty"),
            ({"sigmas": (0.1, 0.1)}, "0.1"),
            ({"alphas": (1.0,)}, "1 alphas for 2 sigmas"),
            ({"dtype": "int8"}, "holds one of float16, float32, float64"),
            ({"n_shards": 24}, "24 shards for 23 images"),
            ({"block_size": -1}, "block_size is -1"),
            ({"layers": {}}, "layers is empty"),
            ({"layers": {"a/b": 1}}, "cannot be stored"),
            ({"layers": {"sigma": 1}}, "cannot be stored"),
            ({"layers": {"..": 1}}, "cannot be stored"),
            ({"layers": {"mid": 0}}, "features of layer 'mid' is 0"),
        ],
        ids=str,
    )
    def test_what_cannot_be_a_plan(self, change: dict[str, Any], match: str) -> None:
        with pytest.raises(CubeFormatError, match=match):
            replace(PLAN, **change)


class TestManifest:
    def lines(self, n: int) -> list[Line]:
        counts = [5, 5, 5, 5, 3][:n]
        return [Line(k, c, 100 + k, f"{k:064x}", [f"ü{k}{i}" for i in range(c)], None) for k, c in enumerate(counts)]

    def write(self, folder: Path, raw: bytes) -> None:
        (folder / "manifest.jsonl").write_bytes(raw)

    def test_lines_come_back(self, tmp_path: Path) -> None:
        lines = [*self.lines(4), Line(4, 3, 9, "a" * 64, [1, 2, 3], [0.5, 1.5, 2.5])]
        raw = b"".join(line.encode() for line in lines)
        assert raw.count(b"\n") == 5
        self.write(tmp_path, raw)
        assert read_manifest(tmp_path, PLAN, 0) == (lines, len(raw))

    def test_no_manifest_is_no_block(self, tmp_path: Path) -> None:
        assert read_manifest(tmp_path, PLAN, 0) == ([], 0)

    def test_a_last_line_torn_anywhere_is_left_out(self, tmp_path: Path) -> None:
        lines = self.lines(3)
        whole = b"".join(line.encode() for line in lines[:2])
        last = lines[2].encode()
        for cut in range(len(last)):
            self.write(tmp_path, whole + last[:cut])
            assert read_manifest(tmp_path, PLAN, 0) == (lines[:2], len(whole))
        self.write(tmp_path, whole + last[:40] + b"\n")  # its end arrived, its middle did not
        assert read_manifest(tmp_path, PLAN, 0) == (lines[:2], len(whole))

    def test_a_line_torn_before_others_is_damage(self, tmp_path: Path) -> None:
        encoded = [line.encode() for line in self.lines(3)]
        self.write(tmp_path, encoded[0] + encoded[1][:40] + b"\n" + encoded[2])
        with pytest.raises(CubeCorruptError, match="line 2 of 3 is damaged"):
            read_manifest(tmp_path, PLAN, 0)

    def test_blocks_out_of_order_or_of_another_size(self, tmp_path: Path) -> None:
        first, second, _ = self.lines(3)
        for raw in (second.encode() + first.encode(), first.encode() + first.encode()):
            self.write(tmp_path, raw)
            with pytest.raises(CubeCorruptError, match=r"wanted block [01] of 5"):
                read_manifest(tmp_path, PLAN, 0)
        short = replace(first, images=4, ids=list(range(4)))
        self.write(tmp_path, short.encode())
        with pytest.raises(CubeCorruptError, match="block 0 of 4 images"):
            read_manifest(tmp_path, PLAN, 0)

    @pytest.mark.parametrize(
        "change",
        [{"block": -1}, {"bytes": "9"}, {"sha256": "abc"}, {"ids": [1]}, {"ids": "abcde"}, {"images": None}],
        ids=str,
    )
    def test_what_is_no_line(self, change: dict[str, Any]) -> None:
        content = json.loads(self.lines(1)[0].encode()) | change
        with pytest.raises(ValueError):
            Line.decode(json.dumps(content).encode())


def test_values_as_json_gives_them_back() -> None:
    given_attrs = {"a": np.float32(0.5), "b": (1, np.arange(2)), 3: Path("x"), "c": None, "d": {"e": np.bool_(True)}}
    kept = jsonable(given_attrs)
    assert kept == {"a": 0.5, "b": [1, [0, 1]], "3": "x", "c": None, "d": {"e": True}}
    assert json.loads(json.dumps(kept)) == kept
    with pytest.raises(CubeFormatError, match=r"attrs\.b\[1\] is of type set"):
        jsonable({"b": [1, {2}]})
