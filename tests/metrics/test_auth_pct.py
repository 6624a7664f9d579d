"""AuthPct against the definition, a public implementation, and the known chance of being nearest to each other."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.base import clone

import icrkit as ik
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError
from icrkit.metrics._auth_pct import AuthPct, auth_pct

PROPERTY = settings(max_examples=30, derandomize=True)


def sets(n: int = 60, m: int = 50, d: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Generated rows, a third of them near copies, and training rows."""
    rng = np.random.default_rng(seed)
    training = rng.standard_normal((m, d))
    generated = rng.standard_normal((n, d))
    generated[: n // 3] = training[rng.integers(0, m, n // 3)] + 0.1 * generated[: n // 3]
    return generated, training


def brute(generated: np.ndarray, training: np.ndarray, image: np.ndarray | None = None) -> float:
    """The definition; training rows of one image are not one another's neighbours."""
    image = np.arange(len(training)) if image is None else image
    own = np.where(image[:, None] == image, np.inf, cdist(training, training)).min(axis=1)
    distances = cdist(generated, training)
    return float((distances.min(axis=1) > own[distances.argmin(axis=1)]).mean())


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_points_on_a_line_by_hand():
    training = np.array([[0.0], [1.0], [4.0]])  # own distances 1, 1, 3
    assert auth_pct([[-0.5], [-1.0], [-2.0], [6.0], [8.0]], training) == 0.4  # 0.5, 1 (a tie), 2 of 1; 2, 4 of 3
    assert auth_pct(training, training) == 0.0  # copies


# ---- independent code -----------------------------------------------------------------------------------------------


@PROPERTY
@given(n=st.integers(2, 60), m=st.integers(2, 60), d=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_definition(n, m, d, seed):
    generated, training = sets(n, m, d, seed)
    want = brute(generated, training)
    assert auth_pct(generated, training) == want
    est = AuthPct().fit(training)
    assert est.evaluate(generated) == est.auth_pct_ == est.score(generated) == want
    distances = cdist(generated, training)
    np.testing.assert_array_equal(est.nearest_, distances.argmin(axis=1))
    np.testing.assert_allclose(est.distance_, distances.min(axis=1), rtol=1e-10)
    assert float((est.distance_ > est.radius_).mean()) == want


def test_dgm_eval_says_the_same(oracle):
    numbers, made = oracle("dgm_eval_authpct")
    for name, percent in numbers.items():
        for dtype in (np.float64, np.float32):
            share = auth_pct(made[name].astype(dtype), made["training"].astype(dtype))
            assert 100 * share == pytest.approx(percent, rel=1e-12)


def test_prdc_has_the_same_distances(oracle):
    numbers, made = oracle("prdc")
    est, other = AuthPct().fit(made["training"]), AuthPct().fit(made["generated"])
    est.evaluate(made["generated"])
    other.evaluate(made["training"])
    radii = np.array(numbers["nearest within training"])
    np.testing.assert_allclose(est.distance_, numbers["nearest of another set"], rtol=1e-8)
    np.testing.assert_allclose(est.radius_, radii[est.nearest_], rtol=1e-8)
    np.testing.assert_allclose(est.reference_.radii, radii, rtol=1e-8)
    # Its coverage: training rows nearer to a generated one than to their own nearest.
    assert (other.distance_ < est.reference_.radii).mean() == pytest.approx(numbers["coverage"], rel=1e-12)


@pytest.mark.parametrize("views", ["mean", "all", 1])
def test_views_of_a_cube(views):
    rng = np.random.default_rng(0)
    h = rng.standard_normal((20, 1, 4)) + 0.1 * rng.standard_normal((20, 3, 4))
    g = rng.standard_normal((30, 2, 4))
    est = AuthPct(views=views).fit(ik.from_arrays(h, image_ids=[f"train-{i}" for i in range(20)]))
    pick = {"mean": lambda x: x.mean(axis=1), "all": lambda x: x.reshape(-1, 4), 1: lambda x: x[:, 1]}[views]
    image = np.repeat(np.arange(20), 3) if views == "all" else None
    assert est.evaluate(g) == auth_pct(g, h, views) == brute(pick(g), pick(h), image)
    nearest = cdist(pick(g), pick(h)).argmin(axis=1) // (3 if views == "all" else 1)
    assert est.nearest_ids_.tolist() == [f"train-{i}" for i in nearest]


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(order=st.permutations(range(50)), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_rotation_translation_scale_and_order_do_not_matter(order, scale, seed):
    generated, training = sets()
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    shift = 10 * rng.standard_normal(4)
    changed = [scale * h @ q + shift for h in (rng.permutation(generated), training[np.array(order)])]
    assert auth_pct(*changed) == auth_pct(generated, training)


def test_other_linear_maps_do_matter():
    generated, training = sets()
    stretch = np.array([50.0, 1, 1, 1])
    assert auth_pct(generated * stretch, training * stretch) != auth_pct(generated, training)


# ---- degenerate input -----------------------------------------------------------------------------------------------


def test_clone_pickle_and_degenerate_input():
    generated, training = sets()
    est = AuthPct().fit(training)
    want = est.evaluate(generated)
    for other in (clone(est).fit(training), pickle.loads(pickle.dumps(est))):
        assert other.evaluate(generated) == want
    with pytest.raises(DegenerateFeaturesError, match="all rows of the training set are the same"):
        AuthPct().fit(np.ones((5, 4)))
    with pytest.raises(CubeFormatError, match="rows of one encoder"):
        auth_pct(generated[:, :3], training)
    with pytest.raises(NonFiniteError, match="image 2"):
        auth_pct(generated, np.where(np.arange(50)[:, None, None] == 2, np.inf, training[:, None]))


def test_a_duplicate_in_the_training_set_hides_near_copies():
    _, training = sets()
    near = training[:2] + 1e-3
    assert auth_pct(near, training) == 0.0
    assert auth_pct(near, np.vstack([training, training[:2]])) == 1.0
    assert auth_pct(training[:2], np.vstack([training, training[:2]])) == 0.0  # the copies themselves


# ---- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "mutual"),
    # The chance that a point and its nearest are nearest to each other, in a Poisson process (Clark & Evans 1955).
    [(2, 2 / 3), (3, 6 * np.pi / (8 * np.pi + 3 * np.sqrt(3)))],
)
def test_new_images_of_the_training_law(d, mutual):
    # Uniform on the circle and on the sphere, which have no edge.
    rng = np.random.default_rng(0)
    h = rng.standard_normal((2, 6000, d))
    h /= np.linalg.norm(h, axis=2, keepdims=True)
    assert auth_pct(*h) == pytest.approx(1 - mutual, abs=0.025)
