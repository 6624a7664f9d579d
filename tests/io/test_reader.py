"""Lazy reading of stores: any index as in memory, only what is asked for, and damage before it is parsed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, KFold

from icrkit.cube import Cube
from icrkit.exceptions import (
    CubeCorruptError,
    CubeFormatError,
    CubeIncompleteError,
    CubeTooLargeError,
    CubeUnsafeError,
)
from icrkit.io import IcrkitBackendEntrypoint, _parts, open_cube

ENGINE = IcrkitBackendEntrypoint
QUIET = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(store: Any, tmp_path: Path) -> Path:
    whole: Path = store.write(tmp_path / "a.cube")
    return whole


def as_rows(rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.intp)


def keys(size: int) -> st.SearchStrategy[Any]:
    """An index along one axis: slice, integer or list of integers."""
    return st.one_of(
        st.slices(size), st.integers(0, size - 1), st.lists(st.integers(0, size - 1), max_size=2 * size).map(as_rows)
    )


class LevelMean(BaseEstimator):
    """Reads one level of a lazily opened cube."""

    def __init__(self, sigma: float = 0.1) -> None:
        self.sigma = sigma

    def fit(self, X: Cube, y: Any = None) -> LevelMean:
        self.mean_ = float(X.select(layer="mid", sigma=self.sigma).level().values.mean())
        return self

    def score(self, X: Cube, y: Any = None) -> float:
        return -abs(float(X.select(layer="mid", sigma=self.sigma).level().values.mean()) - self.mean_)


class TestValues:
    def test_everything(self, store: Any, path: Path) -> None:
        cube = open_cube(path)
        assert cube.layers == ("mid", "up.0")
        assert cube.sigmas.tolist() == [0.1, 0.3, 1.0]
        assert (cube.n_images, cube.n_views, cube.step, cube.source) == (23, 2, 40, str(path))
        assert_array_equal(cube.image_ids, store.ids)
        assert_array_equal(cube.labels, store.labels)
        for name, values in store.features.items():
            layer = cube[name]
            assert layer.encoding["source"] == str(path)
            assert_array_equal(layer.values, values)
            assert layer.dtype == np.float32

    @given(data=st.data())
    @QUIET
    def test_any_index_is_as_in_memory(
        self, store: Any, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        if not hasattr(type(self), "folder"):
            type(self).folder = store.write(tmp_path_factory.mktemp("index") / "a.cube")  # type: ignore[attr-defined]
        layer = open_cube(type(self).folder)["mid"]  # type: ignore[attr-defined]
        eager = layer.load().copy()
        layer = open_cube(type(self).folder)["mid"]  # type: ignore[attr-defined]
        first = {dim: data.draw(keys(size)) for dim, size in layer.sizes.items() if data.draw(st.booleans())}
        lazy, eager = layer.isel(first), eager.isel(first)
        second = {dim: data.draw(keys(size)) for dim, size in lazy.sizes.items() if size}
        assert_array_equal(lazy.isel(second).values, eager.isel(second).values)

    @given(rows=st.lists(st.integers(0, 22), max_size=40))
    @QUIET
    def test_any_images_of_a_level(self, store: Any, tmp_path_factory: pytest.TempPathFactory, rows: list[int]) -> None:
        if not hasattr(type(self), "folder"):
            type(self).folder = store.write(tmp_path_factory.mktemp("rows") / "a.cube")  # type: ignore[attr-defined]
        cube = open_cube(type(self).folder).select(layer="up.0", sigma=0.3)  # type: ignore[attr-defined]
        assert_array_equal(cube[rows].level().values, store.features["up.0"][np.array(rows, int)][:, :, 1])

    def test_runs_of_far_images(self, tmp_path: Path, store: Any) -> None:
        rows = np.array([0, 1, 2, 900, 901, 5000])
        assert _parts._runs(rows, 4096) == [(0, 3), (3, 5), (5, 6)]
        assert _parts._runs(rows, 4) == [(0, 6)]
        assert _parts._runs(np.arange(10), 2 << 20) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]

    def test_vectorised_index(self, store: Any, path: Path) -> None:
        layer = open_cube(path)["mid"]
        picks = {"image": xr.DataArray([4, 21, 4], dims="pick"), "view": xr.DataArray([0, 1, 1], dims="pick")}
        assert_array_equal(layer.isel(picks).values, store.features["mid"][[4, 21, 4], [0, 1, 1]])


class TestLaziness:
    def test_only_the_level_and_images_asked_for_are_read(self, path: Path, monkeypatch: Any) -> None:
        read: list[tuple[str, str, int, int]] = []
        plain = _parts.read_part

        def noted(part: Any, layout: Any, layer: str, rows: Any, level: int, *rest: Any) -> None:
            read.append((Path(part.path).name, layer, len(rows), level))
            plain(part, layout, layer, rows, level, *rest)

        monkeypatch.setattr("icrkit.io._reader.read_part", noted)
        level = open_cube(path).select(layer="up.0", sigma=1.0)[3:7].level()
        assert read == []
        level.values  # noqa: B018
        assert read == [("part-00000.h5", "up.0", 2, 2), ("part-00001.h5", "up.0", 2, 2)]

    def test_nothing_is_kept_in_memory(self, path: Path) -> None:
        cube = open_cube(path)
        size = len(pickle.dumps(cube))
        cube["mid"].values  # noqa: B018
        cube["mid"].load()
        assert len(pickle.dumps(cube)) < size + 100  # a counter of xarray's may gain a digit

    def test_pickles_as_paths(self, tmp_path: Path) -> None:
        from icrkit.io import CubeWriter

        with CubeWriter(tmp_path / "a.cube", {"mid": 4096}, [0.1], 2, 200, block_size=50) as writer:
            writer.append(range(200), {"mid": np.ones((200, 2, 4096))})
        dumped = pickle.dumps(open_cube(tmp_path / "a.cube")[::2])
        assert len(dumped) < 20_000
        assert pickle.loads(dumped).level().values.sum() == 100 * 2 * 4096

    def test_more_than_the_memory_is_refused(self, path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("icrkit.io._memory.free_bytes", lambda: 1000)
        with pytest.raises(CubeTooLargeError, match=r"needs 2\.76 KB and 1 KB"):
            open_cube(path)["mid"].values  # noqa: B018
        assert open_cube(path)["mid"][:5].shape == (5, 2, 3, 5)

    def test_grid_search_in_two_processes(self, path: Path) -> None:
        cube = open_cube(path)
        search = GridSearchCV(LevelMean(), {"sigma": cube.sigmas}, cv=KFold(3, shuffle=True, random_state=0), n_jobs=2)
        search.fit(cube)
        alone = GridSearchCV(LevelMean(), {"sigma": cube.sigmas}, cv=KFold(3, shuffle=True, random_state=0)).fit(cube)
        assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


class TestXarray:
    def test_plain_xarray_opens_a_part(self, store: Any, path: Path) -> None:
        with xr.open_dataset(path / "part-00001.h5", engine="h5netcdf") as part:
            assert part["mid"].dims == ("image", "view", "sigma", "feature_mid")
            assert_array_equal(part["up.0"].values, store.features["up.0"][5:10])
            assert part["image"].values.tolist() == store.ids[5:10].tolist()
            assert_array_equal(part.coords["labels"], store.labels[5:10])
            assert_array_equal(part["sigma"], [0.1, 0.3, 1.0])
            assert part.attrs["icrkit_block"] == 1
            assert Cube(part).shape == (5, 2, 3)

    def test_chunks_are_a_level_each(self, path: Path) -> None:
        with h5py.File(path / "part-00001.h5") as part:
            assert part["mid"].chunks == (5, 2, 1, 5)
            assert part["mid"].compression is None

    def test_engine(self, store: Any, path: Path) -> None:
        dataset = xr.open_dataset(path, engine=ENGINE)
        assert_array_equal(dataset["mid"].values, store.features["mid"])
        assert_array_equal(dataset["mid"].sel(sigma=0.3).values, store.features["mid"][:, :, 1])
        assert_array_equal(Cube(dataset)["mid"].values, store.features["mid"])
        assert list(xr.open_dataset(path, engine=ENGINE, drop_variables="mid").data_vars) == ["up.0"]
        assert ENGINE().guess_can_open(path)
        assert not ENGINE().guess_can_open(path.parent)

    def test_engine_with_dask(self, store: Any, path: Path) -> None:
        pytest.importorskip("dask")
        dataset = xr.open_dataset(path, engine=ENGINE, chunks={})
        assert dataset["mid"].chunks is not None
        assert dataset["mid"].chunks[0] == (5, 5, 5, 5, 3)
        assert_array_equal(dataset["mid"].values, store.features["mid"])


class TestIncomplete:
    def test_unfinished(self, store: Any, tmp_path: Path) -> None:
        path = store.begin(tmp_path / "a.cube", 2)
        with pytest.raises(CubeIncompleteError, match=r"2 of 5 blocks.*10 of 23 images.*allow_partial"):
            open_cube(path)
        with pytest.warns(UserWarning, match="2 of 5 blocks"):
            cube = open_cube(path, allow_partial=True)
        assert "partial=10 of 23 images" in repr(cube)
        assert_array_equal(cube["mid"].values, store.features["mid"][:10])

    def test_nothing_committed(self, store: Any, tmp_path: Path) -> None:
        path = store.begin(tmp_path / "a.cube", 0)
        for partial in (False, True):
            with pytest.raises(CubeIncompleteError, match="0 of 5 blocks"):
                open_cube(path, allow_partial=partial)

    def test_read_while_it_is_written(self, store: Any, tmp_path: Path) -> None:
        with store.open(tmp_path / "a.cube") as writer:
            store.append(writer, range(10))
            with pytest.warns(UserWarning, match="2 of 5 blocks"):
                early = open_cube(tmp_path / "a.cube", allow_partial=True)
            store.append(writer, range(10, 23))
            assert_array_equal(early["mid"].values, store.features["mid"][:10])
        assert len(open_cube(tmp_path / "a.cube")) == 23

    def test_torn_last_line(self, store: Any, path: Path) -> None:
        manifest = path / "manifest.jsonl"
        manifest.write_bytes(manifest.read_bytes()[:-5])
        with pytest.raises(CubeIncompleteError, match="4 of 5 blocks"):
            open_cube(path)

    def test_missing_part(self, store: Any, path: Path) -> None:
        early = open_cube(path)
        (path / "part-00002.h5").unlink()
        with pytest.raises(CubeIncompleteError, match=r"part-00002\.h5 is missing"):
            open_cube(path)
        with pytest.raises(CubeIncompleteError, match=r"part-00002\.h5 is missing"):
            early["mid"].values  # noqa: B018
        with pytest.warns(UserWarning, match="4 of 5 blocks"):
            cube = open_cube(path, allow_partial=True)
        assert_array_equal(cube["mid"].values, np.delete(store.features["mid"], range(10, 15), axis=0))


class TestDamage:
    @given(place=st.floats(0, 1, exclude_max=True))
    @settings(QUIET, max_examples=30)
    def test_a_flipped_bit_anywhere(
        self, store: Any, flip_bit: Callable[[Path, int], None], tmp_path_factory: pytest.TempPathFactory, place: float
    ) -> None:
        path = tmp_path_factory.mktemp("flip") / "a.cube"
        store.n_images, store.n_blocks = 10, 2
        store.write(path)
        part = path / "part-00001.h5"
        flip_bit(part, int(place * part.stat().st_size))
        cube = open_cube(path)
        assert_array_equal(cube[:5]["mid"].values, store.features["mid"][:5])
        with pytest.raises(CubeCorruptError, match=r"part-00001\.h5 \(block 1\)"):
            cube[5:]["mid"].values  # noqa: B018

    def test_truncated(self, path: Path) -> None:
        part = path / "part-00001.h5"
        part.write_bytes(part.read_bytes()[:-1])
        for mode in ("digest", "size"):
            with pytest.raises(CubeCorruptError, match=r"part-00001\.h5 has"):
                open_cube(path, verify=mode)

    def test_size_only_trusts_the_disk(self, store: Any, flip_bit: Callable[[Path, int], None], path: Path) -> None:
        part = path / "part-00001.h5"
        needle = part.read_bytes().index(store.features["mid"][5, 0, 0].tobytes())
        flip_bit(part, needle)
        assert (open_cube(path, verify="size")["mid"].values != store.features["mid"]).sum() == 1
        with pytest.raises(CubeCorruptError):
            open_cube(path)["mid"].values  # noqa: B018

    def test_size_only_still_notices_what_does_not_parse(self, path: Path) -> None:
        part = path / "part-00001.h5"
        part.write_bytes(b"\0" * part.stat().st_size)
        with pytest.raises(CubeCorruptError, match="cannot be parsed"):
            open_cube(path, verify="size")["mid"].values  # noqa: B018

    def test_each_file_is_hashed_once_a_process(self, path: Path, monkeypatch: Any) -> None:
        hashed: list[str] = []
        plain = _parts.file_sha256
        monkeypatch.setattr(_parts, "file_sha256", lambda p, n=None: hashed.append(Path(p).name) or plain(p, n))
        for _ in range(2):
            cube = open_cube(path)
            for sigma in cube.sigmas:
                cube.select(layer="mid", sigma=sigma)[:15].level().values  # noqa: B018
        assert hashed == [f"part-{i:05d}.h5" for i in range(3)]

    def test_torn_line_in_the_middle(self, path: Path) -> None:
        manifest = path / "manifest.jsonl"
        lines = manifest.read_bytes().split(b"\n")
        for bad in (lines[1][:-9], lines[3], lines[1].replace(b'"images":5', b'"images":4'), b"[]", b"{}"):
            manifest.write_bytes(b"\n".join([lines[0], bad, *lines[2:]]))
            with pytest.raises(CubeCorruptError, match="line 2"):
                open_cube(path)

    def test_ids_changed_in_the_manifest(self, path: Path) -> None:
        manifest = path / "manifest.jsonl"
        manifest.write_bytes(manifest.read_bytes().replace(b"bild-7-", b"bild-9-x"))
        with pytest.raises(CubeCorruptError, match="not those of the manifest"):
            open_cube(path)["mid"].values  # noqa: B018

    def test_a_manifest_with_the_least(self, store: Any, path: Path) -> None:
        import json

        manifest = path / "manifest.jsonl"
        lines = [json.loads(line) for line in manifest.read_text().splitlines()]
        least = [{key: line[key] for key in ("block", "images", "bytes", "sha256")} for line in lines]
        manifest.write_text("".join(json.dumps(line) + "\n" for line in least))
        cube = open_cube(path)
        assert_array_equal(cube.image_ids, store.ids)
        assert_array_equal(cube.labels, store.labels)
        assert_array_equal(cube["mid"].values, store.features["mid"])

    def test_configuration_changed(self, path: Path) -> None:
        config = path / "cube.json"
        text = config.read_text()
        config.write_text(text.replace('"seed": 3', '"seed": 4'))
        with pytest.raises(CubeCorruptError, match="its own digest"):
            open_cube(path)
        config.write_text(text[:100])
        with pytest.raises(CubeCorruptError, match="JSONDecodeError"):
            open_cube(path)
        config.write_text('{"format": "other"}')
        with pytest.raises(CubeFormatError, match="no icrkit cube"):
            open_cube(path)
        config.write_text('{"format": "icrkit-cube", "version": 9}')
        with pytest.raises(CubeFormatError, match="version 9"):
            open_cube(path)


class TestHostileParts:
    """Parts whose digest is right and whose content is not what icrkit writes."""

    def forge(self, path: Path, change: Callable[[h5py.File], None]) -> None:
        import hashlib
        import json

        part = path / "part-00001.h5"
        with h5py.File(part, "r+") as file:
            change(file)
        manifest = path / "manifest.jsonl"
        lines = [json.loads(line) for line in manifest.read_text().splitlines()]
        lines[1] |= {"bytes": part.stat().st_size, "sha256": hashlib.sha256(part.read_bytes()).hexdigest()}
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def test_links_that_lead_outside(self, path: Path) -> None:
        def link(file: h5py.File) -> None:
            del file["mid"]
            file["mid"] = h5py.ExternalLink(str(path / "part-00000.h5"), "mid")

        self.forge(path, link)
        with pytest.raises(CubeUnsafeError, match="ExternalLink"):
            open_cube(path)["mid"].values  # noqa: B018

    def test_virtual_and_external_values(self, path: Path) -> None:
        layout = h5py.VirtualLayout((5, 2, 3, 5), "f4")
        layout[:] = h5py.VirtualSource(str(path / "part-00000.h5"), "mid", (5, 2, 3, 5))

        def virtual(file: h5py.File) -> None:
            del file["mid"]
            file.create_virtual_dataset("mid", layout)

        self.forge(path, virtual)
        with pytest.raises(CubeUnsafeError, match="other files"):
            open_cube(path)["mid"].values  # noqa: B018

        def external(file: h5py.File) -> None:
            del file["mid"]
            file.create_dataset("mid", (5, 2, 3, 5), "f4", external=[(str(path / "cube.json"), 0, 600)])

        self.forge(path, external)
        with pytest.raises(CubeUnsafeError, match="other files"):
            open_cube(path)["mid"].values  # noqa: B018

    def test_a_store_that_declares_far_more_than_it_holds(self, path: Path) -> None:
        import json

        from icrkit.io import _layout

        content = json.loads((path / "cube.json").read_text())
        content["layers"][0]["features"] = 10**15
        del content["digest"]
        content["digest"] = _layout._digest(content)
        (path / "cube.json").write_text(json.dumps(content))
        with pytest.raises(CubeTooLargeError, match="120 PB"):
            open_cube(path)

    def test_filters_and_shapes(self, path: Path) -> None:
        def replace(**options: Any) -> Callable[[h5py.File], None]:
            def change(file: h5py.File) -> None:
                del file["mid"]
                file.create_dataset("mid", **options)

            return change

        self.forge(path, replace(shape=(5, 2, 3, 5), dtype="f4", compression="gzip"))
        with pytest.raises(CubeUnsafeError, match="filter"):
            open_cube(path)["mid"].values  # noqa: B018
        self.forge(path, replace(shape=(5, 2, 3, 6), dtype="f4"))
        with pytest.raises(CubeCorruptError, match=r"\(5, 2, 3, 6\)"):
            open_cube(path)["mid"].values  # noqa: B018
        self.forge(path, replace(shape=(5, 2, 3, 5), dtype="i4"))
        with pytest.raises(CubeCorruptError, match="int32"):
            open_cube(path)["mid"].values  # noqa: B018
        self.forge(path, lambda file: file.__delitem__("mid"))
        with pytest.raises(CubeCorruptError, match="no variable 'mid'"):
            open_cube(path)["mid"].values  # noqa: B018
