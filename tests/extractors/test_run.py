"""Extraction: right features, the same draws at every level, and a killed run that ends with the same bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icrkit import Moments, open_cube
from icrkit.exceptions import CubeFormatError, NonFiniteError
from icrkit_extractors import OnnxSource, estimate, extract, extract_course, noise, run, views
from icrkit_extractors._streams import normals

SIGMAS = [0.1, 0.4, 1.5]
LAYERS = ("mid", "dec.16x16_block0")


class Pixels:
    """The network's input as features; counts its calls, and fails or goes bad at one of them."""

    def __init__(self, fail_at: int | None = None, nan_at: int | None = None) -> None:
        self.calls, self.fail_at, self.nan_at = 0, fail_at, nan_at

    def __call__(self, x: np.ndarray, conditioning: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("killed")
        h = x.reshape(len(x), -1)[:, ::4]
        if self.calls == self.nan_at:
            h = np.where(np.arange(len(x))[:, None] == 2, np.nan, h)
        return {"pixels": h, "level": np.column_stack([conditioning["c_noise"], x[:, 0, 0, 0]])}

    def config(self) -> dict[str, Any]:
        return {"source": "Pixels"}


@pytest.fixture
def src(unet_onnx: Path) -> OnnxSource:
    return OnnxSource(unet_onnx, threads=1)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two batches of 4 images of `Pixels` (66 features, 2 views, 3 levels)."""
    monkeypatch.setattr(run, "_BLOCK_BYTES", 2 * 4 * 66 * 6 * 4)


def go(src: Any, images: Any, sigmas: Any = SIGMAS, **given: Any) -> Any:
    """Extraction with the settings most tests share."""
    settings = {"noise": noise.EDM(), "views": views.Fashion(), "batch_size": 16, "progress": False}
    return extract(src, images, sigmas, **{**settings, **given})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.endswith("lock")}


def same(a: Any, b: Any) -> None:
    assert a.layers == b.layers
    for name in a.layers:
        np.testing.assert_array_equal(a[name].values, b[name].values)
    np.testing.assert_array_equal(a.sigmas, b.sigmas)
    np.testing.assert_array_equal(a.image_ids, b.image_ids)
    np.testing.assert_array_equal(a.labels, b.labels)


def test_a_cube_of_a_real_network(src, images):
    labels = np.arange(40) % 10
    cube = go(src, images, labels=labels, seed=3, attrs={"step": 1138})
    assert cube.layers == LAYERS and cube.n_images == 40 and cube.n_views == 2
    assert cube["mid"].shape == (40, 2, 3, 16) and cube["dec.16x16_block0"].shape == (40, 2, 3, 8)
    assert cube["mid"].dtype == np.float32
    np.testing.assert_array_equal(cube.sigmas, SIGMAS)
    np.testing.assert_array_equal(cube.labels, labels)
    np.testing.assert_array_equal(cube.image_ids, np.arange(40))
    assert cube.step == 1138


def test_features_are_those_of_view_then_noise(src, images):
    cube = go(src, images, seed=3, batch_size=40)
    for view in range(2):
        clean = views.Fashion()(images, range(40), view, 3)
        draws = normals(3, range(40), view, (1, 16, 16))
        for k, sigma in enumerate(SIGMAS):
            wanted = src(*noise.EDM()(clean, draws, sigma))
            for name in LAYERS:
                np.testing.assert_array_equal(cube[name].values[:, view, k], wanted[name])


def test_one_view_and_one_noise_draw_for_all_levels(images):
    class Undo:
        def __call__(self, x, conditioning):
            sigma = np.exp(4 * conditioning["c_noise"].astype(np.float64))[:, None]
            return {"noisy": x.reshape(len(x), -1) * np.sqrt(sigma**2 + 0.25), "level": sigma}

        def config(self):
            return {"source": "Undo"}

    cube = go(Undo(), images)
    np.testing.assert_allclose(cube["level"].values[0, 0, :, 0], SIGMAS, rtol=1e-5)
    noisy = cube["noisy"].values.astype(np.float64)
    draws = (noisy[:, :, 1] - noisy[:, :, 0]) / (SIGMAS[1] - SIGMAS[0])
    np.testing.assert_allclose((noisy[:, :, 2] - noisy[:, :, 0]) / (SIGMAS[2] - SIGMAS[0]), draws, atol=1e-4)
    assert abs(draws.std() - 1) < 0.03
    assert not np.allclose(draws[:, 0], draws[:, 1])


def test_draws_do_not_depend_on_batch_order_levels_or_views(images):
    ids = [f"image {k}" for k in range(40)]
    whole = go(Pixels(), images, image_ids=ids)
    for batch_size in (1, 7, 40, 1000):
        same(go(Pixels(), images, image_ids=ids, batch_size=batch_size), whole)
    order = np.random.default_rng(0).permutation(40)
    mixed = go(Pixels(), images[order], image_ids=[ids[k] for k in order])
    np.testing.assert_array_equal(mixed["pixels"].values, whole["pixels"].values[order])
    alone = go(Pixels(), images[11:12], image_ids=ids[11:12])
    np.testing.assert_array_equal(alone["pixels"].values, whole["pixels"].values[11:12])
    one = go(Pixels(), images, [0.4], image_ids=ids, n_views=1)
    np.testing.assert_array_equal(one["pixels"].values, whole["pixels"].values[:, :1, 1:2])
    assert not np.array_equal(go(Pixels(), images, image_ids=ids, seed=1)["pixels"].values, whole["pixels"].values)


def test_a_real_network_up_to_rounding_in_any_batch(src, images):
    whole = go(src, images)["mid"].values
    np.testing.assert_allclose(go(src, images, batch_size=7)["mid"].values, whole, rtol=1e-4, atol=1e-5)


def test_bytes_floats_and_lazy_arrays_give_the_same(images):
    class Lazy:
        """Reads what is asked for, and remembers how much that was."""

        most = 0

        def __len__(self):
            return len(images)

        def __getitem__(self, rows):
            self.most = max(self.most, rows.stop - rows.start)
            return images[rows]

    whole, lazy = go(Pixels(), images), Lazy()
    same(go(Pixels(), lazy), whole)
    assert lazy.most == 16
    same(go(Pixels(), views.as_unit_range(images).astype(np.float64)), whole)
    same(go(Pixels(), list(images)), whole)


def test_an_encoder_sees_clean_views(images):
    class Encoder:
        def __call__(self, x, conditioning):
            assert not conditioning
            return {"pixels": x.reshape(len(x), -1)}

        def config(self):
            return {"source": "Encoder"}

    cube = go(Encoder(), images, [0.0], noise=noise.Clean())
    for view in range(2):
        wanted = views.Fashion()(images, range(40), view, 0).reshape(40, -1)
        np.testing.assert_array_equal(cube["pixels"].values[:, view, 0], wanted)
    with pytest.raises(ValueError, match="one noise level 0"):
        go(Encoder(), images, noise=noise.Clean())


def test_attributes_say_what_was_done(src, images):
    attrs = go(src, images, seed=5, attrs={"data": "waves"}).attrs
    assert attrs["model_sha256"] == src.sha256 and attrs["source"] == "OnnxSource"
    assert list(attrs["layers"]) == list(LAYERS) and attrs["pool"] == "mean"
    assert attrs["noise"] == noise.EDM().config() and attrs["views"] == views.Fashion().config()
    assert attrs["seed"] == 5 and attrs["n_views"] == 2 and attrs["batch_size"] == 16 and attrs["data"] == "waves"
    assert attrs["numpy_version"] == np.__version__ and attrs["onnxruntime_version"] and attrs["icrkit_version"]


def test_any_callable_is_a_view(images):
    def darker(images, image_ids, view, seed):
        return images * (1 - 0.1 * view) - 0.1 * view

    cube = go(Pixels(), images, views=darker)
    assert "darker" in cube.attrs["views"]["name"]


def test_a_store_equals_memory(src, images, tmp_path):
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
def test_killed_and_resumed_equals_undisturbed(images, tmp_path, fail_at):
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
def test_a_real_network_resumed(src, images, tmp_path):
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


def test_a_finished_store_is_only_opened(images, tmp_path):
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
def test_resume_refuses_another_configuration(images, tmp_path, changed, field):
    with pytest.raises(RuntimeError, match="killed"):
        go(Pixels(fail_at=30), images, out=tmp_path / "a.cube", batch_size=4)
    before = files(tmp_path / "a.cube")
    with pytest.raises(CubeFormatError, match=field):
        go(Pixels(), images, out=tmp_path / "a.cube", **{"batch_size": 4, **changed})
    assert files(tmp_path / "a.cube") == before


@pytest.mark.usefixtures("small_blocks")
def test_resume_refuses_other_images(images, tmp_path):
    ids = [f"image {k}" for k in range(40)]
    with pytest.raises(RuntimeError, match="killed"):
        go(Pixels(fail_at=30), images, out=tmp_path / "a.cube", batch_size=4, image_ids=ids)
    with pytest.raises(CubeFormatError, match="image"):
        go(Pixels(), images, out=tmp_path / "a.cube", batch_size=4, image_ids=ids[::-1])


@pytest.mark.usefixtures("small_blocks")
def test_nan_says_where_and_is_not_written(images, tmp_path):
    # Call 1 asks for the widths; call 18 is batch 2 (images 8 to 11), view 1, level 1.
    with pytest.raises(NonFiniteError, match=r"'pixels'.*view 1, sigma 0.4, images 8 to 11"):
        go(Pixels(nan_at=18), images, out=tmp_path / "a.cube", batch_size=4)
    again = Pixels()
    same(go(again, images, out=tmp_path / "a.cube", batch_size=4), go(Pixels(), images, batch_size=4))
    assert again.calls == 1 + 60 - 12
    with pytest.raises(NonFiniteError, match=r"view 0, sigma 0\.1, images 0 to 15"):
        go(Pixels(nan_at=2), images)


def test_progress_goes_to_standard_error(images, capfd):
    go(Pixels(), images, progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "extract: 100%" in err and "240/240" in err and "img/s" in err
    go(Pixels(), images)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"image_ids": [*range(39), 3]}, CubeFormatError, "1 image ids appear more than once, such as 3"),
        ({"image_ids": range(39)}, CubeFormatError, "39 image ids for 40 images"),
        ({"image_ids": np.linspace(0, 1, 40)}, CubeFormatError, "integers or all strings"),
        ({"image_ids": [*range(39), "a"]}, CubeFormatError, "integers or all strings"),
        ({"labels": range(39)}, CubeFormatError, r"labels of shape \(39,\) for 40 images"),
        ({"labels": np.zeros((40, 2))}, CubeFormatError, "labels"),
        ({"batch_size": 0}, ValueError, "batch_size must be 1 or more"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number"),
        ({"n_views": 0}, ValueError, "n_views must be 1 or more"),
        ({"seed": -1}, ValueError, "seed must be 0 or more"),
        ({"sigmas": [0.1, -0.1]}, ValueError, "positive and finite"),
        ({"sigmas": []}, ValueError, "sigmas is empty"),
        ({"attrs": {"seed": 3}}, ValueError, "recorded by extract itself"),
        ({"views": lambda images, *_: images[:, :, ::2]}, ValueError, "views gave shape"),
        ({"views": lambda images, *_: images * 3}, ValueError, r"views: .*\[-1, 1\]"),
    ],
)
def test_bad_arguments_before_any_file(images, tmp_path, bad, error, message):
    with pytest.raises(error, match=message):
        go(Pixels(), images, out=tmp_path / "a.cube", **bad)
    assert not (tmp_path / "a.cube").exists()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((0, 1, 8, 8), np.uint8), "images is empty"),
        (np.zeros((4, 8, 8), np.uint8), r"images 0 to 3: .*images\[:, None\]"),
        (np.zeros((4, 1, 8, 8), np.int64), "images 0 to 3: .*int64"),
        (np.full((4, 1, 8, 8), 255.0), r"images 0 to 3: .*\[-1, 1\], found 255"),
        (np.full((4, 1, 8, 8), np.nan), "images 0 to 3: .*NaN"),
    ],
)
def test_bad_images(bad, message):
    with pytest.raises(ValueError, match=message):
        go(Pixels(), bad)


def test_a_bad_image_late_is_named(images):
    late = views.as_unit_range(images)
    late[35, 0, 3, 3] = 1.5
    with pytest.raises(ValueError, match="images 32 to 39"):
        go(Pixels(), late)


def test_images_from_0_to_1_are_noticed(images):
    with pytest.warns(UserWarning, match="2 \\* images - 1"):
        go(Pixels(), images.astype(np.float32) / 255)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (lambda x: {"h": x}, r"shape \(2, 1, 16, 16\) for layer 'h'"),
        (lambda x: {"h": x.reshape(-1, 16)}, "for layer 'h', wanted"),
        (lambda x: {}, "no layer"),
    ],
)
def test_bad_sources(images, features, message):
    class Bad:
        def __call__(self, x, conditioning):
            return features(x)

        def config(self):
            return {"source": "Bad"}

    with pytest.raises(ValueError, match=message):
        go(Bad(), images)


def test_a_name_no_cube_can_hold_is_refused_at_once(images, tmp_path):
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


def test_widths_that_change_are_refused(images):
    class Growing:
        calls = 0

        def __call__(self, x, conditioning):
            self.calls += 1
            return {"h": np.zeros((len(x), 1 + self.calls // 4), np.float32)}

        def config(self):
            return {"source": "Growing"}

    with pytest.raises(ValueError, match=r"widths \{'h': 2\}, and \{'h': 1\} before"):
        go(Growing(), images)


# ---- levels, noise, latents -----------------------------------------------------------------------------------------


def test_levels_of_a_law_that_scales_the_signal_keep_alpha(images, tmp_path):
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


def test_fresh_noise_is_drawn_by_level_and_by_nothing_else(images):
    class Noise:
        """Gives back the draw: (input / c_in - x0) / sigma, for images of one value."""

        def __call__(self, x, conditioning):
            sigma = np.exp(4 * conditioning["c_noise"].astype(np.float64))[:, None]
            return {"draw": (x.reshape(len(x), -1) * np.sqrt(sigma**2 + 0.25)) / sigma}

        def config(self):
            return {"source": "Noise"}

    grey = np.zeros(images.shape, np.float32)
    given = {"views": lambda images, *_: images, "fresh_noise": True}
    with pytest.warns(UserWarning, match="no pixel"):
        draws = go(Noise(), grey, [0.1, 0.4], **given)["draw"].values
        alone = go(Noise(), grey, [0.4], **given)["draw"].values
    assert abs(np.corrcoef(draws[:, :, 0].ravel(), draws[:, :, 1].ravel())[0, 1]) < 0.03
    np.testing.assert_allclose(alone[:, :, 0], draws[:, :, 1], rtol=1e-5, atol=1e-5)


def test_latents_are_made_after_the_view_and_before_the_noise(images):
    class Halve:
        """An autoencoder: means of 2 x 2 pixels, in four equal channels."""

        def __call__(self, images, image_ids, view, seed):
            n, _, height, width = images.shape
            small = images.reshape(n, 1, height // 2, 2, width // 2, 2).mean(axis=(3, 5))
            return np.repeat(small, 4, axis=1)

        def config(self):
            return {"name": "Halve"}

    cube = go(Pixels(), images, encode=Halve(), batch_size=40)
    assert cube.attrs["encode"] == {"name": "Halve"} and cube["pixels"].shape[-1] == 64
    for view in range(2):
        clean = Halve()(views.Fashion()(images, range(40), view, 0), None, view, 0)
        x, _ = noise.EDM()(clean, normals(0, range(40), view, (4, 8, 8)), 0.4)
        np.testing.assert_array_equal(cube["pixels"].values[:, view, 1], x.reshape(40, -1)[:, ::4])


@pytest.mark.parametrize(
    ("encode", "error", "message"),
    [
        (lambda images, *_: images.reshape(-1, 4), ValueError, "encode gave shape"),
        (lambda images, *_: images * np.nan, NonFiniteError, "encode gave NaN or infinity: view 0, images 0 to 1"),
    ],
)
def test_bad_latents(images, encode, error, message):
    class Bad:
        __call__ = staticmethod(encode)

        def config(self):
            return {}

    with pytest.raises(error, match=message):
        go(Pixels(), images, encode=Bad())


def test_what_images_bring_along_is_kept(images):
    class Set:
        labels = np.arange(40) % 7
        image_ids = np.array([f"photo {k}" for k in range(40)])

        def __len__(self):
            return 40

        def __getitem__(self, rows):
            return images[rows]

        def config(self):
            return {"kind": "a set"}

    cube = go(Pixels(), Set())
    np.testing.assert_array_equal(cube.labels, Set.labels)
    np.testing.assert_array_equal(cube.image_ids, Set.image_ids)
    assert cube.attrs["images"] == {"kind": "a set"}
    np.testing.assert_array_equal(
        go(Pixels(), Set(), labels=np.zeros(40, int), image_ids=range(40)).labels, np.zeros(40)
    )


# ---- where it runs --------------------------------------------------------------------------------------------------


def test_a_source_places_images_and_noise_once_a_view(images):
    class Placed(Pixels):
        placed = 0

        def place(self, array):
            self.placed += 1
            return torch.from_numpy(array)

        def __call__(self, x, conditioning):
            assert isinstance(x, torch.Tensor) and isinstance(conditioning["c_noise"], torch.Tensor)
            return super().__call__(x.numpy(), {name: value.numpy() for name, value in conditioning.items()})

    placed = Placed()
    same(go(placed, images), go(Pixels(), images))
    # Views and noise of 2 views in 3 batches, and once to ask for the widths.
    assert placed.placed == 2 * (2 * 3 + 1)


def test_only_views_with_their_own_streams_run_beside_the_network(images):
    def threads_of(views):
        seen = set()

        class Seen:
            own_streams = getattr(views, "own_streams", False)

            def __call__(self, *given):
                seen.add(threading.current_thread().name.split("_")[0])
                return views(*given)

            def config(self):
                return views.config()

        cube = go(Pixels(), images, views=Seen())
        same(cube, go(Pixels(), images, views=views))
        return seen

    class Global:
        def __call__(self, images, image_ids, view, seed):
            return views.Fashion()(images, image_ids, view, seed)

        def config(self):
            return {"name": "Global"}

    assert "icrkit-views" in threads_of(views.Fashion())
    assert threads_of(Global()) == {threading.current_thread().name}


def test_what_goes_wrong_ahead_is_raised_in_its_turn(images):
    late = views.as_unit_range(images)
    late[35] = 2.0
    src = Pixels()
    with pytest.raises(ValueError, match="images 32 to 39"):
        go(src, late)
    assert src.calls == 1 + 2 * 2 * 3  # the two batches before it, and the one for the widths
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("icrkit-views")]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(images, error):
    class Small(Pixels):
        def __call__(self, x, conditioning):
            if len(x) > 5:
                raise error
            return super().__call__(x, conditioning)

    small = Small()
    with pytest.warns(UserWarning, match="out of memory with .* images in one forward pass") as said:
        cube = go(small, images)
    same(cube, go(Pixels(), images))
    assert [w.message.args[0].split(" (")[0].split("; ")[1] for w in said] == ["going on with 8", "going on with 4"]
    # Batches of 16 in fours, and the last of 8; nothing larger is tried again.
    assert small.calls == 1 + 6 * (4 + 4 + 2)


def test_out_of_memory_with_one_image_is_an_error(images):
    class Never(Pixels):
        def __call__(self, x, conditioning):
            raise MemoryError("no room")

    with pytest.warns(UserWarning, match="going on with"), pytest.raises(MemoryError, match="no room"):
        go(Never(), images)


def test_other_errors_are_not_tried_again(images):
    class Broken(Pixels):
        def __call__(self, x, conditioning):
            self.calls += 1
            raise RuntimeError("shapes cannot be multiplied")

    broken = Broken()
    with pytest.raises(RuntimeError, match="multiplied"):
        go(broken, images)
    assert broken.calls == 1


# ---- shards, moments, courses, estimates ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_shards", [2, 3])
def test_shards_write_one_store_that_equals_one_run(images, tmp_path, n_shards):
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


def test_shards_of_a_real_network(src, images, tmp_path):
    whole = go(src, images)
    for i in range(2):
        go(src, images, out=tmp_path / "a.cube", shard=(i, 2))
    for name in LAYERS:
        wanted = whole[name].values
        np.testing.assert_allclose(open_cube(tmp_path / "a.cube")[name].values, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 41), (0, 0)])
def test_bad_shards(images, tmp_path, shard):
    with pytest.raises(ValueError, match="shard"):
        go(Pixels(), images, shard=shard, out=tmp_path / "a.cube")
    assert not (tmp_path / "a.cube").exists()


def assert_moments_equal(a: Moments, b: Moments) -> None:
    np.testing.assert_array_equal(a.n_images, b.n_images)
    for name in ("mean", "between", "within"):
        wanted = getattr(b, name)
        np.testing.assert_allclose(getattr(a, name), wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    assert a.dims == b.dims


@pytest.mark.parametrize("at_once", [1, 1 << 30])
def test_moments_only_are_those_of_the_cube(images, monkeypatch, at_once):
    monkeypatch.setattr(run, "_MOMENTS_BYTES", at_once)
    cube = go(Pixels(), images)
    totals = go(Pixels(), images, moments_only=True, n_folds=3)
    assert list(totals) == ["pixels", "level"]
    for name, moments in totals.items():
        wanted = Moments.from_cube(cube.select(layer=name), n_folds=3, dtype="float64")
        assert_moments_equal(moments, wanted)
        np.testing.assert_array_equal(moments.coords["sigma"], SIGMAS)


def test_moments_of_shards_add_up(images, tmp_path):
    whole = go(Pixels(), images, moments_only=True, n_folds=3)
    parts = [
        go(Pixels(), images, moments_only=True, n_folds=3, shard=(i, 2), out=tmp_path / f"part{i}") for i in range(2)
    ]
    assert_moments_equal(parts[0]["pixels"] + parts[1]["pixels"], whole["pixels"])
    about = json.loads((tmp_path / "part1" / "moments.json").read_text())
    assert about["images"] == [20, 40] and about["attrs"]["source"] == "Pixels"
    saved = Moments.load(tmp_path / "part1" / about["layers"]["level"])
    assert_moments_equal(saved, parts[1]["level"])
    with pytest.raises(FileExistsError, match="part1 exists: moments are not resumed"):
        go(Pixels(), images, moments_only=True, out=tmp_path / "part1")


def test_a_course_is_a_cube_a_step_with_the_same_draws(images, tmp_path):
    made = []

    class Power(Pixels):
        def __init__(self, power):
            super().__init__()
            self.power = power
            made.append(power)

        def __call__(self, x, conditioning):
            return {name: h**self.power for name, h in super().__call__(x, conditioning).items()}

    def sources():
        for power in (1, 3):
            yield 100 * power, lambda power=power: Power(power)
            assert made[-1] == power  # made in its turn, and run before the next is asked for

    settings = {"noise": noise.EDM(), "views": views.Fashion(), "progress": False}
    course = extract_course(sources(), images, SIGMAS, out=tmp_path / "course", attrs={"run": "a"}, **settings)
    assert [step for step, _ in course] == [100, 300]
    first, last = (cube for _, cube in course)
    np.testing.assert_allclose(last["pixels"].values, first["pixels"].values ** 3, rtol=1e-5)
    assert last.step == 300 and last.attrs["run"] == "a"
    assert sorted(p.name for p in (tmp_path / "course").iterdir()) == ["step-00000100.cube", "step-00000300.cube"]
    memory = extract_course([(100, Power(1))], images, SIGMAS, **settings)
    same(memory[0][1], first)
    with pytest.raises(ValueError, match="step 7 appears twice"):
        extract_course([(7, Power(1)), (7, Power(2))], images, SIGMAS, **settings)


def test_an_estimate_counts_what_is_run(images):
    counted = Pixels()
    settings = {"noise": noise.EDM(), "views": views.Fashion(), "n_views": 3, "batch_size": 8}
    cost = estimate(counted, images, SIGMAS, shard=(1, 2), **settings)
    assert counted.calls == 1 + 1 + 3 and 0 < cost.seconds < 60
    cube = go(Pixels(), images, n_views=3, shard=(1, 2))
    assert (cost.n_images, cost.n_views, cost.n_levels) == cube.shape[:3]
    assert cost.layers == cube.n_features and cost.forwards == np.prod(cube.shape[:3])
    assert cost.bytes == sum(cube[name].nbytes for name in cube.layers)
    assert cost.images_per_second == pytest.approx(cost.forwards / cost.seconds)


def test_moments_of_one_level_keep_its_axis(images):
    moments = go(Pixels(), images, [0.4], moments_only=True, n_folds=0)["level"]
    assert moments.dims == ("sigma",) and moments.coords["sigma"].tolist() == [0.4]


def test_a_block_is_bounded_in_work_as_in_bytes(images, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_BLOCK_FORWARDS", 2 * 8 * 6)
    go(Pixels(), images, out=tmp_path / "a.cube", batch_size=8)
    assert [p.name for p in sorted((tmp_path / "a.cube").glob("part-*"))] == [f"part-0000{k}.h5" for k in range(3)]


def test_a_lone_last_image_joins_the_moments_before_it(images, monkeypatch):
    monkeypatch.setattr(run, "_MOMENTS_BYTES", 1)
    moments = go(Pixels(), images[:33], moments_only=True, n_folds=0)["pixels"]
    assert_moments_equal(moments, Moments.from_cube(go(Pixels(), images[:33]).select(layer="pixels"), n_folds=0))


def test_moments_that_fail_leave_nothing_and_are_refused_early(images, tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        go(Pixels(fail_at=5), images, moments_only=True, out=tmp_path / "m")
    assert not (tmp_path / "m").exists()
    for bad in ({"n_views": 1}, {"shard": (0, 40)}):
        counted = Pixels()
        with pytest.raises(ValueError, match="two images and two views"):
            go(counted, images, moments_only=True, **bad)
        assert counted.calls == 1


def test_an_autoencoder_out_of_memory_is_given_less(images):
    class Encode:
        most = 5

        def __call__(self, images, image_ids, view, seed):
            if len(images) > self.most:
                raise MemoryError("no room")
            return images[:, :, ::2, ::2] + np.float32(0.001) * np.asarray(image_ids)[:, None, None, None]

        def config(self):
            return {"name": "Encode"}

    small, large = Encode(), Encode()
    large.most = 100
    with pytest.warns(UserWarning, match="images in one encoding; going on with"):
        cube = go(Pixels(), images, encode=small)
    same(cube, go(Pixels(), images, encode=large))


def test_data_sets_of_others_are_read_where_they_were_made(images):
    seen = set()

    class Bound:
        def __len__(self):
            return len(images)

        def __getitem__(self, rows):
            seen.add(threading.current_thread().name)
            return images[rows]

    go(Pixels(), Bound())
    assert seen == {threading.current_thread().name}
