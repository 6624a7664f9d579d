"""Probes against scikit-learn's classifiers on the same folds and the same draws."""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import icrkit as ik
from icrkit.exceptions import CubeFormatError, NonFiniteError, NotEnoughDataError
from icrkit.metrics import _probes

PROPERTY = settings(max_examples=15, derandomize=True)
FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)
PROBES = [ik.LinearProbe(), ik.KNNProbe(20)]


def name_of(est: object) -> str:
    return type(est).__name__


def labelled(n: int = 120, d: int = 6, k: int = 4, seed: int = 0, v: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Classes that overlap, of different sizes, in no order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % (k + 2) % k)
    scales = np.geomspace(1, 30, d)
    h = rng.standard_normal((k, 1, d))[y] + rng.standard_normal((n, 1, d)) + 0.5 * rng.standard_normal((n, v, d))
    return h * scales + 2, y


def linear(C: float = 1.0, max_iter: int = 1000) -> object:
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=max_iter))


def neighbours(n: int, k: int = 200, temperature: float = 0.1) -> KNeighborsClassifier:
    def weights(distances):
        return np.exp((1 - distances) / temperature)

    return KNeighborsClassifier(min(k, n), metric="cosine", weights=weights)


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_votes_by_hand():
    rows = np.array([[1.0, 0], [0.8, 0.6], [0, 1], [0, 2]])
    probe = _probes._CosineNeighbors(3, 0.5).fit(rows, np.array(["b", "a", "c", "c"]))
    # Of (1, 0) the cosines are 1, .8 and 0: the nearest wins, exp(2) > exp(1.6), over twice exp(0) only if both count.
    votes = probe._votes(np.array([[5.0, 0]]))[0]
    np.testing.assert_allclose(votes, np.exp([-0.4, 0, -2]), rtol=1e-12)  # a, b, c, with the largest taken off
    assert probe.predict(np.array([[5.0, 0], [0, 1], [0.5, 0.9]])).tolist() == ["b", "c", "c"]
    # b and both of c lie at the same angle: the first two of them vote, whatever rounding makes of their cosines.
    assert probe.predict(np.array([[0.7, 0.7], [0.1, 0.1], [1 / 3, 1 / 3]])).tolist() == ["a"] * 3


def test_votes_that_tie_go_to_the_first_class():
    rows = np.array([[0.6, 0.8], [0.8, 0.6], [0.6, 0.8], [0.8, 0.6]])
    probe = _probes._CosineNeighbors(4, 0.07).fit(rows, np.array(["d", "c", "a", "b"]))
    for scale in (1.0, 0.1, 1 / 3, 7e-5):  # each class has one row at the same angle
        assert probe.predict(scale * np.array([[1.0, 1.0]])).tolist() == ["a"]
    many = np.tile(np.random.default_rng(0).standard_normal((7, 33)), (40, 1))
    similarity = many[:3] @ many.T
    order = np.argsort(-similarity[0], kind="stable")
    first = _probes._nearest(similarity.max() - similarity, 50)
    assert set(first[0] % 7) == set(order[:50] % 7)
    partial = [c for c in set(first[0] % 7) if (first[0] % 7 == c).sum() < 40]
    for c in partial:  # of copies the first
        here = np.sort(first[0][first[0] % 7 == c])
        np.testing.assert_array_equal(here, c + 7 * np.arange(len(here)))


def test_one_neighbour_is_the_nearest():
    h, y = labelled()
    rows = h[:, 0]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    nearest = (unit[80:] @ unit[:80].T).argmax(axis=1)
    found = ik.KNNProbe(1).fit(rows[:80], y[:80]).predict(rows[80:])
    np.testing.assert_array_equal(found, y[:80][nearest])


# ---- independent code -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("C", [1.0, 0.01])
def test_linear_probe_is_scikit_learns(C):
    h, y = labelled()
    rows = h[:, 0]
    found = ik.linear_probe(rows, y, C=C)
    right = cross_val_predict(linear(C), rows, y, cv=FOLDS) == y
    assert found.accuracy == pytest.approx(right.mean(), abs=1e-12)
    assert found.accuracy == pytest.approx(cross_val_score(linear(C), rows, y, cv=FOLDS).mean(), abs=1e-12)
    assert found.error == pytest.approx(right.std(ddof=1) / np.sqrt(120), rel=1e-12)
    est = ik.LinearProbe(C).fit(rows[:80], y[:80])
    want = linear(C).fit(rows[:80], y[:80])
    np.testing.assert_array_equal(est.predict(rows[80:]), want.predict(rows[80:]))
    assert est.score(rows[80:], y[80:]) == want.score(rows[80:], y[80:])
    assert est.n_iter_ == want[-1].n_iter_.max()


