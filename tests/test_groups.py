"""Groups of images: kept wherever a cube goes, never split by folds, and what they do to numbers and intervals."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icrkit as ik
from icrkit._features import as_features
from icrkit.exceptions import CubeFormatError, NotEnoughDataError
from icrkit.moments import Moments
from icrkit.readings import paired_difference

PROPERTY = settings(max_examples=40, derandomize=True, deadline=None)


def videos(n: int = 40, frames: int = 5, d: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames whose image is that of their video, and which video each belongs to."""
    rng = np.random.default_rng(seed)
    signal = np.repeat(rng.standard_normal((n, 1, d)), frames, axis=0)
    return signal + rng.standard_normal((n * frames, 2, d)), np.repeat(np.arange(n), frames)


# ---- where they go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int", "str"])
def test_groups_go_wherever_the_cube_goes(tmp_path, kind):
    h, group = videos()
    group = group if kind == "int" else np.array([f"video {g}" for g in group])
    cube = ik.from_arrays({"a": h, "b": h[..., :2]}, sigmas=0.3, groups=group, labels=group)
    assert "groups: 40 different" in repr(cube) and ik.from_arrays(h).groups is None
    packed = ik.open_cube(cube.save(tmp_path / "a.h5"))
    cube.to_xarray().to_netcdf(tmp_path / "b.nc")
    with ik.CubeWriter(tmp_path / "c.cube", {"a": 4}, [0.3], n_views=2, n_images=200, block_size=64) as writer:
        writer.append(np.arange(200), {"a": h}, groups=group)
    np.savez(tmp_path / "d.npz", a=h, groups=group)
    opened = [packed, *(ik.open_cube(tmp_path / name) for name in ("b.nc", "c.cube", "d.npz"))]
    opened += [pickle.loads(pickle.dumps(one)) for one in (cube, packed)]
    for one in (cube, *opened):
        np.testing.assert_array_equal(one.groups, group)
        np.testing.assert_array_equal(one[[7, 3]].groups, group[[7, 3]])
        np.testing.assert_array_equal(one.select(layer="a").groups, group)
        np.testing.assert_array_equal(as_features(one.select(layer="a")).units, group)
        np.testing.assert_array_equal(as_features(one["a"].isel(sigma=0)).units, group)
    packed_again = ik.io.pack(tmp_path / "c.cube", tmp_path / "c.h5")
    np.testing.assert_array_equal(ik.open_cube(packed_again).groups, group)
    np.testing.assert_array_equal(ik.spatial_sign(cube).groups, group)


def test_a_store_resumes_with_groups_only_if_it_began_with_them(tmp_path):
    h, group = videos()
    path, sizes = tmp_path / "a.cube", {"n_views": 2, "n_images": 200, "block_size": 64}
    with ik.CubeWriter(path, {"a": 4}, [0.3], **sizes) as writer:
        writer.append(np.arange(64), {"a": h[:64]}, groups=group[:64])
    with ik.CubeWriter(path, {"a": 4}, [0.3], **sizes) as writer:
        with pytest.raises(CubeFormatError, match="came with groups, these come without"):
            writer.append(np.arange(64, 200), {"a": h[64:]})
        with pytest.raises(CubeFormatError, match="groups were int, and now are str"):
            writer.append(np.arange(64, 200), {"a": h[64:]}, groups=group[64:].astype(str))
        writer.append(np.arange(64, 200), {"a": h[64:]}, groups=group[64:])
    np.testing.assert_array_equal(ik.open_cube(path).groups, group)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (np.array([1.0, np.nan, 2.0, 3.0]), "groups are missing for 1 of 4 images; the first is image number 1"),
        (np.array(["a", None, "b", "c"], dtype=object), "groups are missing for 1 of 4 images"),
        (np.arange(3), r"groups has shape \(3,\); wanted \(4,\)"),
        (np.array([0.5, 1.5, 2.5, 3.5]), r"groups have dtype float64; expected integers or text.*\.rename\(groups="),
    ],
)
def test_what_are_no_groups_is_refused(groups, said):
    with pytest.raises(CubeFormatError, match=said):
        ik.from_arrays(np.random.default_rng(0).standard_normal((4, 2, 3)), groups=groups)


# ---- folds ----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(seed=st.integers(0, 10**6), cut=st.integers(2, 198), n_folds=st.integers(2, 12))
def test_folds_hold_whole_groups_whatever_the_order_and_the_parts(seed, cut, n_folds):
    h, group = videos()
    rng = np.random.default_rng(seed)
    order = rng.permutation(200)
    cube = ik.from_arrays(h, groups=group, image_ids=np.arange(200))
    want = Moments.from_cube(cube, n_folds=n_folds)
    assert want.grouped and (want.n_images % 5 == 0).all()
    parts = [Moments.from_cube(cube[order[s]], n_folds=n_folds) for s in (slice(0, cut), slice(cut, None))]
    found = parts[0] + parts[1]
    assert found.grouped
    np.testing.assert_array_equal(found.n_images, want.n_images)
    np.testing.assert_allclose(found.between, want.between, atol=1e-9)


