"""Which network of a checkpoint is meant."""

from __future__ import annotations

import argparse
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
from torch import nn

from icrkit_extractors._checkpoint import (
    read_tensors,
    training_args,
)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "in.weight": torch.randn(5, 3, generator=generator),
        "in.bias": torch.randn(5, generator=generator).half(),
        "steps": torch.arange(7),
    }


def test_training_checkpoint(tmp_path, weights, same_tensors):
    other = {name: value + 1 for name, value in weights.items()}
    linear = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(linear.parameters())
    linear(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    args = argparse.Namespace(model="SiT-S/2", num_classes=10, lr=1e-4, ckpt=None)
    content = {"model": weights, "ema": other, "opt": optimizer.state_dict(), "args": args, "step": 3}
    torch.save(content, tmp_path / "a.pt")
    assert same_tensors(read_tensors(tmp_path / "a.pt", "ema"), other)
    assert same_tensors(read_tensors(tmp_path / "a.pt", key="model"), weights)
    with pytest.raises(ValueError, match=r"several networks: \['model', 'ema'\]; choose one, such as key='ema'"):
        read_tensors(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"under 'emma' \(nearest: 'ema'\); there are \['model', 'ema'\]"):
        read_tensors(tmp_path / "a.pt", "emma")
    assert training_args(tmp_path / "a.pt") == vars(args)
    del content["model"]
    torch.save(content, tmp_path / "b.pt")
    assert same_tensors(read_tensors(tmp_path / "b.pt"), other)


def test_dotted_keys(tmp_path, weights, same_tensors):
    torch.save({"state": {"net.1": OrderedDict(weights), "n": 1}, "x.y": weights}, tmp_path / "a.pt")
    assert same_tensors(read_tensors(tmp_path / "a.pt", "state.net.1"), weights)
    assert same_tensors(read_tensors(tmp_path / "a.pt", "x.y"), weights)


def test_key_as_a_prefix_of_flat_names(tmp_path, weights, same_tensors):
    flat = {f"ema.{name}": value for name, value in weights.items()} | {"model.in.bias": torch.zeros(1)}
    safetensors.torch.save_file(flat, tmp_path / "a.safetensors")
    got = read_tensors(tmp_path / "a.safetensors", "ema")
    assert same_tensors({name: got[name] for name in weights}, weights) and len(got) == 3
    with pytest.raises(ValueError, match=r"under 'emma' \(nearest: 'ema'\).*ema, model"):
        read_tensors(tmp_path / "a.safetensors", "emma")


def test_no_network_inside(tmp_path):
    for content in ({"epoch": 3, "lr": 0.1}, [torch.zeros(2)], torch.zeros(2), {}):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(ValueError, match="no dict of named tensors"):
            read_tensors(tmp_path / "a.pt")
