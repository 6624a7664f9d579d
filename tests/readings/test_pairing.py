"""What pairs: the same images under the same draws, and folds that hold the same images."""

from __future__ import annotations

import numpy as np
import pytest

import icrkit as ik
from icrkit.exceptions import CubeFormatError
from icrkit.moments import Moments
from icrkit.readings._pairing import DRAWN_OF_MODELS, check_same_draws, check_same_folds, trained_range_of

H = np.random.default_rng(0).standard_normal((12, 2, 3))
ATTRS = {"seed": 0, "views": {"name": "Paper", "level": 3}, "noise": {"name": "EDM", "sigma_data": 0.5}}


def cube(ids=None, h=H, **attrs) -> ik.Cube:
    return ik.from_arrays({"mid": h}, sigmas=[0.1], image_ids=ids, attrs={**ATTRS, **attrs})


# ---- cubes ----------------------------------------------------------------------------------------------------------


def test_the_same_images_under_the_same_draws_pair():
    other_model = ik.from_arrays({"up": H[..., :2]}, sigmas=[0.7], attrs={**ATTRS, "step": 9, "model": "another"})
    check_same_draws([cube(), cube(), other_model], ["a", "b", "c"])
    check_same_draws([cube()], ["a"])


def test_the_order_of_images_and_the_type_of_ids_do_not_matter():
    ids = np.arange(12)
    check_same_draws([cube(ids), cube(ids[::-1], H[::-1]), cube(ids.astype(str))], ["a", "b", "c"])


def test_what_is_not_recorded_is_not_asked():
    bare = ik.from_arrays({"mid": H}, sigmas=[0.1])
    check_same_draws([bare, cube()], ["a", "b"])
    check_same_draws([cube(), bare, cube(seed=0)], ["a", "b", "c"])


def test_other_images_are_named():
    first, second = (np.array([f"{k}.png" for k in range(start, start + 12)]) for start in (0, 2))
    with pytest.raises(CubeFormatError) as error:
        check_same_draws([cube(first), cube(first), cube(second)], ["one", "two", "three"])
    words = str(error.value)
    assert "three holds other images than one" in words and "2 are missing (such as '0.png')" in words
    assert "2 are new (such as '12.png')" in words and "extract all from the same images" in words
    with pytest.raises(CubeFormatError, match="2 are missing") as error:
        check_same_draws([cube(first), cube(first[:10], H[:10])], ["a", "b"])
    assert "new" not in str(error.value)


def test_other_draws_are_named_with_both_values():
    with pytest.raises(CubeFormatError, match="b and a differ in seed: 1 against 0"):
        check_same_draws([cube(), cube(seed=1)], ["a", "b"])
    with pytest.raises(CubeFormatError, match=r"differ in views: \{'level': 5\} against \{'level': 3\}"):
        check_same_draws([cube(), cube(views={"name": "Paper", "level": 5})], ["a", "b"])
    with pytest.raises(CubeFormatError, match=r"differ in noise: .*'VP'.* against .*'EDM'"):
        check_same_draws([cube(), cube(noise={"name": "VP"})], ["a", "b"])
    with pytest.raises(CubeFormatError, match="b has 3 views, a 2: use as many"):
        check_same_draws([cube(), cube(h=np.ones((12, 3, 3)))], ["a", "b"])


def test_of_two_models_the_noise_law_may_differ_and_the_draws_may_not():
    other = cube(noise={"name": "VP"}, encode={"name": "vae"})
    check_same_draws([cube(encode={"name": "none"}), other], ["a", "b"], DRAWN_OF_MODELS)
    for attrs in ({"seed": 1}, {"views": {"name": "Fashion"}}):
        with pytest.raises(CubeFormatError, match=f"differ in {next(iter(attrs))}"):
            check_same_draws([cube(), cube(**attrs)], ["a", "b"], DRAWN_OF_MODELS)


def test_a_record_in_memory_is_that_of_its_file():
    attrs = {
        "seed": np.int64(0),
        "views": {"level": np.int32(3), "angles": np.array([1.0, 2.0]), "mirror": np.bool_(True)},
        "noise": {"name": "EDM", "sigma_data": np.float64(0.5), "trained_range": (0.1, 2.0)},
    }
    plain = {
        "seed": 0,
        "views": {"level": 3, "angles": [1.0, 2.0], "mirror": True},
        "noise": {"name": "EDM", "sigma_data": 0.5, "trained_range": [0.1, 2.0]},
    }
    check_same_draws([cube(**attrs), cube(**plain), cube(**attrs)], ["a", "b", "c"])
    with pytest.raises(CubeFormatError, match=r"differ in noise: .*\[0\.1, 3\.0\].* against .*\[0\.1, 2\.0\]"):
        check_same_draws([cube(**attrs), cube(**attrs | {"noise": {"trained_range": (0.1, 3.0)}})], ["a", "b"])


def test_the_trained_range_that_is_recorded():
    assert trained_range_of(None) is None
    assert trained_range_of(ik.from_arrays({"mid": H})) is None
    assert trained_range_of(cube(noise="EDM")) is None
    for given in ((0.1, 2), [np.float32(0.5), 1], np.array([0.1, 0.1])):
        assert trained_range_of(cube(noise={"trained_range": given})) == (float(given[0]), float(given[1]))
    for wrong in ((1, 2, 3), [2.0, 1.0], 3, ["low", "high"], (np.nan, 1.0)):
        with pytest.raises(CubeFormatError, match=r'attrs\["noise"\]\["trained_range"\] must be two noise levels'):
            trained_range_of(cube(noise={"trained_range": wrong}))


# ---- moments --------------------------------------------------------------------------------------------------------


def test_folds_of_the_same_images_pair():
    a, b = Moments.from_cube(H), Moments.from_cube(2 * H[..., :2])
    check_same_folds([a, b, a], ["a", "b", "c"])
    check_same_folds([a], ["a"])


def test_folds_that_cannot_hold_the_same_images_are_refused():
    a = Moments.from_cube(H, n_folds=4)
    for other in (
        Moments.from_cube(H, n_folds=3),
        Moments.from_cube(H, n_folds=4, random_state=1),
        Moments.from_cube(H[:11], n_folds=4),
        Moments.from_cube(H, n_folds=0),
    ):
        with pytest.raises(CubeFormatError, match=r"the folds of b hold .* images, those of a \["):
            check_same_folds([a, other], ["a", "b"])
    with pytest.raises(CubeFormatError, match="b has 3 views, a 2: use as many"):
        check_same_folds([a, Moments.from_cube(np.ones((12, 3, 3)), n_folds=4)], ["a", "b"])
