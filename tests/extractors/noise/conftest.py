"""Images and their noise."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def draws() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (5, 3, 4, 6)
    return rng.uniform(-1, 1, shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
