"""No noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icrkit_extractors import noise


def test_clean(draws):
    x0, z = draws
    x, conditioning = noise.Clean()(x0, z, 0.0)
    np.testing.assert_array_equal(x, x0)
    assert conditioning == {}
    assert noise.Clean().levels([0]) == [(1.0, 0.0)]
    for bad in ([0.1], [0.0, 0.0], [0.0, 1.0]):
        with pytest.raises(ValueError, match="one noise level 0"):
            noise.Clean().levels(bad)
    with pytest.raises(ValueError, match="one noise level 0"):
        noise.Clean()(x0, z, 0.5)


def as_tensors(draws: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(draws[0]), torch.from_numpy(draws[1])


def test_clean_takes_tensors_and_levels(draws):
    x0, z = as_tensors(draws)
    assert noise.Clean()(x0, z, noise.Level(1.0, 0.0)) == (x0, {})
