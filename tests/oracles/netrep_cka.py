"""The number of netrep for linear CKA, which is the arccos of the biased value; run by hand.

git clone https://github.com/ahwillia/netrep && git -C netrep checkout 0186b8a77ec1ebaf541cc8f7173cb2556df8a8f0
pip install numpy scipy scikit-learn tqdm
PYTHONPATH=netrep python tests/oracles/netrep_cka.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COMMIT = "0186b8a77ec1ebaf541cc8f7173cb2556df8a8f0"
INPUT = """\
import numpy as np
rng = np.random.default_rng(4)
x = rng.standard_normal((80, 20)) * np.geomspace(1, 0.1, 20) + 2
y = x[:, :10] @ rng.standard_normal((10, 30)) + rng.standard_normal((80, 30))
"""


def main() -> None:
    from netrep.metrics import LinearCKA

    scope: dict[str, Any] = {}
    exec(INPUT, scope)
    numbers = {"arccos of biased": float(LinearCKA().score(scope["x"], scope["y"]))}
    oracle = {"peer": "netrep", "commit": COMMIT, "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=2) + "\n")


if __name__ == "__main__":
    main()
