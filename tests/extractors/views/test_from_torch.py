"""Transforms of others: seeded by the image and the view, and nobody else's draws change."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch

from icrkit.exceptions import MissingDependencyError
from icrkit_extractors import views


def random_images(n: int = 64, channels: int = 1, height: int = 16, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, channels, height, width)).astype(np.float32)


def noisy(image: torch.Tensor) -> torch.Tensor:
    """Draws from all three global generators."""
    return (image + 0.1 * torch.randn_like(image) + 0.1 * random.random() + 0.1 * np.random.rand()).clamp(0, 1)  # noqa: NPY002


class Dim(torch.nn.Module):
    def __init__(self, by: object) -> None:
        super().__init__()
        self.by = by

    def extra_repr(self) -> str:
        return f"by={self.by}"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.by


def global_draws() -> list[float]:
    return [torch.rand(1).item(), random.random(), np.random.rand()]  # noqa: NPY002


def test_a_transform_sees_intensities_one_image_at_a_time():
    x = random_images(5, 3, 4, 6)
    seen = []
    view = views.FromTorch(lambda image: seen.append(image.clone()) or 1 - image)
    np.testing.assert_allclose(view(x, range(5), 0, 0), -x, atol=2e-7)
    assert all(image.shape == (1, 3, 4, 6) and image.dtype == torch.float32 for image in seen)
    np.testing.assert_allclose(torch.cat(seen).numpy(), (x + 1) / 2, atol=1e-7)
    bytes_ = views.FromTorch(lambda image: 255 - image, value_range=(0, 255))
    np.testing.assert_allclose(bytes_(x, range(5), 0, 0), -x, atol=2e-7)
    same = views.FromTorch(torch.clone, value_range=(-1, 1))
    np.testing.assert_array_equal(same(x, range(5), 0, 0), x)


def test_a_transform_is_seeded_by_image_view_and_seed():
    x, ids = np.repeat(0.3 * random_images(1, 3), 9, axis=0), [f"img{k}" for k in range(9)]
    view = views.FromTorch(noisy)
    whole = view(x, ids, 1, 2)
    order = np.random.default_rng(0).permutation(9)
    np.testing.assert_array_equal(view(x[order], [ids[k] for k in order], 1, 2), whole[order])
    np.testing.assert_array_equal(view(x[4:5], ids[4:5], 1, 2)[0], whole[4])
    assert len({image.tobytes() for image in whole}) == 9
    for other in (view(x, ids, 0, 2), view(x, ids, 1, 3)):
        assert not (other == whole).all(axis=(1, 2, 3)).any()


def test_the_global_generators_are_put_back():
    def seeded() -> None:
        torch.manual_seed(1), random.seed(2), np.random.seed(3)  # noqa: NPY002

    def fails(image: torch.Tensor) -> torch.Tensor:
        noisy(image)
        raise RuntimeError("inside")

    seeded()
    wanted = global_draws()
    seeded()
    views.FromTorch(noisy)(random_images(3), range(3), 0, 0)
    assert global_draws() == wanted
    seeded()
    with pytest.raises(RuntimeError, match="inside"):
        views.FromTorch(fails)(random_images(3), range(3), 0, 0)
    assert global_draws() == wanted


def test_a_module_takes_part_without_a_gradient():
    module = Dim(torch.nn.Parameter(torch.tensor(0.5)))
    x = random_images(2, 3)
    np.testing.assert_allclose(views.FromTorch(module)(x, range(2), 0, 0), (x + 1) / 2 - 1, atol=2e-7)


def test_a_transform_is_recorded_by_its_name_or_its_parameters():
    assert views.FromTorch(noisy).config() == {
        "name": "FromTorch",
        "transform": f"{noisy.__module__}.noisy",
        "value_range": [0.0, 1.0],
    }
    assert views.FromTorch(Dim(0.5)).config()["transform"] == "Dim(by=0.5)"
    first, second = (views.FromTorch(Dim(object())).config()["transform"] for _ in range(2))
    assert first == second == "Dim(by=<object object>)"
    assert views.FromTorch(Dim(0.5), name="half").config()["transform"] == "half"


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda image: image[..., 1:], r"shape \(1, 3, 16, 15\) for \(1, 3, 16, 16\) \(image 'a'\)"),
        (lambda image: image[0], r"shape \(3, 16, 16\)"),
        (lambda image: image.numpy(), "a tensor, not ndarray"),
        (lambda image: 2 * image - 1, r"outside value_range \(0.0, 1.0\) \(image 'a'\); leave out what normalises"),
        (lambda image: image * torch.nan, "gave nan to nan"),
    ],
)
def test_what_a_transform_may_not_give(transform, message):
    with pytest.raises(ValueError, match=message):
        views.FromTorch(transform)(random_images(2, 3), ["a", "b"], 0, 0)


@pytest.mark.parametrize("bad", [(1, 0), (0, 0), (0, float("inf")), (float("nan"), 1)])
def test_a_value_range_goes_up(bad):
    with pytest.raises(ValueError, match="value_range"):
        views.FromTorch(torch.clone, value_range=bad)


def test_a_transform_is_callable_and_needs_torch(monkeypatch):
    with pytest.raises(ValueError, match="transform must be a callable"):
        views.FromTorch("flip")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"icrkit\[torch\]"):
        views.FromTorch(noisy)(random_images(2), range(2), 0, 0)
