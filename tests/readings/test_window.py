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
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NotEnoughDataError
from icrkit.metrics import few_label_probe
from icrkit.metrics._crossfit import jackknife_error
from icrkit.readings._reading import merits, read_features
from icrkit.readings._window import best_levels, p_best, window_around

PROPERTY = settings(max_examples=8, derandomize=True)
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


def read_levels(cube: ik.Cube, criterion: str) -> tuple[np.ndarray, np.ndarray]:
    """Merits and replicates of every level."""
    found = [read_features(cube.select(sigma=sigma), (criterion,))[1][0] for sigma in np.sort(cube.sigmas)]
    return merits(found)


# ---- closed form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "allowed", "expected"),
    [
        ([1, 3, 2], [0, 1, 1], (1, 3)),
        ([1, 3, 2], [1, 1, 0], (0, 2)),
        ([3, 2, 1], [1, 0, 1], (0, 1)),  # allowed, but not next to the greatest
        ([1, 2, 3, 2, 1], [1, 1, 1, 1, 1], (0, 5)),
        ([1, 2, 3, 2, 1], [1, 0, 1, 0, 1], (2, 3)),
        ([1], [1], (0, 1)),
    ],
)
def test_the_run_around_the_greatest_value(values, allowed, expected):
    run = window_around(np.array(values, dtype=float), np.array(allowed, dtype=bool))
    assert (run.start, run.stop) == expected


@pytest.mark.parametrize("gap", [0.01, 0.03, 0.06])
def test_two_levels_give_the_one_sided_t_test(gap):
    noise = 0.01 * np.random.default_rng(1).standard_normal((2, 8))
    shared = np.random.default_rng(2).standard_normal(8)  # noise common to both levels cancels
    t = gap / jackknife_error(noise[0] - noise[1])
    p = p_best(np.array([1.0 + gap, 1.0]), noise + shared)
    # 9,999 rotations; a p of .05 is known to .002.
    assert p[0] == 1 and p[1] == pytest.approx(stats.t.sf(t, 7), rel=0.1, abs=2e-3)
    for confidence in (0.5, 0.9, 0.95, 0.99):
        expected = [True, bool(p[1] > 1 - confidence)]
        assert best_levels(np.array([1.0 + gap, 1.0]), noise + shared, confidence).tolist() == expected


def test_levels_that_differ_by_nothing_or_by_a_constant():
    noise = 0.01 * np.random.default_rng(0).standard_normal(10)
    merit = np.array([0.0, 1.0, 1.0])
    replicates = merit[:, None] + noise
    np.testing.assert_array_equal(p_best(merit, replicates), [1e-4, 1.0, 1.0])
    np.testing.assert_array_equal(p_best(merit[:1], replicates[:1]), [1.0])
    assert best_levels(merit[:1], replicates[:1]).tolist() == [True]


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_a_confidence_lies_between_0_and_1(confidence):
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        best_levels(np.zeros(2), np.zeros((2, 3)), confidence)


# ---- oracle ---------------------------------------------------------------------------------------------------------


def test_p_is_that_of_all_changes_of_sign():
    """Another way to the same law: signs of the folds' contributions change together (1,024 of them)."""
    rng = np.random.default_rng(4)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1).T
    for _ in range(5):
        # Correlated like neighbours on a curve.
        values, folds = 0.5 * rng.standard_normal(6), np.cumsum(rng.standard_normal((10, 6)), axis=1)
        folds += values - folds.mean(axis=0)
        replicates = (10 * values - folds) / 9
        found = p_best(values, replicates.T)
        for level in range(6):
            d = np.delete(folds, level, axis=1) - folds[:, [level]]
            cosines = (signs @ d / np.sqrt(10)) / np.linalg.norm(d, axis=0)
            seen = max((d.sum(axis=0) / np.sqrt(10) / np.linalg.norm(d, axis=0)).max(), 0.0)
            expected = (np.maximum(cosines.max(axis=1), 0.0) >= seen - 1e-12).mean()
            assert found[level] == pytest.approx(expected, abs=0.06)


def test_p_of_independent_levels_is_dunnetts():
    """Independent errors of one size: the largest t has the law that scipy's Dunnett test integrates."""
    rng = np.random.default_rng(0)
    folds = np.array([0.0, 0.2, 0.1, -0.1]) + rng.standard_normal((200, 4))  # so many that variances hardly vary
    found = p_best(folds.mean(axis=0), ((folds.sum(axis=0) - folds) / 199).T)
    others = [folds[:, k] for k in (1, 2, 3)]
    expected = stats.dunnett(*others, control=folds[:, 0], alternative="greater", rng=0).pvalue.min()
    assert found[0] == pytest.approx(expected, abs=0.02)


