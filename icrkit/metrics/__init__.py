"""One file a metric: pure functions on moments or blocks of rows, and a thin estimator below them."""

from icrkit.metrics._align_uniform import AlignUniform, alignment, uniformity
from icrkit.metrics._decomposition import Traces, invariant_covariance, residual_covariance, traces
from icrkit.metrics._fisher import FisherSpectrum, Spectrum, fisher_spectrum
from icrkit.metrics._icr import ICREstimator, icr
from icrkit.metrics._nc1 import NC1Scorer, nc1

__all__ = [
    "AlignUniform",
    "FisherSpectrum",
    "ICREstimator",
    "NC1Scorer",
    "Spectrum",
    "Traces",
    "alignment",
    "fisher_spectrum",
    "icr",
    "invariant_covariance",
    "nc1",
    "residual_covariance",
    "traces",
    "uniformity",
]
