"""One cube, many readers: threads, forks, loky workers and dask read what one reader reads, and leave nothing open."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import icrkit as ik
from icrkit.io import CubeWriter, pack

LEVELS = (0.1, 0.3, 1.0)


@pytest.fixture(scope="module")
def truth() -> ik.Cube:
    parts = [ik.datasets.make_cube(n_images=240, n_features=6, random_state=k).level().values for k in range(3)]
    return ik.from_arrays({"mid": np.stack(parts, axis=2).astype("f4")}, sigmas=LEVELS)


@pytest.fixture(scope="module", params=["store", "packed"])
def path(request: pytest.FixtureRequest, truth: ik.Cube, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("cubes") / "out.cube"
    h = truth["mid"].values
    with CubeWriter(store, {"mid": 6}, LEVELS, n_views=2, n_images=len(h), block_size=16) as writer:
        writer.append(np.arange(len(h)), {"mid": h})
    return store if request.param == "store" else pack(store, store.with_suffix(".h5"))


def fitted(cube: ik.Cube, level: int) -> float:
    return float(ik.ICREstimator("crossfit").fit(cube.select(sigma=LEVELS[level])).icr_)


def opened_and_fitted(path: str, level: int) -> float:
    return fitted(ik.open_cube(path), level)


@pytest.fixture(scope="module")
def right(truth: ik.Cube) -> list[float]:
    return [fitted(truth, k) for k in range(len(LEVELS))]


def test_twenty_threads_of_one_cube(path: Path, right: list[float]) -> None:
    cube = ik.open_cube(path)
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda k: fitted(cube, k % 3), range(60)))
    np.testing.assert_allclose(found, np.resize(right, 60), rtol=1e-12)


def test_twenty_threads_that_open_it(path: Path, right: list[float]) -> None:
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda k: opened_and_fitted(str(path), k % 3), range(60)))
    np.testing.assert_allclose(found, np.resize(right, 60), rtol=1e-12)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forks_while_threads_read(path: Path, truth: ik.Cube) -> None:
    # Linear algebra after a fork hangs in some BLAS libraries, whoever calls it: the children read, and do not fit.
    cube = ik.open_cube(path)
    assert cube["mid"][:3].values.shape == (3, 2, 3, 6)  # files are open, and their children inherit them
    want = truth["mid"].values
    context = multiprocessing.get_context("fork")
    queue: Any = context.SimpleQueue()

    def read() -> None:
        queue.put(
            [
                bool(np.array_equal(cube.select(sigma=s)["mid"].values, want[:, :, k : k + 1]))
                for k, s in enumerate(LEVELS)
            ]
        )

    with concurrent.futures.ThreadPoolExecutor(4) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        busy = [pool.submit(lambda: cube["mid"].values.sum()) for _ in range(20)]
        children = [context.Process(target=read) for _ in range(6)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        assert all(queue.get() == [True] * 3 for _ in children)
        assert len({float(one.result()) for one in busy}) == 1


def test_loky_workers(path: Path, right: list[float]) -> None:
    cube = ik.open_cube(path)
    found = joblib.Parallel(2, backend="loky")(joblib.delayed(fitted)(cube, k % 3) for k in range(6))
    np.testing.assert_allclose(found, np.resize(right, 6), rtol=1e-12)
    assert len(pickle.dumps(cube)) < 100_000  # the path travels, and not the features


def test_dask(path: Path, truth: ik.Cube, right: list[float]) -> None:
    pytest.importorskip("dask.array")
    lazy = ik.open_cube(path).to_xarray().chunk({"image": 50})
    for scheduler in ("threads", "synchronous"):
        import dask

        with dask.config.set(scheduler=scheduler):
            np.testing.assert_array_equal(lazy["mid"].values, truth["mid"].values)
            assert np.isclose(fitted(ik.Cube(lazy), 1), right[1], rtol=1e-12)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors and memory in /proc")
@pytest.mark.parametrize("n", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_opens_leave_no_descriptor(path: Path, n: int) -> None:
    def once() -> None:
        ik.open_cube(path)["mid"][:2].values  # noqa: B018

    for _ in range(5):
        once()
    gc.collect()
    before = descriptors()
    for _ in range(n):
        once()
    gc.collect()
    assert descriptors() <= before


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors and memory in /proc")
@pytest.mark.slow
def test_fits_do_not_grow(path: Path) -> None:
    cube = ik.open_cube(path)
    for k in range(50):  # what allocators and caches keep
        fitted(cube, k % 3)
    gc.collect()
    before = resident_bytes()
    for k in range(500):
        fitted(cube, k % 3)
    gc.collect()
    grown = resident_bytes() - before
    # One fit holds 240 x 2 x 6 floats and their moments, 50 kB: one in ten kept would be seen.
    assert grown < 2_500_000, f"{grown / 500:.0f} bytes a fit"
