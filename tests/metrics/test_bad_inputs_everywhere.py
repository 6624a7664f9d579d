"""Bad inputs, and what every estimator and reading gets of them: an error that names the place, or numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

import icrkit as ik
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError, NotEnoughDataError
from icrkit.metrics import known_metrics

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SIGMAS = [0.1, 0.3, 1.0]


def features(n: int = 60, v: int = 2, d: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))


def labels(n: int = 60) -> np.ndarray:
    return np.arange(n) % 3


def levels(h: Any) -> Any:
    """The same features at three levels, as the readings want them."""
    stacked = np.stack([np.asarray(h)] * 3, axis=2)
    return ik.from_arrays(stacked, sigmas=SIGMAS) if isinstance(h, np.ndarray) else h.expand_dims(sigma=SIGMAS)


ESTIMATORS: dict[str, Any] = {
    type(est).__name__: est
    for est in (
        *(ik.ICREstimator(), ik.FisherSpectrum(), ik.InvariantInformation(), ik.AlignUniform(), ik.LiDAR()),
        *(ik.TraceRatio(), ik.RankMe(), ik.EffectiveRank(), ik.ParticipationRatio(), ik.StableRank()),
        *(ik.AlphaReQ(ranks=(1, 4)), ik.NC1Scorer(), ik.CDNV(), ik.ClassSeparation(), ik.Silhouette()),
        *(ik.LinearProbe(), ik.KNNProbe(n_neighbors=2), ik.FewLabelProbe(n_labels=2, n_draws=2)),
        *(ik.FrechetDistance(), ik.KernelDistance(), ik.LinearCKA(), ik.MemorizationRatio(0.6), ik.AuthPct()),
        *(ik.NearestRatio(), ik.NeighborRetrieval(n_neighbors=1), ik.MeanViews()),
    )
}
FITS: dict[str, Callable[[Any], Any]] = {
    name: lambda h, est=est: est.fit(h, labels(len(h))) for name, est in ESTIMATORS.items()
}
# These read features when they are used.
FITS["LinearCKA"] = lambda h: ik.LinearCKA().fit(h).evaluate(h)
FITS["MeanViews"] = lambda h: ik.MeanViews().fit_transform(h)
READINGS: dict[str, Callable[[Any], Any]] = {
    "SemanticWindow": lambda h: ik.SemanticWindow().fit(levels(h)),
    "TrainingCourse": lambda h: ik.TrainingCourse().fit([(step, h) for step in (1, 2, 3)]),
    "ICRMonitor": lambda h: ik.ICRMonitor().update(1, h),
    "paired_difference": lambda h: ik.paired_difference(h, h),
    "sample_size": lambda h: ik.sample_size(h, 0.05),
}
EVERY = FITS | READINGS
# Of the residual of views; and of between and within.
OF_VIEWS = ("ICREstimator", "FisherSpectrum", "InvariantInformation", *READINGS)


def test_no_estimator_of_the_registry_is_forgotten():
    assert {type(metric.make()).__name__ for metric in known_metrics().values()} <= set(ESTIMATORS)


def numbers(found: Any) -> dict[str, np.ndarray]:
    """Public numbers of what was fitted."""
    shown = {name: getattr(found, name, None) for name in dir(found) if name.endswith("_") and name[0] != "_"}
    return {name: value for name, value in shown.items() if isinstance(value, float | np.floating) and name != "sigma_"}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_cell_is_named(name, value):
    h = features()
    h[41, 0, 2] = value  # some read one view only
    with pytest.raises(NonFiniteError, match=r"1 of \d+ features.* image 41, view 0, feature 2"):
        EVERY[name](h)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("dims", [("view", "image", "channel"), ("dim_0", "dim_1", "dim_2")])
def test_wrong_dims_are_named(name, dims):
    with pytest.raises(CubeFormatError) as error:
        ESTIMATORS[name].fit(xr.DataArray(features(), dims=dims), labels())
    assert str(dims) in str(error.value)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", [object, "U8", complex, "datetime64[s]"])
def test_features_that_are_no_real_numbers(name, kind):
    h = features().astype("int64").astype(kind) if kind == "datetime64[s]" else features().astype(kind)
    if kind is object:
        h[3, 0, 1] = "text"
    with pytest.raises(CubeFormatError):
        EVERY[name](h)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(0, 2, 4), (60, 0, 4), (60, 2, 0)])
def test_nothing_at_all(name, shape):
    with pytest.raises(ValueError):
        EVERY[name](np.zeros(shape))


@pytest.mark.parametrize("name", OF_VIEWS)
@pytest.mark.parametrize("shape", [(1, 2, 4), (60, 1, 4), (3, 2, 8)])
def test_too_few_images_or_views(name, shape):
    with pytest.raises(NotEnoughDataError):
        EVERY[name](features(*shape))


@pytest.mark.parametrize("name", OF_VIEWS)
@pytest.mark.parametrize("relative", [0.0, 1e-9])
def test_views_that_agree_have_no_residual(name, relative):
    h = np.repeat(features(v=1), 2, axis=1)
    h[:, 1] *= 1 + relative
    with pytest.raises(DegenerateFeaturesError, match="no residual"):
        EVERY[name](h)


@pytest.mark.parametrize("name", OF_VIEWS)
def test_constant_features_are_listed(name):
    h = features()
    h[..., [1, 3]] = 0.1
    with pytest.raises(DegenerateFeaturesError, match=r"2 of 4 .*constant.*1, 3"):
        EVERY[name](h)


DEGENERATE = {
    "one image": features(1),
    "two images": features(2),
    "one view": features(v=1),
    "equal views": np.repeat(features(v=1), 2, axis=1),
    "equal images": np.repeat(features(1), 60, axis=0),
    "all zero": np.zeros((60, 2, 4)),
    "all one": np.ones((60, 2, 4)),
    "a dead unit": features() * [1, 0, 1, 1],
    "a repeated feature": features()[..., [0, 1, 2, 2]],
    "one feature": features(d=1),
    "more features than rows": features(5, 2, 40),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", DEGENERATE)
def test_what_is_degenerate_gives_an_error_or_numbers(name, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of a division by zero inside
        try:
            found = EVERY[name](DEGENERATE[kind])
        except ValueError as error:
            assert type(error).__module__ == "icrkit.exceptions" or "must be" in str(error), (type(error), error)
            return
    missing = [key for key, value in numbers(found).items() if not np.isfinite(value)]
    assert not missing, missing
