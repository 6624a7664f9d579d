"""A sweep's numbers and sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import icrkit as ik
from icrkit.exceptions import CubeFormatError
from icrkit.report import Sweep

SIGMAS = [0.001, 0.01, 0.1, 1.0]


def cube(trained_range: tuple[float, float] | None = None, icr: tuple[float, ...] = (0.2, 0.6, 0.3, 0.7)) -> ik.Cube:
    """One layer whose lowest ICR is at the first level, the second lowest at 0.1."""
    made = ik.datasets.make_cube(n_images=400, n_features=4, icr=icr, sigmas=SIGMAS)
    data = made.to_xarray()
    if trained_range is not None:
        data.attrs["noise"] = {"name": "EDM", "trained_range": list(trained_range)}
    return ik.Cube(data)


def test_levels_outside_the_trained_range_are_shown_and_not_chosen() -> None:
    free, held = Sweep.of(cube()), Sweep.of(cube((0.005, 5.0)))
    assert free.window.best_sigma_ == 0.001
    assert held.window.best_sigma_ == 0.1
    np.testing.assert_allclose(held.curve["icr"], free.curve["icr"])
    assert held.curve["trained"].to_numpy().tolist() == [False, True, True, True]
    assert not held.curve["in_set"].to_numpy()[0, 0]
    said = " ".join(held.sentences)
    assert "0.001 lies below the noise this network was trained on (0.005 to 5)" in said
    assert "though ICR goes down to" in said
    assert "outside the trained range" in held.to_text()
    assert "trained" not in " ".join(free.sentences) + free.to_text()


def test_levels_above_are_named_too() -> None:
    said = " ".join(Sweep.of(cube((0.005, 0.5))).sentences)
    assert "0.001 lies below, 1 lies above the noise" in said


def test_no_candidate_is_an_error() -> None:
    with pytest.raises(CubeFormatError, match="no noise level lies in the trained range"):
        Sweep.of(cube((2.0, 3.0)))


def test_unknown_levels_are_an_error() -> None:
    with pytest.raises(CubeFormatError, match="needs noise levels"):
        Sweep.of(ik.datasets.make_cube(n_images=50, n_features=3).__class__(_without_sigma()))


def _without_sigma() -> xr.Dataset:
    h = np.random.default_rng(0).standard_normal((50, 2, 3))
    return ik.from_arrays(h).to_xarray()


def test_an_optimum_at_the_edge_is_told() -> None:
    assert "may lie beyond" in " ".join(Sweep.of(cube()).sentences)
    assert "may lie beyond" not in " ".join(Sweep.of(cube((0.005, 5.0))).sentences)


def test_rows_are_the_curve() -> None:
    sweep = Sweep.of(cube((0.005, 5.0)))
    rows = sweep.rows("features")
    assert [row["sigma"] for row in rows] == SIGMAS
    assert [row["best"] for row in rows] == [False, False, True, False]
    assert [row["icr"] for row in rows] == sweep.curve["icr"].to_numpy()[0].tolist()
    table = sweep.to_text().splitlines()
    assert [line for line in table if line.startswith("->  ")] == [table[4]] and " 0.1 " in table[4]


def test_accuracies_join_the_numbers() -> None:
    sweep = Sweep.of(cube((0.005, 5.0)))
    accuracy = xr.Dataset(
        {
            "accuracy": (("layer", "sigma"), [[0.1, 0.5, 0.8, 0.4]]),
            "accuracy_error": (("layer", "sigma"), [[0.01] * 4]),
        },
        coords={"layer": ["features"], "sigma": SIGMAS},
    )
    both = sweep.with_accuracy(accuracy, "a probe")
    assert both.rank_correlation["features"] == pytest.approx((-1.0, 0.2))
    said = " ".join(both.sentences)
    assert "A probe: accuracy 80.0% ± 1.0% at the chosen level, the highest of all candidates." in said
    assert "-1.00 (0.20 over all levels)" in said
    assert "0.800 +- 0.010" in both.to_text()
    assert not sweep.rank_correlation and "accuracy" not in sweep.to_text()


def test_json_holds_everything() -> None:
    sweep = Sweep.of(cube((0.005, 5.0)))
    read = json.loads(sweep.to_json())
    assert read["best_sigma"] == 0.1 and read["best_layer"] == "features"
    assert read["window"][0] <= 0.1 <= read["window"][1]
    levels = read["layers"]["features"]["levels"]
    assert [level["icr"] for level in levels] == sweep.curve["icr"].to_numpy()[0].tolist()
    assert len(read["spectrum"]["eigenvalues"]) == 4


def test_each_layer_has_its_own_best_level() -> None:
    a = ik.datasets.make_cube(n_images=300, n_features=6, icr=[0.3, 0.5], sigmas=[0.1, 1.0])
    b = ik.datasets.make_cube(n_images=300, n_features=3, icr=[0.7, 0.5], sigmas=[0.1, 1.0])
    layers = {"wide": a["features"].to_numpy(), "narrow": b["features"].to_numpy()}
    sweep = Sweep.of(ik.from_arrays(layers, sigmas=[0.1, 1.0]))
    assert sweep.layers == ["wide", "narrow"]
    assert [[row["best"] for row in sweep.rows(name)] for name in sweep.layers] == [[True, False], [False, True]]
    assert Sweep.of(ik.from_arrays(layers, sigmas=[0.1, 1.0]), "narrow").window.best_sigma_ == 1.0


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_figure_by_its_ending(tmp_path: Path, ending: str) -> None:
    path = Sweep.of(cube()).save_figure(tmp_path / f"curve.{ending}")
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")
