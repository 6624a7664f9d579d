"""What all estimators share: streams, failed fits, held-out input, and the state between them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import icrkit as ik
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, IllConditionedError, NotEnoughDataError
from icrkit.metrics import Comparison, Measure, known_metrics
from icrkit.metrics._base import row_moments
from icrkit.metrics._view_measure import ViewMeasure

# Said while a stream is still short, or where the plug-in is biased: not what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:no cross-fitted ICR:UserWarning", "ignore:the plug-in ICR:UserWarning")

MOMENT_BASED = (ik.ICREstimator(), ik.FisherSpectrum())


def name_of(est: object) -> str:
    return type(est).__name__


def features(n: int = 60, v: int = 2, d: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))


def test_l2_features_are_whitened_as_they_were_fitted():
    h = np.exp(np.random.default_rng(0).standard_normal((400, 1, 1))) * features(400)
    est = ik.ICREstimator(normalize="l2").fit(h)
    for z in (est.transform(h), est.transform(h.reshape(-1, h.shape[2])).reshape(h.shape)):
        residual = np.cov((z[:, 0] - z[:, 1]).T) / 2
        np.testing.assert_allclose(residual, np.eye(h.shape[2]), atol=1e-8)


@pytest.mark.parametrize("how", ["cubes", "arrays", "groups"])
def test_a_stream_of_images_without_ids_fills_all_folds(how):
    h, est = features(200), ik.ICREstimator()
    for start in range(0, 200, 4):
        block = h[start : start + 4]
        if how == "groups":
            est.partial_fit(block.reshape(-1, block.shape[2]), groups=np.repeat(np.arange(4), 2))
        else:
            est.partial_fit(ik.from_arrays(block) if how == "cubes" else block)
    assert est.moments_.n_images.sum() == 200 and est.moments_.n_images.min() > 5
    if how != "groups":
        assert est.icr_crossfit_ == pytest.approx(ik.ICREstimator().fit(h).icr_crossfit_, rel=1e-9)


def test_a_stream_may_end_with_one_image_and_not_begin_with_it():
    h = features(201)
    whole = ik.ICREstimator(n_views=2).fit(h)
    for blocks in (h, h.reshape(402, -1)):
        cut = len(blocks) // 201 * 200
        stream = ik.ICREstimator(n_views=2).partial_fit(blocks[:cut]).partial_fit(blocks[cut:])
        assert stream.icr_crossfit_ == pytest.approx(whole.icr_crossfit_, rel=1e-9)
        with pytest.raises(ValueError, match=r"two images|at least 2"):
            ik.ICREstimator(n_views=2).partial_fit(blocks[cut:])
    with pytest.raises(ValueError, match="minimum of 2"):  # half an image
        stream.partial_fit(h[0, :1])


@pytest.mark.parametrize("value", [0.1, 1 / 3, 123.456])
@pytest.mark.parametrize("n", [300, 301])
def test_a_constant_stays_exactly_constant_through_folds_and_merges(value, n):
    h = features(n)
    h[..., 1] = value
    assert ik.ICREstimator(drop_constant=True).fit(h).dropped_features_.tolist() == [1]
    stream = ik.ICREstimator(drop_constant=True)
    for block in np.array_split(h, 5):
        stream.partial_fit(block)
    assert stream.dropped_features_.tolist() == [1]


def test_auto_reads_again_for_uncentred_residuals_and_for_few_images_with_tau():
    rng = np.random.default_rng(0)
    h = (rng.standard_normal((2000, 1, 8)) + rng.standard_normal((2000, 2, 8))).astype(np.float32)
    h[:, 1] += (300 * rng.standard_normal(8)).astype(np.float32)
    rows, image = h.reshape(-1, 8), np.repeat(np.arange(2000), 2)
    for options, fit in (({"residual_centering": "none"}, {}), ({}, {"groups": image})):
        X = rows if fit else h
        auto = ik.ICREstimator(n_folds=0, **options).fit(X, **fit)
        exact = ik.ICREstimator(n_folds=0, dtype="float64", **options).fit(X, **fit)
        assert auto.moments_.products == "float64" and auto.icr_ == exact.icr_
    few = (rng.standard_normal((20, 1, 30)) + rng.standard_normal((20, 2, 30))).astype(np.float32)
    assert 0 < ik.ICREstimator(regularization=0.01, n_folds=0).fit(few).icr_ < 1


def test_nc1_never_groups_rows():
    h, y = features(60).reshape(-1, 4), np.arange(120) % 3
    assert ik.nc1(h, y) == pytest.approx(ik.NC1Scorer().fit(h, y).nc1_)
    for step in (ik.MeanViews(), ik.PerView(ik.MeanViews())):
        with pytest.raises(CubeFormatError, match="from_rows"):
            step.fit(h)


@pytest.mark.parametrize("correction", ["crossfit", "gaussian"])
def test_a_stream_waits_until_the_estimate_can_be_made(correction):
    h, est = features(60), ik.ICREstimator(correction=correction)
    seen = [hasattr(est.partial_fit(h[k : k + 3]), "icr_") for k in range(0, 60, 3)]
    assert not seen[0] and seen[-1] and seen == sorted(seen)


def test_a_stream_with_regularization_waits_for_two_folds():
    h, est = features(40, d=8), ik.ICREstimator("crossfit", regularization=0.5)
    seen = [hasattr(est.partial_fit(h[k : k + 3]), "icr_") for k in range(0, 39, 3)]
    assert not seen[0] and seen[-1] and seen == sorted(seen)


@pytest.mark.parametrize("make", [ik.ICREstimator, ik.InvariantInformation])
def test_a_stream_without_folds_does_not_wait_for_ever(make):
    with pytest.raises(NotEnoughDataError, match="needs moments with folds"):
        make("crossfit", n_folds=0).partial_fit(features())


def test_a_failed_fit_leaves_the_one_before_it_whole():
    h = features(60)
    est = ik.ICREstimator().fit(h)
    before = (est.icr_, est.moments_, est.score(h))
    bad = h.copy()
    bad[..., 1] = bad[..., 0]
    with pytest.raises(IllConditionedError):
        est.fit(bad)
    assert (est.icr_, est.moments_, est.score(h)) == before


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
def test_too_little_of_a_stream_is_not_a_fit(est):
    est = clone(est).partial_fit(features()[:3])
    for use in (est.transform, est.score):
        with pytest.raises(NotFittedError):
            use(features())


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
def test_parameters_set_after_a_fit_wait_for_the_next_one(est):
    h = features(60)
    est = clone(est).fit(h)
    before = est.score(h)
    est.set_params(residual_centering="none", regularization=0.5)
    assert est.score(h) == before


@pytest.mark.parametrize("est", (*MOMENT_BASED, ik.AlignUniform(), ik.MeanViews()), ids=name_of)
def test_one_image_can_be_transformed(est):
    h = features(60)
    est = clone(est).fit(h)
    np.testing.assert_allclose(est.transform(h[:1])[0], est.transform(h)[0], rtol=1e-12)


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
def test_held_out_views_that_are_copies_are_refused(est):
    h = features(60)
    with pytest.raises(DegenerateFeaturesError, match="no residual in 4 of 4 features of the held-out"):
        clone(est).fit(h).score(np.repeat(h[:20, :1], 2, axis=1))


def test_held_out_moments_are_checked_as_features_are():
    h = features(60)
    with pytest.raises(ValueError, match="normalize='l2' needs features"):
        ik.ICREstimator(normalize="l2").fit(h).score(ik.Moments.from_cube(h))
    with pytest.raises(ValueError, match="X has 3 features, but ICREstimator is expecting 4"):
        ik.ICREstimator().fit(h).score(ik.Moments.from_cube(h[..., :3]))


def test_a_reason_does_not_keep_the_features_alive():
    h = features(6)
    with pytest.warns(UserWarning, match="no cross-fitted ICR"):
        est = ik.ICREstimator(n_folds=2).fit(h)
    assert est._crossfit.__traceback__ is None


# ---- measures for which moments suffice -----------------------------------------------------------------------------

MEASURES = (
    *(ik.LiDAR(), ik.TraceRatio(), ik.TraceRatio("none"), ik.AlphaReQ(ranks=(1, 6)), ik.EffectiveRank()),
    *(ik.ParticipationRatio(), ik.StableRank(), ik.RankMe(), ik.RankMe(views="mean"), ik.RankMe(views="all")),
    *(ik.RankMe(views=1, centered=True), ik.FrechetDistance(), ik.FrechetDistance(views="all")),
)
OTHERS = tuple(metric.make() for metric in known_metrics().values() if not metric.takes_moments)


def number_of(est: object) -> float:
    value = est.evaluate(features(40, d=8) ** 2) if isinstance(est, Comparison) else getattr(est, f"{est.quantity}_")
    return float(value)


def test_every_measure_that_takes_moments_is_tested():
    own = {type(metric.make()) for metric in known_metrics().values() if metric.takes_moments}
    assert {cls for cls in own if issubclass(cls, Measure | Comparison)} == {type(est) for est in MEASURES}


@pytest.mark.parametrize("est", MEASURES, ids=repr)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_stream_is_the_whole(est, offset):
    h = features(61, d=8) * np.geomspace(1, 3, 8) + offset
    whole = clone(est).fit(h)
    for cuts in ([2], [20, 40], [7, 11, 50], [40, 60]):  # the last: it ends with one image
        stream = clone(est)
        for block in np.split(h, cuts):
            assert stream.partial_fit(block) is stream
        assert number_of(stream) == pytest.approx(number_of(whole), rel=1e-10)
        assert stream.moments_.n_images == whole.moments_.n_images
    more = clone(est).fit(h[:30]).partial_fit(h[30:])
    assert number_of(more) == pytest.approx(number_of(whole), rel=1e-10)
    assert number_of(more.fit(h[:30])) == number_of(clone(est).fit(h[:30]))  # forgets what came before


@pytest.mark.filterwarnings("ignore:.* features identical to those of an image before")
@pytest.mark.parametrize("est", MEASURES, ids=repr)
def test_from_moments_is_fit(est):
    h = features(61, d=8)
    whole = clone(est).fit(h)
    again = clone(est).from_moments(whole.moments_)
    assert number_of(again) == number_of(clone(est).fit(whole.moments_)) == number_of(whole)
    assert again.n_features_in_ == 8
    if getattr(est, "views", "mean") in ("mean", "all"):  # moments of all views hold these rows
        views = clone(est).from_moments(ik.Moments.from_cube(h))
        assert number_of(views) == pytest.approx(number_of(whole), rel=1e-10)
        assert number_of(views.partial_fit(h)) == pytest.approx(number_of(clone(est).fit(np.tile(h, (2, 1, 1)))))


@pytest.mark.parametrize("est", [est for est in MEASURES if getattr(est, "views", 0) != 1], ids=repr)
def test_a_stream_of_cubes_and_of_tables(est):
    h = features(60, d=8)
    by_cube, by_table = clone(est), clone(est)
    rows = h if isinstance(est, ViewMeasure) else h[:, :1]
    for start in range(0, 60, 20):
        by_cube.partial_fit(ik.from_arrays(rows[start : start + 20], image_ids=np.arange(start, start + 20)))
        by_table.partial_fit(rows[start : start + 20].reshape(-1, 8))
    assert number_of(by_cube) == pytest.approx(number_of(by_table), rel=1e-12)


def test_a_stream_of_views_with_groups():
    h = features(60)
    stream, group = ik.LiDAR(), np.repeat(np.arange(20), 2)
    for start in range(0, 60, 20):
        stream.partial_fit(h[start : start + 20].reshape(-1, 4), groups=group)
    assert stream.lidar_ == pytest.approx(ik.LiDAR().fit(h).lidar_, rel=1e-12)


@pytest.mark.parametrize("est", [ik.ICREstimator(), ik.FisherSpectrum(), ik.InvariantInformation()], ids=name_of)
def test_rows_of_a_stream_belong_to_the_images_that_groups_say(est):
    h, order = features(80), np.random.default_rng(1).permutation(160)
    rows, image = h.reshape(160, 4)[order], np.repeat(np.arange(80), 2)[order]
    streamed = clone(est).partial_fit(rows, groups=image)
    np.testing.assert_allclose(streamed.moments_.total.within, clone(est).fit(rows, groups=image).moments_.total.within)
    # Rows that lie together are not of one image.
    assert streamed.moments_.total.within.trace() < clone(est).fit(rows).moments_.total.within.trace() / 1.5
    gram = ik.gram_matrix(rows, groups=image)
    assert ik.icr(gram, regularization=0.1) == pytest.approx(
        ik.icr(streamed.moments_.total, regularization=0.1, residual_centering="none"), rel=1e-9
    )


@pytest.mark.parametrize("est", [ik.ICREstimator(), ik.FisherSpectrum(), ik.InvariantInformation()], ids=name_of)
def test_what_is_transformed_keeps_the_names_of_its_images(est):
    cube = ik.from_arrays(features(), image_ids=np.arange(60) + 100, labels=np.arange(60) % 3)
    found = est.fit(cube).transform(cube.level())
    assert found.dims == ("image", "view", "feature")
    np.testing.assert_array_equal(found["image"], np.arange(60) + 100)
    np.testing.assert_array_equal(found["labels"], np.arange(60) % 3)


@pytest.mark.parametrize("est", MEASURES, ids=repr)
def test_a_stream_has_one_width_and_one_level(est):
    stream = clone(est).partial_fit(features(d=8))
    with pytest.raises(ValueError, match=r"X has 3 features, but \w+ is expecting 8"):
        stream.partial_fit(features(d=3))
    m = ik.Moments.from_cube(features(), n_folds=0)
    with pytest.raises(CubeFormatError, match="one level"):
        clone(est).from_moments(ik.Moments.stack([m, m], "sigma"))


def test_a_stream_without_enough_images_has_no_number_yet():
    h = features(60, d=8)
    stream = ik.LiDAR(delta=0.0)
    for start in range(0, 60, 4):
        stream.partial_fit(h[start : start + 4])
        assert hasattr(stream, "lidar_") == (start + 4 >= 8)  # N(V - 1) >= d
        if start == 0:
            with pytest.raises(NotFittedError):
                stream.score(h)
    # No number of images gives more than d eigenvalues.
    stream = ik.AlphaReQ().partial_fit(h[:5])
    assert not hasattr(stream, "alpha_") and stream.moments_.n_images == 5
    with pytest.raises(NotEnoughDataError, match="8 eigenvalue"):
        stream.partial_fit(h[5:])


def test_moments_of_unit_vectors_come_from_features():
    h = features(60)
    stream = ik.TraceRatio(normalize="l2")
    for block in np.split(h, 3):
        stream.partial_fit(block)
    assert stream.trace_ratio_ == pytest.approx(ik.TraceRatio(normalize="l2").fit(h).trace_ratio_, rel=1e-12)
    with pytest.raises(ValueError, match="normalize='l2' needs features"):
        ik.TraceRatio(normalize="l2").from_moments(ik.Moments.from_cube(h))


class ResidualShare(Measure):
    """A measure of another package, by the guide: all views, in folds."""

    quantity = "residual_share"
    takes_moments = True

    def _results(self, given, y):
        found = ik.traces(given)
        return {"residual_share": found.residual / found.total, "folds": given.n_folds}


def test_a_measure_of_another_package_streams_as_it_is():
    h = features(60)
    whole, stream = ResidualShare().fit(h), ResidualShare()
    for start in range(0, 60, 4):
        stream.partial_fit(h[start : start + 4])
    again = ResidualShare().from_moments(ik.Moments.from_cube(h))
    assert whole.folds_ == stream.folds_ == again.folds_ == 10
    assert stream.residual_share_ == pytest.approx(whole.residual_share_, rel=1e-12)
    assert again.residual_share_ == pytest.approx(whole.residual_share_, rel=1e-12)
    np.testing.assert_array_equal(stream.moments_.n_images, whole.moments_.n_images)
    for one_view in (h[:, :1], h[:, 0]):
        with pytest.raises(NotEnoughDataError, match="1 view"):
            ResidualShare().fit(one_view)


@pytest.mark.parametrize("est", OTHERS, ids=name_of)
def test_what_needs_rows_says_so_to_moments(est):
    assert not hasattr(est, "partial_fit") and not hasattr(est, "from_moments")
    m, h, y = ik.Moments.from_cube(features()), features(), np.arange(60) % 3
    if isinstance(est, Comparison):
        calls = (lambda: clone(est).fit(m), lambda: clone(est).fit(h).evaluate(m), lambda: clone(est).fit(h).score(m))
    elif isinstance(est, Measure):
        calls = (lambda: clone(est).fit(m, y), lambda: clone(est).fit(h, y).score(m, y))
    else:
        return
    for call in calls:
        with pytest.raises(CubeFormatError, match=f"{name_of(est)} needs the features: moments do not suffice"):
            call()


@pytest.mark.parametrize("views", [-1, True, None, 1.0, "first"])
def test_moments_of_one_view_are_asked_for_a_view(views):
    one = row_moments(features(), 1)
    for number in (0, 1, 7, np.int64(1), "mean", "all"):  # which view they are of, they do not say
        assert row_moments(one, number) is one
    with pytest.raises(ValueError, match=r"views"):
        row_moments(one, views)
    with pytest.raises(ValueError, match=r"views"):
        ik.rankme(one, views)


def test_far_float32_images_are_not_taken_for_coincident():
    h = np.float32(1e20) * np.array([[[1.0], [1.0]], [[-1.0], [-1.0]], [[3.0], [3.0]]], dtype=np.float32)
    assert ik.uniformity(h, normalize=None) < -1e38
