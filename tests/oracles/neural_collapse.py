"""Numbers of neural-collapse for NC1 and CDNV, by hand, into neural_collapse.json.

    git clone https://github.com/rhubarbwu/neural-collapse
    git -C neural-collapse checkout c05a0b80d6bc6e8e2e102f2180f1f33b2c9605fd
    pip install torch scipy
    PYTHONPATH=neural-collapse python -P tests/oracles/neural_collapse.py      # -P: this file has the peer's name

It is on no package index that was looked at. Its grids have torch's default type, which is made float64. Its "svd" is
divided by the number of classes, and asks for fewer classes than features. Its own mean of samples
(``compute(weighted=True)``) raises: the mean is handed to it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

COMMIT = "c05a0b80d6bc6e8e2e102f2180f1f33b2c9605fd"
INPUT = """\
import numpy as np
rng = np.random.default_rng(0)
mix = rng.standard_normal((24, 24)) * np.geomspace(1, 0.1, 24)
balanced_y = rng.permutation(np.arange(240) % 6)
balanced = (2 * rng.standard_normal((6, 24))[balanced_y] + rng.standard_normal((240, 24))) @ mix + 3
unbalanced_y = np.repeat(np.arange(5), [10, 20, 40, 60, 110])
unbalanced = (2 * rng.standard_normal((5, 24))[unbalanced_y] + rng.standard_normal((240, 24))) @ mix + 3
narrow_y = rng.permutation(np.arange(240) % 12)
narrow = 2 * rng.standard_normal((12, 4))[narrow_y] + rng.standard_normal((240, 4)) * [0.5, 1, 1.5, 2]
"""


def main() -> None:
    import torch

    torch.set_default_dtype(torch.float64)
    from neural_collapse.accumulate import CovarAccumulator, MeanAccumulator, VarNormAccumulator
    from neural_collapse.measure import covariance_ratio, variability_cdnv

    made: dict[str, np.ndarray] = {}
    exec(INPUT, made)
    numbers = {}
    for name in ("balanced", "unbalanced", "narrow"):
        rows, y = torch.from_numpy(made[name]), torch.from_numpy(made[f"{name}_y"])
        k, d = int(y.max()) + 1, rows.shape[1]
        kinds = (MeanAccumulator, CovarAccumulator, VarNormAccumulator)
        of_means, of_covariance, of_variances = (kind(k, d, "cpu", torch.float64) for kind in kinds)
        of_means.accumulate(rows, y)
        means, centre = of_means.compute()
        of_covariance.accumulate(rows, y, means)
        of_variances.accumulate(rows, y, means)
        within, (variances, _) = of_covariance.compute(), of_variances.compute()
        for metric in ("pinv", "svd", "quotient") if k <= d else ("pinv", "quotient"):
            numbers[f"{metric} of {name}"] = covariance_ratio(within, means, centre, metric)
        numbers[f"quotient of {name}, mean of samples"] = covariance_ratio(within, means, rows.mean(0), "quotient")
        numbers[f"cdnv of {name}"] = variability_cdnv(variances, means)
    found = {"peer": "neural-collapse", "commit": COMMIT, "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
