"""Features of frozen networks: images and a network in, a cube out."""

from icrkit_extractors import noise, views
from icrkit_extractors._onnx import OnnxSource
from icrkit_extractors.run import Estimate, Source, estimate, extract, extract_course

__all__ = ["Estimate", "OnnxSource", "Source", "estimate", "extract", "extract_course", "noise", "views"]
