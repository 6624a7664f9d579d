"""A forward pass gets copies of its input in the module's types, ends with the last layer, and leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from icrkit_extractors import TorchSource
from icrkit_extractors._torch_pass import ForwardPass


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


class Count(nn.Module):
    """Passes its input on and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


def test_castings_begin_with_the_first_parameters_type_and_keep_conditioning():
    net = nn.Sequential(nn.Linear(3, 2).bfloat16(), nn.Linear(2, 2))
    both = [(torch.bfloat16, False), (torch.bfloat16, True), (torch.float32, False)]
    assert list(ForwardPass(net).castings({"t": np.ones(2, np.float32)})) == both
    # Integers have no other type to be given in.
    plain = [(torch.bfloat16, False), (torch.float32, False)]
    assert (
        list(ForwardPass(net).castings({"y": np.ones(2, np.int64)})) == plain == list(ForwardPass(net).castings(None))
    )


def test_a_pass_ends_with_the_last_layer():
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), after := Count())
    run = ForwardPass(net)
    kept = run.outputs({"1": None, "0": None}, normal(4, 3), None, lambda name, output: output.shape)
    assert kept == {"0": (4, 2), "1": (4, 2)} and after.calls == 0
    run(normal(4, 3), None, [])
    assert after.calls == 1


def test_operations_in_place_do_not_reach_the_input():
    class Doubling(nn.Module):
        def forward(self, x, t):
            return x.mul_(t.mul_(2)[:, None])

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Doubling()

        def forward(self, x, t):
            return self.inner(x, t)

    x, t = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    source = TorchSource(Outer(), ["inner"])
    for given in (x, torch.from_numpy(x)):
        for time in (t, torch.from_numpy(t)):
            assert (source(given, {"t": time})["inner"] == 2).all()
    assert (x == 1).all() and (t == 1).all()


def test_a_network_that_catches_exceptions_is_left_all_the_same():
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.after = nn.Linear(3, 2), Count()

        def forward(self, x):
            try:
                x = self.inner(x)
            except Exception:
                x = None
            return self.after(x)

    source = TorchSource(net := Careful(), ["inner"])
    source(normal(4, 3))
    assert source(normal(4, 3))["inner"].shape == (4, 2) and net.after.calls == 1


def test_a_layer_that_stops_firing_is_noticed():
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Count(), Count()

        def forward(self, x):
            return self.second(x) if len(x) > 1 else self.first(x)

    source = TorchSource(Sometimes(), ["second"])
    source(normal(2, 3))
    with pytest.raises(ValueError, match="'second' did not fire in this call"):
        source(normal(1, 3))


def test_inside_an_autocast_of_the_callers():
    net, x = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), normal(3, 6)
    wanted = TorchSource(net, ["1"])(x)["1"]
    mixed = TorchSource(net, ["1"], autocast=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(TorchSource(net, ["1"])(x)["1"], wanted)
        mixed(x)
        net(x).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


class Probe(nn.Module):
    """Keeps what it is called with."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.counts = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
        self.linear = nn.Linear(3, 2, dtype=dtype)

    def forward(self, x, t, y=None):
        self.given = (x, t, y)
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    ("dtype", "conditioning_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_the_input_has_the_modules_type_and_conditioning_loses_nothing(dtype, conditioning_dtype):
    net, x = Probe(dtype), np.ones((2, 1, 1, 3), np.float32)
    given = {"t": np.array([999, 1], np.float32), "y": np.array([4, 5])}
    got = TorchSource(net, ["linear"])(x, given)
    x, t, y = net.given
    assert x.dtype == dtype and t.dtype == conditioning_dtype and y.dtype == torch.int64
    assert t.tolist() == [999, 1] and y.tolist() == [4, 5]
    wanted = net.linear(torch.ones(2, 3, dtype=dtype)).detach().float().numpy()
    np.testing.assert_array_equal(got["linear"], wanted)
    assert TorchSource(net, ["linear"]).config()["dtype"] == str(dtype)[6:]