# ---- against the estimator ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the plug-in ICR:UserWarning")
def test_the_curve_is_what_the_estimators_say_of_each_level(cube):
    options = {"n_folds": 7, "confidence": 0.9, "random_state": 3}
    curve = ik.SemanticWindow(**options).fit(cube).curve_
    assert set(curve.dims) == {"layer", "sigma"} and curve["layer"].values.tolist() == ["features"]
    np.testing.assert_array_equal(curve["sigma"], SIGMAS)
    for sigma in SIGMAS:
        level, here = cube.select(sigma=sigma), curve.sel(layer="features", sigma=sigma)
        est = ik.ICREstimator("crossfit", **options).fit(level)
        found = [float(here[name]) for name in ("icr", "low", "high", "plugin", "total_snr")]
        assert found == pytest.approx([est.icr_, *est.interval_, est.icr_plugin_, est.total_snr_], rel=1e-10)
        info = ik.InvariantInformation(**options).fit(level)
        found = [float(here[name]) for name in ("information", "information_low", "information_high")]
        assert found == pytest.approx([info.information_, *info.interval_], rel=1e-10)


@pytest.mark.parametrize("criterion", ["icr", "information"])
def test_the_set_is_that_of_paired_replicates(criterion):
    close = course(np.random.default_rng(0), [0.5, 0.42, 0.4, 0.39, 0.6])
    window = ik.SemanticWindow(criterion=criterion).fit(close)
    expected = best_levels(*read_levels(close, criterion))
    assert 1 < expected.sum() < 5
    np.testing.assert_array_equal(window.curve_["in_set"].values[0], expected)
    np.testing.assert_array_equal(window.confidence_set_, close.sigmas[expected])


def test_the_criterion_decides_and_both_are_measured():
    """Two features of great ratio, or eight of a fair one: ICR prefers the first level, information the second."""
    rng, n = np.random.default_rng(0), 600
    few, many = np.full(8, 0.1), np.full(8, 2.0)
    few[:2] = 20.0
    ratios = [few, many, np.full(8, 0.05)]
    s, xi = rng.standard_normal((n, 1, 8)), rng.standard_normal((3, n, 2, 8))
    levels = [np.sqrt(ratio) * s + e for ratio, e in zip(ratios, xi, strict=True)]
    cube = ik.from_arrays(np.stack(levels, axis=2), sigmas=[0.1, 0.2, 0.3])
    by_icr, by_information = (ik.SemanticWindow(criterion=name).fit(cube) for name in ("icr", "information"))
    assert (by_icr.best_sigma_, by_information.best_sigma_) == (0.1, 0.2)
    assert by_icr.at_edge_ and not by_information.at_edge_
    for name in ("icr", "information", "information_low"):
        np.testing.assert_array_equal(by_icr.curve_[name], by_information.curve_[name])
    truth = [0.5 * np.log1p(ratio).sum() for ratio in ratios]
    np.testing.assert_allclose(by_icr.curve_["information"].values[0], truth, rtol=0.1, atol=0.15)


def test_a_clear_minimum_is_found(cube):
    window = ik.SemanticWindow().fit(cube)
    assert window.best_sigma_ == 0.2 and window.best_layer_ == "features" and not window.at_edge_
    assert window.window_ == (0.2, 0.2) and window.confidence_set_.tolist() == [0.2]
    chosen = window.transform(cube)
    assert chosen.layers == ("features",) and chosen.sigmas.tolist() == [0.2]
    np.testing.assert_array_equal(chosen.level(), cube.select(sigma=0.2).level())
    assert window.transform(cube[:7]).n_images == 7


def layered(n: int, truths: dict[str, list[float]], d: int = 6, noise: int = 0) -> ik.Cube:
    """Layers of the same images; the last has some features of pure noise more."""
    rng, sigmas = np.random.default_rng(0), [0.1, 0.2, 0.3]
    s = rng.standard_normal((n, 1, d))
    layers = {}
    for name, truth in truths.items():
        xi = rng.standard_normal((3, n, 2, d))
        levels = [np.sqrt(1 / icr - 1) * s + e for icr, e in zip(truth, xi, strict=True)]
        layers[name] = np.stack(levels, axis=2)
    layers[name] = np.concatenate([layers[name], rng.standard_normal((n, 2, 3, noise))], axis=3)
    return ik.from_arrays(layers, sigmas=sigmas)


