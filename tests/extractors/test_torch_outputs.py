"""Kinds of tensors that layers give."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from icrkit_extractors import TorchSource

X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)


class Giving(nn.Module):
    def __init__(self, give) -> None:
        super().__init__()
        self.give = give

    def forward(self, x):
        return self.give(x)


def features(give) -> np.ndarray:
    return TorchSource(nn.Sequential(Giving(give)), "0")(X)["0"]


def test_complex_features_are_real_and_imaginary_parts():
    np.testing.assert_array_equal(features(lambda x: torch.complex(x, 2 * x)), np.hstack([X, 2 * X]))
    maps = torch.randn(1, 4, 6, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    got = features(lambda x: maps * x[:, :1, None, None])
    wanted = (maps * torch.from_numpy(X)[:, :1, None, None]).mean(dim=(2, 3))
    np.testing.assert_allclose(got, torch.cat([wanted.real, wanted.imag], dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_sparse_and_quantised_features_are_their_values():
    np.testing.assert_array_equal(features(lambda x: x.relu().to_sparse()), np.maximum(X, 0))
    steps = features(lambda x: torch.quantize_per_tensor(x, 0.5, 0, torch.qint8))
    np.testing.assert_array_equal(steps, np.round(X / 0.5) * 0.5)


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda x: x.argmax(dim=1, keepdim=True), "'0' gives int64, expected floating-point or complex features"),
        (lambda x: x > 0, "'0' gives bool, expected floating-point"),
        (lambda x: torch.nested.nested_tensor([x[0, :2], x[1], x[2]]), "'0' gives a nested tensor"),
        (lambda x: torch.nested.nested_tensor([x[0, :2], x[1]], layout=torch.jagged), "'0' gives a nested tensor"),
        (lambda x: None, "'0' gives a NoneType, expected a tensor"),
        (lambda x: SimpleNamespace(h=x, n=3), r"gives a SimpleNamespace, .* \(it has the tensors \['h'\]\)"),
        (lambda x: [], "'0' gives several items, {}"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_is_not_features_is_refused(give, message):
    with pytest.raises(ValueError, match=message):
        features(give)
