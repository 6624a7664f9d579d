"""Memorisation ratio against a matrix of cosines, and against what chance gives."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics.pairwise import cosine_similarity

import icrkit as ik
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError, NotEnoughDataError
from icrkit.metrics._memorization import MemorizationRatio, memorization_ratio
from icrkit.moments import Moments

PROPERTY = settings(max_examples=30, derandomize=True)


def sets(n: int = 60, m: int = 50, d: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Generated rows, a third of them near copies, and training rows."""
    rng = np.random.default_rng(seed)
    training = rng.standard_normal((m, d))
    generated = rng.standard_normal((n, d))
    generated[: n // 3] = training[rng.integers(0, m, n // 3)] + 0.2 * generated[: n // 3]
    return generated, training


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_cosines_by_hand():
    training = np.eye(2)
    generated = np.array([[3.0, 4.0], [1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]])  # greatest cosines 0.8, 1, 0, 0.8
    assert memorization_ratio(generated, training, 0.6) == 0.75
    assert memorization_ratio(generated, training, threshold=0.9) == 0.25
    assert memorization_ratio(generated, training, threshold=-0.5) == 1.0  # an opposite has 0 to the other row
    assert memorization_ratio(-training, training[[0, 0, 1]], threshold=-0.1) == 1.0


def test_a_similarity_of_just_the_threshold_is_no_copy():
    training, generated = np.eye(2), np.array([[1.0, 1.0], [1.0, 1.0 + 1e-6]])
    est = MemorizationRatio(0.6).fit(training)
    est.evaluate(generated)
    # As it was computed: the last digit of 1/sqrt(2) is another on another machine.
    assert est.similarity_[0] == pytest.approx(1 / np.sqrt(2), rel=1e-15)
    assert MemorizationRatio(float(est.similarity_[0])).fit(training).evaluate(generated) == 0.5


def test_copies_in_float32_are_copies_at_any_threshold_below_one():
    training = np.random.default_rng(0).standard_normal((200, 96)).astype(np.float32)
    est = MemorizationRatio(1 - 1e-12).fit(training)
    assert est.evaluate(training) == est.evaluate((3.3 * training).astype(np.float32)[::-1]) == 1.0
    assert (est.similarity_ > 1 - 1e-12).all()


# ---- brute force ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(2, 60),
    m=st.integers(2, 60),
    threshold=st.sampled_from([-0.3, 0.0, 0.6, 0.95]),
    seed=st.integers(0, 99),
)
def test_the_definition(n, m, threshold, seed):
    generated, training = sets(n, m, seed=seed)
    cosines = cosine_similarity(generated, training)
    want = float((cosines.max(axis=1) > threshold).mean())
    assert memorization_ratio(generated, training, threshold) == want
    est = MemorizationRatio(threshold).fit(training)
    assert est.evaluate(generated) == est.memorization_ratio_ == want and est.score(generated) == -want
    np.testing.assert_array_equal(est.nearest_, cosines.argmax(axis=1))
    np.testing.assert_allclose(est.similarity_, cosines.max(axis=1), rtol=1e-12, atol=1e-14)


@PROPERTY
@given(m=st.integers(2, 40), seed=st.integers(0, 99))
def test_a_set_against_itself(m, seed):
    _, training = sets(m=m, seed=seed)
    assert memorization_ratio(training, training, 0.999) == 1.0
    cosines = cosine_similarity(training)
    np.fill_diagonal(cosines, -2)
    want = float((cosines.max(axis=1) > 0.6).mean())
    assert memorization_ratio(training, training, 0.6, exclude_self=True) == want


