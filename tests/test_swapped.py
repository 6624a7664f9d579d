"""Unnamed axes in another order are noticed, whichever order it is; axes in order are believed."""

from __future__ import annotations

import itertools
import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import icrkit as ik
from icrkit._swapped import _shares, warn_if_swapped
from icrkit.cli import main

MORE = "more views than"


def features(n: int = 300, v: int = 8, d: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return 3 * rng.standard_normal(d) + rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))


ROLES = ("image", "view", "feature")
ORDERS = list(itertools.permutations(range(3)))[1:]
READ = "read as {} images x {} views x {} features, "
FASHION, DIGITS = "fashion_cube.h5", "digits_course/step-00000101.h5"


def measured(name: str, sigma: float) -> np.ndarray:
    return ik.open_cube(ik.datasets.data_path(name)).select(sigma=sigma, tolerance=0.1).level().to_numpy()


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("read", [ik.Moments.from_cube, ik.from_arrays])
def test_swapped_axes_are_noticed(axes, read):
    h = features().transpose(axes)
    with pytest.warns(UserWarning, match=READ.format(*h.shape)):
        read(h)


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize(
    "make",
    [lambda: measured(FASHION, 0.09), lambda: measured(FASHION, 1.6), lambda: measured(DIGITS, 0.3),
     lambda: features(300, 8, 4), lambda: features(40, 4, 300)],
    ids=["fashion", "fashion, noisy", "digits", "few features", "wide"],
)  # fmt: skip
def test_every_order_of_features_of_networks_is_noticed(make, axes):
    h = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_swapped(h)
    with pytest.warns(UserWarning, match=READ.format(*h.transpose(axes).shape)):
        warn_if_swapped(h.transpose(axes))


@pytest.mark.parametrize("axes", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_the_order_that_the_values_have_is_named(axes):
    """Those of which the lengths say nothing."""
    order = ", ".join(ROLES[axis] for axis in axes)
    with pytest.warns(UserWarning, match=rf"features, and varies as if its axes were \({order}\): are its axes in"):
        warn_if_swapped(features(300, 8, 4 if axes != (2, 1, 0) else 16).transpose(axes))


def standardised(h: np.ndarray, by: np.ndarray) -> np.ndarray:
    return (h - by.mean((0, 1))) / by.std((0, 1))


@pytest.mark.parametrize("seed", range(5))
def test_standardised_features_that_images_share_are_believed(seed):
    """They have no means of their own, and images have: brightness, say. By themselves, or by 500 rows of others."""
    rng = np.random.default_rng(seed)

    def draw(n: int) -> np.ndarray:
        return 2 + rng.standard_normal((n, 1, 1)) + rng.standard_normal((n, 1, 200)) + rng.standard_normal((n, 2, 200))

    h = draw(60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_swapped(standardised(h, h))
        warn_if_swapped(standardised(draw(250), draw(250))[:60])


@pytest.mark.parametrize("shape", [(20, 2, 70), (30, 3, 25), (16, 4, 200), (200, 8, 16)])
@pytest.mark.parametrize("noise", [1.0, 10.0])
def test_views_that_are_other_transforms_are_believed(shape, noise):
    """Each has means of its own, over all images: the more, the less images differ."""
    n, v, d = shape
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(20):
            rng = np.random.default_rng(seed)
            h = rng.standard_normal((n, 1, d)) + noise * rng.standard_normal((n, v, d))
            warn_if_swapped(h + 2 * noise * rng.standard_normal((v, d)))


def test_shares_of_variance():
    """A layout of known components."""
    rng = np.random.default_rng(0)
    shape = (60, 50, 40)
    draw = lambda *axes: rng.standard_normal([size if k in axes else 1 for k, size in enumerate(shape)])  # noqa: E731
    values = 3 * draw(0) + 2 * draw(2) + 1.5 * draw(0, 2) + draw(0, 1) + 0.5 * draw(1, 2) + 2 * draw(0, 1, 2)
    agreement, own = _shares(values + 100)
    np.testing.assert_allclose(agreement, [0.25 / 4.25, 2.25 / 6.25, 1 / 5], atol=0.02)
    total = 9 + 4 + 2.25 + 1 + 0.25 + 4
    np.testing.assert_allclose(own, [9 / total, 0, 4 / total], atol=0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(60, 2, 40), (60, 4, 1), (2, 1, 3), (60, 2, 2)])
def test_values_that_say_nothing_raise_nothing(bad, shape):
    for h in (np.full(shape, bad), np.zeros(shape), np.full(shape, 7, dtype=np.uint8)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_if_swapped(h)


@pytest.mark.parametrize("shape", [(300, 8, 16), (20, 2, 3), (60, 4, 2), (100, 16, 4), (2, 2, 5)])
def test_axes_in_order_are_believed(shape):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{MORE}")
        ik.from_arrays(features(*shape))
        ik.Moments.from_cube(features(*shape), n_folds=0)


@pytest.mark.parametrize("shape", [(8, 300, 16), (300, 64, 8)])
def test_swapped_axes_of_dask_are_noticed_by_their_lengths(shape):
    with pytest.warns(UserWarning, match=MORE):
        ik.Moments.from_cube(da.from_array(features(*shape), chunks=(4, -1, -1)), n_folds=0)


@pytest.mark.parametrize("n_views", [2, 4, 8])
def test_features_read_as_views_agree_less_than_views_read_as_features(n_views):
    """Few features, whose means say nothing."""
    h = features(100, n_views, 16)
    h = (h - h.mean((0, 1)))[..., : 2 * n_views].swapaxes(1, 2)
    with pytest.warns(UserWarning, match=f"{2 * n_views} views x {n_views} features, with {MORE} features"):
        ik.from_arrays(h)


@pytest.mark.parametrize("noise", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("shape", [(60, 2, 1), (30, 6, 5), (40, 5, 3), (100, 20, 2), (3, 3, 2), (10, 4, 3)])
def test_few_features_that_go_together_are_believed(shape, noise):
    n, v, d = shape
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{MORE}")
        for seed in range(20):
            rng = np.random.default_rng(seed)
            image = rng.standard_normal((n, 1, d)) + 0.3 * rng.standard_normal((n, 1, 1))
            ik.from_arrays(image + noise * rng.standard_normal((n, v, d)))


@pytest.mark.parametrize("command", ["score", "info", "compare"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.filterwarnings("default:.*more views than")
def test_swapped_axes_are_noticed_in_a_shell(tmp_path, command, suffix):
    h = np.random.default_rng(0).standard_normal((300, 1, 64)) + np.random.default_rng(1).standard_normal((300, 8, 64))
    for name, array in (("wrong", h.swapaxes(0, 1)), ("right", h)):
        path = tmp_path / f"{name}.{suffix}"
        np.save(path, array) if suffix == "npy" else np.savez(path, mid=array)
        result = CliRunner().invoke(main, [command, str(path), *(["--metrics", "icr"] if command != "info" else [])])
        assert result.exit_code == 0, result.output
        assert ("8 images x 300 views" in result.stderr) == (MORE in result.stderr) == (name == "wrong")


def test_named_axes_are_believed():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{MORE}")
        ik.Moments.from_cube(xr.DataArray(features(8, 300), dims=("image", "view", "feature")), n_folds=0)
        swapped = xr.DataArray(features().swapaxes(0, 1), dims=("view", "image", "feature"))
        assert ik.ICREstimator().fit(swapped).icr_ == pytest.approx(ik.ICREstimator().fit(features()).icr_)
