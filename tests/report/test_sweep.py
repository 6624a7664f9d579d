"""A sweep's numbers and sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import icrkit as ik
from icrkit.exceptions import CubeFormatError, DegenerateFeaturesError
from icrkit.report import Sweep, write_report
from icrkit.report._figure import figure

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
    lowest = "σ = 0.001 is the lowest level that could be chosen: the best may lie below it."
    assert lowest in Sweep.of(cube()).sentences
    highest = "σ = 0.1 is the highest level that could be chosen: the best may lie above it."
    assert highest in Sweep.of(cube((0.005, 0.5))).sentences
    assert "could be chosen" not in " ".join(Sweep.of(cube((0.005, 5.0))).sentences)


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
    sigmas = [0.1, 1.0, 2.0]
    a = ik.datasets.make_cube(n_images=300, n_features=6, icr=[0.3, 0.5, 0.6], sigmas=sigmas)
    b = ik.datasets.make_cube(n_images=300, n_features=3, icr=[0.7, 0.5, 0.6], sigmas=sigmas)
    cube = ik.from_arrays({"narrow": b["features"].to_numpy(), "wide": a["features"].to_numpy()}, sigmas=sigmas)
    sweep = Sweep.of(cube)
    assert sweep.layers == ["wide", "narrow"]
    best = [[row["sigma"] for row in sweep.rows(name) if row["best"]] for name in sweep.layers]
    assert best == [[0.1], [1.0]]
    assert Sweep.of(cube, "narrow").window.best_sigma_ == 1.0


def test_layers_are_compared_by_information() -> None:
    sigmas = [0.1, 1.0, 2.0]
    a = ik.datasets.make_cube(n_images=300, n_features=6, icr=[0.3, 0.5, 0.6], sigmas=sigmas)["features"].to_numpy()
    noise = np.random.default_rng(1).standard_normal((300, 2, 3, 6))
    sweep = Sweep.of(ik.from_arrays({"part": a[..., :3], "padded": np.concatenate([a, noise], axis=-1)}, sigmas=sigmas))
    # Features of noise make ICR worse, and information no less.
    assert sweep.layers == ["padded", "part"]
    assert sweep.rows("part")[0]["icr"] < sweep.rows("padded")[0]["icr"]
    told = [sweep.rows(name)[0]["information"] for name in ("padded", "part")]
    said = " ".join(sweep.sentences)
    assert f"each at its best level: {told[0]:.2f} nats in padded at σ = 0.1 and {told[1]:.2f} nats in part at" in said
    assert "With 95% confidence no other has as much." in said
    twice = Sweep.of(ik.from_arrays({"one": a, "other": a @ np.diag([1.0, 2, 3, 4, 5, 6])}, sigmas=sigmas))
    assert "may have the most too" in " ".join(twice.sentences)
    assert "Layers" not in " ".join(Sweep.of(cube()).sentences)


def test_either_criterion_may_choose_and_the_other_is_told() -> None:
    by_icr, by_information = (Sweep.of(_disagreeing(), criterion=name) for name in ("icr", "information"))
    assert by_icr.headline == "Layer features is cleanest at noise level σ = 0.1"
    assert by_information.headline == "Layer features tells most about its images at noise level σ = 1"
    icr, information = (by_icr.curve[name].to_numpy()[0] for name in ("icr", "information"))
    assert by_icr.sentences[0].startswith(f"Its ICR is {icr[0]:.3f} there, 95% interval ")
    assert by_icr.sentences[1] == (
        f"Information is {information[0]:.2f} nats there, and highest at σ = 1 ({information[1]:.2f})."
    )
    assert by_information.sentences[0].startswith(f"Its information is {information[1]:.2f} nats there, 95% interval ")
    assert by_information.sentences[1] == f"ICR is {icr[1]:.3f} there, and lowest at σ = 0.1 ({icr[0]:.3f})."
    assert [row["best"] for row in by_information.rows("features")] == [False, True, False]
    assert json.loads(by_information.to_json())["criterion"] == "information"
    assert "-> best by information" in by_information.to_text() and "-> best by ICR" in by_icr.to_text()
    agreeing = Sweep.of(cube())
    assert agreeing.sentences[1].endswith("nats there, and highest at the same level.")


def _disagreeing() -> ik.Cube:
    """ICR is lowest at the first level, where one direction is strong, information highest at the second."""
    rng = np.random.default_rng(0)
    snr = np.array([[40, 0, 0, 0], [3, 3, 3, 3], [1, 1, 1, 1]])
    h = rng.standard_normal((400, 1, 1, 4)) * np.sqrt(snr) + rng.standard_normal((400, 2, 3, 4))
    return ik.from_arrays(h, sigmas=[0.1, 1.0, 2.0])


def test_dead_units_are_left_out_where_asked(tmp_path: Path) -> None:
    h = cube()["features"].to_numpy().copy()
    wide = np.concatenate([h, np.full_like(h[..., :2], 0.25)], axis=-1)
    dead = ik.from_arrays({"mid": wide}, sigmas=SIGMAS)
    with pytest.raises(DegenerateFeaturesError, match=r"2 of 6 features are constant \(4, 5\)"):
        Sweep.of(dead)
    left, want = Sweep.of(dead, drop_constant=True), Sweep.of(ik.from_arrays({"mid": h}, sigmas=SIGMAS))
    assert left.n_features == {"mid": 4} and left.to_dict()["dropped_features"] == {"mid": [4, 5]}
    assert left.sentences == [
        *want.sentences, "2 features of layer mid that are constant at some level are left out at every level."
    ]  # fmt: skip
    assert left.to_text() == want.to_text() and left.evidence == want.evidence
    np.testing.assert_allclose(left.spectrum.eigenvalues_, want.spectrum.eigenvalues_, rtol=1e-9)
    write_report(left, tmp_path / "page.html")


def test_too_few_levels() -> None:
    with pytest.raises(CubeFormatError, match="at least 3 noise levels"):
        Sweep.of(ik.datasets.make_cube(n_images=100, n_features=3, icr=[0.3, 0.5], sigmas=[0.1, 1.0]))


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_figure_by_its_ending(tmp_path: Path, ending: str) -> None:
    path = Sweep.of(cube()).save_figure(tmp_path / f"curve.{ending}")
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")


# ---- evidence -------------------------------------------------------------------------------------------------------


def test_too_few_images_name_no_level():
    """Eighty images of 64 features: intervals of [-48, 45], and "cleanest at 0.02" above them."""
    cube = ik.datasets.load_fashion_cube()
    few = Sweep.of(ik.Cube(cube.to_xarray().isel(image=slice(80))))
    assert few.headline == "Too few images to say at which noise level layer mid is cleanest"
    assert few.sentences[0].startswith("80 images of 2 views leave 1.1 degrees of freedom for each of the 64 features")
    assert "->" not in few.to_text() and "Its ICR is" not in " ".join(few.sentences)
    read = json.loads(few.to_json())
    assert read["evidence"]["sufficient"] is False and read["evidence"]["least_images"] == 108
    assert read["evidence"]["missing"] == few.sentences[:1] and read["says"][0] == f"{few.headline}."
    enough = json.loads(Sweep.of(cube).to_json())
    assert enough["evidence"]["sufficient"] is True and enough["evidence"]["missing"] == []


@pytest.mark.parametrize("criterion", ["icr", "information"])
def test_features_that_hold_nothing_name_no_level(criterion):
    """Views of different images: one of the levels looks better than others by luck."""
    h = np.random.default_rng(0).standard_normal((300, 2, 4, 16))
    noise = Sweep.of(ik.from_arrays(h, sigmas=SIGMAS), criterion=criterion)
    assert noise.evidence.enough and noise.separates and not noise.holds_images
    assert noise.headline == "At no noise level is layer features shown to hold anything of its images"
    nothing = "1 is residual only" if criterion == "icr" else "0 is nothing"
    assert f"where {nothing}. Over 4 levels that is no more than chance." in noise.sentences[0]
    assert "->" not in noise.to_text() and not noise.window.has_evidence_
    assert json.loads(noise.to_json())["evidence"]["sufficient"] is False
    # The same views of the same images a little nearer to one another.
    near = h + 0.7 * np.random.default_rng(1).standard_normal((300, 1, 1, 16)) * np.array([1.0, 0.3, 0.3, 0.3])[:, None]
    assert Sweep.of(ik.from_arrays(near, sigmas=SIGMAS), criterion=criterion).window.has_evidence_


def test_levels_that_are_alike_name_no_level():
    cube = ik.datasets.make_cube(200, 4, icr=[0.5, 0.5, 0.5], sigmas=[0.1, 0.2, 0.4], random_state=0)
    alike = Sweep.of(cube)
    assert len(alike.window.confidence_set_) == 3
    assert alike.headline == "No noise level can be named at which layer features is cleaner than at any other"
    assert "0.1, 0.2 or 0.4" in alike.sentences[0] and "->" not in alike.to_text()
    assert json.loads(alike.to_json())["evidence"]["sufficient"] is False


@pytest.mark.parametrize("n_images", [80, 1000])
def test_pictures_and_rows_mark_a_level_on_evidence_only(n_images: int, tmp_path: Path) -> None:
    found = Sweep.of(ik.Cube(ik.datasets.load_fashion_cube().to_xarray().isel(image=slice(n_images))))
    evident = n_images == 1000
    assert found.window.has_evidence_ is evident
    [layer] = found.layers
    assert sum(row["chosen"] for row in found.rows(layer)) == evident and sum(r["best"] for r in found.rows(layer)) == 1
    with figure((7, 5), found.panels) as (_, axes):
        assert (found.draw(axes).chosen is None) is not evident
        texts = [text.get_text() for panel in axes for text in panel.texts]
        assert any("chosen" in text for text in texts) is evident
        # A line at the level, in both panels.
        verticals = [line for panel in axes for line in panel.lines if len(set(line.get_xdata())) == 1]
        assert bool(verticals) is evident
    text = write_report(found, tmp_path / "a.html").read_text(encoding="utf-8")
    assert ('<tr class="best"' in text) is evident
    for words in ("the bold one is chosen", "Inside the chosen level", "the window of levels"):
        assert (words in text) is evident
    assert 'class="best' not in text or evident
