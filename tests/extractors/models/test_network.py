"""A network passes what it knows on to its source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from icrkit_extractors import noise
from icrkit_extractors.models._network import Network, frozen


@pytest.fixture
def network() -> Network:
    return Network(
        nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU()),
        noise.EDM(),
        call=lambda module, x, conditioning: module(x * conditioning["c_noise"][:, None, None, None]),
        input_shape=(1, 4, 4),
        record={"family": "test", "model_sha256": "abc"},
    )


def test_the_source_runs_the_networks_call(network):
    x = np.random.default_rng(0).standard_normal((5, 1, 4, 4)).astype(np.float32)
    got = network.source(["0"])(x, {"c_noise": np.full(5, 2, np.float32)})["0"]
    with torch.no_grad():
        wanted = network.module[0](torch.from_numpy(2 * x)).mean(dim=(2, 3))
    np.testing.assert_array_equal(got, wanted.numpy())


def test_options_add_to_what_the_network_knows(network):
    config = network.source("*", pool="none", record={"classes": "null"}).config()
    assert config["layers"] == ["0", "1"] and config["pool"] == "none"
    assert (config["family"], config["model_sha256"], config["classes"]) == ("test", "abc", "null")
    shapes = network.source(call=lambda module, x, conditioning: module(x)).available_layers(conditioning={})
    assert shapes == {"0": (1, 3, 4, 4), "1": (1, 3, 4, 4)}
    assert network.record == {"family": "test", "model_sha256": "abc"}


def test_a_network_with_a_function_that_encodes_moves_alone():
    network = Network(torch.nn.Sequential(torch.nn.Identity()), None, encode=lambda images, ids, view, seed: images)
    assert network.source("0", device="cpu").layers == ("0",)


def test_modules_that_give_nothing_back():
    class Quiet(torch.nn.Linear):
        def train(self, mode=True):
            super().train(mode)

        def requires_grad_(self, requires_grad=True):
            super().requires_grad_(requires_grad)

    net = Quiet(2, 2)
    assert frozen(net) is net and not net.training and not net.weight.requires_grad
