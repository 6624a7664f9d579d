"""One file a metric: pure functions on moments or blocks of rows, and a thin estimator below them."""

from icrkit.metrics._align_uniform import AlignUniform, alignment, uniformity
from icrkit.metrics._alpha_req import AlphaReQ, alpha_req
from icrkit.metrics._auth_pct import AuthPct, auth_pct
from icrkit.metrics._base import Comparison, Measure
from icrkit.metrics._cdnv import CDNV, cdnv
from icrkit.metrics._cka import LinearCKA, linear_cka
from icrkit.metrics._class_separation import ClassSeparation, class_separation
from icrkit.metrics._decomposition import Traces, invariant_covariance, residual_covariance, traces
from icrkit.metrics._effective_rank import (
    EffectiveRank,
    ParticipationRatio,
    StableRank,
    effective_rank,
    participation_ratio,
    stable_rank,
)
from icrkit.metrics._fisher import FisherSpectrum, Spectrum, fisher_spectrum
from icrkit.metrics._frechet import FrechetDistance, frechet_distance, frechet_distance_infinite
from icrkit.metrics._gram import Gram, fisher_eigenvalues, gram_matrix
from icrkit.metrics._icr import ICREstimator, icr
from icrkit.metrics._information import Information, InvariantInformation, invariant_information
from icrkit.metrics._kernel_distance import KernelDistance, kernel_distance
from icrkit.metrics._lidar import LiDAR, lidar
from icrkit.metrics._memorization import MemorizationRatio, memorization_ratio
from icrkit.metrics._nc1 import NC1Scorer, nc1
from icrkit.metrics._nearest_ratio import NearestRatio, nearest_ratio
from icrkit.metrics._neighbors import NeighborRetrieval, Neighbors, neighbor_retrieval
from icrkit.metrics._probes import (
    FewLabelProbe,
    KNNProbe,
    LinearProbe,
    ProbeAccuracy,
    few_label_probe,
    knn_probe,
    linear_probe,
)
from icrkit.metrics._rankme import RankMe, rankme
from icrkit.metrics._registry import Metric, find_metric, known_metrics
from icrkit.metrics._silhouette import Silhouette, silhouette
from icrkit.metrics._spatial_sign import spatial_sign
from icrkit.metrics._trace_ratio import TraceRatio, trace_ratio

__all__ = [
    "AlignUniform",
    "AlphaReQ",
    "AuthPct",
    "CDNV",
    "ClassSeparation",
    "Comparison",
    "EffectiveRank",
    "FewLabelProbe",
    "FisherSpectrum",
    "FrechetDistance",
    "Gram",
    "ICREstimator",
    "Information",
    "InvariantInformation",
    "KNNProbe",
    "KernelDistance",
    "LiDAR",
    "LinearCKA",
    "LinearProbe",
    "Measure",
    "MemorizationRatio",
    "Metric",
    "NC1Scorer",
    "NearestRatio",
    "NeighborRetrieval",
    "Neighbors",
    "ParticipationRatio",
    "ProbeAccuracy",
    "RankMe",
    "Silhouette",
    "Spectrum",
    "StableRank",
    "TraceRatio",
    "Traces",
    "alignment",
    "alpha_req",
    "auth_pct",
    "cdnv",
    "class_separation",
    "effective_rank",
    "few_label_probe",
    "find_metric",
    "fisher_eigenvalues",
    "fisher_spectrum",
    "frechet_distance",
    "frechet_distance_infinite",
    "gram_matrix",
    "icr",
    "invariant_covariance",
    "invariant_information",
    "kernel_distance",
    "knn_probe",
    "known_metrics",
    "lidar",
    "linear_cka",
    "linear_probe",
    "memorization_ratio",
    "nc1",
    "nearest_ratio",
    "neighbor_retrieval",
    "participation_ratio",
    "rankme",
    "residual_covariance",
    "silhouette",
    "spatial_sign",
    "stable_rank",
    "trace_ratio",
    "traces",
    "uniformity",
]
