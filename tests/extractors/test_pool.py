"""Pooling against plain loops, in numpy and in torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from icrkit_extractors._pool import Pool


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def cell_means(maps: np.ndarray, k: int) -> np.ndarray:
    """Means over the cells of a K x K grid, one number at a time: features, then rows, then columns."""
    n, d, h, w = maps.shape
    features = np.empty((n, d * k * k))
    for image in range(n):
        found = []
        for feature in range(d):
            for i in range(k):
                for j in range(k):
                    rows = range(int(np.floor(i * h / k)), int(np.ceil((i + 1) * h / k)))
                    columns = range(int(np.floor(j * w / k)), int(np.ceil((j + 1) * w / k)))
                    found.append(np.mean([float(maps[image, feature, r, c]) for r in rows for c in columns]))
        features[image] = found
    return features


def squared(tokens: np.ndarray, n_prefix: int, side: int) -> np.ndarray:
    """Tokens (n, token, c) as maps (n, c, side, side)."""
    return tokens[:, n_prefix:].transpose(0, 2, 1).reshape(len(tokens), tokens.shape[2], side, side)


MAPS, TOKENS, VIDEO, FLAT = draw(3, 5, 6, 4), draw(3, 10, 5), draw(3, 2, 4, 5, 6), draw(3, 7)

CASES = [
    (Pool(), MAPS, MAPS.mean(axis=(2, 3), dtype=np.float64)),
    (Pool(feature_axis=3), MAPS, MAPS.mean(axis=(1, 2), dtype=np.float64)),
    (Pool(feature_axis=-1), MAPS, MAPS.mean(axis=(1, 2), dtype=np.float64)),
    (Pool(), TOKENS, TOKENS.mean(axis=1, dtype=np.float64)),
    (Pool(feature_axis=1), TOKENS, TOKENS.mean(axis=2, dtype=np.float64)),
    (Pool(feature_axis=1), VIDEO, VIDEO.mean(axis=(2, 3, 4), dtype=np.float64)),
    (Pool("none"), MAPS, MAPS.reshape(3, -1)),
    (Pool("none"), TOKENS, TOKENS.reshape(3, -1)),
    (Pool("none"), VIDEO, VIDEO.reshape(3, -1)),
    (Pool("class"), TOKENS, TOKENS[:, 0]),
    (Pool("class", feature_axis=1), TOKENS, TOKENS[:, :, 0]),
    (Pool("patches"), TOKENS, TOKENS[:, 1:].mean(axis=1, dtype=np.float64)),
    (Pool("patches", n_prefix=0), TOKENS, TOKENS.mean(axis=1, dtype=np.float64)),
    (Pool("patches", n_prefix=5), TOKENS, TOKENS[:, 5:].mean(axis=1, dtype=np.float64)),
    (Pool("patches", feature_axis=1), TOKENS, TOKENS[:, :, 1:].mean(axis=2, dtype=np.float64)),
    (Pool("grid:2"), MAPS, cell_means(MAPS, 2)),
    (Pool("grid:4"), MAPS, cell_means(MAPS, 4)),
    (Pool("grid:3", feature_axis=3), MAPS[:, :, :, :3], cell_means(MAPS[:, :, :, :3].transpose(0, 3, 1, 2), 3)),
    (Pool("grid:2"), TOKENS, cell_means(squared(TOKENS, 1, 3), 2)),
    (Pool("grid:3", n_prefix=6), draw(2, 15, 4), squared(draw(2, 15, 4), 6, 3).reshape(2, -1)),
    (Pool("grid:2", feature_axis=1), draw(2, 6, 5), cell_means(draw(2, 6, 5)[:, :, 1:].reshape(2, 6, 2, 2), 2)),
    *[(Pool(how), FLAT, FLAT) for how in ("mean", "none", "class", "patches", "grid:2")],
    (Pool(), FLAT[:, 0], FLAT[:, :1]),
]


@pytest.mark.parametrize(("pool", "output", "wanted"), CASES)
def test_against_loops_in_both_frameworks(pool, output, wanted):
    got = pool("mid", output, len(output))
    assert isinstance(got, np.ndarray) and got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=2e-7)
    tensor = pool("mid", torch.from_numpy(output), len(output))
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    np.testing.assert_allclose(tensor.numpy(), wanted, rtol=1e-6, atol=2e-7)


def test_the_order_of_a_grid_by_hand():
    # One image, two features, 2 x 4: left and right halves of each row.
    maps = np.arange(16, dtype=np.float32).reshape(1, 2, 2, 4)
    wanted = [[0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5, 14.5]]
    assert Pool("grid:2")("mid", maps, 1).tolist() == wanted
    assert Pool("grid:2")("mid", torch.from_numpy(maps), 1).tolist() == wanted


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_means_are_torchs_own_bits(dtype):
    maps = torch.from_numpy(draw(4, 6, 9, 7)).to(dtype)
    tokens = torch.from_numpy(draw(4, 33, 6)).to(dtype)
    assert torch.equal(Pool()("mid", maps, 4), maps.float().mean(dim=(2, 3)))
    last = maps.contiguous(memory_format=torch.channels_last)
    assert torch.equal(Pool()("mid", last, 4), last.float().mean(dim=(2, 3)))
    assert torch.equal(Pool()("mid", tokens, 4), tokens.float().mean(dim=1))
    assert torch.equal(Pool("patches")("mid", tokens, 4), tokens[:, 1:].float().mean(dim=1))


def test_half_precision_is_summed_in_single():
    # 5000 ones, the last in half precision: added up in half the sum would stop at 2048.
    ones = np.ones((1, 5000, 2), dtype=np.float16)
    assert Pool()("mid", ones, 1).tolist() == [[1.0, 1.0]]
    assert Pool()("mid", torch.from_numpy(ones), 1).tolist() == [[1.0, 1.0]]


def test_memory_formats_flatten_alike():
    maps = torch.from_numpy(MAPS).contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(Pool("none")("mid", maps, 3).numpy(), MAPS.reshape(3, -1))


@pytest.mark.parametrize("how", ["mean", "none", "class", "patches", "grid:2"])
def test_images_do_not_depend_on_the_batch(how):
    whole = Pool(how)("mid", TOKENS, 3)
    for k in range(3):
        np.testing.assert_array_equal(Pool(how)("mid", TOKENS[k : k + 1], 1)[0], whole[k])


@pytest.mark.parametrize(
    ("pool", "output", "message"),
    [
        (Pool(), draw(4, 5, 6, 4), r"'mid' gives shape \(4, 5, 6, 4\) for 3 images: its first axis"),
        (Pool(), np.float32(1), r"'mid' gives shape \(\) for 3 images"),
        (Pool(), VIDEO, r"\(3, 2, 4, 5, 6\): state feature_axis, or flatten with pool='none'"),
        (Pool(feature_axis=3), TOKENS, "no feature_axis 3"),
        (Pool(feature_axis=-3), TOKENS, "no feature_axis -3"),
        (Pool("class"), MAPS, r"pool='class' takes tokens \(n, token, c\)"),
        (Pool("patches"), MAPS, r"pool='patches' takes tokens"),
        (Pool("patches", n_prefix=10), TOKENS, "no token is left after the first n_prefix=10"),
        (Pool("grid:2", n_prefix=0), TOKENS, "10 tokens after the first n_prefix=0 are no square grid"),
        (Pool("grid:5"), MAPS, "a map of 6 x 4 has no 5 x 5 grid"),
        (Pool("grid:4"), TOKENS, "a map of 3 x 3 has no 4 x 4 grid"),
        (Pool("grid:2", feature_axis=1), VIDEO, r"pool='grid:2' takes maps"),
    ],
)
def test_shapes_that_do_not_fit_are_named(pool, output, message):
    with pytest.raises(ValueError, match=message):
        pool("mid", output, 3)
    with pytest.raises(ValueError, match=message):
        pool("mid", torch.as_tensor(output), 3)


@pytest.mark.parametrize("how", ["max", "", "grid", "grid:0", "grid:-2", "grid:2x2", "grid:02", None])
def test_bad_pools(how):
    with pytest.raises(ValueError, match="pool must be 'mean', 'none', 'class', 'patches' or 'grid:K'"):
        Pool(how)


def test_bad_axes_and_prefixes():
    with pytest.raises(ValueError, match="axis of the images"):
        Pool(feature_axis=0)
    with pytest.raises(ValueError, match="n_prefix must be 0 or more"):
        Pool(n_prefix=-1)


def test_config_says_what_matters():
    assert Pool().config() == {"pool": "mean", "feature_axis": "1 of 4, last of 3"}
    assert Pool(feature_axis=-1).config() == {"pool": "mean", "feature_axis": -1}
    assert Pool("none").config() == {"pool": "none"}
    assert Pool("patches", n_prefix=5).config() == {
        "pool": "patches",
        "feature_axis": "1 of 4, last of 3",
        "n_prefix": 5,
    }
    assert json.loads(json.dumps(Pool("grid:2", 1).config())) == {"pool": "grid:2", "feature_axis": 1, "n_prefix": 1}
