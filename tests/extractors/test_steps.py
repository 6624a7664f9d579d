"""Steps from the names that trainers give; what is not certain is refused."""

from __future__ import annotations

import pytest
import torch

from icrkit_extractors._checkpoint import stored_step
from icrkit_extractors._steps import steps_of


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch=4-step=500.ckpt", 500),  # Lightning
        ("epoch=9-step=1000-v1.ckpt", 1000),
        ("epoch=0-val_loss=0.91.ckpt", 0),
        ("best-epoch=03-val_loss=0.1234.ckpt", 3),
        ("lightning_logs/version_3/checkpoints/epoch=1-step=200.ckpt", 200),
        ("run-3/net_000100.pt", 100),
        ("500.ckpt/nnet_ema.pth", 500),  # U-ViT
        ("checkpoint-1500/unet/diffusion_pytorch_model.safetensors", 1500),  # diffusers
        ("checkpoint-1500/model.safetensors", 1500),
        ("network-snapshot-002560.pkl", 2560),  # EDM
        ("ema_0.9999_500000.pt", 500000),  # guided-diffusion
        ("model_ema_9999.pt", 9999),
        ("0050000.pt", 50000),  # SiT, DiT
        ("iter_5000.pth", 5000),
        ("ckpt-iter5000-loss-1.5e-3.pt", 5000),
        ("model-12.pt", 12),  # denoising-diffusion-pytorch
        ("epoch_10_iter_500.pth", 500),
        ("otcfm_cifar10_weights_step_400000.pt", 400000),  # torchcfm
        ("global_step=77.ckpt", 77),
        ("steps-00000007.safetensors", 7),
        ("ckpt-900k.pt", 900_000),
        ("1M/ema.pt", 1_000_000),
        ("net_1.5M_ema0.9999.pt", 1_500_000),
        ("resnet4k_step100.pt", 100),
        ("step.100.pt", 100),
        ("ckpt.000200.pt", 200),
        ("global_step1000/mp_rank_00_model_states.pt", 1000),  # DeepSpeed
        ("checkpoint-500/pytorch_model-00001-of-00002.bin", 500),
        ("checkpoint-500/checkpoint-500.pt", 500),
        ("model2/seed_100.pt", 100),
    ],
)
def test_names_of_trainers(name, step):
    assert steps_of([], [name]) == [step]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("last.ckpt", "no step in the name of last.ckpt"),
        ("run3/model.pt", "no step in the name"),
        ("net-1.0e5.pt", "no step"),
        ("edm-cifar10-32x32.pkl", "several numbers in its name, 10, 32, 32, and none is called a step"),
        ("model_v2_1000.pt", "several numbers"),
        ("step_100_step_200.pt", r"several steps, \[100, 200\]"),
        ("checkpoint-500/model_2.pt", "has the step 500 in the name of its folder, and 2 in its own"),
        ("epoch_7/ema_3.pt", "has the epoch 7 in the name of its folder, and 3 in its own"),
    ],
)
def test_what_is_not_certain_is_refused(name, said):
    with pytest.raises(ValueError, match=f"{said}.*--step"):
        steps_of([], [name])


def test_steps_that_are_given():
    assert steps_of((5, 6), ["a.pt", "b.pt"]) == [5, 6]
    with pytest.raises(ValueError, match="1 --step for 2 checkpoints"):
        steps_of((5,), ["a.pt", "b.pt"])


def test_a_course_counts_in_one_unit_and_each_step_once():
    assert steps_of([], ["epoch=3.ckpt", "epoch=1.ckpt"]) == [3, 1]
    with pytest.raises(ValueError, match=r"epoch=3\.ckpt names its epoch and epoch=4-step=500\.ckpt names its step"):
        steps_of([], ["epoch=3.ckpt", "epoch=4-step=500.ckpt"])
    with pytest.raises(ValueError, match="step 7 appears twice"):
        steps_of([], ["a-7.pt", "b-7.pt"])


def test_the_step_inside_a_checkpoint(tmp_path):
    for name, content in (
        ("a.ckpt", {"state_dict": {"w": torch.ones(2)}, "epoch": 1, "global_step": 900}),
        ("b.pt", {"model": {"w": torch.ones(2)}, "step": torch.tensor(1000)}),
        ("c.pt", {"w": torch.ones(2)}),
        ("d.pt", {"w": torch.ones(2), "step": True}),
    ):
        torch.save(content, tmp_path / name)
    paths = [str(tmp_path / name) for name in ("a.ckpt", "b.pt", "c.pt", "d.pt")]
    assert list(map(stored_step, paths)) == [900, 1000, None, None] and stored_step(tmp_path) is None
    assert steps_of([], [paths[0], str(tmp_path / "step_5.pt"), paths[1]], stored_step) == [900, 5, 1000]
    with pytest.raises(ValueError, match=r"no step in the name of .*c\.pt"):
        steps_of([], paths, stored_step)
