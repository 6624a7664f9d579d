"""How many images: the law of the standard error, what a pilot asks for, and which curve is bias."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NotEnoughDataError
from icrkit.moments import Moments, fold_of_images
from icrkit.readings._reading import read_features
from icrkit.readings._sample_size import _ICRSpread, _InformationSpread, sample_size, sample_size_curve

PROPERTY = settings(max_examples=60, derandomize=True)


def exact(criterion: str, icr: float, d: int = 8) -> _ICRSpread | _InformationSpread:
    """The law of Gaussian features whose spectrum is known."""
    ratios = np.geomspace(1.0, 0.01, d)
    ratios *= (1 / icr - 1) / ratios.mean()
    if criterion == "icr":
        return _ICRSpread(d, ratios.sum(), np.square(ratios).sum(), 1.0)
    u = ratios / (1 + ratios)
    return _InformationSpread(d, u.sum(), np.square(u).sum())


# ---- closed form ----------------------------------------------------------------------------------------------------


def test_many_images_of_one_feature_by_hand():
    """d = 1: Q is a ratio of two independent variances, of N - 10 and (N - 10)(V - 1) degrees of freedom here."""
    n, v = 10_000, 3
    assert exact("icr", 0.5, d=1).variance(n, v, 10) == pytest.approx(2 / n + 2 / (n * (v - 1)), rel=0.01)
    # I = 1/2 log(lambda + 1), and lambda + 1 = Q + 1 - 1/V; lambda = 1.
    derivative = 0.5 * (1 + 1 / v) / 2
    expected = derivative**2 * (2 / n + 2 / (n * (v - 1))) * (10 / 9) ** 2
    assert exact("information", 0.5, d=1).variance(n, v, 10) == pytest.approx(expected, rel=0.01)


@PROPERTY
@given(icr=st.floats(0.05, 0.95), n=st.integers(60, 10**6), v=st.integers(2, 16))
@pytest.mark.parametrize("criterion", ["icr", "information"])
def test_more_images_and_more_views_never_harm(criterion, icr, n, v):
    law = exact(criterion, icr)
    if criterion == "information":
        assert law.variance(n, v + 1, 10) <= law.variance(n, v, 10) * (1 + 1e-12)
    assert law.variance(n + 1, v, 10) <= law.variance(n, v, 10) * (1 + 1e-12)
    assert law.variance(4 * n, v, 10) == pytest.approx(law.variance(n, v, 10) / 4, rel=30 * 8 / n)


# ---- against simulation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "v"), [(60, 2), (60, 4), (300, 2)])
def test_the_law_is_that_of_the_intervals_errors(n, v):
    """Mean squared half-width of the merit, over draws, against the law of the known spectrum."""
    runs, quantile = 60, 2.2622  # t, nine degrees of freedom
    seen = {"icr": [], "information": []}
    for seed in range(runs):
        cube = ik.datasets.make_cube(n, 8, n_views=v, icr=0.4, random_state=seed)
        for reading in read_features(cube, tuple(seen))[1]:
            ends = [reading.merit_at(end) for end in (reading.low, reading.high)]
            seen[reading.criterion.name].append(np.square((ends[1] - ends[0]) / 2 / quantile))
    for criterion, squares in seen.items():
        expected = exact(criterion, 0.4).variance(n, v, 10)
        error = np.std(squares) / np.sqrt(runs)
        assert np.mean(squares) == pytest.approx(expected, abs=3 * error + 0.1 * expected)


@pytest.mark.parametrize(("criterion", "wanted"), [("icr", 0.03), ("information", 0.25)])
@pytest.mark.parametrize("law", ["gaussian", "heavy"])
def test_the_half_width_is_reached(criterion, wanted, law):
    # Of heavy tails a small pilot has seen too little: its answer is too low.
    n_pilot = 64 if law == "gaussian" else 400
    pilots = [ik.datasets.make_cube(n_pilot, 8, icr=0.4, residual=law, random_state=seed) for seed in range(25)]
    asked = [sample_size(pilot, wanted, criterion=criterion).by_views for pilot in pilots]
    for v in (2, 4):
        n = int(np.median([numbers[v] for numbers in asked]))
        squares = []
        for seed in range(25):
            cube = ik.datasets.make_cube(n, 8, n_views=v, icr=0.4, residual=law, random_state=1000 + seed)
            (found,) = read_features(cube, (criterion,))[1]
            squares.append(np.square((found.high - found.low) / 2))
        error = np.std(squares) / np.sqrt(25) / (2 * wanted**2)
        assert np.sqrt(np.mean(squares)) / wanted == pytest.approx(1.0, abs=0.1 + 2 * error)


def test_the_number_is_the_least_that_suffices():
    pilot = ik.datasets.make_cube(400, 8, icr=0.4, random_state=0)
    wide, narrow = (sample_size(pilot, half_width) for half_width in (0.02, 0.01))
    assert 3.5 < narrow.n_images / wide.n_images < 4.5
    # What is predicted for the pilot's own number asks for that number.
    again = sample_size(pilot, wide.pilot_half_width)
    assert abs(again.n_images - 400) <= 1
    assert wide.pilot_images == 400 and wide.n_views == 2 and list(wide.by_views) == [2, 4, 8]
    assert wide.by_views[2] == wide.n_images > wide.by_views[4] > wide.by_views[8]
    assert wide.value == pytest.approx(0.4, abs=0.06)
    assert sample_size(pilot, 0.02, confidence=0.8).n_images < wide.n_images
    three = sample_size(ik.datasets.make_cube(400, 8, n_views=3, random_state=0), 0.02, views=[6])
    assert list(three.by_views) == [3, 6]


# ---- invariance -----------------------------------------------------------------------------------------------------


def test_any_form_of_the_pilot():
    cube = ik.datasets.make_cube(200, 5, random_state=0)
    want = sample_size(cube, 0.02)
    mixing = np.random.default_rng(0).standard_normal((5, 5))
    assert sample_size(np.asarray(cube), 0.02) == want
    assert sample_size(np.asarray(cube) @ mixing - 3, 0.02).n_images == pytest.approx(want.n_images, abs=1)
    moments = sample_size(Moments.from_cube(cube, n_folds=50), 0.02)
    assert moments == want and pickle.loads(pickle.dumps(want)) == want


# ---- degenerate -----------------------------------------------------------------------------------------------------


def test_what_is_asked_for_makes_sense():
    pilot = ik.datasets.make_cube(200, 5, random_state=0)
    for half_width in (0.0, -0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="half_width must be positive"):
            sample_size(pilot, half_width)
    with pytest.raises(ValueError, match=r"half_width=0\.5: ICR lies between 0 and 1"):
        sample_size(pilot, 0.5)
    with pytest.raises(ValueError, match="more than a billion images of 2 views"):
        sample_size(pilot, 1e-7)
    with pytest.raises(ValueError, match="criterion must be one of"):
        sample_size(pilot, criterion="auc")
    for few in (-1, 0, 1):
        with pytest.raises(ValueError, match=f"n_folds must be 2 or more, not {few}"):
            sample_size(pilot, n_folds=few)
    with pytest.raises(TypeError):
        sample_size(pilot, n_folds=2.5)
    with pytest.raises(ValueError, match="views must be 2 or more"):
        sample_size(pilot, views=[1, 2])
    with pytest.raises(NotEnoughDataError, match="more images"):
        sample_size(ik.datasets.make_cube(6, 5, random_state=0))
    with pytest.raises(NotEnoughDataError, match="folds"):
        sample_size(Moments.from_cube(pilot, n_folds=0))
    dead = pilot.level().to_numpy().copy()
    dead[..., 1] = 0.0
    with pytest.raises(DegenerateFeaturesError, match=r"leave them out, as by .*array\[..., varying\]") as error:
        sample_size(dead)
    assert "drop_constant" not in str(error.value)
    assert sample_size(dead[..., [0, 2, 3, 4]]).n_images > 200


def test_a_wide_interval_needs_what_can_be_measured_at_all():
    pilot = ik.datasets.make_cube(400, 8, icr=0.5, random_state=0)
    assert sample_size(pilot, 0.45).n_images >= 20


def test_a_small_pilot_is_said_to_be_small():
    with pytest.warns(UserWarning, match="a pilot of 15 images x 2 views is small for 8 features"):
        sample_size(ik.datasets.make_cube(15, 8, random_state=0), 0.1)


def test_hardly_any_signal():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sample_size(ik.datasets.make_cube(200, 6, icr=0.999, random_state=3), 0.05, views=[16])
    assert found.value > 0.9 and found.by_views[16] <= found.by_views[2]


def test_one_sentence_says_it():
    found = sample_size(ik.datasets.make_cube(200, 5, random_state=0), 0.02)
    assert str(found).startswith(f"{found.n_images:,} images of 2 views give ICR 0.")
    assert f"so do {found.by_views[4]:,} of 4 or {found.by_views[8]:,} of 8." in str(found)
    of_information = sample_size(ik.datasets.make_cube(200, 5, random_state=0), 0.2, criterion="information", views=())
    assert "to within 0.2 nats at 95%. The pilot's 200" in str(of_information)


# ---- the curve ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cube() -> ik.Cube:
    return ik.datasets.make_cube(2048, 32, icr=0.4, random_state=0)


@pytest.mark.filterwarnings("ignore:the plug-in ICR:UserWarning")
def test_the_last_point_is_what_the_estimator_says(cube):
    curve = sample_size_curve(cube, [100, 2048])
    est = ik.ICREstimator("crossfit").fit(cube)
    last = curve.isel(n_images=-1)
    found = [float(last[name]) for name in ("plugin", "gaussian", "crossfit", "low", "high")]
    assert found == pytest.approx([est.icr_plugin_, est.icr_gaussian_, est.icr_crossfit_, *est.interval_], rel=1e-9)
    assert curve.attrs == {"n_features": 32, "n_views": 2, "confidence": 0.95}
    assert curve["n_images"].values.tolist() == [100, 2048]


@pytest.mark.filterwarnings("ignore:the plug-in ICR:UserWarning")
def test_subsets_are_nested_and_do_not_depend_on_order(cube):
    want = sample_size_curve(cube, [64, 256, 1024])
    order = np.random.default_rng(0).permutation(2048)
    mixed = sample_size_curve(cube[order], [64, 256, 1024])
    for name in want.data_vars:
        np.testing.assert_allclose(mixed[name], want[name], rtol=1e-9)
    # Other sizes in between change nothing: what is added up is the same.
    np.testing.assert_allclose(
        sample_size_curve(cube, [64, 100, 256, 700, 1024]).sel(n_images=[64, 256, 1024])["crossfit"],
        want["crossfit"], rtol=1e-9,
    )  # fmt: skip
    other = sample_size_curve(cube, [64, 256, 1024], random_state=1)
    assert not np.isclose(other["plugin"][1], want["plugin"][1])


def test_the_plug_in_follows_its_bias_and_the_cross_fitted_value_is_flat(cube):
    """The paper's figure: 0 up to N = d, then a climb to where the cross-fitted value has been all along."""
    curve = sample_size_curve(cube, [16, 32, 64, 128, 256, 512, 1024, 2048])
    n, plugin, expected = (curve[name].values for name in ("n_images", "plugin", "plugin_expected"))
    q = 1 / 0.4 - 1 + 0.5
    truth = [1 / (1 + (k - 1) / (k - 1 - 32 - 1) * q - 0.5) if k > 34 else 0.0 for k in n]
    np.testing.assert_allclose(expected, truth, atol=0.02)
    np.testing.assert_allclose(plugin, truth, atol=0.03)
    assert plugin[:2].tolist() == [0.0, 0.0] and (np.diff(plugin[1:]) > 0).all() and plugin[2] < 0.25
    crossfit, low, high = (curve[name].values for name in ("crossfit", "low", "high"))
    assert np.isnan(crossfit[:2]).all() and np.isnan(low[:2]).all()
    assert (low[2:] <= 0.4).all() and (high[2:] >= 0.4).all()
    np.testing.assert_allclose(crossfit[3:], 0.4, atol=0.05)
    np.testing.assert_allclose(curve["gaussian"].values[3:], 0.4, atol=0.05)


