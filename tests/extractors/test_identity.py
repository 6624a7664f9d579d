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


def test_parameters_that_a_state_dict_leaves_out_count():
    class Hidden(nn.Linear):
        def state_dict(self, *args, **kwargs):
            return {"weights": "elsewhere"}

    one, other = Hidden(2, 2), Hidden(2, 2)
    assert weights_digest(one) == weights_digest(copy.deepcopy(one)) != weights_digest(other)


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


def test_a_digest_says_that_a_network_has_no_values():
    assert weights_digest(nn.Linear(2, 2, device="meta")).endswith(" without the values of 2 tensor(s), first weight")
