"""Pipeline parts on their own, and cubes going through scikit-learn's pipelines, searches and cross-validation."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
import xarray as xr
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_score, cross_validate, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import icrkit as ik
from icrkit.exceptions import CubeFormatError

SIGMAS = [0.1, 0.3, 1.0]
SPLIT = KFold(5, shuffle=True, random_state=0)
pytestmark = pytest.mark.filterwarnings("ignore:the plug-in ICR:UserWarning")


@pytest.fixture(scope="module")
def cube() -> ik.Cube:
    return ik.datasets.make_cube(300, 6, icr=[0.6, 0.3, 0.8], sigmas=SIGMAS, n_classes=3, random_state=0)


@pytest.fixture(scope="module")
def two_layers(cube) -> ik.Cube:
    h = cube["features"].values
    return ik.from_arrays({"mid": h, "up": h[..., :4] * 2}, sigmas=SIGMAS, labels=cube.labels)


@pytest.fixture(scope="module")
def h(cube) -> np.ndarray:
    return cube.select(sigma=0.3).level().values


# ---- SelectLevel ----------------------------------------------------------------------------------------------------


def test_select_level_is_select(two_layers):
    chosen = ik.SelectLevel("up", 0.3).fit(two_layers).transform(two_layers)
    assert isinstance(chosen, ik.Cube) and chosen.layers == ("up",) and chosen.sigmas.tolist() == [0.3]
    np.testing.assert_array_equal(chosen.level(), two_layers["up"].sel(sigma=0.3))
    np.testing.assert_array_equal(chosen.labels, two_layers.labels)
    single = two_layers.select(layer="mid")
    assert ik.SelectLevel(sigma=1.0).fit_transform(single).sigmas.tolist() == [1.0]
    assert ik.SelectLevel(sigma=1.0).fit_transform(single["mid"]).layers == ("mid",)
    assert ik.SelectLevel().fit_transform(single.select(sigma=0.1)).shape == (300, 2, 1, 6)


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (ik.SelectLevel("mid"), r"levels 0\.1, 0\.3, 1"),
        (ik.SelectLevel(sigma=0.3), "layers mid, up"),
        (ik.SelectLevel("down", 0.3), "no layer 'down'; its layers are mid, up"),
        (ik.SelectLevel("mid", 0.31), r"no level sigma=0\.31 .*levels: 0\.1, 0\.3, 1"),
        (ik.SelectLevel("mid", 0.3 * (1 + 2e-6)), "no level"),
    ],
    ids=repr,
)
def test_a_choice_that_is_none_lists_what_there_is(two_layers, step, match):
    with pytest.raises(CubeFormatError, match=match):
        step.fit_transform(two_layers)


def test_a_level_is_found_within_the_tolerance(two_layers):
    near = 0.3 * (1 + 5e-7)
    assert ik.SelectLevel("mid", near).fit_transform(two_layers).sigmas.tolist() == [0.3]
    assert ik.SelectLevel("mid", 0.31, tolerance=0.1).fit_transform(two_layers).sigmas.tolist() == [0.3]


# ---- MeanViews ------------------------------------------------------------------------------------------------------


def test_mean_views_of_every_form(cube, h):
    array = xr.DataArray(h, dims=("image", "view", "feature"))
    for X in (h, array, array.T, cube.select(sigma=0.3)):
        rows = ik.MeanViews().fit_transform(X)
        assert isinstance(rows, np.ndarray) and rows.shape == (300, 6)
        np.testing.assert_allclose(rows, h.mean(axis=1), rtol=1e-14)
    assert ik.MeanViews().fit_transform(h.astype(np.float32)).dtype == np.float32
    np.testing.assert_array_equal(ik.MeanViews().fit_transform(h[:, :1]), h[:, 0])


def test_mean_views_makes_frames_with_names(h):
    step = ik.MeanViews().set_output(transform="pandas").fit(h)
    frame = step.transform(h)
    assert isinstance(frame, pd.DataFrame) and list(frame.columns) == list(step.get_feature_names_out())
    assert list(frame.columns) == [f"x{i}" for i in range(6)]
    np.testing.assert_allclose(frame.to_numpy(), h.mean(axis=1))


def test_mean_views_knows_its_features(h):
    with pytest.raises(NotFittedError):
        ik.MeanViews().transform(h)
    with pytest.raises(ValueError, match="X has 5 features, but MeanViews is expecting 6 features"):
        ik.MeanViews().fit(h).transform(h[..., :5])


# ---- PerView --------------------------------------------------------------------------------------------------------


def test_per_view_transforms_every_view_as_a_row(cube, h):
    rows = h.reshape(-1, 6)
    want = PCA(2).fit(rows).transform(rows).reshape(300, 2, 2)
    pca = PCA(2)
    step = ik.PerView(pca).fit(h)
    np.testing.assert_allclose(step.transform(h), want, atol=1e-10)
    assert not hasattr(pca, "components_")  # a clone is fitted
    for X in (cube.select(sigma=0.3), cube.select(sigma=0.3).level(), cube.select(sigma=0.3)["features"]):
        result = ik.PerView(PCA(2)).fit_transform(X)
        assert isinstance(result, xr.DataArray) and result.dims == ("image", "view", "feature")
        np.testing.assert_allclose(result, want, atol=1e-10)
        assert float(result["sigma"]) == 0.3
        np.testing.assert_array_equal(result["labels"], cube.labels)


def test_per_view_repeats_labels_for_each_view(h, cube):
    step = ik.PerView(SelectKBest(k=2)).fit(h, cube.labels)
    want = SelectKBest(k=2).fit(h.reshape(-1, 6), np.repeat(cube.labels, 2))
    np.testing.assert_array_equal(step.transformer_.get_support(), want.get_support())


def test_an_affine_transformer_leaves_icr_alone(h):
    want = ik.ICREstimator().fit(h).icr_crossfit_
    for transformer in (StandardScaler(), PCA(6), PCA(6, whiten=True)):
        pipe = make_pipeline(ik.PerView(transformer), ik.ICREstimator()).fit(h)
        assert pipe[-1].icr_crossfit_ == pytest.approx(want, rel=1e-8)


def test_per_view_refuses_transformers_that_drop_rows(h):
    class Halve(StandardScaler):
        def transform(self, X):
            return super().transform(X)[::2]

    with pytest.raises(CubeFormatError, match=r"Halve gave shape \(300, 6\) for 600 rows"):
        ik.PerView(Halve()).fit_transform(h)
    with pytest.raises(NotFittedError):
        ik.PerView(PCA(2)).transform(h)


# ---- all three ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [ik.SelectLevel(sigma=0.3), ik.MeanViews(), ik.PerView(PCA(2))], ids=repr)
def test_clone_params_pickle_and_set_output(step, cube):
    X = cube if isinstance(step, ik.SelectLevel) else cube.select(sigma=0.3)
    copy = clone(step)
    assert copy is not step and str(copy.get_params()) == str(step.get_params())
    again = pickle.loads(pickle.dumps(copy.fit(X)))
    a, b = copy.transform(X), again.transform(X)
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert copy.set_output(transform="pandas") is copy
    if not isinstance(step, ik.MeanViews):
        assert type(copy.transform(X)) is type(a)
    with pytest.raises(TypeError, match="sample_weight"):
        copy.fit(X, sample_weight=np.ones(300))


# ---- searches and pipelines -----------------------------------------------------------------------------------------


def test_grid_search_finds_the_cleanest_level_without_labels(cube):
    pipe = make_pipeline(ik.SelectLevel(layer="features"), ik.ICREstimator())
    search = GridSearchCV(pipe, {"selectlevel__sigma": cube.sigmas}, cv=SPLIT).fit(cube)
    assert search.best_params_ == {"selectlevel__sigma": 0.3}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    np.testing.assert_allclose(-search.cv_results_["mean_test_score"], [0.6, 0.3, 0.8], atol=0.06)
    assert search.best_estimator_[-1].moments_.total.n_images == 300


def test_grid_search_over_layers_and_levels_in_two_processes(two_layers):
    pipe = make_pipeline(ik.SelectLevel(), ik.FisherSpectrum(n_components=2))
    grid = {"selectlevel__layer": ["mid", "up"], "selectlevel__sigma": [0.3, 1.0]}
    search = GridSearchCV(pipe, grid, cv=SPLIT, n_jobs=2).fit(two_layers)
    assert search.best_params_["selectlevel__sigma"] == 0.3


@pytest.mark.parametrize("est", [ik.ICREstimator(), ik.FisherSpectrum(), ik.AlignUniform(), ik.NC1Scorer()], ids=str)
def test_cross_validation_of_cubes_data_arrays_and_arrays_agrees(cube, h, est):
    single = cube.select(sigma=0.3)
    want = [
        clone(est).fit(h[train], cube.labels[train]).score(h[test], cube.labels[test]) for train, test in SPLIT.split(h)
    ]
    for X in (single, single.level(), h):
        found = cross_val_score(est, X, cube.labels, cv=SPLIT)
        np.testing.assert_allclose(found, want, rtol=1e-9)


def test_train_test_split_of_a_cube(cube):
    train, test, y_train, _ = train_test_split(cube, cube.labels, test_size=0.25, random_state=0)
    assert isinstance(train, ik.Cube) and len(train) == 225 and len(test) == 75
    np.testing.assert_array_equal(train.labels, y_train)
    assert not set(train.image_ids) & set(test.image_ids)


@pytest.mark.parametrize("frames", [False, True])
def test_a_label_free_choice_and_then_a_probe(cube, frames):
    pipe = make_pipeline(ik.SemanticWindow(), ik.MeanViews(), LogisticRegression(max_iter=1000))
    if frames:
        pipe.set_output(transform="pandas")
    pipe.fit(cube, cube.labels)
    assert pipe[0].best_sigma_ == 0.3
    assert pipe.score(cube, cube.labels) > 0.6
    assert hasattr(pipe[-1], "feature_names_in_") == frames
    assert pipe.predict(cube[:5]).shape == (5,)
    assert cross_val_score(pipe, cube, cube.labels, cv=SPLIT).mean() > 0.5


def test_set_output_reaches_through_a_pipeline_with_results_of_three_axes(cube, h):
    single = cube.select(sigma=0.3)
    pipe = make_pipeline(ik.SelectLevel(), ik.PerView(PCA(3)), ik.ICREstimator(), ik.MeanViews())
    pipe.set_output(transform="pandas")
    frame = pipe.fit(single).transform(single)
    assert isinstance(frame, pd.DataFrame) and frame.shape == (300, 3)
    middle = pipe[:-1].transform(single)
    assert isinstance(middle, xr.DataArray) and middle.shape == (300, 2, 3)
    for est in (ik.ICREstimator(), ik.FisherSpectrum(2), ik.AlignUniform()):
        est.set_output(transform="pandas").fit(h)
        assert isinstance(est.transform(h), np.ndarray) and isinstance(est.fit_transform(h), np.ndarray)
        rows = est.transform(h.reshape(-1, 6))
        assert isinstance(rows, pd.DataFrame) and list(rows.columns) == list(est.get_feature_names_out())
        np.testing.assert_allclose(rows.to_numpy(), est.transform(h).reshape(len(rows), -1), rtol=1e-12)


def test_frames_of_rows_keep_their_names(h):
    frame = pd.DataFrame(h.reshape(-1, 6), columns=list("abcdef"))
    est = ik.FisherSpectrum(2).fit(frame)
    assert est.feature_names_in_.tolist() == list("abcdef")
    with pytest.raises(ValueError, match="feature names"):
        est.transform(frame[list("fedcba")])


def test_a_whole_pipeline_clones_and_pickles(cube):
    pipe = make_pipeline(ik.SelectLevel(sigma=0.3), ik.PerView(PCA(4)), ik.ICREstimator(confidence=0.9))
    fitted = clone(pipe).fit(cube)
    again = pickle.loads(pickle.dumps(fitted))
    assert again[-1].interval_ == fitted[-1].interval_
    assert again.score(cube[:20]) == fitted.score(cube[:20])
    assert pipe.get_params()["icrestimator__confidence"] == 0.9
    assert list(fitted[-1].get_feature_names_out()) == [f"icrestimator{i}" for i in range(4)]


@pytest.mark.parametrize("est", [ik.ICREstimator(), ik.FisherSpectrum(), ik.AlignUniform()], ids=str)
def test_groups_are_routed_to_fit_and_score(h, est):
    rows, groups = h.reshape(-1, 6), np.repeat(np.arange(300), 2)
    order = np.random.default_rng(0).permutation(600)
    rows, groups = rows[order], groups[order]
    with sklearn.config_context(enable_metadata_routing=True):
        asking = clone(est).set_fit_request(groups=True).set_score_request(groups=True)
        result = cross_validate(
            asking, rows, params={"groups": groups}, cv=GroupKFold(4), return_indices=True, error_score="raise"
        )
    for score, train, test in zip(
        result["test_score"], result["indices"]["train"], result["indices"]["test"], strict=True
    ):
        assert not set(groups[train]) & set(groups[test])
        want = clone(est).fit(rows[train], groups=groups[train]).score(rows[test], groups=groups[test])
        assert score == pytest.approx(want, rel=1e-12)


def test_rows_with_groups_are_better_made_a_cube(h):
    rows, groups = h.reshape(-1, 6), np.repeat(np.arange(300), 2)
    cube = ik.from_rows(rows, groups=groups, sigma=0.3)
    scores = cross_val_score(ik.ICREstimator(), cube, cv=SPLIT)
    assert scores.shape == (5,) and np.abs(scores + 0.3).max() < 0.1
    assert ik.ICREstimator().fit(cube).icr_ == pytest.approx(ik.ICREstimator().fit(rows, groups=groups).icr_, rel=1e-12)


def test_names_of_features_go_through_the_parts(two_layers):
    pipe = make_pipeline(ik.SelectLevel("mid", 0.3), ik.PerView(PCA(3)), ik.MeanViews()).fit(two_layers)
    assert pipe.get_feature_names_out().tolist() == ["pca0", "pca1", "pca2"]
    selected = ik.SelectLevel("up", 0.3).fit(two_layers)
    assert selected.n_features_in_ == 4 and selected.get_feature_names_out().tolist() == ["x0", "x1", "x2", "x3"]
    window = ik.SemanticWindow(layer="up").fit(two_layers)
    assert window.get_feature_names_out(list("abcd")).tolist() == list("abcd")
    scaled = ik.PerView(StandardScaler()).fit(two_layers.select(layer="up", sigma=0.1))
    assert scaled.get_feature_names_out(list("abcd")).tolist() == list("abcd")


def test_names_before_fit():
    for part in (ik.SelectLevel(), ik.MeanViews(), ik.PerView(PCA(2)), ik.SemanticWindow()):
        with pytest.raises(NotFittedError):
            part.get_feature_names_out()
