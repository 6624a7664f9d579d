"""Outputs differ where they are apart by more than rounding; an image is put beside others; signatures are small."""

from __future__ import annotations

import torch

from icrkit_extractors._torch_repeat import differs, neighbours, places_like_first, signature


def test_the_first_image_takes_other_places():
    x = torch.randn(5, 4)
    moved = neighbours(x, [1, 4])
    assert torch.equal(moved[[1, 4]], x[[0, 0]]) and not (moved[[0, 2, 3]] == x[[0, 2, 3]]).any()
    assert torch.equal(neighbours(x)[0], x[0]) and not (neighbours(x)[1:] == x[1:]).any()
    # Numbers of tokens stay among those that there are.
    tokens = torch.arange(12).reshape(3, 4)
    assert neighbours(tokens, [2]).tolist() == [[8, 9, 10, 11], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_places_have_the_conditioning_of_the_first():
    assert places_like_first(1, {}) == [] and places_like_first(2, {}) == [1] and places_like_first(9, {}) == [5, 8]
    # What has another length, or none, is shared by all images.
    shared = {"prompt": torch.zeros(1, 4), "t": 3.0, "name": "four", "scale": torch.tensor(2), "by": {"a": 1}}
    assert places_like_first(4, shared) == [2, 3] == places_like_first(4, {"t": torch.ones(4, 7)})
    rows = {"t": torch.tensor([1.0, 2, 1, 1, 2]), "y": ["a", "a", "a", "b", "a"]}
    assert places_like_first(5, rows) == [2] and places_like_first(5, {"t": torch.arange(5)}) == []


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