@PROPERTY
@given(
    n_neighbors=st.sampled_from([1, 5, 30, 200]),
    temperature=st.sampled_from([0.01, 0.1, 1.0]),
    seed=st.integers(0, 99),
    block=st.sampled_from([1, 10_000]),
)
def test_knn_probe_is_scikit_learns_with_these_weights(n_neighbors, temperature, seed, block):
    h, y = labelled(seed=seed)
    rows = h[:, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_probes, "BLOCK_BYTES", block)
        found = ik.knn_probe(rows, y, n_neighbors=n_neighbors, temperature=temperature)
        est = ik.KNNProbe(n_neighbors, temperature).fit(rows[:80], y[:80])
        told = est.predict(rows[80:])
    peer = neighbours(96, n_neighbors, temperature)
    assert found.accuracy == pytest.approx((cross_val_predict(peer, rows, y, cv=FOLDS) == y).mean(), abs=1e-12)
    peer = neighbours(80, n_neighbors, temperature).fit(rows[:80], y[:80])
    np.testing.assert_array_equal(told, peer.predict(rows[80:]))
    votes = est.probe_._votes(rows[80:])
    np.testing.assert_allclose(votes / votes.sum(axis=1, keepdims=True), peer.predict_proba(rows[80:]), atol=1e-8)


def test_few_label_probe_draw_by_draw():
    h, y = labelled()
    rows, names = h[:, 0], np.array(["d", "a", "c", "b"])[y]
    other, of_other = (x[::-1] + 0.1 if x.dtype.kind == "f" else x[::-1] for x in (rows, names))
    inside, outside = [], []
    for draw in range(4):
        rng = np.random.default_rng([7, draw])
        drawn = np.concatenate([rng.choice(np.flatnonzero(names == c), 5, replace=False) for c in "abcd"])
        probe, rest = linear().fit(rows[drawn], names[drawn]), np.setdiff1d(np.arange(120), drawn)
        inside.append(probe.score(rows[rest], names[rest]))
        outside.append(probe.score(other, of_other))
    options = {"n_labels": 5, "n_draws": 4, "random_state": 7}
    for found, scores in (
        (ik.few_label_probe(rows, names, **options), inside),
        (ik.few_label_probe(rows, names, other, of_other, **options), outside),
    ):
        assert found == pytest.approx((np.mean(scores), np.std(scores, ddof=1) / 2), rel=1e-12)
    est = ik.FewLabelProbe(**options).fit(rows, names)
    assert (est.accuracy_, est.accuracy_error_) == ik.few_label_probe(rows, names, **options)
    assert est.score(rows, names) == est.accuracy_
    assert ik.few_label_probe(rows, names, n_labels=5, n_draws=4, random_state=8) != (
        est.accuracy_,
        est.accuracy_error_,
    )


def test_a_class_that_was_never_seen_is_never_told_right():
    h, y = labelled()
    options = {"n_labels": 3, "n_draws": 3}
    whole = ik.few_label_probe(h[y < 3], y[y < 3], h[y < 3], y[y < 3], **options)
    with_strangers = ik.few_label_probe(h[y < 3], y[y < 3], h, y, **options)
    assert with_strangers.accuracy == pytest.approx(whole.accuracy * (y < 3).mean(), rel=1e-12)
    est = ik.LinearProbe().fit(h[y < 3], y[y < 3])
    assert est.score(h, y) == pytest.approx(est.score(h[y < 3], y[y < 3]) * (y < 3).mean(), rel=1e-12)


# ---- views, labels, estimators --------------------------------------------------------------------------------------


@pytest.mark.parametrize("est", PROBES, ids=name_of)
@pytest.mark.parametrize("views", ["mean", 0, 2])
def test_which_row_stands_for_an_image(est, views):
    h, y = labelled(v=3)
    rows = h.mean(axis=1) if views == "mean" else h[:, views]
    est = clone(est).set_params(views=views).fit(h[:80], y[:80])
    want = clone(est).set_params(views="mean").fit(rows[:80], y[:80])
    assert (est.accuracy_, est.accuracy_error_) == (want.accuracy_, want.accuracy_error_)
    np.testing.assert_array_equal(est.predict(h[80:]), want.predict(rows[80:]))
    assert est.score(h[80:], y[80:]) == want.score(rows[80:], y[80:])
    few = ik.few_label_probe(h, y, n_labels=4, n_draws=3, views=views)
    assert few == ik.few_label_probe(rows, y, n_labels=4, n_draws=3)


