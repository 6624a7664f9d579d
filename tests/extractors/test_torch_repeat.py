"""Outputs differ where they are apart by more than rounding; an image is put beside others; signatures are small."""

from __future__ import annotations

import torch

from icrkit_extractors._torch_repeat import differs, neighbours, signature


def test_integers_have_neighbours_too():
    tokens = torch.arange(12).reshape(3, 4)
    assert neighbours(tokens).tolist() == [[0, 1, 2, 3]] * 3
    x = torch.randn(3, 4)
    assert torch.equal(neighbours(x)[0], x[0]) and not torch.equal(neighbours(x)[1:], x[1:])


def test_rounding_is_no_difference():
    h = torch.randn(100)
    assert not differs(h, h * (1 + 1e-6)) and differs(h, h * (1 + 1e-3))
    assert not differs(h, h * (1 + 1e-3), half=True) and differs(h, h * 1.1, half=True)
    assert not differs(h.bfloat16(), h.bfloat16() * 1.004)
    assert not differs(torch.zeros(3), torch.zeros(3)) and differs(torch.zeros(3), torch.ones(3))
    assert not differs(torch.tensor([float("nan")]), torch.ones(1)) and differs(h, h[:50])
    assert differs(torch.complex(h, h), torch.complex(h, -h))


def test_a_signature_is_small():
    assert signature(torch.randn(2, 3, 100, 100)).numel() <= 4096
    assert signature((None, torch.ones(2, 3))).tolist() == [1, 1, 1] == signature({"a": torch.ones(2, 3)}).tolist()
    assert signature("text") is None and signature(torch.ones(2, dtype=torch.int64)) is None
