"""Names that trainers give: wrappers anywhere, prefixes, averages, lists; one network, never chosen in silence."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from icrkit_extractors._checkpoint import load_into, read_tensors
from icrkit_extractors._state_dict import under_prefix, without_prefix


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(3, 4)
            self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 2)])


def named(net, change):
    return {change(name): value for name, value in net.state_dict().items()}


def load(tmp_path, content, key=None, made=Net):
    path = tmp_path / "a.pt"
    torch.save(content, path)
    module = made(7)
    load_into(module, read_tensors(path, key), path)
    return module


def same(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(x is y or torch.equal(x, y) for (_, x), (_, y) in pairs)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"module.module._orig_mod.{name}",
        lambda name: f"model.{name}",
        lambda name: f"net._orig_mod.{name}",
        lambda name: f"denoiser.model.module.{name}",
        lambda name: name.replace("blocks.1.", "blocks.1._orig_mod."),
        lambda name: name.replace("blocks.1.", "blocks.1.module."),
        lambda name: name.replace("first.", "_orig_mod.first."),
        lambda name: f"_fsdp_wrapped_module.{name}".replace("blocks.0.", "blocks.0._fsdp_wrapped_module."),
        lambda name: f"net.{name}".replace("blocks.0.", "blocks.0._checkpoint_wrapped_module._orig_mod."),
        lambda name: f"_forward_module.model.{name}",
    ],
)
def test_wrappers_and_one_prefix_do_not_matter(tmp_path, change):
    assert same(load(tmp_path, named(Net(), change)), Net())
    assert same(load(tmp_path, {"state_dict": named(Net(), change), "epoch": 1}, "state_dict"), Net())


def test_a_module_that_is_wrapped_itself(tmp_path):
    def made(seed):
        net = Net(seed)
        net.first = torch.compile(net.first, backend="eager")
        return nn.Sequential(net)

    assert same(load(tmp_path, Net().state_dict(), made=lambda seed: made(seed)[0]), Net())
    assert same(load(tmp_path, named(Net(), "0.{}".format), made=made), made(0))


def test_a_layer_that_is_called_module(tmp_path):
    def made(seed):
        net = Net(seed)
        net.module, net.model = nn.Linear(2, 2), nn.Linear(2, 2)
        return net

    net = made(0)
    assert same(load(tmp_path, net.state_dict(), made=made), net)
    assert same(load(tmp_path, named(net, "module.{}".format), made=made), net)


def test_other_tensors_beside_the_prefix(tmp_path):
    loss = {"loss.weight": torch.ones(3), "n_averaged": torch.tensor(5)}
    assert same(load(tmp_path, named(Net(), "net.{}".format) | loss), Net())
    averaged = torch.optim.swa_utils.AveragedModel(Net(3))
    assert same(load(tmp_path, averaged.state_dict()), Net(3))


def test_several_that_fit_are_listed(tmp_path):
    both = named(Net(1), "online_model.{}".format) | named(Net(2), "ema_model.{}".format)
    with pytest.raises(ValueError, match=r"2 times.*\['ema_model', 'online_model'\].*key="):
        load(tmp_path, both)
    assert same(load(tmp_path, both, "ema_model"), Net(2))
    assert same(load(tmp_path, {"ema": both, "model": Net(3).state_dict()}, "ema.online_model"), Net(1))
    with pytest.raises(ValueError, match=r"nothing under 'ema_modle' \(nearest: 'ema_model'.*in 'ema'"):
        load(tmp_path, {"ema": both, "model": Net(3).state_dict()}, "ema.ema_modle")


def test_an_average_is_never_left_out_in_silence(tmp_path):
    """As LitEma of latent diffusion keeps it, whose names have no dots."""
    squashed = {f"model_ema.diffusion_model{k.replace('.', '')}": v for k, v in Net(2).state_dict().items()}
    squashed |= {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(3)}
    state = named(Net(1), "model.diffusion_model.{}".format) | squashed | {"first_stage.weight": torch.ones(2)}
    content = {"state_dict": state, "global_step": 4}
    with pytest.raises(ValueError, match=r"average of its weights under \['model_ema'\].*key='model.diffusion_model'"):
        load(tmp_path, content)
    assert same(load(tmp_path, content, "state_dict.model.diffusion_model"), Net(1))
    assert same(load(tmp_path, content, "state_dict.model_ema"), Net(2))


def test_an_average_of_the_network_itself_has_no_prefix_left(tmp_path):
    squashed = {f"model_ema.{name.replace('.', '')}": value for name, value in Net(2).state_dict().items()}
    squashed |= {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(3)}
    content = named(Net(1), "model.{}".format) | squashed
    assert same(load(tmp_path, content, "model_ema"), Net(2)) and same(load(tmp_path, content, "model"), Net(1))
    with pytest.raises(ValueError, match="too many"):
        load(tmp_path, squashed | {"model_ema.rest": torch.ones(2)}, "model_ema")


def test_a_list_of_parameters(tmp_path):
    shadow = [value.clone() for value in Net(2).parameters()]
    content = {"model": Net(1).state_dict(), "ema": {"decay": 0.99, "shadow_params": shadow, "collected": None}}
    with pytest.raises(ValueError, match=r"several networks: \['model', 'ema.shadow_params'\]"):
        load(tmp_path, content)
    assert same(load(tmp_path, content, "ema.shadow_params"), Net(2))
    content["ema"]["shadow_params"] = shadow[1:]
    with pytest.raises(ValueError, match="a list of 5 tensors without names, and Net has 6 parameters"):
        load(tmp_path, content, "ema.shadow_params")

    def buffered(seed):
        net = Net(seed)
        net.register_buffer("mean", torch.ones(3))
        return net

    content["ema"]["shadow_params"] = shadow
    with pytest.raises(ValueError, match="further tensors, mean, which are not in it"):
        load(tmp_path, content, "ema.shadow_params", buffered)


def test_networks_in_lists_and_deep_entries(tmp_path):
    content = {"nets": [Net(1).state_dict(), Net(2).state_dict()], "callbacks": {"EMA.v2": {"state": {}}}}
    content["callbacks"]["EMA.v2"]["state"]["ema_state_dict"] = Net(3).state_dict()
    with pytest.raises(ValueError, match=r"\['nets.0', 'nets.1', 'callbacks.EMA.v2.state.ema_state_dict'\]"):
        load(tmp_path, content)
    assert same(load(tmp_path, content, "nets.1"), Net(2))
    assert same(load(tmp_path, content, "callbacks.EMA.v2.state.ema_state_dict"), Net(3))


def test_states_of_optimisers_and_generators_are_no_networks(tmp_path):
    net = Net()
    optimiser = torch.optim.Adam(net.parameters())
    net.first(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    by_name = {"state": {name: {"exp_avg": value, "step": torch.tensor(1)} for name, value in net.named_parameters()}}
    content = {
        "model": net.state_dict(),
        "optimizer": optimiser.state_dict(),
        "named_optimizer": by_name,
        "rng": {"torch": torch.get_rng_state()},
        "lr": {"now": torch.tensor(0.1)},
        "step": torch.tensor(3),
    }
    assert same(load(tmp_path, content), net)


def test_content_that_holds_itself_ends(tmp_path):
    loop: list = []
    loop.extend([loop] * 50)
    content = {"model": Net().state_dict(), "loop": loop}
    assert same(load(tmp_path, content, "model"), Net())


def test_weight_norm_before_and_after_it_was_a_parametrisation(tmp_path):
    def made(seed):
        net = Net(seed)
        nn.utils.parametrizations.weight_norm(net.first)
        return net

    short = {"original0": "weight_g", "original1": "weight_v"}

    def old(name):
        head, _, last = name.rpartition(".")
        return f"{head.removesuffix('.parametrizations.weight')}.{short.get(last, last)}"

    assert same(load(tmp_path, named(made(0), old), made=made), made(0))
    assert same(load(tmp_path, named(made(0), lambda name: f"net.{old(name)}"), made=made), made(0))


def test_state_that_is_no_tensor(tmp_path):
    class Extra(Net):
        def get_extra_state(self):
            return self.extra

        extra = {"scale": 2.0}

    with pytest.raises(ValueError, match=r"state that is no tensor \(_extra_state\)"):
        load(tmp_path, Net().state_dict(), made=Extra)
    Extra.extra = None
    assert same(load(tmp_path, Net().state_dict() | {"_extra_state": None, "step": 5}, made=Extra), Extra(0))


def test_nothing_is_copied_where_names_differ(tmp_path):
    net = Net(7)
    before = copy.deepcopy(net)
    for tensors in (
        Net().state_dict() | {"more.weight": torch.ones(2)},
        named(Net(), "net.{}".format) | {"net.more": torch.ones(2)},
        {name: value for name, value in Net().state_dict().items() if name != "first.bias"},
    ):
        with pytest.raises(ValueError, match="does not fit Net"):
            load_into(net, tensors, "a.pt")
    assert same(net, before)


def test_prefixes_in_safetensors_and_npz(tmp_path):
    both = named(Net(1), "model.{}".format) | named(Net(2), "model_ema.{}".format)
    save_file(both, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **{name: value.numpy() for name, value in both.items()})
    for name in ("a.safetensors", "a.npz"):
        path, net = tmp_path / name, Net(7)
        with pytest.raises(ValueError, match="2 times"):
            load_into(net, read_tensors(path), path)
        load_into(net, read_tensors(path, "model_ema"), path)
        assert same(net, Net(2))


def test_two_names_for_one_keep_both():
    assert set(without_prefix({"a._orig_mod.w": 1, "a.w": 2})) == {"a._orig_mod.w", "a.w"}


def test_the_prefix_of_some_names():
    tensors = {"net.a": 1, "net.b": 2, "net.c": 3, "other": 4}
    assert under_prefix(tensors, ["a", "b"], "x") == {"a": 1, "b": 2, "c": 3}
    assert under_prefix(tensors, ["a", "d"], "x") is None
    with pytest.raises(ValueError, match=r"2 times, under the prefixes \['ema', 'net'\]"):
        under_prefix(tensors | {"ema.a": 1, "ema.b": 2}, ["a", "b"], "x")
