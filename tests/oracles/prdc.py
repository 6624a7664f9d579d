"""Numbers of prdc for distances between and within two sets, and its coverage; run by hand.

pip install prdc==0.2
python -P tests/oracles/prdc.py      # -P: this file has the peer's name
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

INPUT = """\
import numpy as np
rng = np.random.default_rng(0)
training = rng.standard_normal((30, 5)) + 2
generated = rng.standard_normal((24, 5)) + 2
generated[:12] = training[rng.integers(0, 30, 12)] + 0.3 * rng.standard_normal((12, 5))
"""


def main() -> None:
    from prdc.prdc import (
        compute_nearest_neighbour_distances,
        compute_pairwise_distance,
        compute_prdc,
        get_kth_value,
    )

    made: dict[str, Any] = {}
    exec(INPUT, made)
    training, generated = made["training"], made["generated"]
    between = compute_pairwise_distance(generated, training)
    numbers: dict[str, Any] = {
        "coverage": float(compute_prdc(training, generated, nearest_k=1)["coverage"]),
        "nearest of another set": get_kth_value(between, 1).tolist(),
        "second nearest of another set": get_kth_value(between, 2).tolist(),
        "nearest within training": compute_nearest_neighbour_distances(training, 1).tolist(),
        "second nearest within training": compute_nearest_neighbour_distances(training, 2).tolist(),
    }
    oracle = {"peer": "prdc", "version": version("prdc"), "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=1) + "\n")


if __name__ == "__main__":
    main()
