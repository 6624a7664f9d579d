"""info, verify, pack."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import Result

import icrkit as ik

Run = Callable[..., Result]
Check = Callable[..., None]
SIGMAS = [0.01, 0.1, 1.0]


def test_info(icrkit: Run, store: Path) -> None:
    result = icrkit("info", store)
    assert result.exit_code == 0
    for word in (
        "120 images x 2 views x 3 levels",
        "mid (4 features), up (2 features)",
        "0.01, 0.1, 1",
        "seed: 7",
        "complete",
        "read: names, shapes and sizes, no features; icrkit verify reads",
    ):
        assert word in result.stdout
    facts = json.loads(icrkit("info", store, "--json").stdout)
    assert facts["layers"] == {"mid": 4, "up": 2} and facts["sigmas"] == SIGMAS
    assert facts["n_images"] == 120 and facts["labels"] is False and facts["attrs"]["seed"] == 7


def test_info_of_features_without_a_level(icrkit: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "level.npy", np.random.default_rng(0).standard_normal((30, 1, 4)))
    said = icrkit("info", tmp_path / "level.npy").stdout
    assert "30 images x 1 view x 1 level, float64" in said and "sigmas: not recorded" in said


def test_info_says_that_it_has_not_read_what_is_damaged(icrkit: Run, assert_one_line: Check, store: Path) -> None:
    part = next(store.glob("part-*1.h5"))
    part.write_bytes(bytes(part.stat().st_size))
    said = icrkit("info", store)
    assert said.exit_code == 0 and "no features; icrkit verify reads every byte" in said.stdout
    assert json.loads(icrkit("info", store, "--json").stdout)["read"] == "names, shapes and sizes, no features"
    for command in ("verify", "sweep"):
        assert_one_line(icrkit(command, store), part.name)


def test_info_of_an_unfinished_store(icrkit: Run, assert_one_line: Check, tmp_path: Path) -> None:
    path = tmp_path / "half.cube"
    writer = ik.CubeWriter(path, {"mid": 3}, [0.1], n_views=2, n_images=20, block_size=10)
    writer.append(np.arange(10), {"mid": np.zeros((10, 2, 1, 3))})
    writer.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reader says that it is partial
        result = icrkit("info", path)
    assert result.exit_code == 0 and "1 of 2 blocks" in result.stdout and "10 images" in result.stdout
    assert_one_line(icrkit("sweep", path), "1 of 2 blocks")


def test_verify_and_pack(icrkit: Run, assert_one_line: Check, store: Path, tmp_path: Path) -> None:
    result = icrkit("verify", store)
    assert result.exit_code == 0 and "3 blocks" in result.stdout
    packed = tmp_path / "a.h5"
    assert icrkit("pack", store, packed).exit_code == 0
    assert ik.open_cube(packed).shape == (120, 2, 3)
    part = next(store.glob("part-*1.h5"))
    damaged = bytearray(part.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    part.write_bytes(damaged)
    assert_one_line(icrkit("verify", store), part.name)
