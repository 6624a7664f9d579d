"""Images that repeat: which are said, in what words, whatever holds the features, and what it costs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.utils import resample

import icrkit as ik
from icrkit._repeats import RepeatTracker


def features(n: int = 80, v: int = 2, d: int = 5, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, 1, d)) + rng.standard_normal((n, v, d))).astype(dtype)


FITS = {
    "moments": ik.Moments.from_cube,
    "icr": ik.ICREstimator().fit,
    "fisher": ik.FisherSpectrum().fit,
    "information": ik.InvariantInformation().fit,
    "gram": ik.gram_matrix,
    "sample_size": lambda X: ik.sample_size(X, half_width=0.3),
}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("d", [2, 4, 5, 40])
def test_a_copied_quarter_is_counted(d, dtype):
    h = features(d=d)
    h[60:] = h[:20]
    h = h.astype(dtype)
    with pytest.warns(UserWarning, match=r"^20 of 80 images .* the first is 60, which is 0 again"):
        ik.Moments.from_cube(h)


@pytest.mark.parametrize(("d", "offset"), [(1, 0.0), (1, 1e4), (3, 1e5), (6, 3e6)])
def test_few_features_may_be_equal_by_chance(d, offset):
    h = (np.random.default_rng(1).standard_normal((30_000, 2, d)) + offset).astype("float32")
    assert len(np.unique(h[:, 0], axis=0)) < len(h)  # some are
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ik.Moments.from_cube(h)


@pytest.mark.parametrize("name", FITS)
def test_every_fit_warns_of_repeats(name):
    h = features()
    h[60:] = h[:20]
    with pytest.warns(UserWarning, match="20 of 80 images have features identical"):
        FITS[name](h)


@pytest.mark.parametrize("name", FITS)
def test_images_that_differ_are_not_accused(name):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*identical")
        warnings.filterwarnings("error", message=".*all zero")
        FITS[name](features())


def test_images_never_written_are_said_by_their_ids():
    h = features()
    h[40:] = 0
    cube = ik.from_arrays(h, image_ids=[f"img{i}" for i in range(80)])
    with pytest.warns(UserWarning, match=r"^40 of 80 images are all zero, the first is 'img40'") as caught:
        ik.ICREstimator("crossfit").fit(cube)
    assert not any("identical" in str(one.message) for one in caught)


def test_a_file_is_looked_through_in_its_one_pass(tmp_path):
    h = features(n=64)
    h[50:] = h[:14]
    path = tmp_path / "x.cube"
    with ik.CubeWriter(path, layers={"mid": 5}, sigmas=[0.3], n_views=2, n_images=64, block_size=16) as writer:
        writer.append(range(64), {"mid": h})
    with pytest.warns(UserWarning, match="14 of 64 images"):
        ik.Moments.from_cube(ik.open_cube(path))


def test_rows_and_draws_with_replacement():
    h = resample(features(), random_state=0)
    repeats = 80 - len(np.unique(h[:, 0, 0]))
    with pytest.warns(UserWarning, match=f"{repeats} of 80 images"):
        ik.ICREstimator().fit(h.reshape(-1, 5), groups=np.repeat(np.arange(80), 2))


def test_compare_looks_at_all_parts_together(tmp_path, monkeypatch):
    from icrkit.readings import _compare

    monkeypatch.setattr(_compare, "_PART_BYTES", 500)
    monkeypatch.setattr(_compare, "_IN_MEMORY_BYTES", 0)
    h = features()
    h[79] = h[0]
    path = tmp_path / "x.cube"
    with ik.CubeWriter(path, layers={"mid": 5}, sigmas=[0.3], n_views=2, n_images=80) as writer:
        writer.append(range(80), {"mid": h})
    with pytest.warns(UserWarning, match=r"cube x, .*: 1 of 80 images .* first is 79, which is 0 again"):
        ik.compare(ik.open_cube(path), metrics=["icr", "rankme"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_integers_do_not_collide(dtype):
    # Their low bits are all zero, and products of these stay so.
    n = 4096
    bits = (np.arange(n)[:, None] >> np.arange(12)) & 1
    tracker = RepeatTracker(n, 12)
    tracker.add(0, bits[1:, None].astype(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.warn(np.arange(n))


def test_blocks_and_features_in_any_order_give_one_digest():
    h = features(n=50, d=6, dtype="float64")
    h[40] = h[3]
    said = []
    for parts in ([(0, 50)], [(30, 50), (0, 30)]):
        tracker = RepeatTracker(50, 6)
        for start, stop in parts:
            tracker.add(start, h[start:stop])
        with pytest.warns(UserWarning) as caught:
            tracker.warn(np.arange(50))
        said.append(str(caught[0].message))
    assert said[0] == said[1] and "first is 40, which is 3 again" in said[0]
