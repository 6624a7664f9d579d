"""Metrics by name: each gives what it says, and those of other packages come by entry points."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import icrkit as ik
from icrkit.cli import main
from icrkit.metrics import Comparison, Measure, Metric, find_metric, known_metrics

PAGE = Path(__file__).parents[2] / "docs" / "new-metric.md"
GOOD = """
from icrkit.metrics import Measure

class Mean(Measure):
    quantity = "mean"

    def _results(self, given, y):
        return {"mean": float(given.read().mean())}
"""


@pytest.fixture(scope="module")
def level() -> ik.Cube:
    return ik.datasets.make_cube(120, 16, n_classes=3, icr=0.3, random_state=0)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a module and its entry points where an installed package would be."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(package: str, module: str, text: str, **points: str) -> None:
        (tmp_path / f"{module}.py").write_text(text)
        info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[icrkit.metrics]", *lines, ""]))

    yield install
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


# ---- icrkit's own ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, metric in known_metrics().items() if not metric.two_sets])
def test_each_metric_gives_its_number_and_is_what_it_says(name, level):
    metric = find_metric(name)
    assert metric == known_metrics()[name] and metric.name == name
    given = [level, level.labels] if metric.needs_labels else [level]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # alpha-ReQ has few eigenvalues here
        estimator = metric.make().fit(*given)
        value = getattr(estimator, f"{metric.quantity}_")
        assert isinstance(value, float) and np.isfinite(value)
        unlabelled = ik.from_arrays(level.level().to_numpy())
        if metric.needs_labels:
            with pytest.raises(ValueError, match="labels"):
                metric.make().fit(unlabelled)
        else:
            assert getattr(metric.make().fit(unlabelled), f"{metric.quantity}_") == pytest.approx(value, rel=0.2)
        moments = ik.Moments.from_cube(level, n_folds=10)
        if not metric.takes_moments:
            with pytest.raises((TypeError, ValueError, AttributeError)):
                metric.make().fit(*[moments, *given[1:]])
        elif not hasattr(estimator, "views"):
            assert getattr(metric.make().fit(moments), f"{metric.quantity}_") == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", [name for name, metric in known_metrics().items() if metric.two_sets])
def test_metrics_of_two_sets_are_comparisons(name):
    made = find_metric(name).make()
    assert isinstance(made, Comparison) and made.quantity == find_metric(name).quantity


@pytest.mark.parametrize(("name", "worse"), [("icr", 0.6), ("total_snr", 0.6), ("trace_ratio", 0.6), ("nc1", 0.6)])
def test_the_direction_is_that_of_cleaner_features(name, worse):
    metric, values = find_metric(name), []
    for truth in (0.2, worse):
        cube = ik.datasets.make_cube(300, 6, n_classes=3, icr=truth, random_state=0)
        given = [cube, cube.labels] if metric.needs_labels else [cube]
        values.append(getattr(metric.make().fit(*given), f"{metric.quantity}_"))
    assert (values[0] > values[1]) == metric.greater_is_better


def test_columns_go_from_cheap_to_labelled_to_two_sets():
    kinds = [(m.two_sets, m.needs_labels, not m.takes_moments) for m in known_metrics().values()]
    assert kinds == sorted(kinds) and next(iter(known_metrics())) == "icr"


def test_numbers_of_one_estimator_are_read_off_one_fit():
    known = known_metrics()
    assert known["icr"].make is known["total_snr"].make and known["alignment"].make is known["uniformity"].make
    others = [metric.make for name, metric in known.items() if name not in ("total_snr", "uniformity")]
    assert len(set(others)) == len(others)


def test_what_is_not_a_measure_is_refused():
    with pytest.raises(TypeError, match="ICREstimator is no subclass of"):
        Metric.of("icr", ik.ICREstimator)
    with pytest.raises(TypeError, match="Measure does not name its quantity"):
        Metric.of("nothing", Measure)


def test_needs_may_depend_on_parameters():
    assert Metric.of("a", ik.metrics.Silhouette).needs_labels
    assert not Metric.of("b", lambda: ik.metrics.Silhouette("kmeans")).needs_labels


# ---- other packages' ------------------------------------------------------------------------------------------------


def test_a_package_brings_a_metric(install, level):
    install("icrkit-mean", "of_mean", GOOD, mean="of_mean:Mean")
    assert list(known_metrics())[-1] == "mean"
    assert dataclasses.astuple(find_metric("mean"))[2:] == ("mean", True, False, False, False, "interval_")
    table = ik.compare(level, metrics=["mean"])
    assert table["mean"][0] == pytest.approx(level.level().to_numpy().mean())


BROKEN = {
    "no such class": ("", "broken:Mean", "AttributeError"),
    "an import that fails": ("import no_such_package_at_all", "broken:Mean", "ModuleNotFoundError"),
    "an error on import": ("1 / 0", "broken:Mean", "ZeroDivisionError: division by zero"),
    "not a class": ("Mean = 3", "broken:Mean", "broken:Mean is no class"),
    "another class": ("class Mean: pass", "broken:Mean", "Mean is no subclass of icrkit.metrics.Measure"),
    "parameters without defaults": (
        GOOD + "\n    def __init__(self, a):\n        self.a = a\n",
        "broken:Mean",
        "missing 1 required positional argument",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_package_is_named_and_takes_no_other_down(case, install, level):
    text, value, reason = BROKEN[case]
    install("icrkit-broken", "broken", text, fine_but_broken=value)
    install("icrkit-mean", "of_mean", GOOD, mean="of_mean:Mean")
    message = rf"metric 'fine_but_broken', which icrkit-broken 1\.0 brings, cannot be used: .*{re.escape(reason)}"
    with pytest.warns(UserWarning, match=message + ".*left out"):
        known = known_metrics()
    assert list(known)[-1] == "mean" and "fine_but_broken" not in known
    with pytest.raises(ValueError, match=message):
        find_metric("fine_but_broken")
    ik.compare(level, metrics=["mean"])  # by name, nothing else is loaded: no warning


def test_a_name_that_is_taken_is_refused(install):
    install("icrkit-mean", "of_mean", GOOD, icr="of_mean:Mean", mean="of_mean:Mean")
    install("icrkit-other", "other", GOOD, mean="other:Mean")
    with pytest.warns(UserWarning, match="the name is taken") as said:
        known = known_metrics()
    assert sorted(str(w.message).split(",")[0] for w in said) == ["metric 'icr'", "metric 'mean'"]
    assert known["icr"].quantity == "icr" and find_metric("icr") == known["icr"]


def test_an_unknown_name_is_answered_with_those_there_are(install):
    install("icrkit-broken", "broken", "1 / 0", broken="broken:Mean")
    with pytest.raises(ValueError, match=r"no metric 'icrr'; there are icr, total_snr, .*, broken$"):
        find_metric("icrr")


# ---- the how-to page ------------------------------------------------------------------------------------------------


def test_the_how_to_page_is_followed_to_the_end(install, tmp_path, monkeypatch):
    text = PAGE.read_text("utf-8")
    python, test, project, shell = (
        re.search(rf"^```{begin}\n(.*?)^```$", text, re.M | re.S)[1]
        for begin in ("python", r"text\n# test_anisotropy.py", r"text\n# pyproject.toml", r"text(?=\nicrkit)")
    )
    settings = tomllib.loads(project)
    points = settings["project"]["entry-points"]["icrkit.metrics"]
    (included,) = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["include"]
    install(settings["project"]["name"], Path(included).stem, python, **points)

    names: dict[str, Any] = {}
    exec(test, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is skipped
        names["test_scikit_learns_own_checks"]()

    cube = ik.datasets.make_cube(100, 4, icr=[0.3, 0.4, 0.6], sigmas=[0.1, 0.3, 1.0], random_state=0)
    np.savez(tmp_path / "features.npz", mid=cube["features"].to_numpy(), sigmas=cube.sigmas)
    monkeypatch.chdir(tmp_path)
    commands = [line.split()[1:] for line in shell.splitlines()]
    assert [args[0] for args in commands] == ["score", "compare"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for args in commands:
            result = CliRunner().invoke(main, [*args, "--json"])
            assert result.exit_code == 0, result.output
            rows = json.loads(result.stdout)["rows"]
            assert [row["sigma"] for row in rows] == [0.1, 0.3, 1.0]
            unit = cube["features"].to_numpy()[:, 0]
            unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
            for row, rows_of in zip(rows, np.moveaxis(unit, 1, 0), strict=True):
                products = (rows_of @ rows_of.T)[np.triu_indices(100, 1)]
                assert row["anisotropy"] == pytest.approx(products.mean(), rel=1e-9)
