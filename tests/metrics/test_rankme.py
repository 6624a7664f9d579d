"""RankMe against singular values of the rows, and four public implementations on one matrix."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import icrkit as ik
from icrkit.exceptions import DegenerateFeaturesError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._base import row_moments

PROPERTY = settings(max_examples=30, derandomize=True)


def features(n: int = 40, v: int = 2, d: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, v, d)) * 0.7 ** np.arange(d) + 0.2 * rng.standard_normal(d)


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_two_directions_by_hand():
    rows = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # shares 3/4 and 1/4
    assert ik.rankme(rows, epsilon=0) == pytest.approx(4 / 3**0.75, rel=1e-14)
    p = np.array([0.75, 0.25]) + 1e-3
    assert ik.rankme(rows, epsilon=1e-3) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-14)
    p /= p.sum()
    assert ik.rankme(rows, epsilon=1e-3, renormalize=True) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-14)


def test_epsilon_counts_for_every_direction_that_there_may_be_and_for_no_other():
    line = np.arange(1.0, 6.0)[:, None] * np.ones(30)  # one direction; five rows of thirty features
    p = np.array([1.0, 0, 0, 0, 0]) + 1e-7
    assert ik.rankme(line) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-12)
    assert ik.rankme(line, epsilon=0) == pytest.approx(1, rel=1e-12)


@pytest.mark.filterwarnings("ignore:.* features identical to those of an image before")
def test_epsilon_may_lift_the_value_beyond_the_number_of_directions():
    n = 400
    lifted, bound = ik.rankme(np.eye(n)) / n - 1, n * 1e-7 * np.log(1e7)
    assert lifted == pytest.approx(n * 1e-7 * (np.log(n) - 1), rel=1e-3) and 0 < lifted < bound
    one = np.ones((n, n))
    one[0] += 1e-9
    assert ik.rankme(one) - 1 == pytest.approx(bound, rel=0.01)
    assert ik.rankme(np.eye(n), renormalize=True) <= n + 1e-9
    assert ik.rankme(np.eye(n), epsilon=0.0, centered=True) == pytest.approx(n - 1)


# ---- brute force ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(2, 40),
    d=st.integers(1, 30),
    views=st.sampled_from(["mean", "all", 0, 1]),
    epsilon=st.sampled_from([0.0, 1e-7, 1e-3]),
    renormalize=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_papers_formula(n, d, views, epsilon, renormalize, seed):
    h = features(n, 2, d, seed)
    rows = {"mean": h.mean(axis=1), "all": h.reshape(-1, d), 0: h[:, 0], 1: h[:, 1]}[views]
    s = np.linalg.svd(rows, compute_uv=False)
    p = s / s.sum() + epsilon
    p = p[p > 0] / (p.sum() if renormalize else 1)
    want = np.exp(-(p * np.log(p)).sum())
    assert ik.rankme(h, views, epsilon, renormalize=renormalize) == pytest.approx(want, rel=1e-8)
    moments = ik.Moments.from_cube(h, n_folds=2)
    if isinstance(views, str):
        assert ik.rankme(moments, views, epsilon, renormalize=renormalize) == pytest.approx(want, rel=1e-8)


@pytest.mark.parametrize("name", ["rows", "wide"])  # more rows than features, and fewer
@pytest.mark.parametrize(
    ("peer", "call", "options"),
    [
        ("corvic_engine", "rank_me({})", {}),
        ("google_research", "rankme({})", {"epsilon": 1e-12}),
        ("stable_pretraining", "RankMe of {}", {"epsilon": 1e-5}),
        ("reptrix", "get_rankme({})", {"centered": True, "spectrum": "eigenvalues"}),
    ],
)
def test_each_public_rankme_is_a_named_option(oracle, peer, call, options, name):
    numbers, made = oracle(peer)
    assert ik.rankme(made[name], **options) == pytest.approx(numbers[call.format(name)], rel=1e-8)


def test_public_rankmes_of_one_matrix_differ(oracle):
    numbers = [
        oracle(peer)[0][call]
        for peer, call in (
            ("corvic_engine", "rank_me(rows)"),
            ("stable_pretraining", "RankMe of rows"),
            ("reptrix", "get_rankme(rows)"),
        )
    ]
    assert [round(x, 2) for x in numbers] == [10.54, 10.55, 6.26]


def test_another_epsilon_of_corvic_engine(oracle):
    numbers, made = oracle("corvic_engine")
    assert ik.rankme(made["rows"], epsilon=1e-3) == pytest.approx(numbers["rank_me(rows, epsilon=1e-3)"], rel=1e-8)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3))
def test_rotation_scale_and_order_do_not_matter(seed, scale):
    rng = np.random.default_rng(seed)
    h = features(30, 2, 5, seed)
    q, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    assert ik.rankme((scale * h @ q)[rng.permutation(30)]) == pytest.approx(ik.rankme(h), rel=1e-9)


def test_translation_and_other_maps_matter():
    h = features()
    assert ik.rankme(h + 1e5) == pytest.approx(1, abs=1e-3)
    assert ik.rankme(h + 1e5, centered=True) == pytest.approx(ik.rankme(h, centered=True), rel=1e-8)
    assert ik.rankme(h * [1, 1, 1, 1, 1, 50]) < 0.9 * ik.rankme(h)


def test_uncentred_effective_rank_is_rankme_without_epsilon():
    h = features()
    assert ik.rankme(h, epsilon=0) == ik.effective_rank(h, centered=False)


# ---- degenerate -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* features identical to those of an image before")
def test_what_is_wrong_is_named():
    h = features()
    with pytest.raises(DegenerateFeaturesError, match=r"6 feature\(s\) of 40 rows are all zero"):
        ik.rankme(0 * h)
    with pytest.raises(DegenerateFeaturesError, match="all rows are equal"):
        ik.rankme(0 * h + 1, centered=True)
    assert ik.rankme(0 * h + 1, epsilon=0) == pytest.approx(1, rel=1e-12)  # one direction, about the origin
    with pytest.raises(ValueError, match="epsilon must be >= 0"):
        ik.rankme(h, epsilon=-1)
    with pytest.raises(ValueError, match="spectrum must be"):
        ik.rankme(h, spectrum="svd")
    with pytest.raises(NotEnoughDataError, match="at least 2 images"):
        ik.rankme(h[:1])
    h[0, 0, 0] = np.inf
    with pytest.raises(NonFiniteError, match="image 0, view 0, feature 0"):
        ik.rankme(h)


# ---- the estimator --------------------------------------------------------------------------------------------------


def test_cubes_rows_moments_clone_and_pickle():
    h = features()
    est = ik.RankMe().fit(h)
    assert est.rankme_ == ik.rankme(h) == est.score(h)
    for fitted in (
        clone(est).fit(ik.from_arrays(h)),
        clone(est).fit(h[:, 0]),
        clone(est).fit(row_moments(h, 0)),
        pickle.loads(pickle.dumps(est)),
    ):
        assert fitted.rankme_ == pytest.approx(est.rankme_, rel=1e-12)
    options = {"epsilon": 1e-3, "spectrum": "eigenvalues", "centered": True, "renormalize": True}
    assert ik.RankMe("all", **options).fit(h).rankme_ == ik.rankme(h, "all", **options)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_noise_counts_as_rank():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((5000, 2)) @ rng.standard_normal((2, 20))
    noisy = signal + 0.3 * rng.standard_normal((5000, 20))
    assert ik.rankme(signal) < 2.001 < 8 < ik.rankme(noisy) < 20
    assert ik.rankme(rng.standard_normal((20_000, 20))) == pytest.approx(20, abs=0.01)
