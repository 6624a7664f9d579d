"""Comparison: all metrics of many cubes side by side, and which of them order the rows as another number does.

The paired tests are those of the jackknife over folds of images (:mod:`icrkit.metrics._crossfit`), adjusted by Holm
1979, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6(2).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from icrkit._arrays import to_column
from icrkit._features import Features, as_features
from icrkit._progress import progress_bar
from icrkit._repeats import RepeatTracker
from icrkit._text import at_sigma
from icrkit.backends import moments_of
from icrkit.cube import Cube
from icrkit.exceptions import DegenerateFeaturesError, IllConditionedError, NotComputedWarning
from icrkit.metrics._base import row_moments
from icrkit.metrics._crossfit import Crossfit
from icrkit.metrics._decomposition import without_constant
from icrkit.metrics._registry import Metric, find_metric, known_metrics
from icrkit.moments import Moments
from icrkit.readings._difference import paired_test
from icrkit.readings._evidence import Evidence
from icrkit.readings._pairing import trained_range_of

__all__ = ["compare", "holm", "named_cubes", "paired_tests", "rank_correlation"]

# A level that is smaller is read into memory once, for all metrics; of a larger one parts of the second size are.
_IN_MEMORY_BYTES = 512 << 20
_PART_BYTES = 128 << 20

_N_FOLDS = 10  # ICREstimator's own

# Numbers that rest on an inverse of the residual covariance.
_NEED_IMAGES = ("icr", "total_snr", "information")

_PLACE = ("cube", "layer", "sigma")


def compare(
    cubes: Any,
    metrics: str | Sequence[str | Metric] = "all",
    *,
    labels: Any = None,
    layers: str | Sequence[str] | None = None,
    sigmas: float | Sequence[float] | None = None,
    drop_constant: bool = False,
    progress: bool = False,
) -> Any:
    """Table of metrics, one row for each cube, layer and noise level.

    Parameters
    ----------
    cubes : Cube, mapping of str to Cube, or sequence of Cube
        Models, checkpoints, data sets. Without names of their own they are called after their files, and their steps
        where files have one name.
    metrics : "all", "moments", or sequence of str and Metric
        "all": every metric of one set of features, of icrkit and of other installed packages; those that need labels
        where any cube has some. "moments": of these the ones for which moments suffice, which cost little. Or names,
        as in :func:`icrkit.metrics.known_metrics`, and `Metric` for other parameters than the default ones.
    labels : array (n_images,), or mapping of cube's name to array, optional
        Class of each image; the cubes' own where left out.
    layers, sigmas : str or float, or sequences of them, optional
        Only these; each cube must have them.
    drop_constant : bool
        Leave dead units, constant or nearly so, out of what is read off the moments of all views: ICR and information,
        which cannot be computed with them, trace ratio and LiDAR. A warning says how many; ``n_features`` counts them.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        Columns ``cube``, ``layer``, ``sigma``, ``step``, ``trained`` (whether the level lies inside the noise that the
        network was trained on, where the cube says), ``n_images``, ``n_views``, ``n_features``, and one a metric; next
        to it ``_low`` and ``_high``, its 95 % interval, and ``_error``, its standard error, where the metric gives
        them. In ``attrs``: ``greater_is_better`` by metric, ``paired_tests``, a list of dicts, and ``not_computed`` and
        ``too_few_images``, a dict for each reason at each place: ``cube``, ``layer``, ``sigma``, ``metrics``,
        ``reason``.

    Raises
    ------
    ValueError
        There is no metric of that name, it is one of two sets, or it needs labels that a cube has not.
    CubeFormatError
        A cube has no such layer or level.

    Notes
    -----
    The features of a level are read once. All of its moments come from one pass: those of all views with 10 folds, and
    those of the rows that metrics of single rows see (one view, by default), with float64 products unless float32
    suffices for both. A number may then differ in the sixth digit from that of the estimator on its own. Metrics get
    the same `Moments`, so that each factor and eigenproblem is computed once. What needs rows reads them again, from
    memory where a level takes less than 512 MiB.

    ICR is the cross-fitted one. A metric that cannot be computed at some level is NaN there; a `NotComputedWarning`
    names it, the cube, the layer, the level and the reason.

    ``paired_tests`` compare the ICR of any two rows that differ in nothing but the cube, the layer or the level, and
    hold the same images (by their ids) and the same number of features: ``a`` and ``b`` (row numbers), ``varies``,
    ``difference`` (ICR of b less that of a), ``t``, ``dof``, ``p`` (two-sided) and ``p_adjusted`` (Holm's, over all
    tests of the table). See `paired_tests`.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(n_images=300, n_features=8, icr=[0.3, 0.6], sigmas=[0.1, 1.0], random_state=0)
    >>> table = ik.compare(cube, metrics=["icr", "rankme"])
    >>> list(table.columns[-4:])
    ['icr', 'icr_low', 'icr_high', 'rankme']
    >>> table["icr"].round(1).tolist()
    [0.3, 0.6]
    >>> table.attrs["paired_tests"][0]["p_adjusted"] < 1e-6
    True
    """
    import pandas as pd

    named = named_cubes(cubes)
    labels_of = _labels(named, labels)
    chosen = _chosen(metrics, labels_of)
    places = [place for name, cube in named.items() for place in _places(name, cube, layers, sigmas)]
    rows: list[dict[str, Any]] = []
    levels: list[_Measured] = []
    remarks: dict[tuple[str, str], list[str]] = {}
    missing: list[dict[str, Any]] = []
    few: list[dict[str, Any]] = []
    n_fits = len({metric.make for metric in chosen})
    with progress_bar(progress, len(places) * n_fits, "compare", "fit") as bar:
        for where, facts, features in places:
            level = _Level(features, labels_of[facts["cube"]], chosen, drop_constant)
            measured = _measure(level, chosen, bar.update)
            missed = {name for names in measured.failures.values() for name in names.split(", ")}
            rest = [metric.name for metric in chosen if metric.name in _NEED_IMAGES and metric.name not in missed]
            evidence = Evidence(facts["n_images"], facts["n_views"], measured.n_features, _N_FOLDS)
            if rest and not evidence.enough:
                remark = ", ".join(rest), evidence.missing(facts["layer"])
                remarks.setdefault(remark, []).append(where)
                few.append({key: facts[key] for key in _PLACE} | {"metrics": rest, "reason": remark[1]})
            for reason, names in measured.failures.items():
                missing.append({key: facts[key] for key in _PLACE} | {"metrics": names.split(", "), "reason": reason})
                warnings.warn(f"{names} of {where}: NaN, since {reason}", NotComputedWarning, stacklevel=2)
            for remark in measured.remarks:
                remarks.setdefault(remark, []).append(where)
            rows.append(facts | measured.numbers)
            levels.append(measured)
    for (names, text), places_of in remarks.items():  # once, not once a level
        more = f" and {len(places_of) - 1} more" if len(places_of) > 1 else ""
        warnings.warn(f"{names} of {places_of[0]}{more}: {text}", stacklevel=2)
    table = pd.DataFrame(rows, columns=_columns(rows, chosen))
    table = table.astype({"step": "Int64", "trained": "boolean"})
    table.attrs["greater_is_better"] = {metric.name: metric.greater_is_better for metric in chosen}
    table.attrs["not_computed"] = missing
    table.attrs["too_few_images"] = few
    table.attrs["paired_tests"] = paired_tests(
        rows, [level.crossfit for level in levels], [level.images for level in levels]
    )
    return table


def rank_correlation(
    table: Any, column: str, *, greater_is_better: bool | None = None, n_resamples: int = 9999, random_state: int = 0
) -> Any:
    """Spearman's rank correlation of each metric of a table with one of its columns, from -1 to 1.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`icrkit.compare`; columns may have been added, and rows left out.
    column : str
        A metric, or an added column: an accuracy, a Frechet distance, ...
    greater_is_better : bool, optional
        Of the column; as the table says, and True for one that was added.
    n_resamples : int
        Permutations, and a tenth as many draws of cubes.
    random_state : int
        Seed of both.

    Returns
    -------
    pandas.DataFrame
        A row a metric, in descending order: ``rho``, ``low`` and ``high`` (95 % interval), ``p`` and ``n``, the number
        of rows that have both numbers.

    Raises
    ------
    ValueError
        The table has no such column, or none of its columns is a metric.

    Notes
    -----
    Metric and column are signed so that greater is better: 1 says that both order the rows alike, -1 that the metric
    prefers what the column thinks worst. NaN where fewer than three rows have both, or one of them is constant. Numbers
    that agree in nine digits are ties.

    ``p`` is that of a permutation of the rows, two-sided. It takes rows for exchangeable, which levels of one cube are
    not: two curves over noise that each rise and fall once correlate strongly by chance, and p is then too small.
    ``low`` and ``high`` are percentiles over draws of cubes with all of their rows (a bootstrap of clusters), given
    where there are at least five cubes; otherwise NaN, since a few levels of one model say nothing of other models.

    Rows of different width are ranked together. ICR is not comparable between them; total SNR is.

    Examples
    --------
    >>> import icrkit as ik
    >>> cube = ik.datasets.make_cube(300, 8, icr=[0.3, 0.6, 0.8], sigmas=[0.1, 1.0, 2.0], random_state=0)
    >>> table = ik.compare(cube, metrics=["icr", "trace_ratio"])
    >>> table["accuracy"] = [0.9, 0.7, 0.5]
    >>> ik.rank_correlation(table, "accuracy")["rho"].tolist()
    [1.0, 1.0]
    """
    import pandas as pd

    if column not in table:
        raise ValueError(f"the table has no column {column!r}; it has {', '.join(map(str, table.columns))}")
    directions: Mapping[str, bool] = table.attrs.get("greater_is_better") or {
        name: metric.greater_is_better for name, metric in known_metrics().items()
    }
    names = [name for name in directions if name in table and name != column]
    if not names:
        raise ValueError(f"no column of the table is a metric: {', '.join(map(str, table.columns))}")
    up = directions.get(column, True) if greater_is_better is None else greater_is_better
    target = table[column].to_numpy(dtype=np.float64, na_value=np.nan) * (1 if up else -1)
    clusters = table["cube"].to_numpy() if "cube" in table else np.arange(len(table))
    rows = {}
    for name in names:
        values = table[name].to_numpy(dtype=np.float64, na_value=np.nan) * (1 if directions[name] else -1)
        both = ~(np.isnan(values) | np.isnan(target))
        pair = (_digits(values[both]), _digits(target[both]))
        rows[name] = _correlated(*pair, clusters[both], n_resamples, random_state)
    found = pd.DataFrame.from_dict(rows, orient="index", columns=["rho", "low", "high", "p", "n"])
    return found.astype({"n": int}).sort_values("rho", ascending=False, kind="stable").rename_axis("metric")


def paired_tests(
    places: Sequence[Mapping[str, Any]], crossfits: Sequence[Crossfit | None], images: Sequence[Any]
) -> list[dict[str, Any]]:
    """Tests of equal ICR for all pairs of rows that can be compared.

    Parameters
    ----------
    places : sequence of mapping
        ``cube``, ``layer`` and ``sigma`` of each row.
    crossfits : sequence of Crossfit or None
        None where there is no cross-fitted ICR.
    images : sequence
        What tells sets of images apart: equal for rows of the same images.

    Returns
    -------
    list of dict
        See :func:`icrkit.compare`.

    Notes
    -----
    t = (log Q_b - log Q_a)/s, Q = R + 1/V, which is monotone in ICR; s is the jackknife error of the difference of
    paired replicates: both rows lose the same fold. n_folds - 1 degrees of freedom. Where nothing differed, 5 % of p
    fell below .05 with Gaussian residuals; 7 % of 80 images and 6 % of 400 with heavy tails and a scale for each image.
    """
    tests = []
    for a, b in itertools.combinations(range(len(places)), 2):
        first, second = crossfits[a], crossfits[b]
        varies = [key for key in _PLACE if not _same(places[a][key], places[b][key])]
        if first is None or second is None or len(varies) != 1 or images[a] != images[b]:
            continue
        if (first.n_folds, first.n_views) != (second.n_folds, second.n_views):
            continue
        if first.replicates is None or second.replicates is None:
            continue
        difference = float(np.log(second.q / first.q))
        test = paired_test(difference, second.replicates - first.replicates)
        place = {"a": a, "b": b, "varies": varies[0], "difference": second.icr - first.icr}
        tests.append(place | test._asdict())
    adjusted = holm(np.array([test["p"] for test in tests]))
    return [test | {"p_adjusted": float(p)} for test, p in zip(tests, adjusted, strict=True)]


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's adjusted p-values: rejecting where they are small holds the error of the whole family.

    Parameters
    ----------
    p : ndarray (n_tests,)

    Returns
    -------
    ndarray (n_tests,)
    """
    order = np.argsort(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _same(a: Any, b: Any) -> bool:
    return bool(np.isclose(a, b, rtol=1e-6, equal_nan=True)) if isinstance(a, float) else a == b


# ---- one row --------------------------------------------------------------------------------------------------------


class _Measured(NamedTuple):
    """What is kept of one layer at one level: neither features nor moments."""

    numbers: dict[str, float]
    failures: dict[str, str]  # reason to names
    remarks: list[tuple[str, str]]  # names and warning
    crossfit: Crossfit | None
    images: Any  # what tells them apart, and how many features are left

    @property
    def n_features(self) -> int:
        """Without those that are left out as constant."""
        return int(self.images[1])


def _measure(level: _Level, metrics: Sequence[Metric], tell: Callable[[], Any]) -> _Measured:
    """Metrics of one layer at one level, with interval and standard error where there are any."""
    found = _Measured({}, {}, [], None, None)
    # Metrics that are read off one fit stand together here, and where they were asked for in the table.
    for make in dict.fromkeys(metric.make for metric in metrics):
        alike = [metric for metric in metrics if metric.make is make]
        names = ", ".join(metric.name for metric in alike)
        found.numbers.update(dict.fromkeys((metric.name for metric in alike), float("nan")))
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                estimator = level.fitted(alike[0])
                if estimator is not None:
                    found.numbers.update(_numbers(estimator, alike))
        except OSError:
            raise  # a file that cannot be read is no matter of one metric
        except Exception as error:  # one metric, and it may be another package's
            reason = f"{type(error).__name__}: {error}"
            found.failures[reason] = ", ".join(filter(None, (found.failures.get(reason), names)))
        else:
            if isinstance(getattr(estimator, "_crossfit", None), Crossfit):
                found = found._replace(crossfit=found.crossfit or estimator._crossfit)
        found.remarks.extend((names, text) for text in dict.fromkeys(str(warning.message) for warning in said))
        tell()
    return found._replace(images=level.images)


def _numbers(estimator: Any, metrics: Sequence[Metric]) -> dict[str, float]:
    found = {}
    for metric in metrics:
        found[metric.name] = float(getattr(estimator, f"{metric.quantity}_"))
        if metric.interval is not None and (interval := getattr(estimator, metric.interval, None)) is not None:
            found[f"{metric.name}_low"], found[f"{metric.name}_high"] = map(float, interval)
        if (error := getattr(estimator, f"{metric.quantity}_error_", None)) is not None:
            found[f"{metric.name}_error"] = float(error)
    return found


class _Level:
    """Features of one layer at one level, read once, and the moments that were made of them."""

    def __init__(self, features: Features, labels: Any, metrics: Sequence[Metric], drop_constant: bool = False) -> None:
        self._labels = labels
        self._metrics = metrics
        self._drop_constant = drop_constant
        ids = "\n".join(sorted(map(str, features.image_ids.tolist())))
        self.images = hashlib.blake2b(ids.encode()).digest(), features.shape[2]
        if int(np.prod(features.shape)) * features.dtype.itemsize <= _IN_MEMORY_BYTES:
            features = dataclasses.replace(features, array=features.read(), normalize=None)
        self._features = features
        self._moments: dict[Any, Any] = {}

    def fitted(self, metric: Metric) -> Any:
        """The metric's estimator, fitted; None where it needs labels and there are none."""
        estimator = metric.make()
        if metric.needs_labels:
            return None if self._labels is None else estimator.fit(self._features, self._labels)
        key = _moments_key(estimator, metric)
        if key is None:
            return estimator.fit(self._features)
        moments = self._moments_for(key)
        try:
            return estimator.fit(moments)
        except IllConditionedError:
            # The pass judged its precision by ICR's residual covariance; another metric may ask for more.
            if moments.products == "float64":
                raise
        return estimator.fit(self._moments_for(key, "float64"))

    def _moments_for(self, key: Any, dtype: str = "auto") -> Moments:
        if (key, dtype) not in self._moments:
            keys = {_moments_key(metric.make(), metric) for metric in self._metrics} if dtype == "auto" else {key}
            self._moments |= {(key, dtype): made for key, made in self._read(keys - {None}, dtype).items()}
        found = self._moments[key, dtype]
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Moments)
        return found

    def _read(self, keys: set[Any], dtype: str) -> dict[Any, Any]:
        """Moments of each kind, or the reason why there are none, from one pass over the features."""
        found: dict[Any, Any] = {}
        repeats, start = RepeatTracker(self._features.shape[0], self._features.shape[2]), 0
        for part in _parts(self._features):
            repeats.add(start, part.read())  # which is in memory
            start, part = start + part.shape[0], dataclasses.replace(part, watch=_seen_already)
            rows = "float64"
            for key in sorted(keys, key=lambda key: key != "folds"):
                if isinstance(found.get(key), Exception):
                    continue
                try:
                    new = _moments_of(part, key, dtype if key == "folds" else rows)
                    if key == "folds" and new.products == "float32":
                        rows = dtype  # where float32 fails the residual, it fails single rows as well
                    found[key] = found[key] + new if key in found else new
                except OSError:
                    raise
                except Exception as error:
                    found[key] = error.with_traceback(None)
        repeats.warn(self._features.image_ids, self._features.groups)
        if self._drop_constant and isinstance(whole := found.get("folds"), Moments):
            try:
                varying = without_constant(whole)
            except DegenerateFeaturesError as error:
                return found | {"folds": error.with_traceback(None)}
            if varying is not whole:
                left_out = whole.n_features - varying.n_features
                warnings.warn(
                    f"{left_out} of {whole.n_features} features are constant, or nearly so, and left out", stacklevel=2
                )
            # Rows of one width are paired.
            self.images = self.images[0], varying.n_features
            found["folds"] = varying
        return found