def test_all_views_of_an_image_are_in_one_fold():
    h, y = labelled(v=3)
    right = np.empty((120, 3))
    for train, test in FOLDS.split(y, y):
        probe = linear().fit(h[train].reshape(-1, 6), np.repeat(y[train], 3))
        right[test] = probe.predict(h[test].reshape(-1, 6)).reshape(-1, 3) == y[test, None]
    found = ik.linear_probe(h, y, views="all")
    assert found == pytest.approx((right.mean(), right.mean(axis=1).std(ddof=1) / np.sqrt(120)), rel=1e-12)
    est = ik.LinearProbe(views="all").fit(h, y)
    assert est.accuracy_ == found.accuracy
    np.testing.assert_array_equal(est.predict(h[:7]), est.probe_.predict(h[:7].reshape(-1, 6)))
    assert est.score(h, y) == pytest.approx((est.predict(h) == np.repeat(y, 3)).mean(), rel=1e-12)
    # Views of one image on both sides would tell more than there is to know.
    copies = np.repeat(np.random.default_rng(0).standard_normal((60, 1, 5)), 4, axis=1)
    assert ik.knn_probe(copies, np.arange(60) % 2, n_neighbors=3, views="all").accuracy < 0.7


@pytest.mark.parametrize("est", PROBES, ids=name_of)
def test_a_cube_brings_its_labels_and_copies_agree(est):
    h, y = labelled(v=2)
    names = np.array(["cat", "dog", "ant", "bee"])[y]
    cube = ik.from_arrays(h, labels=names)
    est = clone(est).fit(cube[:80])
    assert est.classes_.tolist() == ["ant", "bee", "cat", "dog"] and est.n_features_in_ == 6 and is_classifier(est)
    assert est.score(cube[80:]) == est.score(h[80:], names[80:]) == (est.predict(cube[80:]) == names[80:]).mean()
    for copy in (clone(est).fit(h[:80], names[:80]), pickle.loads(pickle.dumps(est))):
        assert copy.accuracy_ == est.accuracy_ and copy.score(cube[80:].level()) == est.score(cube[80:])
    assert est.predict(cube[:1]).shape == (1,)  # of one image
    function = ik.linear_probe if isinstance(est, ik.LinearProbe) else lambda X: ik.knn_probe(X, n_neighbors=20)
    assert function(cube[:80]) == (est.accuracy_, est.accuracy_error_)
    assert ik.few_label_probe(cube[:80], None, cube[80:], n_labels=5) == ik.few_label_probe(
        h[:80], names[:80], h[80:], names[80:], n_labels=5
    )


@pytest.mark.parametrize("est", PROBES, ids=name_of)
def test_they_are_scored_on_other_images_by_scikit_learn(est):
    h, y = labelled(v=2)
    scores = cross_val_score(est, h, y, cv=FOLDS)
    assert scores.mean() == pytest.approx(clone(est).fit(h, y).accuracy_, abs=1e-12)


def test_no_float32_product_decides_who_votes():
    h, y = labelled(v=2)
    for offset in (0, 1e4):
        far = (h + offset).astype(np.float32)
        assert ik.knn_probe(far, y, n_neighbors=3) == ik.knn_probe(far.astype(np.float64), y, n_neighbors=3)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 99))
def test_what_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    h, y = labelled(seed=seed)
    order = rng.permutation(6)
    affine = (h * np.exp(rng.standard_normal(6)) + 5 * rng.standard_normal(6))[..., order]
    assert ik.linear_probe(affine, y).accuracy == pytest.approx(ik.linear_probe(h, y).accuracy, abs=1 / 60)
    few = [ik.few_label_probe(x, y, n_labels=5, n_draws=3).accuracy for x in (affine, h)]
    assert few[0] == pytest.approx(few[1], abs=1 / 60)
    q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    turned = np.exp(rng.standard_normal((120, 1, 1))) * h @ q
    assert ik.knn_probe(turned, y).accuracy == ik.knn_probe(h, y).accuracy


