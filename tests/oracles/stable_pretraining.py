"""Numbers of stable-pretraining's callbacks, by hand, into stable_pretraining.json.

    git clone https://github.com/rbalestr-lab/stable-pretraining
    git -C stable-pretraining checkout 9aa93f8b6153eebb73f57d4853ccf8a13d848310
    pip install torch
    python -P tests/oracles/stable_pretraining.py stable-pretraining/stable_pretraining/callbacks \\
        9aa93f8b6153eebb73f57d4853ccf8a13d848310

The two files are run without their package, which needs lightning and much else: names that they import and these
numbers have no use for are stand-ins.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

INPUT = """
rng = np.random.default_rng(0)
rows = rng.standard_normal((200, 16)) * 0.8 ** np.arange(16) + 0.3
wide = rng.standard_normal((12, 30))
cube = rng.standard_normal((60, 1, 12)) * 0.7 ** np.arange(12) + 0.5 * rng.standard_normal((60, 4, 12))
"""


def loaded(path: Path) -> ModuleType:
    stand_in = mock.MagicMock()
    stand_in.Callback = object
    module = ModuleType(f"callbacks.{path.stem}")
    module.__package__ = "callbacks"
    names = ("lightning", "lightning.pytorch", "loguru", *(f"callbacks{end}" for end in ("", ".registry", ".queue")))
    with mock.patch.dict(sys.modules, dict.fromkeys((*names, "callbacks.utils"), stand_in)):
        exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module


def rankme_of(callback: Any, rows: Any) -> float:
    logged: dict[str, float] = {}
    self = SimpleNamespace(name="rankme", verbose=False, _target_queue=SimpleNamespace(data=rows))
    callback.on_validation_batch_end(
        self, SimpleNamespace(global_rank=0), SimpleNamespace(log=logged.__setitem__), {}, {}, 0
    )
    return logged["rankme"]


def lidar_of(callback: Any, cube: Any, **options: float) -> float:
    n, v, d = cube.shape
    self = SimpleNamespace(
        name="lidar", n_classes=n, samples_per_class=v, **({"delta": 1e-4, "epsilon": 1e-8} | options)
    )
    return callback._compute_lidar(self, cube.reshape(n * v, d))["lidar"]


def main(path: str, commit: str) -> None:
    import torch

    made = {"np": np}
    exec(INPUT, made)
    rows, wide, cube = (torch.from_numpy(made[name]) for name in ("rows", "wide", "cube"))
    rankme = loaded(Path(path) / "rankme.py").RankMe
    lidar = loaded(Path(path) / "lidar.py").LiDAR
    torch.set_default_dtype(torch.float64)  # its identity matrix has the default type
    numbers = {
        "RankMe of rows": rankme_of(rankme, rows),
        "RankMe of wide": rankme_of(rankme, wide),
        "LiDAR of cube": lidar_of(lidar, cube),
        "LiDAR of cube, epsilon=0": lidar_of(lidar, cube, epsilon=0.0),
        "LiDAR of cube, epsilon=0, delta=0.03": lidar_of(lidar, cube, epsilon=0.0, delta=0.03),
    }
    found = {"peer": "stable-pretraining", "commit": commit, "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
