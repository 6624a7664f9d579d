"""Types, devices, modes and random numbers while a module is used."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from icrkit.exceptions import NonFiniteError
from icrkit_extractors import TorchSource

X = np.random.default_rng(0).uniform(-1, 1, (4, 1, 8, 8)).astype(np.float32)


class Timed(nn.Module):
    """Embeds a time in the type of its weights, as networks trained wholly in half precision may."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.time, self.last = nn.Conv2d(1, 4, 1), nn.Linear(1, 4), nn.Conv2d(4, 4, 1)

    def forward(self, x, t):
        self.given = t.dtype
        return self.last(self.first(x) + self.time(t[:, None])[:, :, None, None])


class Careful(Timed):
    def forward(self, x, t):
        self.embedded = t.float()
        return self.last(self.first(x) + self.time(t[:, None].to(x.dtype))[:, :, None, None])


class Counted(Timed):
    def forward(self, x, t):
        return super().forward(x, t.to(x.dtype) + 0 * self.given_whole(t))

    def given_whole(self, t):
        assert t.dtype == torch.int64
        return t.to(self.first.weight.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_that_are_buffers_have_their_type(dtype):
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.eye(4)[:, :1, None, None].to(dtype))
            self.last = nn.Identity()

        def forward(self, x):
            return self.last(nn.functional.conv2d(x, self.weight))

    source = TorchSource(Frozen(), "last")
    wanted = torch.from_numpy(X).to(dtype).double().mean(dim=(1, 2, 3))
    np.testing.assert_allclose(source(X)["last"][:, 0], wanted, rtol=1e-5, atol=1e-6)
    assert source.config()["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_in_another_precision(dtype):
    torch.manual_seed(0)
    net = Timed()
    t = np.full(4, 0.3, np.float32)
    wanted = TorchSource(net, "last")(X, {"t": t})["last"]
    assert "conditioning_dtype" not in TorchSource(net, "last").config()
    source = TorchSource(net.to(dtype), "last")
    got = source(X, {"t": t})["last"]
    assert net.given == dtype and np.linalg.norm(got - wanted) < 0.02 * np.linalg.norm(wanted)
    half = dtype.itemsize < 4
    assert source.config().get("conditioning_dtype") == (str(dtype)[6:] if half else None)


def test_conditioning_stays_exact_where_the_network_can_take_it():
    net = Careful().bfloat16()
    TorchSource(net, "last")(X, {"t": np.full(4, 999, np.float32)})
    assert net.embedded.tolist() == [999] * 4
    TorchSource(Counted().bfloat16(), "last")(X, {"t": np.full(4, 999)})


def test_mixed_precision_starts_where_the_input_fits():
    net = Timed()
    net.norm = nn.LayerNorm(3)  # kept in float32
    del net.first, net.last
    net.first, net.last = nn.Conv2d(1, 4, 1).bfloat16(), nn.Conv2d(4, 4, 1).bfloat16()
    net.time.bfloat16()
    net = nn.ModuleDict({"norm": nn.LayerNorm(3), "net": net})
    source = TorchSource(net, "net.last", call=lambda module, x, given: module["net"](x, given["t"]))
    assert source(X, {"t": np.zeros(4, np.float32)})["net.last"].shape == (4, 4)
    assert source.config()["dtype"] == "bfloat16"


def test_a_network_that_takes_no_type_says_what_it_was_given():
    class Never(Timed):
        def forward(self, x, t):
            return self.last(self.first(x).double())

    with pytest.raises(ValueError, match=r"Never failed .* in forward: RuntimeError: .* x .* bfloat16, t .* call="):
        TorchSource(Never().bfloat16(), "last")(X, {"t": np.zeros(4, np.float32)})


def test_float16_that_overflows_says_so():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)).half()
    for part in net:
        nn.init.constant_(part.weight, 6e4)
    with pytest.raises(NonFiniteError, match=r"layer '1' holds NaN or infinity .*; float16 overflows beyond 65504"):
        TorchSource(net, "1")(X)


def test_weights_that_are_not_there():
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU())
    with pytest.raises(ValueError, match=r"tensors without values, first '0\.weight' on the meta device: load"):
        TorchSource(net, "0")(X)
    lazy = nn.Sequential(nn.LazyConv2d(4, 1), nn.ReLU())
    with pytest.raises(ValueError, match=r"parameters without a shape, first '0\.weight'"):
        TorchSource(lazy, "0")(X)
    assert isinstance(lazy[0], nn.LazyConv2d)


def test_weights_that_accelerate_keeps_away():
    accelerate = pytest.importorskip("accelerate")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 4, 3))
    wanted = TorchSource(net, ["1.1", "1"])(X)
    net = accelerate.cpu_offload(net, execution_device=torch.device("cpu"))
    source = TorchSource(net, ["1.1", "1"])
    for _ in range(2):
        for name, h in source(X).items():
            np.testing.assert_array_equal(h, wanted[name])
        assert {parameter.device.type for parameter in net.parameters()} == {"meta"}
    assert source.device.type == "cpu"


def test_networks_that_accelerate_prepared():
    accelerate = pytest.importorskip("accelerate")
    net = Timed()
    wanted = TorchSource(net, "last")(X, {"t": np.zeros(4)})["last"]
    prepared = accelerate.Accelerator(cpu=True).prepare(net)
    np.testing.assert_array_equal(TorchSource(prepared, "last")(X, {"t": np.zeros(4)})["last"], wanted)


@pytest.mark.parametrize(
    "normed",
    [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm,
     torch.nn.utils.spectral_norm, pytest.param(torch.nn.utils.weight_norm, marks=pytest.mark.filterwarnings(
         "ignore:.*weight_norm.* is deprecated"))],
)  # fmt: skip
def test_weights_that_are_computed(normed):
    torch.manual_seed(0)
    net = nn.Sequential(normed(nn.Conv2d(1, 4, 3)), nn.ReLU())
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    got = TorchSource(net, "0")(X)["0"]
    assert net.training and all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    net.eval()
    np.testing.assert_array_equal(got, net[0](torch.from_numpy(X)).detach().mean(dim=(2, 3)).numpy())
    net(torch.from_numpy(X)).sum().backward()


def test_a_network_that_sets_its_own_mode():
    class Training(nn.Sequential):
        def forward(self, x):
            self.train()
            return super().forward(x)

    net = Training(nn.Conv2d(1, 4, 1)).eval()
    net[0].weight.requires_grad_(False)
    source = TorchSource(net, "0")
    source(X)
    assert not any(part.training for part in net.modules())


def test_the_same_random_numbers_at_every_call_and_none_of_the_callers():
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Identity()
            self.drawn = []

        def forward(self, x):
            self.drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))  # noqa: NPY002
            return self.first(x)

    net = Drawing()
    source = TorchSource(net, "first")
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    source(X)
    calls = len(net.drawn)
    source(X), source(X)
    assert net.drawn[calls] == net.drawn[calls + 1] == net.drawn[0] != net.drawn[1]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert before == after