def test_what_does():
    h, y = labelled(300)
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))
    assert ik.linear_probe(h @ q, y, C=1e-3).accuracy != ik.linear_probe(h, y, C=1e-3).accuracy
    assert abs(ik.knn_probe(h + 100, y).accuracy - ik.knn_probe(h, y).accuracy) > 0.02
    assert abs(ik.knn_probe(h / np.geomspace(1, 30, 6), y).accuracy - ik.knn_probe(h, y).accuracy) > 0.02
    few = {"n_labels": 5, "n_draws": 3}
    assert ik.few_label_probe(h @ q, y, **few) != ik.few_label_probe(h, y, **few)
    order = np.random.default_rng(0).permutation(300)  # other folds, other draws
    assert ik.linear_probe(h[order], y[order]) != ik.linear_probe(h, y)
    assert ik.knn_probe(h[order], y[order]) != ik.knn_probe(h, y)
    assert ik.few_label_probe(h[order], y[order], **few) != ik.few_label_probe(h, y, **few)


def test_small_temperatures_do_not_overflow():
    h, y = labelled()
    assert ik.knn_probe(h, y, temperature=1e-6) == ik.knn_probe(h, y, n_neighbors=1)


# ---- degenerate input -----------------------------------------------------------------------------------------------


def test_constant_features_do_no_harm_and_constant_rows_tell_nothing():
    h, y = labelled()
    dead = np.concatenate([h, np.zeros((120, 1, 2)), np.full((120, 1, 1), 0.1)], axis=2)
    assert ik.linear_probe(dead, y).accuracy == pytest.approx(ik.linear_probe(h, y).accuracy, abs=1 / 60)
    equal = np.full((40, 3), 0.5)
    for found in (ik.linear_probe(equal, np.arange(40) % 2), ik.knn_probe(equal, np.arange(40) % 2)):
        assert found.accuracy == 0.5
    with pytest.warns(UserWarning, match="all zero"):
        assert ik.knn_probe(np.zeros((40, 3)), np.arange(40) % 2).accuracy == 0.5


def test_too_few_images_are_named():
    h, y = labelled()
    rare = np.where(np.arange(120) < 2, 1, 0)
    for function in (ik.linear_probe, ik.knn_probe):
        with pytest.raises(NotEnoughDataError, match="1 class"):
            function(h, np.zeros(120))
        with pytest.raises(NotEnoughDataError, match="cv=5 folds: wanted 2 to 4"):
            function(h[:8], [0, 1] * 4)
        with pytest.raises(NotEnoughDataError, match="cv=1 folds"):
            function(h, y, cv=1)
        with pytest.warns(UserWarning, match="only 2 members"):
            assert function(h, rare).accuracy > 0.95
    with pytest.raises(NotEnoughDataError, match=r"class 1 has 2 images; n_labels=3"):
        ik.few_label_probe(h, rare, n_labels=3)
    with pytest.raises(NotEnoughDataError, match="n_labels=0"):
        ik.few_label_probe(h, y, n_labels=0)
    with pytest.raises(NotEnoughDataError, match="at least two draws, not 1"):
        ik.few_label_probe(h, y, n_draws=1)
    with pytest.raises(NotEnoughDataError, match="n_samples=8 images are labelled"):
        ik.few_label_probe(h[:8], [0, 1] * 4, n_labels=4)


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_a_fold_with_one_class_to_train_on_says_so():
    rows = np.random.default_rng(0).standard_normal((40, 3))
    for function in (ik.linear_probe, ik.knn_probe):
        with pytest.raises(NotEnoughDataError, match=r"one class to train on: the classes have \[39, 1\] images"):
            function(rows, np.arange(40) == 7)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"n_neighbors": 0}, "n_neighbors"), ({"temperature": 0.0}, "temperature"), ({"views": 1}, "views=1")],
)
def test_options_are_checked(option, message):
    h, y = labelled()
    with pytest.raises(ValueError, match=message):
        ik.knn_probe(h, y, **option)
    with pytest.raises(ValueError, match=message):
        ik.KNNProbe(**option).fit(h, y)


@pytest.mark.parametrize("est", PROBES, ids=name_of)
def test_wrong_input_is_named(est):
    h, y = labelled(v=2)
    with pytest.raises(NotFittedError):
        clone(est).predict(h)
    fitted = clone(est).fit(h, y)
    for wrong in (h[..., :5], h[:, 0, :5]):
        with pytest.raises(ValueError, match="5 features, but"):
            fitted.predict(wrong)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        fitted.score(h, y[:50])
    with pytest.raises(CubeFormatError, match="requires y"):
        fitted.score(h)
    with pytest.raises(CubeFormatError, match=r"\w+Probe needs the features: moments do not suffice"):
        clone(est).fit(ik.Moments.from_cube(h))
    h[3, 1, 2] = np.inf
    for call in (lambda: clone(est).fit(h, y), lambda: fitted.predict(h)):
        with pytest.raises(NonFiniteError, match="image 3, view 1, feature 2"):
            call()


