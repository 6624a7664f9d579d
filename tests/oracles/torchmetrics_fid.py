"""Numbers of torchmetrics for the Frechet distance and KID of one pair of subsets; run by hand.

pip install torch torchmetrics==1.9.0
python tests/oracles/torchmetrics_fid.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

INPUT = """\
import numpy as np
rng = np.random.default_rng(0)
mix = rng.standard_normal((12, 12)) * np.geomspace(1, 0.03, 12)
x = rng.standard_normal((300, 12)) @ mix
y = 1.2 * rng.standard_normal((300, 12)) @ mix + 0.3
"""


def main() -> None:
    import numpy as np
    import torch
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    scope: dict[str, Any] = {}
    exec(INPUT, scope)
    x, y = scope["x"], scope["y"]
    statistics = [torch.from_numpy(a) for s in (x, y) for a in (s.mean(axis=0), np.cov(s.T))]
    numbers = {
        "fid": float(_compute_fid(*statistics)),
        "kid of the whole sets": float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))),
    }
    oracle = {"peer": "torchmetrics", "version": version("torchmetrics"), "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=2) + "\n")


if __name__ == "__main__":
    main()
