"""A network is known again by what it does, within rounding and no further."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from icrkit_extractors._probe import probe_difference, probe_numbers

CPU = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def features():
    return {"mid": np.random.default_rng(0).normal(1, 1, (2, 300)).astype(np.float32)}


def test_a_probe_survives_json_and_rounding(features):
    probe = json.loads(json.dumps(probe_numbers(features)))
    rng = np.random.default_rng(1)
    rounded = {"mid": features["mid"] * (1 + 1e-5 * rng.normal(size=(2, 300)))}
    assert probe_difference(probe, probe_numbers(rounded), CPU) is None
    half = {"mid": features["mid"].astype(np.float16) * (1 + 3e-3 * rng.normal(size=(2, 300)))}
    for record in ({"dtype": "bfloat16"}, {"autocast": "float16"}, {"device": "cuda"}, {"providers": ["CUDA"]}):
        assert probe_difference(probe, probe_numbers(half), record) is None


@pytest.mark.parametrize(
    "changed",
    [
        lambda h: 1.02 * h,
        lambda h: h + 0.05,
        lambda h: h[:, ::-1],
        lambda h: h[::-1],
        lambda h: np.sort(h, axis=1),
        lambda h: np.roll(h, 1, axis=1),
        lambda h: np.where(np.arange(h.shape[1]) == 7, 9.0, h),
        lambda h: 0 * h,
    ],
)
def test_other_features_are_seen(features, changed):
    now = probe_numbers({"mid": changed(features["mid"])})
    said = probe_difference(probe_numbers(features), now, CPU)
    assert said is not None and "'mid' differs by" in said


def test_another_network_is_seen_at_any_precision(features):
    other = probe_numbers({"mid": np.random.default_rng(2).normal(1, 1, (2, 300))})
    assert probe_difference(probe_numbers(features), other, {"dtype": "float16"}) is not None


def test_one_image_constant_features_and_none_at_all():
    for h in (np.ones((1, 4)), np.zeros((2, 4)), np.full((2, 1), 3.0)):
        probe = probe_numbers({"a": h})
        assert np.isfinite(probe["a"]).all() and probe_difference(probe, probe, CPU) is None
    assert probe_difference(probe_numbers({"a": np.zeros((2, 4))}), probe_numbers({"a": np.ones((2, 4))}), CPU)


@pytest.mark.parametrize("before", [None, 3, {}, {"a": None}, {"a": [1.0]}, {"b": [1.0] * 5}, {"a": ["x"] * 5}])
def test_what_is_no_probe_of_these_layers_is_not_compared(before):
    assert probe_difference(before, probe_numbers({"a": np.ones((2, 4))}), CPU) is None


def test_products_below_the_highest_precision_are_coarse(features):
    half = probe_numbers({"mid": 1.01 * features["mid"]})
    assert probe_difference(probe_numbers(features), half, CPU) is not None
    torch.set_float32_matmul_precision("high")
    try:
        assert probe_difference(probe_numbers(features), half, CPU) is None
    finally:
        torch.set_float32_matmul_precision("highest")