def _seen_already(start: int, block: Any) -> None:
    """Repeats are looked for in all parts together."""


def _moments_key(estimator: Any, metric: Metric) -> Any:
    """Which moments the estimator is to fit: ``("views", number or word)`` of single rows, ``"folds"``, or None."""
    if not metric.takes_moments or metric.needs_labels or getattr(estimator, "normalize", None) is not None:
        return None
    return ("views", estimator.views) if hasattr(estimator, "views") else "folds"


def _moments_of(features: Features, key: Any, dtype: str) -> Moments:
    if key == "folds":
        return moments_of(features, n_folds=_N_FOLDS, dtype=dtype)
    return row_moments(features, key[1], dtype)


def _parts(features: Features) -> Iterator[Features]:
    """The features themselves where they are in memory; else parts of about equal size, each read when it comes."""
    n, v, d = features.shape
    n_bytes = n * v * d * features.dtype.itemsize
    n_parts = 1 if features.in_memory else max(1, min(n // 2, -(-n_bytes // _PART_BYTES)))
    bounds = np.linspace(0, n, n_parts + 1).astype(int)
    for start, stop in itertools.pairwise(bounds):
        block = features.read(start, stop)
        groups = None if features.groups is None else features.groups[start:stop]
        ids = features.image_ids[start:stop]
        yield dataclasses.replace(features, array=block, image_ids=ids, groups=groups, normalize=None)


# ---- the whole ------------------------------------------------------------------------------------------------------


def named_cubes(cubes: Any) -> dict[str, Cube]:
    """Cubes under the names that a table has for them: see `compare`."""
    if isinstance(cubes, Mapping):
        found = {str(name): cube for name, cube in cubes.items()}
    else:
        many = [cubes] if isinstance(cubes, Cube) else list(cubes)
        for cube in many:
            if not isinstance(cube, Cube):
                raise TypeError(f"compare takes cubes, not {type(cube).__name__}: see icrkit.from_arrays")
        found = dict(zip(_names(many), many, strict=True))
    if not found:
        raise ValueError("there is no cube to compare")
    return found


def _names(cubes: list[Cube]) -> list[str]:
    # A file may be called by bytes that are no UTF-8, which neither a table nor JSON can hold.
    sources = [cube.source and os.fsencode(cube.source).decode("utf-8", "backslashreplace") for cube in cubes]
    stems = [Path(source).stem if source else "cube" for source in sources]
    with_step = [stem if cube.step is None else f"{stem} {cube.step}" for stem, cube in zip(stems, cubes, strict=True)]
    paths = [source or stem for stem, source in zip(stems, sources, strict=True)]
    for names in (stems, with_step, paths):
        if len(set(names)) == len(names):
            return names
    return [f"{stem} {number}" for number, stem in enumerate(stems)]


def _labels(cubes: Mapping[str, Cube], labels: Any) -> dict[str, Any]:
    given = labels if isinstance(labels, Mapping) else dict.fromkeys(cubes, labels)
    unknown = sorted(set(map(str, given)) - set(cubes))
    if unknown:
        raise ValueError(f"labels are given for {', '.join(unknown)}, and the cubes are {', '.join(cubes)}")
    found = {}
    for name, cube in cubes.items():
        own = given.get(name)
        labels_of = cube.labels if own is None else to_column(own, f"labels of {name}")
        if labels_of is not None and labels_of.shape != (cube.n_images,):
            raise ValueError(f"labels of {name} have shape {labels_of.shape}; wanted ({cube.n_images},)")
        found[name] = labels_of
    return found


def _chosen(metrics: str | Sequence[str | Metric], labels: Mapping[str, Any]) -> list[Metric]:
    if isinstance(metrics, str) and metrics in ("all", "moments"):
        labelled = any(own is not None for own in labels.values())
        return [
            metric
            for metric in known_metrics().values()
            if not metric.two_sets
            and (labelled or not metric.needs_labels)
            and (metrics == "all" or metric.takes_moments)
        ]
    names = [metrics] if isinstance(metrics, str) else metrics
    found = [name if isinstance(name, Metric) else find_metric(name) for name in names]
    if len({metric.name for metric in found}) < len(found) or not found:
        raise ValueError(f"metrics must be different names, one or more, not {[metric.name for metric in found]}")
    for metric in found:
        if metric.two_sets:
            kind = type(metric.make()).__name__
            raise ValueError(f"{metric.name} is a number of two sets: {kind}().fit(reference).evaluate(X)")
        without = [name for name, own in labels.items() if own is None]
        if metric.needs_labels and without:
            raise ValueError(f"{metric.name} needs labels, and {', '.join(without)} carries none: give labels=")
    return found


def _places(name: str, cube: Cube, layers: Any, sigmas: Any) -> Iterator[tuple[str, dict[str, Any], Features]]:
    """Each layer and level of a cube, in words, as the first columns of its row, and its features, not yet read."""
    trained = trained_range_of(cube)
    chosen = cube.select(layer=layers, sigma=sigmas)
    for layer in chosen.layers:
        for k in np.argsort(chosen.sigmas, kind="stable"):
            sigma = float(chosen.sigmas[k])
            facts = {
                "cube": name,
                "layer": layer,
                "sigma": sigma,
                "step": cube.step,
                "trained": None if trained is None or np.isnan(sigma) else trained[0] <= sigma <= trained[1],
                "n_images": cube.n_images,
                "n_views": cube.n_views,
                "n_features": chosen.n_features[layer],
            }
            features = as_features(chosen[layer].isel(sigma=int(k)), min_views=1)
            yield f"cube {name}, layer {layer}{at_sigma(sigma)}", facts, features


def _columns(rows: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]) -> list[str]:
    """Facts, then each metric and what any row has of its interval and error."""
    present = set().union(*rows)
    facts = ["cube", "layer", "sigma", "step", "trained", "n_images", "n_views", "n_features"]
    ends = ("", "_low", "_high", "_error")
    return facts + [name for metric in metrics for end in ends if (name := metric.name + end) in present]


def _correlated(
    x: NDArray[np.float64], y: NDArray[np.float64], clusters: NDArray[Any], n_resamples: int, seed: int
) -> tuple[float, float, float, float, int]:
    """rho, low, high, p and n of one metric."""
    n, nan = len(x), float("nan")
    rho = float(_spearman(x, y)) if n >= 3 else nan
    if np.isnan(rho):
        return nan, nan, nan, nan, n
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(np.arange(n), (n_resamples, 1)), axis=1)
    as_far = np.abs(_spearman(x[shuffled], y[None])) >= abs(rho) - 1e-12
    p = (1 + int(as_far.sum())) / (1 + n_resamples)
    members = [np.flatnonzero(clusters == name) for name in np.unique(clusters)]
    if len(members) < 5:
        return rho, nan, nan, p, n
    draws = []
    for _ in range(n_resamples // 10):
        index = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        draws.append(float(_spearman(x[index], y[index])))
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return rho, float(low), float(high), p, n


def _digits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """To nine digits: what differs by rounding alone has the same rank."""
    return np.array([float(f"{value:.9g}") for value in values])


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> Any:
    """Correlation of ranks along the last axis; NaN where there is only one."""
    ranks = []
    for values in (x, y):
        rank = stats.rankdata(values, axis=-1)
        rank -= rank.mean(axis=-1, keepdims=True)
        ranks.append(rank)
    scale = np.sqrt(np.square(ranks[0]).sum(axis=-1) * np.square(ranks[1]).sum(axis=-1))
    product = (ranks[0] * ranks[1]).sum(axis=-1)
    return np.divide(product, scale, out=np.full(np.shape(scale), np.nan), where=scale > 0)
