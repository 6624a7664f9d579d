"""An image has the same features at every call and beside every other image, or is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from icrkit_extractors import TorchSource
from icrkit_extractors._torch_examine import survey
from icrkit_extractors._torch_pass import ForwardPass

X = np.random.default_rng(0).uniform(-1, 1, (4, 1, 8, 8)).astype(np.float32)


class Way(nn.Module):
    def __init__(self, way) -> None:
        super().__init__()
        self.a, self.act, self.last = nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)
        self.way, self.calls, self.generator = way, 0, torch.Generator().manual_seed(0)
        self.numbers = np.random.default_rng(0)

    def forward(self, x):
        self.calls += 1
        return self.last(self.act(self.way(self, self.a(x))))


def masked(net, h):
    # As a masked autoencoder does it.
    noise = torch.rand(len(h), 64)
    kept = noise.argsort(dim=1)[:, :16]
    return torch.gather(h.flatten(2), 2, kept[:, None].expand(-1, 8, -1))[..., None]


def codes(net, h):
    # A condition that is dropped one time in a hundred.
    return torch.where(torch.rand(len(h), 1, 1, 1) < 0.01, torch.zeros_like(h), h)


RANDOM = {
    "half the images": lambda net, h: h * (torch.rand(len(h), 1, 1, 1) > 0.5),
    "one image in a hundred": codes,
    "one in a hundred, by bernoulli": lambda net, h: h * (1 - torch.bernoulli(torch.full((len(h), 1, 1, 1), 0.01))),
    "one in a hundred, in place": lambda net, h: h * (torch.empty(len(h), 1, 1, 1).uniform_(0, 2) > 0.02),
    "most patches": masked,
    "noise": lambda net, h: h + 0.05 * torch.randn_like(h),
    "dropout that stays on": lambda net, h: nn.functional.dropout(h, 0.1, training=True),
    "a generator of its own": lambda net, h: h + 0.1 * torch.randn(h.shape, generator=net.generator),
    "numpy": lambda net, h: h + float(np.random.normal()),  # noqa: NPY002
    "a numpy generator of its own": lambda net, h: h + net.numbers.normal(),
    "Python": lambda net, h: h * random.random(),
    "a count of calls": lambda net, h: h + net.calls,
    "one call in fifty, by Python": lambda net, h: h * (random.random() > 0.02),
    "one call in fifty, by numpy": lambda net, h: h * (np.random.rand() > 0.02),  # noqa: NPY002
    # The same at each call, and another for each image of a batch.
    "a generator seeded inside": lambda net, h: h + 0.1 * torch.randn(h.shape, generator=seeded()),
    "an order drawn by a seed inside": lambda net, h: h[:, torch.randperm(8, generator=seeded())],
}


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("way", RANDOM.values(), ids=RANDOM)
def test_networks_that_are_random_in_evaluation_mode(way):
    torch.manual_seed(0)
    net = Way(way).eval()
    with pytest.raises(ValueError, match=r"layer 'last' is random in evaluation mode: .*first in the output of 'act'"):
        TorchSource(net, "last")(X)
    # What lies before it is sound.
    assert TorchSource(net, "a")(X)["a"].shape == (4, 8)


BATCHES = {
    "batch norm": lambda net, h: nn.functional.batch_norm(h, None, None, training=True),
    "spread of the batch": lambda net, h: h / h.std(),
    "mean of the batch": lambda net, h: h - h.mean(dim=0),
    "range of the batch": lambda net, h: (h / h.abs().amax() * 127).round(),
}
PLACES = {
    "place in the batch": lambda net, h: h * torch.arange(1, len(h) + 1)[:, None, None, None],
    "the first image": lambda net, h: torch.cat([h[:1], h[1:] + h[:1]]),
    "all images before": lambda net, h: h.cumsum(dim=0),
    "the first half": lambda net, h: torch.cat([h[: len(h) // 2]] * 2),  # as DiT's forward_with_cfg
    "another order": lambda net, h: torch.cat([h[::2], h[1::2]]),
    "the last image": lambda net, h: torch.cat([h[:-1], h[-1:] * 2]),
}


@pytest.mark.parametrize("way", BATCHES.values(), ids=BATCHES)
def test_networks_that_look_at_the_whole_batch(way):
    torch.manual_seed(0)
    net = Way(way).eval()
    source = TorchSource(net, "last")
    with pytest.warns(UserWarning, match=r"'last' depend on the other images .*of 'act' \(ReLU\): .*batch_size=1"):
        source(X)
    source(X)  # said once
    # One image at a time depends on itself alone.
    assert TorchSource(net, "last")(X[:1])["last"].shape == (1, 8)


@pytest.mark.parametrize("way", PLACES.values(), ids=PLACES)
def test_networks_that_look_at_the_place_in_the_batch(way):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="'last' depend on the other images of the batch, or on the place among them"):
        TorchSource(Way(way).eval(), "last")(X)


def test_images_move_only_to_where_the_conditioning_is_theirs():
    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(1, 8, 1)
            self.last = nn.Conv2d(8, 8, 1)

        def forward(self, x, t, names=None):
            return self.last(self.a(x) * t[:, None, None, None])

    source = TorchSource(Timed().eval(), "last")
    given = {"t": np.arange(4, dtype=np.float32), "names": ["a", "b", "c", "d"]}
    wanted = source.module(torch.from_numpy(X), torch.arange(4.0)).mean(dim=(2, 3)).detach().numpy()
    np.testing.assert_array_equal(source(X, given)["last"], wanted)


def test_buffers_that_count_do_not_reach_the_next_call():
    class Observed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("highest", torch.zeros(()))
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)
            self.a, self.last = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            h = self.a(x)
            self.calls = self.calls + 1
            self.highest.data.copy_(torch.maximum(self.highest, h.abs().amax() / 1e6))
            return self.last(h / (1 + self.highest) * self.calls)

    net = Observed().eval()
    before = {name: (buffer, buffer.clone()) for name, buffer in net.named_buffers()}
    source = TorchSource(net, "last")
    first, again = source(X), source(X)
    np.testing.assert_array_equal(first["last"], again["last"])
    for name, buffer in net.named_buffers():
        assert buffer is before[name][0] and torch.equal(buffer, before[name][1])


def test_draws_that_change_nothing():
    ways = [torch.rand_like, lambda h: torch.randn(h.shape), lambda h: random.random(), lambda h: np.random.rand()]  # noqa: NPY002
    for draw in ways:
        net = Way(lambda net, h, draw=draw: h + 0 * draw(h)).eval()
        wanted = net(torch.from_numpy(X)).mean(dim=(2, 3)).detach().numpy()
        np.testing.assert_array_equal(TorchSource(net, "last")(X)["last"], wanted)
    # Operations that draw and compute at once are left as they are: here what they draw is lost again.
    net = Way(lambda net, h: nn.functional.rrelu(h, training=True)).eval()
    wanted = net(torch.from_numpy(X)).mean(dim=(2, 3)).detach().numpy()
    np.testing.assert_array_equal(TorchSource(net, "last")(X)["last"], wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_sound_networks_pass_in_every_type(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.InstanceNorm2d(8), nn.Flatten(2),
                        nn.Linear(36, 16), nn.TransformerEncoderLayer(16, 2, 8, batch_first=True))  # fmt: skip
    source = TorchSource(net.to(dtype), ["3", "6"])
    assert source(X)["6"].shape == (4, 16)


def test_a_first_call_costs_one_short_pass_more():
    net = Way(lambda net, h: h).eval()
    source = TorchSource(net, "a")
    source(X)
    assert net.calls == 3
    source(X), source(X)
    assert net.calls == 5


def test_tokens_are_put_beside_others_too():
    tokens = torch.arange(12).reshape(3, 4)
    net = nn.Sequential(nn.Embedding(12, 5), nn.Identity())
    assert TorchSource(net, "1")(tokens)["1"].shape == (3, 5)


def test_a_survey_sees_shapes_and_what_draws():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), Way(lambda net, h: h + 0 * torch.rand_like(h))).eval()
    net[2].a = nn.Conv2d(8, 8, 1)
    seen = survey(ForwardPass(net), {"1": None}, X, None)
    assert seen.shapes[net[1]] == [(4, 8, 8, 8)] and seen.layers["1"].axes == {1} and seen.draws == ["rand_like"]
    assert torch.equal(seen.layers["1"].row, net[1](net[0](torch.from_numpy(X[:1]))))
