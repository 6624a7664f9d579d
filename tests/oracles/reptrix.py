"""Numbers of reptrix, by hand, into reptrix.json.

pip install --no-deps reptrix==0.1.0    # where numpy, scikit-learn, matplotlib and torch are
python -P tests/oracles/reptrix.py      # -P: this file has the peer's name
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

INPUT = """
rng = np.random.default_rng(0)
rows = rng.standard_normal((200, 16)) * 0.8 ** np.arange(16) + 0.3
wide = rng.standard_normal((12, 30))
cube = rng.standard_normal((60, 1, 12)) * 0.7 ** np.arange(12) + 0.5 * rng.standard_normal((60, 4, 12))
decay = rng.standard_normal((400, 128)) * np.arange(1, 129) ** -0.6
"""


def main() -> None:
    import torch
    from reptrix.alpha import get_alpha
    from reptrix.lidar import get_lidar
    from reptrix.rankme import get_rankme

    made = {"np": np}
    exec(INPUT, made)
    rows, wide, cube, decay = (torch.from_numpy(made[name]) for name in ("rows", "wide", "cube", "decay"))
    numbers = {
        "get_rankme(rows)": get_rankme(rows),
        "get_rankme(wide)": get_rankme(wide),
        "get_lidar(cube, 60, 4)": get_lidar(cube, 60, 4),
        "get_lidar(cube, 60, 4, del_sigma_augs=0.03)": get_lidar(cube, 60, 4, del_sigma_augs=0.03),
        "get_alpha(decay)[0]": get_alpha(decay)[0],
        "get_alpha(decay, fit_range=np.arange(4, 40))[0]": get_alpha(decay, fit_range=np.arange(4, 40))[0],
    }
    found = {"peer": "reptrix", "version": version("reptrix"), "input": INPUT}
    found["numbers"] = {name: float(value) for name, value in numbers.items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
