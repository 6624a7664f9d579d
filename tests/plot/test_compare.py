"""Pictures of a comparison: the numbers they hold, what they mark, and that they draw whatever a table holds."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

import icrkit as ik
from icrkit.plot import ComparisonCurveDisplay, ComparisonMapDisplay


def table(n_levels: int = 3, cubes: tuple[str, ...] = ("a",), layers: tuple[str, ...] = ("mid",)) -> pd.DataFrame:
    """As compare gives it: icr with interval, rankme."""
    rows = [
        {"cube": cube, "layer": layer, "sigma": sigma, "step": pd.NA, "trained": pd.NA}
        for cube in cubes
        for layer in layers
        for sigma in np.geomspace(0.01, 10, n_levels)
    ]
    frame = pd.DataFrame(rows).astype({"step": "Int64", "trained": "boolean"})
    rng = np.random.default_rng(0)
    frame["icr"] = rng.uniform(0.3, 0.9, len(frame))
    frame["icr_low"], frame["icr_high"] = frame["icr"] - 0.05, frame["icr"] + 0.05
    frame["rankme"] = rng.uniform(10, 2000, len(frame))
    frame.attrs["greater_is_better"] = {"icr": False, "rankme": True}
    return frame


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


# ---- the map --------------------------------------------------------------------------------------------------------


def test_shades_go_from_worst_to_best_of_each_metric() -> None:
    display = ComparisonMapDisplay(
        [[0.4, 0.8, 0.6], [5.0, 5.0, 5.0], [1.0, np.nan, 3.0], [1.0, np.inf, 3.0], [np.nan] * 3],
        metrics=["icr", "flat", "rankme", "ratio", "none"],
        greater_is_better=[False, True, True, False, True],
        groups=["mid"] * 3,
        levels=["1", "2", "3"],
    )
    np.testing.assert_allclose(
        display.shades,
        [[1, 0, 0.5], [1, 1, 1], [0, np.nan, 1], [1, np.nan, 0], [np.nan] * 3],
        atol=1e-12,
    )
    assert display.best.tolist() == [0, 0, 2, 0, -1]
    display.plot().figure_.canvas.draw()


def test_a_level_outside_the_trained_range_is_not_the_best() -> None:
    display = ComparisonMapDisplay(
        [[0.4, 0.5, 0.6]], metrics=["icr"], greater_is_better=[False], groups=["mid"] * 3, levels=["1", "2", "3"],
        trained=[False, True, True],
    ).plot()  # fmt: skip
    assert display.best.tolist() == [1]
    assert "italic: outside the trained range" in display.ax_.get_xlabel()
    styles = [label.get_fontstyle() for label in display.ax_.get_xticklabels()]
    assert styles == ["italic", "normal", "normal"]


def test_what_is_bound_to_the_number_of_features_is_compared_within_it() -> None:
    display = ComparisonMapDisplay(
        [[0.5, 0.4, 0.2, 0.3], [9.0, 8.0, 3.0, 4.0], [1.0, 2.0, 3.0, 5.0]],
        metrics=["icr", "rankme", "information"], greater_is_better=[False, True, True],
        groups=["a", "a", "b", "b"], levels=["1", "2"] * 2, n_features=[64, 64, 32, 32],
    )  # fmt: skip
    assert display.bound == ["icr", "rankme"]
    np.testing.assert_allclose(display.shades, [[0, 1, 1, 0], [1, 0, 0, 1], [0, 0.25, 0.5, 1]], atol=1e-12)
    assert np.argwhere(display.framed).tolist() == [[0, 1], [0, 2], [1, 0], [1, 3], [2, 3]]
    assert display.best.tolist() == [-1, -1, 3]
    ax = display.plot().ax_
    assert sum(patch.get_linewidth() == 1.6 for patch in ax.patches) == 5
    assert [label.get_text() for label in ax.get_yticklabels()] == ["icr* ↓", "rankme* ↑", "information ↑"]
    assert "* at equal numbers of features only" in ax.get_xlabel()


def test_one_level_of_its_width_is_not_framed() -> None:
    frame = table(1, cubes=("a", "b"))
    frame["n_features"] = [64, 32]
    display = ComparisonMapDisplay.from_table(frame)
    assert display.n_features.tolist() == [64, 32]
    assert not display.framed.any()  # icr and rankme
    frame["n_features"] = 64
    same = ComparisonMapDisplay.from_table(frame)
    assert same.bound == [] and same.framed.sum(axis=1).tolist() == [1, 1]
    assert "*" not in same.ax_.get_xlabel()


def test_untrained_and_missing_levels_of_a_width_are_not_framed() -> None:
    display = ComparisonMapDisplay(
        [[0.1, 0.4, 0.3, np.nan, np.nan]], metrics=["icr"], greater_is_better=[False], groups=list("aaabb"),
        levels=["1", "2", "3", "1", "2"], trained=[False, True, True, True, True], n_features=[8, 8, 8, 4, 4],
    )  # fmt: skip
    assert np.argwhere(display.framed).tolist() == [[0, 2]] and display.best.tolist() == [2]


def test_long_names_of_groups_are_slanted_told_apart_and_inside_the_figure() -> None:
    layers = tuple(f"model.diffusion_model.transformer_blocks.{k}.attention.to_out_projection" for k in range(3))
    display = ComparisonMapDisplay.from_table(table(3, ("one", "two"), layers))
    figure = display.figure_
    figure.canvas.draw()
    names = [text for text in display.ax_.texts if "." in text.get_text() and text.get_rotation()]
    assert len({text.get_text() for text in names}) == len(names) == 6
    title = next(one for one in display.ax_.findobj(Text) if "dark is better" in one.get_text())
    for text in [*names, title]:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 + 5 and box.y1 <= figure.bbox.y1 + 5
    assert display.ax_.get_window_extent().width > 0.5 * figure.bbox.width  # not pressed together by the names
    curves = ComparisonCurveDisplay.from_table(table(3, ("one", "two"), layers))
    curves.figure_.canvas.draw()
    [legend] = curves.figure_.legends
    box = legend.get_window_extent()
    assert box.x1 <= curves.figure_.bbox.x1 + 1 and len({text.get_text() for text in legend.get_texts()}) == 6
    assert all(ax.get_window_extent().height > 60 for ax in curves.axes_)


@pytest.mark.parametrize("n_levels", [1, 3, 8])
def test_words_stay_inside_the_figure(n_levels: int) -> None:
    frame = table(n_levels, cubes=("a", "b") if n_levels < 8 else ("a",))
    frame["n_features"] = 32 + 32 * (frame["cube"] == "a")
    frame["trained"] = pd.array(frame["sigma"] > 0.02, dtype="boolean")
    ax = ComparisonMapDisplay.from_table(frame).ax_
    ax.figure.canvas.draw()
    for text in (ax._left_title, ax.xaxis.label):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= ax.figure.bbox.x1 and box.y0 >= 0 and box.y1 <= ax.figure.bbox.y1


def test_the_map_of_a_table_holds_its_numbers_and_names() -> None:
    frame = table()
    display = ComparisonMapDisplay.from_table(frame)
    np.testing.assert_array_equal(display.values, frame[["icr", "rankme"]].to_numpy().T)
    assert display.levels == ["0.01", "0.316", "10"] and display.groups == ["mid"] * 3
    ax = display.ax_
    assert [label.get_text() for label in ax.get_yticklabels()] == ["icr ↓", "rankme ↑"]
    assert texts(ax)[0] == f"{frame['icr'][0]:.3f}" and len(texts(ax)) == 6
    bold = [text for text in ax.texts if text.get_fontweight() == "bold"]
    assert len(bold) == 2
    assert ComparisonMapDisplay.from_table(frame, metrics=["rankme"]).metrics == ["rankme"]


def test_groups_stand_apart_under_their_names() -> None:
    frame = table(4, cubes=("a", "b"), layers=("mid", "up"))
    display = ComparisonMapDisplay.from_table(frame)
    assert display.groups[::4] == ["a, mid", "a, up", "b, mid", "b, up"]
    assert [t for t in texts(display.ax_) if ", " in t] == ["a, mid", "a, up", "b, mid", "b, up"]
    lefts = np.unique([patch.get_x() for patch in display.ax_.patches])
    assert len(lefts) == 16 and (np.diff(lefts) > 1.2).sum() == 3
    only = ComparisonMapDisplay.from_table(table(4, layers=("mid", "up")))
    assert only.groups[::4] == ["mid", "up"]


@pytest.mark.parametrize(("n_levels", "cubes"), [(1, 1), (12, 1), (12, 2), (40, 5)])
def test_small_and_large_maps_are_drawn(n_levels: int, cubes: int) -> None:
    frame = table(n_levels, cubes=tuple("abcde"[:cubes]))
    display = ComparisonMapDisplay.from_table(frame)
    display.figure_.canvas.draw()
    width = display.figure_.get_size_inches()[0]
    assert 4 <= width < 40
    assert bool([t for t in texts(display.ax_) if "." in t]) == (n_levels * cubes <= 16)


def test_a_map_takes_an_axes() -> None:
    _, ax = plt.subplots()
    assert ComparisonMapDisplay.from_table(table(), ax=ax).ax_ is ax


# ---- curves ---------------------------------------------------------------------------------------------------------


def lines(ax: Any) -> list[Any]:
    return [line for line in ax.get_lines() if len(line.get_xdata()) > 1]


def test_curves_hold_the_numbers_with_interval_and_best_level() -> None:
    frame = table()
    display = ComparisonCurveDisplay.from_table(frame)
    icr, rankme = display.axes_
    assert icr._left_title.get_text() == "icr ↓" and rankme._left_title.get_text() == "rankme ↑"
    (curve,) = lines(icr)
    np.testing.assert_array_equal(curve.get_xdata(), frame["sigma"])
    np.testing.assert_array_equal(curve.get_ydata(), frame["icr"])
    assert len(icr.collections) == 1 and not rankme.collections  # the band
    for ax, best in ((icr, frame["icr"].idxmin()), (rankme, frame["rankme"].idxmax())):
        (point,) = (line for line in ax.get_lines() if len(line.get_xdata()) == 1)
        assert point.get_xdata()[0] == frame["sigma"][best]
    assert icr.get_xscale() == "log" and not display.figure_.legends


def test_a_line_for_each_layer_of_each_cube() -> None:
    display = ComparisonCurveDisplay.from_table(table(5, cubes=("a", "b"), layers=("mid", "up", "down")))
    assert list(display.panels["icr"]) == ["a, mid", "a, up", "a, down", "b, mid", "b, up", "b, down"]
    drawn = lines(display.axes_[0])
    assert len(drawn) == 6
    looks = {(line.get_color(), line.is_dashed()) for line in drawn}
    assert len(looks) == 6
    (legend,) = display.figure_.legends
    assert [text.get_text() for text in legend.get_texts()] == list(display.panels["icr"])
    display.figure_.canvas.draw()


def test_the_untrained_part_is_dotted_and_holds_no_best_level() -> None:
    frame = table(4)
    frame["icr"] = [0.1, 0.4, 0.3, 0.5]
    frame["trained"] = pd.array([False, True, True, True], dtype="boolean")
    ax = ComparisonCurveDisplay.from_table(frame).axes_[0]
    solid, dotted = lines(ax)
    assert np.isnan(solid.get_ydata()[0]) and dotted.get_linestyle() == ":"
    np.testing.assert_array_equal(dotted.get_ydata(), frame["icr"])
    (point,) = (line for line in ax.get_lines() if len(line.get_xdata()) == 1)
    assert point.get_ydata()[0] == 0.3


def test_one_level_and_many_steps_go_over_steps() -> None:
    frame = pd.concat([table(1, cubes=(name,)) for name in ("run 300", "run 100", "run 200")], ignore_index=True)
    frame["step"] = pd.array([300, 100, 200], dtype="Int64")
    frame.attrs["greater_is_better"] = {"icr": False, "rankme": True}
    display = ComparisonCurveDisplay.from_table(frame)
    assert display.x_name == "training step" and list(display.panels["icr"]) == ["mid"]
    assert display.panels["icr"]["mid"]["x"].tolist() == [100, 200, 300]


def test_missing_numbers_and_unknown_levels_are_drawn() -> None:
    frame = table(4)
    frame.loc[1, ["icr", "icr_low", "icr_high"]] = np.nan
    frame["rankme"] = np.nan
    ComparisonCurveDisplay.from_table(frame).figure_.canvas.draw()
    ComparisonMapDisplay.from_table(frame).figure_.canvas.draw()
    one = table(1)
    one["sigma"] = np.nan
    ComparisonCurveDisplay.from_table(one).figure_.canvas.draw()
    assert ComparisonMapDisplay.from_table(one).levels == [""]


@pytest.mark.parametrize("display", [ComparisonCurveDisplay, ComparisonMapDisplay])
def test_what_the_table_lacks_is_named(display: Any) -> None:
    with pytest.raises(ValueError, match="no metric 'lidar'; it has icr, rankme"):
        display.from_table(table(), metrics=["lidar"])
    with pytest.raises(ValueError, match="give the one that icrkit"):
        display.from_table(pd.DataFrame(table().to_dict()))


def test_real_tables_are_drawn() -> None:
    cube = ik.datasets.make_cube(120, 12, icr=[0.3, 0.6], sigmas=[0.1, 1.0], random_state=0)
    got = ik.compare(cube, ["icr", "lidar", "rankme", "trace_ratio", "uniformity"])
    assert len(ComparisonCurveDisplay.from_table(got).axes_) == 5
    assert ComparisonMapDisplay.from_table(got).best.tolist() == [0, *ComparisonMapDisplay.from_table(got).best[1:]]
