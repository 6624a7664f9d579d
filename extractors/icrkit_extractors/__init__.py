"""Features of frozen networks: images and a network in, a cube out."""

from icrkit_extractors import images, latents, models, noise, training, views
from icrkit_extractors._onnx import OnnxSource
from icrkit_extractors._pool import Pool
from icrkit_extractors._torch import TorchSource
from icrkit_extractors.run import Estimate, Source, estimate, extract, extract_course

__all__ = [
    "Estimate",
    "OnnxSource",
    "Pool",
    "Source",
    "TorchSource",
    "estimate",
    "extract",
    "extract_course",
    "images",
    "latents",
    "models",
    "noise",
    "training",
    "views",
]