def test_rows_and_files_and_sizes_of_their_own(cube, tmp_path):
    level = np.asarray(cube)[:300, :, :8]
    want = sample_size_curve(level)
    sizes = want["n_images"].values
    assert sizes[0] == 10 and sizes[-1] == 300 and (np.diff(sizes) >= 2).all()
    rows = sample_size_curve(level.reshape(600, 8), groups=np.repeat(np.arange(300), 2))
    assert rows.sizes == want.sizes
    stored = ik.from_arrays({"mid": level}, sigmas=[0.1])
    with ik.CubeWriter(tmp_path / "a.cube", layers={"mid": 8}, sigmas=[0.1], n_views=2, n_images=300) as writer:
        writer.append(stored.image_ids, {"mid": level[:, :, None].astype(np.float32)})
    found = sample_size_curve(ik.open_cube(tmp_path / "a.cube"))
    np.testing.assert_allclose(found["plugin"], want["plugin"], rtol=1e-4)
    small = sample_size_curve(level[:13, :, :4])
    assert small["n_images"].values[-1] == 13 and (np.diff(small["n_images"]) >= 2).all()


@pytest.mark.parametrize("sizes", [[], [64, 64], [128, 64], [64, 65], [1, 64], [64, 4096]])
def test_sizes_that_do_not_ascend_are_refused(cube, sizes):
    with pytest.raises(ValueError, match="sizes must ascend by two or more, up to the 2048 images"):
        sample_size_curve(cube, sizes)


def test_a_feature_that_varies_in_later_images_only_leaves_a_gap():
    h = ik.datasets.make_cube(n_images=400, n_features=4, random_state=0).level().to_numpy()
    order = np.argsort(fold_of_images(np.arange(400), 2**62, 2**31), kind="stable")
    h[order[:60], :, 2] = 1.0
    curve = sample_size_curve(h, [60, 200, 400])
    for name in ("plugin", "gaussian", "crossfit", "low", "high"):
        assert np.isnan(curve[name][0]) and np.isfinite(curve[name][1:]).all()
    h[..., 2] = 1.0
    with pytest.raises((DegenerateFeaturesError, IllConditionedError), match=r"constant|vary in a few images only"):
        sample_size_curve(h, [60, 200, 400])


def test_too_few_images_for_any_estimate_are_refused(cube):
    with pytest.raises(NotEnoughDataError, match="more images"):
        sample_size_curve(cube[:30])
