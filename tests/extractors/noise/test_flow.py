"""Flows, against the code of those who trained with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from icrkit_extractors import noise

# (t, alpha, sigma) of transport/path.py of willisma/SiT at 947f95bd3a510e9af441d38c1e9f72e0eee873c5, alpha in front of
# the image; and of loss.py of sihyun-yu/REPA at 67f714503e3892f993844aab088ffc5791c92613, which runs the other way.
SIT_PATHS = {
    "Linear": [(0.1, 0.1, 0.9), (0.5, 0.5, 0.5), (0.8, 0.8, 0.2), (0.99, 0.99, 0.01)],
    "GVP": [
        (0.1, 0.15643446504023087, 0.9876883405951378),
        (0.5, 0.7071067811865475, 0.7071067811865476),
        (0.8, 0.9510565162951535, 0.30901699437494745),
        (0.99, 0.9998766324816606, 0.015707317311820648),
    ],
    "VP": [
        (0.1, 0.016996463261689278, 0.9998555496853503),
        (0.5, 0.2811828807967524, 0.9596542020680363),
        (0.8, 0.8113952356434115, 0.584497879872265),
        (0.99, 0.9990029973377464, 0.04464315524465736),
    ],
}


REPA_PATHS = {
    "linear": [(0.1, 0.9, 0.1), (0.5, 0.5, 0.5), (0.8, 0.2, 0.8), (0.99, 0.01, 0.99)],
    "gvp": [
        (0.1, 0.9876883405951378, 0.15643446504023087),
        (0.5, 0.7071067811865476, 0.7071067811865475),
        (0.8, 0.30901699437494745, 0.9510565162951535),
        (0.99, 0.015707317311820648, 0.9998766324816606),
    ],
}


@pytest.mark.parametrize(
    ("law", "rows"),
    [
        *((noise.SiT(path), rows) for path, rows in SIT_PATHS.items()),
        *((noise.Flow(path.lower(), data_at=1), rows) for path, rows in SIT_PATHS.items()),
        *((noise.Flow(path), rows) for path, rows in REPA_PATHS.items()),
    ],
)
def test_paths_are_those_of_the_code(law, rows, draws):
    for t, alpha, sigma in rows:
        [ratio] = law.sigmas_at([t])
        assert ratio == pytest.approx(sigma / alpha, rel=1e-11)
        assert law.levels([ratio])[0] == pytest.approx((alpha, sigma), rel=1e-11)
        x, conditioning = law(*draws, ratio)
        np.testing.assert_allclose(x, alpha * draws[0] + sigma * draws[1], rtol=1e-5, atol=1e-6)
        assert list(conditioning) == ["t"] and conditioning["t"][0] == pytest.approx(t, rel=1e-6)


def test_flow_time_by_root_finding():
    for ratio in (0.05, 0.8, 30.0):
        amplitudes = {
            "linear": lambda s: (1 - s, s),
            "gvp": lambda s: (math.cos(s * math.pi / 2), math.sin(s * math.pi / 2)),
        }
        for path, at in amplitudes.items():
            s = optimize.brentq(lambda s, at, ratio: at(s)[1] - ratio * at(s)[0], 0, 1, args=(at, ratio), xtol=1e-15)
            assert noise.Flow(path)._time(ratio) == pytest.approx(s, rel=1e-12)
            assert noise.Flow(path, data_at=1, scale=1000)._time(ratio) == pytest.approx(1000 * (1 - s), rel=1e-12)


def test_flow_ends():
    for law, image in ((noise.Flow(scale=1000), 0), (noise.SiT(), 1), (noise.SiT("gvp"), 1)):
        with pytest.raises(ValueError, match="the image alone"):
            law.sigmas_at([image])
        with pytest.raises(ValueError, match="noise alone"):
            law.sigmas_at([law.scale - image])
        with pytest.raises(ValueError, match=r"t goes from 0 to 1.*, and times\[0\]"):
            law.sigmas_at([law.scale * 1.01])
    # SiT's VP path ends before noise alone.
    assert noise.SiT("vp").sigmas_at([0]) == pytest.approx([math.sqrt(math.expm1(10.05))])
    with pytest.raises(ValueError, match="ratios from 0 to 152"):
        noise.SiT("vp").levels([153.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "cosine"}, "path 'cosine' is none of"),
        ({"data_at": 2}, "data_at must be 0 or 1"),
        ({"scale": 0}, "scale must be positive"),
    ],
)
def test_flow_options(options, message):
    with pytest.raises(ValueError, match=message):
        noise.Flow(**options)


def test_times_too_large_for_a_number_are_noise_alone():
    for law in (noise.EDM(), noise.VE(), noise.VP()):
        with pytest.raises(ValueError, match="noise alone"):
            law.sigmas_at([1e6])
