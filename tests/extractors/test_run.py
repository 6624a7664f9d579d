"""Extraction: a cube of a real network, a cube a checkpoint of a course, and what one will take."""

from __future__ import annotations

import numpy as np
import pytest

from icrkit_extractors import estimate, extract_course, noise, views

SIGMAS = [0.1, 0.4, 1.5]
LAYERS = ("mid", "dec.16x16_block0")


def test_a_cube_of_a_real_network(src, images, go):
    labels = np.arange(40) % 10
    cube = go(src, images, labels=labels, seed=3, attrs={"step": 1138})
    assert cube.layers == LAYERS and cube.n_images == 40 and cube.n_views == 2
    assert cube["mid"].shape == (40, 2, 3, 16) and cube["dec.16x16_block0"].shape == (40, 2, 3, 8)
    assert cube["mid"].dtype == np.float32
    np.testing.assert_array_equal(cube.sigmas, SIGMAS)
    np.testing.assert_array_equal(cube.labels, labels)
    np.testing.assert_array_equal(cube.image_ids, np.arange(40))
    assert cube.step == 1138


def test_a_course_is_a_cube_a_step_with_the_same_draws(images, tmp_path, same, Pixels):
    made = []

    class Power(Pixels):
        def __init__(self, power):
            super().__init__()
            self.power = power
            made.append(power)

        def __call__(self, x, conditioning):
            return {name: h**self.power for name, h in super().__call__(x, conditioning).items()}

    def sources():
        for power in (1, 3):
            yield 100 * power, lambda power=power: Power(power)
            assert made[-1] == power  # made in its turn, and run before the next is asked for

    settings = {"noise": noise.EDM(), "views": views.Fashion(), "progress": False}
    course = extract_course(sources(), images, SIGMAS, out=tmp_path / "course", attrs={"run": "a"}, **settings)
    assert [step for step, _ in course] == [100, 300]
    first, last = (cube for _, cube in course)
    np.testing.assert_allclose(last["pixels"].values, first["pixels"].values ** 3, rtol=1e-5)
    assert last.step == 300 and last.attrs["run"] == "a"
    assert sorted(p.name for p in (tmp_path / "course").iterdir()) == ["step-00000100.cube", "step-00000300.cube"]
    memory = extract_course([(100, Power(1))], images, SIGMAS, **settings)
    same(memory[0][1], first)
    with pytest.raises(ValueError, match="step 7 appears twice"):
        extract_course([(7, Power(1)), (7, Power(2))], images, SIGMAS, **settings)


def test_an_estimate_counts_what_is_run(images, go, Pixels):
    counted = Pixels()
    settings = {"noise": noise.EDM(), "views": views.Fashion(), "n_views": 3, "batch_size": 8}
    cost = estimate(counted, images, SIGMAS, shard=(1, 2), **settings)
    assert counted.calls == 1 + 1 + 3 and 0 < cost.seconds < 60
    cube = go(Pixels(), images, n_views=3, shard=(1, 2))
    assert (cost.n_images, cost.n_views, cost.n_levels) == cube.shape[:3]
    assert cost.layers == cube.n_features and cost.forwards == np.prod(cube.shape[:3])
    assert cost.bytes == sum(cube[name].nbytes for name in cube.layers)
    assert cost.images_per_second == pytest.approx(cost.forwards / cost.seconds)
