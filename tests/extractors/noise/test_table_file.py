"""Tables that are read from files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icrkit_extractors import noise


def test_tables_are_read_from_files(tmp_path):
    law = noise.DDPM("cosine", 20)
    betas = np.linspace(0.01, 0.2, 20)
    bar = np.cumprod(1 - betas)
    np.save(tmp_path / "a.npy", bar)
    np.savez(tmp_path / "a.npz", betas=betas, posterior=bar)
    torch.save({"state_dict": {"model.w": torch.ones(2, 2), "alphas_cumprod": torch.tensor(bar)}}, tmp_path / "a.pt")
    torch.save(
        {"model": {"betas": torch.tensor(betas), "w": torch.ones(2)}, "ema": {"w": torch.ones(2)}}, tmp_path / "b.pt"
    )
    wanted = noise.DDPM(betas=betas).sigmas_at(range(20))
    for text in ("a.npy", "a.npz", "a.npz:betas", "a.pt", "a.pt:state_dict.alphas_cumprod", "b.pt:model.betas"):
        assert noise.LAWS["ddpm"](table=f"{tmp_path}/{text}", scale=50).sigmas_at(
            [50 * t for t in range(20)]
        ) == pytest.approx(wanted, rel=1e-6)
    assert noise.LAWS["ddpm"]("cosine", 20) == law
    for text, said in (
        ("a.npz:alphas", r"0 tables called 'alphas'.*betas, posterior"),
        ("b.pt", "several networks"),
        ("a.pt:state_dict.model.w", "must be numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            noise.LAWS["ddpm"](table=f"{tmp_path}/{text}")
    with pytest.raises(ValueError, match="schedule and as alphas_cumprod"):
        noise.LAWS["ddpm"]("cosine", table=tmp_path / "a.npy")
