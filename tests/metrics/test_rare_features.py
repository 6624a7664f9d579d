"""Features that hardly ever fire: they are named, left out on request, and no number is wild without a word."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit.exceptions import DegenerateFeaturesError
from icrkit.metrics._decomposition import dead_features, rare_features
from icrkit.moments import Moments
from icrkit.readings import paired_difference

PROPERTY = settings(max_examples=40, derandomize=True, deadline=None)


def with_units(*firing: int, n: int = 300, d: int = 8, v: int = 2, seed: int = 0) -> np.ndarray:
    """Features, and units behind them that are zero but for so many images."""
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))
    units = np.zeros((n, v, len(firing)))
    for k, count in enumerate(firing):
        who = rng.choice(n, count, replace=False)
        units[who, :, k] = np.abs(1 + rng.standard_normal((count, 1)) + rng.standard_normal((count, v)))
    return np.concatenate([h, units], axis=2)


def moments(h: np.ndarray, n_folds: int = 10) -> Moments:
    return Moments.from_cube(h, n_folds=n_folds, dtype="float64")


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_the_share_of_folds_without_a_feature_says_in_how_many_images_it_fires():
    h = with_units()
    m = moments(h)
    folds = np.array([m.select(fold=k).variation["views_vary"] for k in range(10)])
    assert folds.all() and rare_features(m)[0].size == 0
    # A unit in images of four folds is in log(.6)/log(.9) = 4.8 of them.
    of_fold = ik.moments.fold_of_images(np.arange(300), 10)
    unit = np.zeros((300, 2, 1))
    for fold in (0, 3, 4, 8):
        unit[np.flatnonzero(of_fold == fold)[0]] = [[1.0], [2.0]]
    rare, counts = rare_features(moments(np.concatenate([h, unit], axis=2)))
    assert (rare.tolist(), counts.tolist()) == ([8], [5])


@pytest.mark.parametrize(("firing", "least", "most"), [(3, 1.0, 1.0), (6, 1.0, 1.0), (8, 0.9, 1.0), (30, 0.0, 0.02)])
@pytest.mark.parametrize(("n", "n_folds"), [(300, 10), (2000, 10), (300, 20)])
def test_few_are_found_and_many_are_not(firing, least, most, n, n_folds):
    found = [8 in dead_features(moments(with_units(firing, n=n, seed=k), n_folds)) for k in range(50)]
    assert least <= np.mean(found) <= most


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 299))
def test_order_and_parts_do_not_matter(seed, cut):
    h = with_units(3, 5, 40)
    want = [part.tolist() for part in rare_features(moments(h))]
    order = np.random.default_rng(seed).permutation(300)
    parts = [ik.from_arrays(h[rows], image_ids=rows) for rows in np.split(order, [cut]) if len(rows) > 1]
    whole = sum((moments(part) for part in parts), Moments.empty(2, 11, n_folds=10))
    if int(whole.n_images.sum()) == 300:
        assert [part.tolist() for part in rare_features(whole)] == want
    assert want[0] == [8, 9]


def test_moments_without_folds_know_nothing():
    assert rare_features(moments(with_units(3)).total)[0].size == 0
    assert rare_features(moments(with_units(3), 2))[0].size == 0  # two folds cannot tell


# ---- where it is said -----------------------------------------------------------------------------------------------


def test_every_number_that_would_be_wild_is_refused_with_the_way_out():
    h = with_units(3, 5)
    said = r"2 of 10 features differ between the views of a few images only.*8 \(about \d\), 9 \(about \d\)"
    for fit in (
        lambda: ik.ICREstimator("crossfit").fit(h),
        lambda: ik.InvariantInformation().fit(h),
        lambda: ik.invariant_information(h),
        lambda: ik.icr(moments(h), correction="crossfit"),
        lambda: paired_difference(h, h + 1),
        lambda: ik.ICRMonitor(warm_up=0).update(1, h),
    ):
        with pytest.raises(DegenerateFeaturesError, match=said):
            fit()
    with pytest.warns(UserWarning, match="the plug-in stands alone: 2 of 10 features differ"):
        ik.ICREstimator().fit(h)


@pytest.mark.parametrize("correction", ["none", "gaussian"])
def test_a_plug_in_of_moments_says_that_it_rests_on_few_images(correction):
    m, usual = moments(with_units(1)), moments(with_units(30))
    level = Moments.stack([usual, m], dim="sigma", coord=np.array([0.1, 1.0]))
    for known in (m, level):
        with pytest.warns(
            UserWarning, match=r"1 of 9 features differ .*: 8 \(about 1\)\. The plug-in ICR rests on these"
        ):
            ik.icr(known, correction)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*plug-in ICR rests")
        ik.icr(usual, correction)
        if correction == "none":  # tau outweighs the unit
            ik.icr(m, correction, regularization=1.0)


def test_they_are_left_out_like_constant_ones():
    h = with_units(3, 0, 5)
    est = ik.ICREstimator("crossfit", drop_constant=True).fit(h)
    assert est.dropped_features_.tolist() == [8, 9, 10]
    assert est.icr_ == pytest.approx(ik.ICREstimator("crossfit").fit(h[..., :8]).icr_, rel=1e-9)
    levels = np.stack([with_units(3, 100), with_units(100, 4, seed=1), with_units(100, 100)], axis=2)
    window = ik.SemanticWindow(drop_constant=True).fit(ik.from_arrays({"a": levels}, sigmas=[0.1, 0.3, 1.0]))
    assert window.dropped_features_["a"].tolist() == [8, 9]
    state = ik.ICRMonitor(warm_up=0, drop_constant=True).update(1, h)
    assert state.icr == pytest.approx(ik.ICREstimator("crossfit", n_folds=20).fit(h[..., :8]).icr_, rel=1e-9)
    with pytest.warns(UserWarning, match="3 of 11 features are constant, or nearly so, and left out"):
        table = ik.compare(ik.from_arrays(h), metrics=["icr"], drop_constant=True)
    assert table["icr"].iloc[0] == pytest.approx(est.icr_, rel=1e-9)


@pytest.mark.parametrize("make", [ik.InvariantInformation, lambda: ik.ICREstimator("crossfit", drop_constant=False)])
def test_a_stream_waits_for_a_unit_that_fires_more_often_later(make):
    """A unit of one image in ten has fired in a few of the first ones only."""
    h = with_units(60, n=600)
    stream = make()
    with pytest.warns(UserWarning, match=r"no estimate of the 30 images so far: 1 of 9 features differ") as record:
        stream.partial_fit(h[:30])
        stream.partial_fit(h[30:40])
    assert len(record) == 1  # said once in a stream
    with pytest.raises(AttributeError):
        _ = stream.interval_
    for start in range(40, 600, 280):
        stream.partial_fit(h[start : start + 280])
    assert stream.interval_ == pytest.approx(make().fit(h).interval_, rel=1e-6)


def test_a_stream_that_leaves_them_out_does_not_wait():
    h = with_units(60, 3, n=600)
    stream = ik.ICREstimator("crossfit", drop_constant=True)
    blocks = np.split(h, [40, 320])
    dropped = [stream.partial_fit(block).dropped_features_.tolist() for block in blocks]
    assert dropped[0] == [8, 9] and dropped[-1] == [9]
    assert stream.icr_ == pytest.approx(ik.ICREstimator("crossfit").fit(h[..., :9]).icr_, rel=1e-6)


def test_a_layer_of_nothing_else_is_dead():
    dead = moments(with_units(3, 0, 5)).select_features(np.arange(8, 11))
    for correction in ("none", "crossfit"):
        with pytest.raises(DegenerateFeaturesError, match="every feature is constant, or nearly so: the layer is dead"):
            ik.ICREstimator(correction, drop_constant=True).fit(dead)


def test_where_folds_serve_the_interval_only_the_number_stands_alone():
    h = with_units(5)
    with pytest.warns(UserWarning, match="no interval, the information stands alone: 1 of 9 features differ"):
        est = ik.InvariantInformation("gaussian").fit(h)
    assert est.information_ == pytest.approx(ik.invariant_information(h, "gaussian"), rel=1e-12)
    with pytest.raises(AttributeError, match="has no interval_ here: 1 of 9 features differ"):
        _ = est.interval_


def test_a_regularization_that_outweighs_them_makes_them_harmless():
    h = with_units(3, 5)
    with pytest.raises(DegenerateFeaturesError):
        ik.ICREstimator("crossfit", regularization=1e-6).fit(h)
    found = ik.ICREstimator("crossfit", regularization=1.0).fit(h).icr_
    assert 0 < found < 1


@pytest.mark.parametrize("seed", range(5))
def test_what_is_let_pass_is_not_wild(seed):
    """Thirty images that fire: information grows by less than two nats, and ICR moves by less than a tenth."""
    h = with_units(30, seed=seed)
    clean = h[..., :8]
    assert abs(ik.icr(moments(h), "crossfit") - ik.icr(moments(clean), "crossfit")) < 0.1
    assert 0 < ik.invariant_information(h) - ik.invariant_information(clean) < 2


def test_real_features_are_not_accused():
    cube = ik.datasets.load_fashion_cube()
    for sigma in cube.sigmas:
        assert not dead_features(Moments.from_cube(cube.select(sigma=sigma), n_folds=10)).size
    for _, checkpoint in ik.datasets.load_digits_course():
        assert not dead_features(Moments.from_cube(checkpoint, n_folds=10)).size
