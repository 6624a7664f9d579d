"""Cubes in memory, stores and moments hold the same, and a killed run ends with the same bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from icrkit import open_cube
from icrkit.exceptions import CubeCorruptError, CubeFormatError, NonFiniteError
from icrkit.io import repair
from icrkit_extractors import (
    TorchSource,
    _block_size,
    _destinations,
    extract,
    noise,
    views,
)

LAYERS = ("mid", "dec.16x16_block0")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two batches of 4 images of `Pixels` (66 features, 2 views, 3 levels)."""
    monkeypatch.setattr(_block_size, "_BLOCK_BYTES", 2 * 4 * 66 * 6 * 4)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.endswith("lock")}


def test_a_store_equals_memory(src, images, tmp_path, go, same):
    labels = np.array([f"class {k % 3}" for k in range(40)])
    ids = [f"image {k}" for k in range(40)]
    memory = go(src, images, labels=labels, image_ids=ids, attrs={"step": 20})
    store = go(src, images, labels=labels, image_ids=ids, attrs={"step": 20}, out=tmp_path / "a.cube")
    same(store, memory)
    assert store.step == 20
    for key, value in memory.attrs.items():
        assert store.attrs[key] == value


def test_groups_go_along_and_fold_together(images, tmp_path, go, Pixels):
    video = np.repeat([f"video {k}" for k in range(10)], 4)
    memory = go(Pixels(), images, groups=video)
    store = go(Pixels(), images, groups=video, out=tmp_path / "a.cube", batch_size=8)
    for cube in (memory, store, open_cube(tmp_path / "a.cube")):
        assert cube.groups.tolist() == video.tolist()
    moments = go(Pixels(), images, groups=video, moments_only=True, n_folds=3)
    assert all(m.grouped and (m.n_images % 4 == 0).all() for m in moments.values())
    for wrong in (video[:5], [1.5] * 40, [None] * 40):
        with pytest.raises(CubeFormatError, match=r"groups has shape .* expected \(40,\), integers or text"):
            go(Pixels(), images, groups=wrong)


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
    # No more than rounding: the same network, and still not the bytes that were lost.
    with pytest.raises(CubeCorruptError, match="was lost, and what was to be written in its place is not"):
        extract(TorchSource(made(1.00001), "last"), images, [0.0], **settings)
    repair(tmp_path / "a.cube")
    extract(TorchSource(made(1.00001), "last"), images, [0.0], **settings)


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


@pytest.mark.parametrize("moments_only", [False, True])
def test_few_images_of_many_views_are_no_swapped_axes(images, go, Pixels, moments_only):
    """The axes are known here; a warning of others would be an error in this suite."""
    given = go(Pixels(), images[:6], n_views=40, batch_size=3, moments_only=moments_only)
    if not moments_only:
        assert given["pixels"].dims == ("image", "view", "sigma", "feature")
        assert given["pixels"].shape == (6, 40, 3, 64)
