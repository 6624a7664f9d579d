"""What each bad input gets from every estimator: which error, and what its message names. Never a NaN."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import icrkit as ik
from icrkit.exceptions import (
    CubeFormatError,
    CubeIncompleteError,
    DegenerateFeaturesError,
    IllConditionedError,
    NonFiniteError,
    NotEnoughDataError,
)

pytestmark = pytest.mark.filterwarnings("ignore:the plug-in ICR:UserWarning")

MOMENT_BASED = (ik.ICREstimator(), ik.FisherSpectrum())
EVERY = (*MOMENT_BASED, ik.AlignUniform(), ik.NC1Scorer())


def name_of(est: object) -> str:
    return type(est).__name__


def features(n: int = 60, v: int = 2, d: int = 4, dtype: str = "float64") -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))).astype(dtype)


def labels(n: int = 60) -> np.ndarray:
    return np.arange(n) % 3


# ---- cubes: items 9, 10, 17 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("est", EVERY, ids=name_of)
def test_a_missing_part_is_never_zeros(est, tmp_path):
    path = tmp_path / "x.cube"
    with ik.CubeWriter(path, layers={"mid": 4}, sigmas=[0.3], n_views=2, n_images=60, block_size=20) as writer:
        for start in range(0, 60, 20):
            stop = start + 20
            writer.append(np.arange(start, stop), {"mid": features()[start:stop, :, None]}, labels=labels()[start:stop])
    est.fit(ik.open_cube(path))
    sorted(path.glob("part-*"))[1].unlink()
    with pytest.raises(CubeIncompleteError):
        est.fit(ik.open_cube(path))


@pytest.mark.parametrize("est", EVERY, ids=name_of)
@pytest.mark.parametrize("dims", [("view", "image", "channel"), ("dim_0", "dim_1", "dim_2"), ("a", "view", "feature")])
def test_wrong_dims_are_named(est, dims):
    with pytest.raises(CubeFormatError) as error:
        est.fit(xr.DataArray(features(), dims=dims), labels())
    assert str(dims) in str(error.value) and "'image', 'view', 'feature'" in str(error.value)


@pytest.mark.parametrize("est", EVERY, ids=name_of)
def test_swapped_dims_are_no_error_when_they_are_named(est):
    array = xr.DataArray(features(), dims=("image", "view", "feature"))
    attribute = {"ICREstimator": "icr_", "FisherSpectrum": "eigenvalues_", "AlignUniform": "uniformity_"}
    name = attribute.get(name_of(est), "nc1_")
    straight = getattr(est.fit(array, labels()), name)
    np.testing.assert_allclose(getattr(est.fit(array.T, labels()), name), straight, rtol=1e-12)


def test_repeated_image_ids_are_named():
    ids = np.arange(60)
    ids[17] = 3
    with pytest.raises(CubeFormatError, match=r"image ids repeat.*first 3 at rows \[3, 17\]"):
        ik.Cube(xr.DataArray(features(), dims=("image", "view", "feature"), coords={"image": ids}))


# ---- types: items 11, 12 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("est", EVERY, ids=name_of)
@pytest.mark.parametrize("dtype", [object, "U8", complex])
def test_features_that_are_no_real_numbers(est, dtype):
    with pytest.raises(CubeFormatError):
        est.fit(features().astype(dtype), labels())


@pytest.mark.parametrize("est", EVERY, ids=name_of)
@pytest.mark.parametrize("dtype", ["int64", "int16", "uint8"])
def test_integers_in_memory_are_accepted(est, dtype):
    h = (20 * features() + 100).astype(dtype)
    attribute = {"ICREstimator": "icr_", "FisherSpectrum": "eigenvalues_", "AlignUniform": "uniformity_"}
    name = attribute.get(name_of(est), "nc1_")
    integer = getattr(est.fit(h, labels()), name)
    np.testing.assert_allclose(integer, getattr(est.fit(h.astype(float), labels()), name), rtol=1e-12)


# ---- values: item 13 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("est", EVERY, ids=name_of)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_bad_cell_is_named_with_image_view_level_feature_and_count(est, value, dtype):
    h = features(dtype=dtype)
    h[41, 1, 2] = h[50, 0, 1] = value
    cube = ik.from_arrays({"mid": h}, sigmas=[0.3], image_ids=[f"img{i}" for i in range(60)], labels=labels())
    with pytest.raises(NonFiniteError) as error:
        est.fit(cube)
    for part in ("mid at sigma 0.3", "2 of 480", "image img41", "view 1", "feature 2"):
        assert part in str(error.value)


@pytest.mark.parametrize("est", EVERY, ids=name_of)
def test_a_bad_cell_in_held_out_images(est):
    est.fit(features(), labels())
    h = features()
    h[3, 1, 2] = np.nan
    with pytest.raises(NonFiniteError, match="image 3, view 1, feature 2"):
        est.score(h, labels())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_cell_under_l2(value):
    h = features()
    h[3, 1, 2] = value
    for est in (ik.ICREstimator(normalize="l2"), ik.AlignUniform(normalize="l2"), ik.AlignUniform(normalize=None)):
        with pytest.raises(NonFiniteError, match="image 3, view 1"):
            est.fit(h)


@pytest.mark.parametrize("est", EVERY, ids=name_of)
def test_a_bad_cell_in_rows(est):
    rows = features().reshape(-1, 4)
    rows[7, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        est.fit(rows, np.arange(120) % 3)


# ---- constant features: item 14 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3e4])
def test_constant_features_are_listed_with_the_way_out(est, dtype, value):
    h = features(dtype=dtype)
    h[..., [1, 3]] = value
    with pytest.raises(DegenerateFeaturesError, match=r"2 of 4 .* constant: \[1, 3\].* drop_constant=True"):
        est.fit(h)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_features_are_dropped_and_recorded(dtype):
    h = features(dtype=dtype)
    h[..., [0, 2]] = 0.1
    est = ik.ICREstimator(drop_constant=True).fit(h)
    alone = ik.ICREstimator().fit(h[..., [1, 3]])
    assert est.dropped_features_.tolist() == [0, 2] and est.n_features_in_ == 4
    assert (est.icr_, est.icr_crossfit_, est.total_snr_) == pytest.approx(
        (alone.icr_, alone.icr_crossfit_, alone.total_snr_), rel=1e-6
    )
    assert est.score(h[:9]) == pytest.approx(alone.score(h[:9, :, [1, 3]]), rel=1e-6)
    np.testing.assert_allclose(est.transform(h), alone.transform(h[..., [1, 3]]), rtol=1e-5, atol=1e-6)
    assert len(est.get_feature_names_out()) == est.transform(h).shape[2] == 2


def test_a_feature_that_wakes_up_later_in_a_stream():
    h = features(60)
    h[:30, :, 1] = 0.0
    for drop in (False, True):
        est = ik.ICREstimator(drop_constant=drop)
        try:
            est.partial_fit(h[:30])
        except DegenerateFeaturesError:
            assert not drop
        est.partial_fit(h[30:])
        assert est.dropped_features_.size == 0
        assert est.icr_ == pytest.approx(ik.ICREstimator().fit(h).icr_, rel=1e-9)


def test_all_features_constant():
    for dtype in ("float32", "float64"):
        for est in MOMENT_BASED:
            with pytest.raises(DegenerateFeaturesError, match=r"4 of 4 .*\[0, 1, 2, 3\]"):
                est.fit(np.ones((60, 2, 4), dtype))
        with pytest.raises(ValueError):
            ik.ICREstimator(drop_constant=True).fit(np.ones((60, 2, 4), dtype))


# ---- too little: items 15, 18 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("est", (*MOMENT_BASED, ik.AlignUniform()), ids=name_of)
def test_fewer_than_two_views_or_images(est):
    for views in (0, 1):
        with pytest.raises(NotEnoughDataError, match=rf"{views} view.* at least 2 are needed"):
            est.fit(features()[:, :views])
    for images in (0, 1):
        with pytest.raises(NotEnoughDataError, match="at least 2 images are needed"):
            est.fit(features()[:images])


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
@pytest.mark.parametrize(("n", "v", "m"), [(5, 2, 4), (3, 3, 4), (2, 2, 1)])
def test_no_more_degrees_of_freedom_than_features(est, n, v, m):
    with pytest.raises(NotEnoughDataError) as error:
        est.fit(features(n, v, 4))
    for part in (f"m = {m}", "d = 4", "Three ways out", "images or views", "PCA", "regularization"):
        assert part in str(error.value)


def test_regularization_is_a_way_out():
    h = features(10, 2, 30)
    est = ik.ICREstimator(regularization=0.5).fit(h)
    assert 0 < est.icr_ < 1 and est.icr_crossfit_ > 0 and np.isfinite(est.interval_).all()
    assert np.isfinite(ik.FisherSpectrum(regularization=0.5).fit(h).eigenvalues_).all()


def test_one_class_or_coinciding_classes():
    with pytest.raises(NotEnoughDataError, match="1 class"):
        ik.NC1Scorer().fit(features(), np.zeros(60))
    with pytest.raises(DegenerateFeaturesError, match="class means coincide"):
        ik.NC1Scorer().fit(np.ones((60, 2, 4)), labels())


# ---- no residual: item 16 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
@pytest.mark.parametrize("relative", [0.0, 1e-12, 1e-9])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_views_that_agree_have_no_residual(est, relative, offset):
    h = np.repeat(features(v=1), 2, axis=1) + offset
    h[:, 1] *= 1 + relative
    with pytest.raises(DegenerateFeaturesError, match="no residual"):
        est.fit(h)


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
def test_exact_duplicates_in_float32(est):
    with pytest.raises(DegenerateFeaturesError, match=r"no residual in 4 of 4 .*\[0, 1, 2, 3\]"):
        est.fit(np.repeat(features(v=1, dtype="float32"), 3, axis=1))


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
def test_one_feature_without_residual_is_named(est):
    h = features()
    h[:, 1, 2] = h[:, 0, 2]
    with pytest.raises(DegenerateFeaturesError, match=r"no residual in 1 of 4 .*\[2\]"):
        est.fit(h)


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
def test_views_that_differ_by_a_constant_are_never_clean(est):
    h = np.repeat(features(v=1), 2, axis=1)
    h[:, 1] += 5.0
    with pytest.raises((DegenerateFeaturesError, IllConditionedError)):
        est.fit(h)


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
@pytest.mark.parametrize("dtype", ["auto", "float64"])
def test_squares_beyond_the_range_of_float64_are_an_error(est, dtype):
    with pytest.raises(NonFiniteError, match=r"squares of 4 of 4 overflow float64 .*scale the features down"):
        est.__class__(dtype=dtype).fit(features() * 1e200)


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
def test_a_float32_feature_whose_squares_underflow_is_not_constant(est):
    h = features()
    want = est.fit(h).score(h)
    h[..., 2] *= 1e-23
    assert est.fit(h.astype("float32")).score(h.astype("float32")) == pytest.approx(want, rel=1e-6)


# ---- any scale ------------------------------------------------------------------------------------------------------


def classes_apart(n: int = 60) -> np.ndarray:
    return features(n) + 1.5 * np.random.default_rng(1).standard_normal((3, 1, 4))[labels(n)]


ANY_SCALE = {
    "class_separation": lambda h: ik.class_separation(h, labels()),
    "silhouette": lambda h: ik.silhouette(h, labels()),
    "silhouette, cosine": lambda h: ik.silhouette(h, labels(), metric="cosine"),
    "silhouette, kmeans": lambda h: ik.silhouette(h, labels="kmeans", n_clusters=3),
    "knn_probe": lambda h: ik.knn_probe(h, labels(), n_neighbors=5).accuracy,
    "linear_cka": lambda h: ik.linear_cka(h, h[:, ::-1]),
    "linear_cka, biased": lambda h: ik.linear_cka(h, h[:, ::-1], debiased=False),
    "trace_ratio, l2": lambda h: ik.trace_ratio(h, normalize="l2"),
    "auth_pct": lambda h: ik.auth_pct(h[:, 1:], h),
    "nearest_ratio": lambda h: ik.nearest_ratio(h[:, 1:], h, threshold=0.8),
}
IN_RANGE = {
    "nc1": lambda h: ik.nc1(h, labels()),
    "nc1, svd": lambda h: ik.nc1(h, labels(), "svd"),
    "nc1, quotient": lambda h: ik.nc1(h, labels(), "quotient"),
    "NC1Scorer": lambda h: ik.NC1Scorer().fit(h, labels()).nc1_,
    "cdnv": lambda h: ik.cdnv(h, labels()),
    "linear_probe": lambda h: ik.linear_probe(h, labels()).accuracy,
    "few_label_probe": lambda h: ik.few_label_probe(h, labels()).accuracy,
    "LinearProbe": lambda h: ik.LinearProbe().fit(h, labels()).score(h, labels()),
    "rankme": ik.rankme,
    "effective_rank": ik.effective_rank,
    "participation_ratio": ik.participation_ratio,
    "stable_rank": ik.stable_rank,
    "alpha_req": lambda h: ik.alpha_req(h, ranks=(1, 4)),
    "trace_ratio": ik.trace_ratio,
    "lidar": lambda h: ik.lidar(h, delta=0.0),
    "icr": lambda h: ik.ICREstimator().fit(h).icr_,
    "icr, Gram": lambda h: ik.icr(ik.gram_matrix(h), "crossfit", regularization=0.1),
    "information": lambda h: ik.InvariantInformation().fit(h).information_,
    "fisher": lambda h: ik.FisherSpectrum().fit(h).eigenvalues_[0],
    "memorization_ratio": lambda h: ik.memorization_ratio(h[:, 1:], h, 0.9),
    "neighbors": lambda h: ik.neighbor_retrieval(h).similarity[0, 0],
    "neighbors, residual": lambda h: ik.neighbor_retrieval(h, component="residual").similarity[0, 0],
}


@pytest.mark.parametrize("scale", [1e160, 1e-157, 1e-170, 1e300, 1e-300])
@pytest.mark.parametrize("name", [*ANY_SCALE, *IN_RANGE])
def test_ratios_are_right_at_any_scale_or_the_scale_is_named(name, scale):
    h = classes_apart()
    if name in ANY_SCALE:
        assert ANY_SCALE[name](h * scale) == pytest.approx(ANY_SCALE[name](h), rel=1e-9)
        return
    error, match = (NonFiniteError, "overflow.*scale") if scale > 1 else (DegenerateFeaturesError, "underflow")
    with pytest.raises(error, match=match):
        IN_RANGE[name](h * scale)


@pytest.mark.parametrize("scale", [1e25, 1e-25, 1e-35])
@pytest.mark.parametrize("name", [*ANY_SCALE, *IN_RANGE])
def test_ratios_of_float32_features_are_right_at_any_scale(name, scale):
    h = classes_apart().astype("float32")
    measure = {**ANY_SCALE, **IN_RANGE}[name]
    assert measure(h * np.float32(scale)) == pytest.approx(measure(h), rel=1e-5)


def test_a_small_feature_among_others_is_named_where_it_matters():
    h = features()
    h[..., 2] *= 1e-159
    with pytest.raises(DegenerateFeaturesError, match=r"1 of 4 features .* underflow: \[2\]"):
        ik.ICREstimator().fit(h)
    assert ik.rankme(h) == pytest.approx(ik.rankme(h[..., [0, 1, 3]]), rel=1e-5)


# ---- conditioning: item 18 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_duplicated_feature_is_rank_deficient(est, dtype):
    h = features(dtype=dtype)
    h[..., 3] = h[..., 1]
    with pytest.raises(IllConditionedError, match=r"rank 3 of d = 4 features, m = 59 .*regularization > 0"):
        est.fit(h)


@pytest.mark.parametrize("est", MOMENT_BASED, ids=name_of)
def test_condition_number_1e14(est):
    h = features()
    h[..., 3] = h[..., 1] + 2e-7 * h[..., 3]
    with pytest.raises(IllConditionedError, match=r"rank . of d = 4 features, m = 59 "):
        est.fit(h)


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("est", EVERY, ids=name_of)
def test_sample_weight_is_refused_by_name(est):
    with pytest.raises(TypeError, match="sample_weight"):
        est.fit(features(), labels(), sample_weight=np.ones(60))


@pytest.mark.parametrize("est", EVERY, ids=name_of)
def test_another_number_of_features(est):
    est.fit(features(), labels())
    for call in (est.transform, lambda h: est.score(h, labels())):
        with pytest.raises(ValueError, match=rf"X has 3 features, but {name_of(est)} is expecting 4 features"):
            call(features(d=3))


@pytest.mark.parametrize(
    ("est", "match"),
    [
        (ik.ICREstimator("jackknife"), "correction must be one of .* not 'jackknife'"),
        (ik.ICREstimator(residual_centering="image"), "residual_centering must be"),
        (ik.ICREstimator(regularization=-0.1), "regularization must be >= 0"),
        (ik.ICREstimator(normalize="l1"), "normalize must be"),
        (ik.ICREstimator(dtype="float16"), "dtype must be"),
        (ik.ICREstimator(confidence=1.5), "confidence must lie between 0 and 1"),
        (ik.FisherSpectrum(n_components=0), "n_components=0 must be between 1 and d=4"),
        (ik.FisherSpectrum(n_components=5), "n_components=5 must be between 1 and d=4"),
        (ik.AlignUniform(alpha=0), "alpha must be positive"),
        (ik.AlignUniform(t=-1), "t must be positive"),
        (ik.AlignUniform(over_views="max"), "over_views must be"),
        (ik.NC1Scorer("ratio"), "variant must be one of"),
        (ik.NC1Scorer(global_mean="median"), "global_mean must be"),
        (ik.NC1Scorer(views="first"), "views must be"),
    ],
    ids=repr,
)
def test_parameters_are_checked_in_fit(est, match):
    with pytest.raises(ValueError, match=match):
        est.fit(features(), labels())


@pytest.mark.parametrize("share", [-1.0, np.nan, np.inf])
def test_regularization_is_a_number_from_zero_up(share):
    message = f"regularization must be >= 0, not {share}, and finite"
    for est in (ik.ICREstimator, ik.FisherSpectrum, ik.InvariantInformation):
        with pytest.raises(ValueError, match=message):
            est(regularization=share).fit(features())
    with pytest.raises(ValueError, match=message):
        ik.icr(ik.Moments.from_cube(features()), regularization=share)
    with pytest.raises(ValueError, match=message):
        ik.ICREstimator(regularization=share).fit(features(3, 2, 20))


def test_more_axes_than_three_are_named_and_moments_are_asked_for():
    with pytest.raises(CubeFormatError, match=r"\(image, view, feature\)"):
        ik.RankMe().fit(features()[None])
    with pytest.raises(TypeError, match=r"icr takes Moments or Gram, not ndarray: Moments\.from_cube"):
        ik.icr(features())


def test_moments_do_not_hold_what_an_option_needs():
    m = ik.Moments.from_cube(features())
    with pytest.raises(ValueError, match="normalize='l2' needs features"):
        ik.ICREstimator(normalize="l2").fit(m)
    for est in (ik.AlignUniform(), ik.NC1Scorer()):
        with pytest.raises((TypeError, ValueError)):
            est.fit(m, labels())


def test_moments_of_several_levels_must_be_chosen_from():
    cube = ik.datasets.make_cube(60, 4, sigmas=[0.1, 1.0], random_state=0)
    m = ik.Moments.from_cube(cube)
    for call in (lambda: ik.ICREstimator().fit(m), lambda: ik.FisherSpectrum().fit(m), lambda: ik.fisher_spectrum(m)):
        with pytest.raises(CubeFormatError, match=r"one level.* moments\.select\(sigma="):
            call()


@pytest.mark.parametrize("est", (*MOMENT_BASED, ik.AlignUniform()), ids=name_of)
def test_rows_of_one_view_or_none(est):
    rows = features().reshape(-1, 4)
    with pytest.raises(NotEnoughDataError, match="at least 2 are needed"):
        est.__class__(n_views=1).fit(rows)
    with pytest.raises(ValueError, match="n_views must be at least 1, not 0"):
        est.__class__(n_views=0).fit(rows)


@pytest.mark.parametrize("views", [7, 2, -1, np.int64(2)])
def test_a_view_that_is_not_there(views):
    match = rf"views={views}: the features have 2 view\(s\), numbered from 0"
    with pytest.raises(ValueError, match=match):
        ik.nc1(features(), labels(), views=views)
    with pytest.raises(ValueError, match=match):
        ik.NC1Scorer(views=views).fit(features(), labels())


@pytest.mark.parametrize("views", [True, False, np.True_, 1.0, None, "first", [0]])
def test_what_is_no_number_of_a_view(views):
    with pytest.raises(ValueError, match="views must be 'mean', 'all' or the number of a view, not "):
        ik.nc1(features(), labels(), views=views)


def test_numbers_of_views_may_be_numpys():
    one = ik.nc1(features()[:, [1]], labels())
    assert ik.nc1(features(), labels(), views=np.int32(1)) == ik.nc1(features(), labels(), views=1) == one


def test_labels_must_be_there_and_match():
    with pytest.raises(ValueError, match="requires y"):
        ik.NC1Scorer().fit(features())
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ik.NC1Scorer().fit(features(), labels(59))
