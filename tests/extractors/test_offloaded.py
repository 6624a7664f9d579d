"""Weights that are kept away from a network are part of its digest."""

import pytest
import torch
from torch import nn

from icrkit_extractors._identity import weights_digest


def offloadable(seed, tied=True):
    """Weights in parts of parts, tied ones, and a buffer."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)), nn.Linear(4, 4))
    if tied:
        net[2].weight = net[1][1].weight
    net[1][0].running_mean.normal_()
    return net.eval()


def by_accelerate(net, folder):
    accelerate = pytest.importorskip("accelerate")
    return accelerate.cpu_offload(net, execution_device=torch.device("cpu"), offload_buffers=True)


def by_accelerate_as_one(net, folder):
    accelerate = pytest.importorskip("accelerate")
    device = torch.device("cpu")
    return accelerate.cpu_offload(net, execution_device=device, preload_module_classes=["Sequential"])


def by_accelerate_on_disk(net, folder):
    accelerate = pytest.importorskip("accelerate")
    return accelerate.disk_offload(net, folder, execution_device=torch.device("cpu"))


def by_diffusers_on_disk(net, folder):
    hooks = pytest.importorskip("diffusers.hooks")
    hooks.apply_group_offloading(
        net, onload_device=torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(folder)
    )
    return net


OFFLOADING = [by_accelerate, by_accelerate_as_one, by_accelerate_on_disk, by_diffusers_on_disk]


@pytest.mark.parametrize("offload", OFFLOADING)
def test_offloaded_weights_count_by_their_values(tmp_path, offload):
    x = torch.randn(5, 3)
    digests, wanted = [], []
    for seed in (0, 1):
        # Group offloading to disk writes tied weights twice, the second time when their values are gone.
        net = offloadable(seed, tied=offload is not by_diffusers_on_disk)
        wanted.append(weights_digest(net))
        with torch.no_grad():
            features = net(x)
            net = offload(net, tmp_path / str(seed))
            digests.append(weights_digest(net))
            # Also after it has run: the values are taken away again.
            assert torch.equal(net(x), features)
        assert weights_digest(net) == digests[-1]
    assert digests == wanted and wanted[0] != wanted[1]


def test_offloaded_half_weights_count_as_they_are_put_in_place(tmp_path):
    net = offloadable(0).to(torch.bfloat16)
    wanted = weights_digest(net)
    assert weights_digest(by_accelerate_on_disk(net, tmp_path)) == wanted


def test_a_digest_says_which_values_it_lacks(tmp_path):
    net = by_accelerate(offloadable(0), tmp_path)
    for part in net.modules():
        if (values := getattr(getattr(part, "_hf_hook", None), "weights_map", None)) is not None:
            values.dataset.pop("0.weight", None)
    digest, _, said = weights_digest(net).partition(" ")
    assert len(digest) == 64 and said == "without the values of 1 tensor(s), first 0.weight"
