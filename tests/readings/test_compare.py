"""Comparison: the table holds what the estimators give, from one read; tests keep their level; ranks are Spearman's."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import icrkit as ik
from icrkit import linalg
from icrkit._features import Features
from icrkit.backends import PASSES, _numpy
from icrkit.exceptions import CubeFormatError, IllConditionedError
from icrkit.metrics import Measure, Metric, find_metric, known_metrics
from icrkit.metrics._crossfit import Crossfit, crossfit, jackknife_error
from icrkit.readings import _compare
from icrkit.readings._compare import compare, holm, paired_tests, rank_correlation

PROPERTY = settings(max_examples=60, derandomize=True)
QUIET = "ignore:alpha_req of:UserWarning"
FACTS = ["cube", "layer", "sigma", "step", "trained", "n_images", "n_views", "n_features"]


def labelled(n: int = 150, d: int = 12, **options: Any) -> ik.Cube:
    return ik.datasets.make_cube(
        n, d, n_classes=3, icr=[0.3, 0.6], sigmas=[1.0, 0.1], random_state=0, **options
    )  # fmt: skip


@pytest.fixture(scope="module")
def cube() -> ik.Cube:
    return labelled()


@pytest.fixture(scope="module")
def table(cube: ik.Cube) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compare(cube)


# ---- what the table holds -------------------------------------------------------------------------------------------


def test_a_row_a_level_in_ascending_order_and_a_column_a_metric(table):
    assert list(table.columns[: len(FACTS)]) == FACTS
    assert table["sigma"].tolist() == [0.1, 1.0] and table["layer"].tolist() == ["features"] * 2
    assert table["n_images"].tolist() == [150, 150] and table["n_features"].tolist() == [12, 12]
    assert table["step"].isna().all() and table["trained"].isna().all()
    wanted = {name for name, metric in known_metrics().items() if not metric.two_sets}
    others = set(table.columns) - wanted - set(FACTS)
    assert wanted <= set(table.columns)
    probes = {f"{name}_error" for name in ("linear_probe", "knn_probe", "few_label_probe")}
    assert others == {"icr_low", "icr_high", "information_low", "information_high"} | probes
    assert list(table.columns).index("icr_low") == list(table.columns).index("icr") + 1
    assert table.attrs["greater_is_better"] == {name: find_metric(name).greater_is_better for name in known_metrics()
                                                if name in wanted}  # fmt: skip
    assert table[sorted(wanted)].notna().all(axis=None)


@pytest.mark.filterwarnings("ignore:power law over ranks:UserWarning")
@pytest.mark.parametrize("name", [name for name, metric in known_metrics().items() if not metric.two_sets])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_number_is_the_estimators_own(cube, name, dtype):
    metric = find_metric(name)
    one = ik.from_arrays(cube["features"].to_numpy().astype(dtype), sigmas=cube.sigmas, labels=cube.labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = compare(one, [name, "stable_rank"] if name != "stable_rank" else name)
    for k, sigma in enumerate(sorted(cube.sigmas)):
        level = one.select(sigma=sigma)
        estimator = metric.make().fit(*[level, one.labels] if metric.needs_labels else [level])
        # Moments of all views have float32 products where these suffice, and LiDAR's own are float64.
        rel = 1e-5 if dtype == np.float32 and name in ("lidar", "trace_ratio") else 1e-10
        assert got[name][k] == pytest.approx(getattr(estimator, f"{metric.quantity}_"), rel=rel)
        if name == "icr":
            assert (got["icr_low"][k], got["icr_high"][k]) == pytest.approx(estimator.interval_, rel=1e-10)
        if name.endswith("_probe"):
            assert got[f"{name}_error"][k] == pytest.approx(estimator.accuracy_error_)


def test_parameters_of_ones_own(cube):
    means = Metric.of("rankme of means", lambda: ik.RankMe(views="mean"))
    unit = Metric.of("unit", lambda: ik.TraceRatio(normalize="l2"))
    got = compare(cube, [means, unit, "rankme"], sigmas=1.0)
    level = cube.select(sigma=1.0)
    assert got["rankme of means"][0] == pytest.approx(ik.rankme(level, "mean"), rel=1e-10)
    assert got["unit"][0] == pytest.approx(ik.trace_ratio(level, normalize="l2"), rel=1e-10)
    assert got["rankme"][0] == pytest.approx(ik.rankme(level), rel=1e-10)


def test_steps_and_trained_levels_come_from_the_cubes():
    parts = labelled(60, 3)
    known = {"step": 400, "noise": {"trained_range": [0.05, 0.5]}}
    one = ik.from_arrays(parts["features"].to_numpy(), sigmas=parts.sigmas, attrs=known)
    got = compare({"a": one, "b": parts}, "icr")
    assert got["step"].tolist() == [400, 400, pd.NA, pd.NA]
    assert got["trained"].tolist() == [True, False, pd.NA, pd.NA]
    wrong = ik.from_arrays(
        parts["features"].to_numpy(), sigmas=parts.sigmas, attrs={"noise": {"trained_range": (1, 2, 3)}}
    )
    with pytest.raises(CubeFormatError, match=r"must be two noise levels, \(low, high\), not \(1, 2, 3\)"):
        compare(wrong, "icr")


def test_layers_and_levels_can_be_chosen(cube):
    h = cube["features"].to_numpy()
    two = ik.from_arrays({"a": h, "b": h[..., :5], "c": h}, sigmas=cube.sigmas)
    got = compare(two, ["icr"], layers=["b", "a"], sigmas=[1.0])
    assert list(zip(got["layer"], got["sigma"], got["n_features"], strict=True)) == [("b", 1.0, 5), ("a", 1.0, 12)]
    with pytest.raises(CubeFormatError, match="no layer 'd'"):
        compare(two, ["icr"], layers="d")
    with pytest.raises(CubeFormatError, match=r"levels: 1, 0\.1"):
        compare(two, ["icr"], sigmas=0.2)


def test_a_cube_without_a_known_level_has_a_row():
    one = ik.from_arrays(labelled(60, 3)["features"].to_numpy()[:, :, 0])
    got = compare(one, ["icr", "rankme"])
    assert np.isnan(got["sigma"][0]) and got["icr"].notna().all()


def test_cubes_are_called_after_keys_files_steps_and_numbers(tmp_path, cube):
    h = cube.select(sigma=1.0)["features"].to_numpy()[:, :, 0]
    for folder, name in (("x", "a"), ("x", "b"), ("y", "a")):
        (tmp_path / folder).mkdir(exist_ok=True)
        np.save(tmp_path / folder / f"{name}.npy", h)
    first, second, third = (ik.open_cube(tmp_path / path) for path in ("x/a.npy", "x/b.npy", "y/a.npy"))
    steps = [ik.from_arrays(h, attrs={"step": step}) for step in (10, 20)]

    def names(cubes: Any) -> list[str]:
        return compare(cubes, ["stable_rank"])["cube"].tolist()

    assert names(first) == ["a"] and names([first, second]) == ["a", "b"]
    assert names([first, third]) == [str(tmp_path / "x" / "a.npy"), str(tmp_path / "y" / "a.npy")]
    assert names({"old": first, "new": third}) == ["old", "new"]
    assert names(steps) == ["cube 10", "cube 20"]
    assert names([steps[0], steps[0]]) == ["cube 0", "cube 1"]


# ---- one read -------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """Numbers of images read from where they are stored, call by call."""
    found: list[int] = []
    read = Features.read

    def counted(self: Features, start: int = 0, stop: int | None = None) -> Any:
        block = read(self, start, stop)
        if not isinstance(self.array, np.ndarray):
            found.append(len(block))
        return block

    monkeypatch.setattr(Features, "read", counted)
    return found


@pytest.fixture
def stored(tmp_path) -> ik.Cube:
    """Features on disk, so well conditioned that float32 products suffice."""
    rng = np.random.default_rng(0)
    h = (rng.standard_normal((150, 1, 2, 12)) + rng.standard_normal((150, 2, 2, 12))).astype(np.float32)
    cube = ik.from_arrays(h, sigmas=[0.1, 1.0], labels=np.arange(150) % 3)
    cube.to_xarray().to_netcdf(tmp_path / "a.h5", engine="h5netcdf")
    return ik.open_cube(tmp_path / "a.h5")


@pytest.mark.filterwarnings(QUIET)
def test_moments_read_the_features_once(reads, stored, monkeypatch):
    compare(stored, "moments")
    assert reads == [150, 150]  # two levels, in memory
    reads.clear()
    monkeypatch.setattr(_compare, "_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(_compare, "_PART_BYTES", 2000)
    compare(stored, "moments")
    assert sum(reads) == 300 and len(reads) > 10


@pytest.mark.filterwarnings(QUIET)
def test_a_level_that_fits_is_read_once_for_all_metrics(reads, stored):
    compare(stored)
    assert reads == [150, 150]


@pytest.mark.parametrize("part_bytes", [1, 3000, 1 << 20])
@pytest.mark.filterwarnings(QUIET)
def test_parts_add_up_to_the_whole(stored, monkeypatch, part_bytes):
    whole = compare(stored, "moments")
    monkeypatch.setattr(_compare, "_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(_compare, "_PART_BYTES", part_bytes)
    parts = compare(stored, "moments")
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-5)


@pytest.mark.filterwarnings(QUIET)
def test_each_eigenproblem_is_solved_once(cube, monkeypatch):
    solved = []
    reduce = linalg._tridiagonal

    def counted(matrix: Any, *args: Any, **how: Any) -> Any:
        solved.append(matrix.shape)
        return reduce(matrix, *args, **how)

    monkeypatch.setattr(linalg, "_tridiagonal", counted)
    monkeypatch.setattr(np.linalg, "eigvalsh", None)
    compare(cube, "moments", sigmas=1.0)
    # LiDAR's, and one of single rows, about their mean and about the origin.
    assert solved == [(12, 12)] * 2


def test_float64_where_float32_does_not_suffice_another_metric(cube):
    class Picky(Measure):
        quantity = "picky"
        takes_moments = True

        def _results(self, given: Any, y: Any) -> dict[str, Any]:
            if given.products == "float32":
                raise IllConditionedError("digits are missing")
            return {"picky": float(given.n_images.sum())}

    one = ik.from_arrays(cube["features"].to_numpy().astype(np.float32), sigmas=cube.sigmas)
    assert compare(one, [Metric.of("picky", Picky), "icr"])["picky"].tolist() == [150, 150]


@pytest.mark.parametrize(
    ("residual", "signal", "passes"),
    [
        (1.0, 1.0, [(10, "float32"), (0, "float32")]),
        # One strong direction, which the residual does not share.
        (1.0, 300.0, [(10, "float32"), (0, "float32"), (0, "float64")]),
        # Where float32 fails the residual it is not tried on single rows.
        (0.003, 1.0, [(10, "float32"), (10, "float64"), (0, "float64")]),
    ],
)
def test_single_rows_in_float32_where_that_suffices(monkeypatch, residual, signal, passes):
    rng = np.random.default_rng(0)
    h = rng.standard_normal((400, 2, 6))
    h[..., 0] = h[..., 1] + residual * h[..., 0]
    h += rng.standard_normal((400, 1, 6)) * [1, 1, 1, 1, 1, signal]
    seen = []

    def spy(features, folds, n_folds, products):
        seen.append((n_folds, products))
        return _numpy.accumulate(features, folds, n_folds, products)

    cube = ik.from_arrays(h.astype(np.float32))
    monkeypatch.setitem(PASSES, "numpy", spy)
    got = compare(cube, ["rankme", "effective_rank", "stable_rank", "icr"])
    assert seen == passes
    monkeypatch.undo()
    for name in ("rankme", "effective_rank", "stable_rank"):
        assert got[name][0] == pytest.approx(getattr(ik, name)(cube), rel=1e-6 if passes[-1][1] == "float32" else 1e-10)
    alone = compare(cube, ["rankme"])
    assert alone["rankme"][0] == pytest.approx(ik.rankme(cube), rel=1e-12)


@pytest.mark.parametrize(("offset", "least"), [(0.0, 1.0), (10.0, 1.0), (10.0, 1e-4)])
@pytest.mark.parametrize("views", [0, "mean", "all"])
@pytest.mark.filterwarnings(QUIET)
def test_a_number_does_not_depend_on_what_else_is_asked_for(offset, least, views):
    # ICR's products are float32 here, whatever origin and scales; those of single rows where they bear it.
    rng = np.random.default_rng(1)
    h = rng.standard_normal((700, 2, 160)) + rng.standard_normal((700, 1, 160))
    h = (h * rng.permutation(np.geomspace(0.3, 1, 160)) + offset).astype(np.float32)
    h[..., 3] *= least
    cube = ik.from_arrays(h)
    kinds = {"rankme": ik.RankMe, "effective_rank": ik.EffectiveRank, "alpha": ik.AlphaReQ}
    metrics = [
        Metric.of(name, functools.partial(make, views=views)) if views else find_metric(metric)
        for (name, make), metric in zip(kinds.items(), ("rankme", "effective_rank", "alpha_req"), strict=True)
    ]
    beside, alone = (compare(cube, [*more, *metrics]).iloc[0] for more in (["icr"], []))
    for metric, (name, make) in zip(metrics, kinds.items(), strict=True):
        own = getattr(make(views=views).fit(cube), f"{name}_")
        assert alone[metric.name] == pytest.approx(own, rel=1e-10)
        assert beside[metric.name] == pytest.approx(own, rel=1e-6)


def test_constant_features_are_left_out_on_request():
    rng = np.random.default_rng(0)
    h = rng.standard_normal((200, 2, 2, 5)) + rng.standard_normal((200, 1, 2, 5))
    h[:, :, 0, 2] = 7.0
    cube = ik.from_arrays(h, sigmas=[0.1, 1.0])
    names = ["icr", "information", "lidar", "trace_ratio", "rankme"]
    with pytest.warns(UserWarning, match=r"icr of cube cube, layer features, sigma 0.1: NaN.* drop_constant=True"):
        table = compare(cube, ["icr"])
    assert np.isnan(table["icr"][0]) and len(table.attrs["paired_tests"]) == 0
    with pytest.warns(
        UserWarning,
        match="of cube cube, layer features, sigma 0.1: 1 of 5 features are constant, or nearly so, and left",
    ):
        table = compare(cube, names, drop_constant=True)
    live = np.delete(h[:, :, 0], 2, axis=-1)
    want = ik.ICREstimator(correction="crossfit").fit(live)
    assert table["icr"][0] == pytest.approx(want.icr_, rel=1e-10)
    assert table["icr_low"][0] == pytest.approx(want.interval_[0], rel=1e-10)
    assert table["information"][0] == pytest.approx(ik.InvariantInformation().fit(live).information_, rel=1e-10)
    assert table["rankme"][0] == pytest.approx(ik.rankme(h[:, :, 0]), rel=1e-10)  # the mean counts
    assert table["n_features"].tolist() == [5, 5]
    assert not table.attrs["paired_tests"]  # of four features and of five
    h[:, :, 0] = 7.0
    with pytest.warns(UserWarning, match="every feature is constant, or nearly so: the layer is dead"):
        assert compare(ik.from_arrays(h, sigmas=[0.1, 1.0]), ["icr"], drop_constant=True)["icr"].notna().tolist() == [
            False,
            True,
        ]


# ---- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(QUIET)
def test_a_degenerate_level_is_nan_where_it_matters_and_the_rest_goes_on(cube):
    h = cube["features"].to_numpy().copy()
    h[:, 1, 1] = h[:, 0, 1]  # sigma 0.1: the views are one and the same
    broken = ik.from_arrays({"mid": h}, sigmas=cube.sigmas, labels=cube.labels)
    with pytest.warns(UserWarning, match="NaN, since") as said:
        got = compare({"net": broken}, ["icr", "total_snr", "lidar", "rankme", "alignment", "knn_probe"])
    assert got[["icr", "total_snr", "lidar"]].isna().all(axis=1).tolist() == [True, False]
    assert got[["rankme", "alignment", "knn_probe"]].notna().all(axis=None)
    texts = [str(warning.message) for warning in said]
    where = "of cube net, layer mid, sigma 0.1: NaN, since DegenerateFeaturesError: no residual"
    assert len(texts) == 1 and texts[0].startswith(f"icr, total_snr, lidar {where}")
    assert list(got.columns[-7:]) == ["icr_high", "total_snr", "lidar", "rankme", "alignment", "knn_probe",
                                      "knn_probe_error"]  # fmt: skip


def test_what_the_pass_itself_refuses_is_said_once(cube):
    h = cube["features"].to_numpy().copy()
    h[3, 0, 0, 5] = np.nan
    with pytest.warns(UserWarning, match="1 of .* NaN or inf; the first is nan at image 3, view 0, feature 5") as said:
        got = compare(ik.from_arrays(h, sigmas=cube.sigmas), ["icr", "lidar", "rankme", "stable_rank"])
    assert got[["icr", "lidar", "rankme", "stable_rank"]].isna().all(axis=1).tolist() == [False, True]
    assert len(said) == 2  # of all views, and of the first: each names the shape it read


def test_one_view_has_no_residual_and_the_rest_goes_on(cube):
    one = ik.from_arrays(cube["features"].to_numpy()[:, :1], sigmas=cube.sigmas)
    with pytest.warns(UserWarning, match=r"icr, trace_ratio of .*has 1 view") as said:
        got = compare(one, ["icr", "trace_ratio", "rankme", "stable_rank"])
    assert got["icr"].isna().all() and got[["rankme", "stable_rank"]].notna().all(axis=None) and len(said) == 2


def test_an_error_of_any_kind_stays_with_its_metric(cube):
    class Wrong(Measure):
        quantity = "wrong"

        def _results(self, given: Any, y: Any) -> dict[str, Any]:
            raise KeyError("oops")

    with pytest.warns(UserWarning, match=r"wrong of cube cube, layer features, sigma 1: NaN, since KeyError: 'oops'"):
        got = compare(cube, [Metric.of("wrong", Wrong), "icr"], sigmas=1.0)
    assert got["wrong"].isna().all() and got["icr"].notna().all()


def test_a_file_that_cannot_be_read_is_an_error(stored, monkeypatch):
    def read(self: Features, start: int = 0, stop: int | None = None) -> Any:
        raise ik.exceptions.CubeCorruptError("the part changed")

    for most in (_compare._IN_MEMORY_BYTES, 0):
        monkeypatch.setattr(_compare, "_IN_MEMORY_BYTES", most)
        with monkeypatch.context() as patch, pytest.raises(ik.exceptions.CubeCorruptError, match="the part changed"):
            patch.setattr(Features, "read", read)
            compare(stored, ["icr", "uniformity"])


def test_what_a_metric_warns_of_at_every_level_is_said_once(cube):
    with pytest.warns(UserWarning, match="power law") as said:
        compare(cube, ["alpha_req"])
    assert [str(w.message).split(":")[0] for w in said] == [
        "alpha_req of cube cube, layer features, sigma 0.1 and 1 more"
    ]


def test_labels_are_the_cubes_or_given_by_name_or_for_all(cube):
    plain = ik.from_arrays(cube["features"].to_numpy(), sigmas=cube.sigmas)
    wanted = compare(cube, ["cdnv"])["cdnv"].tolist()
    assert compare(plain, ["cdnv"], labels=cube.labels)["cdnv"].tolist() == wanted
    both = compare({"a": plain, "b": cube}, ["cdnv"], labels={"a": cube.labels})
    assert both["cdnv"].tolist() == wanted * 2
    with pytest.raises(ValueError, match="cdnv needs labels, and a carries none: give labels="):
        compare({"a": plain, "b": cube}, ["icr", "cdnv"])
    with pytest.raises(ValueError, match=r"labels of cube have shape \(3,\); wanted \(150,\)"):
        compare(plain, ["cdnv"], labels=[0, 1, 2])
    with pytest.raises(ValueError, match="labels are given for z, and the cubes are a"):
        compare({"a": plain}, ["cdnv"], labels={"z": cube.labels})


@pytest.mark.filterwarnings(QUIET)
def test_all_metrics_leave_out_what_no_cube_has_labels_for(cube):
    plain = ik.from_arrays(cube["features"].to_numpy(), sigmas=cube.sigmas)
    assert "cdnv" not in compare(plain) and "uniformity" in compare(plain, sigmas=1.0)
    mixed = compare({"a": plain, "b": cube})
    assert mixed["cdnv"].isna().tolist() == [True, True, False, False]
    assert "uniformity" not in compare(plain, "moments") and "rankme" in compare(plain, "moments", sigmas=1.0)


@pytest.mark.parametrize(
    ("cubes", "metrics", "message"),
    [
        ("cube", ["icr", "icr"], "different names"),
        ("cube", [], "one or more"),
        ("cube", "icrr", "there is no metric 'icrr'; there are icr, "),
        ("cube", ["linear_cka"], r"a number of two sets: LinearCKA\(\).fit\(reference\).evaluate\(X\)"),
        ([], "icr", "no cube to compare"),
    ],
)
def test_wrong_use_is_named(cube, cubes, metrics, message):
    with pytest.raises(ValueError, match=message):
        compare(cube if cubes == "cube" else cubes, metrics)


def test_only_cubes_are_compared():
    with pytest.raises(TypeError, match="takes cubes, not ndarray"):
        compare([np.zeros((5, 2, 3))], "icr")
    assert compare(ik.Cube(xr.DataArray(np.random.default_rng(0).standard_normal((30, 2, 3)),
                                        dims=("image", "view", "feature"))), "icr")["icr"].notna().all()  # fmt: skip


def test_a_progress_bar_counts_fits(cube, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)  # a log gets no bar
    compare(cube, ["icr", "total_snr", "rankme"], progress=True)
    assert "4/4" in capsys.readouterr().err


# ---- paired tests ---------------------------------------------------------------------------------------------------


def place(cube: str = "a", layer: str = "mid", sigma: float = 0.1) -> dict[str, Any]:
    return {"cube": cube, "layer": layer, "sigma": sigma}


def level_of(log_q: float, replicates: Any) -> Crossfit:
    without = log_q + np.asarray(replicates)
    return Crossfit(np.full(5, np.exp(log_q) - 0.5), np.ones(5), 2, 0.0, np.zeros(5), without)


def test_a_difference_by_hand():
    a, b = level_of(0.0, [0.1, 0, 0, 0, -0.1]), level_of(0.4, [0, 0.1, 0, -0.1, 0])
    (test,) = paired_tests([place(), place(sigma=0.2)], [a, b], [1, 1])
    differences = np.array([-0.1, 0.1, 0, -0.1, 0.1])
    t = 0.4 / np.sqrt(4 / 5 * np.square(differences).sum())
    assert test["t"] == pytest.approx(t) and test["dof"] == 4 and test["varies"] == "sigma"
    assert test["p"] == test["p_adjusted"] == pytest.approx(2 * stats.t.sf(t, 4))
    assert test["difference"] == pytest.approx(1 / (0.5 + np.exp(0.4)) - 1 / 1.5)


def test_which_pairs_are_tested():
    one = level_of(0.0, np.zeros(5))
    places = [place(), place(sigma=0.2), place(cube="b"), place(layer="up"), place("b", "up", 0.2), place("c")]
    tests = paired_tests(places, [one] * 6, [1, 1, 1, 1, 1, 2])
    assert {(t["a"], t["b"]): t["varies"] for t in tests} == {(0, 1): "sigma", (0, 2): "cube", (0, 3): "layer"}
    assert paired_tests(places[:2], [one, None], [1, 1]) == []
    assert paired_tests(places[:2], [one, dataclasses.replace(one, replicates=None)], [1, 1]) == []
    assert not paired_tests([place(sigma=np.nan), place(sigma=np.nan, cube="b")], [one] * 2, [1, 2])
    assert len(paired_tests([place(sigma=np.nan), place(sigma=np.nan, cube="b")], [one] * 2, [1, 1])) == 1


def test_the_same_features_do_not_differ_from_themselves(cube):
    got = compare({"a": cube, "b": cube}, "icr", sigmas=1.0)
    (test,) = got.attrs["paired_tests"]
    assert (test["difference"], test["t"], test["p"], test["varies"]) == (0.0, 0.0, 1.0, "cube")


def test_tests_of_a_table_are_those_of_its_rows(cube):
    h = cube["features"].to_numpy()
    other = ik.from_arrays(h[::-1], sigmas=cube.sigmas, image_ids=cube.image_ids[::-1])  # the same images
    fewer, wider = cube[:140], ik.from_arrays({"features": h[..., :6]}, sigmas=cube.sigmas)
    got = compare({"a": cube, "b": other, "c": fewer, "d": wider}, "icr")
    tests = got.attrs["paired_tests"]
    within = {(0, 1), (2, 3), (4, 5), (6, 7)}
    assert {(t["a"], t["b"]) for t in tests} == within | {(0, 2), (1, 3)}
    fits = [crossfit(ik.Moments.from_cube(cube.select(sigma=sigma))) for sigma in (0.1, 1.0)]
    t = np.log(fits[1].q / fits[0].q) / jackknife_error(fits[1].replicates - fits[0].replicates)
    assert tests[0]["t"] == pytest.approx(t, rel=1e-6)
    assert tests[0]["difference"] == pytest.approx(got["icr"][1] - got["icr"][0])


@PROPERTY
@given(st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.049, 0.2, 0.7, 1.0]), min_size=1, max_size=5))
def test_holm_is_the_closed_test_of_all_subsets(p):
    members = range(len(p))
    subsets = [s for k in range(1, len(p) + 1) for s in itertools.combinations(members, k)]
    closed = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s) for i in members]
    np.testing.assert_allclose(holm(np.array(p)), closed, rtol=1e-12)


def test_holm_of_nothing():
    assert holm(np.array([])).shape == (0,)


def test_paired_tests_keep_their_level_where_nothing_differs():
    rng, rejected, n = np.random.default_rng(0), 0, 400
    for _ in range(n):
        s = rng.standard_normal((80, 1, 4))
        h = [s + rng.standard_normal((80, 2, 4)) for _ in range(2)]
        fits = [crossfit(ik.Moments.from_cube(one)) for one in h]
        (test,) = paired_tests([place(), place(sigma=0.2)], fits, [1, 1])
        rejected += test["p"] < 0.05
    # 5.1 % of 4,000 were rejected; 6.9 % with heavy tails and a scale for each image, 5.7 % with 400 images.
    assert rejected / n < 0.05 + 3 * np.sqrt(0.05 * 0.95 / n)


# ---- rank correlation -----------------------------------------------------------------------------------------------


def ranked(**columns: Any) -> pd.DataFrame:
    """A table with the directions of icr (lower) and rankme (greater), and columns without any."""
    frame = pd.DataFrame(columns)
    if "cube" not in frame:
        frame["cube"] = "a"
    frame.attrs["greater_is_better"] = {"icr": False, "rankme": True}
    return frame


def test_signs_are_those_of_better():
    frame = ranked(icr=[0.5, 0.6, 0.7, 0.9], rankme=[1.0, 2, 3, 4], accuracy=[0.9, 0.8, 0.7, 0.6], fid=[1.0, 2, 3, 4])
    assert rank_correlation(frame, "accuracy")["rho"].to_dict() == {"icr": 1.0, "rankme": -1.0}
    assert rank_correlation(frame, "fid", greater_is_better=False)["rho"].to_dict() == {"icr": 1.0, "rankme": -1.0}
    assert rank_correlation(frame, "icr")["rho"].to_dict() == {"rankme": -1.0}
    assert rank_correlation(frame, "rankme")["rho"].to_dict() == {"icr": -1.0}


def test_ranks_do_not_hang_on_rounding():
    """The same space under six linear maps: RankMe of all is one number, but for its last digits."""
    value, last = 3.7, np.spacing(3.7)
    x = value + last * np.array([3, -2, 0, 1, -1, 2])
    frame = ranked(rankme=[*x, 5.0], accuracy=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    expected = stats.spearmanr([value] * 6 + [5.0], frame["accuracy"]).statistic
    assert rank_correlation(frame, "accuracy").loc["rankme", "rho"] == pytest.approx(expected, rel=1e-12)
    assert np.isnan(rank_correlation(frame[:6], "accuracy").loc["rankme", "rho"])


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=12))
def test_rho_is_scipys_with_ties(pairs):
    x, y = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    frame = ranked(rankme=x, accuracy=y)
    got = rank_correlation(frame, "accuracy", n_resamples=20).loc["rankme"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = stats.spearmanr(x, y).statistic
    assert got["n"] == len(x)
    np.testing.assert_allclose(got["rho"], wanted, atol=1e-12)


def test_p_is_that_of_all_permutations():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 6))
    got = rank_correlation(ranked(rankme=x, accuracy=y), "accuracy", n_resamples=20_000).loc["rankme"]
    rho = stats.spearmanr(x, y).statistic
    exact = np.mean([abs(stats.spearmanr(x, p).statistic) >= abs(rho) - 1e-12 for p in itertools.permutations(y)])
    assert got["p"] == pytest.approx(exact, abs=4 * np.sqrt(exact / 20_000))


def test_rows_without_a_number_are_left_out_and_counted():
    frame = ranked(icr=[0.1, np.nan, 0.3, 0.4, 0.5], rankme=[1.0] * 5, accuracy=[4.0, 9, 3, np.nan, 2])
    got = rank_correlation(frame, "accuracy")
    assert got.loc["icr", ["rho", "n"]].tolist() == [1.0, 3]
    assert got.loc["rankme", "n"] == 4 and np.isnan(got.loc["rankme", ["rho", "p"]].astype(float)).all()
    assert np.isnan(rank_correlation(frame[:2], "accuracy").loc["icr", "rho"])


def test_an_interval_needs_five_cubes_and_holds_the_truth():
    few = ranked(rankme=np.arange(8.0), accuracy=np.arange(8.0), cube=list("aabbccdd"))
    assert rank_correlation(few, "accuracy")[["low", "high"]].isna().all(axis=None)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(60)
    y = x + rng.standard_normal(60)
    many = ranked(rankme=x, accuracy=y, cube=np.repeat(np.arange(20), 3).astype(str))
    got = rank_correlation(many, "accuracy").loc["rankme"]
    truth = 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2)  # of a normal pair with correlation sqrt(1/2)
    assert got["low"] < truth < got["high"] and 0.15 < got["high"] - got["low"] < 0.6
    assert got["low"] < got["rho"] < got["high"]


def test_a_table_read_from_a_file_knows_its_metrics(table, tmp_path):
    table.assign(accuracy=[0.9, 0.7]).to_csv(tmp_path / "table.csv", index=False)
    read = pd.read_csv(tmp_path / "table.csv")
    assert rank_correlation(pd.concat([read] * 2), "accuracy").loc["icr", "n"] == 4
    with pytest.raises(ValueError, match="no column 'fid'"):
        rank_correlation(read, "fid")
    with pytest.raises(ValueError, match="no column of the table is a metric"):
        rank_correlation(pd.DataFrame({"a": [1], "b": [2]}), "a")


# ---- real features --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(QUIET)
def test_on_real_features_icr_orders_trained_levels_as_few_labels_do():
    cube = ik.datasets.load_fashion_cube()
    got = compare(cube, ["icr", "lidar", "few_label_probe"])
    ranks = rank_correlation(got[got["trained"]], "few_label_probe")
    assert ranks["n"].tolist() == [9, 9]
    assert ranks.loc["icr", "rho"] > 0.8 and ranks.loc["lidar", "rho"] < -0.8
    window = ik.SemanticWindow().fit(cube).curve_.sel(layer="mid")
    np.testing.assert_allclose(got["icr"], window["icr"], rtol=1e-6)
    np.testing.assert_allclose(got["icr_low"], window["low"], rtol=1e-6)


# ---- too few images -------------------------------------------------------------------------------------------------


def test_too_few_images_are_said_once_for_all_levels():
    """Information was -1.3 beside 13.2 in a table of 80 images and 64 features, without a word."""
    h = np.random.default_rng(0).standard_normal((40, 2, 3, 30))
    cube = ik.from_arrays(h, sigmas=[0.1, 0.2, 0.4])
    with pytest.warns(UserWarning, match=r"icr, information of cube cube, .* and 2 more: 40 images of 2 views") as said:
        table = compare(cube, ["icr", "information", "rankme"])
    assert len(said) == 1 and "52 images of 2 views are the least" in str(said[0].message)
    few = table.attrs["too_few_images"]
    assert [one["sigma"] for one in few] == [0.1, 0.2, 0.4] and few[0]["metrics"] == ["icr", "information"]
    assert compare(cube, ["rankme"]).attrs["too_few_images"] == []  # needs no inverse
