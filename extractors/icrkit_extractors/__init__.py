"""Features of frozen networks: images and a network in, a cube out."""

from icrkit_extractors import noise, views
from icrkit_extractors._onnx import OnnxSource
from icrkit_extractors.run import Source, extract

__all__ = ["OnnxSource", "Source", "extract", "noise", "views"]
