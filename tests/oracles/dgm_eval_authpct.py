"""Numbers of dgm-eval for AuthPct; run by hand.

    git clone https://github.com/layer6ai-labs/dgm-eval
    git -C dgm-eval checkout 74c79f7527fbf38fdccfbac51f25d759bc02ab07
    pip install torch
    python tests/oracles/dgm_eval_authpct.py dgm-eval/dgm_eval/metrics/authpct.py

The one file is run, without its package. It works in float32.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

COMMIT = "74c79f7527fbf38fdccfbac51f25d759bc02ab07"
INPUT = """\
import numpy as np
rng = np.random.default_rng(0)
training = rng.standard_normal((500, 6)) * 0.7 ** np.arange(6) + 3.0
new = rng.standard_normal((400, 6)) * 0.7 ** np.arange(6) + 3.0
copied = training[:400] + 0.2 * rng.standard_normal((400, 6)) * rng.random((400, 1))
wide = 1.5 * (new - 3.0) + 3.0
"""


def main(path: str) -> None:
    peer = runpy.run_path(path)["compute_authpct"]
    scope: dict[str, Any] = {}
    exec(INPUT, scope)
    numbers = {name: float(peer(scope["training"], scope[name])) for name in ("new", "copied", "wide")}
    oracle = {"peer": "dgm-eval", "commit": COMMIT, "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