def test_images_to_judge_by_must_match():
    h, y = labelled()
    with pytest.raises(ValueError, match="X_test has 5 features, but X has 6"):
        ik.few_label_probe(h, y, h[..., :5], y)
    with pytest.raises(ValueError, match="y_test is given without X_test"):
        ik.few_label_probe(h, y, None, y)
    with pytest.raises(CubeFormatError, match="requires y"):
        ik.few_label_probe(h, y, h)


# ---- groups ---------------------------------------------------------------------------------------------------------


def copies(seed=0, n=60, size=4):
    """Images without anything of their class in them, each several times over."""
    rng = np.random.default_rng(seed)
    rows, y = np.repeat(rng.standard_normal((n, 1, 20)), size, axis=0), np.repeat(rng.integers(0, 2, n), size)
    return rows + 0.01 * rng.standard_normal(rows.shape), y, np.repeat([f"scene {k}" for k in range(n)], size)


@pytest.mark.parametrize(
    "function",
    [
        ik.linear_probe,
        functools.partial(ik.knn_probe, n_neighbors=1),
        functools.partial(ik.few_label_probe, n_labels=60),
    ],
)
def test_no_image_is_judged_by_its_near_copies(function):
    h, y, group = copies()
    assert function(ik.from_arrays(h, labels=y)).accuracy > 0.65
    found = function(ik.from_arrays(h, labels=y, groups=group))
    assert found.accuracy == pytest.approx(0.5, abs=4 * max(found.error, 0.05))
    assert found.accuracy < 0.65


def test_folds_of_groups_are_scikit_learns_and_so_is_the_estimator():
    h, y, group = copies()
    cube, rows = ik.from_arrays(h, labels=y, groups=group), h[:, 0]
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    right = (cross_val_predict(linear(1.0), rows, y, cv=folds, groups=group) == y).astype(float)
    found = ik.linear_probe(cube)
    assert found.accuracy == pytest.approx(right.mean(), abs=1e-12)
    sums = np.array([(right - right.mean())[group == one].sum() for one in np.unique(group)])
    assert found.error == pytest.approx(np.sqrt(60 / 59 * (sums**2).sum()) / 240, rel=1e-12)
    est = ik.LinearProbe().fit(cube)
    assert (est.accuracy_, est.accuracy_error_) == found
    alone = ik.linear_probe(ik.from_arrays(h[::4], labels=y[::4], groups=group[::4]))
    assert alone.error == pytest.approx(np.sqrt(alone.accuracy * (1 - alone.accuracy) / 59), rel=1e-9)


def test_the_error_over_groups_is_that_over_sets_of_groups():
    def at(seed):
        h, y, group = copies(seed)
        return ik.linear_probe(ik.from_arrays(h[..., :3] + y[:, None, None] + 1, labels=y, groups=group))

    found = np.array([at(seed) for seed in range(100)])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.25)  # over images it would be half of that


def test_too_few_groups_for_the_folds():
    h, _, group = copies(n=4)
    cube = ik.from_arrays(h, labels=np.arange(16) % 2, groups=group)
    with pytest.raises(NotEnoughDataError, match="cv=5 folds hold whole groups of images, of which there are 4 only"):
        ik.linear_probe(cube)
    with pytest.raises(NotEnoughDataError, match="labelled, or of the group of one that is"):
        ik.few_label_probe(cube, n_labels=8)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_the_error_is_that_of_the_accuracy_over_sets_of_images():
    def at(seed):
        rng = np.random.default_rng(seed)
        y = np.arange(100) % 2
        return ik.knn_probe(y[:, None] * [1.0, 0.5, 0] + rng.standard_normal((100, 3)) + [1, 1, 1], y)

    found = np.array([at(seed) for seed in range(150)])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.2)


def test_labels_at_random_are_told_at_chance_and_more_labels_tell_more():
    rng = np.random.default_rng(0)
    rows, y = rng.standard_normal((400, 5)), np.arange(400) % 4
    for function in (ik.linear_probe, ik.knn_probe):
        found = function(rows, y)
        assert found.accuracy == pytest.approx(0.25, abs=4 * found.error)
    h, y = labelled(400)
    few, more = (ik.few_label_probe(h, y, n_labels=n) for n in (1, 20))
    assert few.accuracy + 4 * few.error < more.accuracy
