"""Numbers of google-research's graph_embedding/metrics, by hand, into google_research.json.

    git clone https://github.com/google-research/google-research
    git -C google-research checkout 8d8a4f1b27753c7580d16261a1468b3d6ad2c3d3
    python tests/oracles/google_research.py google-research/graph_embedding/metrics/metrics.py \\
        8d8a4f1b27753c7580d16261a1468b3d6ad2c3d3
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np

INPUT = """
rng = np.random.default_rng(0)
rows = rng.standard_normal((200, 16)) * 0.8 ** np.arange(16) + 0.3
wide = rng.standard_normal((12, 30))
"""


def main(path: str, commit: str) -> None:
    peer = runpy.run_path(path)
    made = {"np": np}
    exec(INPUT, made)
    rows, wide = made["rows"], made["wide"]
    numbers = {
        "rankme(rows)": peer["rankme"](rows),
        "rankme(wide)": peer["rankme"](wide),
        "stable_rank(rows)": peer["stable_rank"](rows),
        "stable_rank(wide)": peer["stable_rank"](wide),
        "ne_sum(rows)": peer["ne_sum"](rows),
        "ne_sum(wide)": peer["ne_sum"](wide),
    }
    found = {"peer": "google-research, graph_embedding/metrics", "commit": commit, "input": INPUT}
    found["numbers"] = {name: float(value) for name, value in numbers.items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
