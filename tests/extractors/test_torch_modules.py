"""Layers under the names that their author knows, whatever wraps the network or its parts."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from icrkit_extractors import TorchSource
from icrkit_extractors._torch_modules import between, find_layers, modules_by_name, unwrap


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)) for _ in range(2))
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)


class Sums(nn.Module):
    """A network of somebody's whose one child is called as wrappers call theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return x + self.module(x)


class Average(nn.Module):
    """A moving average of another package: a copy that is called by its name, and a module that is not called."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.module = net


LAYERS = ["first", "blocks.1", "blocks.1.0"]
X = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def process_group():
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


def each_block(wrap):
    def wrapped(net):
        for k, block in enumerate(net.blocks):
            net.blocks[k] = wrap(block)
        return net

    return wrapped


WRAPPINGS = {
    "compile": [compiled],
    "blocks compiled": [each_block(compiled)],
    "blocks compiled, then all": [each_block(compiled), compiled],
    "blocks checkpointed": [each_block(checkpoint_wrapper)],
    "blocks checkpointed and compiled": [each_block(checkpoint_wrapper), each_block(compiled)],
    "DataParallel": [nn.DataParallel],
    "DDP": [DistributedDataParallel],
    "compile, DDP": [compiled, DistributedDataParallel],
    "DDP, compile": [DistributedDataParallel, compiled],
    "blocks compiled, DDP, compile, average": [each_block(compiled), DistributedDataParallel, compiled, AveragedModel],
    "average of another package": [Average],
    "blocks in DDP": [each_block(DistributedDataParallel)],
    "blocks in DataParallel": [each_block(nn.DataParallel)],
}


# Dynamo looks at .grad of what is no leaf when it compiles a part alone.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("wrappings", WRAPPINGS.values(), ids=WRAPPINGS)
def test_wrappers_in_any_order_change_neither_names_nor_bits(wrappings, net, process_group):
    wanted = TorchSource(net, LAYERS)(X)
    for wrap in wrappings:
        net = wrap(net)
    if not isinstance(net, Average | AveragedModel):
        net(torch.from_numpy(X))  # compiled by now
    # As the state_dict of the wrapped module spells them, as well.
    spelled = [name for name, _ in net.named_modules() if name.endswith(("blocks.1", "first"))]
    for layers in (LAYERS, spelled[:2]):
        source = TorchSource(net, layers)
        assert set(source.layers) <= set(LAYERS)
        for _ in range(2):
            for name, h in source(X).items():
                np.testing.assert_array_equal(h, wanted[name])
    assert TorchSource(net, "blocks.?").layers == ("blocks.0", "blocks.1")
    assert list(TorchSource(net).available_layers(X)) == [name for name in modules_by_name(Net()) if name != "blocks"]


def test_a_part_in_ddp_does_not_wait_for_others(net, process_group, monkeypatch):
    net = each_block(DistributedDataParallel)(net)
    monkeypatch.setattr(DistributedDataParallel, "_sync_buffers", lambda self: pytest.fail("waits for other processes"))
    before = [block.require_forward_param_sync for block in net.blocks]
    assert TorchSource(net, "blocks.1")(X)["blocks.1"].shape == (4, 8)
    assert [block.require_forward_param_sync for block in net.blocks] == before


def test_a_part_of_the_networks_own_called_module_is_a_layer_of_its_own():
    net = nn.Sequential(Sums(), nn.Identity())
    assert unwrap(net[0]) is net[0]
    got = TorchSource(net, ["0", "0.module"])(X)
    assert np.abs(got["0"] - got["0.module"]).max() > 0.01


def test_layers_inside_what_the_author_compiled():
    class Compiled(Net):
        @torch.compile(backend="eager")
        def forward(self, x):
            return super().forward(x)

    class Inner(Net):
        def forward(self, x):
            return through(self.first, x)

    through = torch.compile(lambda part, x: part(x), backend="eager")
    for kind in (Compiled, Inner):
        torch.manual_seed(0)
        net = kind().requires_grad_(False).eval()
        wanted = net.first(torch.from_numpy(X)).mean(dim=(2, 3)).numpy()
        for _ in range(2):
            net(torch.from_numpy(X))
        with torch.inference_mode():
            net(torch.from_numpy(X))
        source = TorchSource(net, "first")
        for _ in range(2):
            np.testing.assert_array_equal(source(X)["first"], wanted)
    # Compiled again afterwards, and its own compilation stays as it was.
    assert torch.compiler.is_compiling() is False and net(torch.from_numpy(X)).shape == (4, 8, 8, 8)


def test_what_is_split_over_processes_is_refused(net, process_group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    split = fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match=r"parameters of .*Net are split over processes"):
        TorchSource(split, "first")(X)


def test_exact_names_come_first_and_bad_ones_name_the_nearest(net):
    assert find_layers(compiled(net), ["_orig_mod.first", "module.blocks.0"]) == {"first": True, "blocks.0": True}
    with pytest.raises(ValueError, match="layer 'first' is named twice"):
        find_layers(net, ["first", "module.first"])
    with pytest.raises(ValueError, match=r"Net has no module 'frist' \(nearest: 'first'"):
        find_layers(net, "frist")


def test_parts_between_layers_are_found_through_wrappers(net):
    net = each_block(compiled)(net)
    assert between(net, ["last"]) == [block._orig_mod for block in net.blocks]
    assert between(net, ["blocks.1.0"]) == [net.blocks[0]._orig_mod]


def test_pools_by_wrapped_names(net):
    source = TorchSource(nn.DataParallel(net), "module.first", {"module.fir*": "none"})
    assert source(X)["first"].shape == (4, 512)
