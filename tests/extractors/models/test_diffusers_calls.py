"""Networks of diffusers are called without a condition, with the rows that stand for none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from icrkit_extractors.models._diffusers_calls import CALLS, Null, _packed, _positions

diffusers = pytest.importorskip("diffusers", reason="the calls are those of its classes")


def test_packing_and_places_are_those_of_the_flux_pipeline():
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    assert torch.equal(_packed(x), diffusers.FluxPipeline._pack_latents(x, 2, 3, 4, 6))
    places = diffusers.FluxPipeline._prepare_latent_image_ids(2, 2, 3, "cpu", torch.float32)
    assert torch.equal(_positions(2, 3, torch.device("cpu")), places)
    # Small enough to see: one channel, two patches.
    assert _packed(torch.tensor([[[[0.0, 1, 2, 3], [4, 5, 6, 7]]]])).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]]]


class Recorder:
    """Stands for a network: keeps what it is called with."""

    def __init__(self, **config: Any) -> None:
        self.config = SimpleNamespace(**config)

    def __call__(self, *args: Any, **given: Any) -> None:
        self.args, self.given = args, given


def null(**changes: Any) -> Null:
    return Null(class_label=None, prompt={}, guidance=1.0, pixels=8, sample_size=None)._replace(**changes)


def test_a_prompt_stands_once_for_each_image_in_the_type_of_the_input():
    net = Recorder(joint_attention_dim=5, pooled_projection_dim=3, in_channels=4, sample_size=8)
    prompt = {"prompt_embeds": torch.rand(1, 2, 5), "pooled_prompt_embeds": torch.rand(1, 3)}
    made = CALLS["SD3Transformer2DModel"](net, null(prompt=prompt))
    assert made.conditioning == {"prompt": "given", "n_tokens": 2} and made.input_shape == (4, 8, 8)
    made.call(net, torch.zeros(6, 4, 8, 8, dtype=torch.float64), {"timestep": torch.zeros(6)})
    rows = net.given["encoder_hidden_states"]
    assert rows.dtype == torch.float64 and torch.equal(rows, prompt["prompt_embeds"].double().expand(6, 2, 5))
    assert net.given["pooled_projections"].shape == (6, 3)
    with pytest.raises(ValueError, match="networks of diffusers take the conditioning 'timestep'"):
        made.call(net, torch.zeros(6, 4, 8, 8), {"c_noise": torch.zeros(6)})


def test_a_prompt_of_another_width_is_refused():
    net = Recorder(joint_attention_dim=5, pooled_projection_dim=3, in_channels=4, sample_size=8)
    call = CALLS["SD3Transformer2DModel"]
    assert call(net, null()).conditioning == {"prompt": "zeros", "n_tokens": 333}
    with pytest.raises(ValueError, match="'prompt_embeds' has 4 features, and the network takes 5"):
        call(net, null(prompt={"prompt_embeds": torch.zeros(1, 2, 4)}))
    with pytest.raises(ValueError, match="empty_prompt lacks 'pooled_prompt_embeds', of 3 features"):
        call(net, null(prompt={"prompt_embeds": torch.zeros(1, 2, 5)}))