def test_each_layer_has_its_window_and_information_chooses_among_them():
    # Pure noise raises the ICR of the last layer, from .3 to .55, and leaves its information above the first's.
    both = layered(500, {"narrow": [0.4, 0.5, 0.6], "wide": [0.5, 0.3, 0.6]}, noise=12)
    window = ik.SemanticWindow().fit(both)
    icr = window.curve_["icr"].min("sigma")
    assert icr.sel(layer="narrow") < icr.sel(layer="wide")
    assert (window.best_layer_, window.best_sigma_, window.at_edge_) == ("wide", 0.2, False)
    assert set(window.curve_["layer"].values) == {"narrow", "wide"}
    assert window.transform(both).layers == ("wide",)
    alone = ik.SemanticWindow(layer="narrow").fit(both)
    assert alone.best_layer_ == "narrow" and alone.best_sigma_ == 0.1 and alone.at_edge_
    np.testing.assert_allclose(
        window.curve_["icr"].sel(layer="narrow").values, alone.curve_["icr"].values[0], rtol=1e-12
    )
    listed = ik.SemanticWindow(layer=["wide", "narrow"]).fit(both)
    assert (listed.best_layer_, listed.best_sigma_) == ("wide", 0.2)

    table = window.by_layer_
    assert table["best_sigma"].values.tolist() == [0.1, 0.2] and table["at_edge"].values.tolist() == [True, False]
    assert table["window_low"].values.tolist() == [0.1, 0.2] and table["window_high"].values.tolist() == [0.1, 0.2]
    for name in ("icr", "information"):
        here = window.curve_[name].sel(layer="wide", sigma=0.2)
        assert float(table[name].sel(layer="wide")) == float(here)


def test_layers_that_may_be_the_best():
    truth = [0.5, 0.3, 0.6]
    tied = ik.SemanticWindow().fit(layered(400, {"a": truth, "low": [0.7] * 3, "b": truth}, noise=6))
    assert tied.by_layer_["may_be_best"].values.tolist() == [True, False, True]
    clear = ik.SemanticWindow().fit(layered(400, {"a": truth, "b": [0.5, 0.45, 0.6]}))
    assert clear.by_layer_["may_be_best"].values.tolist() == [True, False]


def test_the_window_of_the_example_holds_the_probes_best_level():
    cube = ik.datasets.load_fashion_cube()
    accuracy = {sigma: few_label_probe(cube.select(sigma=sigma), cube.labels).accuracy for sigma in cube.sigmas}
    low, high = cube.attrs["noise"]["trained_range"]
    best = max((sigma for sigma in accuracy if low <= sigma <= high), key=accuracy.__getitem__)
    for criterion in ("icr", "information"):
        window = ik.SemanticWindow(criterion=criterion).fit(cube)
        assert best in window.confidence_set_ and window.window_[0] <= best <= window.window_[1]
        assert len(window.confidence_set_) < 6  # of nine


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


@pytest.mark.parametrize("sigmas", [[0.4], [0.2, 0.4]])
def test_fewer_than_three_levels_are_no_window(cube, sigmas):
    with pytest.raises(CubeFormatError, match=rf"at least 3 noise levels.* has {len(sigmas)} \(.*paired_difference"):
        ik.SemanticWindow().fit(cube.select(sigma=sigmas))


def test_a_minimum_at_the_edge_is_said_to_be(cube):
    assert ik.SemanticWindow().fit(cube.select(sigma=[0.2, 0.4, 0.8])).at_edge_
    # At the edge of what may be chosen, though others were measured beyond it.
    assert ik.SemanticWindow(trained_range=(0.15, 1.0)).fit(cube).at_edge_
    assert ik.SemanticWindow(trained_range=(0.01, 0.2)).fit(cube).at_edge_
    assert not ik.SemanticWindow(trained_range=(0.1, 0.4)).fit(cube).at_edge_


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


