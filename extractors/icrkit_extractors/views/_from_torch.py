"""Views by a transform of torchvision, kornia, or any other on tensors."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from icrkit.exceptions import MissingDependencyError
from icrkit_extractors._streams import generators
from icrkit_extractors.views._view import images_and_ids

if TYPE_CHECKING:
    import torch


__all__ = ["FromTorch"]


@contextmanager
def _global_generators_kept() -> Iterator[Callable[[int], None]]:
    """Gives a function that seeds the global generators; on the way out they are as they were."""
    import torch

    kept = torch.default_generator.get_state(), random.getstate(), np.random.get_state()  # noqa: NPY002

    def seed(number: int) -> None:
        # torch.manual_seed would seed the devices as well.
        torch.default_generator.manual_seed(number)
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)  # noqa: NPY002

    try:
        yield seed
    finally:
        torch.default_generator.set_state(kept[0])
        random.setstate(kept[1])
        np.random.set_state(kept[2])  # noqa: NPY002


@dataclass(frozen=True)
class FromTorch:
    """Views by a random transform of torch tensors: torchvision's, kornia's, or any callable or module.

    Parameters
    ----------
    transform : callable, tensor (1, channel, height, width) -> tensor of the same shape
        Takes and gives float32 on the CPU, one image at a time, in ``value_range``. Compose several beforehand.
    value_range : (float, float)
        What black and white are to the transform: (0, 1) in torchvision and kornia.
    name : str, optional
        What a cube records of the transform. Default: the name of a function or class, else its ``repr``, which shows
        the parameters of the transforms of torchvision and kornia.

    Raises
    ------
    MissingDependencyError
        When called, if torch is not installed.
    ValueError
        If ``value_range`` is not two numbers, the first one smaller.

    Notes
    -----
    Such transforms draw from global generators. Before each image those of torch (on the CPU), Python and numpy are
    seeded by (seed, image id, view), and after the batch they are put back: so views do not depend on the batch or
    the order, and nobody else's draws change. A transform that keeps a generator of its own, or remembers what it did,
    escapes this. The results depend on the version of the transform's library. One image at a time
    takes 0.2 to 3 ms; `Paper` is the fast way to torchvision's usual transforms.

    Examples
    --------
    >>> import torch
    >>> def darker(image):
    ...     return image * torch.rand(1)
    >>> FromTorch(darker)(np.ones((2, 1, 4, 4), np.float32), [0, 1], view=0, seed=0).shape
    (2, 1, 4, 4)
    """

    transform: Callable[[torch.Tensor], torch.Tensor]
    _: KW_ONLY
    value_range: tuple[float, float] = (0.0, 1.0)
    name: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.transform):
            raise ValueError(f"transform must be a callable on tensors, not {self.transform!r}")
        low, high = self.value_range
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"value_range must be (value of black, value of white), not {self.value_range!r}")

    def config(self) -> dict[str, Any]:
        """Name of the transform and its range, for the attributes of a cube."""
        name = self.name
        if name is None and hasattr(self.transform, "__qualname__"):
            name = f"{self.transform.__module__}.{self.transform.__qualname__}"
        elif name is None:
            # An address in memory would make another run's record differ.
            name = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.transform))
        return {"name": "FromTorch", "transform": name, "value_range": [float(end) for end in self.value_range]}

    def __call__(self, images: np.ndarray, image_ids: Iterable[object], view: int, seed: int) -> np.ndarray:
        """One view of each image.

        Parameters
        ----------
        images : ndarray (n, channel, height, width)
            float32 in [-1, 1], or uint8.
        image_ids : iterable of int or str, of length n
            Identities of the images: what the draws depend on, beside view and seed.
        view : int
            Number of the view.
        seed : int
            Seed of the whole extraction.

        Returns
        -------
        ndarray, shaped like images, float32 in [-1, 1]

        Raises
        ------
        MissingDependencyError
            If torch is not installed.
        ValueError
            If images have another shape, type or range, the ids another number, or the transform gives no tensor, or
            one of another shape or outside ``value_range``; the message names the image.
        """
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError('FromTorch needs torch: pip install "icrkit[torch]"') from error
        images, ids = images_and_ids(images, image_ids)
        low, high = self.value_range
        half, middle = np.float32((high - low) / 2), np.float32((high + low) / 2)
        result = np.empty_like(images)
        with _global_generators_kept() as reseed, torch.no_grad():
            for k, stream in enumerate(generators(seed, ids, view, "torch")):
                reseed(int(stream.integers(1 << 63)))
                # A copy: a transform may work in place.
                given = torch.from_numpy(images[k : k + 1] * half + middle)
                result[k] = self._checked(self.transform(given), given.shape, ids[k])[0]
        result -= middle
        result /= half
        return np.clip(result, -1, 1, out=result)

    def _checked(self, given: Any, shape: Sequence[int], image_id: object) -> np.ndarray:
        if not hasattr(given, "detach"):
            raise ValueError(f"the transform must give a tensor, not {type(given).__name__} (image {image_id!r})")
        values: np.ndarray = given.detach().cpu().float().numpy()
        if values.shape != tuple(shape):
            raise ValueError(f"the transform gave shape {values.shape} for {tuple(shape)} (image {image_id!r})")
        low, high = self.value_range
        rounding = 1e-4 * (high - low)
        if not (low - rounding <= values.min() and values.max() <= high + rounding):
            raise ValueError(
                f"the transform gave {values.min():.6g} to {values.max():.6g}, outside value_range {self.value_range} "
                f"(image {image_id!r}); leave out what normalises, and clamp what overshoots"
            )
        return values
