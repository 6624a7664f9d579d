"""Invariant contamination of learned representations: metrics and readings for features of diffusion models.

>>> import icrkit as ik
>>> cube = ik.datasets.load_fashion_cube()
>>> ik.SemanticWindow().fit(cube).best_layer_
'mid'
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icrkit import datasets, exceptions, plot
    from icrkit.cube import Cube, from_arrays, from_rows
    from icrkit.io import CubeWriter, open_cube
    from icrkit.metrics import (
        CDNV,
        AlignUniform,
        AlphaReQ,
        AuthPct,
        ClassSeparation,
        EffectiveRank,
        FewLabelProbe,
        FisherSpectrum,
        FrechetDistance,
        Gram,
        ICREstimator,
        InvariantInformation,
        KernelDistance,
        KNNProbe,
        LiDAR,
        LinearCKA,
        LinearProbe,
        MemorizationRatio,
        NC1Scorer,
        NearestRatio,
        NeighborRetrieval,
        ParticipationRatio,
        RankMe,
        Silhouette,
        StableRank,
        TraceRatio,
        alignment,
        alpha_req,
        auth_pct,
        cdnv,
        class_separation,
        effective_rank,
        few_label_probe,
        fisher_eigenvalues,
        fisher_spectrum,
        frechet_distance,
        frechet_distance_infinite,
        gram_matrix,
        icr,
        invariant_covariance,
        invariant_information,
        kernel_distance,
        knn_probe,
        lidar,
        linear_cka,
        linear_probe,
        memorization_ratio,
        nc1,
        nearest_ratio,
        neighbor_retrieval,
        participation_ratio,
        rankme,
        residual_covariance,
        silhouette,
        spatial_sign,
        stable_rank,
        trace_ratio,
        traces,
        uniformity,
    )
    from icrkit.moments import Moments
    from icrkit.readings import (
        ICRMonitor,
        SemanticWindow,
        TrainingCourse,
        compare,
        paired_difference,
        rank_correlation,
        sample_size,
        sample_size_curve,
    )
    from icrkit.select import MeanViews, PerView, SelectLevel

__version__ = "0.1.0"

__all__ = [
    "AlignUniform",
    "AlphaReQ",
    "AuthPct",
    "CDNV",
    "ClassSeparation",
    "Cube",
    "CubeWriter",
    "EffectiveRank",
    "FewLabelProbe",
    "FisherSpectrum",
    "FrechetDistance",
    "Gram",
    "ICREstimator",
    "ICRMonitor",
    "InvariantInformation",
    "KNNProbe",
    "KernelDistance",
    "LiDAR",
    "LinearCKA",
    "LinearProbe",
    "MeanViews",
    "MemorizationRatio",
    "Moments",
    "NC1Scorer",
    "NearestRatio",
    "NeighborRetrieval",
    "ParticipationRatio",
    "PerView",
    "RankMe",
    "SelectLevel",
    "SemanticWindow",
    "Silhouette",
    "StableRank",
    "TraceRatio",
    "TrainingCourse",
    "alignment",
    "alpha_req",
    "auth_pct",
    "cdnv",
    "class_separation",
    "compare",
    "datasets",
    "effective_rank",
    "exceptions",
    "few_label_probe",
    "fisher_eigenvalues",
    "fisher_spectrum",
    "frechet_distance",
    "frechet_distance_infinite",
    "from_arrays",
    "from_rows",
    "gram_matrix",
    "icr",
    "invariant_covariance",
    "invariant_information",
    "kernel_distance",
    "knn_probe",
    "lidar",
    "linear_cka",
    "linear_probe",
    "memorization_ratio",
    "nc1",
    "nearest_ratio",
    "neighbor_retrieval",
    "open_cube",
    "paired_difference",
    "participation_ratio",
    "plot",
    "rank_correlation",
    "rankme",
    "residual_covariance",
    "sample_size",
    "sample_size_curve",
    "silhouette",
    "spatial_sign",
    "stable_rank",
    "trace_ratio",
    "traces",
    "uniformity",
]

# Names are imported when they are first used: a shell that asks for --version need not wait for scientific Python.
_HOMES = ("cube", "moments", "io", "metrics", "readings", "select")

if not TYPE_CHECKING:  # which would take any name for one of this module

    def __getattr__(name: str) -> Any:
        if name in __all__ and importlib.util.find_spec(f"icrkit.{name}") is None:
            homes = (importlib.import_module(f"icrkit.{home}") for home in _HOMES)
            value = next(getattr(home, name) for home in homes if name in home.__all__)
        elif not name.startswith("__") and importlib.util.find_spec(f"icrkit.{name}") is not None:
            value = importlib.import_module(f"icrkit.{name}")
        else:
            raise AttributeError(f"module 'icrkit' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
