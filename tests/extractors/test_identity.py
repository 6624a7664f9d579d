import copy
import hashlib
import io
import warnings

import pytest
import torch
from torch import nn

from icrkit_extractors._identity import weights_digest


class Extra(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def get_extra_state(self):
        return self.value

    def set_extra_state(self, state):
        self.value = state


class Buffered(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.register_buffer("hidden", torch.tensor(value), persistent=False)


def quantised(seed, kind=nn.Linear):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 4), nn.LSTM(4, 4))
    # quantize_dynamic is to be removed from torch, and checkpoints made with it stay.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net.eval(), {kind}, dtype=torch.qint8)


def test_plain_weights_have_the_digest_of_names_types_shapes_and_bytes():
    net = nn.Linear(2, 1)
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(f"{name} torch.float32 {tuple(value.shape)}\n".encode() + value.numpy().tobytes())
    assert weights_digest(net) == digest.hexdigest()


@pytest.mark.parametrize("kind", [nn.Linear, nn.LSTM])
def test_packed_weights_of_quantised_layers_count(kind):
    net = quantised(1, kind)
    assert weights_digest(net) == weights_digest(copy.deepcopy(net)) == weights_digest(quantised(1, kind))
    other = copy.deepcopy(net)
    place = 0 if kind is nn.Linear else 1
    other[place] = quantised(2, kind)[place]
    assert weights_digest(other) != weights_digest(net)


@pytest.mark.parametrize(
    "one, other",
    [
        (1, 2),
        (1.0, 1.5),
        ("a", "b"),
        (None, 0),
        (b"a", b"b"),
        ({"scale": 1.0}, {"scale": 2.0}),
        ([1, (2, 3)], [1, (2, 4)]),
        (torch.ones(2), torch.zeros(2)),
        (torch.ones(2).numpy(), torch.zeros(2).numpy()),
        (io.BytesIO(b"a"), io.BytesIO(b"b")),
        (torch.eye(2).to_sparse(), 2 * torch.eye(2).to_sparse()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_state_dict_holds_beside_tensors_counts(one, other):
    assert weights_digest(Extra(one)) == weights_digest(Extra(copy.deepcopy(one))) != weights_digest(Extra(other))


def test_objects_count_by_their_type_alone():
    assert weights_digest(Extra(object())) == weights_digest(Extra(object()))


def test_buffers_that_a_state_dict_leaves_out_count():
    assert weights_digest(Buffered(1.0)) != weights_digest(Buffered(2.0))


def test_types_without_numpys_count():
    half = nn.Linear(2, 2).to(torch.bfloat16)
    before = weights_digest(half)
    half.bias.data += 1
    assert weights_digest(half) != before
    assert weights_digest(nn.Linear(2, 2, device="meta")) != weights_digest(nn.Linear(2, 3, device="meta"))


def test_parametrised_weights_count():
    torch.manual_seed(0)
    net = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    before = weights_digest(net)
    net.parametrizations.weight.original0.data += 1
    assert weights_digest(net) != before


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
    assert weights_digest(nn.Linear(2, 2, device="meta")).endswith(" without the values of 2 tensor(s), first weight")
