"""Errors of somebody else's network as one message."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from icrkit.exceptions import NonFiniteError
from icrkit_extractors import TorchSource

X = np.zeros((2, 3, 8, 8), np.float32)


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.emb = nn.Conv2d(3, 4, 1), nn.Embedding(10, 4)

    def forward(self, x, y=None):
        return self.first(x) + self.emb(y)[:, :, None, None]


class Raising(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.first, self.error = nn.Identity(), error

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [TypeError("a"), AttributeError("a"), KeyError("a"), IndexError("a"), RuntimeError("a"), AssertionError("a"),
     ZeroDivisionError("a"), NotImplementedError("a"), NameError("a")],
)  # fmt: skip
def test_errors_of_the_networks_code_are_one_message(error):
    with pytest.raises(
        ValueError,
        match=rf"^Raising failed at test_torch_errors\.py:\d+, in forward: "
        rf"{type(error).__name__}: '?a'?\. It was given x \(2, 3, 8, 8\) float32; .*call=",
    ) as raised:
        TorchSource(Raising(error), "first")(X)
    assert raised.value.__cause__ is error


def test_a_module_that_is_missing_when_the_network_runs():
    missing = ModuleNotFoundError("No module named 'helper'", name="helper")
    with pytest.raises(
        ModuleNotFoundError, match=r"Raising failed at test_torch_errors\.py:\d+.*'helper'\. What"
    ) as raised:
        TorchSource(Raising(missing), "first")(X)
    assert raised.value.__cause__ is missing and raised.value.name == "helper"


def test_a_class_that_was_not_given():
    with pytest.raises(ValueError, match=r"Conditional failed at test_torch_errors\.py:\d+, in forward: TypeError: "):
        TorchSource(Conditional(), "first")(X)
    with pytest.raises(ValueError, match=r"in <lambda>: KeyError: 'y'.*see what call=lambda"):
        TorchSource(Conditional(), "first", call=lambda net, x, given: net(x, given["y"]))(X)


@pytest.mark.parametrize("error", [ValueError("a"), OSError("a"), MemoryError("a"), torch.OutOfMemoryError("a"),
                                   RuntimeError("CUDA out of memory"), NonFiniteError("a")])  # fmt: skip
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as raised:
        TorchSource(Raising(error), "first")(X)
    assert raised.value is error
    if not isinstance(error, RuntimeError):  # memory has no place
        assert [note[:32] for note in error.__notes__] == ["Raising failed at test_torch_err"]


def test_what_this_package_says_has_no_second_place():
    with pytest.raises(ValueError, match="'0' gives several items") as raised:
        TorchSource(nn.Sequential(nn.MaxPool2d(2, return_indices=True)), "0")(X)
    assert not hasattr(raised.value, "__notes__")


def test_errors_without_a_word():
    with pytest.raises(ValueError, match=r"in forward: AssertionError\. It was given"):
        TorchSource(Raising(AssertionError()), "first")(X)


@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning")
def test_layers_where_no_hook_sees_them():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    x = torch.from_numpy(X)
    for made in (torch.jit.trace(net, x), torch.jit.script(net)):
        with pytest.raises(ValueError, match=r"module is TorchScript .*before torch\.jit\.trace"):
            TorchSource(made, "0")
        for name in ("0", "0.0"):
            with pytest.raises(ValueError, match=rf"layer '{name}' never fires: it runs inside TorchScript"):
                TorchSource(nn.Sequential(made, nn.Identity()), name)(X)
        assert TorchSource(nn.Sequential(made, nn.Identity()), "1")(X)["1"].shape == (2, 4)
    with pytest.raises(ValueError, match=r"never fires: the network is a graph .*before it was exported"):
        TorchSource(torch.export.export(net, (x,)).module(), "0")(X)


def test_weights_that_are_used_without_their_module():
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.first.forward(x)

    with pytest.raises(ValueError, match=r"does not call it as a module \(its weights or its forward\(\) may be used"):
        TorchSource(Direct(), "first")(X)
