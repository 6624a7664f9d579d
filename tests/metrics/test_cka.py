"""Linear CKA against Gram matrices written out, Kornblith's and Song's definitions, and two peers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import icrkit as ik
from icrkit._features import Features
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError, NonFiniteError, NotEnoughDataError
from icrkit.metrics import _cka
from icrkit.metrics._cka import LinearCKA, linear_cka

PROPERTY = settings(max_examples=30, derandomize=True)


def pair(n: int = 40, d: int = 6, e: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two sets that share part of what varies, with heavy-tailed lengths."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * rng.gamma(1.0, size=(n, 1))
    return x + 1, x @ rng.standard_normal((d, e)) + rng.standard_normal((n, e))


def gram(x: np.ndarray) -> np.ndarray:
    return x @ x.T


def biased_hsic(k: np.ndarray, g: np.ndarray) -> float:
    n = len(k)
    centring = np.eye(n) - 1 / n
    return float(np.trace(k @ centring @ g @ centring) / (n - 1) ** 2)


def unbiased_hsic(k: np.ndarray, g: np.ndarray) -> float:
    """Song et al. 2012, eq. 5, with diagonals set to zero."""
    n, one = len(k), np.ones(len(k))
    k, g = k - np.diag(k.diagonal()), g - np.diag(g.diagonal())
    corner = (one @ k @ one) * (one @ g @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ g) + corner - 2 / (n - 2) * one @ k @ g @ one) / (n * (n - 3)))


def brute(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    hsic = unbiased_hsic if debiased else biased_hsic
    k, g = gram(x), gram(y)
    return hsic(k, g) / np.sqrt(hsic(k, k) * hsic(g, g))


# ---- closed form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("debiased", [True, False])
def test_a_set_is_like_itself(debiased):
    x, _ = pair()
    assert linear_cka(x, x, debiased) == pytest.approx(1, rel=1e-12)


def test_two_orthogonal_directions_by_hand():
    x, y = np.array([1.0, -1, 1, -1, 0]), np.array([1.0, 1, -1, -1, 0])
    both = np.c_[x, y]
    assert linear_cka(x[:, None], y[:, None], debiased=False) == pytest.approx(0, abs=1e-15)
    assert linear_cka(x[:, None], both, debiased=False) == pytest.approx(1 / np.sqrt(2), rel=1e-14)


# ---- independent code -----------------------------------------------------------------------------------------------


@PROPERTY
@given(
    n=st.integers(5, 60),
    d=st.integers(1, 30),
    e=st.integers(1, 30),
    debiased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gram_matrices_written_out(n, d, e, debiased, seed):
    x, y = pair(n, d, e, seed)
    assert linear_cka(x, y, debiased) == pytest.approx(brute(x, y, debiased), rel=1e-9, abs=1e-10)


def test_thingsvision(oracle):
    numbers, made = oracle("thingsvision_cka")
    assert linear_cka(made["x"], made["y"], debiased=False) == pytest.approx(numbers["biased"], rel=1e-8)
    assert linear_cka(made["x"], made["y"]) == pytest.approx(numbers["unbiased"], rel=1e-8)


def test_netrep(oracle):
    numbers, made = oracle("netrep_cka")
    assert np.arccos(linear_cka(made["x"], made["y"], debiased=False)) == pytest.approx(
        numbers["arccos of biased"], rel=1e-8
    )


# ---- which rows, and which images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [0, 2, "mean", "all"])
def test_which_rows_stand_for_an_image(views):
    h = np.random.default_rng(0).standard_normal((30, 3, 4))
    g = h @ np.random.default_rng(1).standard_normal((4, 7)) + np.random.default_rng(2).standard_normal((30, 3, 7))
    x, y = ({0: a[:, 0], 2: a[:, 2], "mean": a.mean(axis=1), "all": a.reshape(-1, a.shape[2])}[views] for a in (h, g))
    want = brute(x, y, True)
    assert linear_cka(h, g, views=views) == pytest.approx(want, rel=1e-9)
    assert LinearCKA(views=views).fit(g).evaluate(ik.from_arrays(h)) == pytest.approx(want, rel=1e-9)


def test_views_pair_with_views():
    h = np.random.default_rng(0).standard_normal((30, 3, 4))
    with pytest.raises(CubeFormatError, match="3 and 2 views"):
        linear_cka(h, h[:, :2], views="all")
    assert linear_cka(h, h[:, :2], views="mean") > 0.5


def test_images_pair_by_their_ids_and_the_message_aligns_them():
    x, y = pair(30)
    ids_of_X, ids_of_Y = np.arange(100, 130), np.random.default_rng(0).permutation(np.arange(105, 135))
    X = ik.from_arrays(x[:, None], image_ids=ids_of_X)
    Y = ik.from_arrays(np.r_[y, y[:5]][ids_of_Y - 100, None], image_ids=ids_of_Y)
    with pytest.raises(CubeFormatError, match="same images in the same order"):
        LinearCKA().fit(Y).evaluate(X)
    with pytest.raises(CubeFormatError, match="30 and 30 images") as caught:
        linear_cka(X, Y)
    recipe = str(caught.value).split("Align them: ")[1].split(", then")[0]
    scope = {"np": np, "ids_of_X": ids_of_X, "ids_of_Y": ids_of_Y}
    exec(recipe, scope)
    assert linear_cka(X[scope["i"]], Y[scope["j"]]) == pytest.approx(brute(x[5:], y[5:], True), rel=1e-9)
    with pytest.raises(CubeFormatError, match="row numbers for ids"):
        linear_cka(X, y)
    with pytest.raises(CubeFormatError, match="30 and 29 images"):
        linear_cka(x, y[:29])
    named = ik.from_arrays(x[:, None], image_ids=[f"{i}.png" for i in range(30)])
    with pytest.raises(CubeFormatError, match="same images"):
        linear_cka(named, y)
    assert linear_cka(named, named) == pytest.approx(1, rel=1e-12)


# ---- invariance -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    order=st.permutations(range(30)),
    scale=st.floats(1e-3, 1e3),
    offset=st.floats(-100, 100),
    debiased=st.booleans(),
)
def test_rotation_translation_scale_and_order_do_not_matter(order, scale, offset, debiased):
    x, y = pair(30)
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))
    want, at = linear_cka(x, y, debiased), np.array(order)
    assert linear_cka((scale * x @ q + offset)[at], y[at], debiased) == pytest.approx(want, rel=1e-9)
    assert linear_cka(y, x, debiased) == pytest.approx(want, rel=1e-12)
    assert abs(linear_cka(x * [1, 1, 1, 1, 1, 10], y, debiased) - want) > 0.01


@pytest.mark.parametrize("debiased", [True, False])
def test_far_offsets_and_extreme_scales_cost_few_digits(debiased):
    x, y = pair(60, 30, 20)
    want = brute(x, y, debiased)
    assert linear_cka(x + 1e4, y - 1e4, debiased) == pytest.approx(want, rel=1e-9)
    single = [a.astype(np.float32) for a in (x, y)]
    assert linear_cka(*single, debiased) == pytest.approx(want, rel=1e-5)
    assert linear_cka(single[0] * np.float32(1e-25), single[1] * np.float32(1e25), debiased) == pytest.approx(
        want, rel=1e-5
    )
    far = [(a + 1e4).astype(np.float32) for a in (x, y)]
    assert linear_cka(*far, debiased) == pytest.approx(brute(*(a - np.float64(1e4) for a in far), debiased), rel=1e-5)


@pytest.mark.parametrize("n_bytes", [1, 1000, 5000])
@pytest.mark.parametrize("views", [1, "mean", "all"])
def test_blocks_do_not_matter(monkeypatch, n_bytes, views):
    h = np.random.default_rng(0).standard_normal((41, 2, 5)) + np.arange(41)[:, None, None]
    g = h[..., :3] + np.random.default_rng(1).standard_normal((41, 2, 3))
    want = [linear_cka(h, g, debiased, views) for debiased in (True, False)]
    monkeypatch.setattr(_cka, "_BLOCK_BYTES", n_bytes)
    assert [linear_cka(h, g, debiased, views) for debiased in (True, False)] == pytest.approx(want, rel=1e-9)


def test_a_block_of_copies_at_the_start_does_no_harm():
    x, y = pair(40)
    x[:20] = x[0]
    assert linear_cka(x.astype(np.float32), y) == pytest.approx(brute(x, y, True), rel=1e-5)


# ---- degenerate input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("debiased", [True, False])
def test_constant_features_are_refused(debiased):
    x, y = pair(30)
    constant = np.tile(0.1 * np.arange(1, 5), (30, 1))
    for sets in ((constant, y), (x, constant)):
        with pytest.raises(DegenerateFeaturesError, match="do not vary between images"):
            linear_cka(*sets, debiased)
    assert linear_cka(np.c_[x, constant], y, debiased) == pytest.approx(linear_cka(x, y, debiased), rel=1e-9)


def test_errors_name_what_is_wrong():
    x, y = pair(30)
    with pytest.raises(NotEnoughDataError, match="3 rows: a debiased CKA takes at least four"):
        linear_cka(x[:3], y[:3])
    assert 0 <= linear_cka(x[:2], y[:2], debiased=False) <= 1 + 1e-12
    with pytest.raises(ValueError, match="views=1"):
        linear_cka(x, y, views=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cka, "_BLOCK_BYTES", 1)  # the unit is that of the first block
        with pytest.raises(NonFiniteError, match="fourth powers of the features overflow"):
            linear_cka(x * np.r_[1.0, np.full(29, 1e200)][:, None], y)
    for place in (0, 1):
        bad = [x.copy(), y.copy()]
        bad[place][3, 2] = np.nan
        with pytest.raises(NonFiniteError, match="image 3"):
            linear_cka(*bad)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 10.0])
@pytest.mark.parametrize("n", [4, 5, 20, 400])
def test_rows_with_no_structure_are_no_garbage(dtype, offset, n):
    # Written as a sum of squares their HSIC is zero; as a difference it is rounding of either sign.
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    last = np.zeros((n, 3))
    last[-1] = 1.0, 0.3, 0.7
    y = np.random.default_rng(1).standard_normal((n, 3))
    for x in (np.eye(n), turned, last):
        assert abs(unbiased_hsic(gram(x), gram(x))) < 1e-12
        for pair in ((x, y), (y, x)):
            with pytest.raises(DegenerateFeaturesError, match=f"all pairs of the {n} rows are alike"):
                linear_cka(*((a + offset).astype(dtype) for a in pair))
        assert 0 <= linear_cka(x + offset, y, debiased=False) <= 1


@pytest.mark.parametrize("n", [4, 6, 10])
def test_few_rows_of_many_features_have_a_debiased_value(n):
    x, y = np.random.default_rng(0).standard_normal((2, n, 1000)).astype(np.float32)
    assert linear_cka(x, y) == pytest.approx(brute(x.astype(float), y.astype(float), True), abs=1e-4)
    assert abs(linear_cka(x, y)) <= 1


# ---- the estimator --------------------------------------------------------------------------------------------------


def test_the_estimator_gives_the_functions_number():
    x, y = pair()
    for debiased in (True, False):
        est = LinearCKA(debiased).fit(y)
        assert est.evaluate(x) == est.linear_cka_ == linear_cka(x, y, debiased) == est.score(x)
        for other in (clone(est).fit(y), pickle.loads(pickle.dumps(est))):
            assert other.evaluate(x) == est.linear_cka_


def test_cubes_on_disk_are_read_in_blocks_and_no_gram_matrix_is_held(tmp_path, monkeypatch):
    h = np.random.default_rng(0).standard_normal((50, 2, 1, 4)).astype(np.float32)
    with ik.CubeWriter(tmp_path / "a.cube", layers={"low": 4, "high": 2}, sigmas=[1.0], n_views=2, n_images=50) as w:
        w.append(np.arange(50), {"low": h, "high": h[..., :2]})
    cube = ik.open_cube(tmp_path / "a.cube")
    largest = []
    read = Features.read
    monkeypatch.setattr(Features, "read", lambda self, a=0, b=None: largest.append(b - a) or read(self, a, b))
    monkeypatch.setattr(_cka, "_BLOCK_BYTES", 500)
    value = linear_cka(cube.select(layer="low"), cube.select(layer="high"))
    assert value == pytest.approx(brute(h[:, 0, 0], h[:, 0, 0, :2], True), rel=1e-5)
    assert max(largest) <= 500 // (6 * 4)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_unrelated_features_are_unlike_once_debiased():
    n, d = 60, 120
    rng = np.random.default_rng(0)
    sets = [rng.standard_normal((2, n, d)) for _ in range(60)]
    debiased, biased = ([linear_cka(x, y, which) for x, y in sets] for which in (True, False))
    assert np.mean(debiased) == pytest.approx(0, abs=3 * np.std(debiased) / np.sqrt(60))
    assert np.std(debiased) < 0.05
    assert np.mean(biased) == pytest.approx(1 / (1 + n / d), abs=0.02)