def test_without_groups_nothing_changes():
    h, _ = videos()
    alone = ik.from_arrays(h, groups=np.arange(200))  # every image a group of its own: the same folds
    a, b = ik.Moments.from_cube(h), ik.Moments.from_cube(alone)
    np.testing.assert_array_equal(a.n_images, b.n_images)
    np.testing.assert_array_equal(a.within, b.within)
    assert not a.grouped and b.grouped
    # Traces of folds about the mean of all: another number, of the same quantity.
    one, other = (ik.ICREstimator("crossfit").fit(m).icr_ for m in (a, b))
    assert one != other and one == pytest.approx(other, abs=0.01)


def test_traces_of_folds_are_about_the_means_of_all():
    """The definition, fold by fold: P_k without the fold, scatters of the fold about the means of all images."""
    h, group = videos(n=12, frames=4, d=3)
    moments = Moments.from_cube(ik.from_arrays(h, groups=group), n_folds=4, dtype="float64")
    fold = ik.moments.fold_of_images(group, 4)
    mean, n = h.mean(axis=0), len(h)
    signal = noise = 0.0
    for k in range(4):
        out, there = h[fold != k], h[fold == k]
        r = out - out.mean(axis=0)
        r = r - r.mean(axis=1, keepdims=True)
        inverse = np.linalg.inv(np.einsum("ivd,ive->de", r, r) / (len(out) - 1))
        y = there - mean
        t = y.mean(axis=1)
        r = y - t[:, None]
        size = len(there) * (1 - 1 / n)
        between, within = np.trace(inverse @ t.T @ t) / size, np.einsum("ivd,de,ive->", r, inverse, r) / size
        signal += len(there) * (between - within / 2)
        noise += len(there) * within
    assert ik.icr(moments, "crossfit") == pytest.approx(1 / (1 + signal / noise), rel=1e-10)


def test_moments_remember_through_files(tmp_path):
    h, group = videos()
    moments = Moments.from_cube(ik.from_arrays(h, groups=group))
    moments.save(tmp_path / "m.h5")
    assert Moments.load(tmp_path / "m.h5").grouped
    assert ik.icr(Moments.load(tmp_path / "m.h5"), "crossfit") == ik.icr(moments, "crossfit")


def test_one_group_is_too_few():
    h, _ = videos(n=10)
    with pytest.raises(NotEnoughDataError, match="50 images, whose groups fell into one fold"):
        ik.ICREstimator("crossfit").fit(ik.from_arrays(h, groups=np.zeros(50, dtype=int)))


# ---- what is said ---------------------------------------------------------------------------------------------------


def test_copies_in_one_group_are_no_surprise():
    h, _ = videos(n=100, frames=1)
    again = np.concatenate([h, h[:30]])
    group = np.concatenate([np.arange(100), np.arange(30)])
    with pytest.warns(UserWarning, match="30 of 130 images have features identical.*groups= of from_arrays"):
        ik.ICREstimator().fit(again)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ik.ICREstimator("crossfit").fit(ik.from_arrays(again, groups=group))
    with pytest.warns(UserWarning, match="30 of 130 images have features identical"):
        ik.ICREstimator().fit(ik.from_arrays(again, groups=np.arange(130)))


# ---- against the truth ----------------------------------------------------------------------------------------------


def test_intervals_and_tests_hold_over_groups():
    inside, alone, rejected = [], [], []
    for seed in range(60):
        h, group = videos(seed=seed, d=6)
        truth = 0.5 * 6 * np.log(2)
        for groups, found in ((group, inside), (None, alone)):
            est = ik.InvariantInformation().fit(ik.from_arrays(h, groups=groups))
            found.append(est.interval_[0] <= truth <= est.interval_[1])
        other = h + np.random.default_rng(seed).standard_normal(h.shape)
        test = paired_difference(ik.from_arrays(h, groups=group), ik.from_arrays(other, groups=group))
        rejected.append(test.p < 0.05)
    assert np.mean(inside) >= 0.86 > np.mean(alone)  # 95 % less three Monte-Carlo errors of 60
    assert np.mean(rejected) > 0.8  # twice the residual is seen


def test_the_gram_matrix_says_the_same():
    h, group = videos(n=20, frames=3, d=30)
    cube = ik.from_arrays(h, groups=group)
    for centering in ("view", "none"):
        options = {"correction": "crossfit", "regularization": 0.2, "residual_centering": centering}
        moments, gram = Moments.from_cube(cube, dtype="float64"), ik.gram_matrix(cube)
        assert ik.icr(gram, **options) == pytest.approx(ik.icr(moments, **options), rel=1e-8)
