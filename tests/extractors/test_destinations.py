"""Cubes in memory, stores and moments hold the same, and a killed run ends with the same bytes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from icrkit import Moments, open_cube
from icrkit.exceptions import CubeFormatError, NonFiniteError
from icrkit_extractors import (
    TorchSource,
    _block_size,
    _destinations,
    _to_moments,
    extract,
    extract_course,
    noise,
    views,
)

SIGMAS = [0.1, 0.4, 1.5]
LAYERS = ("mid", "dec.16x16_block0")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two batches of 4 images of `Pixels` (66 features, 2 views, 3 levels)."""
    monkeypatch.setattr(_block_size, "_BLOCK_BYTES", 2 * 4 * 66 * 6 * 4)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.endswith("lock")}


# ---- stores ---------------------------------------------------------------------------------------------------------


def test_a_store_equals_memory(src, images, tmp_path, go, same):
    labels = np.array([f"class {k % 3}" for k in range(40)])
    ids = [f"image {k}" for k in range(40)]
    memory = go(src, images, labels=labels, image_ids=ids, attrs={"step": 20})
    store = go(src, images, labels=labels, image_ids=ids, attrs={"step": 20}, out=tmp_path / "a.cube")
    same(store, memory)
    assert store.step == 20
    for key, value in memory.attrs.items():
        assert store.attrs[key] == value


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("fail_at", [1, 2, 13, 14, 30, 61])
def test_killed_and_resumed_equals_undisturbed(images, tmp_path, fail_at, go, same, Pixels):
    # 40 images: 5 blocks of 2 batches of 4 images; 6 forwards a batch, after the one that asks for the widths.
    given = {"batch_size": 4, "labels": np.arange(40) % 3}
    undisturbed = Pixels()
    whole = go(undisturbed, images, out=tmp_path / "a.cube", **given)
    assert undisturbed.calls == 61
    killed = Pixels(fail_at=fail_at)
    with pytest.raises(RuntimeError, match="killed"):
        go(killed, images, out=tmp_path / "b.cube", **given)
    blocks_kept = max(0, fail_at - 2) // 12
    resumed = Pixels()
    again = go(resumed, images, out=tmp_path / "b.cube", **given)
    assert resumed.calls == 61 - 12 * blocks_kept
    same(again, whole)
    assert files(tmp_path / "a.cube") == files(tmp_path / "b.cube")


@pytest.mark.usefixtures("small_blocks")
def test_a_real_network_resumed(src, images, tmp_path, go):
    class Killed:
        calls = 0

        def __call__(self, x, conditioning):
            self.calls += 1
            if self.calls == 40:
                raise KeyboardInterrupt
            return src(x, conditioning)

        def config(self):
            return src.config()

    go(src, images, out=tmp_path / "a.cube", batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        go(Killed(), images, out=tmp_path / "b.cube", batch_size=4)
    go(src, images, out=tmp_path / "b.cube", batch_size=4)
    assert files(tmp_path / "a.cube") == files(tmp_path / "b.cube")


def test_a_finished_store_is_only_opened(images, tmp_path, go, same, Pixels):
    first = go(Pixels(), images, out=tmp_path / "a.cube")
    before = files(tmp_path / "a.cube")
    again = Pixels()
    same(go(again, images, out=tmp_path / "a.cube"), first)
    assert again.calls == 1 and files(tmp_path / "a.cube") == before
    with pytest.raises(FileExistsError, match=r"a\.cube exists"):
        go(Pixels(), images, out=tmp_path / "a.cube", resume=False)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"sigmas": [0.1, 0.4]}, "sigma"),
        ({"batch_size": 8}, "batch_size"),
        ({"views": views.Digits()}, "views"),
        ({"noise": noise.EDM(sigma_data=1.0)}, "noise"),
        ({"attrs": {"step": 3}}, "step"),
    ],
)
def test_resume_refuses_another_configuration(images, tmp_path, changed, field, go, Pixels):
    with pytest.raises(RuntimeError, match="killed"):
        go(Pixels(fail_at=30), images, out=tmp_path / "a.cube", batch_size=4)
    before = files(tmp_path / "a.cube")
    with pytest.raises(CubeFormatError, match=field):
        go(Pixels(), images, out=tmp_path / "a.cube", **{"batch_size": 4, **changed})
    assert files(tmp_path / "a.cube") == before


@pytest.mark.usefixtures("small_blocks")
def test_resume_refuses_other_images(images, tmp_path, go, Pixels):
    ids = [f"image {k}" for k in range(40)]
    with pytest.raises(RuntimeError, match="killed"):
        go(Pixels(fail_at=30), images, out=tmp_path / "a.cube", batch_size=4, image_ids=ids)
    with pytest.raises(CubeFormatError, match="image"):
        go(Pixels(), images, out=tmp_path / "a.cube", batch_size=4, image_ids=ids[::-1])


