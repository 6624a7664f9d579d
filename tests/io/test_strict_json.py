"""All that is written as JSON is JSON: an unknown level is null, and NaN when read. Older files spell NaN, and work."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import CubeFormatError
from icrkit.io import CubeWriter, open_cube, pack, repair, verify
from icrkit.io._layout import Layout, Line

ROOT = Path(ik.__file__).parents[1]
N = 12
ATTRS = {"seed": 3, "range": [0.1, math.inf], "threshold": math.nan, "deep": {"low": [-math.inf, math.nan]}}
KEPT = {"seed": 3, "range": [0.1, None], "threshold": None, "deep": {"low": [None, None]}}


def strict(text: str | bytes) -> Any:
    """The value of a text that any parser of JSON reads."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def features() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, 2, 1, 3)).astype(np.float32)


def write(path: Path, n_images: int = N, **changes: Any) -> Path:
    options: dict[str, Any] = {"n_views": 2, "n_images": N, "block_size": 4, "attrs": ATTRS} | changes
    with CubeWriter(path, {"mid": 3}, [math.nan], **options) as writer:
        for k in range(writer.done_images, n_images, 4):
            writer.append(np.arange(k, k + 4), {"mid": features()[k : k + 4]}, labels=[0.5] * 4)
    return path


def write_as_before(path: Path, monkeypatch: pytest.MonkeyPatch, n_images: int = N, **changes: Any) -> Path:
    """A store by the code that spelled NaN and Infinity out."""
    with monkeypatch.context() as patch:
        patch.setattr("icrkit.io._writer.jsonable", lambda value: value)
        patch.setattr("icrkit.io._writer.strict_json", lambda value: json.dumps(value, indent=1))
        write(path, n_images, **changes)
    assert b"NaN" in (path / "cube.json").read_bytes()
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in path.iterdir()}


def test_a_store_its_pack_and_a_saved_cube(tmp_path: Path) -> None:
    store = write(tmp_path / "a.cube")
    content = strict((store / "cube.json").read_bytes())
    assert content["sigmas"] == [None] and content["attrs"] == KEPT
    for line in (store / "manifest.jsonl").read_bytes().splitlines():
        strict(line)
    pack(store, tmp_path / "a.h5")
    open_cube(store).save(tmp_path / "b.h5")
    for path in (tmp_path / "a.h5", tmp_path / "b.h5"):
        with h5py.File(path) as file:
            assert strict(file.attrs["icrkit_cube"])["sigmas"] == [None]
    for path in (store, tmp_path / "a.h5", tmp_path / "b.h5"):
        cube = open_cube(path)
        assert np.isnan(cube.sigmas).all() and cube.sigmas.shape == (1,) and cube.attrs == KEPT
        np.testing.assert_array_equal(cube["mid"].values, features())
        verify(path)


def test_attributes_for_other_writers(tmp_path: Path) -> None:
    cube = ik.Cube(ik.from_arrays({"mid": features()[:, :, 0]}).to_xarray().assign_attrs(ATTRS))
    attrs = cube.to_xarray().attrs
    assert strict(attrs["range"].removeprefix("json:")) == KEPT["range"]
    assert strict(attrs["deep"].removeprefix("json:")) == KEPT["deep"]


def test_state_of_a_monitor_and_moments(tmp_path: Path) -> None:
    monitor = ik.ICRMonitor()
    cube = ik.from_arrays({"mid": ik.datasets.make_cube(n_images=240, n_features=4).level().to_numpy()})
    monitor.update(1, ik.Cube(cube.to_xarray().assign_attrs(noise={"name": "EDM", "trained_range": [0.0, math.inf]})))
    monitor.save(tmp_path / "monitor.json")
    assert strict((tmp_path / "monitor.json").read_bytes())["probe"]["sigmas"] == [None]
    assert np.isnan(ik.ICRMonitor.load(tmp_path / "monitor.json").sigmas_).all()
    ik.Moments.from_cube(cube, n_folds=4).save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        strict(file.attrs["fields"])


@pytest.mark.parametrize("attrs", [{"seed": 3}, ATTRS], ids=["unknown level", "attributes too"])
class TestStoresThatSpellNaN:
    def test_are_read_verified_and_packed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attrs: Any) -> None:
        store = write_as_before(tmp_path / "a.cube", monkeypatch, attrs=attrs)
        assert verify(store) == 3
        pack(store, tmp_path / "a.h5")
        with h5py.File(tmp_path / "a.h5") as file:
            assert strict(file.attrs["icrkit_cube"])["sigmas"] == [None]
        assert verify(tmp_path / "a.h5") == 1
        for path in (store, tmp_path / "a.h5"):
            assert np.isnan(open_cube(path).sigmas).all()
            np.testing.assert_array_equal(open_cube(path)["mid"].values, features())

    @pytest.mark.parametrize("loss", ["the end", "a part", "nothing"])
    def test_are_resumed_to_the_same_bytes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attrs: Any, loss: str
    ) -> None:
        whole = contents(write_as_before(tmp_path / "whole.cube", monkeypatch, attrs=attrs))
        store = write_as_before(tmp_path / "a.cube", monkeypatch, 4 if loss == "the end" else N, attrs=attrs)
        if loss == "a part":
            (store / "part-00001.h5").unlink()
        write(store, attrs=attrs)
        assert contents(store) == whole
        with pytest.raises(CubeFormatError, match=r"attrs\.seed = 3, .* attrs\.seed = 4"):
            write(store, attrs=attrs | {"seed": 4})
        assert repair(store).n_whole == 3 and contents(store) == whole

    def test_a_new_store_has_the_parts_of_an_old_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attrs: Any
    ) -> None:
        """So that a store that many write does not hang on which of them begins it."""
        old = contents(write_as_before(tmp_path / "a.cube", monkeypatch, attrs={"seed": 3}))
        new = contents(write(tmp_path / "b.cube", attrs={"seed": 3}))
        assert old.keys() == new.keys() and all(old[name] == new[name] for name in old if name != "cube.json")


def test_what_json_has_no_number_for_is_refused(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"layers": {"mid": 3}, "n_views": 2, "n_images": N}
    with pytest.raises(CubeFormatError, match="finite numbers; found inf"):
        Layout(sigmas=(math.inf,), **plan)
    with pytest.raises(CubeFormatError, match="alphas must be finite numbers; found -inf"):
        Layout(sigmas=(1.0,), alphas=(-math.inf,), **plan)
    with (
        CubeWriter(tmp_path / "a.cube", {"mid": 3}, [math.nan], n_views=2, n_images=N) as writer,
        pytest.raises(CubeFormatError, match=r"labels: 1 of 2 are infinite"),
    ):
        writer.append([0, 1], {"mid": features()[:2]}, labels=[1.0, math.inf])
    with pytest.raises(CubeFormatError, match="labels of block 0 are infinite"):
        Line(0, 1, 10, "0" * 64, [0], [math.inf]).encode()


def test_json_is_written_in_no_other_way() -> None:
    """Without allow_nan=False only for what is hashed: configurations as older stores hashed them, and seeds."""
    found = set()
    for path in [*ROOT.glob("icrkit/**/*.py"), *ROOT.glob("extractors/icrkit_extractors/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump"):
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                if options.get("allow_nan") != "False":
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == {"icrkit/io/_layout.py", "extractors/icrkit_extractors/_streams.py"}
