"""Heavy tails: what is seen of them, and where it is said."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit.metrics._decomposition import ResidualModel
from icrkit.metrics._tails import MOST_VARIATION, _beyond_gaussian, tails_of
from icrkit.moments import Moments, helmert
from icrkit.readings import paired_difference

PROPERTY = settings(max_examples=25, derandomize=True, deadline=None)


def tails(h, **options):
    moments = Moments.from_cube(h, n_folds=0, dtype="float64")
    return tails_of(moments, ResidualModel(moments, **options))


# ---- closed form and oracle -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("v", [2, 4])
def test_sizes_are_those_without_the_image_itself(v, of_sizes):
    h = of_sizes(3, "lognormal", n=40, d=3, v=v)
    sizes = []
    for i in range(len(h)):
        # The scatter about the means of all, less the image's own part.
        r = h - h.mean(axis=0)
        r = r - r.mean(axis=1, keepdims=True)
        others = np.einsum("ivd,ive->de", np.delete(r, i, axis=0), np.delete(r, i, axis=0))
        contrasts = helmert(v) @ r[i]
        sizes.append(np.einsum("vd,de,ve->v", contrasts, np.linalg.inv(others), contrasts))
    gaussian = 2 / 3
    relative = np.array(sizes) / np.mean(sizes, axis=0)
    expected = (np.var(relative, ddof=1) - gaussian) / (1 + gaussian)
    found = tails(h)
    assert found.residual == pytest.approx(expected, rel=1e-3)
    assert found.n_images == 40 and found.largest >= np.sum(sizes, axis=1).max() / np.sum(sizes) - 1e-3


@pytest.mark.parametrize("k", [4, 32])
def test_the_error_is_that_of_a_chi_square(k):
    draws = np.random.default_rng(0).chisquare(k, (4000, 200))
    found = np.array([_beyond_gaussian(sizes, 2 / k) for sizes in draws])
    seen = draws.var(axis=1, ddof=1) / draws.mean(axis=1) ** 2
    expected = seen.std() / (1 + 2 / k)
    assert found[0, 1] == pytest.approx(expected, rel=0.12)
    assert found[:, 0].mean() < 0.6 * expected  # the positive half of a variable of mean 0


def test_of_gaussian_features_little_is_seen_and_nothing_said(of_sizes):
    found = [tails(of_sizes(seed, n=300, d=12)) for seed in range(40)]
    assert np.mean([t.residual for t in found]) < 0.05 and np.mean([t.means for t in found]) < 0.05
    assert not any(t.heavy for t in found)


@pytest.mark.parametrize("scale", ["outliers", "lognormal"])
def test_a_few_images_that_outweigh_the_rest_are_seen(scale, of_sizes):
    assert all(tails(of_sizes(seed, scale)).heavy for seed in range(20))


def with_a_rare_feature(seed: int, n: int = 4096, firing: int = 1) -> np.ndarray:
    """Four usual features, and one of 1e-4 in all images but a few, so that a sample of them hardly shows it."""
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((n, 1, 5)) + rng.standard_normal((n, 2, 5))
    h[rng.permutation(n)[firing:], :, 4] *= 1e-4
    return h


@pytest.mark.parametrize("centering", ["view", "none"])
def test_a_fold_is_compared_in_the_metric_of_the_others(centering):
    h = with_a_rare_feature(0, n=200)
    moments = Moments.from_cube(h, n_folds=4, dtype="float64")
    of_fold = ik.moments.fold_of_images(np.arange(200), 4)
    traces = []
    for k in range(4):
        covariances = []
        for part in (h[of_fold == k], h[of_fold != k]):
            r = part - part.mean(axis=1, keepdims=True)
            lost = 0
            if centering == "view":
                r, lost = r - r.mean(axis=0), 1
            covariances.append(np.einsum("ivd,ive->de", r, r) / (len(part) - lost))
        traces.append(np.trace(np.linalg.solve(covariances[1], covariances[0])))
    found = tails_of(moments, ResidualModel(moments.total, residual_centering=centering))
    assert found.fold == pytest.approx(max(traces) / np.median(traces), rel=1e-6)
    assert tails_of(moments.total, ResidualModel(moments.total, residual_centering=centering)).fold == 1.0


def test_what_fires_in_an_image_outside_the_sample_is_seen_in_its_fold():
    in_sample = 0
    for seed in range(10):
        h = with_a_rare_feature(seed)
        moments = Moments.from_cube(h, n_folds=10)
        found, alone = tails_of(moments, ResidualModel(moments.total)), tails(h)
        assert found.heavy and found.fold > 50 and found.severity > 6
        in_sample += alone.heavy
        usual = Moments.from_cube(h[..., :4], n_folds=10)
        assert not tails_of(usual, ResidualModel(usual.total)).heavy
    assert in_sample <= 5
    with pytest.warns(UserWarning, match=r"one fold of them has \S+ times the residual of a usual one.*spatial_sign"):
        ik.ICREstimator("crossfit").fit(h)
    with pytest.warns(UserWarning, match="may put the number itself far off"):
        ik.InvariantInformation().fit(h)
    mended = ik.icr(Moments.from_cube(ik.spatial_sign(h), n_folds=10), "crossfit")
    assert mended == pytest.approx(ik.icr(usual, "crossfit"), abs=0.1)


@pytest.mark.parametrize("n", [128, 512])
def test_folds_of_usual_images_are_alike(n, of_sizes):
    for seed in range(20):
        moments = Moments.from_cube(of_sizes(seed, n=n, d=32), n_folds=10)
        found = tails_of(moments, ResidualModel(moments.total))
        assert 1 < found.fold < 2 and not found.heavy


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 10**6), blocks=st.integers(1, 5))
def test_neither_order_nor_blocks_nor_maps_nor_folds_matter(seed, blocks, of_sizes):
    h = of_sizes(7, "lognormal", n=600, d=4)
    rng = np.random.default_rng(seed)
    order, cuts = rng.permutation(600), np.sort(100 * rng.choice(np.arange(1, 6), blocks - 1, replace=False))
    cube = ik.from_arrays(h, image_ids=np.arange(600))
    want = tails(cube)
    parts = [ik.from_arrays(h[rows], image_ids=rows) for rows in np.split(order, cuts)]
    whole = sum((Moments.from_cube(p, n_folds=5, dtype="float64") for p in parts), Moments.empty(2, 4, n_folds=5))
    assert tails_of(whole.total, ResidualModel(whole.total)) == pytest.approx(want, rel=1e-6)
    less = whole - Moments.from_cube(parts[0], n_folds=5, dtype="float64")
    if blocks > 1:
        rest = sum(
            (Moments.from_cube(p, n_folds=5, dtype="float64") for p in parts[1:]), Moments.empty(2, 4, n_folds=5)
        )
        assert set(less.sample["keys"].tolist()) <= set(rest.sample["keys"].tolist())
    moved = ik.from_arrays(h @ rng.standard_normal((4, 4)) + 3, image_ids=np.arange(600))
    assert tails(moved) == pytest.approx(want, rel=1e-4)


def test_a_sample_is_of_256_images_and_goes_through_files(tmp_path, of_sizes):
    h = of_sizes(0, "outliers", n=1000)
    moments = Moments.from_cube(h, n_folds=5)
    assert moments.sample["images"].shape == (256, 2, 8) and (np.diff(moments.sample["keys"].astype(float)) > 0).all()
    moments.save(tmp_path / "m.h5")
    assert tails_of(
        Moments.load(tmp_path / "m.h5").total, ResidualModel(Moments.load(tmp_path / "m.h5").total)
    ) == tails_of(moments.total, ResidualModel(moments.total))
    assert tails_of(moments.select(fold=0), ResidualModel(moments.select(fold=0))) is None  # no fold has a sample
    few = moments.select_features(np.array([1, 4]))
    np.testing.assert_array_equal(few.sample["images"], moments.sample["images"][..., [1, 4]])
    levels = ik.from_arrays(np.stack([h, 2 * h], axis=2), sigmas=[0.1, 1.0])
    both = Moments.from_cube(levels, n_folds=0)
    assert both.sample["images"].shape == (2, 256, 2, 8)
    np.testing.assert_array_equal(both.select(sigma=1).sample["images"], 2 * both.select(sigma=0).sample["images"])


# ---- where it is said -----------------------------------------------------------------------------------------------


def test_every_interval_and_decision_says_so(of_sizes):
    a, b = of_sizes(0, "outliers"), of_sizes(1, "outliers")
    said = "images are of very unequal size.*spatial_sign"
    for fit in (
        lambda: ik.ICREstimator().fit(a),
        lambda: ik.InvariantInformation().fit(a),
        lambda: paired_difference(a, b),
        lambda: ik.SemanticWindow().fit(ik.from_arrays(np.stack([a, b, a + b], axis=2), sigmas=[0.1, 0.3, 1.0])),
        lambda: ik.sample_size(a, half_width=0.1),
        lambda: ik.ICRMonitor().update(1, a),
        lambda: ik.TrainingCourse(warm_up=0).fit({1: a, 2: b, 3: a + b}),
        lambda: ik.ICREstimator().fit(Moments.from_cube(a, n_folds=10)),
        lambda: ik.compare(ik.from_arrays(a), metrics=["icr"]),
    ):
        with pytest.warns(UserWarning, match=said) as record:
            fit()
        assert len([w for w in record if "unequal size" in str(w.message)]) == 1


def test_a_stream_says_it_once_and_a_new_fit_again(of_sizes):
    h = of_sizes(0, "outliers", n=400)
    est = ik.ICREstimator("crossfit")
    with pytest.warns(UserWarning, match="unequal size") as record:
        for start in range(0, 400, 100):
            est.partial_fit(h[start : start + 100])
    assert len([w for w in record if "unequal size" in str(w.message)]) == 1
    for _ in range(2):
        with pytest.warns(UserWarning, match="unequal size"):
            est.fit(h)


def test_of_usual_features_nothing_is_said(of_sizes):
    cube = ik.datasets.load_fashion_cube()
    course = ik.datasets.load_digits_course()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*unequal size")
        ik.SemanticWindow().fit(cube)
        ik.TrainingCourse().fit(course)
        ik.ICREstimator().fit(of_sizes(0))
    assert ik.ICREstimator().fit(of_sizes(0)).tails_.residual < MOST_VARIATION["residual"]


def test_a_view_that_is_unlike_the_others_is_no_tail(of_sizes):
    h = of_sizes(0, v=4)
    h[:, 3] += 5 * np.random.default_rng(1).standard_normal((200, 8))
    assert not tails(h).heavy


def test_few_images_say_nothing(of_sizes):
    assert tails(of_sizes(0, n=15, d=2)) is None


def test_images_without_a_residual_of_their_own_are_no_error(of_sizes):
    h = of_sizes(0, n=60, d=3)
    h[:30, 1] = h[:30, 0]  # half of the images have equal views
    assert tails(h).residual > 0