@pytest.mark.usefixtures("small_blocks")
def test_nan_says_where_and_is_not_written(images, tmp_path, go, same, Pixels):
    # Call 1 asks for the widths; call 18 is batch 2 (images 8 to 11), view 1, level 1.
    with pytest.raises(NonFiniteError, match=r"'pixels'.*view 1, sigma 0.4, images 8 to 11"):
        go(Pixels(nan_at=18), images, out=tmp_path / "a.cube", batch_size=4)
    again = Pixels()
    same(go(again, images, out=tmp_path / "a.cube", batch_size=4), go(Pixels(), images, batch_size=4))
    assert again.calls == 1 + 60 - 12
    with pytest.raises(NonFiniteError, match=r"view 0, sigma 0\.1, images 0 to 15"):
        go(Pixels(nan_at=2), images)


def test_a_name_no_cube_can_hold_is_refused_at_once(images, tmp_path, go):
    class Bad:
        calls = 0

        def __call__(self, x, conditioning):
            self.calls += 1
            return {"sigma": x.reshape(len(x), -1)}

        def config(self):
            return {"source": "Bad"}

    for out in (None, tmp_path / "a.cube"):
        bad = Bad()
        with pytest.raises(ValueError, match="sigma"):
            go(bad, images, out=out)
        assert bad.calls == 1
    assert not (tmp_path / "a.cube").exists()


def test_levels_of_a_law_that_scales_the_signal_keep_alpha(images, tmp_path, go, same, Pixels):
    law, ratios = noise.Flow(), [0.25, 1.0]

    class Sees:
        def __call__(self, x, conditioning):
            return {"x": np.concatenate([x.reshape(len(x), -1), conditioning["t"][:, None]], axis=1)}

        def config(self):
            return {"source": "Sees"}

    cube = go(Sees(), images, ratios, noise=law)
    # sigma / alpha = t / (1 - t).
    np.testing.assert_array_equal(cube.sigmas, ratios)
    np.testing.assert_allclose(cube["x"].values[0, 0, :, -1], [0.2, 0.5], rtol=1e-6)
    data = cube.to_xarray()
    np.testing.assert_allclose(data["alpha"], [0.8, 0.5], rtol=1e-12)
    assert data["alpha"].dims == ("sigma",)
    store = go(Sees(), images, ratios, noise=law, out=tmp_path / "a.cube")
    np.testing.assert_allclose(store.to_xarray()["alpha"], [0.8, 0.5], rtol=1e-12)
    same(store, cube)
    assert "alpha" not in go(Pixels(), images).to_xarray().coords


def test_a_block_is_bounded_in_work_as_in_bytes(images, tmp_path, monkeypatch, go, Pixels):
    monkeypatch.setattr(_block_size, "_BLOCK_FORWARDS", 2 * 8 * 6)
    go(Pixels(), images, out=tmp_path / "a.cube", batch_size=8)
    assert [p.name for p in sorted((tmp_path / "a.cube").glob("part-*"))] == [f"part-0000{k}.h5" for k in range(3)]


class Slow:
    """A clock in which every forward pass of one image takes a second."""

    now = 0.0

    def perf_counter(self):
        return self.now


def test_a_block_is_bounded_in_time(images, tmp_path, monkeypatch, go, same, Pixels):
    clock = Slow()
    monkeypatch.setattr("time.perf_counter", clock.perf_counter)

    class Timed(Pixels):
        def __call__(self, x, conditioning):
            clock.now += len(x)
            return super().__call__(x, conditioning)

    whole = go(Timed(), images)
    # 6 s an image at 2 views and 3 levels: 180 s are 30 images, 7 batches of 4, and 4 of them a power of two.
    for batch_size, in_block in ((4, 16), (64, 16)):
        folder = tmp_path / f"{batch_size}.cube"
        same(go(Timed(), images, out=folder, batch_size=batch_size), whole)
        assert json.loads((folder / "cube.json").read_text())["block_size"] == in_block
        before = files(folder)
        (folder / "part-00001.h5").unlink()
        same(go(Pixels(), images, out=folder, batch_size=batch_size), whole)  # a fast one keeps the blocks
        assert files(folder) == before


def test_a_fast_network_is_not_timed(images, tmp_path, go, Pixels):
    counted = Pixels()
    go(counted, images, out=tmp_path / "a.cube")
    assert counted.calls == 1 + 3 * 6


# ---- which network --------------------------------------------------------------------------------------------------


