"""Features of views at noise levels: the same draws at every level, whatever the batch, the thread or the memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from icrkit.exceptions import NonFiniteError
from icrkit_extractors import extract, noise, views
from icrkit_extractors._streams import normals

SIGMAS = [0.1, 0.4, 1.5]
LAYERS = ("mid", "dec.16x16_block0")


# ---- views and draws ------------------------------------------------------------------------------------------------


def test_features_are_those_of_view_then_noise(src, images, go):
    cube = go(src, images, seed=3, batch_size=40)
    for view in range(2):
        clean = views.Fashion()(images, range(40), view, 3)
        draws = normals(3, range(40), view, (1, 16, 16))
        for k, sigma in enumerate(SIGMAS):
            wanted = src(*noise.EDM()(clean, draws, sigma))
            for name in LAYERS:
                np.testing.assert_array_equal(cube[name].values[:, view, k], wanted[name])


def test_one_view_and_one_noise_draw_for_all_levels(images, go):
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


def test_draws_do_not_depend_on_batch_order_levels_or_views(images, go, same, Pixels):
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


def test_a_real_network_up_to_rounding_in_any_batch(src, images, go):
    whole = go(src, images)["mid"].values
    np.testing.assert_allclose(go(src, images, batch_size=7)["mid"].values, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", [{}, {"moments_only": True, "n_folds": 2}, {"out": "store"}], ids=str)
def test_a_source_that_looks_at_the_size_of_the_batch(images, go, how, tmp_path, Pixels):
    class Shared(Pixels):
        def __call__(self, x, conditioning):
            return {name: h / len(x) for name, h in super().__call__(x, conditioning).items()}

    if "out" in how:
        how = {"out": tmp_path / "a.cube"}
    given = dict(noise=noise.EDM(), views=views.Fashion(), progress=False, **how)
    with pytest.warns(
        UserWarning, match=r"features depend on the batch: .* 'pixels' differs by 0\.\d+ .* batch of 2 and one of 16"
    ):
        extract(Shared(), images, SIGMAS, batch_size=16, **given)
    extract(Shared(), images[:2], SIGMAS, **(given | ({"out": tmp_path / "b.cube"} if "out" in how else {})))


def test_bytes_floats_and_lazy_arrays_give_the_same(images, go, same, Pixels):
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


def test_an_encoder_sees_clean_views(images, go):
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


def test_fresh_noise_is_drawn_by_level_and_by_nothing_else(images, go):
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


def test_latents_are_made_after_the_view_and_before_the_noise(images, go, Pixels):
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


# ---- what is refused ------------------------------------------------------------------------------------------------


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
def test_bad_images(bad, message, go, Pixels):
    with pytest.raises(ValueError, match=message):
        go(Pixels(), bad)


def test_a_bad_image_late_is_named(images, go, Pixels):
    late = views.as_unit_range(images)
    late[35, 0, 3, 3] = 1.5
    with pytest.raises(ValueError, match="images 32 to 39"):
        go(Pixels(), late)


def test_images_from_0_to_1_are_noticed(images, go, Pixels):
    with pytest.warns(UserWarning, match="2 \\* images - 1"):
        go(Pixels(), images.astype(np.float32) / 255)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (lambda x: {"h": x}, r"shape \(2, 1, 16, 16\) for layer 'h'"),
        (lambda x: {"h": x.reshape(-1, 16)}, "for layer 'h', wanted"),
        (lambda x: {}, "no layer"),
        (lambda x: {3: x.reshape(len(x), -1)}, "no layer, or one without a name"),
        (lambda x: x.reshape(len(x), -1), "gave a ndarray, expected a dict of layers"),
        (lambda x: {"h": x.reshape(len(x), -1)[:, :0]}, r"shape \(2, 0\) for layer 'h'"),
        (lambda x: {"h": x.reshape(len(x), -1) * 1j}, "layer 'h' of the source is complex"),
        (lambda x: {"h": np.full((len(x), 3), "a")}, "layer 'h' of the source is <U1, expected an array of real"),
        (lambda x: {"h": np.ma.masked_less(x.reshape(len(x), -1), 0)}, "layer 'h' of the source has masked values"),
    ],
)
def test_bad_sources(images, features, message, go):
    class Bad:
        def __call__(self, x, conditioning):
            return features(x)

        def config(self):
            return {"source": "Bad"}

    with pytest.raises(ValueError, match=message):
        go(Bad(), images)


def test_widths_that_change_are_refused(images, go):
    class Growing:
        calls = 0

        def __call__(self, x, conditioning):
            self.calls += 1
            return {"h": np.zeros((len(x), 1 + self.calls // 4), np.float32)}

        def config(self):
            return {"source": "Growing"}

    with pytest.raises(ValueError, match=r"widths \{'h': 2\}, and \{'h': 1\} before"):
        go(Growing(), images)


@pytest.mark.parametrize(
    ("encode", "error", "message"),
    [
        (lambda images, *_: images.reshape(-1, 4), ValueError, "encode gave shape"),
        (lambda images, *_: images * np.nan, NonFiniteError, "encode gave NaN or infinity: view 0, images 0 to 1"),
        (lambda images, *_: images * 1j, ValueError, "encode is complex"),
        (lambda images, *_: {"latents": images}, ValueError, "encode is a dict, expected an array of real numbers"),
    ],
)
def test_bad_latents(images, encode, error, message, go, Pixels):
    class Bad:
        __call__ = staticmethod(encode)

        def config(self):
            return {}

    with pytest.raises(error, match=message):
        go(Pixels(), images, encode=Bad())


class Part:
    """Views or an autoencoder made of a function."""

    def __init__(self, function):
        self.function = function

    def __call__(self, images, ids, view, seed):
        return self.function(images)

    def config(self):
        return {}


def jittered(images):
    return np.clip(images + np.random.default_rng().normal(0, 0.1, images.shape), -1, 1)


def test_what_gives_the_same_images_something_else_at_each_call_is_refused(images, go, Pixels):
    class Random(Pixels):
        def __call__(self, x, conditioning):
            return {name: h + np.random.default_rng().normal() for name, h in super().__call__(x, conditioning).items()}

    with pytest.raises(ValueError, match="views are random: of one image, view and seed"):
        go(Pixels(), images, views=Part(jittered))
    with pytest.raises(ValueError, match="encode is random: of one image, view and seed"):
        go(Pixels(), images, encode=Part(jittered))
    for batch_size in (2, 16):  # of which the first is as large as that of the first look
        with pytest.raises(ValueError, match="the source is random: on the same images"):
            go(Random(), images, batch_size=batch_size)


def test_tensors_of_views_and_autoencoders_are_taken(images, go, same, Pixels):
    def half(x):
        return torch.from_numpy(x / 2).requires_grad_()

    want = go(Pixels(), images, views=Part(lambda x: x / 2), encode=Part(lambda x: x / 2))
    same(go(Pixels(), images, views=Part(half), encode=Part(half)), want)


def test_a_config_that_is_no_dict_names_its_object(images, go, Pixels):
    class Wordless(Pixels):
        def config(self):
            return "Wordless"

    with pytest.raises(TypeError, match=r"src: config\(\) of Wordless must give a dict, not str"):
        go(Wordless(), images)


# ---- where it runs --------------------------------------------------------------------------------------------------


def test_a_source_places_images_and_noise_once_a_view(images, go, same, Pixels):
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


def test_only_views_with_their_own_streams_run_beside_the_network(images, go, same, Pixels):
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


def test_data_sets_of_others_are_read_where_they_were_made(images, go, Pixels):
    seen = set()

    class Bound:
        def __len__(self):
            return len(images)

        def __getitem__(self, rows):
            seen.add(threading.current_thread().name)
            return images[rows]

    go(Pixels(), Bound())
    assert seen == {threading.current_thread().name}


def test_what_goes_wrong_ahead_is_raised_in_its_turn(images, go, Pixels):
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
def test_out_of_memory_halves_the_batch_and_goes_on(images, error, go, same, Pixels):
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


def test_out_of_memory_with_one_image_is_an_error(images, go, Pixels):
    class Never(Pixels):
        def __call__(self, x, conditioning):
            raise MemoryError("no room")

    with pytest.warns(UserWarning, match="going on with"), pytest.raises(MemoryError, match="no room"):
        go(Never(), images)


def test_other_errors_are_not_tried_again(images, go, Pixels):
    class Broken(Pixels):
        def __call__(self, x, conditioning):
            self.calls += 1
            raise RuntimeError("shapes cannot be multiplied")

    broken = Broken()
    with pytest.raises(RuntimeError, match="multiplied"):
        go(broken, images)
    assert broken.calls == 1


def test_an_autoencoder_out_of_memory_is_given_less(images, go, same, Pixels):
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
