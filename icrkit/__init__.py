"""Invariant contamination of learned representations: metrics and readings for features of diffusion models.

>>> import icrkit as ik
>>> cube = ik.datasets.load_fashion_cube()
>>> ik.SemanticWindow().fit(cube).best_layer_
'mid'
"""

from icrkit import datasets, exceptions, plot
from icrkit.cube import Cube, from_arrays, from_rows
from icrkit.io import CubeWriter, open_cube
from icrkit.metrics import (
    AlignUniform,
    FisherSpectrum,
    ICREstimator,
    NC1Scorer,
    alignment,
    fisher_spectrum,
    icr,
    invariant_covariance,
    nc1,
    residual_covariance,
    traces,
    uniformity,
)
from icrkit.moments import Moments
from icrkit.readings import SemanticWindow
from icrkit.select import MeanViews, PerView, SelectLevel

__version__ = "0.1.0"

__all__ = [
    "AlignUniform",
    "Cube",
    "CubeWriter",
    "FisherSpectrum",
    "ICREstimator",
    "MeanViews",
    "Moments",
    "NC1Scorer",
    "PerView",
    "SelectLevel",
    "SemanticWindow",
    "alignment",
    "datasets",
    "exceptions",
    "fisher_spectrum",
    "from_arrays",
    "from_rows",
    "icr",
    "invariant_covariance",
    "nc1",
    "open_cube",
    "plot",
    "residual_covariance",
    "traces",
    "uniformity",
]
