"""Moments that are taken while the network runs are those of the cube."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from icrkit import Moments
from icrkit_extractors import (
    _to_moments,
    extract_course,
    noise,
    views,
)

SIGMAS = [0.1, 0.4, 1.5]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.endswith("lock")}


def assert_moments_equal(a: Moments, b: Moments) -> None:
    np.testing.assert_array_equal(a.n_images, b.n_images)
    for name in ("mean", "between", "within"):
        wanted = getattr(b, name)
        np.testing.assert_allclose(getattr(a, name), wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    assert a.dims == b.dims


@pytest.mark.parametrize("at_once", [1, 1 << 30])
def test_moments_only_are_those_of_the_cube(images, monkeypatch, at_once, go, Pixels):
    monkeypatch.setattr(_to_moments, "_MOMENTS_BYTES", at_once)
    cube = go(Pixels(), images)
    totals = go(Pixels(), images, moments_only=True, n_folds=3)
    assert list(totals) == ["pixels", "level"]
    for name, moments in totals.items():
        wanted = Moments.from_cube(cube.select(layer=name), n_folds=3, dtype="float64")
        assert_moments_equal(moments, wanted)
        np.testing.assert_array_equal(moments.coords["sigma"], SIGMAS)


def test_moments_of_shards_add_up(images, tmp_path, go, Pixels):
    whole = go(Pixels(), images, moments_only=True, n_folds=3)
    parts = [
        go(Pixels(), images, moments_only=True, n_folds=3, shard=(i, 2), out=tmp_path / f"part{i}") for i in range(2)
    ]
    assert_moments_equal(parts[0]["pixels"] + parts[1]["pixels"], whole["pixels"])
    about = json.loads((tmp_path / "part1" / "moments.json").read_text())
    assert about["images"] == [20, 40] and about["attrs"]["source"] == "Pixels"
    saved = Moments.load(tmp_path / "part1" / about["layers"]["level"])
    assert_moments_equal(saved, parts[1]["level"])
    with pytest.raises(FileExistsError, match=r"part1 exists: moments are not resumed .*images was \[20, 40\]"):
        go(Pixels(), images, moments_only=True, n_folds=3, out=tmp_path / "part1")


def test_finished_moments_are_read_and_not_taken_again(images, tmp_path, go, Pixels):
    settings = {"moments_only": True, "n_folds": 3, "out": tmp_path / "m"}
    first = go(Pixels(), images, **settings)
    before = files(tmp_path / "m")
    again = Pixels()
    for name, moments in go(again, images, **settings).items():
        assert_moments_equal(moments, first[name])
    assert again.calls == 1 and files(tmp_path / "m") == before
    for changed, said in (
        ({"n_folds": 2}, "n_folds was 3 and is 2"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"sigmas": [0.1, 0.4]}, "sigmas was"),
        ({"resume": False}, "resume=True"),
    ):
        with pytest.raises(FileExistsError, match=f"m exists.*{said}"):
            go(Pixels(), images, **{**settings, **changed})
    assert files(tmp_path / "m") == before


def test_moments_of_a_killed_run_are_taken_anew(images, tmp_path, go, Pixels):
    whole = go(Pixels(), images, moments_only=True)
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "layer-00.h5").write_bytes(b"half a file")
    (folder / "layer-01.h5.0123.part").touch()
    for name, moments in go(Pixels(), images, moments_only=True, out=folder).items():
        assert_moments_equal(moments, whole[name])
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"other files \(notes\.txt\)"):
        go(Pixels(), images, moments_only=True, out=other)
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


def test_a_course_of_moments_goes_on_where_it_stopped(images, tmp_path, Pixels):
    settings = {"noise": noise.EDM(), "views": views.Digits(), "progress": False, "moments_only": True}
    course = [Pixels(), Pixels(fail_at=3), Pixels()]
    with pytest.raises(RuntimeError, match="killed"):
        extract_course(enumerate(course), images, SIGMAS, out=tmp_path, **settings)
    resumed = [Pixels(), Pixels(), Pixels()]
    found = extract_course(enumerate(resumed), images, SIGMAS, out=tmp_path, **settings)
    assert resumed[0].calls == 1 and min(one.calls for one in resumed[1:]) > 1 and len(found) == 3


def test_moments_of_one_level_keep_its_axis(images, go, Pixels):
    moments = go(Pixels(), images, [0.4], moments_only=True, n_folds=0)["level"]
    assert moments.dims == ("sigma",) and moments.coords["sigma"].tolist() == [0.4]


def test_a_lone_last_image_joins_the_moments_before_it(images, monkeypatch, go, Pixels):
    monkeypatch.setattr(_to_moments, "_MOMENTS_BYTES", 1)
    moments = go(Pixels(), images[:33], moments_only=True, n_folds=0)["pixels"]
    assert_moments_equal(moments, Moments.from_cube(go(Pixels(), images[:33]).select(layer="pixels"), n_folds=0))


def test_moments_that_fail_leave_nothing_and_are_refused_early(images, tmp_path, go, Pixels):
    with pytest.raises(RuntimeError, match="killed"):
        go(Pixels(fail_at=5), images, moments_only=True, out=tmp_path / "m")
    assert not (tmp_path / "m").exists()
    for bad in ({"n_views": 1}, {"shard": (0, 40)}):
        counted = Pixels()
        with pytest.raises(ValueError, match="two images and two views"):
            go(counted, images, moments_only=True, **bad)
        assert counted.calls == 1
