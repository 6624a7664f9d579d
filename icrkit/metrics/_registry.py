"""Metrics by name: those of this package, and those that other packages bring.

A package brings one by subclassing `Measure` and naming the class among its entry points, in the group
"icrkit.metrics"; the entry point's name is the metric's. A broken package is named, and takes no other down with it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from icrkit.metrics._align_uniform import AlignUniform
from icrkit.metrics._alpha_req import AlphaReQ
from icrkit.metrics._auth_pct import AuthPct
from icrkit.metrics._base import Comparison, Measure
from icrkit.metrics._cdnv import CDNV
from icrkit.metrics._cka import LinearCKA
from icrkit.metrics._class_separation import ClassSeparation
from icrkit.metrics._effective_rank import EffectiveRank, ParticipationRatio, StableRank
from icrkit.metrics._frechet import FrechetDistance
from icrkit.metrics._icr import ICREstimator
from icrkit.metrics._information import InvariantInformation
from icrkit.metrics._kernel_distance import KernelDistance
from icrkit.metrics._lidar import LiDAR
from icrkit.metrics._memorization import MemorizationRatio
from icrkit.metrics._nc1 import NC1Scorer
from icrkit.metrics._nearest_ratio import NearestRatio
from icrkit.metrics._probes import FewLabelProbe, KNNProbe, LinearProbe
from icrkit.metrics._rankme import RankMe
from icrkit.metrics._silhouette import Silhouette
from icrkit.metrics._trace_ratio import TraceRatio

__all__ = ["GROUP", "Metric", "find_metric", "known_metrics"]

GROUP = "icrkit.metrics"

_cross_fitted = functools.partial(ICREstimator, correction="crossfit")


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number that features are judged by: the estimator that gives it, and how the number is read.

    Parameters
    ----------
    name : str
    make : callable
        Gives the estimator, not fitted. Metrics with one and the same `make` are read off one fit.
    quantity : str
        The estimator's attribute, without the underscore.
    greater_is_better : bool
    needs_labels : bool
        Whether labels are read.
    takes_moments : bool
        Whether the estimator fits `Moments`: of single rows where it has a parameter ``views``, else of all views.
    two_sets : bool
        Whether it is a number of two sets of features, a `Comparison`.
    interval : str or None
        Attribute that holds (low, high), where the estimator has it.

    Examples
    --------
    >>> from icrkit.metrics import RankMe
    >>> Metric.of("rankme_of_means", lambda: RankMe(views="mean")).greater_is_better
    True
    """

    name: str
    make: Callable[[], Any]
    quantity: str
    greater_is_better: bool
    needs_labels: bool = False
    takes_moments: bool = False
    two_sets: bool = False
    interval: str | None = None

    @classmethod
    def of(cls, name: str, make: Callable[[], Any]) -> Metric:
        """The metric that a `Measure` or `Comparison` is: these say themselves how they are read.

        Parameters
        ----------
        name : str
        make : class or callable
            Gives the estimator, not fitted.

        Raises
        ------
        TypeError
            It gives something else, or something that does not say what its quantity is.
        """
        # One is made: what a metric needs may depend on its parameters.
        made = make()
        if not isinstance(made, Measure | Comparison):
            raise TypeError(f"{type(made).__name__} is no subclass of icrkit.metrics.Measure")
        if not isinstance(getattr(made, "quantity", None), str):
            raise TypeError(f"{type(made).__name__} does not name its quantity")
        return cls(
            name,
            make,
            made.quantity,
            made.greater_is_better,
            needs_labels=getattr(made, "needs_labels", False),
            takes_moments=getattr(made, "takes_moments", False),
            two_sets=isinstance(made, Comparison),
            interval="interval_",
        )


@functools.cache
def _built_in() -> dict[str, Metric]:
    measures: dict[str, Callable[[], Any]] = {
        "trace_ratio": TraceRatio,
        "lidar": LiDAR,
        "rankme": RankMe,
        "effective_rank": EffectiveRank,
        "participation_ratio": ParticipationRatio,
        "stable_rank": StableRank,
        "alpha_req": AlphaReQ,
        "cdnv": CDNV,
        "class_separation": ClassSeparation,
        "silhouette": Silhouette,
        "knn_probe": KNNProbe,
        "linear_probe": LinearProbe,
        "few_label_probe": FewLabelProbe,
        "frechet_distance": FrechetDistance,
        "kernel_distance": KernelDistance,
        "linear_cka": LinearCKA,
        "memorization_ratio": MemorizationRatio,
        "auth_pct": AuthPct,
        "nearest_ratio": NearestRatio,
    }
    found = [
        # Estimators with a life of their own: they give several numbers, and do more than measure.
        Metric("icr", _cross_fitted, "icr", False, takes_moments=True, interval="interval_"),
        Metric("total_snr", _cross_fitted, "total_snr", True, takes_moments=True),
        Metric("information", InvariantInformation, "information", True, takes_moments=True, interval="interval_"),
        Metric("alignment", AlignUniform, "alignment", False),
        Metric("uniformity", AlignUniform, "uniformity", False),
        Metric("nc1", NC1Scorer, "nc1", False, needs_labels=True),
        *(Metric.of(name, make) for name, make in measures.items()),
    ]
    # Without labels first, and what moments suffice for before what reads rows: the order of a table's columns.
    found.sort(key=lambda metric: (metric.two_sets, metric.needs_labels, not metric.takes_moments))
    return {metric.name: metric for metric in found}


def known_metrics() -> dict[str, Metric]:
    """Metrics by name, in the order of a table: those of icrkit, then those that installed packages bring.

    Returns
    -------
    dict of str to Metric

    Notes
    -----
    A metric of another package that cannot be loaded is left out; a warning says its name, its package and the reason.

    Examples
    --------
    >>> from icrkit.metrics import known_metrics
    >>> known_metrics()["icr"].greater_is_better
    False
    """
    found = dict(_built_in())
    for point in _brought():
        try:
            metric = _loaded(point, found)
        except ValueError as error:
            warnings.warn(f"{error}; it is left out", stacklevel=2)
        else:
            found[metric.name] = metric
    return found


def find_metric(name: str) -> Metric:
    """The metric of this name; of other packages' metrics no other is loaded.

    Raises
    ------
    ValueError
        There is none, or the package that brings it cannot be loaded.
    """
    if name in _built_in():
        return _built_in()[name]
    points = _brought()
    for point in points:
        if point.name == name:
            return _loaded(point, _built_in())
    names = [*_built_in(), *(point.name for point in points)]
    raise ValueError(f"there is no metric {name!r}; there are {', '.join(names)}")


def _brought() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _loaded(point: EntryPoint, taken: Iterable[str]) -> Metric:
    package = "a package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
    try:
        if point.name in taken:
            raise TypeError("the name is taken")
        make = point.load()
        if not inspect.isclass(make):
            raise TypeError(f"{point.value} is no class")
        return Metric.of(point.name, make)
    except Exception as error:  # whatever another package's import raises
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"metric {point.name!r}, which {package} brings, cannot be used: {reason}") from error
