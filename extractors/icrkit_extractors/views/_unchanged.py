"""No augmentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from icrkit_extractors.views._view import images_and_ids

__all__ = ["Unchanged"]


@dataclass(frozen=True)
class Unchanged:
    """No augmentation: every view is the image itself.

    Notes
    -----
    Views then differ by their noise alone, and that is another question than the paper's: invariant is whatever
    survives noise, position, colour and mirror side included, not what an image shows. Such a residual can even move
    in the opposite direction over training. Of use as a comparison, and with a network that augments by itself; not
    with the noise law `noise.Clean`, where all views would be equal.

    Examples
    --------
    >>> Unchanged()(np.zeros((1, 1, 1, 2), np.uint8), ["a"], view=0, seed=0).tolist()
    [[[[-1.0, -1.0]]]]
    """

    own_streams: ClassVar[bool] = True

    def config(self) -> dict[str, Any]:
        """The name, for the attributes of a cube."""
        return {"name": "Unchanged"}

    def __call__(self, images: np.ndarray, image_ids: Iterable[object], view: int, seed: int) -> np.ndarray:
        """The images, float32 in [-1, 1]; the draws depend on nothing, since there are none.

        Raises
        ------
        ValueError
            If images have another shape, type or range, or the ids another number.
        """
        # A copy, like that of other views: a network may work in place.
        return np.array(images_and_ids(images, image_ids)[0])
