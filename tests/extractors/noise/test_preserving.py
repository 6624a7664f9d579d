"""The law that keeps the variance, against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from icrkit_extractors import noise


def test_edm_table_1_preconditionings():
    image = np.ones((1, 1, 1, 1), np.float32)
    for sigma in (0.01, 0.4, 20.0):
        x, c = noise.VP()(image, 0 * image, sigma)
        assert x.item() == pytest.approx(1 / math.sqrt(sigma**2 + 1), rel=1e-6)
        # c_noise = (M - 1) t, sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1): solved, not inverted by hand.
        at = lambda t, sigma: math.sqrt(math.expm1(9.95 * t**2 + 0.1 * t)) - sigma  # noqa: E731
        t = optimize.brentq(at, 0, 2, args=(sigma,), xtol=1e-15)
        assert noise.VP()._time(sigma) == pytest.approx(999 * t, rel=1e-12)
        assert c["c_noise"].item() == pytest.approx(999 * t, rel=1e-6)
        x, c = noise.VE()(image, 0 * image, sigma)
        assert x.item() == 1 and c["c_noise"].item() == pytest.approx(math.log(0.5 * sigma), rel=1e-6)
        x, c = noise.Additive(name="t")(image, image, sigma)
        assert x.item() == pytest.approx(1 + sigma) and c["t"].item() == pytest.approx(sigma, rel=1e-6)


@pytest.mark.parametrize("field", ["beta_d", "beta_min"])
def test_vp_parameters(field):
    with pytest.raises(ValueError, match=f"{field} must be positive"):
        noise.VP(**{field: 0})
    with pytest.raises(ValueError, match="n_timesteps must be 2 or more"):
        noise.VP(n_timesteps=1)
    with pytest.raises(TypeError, match="whole number"):
        noise.VP(n_timesteps=10.5)
