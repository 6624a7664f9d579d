"""Numbers of corvic-engine's embedding metrics, by hand, into corvic_engine.json.

    pip install --no-deps --target PLACE corvic-engine==0.2.50
    python -P tests/oracles/corvic_engine.py PLACE/corvic/embedding_metric/embeddings.py

The one file is run, without its package: it needs numpy and scikit-learn only.
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


def main(path: str) -> None:
    peer = runpy.run_path(path)
    made = {"np": np}
    exec(INPUT, made)
    rows, wide = made["rows"], made["wide"]
    numbers = {
        "rank_me(rows)": peer["rank_me"](rows),
        "rank_me(wide)": peer["rank_me"](wide),
        "rank_me(rows, epsilon=1e-3)": peer["rank_me"](rows, epsilon=1e-3),
        "alpha_req(rows)": peer["alpha_req"](rows),
        "ne_sum(rows)": peer["ne_sum"](rows),
    }
    found = {"peer": "corvic-engine", "version": "0.2.50", "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