def test_constant_features_are_named_with_what_to_do(cube):
    h = cube["features"].to_numpy().copy()
    h[:, :, SIGMAS.index(0.2), 2] = 7.0
    dead = ik.from_arrays({"mid": cube["features"].to_numpy(), "up": h}, sigmas=SIGMAS)
    with pytest.raises(
        DegenerateFeaturesError, match=r"^layer up, sigma 0\.2: 1 of 6 features are constant \(2\)"
    ) as e:
        ik.SemanticWindow(layer="up").fit(dead)
    with pytest.warns(UserWarning, match=r"layer up is left out: layer up, sigma 0\.2: 1 of 6 features"):
        assert list(ik.SemanticWindow().fit(dead).refused_) == ["up"]
    assert str(e.value).endswith("drop_constant=True leaves them out at every level")
    left = ik.SemanticWindow(drop_constant=True).fit(dead)  # as the message says
    want = ik.SemanticWindow().fit(ik.from_arrays({"up": h[..., [0, 1, 3, 4, 5]]}, sigmas=SIGMAS))
    for name in ("icr", "low", "plugin", "information", "in_set"):
        np.testing.assert_allclose(left.curve_[name].sel(layer="up"), want.curve_[name].sel(layer="up"), rtol=1e-9)
    assert {name: one.tolist() for name, one in left.dropped_features_.items()} == {"mid": [], "up": [2]}
    assert left.refused_ == {} and left.n_features_in_ == 6 and left.transform(dead).n_features[left.best_layer_] == 6
    # A sixth of the features is gone at every level, the one that is constant at one level only included.
    h[:, :, :, 4] = 0.0
    both = ik.SemanticWindow(drop_constant=True).fit(ik.from_arrays({"up": h}, sigmas=SIGMAS))
    assert both.dropped_features_["up"].tolist() == [2, 4]
    h[:, :, 0] = 1.0
    with pytest.raises(DegenerateFeaturesError, match=r"^layer up, sigma 0\.05: every feature is constant"):
        ik.SemanticWindow(drop_constant=True).fit(ik.from_arrays({"up": h}, sigmas=SIGMAS))
    with pytest.raises(NotEnoughDataError, match=r"^layer features, sigma 0\.05: "):
        ik.SemanticWindow().fit(cube[:5])


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_levels", [3, 8])
def test_a_best_level_is_left_out_as_often_as_it_says(n_levels):
    """Gaussian contributions of ten folds, all levels equal, neighbours correlated: each is left out in 5 %."""
    rng, runs = np.random.default_rng(0), 400
    distance = np.abs(np.subtract.outer(np.arange(n_levels), np.arange(n_levels)))
    root = np.linalg.cholesky(np.exp(-distance / 3))
    held = 0.0
    for _ in range(runs):
        folds = rng.standard_normal((10, n_levels)) @ root.T
        held += best_levels(folds.mean(axis=0), ((folds.sum(axis=0) - folds) / 9).T)[0]
    assert held / runs == pytest.approx(0.95, abs=3 * np.sqrt(0.05 * 0.95 / runs))


def test_the_set_holds_the_best_level_and_leaves_others_out():
    truth, runs, rng = [0.6, 0.5, 0.48, 0.5, 0.6], 25, np.random.default_rng(0)
    sets = np.array([best_levels(*read_levels(course(rng, truth, n=120), "icr")) for _ in range(runs)])
    assert sets[:, 2].mean() >= 0.9 and sets.sum() / runs < 4.3


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
    with pytest.raises(
        CubeFormatError, match=r"^trained_range must be two noise levels, \(low, high\), not \(1, 2, 3\)"
    ):
        ik.SemanticWindow(trained_range=(1, 2, 3)).fit(trained_cube())
    with pytest.raises(CubeFormatError, match=r"\[\"trained_range\"\] must be two noise levels"):
        ik.SemanticWindow().fit(trained_cube(trained_range=[1, 2, 3]))
    with pytest.raises(ValueError, match="'auto', None or"):
        ik.SemanticWindow(trained_range="all").fit(trained_cube())


def test_a_layer_that_is_too_wide_does_not_stop_the_others():
    rng = np.random.default_rng(0)
    image, rest = rng.standard_normal((60, 1, 1, 80)), rng.standard_normal((60, 2, 3, 80))
    h = image * np.array([2.0, 1.0, 0.5])[:, None] + rest
    cube = ik.from_arrays({"mid": h[..., :4], "wide": h}, sigmas=[0.1, 0.2, 0.4])
    with pytest.warns(UserWarning, match=r"layer wide is left out: layer wide, sigma 0\.1: .*d = 80"):
        window = ik.SemanticWindow().fit(cube)
    assert list(window.refused_) == ["wide"] and "sigma 0.1" in window.refused_["wide"]
    alone = ik.SemanticWindow("mid").fit(cube)
    assert window.best_layer_ == "mid" and window.best_sigma_ == alone.best_sigma_ and alone.refused_ == {}
    assert list(window.curve_["layer"].to_numpy()) == ["mid"]
    for layer in ("wide", ["wide"]):
        with pytest.raises(NotEnoughDataError, match="layer wide"):
            ik.SemanticWindow(layer).fit(cube)