class Scaled(torch.nn.Module):
    """What decides features and is no tensor of a state_dict."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.first, self.last = torch.nn.Flatten(), torch.nn.Identity()
        self.scale = scale

    def forward(self, x):
        return self.last(self.first(x) * self.scale)


def _replaced(scale):
    net = Scaled()
    net.first.forward = lambda x: x.flatten(1) * scale
    return net


@pytest.mark.parametrize(
    "made", [Scaled, lambda scale: Scaled(torch.tensor(scale)), lambda scale: Scaled(np.float32(scale)), _replaced]
)
def test_a_store_is_continued_by_its_own_network(images, tmp_path, made):
    settings = {"noise": noise.Clean(), "views": views.Unchanged(), "n_views": 1, "progress": False}
    settings |= {"out": tmp_path / "a.cube", "batch_size": 8}
    first = extract(TorchSource(made(1.0), "last"), images, [0.0], **settings)
    same_one = extract(TorchSource(made(1.0), "last"), images, [0.0], **settings)
    np.testing.assert_array_equal(same_one["last"].values, first["last"].values)
    for finished in (True, False):
        if not finished:
            (tmp_path / "a.cube" / "part-00000.h5").unlink()
        before = files(tmp_path / "a.cube")
        with pytest.raises(CubeFormatError, match=r"another network.*'last' differs by 0\.0"):
            extract(TorchSource(made(1.02), "last"), images, [0.0], **settings)
        assert files(tmp_path / "a.cube") == before
    extract(TorchSource(made(1.00001), "last"), images, [0.0], **settings)  # no more than rounding


def test_other_images_of_the_same_ids_are_refused(images, tmp_path, go, Pixels):
    go(Pixels(), images, out=tmp_path / "a.cube")
    with pytest.raises(CubeFormatError, match="another network or other images"):
        go(Pixels(), images[::-1].copy(), out=tmp_path / "a.cube")


def test_shards_that_begin_together_on_two_machines_agree(images, tmp_path, monkeypatch, go, same, Pixels):
    whole = go(Pixels(), images)
    real = _destinations._recorded
    seen = []

    def late(out):
        # The other shard begins the store just after this one looked.
        if not seen:
            seen.append(real(out))
            with monkeypatch.context() as inner:
                inner.setattr(_destinations, "_recorded", real)
                inner.setattr(_block_size, "_BLOCK_FORWARDS", 6)
                go(Pixels(), images, out=out, shard=(0, 2), batch_size=4)
            return seen[0]
        return real(out)

    monkeypatch.setattr(_destinations, "_recorded", late)
    part = go(Pixels(), images, out=tmp_path / "a.cube", shard=(1, 2), batch_size=4)
    assert seen == [None] and part.n_images == 40
    np.testing.assert_allclose(part["pixels"].values, whole["pixels"].values, atol=1e-5)


def test_progress_goes_to_standard_error(images, capfd, monkeypatch, go, Pixels):
    go(Pixels(), images, progress=True)
    assert capfd.readouterr() == ("", "")  # a log is not a terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    go(Pixels(), images, progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "extract: 100%" in err and "240/240" in err and "img/s" in err
    go(Pixels(), images)
    assert capfd.readouterr() == ("", "")


# ---- shards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_shards", [2, 3])
def test_shards_write_one_store_that_equals_one_run(images, tmp_path, n_shards, go, same, Pixels):
    given = {"labels": np.arange(40) % 3, "image_ids": [f"image {k}" for k in range(40)], "batch_size": 8}
    whole = go(Pixels(), images, **given)
    for i in reversed(range(n_shards)):
        part = go(Pixels(), images, out=tmp_path / "a.cube", shard=(i, n_shards), **given)
        assert part.n_images == 40 - i * 40 // n_shards
        memory = go(Pixels(), images, shard=(i, n_shards), **given)
        start, stop = i * 40 // n_shards, (i + 1) * 40 // n_shards
        np.testing.assert_array_equal(memory["pixels"].values, whole["pixels"].values[start:stop])
        np.testing.assert_array_equal(memory.labels, whole.labels[start:stop])
    same(open_cube(tmp_path / "a.cube"), whole)


def test_shards_of_a_real_network(src, images, tmp_path, go):
    whole = go(src, images)
    for i in range(2):
        go(src, images, out=tmp_path / "a.cube", shard=(i, 2))
    for name in LAYERS:
        wanted = whole[name].values
        np.testing.assert_allclose(open_cube(tmp_path / "a.cube")[name].values, wanted, rtol=1e-5, atol=1e-5)


# ---- moments --------------------------------------------------------------------------------------------------------


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
