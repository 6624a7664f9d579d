"""Numbers of the authors' code for alignment and uniformity; run by hand.

git clone https://github.com/ssnl/align_uniform
git -C align_uniform checkout 78ccdb19af60126564ef60c84443722ae2fda28d
pip install torch numpy
PYTHONPATH=align_uniform python -P tests/oracles/align_uniform.py      # -P: this file has the peer's name

It is on no package index that was looked at. Its rows have unit length already; of two views it takes the mean of the
two uniformities (examples/stl10/main.py).
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

COMMIT = "78ccdb19af60126564ef60c84443722ae2fda28d"
INPUT = """\
import numpy as np
rng = np.random.default_rng(0)
h = 3 * (rng.standard_normal((50, 1, 8)) + 0.5 * rng.standard_normal((50, 3, 8)))
unit = h / np.linalg.norm(h, axis=2, keepdims=True)
"""


def main() -> None:
    import torch
    from align_uniform import align_loss, uniform_loss

    made: dict[str, Any] = {}
    exec(INPUT, made)
    views = torch.from_numpy(made["unit"]).unbind(1)
    numbers: dict[str, list[float]] = {}
    for alpha in (2, 1):
        pairs = itertools.combinations(views, 2)
        numbers[f"align_loss of pairs of views, alpha={alpha}"] = [float(align_loss(x, y, alpha)) for x, y in pairs]
    for t in (2, 0.5):
        numbers[f"uniform_loss of views, t={t}"] = [float(uniform_loss(x, t)) for x in views]
    oracle = {"peer": "align_uniform", "commit": COMMIT, "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=2) + "\n")


if __name__ == "__main__":
    main()
