"""Numbers of dgm-eval for the Frechet distance, its extrapolation and the kernel distance; run by hand.

    git clone https://github.com/layer6ai-labs/dgm-eval
    git -C dgm-eval checkout 74c79f7527fbf38fdccfbac51f25d759bc02ab07
    pip install torch scikit-learn scipy tqdm
    PYTHONPATH=dgm-eval python tests/oracles/dgm_eval_distances.py

Its own draws are unseeded: both of its random generators are replaced by ``default_rng(0)``, so that the images drawn
are those of random_state=0 here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

COMMIT = "74c79f7527fbf38fdccfbac51f25d759bc02ab07"
INPUT = """\
import numpy as np
rng = np.random.default_rng(1)
mix = rng.standard_normal((12, 12)) * np.geomspace(1, 0.03, 12)
x = rng.standard_normal((320, 12)) @ mix
reference = 1.2 * rng.standard_normal((410, 12)) @ mix + 0.3
"""


def main() -> None:
    import numpy as np
    from dgm_eval.metrics.fd import compute_efficient_FD_with_reps, compute_FD_infinity, compute_FD_with_reps
    from dgm_eval.metrics.mmd import compute_mmd

    scope: dict[str, Any] = {}
    exec(INPUT, scope)
    x, reference = scope["x"], scope["reference"]
    seeded = np.random.default_rng
    with mock.patch("numpy.random.default_rng", lambda: seeded(0)):
        extrapolated = float(compute_FD_infinity(reference, x))
    with mock.patch("numpy.random.choice", seeded(0).choice):
        distances = compute_mmd(x, reference, n_subsets=100, subset_size=100)
    numbers = {
        "FD": float(compute_FD_with_reps(reference, x)),
        "FD efficient": float(compute_efficient_FD_with_reps(reference, x)),
        "FD infinity": extrapolated,
        "KID of 100 subsets of 100": float(distances.mean()),
        "its standard deviation over subsets": float(distances.std(ddof=1)),
    }
    oracle = {"peer": "dgm-eval", "commit": COMMIT, "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=2) + "\n")


if __name__ == "__main__":
    main()
