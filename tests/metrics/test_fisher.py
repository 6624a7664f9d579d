"""Fisher spectrum: scipy's generalised eigenproblem, scikit-learn's discriminants, and what may not change it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import icrkit as ik
from icrkit.moments import Moments

pytestmark = pytest.mark.filterwarnings("ignore:the plug-in ICR:UserWarning")

PROPERTY = settings(max_examples=25, derandomize=True)


def features(n: int = 120, v: int = 2, d: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((d, d)) + 2 * np.eye(d)
    return (rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))) @ mixing + rng.standard_normal((v, d))


def covariances(h: np.ndarray, centering: str) -> tuple[np.ndarray, np.ndarray]:
    n, v, d = h.shape
    if centering == "view":
        h = h - h.mean(axis=0)
    t = h.mean(axis=1) - h.mean(axis=(0, 1))
    e = (h - h.mean(axis=1, keepdims=True)).reshape(-1, d)
    residual = e.T @ e / ((n - (centering == "view")) * (v - 1))
    return t.T @ t / (n - 1) - residual / v, residual


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_diagonal_covariances_by_hand():
    n, v = 101, 2
    invariant, residual = np.diag([3.0, -0.1, 8.0]), np.diag([1.0, 2.0, 4.0])
    m = Moments(np.array(n), np.zeros((v, 3)), (n - 1) * (invariant + residual / v), (n - 1) * residual)
    values, directions = ik.fisher_spectrum(m)
    np.testing.assert_allclose(values, [3.0, 2.0, -0.05], rtol=1e-12)
    np.testing.assert_allclose(directions, [[1, 0, 0], [0, 0, np.sqrt(0.5)], [0, 0.5, 0]], atol=1e-12)
    assert ik.FisherSpectrum(n_components=1).fit(m).n_negative_ == 1


# ---- brute force ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    v=st.sampled_from([2, 3, 5]),
    d=st.integers(1, 12),
    centering=st.sampled_from(["view", "none"]),
    share=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 99),
)
def test_spectrum_equals_scipy(v, d, centering, share, seed):
    h = features(60, v, d, seed)
    invariant, residual = covariances(h, centering)
    residual = residual + share * np.trace(residual) / d * np.eye(d)
    values, directions = ik.fisher_spectrum(Moments.from_cube(h), share, centering)
    np.testing.assert_allclose(values, scipy.linalg.eigh(invariant, residual)[0][::-1], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(directions.T @ residual @ directions, np.eye(d), atol=1e-9)
    np.testing.assert_allclose(directions.T @ invariant @ directions, np.diag(values), atol=1e-8)
    assert (values > -1 / v).all() or share == 0
    est = ik.FisherSpectrum(regularization=share, residual_centering=centering).fit(h)
    np.testing.assert_allclose(est.eigenvalues_, values, rtol=1e-9, atol=1e-11)
    assert est.n_negative_ == (values < 0).sum()


@pytest.mark.parametrize("solver", ["eigen", "svd"])
@pytest.mark.parametrize("centering", ["view", "none"])
@pytest.mark.parametrize(("n", "v", "d"), [(60, 2, 5), (30, 4, 12)])
def test_discriminants_of_scikit_learn(solver, centering, n, v, d):
    h = features(n, v, d)
    given = h - h.mean(axis=0) if centering == "view" else h  # each view's own mean taken out before
    rows = given.reshape(-1, d)
    lda = LinearDiscriminantAnalysis(solver).fit(rows, np.repeat(np.arange(n), v))  # each image a class
    z = lda.transform(rows).reshape(n, v, d)
    between = z.mean(axis=1).var(axis=0, ddof=1)
    dof = (n - (centering == "view")) * (v - 1)
    within = np.square(z - z.mean(axis=1, keepdims=True)).sum(axis=(0, 1)) / dof
    values, directions = ik.fisher_spectrum(Moments.from_cube(h), residual_centering=centering)
    # An eigenvalue of its between over its within scatter holds the noise of a mean over views: lambda + 1/V.
    np.testing.assert_allclose(values, between / within - 1 / v, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose((values + 1 / v) / (values + 1 / v).sum(), lda.explained_variance_ratio_, rtol=1e-8)
    theirs, ours = (x / np.linalg.norm(x, axis=0) for x in (lda.scalings_, directions))
    np.testing.assert_allclose(theirs * np.sign((theirs * ours).sum(axis=0)), ours, atol=1e-8)


def test_the_mean_eigenvalue_is_the_mean_snr_of_the_plug_in():
    m = Moments.from_cube(features())
    assert 1 / (1 + ik.fisher_spectrum(m).eigenvalues.mean()) == pytest.approx(ik.icr(m), rel=1e-11)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_few_components_are_the_first_of_all(k):
    h = features()
    m = Moments.from_cube(h)
    every, few = ik.fisher_spectrum(m), ik.fisher_spectrum(m, n_components=k)
    np.testing.assert_allclose(few.eigenvalues, every.eigenvalues[:k], rtol=1e-10)
    np.testing.assert_allclose(few.directions, every.directions[:, :k], atol=1e-9)
    est = ik.FisherSpectrum(n_components=k).fit(h)
    np.testing.assert_allclose(est.components_, every.directions[:, :k].T, atol=1e-10)
    assert est.transform(h).shape == (120, 2, k)
    assert list(est.get_feature_names_out()) == [f"fisherspectrum{i}" for i in range(k)]


@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_score_is_a_ratio_of_sums_over_the_kept_directions(k, share):
    h, other = features(), features(4, 2, 5, seed=7)
    est = ik.FisherSpectrum(k, regularization=share).fit(h)
    invariant, residual = covariances(other, "view")
    tau = share * np.trace(covariances(h, "view")[1]) / 5
    c = est.components_
    want = np.trace(c @ invariant @ c.T) / np.trace(c @ (residual + tau * np.eye(5)) @ c.T)
    assert est.score(other) == pytest.approx(want, rel=1e-10)
    assert est.score(Moments.from_cube(other)) == pytest.approx(want, rel=1e-10)
    assert est.score(h) == pytest.approx(est.eigenvalues_.mean(), rel=1e-9)


def test_score_over_all_directions_is_that_of_icr():
    h, other = features(), features(30, 2, 5, seed=7)
    snr = ik.FisherSpectrum().fit(h).score(other)
    icr = ik.ICREstimator(n_folds=0).fit(h)
    assert icr.score(other) == pytest.approx(-1 / (1 + snr), rel=1e-10)


def test_transform_gives_coordinates_along_the_directions():
    h = features()
    est = ik.FisherSpectrum().fit(h)
    z = est.transform(h)
    invariant, residual = covariances(z, "view")
    np.testing.assert_allclose(residual, np.eye(5), atol=1e-10)
    np.testing.assert_allclose(invariant, np.diag(est.eigenvalues_), atol=1e-9)
    np.testing.assert_allclose(z.mean(axis=(0, 1)), 0, atol=1e-11)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 999), v=st.sampled_from([2, 3]))
def test_eigenvalues_are_affine_invariant(seed, v):
    rng = np.random.default_rng(seed)
    h = features(60, v, 4, seed)
    (q, _), (r, _) = (np.linalg.qr(rng.standard_normal((4, 4))) for _ in range(2))
    mapped = h @ (q * np.geomspace(0.1, 10, 4) @ r) + 10 * rng.standard_normal(4)
    values, want = (ik.fisher_spectrum(Moments.from_cube(x)).eigenvalues for x in (mapped, h))
    np.testing.assert_allclose(values, want, rtol=1e-8, atol=1e-9)


@PROPERTY
@given(images=st.permutations(range(40)), views=st.permutations(range(3)))
def test_order_of_images_and_views_does_not_matter(images, views):
    h = features(40, 3, 4)
    mixed = h[np.array(images)][:, np.array(views)]
    a, b = (ik.fisher_spectrum(Moments.from_cube(x)) for x in (h, mixed))
    np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(a.directions, b.directions, atol=1e-8)


@PROPERTY
@given(seed=st.integers(0, 999), v=st.sampled_from([2, 3]))
def test_directions_go_with_the_inverse_transpose(seed, v):
    rng = np.random.default_rng(seed)
    h = features(200, v, 4, seed) * [1.0, 2, 4, 8]
    (q, _), (r, _) = (np.linalg.qr(rng.standard_normal((4, 4))) for _ in range(2))
    a = q * np.geomspace(0.2, 5, 4) @ r  # x -> A x + b, rows: h A^T + b
    spectrum, mapped = (ik.fisher_spectrum(Moments.from_cube(x)) for x in (h, h @ a.T + 10 * rng.standard_normal(4)))
    want = np.linalg.inv(a).T @ spectrum.directions
    largest = np.abs(want).argmax(axis=0)
    want *= np.sign(want[largest, range(4)])  # the entry of greatest magnitude is positive
    # Directions of close eigenvalues turn into each other at the least rounding.
    gap = np.abs(np.diff(spectrum.eigenvalues)).min()
    np.testing.assert_allclose(mapped.directions, want, atol=1e-10 * np.abs(want).max() / gap)


@PROPERTY
@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100))
def test_with_tau_rotation_translation_and_scale_are_left(seed, scale):
    rng = np.random.default_rng(seed)
    h = features(60, 3, 4, seed)
    q, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    same, other = scale * (h @ q + 10 * rng.standard_normal(4)), h * [0.01, 1, 1, 1]
    values, turned, stretched = (ik.fisher_spectrum(Moments.from_cube(x), 0.3).eigenvalues for x in (h, same, other))
    np.testing.assert_allclose(turned, values, rtol=1e-8, atol=1e-9)
    assert np.abs(stretched - values).max() > 1e-3


def test_without_centring_each_image_may_order_its_views_as_it_likes():
    h, rng = features(60, 3, 4), np.random.default_rng(0)
    mixed = np.stack([one[rng.permutation(3)] for one in h])
    a, b = (ik.fisher_spectrum(Moments.from_cube(x), residual_centering="none") for x in (h, mixed))
    np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, rtol=1e-9, atol=1e-11)


def test_partial_fit_clone_and_pickle():
    h = features()
    want = ik.FisherSpectrum(2).fit(h)
    streamed = ik.FisherSpectrum(2)
    for a, b in ((0, 3), (3, 60), (60, 120)):
        streamed.partial_fit(h[a:b])
        assert hasattr(streamed, "eigenvalues_") == (b > 3)
    for est in (streamed, clone(want).fit(h), pickle.loads(pickle.dumps(want))):
        np.testing.assert_allclose(est.eigenvalues_, want.eigenvalues_, rtol=1e-10)
        np.testing.assert_allclose(est.components_, want.components_, atol=1e-9)
    np.testing.assert_array_equal(
        ik.FisherSpectrum(2).from_moments(Moments.from_cube(h, n_folds=0)).eigenvalues_, want.eigenvalues_
    )


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_the_spectrum_tends_to_the_true_one():
    cube = ik.datasets.make_cube(40_000, 6, icr=0.4, random_state=0)
    ratios = np.geomspace(1.0, 0.01, 6)
    truth = 1.5 * ratios / ratios.mean()
    values = ik.FisherSpectrum().fit(cube).eigenvalues_
    np.testing.assert_allclose(values, truth, rtol=0.03, atol=0.02)


def test_no_signal_gives_eigenvalues_around_zero_that_are_not_clipped():
    h = np.random.default_rng(0).standard_normal((400, 3, 20))
    est = ik.FisherSpectrum().fit(h)
    assert 5 <= est.n_negative_ <= 15 and abs(est.eigenvalues_.mean()) < 0.05
    assert est.eigenvalues_.min() > -1 / 3
