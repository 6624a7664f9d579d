"""Semantic window: the curve is that of ICREstimator, the set holds the best level as often as it says."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import icrkit as ik
from icrkit.exceptions import CubeFormatError, NotEnoughDataError
from icrkit.metrics._crossfit import Crossfit, crossfit
from icrkit.moments import Moments
from icrkit.readings._window import best_levels, window_around

PROPERTY = settings(deadline=None, max_examples=50, derandomize=True)
SIGMAS = [0.05, 0.1, 0.2, 0.4, 0.8]
TRUTH = [0.6, 0.4, 0.2, 0.45, 0.8]


@pytest.fixture(scope="module")
def cube() -> ik.Cube:
    return ik.datasets.make_cube(400, 6, icr=TRUTH, sigmas=SIGMAS, random_state=0)


def course(rng: np.random.Generator, truth: list[float], n: int = 80, d: int = 6) -> ik.Cube:
    """Same images at every level, fresh residuals."""
    s = rng.standard_normal((n, 1, d))
    levels = [s + np.sqrt(icr / (1 - icr)) * rng.standard_normal((n, 2, d)) for icr in truth]
    return ik.from_arrays(np.stack(levels, axis=2), sigmas=np.arange(1, len(truth) + 1))


# ---- closed form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "allowed", "expected"),
    [
        ([3, 1, 2], [0, 1, 1], (1, 3)),
        ([3, 1, 2], [1, 1, 0], (0, 2)),
        ([1, 2, 3], [1, 0, 1], (0, 1)),  # allowed, but not next to the lowest
        ([5, 4, 3, 4, 5], [1, 1, 1, 1, 1], (0, 5)),
        ([5, 4, 3, 4, 5], [1, 0, 1, 0, 1], (2, 3)),
        ([1], [1], (0, 1)),
    ],
)
def test_the_run_around_the_lowest_value(values, allowed, expected):
    run = window_around(np.array(values, dtype=float), np.array(allowed, dtype=bool))
    assert (run.start, run.stop) == expected


def test_best_levels_of_three_by_hand():
    def level(log_q: float, replicates: np.ndarray) -> Crossfit:
        return Crossfit(np.full(5, np.exp(log_q) - 0.5), np.ones(5), 2, 0.0, log_q + replicates)

    noise = np.array([0.02, -0.01, 0.0, 0.01, -0.02])
    error = np.sqrt(4 / 5 * np.square(noise).sum())
    limit = stats.t.ppf(1 - 0.05 / 2, 4)
    shared = np.array([0.5, -0.5, 0.1, 0.2, -0.3])  # noise common to all levels cancels
    for gap, kept in ((0.99, True), (1.01, False)):
        levels = [level(1.0, shared), level(1.0 - gap * limit * error, shared + noise), level(0.0, shared)]
        np.testing.assert_array_equal(best_levels(levels, 0.95), [True, kept, False])
    np.testing.assert_array_equal(best_levels(levels[:1]), [True])


# ---- against the estimator ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the plug-in ICR:UserWarning")
def test_the_curve_is_what_the_estimator_says_of_each_level(cube):
    window = ik.SemanticWindow(n_folds=7, confidence=0.9, random_state=3).fit(cube)
    curve = window.curve_
    assert set(curve.dims) == {"layer", "sigma"} and curve["layer"].values.tolist() == ["features"]
    np.testing.assert_array_equal(curve["sigma"], SIGMAS)
    for sigma in SIGMAS:
        est = ik.ICREstimator("crossfit", n_folds=7, confidence=0.9, random_state=3).fit(cube.select(sigma=sigma))
        here = curve.sel(layer="features", sigma=sigma)
        found = [float(here[name]) for name in ("icr", "low", "high", "plugin", "total_snr")]
        assert found == pytest.approx([est.icr_, *est.interval_, est.icr_plugin_, est.total_snr_], rel=1e-10)


def test_the_set_is_that_of_paired_replicates(cube):
    window = ik.SemanticWindow().fit(cube)
    results = [crossfit(Moments.from_cube(cube.select(sigma=s))) for s in SIGMAS]
    np.testing.assert_array_equal(window.curve_["in_set"].values[0], best_levels(results))
    np.testing.assert_array_equal(window.confidence_set_, np.array(SIGMAS)[best_levels(results)])


def test_a_clear_minimum_is_found(cube):
    window = ik.SemanticWindow().fit(cube)
    assert window.best_sigma_ == 0.2 and window.best_layer_ == "features" and not window.at_edge_
    assert window.window_ == (0.2, 0.2) and window.confidence_set_.tolist() == [0.2]
    chosen = window.transform(cube)
    assert chosen.layers == ("features",) and chosen.sigmas.tolist() == [0.2]
    np.testing.assert_array_equal(chosen.level(), cube.select(sigma=0.2).level())
    assert window.transform(cube[:7]).n_images == 7


def test_each_layer_has_its_window():
    wide = ik.datasets.make_cube(400, 6, icr=[0.5, 0.3, 0.6], sigmas=[0.1, 0.2, 0.3], random_state=0)["features"].values
    narrow = ik.datasets.make_cube(400, 3, icr=[0.3, 0.5, 0.6], sigmas=[0.1, 0.2, 0.3], random_state=1)
    both = ik.from_arrays({"narrow": narrow["features"].values, "wide": wide}, sigmas=[0.1, 0.2, 0.3])
    window = ik.SemanticWindow().fit(both)
    # The same ICR on twice the features is twice the signal.
    assert window.best_layer_ == "wide" and window.best_sigma_ == 0.2
    assert set(window.curve_["layer"].values) == {"narrow", "wide"}
    assert window.transform(both).layers == ("wide",)
    alone = ik.SemanticWindow(layer="narrow").fit(both)
    assert alone.best_layer_ == "narrow" and alone.best_sigma_ == 0.1 and alone.at_edge_
    np.testing.assert_allclose(
        window.curve_["icr"].sel(layer="narrow").values, alone.curve_["icr"].values[0], rtol=1e-12
    )
    listed = ik.SemanticWindow(layer=["wide", "narrow"]).fit(both)
    assert (listed.best_layer_, listed.best_sigma_) == ("wide", 0.2)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 99), levels=st.permutations(range(5)))
def test_order_of_images_and_levels_does_not_matter(seed, levels):
    cube = ik.datasets.make_cube(100, 3, icr=TRUTH, sigmas=SIGMAS, random_state=seed)
    want = ik.SemanticWindow(n_folds=4).fit(cube)
    order = np.random.default_rng(seed).permutation(100)
    h = cube["features"].values[order][:, :, list(levels)]
    mixed = ik.from_arrays(h, sigmas=np.array(SIGMAS)[list(levels)], image_ids=order)
    found = ik.SemanticWindow(n_folds=4).fit(mixed)
    np.testing.assert_allclose(found.curve_["icr"].values, want.curve_["icr"].values, rtol=1e-9)
    assert (found.best_sigma_, found.window_) == (want.best_sigma_, want.window_)
    assert found.confidence_set_.tolist() == want.confidence_set_.tolist()


def test_the_window_holds_the_best_level_and_lies_in_the_set(cube):
    for seed in range(20):
        window = ik.SemanticWindow().fit(course(np.random.default_rng(seed), [0.5, 0.4, 0.38, 0.37, 0.39, 0.6]))
        low, high = window.window_
        assert low <= window.best_sigma_ <= high and {low, high} <= set(window.confidence_set_)
        inside = (window.curve_["sigma"].values >= low) & (window.curve_["sigma"].values <= high)
        assert window.curve_["in_set"].values[0][inside].all()


def test_data_arrays_clone_and_pickle(cube):
    want = ik.SemanticWindow().fit(cube)
    for window in (
        ik.SemanticWindow().fit(cube["features"]),
        clone(want).fit(cube),
        pickle.loads(pickle.dumps(want)),
        ik.SemanticWindow().set_output(transform="pandas").fit(cube),
    ):
        assert (window.best_sigma_, window.window_) == (want.best_sigma_, want.window_)
    assert ik.SemanticWindow(n_folds=3).get_params()["n_folds"] == 3


# ---- degenerate -----------------------------------------------------------------------------------------------------


def test_a_single_level_is_the_best(cube):
    window = ik.SemanticWindow().fit(cube.select(sigma=0.4))
    assert window.best_sigma_ == 0.4 and window.window_ == (0.4, 0.4) and window.confidence_set_.tolist() == [0.4]


def test_a_minimum_at_the_edge_is_said_to_be(cube):
    assert ik.SemanticWindow().fit(cube.select(sigma=[0.2, 0.4, 0.8])).at_edge_


def test_what_is_refused(cube):
    with pytest.raises(ValueError, match=r"criterion must be .* not 'auc'"):
        ik.SemanticWindow(criterion="auc").fit(cube)
    with pytest.raises(CubeFormatError, match="no layer 'mid'; its layers are features"):
        ik.SemanticWindow(layer="mid").fit(cube)
    with pytest.raises(NotEnoughDataError):
        ik.SemanticWindow().fit(cube[:5])
    with pytest.raises(NotFittedError):
        ik.SemanticWindow().transform(cube)
    window = ik.SemanticWindow().fit(cube)
    with pytest.raises(CubeFormatError, match="fitted on layer 'features'"):
        window.transform(ik.from_arrays({"mid": cube["features"].values}, sigmas=SIGMAS))
    with pytest.raises(CubeFormatError, match=r"no level sigma=0\.2"):
        window.transform(cube.select(sigma=[0.1, 0.4]))


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", [[0.5] * 6, [0.6, 0.5, 0.49, 0.5, 0.6]], ids=["flat", "curved"])
def test_the_set_holds_the_best_level_as_often_as_it_says(truth):
    rng, runs = np.random.default_rng(0), 150
    best = truth.index(min(truth))
    held, sizes = 0, 0
    for _ in range(runs):
        one = course(rng, truth)
        results = [crossfit(Moments.from_cube(one.select(sigma=s))) for s in one.sigmas]
        in_set = best_levels(results)
        held += in_set[best]
        sizes += in_set.sum()
    assert held / runs > 0.95 - 2 * np.sqrt(0.05 * 0.95 / runs)
    if truth[0] == 0.6:
        assert sizes / runs < 4.5  # and it leaves levels out


# ---- the noise that a network was trained on ------------------------------------------------------------------------


def trained_cube(**noise):
    """Cleanest at a level that no network was trained on, then at 0.3."""
    made = ik.datasets.make_cube(400, 5, icr=[0.1, 0.5, 0.3, 0.6], sigmas=[0.01, 0.1, 0.3, 1.0])
    attrs = {"noise": {"name": "EDM", **noise}} if noise else {}
    return ik.from_arrays({"mid": made["features"].to_numpy()}, sigmas=made.sigmas, attrs=attrs)


def test_levels_outside_the_trained_range_are_measured_and_not_chosen():
    window = ik.SemanticWindow().fit(trained_cube(trained_range=[0.05, 2.0]))
    assert window.trained_range_ == (0.05, 2.0)
    assert window.curve_["trained"].to_numpy().tolist() == [False, True, True, True]
    assert window.curve_["icr"].to_numpy()[0, 0] == pytest.approx(0.1, abs=0.03)
    assert not window.curve_["in_set"].to_numpy()[0, 0]
    assert window.best_sigma_ == 0.3 and 0.01 not in window.confidence_set_
    assert not window.at_edge_


def test_the_trained_range_may_be_given_or_ignored():
    cube = trained_cube(trained_range=[0.05, 2.0])
    assert ik.SemanticWindow(trained_range=None).fit(cube).best_sigma_ == 0.01
    assert ik.SemanticWindow(trained_range=(0.5, 2.0)).fit(cube).best_sigma_ == 1.0
    assert ik.SemanticWindow().fit(trained_cube()).best_sigma_ == 0.01
    assert ik.SemanticWindow().fit(trained_cube(sigma_data=0.5)).trained_range_ is None


def test_impossible_trained_ranges_are_refused():
    with pytest.raises(CubeFormatError, match=r"no noise level lies in the trained range 3 to 4: .*trained_range=None"):
        ik.SemanticWindow(trained_range=(3.0, 4.0)).fit(trained_cube())
    with pytest.raises(ValueError, match="'auto', None or"):
        ik.SemanticWindow(trained_range="all").fit(trained_cube())
