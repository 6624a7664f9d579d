"""Numbers of thingsvision for linear CKA, biased and unbiased; run by hand.

    pip install --no-deps thingsvision==2.7.3 && pip install numpy torch torchtyping "typeguard<3"
    python tests/oracles/thingsvision_cka.py

Only its folder ``core/cka`` is imported: the package's own ``__init__`` asks for tensorflow.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

INPUT = """\
import numpy as np
rng = np.random.default_rng(3)
x = rng.standard_normal((60, 40)) * np.geomspace(1, 0.1, 40) + 2
y = x[:, :25] @ rng.standard_normal((25, 90)) + 3 * rng.standard_normal((60, 90))
"""


def main() -> None:
    spec = importlib.util.find_spec("thingsvision")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    for name, folder in (("thingsvision", root), ("thingsvision.core", root / "core")):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    from thingsvision.core.cka import get_cka

    scope: dict[str, Any] = {}
    exec(INPUT, scope)
    x, y = scope["x"], scope["y"]
    numbers = {
        name: float(get_cka(backend="numpy", m=len(x), kernel="linear", unbiased=unbiased).compare(x, y))
        for name, unbiased in (("biased", False), ("unbiased", True))
    }
    oracle = {"peer": "thingsvision", "version": version("thingsvision"), "input": INPUT, "numbers": numbers}
    Path(__file__).with_suffix(".json").write_text(json.dumps(oracle, indent=2) + "\n")


if __name__ == "__main__":
    main()
