"""Numbers of clean-fid for the kernel distance; run by hand.

    pip install clean-fid==0.1.35 torch torchvision
    python tests/oracles/clean_fid_kid.py

Its draws are unseeded: ``numpy.random.choice`` is replaced by that of ``default_rng(0)``, so that the images drawn are
those of random_state=0 here. Where torchvision is missing it is replaced by a mock: no image is read.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

INPUT = """\
import numpy as np
rng = np.random.default_rng(2)
x = np.abs(rng.standard_normal((150, 8)))
reference = np.abs(1.1 * rng.standard_normal((210, 8)))
"""


def main() -> None:
    import numpy as np

    if importlib.util.find_spec("torchvision") is None:
        names = ("torchvision", "torchvision.transforms", "torchvision.datasets", "requests")
        sys.modules.update({name: mock.MagicMock() for name in names})
    from cleanfid.fid import kernel_distance

    scope: dict[str, Any] = {}
    exec(INPUT, scope)
    with mock.patch("numpy.random.choice", np.random.default_rng(0).choice):
        drawn = kernel_distance(scope["reference"], scope["x"], max_subset_size=60)
    numbers = {"KID of 100 subsets of 60": drawn}
    oracle = {"peer": "clean-fid", "version": version("clean-fid"), "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=2) + "\n")


if __name__ == "__main__":
    main()
