"""Walks every public estimator through scikit-learn's own checks, and every public name through its docstring."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator

import icrkit as ik

# These checks fit on an odd number of rows without groups, which is no whole number of images of two views.
ODD_ROWS = dict.fromkeys(
    (
        "check_estimators_overwrite_params",
        "check_estimators_fit_returns_self",
        "check_readonly_memmap_input",
        "check_n_features_in_after_fitting",
    ),
    "an odd number of rows is no whole number of images of two views",
)

ANOTHER_WIDTH = {"check_n_features_in_after_fitting": "layers of another width are what it compares"}


def _parameters(test: Any) -> list[tuple[Any, Any]]:
    """What a parametrised test is run for: its last table, the one that stands nearest to it."""
    return next(mark for mark in test.pytestmark if mark.name == "parametrize").args[1]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize(
    ("est", "expected"),
    [
        (ik.ICREstimator(), ODD_ROWS),
        (ik.FisherSpectrum(), ODD_ROWS),
        (ik.AlignUniform(), ODD_ROWS),
        (ik.NC1Scorer(), {}),
        (ik.InvariantInformation(), ODD_ROWS),
        (ik.LiDAR(), ODD_ROWS),
        (ik.TraceRatio(), ODD_ROWS),
        (ik.RankMe(), {}),
        (ik.EffectiveRank(), {}),
        (ik.ParticipationRatio(), {}),
        (ik.StableRank(), {}),
        (ik.AlphaReQ(ranks=(1, 100)), {}),
        (ik.CDNV(), {}),
        (ik.ClassSeparation(), {}),
        (ik.Silhouette(), {}),
        (ik.LinearProbe(), {}),
        (ik.KNNProbe(), {}),
        (ik.FewLabelProbe(n_labels=1, n_draws=2), {}),
        (ik.FrechetDistance(), {}),
        (ik.FrechetDistance(infinite=True), {}),
        (ik.KernelDistance(), {}),
        (ik.LinearCKA(), ANOTHER_WIDTH),
        (ik.MemorizationRatio(0.6), {}),
        (ik.AuthPct(), {}),
        (ik.NearestRatio(), {}),
        (ik.NeighborRetrieval(), {}),
    ],
    ids=lambda x: type(x).__name__,
)
def test_scikit_learns_own_checks(est, expected):
    results = check_estimator(est, expected_failed_checks=expected, on_skip=None, on_fail=None)
    by_status: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_status.setdefault(result["status"], []).append(result)
    failed = {r["check_name"]: str(r["exception"]) for r in by_status.get("failed", [])}
    assert not failed, failed
    # One that was expected to fail and passes counts as passed: then it must leave the list, but for the one whose
    # number of rows differs between versions of scikit-learn.
    xfailed = {r["check_name"]: str(r["exception"]) for r in by_status.get("xfail", [])}
    assert set(expected) - set(ANOTHER_WIDTH) <= set(xfailed) <= set(expected) and len(expected) <= 4
    if expected is ODD_ROWS:
        reasons = [message for name, message in xfailed.items() if name not in ANOTHER_WIDTH]
        assert all("not a multiple of n_views" in message for message in reasons), reasons
    # Transformers and classifiers have more checks than estimators that only fit and score.
    assert len(by_status["passed"]) + len(xfailed) >= 40
    assert {r["check_name"] for r in by_status.get("skipped", [])} <= {"check_array_api_input"}


# scikit-learn's checks of what takes no 2-D table end with its tags: these, which do not fit, are run by name.
OF_NO_DATA = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
)


@pytest.mark.parametrize("check", OF_NO_DATA)
@pytest.mark.parametrize(
    ("est", "takes_arrays"),
    [
        (ik.SelectLevel(), False),
        (ik.MeanViews(), True),
        (ik.PerView(PCA(2)), True),
        (ik.SemanticWindow(), False),
        (ik.TrainingCourse(), False),
    ],
    ids=lambda x: type(x).__name__,
)
def test_scikit_learns_checks_of_what_takes_no_table(est, takes_arrays, check):
    tags = est.__sklearn_tags__().input_tags
    assert (tags.two_d_array, tags.three_d_array) == (False, takes_arrays)
    getattr(estimator_checks, check)(type(est).__name__, est)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning", "ignore:Can't test estimator:UserWarning")
@pytest.mark.parametrize("est", [est for est, _ in _parameters(test_scikit_learns_checks_of_what_takes_no_table)])
def test_what_takes_no_table_fails_none_of_scikit_learns_checks(est):
    results = check_estimator(est, on_skip=None, on_fail=None)
    assert results and not [r for r in results if r["status"] == "failed"]


@pytest.mark.parametrize("est", [est for est, _ in _parameters(test_scikit_learns_own_checks)], ids=repr)
def test_tags_say_that_tables_and_arrays_are_taken(est):
    tags = est.__sklearn_tags__().input_tags
    assert tags.two_d_array and tags.three_d_array


@pytest.mark.filterwarnings("ignore:power law over ranks 1 to 5:UserWarning")
@pytest.mark.parametrize("est", [est for est, _ in _parameters(test_scikit_learns_own_checks)], ids=repr)
def test_tensors_of_rows_with_array_api_dispatch(est, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # scikit-learn refuses the setting without it
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.standard_normal((200, 5)), 2, axis=0) + 0.5 * rng.standard_normal((400, 5))
    labels = np.arange(400) // 2 % 3
    expected = _numbers(clone(est), rows, labels)
    with sklearn.config_context(array_api_dispatch=True):
        found = _numbers(clone(est), torch.as_tensor(rows), torch.as_tensor(labels))
    assert expected and found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)


def _numbers(est: Any, X: Any, y: Any) -> dict[str, Any]:
    """All numbers of a fit, and of a set that is compared with it."""
    est.fit(X, y)
    score = {} if isinstance(est, ik.NeighborRetrieval) else {"score": est.score(X, y)}
    return score | {k: v for k, v in vars(est).items() if isinstance(v, int | float | np.ndarray) and k.endswith("_")}


def test_every_public_estimator_is_checked():
    public = {name for name in ik.__all__ if _is_estimator(getattr(ik, name))}
    tables = test_scikit_learns_own_checks, test_scikit_learns_checks_of_what_takes_no_table
    assert public == {type(est).__name__ for table in tables for est, _ in _parameters(table)}


def _is_estimator(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, BaseEstimator)


# ---- docstrings -----------------------------------------------------------------------------------------------------

SECTIONS = ("Parameters", "Attributes", "Returns", "Raises", "Warns", "Notes", "References", "Examples")


def public_names() -> Iterator[tuple[str, Any]]:
    for name in ik.__all__:
        thing = getattr(ik, name)
        yield name, thing
        if isinstance(thing, types.ModuleType):
            for inner in getattr(thing, "__all__", ()):
                yield f"{name}.{inner}", getattr(thing, inner)


def sections(doc: str) -> list[str]:
    return re.findall(r"^[ \t]*([A-Z][A-Za-z ]+)\n[ \t]*-{3,}$", doc, flags=re.M)


def own_parameters(thing: Any) -> list[str]:
    signature = inspect.signature(thing)
    skip = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in signature.parameters.values() if p.kind not in skip]


@pytest.mark.parametrize(("name", "thing"), list(public_names()), ids=lambda x: x if isinstance(x, str) else "")
def test_every_public_name_has_a_docstring_in_order(name, thing):
    doc = inspect.getdoc(thing)
    assert doc, f"{name} has no docstring"
    summary = doc.split("\n\n")[0]
    # A summary is a sentence, on one line if it can be and on two at most.
    assert summary.rstrip().endswith((".", ":")) and summary.count("\n") <= 1, summary
    found = sections(doc)
    assert set(found) <= set(SECTIONS), found
    assert found == sorted(found, key=SECTIONS.index), f"{name}: sections {found} are not in order"


@pytest.mark.parametrize(
    ("name", "thing"),
    [
        (name, thing)
        for name, thing in public_names()
        if callable(thing) and not (inspect.isclass(thing) and issubclass(thing, BaseException | tuple))
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_classes_and_functions_have_the_sections_that_apply(name, thing):
    doc = inspect.getdoc(thing) or ""
    found = sections(doc)
    assert "Examples" in found and ">>>" in doc, f"{name} has no example"
    parameters = own_parameters(thing)
    if parameters:
        assert "Parameters" in found, f"{name} does not describe {parameters}"
        described = doc.split("Parameters\n")[1]
        missing = [p for p in parameters if not re.search(rf"(?<!\w){re.escape(p)}(?!\w)", described)]
        assert not missing, f"{name}: {missing} not described"
    if _is_estimator(thing):
        undescribed = [a for a in _attributes_after_fit(thing) if not re.search(rf"(?<!\w){a}(?!\w)", doc)]
        assert not undescribed, f"{name} does not describe {undescribed}"
    if inspect.isfunction(thing) and inspect.signature(thing).return_annotation not in (None, "None"):
        assert "Returns" in found, f"{name} does not say what it returns"


def _attributes_after_fit(thing: type) -> list[str]:
    found = set(re.findall(r"self\.(\w+_)\b(?!\()", inspect.getsource(thing)))
    return [name for name in found if not name.startswith("_") and name != "n_features_in_"]


@pytest.mark.parametrize(
    ("name", "thing"),
    [(name, thing) for name, thing in public_names() if inspect.isclass(thing) and name in ik.__all__],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_public_methods_are_described(name, thing):
    missing = [
        method
        for method, function in inspect.getmembers(thing, callable)
        if not method.startswith("_")
        and getattr(function, "__module__", "").startswith("icrkit")
        and not inspect.getdoc(function)
    ]
    assert not missing, f"{name}: {missing} have no docstring"