@pytest.mark.parametrize("views", ["mean", "all", 1])
def test_views_of_a_cube(views):
    rng = np.random.default_rng(0)
    h, g = rng.standard_normal((20, 3, 4)), rng.standard_normal((30, 2, 4))
    ids = [f"train-{i}" for i in range(20)]
    est = MemorizationRatio(0.5, views=views).fit(ik.from_arrays(h, image_ids=ids))
    pick = {"mean": lambda x: x.mean(axis=1), "all": lambda x: x.reshape(-1, 4), 1: lambda x: x[:, 1]}[views]
    cosines = cosine_similarity(pick(g), pick(h))
    assert est.evaluate(g) == float((cosines.max(axis=1) > 0.5).mean()) == memorization_ratio(g, h, 0.5, views=views)
    np.testing.assert_array_equal(est.nearest_, cosines.argmax(axis=1) // (3 if views == "all" else 1))
    assert est.nearest_ids_[0] == ids[est.nearest_[0]]


def test_a_cube_on_disk_gives_what_its_array_gives(tmp_path):
    generated, training = sets(d=8)
    for name, rows in (("generated", generated), ("training", training)):
        with ik.CubeWriter(
            tmp_path / name, layers={"sscd": 8}, sigmas=[0.0], n_views=1, n_images=len(rows), block_size=7
        ) as writer:
            writer.append(np.arange(len(rows)), {"sscd": rows[:, None, None].astype(np.float32)})
    stored = [ik.open_cube(tmp_path / name) for name in ("generated", "training")]
    assert memorization_ratio(*stored, 0.6) == memorization_ratio(generated, training, 0.6)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(order=st.permutations(range(50)), seed=st.integers(0, 99))
def test_rotation_lengths_and_order_do_not_matter(order, seed):
    generated, training = sets()
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    want = memorization_ratio(generated, training, 0.6)
    changed = (rng.uniform(1e-3, 1e3, (50, 1)) * training @ q)[np.array(order)]
    assert memorization_ratio(rng.permutation(rng.uniform(1e-3, 1e3, (60, 1)) * generated @ q), changed, 0.6) == want


def test_translation_and_other_maps_do_matter_and_more_training_images_raise_it():
    generated, training = sets()
    want = memorization_ratio(generated, training, 0.6)
    assert memorization_ratio(generated + 9, training + 9, 0.6) == 1.0 != want
    stretch = np.array([9.0, 1, 1, 1, 1, 1])
    assert memorization_ratio(generated * stretch, training * stretch, 0.6) != want
    assert memorization_ratio(generated, training[:25], 0.6) <= want


# ---- the estimator and degenerate input -----------------------------------------------------------------------------


def test_clone_pickle_float32_and_degenerate_input():
    generated, training = sets()
    est = MemorizationRatio(0.7).fit(training)
    want = est.evaluate(generated)
    for other in (clone(est).fit(training), pickle.loads(pickle.dumps(est))):
        assert other.evaluate(generated) == want
    assert est.fit(training.astype(np.float32)).evaluate(generated.astype(np.float32)) == want
    for threshold in (1.0, -1.5, np.nan):
        with pytest.raises(ValueError, match="threshold must lie in"):
            memorization_ratio(generated, training, threshold)
    with pytest.raises(ValueError, match="both sets must be the same"):
        memorization_ratio(generated, training, 0.6, exclude_self=True)
    with pytest.raises(CubeFormatError, match="rows of one encoder"):
        memorization_ratio(generated[:, :3], training, 0.6)
    with pytest.raises(DegenerateFeaturesError, match="all rows of the training set are the same"):
        memorization_ratio(generated, np.zeros((4, 6)), 0.6)
    with pytest.raises(NonFiniteError, match="image 1"):
        memorization_ratio(np.where(np.arange(60)[:, None, None] == 1, np.nan, generated[:, None]), training, 0.6)
    with pytest.raises((TypeError, ValueError)):
        MemorizationRatio().fit(Moments.from_cube(generated.reshape(30, 2, 6), n_folds=0))


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_chance_on_the_circle():
    # A random direction exceeds cosine t to one of m others with probability 1 - (1 - arccos(t)/pi)^m.
    rng = np.random.default_rng(0)
    shares = [
        memorization_ratio(rng.standard_normal((20, 2)), rng.standard_normal((3, 2)), threshold=0.6) for _ in range(400)
    ]
    want = 1 - (1 - np.arccos(0.6) / np.pi) ** 3
    assert np.mean(shares) == pytest.approx(want, abs=4 * np.std(shares) / 20)


# ---- what counts as a copy ------------------------------------------------------------------------------------------


def test_there_is_no_threshold_that_nobody_gave():
    generated, training = sets()
    for call in (
        lambda: memorization_ratio(generated, training),
        lambda: MemorizationRatio().fit(training).evaluate(generated),
    ):
        with pytest.raises(ValueError, match=r"0\.6 for features of SSCD.*unseen"):
            call()
    with pytest.raises(ValueError, match="not both"):
        memorization_ratio(generated, training, 0.6, unseen=generated)


@pytest.mark.parametrize("false_alarms", [0.05, 0.2])
def test_unseen_images_give_the_threshold(false_alarms):
    generated, training = sets()
    unseen = np.random.default_rng(1).standard_normal((200, 6))
    similarity = cosine_similarity(unseen, training).max(axis=1)
    est = MemorizationRatio(false_alarms=false_alarms).fit(training).calibrate(unseen)
    assert est.threshold_ == pytest.approx(np.quantile(similarity, 1 - false_alarms), rel=1e-12)
    assert est.evaluate(unseen) == pytest.approx(false_alarms)
    share = memorization_ratio(generated, training, unseen=unseen, false_alarms=false_alarms)
    assert share == est.evaluate(generated) > 0.25  # a third are near copies
    assert MemorizationRatio(0.6).fit(training).calibrate(unseen).evaluate(generated) == memorization_ratio(
        generated, training, 0.6
    )
    with pytest.raises(ValueError, match="calibrate"):
        est.fit(training).evaluate(generated)  # the threshold was of another set


def test_features_in_which_everything_is_alike_are_not_called_copies():
    """Random features about a common mean: at 0.6 all of 128 unrelated images were copies."""
    rng = np.random.default_rng(0)
    training, generated, unseen = (9 + rng.standard_normal((n, 16)) for n in (300, 128, 400))
    assert memorization_ratio(generated, training, 0.6) == 1.0
    assert memorization_ratio(generated, training, unseen=unseen) < 0.15


def test_unseen_images_that_show_no_threshold():
    generated, training = sets()
    with pytest.raises(NotEnoughDataError, match=r"19 unseen images .* at least 20"):
        memorization_ratio(generated, training, unseen=np.random.default_rng(1).standard_normal((19, 6)))
    with pytest.raises(ValueError, match="are training images among them"):
        memorization_ratio(generated, training, unseen=training)
    with pytest.raises(ValueError, match="false_alarms must lie between 0 and 1"):
        memorization_ratio(generated, training, unseen=generated, false_alarms=0.0)
