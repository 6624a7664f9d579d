"""Numbers of naturalcogsci for class separation, by pairwise distances, by hand, into naturalcogsci.json.

    git clone https://github.com/candemircan/naturalcogsci
    git -C naturalcogsci checkout 2b11c4af359caa2e057345c4b0b02508d3c23c9f
    pip install scipy tqdm
    python -P tests/oracles/naturalcogsci.py naturalcogsci/naturalcogsci/rsa_tools.py

The one file is run, without its package. It counts each pair within a class once, and each pair of any two classes
twice: its distance within classes is half of the definition's.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np

COMMIT = "2b11c4af359caa2e057345c4b0b02508d3c23c9f"
INPUT = """\
import numpy as np
rng = np.random.default_rng(0)
balanced_y = rng.permutation(np.arange(120) % 4)
balanced = rng.standard_normal((4, 10))[balanced_y] + rng.standard_normal((120, 10)) + 0.5
unbalanced_y = np.repeat(np.arange(3), [5, 30, 85])
unbalanced = np.abs(2 * rng.standard_normal((3, 10))[unbalanced_y] + rng.standard_normal((120, 10)))
"""


def main(path: str) -> None:
    peer = runpy.run_path(path)
    made: dict[str, np.ndarray] = {}
    exec(INPUT, made)
    names = ("balanced", "unbalanced")
    numbers = {name: float(peer["class_separation"](made[name], made[f"{name}_y"])) for name in names}
    found = {"peer": "naturalcogsci", "commit": COMMIT, "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
