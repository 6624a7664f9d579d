"""Views of an image: random augmentations that depend on (seed, image id, view) and on nothing else.

A view is any callable ``(images, image_ids, view, seed) -> images``. `Paper` has the five levels of the paper;
`Augment` moves and scales grey images, with `Fashion` and `Digits` as its settings for the two example sets;
`FromTorch` takes a transform of torchvision or kornia, or any other; `Unchanged` leaves images as they are.
Augment first, then noise.
"""

from icrkit_extractors.views._augment import Augment, Digits, Fashion
from icrkit_extractors.views._from_torch import FromTorch
from icrkit_extractors.views._paper import Paper
from icrkit_extractors.views._unchanged import Unchanged
from icrkit_extractors.views._view import View, as_unit_range

__all__ = ["Augment", "Digits", "Fashion", "FromTorch", "Paper", "Unchanged", "View", "as_unit_range"]
